//! The records that are on their way to one peer. Pure.
//!
//! Records are admitted in the order of the binlog and may be finished in any order; those that share a name are never
//! on their way at the same time. The position of the peer is the end of the last record before which nothing is
//! unfinished: whatever happens, going on from there loses nothing.

use std::collections::VecDeque;

use fdfs_host::planted::{self, Bug};
use fdfs_protocol::RemoteName;

use crate::disk::binlog::Place;

/// Records admitted beyond the first unfinished one: what is sent again after a break, and what memory is for.
const MAX_AHEAD: usize = 1024;

/// Why a record cannot be admitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// One that shares a name is on its way.
    SameName,
    /// The first unfinished record is too far behind.
    Full,
}

/// A record that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// How far a peer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Everything before it is finished.
    pub place: Place,
    /// Records before it.
    pub scanned: u64,
    /// Those of them that were pushed.
    pub pushed: u64,
}

#[derive(Debug)]
struct Flight {
    end: Place,
    /// Records that end here, those passed over included.
    records: u64,
    done: bool,
}

/// The records on their way, oldest first.
#[derive(Debug)]
pub struct Window {
    flights: VecDeque<Flight>,
    /// Ticket of the first flight.
    first: u64,
    active: Vec<(Ticket, [Option<RemoteName>; 2])>,
    progress: Progress,
}

impl Window {
    /// Nothing is on its way.
    pub fn new(progress: Progress) -> Window {
        Window { flights: VecDeque::new(), first: 0, active: Vec::new(), progress }
    }

    /// How far the peer has come.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Nothing is unfinished.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Passes over a record that is not pushed.
    pub fn skip(&mut self, end: Place) {
        match self.flights.back_mut() {
            // However many there are, they cost nothing.
            Some(last) => {
                last.end = end;
                last.records += 1;
            }
            None => {
                self.progress.place = end;
                self.progress.scanned += 1;
            }
        }
    }

    /// Whether something about one of these names is on its way.
    pub fn has(&self, names: &[Option<RemoteName>; 2]) -> bool {
        let same = |n: &RemoteName, o: &RemoteName| described(n) == described(o);
        let shares = |other: &[Option<RemoteName>; 2]| {
            names.iter().flatten().any(|n| other.iter().flatten().any(|o| same(n, o)))
        };
        self.active.iter().any(|(_, other)| shares(other))
    }

    /// Takes a record that is pushed from now on.
    ///
    /// # Errors
    /// It has to wait.
    pub fn admit(&mut self, names: [Option<RemoteName>; 2], end: Place) -> Result<Ticket, Busy> {
        if self.flights.len() >= MAX_AHEAD {
            return Err(Busy::Full);
        }
        if self.has(&names) {
            return Err(Busy::SameName);
        }
        let ticket = Ticket(self.first + self.flights.len() as u64);
        self.flights.push_back(Flight { end, records: 1, done: false });
        self.active.push((ticket, names));
        if planted::is(Bug::EarlyMark) {
            self.progress.place = end;
        }
        Ok(ticket)
    }

    /// A record is finished.
    pub fn done(&mut self, ticket: Ticket) {
        self.active.retain(|(active, _)| *active != ticket);
        let index = ticket.0.checked_sub(self.first).and_then(|i| usize::try_from(i).ok());
        if let Some(flight) = index.and_then(|i| self.flights.get_mut(i)) {
            flight.done = true;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.done) {
            self.first += 1;
            self.progress.place = flight.end;
            self.progress.scanned += flight.records;
            self.progress.pushed += 1;
        }
    }
}

/// Metadata goes after what happens to its file, whose end would be its own.
fn described(name: &RemoteName) -> &[u8] {
    name.as_bytes().strip_suffix(b"-m").unwrap_or(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: u64) -> Place {
        Place { file: 0, offset }
    }

    fn window() -> Window {
        Window::new(Progress { place: at(0), scanned: 10, pushed: 5 })
    }

    fn names(n: u8, other: Option<u8>) -> [Option<RemoteName>; 2] {
        let name = |n: u8| format!("M00/00/00/file{n:06}").parse().unwrap();
        [Some(name(n)), other.map(name)]
    }

    #[test]
    fn the_position_waits_for_the_first_and_names_for_each_other() {
        let mut w = window();
        let a = w.admit(names(1, None), at(1)).unwrap();
        w.skip(at(2));
        assert_eq!(w.admit(names(1, None), at(3)), Err(Busy::SameName));
        assert_eq!(w.admit(names(2, Some(1)), at(3)), Err(Busy::SameName));
        let metadata = "M00/00/00/file000001-m".parse().unwrap();
        assert_eq!(w.admit([Some(metadata), None], at(3)), Err(Busy::SameName));
        let b = w.admit(names(2, Some(3)), at(3)).unwrap();
        assert_eq!(w.admit(names(3, None), at(4)), Err(Busy::SameName));
        w.done(b);
        assert_eq!(w.progress(), Progress { place: at(0), scanned: 10, pushed: 5 });
        w.done(a);
        assert!(w.is_empty());
        assert_eq!(w.progress(), Progress { place: at(3), scanned: 13, pushed: 7 });
    }

    #[test]
    fn a_slow_record_holds_up_a_bounded_number() {
        let mut w = window();
        let slow = w.admit(names(1, None), at(1)).unwrap();
        for i in 2..=MAX_AHEAD as u64 {
            let t = w.admit(names(2, None), at(i)).unwrap();
            w.done(t);
        }
        assert_eq!(w.admit(names(2, None), at(5000)), Err(Busy::Full));
        w.done(slow);
        assert_eq!(w.progress().place, at(MAX_AHEAD as u64));
    }

    proptest! {
        /// Whatever the order of the ends: nothing before the position is unfinished, no name is twice on its way, and
        /// in the end everything is before the position.
        #[test]
        fn nothing_is_passed_over(
            records in proptest::collection::vec((0u8..5, proptest::option::of(0u8..5), any::<bool>()), 1..60),
            picks in proptest::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut w = window();
            let mut picks = picks.into_iter().cycle();
            let mut flying: Vec<(Ticket, u64, [Option<RemoteName>; 2])> = Vec::new();
            for (i, (n, other, wanted)) in records.iter().enumerate() {
                let end = i as u64 + 1;
                if !wanted {
                    w.skip(at(end));
                    continue;
                }
                let names = names(*n, *other);
                let ticket = loop {
                    match w.admit(names, at(end)) {
                        Ok(ticket) => break ticket,
                        Err(busy) => {
                            prop_assert_eq!(busy, Busy::SameName);
                            let (done, ..) = flying.swap_remove(picks.next().unwrap().index(flying.len()));
                            w.done(done);
                        }
                    }
                };
                let used: Vec<_> = flying.iter().flat_map(|f| f.2.iter().flatten().copied()).collect();
                prop_assert!(names.iter().flatten().all(|n| !used.contains(n)));
                flying.push((ticket, end, names));
                let first = flying.iter().map(|f| f.1).min().unwrap();
                prop_assert!(w.progress().place.offset < first);
            }
            for (ticket, ..) in flying {
                w.done(ticket);
            }
            prop_assert!(w.is_empty());
            prop_assert_eq!(w.progress().place, at(records.len() as u64));
            prop_assert_eq!(w.progress().scanned, 10 + records.len() as u64);
        }
    }
}
