//! The queue of changes and the one thread that commits them.
//!
//! Invariants:
//! - Changes are committed in the order in which they were queued, so what a crash loses is a suffix of them.
//! - `committed` and `synced` never run ahead of the database: a sequence number at or below them is in it.
//! - After the first failure nothing is committed any more, and everybody who waits is told.
//!
//! A group nobody waits for lingers, so that the several steps of creating a file become one transaction. A group with
//! somebody waiting for stable storage is committed with `synchronous=FULL`, which syncs the log, and with it every
//! earlier commit; at least once a second that is done unasked.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::{Connection, TransactionBehavior};

use crate::apply::apply;
use crate::checkpoint::Checkpointer;
use crate::delta::{Delta, Totals, Tx};
use crate::error::{IndexError, Result};
use crate::index::{Callback, Fault, Step};
use crate::schema::BUSY_TIMEOUT;
use crate::types::GarbageId;

/// How long a change waits for company when nobody waits for it.
const LINGER: Duration = Duration::from_millis(100);
/// How long a commit may stay unsynced.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Deltas at which a group does not linger any more.
const GROUP: usize = 8192;
/// Deltas at which those who want to add more have to wait.
const BACKLOG: usize = 8 * GROUP;
/// How long the writer waits for readers when the log should start anew.
const RESTART_TIMEOUT: Duration = Duration::from_millis(100);

/// What was queued since the writer last took it.
#[derive(Default)]
struct Pending {
    deltas: Vec<Delta>,
    totals: Totals,
    /// Sequence number of the last change in the queue; it stays when the group is taken.
    queued: u64,
    /// Highest garbage row in the queue; it stays when the group is taken.
    garbage: u64,
    /// When the oldest change in the queue came.
    since: Option<Instant>,
    commit_waiters: Vec<Callback>,
    sync_waiters: Vec<Callback>,
    /// Somebody needs the group committed soon, though nobody waits for it.
    hurry: bool,
    /// The writer sleeps without a deadline and must be told of the first change.
    asleep: bool,
    stopping: bool,
    /// The writer has ended: what comes now is too late.
    stopped: bool,
}

/// The queue between those who change and the one who writes.
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    wake: Condvar,
    room: Condvar,
    committed: AtomicU64,
    synced: AtomicU64,
    garbage_synced: AtomicU64,
    /// Set before `failure` is looked at, so that the common case is one load.
    failed: AtomicBool,
    failure: OnceLock<IndexError>,
    closed: AtomicBool,
    garbage_wake: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("committed", &self.committed)
            .field("synced", &self.synced)
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// `garbage`: the highest row of the garbage table, on stable storage.
    pub fn new(garbage: GarbageId) -> Queue {
        Queue {
            pending: Mutex::new(Pending { garbage: garbage.0, ..Pending::default() }),
            wake: Condvar::new(),
            room: Condvar::new(),
            committed: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            garbage_synced: AtomicU64::new(garbage.0),
            failed: AtomicBool::new(false),
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
            garbage_wake: Mutex::new(None),
        }
    }

    /// Everything up to this sequence number is committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Garbage up to this row is on stable storage.
    pub fn garbage_synced(&self) -> GarbageId {
        GarbageId(self.garbage_synced.load(Ordering::Acquire))
    }

    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) { Err(IndexError::Closed) } else { Ok(()) }
    }

    /// Refuses after a failure.
    pub fn check_changes(&self) -> Result<()> {
        self.check_open()?;
        if self.failed.load(Ordering::Relaxed) { Err(IndexError::ReadOnly) } else { Ok(()) }
    }

    /// Asked by every change before it locks anything: refuses after a failure, waits while the queue is full.
    pub fn admit(&self) -> Result<()> {
        self.check_changes()?;
        let mut pending = self.pending.lock();
        while pending.deltas.len() >= BACKLOG && !self.failed.load(Ordering::Relaxed) && !pending.stopping {
            self.room.wait(&mut pending);
        }
        Ok(())
    }

    /// Queues one operation, and calls `mark` with its sequence number and its deltas before anybody can see it committed.
    pub fn push(&self, tx: Tx, mark: impl FnOnce(u64, &[Delta])) {
        let mut pending = self.pending.lock();
        pending.queued += 1;
        mark(pending.queued, &tx.deltas);
        if pending.stopped || self.failed.load(Ordering::Relaxed) {
            // Nobody will be told that this is committed.
            return;
        }
        for delta in &tx.deltas {
            if let Delta::Garbage(id, _) = delta {
                pending.garbage = pending.garbage.max(id.0);
            }
        }
        pending.deltas.extend(tx.deltas);
        pending.totals += tx.totals;
        if pending.since.is_none() {
            pending.since = Some(Instant::now());
        }
        let wake = std::mem::take(&mut pending.asleep) || pending.deltas.len() >= GROUP;
        drop(pending);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Lets the present group linger no longer.
    pub fn hurry(&self) {
        self.pending.lock().hurry = true;
        self.wake.notify_one();
    }

    /// Calls `done` from the writer when what is queued now is committed or, with `stable`, on stable storage.
    pub fn on_done(&self, stable: bool, done: Callback) {
        let mut pending = self.pending.lock();
        if pending.stopped {
            drop(pending);
            return done(Err(self.outcome().err().unwrap_or(IndexError::Closed)));
        }
        if stable {
            pending.sync_waiters.push(done);
        } else {
            pending.commit_waiters.push(done);
        }
        drop(pending);
        self.wake.notify_one();
    }

    /// Waits until what is queued now is committed or, with `stable`, on stable storage.
    pub fn wait(&self, stable: bool) -> Result<()> {
        self.check_open()?;
        let reached = if stable { &self.synced } else { &self.committed };
        let queued = self.pending.lock().queued;
        if reached.load(Ordering::Acquire) >= queued && !self.failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        // The receiver lives until the answer is there, so sending cannot fail.
        self.on_done(stable, Box::new(move |result| _ = answer.send(result)));
        answered.recv().unwrap_or(Err(IndexError::Closed))
    }

    pub fn set_garbage_wake(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        *self.garbage_wake.lock() = Some(wake);
    }

    /// The error of the commit that failed, if one did.
    pub fn outcome(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// No further changes; the writer commits what is queued to stable storage and ends.
    pub fn stop(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.pending.lock().stopping = true;
        self.wake.notify_one();
        self.room.notify_all();
    }

    fn fail(&self, error: &IndexError) {
        tracing::error!(%error, "the index is read-only now: a commit failed");
        // Only the writer calls this, and only once.
        let _ = self.failure.set(error.clone());
        self.failed.store(true, Ordering::Release);
        self.room.notify_all();
    }
}

/// What the writer takes from the queue at once.
struct Group {
    deltas: Vec<Delta>,
    totals: Totals,
    last: u64,
    garbage: u64,
    commit_waiters: Vec<Callback>,
    sync_waiters: Vec<Callback>,
    stable: bool,
    stopping: bool,
}

/// The state of the writer thread.
pub(crate) struct Writer {
    queue: Arc<Queue>,
    conn: Connection,
    checkpointer: Arc<Checkpointer>,
    fault: Option<Fault>,
    /// Whether the connection is in `synchronous=FULL`.
    full: bool,
    /// When the oldest commit that is not synced was made.
    unsynced_since: Option<Instant>,
    /// The emptied buffer of the last group.
    spare: Vec<Delta>,
}

impl Writer {
    pub fn new(
        queue: Arc<Queue>,
        mut conn: Connection,
        checkpointer: Arc<Checkpointer>,
        fault: Option<Fault>,
    ) -> Result<Writer> {
        let log = Arc::clone(&checkpointer);
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            log.written(pages.unsigned_abs());
            Ok(())
        }))?;
        Ok(Writer { queue, conn, checkpointer, fault, full: false, unsynced_since: None, spare: Vec::new() })
    }

    /// Commits groups until the queue is stopped; gives the connection back.
    pub fn run(mut self) -> Connection {
        let _deserted = Deserted(Arc::clone(&self.queue));
        loop {
            let group = self.next_group();
            let stopping = group.stopping;
            self.handle(group);
            if stopping {
                return self.conn;
            }
        }
    }

    /// Waits until there is a reason to commit, and takes what is queued.
    fn next_group(&mut self) -> Group {
        let queue = Arc::clone(&self.queue);
        let mut pending = queue.pending.lock();
        let stable = loop {
            let now = Instant::now();
            let sync_at = self.unsynced_since.map(|since| since + SYNC_INTERVAL);
            if pending.stopping || !pending.sync_waiters.is_empty() || sync_at.is_some_and(|at| at <= now) {
                break true;
            }
            if !pending.commit_waiters.is_empty() || pending.hurry || pending.deltas.len() >= GROUP {
                break false;
            }
            let commit_at = pending.since.map(|since| since + LINGER);
            if commit_at.is_some_and(|at| at <= now) {
                break false;
            }
            self.sleep(&mut pending, [commit_at, sync_at].into_iter().flatten().min());
        };
        pending.hurry = false;
        pending.since = None;
        let group = Group {
            deltas: std::mem::replace(&mut pending.deltas, std::mem::take(&mut self.spare)),
            totals: std::mem::take(&mut pending.totals),
            last: pending.queued,
            garbage: pending.garbage,
            commit_waiters: std::mem::take(&mut pending.commit_waiters),
            sync_waiters: std::mem::take(&mut pending.sync_waiters),
            stable,
            stopping: pending.stopping,
        };
        pending.stopped = pending.stopping;
        drop(pending);
        queue.room.notify_all();
        group
    }

    /// Sleeps until woken or `deadline`. A busy queue is looked at every [`LINGER`] unasked, which saves those who add
    /// to it the wake-up; only after a quiet one the first change has to wake this thread.
    fn sleep(&self, pending: &mut MutexGuard<'_, Pending>, deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => _ = self.queue.wake.wait_until(pending, deadline),
            None if pending.asleep => self.queue.wake.wait(pending),
            None => {
                let quiet = self.queue.wake.wait_for(pending, LINGER).timed_out() && pending.deltas.is_empty();
                pending.asleep = quiet;
            }
        }
    }

    fn handle(&mut self, mut group: Group) {
        let result = self.commit(&group);
        let mut new_garbage = false;
        match &result {
            Ok(()) => {
                self.queue.committed.store(group.last, Ordering::Release);
                let outstanding = group.last > self.queue.synced.load(Ordering::Relaxed);
                if group.stable {
                    self.queue.synced.store(group.last, Ordering::Release);
                    new_garbage = self.queue.garbage_synced.swap(group.garbage, Ordering::AcqRel) < group.garbage;
                    self.unsynced_since = None;
                } else if outstanding && self.unsynced_since.is_none() {
                    self.unsynced_since = Some(Instant::now());
                }
            }
            Err(error) => {
                if self.queue.failure.get().is_none() {
                    self.queue.fail(error);
                }
                self.unsynced_since = None;
            }
        }
        for waiter in group.commit_waiters.drain(..).chain(group.sync_waiters.drain(..)) {
            let result = result.clone();
            call(move || waiter(result));
        }
        if new_garbage {
            let wake = self.queue.garbage_wake.lock().clone();
            wake.inspect(|wake| call(|| wake()));
        }
        group.deltas.clear();
        self.spare = group.deltas;
        if result.is_ok() && self.checkpointer.log_is_too_long() {
            self.restart_log();
        }
    }

    /// Commits one group, whole or not at all.
    fn commit(&mut self, group: &Group) -> Result<()> {
        if let Some(error) = self.queue.failure.get() {
            return Err(error.clone());
        }
        let nothing = group.deltas.is_empty();
        let sync_only = nothing && group.stable && self.queue.synced.load(Ordering::Relaxed) < group.last;
        if nothing && !sync_only {
            return Ok(());
        }
        if self.full != group.stable {
            // Not a statement that can be cached: SQLite acts on it while it is being prepared.
            self.conn.pragma_update(None, "synchronous", if group.stable { "FULL" } else { "NORMAL" })?;
            self.full = group.stable;
        }
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if sync_only {
            // The sync of this commit takes the earlier ones with it.
            tx.prepare_cached("UPDATE meta SET syncs = syncs + 1")?.execute([])?;
        }
        apply(&tx, &group.deltas, group.totals)?;
        reach(self.fault.as_ref(), Step::BeforeCommit)?;
        tx.commit()?;
        // What fails after the commit does not undo it.
        let _ = reach(self.fault.as_ref(), Step::AfterCommit);
        Ok(())
    }

    /// Waits for the whole log to be in the database, so that it starts anew. Under a steady load the checkpointer never
    /// finds a moment at which it has caught up; this makes one, rarely.
    fn restart_log(&mut self) {
        let restart = || {
            self.conn.busy_timeout(RESTART_TIMEOUT)?;
            let busy = self.conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, bool>(0));
            self.conn.busy_timeout(BUSY_TIMEOUT)?;
            busy
        };
        let busy = restart().unwrap_or_else(|error| {
            tracing::warn!(%error, "checkpoint of the index failed; its log keeps growing");
            true
        });
        self.checkpointer.log_restarted(busy);
    }
}

/// Tells everybody, should the writer end in a panic: nobody would ever hear of a commit again.
struct Deserted(Arc<Queue>);

impl Drop for Deserted {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let error = IndexError::Corrupt("the writer ended in a panic".to_owned());
        self.0.fail(&error);
        let mut pending = self.0.pending.lock();
        pending.stopped = true;
        let commits = std::mem::take(&mut pending.commit_waiters);
        let syncs = std::mem::take(&mut pending.sync_waiters);
        drop(pending);
        for waiter in commits.into_iter().chain(syncs) {
            let error = error.clone();
            call(move || waiter(Err(error)));
        }
    }
}

/// Calls back. A panic is the fault of one waiter; the others still need this thread.
fn call(callback: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!("a callback of the index panicked");
    }
}

fn reach(fault: Option<&Fault>, step: Step) -> Result<()> {
    match fault {
        None => Ok(()),
        Some(fault) => fault(step).map_err(|error| IndexError::io("commit", Path::new("the index"), error)),
    }
}
