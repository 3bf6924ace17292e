//! How long to wait for a peer that moves slowly.
//!
//! The network timeout bounds each wait for the peer. Were it started anew at every byte, a peer
//! that sends one byte per timeout could hold a caller for years; were it a bound on the whole
//! transfer, no large file would ever pass. So patience is spent while waiting, and renewed only by
//! [`PROGRESS`] bytes. Time in which nobody waits (the caller is busy) costs nothing.

use std::time::Duration;

/// The bytes that must move before the network timeout starts anew.
const PROGRESS: u64 = 16 * 1024;

/// What is left of the network timeout in one transfer.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    full: Duration,
    left: Duration,
    moved: u64,
}

impl Patience {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { full: timeout, left: timeout, moved: 0 }
    }

    /// How long the next wait may last.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// The configured timeout, for messages.
    pub(crate) fn full(&self) -> Duration {
        self.full
    }

    /// A wait has ended: it took `waited` and moved `bytes`.
    pub(crate) fn spend(&mut self, waited: Duration, bytes: u64) {
        self.left = self.left.saturating_sub(waited);
        self.moved = self.moved.saturating_add(bytes);
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
        patience.spend(9 * SECOND, PROGRESS - 1);
        assert_eq!(patience.left(), SECOND);
        patience.spend(Duration::ZERO, 1);
        assert_eq!(patience.left(), 10 * SECOND);
    }
}
