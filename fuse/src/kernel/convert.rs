//! Between fuser's types and the tree's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fdfs_index::{Attr, FileKind, Timestamp};
use fuser::{Errno, FileAttr, FileType, INodeNo, OpenFlags, TimeOrNow};

use crate::tree::{Access, Allocate, SetTime, TreeError};

/// The errno of an error, which is logged here if it is a fault.
pub(super) fn errno(operation: &'static str, error: &TreeError) -> Errno {
    if error.is_fault() {
        tracing::warn!(operation, "{error}");
    }
    Errno::from_i32(error.to_errno())
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in the type bits of a mode; no bits mean a regular file, as for mknod(2).
pub(super) fn file_kind(mode: u32) -> Option<FileKind> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => FileKind::Regular,
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => return None,
    })
}

pub(super) fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let start = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    start.and_then(|start| start.checked_add(Duration::from_nanos(time.nsec.into()))).unwrap_or(UNIX_EPOCH)
}

/// A time of a request. Before 1970, fuser 0.18 makes `secs - nsec` of the kernel's `secs + nsec`; this undoes it.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
            Timestamp { secs, nsec: before.subsec_nanos() }
        }
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(timestamp(time)),
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// What open flags mean. Without `CAP_FSETID`, for which being root stands here, changing a file takes its
/// set-user-ID away.
pub(super) fn access(flags: OpenFlags, uid: u32) -> Access {
    let mode = flags.0 & libc::O_ACCMODE;
    Access {
        read: mode != libc::O_WRONLY,
        write: mode == libc::O_WRONLY || mode == libc::O_RDWR,
        append: flags.0 & libc::O_APPEND != 0,
        truncate: flags.0 & libc::O_TRUNC != 0,
        no_atime: flags.0 & libc::O_NOATIME != 0,
        kill_suid: unprivileged(uid),
    }
}

/// Whether changes by this user take set-user-ID away. The kernel tells for writes; for the rest fuser 0.18 does not pass
/// it on, and being root stands for the capability.
pub(super) fn unprivileged(uid: u32) -> bool {
    uid != 0
}

/// What the mode of fallocate(2) asks for; `None`: nothing that is offered here.
pub(super) fn allocate(mode: i32) -> Option<Allocate> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_AND_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Some(Allocate::Extend),
        KEEP => Some(Allocate::KeepSize),
        PUNCH => Some(Allocate::PunchHole),
        ZERO => Some(Allocate::ZeroRange { keep_size: false }),
        ZERO_AND_KEEP => Some(Allocate::ZeroRange { keep_size: true }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_there_and_back() {
        for time in [
            Timestamp { secs: 0, nsec: 0 },
            Timestamp { secs: 1_700_000_000, nsec: 999_999_999 },
            Timestamp { secs: -1, nsec: 0 },
            Timestamp { secs: -2, nsec: 800_000_000 },
        ] {
            assert_eq!(Timestamp::from(system_time(time)), time);
        }
        let _ = system_time(Timestamp { secs: i64::MIN, nsec: 0 });
        let _ = system_time(Timestamp { secs: i64::MAX, nsec: 999_999_999 });
    }

    #[test]
    fn times_before_1970_are_those_of_the_kernel() {
        // What fuser makes of secs = -2, nsec = 800_000_000.
        let fused = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(set_time(TimeOrNow::SpecificTime(fused)), SetTime::To(Timestamp { secs: -2, nsec: 800_000_000 }));
    }

    #[test]
    fn open_flags() {
        let a = access(OpenFlags(libc::O_RDWR | libc::O_APPEND), 0);
        assert!(a.read && a.write && a.append && !a.truncate && !a.kill_suid);
        let a = access(OpenFlags(libc::O_WRONLY | libc::O_TRUNC), 1000);
        assert!(!a.read && a.write && a.truncate && a.kill_suid);
        assert!(!access(OpenFlags(libc::O_RDONLY), 1).write);
    }

    #[test]
    fn modes_of_fallocate() {
        assert_eq!(allocate(0), Some(Allocate::Extend));
        assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), Some(Allocate::PunchHole));
        assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE), None);
        assert_eq!(allocate(libc::FALLOC_FL_COLLAPSE_RANGE), None);
    }

    #[test]
    fn kinds_of_modes() {
        assert_eq!(file_kind(0o644), Some(FileKind::Regular));
        assert_eq!(file_kind(libc::S_IFIFO | 0o644), Some(FileKind::Fifo));
        assert_eq!(file_kind(0o030_000), None);
    }
}
