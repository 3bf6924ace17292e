//! What goes wrong in a round: planned from a seed (pure), then done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::fleet::{Fleet, Shape};
use crate::tree::Random;

/// Something that goes wrong for a while. Hosts by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A host reaches nobody, and nobody reaches it.
    Isolate(usize),
    /// Two hosts do not reach each other.
    Part(usize, usize),
    /// What the first sends to the second vanishes.
    OneWay(usize, usize),
    /// A server is killed, and started again at the end.
    Kill(usize),
    /// A server is stopped (SIGSTOP), and goes on at the end.
    Pause(usize),
    /// A server is asked to end, and started again.
    Restart(usize),
    /// A storage's disk is full.
    FillDisk(usize),
    /// A storage is killed and its disk emptied; it is started again at the end.
    LoseDisk(usize),
    /// The wall clock of a server is stepped by so many seconds, and back at the end.
    StepClock(usize, i64),
}

impl Fault {
    /// A word for tables.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::Isolate(_) => "isolated host",
            Fault::Part(..) => "cut pair",
            Fault::OneWay(..) => "cut one way",
            Fault::Kill(_) => "kill -9",
            Fault::Pause(_) => "stopped process",
            Fault::Restart(_) => "restart",
            Fault::FillDisk(_) => "full disk",
            Fault::LoseDisk(_) => "lost disk",
            Fault::StepClock(..) => "stepped clock",
        }
    }

    /// In words, with names.
    pub fn describe(self, shape: &Shape) -> String {
        let name = |host| shape.name(host);
        match self {
            Fault::Part(a, b) => format!("{} {}, {}", self.kind(), name(a), name(b)),
            Fault::OneWay(a, b) => format!("{} {} to {}", self.kind(), name(a), name(b)),
            Fault::StepClock(a, by) => format!("{} {} by {by} s", self.kind(), name(a)),
            Fault::Isolate(a)
            | Fault::Kill(a)
            | Fault::Pause(a)
            | Fault::Restart(a)
            | Fault::FillDisk(a)
            | Fault::LoseDisk(a) => format!("{} {}", self.kind(), name(a)),
        }
    }

    /// Whether both cannot be in force at once: they concern one process, or undo each other at their end.
    fn excludes(self, other: Fault) -> bool {
        let process = |fault| match fault {
            Fault::Kill(i) | Fault::Pause(i) | Fault::Restart(i) | Fault::LoseDisk(i) => Some(i),
            _ => None,
        };
        let link = |fault| match fault {
            Fault::Part(a, b) | Fault::OneWay(a, b) => Some((a.min(b), a.max(b))),
            Fault::Isolate(a) => Some((a, a)),
            _ => None,
        };
        let disk = |fault| match fault {
            Fault::FillDisk(i) | Fault::LoseDisk(i) => Some(i),
            _ => None,
        };
        let clock = |fault| match fault {
            Fault::StepClock(i, _) => Some(i),
            _ => None,
        };
        let same = |a: Option<usize>, b: Option<usize>| a.is_some() && a == b;
        same(process(self), process(other))
            || same(disk(self), disk(other))
            || same(clock(self), clock(other))
            || (link(self).is_some() && link(self) == link(other))
            || matches!((self, other), (Fault::LoseDisk(_), Fault::LoseDisk(_)))
    }
}

/// A fault with its times, counted from the beginning of the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub until: Duration,
}

/// What excludes each other is this far apart: a server that was just started has not taken over its signals.
const APART: Duration = Duration::from_secs(1);

/// The faults of a round of that length. Each ends within it.
pub fn plan(random: &mut Random, shape: &Shape, length: Duration, lose_disks: bool) -> Vec<Planned> {
    let length = length.as_millis() as u64;
    let mut planned: Vec<Planned> = Vec::new();
    // At most one loss a round: what two members were to keep does not survive the loss of both.
    let first = lose_disks.then(|| Fault::LoseDisk(server(random, shape, true)));
    let count = 2 + random.below(5);
    for i in 0..count {
        let fault = first.filter(|_| i == 0).unwrap_or_else(|| choose(random, shape));
        let from = random.below(length * 6 / 10);
        let lasts = (300 + random.below(length * 6 / 10)).min(length - from);
        let new = Planned { fault, from: Duration::from_millis(from), until: Duration::from_millis(from + lasts) };
        let overlaps = |old: &Planned| old.from <= new.until + APART && new.from <= old.until + APART;
        let lost = |old: &Planned| matches!((old.fault, fault), (Fault::LoseDisk(_), Fault::LoseDisk(_)));
        if !planned.iter().any(|old| lost(old) || (overlaps(old) && old.fault.excludes(fault))) {
            planned.push(new);
        }
    }
    planned
}

/// Whether two members of a group may have changed one file without knowing of each other: they could not reach each other, or
/// all `acks` members that had its last change for certain were away.
pub fn part_members(plan: &[Planned], shape: &Shape, acks: u32) -> bool {
    let group = |host: usize| shape.storages().contains(&host).then(|| (host - shape.trackers) / shape.members);
    let mut away: BTreeMap<usize, u32> = BTreeMap::new();
    plan.iter().any(|planned| match planned.fault {
        Fault::Isolate(a) => group(a).is_some(),
        Fault::Part(a, b) | Fault::OneWay(a, b) => group(a).is_some() && group(a) == group(b),
        Fault::LoseDisk(_) => true,
        Fault::Kill(a) | Fault::Pause(a) | Fault::Restart(a) => group(a).is_some_and(|group| {
            let members = away.entry(group).or_default();
            *members += 1;
            *members >= acks
        }),
        Fault::FillDisk(_) | Fault::StepClock(..) => false,
    })
}

fn server(random: &mut Random, shape: &Shape, storage: bool) -> usize {
    let from = if storage { shape.trackers } else { 0 };
    from + random.below((shape.servers() - from) as u64) as usize
}

fn choose(random: &mut Random, shape: &Shape) -> Fault {
    // Storages more often than trackers, the hosts of the users now and then.
    let any = |random: &mut Random| match random.below(12) {
        0 => shape.client(),
        1 => shape.mount(),
        2 | 3 => random.below(shape.trackers as u64) as usize,
        _ => server(random, shape, true),
    };
    let pair = |random: &mut Random| {
        let a = server(random, shape, true);
        loop {
            // Two members of one group, more often than not.
            let b = if random.below(3) > 0 {
                let group = (a - shape.trackers) / shape.members;
                shape.trackers + group * shape.members + random.below(shape.members as u64) as usize
            } else {
                any(random)
            };
            if b != a {
                return if random.below(2) == 0 { (a, b) } else { (b, a) };
            }
        }
    };
    match random.below(18) {
        0..3 => Fault::Isolate(any(random)),
        3..6 => {
            let (a, b) = pair(random);
            Fault::Part(a, b)
        }
        6..8 => {
            let (a, b) = pair(random);
            Fault::OneWay(a, b)
        }
        8..11 => Fault::Kill(server(random, shape, false)),
        11..13 => Fault::Pause(server(random, shape, false)),
        13 => Fault::Restart(server(random, shape, false)),
        14..16 => Fault::StepClock(server(random, shape, false), step(random)),
        _ => Fault::FillDisk(server(random, shape, true)),
    }
}

/// By how much a clock is stepped: what a time service corrects, or a machine that came up with a wrong clock.
fn step(random: &mut Random) -> i64 {
    let most = [3, 90, 5_000][random.below(3) as usize];
    let by = 1 + random.below(most) as i64;
    if random.below(2) == 0 { by } else { -by }
}

/// Makes the faults of a plan happen at their times; returns when the last has ended, or `stop` is set.
///
/// What a server does wrong when it is asked to end goes to `violations`.
///
/// # Errors
/// When a fault cannot be made or ended.
pub fn inflict(
    fleet: &mut Fleet,
    plan: &[Planned],
    stop: &AtomicBool,
    violations: &mut Vec<String>,
    mut say: impl FnMut(&str),
) -> Result<()> {
    let began = Instant::now();
    let mut steps: BTreeMap<(Duration, usize, bool), Fault> = BTreeMap::new();
    for (i, planned) in plan.iter().enumerate() {
        steps.insert((planned.from, i, true), planned.fault);
        steps.insert((planned.until, i, false), planned.fault);
    }
    for ((at, _, begins), fault) in steps {
        while began.elapsed() < at && !stop.load(Ordering::Relaxed) {
            // The time of a fault is what the plan says: nothing to be awaited.
            std::thread::sleep((at - began.elapsed().min(at)).min(Duration::from_millis(50)));
        }
        let word = if begins { "begins" } else { "ends" };
        say(&format!("{word}: {}", fault.describe(&fleet.shape())));
        if begins { begin(fleet, fault)? } else { end(fleet, fault, violations)? }
    }
    Ok(())
}

fn begin(fleet: &mut Fleet, fault: Fault) -> Result<()> {
    match fault {
        Fault::Isolate(a) => fleet.net().pull(a),
        Fault::Part(a, b) => fleet.net().cut(a, b).and_then(|()| fleet.net().cut(b, a)),
        Fault::OneWay(a, b) => fleet.net().cut(a, b),
        Fault::Kill(i) => fleet.kill(i),
        Fault::Pause(i) => {
            fleet.signal(i, libc::SIGSTOP);
            Ok(())
        }
        Fault::Restart(i) => {
            fleet.signal(i, libc::SIGTERM);
            Ok(())
        }
        Fault::FillDisk(i) => fleet.fill_disk(i),
        Fault::LoseDisk(i) => fleet.kill(i).and_then(|()| fleet.lose_disk(i)),
        Fault::StepClock(i, by) => fleet.set_clock(i, by),
    }
}

fn end(fleet: &mut Fleet, fault: Fault, violations: &mut Vec<String>) -> Result<()> {
    match fault {
        Fault::Isolate(a) => fleet.net().plug(a),
        Fault::Part(a, b) => fleet.net().mend(a, b).and_then(|()| fleet.net().mend(b, a)),
        Fault::OneWay(a, b) => fleet.net().mend(a, b),
        Fault::Kill(i) | Fault::LoseDisk(i) => fleet.run(i),
        Fault::Pause(i) => {
            fleet.signal(i, libc::SIGCONT);
            Ok(())
        }
        Fault::Restart(i) => {
            if let Err(error) = fleet.await_end(i) {
                violations.push(format!("{error:#}"));
            }
            fleet.run(i)
        }
        Fault::FillDisk(i) => fleet.free_disk(i),
        Fault::StepClock(i, _) => fleet.set_clock(i, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { trackers: 2, groups: 2, members: 3 };
    const LENGTH: Duration = Duration::from_secs(10);

    #[test]
    fn a_seed_repeats_its_plan() {
        let of = |seed| plan(&mut Random(seed), &SHAPE, LENGTH, false);
        assert_eq!(of(7), of(7));
        assert!((0..20).any(|seed| of(seed) != of(7)));
    }

    #[test]
    fn members_are_parted_by_what_keeps_them_from_asking() {
        let parts = |acks, faults: &[Fault]| {
            let planned = |fault: &Fault| Planned { fault: *fault, from: Duration::ZERO, until: LENGTH };
            part_members(&faults.iter().map(planned).collect::<Vec<_>>(), &SHAPE, acks)
        };
        // Storages are 2 to 4 and 5 to 7.
        assert!(!parts(2, &[Fault::Kill(2), Fault::Pause(5), Fault::FillDisk(3), Fault::Kill(0), Fault::Isolate(1)]));
        assert!(parts(1, &[Fault::Kill(2)]) && parts(2, &[Fault::Kill(2), Fault::Restart(4)]));
        assert!(!parts(1, &[Fault::Part(4, 5), Fault::OneWay(0, 2), Fault::Kill(1)]));
        assert!(parts(2, &[Fault::Part(2, 4)]) && parts(2, &[Fault::OneWay(7, 5)]) && parts(2, &[Fault::Isolate(6)]));
        assert!(parts(2, &[Fault::LoseDisk(2)]));
    }

    #[test]
    fn plans_can_be_carried_out() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let planned = plan(&mut Random(seed), &SHAPE, LENGTH, seed % 2 == 0);
            assert!(!planned.is_empty());
            let losses = planned.iter().filter(|p| matches!(p.fault, Fault::LoseDisk(_))).count();
            assert_eq!(losses, usize::from(seed % 2 == 0));
            for (i, p) in planned.iter().enumerate() {
                kinds.insert(p.fault.kind());
                assert!(p.from < p.until && p.until <= LENGTH, "{p:?}");
                if let Fault::Part(a, b) | Fault::OneWay(a, b) = p.fault {
                    assert!(a != b && a.max(b) <= SHAPE.mount());
                }
                for q in &planned[..i] {
                    let apart = q.until + APART < p.from || p.until + APART < q.from;
                    assert!(apart || !p.fault.excludes(q.fault), "{p:?} {q:?}");
                }
            }
        }
        assert_eq!(kinds.len(), 9, "{kinds:?}");
    }

    #[test]
    fn what_excludes_what() {
        assert!(Fault::Kill(3).excludes(Fault::Pause(3)) && !Fault::Kill(3).excludes(Fault::Pause(4)));
        assert!(Fault::Part(3, 4).excludes(Fault::OneWay(4, 3)) && !Fault::Part(3, 4).excludes(Fault::Part(3, 5)));
        assert!(Fault::FillDisk(3).excludes(Fault::LoseDisk(3)) && !Fault::FillDisk(3).excludes(Fault::Kill(3)));
        assert!(Fault::StepClock(3, 1).excludes(Fault::StepClock(3, -90)));
        assert!(!Fault::Isolate(3).excludes(Fault::Part(3, 4)), "a pulled cable and a cut do not meet");
    }
}
