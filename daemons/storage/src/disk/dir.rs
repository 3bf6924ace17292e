//! The `data/` directory of a store path, held open: names are resolved from it, never from the root.
//!
//! Everything here is one system call on a name of a few components; small ones run on the thread that serves the
//! connection (see the crate's documentation for what may not).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fdfs_protocol::binlog::Origin;

/// Longest path below `data/` that is handled, with room for `-m` after the longest name of the protocol (127).
const MAX: usize = 151;

/// Permissions of stored files, before the umask.
const FILE_MODE: libc::c_uint = 0o644;

/// A relative path with its terminating zero, on the stack.
#[derive(Clone, Copy)]
pub struct RelPath {
    len: u8,
    bytes: [u8; MAX + 1],
}

impl RelPath {
    /// Takes a path; `None` if it is too long, empty, absolute or has a zero byte.
    pub fn new(path: &[u8]) -> Option<RelPath> {
        let fits = !path.is_empty() && path.len() <= MAX && path[0] != b'/' && !path.contains(&0);
        fits.then(|| {
            let mut bytes = [0; MAX + 1];
            bytes[..path.len()].copy_from_slice(path);
            RelPath { len: path.len() as u8, bytes }
        })
    }

    /// This path with `suffix` appended, such as `-m` for the metadata beside a file.
    pub fn with_suffix(&self, suffix: &[u8]) -> Option<RelPath> {
        let mut all = [0; MAX];
        let len = self.as_bytes().len();
        let end = len + suffix.len();
        all.get_mut(..len)?.copy_from_slice(self.as_bytes());
        all.get_mut(len..end)?.copy_from_slice(suffix);
        RelPath::new(&all[..end])
    }

    /// The path without its zero.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The directory part and the last component; the directory is empty for a single component.
    pub fn split(&self) -> (&[u8], &[u8]) {
        let all = self.as_bytes();
        match all.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&all[..slash], &all[slash + 1..]),
            None => (&[], all),
        }
    }

    fn c(&self) -> &CStr {
        // The constructor keeps zeros out of the path and one after it; anything else would be an empty path.
        CStr::from_bytes_with_nul(&self.bytes[..=usize::from(self.len)]).unwrap_or(c"")
    }
}

impl std::fmt::Debug for RelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// What a file is, as far as the storage cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Size in bytes.
    pub size: u64,
    /// Modification time, unix seconds.
    pub mtime: i64,
    /// Its time is a whole second, as [`set_mtime`] makes that of what another member pushed here.
    pub pushed: bool,
    /// `S_IFMT` part of the mode.
    kind: u32,
}

impl Meta {
    /// The same with at most this many bytes.
    pub fn cut(self, size: u64) -> Meta {
        Meta { size: self.size.min(size), ..self }
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// Whether it is a symbolic link (only where links are not followed).
    pub fn is_link(&self) -> bool {
        self.kind == libc::S_IFLNK
    }

    /// The time of what is put in its place, or of its removal, at `now`: after its own, whatever the clock says. What was
    /// sent to a member before is then older there, also when it comes late, over a connection that was given up.
    pub fn time_of_next(&self, now: i64) -> i64 {
        now.max(self.mtime.saturating_add(1))
    }

    /// The time of a change that is made to it at `now`: not before the change that is there, whatever the clock says,
    /// and after it if another member made it, since members go by the times.
    pub fn time_of_change(&self, now: i64) -> i64 {
        now.max(self.mtime.saturating_add(self.pushed.into()))
    }
}

impl From<&libc::stat> for Meta {
    fn from(st: &libc::stat) -> Meta {
        Meta {
            size: st.st_size.max(0) as u64,
            mtime: st.st_mtime,
            pushed: st.st_mtime_nsec == 0,
            kind: st.st_mode & libc::S_IFMT,
        }
    }
}

/// A directory held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn open_at(dir: RawFd, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `path` is a zero-terminated string that outlives the call; a non-negative result is a descriptor that
    // nobody else owns.
    unsafe {
        let fd = check(libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC, FILE_MODE))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

impl Dir {
    /// Opens a directory by its full path.
    ///
    /// # Errors
    /// What the system reported.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let c = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let fd = open_at(libc::AT_FDCWD, &c, libc::O_RDONLY | libc::O_DIRECTORY)?;
        Ok(Dir { fd, path: path.to_owned() })
    }

    /// The full path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Full path of a name in it, for messages and links.
    pub fn full(&self, name: &RelPath) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(name.as_bytes()))
    }

    /// Opens a directory below this one, making it (and what leads to it) if it is missing.
    ///
    /// # Errors
    /// What the system reported.
    pub fn open_dir(&self, name: &RelPath) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        match open_at(self.raw(), name.c(), flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(self.full(name))?;
                open_at(self.raw(), name.c(), flags)
            }
            other => other,
        }
    }

    /// Makes a new, empty file for writing; fails if the name exists.
    ///
    /// # Errors
    /// `EEXIST` and what else the system reported.
    pub fn create_new(&self, name: &RelPath) -> io::Result<File> {
        create_new_at(self.fd.as_fd(), name)
    }

    /// Opens for reading; follows links.
    ///
    /// # Errors
    /// `ENOENT` and what else the system reported.
    pub fn open_read(&self, name: &RelPath) -> io::Result<File> {
        // O_NONBLOCK: a FIFO that somebody put there must not stop the thread.
        open_at(self.raw(), name.c(), libc::O_RDONLY | libc::O_NONBLOCK).map(File::from)
    }

    /// Opens an existing file for reading and writing; follows links.
    ///
    /// # Errors
    /// `ENOENT` and what else the system reported.
    pub fn open_write(&self, name: &RelPath) -> io::Result<File> {
        open_at(self.raw(), name.c(), libc::O_RDWR | libc::O_NONBLOCK).map(File::from)
    }

    /// What the name is; follows links when `follow`.
    ///
    /// # Errors
    /// `ENOENT` and what else the system reported.
    pub fn meta(&self, name: &RelPath, follow: bool) -> io::Result<Meta> {
        let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        // SAFETY: the path is zero-terminated; `st` is plain data that the call fills on success only, and it is read
        // on success only.
        unsafe {
            let mut st: libc::stat = std::mem::zeroed();
            check(libc::fstatat(self.raw(), name.c().as_ptr(), &mut st, flags))?;
            Ok(Meta::from(&st))
        }
    }

    /// Removes a file or link.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR` and what else the system reported.
    pub fn unlink(&self, name: &RelPath) -> io::Result<()> {
        unlink_at(self.fd.as_fd(), name)
    }

    /// Renames within this directory tree; fails with `EEXIST` if the new name exists.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT` and what else the system reported.
    pub fn rename_new(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        // SAFETY: both paths are zero-terminated and outlive the call.
        let done = check(unsafe {
            libc::renameat2(self.raw(), from.c().as_ptr(), self.raw(), to.c().as_ptr(), libc::RENAME_NOREPLACE)
        });
        match done {
            // A file system without that flag: look first. Names carry 23 random bits and three random digits.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                if self.meta(to, false).is_ok() {
                    return Err(io::Error::from_raw_os_error(libc::EEXIST));
                }
                self.rename(from, to)
            }
            other => other.map(drop),
        }
    }

    /// Renames within this directory tree, replacing what is there.
    ///
    /// # Errors
    /// What the system reported.
    pub fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        rename_at(self.fd.as_fd(), from, to)
    }

    /// Makes a symbolic link to the full path of another name in this or another directory.
    ///
    /// # Errors
    /// `EEXIST` and what else the system reported.
    pub fn symlink(&self, target: &Path, name: &RelPath) -> io::Result<()> {
        let target = std::ffi::CString::new(target.as_os_str().as_bytes())?;
        // SAFETY: both paths are zero-terminated and outlive the call.
        check(unsafe { libc::symlinkat(target.as_ptr(), self.raw(), name.c().as_ptr()) }).map(drop)
    }

    /// Replaces the content of a small file, or makes it; readers find the old or the new content.
    ///
    /// # Errors
    /// What the system reported; the old content stays then.
    pub fn replace(&self, name: &RelPath, content: &[u8]) -> io::Result<File> {
        use std::io::Write;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (parent, _) = name.split();
        let mut tmp = parent.to_vec();
        write!(tmp, "/.up{}.{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))?;
        let tmp = RelPath::new(tmp.strip_prefix(b"/").filter(|_| parent.is_empty()).unwrap_or(&tmp));
        let tmp = tmp.ok_or(io::ErrorKind::InvalidInput)?;
        // A file of that name is from an earlier process with this id.
        let _ = self.unlink(&tmp);
        let mut file = self.create_new(&tmp)?;
        if let Err(e) = file.write_all(content).and_then(|()| self.rename(&tmp, name)) {
            let _ = self.unlink(&tmp);
            return Err(e);
        }
        Ok(file)
    }

    /// Total and available bytes of the file system (`f_blocks`, `f_bavail`).
    ///
    /// # Errors
    /// What the system reported.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        // SAFETY: the descriptor is open; `st` is plain data, read only after the call filled it.
        unsafe {
            let mut st: libc::statvfs = std::mem::zeroed();
            check(libc::fstatvfs(self.raw(), &mut st))?;
            Ok((st.f_blocks * st.f_frsize, st.f_bavail * st.f_frsize))
        }
    }

    /// Puts everything of this file system on stable storage.
    ///
    /// # Errors
    /// What the system reported, also about earlier writes.
    pub fn sync_fs(&self) -> io::Result<()> {
        // SAFETY: a plain call on an open descriptor.
        check(unsafe { libc::syncfs(self.raw()) }).map(drop)
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// [`Dir::create_new`] in any directory held open.
///
/// # Errors
/// `EEXIST` and what else the system reported.
pub fn create_new_at(dir: BorrowedFd<'_>, name: &RelPath) -> io::Result<File> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    open_at(dir.as_raw_fd(), name.c(), flags).map(File::from)
}

/// A file without a name in a directory, to be linked into it when it is complete.
///
/// # Errors
/// What the system reported; `EOPNOTSUPP`, `EISDIR` or `EINVAL` where the file system cannot do it.
pub fn create_unnamed_at(dir: BorrowedFd<'_>) -> io::Result<File> {
    open_at(dir.as_raw_fd(), c".", libc::O_RDWR | libc::O_TMPFILE).map(File::from)
}

/// Gives an unnamed file its name; fails with `EEXIST` if it is taken.
///
/// # Errors
/// `EEXIST` and what else the system reported.
pub fn link_unnamed_at(file: &File, dir: BorrowedFd<'_>, name: &RelPath) -> io::Result<()> {
    // Linking by descriptor alone needs a privilege or a recent kernel; the way through /proc needs /proc.
    // SAFETY: all paths are zero-terminated and outlive the calls.
    let linked = check(unsafe {
        libc::linkat(file.as_raw_fd(), c"".as_ptr(), dir.as_raw_fd(), name.c().as_ptr(), libc::AT_EMPTY_PATH)
    });
    match linked {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut proc = [0u8; 40];
            let text = format!("/proc/self/fd/{}\0", file.as_raw_fd());
            proc[..text.len()].copy_from_slice(text.as_bytes());
            // SAFETY: as above; `proc` ends with a zero.
            check(unsafe {
                libc::linkat(
                    libc::AT_FDCWD,
                    proc.as_ptr().cast(),
                    dir.as_raw_fd(),
                    name.c().as_ptr(),
                    libc::AT_SYMLINK_FOLLOW,
                )
            })
            .map(drop)
        }
        other => other.map(drop),
    }
}

/// Makes a second name for a file of the same directory; fails with `EEXIST` if it is taken.
///
/// # Errors
/// `EEXIST` and what else the system reported.
pub fn hard_link_at(dir: BorrowedFd<'_>, from: &RelPath, to: &RelPath) -> io::Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: both paths are zero-terminated and outlive the call.
    check(unsafe { libc::linkat(fd, from.c().as_ptr(), fd, to.c().as_ptr(), 0) }).map(drop)
}

/// [`Dir::rename`] in any directory held open.
///
/// # Errors
/// What the system reported.
pub fn rename_at(dir: BorrowedFd<'_>, from: &RelPath, to: &RelPath) -> io::Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: both paths are zero-terminated and outlive the call.
    check(unsafe { libc::renameat(fd, from.c().as_ptr(), fd, to.c().as_ptr()) }).map(drop)
}

/// Sets the modification time of an open file, unix seconds, so that it [tells](Meta::time_of_change) whether the change that
/// was made then came from a client of this storage or from another member.
///
/// # Errors
/// What the system reported.
pub fn set_mtime(file: &File, secs: u32, origin: Origin) -> io::Result<()> {
    let nanos = u32::from(origin == Origin::Client);
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(secs.into(), nanos))
}

/// Gives an open file the time it had before a change that did not come about.
///
/// # Errors
/// What the system reported.
pub fn restore_mtime(file: &File, before: &Meta) -> io::Result<()> {
    let origin = if before.pushed { Origin::Replica } else { Origin::Client };
    set_mtime(file, u32::try_from(before.mtime).unwrap_or(0), origin)
}

/// Takes the room that a write into a file needs, so that a full disk refuses it before a part of it is made. Where the file
/// system cannot do that, it has to go without.
///
/// # Errors
/// `ENOSPC`, `EDQUOT`.
pub fn reserve(file: &File, at: u64, len: u64) -> io::Result<()> {
    let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else { return Ok(()) };
    // SAFETY: a plain call on an open descriptor.
    match check(unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, at, len) }) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => Err(e),
        _ => Ok(()),
    }
}

/// Removes a name from a directory held open.
///
/// # Errors
/// What the system reported.
pub fn unlink_at(dir: BorrowedFd<'_>, name: &RelPath) -> io::Result<()> {
    // SAFETY: the path is zero-terminated and outlives the call.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.c().as_ptr(), 0) }).map(drop)
}

/// Puts a directory's entries on stable storage.
///
/// # Errors
/// What the system reported.
pub fn sync_dir(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain call on an open descriptor.
    check(unsafe { libc::fsync(dir.as_raw_fd()) }).map(drop)
}

/// What an open file is.
///
/// # Errors
/// What the system reported.
pub fn meta_of(file: &File) -> io::Result<Meta> {
    // SAFETY: the descriptor is open; `st` is plain data, read only after the call filled it.
    unsafe {
        let mut st: libc::stat = std::mem::zeroed();
        check(libc::fstat(file.as_raw_fd(), &mut st))?;
        Ok(Meta::from(&st))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn rel(s: &str) -> RelPath {
        RelPath::new(s.as_bytes()).unwrap()
    }

    #[test]
    fn paths_are_checked() {
        assert!(RelPath::new(b"").is_none());
        assert!(RelPath::new(b"/etc/passwd").is_none());
        assert!(RelPath::new(b"a\0b").is_none());
        assert!(RelPath::new(&[b'a'; MAX]).is_some());
        assert!(RelPath::new(&[b'a'; MAX + 1]).is_none());
        assert_eq!(rel("00/00/x").with_suffix(b"-m").unwrap().as_bytes(), b"00/00/x-m");
        assert!(RelPath::new(&[b'a'; MAX]).unwrap().with_suffix(b"-m").is_none());
        assert_eq!(rel("00/01/x").split(), (&b"00/01"[..], &b"x"[..]));
    }

    #[test]
    fn changes_never_go_back_in_time() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let file = dir.create_new(&rel("a")).unwrap();
        for (origin, next) in [(Origin::Client, 1000), (Origin::Replica, 1001)] {
            set_mtime(&file, 1000, origin).unwrap();
            let meta = meta_of(&file).unwrap();
            assert_eq!(meta.mtime, 1000);
            let times = [900, 1000, 1001, 1002].map(|now| meta.time_of_change(now));
            assert_eq!(times, [next, next, 1001, 1002], "{origin:?}");
        }
    }

    #[test]
    fn names_are_never_replaced_by_accident() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        dir.create_new(&rel("a")).unwrap().write_all(b"one").unwrap();
        dir.create_new(&rel("b")).unwrap();
        assert_eq!(dir.create_new(&rel("a")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert_eq!(dir.rename_new(&rel("a"), &rel("b")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        dir.rename_new(&rel("a"), &rel("c")).unwrap();
        assert_eq!(dir.meta(&rel("c"), false).unwrap().size, 3);
        assert!(dir.meta(&rel("a"), false).is_err());
        dir.unlink(&rel("c")).unwrap();
        assert_eq!(dir.unlink(&rel("c")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn replacing_leaves_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        for text in ["one", "two"] {
            dir.replace(&rel("a"), text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(tmp.path().join("a")).unwrap(), text);
        }
        assert!(dir.replace(&rel("no/such"), b"x").is_err());
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_directories_are_made() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let leaf = dir.open_dir(&rel("0A/FF")).unwrap();
        create_new_at(leaf.as_fd(), &rel("x")).unwrap();
        assert!(dir.meta(&rel("0A/FF/x"), true).unwrap().is_file());
    }
}
