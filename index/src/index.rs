//! The public face: what an open index offers, and how it is opened and closed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::Hold;
use crate::boot::{Start, boot};
use crate::checkpoint::Checkpointer;
use crate::contents::Contents;
use crate::core::{Core, Numbers, Sums};
use crate::error::{IndexError, Result};
use crate::garbage::Handout;
use crate::load::Readers;
use crate::lock::Lock;
use crate::schema::{self, Role};
use crate::table::Table;
use crate::types::*;
use crate::writer::{Queue, Writer};

/// Called once, on the writer thread, when what it waits for has happened or failed. It must be short and must not wait
/// for the index.
pub type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// A moment of a commit at which a test may look, or fail it.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Everything is written; an error rolls it back.
    BeforeCommit,
    /// It is committed, and nobody was told yet.
    AfterCommit,
}

/// What a test does at a [`Step`].
#[doc(hidden)]
pub type Fault = Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>;

/// How an index is opened.
#[derive(Clone)]
pub struct Options {
    /// Most inodes and directory entries kept in memory, together, beyond those in use (about 300 bytes each).
    pub cache_entries: usize,
    /// For tests: called at each step of a commit.
    #[doc(hidden)]
    pub fault: Option<Fault>,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_entries: 200_000, fault: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("cache_entries", &self.cache_entries).finish_non_exhaustive()
    }
}

/// An open index. `Send + Sync`; share it with an `Arc`.
///
/// Every call answers from memory; SQLite is read on a miss only. A change is in memory, and visible to everybody, when
/// the call returns; it is committed soon after, in order, and [`commit`](Index::commit) or [`sync`](Index::sync) wait for
/// that. After a commit has failed, every change is refused with `ReadOnly`.
#[derive(Debug)]
pub struct Index {
    core: Arc<Core>,
    running: Mutex<Option<Running>>,
}

/// What is stopped by closing.
#[derive(Debug)]
struct Running {
    writer: JoinHandle<Connection>,
    checkpointer: Arc<Checkpointer>,
    checkpoints: JoinHandle<()>,
    /// Released last.
    _lock: Lock,
}

impl Index {
    /// Opens the index at `path`, creates it if there is none, and takes its lock file (`path` + `.lock`).
    /// Reclaims what was unlinked but open when the last process ended. To be called after a process has become a daemon:
    /// neither threads nor the locks of SQLite survive a `fork`.
    ///
    /// Fails with `Busy` (another process has it), `Newer` (schema), `Foreign` (not an index), or the cause.
    pub fn open(path: &Path, options: Options) -> Result<Index> {
        let lock = Lock::take(path)?;
        let mut conn = schema::open(path)?;
        let Start { totals, next, reserved, next_content, last_garbage } = boot(&mut conn)?;
        let queue = Arc::new(Queue::new(last_garbage));
        let checkpointer = Arc::new(Checkpointer::new());
        let writer = Writer::new(Arc::clone(&queue), conn, Arc::clone(&checkpointer), options.fault)?;
        let checkpoint_conn = schema::connect(path, Role::Checkpointer)?;
        let core = Core {
            table: Table::new(options.cache_entries),
            contents: Mutex::new(Contents::new(next_content, GarbageId(last_garbage.0 + 1), options.cache_entries / 4)),
            queue,
            readers: Readers::new(path),
            numbers: Numbers::new(next, reserved),
            garbage: Mutex::new(Handout::default()),
            sums: Sums::new(totals),
            renames: Mutex::new(()),
        };
        let checkpoints = spawn("index-log", path, {
            let checkpointer = Arc::clone(&checkpointer);
            move || checkpointer.run(checkpoint_conn)
        })?;
        let writer = match spawn("index-write", path, || writer.run()) {
            Ok(writer) => writer,
            Err(error) => {
                checkpointer.stop();
                return Err(error);
            }
        };
        let running = Running { writer, checkpointer, checkpoints, _lock: lock };
        Ok(Index { core: Arc::new(core), running: Mutex::new(Some(running)) })
    }

    // Namespace

    /// The inode that `name` in `dir` leads to.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        self.core.lookup(dir, name)
    }

    /// The attributes of `ino`.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.core.node(ino)?.attr()
    }

    /// Changes attributes, and nothing else: the caller says what becomes of `ctime`.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.core.setattr(ino, set)
    }

    /// Calls `f(cookie, name, attributes)` for each entry of `dir` whose cookie is above `after`, in order of the
    /// cookies, until it returns false. `.` and `..` are the caller's. No lock is held during `f`.
    ///
    /// Cookies are at least [`FIRST_COOKIE`] and stay with an entry; new entries get higher ones. So an entry that
    /// is there all the time is reported exactly once, whatever else changes meanwhile.
    pub fn readdir(&self, dir: Ino, after: u64, f: &mut dyn FnMut(u64, &[u8], &Attr) -> bool) -> Result<()> {
        self.core.readdir(dir, after, f)
    }

    /// A cookie that no present entry exceeds and every later one does. A listing that stops there terminates even
    /// when its reader creates entries for those it sees.
    pub fn horizon(&self) -> u64 {
        self.core.numbers.last()
    }

    /// The parent of a directory; of the root, the root.
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        self.core.parent(dir)
    }

    /// One path of an inode, from the root, for people: as of the last commit, so there is none yet for what is newer.
    /// `dir` is a directory where it may be; if it is not there, all entries are looked through, except in a very large
    /// tree.
    pub fn path(&self, ino: Ino, dir: Option<Ino>) -> Result<Option<PathBuf>> {
        self.core.path(ino, dir)
    }

    /// Creates an inode of any kind under `name` in `dir`; all its times are `now`, and `dir`'s `mtime` and `ctime`.
    pub fn create(&self, dir: Ino, name: &[u8], new: &NewInode, now: Timestamp) -> Result<Attr> {
        self.core.create(dir, name, new, now)
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Arc<[u8]>> {
        self.core.readlink(ino)
    }

    /// Gives `ino`, which must not be a directory, one more name.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        self.core.link(ino, dir, name, now)
    }

    /// Removes a name of something that is not a directory; the answer is the inode after that. With its last name and
    /// no [`Hold`] the inode is gone and its content released.
    pub fn unlink(&self, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        self.core.unlink(dir, name, now)
    }

    /// Removes an empty directory; the answer is the inode after that.
    pub fn rmdir(&self, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        self.core.rmdir(dir, name, now)
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
        self.core.rename(dir, name, new_dir, new_name, mode, now)
    }

    /// Keeps `ino` alive, even without a name, until the hold drops.
    pub fn hold(&self, ino: Ino) -> Result<Hold> {
        Hold::new(&self.core, ino)
    }

    // Extended attributes

    /// The value of an extended attribute, or `NoAttribute`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>> {
        self.core.getxattr(ino, name)
    }

    /// Sets an extended attribute; `ctime` becomes `now`.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode, now: Timestamp) -> Result<()> {
        self.core.setxattr(ino, name, value, mode, now)
    }

    /// The names of the extended attributes, sorted.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Arc<[u8]>>> {
        self.core.listxattr(ino)
    }

    /// Removes an extended attribute, or fails with `NoAttribute`; `ctime` becomes `now`.
    pub fn removexattr(&self, ino: Ino, name: &[u8], now: Timestamp) -> Result<()> {
        self.core.removexattr(ino, name, now)
    }

    // Contents

    /// The stored content of `ino`; `None`: there is none (an empty file, or not a regular one).
    pub fn content(&self, ino: Ino) -> Result<Option<Content>> {
        self.core.content(ino)
    }

    /// The cluster does not have the content of `ino` any more, which went by this file ID. Nobody else will get a
    /// reference to it, until [`attach`](Index::attach) brings the same content with another file ID: that one replaces
    /// the lost one for all who refer to it. `false`: it was known, or does not matter any more.
    pub fn content_lost(&self, ino: Ino, file_id: &str) -> Result<bool> {
        self.core.content_lost(ino, file_id)
    }

    /// Deduplication before an upload: if a content of that fingerprint and size is known, `ino` refers to it from now on
    /// (size and times set, its former content released). `None`: it is unknown, nothing was changed.
    pub fn reuse(
        &self,
        ino: Ino,
        fingerprint: &Fingerprint,
        size: u64,
        along: impl Into<Along>,
    ) -> Result<Option<Attr>> {
        self.core.reuse(ino, fingerprint, size, along.into())
    }

    /// Lets `ino` refer to a content that the storage has acknowledged (size and times set, its former content
    /// released). If the fingerprint became known meanwhile, the known content is used and the new file ID is garbage.
    /// With the file ID of the mutable content `ino` has already, that one is updated in place.
    pub fn attach(&self, ino: Ino, new: NewContent, along: impl Into<Along>) -> Result<Attr> {
        self.core.attach(ino, new, along.into())
    }

    /// Lets `to` refer to the content of `from`, which must be `content`, and have its size: a copy without copying.
    /// `None`: `from` has another content by now, or one that is lost; nothing was changed. Mutable content is `Invalid`.
    pub fn clone_content(
        &self,
        from: Ino,
        to: Ino,
        content: ContentId,
        along: impl Into<Along>,
    ) -> Result<Option<Attr>> {
        self.core.clone_content(from, to, content, along.into())
    }

    /// Whether changes are taken, as far as is known. Never waits.
    ///
    /// # Errors
    /// `Closed`; `ReadOnly` since a commit has failed.
    pub fn accepts_changes(&self) -> Result<()> {
        self.core.queue.check_changes()
    }

    /// Releases the content of `ino`; its size becomes 0.
    pub fn clear_content(&self, ino: Ino, along: impl Into<Along>) -> Result<Attr> {
        self.core.clear_content(ino, along.into())
    }

    // Garbage

    /// Hands out up to `limit` file IDs to delete from the cluster. Each is handed out once until it is given back with
    /// [`garbage_failed`](Index::garbage_failed). Nothing refers to them, on stable storage.
    pub fn garbage(&self, limit: usize) -> Result<Vec<(GarbageId, Arc<str>)>> {
        self.core.garbage(limit)
    }

    /// These are deleted from the cluster.
    pub fn garbage_done(&self, done: &[GarbageId]) -> Result<()> {
        self.core.garbage_done(done)
    }

    /// These could not be deleted; they will be handed out again.
    pub fn garbage_failed(&self, failed: &[GarbageId]) {
        self.core.garbage_failed(failed);
    }

    /// Calls `wake` (on the writer thread, so it must be short) whenever there may be new garbage to hand out.
    /// It replaces an earlier one. What is there already when the index is opened is not announced.
    pub fn garbage_notify(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.core.queue.set_garbage_wake(wake.into());
    }

    /// Queues a file ID that was stored but never became referenced. One that is referenced is `Invalid`.
    pub fn discard(&self, file_id: &str) -> Result<()> {
        self.core.discard(file_id)
    }

    // Durability

    /// Calls back when all that was changed so far, by anybody, is committed: it survives the death of this process.
    pub fn on_commit(&self, done: Callback) {
        self.core.queue.on_done(false, done);
    }

    /// Calls back when all that was changed so far, by anybody, is on stable storage: it survives a power cut.
    pub fn on_sync(&self, done: Callback) {
        self.core.queue.on_done(true, done);
    }

    /// Waits until all that was changed so far, by anybody, is committed: it survives the death of this process.
    pub fn commit(&self) -> Result<()> {
        self.core.queue.wait(false)
    }

    /// Waits until all that was changed so far, by anybody, is on stable storage: it survives a power cut.
    pub fn sync(&self) -> Result<()> {
        self.core.queue.wait(true)
    }

    // Local data not yet in the cluster

    /// Remembers, or updates, where the staged data of an inode is. Forgotten with the inode.
    pub fn stage_put(&self, row: StagedRow) -> Result<()> {
        self.core.stage_put(row)
    }

    /// The inode has no staged data any more.
    pub fn stage_remove(&self, ino: Ino) -> Result<()> {
        self.core.stage_remove(ino)
    }

    /// All staged data (waits for a commit; meant for start-up).
    pub fn staged(&self) -> Result<Vec<StagedRow>> {
        self.core.staged()
    }

    // The whole

    /// The sums over the index, as of now.
    pub fn stats(&self) -> IndexStats {
        self.core.sums.stats()
    }

    /// Commits everything to stable storage, folds the log into the database and releases the lock. Further calls fail
    /// with `Closed`. Dropping the index does the same, without an answer.
    pub fn close(&self) -> Result<()> {
        let mut running = self.running.lock();
        let Some(Running { writer, checkpointer, checkpoints, _lock }) = running.take() else { return Ok(()) };
        self.core.queue.stop();
        checkpointer.stop();
        let conn = writer.join();
        let log = checkpoints.join();
        self.core.readers.close();
        let (Ok(conn), Ok(())) = (conn, log) else {
            return Err(IndexError::Corrupt("a thread of the index ended in a panic".to_owned()));
        };
        self.core.queue.outcome()?;
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        conn.close().map_err(|(_, error)| error)?;
        Ok(())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the index failed");
        }
    }
}

/// Starts a thread of the index at `path`.
fn spawn<T: Send + 'static>(
    name: &str,
    path: &Path,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.map_err(|error| IndexError::io("start a thread for", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_does_not_grow_with_the_index() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("index.db");
        let index = Index::open(&path, Options { cache_entries: 2000, ..Options::default() }).unwrap();
        let new = |kind| NewInode { kind, mode: 0, uid: 0, gid: 0, rdev: 0, target: None };
        let now = Timestamp::default();
        let dir = index.create(Ino::ROOT, b"big", &new(FileKind::Directory), now).unwrap().ino;
        for number in 0..20_000 {
            index.create(dir, number.to_string().as_bytes(), &new(FileKind::Regular), now).unwrap();
            if number % 500 == 0 {
                index.commit().unwrap();
            }
            // What is not committed has to stay, on top of the cap and the names a directory in use keeps.
            assert!(index.core.table.weight() <= 2000 + 1024 + 2 * 500 + 200, "{}", index.core.table.weight());
        }
        index.commit().unwrap();
        for number in (0..20_000).step_by(13) {
            index.lookup(dir, number.to_string().as_bytes()).unwrap();
            assert!(index.core.table.weight() <= 2000 + 1024 + 200, "{}", index.core.table.weight());
        }
        let mut seen = 0;
        index
            .readdir(dir, 0, &mut |_, _, _| {
                seen += 1;
                true
            })
            .unwrap();
        assert_eq!(seen, 20_000);
        assert!(index.core.table.weight() <= 2000 + 1024 + 200, "{}", index.core.table.weight());
        let again = index.create(dir, b"77", &new(FileKind::Regular), now);
        assert!(matches!(again, Err(IndexError::Exists)));
    }
}
