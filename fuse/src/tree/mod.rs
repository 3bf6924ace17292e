//! The file system core: what each operation on a mounted tree means, without a kernel and without a cluster.
//!
//! The names, attributes and references are the index's ([`fdfs_index`]); the bytes are the content store's
//! ([`crate::content`]). The tree joins them: open files and their unsaved changes ([`inode`]), the way from a written
//! stage to a committed reference ([`seal`]), and what follows in the background ([`garbage`], [`retry`]).
//!
//! Invariants:
//! - `close` and `fsync` answer success only after the storage has acknowledged the content and the index has committed
//!   the reference to it; `fsync` also waits for stable storage of both.
//! - A failed upload is an error of the close or fsync that asked for it; the data stays staged, survives a restart, and
//!   is retried until it is stored, overwritten or unlinked.
//! - Nothing that the index refers to, or that is still being read, is deleted from the cluster.
//! - No operation waits for the network on the calling thread: what has to wait answers through a [`Done`].

mod attr;
mod copy;
mod data;
mod error;
mod extension;
mod extent;
mod garbage;
mod handle;
mod inode;
mod list;
mod names;
mod pins;
mod remembered;
mod retry;
mod seal;
mod stage;
mod worker;
mod xattr;

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use fdfs_index::{Index, Ino};
use parking_lot::Mutex;

pub use attr::{Changes, SetTime};
pub use data::{Access, Opened, Written};
pub use error::{Done, Result, TreeError};
pub use extent::{Allocate, Seek, Statistics};
pub use handle::Fh;
pub use list::Entry;
pub use names::Caller;
pub use worker::WorkerStatus;

use crate::content::ContentStore;
use handle::HandleTable;
use inode::OpenTable;
use pins::Pins;

/// When reading marks the access time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Atime {
    /// When it is not newer than the last change, or a day old.
    #[default]
    Relative,
    /// At the first read of every open file.
    Strict,
    /// Never.
    Never,
}

/// How a tree behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Refuse every change.
    pub read_only: bool,
    /// When reading marks the access time.
    pub atime: Atime,
    /// Largest size of a file in bytes; beyond it writes fail with `EFBIG`.
    pub max_file_size: u64,
    /// What the file ID is appended to in `user.fdfs.url`, with its slash: `http://host:8080/`. `None`: no such attribute.
    pub url_prefix: Option<String>,
    /// Whether [`Core::forget`] is called for every inode that its user has seen. Then inodes outlive their last name until
    /// that.
    pub forgotten: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            read_only: false,
            atime: Atime::default(),
            max_file_size: MAX_FILE_SIZE,
            url_prefix: None,
            forgotten: false,
        }
    }
}

/// The default of [`Options::max_file_size`], 8 TiB: a sparse file counts in full, because a stored file has no holes.
pub const MAX_FILE_SIZE: u64 = 8 << 40;

/// A mounted tree. Dropping it without [`Tree::close`] leaves unsaved changes behind.
pub struct Tree {
    core: Arc<Core>,
    workers: Vec<worker::Worker>,
}

/// What the operations share.
pub struct Core {
    pub(crate) index: Arc<Index>,
    pub(crate) store: Arc<dyn ContentStore>,
    pub(crate) options: Options,
    pub(crate) open: OpenTable,
    pub(crate) handles: HandleTable,
    pub(crate) pins: Arc<Pins>,
    pub(crate) remembered: remembered::Remembered,
    pub(crate) retries: Arc<retry::Retries>,
    pub(crate) collector: Arc<garbage::Collector>,
    /// Inodes of which damaged content may have been read; until the next open.
    pub(crate) doubtful: Arc<Mutex<HashSet<Ino>>>,
}

impl Deref for Tree {
    type Target = Arc<Core>;

    fn deref(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Tree {
    /// Opens the tree of an index: brings back data that an earlier process could not store, and starts the workers.
    pub fn open(index: Arc<Index>, store: Arc<dyn ContentStore>, options: Options) -> Result<Tree> {
        let core = Arc::new(Core {
            index,
            store,
            open: OpenTable::default(),
            handles: HandleTable::default(),
            pins: Arc::default(),
            remembered: Default::default(),
            retries: Arc::default(),
            collector: Arc::default(),
            doubtful: Arc::default(),
            options,
        });
        core.recover()?;
        let workers =
            if core.options.read_only { Vec::new() } else { vec![garbage::start(&core), retry::start(&core)] };
        Ok(Tree { core, workers })
    }

    /// The background work, for people and metrics.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.workers.iter().map(worker::Worker::status).collect()
    }

    /// Stores what is unsaved, ends the workers and commits everything to stable storage.
    ///
    /// The answer is the number of files whose data could not be stored: it is kept locally, and the next mount of the
    /// same index retries. The index stays open; the caller closes it.
    pub fn close(mut self) -> Result<usize> {
        for fh in self.core.handles.files() {
            self.core.release(fh);
        }
        self.core.remembered.clear();
        let failed = self.core.store_all();
        for worker in self.workers.drain(..) {
            worker.stop();
        }
        self.core.index.sync()?;
        Ok(failed)
    }
}

impl Core {
    /// Refuses changes on a read-only mount.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.options.read_only { Err(TreeError::ReadOnly) } else { Ok(()) }
    }
}
