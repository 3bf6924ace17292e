//! Which lane takes the next push, and when to look again. Pure.
//!
//! The first lane is the one on which the peer knows who pushes; what comes over it tells the peer how far it has come,
//! and trackers send readers by that. So the first lane carries a record only when everything before that is finished,
//! and now and then the others pause so that this comes true.

use std::time::Duration;

use tokio::time::Instant;

/// How often the other lanes pause for the first, and for how long at most: one of them may carry a large file.
const EVERY: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_millis(50);

/// What can be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The lane of this number can take a push.
    Lane(usize),
    /// Nothing before this time, which is to come; or before a push ends.
    Not(Instant),
    /// Nothing before a push ends.
    Full,
}

/// The lanes that carry something, and the pauses.
#[derive(Debug)]
pub struct Turns {
    /// By number; there is at least one.
    busy: Vec<bool>,
    /// Between the beginnings of two pushes.
    interval: Duration,
    first_used: Instant,
    resume_at: Instant,
}

impl Turns {
    /// All of `lanes` are idle.
    pub fn new(lanes: usize, interval: Duration, now: Instant) -> Turns {
        Turns { busy: vec![false; lanes.max(1)], interval, first_used: now, resume_at: now }
    }

    /// Whether a lane carries something.
    pub fn is_busy(&self, number: usize) -> bool {
        self.busy.get(number).is_some_and(|busy| *busy)
    }

    /// The turn at `now`; `finished`: no record is on its way.
    pub fn next(&mut self, finished: bool, now: Instant) -> Turn {
        if self.resume_at > now {
            return Turn::Not(self.resume_at);
        }
        let first = !self.is_busy(0);
        if first && (finished || self.busy.len() == 1) {
            return Turn::Lane(0);
        }
        // Who waits for the first lane while that carries something waits for nothing.
        if first && now >= self.first_used + EVERY {
            let end = self.first_used + EVERY + WAIT;
            if now < end {
                return Turn::Not(end);
            }
            // Something takes long; the others go on meanwhile.
            self.first_used = now;
        }
        (1..self.busy.len()).find(|number| !self.busy[*number]).map_or(Turn::Full, Turn::Lane)
    }

    /// A lane takes a push.
    pub fn begin(&mut self, number: usize, now: Instant) {
        self.set(number, true);
        if number == 0 {
            self.first_used = now;
        }
        self.resume_at = now + self.interval;
    }

    /// A lane is idle again.
    pub fn end(&mut self, number: usize) {
        self.set(number, false);
    }

    fn set(&mut self, number: usize, busy: bool) {
        if let Some(lane) = self.busy.get_mut(number) {
            *lane = busy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_lane_comes_when_all_is_finished_and_others_pause_for_that() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut turns = Turns::new(3, Duration::ZERO, start);
        assert_eq!(turns.next(true, at(0)), Turn::Lane(0));
        turns.begin(0, at(0));
        turns.end(0);
        assert_eq!(turns.next(false, at(999)), Turn::Lane(1));
        turns.begin(1, at(999));
        assert_eq!(turns.next(false, at(1000)), Turn::Not(at(1050)));
        assert_eq!(turns.next(true, at(1001)), Turn::Lane(0));
        assert_eq!(turns.next(false, at(1050)), Turn::Lane(2));
        turns.begin(2, at(1050));
        assert_eq!(turns.next(false, at(1051)), Turn::Full);
        assert_eq!(turns.next(false, at(2050)), Turn::Not(at(2100)));
    }

    #[test]
    fn nobody_pauses_for_a_first_lane_that_carries_something() {
        let start = Instant::now();
        let mut turns = Turns::new(2, Duration::ZERO, start);
        turns.begin(0, start);
        for ms in 0..3000 {
            let now = start + Duration::from_millis(ms);
            assert_eq!([turns.next(true, now), turns.next(false, now)], [Turn::Lane(1); 2], "{ms}");
        }
    }

    #[test]
    fn one_lane_takes_everything_with_the_interval_between() {
        let start = Instant::now();
        let interval = Duration::from_secs(5);
        let mut turns = Turns::new(0, interval, start);
        assert_eq!(turns.next(false, start), Turn::Lane(0));
        turns.begin(0, start);
        assert_eq!(turns.next(false, start + interval / 2), Turn::Not(start + interval));
        assert_eq!(turns.next(false, start + interval), Turn::Full);
        turns.end(0);
        assert_eq!(turns.next(false, start + interval), Turn::Lane(0));
    }

    proptest! {
        /// A time in the past would make who waits for it spin; a lane that is taken twice would lose a connection.
        #[test]
        fn times_are_to_come_and_lanes_are_idle(
            lanes in 0usize..4,
            interval in 0u64..2000,
            steps in proptest::collection::vec((0u64..700, any::<bool>(), any::<bool>(), 0usize..4), 1..60),
        ) {
            let mut now = Instant::now();
            let mut turns = Turns::new(lanes, Duration::from_millis(interval), now);
            for (ms, finished, ends, number) in steps {
                now += Duration::from_millis(ms);
                if ends {
                    turns.end(number);
                }
                match turns.next(finished, now) {
                    Turn::Lane(number) => {
                        prop_assert!(!turns.is_busy(number));
                        turns.begin(number, now);
                    }
                    Turn::Not(until) => prop_assert!(until > now),
                    Turn::Full => prop_assert!((0..lanes.max(1)).any(|number| turns.is_busy(number))),
                }
            }
        }
    }
}
