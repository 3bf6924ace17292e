//! The public face.

use std::path::Path;
use std::sync::Arc;

use crate::Hold;
use crate::error::{IndexError, Result};
use crate::types::*;

/// Called once, on the writer thread, when what it waits for has happened or failed. It must be short
/// and must not wait for the index.
pub type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// How an index is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most inodes and directory entries kept in memory, together, beyond those in use (about 300 bytes each).
    pub cache_entries: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_entries: 200_000 }
    }
}

/// An open index. `Send + Sync`; share it with an `Arc`.
///
/// Every call answers from memory; SQLite is read on a miss only. A change is in memory, and visible to
/// everybody, when the call returns; it is committed soon after, in order, and [`commit`](Index::commit)
/// or [`sync`](Index::sync) wait for that.
#[derive(Debug)]
pub struct Index {}

#[allow(unused_variables)]
impl Index {
    /// Opens the index at `path`, creates it if there is none, and takes its lock file (`path` + `.lock`).
    /// Reclaims what was unlinked but open when the last process ended.
    ///
    /// Fails with `Busy` (another process has it), `Newer` (schema), `Foreign` (not an index), or the cause.
    pub fn open(path: &Path, options: Options) -> Result<Index> {
        Err(IndexError::Closed)
    }

    // Namespace

    /// The inode that `name` in `dir` leads to.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// The attributes of `ino`.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// Changes attributes, and nothing else: the caller says what becomes of `ctime`.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// Calls `f(cookie, name, attributes)` for each entry of `dir` whose cookie is above `after`, in order of the
    /// cookies, until it returns false. `.` and `..` are the caller's. No lock is held during `f`.
    ///
    /// Cookies are at least [`FIRST_COOKIE`] and stay with an entry; new entries get higher ones. So an entry that
    /// is there all the time is reported exactly once, whatever else changes meanwhile.
    pub fn readdir(&self, dir: Ino, after: u64, f: &mut dyn FnMut(u64, &[u8], &Attr) -> bool) -> Result<()> {
        Err(IndexError::Closed)
    }

    /// A cookie that no present entry exceeds and every later one does. A listing that stops there terminates even
    /// when its reader creates entries for those it sees.
    pub fn horizon(&self) -> u64 {
        0
    }

    /// The parent of a directory; of the root, the root.
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        Err(IndexError::Closed)
    }

    /// Creates an inode of any kind under `name` in `dir`; all its times are `now`, and `dir`'s `mtime` and `ctime`.
    pub fn create(&self, dir: Ino, name: &[u8], new: &NewInode, now: Timestamp) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Arc<[u8]>> {
        Err(IndexError::Closed)
    }

    /// Gives `ino`, which must not be a directory, one more name.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// Removes a name of something that is not a directory; the answer is the inode after that. With its last name and
    /// no [`Hold`] the inode is gone and its content released.
    pub fn unlink(&self, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// Removes an empty directory; the answer is the inode after that.
    pub fn rmdir(&self, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// Moves an entry, atomically. The answer is the inode that was replaced (as it is after that), or that was swapped.
    pub fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        mode: RenameMode,
        now: Timestamp,
    ) -> Result<Option<Attr>> {
        Err(IndexError::Closed)
    }

    /// Keeps `ino` alive, even without a name, until the hold drops.
    pub fn hold(&self, ino: Ino) -> Result<Hold> {
        Ok(Hold::new(ino))
    }

    // Extended attributes

    /// The value of an extended attribute, or `NoAttribute`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>> {
        Err(IndexError::Closed)
    }

    /// Sets an extended attribute; `ctime` becomes `now`.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode, now: Timestamp) -> Result<()> {
        Err(IndexError::Closed)
    }

    /// The names of the extended attributes, sorted.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Arc<[u8]>>> {
        Err(IndexError::Closed)
    }

    /// Removes an extended attribute, or fails with `NoAttribute`; `ctime` becomes `now`.
    pub fn removexattr(&self, ino: Ino, name: &[u8], now: Timestamp) -> Result<()> {
        Err(IndexError::Closed)
    }

    // Contents

    /// The stored content of `ino`; `None`: there is none (an empty file, or not a regular one).
    pub fn content(&self, ino: Ino) -> Result<Option<Content>> {
        Err(IndexError::Closed)
    }

    /// Deduplication before an upload: if a content of that fingerprint and size is known, `ino` refers to it from now on
    /// (size, `mtime` and `ctime` set, its former content released). `None`: it is unknown, nothing was changed.
    pub fn reuse(&self, ino: Ino, fingerprint: &Fingerprint, size: u64, mtime: Timestamp) -> Result<Option<Attr>> {
        Err(IndexError::Closed)
    }

    /// Lets `ino` refer to a content that the storage has acknowledged (size, `mtime` and `ctime` set, its former content
    /// released). If the fingerprint became known meanwhile, the known content is used and the new file ID is garbage.
    /// With the file ID of the mutable content `ino` has already, that one is updated in place.
    pub fn attach(&self, ino: Ino, new: NewContent, mtime: Timestamp) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// Lets `to` refer to the content of `from`, and have its size: a copy without copying. Mutable content is `Invalid`.
    pub fn clone_content(&self, from: Ino, to: Ino, mtime: Timestamp) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    /// Releases the content of `ino`; its size becomes 0.
    pub fn clear_content(&self, ino: Ino, mtime: Timestamp) -> Result<Attr> {
        Err(IndexError::Closed)
    }

    // Garbage

    /// Hands out up to `limit` file IDs to delete from the cluster. Each is handed out once until it is given back with
    /// [`garbage_failed`](Index::garbage_failed). Nothing refers to them, on stable storage.
    pub fn garbage(&self, limit: usize) -> Result<Vec<(GarbageId, Arc<str>)>> {
        Err(IndexError::Closed)
    }

    /// These are deleted from the cluster.
    pub fn garbage_done(&self, done: &[GarbageId]) -> Result<()> {
        Err(IndexError::Closed)
    }

    /// These could not be deleted; they will be handed out again.
    pub fn garbage_failed(&self, failed: &[GarbageId]) {}

    /// Calls `wake` (on the writer thread, so it must be short) whenever there may be new garbage to hand out.
    /// It replaces an earlier one.
    pub fn garbage_notify(&self, wake: Box<dyn Fn() + Send + Sync>) {}

    /// Queues a file ID that was stored but never became referenced. One that is referenced is `Invalid`.
    pub fn discard(&self, file_id: &str) -> Result<()> {
        Err(IndexError::Closed)
    }

    // Durability

    /// Calls back when all that was changed so far, by anybody, is committed: it survives the death of this process.
    pub fn on_commit(&self, done: Callback) {}

    /// Calls back when all that was changed so far, by anybody, is on stable storage: it survives a power cut.
    pub fn on_sync(&self, done: Callback) {}

    /// Waits until all that was changed so far, by anybody, is committed: it survives the death of this process.
    pub fn commit(&self) -> Result<()> {
        Err(IndexError::Closed)
    }

    /// Waits until all that was changed so far, by anybody, is on stable storage: it survives a power cut.
    pub fn sync(&self) -> Result<()> {
        Err(IndexError::Closed)
    }

    // Local data not yet in the cluster

    /// Remembers, or updates, where the staged data of an inode is. Forgotten with the inode.
    pub fn stage_put(&self, row: StagedRow) -> Result<()> {
        Err(IndexError::Closed)
    }

    /// The inode has no staged data any more.
    pub fn stage_remove(&self, ino: Ino) -> Result<()> {
        Err(IndexError::Closed)
    }

    /// All staged data (waits for a commit; meant for start-up).
    pub fn staged(&self) -> Result<Vec<StagedRow>> {
        Err(IndexError::Closed)
    }

    // The whole

    /// The sums over the index, as of now.
    pub fn stats(&self) -> IndexStats {
        IndexStats::default()
    }

    /// Commits everything to stable storage, folds the log into the database and releases the lock. Further calls fail
    /// with `Closed`. Dropping the index does the same, without an answer.
    pub fn close(&self) -> Result<()> {
        Err(IndexError::Closed)
    }
}
