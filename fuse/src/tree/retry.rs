//! Storing later what could not be stored: after a failed upload, and after a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fdfs_index::{FileKind, IndexError, Ino, StagedRow, Timestamp};
use parking_lot::Mutex;

use super::Core;
use super::error::Result;
use super::inode::{Body, OpenInode, Staged};
use super::stage::Retired;
use super::worker::{Control, Worker};
use crate::content::{ContentError, Kept, Recovered};

/// Inodes whose data waits for another attempt.
#[derive(Default)]
pub struct Retries {
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    due: Vec<(Instant, Arc<OpenInode>)>,
    /// To be dropped by the worker: the index's writer, which finds them of no more use, must not wait for anything.
    disposed: Vec<Retired>,
    control: Option<Arc<Control>>,
}

impl Retries {
    /// Tries again after `pause`.
    pub(crate) fn add(&self, inode: Arc<OpenInode>, pause: Duration) {
        let mut state = self.state.lock();
        state.due.push((Instant::now() + pause, inode));
        if let Some(control) = &state.control {
            control.wake();
        }
    }

    /// Has the worker drop a stage, once what replaced it is `committed`.
    pub(crate) fn dispose(&self, retired: Retired, committed: bool) {
        if !committed {
            // The index refers to nothing newer and takes no more changes: after a restart its kept data is all there is,
            // and dropping the stage would remove that.
            std::mem::forget(retired);
            return;
        }
        let mut state = self.state.lock();
        state.disposed.push(retired);
        if let Some(control) = &state.control {
            control.wake();
        }
    }

    /// Those that are due, and the time until the next is.
    fn take_due(&self) -> (Vec<Arc<OpenInode>>, Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let disposed = std::mem::take(&mut state.disposed);
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.due).into_iter().partition(|(at, _)| *at <= now);
        state.due = rest;
        let next = state.due.iter().map(|(at, _)| at.saturating_duration_since(now)).min();
        drop(state);
        disposed.into_iter().for_each(Retired::end);
        (due.into_iter().map(|(_, inode)| inode).collect(), next)
    }
}

/// Starts the worker.
pub(crate) fn start(core: &Arc<Core>) -> Worker {
    let core = core.clone();
    Worker::start("fdfs-retry", move |control| {
        core.retries.state.lock().control = Some(control.clone());
        loop {
            let (due, next) = core.retries.take_due();
            for inode in due {
                attempt(&core, &control, &inode);
            }
            if !control.wait(next) {
                core.retries.state.lock().control = None;
                return;
            }
        }
    })
}

fn attempt(core: &Arc<Core>, control: &Arc<Control>, inode: &Arc<OpenInode>) {
    let told = inode.late.lock().clone();
    let name = told.unwrap_or_else(|| core.shown(inode.ino, inode.dir.get().copied()).into());
    let mut state = inode.lock();
    state.retrying = false;
    let dirty = state.dirty();
    if !dirty || core.doomed(inode.ino) {
        drop(state);
        // Its writer has stored it himself, or has removed it.
        if inode.late.lock().take().is_some() && !dirty {
            tracing::info!("{name}, which could not be stored before, is stored now");
        }
        return;
    }
    *inode.late.lock() = Some(name.clone());
    let (control, late) = (control.clone(), inode.late.clone());
    let done = Box::new(move |result: Result<()>| match result {
        Ok(()) => {
            control.count_done(1);
            if late.lock().take().is_some() {
                tracing::info!("{name}, which could not be stored before, is stored now");
            }
        }
        Err(error) => control.count_failed(format!("{name} is not stored yet, and kept here: {error}")),
    });
    let settled = core.store_now(inode, &mut state, Some(done));
    drop(state);
    core.settle(inode, settled);
}

impl Core {
    /// A file as people know it: its path in the tree, if that can be told. `dir` is a directory where it may be.
    pub(crate) fn shown(&self, ino: Ino, dir: Option<Ino>) -> String {
        match self.index.path(ino, dir) {
            Ok(Some(path)) => path.display().to_string(),
            _ => format!("inode {ino}"),
        }
    }

    /// Takes up the data that an earlier process kept because it could not be stored, and clears the rest away.
    pub(crate) fn recover(self: &Arc<Self>) -> Result<()> {
        if !self.options.read_only {
            self.adopt_apart()?;
        }
        let rows = self.index.staged()?;
        let kept: Vec<Kept> = rows.iter().map(|row| Kept { path: row.path.clone(), size: row.size }).collect();
        if self.options.read_only {
            // Nothing may change, so nothing is stored now; and what is not shown must not be lost.
            return Ok(());
        }
        for (row, kept) in rows.iter().zip(&kept) {
            let attr = match self.index.getattr(row.ino) {
                Ok(attr) => attr,
                Err(IndexError::NotFound) => {
                    self.index.stage_remove(row.ino)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Recovered { stage, base } = match self.store.recover(kept) {
                Ok(recovered) => recovered,
                // One damaged file must not keep all others from being mounted.
                Err(error @ ContentError::Corrupt(_)) => {
                    tracing::error!("staged data of {} is damaged: {error}", self.shown(row.ino, None));
                    self.store.give_up(kept)?;
                    self.index.stage_remove(row.ino)?;
                    continue;
                }
                Err(ContentError::NotFound(_)) => {
                    let name = self.shown(row.ino, None);
                    tracing::error!("staged data of {name} is missing: {}", row.path.display());
                    self.index.stage_remove(row.ino)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // Before the collector starts: what shows through it may be the content of another file, gone since.
            let base = base.map(|base| self.pins.pin(&base.file_id));
            let times = super::inode::Times { mtime: attr.mtime, ctime: attr.ctime };
            let inode = self.open.enter(&self.index, row.ino)?;
            let mut state = inode.lock();
            state.body = Body::Staged(Staged::recovered(stage, base));
            state.changed(Timestamp::now());
            state.times = Some(times);
            state.retrying = true;
            drop(state);
            // Its unsaved change keeps it in use.
            self.open.leave(&inode);
            self.retries.add(inode, Duration::ZERO);
        }
        self.store.sweep(&kept)?;
        Ok(())
    }

    /// Notes in the index what an earlier process could not note there. Before anything else can be created: the number
    /// of a file whose creation was lost may be given to another one later.
    fn adopt_apart(&self) -> Result<()> {
        for (owner, kept) in self.store.apart()? {
            let ino = Ino(owner);
            // Newer than any row of the inode: since it was set apart, the index has taken no note of anything.
            match self.index.getattr(ino) {
                Ok(attr) if attr.kind == FileKind::Regular => {
                    let Kept { path, size } = self.store.adopt(&kept)?;
                    self.index.stage_put(StagedRow { ino, path, size })?;
                }
                Ok(_) | Err(IndexError::NotFound) => self.store.give_up(&kept)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
