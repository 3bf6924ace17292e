//! How long to wait for a peer that moves slowly.
//!
//! The network timeout bounds each wait for the peer. Were it started anew at every byte, a peer
//! that sends one byte per timeout could hold a caller for years; were it a bound on the whole
//! transfer, no large file would ever pass. So patience is spent while waiting, and renewed only by
//! [`PROGRESS`] bytes. Time in which nobody waits (the caller is busy) costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The bytes that must move before the network timeout starts anew.
const PROGRESS: u64 = 16 * 1024;

/// How much longer than asked for it may take to notice that nothing moves: one part in this many.
const NOTICE: u32 = 4;

/// Shows those who wait beside a transfer that it moves. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often something has moved.
    pub(crate) fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns when nothing has moved for `time`.
    pub(crate) async fn quiet(&self, time: Duration) {
        let (mut seen, mut quiet) = (self.beats(), 0);
        while quiet < NOTICE {
            tokio::time::sleep(time / NOTICE).await;
            let now = self.beats();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

/// What is left of the network timeout in one transfer.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    full: Duration,
    left: Duration,
    moved: u64,
    has_moved: bool,
    pulse: Option<Pulse>,
}

impl Patience {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { full: timeout, left: timeout, moved: 0, has_moved: false, pulse: None }
    }

    /// Each move is shown with `pulse`.
    pub(crate) fn shown(self, pulse: Option<&Pulse>) -> Self {
        Self { pulse: pulse.cloned(), ..self }
    }

    /// How long the next wait may last.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// The configured timeout, for messages.
    pub(crate) fn full(&self) -> Duration {
        self.full
    }

    /// Whether anything has moved at all.
    pub(crate) fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// A wait has ended: it took `waited` and moved `bytes`.
    pub(crate) fn spend(&mut self, waited: Duration, bytes: u64) {
        self.left = self.left.saturating_sub(waited);
        self.moved = self.moved.saturating_add(bytes);
        self.has_moved |= bytes > 0;
        if bytes > 0
            && let Some(pulse) = &self.pulse
        {
            pulse.beat();
        }
        if self.moved >= PROGRESS {
            self.renew();
        }
    }

    /// A step is complete (a whole request was sent): the next one starts with full patience.
    pub(crate) fn renew(&mut self) {
        self.left = self.full;
        self.moved = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_dripping_peer_uses_it_up() {
        let mut patience = Patience::new(10 * SECOND);
        for _ in 0..9 {
            patience.spend(SECOND, 1);
        }
        assert_eq!(patience.left(), SECOND);
        patience.spend(5 * SECOND, 1);
        assert_eq!(patience.left(), Duration::ZERO);
        assert_eq!(patience.full(), 10 * SECOND);
    }

    #[test]
    fn real_progress_renews_it() {
        let mut patience = Patience::new(10 * SECOND);
        patience.spend(SECOND, 0);
        patience.renew();
        assert!(!patience.has_moved());
        patience.spend(9 * SECOND, PROGRESS - 1);
        assert_eq!(patience.left(), SECOND);
        patience.spend(Duration::ZERO, 1);
        assert_eq!(patience.left(), 10 * SECOND);
        assert!(patience.has_moved(), "also after it was renewed");
    }
}
