//! Moves the log into the database beside the writer, so that no commit waits for it.
//!
//! The log may grow to [`RESTART_PAGES`] under a load that never pauses; then the writer waits once for the rest of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

/// Pages in the log that make a checkpoint worth its two syncs: 16 MiB.
const CHECKPOINT_PAGES: u32 = 4096;
/// Pages in the log that the writer does not let it exceed by much: 64 MiB.
const RESTART_PAGES: u32 = 16_384;

#[derive(Debug)]
struct State {
    /// Pages in the log after the last commit.
    pages: u32,
    /// Pages in the log at the last checkpoint.
    seen: u32,
    /// Pages from which the writer is asked to wait.
    limit: u32,
    stopping: bool,
}

/// What the writer tells the checkpointer, and the other way round.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    state: Mutex<State>,
    wake: Condvar,
    too_long: AtomicBool,
}

impl Checkpointer {
    pub fn new() -> Checkpointer {
        let state = State { pages: 0, seen: 0, limit: RESTART_PAGES, stopping: false };
        Checkpointer { state: Mutex::new(state), wake: Condvar::new(), too_long: AtomicBool::new(false) }
    }

    /// Called after each commit with the number of pages in the log.
    pub fn written(&self, pages: u32) {
        let mut state = self.state.lock();
        if pages < state.pages {
            // The log has started anew.
            state.seen = 0;
        }
        state.pages = pages;
        if pages >= state.limit {
            self.too_long.store(true, Ordering::Relaxed);
        }
        let due = state.due();
        drop(state);
        if due {
            self.wake.notify_one();
        }
    }

    pub fn log_is_too_long(&self) -> bool {
        self.too_long.load(Ordering::Relaxed)
    }

    /// The writer has waited for the whole log to be in the database, or a foreign reader has kept it from that (`busy`);
    /// then it tries again when the log has doubled.
    pub fn log_restarted(&self, busy: bool) {
        let mut state = self.state.lock();
        state.limit = if busy { state.pages.saturating_mul(2) } else { RESTART_PAGES };
        self.too_long.store(false, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_one();
    }

    /// The body of the checkpointer's thread.
    pub fn run(self: Arc<Self>, conn: Connection) {
        loop {
            let mut state = self.state.lock();
            while !state.stopping && !state.due() {
                self.wake.wait(&mut state);
            }
            if state.stopping {
                return;
            }
            state.seen = state.pages;
            drop(state);
            if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
                tracing::warn!(%error, "checkpoint of the index failed; its log keeps growing");
            }
        }
    }
}

impl State {
    fn due(&self) -> bool {
        self.pages.saturating_sub(self.seen) >= CHECKPOINT_PAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_restarted_when_long_and_later_while_a_reader_is_in_the_way() {
        let checkpointer = Checkpointer::new();
        checkpointer.written(RESTART_PAGES - 1);
        assert!(!checkpointer.log_is_too_long());
        checkpointer.written(RESTART_PAGES);
        assert!(checkpointer.log_is_too_long());
        checkpointer.log_restarted(true);
        checkpointer.written(RESTART_PAGES + 1);
        assert!(!checkpointer.log_is_too_long());
        checkpointer.written(2 * RESTART_PAGES);
        assert!(checkpointer.log_is_too_long());
        checkpointer.log_restarted(false);
        checkpointer.written(3);
        assert!(!checkpointer.log_is_too_long());
        checkpointer.written(RESTART_PAGES);
        assert!(checkpointer.log_is_too_long());
    }
}
