//! What can go wrong, in the words of the field, and the errno a caller of the file system sees.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An error of the index. Cheap to clone, because one failed commit is reported to every waiter.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// No such entry, or the inode is gone.
    #[error("no such file or directory")]
    NotFound,
    /// The name or attribute is there already.
    #[error("it exists already")]
    Exists,
    /// A directory is needed here.
    #[error("not a directory")]
    NotDirectory,
    /// A directory cannot be used here.
    #[error("is a directory")]
    IsDirectory,
    /// The directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A name above [`NAME_MAX`](crate::NAME_MAX) or a target above [`TARGET_MAX`](crate::TARGET_MAX) bytes.
    #[error("name too long")]
    NameTooLong,
    /// The inode has [`LINK_MAX`](crate::LINK_MAX) links.
    #[error("too many links")]
    TooManyLinks,
    /// The request makes no sense; the text says why.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// A directory would become its own descendant.
    #[error("a directory cannot be moved into itself")]
    CrossesItself,
    /// A hard link to a directory.
    #[error("operation not permitted on a directory")]
    NotPermitted,
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The value of an extended attribute is too large.
    #[error("extended attribute too large")]
    TooLarge,
    /// The extended attributes of this inode have no room left.
    #[error("no room left for extended attributes of this file")]
    AttributesFull,
    /// An earlier commit failed; nothing more is accepted until the index is opened again.
    #[error("the index is read-only since a commit failed; mount again after removing the cause")]
    ReadOnly,
    /// The index was closed.
    #[error("the index is closed")]
    Closed,
    /// Another process has the index open.
    #[error("{path} is in use by {holder}; unmount that one first", path = .path.display(),
        holder = .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Busy {
        /// The index.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// The index was written by a newer version of this program.
    #[error("{path} has schema version {found}, this program knows up to {supported}; use a newer fdfs", path = .path.display())]
    Newer {
        /// The index.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        supported: i64,
    },
    /// The file is a database of something else, or no database.
    #[error("{path} is not an fdfs index; give another path or restore it from a backup", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The index contradicts itself.
    #[error("the index is damaged: {0}; check it with fsck")]
    Corrupt(String),
    /// SQLite refused.
    #[error("index database: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// The file system refused.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The answer.
        source: Arc<io::Error>,
    },
}

/// The result of most calls of the index.
pub type Result<T, E = IndexError> = std::result::Result<T, E>;

impl IndexError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> IndexError {
        IndexError::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }

    /// The errno that a system call on the mounted tree fails with.
    pub fn to_errno(&self) -> i32 {
        match self {
            IndexError::NotFound => libc::ENOENT,
            IndexError::Exists => libc::EEXIST,
            IndexError::NotDirectory => libc::ENOTDIR,
            IndexError::IsDirectory => libc::EISDIR,
            IndexError::NotEmpty => libc::ENOTEMPTY,
            IndexError::NameTooLong => libc::ENAMETOOLONG,
            IndexError::TooManyLinks => libc::EMLINK,
            IndexError::Invalid(_) | IndexError::CrossesItself => libc::EINVAL,
            IndexError::NotPermitted => libc::EPERM,
            IndexError::NoAttribute => libc::ENODATA,
            IndexError::TooLarge => libc::E2BIG,
            IndexError::AttributesFull => libc::ENOSPC,
            IndexError::ReadOnly => libc::EROFS,
            IndexError::Busy { .. } => libc::EBUSY,
            IndexError::Sqlite(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => libc::ENOSPC,
                _ => libc::EIO,
            },
            IndexError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            IndexError::Closed | IndexError::Newer { .. } | IndexError::Foreign { .. } | IndexError::Corrupt(_) => {
                libc::EIO
            }
        }
    }
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> IndexError {
        IndexError::Sqlite(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_errno() {
        let path = PathBuf::from("/data/index.db");
        let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        let cases = [
            (IndexError::NotFound, libc::ENOENT),
            (IndexError::Exists, libc::EEXIST),
            (IndexError::NotDirectory, libc::ENOTDIR),
            (IndexError::IsDirectory, libc::EISDIR),
            (IndexError::NotEmpty, libc::ENOTEMPTY),
            (IndexError::NameTooLong, libc::ENAMETOOLONG),
            (IndexError::TooManyLinks, libc::EMLINK),
            (IndexError::Invalid("x"), libc::EINVAL),
            (IndexError::CrossesItself, libc::EINVAL),
            (IndexError::NotPermitted, libc::EPERM),
            (IndexError::NoAttribute, libc::ENODATA),
            (IndexError::TooLarge, libc::E2BIG),
            (IndexError::AttributesFull, libc::ENOSPC),
            (IndexError::ReadOnly, libc::EROFS),
            (IndexError::Closed, libc::EIO),
            (IndexError::Busy { path: path.clone(), pid: Some(7) }, libc::EBUSY),
            (IndexError::Newer { path: path.clone(), found: 9, supported: 1 }, libc::EIO),
            (IndexError::Foreign { path: path.clone() }, libc::EIO),
            (IndexError::Corrupt("row".into()), libc::EIO),
            (full.into(), libc::ENOSPC),
            (rusqlite::Error::InvalidQuery.into(), libc::EIO),
            (IndexError::io("open", &path, io::Error::from_raw_os_error(libc::EACCES)), libc::EACCES),
        ];
        for (error, errno) in cases {
            assert_eq!(error.to_errno(), errno, "{error}");
        }
    }

    #[test]
    fn messages_name_the_thing_and_the_remedy() {
        let path = PathBuf::from("/data/index.db");
        let busy = IndexError::Busy { path: path.clone(), pid: Some(7) }.to_string();
        assert_eq!(busy, "/data/index.db is in use by process 7; unmount that one first");
        let busy = IndexError::Busy { path, pid: None }.to_string();
        assert!(busy.contains("another process"));
    }
}
