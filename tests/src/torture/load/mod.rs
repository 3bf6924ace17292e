//! The users: programs with the client library, and programs in a mounted tree.

mod client;
mod mount;

pub use client::ClientLoad;
pub use mount::{MountLoad, check_members};

use std::sync::atomic::{AtomicBool, Ordering};

use super::check::{State, judge};
use super::history::{Change, Data, Event, Outcome};
use crate::tree::Random;

/// Unknown changes of one file in one round: what may have become of it doubles and more with each.
const MOST_UNKNOWN: usize = 3;

/// What its owner knows of a file.
#[derive(Debug, Clone, Default)]
pub struct Known {
    base: State,
    events: Vec<Event>,
}

impl Known {
    /// Whether more may be asked of it in this round.
    fn open(&self) -> bool {
        self.events.iter().filter(|event| event.outcome == Outcome::Unknown).count() < MOST_UNKNOWN
    }

    fn push(&mut self, change: Change, outcome: Outcome) -> &Event {
        self.events.push(Event { change, outcome });
        self.events.last().expect("it was pushed")
    }

    /// Takes what was found as what the file is from now on.
    ///
    /// # Errors
    /// When it cannot be that.
    pub fn settle(&mut self, found: State) -> Result<(), super::check::Violation> {
        let judged = judge(&self.base, &self.events, &found);
        self.base = found;
        self.events.clear();
        judged
    }
}

/// Sizes: mostly some KiB, some larger, a few of MiB, some empty.
fn data(random: &mut Random) -> Data {
    let len = match random.below(100) {
        0..2 => 0,
        2..80 => 1 + random.below(16 << 10),
        80..97 => random.below(256 << 10),
        _ => random.below(5 << 20),
    };
    Data { seed: random.next_u64(), len: len as usize }
}

fn over(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}
