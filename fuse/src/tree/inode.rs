//! Inodes in use: those with open handles, and those whose data is not in the cluster yet.
//!
//! Invariants:
//! - An inode has at most one [`OpenInode`], found in the [`OpenTable`]; all its handles share it, so that each sees what
//!   the others wrote.
//! - What an open inode knows better than the index (size, times) is laid over every attribute that leaves the tree:
//!   the kernel caches attributes without expiry.
//! - Locks are taken in the order table, inode, index; never two inodes at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use fdfs_index::{Attr, Content, Hold, Index, Ino, Timestamp};
use parking_lot::{Mutex, MutexGuard};

use super::error::Result;
use super::pins::Pin;
use super::seal::Seals;
use crate::content::{ExtName, Object, Stage};

/// Where the bytes of an open inode are.
pub(crate) enum Body {
    /// Where the index says.
    Index,
    /// The first `covered` bytes of another file's content, copied by `copy_file_range` calls that so far go through it
    /// from its start; at its end the copy becomes a reference.
    Copying {
        /// The content that is being copied.
        source: Content,
        /// How much of it was copied.
        covered: u64,
        /// Keeps it, whatever becomes of the file it came from.
        _pin: Pin,
    },
    /// In a stage.
    Staged(Staged),
}

/// A stage and what it needs to live.
pub(crate) struct Staged {
    /// The local data.
    pub(crate) stage: Box<dyn Stage>,
    /// Keeps the content that shows through it. Reads under way have their own share, since they may outlive the stage.
    pub(crate) base: Option<Arc<Pin>>,
    /// Whether the index has a row for it, since [`Stage::keep`].
    pub(crate) kept: bool,
    /// Whether it ever had: then the local file goes only after the commit of what replaced it.
    pub(crate) was_kept: bool,
}

impl Staged {
    pub(crate) fn new(stage: Box<dyn Stage>, base: Option<Pin>) -> Staged {
        Staged { stage, base: base.map(Arc::new), kept: false, was_kept: false }
    }

    /// One that an earlier process kept.
    pub(crate) fn recovered(stage: Box<dyn Stage>, base: Option<Pin>) -> Staged {
        Staged { stage, base: base.map(Arc::new), kept: true, was_kept: true }
    }
}

/// Times of the content that the index has not been told yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

impl Times {
    /// Both the same moment.
    pub(crate) fn at(now: Timestamp) -> Times {
        Times { mtime: now, ctime: now }
    }
}

/// The changing part of an open inode.
pub(crate) struct State {
    /// Open handles that may write.
    pub(crate) writers: usize,
    pub(crate) body: Body,
    /// Counts changes of the content. 0: none since it was opened.
    pub(crate) version: u64,
    /// The version the index refers to.
    pub(crate) attached: u64,
    /// The newest version that the kernel wrote back from its page cache: any handle may have caused it.
    pub(crate) mapped: u64,
    /// Set while `version` is above `attached`.
    pub(crate) times: Option<Times>,
    pub(crate) seals: Seals,
    /// Changes of this inode's content handed to the index. See also [`OpenInode::committed`].
    pub(crate) queued: u64,
    /// The content known to be on stable storage in the cluster.
    pub(crate) durable: Option<Arc<str>>,
    /// Whether `security.capability` is known to be absent, so that writes need not look.
    pub(crate) without_capability: bool,
    /// The extension that its file ID shall have.
    pub(crate) extension: ExtName,
    /// Whether the retry worker has this inode in its list.
    pub(crate) retrying: bool,
}

impl State {
    /// Whether there are changes that the index does not refer to.
    pub(crate) fn dirty(&self) -> bool {
        self.version > self.attached
    }

    /// The size, where it differs from what the index says.
    pub(crate) fn size(&self) -> Option<u64> {
        match &self.body {
            Body::Index => None,
            Body::Copying { covered, .. } => Some(*covered),
            Body::Staged(staged) => Some(staged.stage.size()),
        }
    }

    /// Corrects what the index says by what it does not know yet.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        if let Some(size) = self.size() {
            attr.size = size;
        }
        if let Some(times) = &self.times {
            attr.mtime = times.mtime;
            attr.ctime = attr.ctime.max(times.ctime);
        }
    }

    /// Counts a change of the content, made at `now`; the answer is its number.
    pub(crate) fn changed(&mut self, now: Timestamp) -> u64 {
        self.version += 1;
        self.times = Some(Times::at(now));
        self.version
    }

    /// Whether there is nothing that the index does not know.
    fn idle(&self) -> bool {
        !self.dirty() && !self.seals.running()
    }
}

/// An inode in use.
pub(crate) struct OpenInode {
    pub(crate) ino: Ino,
    /// Keeps it alive when its last name goes.
    _hold: Hold,
    /// How many have entered and not left: open handles, and changes by path under way. Changed under the lock of the
    /// table.
    users: AtomicUsize,
    /// How many of the queued changes are known to be committed. Apart from the state, because the index's writer sets it:
    /// that thread must neither wait for an inode nor drop the last hold of one.
    pub(crate) committed: Arc<AtomicU64>,
    /// The directory it was created in, if it was created while in use.
    pub(crate) dir: OnceLock<Ino>,
    /// What it was called when its data could not be stored; until it is. Apart from the state, as `committed`.
    pub(crate) late: Arc<Mutex<Option<Arc<str>>>>,
    state: Mutex<State>,
}

impl OpenInode {
    fn new(ino: Ino, hold: Hold) -> OpenInode {
        let state = State {
            writers: 0,
            body: Body::Index,
            version: 0,
            attached: 0,
            mapped: 0,
            times: None,
            seals: Seals::default(),
            queued: 0,
            durable: None,
            without_capability: false,
            extension: ExtName::NONE,
            retrying: false,
        };
        let (users, committed) = (AtomicUsize::new(0), Arc::default());
        let (dir, late) = (OnceLock::new(), Arc::default());
        OpenInode { ino, _hold: hold, users, committed, dir, late, state: Mutex::new(state) }
    }

    /// Whether anybody uses it.
    pub(crate) fn used(&self) -> bool {
        self.users.load(Ordering::Acquire) > 0
    }

    /// The state. Stage operations run under this lock: they are local, and the lock is what orders the writes of
    /// several handles.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// All inodes in use.
#[derive(Default)]
pub(crate) struct OpenTable {
    inodes: Mutex<HashMap<Ino, Arc<OpenInode>>>,
}

impl OpenTable {
    /// The inode, if it is in use.
    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<OpenInode>> {
        self.inodes.lock().get(&ino).cloned()
    }

    /// The inode, put to use if it was not. It stays until [`leave`](Self::leave).
    pub(crate) fn enter(&self, index: &Arc<Index>, ino: Ino) -> Result<Arc<OpenInode>> {
        // Outside the lock of the table: this may read the database.
        let hold = index.hold(ino)?;
        let mut inodes = self.inodes.lock();
        let inode = inodes.entry(ino).or_insert_with(|| Arc::new(OpenInode::new(ino, hold)));
        inode.users.fetch_add(1, Ordering::AcqRel);
        Ok(inode.clone())
    }

    /// Ends one use. [`forget_idle`](Self::forget_idle) follows, when what the user has left behind is dealt with.
    pub(crate) fn leave(&self, inode: &OpenInode) {
        let _inodes = self.inodes.lock();
        inode.users.fetch_sub(1, Ordering::AcqRel);
    }

    /// Forgets an inode that nobody uses and that holds nothing.
    pub(crate) fn forget_idle(&self, inode: &Arc<OpenInode>) {
        if inode.used() {
            return;
        }
        let removed = {
            let mut inodes = self.inodes.lock();
            // Nobody can enter now, and without users the lock of the inode is not held for long.
            let idle = !inode.used() && inode.state.lock().idle();
            let same = inodes.get(&inode.ino).is_some_and(|known| Arc::ptr_eq(known, inode));
            if idle && same { inodes.remove(&inode.ino) } else { None }
        };
        // Dropped outside the lock: the last hold of an orphan releases its content.
        drop(removed);
    }

    /// All inodes in use, as of now.
    pub(crate) fn all(&self) -> Vec<Arc<OpenInode>> {
        self.inodes.lock().values().cloned().collect()
    }
}

/// What the content store needs to know of a content of the index.
pub(crate) fn object(content: &Content) -> Object {
    Object { file_id: content.file_id.clone(), size: content.size, fingerprint: content.fingerprint }
}
