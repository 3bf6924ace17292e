//! What can go wrong with content, and the errno it becomes.

use std::io;
use std::sync::Arc;

/// Why an operation on content failed. Cheap to clone: one failure may answer many readers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ContentError {
    /// The cluster, or the staging directory, does not have it.
    #[error("the data is gone: {0}")]
    NotFound(Arc<str>),
    /// No storage has room for it.
    #[error("no space left in the cluster: {0}")]
    NoSpace(Arc<str>),
    /// No answer within the network timeout.
    #[error("no answer in time: {0}")]
    Timeout(Arc<str>),
    /// No tracker or storage can be reached.
    #[error("cluster not reachable: {0}")]
    Unreachable(Arc<str>),
    /// Bytes are not those that were stored: length, CRC32 or fingerprint differ. Another copy may be right.
    #[error("content is damaged: {0}")]
    Corrupt(Arc<str>),
    /// So it is with every copy that could be found.
    #[error("content is damaged wherever it is: {0}")]
    Damaged(Arc<str>),
    /// The cluster refused, with this errno.
    #[error("the cluster refused: {detail}")]
    Refused {
        /// What the storage answered, as an errno.
        errno: i32,
        /// Operation and object.
        detail: Arc<str>,
    },
    /// A local file of the staging or cache directory could not be written or read.
    #[error("{path}: {source}")]
    Local {
        /// The file.
        path: Arc<str>,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The store is shutting down.
    #[error("the mount is being closed")]
    Closed,
}

impl ContentError {
    /// Whether nobody can have the content any more, as far as could be found out.
    pub fn is_loss(&self) -> bool {
        matches!(self, ContentError::NotFound(_) | ContentError::Damaged(_))
    }

    /// The errno that an application sees.
    pub fn to_errno(&self) -> i32 {
        match self {
            // The tree refers to it, so its absence is a fault of the store, not of the path: ENOENT would mislead.
            ContentError::NotFound(_) | ContentError::Corrupt(_) | ContentError::Damaged(_) | ContentError::Closed => {
                libc::EIO
            }
            ContentError::NoSpace(_) => libc::ENOSPC,
            ContentError::Timeout(_) => libc::ETIMEDOUT,
            ContentError::Unreachable(_) => libc::EIO,
            ContentError::Refused { errno, .. } => match *errno {
                libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EROFS | libc::EPERM | libc::EACCES => *errno,
                // A storage's promise to have a change at other members (ack_members) could not be kept in time.
                libc::ETIMEDOUT => libc::ETIMEDOUT,
                _ => libc::EIO,
            },
            ContentError::Local { source, .. } => match source.raw_os_error() {
                Some(e @ (libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EROFS)) => e,
                _ => libc::EIO,
            },
        }
    }

    /// An error of a local file.
    pub(crate) fn local(path: &std::path::Path, source: io::Error) -> ContentError {
        ContentError::Local { path: path.to_string_lossy().into(), source: Arc::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_keeps_what_applications_act_on() {
        let local = |errno| ContentError::local("/s".as_ref(), io::Error::from_raw_os_error(errno));
        assert_eq!(local(libc::ENOSPC).to_errno(), libc::ENOSPC);
        assert_eq!(local(libc::EBADF).to_errno(), libc::EIO);
        let refused = |errno| ContentError::Refused { errno, detail: "upload".into() };
        assert_eq!(refused(libc::EDQUOT).to_errno(), libc::EDQUOT);
        assert_eq!(refused(libc::ETIMEDOUT).to_errno(), libc::ETIMEDOUT);
        assert_eq!(refused(libc::ENOENT).to_errno(), libc::EIO);
        assert_eq!(ContentError::Timeout("x".into()).to_errno(), libc::ETIMEDOUT);
        assert_eq!(ContentError::NotFound("x".into()).to_errno(), libc::EIO);
    }
}
