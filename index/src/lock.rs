//! One process per index: a lock file beside the database, held for as long as the index is open.
//!
//! The lock is `flock(2)` on the file, not its existence: it ends with the process, however that ends, and a file left
//! behind means nothing. The file carries the process number of the holder for the message.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{IndexError, Result};

/// The held lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread forks at this moment has the file open, too, until it execs.
        let _ = self.file.unlock();
    }
}

/// The lock file of the index at `path`.
pub(crate) fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

impl Lock {
    /// Takes the lock of the index at `path`, or fails with `Busy` at once.
    pub(crate) fn take(path: &Path) -> Result<Lock> {
        let lock_path = lock_path(path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| IndexError::io("open", &lock_path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Without a readable number the message is still right.
                let _ = file.read_to_string(&mut text);
                return Err(IndexError::Busy { path: path.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(IndexError::io("lock", &lock_path, error)),
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| IndexError::io("write", &lock_path, error))?;
        Ok(Lock { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_learns_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let first = Lock::take(&path).unwrap();
        match Lock::take(&path) {
            Err(IndexError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Lock::take(Path::new("/nonexistent/index.db")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/index.db.lock"), "{error}");
    }
}
