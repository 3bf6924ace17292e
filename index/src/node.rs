//! An inode in memory.
//!
//! Invariants:
//! - While an inode is in the table there is one `Node` for it, and it is the truth.
//! - A thread that holds the lock of one node takes that of another only through [`Locked`], which takes all it needs at
//!   once, in the order of their numbers. So node locks cannot deadlock.
//! - A node that is not committed (`seq`), or that somebody else has an `Arc` of, stays in the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{RwLock, RwLockWriteGuard};

use crate::delta::{Delta, InodeRow, Name, Tx};
use crate::dir::{Dir, Entry};
use crate::error::{IndexError, Result};
use crate::types::*;

/// An inode in memory.
#[derive(Debug)]
pub(crate) struct Node {
    pub ino: Ino,
    pub kind: FileKind,
    /// Asked for since the last sweep.
    pub used: AtomicBool,
    pub state: RwLock<State>,
}

/// What can change about an inode.
#[derive(Debug)]
pub(crate) struct State {
    pub attr: Attr,
    /// Of a directory; changes only under the rename lock.
    pub parent: Option<Ino>,
    /// Of a symbolic link.
    pub target: Option<Name>,
    /// `None`: not loaded; then `xattr_count` says how many the database has.
    pub xattrs: Option<BTreeMap<Name, Name>>,
    pub xattr_count: u32,
    /// Of a directory.
    pub dir: Option<Box<Dir>>,
    /// How many [`Hold`](crate::Hold)s keep it without a name.
    pub holds: u32,
    /// It is reclaimed. The node stays until that is committed, so that nobody finds the old row.
    pub gone: bool,
    /// Sequence number of the last change; 0: as loaded.
    pub seq: u64,
}

impl Node {
    /// An inode that was just made; nothing of it is in the database.
    pub fn created(attr: Attr, parent: Option<Ino>, target: Option<Name>) -> Node {
        let dir = (attr.kind == FileKind::Directory).then(|| Box::new(Dir::new_empty()));
        Node::new(InodeRow { attr, parent, target, xattrs: 0 }, dir)
    }

    /// An inode as the database has it.
    pub fn loaded(row: InodeRow) -> Node {
        let dir = (row.attr.kind == FileKind::Directory).then(|| {
            // An empty directory needs no look-up to be known completely.
            Box::new(if row.attr.size == 0 { Dir::new_empty() } else { Dir::default() })
        });
        Node::new(row, dir)
    }

    fn new(row: InodeRow, dir: Option<Box<Dir>>) -> Node {
        let InodeRow { attr, parent, target, xattrs } = row;
        Node {
            ino: attr.ino,
            kind: attr.kind,
            used: AtomicBool::new(false),
            state: RwLock::new(State {
                attr,
                parent,
                target,
                xattrs: (xattrs == 0).then(BTreeMap::new),
                xattr_count: xattrs,
                dir,
                holds: 0,
                gone: false,
                seq: 0,
            }),
        }
    }

    pub fn touch(&self) {
        // Looked at first: a store by every reader would pass the cache line around.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// The attributes, unless the inode is gone.
    pub fn attr(&self) -> Result<Attr> {
        let state = self.state.read();
        if state.gone { Err(IndexError::NotFound) } else { Ok(state.attr) }
    }
}

impl State {
    /// Fails if the inode is gone.
    pub fn alive(&mut self) -> Result<&mut State> {
        if self.gone { Err(IndexError::NotFound) } else { Ok(self) }
    }

    /// Fails unless this is a directory to which entries can be added.
    pub fn open_dir(&mut self) -> Result<&mut State> {
        if self.attr.kind != FileKind::Directory {
            return Err(IndexError::NotDirectory);
        }
        if self.gone || self.attr.nlink == 0 {
            return Err(IndexError::NotFound);
        }
        Ok(self)
    }

    /// The row to be written.
    pub fn row(&self) -> Delta {
        Delta::Inode(InodeRow {
            attr: self.attr,
            parent: self.parent,
            target: self.target.clone(),
            xattrs: self.xattr_count,
        })
    }

    /// The change times of a directory whose entries changed.
    pub fn entries_changed(&mut self, now: Timestamp) {
        self.attr.mtime = now;
        self.attr.ctime = now;
    }

    /// Makes `name` lead to `entry`.
    pub fn put_entry(&mut self, name: &Name, entry: Entry, tx: &mut Tx) {
        if let Some(dir) = &mut self.dir {
            dir.put(name, entry);
            let to = Some((entry.ino, entry.cookie));
            tx.push(Delta::Dentry { dir: self.attr.ino, name: Name::clone(name), to });
        }
    }

    /// Removes `name`.
    pub fn remove_entry(&mut self, name: &Name, tx: &mut Tx) {
        if let Some(dir) = &mut self.dir {
            dir.remove(name);
            tx.push(Delta::Dentry { dir: self.attr.ino, name: Name::clone(name), to: None });
        }
    }
}

/// Most inodes one operation changes: two directories, and what their entries lead to.
const MOST: usize = 4;

/// The write locks of all inodes that one operation changes.
pub(crate) struct Locked<'a> {
    states: [Option<RwLockWriteGuard<'a, State>>; MOST],
}

impl<'a> Locked<'a> {
    /// Locks `nodes` (at most [`MOST`]) in the order of their numbers; naming one twice is fine.
    pub fn new<const N: usize>(nodes: [&'a Arc<Node>; N]) -> Locked<'a> {
        const { assert!(N <= MOST) };
        let mut nodes = nodes;
        nodes.sort_by_key(|node| node.ino);
        let mut states = [const { None }; MOST];
        let mut last = None;
        for (slot, node) in states.iter_mut().zip(nodes) {
            if last != Some(node.ino) {
                *slot = Some(node.state.write());
            }
            last = Some(node.ino);
        }
        Locked { states }
    }

    /// Adds the lock of a node that nobody else can know yet.
    pub fn add_new(&mut self, node: &'a Node) {
        if let Some(slot) = self.states.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(node.state.write());
        }
    }

    /// The state of one of them.
    ///
    /// # Panics
    /// If `ino` is not among those that were locked, which is a mistake of the calling operation.
    pub fn at(&mut self, ino: Ino) -> &mut State {
        match self.states.iter_mut().flatten().find(|state| state.attr.ino == ino) {
            Some(state) => state,
            None => unreachable!("inode {ino} is used without its lock"),
        }
    }

    /// The state of `ino`, if it is among those that were locked.
    pub fn find(&mut self, ino: Ino) -> Option<&mut State> {
        self.states.iter_mut().flatten().map(|state| &mut **state).find(|state| state.attr.ino == ino)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut State> {
        self.states.iter_mut().flatten().map(|state| &mut **state)
    }
}
