//! The collector: deletes from the cluster what nothing refers to any more.
//!
//! The index hands out a file ID only when its last reference is gone on stable storage; the collector leaves alone what
//! is still being read, and tries again later what could not be deleted.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use fdfs_index::GarbageId;
use parking_lot::Mutex;

use super::Core;
use super::worker::{Control, Worker};

/// Deletions under way at a time.
const BATCH: usize = 32;
/// Pause after a failure; doubled up to [`MAX_PAUSE`] while it lasts.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Wakes the collector.
#[derive(Default)]
pub struct Collector {
    control: Mutex<Option<Arc<Control>>>,
}

impl Collector {
    fn wake(&self) {
        if let Some(control) = &*self.control.lock() {
            control.wake();
        }
    }
}

/// Starts the worker.
pub(crate) fn start(core: &Arc<Core>) -> Worker {
    let theirs = core.clone();
    let worker = Worker::start("fdfs-collect", move |control| {
        *theirs.collector.control.lock() = Some(control.clone());
        run(&theirs, &control);
        *theirs.collector.control.lock() = None;
    });
    let collector = core.collector.clone();
    core.index.garbage_notify(Box::new(move || collector.wake()));
    worker
}

fn run(core: &Core, control: &Control) {
    let mut pause = PAUSE;
    while !control.stopping() {
        let most = match collect(core, control) {
            Round::Idle => None,
            Round::Progress => {
                pause = PAUSE;
                continue;
            }
            Round::Blocked => {
                let now = pause;
                pause = (pause * 2).min(MAX_PAUSE);
                Some(now)
            }
        };
        if !control.wait(most) {
            return;
        }
    }
}

enum Round {
    /// There is no garbage.
    Idle,
    /// Some was deleted.
    Progress,
    /// What there is cannot be deleted now.
    Blocked,
}

fn collect(core: &Core, control: &Control) -> Round {
    let batch = match core.index.garbage(BATCH) {
        Ok(batch) => batch,
        Err(error) => {
            control.count_failed(format!("the index does not tell what to delete: {error}"));
            return Round::Blocked;
        }
    };
    if batch.is_empty() {
        return Round::Idle;
    }
    let (send, receive) = mpsc::channel();
    let (in_use, free): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(_, file_id)| core.pins.holds(file_id));
    for (id, file_id) in free {
        let send = send.clone();
        let name = file_id.clone();
        core.store.remove(
            &file_id,
            Box::new(move |result| {
                // The receiver waits for all senders.
                let _ = send.send((id, name, result));
            }),
        );
    }
    drop(send);
    let mut failed: Vec<GarbageId> = in_use.into_iter().map(|(id, _)| id).collect();
    let mut deleted = Vec::new();
    for (id, file_id, result) in receive {
        match result {
            Ok(()) => deleted.push(id),
            Err(error) => {
                control.count_failed(format!("{file_id} is not deleted yet: {error}"));
                failed.push(id);
            }
        }
    }
    control.count_done(deleted.len());
    core.index.garbage_failed(&failed);
    if let Err(error) = core.index.garbage_done(&deleted) {
        control.count_failed(format!("what was deleted is not noted: {error}"));
        return Round::Blocked;
    }
    if deleted.is_empty() { Round::Blocked } else { Round::Progress }
}
