//! Several trackers: elections among real processes, and what is copied from another tracker.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;
#[path = "support/trackers.rs"]
mod trackers;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fdfs_protocol::Encode;
use fdfs_protocol::peer::election::{GetSystemFile, JoinLeader, PingLeader, SYSTEM_FILES, TrunkServerTable};
use fdfs_protocol::peer::{Beat, GroupMember, MemberChanges, SyncNotify};
use fdfs_protocol::stat::Connections;
use fdfs_protocol::tracker::{
    GroupList, LeaderAddress, StorageClusterFilter, StorageClusterStat, StorageList, StorageQuery,
    TrackerClusterFilter, TrackerClusterStat, TrackerStatus,
};
use fdfs_protocol::{Command, Status};
use support::{Double, Peer, Running, space};
use trackers::{Calm, TrackerProcess, acts, free, join, join_of, scripted, until};

const LOCAL: &str = "127.0.0.1";
/// A leader that is dead or hangs is replaced within ten seconds; as much again for a machine with other work.
const REPLACED: Duration = Duration::from_secs(20);

fn encoded<M: Encode>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn status(leader: bool, running_time: u64) -> Result<Vec<u8>, Status> {
    Ok(encoded(&TrackerStatus { leader, running_time, restart_interval: 0 }))
}

/// Trackers on addresses of their own.
struct Cluster {
    all: Vec<TrackerProcess>,
    addrs: Vec<SocketAddr>,
    /// Connections of storages that joined.
    joined: Vec<Peer>,
    calm: Calm,
}

impl Cluster {
    fn new(count: u8) -> Cluster {
        let all: Vec<_> = (1..=count).map(|i| TrackerProcess::new(&format!("127.0.0.{i}"))).collect();
        let addrs = all.iter().map(|t| t.addr).collect();
        Cluster { all, addrs, joined: Vec::new(), calm: Calm::watch() }
    }

    /// Starts them in this order, a storage joining each as soon as it lets it.
    fn start(&mut self, order: &[usize]) {
        for &i in order {
            self.all[i].start();
        }
        for &i in order {
            self.join(i);
        }
    }

    fn join(&mut self, i: usize) {
        self.joined.push(join("127.0.0.9", self.addrs[i], &self.addrs));
    }

    /// Waits until all of these have the same leader, which is one of them and says so.
    fn agree(&self, who: &[usize]) -> usize {
        until("they agree", || {
            let leader = self.all[who[0]].leader()?;
            let place = *who.iter().find(|i| self.addrs[**i] == leader)?;
            let all = who.iter().all(|i| self.all[*i].leader() == Some(leader));
            (all && self.all[place].leads()).then_some(place)
        })
    }

    fn acts(&self, i: usize) -> bool {
        acts("127.0.0.9", self.addrs[i], &self.addrs)
    }

    fn acting(&self, who: &[usize]) -> Vec<usize> {
        who.iter().copied().filter(|i| self.acts(*i)).collect()
    }

    /// Waits until the leader acts, and looks that nobody else does.
    fn only_the_leader_acts(&self, leader: usize, who: &[usize]) {
        until("one acts", || {
            let acting = self.acting(who);
            self.calm.assert(acting.is_empty() || acting == [leader], "only the leader acts");
            (acting.len() == 1).then_some(())
        });
    }
}

#[test]
fn two_trackers_agree_whatever_comes_first() {
    for order in [[0, 1], [1, 0]] {
        let mut cluster = Cluster::new(2);
        cluster.start(&order);
        let leader = cluster.agree(&[0, 1]);
        cluster.only_the_leader_acts(leader, &[0, 1]);
        let other = 1 - leader;
        let mut peer = Peer::connect(cluster.addrs[leader]);
        until("the follower is seen", || {
            let stat = peer.ask(Command::TrackerClusterStat, &TrackerClusterFilter::default());
            let stat = TrackerClusterStat::decode(&stat).unwrap().0;
            stat.iter().all(|t| t.active && t.version.to_string() == "6.16.1").then_some(())
        });
        let mut peer = Peer::connect(cluster.addrs[other]);
        let (status, _) = peer.call(Command::TrackerClusterStat, &TrackerClusterFilter::default());
        assert_eq!(status, Status::EOPNOTSUPP, "only the leader knows");
    }
}

#[test]
fn a_killed_leader_is_replaced_and_returns_as_a_follower() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 0]);
    let old = cluster.agree(&[0, 1, 2]);
    cluster.only_the_leader_acts(old, &[0, 1, 2]);
    let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
    cluster.calm.begin();
    cluster.all[old].end(libc::SIGKILL);
    let begin = Instant::now();
    let new = cluster.agree(&others);
    cluster.calm.assert(begin.elapsed() < REPLACED, &format!("replaced after {:?}", begin.elapsed()));
    cluster.only_the_leader_acts(new, &others);
    cluster.all[old].start();
    cluster.join(old);
    let led = cluster.agree(&[0, 1, 2]);
    cluster.calm.assert(led == new, "it returns as a follower");
    cluster.only_the_leader_acts(led, &[0, 1, 2]);
    let new = led;
    // Stopped in order is the same to the others.
    cluster.calm.begin();
    cluster.all[new].end(libc::SIGTERM);
    let rest: Vec<usize> = (0..3).filter(|i| *i != new).collect();
    let last = cluster.agree(&rest);
    cluster.only_the_leader_acts(last, &rest);
}

#[test]
fn a_leader_that_hangs_is_replaced_and_does_not_act_when_it_continues() {
    let mut cluster = Cluster::new(2);
    cluster.start(&[0, 1]);
    let old = cluster.agree(&[0, 1]);
    cluster.only_the_leader_acts(old, &[0, 1]);
    let new = 1 - old;
    // Storages that ask when it continues are answered before anything else happens.
    let mut waiting: Vec<Peer> = (0..20).map(|_| join("127.0.0.8", cluster.addrs[old], &cluster.addrs)).collect();
    cluster.all[old].stop();
    let mut frame = Vec::new();
    fdfs_protocol::header::frame(Command::StorageBeat, &Beat(None), &mut frame);
    waiting.iter_mut().for_each(|peer| peer.send(&frame));
    cluster.calm.begin();
    let begin = Instant::now();
    assert_eq!(cluster.agree(&[new]), new);
    cluster.calm.assert(begin.elapsed() < REPLACED, &format!("replaced after {:?}", begin.elapsed()));
    until("the new leader acts", || cluster.acts(new).then_some(()));
    cluster.all[old].signal(libc::SIGCONT);
    let mut answered = 0;
    for mut peer in waiting {
        let (status, body) = peer.receive();
        // Only the connection that joined last is the storage's.
        if status.is_ok() {
            let told = MemberChanges::decode(&body).unwrap();
            cluster.calm.assert(told.is_empty(), "it acts though it was replaced");
            answered += 1;
        }
    }
    assert_eq!(answered, 1);
    until("it follows", || {
        cluster.calm.assert(!cluster.acts(old), "it acts though it was replaced");
        cluster.all[old].leader()
    });
    let led = cluster.agree(&[0, 1]);
    cluster.calm.assert(led == new, "it returns as a follower");
    cluster.only_the_leader_acts(led, &[0, 1]);
}

/// One real tracker beside one that says it is better, and never leads.
#[test]
fn a_tracker_beside_another_one() {
    let notices = std::sync::Arc::new(Mutex::new(Vec::new()));
    let other = scripted("127.0.0.9", {
        let notices = notices.clone();
        move |command, _| {
            notices.lock().unwrap().push(command);
            if command == Command::TrackerGetStatus { status(false, 30_000) } else { Err(Status::EINVAL) }
        }
    });
    let running = Running::start(LOCAL, "");
    let first = Double::active(LOCAL, running.addr(), &join_of(running.addr(), &[running.addr()]), space(9, 9));
    let mut storage = Double::join("127.0.0.7", running.addr(), &join_of(running.addr(), &[running.addr(), other]));
    drop(first);
    storage.peer.ask(Command::StorageSyncNotify, &SyncNotify::default());
    let mut peer = Peer::connect_from("127.0.0.9".parse().unwrap(), running.addr());
    // It led alone; now another is proposed: it gives up, and waits for that one.
    let it = LeaderAddress(other);
    assert_eq!(peer.call(Command::TrackerNotifyNextLeader, &it).0, Status::EINVAL);
    assert_eq!(peer.call(Command::GetLeader, &()).0, Status::ENOENT);
    assert!(storage.beat(None).is_empty(), "without a leader nothing is told");
    let filter = TrackerClusterFilter::default();
    assert_eq!(peer.call(Command::TrackerClusterStat, &filter).0, Status::EOPNOTSUPP);
    let me = LeaderAddress(running.addr());
    assert_eq!(peer.call(Command::TrackerCommitNextLeader, &me).0, Status::EINVAL);
    let nobody = LeaderAddress("127.0.0.6:1".parse().unwrap());
    assert_eq!(peer.call(Command::TrackerNotifyNextLeader, &nobody).0, Status::ENOENT);
    let join = JoinLeader { up_time: 5, version: "6.16.1".parse().unwrap(), port: other.port() };
    assert_eq!(peer.call(Command::TrackerJoinLeader, &join).0, Status::EOPNOTSUPP);
    peer.ask(Command::TrackerNotifyNextLeader, &me);
    peer.ask(Command::TrackerCommitNextLeader, &me);
    assert_eq!(LeaderAddress::decode(&peer.ask(Command::GetLeader, &())).unwrap(), me);

    let ping = PingLeader { connections: Connections { alloc: 1, current: 2, max: 3 } };
    assert_eq!(peer.call(Command::TrackerPingLeader, &ping).0, Status::EINVAL, "not before it joined");
    peer.ask(Command::TrackerJoinLeader, &join);
    assert_eq!(peer.call(Command::TrackerJoinLeader, &join).0, Status::EEXIST);
    // Told as soon as it acts.
    until("a table of trunk servers", || (peer.ask(Command::TrackerPingLeader, &ping).len() == 32).then_some(()));
    assert_eq!(peer.ask(Command::TrackerPingLeader, &ping).len(), 0, "no news");
    assert!(storage.beat(None).leader.is_some(), "the storage is told too");
    let stat = TrackerClusterStat::decode(&peer.ask(Command::TrackerClusterStat, &filter)).unwrap().0;
    assert_eq!(stat.iter().map(|t| (t.leader, t.active)).collect::<Vec<_>>(), [(true, true), (false, true)]);
    assert_eq!(stat[1].connections, ping.connections);
    peer.ask(Command::TrackerNotifyReselectLeader, &());
    assert_eq!(peer.call(Command::TrackerNotifyReselectLeader, &()).0, Status::EOPNOTSUPP);
    assert_eq!(peer.call(Command::GetLeader, &()).0, Status::ENOENT);
    assert!(notices.lock().unwrap().iter().all(|c| *c == Command::TrackerGetStatus), "it proposes nobody itself");
}

/// A real follower of a scripted leader.
#[test]
fn a_follower_introduces_itself_pings_and_takes_over_the_trunk_servers() {
    let heard = std::sync::Arc::new(Mutex::new(Vec::new()));
    // Alone it has chosen the first storage.
    let trunk = GroupMember { group: "group1".parse().unwrap(), id: "127.0.0.4".parse().unwrap() };
    let leader = scripted("127.0.0.9", {
        let heard = heard.clone();
        move |command, body| {
            heard.lock().unwrap().push((command, body.to_vec()));
            let pings = heard.lock().unwrap().iter().filter(|(c, _)| *c == Command::TrackerPingLeader).count();
            match command {
                Command::TrackerGetStatus => status(true, 0),
                Command::TrackerGetSysFilesStart => Err(Status::EBUSY),
                Command::TrackerJoinLeader => Ok(Vec::new()),
                Command::TrackerPingLeader if pings == 2 => Ok(encoded(&TrunkServerTable(vec![trunk]))),
                Command::TrackerPingLeader => Ok(Vec::new()),
                _ => Err(Status::EINVAL),
            }
        }
    });
    let running = Running::start(LOCAL, "use_trunk_file=true");
    let first = Double::active("127.0.0.3", running.addr(), &join_of(running.addr(), &[running.addr()]), space(9, 9));
    // It leads alone, until it learns that there is another, who leads too.
    let mut second = join("127.0.0.4", running.addr(), &[running.addr(), leader]);
    until("it follows", || {
        let (status, body) = Peer::connect(running.addr()).call(Command::GetLeader, &());
        (status.is_ok() && LeaderAddress::decode(&body).unwrap().0 == leader).then_some(())
    });
    let all = StorageClusterFilter::default();
    until("the table", || {
        let stat = Peer::connect(running.addr()).ask(Command::StorageClusterStat, &all);
        let stat = StorageClusterStat::decode(&stat).unwrap().storages;
        stat.iter().any(|s| s.trunk_server && s.id == trunk.id).then_some(())
    });
    assert_eq!(second.ask(Command::StorageBeat, &Beat(None)), [0], "a follower answers one byte");
    drop(first);
    let heard = heard.lock().unwrap();
    let talk: Vec<_> =
        heard.iter().filter(|(c, _)| matches!(c, Command::TrackerJoinLeader | Command::TrackerPingLeader)).collect();
    let me = JoinLeader::decode(&talk[0].1).unwrap();
    assert_eq!(
        (talk[0].0, me.port, me.version.to_string()),
        (Command::TrackerJoinLeader, running.addr().port(), "6.16.1".to_owned())
    );
    assert!(
        talk.len() > 2
            && talk[1..]
                .iter()
                .all(|(c, body)| { *c == Command::TrackerPingLeader && PingLeader::decode(body).is_ok() }),
        "{talk:?}"
    );
}

/// Members a tracker knows.
fn members(tracker: SocketAddr) -> Vec<String> {
    let query = StorageQuery { group: "group1".parse().unwrap(), id: Default::default() };
    let (status, body) = Peer::connect(tracker).call(Command::ListStorage, &query);
    if !status.is_ok() {
        return Vec::new();
    }
    StorageList::decode(&body).unwrap().0.iter().map(|r| r.id.to_string()).collect()
}

#[test]
fn a_tracker_that_knows_nothing_copies_what_another_knows() {
    let old = Running::start(LOCAL, "");
    let _first = Double::active("127.0.0.3", old.addr(), &join_of(old.addr(), &[old.addr()]), space(9, 9));
    let new = Running::start("127.0.0.2", "");
    let all = [old.addr(), new.addr()];
    let _second = join("127.0.0.4", new.addr(), &all);
    assert_eq!(members(new.addr()), ["127.0.0.3", "127.0.0.4"]);
    assert!(new.file("storage_servers_new.dat").contains("127.0.0.3"), "on disk when the storage has joined");
    // Only the list of trackers has not come from there: the storage brought it.
    until("the old one leads", || {
        let (status, body) = Peer::connect(new.addr()).call(Command::GetLeader, &());
        (status.is_ok() && LeaderAddress::decode(&body).unwrap().0 == old.addr()).then_some(())
    });
}

#[test]
fn who_cannot_be_asked_may_know_more() {
    let dead = free("127.0.0.5");
    let running = Running::start(LOCAL, "");
    let request = join_of(running.addr(), &[running.addr(), dead]);
    let mut peer = Peer::connect(running.addr());
    assert_eq!(peer.call(Command::StorageJoin, &request).0, Status::EAGAIN);
    let mut list = peer.ask(Command::ListAllGroups, &());
    assert!(GroupList::decode(&list).unwrap().0.is_empty());
    // One that knows nothing either is enough of an answer.
    let empty = scripted("127.0.0.6", |_, _| Err(Status::ENOENT));
    let request = join_of(running.addr(), &[running.addr(), empty]);
    peer.ask(Command::StorageJoin, &request);
    list = peer.ask(Command::ListAllGroups, &());
    assert_eq!(GroupList::decode(&list).unwrap().0.len(), 1);
}

/// Answers as a tracker with these files.
fn with_files(standing: (bool, u64), files: [Vec<u8>; 4]) -> SocketAddr {
    scripted("127.0.0.6", move |command, body| match command {
        Command::TrackerGetStatus => status(standing.0, standing.1),
        Command::TrackerGetSysFilesStart | Command::TrackerGetSysFilesEnd => Ok(Vec::new()),
        Command::TrackerGetOneSysFile => {
            let q = GetSystemFile::decode(body).unwrap();
            let file = &files[usize::from(q.index)];
            let rest = &file[q.offset as usize..];
            Ok([&(file.len() as u64).to_be_bytes()[..], &rest[..rest.len().min(100)]].concat())
        }
        _ => Err(Status::EINVAL),
    })
}

/// A stopped tracker's directory: group1 with one storage, last alive long ago.
fn stale() -> TrackerProcess {
    let mut tracker = TrackerProcess::new(LOCAL);
    tracker.start();
    let joined = join("127.0.0.3", tracker.addr, &[tracker.addr]);
    tracker.end(libc::SIGTERM);
    drop(joined);
    std::fs::write(tracker.data().join(".tracker_status"), "up_time=1\nlast_check_time=2\n").unwrap();
    tracker
}

fn golden() -> [Vec<u8>; 4] {
    SYSTEM_FILES.map(|name| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/files");
        std::fs::read(dir.join(name)).unwrap()
    })
}

fn join_status(tracker: SocketAddr, all: &[SocketAddr]) -> Status {
    Peer::connect_from("127.0.0.3".parse().unwrap(), tracker).call(Command::StorageJoin, &join_of(tracker, all)).0
}

#[test]
fn a_tracker_that_was_away_for_long_copies_from_a_better_one() {
    let mut tracker = stale();
    tracker.start();
    let leader = with_files((true, 0), golden());
    assert_eq!(join_status(tracker.addr, &[tracker.addr, leader]), Status::OK);
    assert_eq!(members(tracker.addr), ["10.78.0.1", "10.78.0.2", "10.78.0.3", "127.0.0.3"]);
    until("it is on disk that it lives", || {
        let text = std::fs::read_to_string(tracker.data().join(".tracker_status")).unwrap();
        (!text.contains("last_check_time=2\n")).then_some(())
    });
    // All of it is there after a kill, changelog included.
    tracker.end(libc::SIGKILL);
    assert_eq!(std::fs::read(tracker.data().join(SYSTEM_FILES[3])).unwrap(), golden()[3]);
    tracker.start();
    assert!(members(tracker.addr).contains(&"10.78.0.2".to_owned()));
}

#[test]
fn a_tracker_that_was_away_for_long_keeps_what_nobody_knows_better() {
    let mut tracker = stale();
    tracker.start();
    // Away even longer: its interval is greater than mine only if it does not lead and just started. A tracker that
    // runs for as long as I do and was never away is better, so say it was.
    let other = scripted("127.0.0.6", |command, _| match command {
        Command::TrackerGetStatus => {
            Ok(encoded(&TrackerStatus { leader: false, running_time: 0, restart_interval: 1 << 40 }))
        }
        _ => Err(Status::EINVAL),
    });
    assert_eq!(join_status(tracker.addr, &[tracker.addr, other]), Status::OK);
    assert_eq!(members(tracker.addr), ["127.0.0.3"]);
}

#[test]
fn a_tracker_that_was_away_for_long_goes_on_alone_when_nobody_can_be_asked() {
    let mut tracker = stale();
    tracker.configure("network_timeout=1");
    tracker.start();
    // One refuses, the other never answers.
    let hung = std::net::TcpListener::bind("127.0.0.6:0").unwrap();
    let all = [tracker.addr, free("127.0.0.5"), hung.local_addr().unwrap()];
    assert_eq!(join_status(tracker.addr, &all), Status::EAGAIN, "they may come back");
    // Storages that come all the time do not keep each other from it.
    let _joined: Vec<Peer> = std::thread::scope(|scope| {
        let storages = [3, 4, 5, 6].map(|i| scope.spawn(move || join(&format!("127.0.0.{i}"), all[0], &all)));
        storages.into_iter().map(|storage| storage.join().unwrap()).collect()
    });
    assert_eq!(members(tracker.addr), ["127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]);
}

#[test]
fn files_that_make_no_sense_replace_nothing() {
    let mut tracker = stale();
    tracker.start();
    let mut wrong: Vec<[Vec<u8>; 4]> = Vec::new();
    for i in 0..2 {
        let mut files = golden();
        files[i] = b"[Global]\n\tgroup_count=x\n\tstorage_count=7\n".to_vec();
        wrong.push(files);
    }
    let mut mixed = golden();
    mixed[0] = String::from_utf8(mixed[0].clone()).unwrap().replace("group1", "group7").into_bytes();
    wrong.push(mixed);
    for files in wrong {
        let leader = with_files((true, 0), files);
        assert_eq!(join_status(tracker.addr, &[tracker.addr, leader]), Status::EAGAIN);
        assert_eq!(members(tracker.addr), ["127.0.0.3"]);
    }
    // Pieces without end, and sizes beyond all bounds.
    for piece in [vec![0; 7], [&u64::MAX.to_be_bytes()[..], b"x"].concat(), 5u64.to_be_bytes().to_vec()] {
        let leader = scripted("127.0.0.6", move |command, _| match command {
            Command::TrackerGetStatus => status(true, 0),
            Command::TrackerGetOneSysFile => Ok(piece.clone()),
            _ => Ok(Vec::new()),
        });
        assert_eq!(join_status(tracker.addr, &[tracker.addr, leader]), Status::EAGAIN);
    }
    let busy = scripted("127.0.0.6", |command, _| match command {
        Command::TrackerGetStatus => status(true, 0),
        _ => Err(Status::EBUSY),
    });
    assert_eq!(join_status(tracker.addr, &[tracker.addr, busy]), Status::EAGAIN);
    assert_eq!(members(tracker.addr), ["127.0.0.3"]);
    tracker.end(libc::SIGTERM);
    let status = std::fs::read_to_string(tracker.data().join(".tracker_status")).unwrap();
    assert!(status.contains("last_check_time=2"), "it still is as old as it was: {status}");
}
