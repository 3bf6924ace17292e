//! The bytes of files: staging of what is written, reading of what is stored.
//!
//! The tree above knows inodes and paths; a content store knows immutable [`Object`]s, named by FastDFS file IDs,
//! and [`Stage`]s, local copies of content that is being written. It knows nothing of the namespace.
//!
//! Invariants every implementation keeps:
//! - A read returns exactly the bytes of its object or an error, never other bytes.
//! - A [`Stored`] content has been acknowledged by the storage as complete under its final file ID.
//! - What a stage holds is lost only when it is dropped without [`Stage::keep`]; no failure of the cluster loses it.
//! - Nothing here blocks its caller on the network. Only local page-cache work runs on the calling thread.
//! - Every operation on the cluster ends within a bounded time, with a result or an error.
//!
//! | module | job |
//! |---|---|
//! | `staging` | content being written, until the cluster has it |
//! | `reading` | stored content being read: readahead, verification |
//! | `cache` | stored content on the local disk |
//! | `remote`, `cluster`, `disk` | the cluster: what is needed of it; over the FastDFS client; past it, where its files are on this host |
//! | `sums` | checksums of the parts of large contents |
//! | `store` | all of that put together over one runtime |
//! | [`memory`] | a store in memory, with faults and delays, for tests of the tree |

mod cache;
mod cluster;
mod disk;
mod error;
mod extents;
pub mod memory;
mod reading;
mod remote;
mod sizes;
mod staging;
mod store;
mod sums;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

pub use cluster::ClusterStore;
pub use disk::Disk;
pub use error::ContentError;
pub use fdfs_index::Fingerprint;
pub use fdfs_protocol::ExtName;
pub use staging::Discard;
pub use store::{Store, StoreConfig};

/// Called once with the outcome of an operation.
///
/// Unless the operation says otherwise, it runs on a thread of the store, after the call that took it has returned,
/// so a caller may hold its locks across the call and take them again in the callback. It must not block for long:
/// other files wait behind it.
pub type Callback<T> = Box<dyn FnOnce(T) + Send>;

/// Called once with the bytes read: fewer than asked for at the end of the content, empty beyond it.
///
/// May run on the calling thread before the call returns, when the bytes are at hand; it must therefore not take a
/// lock that the caller of `read` holds. Otherwise it runs on a thread of the store.
pub type ReadDone = Box<dyn for<'a> FnOnce(Result<&'a [u8], ContentError>) + Send>;

/// Asked before an upload: is content with this fingerprint and size known already?
///
/// `true` means that the index holds it and has taken a reference for this file: nothing is uploaded. Runs on a
/// thread of the store, never inside [`Stage::seal`].
pub type Known = Box<dyn FnOnce(&Fingerprint, u64) -> bool + Send>;

/// A piece of immutable stored content, as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The FastDFS file ID, `group1/M00/00/00/…`.
    pub file_id: Arc<str>,
    /// Length in bytes.
    pub size: u64,
    /// BLAKE3-256 of the content, where it is known (adopted files may have none).
    pub fingerprint: Option<Fingerprint>,
}

/// Content that the storage has acknowledged, not yet referenced by anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The FastDFS file ID it got.
    pub file_id: String,
    /// BLAKE3-256 of the content.
    pub fingerprint: Fingerprint,
    /// Length in bytes.
    pub size: u64,
}

/// How a seal ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// The content equals what the stage began with or what its last successful seal gave: nothing was done.
    Unchanged,
    /// The content is empty. There is nothing to store.
    Empty,
    /// `known` said yes: the index has the content and has counted this reference.
    Known {
        /// BLAKE3-256 of the content.
        fingerprint: Fingerprint,
        /// Length in bytes.
        size: u64,
    },
    /// The content was uploaded and is acknowledged.
    Stored(Stored),
}

/// Local data that survives a restart of this process, for the index's table of staged data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The staging file. Pass it to [`ContentStore::recover`] after a restart.
    pub path: PathBuf,
    /// Length of the content in bytes (not of the file: ranges that come from stored content are not in it).
    pub size: u64,
}

/// Staged data of an earlier process, brought back.
pub struct Recovered {
    /// The content; dirty.
    pub stage: Box<dyn Stage>,
    /// The stored content that shows through it: it must not be deleted meanwhile.
    pub base: Option<Object>,
}

/// Room in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes of all store paths of all groups, one replica counted.
    pub total: u64,
    /// Bytes of it that can still be written.
    pub free: u64,
}

/// Where the bytes of a mounted tree live.
pub trait ContentStore: Send + Sync + 'static {
    /// Begins new content of one file: a copy-on-write view of `base`, cut or extended with zeros to `size`.
    ///
    /// For a new file, or one opened with `O_TRUNC`, `base` is `None` and `size` 0. Fast: no I/O.
    fn stage(&self, base: Option<&Object>, size: u64) -> Result<Box<dyn Stage>, ContentError>;

    /// Brings back a stage that an earlier process left with [`Stage::keep`]; it is dirty, so that a seal uploads it.
    ///
    /// Reads local files only. [`ContentError::NotFound`]: there is no such staged data. [`ContentError::Corrupt`]: it is
    /// damaged, see [`give_up`](ContentStore::give_up).
    fn recover(&self, kept: &Kept) -> Result<Recovered, ContentError>;

    /// What an earlier process [set apart](Stage::set_apart), with its owners.
    fn apart(&self) -> Result<Vec<(u64, Kept)>, ContentError>;

    /// Takes up what was set apart: refer to the answer, then [`sweep`](ContentStore::sweep).
    fn adopt(&self, kept: &Kept) -> Result<Kept, ContentError>;

    /// Leaves staged data that is of no use here to people: its files stay, and are not looked at again.
    fn give_up(&self, kept: &Kept) -> Result<(), ContentError>;

    /// Removes local files that an earlier process left behind and `keep` does not name, except what was given up. Call
    /// once, at start.
    fn sweep(&self, keep: &[Kept]) -> Result<(), ContentError>;

    /// Opens stored content for reading. Costs nothing until the first read; dropping the reader closes it.
    ///
    /// One reader per open file: its readahead follows the pattern of that one user.
    fn open(&self, object: &Object) -> Box<dyn Reader>;

    /// A local file holding exactly this content, if there is one: for FUSE passthrough, or for reading it in place.
    fn local(&self, object: &Object) -> Option<Arc<File>> {
        let _ = object;
        None
    }

    /// Deletes stored content from the cluster. Content that is not there counts as deleted.
    fn remove(&self, file_id: &str, done: Callback<Result<(), ContentError>>);

    /// Makes acknowledged content durable on its storage, for `fsync`. `Ok(false)`: the storage offers no way to ask
    /// for that, and acknowledgement is all there is (the mount warns about this once, at start).
    fn persist(&self, file_id: &str, done: Callback<Result<bool, ContentError>>);

    /// Room in the cluster: from memory, refreshed in the background.
    fn space(&self) -> Result<Space, ContentError>;
}

/// Content of one file while it is being changed.
///
/// All methods are local and fast, made to be called under the lock of the inode. Dropping a stage forgets its data,
/// unless [`keep`](Stage::keep) was called after the last seal; a seal under way still ends and reports.
pub trait Stage: Send {
    /// Length of the content in bytes.
    fn size(&self) -> u64;

    /// The extension that the file ID shall have: web servers choose the content type by it. A hint; known content
    /// keeps the file ID it has.
    fn set_extension(&mut self, extension: ExtName) {
        let _ = extension;
    }

    /// Writes `data` at `offset`; beyond the end, the gap reads as zeros.
    ///
    /// After an error (of the local disk: [`ContentError::Local`]) the content is as before.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), ContentError>;

    /// Cuts the content, or extends it with zeros, to `size` bytes.
    fn truncate(&mut self, size: u64) -> Result<(), ContentError>;

    /// Makes a range read as zeros and frees its space where possible. Never changes the size.
    fn punch(&mut self, range: Range<u64>) -> Result<(), ContentError>;

    /// Reads up to `len` bytes at `offset`, as of this call: later writes do not show in it.
    fn read(&mut self, offset: u64, len: usize, done: ReadDone);

    /// Whether the content differs from what the stage began with and from its last successful seal. A seal that
    /// succeeded counts from when its `done` is called, even before that returns.
    fn dirty(&self) -> bool;

    /// What the last seal gave has not become the content of the file: the next seal begins anew.
    fn unsealed(&mut self);

    /// Brings the content, as it is at this call, into the cluster; writes that follow do not change what is sealed.
    ///
    /// Seals of one stage run one after the other: `done` of an earlier one returns before a later one begins. The
    /// stage stays usable. After an error its data is all there, and a later seal tries again.
    fn seal(&mut self, known: Known, done: Callback<Result<Sealed, ContentError>>);

    /// Makes the content survive a restart of this process: what a failed close calls, before it returns its error.
    ///
    /// The data stays until the stage is sealed successfully and dropped, or [`discard`](Stage::discard)ed: so drop
    /// it only after the index has committed what the seal gave. Changes made after the call are covered only by the
    /// next call.
    fn keep(&mut self) -> Result<Kept, ContentError>;

    /// The index cannot take note of what [`keep`](Stage::keep) gave: notes the owner beside the data, for
    /// [`ContentStore::apart`].
    fn set_apart(&mut self, owner: u64) -> Result<(), ContentError>;

    /// Forgets the content, kept or not, and removes its local files.
    fn discard(self: Box<Self>);
}

/// Stored content, open for reading.
pub trait Reader: Send + Sync {
    /// Reads up to `len` bytes at `offset`.
    fn read(&self, offset: u64, len: usize, done: ReadDone);
}
