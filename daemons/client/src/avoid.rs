//! Which servers failed lately, and when to look at them again.
//!
//! Pure state: the caller says what happened and what time it is. A server that failed is put at the
//! end of the order for a while; the while doubles with each further failure. When it is over, a probe
//! is due: a small request of its own, so that no operation waits for a server that is still down. Until
//! it is answered, the server stays at the end.
//!
//! A probe that was answered brings the server back on trial: should it fail the next operation, the while goes on from
//! where it was. So a server that answers probes and nothing else costs less and less.

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
    /// When the next probe is due; `None`: the last one was answered.
    probe: Option<Instant>,
}

impl Penalty {
    fn step(failures: u32) -> Duration {
        FIRST.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(LONGEST)
    }

    fn next(self, now: Instant) -> Self {
        let failures = self.failures.saturating_add(1);
        Self { failures, probe: Some(now + Self::step(failures)) }
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

    /// False if the server failed lately and nothing was heard of it since.
    pub(crate) fn usable(&self, server: K) -> bool {
        self.penalties.get(&server).is_none_or(|penalty| penalty.probe.is_none())
    }

    /// Whether the caller is to probe the server now. Says so to one caller only, until the probe ends or another one is
    /// due.
    pub(crate) fn probe_due(&mut self, server: K, now: Instant) -> bool {
        let Some(penalty) = self.penalties.get_mut(&server) else { return false };
        let due = penalty.probe.is_some_and(|at| at <= now);
        if due {
            penalty.probe = Some(now + Penalty::step(penalty.failures));
        }
        due
    }

    /// The server could not be reached, did not answer, or broke off. Requests that fail together count once.
    pub(crate) fn failed(&mut self, server: K, now: Instant) {
        let penalty = self.penalties.entry(server).or_insert(Penalty { failures: 0, probe: None });
        if penalty.probe.is_none_or(|at| at <= now) {
            *penalty = penalty.next(now);
        }
    }

    /// The server did not answer a probe.
    pub(crate) fn failed_probe(&mut self, server: K, now: Instant) {
        if let Some(penalty) = self.penalties.get_mut(&server) {
            *penalty = penalty.next(now);
        }
    }

    /// The server answered a probe.
    pub(crate) fn answered_probe(&mut self, server: K) {
        if let Some(penalty) = self.penalties.get_mut(&server) {
            penalty.probe = None;
        }
    }

    /// The server answered a request (whatever its answer was), and the answer has come to its end.
    pub(crate) fn answered(&mut self, server: K) {
        if !self.penalties.is_empty() {
            self.penalties.remove(&server);
        }
    }

    /// How often in a row the server failed.
    #[cfg(test)]
    pub(crate) fn failures(&self, server: K) -> u32 {
        self.penalties.get(&server).map_or(0, |penalty| penalty.failures)
    }

    /// All `candidates`, in the order to try them: those that work first, in rotation from `start`,
    /// then those being avoided, the one that may come back soonest first. Nobody is left out: when
    /// all have failed, trying is better than giving up.
    pub(crate) fn order(&self, candidates: &[K], start: usize) -> Vec<K> {
        let mut order = Vec::with_capacity(candidates.len());
        let mut avoided = Vec::new();
        for i in 0..candidates.len() {
            let server = candidates[start.wrapping_add(i) % candidates.len()];
            match self.penalties.get(&server).and_then(|penalty| penalty.probe) {
                Some(probe) => avoided.push((probe, server)),
                None => order.push(server),
            }
        }
        avoided.sort_by_key(|&(probe, _)| probe);
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
        assert_eq!(avoidance.order(&[1, 2, 3], 1), [2, 3, 1]);
        assert_eq!(avoidance.order(&[1, 2, 3], usize::MAX).len(), 3);
        assert!(avoidance.order(&[] as &[u8], 5).is_empty());
    }

    #[test]
    fn a_failed_server_goes_last_until_a_probe_is_answered() {
        let mut avoidance = Avoidance::new();
        let t0 = Instant::now();
        avoidance.failed('a', t0);
        assert!(!avoidance.usable('a'));
        assert_eq!(avoidance.order(&['a', 'b'], 0), ['b', 'a']);
        assert!(!avoidance.probe_due('a', t0));

        let t1 = t0 + FIRST;
        assert!(avoidance.probe_due('a', t1));
        assert!(!avoidance.probe_due('a', t1), "a second caller does not probe");
        assert!(!avoidance.usable('a'), "nor does anybody use it meanwhile");

        avoidance.answered_probe('a');
        assert!(avoidance.usable('a'));
        assert_eq!(avoidance.order(&['a', 'b'], 0), ['a', 'b']);
        assert!(!avoidance.probe_due('a', t1 + LONGEST));
    }

    #[test]
    fn who_answers_probes_alone_is_avoided_for_longer_each_time() {
        let mut avoidance = Avoidance::new();
        let mut now = Instant::now();
        for step in [FIRST, 2 * FIRST, 4 * FIRST] {
            avoidance.failed('a', now);
            assert!(!avoidance.probe_due('a', now + step - Duration::from_millis(1)));
            now += step;
            assert!(avoidance.probe_due('a', now));
            avoidance.answered_probe('a');
        }
        avoidance.answered('a');
        avoidance.failed('a', now);
        assert!(avoidance.probe_due('a', now + FIRST), "a real answer makes it as good as new");
    }

    #[test]
    fn the_penalty_doubles_up_to_its_limit() {
        let mut avoidance = Avoidance::new();
        let t0 = Instant::now();
        for _ in 0..10 {
            avoidance.failed('a', t0);
        }
        assert!(avoidance.probe_due('a', t0 + FIRST), "failures of the same moment count once");
        avoidance.failed_probe('a', t0);
        assert!(!avoidance.probe_due('a', t0 + FIRST));
        assert!(avoidance.probe_due('a', t0 + 2 * FIRST));
        for _ in 0..100 {
            avoidance.failed_probe('a', t0);
        }
        assert!(!avoidance.probe_due('a', t0 + LONGEST - Duration::from_millis(1)));
        assert!(avoidance.probe_due('a', t0 + LONGEST));
    }

    #[test]
    fn among_the_avoided_the_soonest_comes_first() {
        let mut avoidance = Avoidance::new();
        let t0 = Instant::now();
        avoidance.failed('a', t0);
        avoidance.failed_probe('a', t0);
        avoidance.failed('b', t0);
        assert_eq!(avoidance.order(&['a', 'b'], 0), ['b', 'a']);
    }
}
