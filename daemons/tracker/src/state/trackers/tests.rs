use super::*;

const NOW: Moment = Duration::from_secs(2);

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn at(host: &str) -> (Addresses, u16) {
    (Addresses::one(ip(host)), 22122)
}

/// A storage that reached this tracker under its own address.
fn on(host: &str) -> Reached {
    Reached { local: ip(host), dialled: None }
}

/// One whose connection ends at 10.0.0.1, and that dialled something else.
fn dialled(host: &str) -> Reached {
    Reached { dialled: Some(ip(host)), ..on("10.0.0.1") }
}

fn hp(host: &str) -> SocketAddr {
    SocketAddr::new(ip(host), 22122)
}

#[test]
fn alone_leads_at_once() {
    let mut t = Trackers::new(22122, 1000, None);
    assert!(!t.i_lead() && t.leader().is_none());
    t.learn(&[at("10.0.0.1")], on("10.0.0.1")).unwrap();
    assert!(t.i_lead());
    assert_eq!((t.leader_changes(), t.leader().unwrap().host_port()), (1, hp("10.0.0.1")));
    t.learn(&[at("10.0.0.1")], on("10.0.0.1")).unwrap();
    assert_eq!(t.leader_changes(), 1, "the same list changes nothing");
}

#[test]
fn must_find_itself() {
    let mut t = Trackers::new(22122, 0, None);
    assert_eq!(t.learn(&[at("10.0.0.2")], on("10.0.0.1")), Err(Status::ENOENT));
    assert!(t.list().is_empty(), "a refused list leaves nothing behind");
    let other_port = (Addresses::one(ip("10.0.0.1")), 22123);
    assert_eq!(t.learn(&[other_port], on("10.0.0.1")), Err(Status::ENOENT));
    t.learn(&[at("8.8.8.8")], dialled("8.8.8.8")).unwrap();
    assert!(t.i_lead(), "the address the storage dials counts");
    t.learn(&[at("10.0.0.1")], on("10.0.0.1")).unwrap();
    t.learn(&[at("9.9.9.9")], dialled("9.9.9.9")).unwrap();
    assert!(t.i_lead() && t.others().next().is_none(), "all of them are this one's");
}

/// Whatever a storage says it dialled, this tracker does not act beside another one.
#[test]
fn another_tracker_is_not_taken_for_this_one() {
    let mut t = Trackers::new(22122, 0, None);
    let both = [at("10.0.0.1"), at("10.0.0.2")];
    t.learn(&both, dialled("10.0.0.2")).unwrap();
    assert_eq!(t.others().collect::<Vec<_>>(), [1], "it is in the list under its own address");
    t.learn(&both[1..], dialled("10.0.0.2")).unwrap();
    assert_eq!(t.others().collect::<Vec<_>>(), [1], "it is another one already");
    t.learn(&[at("10.0.0.3")], dialled("10.0.0.4")).unwrap();
    t.learn(&[at("10.0.0.4")], on("10.0.0.1")).unwrap();
    let other_port = (Addresses::one(ip("10.0.0.5")), 22123);
    t.learn(&[other_port], dialled("10.0.0.5")).unwrap();
    assert_eq!(t.others().collect::<Vec<_>>(), [1, 2, 3, 4], "only what is in its own list, with this one's port");
    t.learn(&[at("10.0.0.6")], dialled("10.0.0.6")).unwrap();
    assert_eq!(t.others().count(), 4);
    let mut new = Trackers::new(22122, 0, None);
    let full: Vec<_> = (1..=17).map(|i| at(&format!("10.0.0.{i}"))).collect();
    assert_eq!(new.learn(&full[1..], dialled("10.0.0.99")), Err(Status::ENOENT));
    assert_eq!(new.learn(&full, dialled("10.0.0.2")), Err(Status::ENOSPC));
    assert!(new.own.count() == 0, "what is refused leaves nothing behind");
    assert_eq!(t.others_in(&both, dialled("10.0.0.2")), Some(vec![both[1]]));
    assert_eq!(t.others_in(&both[1..], dialled("10.0.0.2")), None);
}

#[test]
fn an_address_that_another_gets_back_is_the_others() {
    let mut t = Trackers::new(22122, 0, None);
    let both = [at("10.0.0.2"), at("10.0.0.1")];
    t.learn(&both[..1], on("10.0.0.2")).unwrap();
    t.learn(&both, on("10.0.0.1")).unwrap();
    t.set_term(NOW, Some(NOW..NOW + LEASE));
    assert!(t.acts(NOW) && t.others().next().is_none());
    let own: Vec<_> = t.own().map(|ip| (ip, ip != self::ip("10.0.0.2"))).collect();
    t.note_own(own);
    assert!(!t.i_lead() && !t.acts(NOW), "it led as the other");
    assert_eq!((t.me(), t.others().collect::<Vec<_>>()), (Some(1), vec![0]));
    assert_eq!(t.others_in(&both, on("10.0.0.1")), Some(vec![both[0]]));
    t.note_own([(ip("10.0.0.1"), false)]);
    assert_eq!(t.me(), None, "it is nowhere");
    t.note_own([(ip("10.0.0.1"), true), (ip("10.0.0.9"), true)]);
    assert_eq!((t.me(), t.own().count()), (Some(1), 2), "and came back");
}

/// Where all entries are this tracker's one may have become another's while it did not look.
#[test]
fn two_addresses_are_not_one_tracker_for_ever() {
    let mut t = Trackers::new(22122, 0, None);
    t.learn(&[at("10.0.0.1")], on("10.0.0.1")).unwrap();
    assert!(t.acts(NOW) && t.leads(NOW * 9));
    t.learn(&[at("10.0.0.2")], on("10.0.0.2")).unwrap();
    assert!(t.others().next().is_none() && !t.acts(NOW), "not before the election ran");
    t.set_term(NOW, Some(NOW..NOW + LEASE));
    assert!(t.acts(NOW) && t.leads(NOW + LEASE));
    assert!(!t.acts(NOW + LEASE) && !t.leads(NOW + LEASE * 2));
}

#[test]
fn what_a_storage_says_it_dialled_is_believed_until_a_list_tells_better() {
    let mut t = Trackers::new(22122, 0, None);
    let (mine, other) = (at("10.0.0.1"), at("10.0.0.2"));
    t.learn(&[other], dialled("10.0.0.2")).unwrap();
    assert!(t.acts(NOW), "the only one, as far as it can know");
    let both = [other, mine];
    assert_eq!(t.others_in(&both, on("10.0.0.1")), Some(vec![other]));
    t.learn(&both, on("10.0.0.1")).unwrap();
    assert!(!t.i_lead() && !t.acts(NOW), "it led as the other");
    assert_eq!((t.me(), t.others().collect::<Vec<_>>()), (Some(1), vec![0]));
    t.learn(&[other], dialled("10.0.0.2")).unwrap();
    assert_eq!(t.others().collect::<Vec<_>>(), [0], "it is known now");
    // Two lists with one address each tell nothing apart.
    let mut t = Trackers::new(22122, 0, None);
    t.learn(&[other], dialled("10.0.0.2")).unwrap();
    t.learn(&[mine], on("10.0.0.1")).unwrap();
    assert!(t.i_lead() && t.others().next().is_none());
}

#[test]
fn not_every_address_is_mine() {
    let mut t = Trackers::new(22122, 0, None);
    let first = at("10.0.0.1");
    for i in 0..MAX_OWN - 1 {
        let address = format!("10.0.1.{i}");
        t.learn(&[(Addresses::two(ip(&address), ip("8.8.8.8")).unwrap(), 22122)], dialled(&address)).unwrap();
    }
    t.learn(&[first], on("10.0.0.1")).unwrap();
    assert_eq!(t.learn(&[at("10.0.2.1")], dialled("10.0.2.1")), Err(Status::ENOSPC));
    t.learn(&[first], on("10.0.0.1")).unwrap();
}

#[test]
fn grows_to_sixteen_and_extends_addresses() {
    let mut t = Trackers::new(22122, 0, None);
    let many: Vec<_> = (1..=17).map(|i| at(&format!("10.0.0.{i}"))).collect();
    assert_eq!(t.learn(&many, on("10.0.0.1")), Err(Status::ENOSPC));
    t.learn(&many[..16], on("10.0.0.1")).unwrap();
    assert!(!t.i_lead(), "with others there must be an election");
    let both = Addresses::two(ip("10.0.0.3"), ip("8.8.8.8")).unwrap();
    t.learn(&[(both, 22122)], on("10.0.0.1")).unwrap();
    assert_eq!(t.list()[2].addresses, both);
    assert_eq!(t.list().len(), 16);
}

#[test]
fn a_leader_is_proposed_then_committed() {
    let mut t = Trackers::new(22122, 0, None);
    t.learn(&[at("10.0.0.1"), at("10.0.0.2")], on("10.0.0.1")).unwrap();
    assert_eq!(t.commit_leader(hp("10.0.0.2")), Err(Status::EINVAL), "never proposed");
    assert_eq!(t.propose_leader(hp("10.0.0.9")), Err(Status::ENOENT));
    t.propose_leader(hp("10.0.0.1")).unwrap();
    t.commit_leader(hp("10.0.0.1")).unwrap();
    assert!(t.i_lead());
    assert_eq!(t.propose_leader(hp("10.0.0.2")), Err(Status::EINVAL), "two leaders");
    assert!(t.leader().is_none());
    t.propose_leader(hp("10.0.0.2")).unwrap();
    t.commit_leader(hp("10.0.0.2")).unwrap();
    assert!(!t.i_lead() && t.leader().is_some());
    assert_eq!(t.step_down(), Err(Status::EOPNOTSUPP));
    assert_eq!(t.leader_changes(), 3);
}

#[test]
fn followers() {
    let mut t = Trackers::new(22122, 0, None);
    t.learn(&[at("10.0.0.1")], on("10.0.0.1")).unwrap();
    t.learn(&[at("10.0.0.2")], on("10.0.0.1")).unwrap();
    assert_eq!(t.accept_follower(ip("10.0.0.3"), 22122, 5, Version::NONE, NOW), Err(Status::ENOENT));
    let follower = t.accept_follower(ip("10.0.0.2"), 22122, 5, Version::NONE, NOW).unwrap();
    t.accept_ping(Some(follower), Connections::default(), 100, NOW).unwrap();
    assert_eq!(t.accept_ping(None, Connections::default(), 100, NOW), Err(Status::EINVAL));
    let stopped = NOW + LEASE * 2;
    assert_eq!(t.accept_ping(Some(follower), Connections::default(), 100, stopped), Err(Status::EOPNOTSUPP));
    assert_eq!(t.accept_follower(ip("10.0.0.2"), 22122, 5, Version::NONE, stopped), Err(Status::EOPNOTSUPP));
    assert!(t.list()[follower].is_alive(NOW + PING_LIMIT) && !t.list()[follower].is_alive(NOW + PING_LIMIT * 2));
    t.step_down().unwrap();
    assert_eq!(t.accept_ping(Some(follower), Connections::default(), 100, NOW), Err(Status::EOPNOTSUPP));
}

#[test]
fn times_in_steps() {
    let t = Trackers::new(22122, 10_000, Some(9_350));
    assert_eq!(t.running_times(10_299), (0, 600));
    assert_eq!(t.running_times(10_601), (600, 600));
    assert_eq!(Trackers::new(1, 10_000, None).running_times(9_000), (0, 0));
}
