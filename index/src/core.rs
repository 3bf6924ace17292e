//! What all operations share: finding inodes and entries, and publishing a change.
//!
//! The order of locks: rename lock, nodes (by [`Locked`]), contents, queue. Node locks may be held while the database is
//! read (a directory decides about its names, so nobody may change them between the question and the answer); the locks
//! of contents, shards and queue never are.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLockUpgradableReadGuard};

use crate::contents::{Contents, Want};
use crate::delta::{Delta, InodeRow, Totals, Tx};
use crate::dir::{Entry, Known};
use crate::error::{IndexError, Result};
use crate::garbage::Handout;
use crate::load::Readers;
use crate::node::{Locked, Node, State};
use crate::table::Table;
use crate::types::*;
use crate::writer::Queue;

/// Numbers reserved at once. Half of them ahead of the need, so that a power cut which loses the last second cannot lose
/// the reservation of a number that was in use.
const RESERVE: u64 = 1 << 20;
/// Directories up to this many entries are loaded whole by a listing.
pub(crate) const WHOLE: u64 = 1024;
/// A directory is loaded whole when this many times its misses make up its entries.
const EAGERNESS: u64 = 16;
/// How often a look-up goes round when it races with changes, before it suspects the database.
const ATTEMPTS: usize = 1000;

/// The working parts of an open index.
#[derive(Debug)]
pub(crate) struct Core {
    pub table: Table,
    pub contents: Mutex<Contents>,
    pub queue: Arc<Queue>,
    pub readers: Readers,
    pub numbers: Numbers,
    pub garbage: Mutex<Handout>,
    pub sums: Sums,
    /// Held by whoever moves a directory to another parent: meanwhile no directory changes its ancestors.
    pub renames: Mutex<()>,
}

/// Hands out inode numbers and cookies, from one sequence.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: AtomicU64,
    reserved: AtomicU64,
}

impl Numbers {
    /// `next` is free, and everything below `reserved` is reserved in the database.
    pub fn new(next: u64, reserved: u64) -> Numbers {
        Numbers { next: AtomicU64::new(next), reserved: AtomicU64::new(reserved) }
    }

    /// The reservation that follows `next`.
    pub fn reservation(next: u64) -> u64 {
        next.saturating_add(RESERVE)
    }

    /// A number never used before. Called under the lock of the directory it is for, so that its cookies grow.
    pub fn take(&self, tx: &mut Tx) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let reserved = self.reserved.load(Ordering::Relaxed);
        if reserved - number.min(reserved) < RESERVE / 2 {
            let next = Numbers::reservation(reserved);
            if self.reserved.compare_exchange(reserved, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                tx.push(Delta::Reserve(next));
            }
        }
        number
    }

    /// The last number that was handed out, or one before the first.
    pub fn last(&self) -> u64 {
        self.next.load(Ordering::Relaxed) - 1
    }
}

/// The sums of [`IndexStats`], ahead of the database by what is queued.
#[derive(Debug)]
pub(crate) struct Sums([AtomicI64; 5]);

impl Sums {
    pub fn new(totals: Totals) -> Sums {
        let Totals { inodes, contents, logical_bytes, stored_bytes, garbage } = totals;
        Sums([inodes, contents, logical_bytes, stored_bytes, garbage].map(AtomicI64::new))
    }

    pub fn add(&self, totals: Totals) {
        let Totals { inodes, contents, logical_bytes, stored_bytes, garbage } = totals;
        for (sum, change) in self.0.iter().zip([inodes, contents, logical_bytes, stored_bytes, garbage]) {
            if change != 0 {
                sum.fetch_add(change, Ordering::Relaxed);
            }
        }
    }

    pub fn stats(&self) -> IndexStats {
        let [inodes, contents, logical_bytes, stored_bytes, garbage] =
            self.0.each_ref().map(|sum| u64::try_from(sum.load(Ordering::Relaxed)).unwrap_or(0));
        IndexStats { inodes, contents, logical_bytes, stored_bytes, garbage }
    }
}

impl Core {
    /// The node of `ino`, from memory or from the database. It may be gone by the time its lock is taken.
    pub fn node(&self, ino: Ino) -> Result<Arc<Node>> {
        self.queue.check_open()?;
        if let Some(node) = self.table.get(ino) {
            return Ok(node);
        }
        let node = loop {
            let epoch = self.table.epoch(ino);
            let row = self.readers.inode(ino)?.ok_or(IndexError::NotFound)?;
            if let Some(node) = self.table.insert_loaded(Node::loaded(row), epoch) {
                break node;
            }
        };
        self.trim();
        Ok(node)
    }

    /// What `name` in `dir` leads to; `None`: nothing.
    pub fn child(&self, dir: &Node, name: &[u8]) -> Result<Option<(Entry, Arc<Node>)>> {
        for _ in 0..ATTEMPTS {
            let Some(entry) = self.entry(dir, name)? else { return Ok(None) };
            match self.node(entry.ino) {
                Ok(node) => return Ok(Some((entry, node))),
                // It was removed between the two steps, so the entry is gone as well.
                Err(IndexError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let name = String::from_utf8_lossy(name);
        Err(IndexError::Corrupt(format!("entry {name:?} of directory {} leads to no inode", dir.ino)))
    }

    /// The entry of `name` in `dir`.
    fn entry(&self, dir: &Node, name: &[u8]) -> Result<Option<Entry>> {
        let look = |state: &State| {
            if state.gone {
                return Err(IndexError::NotFound);
            }
            state.dir.as_ref().map(|dir| dir.get(name)).ok_or(IndexError::NotDirectory)
        };
        match look(&dir.state.read())? {
            Known::Present(entry) => return Ok(Some(entry)),
            Known::Absent => return Ok(None),
            Known::Unknown => {}
        }
        // Others go on reading what is known; nobody changes the directory.
        let state = dir.state.upgradable_read();
        match look(&state)? {
            Known::Present(entry) => return Ok(Some(entry)),
            Known::Absent => return Ok(None),
            Known::Unknown => {}
        }
        let (entries, misses) = (state.attr.size, state.dir.as_ref().map_or(0, |dir| u64::from(dir.misses)));
        if entries <= WHOLE && entries <= (misses + 1) * EAGERNESS {
            let state = self.load_whole(state)?;
            let known = look(&state);
            drop(state);
            self.trim();
            return match known? {
                Known::Present(entry) => Ok(Some(entry)),
                _ => Ok(None),
            };
        }
        let found = self.readers.dentry(dir.ino, name)?;
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        let Some(dir) = &mut state.dir else { return Err(IndexError::NotDirectory) };
        dir.misses = dir.misses.saturating_add(1);
        let Some((ino, cookie)) = found else { return Ok(None) };
        let entry = Entry { ino, cookie };
        dir.put(&name.into(), entry);
        self.table.weigh(dir.reweigh());
        drop(state);
        self.trim();
        Ok(Some(entry))
    }

    /// Reads all entries of a directory into memory.
    pub fn load_whole<'a>(
        &self,
        state: RwLockUpgradableReadGuard<'a, State>,
    ) -> Result<RwLockUpgradableReadGuard<'a, State>> {
        let rows = self.readers.dentries(state.attr.ino, 0, usize::MAX)?;
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        if let Some(dir) = &mut state.dir {
            dir.learn(rows);
            dir.complete = true;
            self.table.weigh(dir.reweigh());
        }
        Ok(parking_lot::RwLockWriteGuard::downgrade_to_upgradable(state))
    }

    /// The entry of `name` in a directory that is locked by the caller, who is about to change it.
    pub fn entry_locked(&self, state: &State, name: &[u8]) -> Result<Option<Entry>> {
        let known = state.dir.as_ref().map(|dir| dir.get(name)).ok_or(IndexError::NotDirectory)?;
        match known {
            Known::Present(entry) => Ok(Some(entry)),
            Known::Absent => Ok(None),
            Known::Unknown => {
                let found = self.readers.dentry(state.attr.ino, name)?;
                Ok(found.map(|(ino, cookie)| Entry { ino, cookie }))
            }
        }
    }

    /// The contents, locked, with an answer to each of `wants` in memory.
    pub fn contents_with(&self, wants: &[Want]) -> Result<MutexGuard<'_, Contents>> {
        for _ in 0..ATTEMPTS {
            let contents = self.contents.lock();
            let Some(want) = wants.iter().find(|want| !contents.knows(want)) else { return Ok(contents) };
            let epoch = contents.epoch();
            drop(contents);
            let row = match want {
                Want::Id(id) => {
                    let row = self.readers.content(*id)?;
                    // The caller holds the lock of an inode that refers to it.
                    Some(row.ok_or_else(|| IndexError::Corrupt(format!("there is no content {}", id.0)))?)
                }
                Want::Print(fingerprint, size) => self.readers.content_by_fingerprint(fingerprint, *size)?,
                Want::File(file_id) => self.readers.content_by_file_id(file_id)?,
            };
            self.contents.lock().learn(want.clone(), row, epoch);
        }
        Err(IndexError::Corrupt("the keys of the contents contradict each other".to_owned()))
    }

    /// Queues one operation. From now on it is part of the order in which things happened.
    pub fn publish(&self, mut locked: Locked<'_>, contents: Option<MutexGuard<'_, Contents>>, tx: Tx) {
        let committed = self.queue.committed();
        self.sums.add(tx.totals);
        let mut contents = contents;
        self.queue.push(tx, |seq, deltas| {
            for delta in deltas {
                match delta {
                    Delta::Inode(InodeRow { attr: Attr { ino, .. }, .. }) | Delta::InodeGone(ino) => {
                        _ = locked.find(*ino).map(|state| state.seq = seq);
                    }
                    Delta::Dentry { dir, name, .. } => {
                        if let Some(dir) = locked.find(*dir).and_then(|state| state.dir.as_mut()) {
                            dir.mark(name, seq);
                        }
                    }
                    Delta::Content(Content { id, .. }) | Delta::ContentGone(id) => {
                        if let Some(contents) = &mut contents {
                            contents.mark(*id, seq);
                        }
                    }
                    _ => {}
                }
            }
        });
        if let Some(contents) = &mut contents {
            contents.settle(committed);
        }
        drop(contents);
        for dir in locked.iter_mut().filter_map(|state| state.dir.as_mut()) {
            dir.settle(committed);
            self.table.weigh(dir.reweigh());
        }
        drop(locked);
        self.trim();
    }

    /// [`Core::publish`] for a change of contents alone.
    pub fn publish_contents(&self, contents: MutexGuard<'_, Contents>, tx: Tx) {
        self.publish(Locked::new([]), Some(contents), tx);
    }

    /// Keeps the memory within bounds.
    pub fn trim(&self) {
        if self.table.trim(self.queue.committed()) {
            self.queue.hurry();
        }
    }

    /// Takes the last trace of an inode without names and holds out of the index.
    pub fn reclaim(&self, state: &mut State, contents: Option<&mut Contents>, tx: &mut Tx) {
        if let (Some(id), Some(contents)) = (state.attr.content.take(), contents) {
            contents.release(id, tx);
        }
        state.gone = true;
        state.dir = state.dir.take().map(|dir| {
            self.table.weigh(-dir.weighed());
            Box::default()
        });
        state.xattrs = None;
        state.target = None;
        tx.totals.inodes -= 1;
        tx.push(Delta::InodeGone(state.attr.ino));
    }
}
