//! Two to four machines on a simulated network, with virtual time, under random faults: they are stopped and continue,
//! crash and start again, messages are late or lost, links are cut.
//!
//! At every moment no two act that could have heard each other; and once the faults are over, one leads, all know it,
//! and it acts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::address::Addresses;
use crate::state::own::Reached;

const WALL: i64 = 1_000_000;
/// Messages take up to so many milliseconds.
const LATENCY: u64 = 20;
/// A ping, proposal or confirmation is given up after this.
const LIMIT: u64 = 1_500;
/// A question of the status is given up after this, and the connection with it.
const STATUS_LIMIT: u64 = 8_000;

/// What can happen to one of the machines, or between two of them.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// It stops, for so many milliseconds; then it continues where it was.
    Stop(usize, u64),
    /// It dies, is started again after so many milliseconds, and knows the others after so many more.
    Crash(usize, u64, u64),
    /// Nothing passes between two for so many milliseconds.
    Cut(usize, usize, u64),
    /// A storage tells it that there are two leaders.
    Reselect(usize),
}

struct Machine {
    trackers: Trackers,
    election: Election,
    due: u64,
    stopped_until: u64,
    /// Not running until then.
    down_until: u64,
    /// When a storage joins it and tells it of the others.
    joined_at: Option<u64>,
    life: u32,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A question arrives.
    Asked { from: usize, life: u32, id: u64, order: Order },
    /// An answer arrives.
    Answered { at: usize, life: u32, id: u64, order: Order, answer: Answer },
}

struct World {
    now: u64,
    machines: Vec<Machine>,
    /// By time and order of making.
    events: BTreeMap<(u64, u64), Event>,
    /// Questions without an answer yet.
    open: BTreeMap<u64, (usize, Order)>,
    next: u64,
    cuts: Vec<(usize, usize, u64)>,
    random: u64,
}

fn at(machine: usize) -> SocketAddr {
    SocketAddr::new([10, 0, 0, machine as u8 + 1].into(), 22122)
}

fn moment(ms: u64) -> Moment {
    Duration::from_millis(ms)
}

impl World {
    fn new(count: usize, seed: u64) -> World {
        let mut world = World {
            now: 1_000_000,
            machines: Vec::new(),
            events: BTreeMap::new(),
            open: BTreeMap::new(),
            next: 0,
            cuts: Vec::new(),
            random: seed | 1,
        };
        for _ in 0..count {
            let seed = world.roll(u64::MAX);
            let machine = Machine {
                trackers: Trackers::new(22122, WALL + world.now as i64 / 1000, Some(WALL)),
                election: Election::new(seed),
                due: world.now,
                stopped_until: 0,
                down_until: 0,
                joined_at: Some(world.now),
                life: 0,
            };
            world.machines.push(machine);
        }
        world
    }

    /// A storage joins, if it is time.
    fn join(&mut self, i: usize) {
        let list: Vec<_> = (0..self.machines.len()).map(|i| (Addresses::one(at(i).ip()), 22122)).collect();
        let m = &mut self.machines[i];
        if m.joined_at.is_some_and(|at| at <= self.now) {
            m.joined_at = None;
            m.trackers.learn(&list, Reached { local: at(i).ip(), dialled: None }).unwrap();
        }
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn runs(&self, i: usize) -> bool {
        let m = &self.machines[i];
        m.stopped_until <= self.now && m.down_until <= self.now
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        let between =
            |&&(x, y, until): &&(usize, usize, u64)| until > self.now && ((x, y) == (a, b) || (x, y) == (b, a));
        self.cuts.iter().find(between).is_some()
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.next += 1;
        self.events.insert((self.now + delay, self.next), event);
    }

    fn advance(&mut self, i: usize) {
        let now = self.now;
        self.join(i);
        let m = &mut self.machines[i];
        let (orders, due) = m.election.advance(moment(now), WALL + now as i64 / 1000, &mut m.trackers);
        m.due = (due.as_millis() as u64).min(m.joined_at.unwrap_or(u64::MAX));
        assert!(m.due > now, "it does not spin");
        let life = m.life;
        for order in orders {
            self.next += 1;
            let id = self.next;
            self.open.insert(id, (i, order));
            let delay = 1 + self.roll(LATENCY);
            self.later(delay, Event::Asked { from: i, life, id, order });
            let limit = if order.question == Question::Status { STATUS_LIMIT } else { LIMIT };
            self.later(limit, Event::Answered { at: i, life, id, order, answer: Answer::Silent });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Asked { from, life, id, order } => {
                let to = order.to;
                if self.is_cut(from, to) {
                    return;
                }
                let m = &mut self.machines[to];
                let answer = if m.down_until > self.now {
                    Answer::Gone
                } else if m.stopped_until > self.now {
                    let wait = m.stopped_until - self.now;
                    // The kernel keeps it for when the process continues, or dies.
                    return self.later(wait, event);
                } else {
                    let yes_no = |r: Result<(), Status>| r.map_or_else(Answer::No, |()| Answer::Yes);
                    let answer = match order.question {
                        Question::Status => {
                            let (running_time, restart_interval) =
                                m.trackers.running_times(WALL + self.now as i64 / 1000);
                            let leader = m.trackers.leads(moment(self.now));
                            Answer::Status(TrackerStatus { leader, running_time, restart_interval })
                        }
                        Question::Propose(at) => yes_no(m.trackers.propose_leader(at)),
                        Question::Commit(at) => yes_no(m.trackers.commit_leader(at)),
                        Question::Ping if m.trackers.leads(moment(self.now)) => Answer::Yes,
                        Question::Ping => Answer::No(Status::EOPNOTSUPP),
                    };
                    self.advance(to);
                    answer
                };
                let delay = 1 + self.roll(LATENCY);
                if !self.is_cut(from, to) {
                    self.later(delay, Event::Answered { at: from, life, id, order, answer });
                }
            }
            Event::Answered { at, life, id, order, answer } => {
                if self.machines[at].life != life || !self.open.contains_key(&id) {
                    return;
                }
                if !self.runs(at) {
                    let m = &self.machines[at];
                    let wait = m.stopped_until.max(m.down_until) - self.now;
                    return self.later(wait, event);
                }
                self.open.remove(&id);
                let now = moment(self.now);
                self.machines[at].election.hear(now, order, answer);
                self.advance(at);
            }
        }
    }

    fn strike(&mut self, fault: Fault) {
        let count = self.machines.len();
        let now = self.now;
        match fault {
            Fault::Stop(i, ms) => {
                let m = &mut self.machines[i % count];
                m.stopped_until = m.stopped_until.max(now + ms);
            }
            Fault::Crash(i, ms, alone) => {
                let i = i % count;
                let seed = self.roll(u64::MAX);
                let m = &mut self.machines[i];
                m.trackers = Trackers::new(22122, WALL + (now + ms) as i64 / 1000, Some(WALL));
                m.joined_at = Some(now + ms + alone);
                m.election = Election::new(seed);
                (m.stopped_until, m.down_until, m.due) = (0, now + ms, now + ms);
                m.life += 1;
                self.open.retain(|_, (asker, _)| *asker != i);
                // Whoever has asked it sees the connection end.
                let cut: Vec<_> = self.open.iter().filter(|(_, (_, o))| o.to == i).map(|(id, v)| (*id, *v)).collect();
                for (id, (asker, order)) in cut {
                    let life = self.machines[asker].life;
                    self.later(1, Event::Answered { at: asker, life, id, order, answer: Answer::Gone });
                }
                self.events.retain(|_, e| !matches!(e, Event::Asked { order, .. } if order.to == i));
            }
            Fault::Cut(a, b, ms) => self.cuts.push((a % count, b % count, now + ms)),
            Fault::Reselect(i) => {
                if self.runs(i % count) && self.machines[i % count].trackers.step_down().is_ok() {
                    self.advance(i % count);
                }
            }
        }
    }

    /// Runs for so long; `watch` looks at the world after everything that happens.
    fn run(&mut self, ms: u64, mut watch: impl FnMut(&World)) {
        let end = self.now + ms;
        loop {
            let event = self.events.first_key_value().map(|(key, _)| *key);
            let due = |m: &Machine| m.due.max(m.stopped_until).max(m.down_until);
            let wake = self.machines.iter().map(due).min().unwrap_or(end);
            let next = event.map_or(wake, |(at, _)| at.min(wake)).max(self.now);
            if next >= end {
                self.now = end;
                watch(self);
                return;
            }
            self.now = next;
            match event.filter(|(at, _)| *at <= next) {
                Some(key) => {
                    if let Some(event) = self.events.remove(&key) {
                        self.happen(event);
                    }
                }
                None => {
                    for i in 0..self.machines.len() {
                        if self.runs(i) && self.machines[i].due <= self.now {
                            self.advance(i);
                        }
                    }
                }
            }
            watch(self);
        }
    }

    /// Those that run and would act now.
    fn acting(&self) -> Vec<usize> {
        let acts = |i: &usize| self.runs(*i) && self.machines[*i].trackers.acts(moment(self.now));
        (0..self.machines.len()).filter(acts).collect()
    }

    fn agreed(&self) -> Option<usize> {
        let leader = self.machines[0].trackers.leader_index()?;
        let all = self.machines.iter().all(|m| m.trackers.leader_index() == Some(leader));
        (all && self.machines[leader].trackers.i_lead()).then_some(leader)
    }
}

fn one_acts(world: &World) {
    let acting = world.acting();
    assert!(acting.len() <= 1, "{acting:?} act at {}", world.now);
}

fn fault(cuts: bool) -> impl Strategy<Value = Fault> {
    let who = 0usize..4;
    let time = prop_oneof![1u64..300, 300u64..4_000, 2_000u64..20_000];
    prop_oneof![
        4 => (who.clone(), time.clone()).prop_map(|(i, t)| Fault::Stop(i, t)),
        3 => (who.clone(), time.clone(), 0u64..30_000).prop_map(|(i, t, alone)| Fault::Crash(i, t, alone)),
        1 => who.clone().prop_map(Fault::Reselect),
        if cuts { 3 } else { 0 } => (who.clone(), who, time).prop_map(|(a, b, t)| Fault::Cut(a, b, t)),
    ]
}

fn faults(cuts: bool) -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let pause = prop_oneof![0u64..50, 50u64..2_000, 1_000u64..15_000];
    proptest::collection::vec((pause, fault(cuts)), 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Without cut links: stopped, crashed, started again in any order, never do two act.
    #[test]
    fn never_two_that_act(count in 2usize..5, seed: u64, faults in faults(false)) {
        let mut world = World::new(count, seed);
        for (pause, fault) in faults {
            world.run(pause, one_acts);
            world.strike(fault);
        }
        world.run(50_000, one_acts);
        // All run now, and know each other.
        world.run(40_000, one_acts);
        let leader = world.agreed();
        prop_assert!(leader.is_some(), "no leader is agreed on");
        prop_assert_eq!(world.acting(), leader.into_iter().collect::<Vec<_>>());
    }

    /// With cut links there may be a leader on each side, but when they are mended only one stays.
    #[test]
    fn after_any_faults_one_leads(count in 2usize..5, seed: u64, faults in faults(true)) {
        let mut world = World::new(count, seed);
        for (pause, fault) in faults {
            world.run(pause, |_| {});
            world.strike(fault);
        }
        // The longest fault, and what was asked during it.
        world.run(50_000 + STATUS_LIMIT, |_| {});
        world.run(10_000, |_| {});
        // From here on nothing may act beside the leader.
        world.run(30_000, one_acts);
        let leader = world.agreed();
        prop_assert!(leader.is_some(), "no leader is agreed on");
        prop_assert_eq!(world.acting(), leader.into_iter().collect::<Vec<_>>());
    }

    /// How long it takes when the leader is killed or stopped.
    #[test]
    fn a_new_leader_within_ten_seconds(count in 2usize..5, seed: u64, run in 0u64..5_000, stopped: bool) {
        let mut world = World::new(count, seed);
        world.run(30_000 + run, one_acts);
        let old = world.agreed().unwrap();
        world.strike(if stopped { Fault::Stop(old, 13_000) } else { Fault::Crash(old, 13_000, 0) });
        world.run(10_000, one_acts);
        let others: Vec<_> = (0..count).filter(|i| *i != old).collect();
        let leaders: Vec<_> = others.iter().map(|i| world.machines[*i].trackers.leader_index()).collect();
        prop_assert!(leaders[0].is_some_and(|l| l != old), "{leaders:?} instead of {old}");
        prop_assert!(leaders.iter().all(|l| *l == leaders[0]), "{leaders:?}");
        world.run(3_000, one_acts);
        prop_assert_eq!(world.acting(), vec![leaders[0].unwrap()]);
        // It comes back: it is a follower soon, and never acts.
        world.run(3_000, one_acts);
        prop_assert_eq!(world.agreed(), leaders[0]);
    }

    /// A leader that is killed and started at once stands well, but does nothing before a storage joins it.
    #[test]
    fn nobody_waits_long_for_one_that_just_started(count in 2usize..5, seed: u64, run in 0u64..5_000) {
        let mut world = World::new(count, seed);
        world.run(30_000 + run, one_acts);
        let old = world.agreed().unwrap();
        world.strike(Fault::Crash(old, 500, 60_000));
        world.run(35_000, one_acts);
        let others: Vec<_> = (0..count).filter(|i| *i != old).collect();
        let leader = world.machines[others[0]].trackers.leader_index();
        prop_assert!(leader.is_some_and(|l| l != old));
        prop_assert!(others.iter().all(|i| world.machines[*i].trackers.leader_index() == leader));
        prop_assert_eq!(world.acting(), vec![leader.unwrap()]);
        world.run(40_000, one_acts);
        prop_assert_eq!(world.agreed(), leader);
    }
}
