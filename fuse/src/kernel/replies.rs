//! Answers of the tree as replies to the kernel.

use std::time::{Duration, SystemTime};

use fdfs_index::Attr;
use fuser::{
    Errno, FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr,
};

use super::convert::{errno, file_attr};
use crate::tree::{Opened, Result};

/// How long the kernel may believe what it is told: as long as it likes. See the [module](super::super::kernel).
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Inode numbers are never used again, so there is one generation.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn reply_entry(operation: &'static str, result: Result<Attr>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&FOREVER, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(errno(operation, &error)),
    }
}

pub(super) fn reply_attr(operation: &'static str, result: Result<Attr>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
        Err(error) => reply.error(errno(operation, &error)),
    }
}

pub(super) fn reply_empty(operation: &'static str, result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(operation, &error)),
    }
}

/// The answer "there is no such name", which the kernel remembers: an entry that leads to inode 0.
pub(super) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, !opened.doubtful);
    flags.set(FopenFlags::FOPEN_NOFLUSH, !opened.flushes);
    flags
}

pub(super) fn reply_xattr(operation: &'static str, result: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(operation, &error)),
    }
}
