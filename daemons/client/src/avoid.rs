//! Which servers failed lately, and when to try them again.
//!
//! Pure state: the caller says what happened and what time it is. A server that failed is put at the
//! end of the order for a while; the while doubles with each further failure. When it is over, one
//! caller probes the server with a real request; the others go on avoiding it until that one reports.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long a server is avoided after its first failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest time a server is avoided without a probe.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Penalty {
    failures: u32,
    until: Instant,
}

impl Penalty {
    fn step(failures: u32) -> Duration {
        FIRST.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(LONGEST)
    }
}

/// The servers that failed lately. Servers that work are not in it.
#[derive(Debug)]
pub(crate) struct Avoidance<K> {
    penalties: HashMap<K, Penalty>,
}

impl<K: Hash + Eq + Copy> Avoidance<K> {
    pub(crate) fn new() -> Self {
        Self { penalties: HashMap::new() }
    }

    /// True if the server did not fail lately, or has been avoided long enough to be probed.
    pub(crate) fn usable(&self, server: K, now: Instant) -> bool {
        self.penalties.get(&server).is_none_or(|penalty| penalty.until <= now)
    }

    /// Says that a request is about to be sent. If that makes it a probe, others avoid the server on.
    pub(crate) fn attempt(&mut self, server: K, now: Instant) {
        if let Some(penalty) = self.penalties.get_mut(&server)
            && penalty.until <= now
        {
            penalty.until = now + Penalty::step(penalty.failures);
        }
    }

    /// The server could not be reached, did not answer, or broke off.
    pub(crate) fn failed(&mut self, server: K, now: Instant) {
        let penalty = self.penalties.entry(server).or_insert(Penalty { failures: 0, until: now });
        penalty.failures = penalty.failures.saturating_add(1);
        penalty.until = now + Penalty::step(penalty.failures);
    }

    /// The server answered (whatever its answer was).
    pub(crate) fn answered(&mut self, server: K) {
        if !self.penalties.is_empty() {
            self.penalties.remove(&server);
        }
    }

    /// All `candidates`, in the order to try them: those that work first, in rotation from `start`,
    /// then those being avoided, the one that may come back soonest first. Nobody is left out: when
    /// all have failed, trying is better than giving up.
    pub(crate) fn order(&self, candidates: &[K], start: usize, now: Instant) -> Vec<K> {
        let mut order = Vec::with_capacity(candidates.len());
        let mut avoided = Vec::new();
        for i in 0..candidates.len() {
            let server = candidates[start.wrapping_add(i) % candidates.len()];
            match self.penalties.get(&server) {
                Some(penalty) if penalty.until > now => avoided.push((penalty.until, server)),
                _ => order.push(server),
            }
        }
        avoided.sort_by_key(|&(until, _)| until);
        order.extend(avoided.into_iter().map(|(_, server)| server));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_starts_where_asked_and_leaves_nobody_out() {
        let avoidance = Avoidance::new();
        let now = Instant::now();
        assert_eq!(avoidance.order(&[1, 2, 3], 1, now), [2, 3, 1]);
        assert_eq!(avoidance.order(&[1, 2, 3], usize::MAX, now).len(), 3);
        assert!(avoidance.order(&[] as &[u8], 5, now).is_empty());
    }

    #[test]
    fn a_failed_server_goes_last_and_comes_back_for_one_probe() {
        let mut avoidance = Avoidance::new();
        let t0 = Instant::now();
        avoidance.failed('a', t0);
        assert!(!avoidance.usable('a', t0));
        assert_eq!(avoidance.order(&['a', 'b'], 0, t0), ['b', 'a']);

        let t1 = t0 + FIRST;
        assert!(avoidance.usable('a', t1));
        assert_eq!(avoidance.order(&['a', 'b'], 0, t1), ['a', 'b']);
        avoidance.attempt('a', t1);
        assert!(!avoidance.usable('a', t1), "a second caller does not probe");

        avoidance.answered('a');
        assert!(avoidance.usable('a', t1));
    }

    #[test]
    fn the_penalty_doubles_up_to_its_limit() {
        let mut avoidance = Avoidance::new();
        let t0 = Instant::now();
        avoidance.failed('a', t0);
        avoidance.failed('a', t0);
        assert!(!avoidance.usable('a', t0 + FIRST));
        assert!(avoidance.usable('a', t0 + 2 * FIRST));
        for _ in 0..100 {
            avoidance.failed('a', t0);
        }
        assert!(avoidance.usable('a', t0 + LONGEST));
        assert!(!avoidance.usable('a', t0 + LONGEST - Duration::from_millis(1)));
    }

    #[test]
    fn among_the_avoided_the_soonest_comes_first() {
        let mut avoidance = Avoidance::new();
        let t0 = Instant::now();
        avoidance.failed('a', t0);
        avoidance.failed('a', t0);
        avoidance.failed('b', t0);
        assert_eq!(avoidance.order(&['a', 'b'], 0, t0), ['b', 'a']);
    }
}
