//! From written data to a committed reference: flush, fsync, and what they share with background uploads.
//!
//! The way of a version of an inode's content: staged → sealed (fingerprinted; uploaded, unless known) → attached in the
//! index → committed → answered. One seal of an inode runs at a time; who asks meanwhile joins it if it covers what he
//! wrote, else waits for the next. The inode's lock is held for the steps, never across them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use fdfs_index::{Along, IndexError, Ino, NewContent, SetAttr};

use super::Core;
use super::error::{Done, Result, TreeError};
use super::handle::Fh;
use super::inode::{Body, OpenInode, State, Times};
use super::stage::Retired;
use crate::content::{ContentError, Fingerprint, Sealed};

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// The reference is committed: it survives the death of this process.
    Committed,
    /// Reference and content are on stable storage.
    Stable,
}

struct Waiter {
    promise: Promise,
    done: Done<()>,
}

/// The seals of one inode.
#[derive(Default)]
pub(crate) struct Seals {
    /// The version that is being sealed.
    running: Option<u64>,
    /// Who waits for it.
    waiting: Vec<Waiter>,
    /// Who waits for the one after it, which is wanted if `again`.
    later: Vec<Waiter>,
    again: bool,
    /// Failures since the last success.
    failures: u32,
}

impl Seals {
    pub(crate) fn running(&self) -> bool {
        self.running.is_some()
    }

    /// The content was replaced as a whole: what failed before is of no interest.
    pub(crate) fn forgive(&mut self) {
        self.failures = 0;
    }

    /// Whether the last seal failed, so that the retry worker is in charge.
    pub(crate) fn failing(&self) -> bool {
        self.failures > 0
    }
}

/// A seal that has ended: what is left to do when the lock of the inode is released.
#[must_use]
pub(crate) struct Settled {
    outcome: Result<()>,
    waiters: Vec<Waiter>,
    /// The number of its change of the index.
    queued: u64,
    retired: Option<Retired>,
    retry: Option<Duration>,
}

/// Longest pause between attempts to store data.
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl Core {
    /// `close` of one descriptor of a handle: what the handle has written (if only a new, empty file) gets into the
    /// cluster and the index.
    pub fn flush(self: &Arc<Self>, fh: Fh, done: Done<()>) {
        let handle = match self.handles.file(fh) {
            Ok(handle) => handle,
            Err(error) => return done(Err(error)),
        };
        let inode = &handle.inode;
        let wrote = handle.wrote.load(Ordering::Relaxed);
        let mut state = inode.lock();
        let due = wrote > state.attached || (handle.writable && state.mapped > state.attached);
        if due && !self.doomed(inode.ino) {
            let settled = self.request(inode, &mut state, Some(Waiter { promise: Promise::Committed, done }));
            drop(state);
            self.settle(inode, settled);
        } else if (handle.writable || wrote > 0) && state.queued > inode.committed.load(Ordering::Acquire) {
            let queued = state.queued;
            drop(state);
            self.when_committed(inode, queued, vec![Waiter { promise: Promise::Committed, done }], None);
        } else {
            drop(state);
            done(Ok(()));
        }
    }

    /// `fsync` and `fdatasync`: everything written to the file, by whatever handle, is on stable storage afterwards.
    pub fn fsync(self: &Arc<Self>, fh: Fh, done: Done<()>) {
        let handle = match self.handles.file(fh) {
            Ok(handle) => handle,
            Err(error) => return done(Err(error)),
        };
        let inode = &handle.inode;
        let mut state = inode.lock();
        if self.doomed(inode.ino) {
            drop(state);
            done(Ok(()));
        } else if state.dirty() {
            let settled = self.request(inode, &mut state, Some(Waiter { promise: Promise::Stable, done }));
            drop(state);
            self.settle(inode, settled);
        } else {
            drop(state);
            self.make_stable(inode, vec![Waiter { promise: Promise::Stable, done }]);
        }
    }

    /// `fsync` of a directory: every change of the namespace so far is on stable storage afterwards.
    pub fn sync_names(&self, done: Done<()>) {
        self.index.on_sync(Box::new(move |result| done(result.map_err(TreeError::from))));
    }

    /// Stores the content as it is now, for `done` to be answered when the reference is committed.
    pub(crate) fn store_now(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        state: &mut State,
        done: Option<Done<()>>,
    ) -> Vec<Settled> {
        self.request(inode, state, done.map(|done| Waiter { promise: Promise::Committed, done }))
    }

    /// Whether the inode has no name any more, so that its content need not be stored.
    pub(crate) fn doomed(&self, ino: Ino) -> bool {
        self.index.getattr(ino).is_ok_and(|attr| attr.nlink == 0)
    }

    fn request(self: &Arc<Self>, inode: &Arc<OpenInode>, state: &mut State, waiter: Option<Waiter>) -> Vec<Settled> {
        match state.seals.running {
            None => {
                state.seals.waiting.extend(waiter);
                self.begin(inode, state)
            }
            Some(version) if version >= state.version => {
                state.seals.waiting.extend(waiter);
                Vec::new()
            }
            Some(_) => {
                state.seals.later.extend(waiter);
                state.seals.again = true;
                Vec::new()
            }
        }
    }

    fn begin(self: &Arc<Self>, inode: &Arc<OpenInode>, state: &mut State) -> Vec<Settled> {
        let version = state.version;
        state.seals.running = Some(version);
        // What the index cannot refer to is not uploaded.
        if let Err(error) = self.index.accepts_changes() {
            return self.complete(inode, state, version, Err(error.into()));
        }
        let stage = match self.staged(inode.ino, state) {
            Ok(staged) => &mut staged.stage,
            Err(error) => return self.complete(inode, state, version, Err(error)),
        };
        if stage.size() == 0 {
            return self.complete(inode, state, version, Ok(Sealed::Empty));
        }
        let known = {
            let (core, inode) = (self.clone(), inode.clone());
            Box::new(move |fingerprint: &Fingerprint, size| core.take_known(&inode, fingerprint, size))
        };
        let done = {
            let (core, inode) = (self.clone(), inode.clone());
            Box::new(move |result: std::result::Result<Sealed, ContentError>| {
                let mut state = inode.lock();
                let settled = core.complete(&inode, &mut state, version, result.map_err(TreeError::from));
                drop(state);
                core.settle(&inode, settled);
            })
        };
        stage.seal(known, done);
        Vec::new()
    }

    /// Refers the inode to a content that is stored already.
    fn take_known(&self, inode: &OpenInode, fingerprint: &Fingerprint, size: u64) -> bool {
        let mut state = inode.lock();
        let Ok(Some(times)) = self.settle_times(inode.ino, &mut state) else { return false };
        match self.index.reuse(inode.ino, fingerprint, size, along(&state, times)) {
            Ok(found) => {
                if found.is_some() {
                    unstaged(&mut state);
                }
                found.is_some()
            }
            Err(error) => {
                tracing::warn!(ino = inode.ino.0, "look-up of known content: {error}");
                false
            }
        }
    }

    /// Takes over the result of a seal, under the inode's lock.
    fn complete(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        state: &mut State,
        version: u64,
        result: Result<Sealed>,
    ) -> Vec<Settled> {
        state.seals.running = None;
        let outcome = result.and_then(|sealed| self.publish(inode, state, sealed));
        let mut retry = None;
        let mut retired = None;
        match &outcome {
            Ok(()) => {
                state.attached = state.attached.max(version);
                state.queued += 1;
                state.seals.failures = 0;
                if !state.dirty() {
                    state.times = None;
                }
                self.unkeep(inode.ino, state);
                retired = self.retire_clean(state);
            }
            Err(error) => {
                // What shows through the stage may be what is missing.
                if let (TreeError::Content(error), Body::Staged(staged)) = (error, &state.body)
                    && let Some(base) = &staged.base
                {
                    self.suspect(inode.ino)(base.file_id(), error);
                }
                // The upload may have succeeded and only the index refused it: another seal must not call that done.
                if let Body::Staged(staged) = &mut state.body {
                    staged.stage.unsealed();
                }
                self.keep(inode, state);
                state.seals.failures += 1;
                // An index that has failed once stays read-only: the next mount will try.
                let hopeless = matches!(&outcome, Err(TreeError::Index(IndexError::ReadOnly)));
                if !hopeless && !std::mem::replace(&mut state.retrying, true) {
                    retry = Some((Duration::from_secs(1) * (1 << state.seals.failures.min(6)) / 2).min(MAX_PAUSE));
                }
            }
        }
        let waiters = std::mem::take(&mut state.seals.waiting);
        let mut settled = vec![Settled { outcome, waiters, queued: state.queued, retired, retry }];
        if std::mem::replace(&mut state.seals.again, false) {
            state.seals.waiting = std::mem::take(&mut state.seals.later);
            settled.extend(self.begin(inode, state));
        }
        settled
    }

    /// Lets the index refer to what was sealed: content, times and the end of what was kept are one transaction.
    fn publish(&self, inode: &OpenInode, state: &mut State, sealed: Sealed) -> Result<()> {
        // Of known content, the index has changed the times already.
        let known = matches!(sealed, Sealed::Known { .. });
        let times = if known { state.times } else { self.settle_times(inode.ino, state)? };
        let Some(times) = times else {
            // Abandoned while it was under way.
            return match sealed {
                Sealed::Stored(stored) => Ok(self.index.discard(&stored.file_id)?),
                _ => Ok(()),
            };
        };
        match sealed {
            Sealed::Stored(stored) => {
                let file_id: Arc<str> = stored.file_id.into();
                let content = NewContent {
                    fingerprint: Some(stored.fingerprint),
                    size: stored.size,
                    file_id: file_id.clone(),
                    mutable: false,
                };
                if let Err(error) = self.index.attach(inode.ino, content, along(state, times)) {
                    // Nothing will ever refer to it.
                    if self.index.discard(&file_id).is_err() {
                        self.remove_unnoted(&file_id);
                    }
                    return Err(error.into());
                }
                unstaged(state);
            }
            Sealed::Empty => {
                self.index.clear_content(inode.ino, along(state, times))?;
                unstaged(state);
            }
            Sealed::Known { .. } => {}
            Sealed::Unchanged => {
                let set = SetAttr { mtime: Some(times.mtime), ctime: Some(times.ctime), ..SetAttr::default() };
                self.index.setattr(inode.ino, &set)?;
            }
        }
        Ok(())
    }

    /// Deletes stored content that the index has never heard of, and cannot be told of either.
    fn remove_unnoted(&self, file_id: &Arc<str>) {
        let name = file_id.clone();
        let done = Box::new(move |removed: std::result::Result<(), ContentError>| {
            if let Err(error) = removed {
                tracing::warn!(file_id = %name, "stored content is left without a reference: {error}");
            }
        });
        self.store.remove(file_id, done);
    }

    /// The times that the content will have when the index has it: other changes of the inode since the last write may
    /// have moved its `ctime` on.
    pub(crate) fn settle_times(&self, ino: Ino, state: &mut State) -> Result<Option<Times>> {
        if let Some(times) = &mut state.times {
            times.ctime = times.ctime.max(self.index.getattr(ino)?.ctime);
        }
        Ok(state.times)
    }

    /// Answers those who waited for seals that have ended.
    pub(crate) fn settle(self: &Arc<Self>, inode: &Arc<OpenInode>, settled: Vec<Settled>) {
        for Settled { outcome, waiters, queued, retired, retry } in settled {
            if let Some(pause) = retry {
                self.retries.add(inode.clone(), pause);
            }
            match outcome {
                Err(error) => {
                    if waiters.is_empty() {
                        tracing::debug!(ino = inode.ino.0, "not stored yet: {error}");
                    }
                    if !waiters.is_empty() {
                        // Not before the index has committed where the data is kept: the caller may die now.
                        self.index.on_commit(Box::new(move |_| {
                            for waiter in waiters {
                                (waiter.done)(Err(error.clone()));
                            }
                        }));
                    }
                }
                Ok(()) => {
                    let (stable, committed): (Vec<_>, Vec<_>) =
                        waiters.into_iter().partition(|w| w.promise == Promise::Stable);
                    let after_commit = retired.as_ref().is_some_and(|r| r.after_commit);
                    if !committed.is_empty() || after_commit {
                        self.when_committed(inode, queued, committed, retired);
                    }
                    if !stable.is_empty() {
                        self.make_stable(inode, stable);
                    }
                }
            }
            self.open.forget_idle(inode);
        }
    }

    /// Answers when all that the index was told so far is committed.
    fn when_committed(&self, inode: &OpenInode, queued: u64, waiters: Vec<Waiter>, retired: Option<Retired>) {
        let committed = inode.committed.clone();
        let retries = self.retries.clone();
        self.index.on_commit(Box::new(move |result| {
            if result.is_ok() {
                committed.fetch_max(queued, Ordering::Release);
            }
            if let Some(retired) = retired {
                retries.dispose(retired, result.is_ok());
            }
            for waiter in waiters {
                (waiter.done)(result.clone().map_err(TreeError::from));
            }
        }));
    }

    /// Answers when the inode's content and everything the index was told so far is on stable storage.
    fn make_stable(self: &Arc<Self>, inode: &Arc<OpenInode>, waiters: Vec<Waiter>) {
        let answer = |waiters: Vec<Waiter>, result: Result<()>| {
            for waiter in waiters {
                (waiter.done)(result.clone());
            }
        };
        let sync = {
            let core = self.clone();
            move |waiters: Vec<Waiter>| {
                core.index.on_sync(Box::new(move |result| answer(waiters, result.map_err(TreeError::from))));
            }
        };
        let (content, pin) = match self.pinned_content(inode.ino) {
            Ok(Some((content, pin))) => (Some(content), Some(pin)),
            Ok(None) => (None, None),
            Err(error) => return answer(waiters, Err(error)),
        };
        let unsafe_yet = content.filter(|content| inode.lock().durable.as_ref() != Some(&content.file_id));
        let Some(content) = unsafe_yet else { return sync(waiters) };
        let (inode, file_id) = (inode.clone(), content.file_id.clone());
        self.store.persist(
            &content.file_id,
            Box::new(move |result| {
                // Held until here, so that nobody deletes what is being brought to the disk.
                drop(pin);
                match result {
                    Ok(_) => {
                        inode.lock().durable = Some(file_id);
                        sync(waiters);
                    }
                    Err(error) => answer(waiters, Err(error.into())),
                }
            }),
        );
    }

    /// Stores every unsaved change and waits for it; the number of files where that failed.
    pub(crate) fn store_all(self: &Arc<Self>) -> usize {
        // First the end of what is under way: it may fail for a cause that is gone by now, and what it stores of a file
        // that was removed meanwhile must yet become garbage.
        self.wait_for_each(|_, state, waiter| {
            if state.seals.running() {
                state.seals.waiting.push(waiter);
            }
            Vec::new()
        });
        let failed = self.wait_for_each(|inode, state, waiter| {
            if state.dirty() && !self.doomed(inode.ino) { self.request(inode, state, Some(waiter)) } else { Vec::new() }
        });
        for (ino, error) in &failed {
            let dir = self.open.get(*ino).and_then(|inode| inode.dir.get().copied());
            tracing::error!("{} is not stored, and kept for the next mount: {error}", self.shown(*ino, dir));
        }
        failed.len()
    }

    /// Has `ask` place a waiter with each inode in use, and waits for the answers: the failures. A waiter that is dropped
    /// is not waited for.
    fn wait_for_each(
        self: &Arc<Self>,
        ask: impl Fn(&Arc<OpenInode>, &mut State, Waiter) -> Vec<Settled>,
    ) -> Vec<(Ino, TreeError)> {
        let (send, receive) = mpsc::channel();
        for inode in self.open.all() {
            let (send, ino) = (send.clone(), inode.ino);
            let done: Done<()> = Box::new(move |result| {
                // The receiver waits for all senders.
                let _ = send.send((ino, result));
            });
            let settled = ask(&inode, &mut inode.lock(), Waiter { promise: Promise::Committed, done });
            self.settle(&inode, settled);
        }
        drop(send);
        receive.iter().filter_map(|(ino, result)| Some((ino, result.err()?))).collect()
    }
}

/// What changes in the index with the content. The times are those of the last write, not those of the upload: what `stat`
/// said before must stay true.
fn along(state: &State, times: Times) -> Along {
    let unstage = matches!(&state.body, Body::Staged(staged) if staged.kept);
    Along { mtime: times.mtime, ctime: Some(times.ctime), unstage }
}

/// The index has been told that what was kept goes.
fn unstaged(state: &mut State) {
    if let Body::Staged(staged) = &mut state.body {
        staged.kept = false;
    }
}
