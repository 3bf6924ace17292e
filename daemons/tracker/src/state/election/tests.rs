use super::*;
use crate::address::Addresses;
use crate::state::own::Reached;

/// One machine among trackers 10.0.0.1, 10.0.0.2, ...; the others are played by the test.
struct One {
    election: Election,
    trackers: Trackers,
    now: Moment,
    due: Moment,
    out: Vec<Order>,
}

/// How long each answer takes.
const LATENCY: Duration = Duration::from_millis(1);
const WALL: i64 = 1_000_000;

fn at(host: u8) -> SocketAddr {
    SocketAddr::new([10, 0, 0, host].into(), 22122)
}

fn status(leader: bool, running_time: u64, restart_interval: u64) -> Answer {
    Answer::Status(TrackerStatus { leader, running_time, restart_interval })
}

const PLAIN: Answer = Answer::Status(TrackerStatus { leader: false, running_time: 0, restart_interval: 0 });

impl One {
    /// `me` among so many; their places are one less than the last byte of their addresses.
    fn new(me: u8, count: u8) -> One {
        let mut trackers = Trackers::new(22122, WALL, None);
        let list: Vec<_> = (1..=count).map(|host| (Addresses::one(at(host).ip()), 22122)).collect();
        trackers.learn(&list, Reached { local: at(me).ip(), dialled: None }).unwrap();
        let now = Duration::from_secs(100);
        let mut one = One { election: Election::new(7), trackers, now, due: now, out: Vec::new() };
        one.advance();
        one
    }

    fn advance(&mut self) {
        let (orders, due) = self.election.advance(self.now, WALL, &mut self.trackers);
        assert!(due > self.now, "it never spins");
        self.out.extend(orders);
        self.due = due;
    }

    /// Lets time pass, calling as often as it wants.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.due <= end {
            self.now = self.due;
            self.advance();
        }
        self.now = end;
    }

    fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// Answers the oldest question to a tracker.
    fn answer(&mut self, host: u8, question: Question, answer: Answer) {
        let peer = usize::from(host) - 1;
        let place = self.out.iter().position(|o| o.to == peer && o.question == question);
        let place = place.unwrap_or_else(|| panic!("{question:?} for {host} is not in {:?}", self.out));
        let order = self.out.remove(place);
        self.now += LATENCY;
        self.election.hear(self.now, order, answer);
        self.advance();
    }

    /// Lets time pass while another answers the same to every question of its status.
    fn pass_answering(&mut self, time: Duration, answers: &[(u8, Answer)]) {
        let end = self.now + time;
        while self.now < end {
            for (host, answer) in answers {
                while self.asks(*host, Question::Status) {
                    self.answer(*host, Question::Status, *answer);
                }
            }
            let step = self.due.min(end);
            self.now = step;
            self.advance();
        }
    }

    /// Lets time pass until it asks this.
    fn wait_for(&mut self, host: u8, question: Question) {
        let end = self.now + Duration::from_secs(15);
        while !self.asks(host, question) {
            assert!(self.now < end, "{question:?} for {host} does not come");
            self.now = self.due;
            self.advance();
        }
    }

    fn wait_for_leader(&mut self) {
        let end = self.now + Duration::from_secs(15);
        while self.leader().is_none() {
            assert!(self.now < end, "there is no leader");
            self.now = self.due;
            self.advance();
        }
    }

    fn asks(&self, host: u8, question: Question) -> bool {
        self.out.iter().any(|o| o.to == usize::from(host) - 1 && o.question == question)
    }

    fn tick(&mut self) {
        self.now += LATENCY;
        self.advance();
    }

    fn leader(&self) -> Option<u8> {
        self.trackers.leader_index().map(|i| i as u8 + 1)
    }

    fn acts(&self) -> bool {
        self.trackers.acts(self.now)
    }

    /// As the leader of two that both run.
    fn leading() -> One {
        let mut one = One::new(2, 2);
        one.answer(1, Question::Status, PLAIN);
        one.answer(1, Question::Propose(at(2)), Answer::Yes);
        one.answer(1, Question::Commit(at(2)), Answer::Yes);
        assert_eq!(one.leader(), Some(2));
        one
    }

    /// As the follower of the first of three.
    fn following() -> One {
        let mut one = One::new(2, 3);
        one.answer(1, Question::Status, status(true, 0, 0));
        one.answer(3, Question::Status, PLAIN);
        assert_eq!(one.leader(), Some(1));
        one
    }
}

#[test]
fn who_knows_nobody_asks_nobody() {
    let mut trackers = Trackers::new(22122, WALL, None);
    let mut election = Election::new(1);
    let (orders, due) = election.advance(Moment::ZERO, WALL, &mut trackers);
    assert!(orders.is_empty() && due == ROUND);
    trackers.learn(&[(Addresses::one(at(1).ip()), 22122)], Reached { local: at(1).ip(), dialled: None }).unwrap();
    assert!(trackers.acts(Moment::ZERO), "alone it leads and acts, whatever the clock");
    assert!(election.advance(Moment::ZERO, WALL, &mut trackers).0.is_empty());
    trackers.step_down().unwrap();
    election.advance(Moment::ZERO, WALL, &mut trackers);
    assert!(trackers.acts(Moment::ZERO), "alone it is elected again");
}

#[test]
fn the_best_proposes_itself_then_confirms() {
    let mut one = One::new(2, 3);
    one.answer(1, Question::Status, PLAIN);
    assert!(!one.asks(1, Question::Propose(at(2))), "the other has not answered");
    one.answer(3, Question::Status, Answer::No(Status::ENOENT));
    assert!(one.asks(1, Question::Propose(at(2))) && !one.asks(3, Question::Propose(at(2))), "3 knows no trackers yet");
    one.answer(1, Question::Propose(at(2)), Answer::Yes);
    assert_eq!(one.leader(), None);
    one.answer(1, Question::Commit(at(2)), Answer::Yes);
    assert_eq!(one.leader(), Some(2));
}

#[test]
fn whom_it_elects() {
    // What each of the others says, and who it takes for the best: myself is 2, fresh.
    let cases = [
        (PLAIN, PLAIN, 3),
        (PLAIN, status(false, 0, 300), 2),
        (status(false, 300, 900), PLAIN, 1),
        (status(false, 300, 900), status(false, 300, 600), 3),
        (Answer::Gone, Answer::Gone, 2),
        (Answer::Silent, Answer::No(Status::ENOENT), 2),
        (Answer::No(Status::EINVAL), PLAIN, 3),
    ];
    for (first, third, best) in cases {
        let mut one = One::new(2, 3);
        one.answer(1, Question::Status, first);
        one.answer(3, Question::Status, third);
        assert_eq!(
            one.leader().is_some() || one.asks(1, Question::Propose(at(2))) || one.asks(3, Question::Propose(at(2))),
            best == 2,
            "{first:?}, {third:?}"
        );
    }
    for (first, third, leader) in [
        (status(true, 0, 900), status(false, 9000, 0), 1),
        (PLAIN, status(true, 0, 0), 3),
        (status(true, 0, 0), status(true, 300, 0), 3),
    ] {
        let mut one = One::new(2, 3);
        one.answer(1, Question::Status, first);
        one.answer(3, Question::Status, third);
        assert_eq!(one.leader(), Some(leader), "who leads is followed");
        assert!(one.asks(leader, Question::Ping));
    }
}

#[test]
fn if_another_is_best_it_waits_for_its_notice() {
    for seed in 1..200 {
        let mut one = One::new(1, 2);
        one.election.seed = seed;
        one.answer(2, Question::Status, PLAIN);
        let Phase::Resting { until } = one.election.phase else { panic!("{:?}", one.election.phase) };
        let rest = until - one.now;
        assert!(rest >= Duration::from_secs(1) && rest < Duration::from_secs(11), "{rest:?}");
        one.pass(rest - LATENCY);
        assert!(!one.asks(2, Question::Status));
        one.pass(Duration::from_millis(1));
        assert!(one.asks(2, Question::Status), "asks again");
    }
    let mut one = One::new(1, 2);
    one.answer(2, Question::Status, PLAIN);
    one.trackers.propose_leader(at(2)).unwrap();
    one.trackers.commit_leader(at(2)).unwrap();
    one.advance();
    assert!(one.asks(2, Question::Ping), "the notice came");
}

#[test]
fn who_was_waited_for_in_vain_is_passed_over() {
    let mut one = One::new(1, 3);
    for best in [3, 2] {
        one.answer(2, Question::Status, PLAIN);
        one.answer(3, Question::Status, PLAIN);
        assert!(!one.asks(best, Question::Propose(at(1))));
        one.wait_for(2, Question::Status);
    }
    one.answer(2, Question::Status, PLAIN);
    one.answer(3, Question::Status, PLAIN);
    one.answer(2, Question::Propose(at(1)), Answer::Yes);
    one.answer(3, Question::Propose(at(1)), Answer::No(Status::ENOENT));
    assert!(!one.asks(3, Question::Commit(at(1))), "it knows no trackers");
    one.answer(2, Question::Commit(at(1)), Answer::Yes);
    assert_eq!(one.leader(), Some(1));
    // In the next election everybody counts again.
    one.trackers.step_down().unwrap();
    one.tick();
    while one.leader().is_none() && !matches!(one.election.phase, Phase::Resting { .. }) {
        let host = if one.asks(2, Question::Status) { 2 } else { 3 };
        one.answer(host, Question::Status, PLAIN);
    }
    assert!(matches!(one.election.phase, Phase::Resting { .. }));
    // But who leads by now is followed.
    let mut one = One::new(1, 2);
    one.answer(2, Question::Status, PLAIN);
    one.wait_for(2, Question::Status);
    one.answer(2, Question::Status, status(true, 0, 0));
    assert_eq!(one.leader(), Some(2));
}

#[test]
fn one_refusal_ends_it() {
    let mut one = One::new(3, 3);
    one.answer(1, Question::Status, PLAIN);
    one.answer(2, Question::Status, PLAIN);
    one.answer(1, Question::Propose(at(3)), Answer::Yes);
    one.answer(2, Question::Propose(at(3)), Answer::No(Status::EINVAL));
    assert!(!one.asks(1, Question::Commit(at(3))));
    one.wait_for(1, Question::Status);
    one.answer(1, Question::Status, PLAIN);
    one.answer(2, Question::Status, PLAIN);
    one.answer(2, Question::Propose(at(3)), Answer::Yes);
    one.answer(1, Question::Propose(at(3)), Answer::Yes);
    one.answer(2, Question::Commit(at(3)), Answer::Yes);
    one.answer(1, Question::Commit(at(3)), Answer::No(Status::EINVAL));
    assert_eq!(one.leader(), None);
    one.wait_for(1, Question::Status);
    one.answer(1, Question::Status, PLAIN);
    one.answer(2, Question::Status, PLAIN);
    // Who goes away in the middle is left out.
    one.answer(1, Question::Propose(at(3)), Answer::Yes);
    one.answer(2, Question::Propose(at(3)), Answer::Gone);
    one.answer(1, Question::Commit(at(3)), Answer::Silent);
    assert_eq!(one.leader(), Some(3));
}

#[test]
fn anothers_proposal_or_leadership_in_between_ends_it() {
    let mut one = One::new(2, 2);
    one.answer(1, Question::Status, PLAIN);
    one.trackers.propose_leader(at(1)).unwrap();
    one.answer(1, Question::Propose(at(2)), Answer::Yes);
    one.answer(1, Question::Commit(at(2)), Answer::Yes);
    assert_eq!(one.leader(), None, "the later proposal stands");
    one.trackers.commit_leader(at(1)).unwrap();
    one.advance();
    assert!(one.asks(1, Question::Ping));

    let mut one = One::new(2, 3);
    one.answer(3, Question::Status, status(false, 0, 300));
    one.seconds(1);
    // 1 was silent, and turns out to lead.
    one.answer(1, Question::Status, status(true, 0, 0));
    one.answer(3, Question::Propose(at(2)), Answer::Yes);
    assert!(!one.asks(3, Question::Commit(at(2))));
}

#[test]
fn answers_of_an_earlier_round_mean_nothing() {
    let mut one = One::new(2, 2);
    one.answer(1, Question::Status, PLAIN);
    let old = *one.out.iter().find(|o| o.question == Question::Propose(at(2))).unwrap();
    one.trackers.propose_leader(at(1)).unwrap();
    one.trackers.commit_leader(at(1)).unwrap();
    one.advance();
    one.trackers.forget_leader();
    one.tick();
    one.answer(1, Question::Status, PLAIN);
    one.election.hear(one.now, old, Answer::Yes);
    one.advance();
    assert_eq!(one.leader(), None);
    assert!(!one.asks(1, Question::Commit(at(2))));
}

#[test]
fn an_election_waits_a_second_for_who_does_not_answer() {
    let mut one = One::new(2, 3);
    one.answer(1, Question::Status, PLAIN);
    one.pass(PATIENCE - LATENCY * 2);
    assert!(!one.asks(1, Question::Propose(at(2))));
    one.pass(LATENCY);
    assert!(one.asks(1, Question::Propose(at(2))) && !one.asks(3, Question::Propose(at(2))));
    assert_eq!(one.out.iter().filter(|o| o.to == 2).count(), 1, "the question to 3 is left standing");
}

#[test]
fn three_failed_pings_in_a_row() {
    for failure in [Answer::Gone, Answer::Silent, Answer::No(Status::EOPNOTSUPP)] {
        let mut one = One::following();
        one.answer(1, Question::Ping, failure);
        one.seconds(1);
        one.answer(1, Question::Ping, failure);
        one.seconds(1);
        one.answer(1, Question::Ping, Answer::Yes);
        for _ in 0..2 {
            one.seconds(1);
            one.answer(1, Question::Ping, failure);
            assert_eq!(one.leader(), Some(1));
        }
        one.seconds(1);
        one.answer(1, Question::Ping, failure);
        assert_eq!(one.leader(), None);
        assert!(one.asks(1, Question::Status) && one.asks(3, Question::Status));
        one.answer(3, Question::Status, PLAIN);
        one.answer(1, Question::Status, status(true, 0, 0));
        assert_eq!(one.leader(), Some(1), "it leads after all");
        one.answer(1, Question::Ping, failure);
        assert_eq!(one.leader(), Some(1), "and is given three again");
    }
}

#[test]
fn pings_come_every_second_and_never_twice() {
    let mut one = One::following();
    one.seconds(5);
    assert_eq!(one.out.iter().filter(|o| o.question == Question::Ping).count(), 1, "one at a time");
    one.answer(1, Question::Ping, Answer::Yes);
    assert!(one.asks(1, Question::Ping), "the next is overdue");
    one.answer(1, Question::Ping, Answer::Yes);
    one.pass(ROUND - LATENCY * 2);
    assert!(!one.asks(1, Question::Ping));
    one.pass(LATENCY);
    assert!(one.asks(1, Question::Ping));
}

#[test]
fn a_new_leader_acts_when_it_has_led_for_a_lease() {
    let mut one = One::leading();
    assert!(!one.acts());
    one.pass_answering(LEASE - Duration::from_millis(1), &[(1, PLAIN)]);
    assert!(!one.acts());
    one.pass_answering(Duration::from_millis(1), &[(1, PLAIN)]);
    assert!(one.acts());
    one.pass_answering(Duration::from_secs(600), &[(1, PLAIN)]);
    assert!(one.acts());
}

#[test]
fn a_leader_that_hears_nothing_acts_after_silence_only() {
    let mut one = One::leading();
    one.pass_answering(LEASE * 2, &[(1, PLAIN)]);
    assert!(one.acts());
    one.seconds(3);
    assert!(!one.acts(), "what it heard is too old");
    one.seconds(2);
    assert!(one.acts(), "the other does not run");
    one.seconds(60);
    assert!(one.acts());
    // Its answer gives up on a time-out now and then; it is as silent as before.
    one.answer(1, Question::Status, Answer::Silent);
    one.seconds(1);
    assert!(one.asks(1, Question::Status) && one.acts());
    one.answer(1, Question::Status, status(true, 300, 0));
    assert_eq!(one.leader(), None, "it leads: one too many");
    assert!(one.asks(1, Question::Status), "and is asked again");
    one.answer(1, Question::Status, status(true, 300, 0));
    assert_eq!(one.leader(), Some(1));
}

/// As when there is no way to its network: each question fails at once, and timers are late.
#[test]
fn who_cannot_be_reached_at_all_is_as_silent_as_who_does_not_answer() {
    let mut one = One::leading();
    let end = one.now + Duration::from_secs(10);
    while one.now < end {
        while one.asks(1, Question::Status) {
            one.answer(1, Question::Status, Answer::Silent);
        }
        one.now = one.due + LATENCY * 2;
        one.advance();
    }
    assert!(one.acts());
    one.answer(1, Question::Status, status(true, 0, 0));
    assert!(!one.acts(), "until it answers");
}

#[test]
fn who_refuses_the_connection_is_not_waited_for() {
    let mut one = One::leading();
    one.pass_answering(LEASE, &[(1, Answer::Gone)]);
    assert!(one.acts());
    one.pass_answering(LEASE, &[(1, Answer::No(Status::ENOENT))]);
    assert!(one.acts(), "it is back, with nothing");
}

#[test]
fn who_did_not_run_starts_over() {
    let mut one = One::leading();
    one.pass_answering(LEASE * 2, &[(1, PLAIN)]);
    assert!(one.acts());
    one.now += Duration::from_secs(60);
    assert!(!one.acts() && !one.trackers.leads(one.now), "before it has run at all");
    one.advance();
    assert_eq!(one.leader(), None);
    // It was replaced.
    while one.asks(1, Question::Status) {
        one.answer(1, Question::Status, status(true, 0, 0));
    }
    assert_eq!(one.leader(), Some(1));
    one.now += Duration::from_secs(60);
    one.advance();
    assert_eq!(one.leader(), Some(1), "a follower that was stopped has nothing to give up");
}

#[test]
fn silence_counts_from_when_this_machine_runs() {
    let mut one = One::leading();
    one.seconds(1);
    one.now += Duration::from_secs(60);
    one.advance();
    assert!(!one.asks(1, Question::Propose(at(2))));
    one.wait_for_leader();
    assert!(!one.acts());
    one.seconds(3);
    assert!(one.acts(), "a second of the election and three as the leader");
}

#[test]
fn a_short_stop_changes_nothing() {
    let mut one = One::leading();
    one.pass_answering(LEASE * 2, &[(1, PLAIN)]);
    one.now += LEASE - ROUND;
    assert!(one.trackers.leads(one.now));
    one.advance();
    assert_eq!(one.leader(), Some(2));
}

#[test]
fn notices_of_others() {
    // Another is proposed to a leader: it gives up, and elects.
    let mut one = One::leading();
    assert_eq!(one.trackers.propose_leader(at(1)), Err(Status::EINVAL));
    one.out.clear();
    one.advance();
    assert!(one.leader().is_none() && !one.acts());
    // A storage has seen two leaders.
    let mut one = One::leading();
    one.trackers.step_down().unwrap();
    one.tick();
    assert!(matches!(one.election.phase, Phase::Asking { .. }));
    // A follower is told of a new leader, and pings that one.
    let mut one = One::following();
    one.trackers.propose_leader(at(3)).unwrap();
    one.trackers.commit_leader(at(3)).unwrap();
    one.advance();
    assert!(one.asks(3, Question::Ping));
    one.answer(1, Question::Ping, Answer::Gone);
    assert_eq!(one.leader(), Some(3));
}

#[test]
fn another_address_of_mine_is_nobody_else() {
    let mut one = One::leading();
    let alias = (Addresses::one(at(9).ip()), 22122);
    one.trackers.learn(&[alias], Reached { local: at(9).ip(), dialled: None }).unwrap();
    one.pass_answering(LEASE * 2, &[(1, PLAIN)]);
    assert!(one.acts() && !one.asks(3, Question::Status));
    one.trackers.propose_leader(at(9)).unwrap();
    one.trackers.commit_leader(at(9)).unwrap();
    assert!(one.trackers.i_lead());
}

#[test]
fn an_address_that_another_gets_back_is_asked_who_leads() {
    let mut one = One::leading();
    let moved = [(Addresses::one(at(3).ip()), 22122)];
    one.trackers.learn(&moved, Reached { local: at(3).ip(), dialled: None }).unwrap();
    one.pass_answering(LEASE * 2, &[(1, PLAIN)]);
    assert!(one.acts() && !one.asks(3, Question::Status));
    one.trackers.note_own([(at(3).ip(), false)]);
    assert!(!one.acts());
    one.tick();
    assert!(!one.acts() && one.asks(3, Question::Status));
    one.answer(3, Question::Status, status(true, 0, 0));
    assert!(!one.trackers.i_lead());
}

#[test]
fn who_has_lost_its_address_does_not_lead() {
    let mut one = One::new(1, 1);
    assert!(one.trackers.leads(one.now));
    one.trackers.note_own([(at(1).ip(), false)]);
    one.seconds(9);
    assert_eq!(one.leader(), None);
    one.trackers.note_own([(at(1).ip(), true)]);
    one.tick();
    assert!(one.acts());
}
