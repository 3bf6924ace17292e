//! What a change leaves to be written: the final state of each row it touched, and the change of the sums.
//!
//! Invariants:
//! - One user-visible operation makes one [`Tx`], and a `Tx` is never split over two transactions.
//! - A delta states a whole row, so of several deltas for one row only the last has to be written.
//! - An inode number that is gone never comes back.

use std::ops::AddAssign;
use std::sync::Arc;

use crate::types::*;

/// A name or a value, shared between memory and the queue.
pub(crate) type Name = Arc<[u8]>;

/// The row of an inode.
#[derive(Debug, Clone)]
pub(crate) struct InodeRow {
    pub attr: Attr,
    /// Of a directory.
    pub parent: Option<Ino>,
    /// Of a symbolic link.
    pub target: Option<Name>,
    pub xattrs: u32,
}

/// The new state of one row; `None` and `Gone` delete it.
#[derive(Debug, Clone)]
pub(crate) enum Delta {
    Inode(InodeRow),
    /// Takes extended attributes, staged and orphan rows with it.
    InodeGone(Ino),
    Dentry {
        dir: Ino,
        name: Name,
        to: Option<(Ino, u64)>,
    },
    Xattr {
        ino: Ino,
        name: Name,
        value: Option<Name>,
    },
    Orphan(Ino),
    Content(Content),
    ContentGone(ContentId),
    Garbage(GarbageId, Arc<str>),
    GarbageGone(GarbageId),
    Staged(StagedRow),
    StagedGone(Ino),
    /// Inode numbers and cookies below this may be in use.
    Reserve(u64),
}

/// The change of the sums that [`IndexStats`] shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub inodes: i64,
    pub contents: i64,
    pub logical_bytes: i64,
    pub stored_bytes: i64,
    pub garbage: i64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.inodes += other.inodes;
        self.contents += other.contents;
        self.logical_bytes += other.logical_bytes;
        self.stored_bytes += other.stored_bytes;
        self.garbage += other.garbage;
    }
}

/// Everything one operation changes.
#[derive(Debug, Default)]
pub(crate) struct Tx {
    pub deltas: Vec<Delta>,
    pub totals: Totals,
}

impl Tx {
    pub fn new() -> Tx {
        Tx { deltas: Vec::with_capacity(6), totals: Totals::default() }
    }

    pub fn push(&mut self, delta: Delta) {
        self.deltas.push(delta);
    }
}

/// A size or a sum as it enters the signed sums. Sizes are kept below 2^63 everywhere.
pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
