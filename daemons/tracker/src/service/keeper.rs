//! The keeper: one thread that saves what changed and does what is due.
//!
//! Saves are merged: whatever was asked for while one was running is done by the next, together. The state is rendered
//! under its lock and written without it. A save that fails is tried again until it succeeds; whoever waits for it is
//! told at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fdfs_host::thread::{self, Thread};
use fdfs_protocol::datafile::TrackerRunFile;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::{Shared, moment, now};
use crate::files::{self, DataDir};
use crate::state::Unsaved;

/// How often .tracker_status is written; FastDFS trackers count in these steps.
const STATUS_EVERY: Duration = Duration::from_secs(300);
/// When a failed save is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

type Waiter = oneshot::Sender<io::Result<()>>;

/// What the keeper is asked to do.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    unsaved: Unsaved,
    /// The state is another one altogether: no file goes on where it was.
    replaced: bool,
    /// When this tracker was last alive should be written now.
    alive: bool,
    waiters: Vec<Waiter>,
    stop: bool,
}

impl Wishes {
    /// Asks for files to be saved some time soon.
    pub(super) fn add(&self, unsaved: Unsaved) {
        if unsaved.any() {
            let mut pending = self.pending.lock();
            pending.unsaved = pending.unsaved.with(unsaved);
            self.changed.notify_one();
        }
    }

    /// Asks for files to be saved, and to be told when they are.
    pub(super) fn add_and_wait(&self, unsaved: Unsaved) -> oneshot::Receiver<io::Result<()>> {
        let (done, wait) = oneshot::channel();
        let mut pending = self.pending.lock();
        pending.unsaved = pending.unsaved.with(unsaved);
        pending.waiters.push(done);
        self.changed.notify_one();
        wait
    }

    /// Asks for .tracker_status to be written.
    pub(super) fn note_alive(&self) {
        self.pending.lock().alive = true;
        self.changed.notify_one();
    }

    /// Asks for all files to be replaced, since the state came from elsewhere, and to be told when they are.
    pub(super) fn replace_and_wait(&self) -> oneshot::Receiver<io::Result<()>> {
        self.pending.lock().replaced = true;
        self.add_and_wait(Unsaved::ALL)
    }
}

/// The running thread. Dropping it saves everything and ends it.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<Thread>,
}

impl Keeper {
    /// Starts it. The first `changelog_saved` bytes of the changelog are in its file already.
    pub(super) fn start(shared: Arc<Shared>, data: DataDir, changelog_saved: u64) -> io::Result<Keeper> {
        let worker = Worker { shared: shared.clone(), data, changelog_saved, failing: false };
        let thread = thread::spawn("tracker-keeper", worker.run())?;
        Ok(Keeper { shared, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.wishes.pending.lock().stop = true;
        self.shared.wishes.changed.notify_one();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            error!("the keeper thread had panicked: the data files may be behind");
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    data: DataDir,
    changelog_saved: u64,
    /// Whether the last save failed, so that an ongoing failure is logged once.
    failing: bool,
}

impl Worker {
    async fn run(mut self) {
        let shared = self.shared.clone();
        let check_every = {
            let cluster = shared.cluster.lock();
            Duration::from_secs(cluster.settings().check_active_interval.max(1) as u64)
        };
        self.save_status();
        let start = Instant::now();
        let (mut next_check, mut next_status) = (start + check_every, start + STATUS_EVERY);
        let mut retry: Option<Instant> = None;
        loop {
            let due = [Some(next_check), Some(next_status), retry].into_iter().flatten().min().unwrap_or(next_check);
            let Pending { unsaved, replaced, alive, waiters, stop } = self.wait(&shared, due, retry.is_some()).await;
            if stop {
                let result = self.save(Unsaved::ALL, replaced);
                self.save_status();
                report(waiters, result);
                return;
            }
            if unsaved.any() || !waiters.is_empty() {
                let result = self.save(unsaved, replaced);
                retry = result.is_err().then(|| Instant::now() + RETRY_AFTER);
                if result.is_err() {
                    let mut pending = shared.wishes.pending.lock();
                    pending.unsaved = pending.unsaved.with(unsaved);
                    pending.replaced |= replaced;
                }
                report(waiters, result);
            }
            let at = Instant::now();
            if at >= next_check {
                next_check = at + check_every;
                shared.change(|cluster| {
                    cluster.end_hanging_copy(moment());
                    cluster.check_active(moment())
                });
            }
            if alive || at >= next_status {
                next_status = at + STATUS_EVERY;
                self.save_status();
            }
        }
    }

    /// Waits for something to do, until `due` at most. While a save has to be retried, only its time or a waiter (who
    /// must get an answer now) starts the next one.
    async fn wait(&self, shared: &Shared, due: Instant, retrying: bool) -> Pending {
        let wanted = || {
            let pending = shared.wishes.pending.lock();
            let unsaved = pending.unsaved.any() && !retrying;
            pending.stop || pending.alive || !pending.waiters.is_empty() || unsaved
        };
        // What is asked for between the look and the wait ends the wait at once.
        while !wanted() && timeout_at(due, shared.wishes.changed.notified()).await.is_ok() {}
        let mut pending = shared.wishes.pending.lock();
        let stop = pending.stop;
        Pending { stop, ..std::mem::take(&mut pending) }
    }

    fn save(&mut self, unsaved: Unsaved, replaced: bool) -> io::Result<()> {
        let result = if replaced { self.replace() } else { self.write(unsaved) };
        match &result {
            Err(e) if !self.failing => {
                error!("cannot save the state: {e}; the tracker goes on and tries again every {RETRY_AFTER:?}");
            }
            Ok(()) if self.failing => info!("the state is saved again"),
            _ => {}
        }
        self.failing = result.is_err();
        result
    }

    fn write(&mut self, unsaved: Unsaved) -> io::Result<()> {
        let shared = self.shared.clone();
        let [groups, storages, synced, changelog] = files::render(&shared.cluster.lock(), unsaved);
        if let Some(text) = changelog {
            self.data.extend_changelog(self.changelog_saved, &text)?;
            self.changelog_saved = text.len() as u64;
        }
        // Groups before their members: after a crash in between a group without members does no harm.
        for (name, text) in [(files::GROUPS, groups), (files::STORAGES, storages), (files::SYNCED, synced)] {
            if let Some(text) = text {
                self.data.replace(name, &text)?;
            }
        }
        Ok(())
    }

    fn replace(&mut self) -> io::Result<()> {
        let texts = files::render_all(&self.shared.cluster.lock());
        self.data.replace_all(&texts)?;
        self.changelog_saved = texts[3].len() as u64;
        Ok(())
    }

    fn save_status(&mut self) {
        if self.shared.catch_up.is_stale() {
            return;
        }
        let up_time = self.shared.cluster.lock().trackers.up_time();
        let text = TrackerRunFile { up_time, last_check_time: now() }.to_text();
        if let Err(e) = self.data.replace(files::STATUS, text.as_bytes()) {
            warn!("cannot write when this tracker was last alive: {e}");
        }
    }
}

fn report(waiters: Vec<Waiter>, result: io::Result<()>) {
    for waiter in waiters {
        // A connection that is gone needs no answer.
        let _ = waiter.send(match &result {
            Ok(()) => Ok(()),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        });
    }
}
