//! Where staged bytes lie: buffers under a common budget, and files of the staging directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::content::ContentError;

/// Name endings in the staging directory.
pub(crate) const DATA: &str = "data";
pub(crate) const KEPT: &str = "kept";
pub(crate) const APPENDER: &str = "appender";
/// Records that the index could not take note of; the name tells whose.
pub(crate) const APART: &str = "apart";
/// Records that nothing refers to any more; left for people.
pub(crate) const LOST: &str = "lost";

/// The staging directory, and the memory that staging may use instead of it.
pub(crate) struct StagingDir {
    dir: PathBuf,
    /// Sets the names of this process apart from those an earlier one left.
    run: u128,
    next: AtomicU64,
    budget: Arc<Budget>,
    /// Contents up to this size are staged in memory.
    pub(crate) small: u64,
}

impl StagingDir {
    /// Creates the directory if it is missing.
    pub(crate) fn open(dir: &Path, memory: usize, small: u64) -> Result<StagingDir, ContentError> {
        std::fs::create_dir_all(dir).map_err(|e| ContentError::local(dir, e))?;
        let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let budget = Arc::new(Budget { limit: memory, used: AtomicUsize::new(0) });
        Ok(StagingDir { dir: dir.to_owned(), run, next: AtomicU64::new(0), budget, small })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// A new empty file. It is removed when the last reference goes, unless it is marked to stay.
    pub(crate) fn create(&self) -> Result<Arc<StageFile>, ContentError> {
        loop {
            let path = self.fresh(DATA);
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Arc::new(StageFile::new(file, path, false))),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(ContentError::local(&path, e)),
            }
        }
    }

    /// A path in the directory that no file has had in this run.
    pub(crate) fn fresh(&self, ending: &str) -> PathBuf {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{:x}-{n}.{ending}", self.run))
    }

    /// An empty buffer of the common budget.
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer { bytes: Vec::new(), charged: 0, budget: self.budget.clone() }
    }
}

/// How much memory all buffers together may take.
struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// Staged bytes in memory.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    charged: usize,
    budget: Arc<Budget>,
}

impl Buffer {
    /// Extends the buffer with zeros to `len`, if the budget has room. `false`: it has not; nothing is changed.
    pub(crate) fn grow(&mut self, len: usize) -> bool {
        if len <= self.bytes.len() {
            return true;
        }
        if len > self.bytes.capacity() {
            let more = len.max(self.bytes.capacity() * 2);
            if !self.charge(more - self.charged) {
                return false;
            }
            self.bytes.reserve_exact(more - self.bytes.len());
        }
        self.bytes.resize(len, 0);
        true
    }

    /// Extends the buffer with zeros to `len`, even beyond the budget: for at most one small content.
    pub(crate) fn extend(&mut self, len: usize) {
        if len > self.bytes.len() && !self.grow(len) {
            let more = len - self.charged.min(len);
            self.budget.used.fetch_add(more, Ordering::Relaxed);
            self.charged += more;
            self.bytes.resize(len, 0);
        }
    }

    /// Appends `data`, as [`grow`](Buffer::grow) does, without writing zeros first.
    pub(crate) fn append(&mut self, data: &[u8]) -> bool {
        let len = self.bytes.len() + data.len();
        if len > self.bytes.capacity() {
            let more = len.max(self.bytes.capacity() * 2);
            if !self.charge(more - self.charged) {
                return false;
            }
            self.bytes.reserve_exact(more - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        true
    }

    pub(crate) fn cut(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn charge(&mut self, more: usize) -> bool {
        let (used, limit) = (&self.budget.used, self.budget.limit);
        let add = |used: usize| used.checked_add(more).filter(|sum| *sum <= limit);
        let charged = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if charged {
            self.charged += more;
        }
        charged
    }
}

impl Clone for Buffer {
    /// A copy to write to while the original is being sealed. It counts against the budget but is not refused:
    /// it is at most one small content for each seal under way.
    fn clone(&self) -> Buffer {
        let charged = self.bytes.len();
        self.budget.used.fetch_add(charged, Ordering::Relaxed);
        Buffer { bytes: self.bytes.clone(), charged, budget: self.budget.clone() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.charged, Ordering::Relaxed);
    }
}

/// A file of the staging directory.
pub(crate) struct StageFile {
    file: Arc<File>,
    path: PathBuf,
    /// Named by kept data: not removed with the last reference.
    stays: AtomicBool,
}

impl StageFile {
    pub(crate) fn new(file: File, path: PathBuf, stays: bool) -> StageFile {
        StageFile { file: Arc::new(file), path, stays: AtomicBool::new(stays) }
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Decides whether the file outlives its last reference.
    pub(crate) fn stay(&self, stays: bool) {
        self.stays.store(stays, Ordering::Release);
    }

    /// The error of this file.
    pub(crate) fn error(&self, e: io::Error) -> ContentError {
        ContentError::local(&self.path, e)
    }

    /// Writes all of `data`. After an error, how much of it was written is told with it.
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> Result<(), (u64, ContentError)> {
        let mut done = 0;
        while done < data.len() {
            match self.file.write_at(&data[done..], offset + done as u64) {
                Ok(0) => return Err((done as u64, self.error(io::ErrorKind::WriteZero.into()))),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err((done as u64, self.error(e))),
            }
        }
        Ok(())
    }

    /// Fills `buf`, with zeros where the file has ended.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    buf[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error(e)),
            }
        }
        Ok(())
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<(), ContentError> {
        self.file.set_len(len).map_err(|e| self.error(e))
    }

    /// Cuts the file to `len` if it is longer.
    pub(crate) fn cut(&self, len: u64) -> Result<(), ContentError> {
        if self.file.metadata().map_err(|e| self.error(e))?.len() > len { self.set_len(len) } else { Ok(()) }
    }

    /// Makes a range read as zeros without changing the length of the file.
    pub(crate) fn zero(&self, range: Range<u64>) -> Result<(), ContentError> {
        let len = self.file.metadata().map_err(|e| self.error(e))?.len();
        let range = range.start..range.end.min(len);
        if range.is_empty() {
            return Ok(());
        }
        let (Ok(start), Ok(count)) =
            (libc::off_t::try_from(range.start), libc::off_t::try_from(range.end - range.start))
        else {
            return Err(self.error(io::Error::from_raw_os_error(libc::EFBIG)));
        };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is open for as long as `self.file` lives; the call takes no pointers.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, start, count) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(self.error(error));
        }
        // A file system without holes.
        let zeros = vec![0; 1 << 16];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(zeros.len() as u64);
            self.write(&zeros[..n as usize], at).map_err(|(_, e)| e)?;
            at += n;
        }
        Ok(())
    }
}

impl Drop for StageFile {
    fn drop(&mut self) {
        if !self.stays.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "staging file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(memory: usize) -> (tempfile::TempDir, StagingDir) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StagingDir::open(&tmp.path().join("staging"), memory, 1 << 20).unwrap();
        (tmp, dir)
    }

    #[test]
    fn buffers_share_a_budget() {
        let (_tmp, dir) = dir(100);
        let mut a = dir.buffer();
        let mut b = dir.buffer();
        assert!(a.grow(60));
        assert!(!b.grow(60));
        assert!(b.append(&[1; 40]));
        assert!(!b.append(&[1; 1]));
        assert_eq!(b.bytes().len(), 40);
        drop(a);
        assert!(b.append(&[2; 1]));
        assert_eq!(b.bytes()[40], 2);
        let copy = b.clone();
        drop((b, copy));
        assert_eq!(dir.budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn files_go_with_their_last_reference() {
        let (_tmp, dir) = dir(0);
        let file = dir.create().unwrap();
        file.write(b"hello world", 5).unwrap();
        let mut buf = [1; 20];
        file.read(&mut buf, 3).unwrap();
        assert_eq!(&buf, b"\0\0hello world\0\0\0\0\0\0\0");
        file.zero(5..10).unwrap();
        file.zero(100..200).unwrap();
        file.read(&mut buf, 3).unwrap();
        assert_eq!(&buf, b"\0\0\0\0\0\0\0 world\0\0\0\0\0\0\0");
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists());
        let file = dir.create().unwrap();
        file.stay(true);
        let path = file.path().to_owned();
        drop(file);
        assert!(path.exists());
    }
}
