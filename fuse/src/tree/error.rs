//! What an operation of the tree can fail with, and the errno it becomes.

use fdfs_index::IndexError;

use crate::content::ContentError;

/// Why an operation failed. Cheap to clone: one failed upload may answer several closes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TreeError {
    /// The namespace refused.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The content store refused.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The handle is not open, or not for this.
    #[error("not a handle opened for this")]
    BadHandle,
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// A file would grow beyond the limit of this mount.
    #[error("a file would exceed {limit} bytes, the limit of this mount")]
    TooLarge {
        /// The largest size allowed.
        limit: u64,
    },
    /// More than the cluster has room for.
    #[error("the cluster has no room for {bytes} more bytes")]
    NoSpace {
        /// What was asked for.
        bytes: u64,
    },
    /// The arguments make no sense together.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// This mount does not offer it.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The file is a directory.
    #[error("is a directory")]
    IsDirectory,
    /// There is no data at or behind this offset.
    #[error("offset is beyond the end of the file")]
    BeyondEnd,
}

impl TreeError {
    /// The errno that a system call on the mounted tree fails with.
    pub fn to_errno(&self) -> i32 {
        match self {
            TreeError::Index(error) => error.to_errno(),
            TreeError::Content(error) => error.to_errno(),
            TreeError::BadHandle => libc::EBADF,
            TreeError::ReadOnly => libc::EROFS,
            TreeError::TooLarge { .. } => libc::EFBIG,
            TreeError::NoSpace { .. } => libc::ENOSPC,
            TreeError::Invalid(_) => libc::EINVAL,
            TreeError::Unsupported(_) => libc::EOPNOTSUPP,
            TreeError::IsDirectory => libc::EISDIR,
            TreeError::BeyondEnd => libc::ENXIO,
        }
    }

    /// Whether this is a fault of the mount or its cluster (worth a log line), not an answer to a question.
    pub fn is_fault(&self) -> bool {
        matches!(self.to_errno(), libc::EIO | libc::ETIMEDOUT | libc::ENOSPC | libc::EDQUOT | libc::EROFS)
            && !matches!(self, TreeError::ReadOnly | TreeError::NoSpace { .. })
    }
}

/// The result of the tree's operations.
pub type Result<T, E = TreeError> = std::result::Result<T, E>;

/// Called once with the outcome of an operation that may have to wait for the cluster or for a commit: on the calling
/// thread before the call returns, or later on a thread of the store or the index. It must be short.
pub type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;
