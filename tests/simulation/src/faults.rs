//! What goes wrong, and when: chosen by the seed before the simulation begins.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tracing::info;
use turmoil::Sim;

use crate::cluster::Cluster;
use crate::random::Random;
use crate::trace;

/// Something that goes wrong or is mended.
#[derive(Debug, Clone)]
enum Event {
    /// A daemon is killed; it starts again after some time, and connections are refused until then.
    Kill(String, Duration),
    /// A host is gone, without a word to anybody.
    Dark(String),
    /// It is started again.
    Light(String),
    /// Nothing gets through between two hosts; what was sent arrives when that is mended, as retransmissions do.
    Cut(String, String),
    /// What is sent from the first to the second is lost for good, and with it the connection.
    Lose(String, String),
    /// Both of these are mended.
    Mend(String, String),
    /// Messages between two hosts take up to this long.
    Slow(String, String, Duration),
    /// A storage is killed, and its disks are empty when it starts again.
    LoseDisks(String, Duration),
    /// The wall clock of a host is put forward by some seconds, or back.
    Clock(String, i64),
}

/// The usual time of a message at most.
const LATENCY: Duration = Duration::from_millis(40);

/// The plan of a seed, and how far it has been carried out.
pub struct Faults {
    plan: VecDeque<(Duration, Event)>,
    dark: BTreeSet<String>,
    /// When two trackers could not talk to each other as they should for the last time.
    trackers_apart: Option<Duration>,
}

impl Faults {
    /// For faults between `from` and `to`, with `clients` beside the cluster.
    pub fn plan(cluster: &Cluster, clients: &[String], random: &mut Random, from: Duration, to: Duration) -> Faults {
        let daemons = cluster.names();
        let all: Vec<String> = daemons.iter().chain(clients).cloned().collect();
        let mut plan = Vec::new();
        let pause = random.within(1500..6000);
        let mut at = from;
        loop {
            at += random.millis(100..pause);
            if at >= to {
                break;
            }
            plan_one(&mut plan, random, at, &daemons, &all);
        }
        if from < to
            && let Some(host) = random.pick(&cluster.dispensable())
        {
            // Once, or again: what others have of it is enough each time.
            for _ in 0..random.within(1..3) {
                let at = from + random.millis(500..(to - from).as_millis() as u64);
                plan.push((at, Event::LoseDisks(host.clone(), random.millis(0..6000))));
            }
        }
        plan.sort_by_key(|(at, _)| *at);
        Faults { plan: plan.into(), dark: BTreeSet::new(), trackers_apart: None }
    }

    /// Does what is due.
    pub fn advance(&mut self, sim: &mut Sim<'_>, cluster: &Cluster, now: Duration) {
        while let Some((_, event)) = self.plan.pop_front_if(|(at, _)| *at <= now) {
            self.happen(sim, cluster, now, &event);
        }
    }

    /// Mends everything but wall clocks.
    pub fn heal(&mut self, sim: &mut Sim<'_>, all: &[String], now: Duration) {
        info!("all is mended");
        self.plan.clear();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                mend(sim, a, b);
                sim.set_link_max_message_latency(a.as_str(), b.as_str(), LATENCY);
            }
        }
        for host in std::mem::take(&mut self.dark) {
            sim.bounce(host.as_str());
        }
        if let Some(apart) = &mut self.trackers_apart {
            *apart = now.min(*apart);
        }
    }

    /// Whether trackers could talk to each other all the time since `since`.
    pub fn trackers_together_since(&self, since: Duration) -> bool {
        self.trackers_apart.is_none_or(|apart| apart < since)
    }

    fn happen(&mut self, sim: &mut Sim<'_>, cluster: &Cluster, now: Duration, event: &Event) {
        info!("{event:?}");
        match event {
            Event::Kill(host, down) if !self.dark.contains(host) => cluster.kill(sim, host, *down),
            Event::LoseDisks(host, down) if !self.dark.contains(host) => cluster.lose_disks(sim, host, *down),
            Event::Kill(..) | Event::LoseDisks(..) => {}
            Event::Dark(host) => {
                if self.dark.insert(host.clone()) {
                    sim.crash(host.as_str());
                }
            }
            Event::Light(host) => {
                if self.dark.remove(host) {
                    sim.bounce(host.as_str());
                }
            }
            Event::Cut(a, b) => sim.hold(a.as_str(), b.as_str()),
            Event::Lose(a, b) => sim.partition_oneway(a.as_str(), b.as_str()),
            Event::Mend(a, b) => mend(sim, a, b),
            Event::Slow(a, b, latency) => sim.set_link_max_message_latency(a.as_str(), b.as_str(), *latency),
            Event::Clock(host, seconds) => trace::step_wall_clock(host, *seconds),
        }
        let tracker = |host: &String| host.starts_with('t');
        if let Event::Cut(a, b) | Event::Lose(a, b) | Event::Mend(a, b) | Event::Slow(a, b, _) = event
            && tracker(a)
            && tracker(b)
        {
            // Cut, they are apart until it is mended.
            let apart = !matches!(event, Event::Mend(..));
            self.trackers_apart = Some(if apart { Duration::MAX } else { now });
        }
    }
}

fn mend(sim: &Sim<'_>, a: &str, b: &str) {
    sim.release(a, b);
}

fn plan_one(plan: &mut Vec<(Duration, Event)>, random: &mut Random, at: Duration, daemons: &[String], all: &[String]) {
    let (Some(host), Some(one), Some(other)) = (random.pick(daemons), random.pick(all), random.pick(all)) else {
        return;
    };
    let host = host.clone();
    let until = at + random.millis(300..9000);
    match random.within(0..10) {
        0..3 => {
            let down = if random.one_in(3) { Duration::ZERO } else { random.millis(0..6000) };
            plan.push((at, Event::Kill(host, down)));
        }
        3 => {
            plan.push((at, Event::Dark(host.clone())));
            plan.push((until, Event::Light(host)));
        }
        // From everybody.
        4 => {
            for other in all.iter().filter(|other| **other != host) {
                plan.push((at, Event::Cut(host.clone(), other.clone())));
                plan.push((until, Event::Mend(host.clone(), other.clone())));
            }
        }
        9 => {
            let seconds = random.within(1..6) as i64;
            plan.push((at, Event::Clock(host, if random.one_in(2) { -seconds } else { seconds })));
        }
        _ if one == other => {}
        what @ 5..9 => {
            let (a, b) = (one.clone(), other.clone());
            // A tracker takes a refused connection for a process that is gone. The simulated network refuses what it
            // loses, which a real one does not.
            let lossy = what == 7 && !(a.starts_with('t') && b.starts_with('t'));
            plan.push(match what {
                8 => (at, Event::Slow(a.clone(), b.clone(), random.millis(50..1500))),
                _ if lossy => (at, Event::Lose(a.clone(), b.clone())),
                _ => (at, Event::Cut(a.clone(), b.clone())),
            });
            plan.push(match what {
                8 => (until, Event::Slow(a, b, LATENCY)),
                _ => (until, Event::Mend(a, b)),
            });
        }
        _ => {}
    }
}
