//! The values the index speaks in: inode numbers, attributes, contents, rows handed to callers.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest name of a directory entry or an extended attribute, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes (Linux `PATH_MAX` without the terminating NUL).
pub const TARGET_MAX: usize = 4095;
/// Longest value of one extended attribute, in bytes (Linux `XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 65_536;
/// Longest list of the attribute names of one inode, NUL separated (Linux `XATTR_LIST_MAX`).
pub const XATTR_LIST_MAX: usize = 65_536;
/// Most links an inode can have (a directory has 2 + the number of its subdirectories).
pub const LINK_MAX: u32 = i32::MAX as u32;
/// Cookies of directory entries are never below this: smaller ones are the caller's (`.` and `..`).
pub const FIRST_COOKIE: u64 = 16;

/// The number of an inode. It is never used for a second inode, not even after deletion and restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The row number of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub u64);

/// The row number of a file ID that waits for deletion in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GarbageId(pub u64);

/// What an inode is. It never changes during the inode's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FileKind {
    Directory,
    Regular,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// The stored form: the file type bits of `st_mode`, shifted right by 12.
    pub(crate) fn to_code(self) -> u32 {
        let bits = match self {
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Regular => libc::S_IFREG,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
        };
        bits >> 12
    }

    /// The inverse of [`FileKind::to_code`].
    pub(crate) fn from_code(code: u32) -> Option<FileKind> {
        [
            FileKind::Directory,
            FileKind::Regular,
            FileKind::Symlink,
            FileKind::Fifo,
            FileKind::Socket,
            FileKind::CharDevice,
            FileKind::BlockDevice,
        ]
        .into_iter()
        .find(|kind| kind.to_code() == code)
    }
}

/// A point in time: seconds since 1970 (negative before) and nanoseconds below 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[allow(missing_docs)]
pub struct Timestamp {
    pub secs: i64,
    pub nsec: u32,
}

impl Timestamp {
    /// The current time of the system clock.
    pub fn now() -> Timestamp {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => {
                Timestamp { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() }
            }
            Err(error) => {
                // Before 1970: the seconds are rounded down, so that the nanoseconds stay positive.
                let before = error.duration();
                let secs = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
                match before.subsec_nanos() {
                    0 => Timestamp { secs, nsec: 0 },
                    nsec => Timestamp { secs: secs.saturating_sub(1), nsec: 1_000_000_000 - nsec },
                }
            }
        }
    }
}

/// The attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode's number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, `07777`; the file type is in `kind`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead here; for a directory 2 + its subdirectories, 0 once removed.
    pub nlink: u32,
    /// Device number of a device file, else 0.
    pub rdev: u32,
    /// Bytes; of a symbolic link the length of its target, of a directory the number of its entries.
    pub size: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// The stored content of a regular file; `None`: nothing is in the cluster (an empty file).
    pub content: Option<ContentId>,
}

/// The attributes to change; `None` leaves one as it is. `size` changes the number alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Timestamp>,
    pub mtime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
}

/// A new inode of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInode {
    /// What to create.
    pub kind: FileKind,
    /// Permission bits; only `07777` is kept.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file, else 0.
    pub rdev: u32,
    /// Target of a symbolic link; must be given for one, and for nothing else.
    pub target: Option<Vec<u8>>,
}

/// How [`rename`](crate::Index::rename) treats an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it, atomically.
    Replace,
    /// Fail with `Exists` (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two, which must both exist (`RENAME_EXCHANGE`).
    Exchange,
}

/// How [`setxattr`](crate::Index::setxattr) treats an existing attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Set it in either case.
    Any,
    /// Fail with `Exists` when it is there (`XATTR_CREATE`).
    Create,
    /// Fail with `NoAttribute` when it is not there (`XATTR_REPLACE`).
    Replace,
}

/// BLAKE3-256 of a whole content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a content that is at hand as a whole.
    pub fn of(content: &[u8]) -> Fingerprint {
        Fingerprint(*blake3::hash(content).as_bytes())
    }
}

impl From<blake3::Hash> for Fingerprint {
    fn from(hash: blake3::Hash) -> Fingerprint {
        Fingerprint(*hash.as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = blake3::HexError;

    /// Parses 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Fingerprint, blake3::HexError> {
        blake3::Hash::from_hex(text).map(Fingerprint::from)
    }
}

/// A stored content, as one or several inodes refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its row.
    pub id: ContentId,
    /// BLAKE3-256; `None` while the content is mutable.
    pub fingerprint: Option<Fingerprint>,
    /// Bytes.
    pub size: u64,
    /// Where it is in the cluster.
    pub file_id: Arc<str>,
    /// An appender file of one inode, never shared.
    pub mutable: bool,
    /// How many inodes refer to it.
    pub refs: u64,
    /// The cluster was found not to have it any more.
    pub lost: bool,
}

/// A content that the cluster has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContent {
    /// BLAKE3-256 of the whole; `None` for mutable content. Without it the content is never shared by look-up.
    pub fingerprint: Option<Fingerprint>,
    /// Bytes.
    pub size: u64,
    /// Where it is in the cluster.
    pub file_id: Arc<str>,
    /// Whether it is an appender file that will change in place.
    pub mutable: bool,
}

/// What changes with the content of an inode, in the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Along {
    /// When the content was written.
    pub mtime: Timestamp,
    /// The time of the last change of the inode; `None`: the later of the one it has and `mtime`.
    pub ctime: Option<Timestamp>,
    /// The inode's [`StagedRow`] goes: what it kept is this content, or older.
    pub unstage: bool,
}

impl From<Timestamp> for Along {
    fn from(mtime: Timestamp) -> Along {
        Along { mtime, ctime: None, unstage: false }
    }
}

/// Local data of an inode that is not yet in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedRow {
    /// Whose data it is.
    pub ino: Ino,
    /// The staging file.
    pub path: PathBuf,
    /// Bytes in it.
    pub size: u64,
}

/// Sums over the whole index, kept up to date with every change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Inodes of every kind, the root included.
    pub inodes: u64,
    /// Distinct contents.
    pub contents: u64,
    /// Sum of the content sizes over all inodes that refer to them.
    pub logical_bytes: u64,
    /// Sum of the sizes of the distinct contents.
    pub stored_bytes: u64,
    /// File IDs that wait for deletion in the cluster.
    pub garbage: u64,
}
