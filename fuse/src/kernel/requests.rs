//! Each request of the kernel: translate, ask the tree, reply.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fdfs_index::{Ino, RenameMode, XattrMode};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{access, allocate, errno, file_attr, file_kind, file_type, set_time, unprivileged};
use super::replies::{FOREVER, GENERATION, absent, open_flags, reply_attr, reply_empty, reply_entry, reply_xattr};
use crate::tree::{Caller, Changes, Core, Fh, Result, Seek, Statistics, TreeError, Written};

/// Largest write the kernel sends in one request, and largest read it asks for.
const MAX_WRITE: u32 = 1 << 20;

/// Requests the kernel sends without waiting for their answers, at most: readahead and direct I/O.
const MAX_BACKGROUND: u16 = 64;

/// What is asked of the kernel, if it offers it. Nothing else is accepted; fuser would take more than it honours.
const CAPABILITIES: [InitFlags; 9] = [
    // open(2) with O_TRUNC is one request.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Look-ups and listings of one directory run side by side.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Listings carry attributes where the reader seems to want them.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // Pages stay although the modification time changes: this is the only writer.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Set-user-ID and capabilities are dropped here, so the kernel need not ask for them before each write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_ASYNC_DIO,
    // Look-ups of "." and ".." are answered: the tree can be exported and opened by handle.
    InitFlags::FUSE_EXPORT_SUPPORT,
];

/// The file system as fuser calls it.
pub(super) struct Requests {
    tree: Arc<Core>,
}

impl Requests {
    pub(super) fn new(tree: Arc<Core>) -> Requests {
        Requests { tree }
    }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn fh(handle: FileHandle) -> Fh {
    Fh(handle.0)
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

impl Filesystem for Requests {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::info!(?capability, "not offered by this kernel");
            }
        }
        // Values above what the kernel or fuser allows come back as the nearest one allowed.
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(MAX_WRITE) {
            let _ = config.set_max_readahead(nearest);
        }
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            let _ = config.set_max_background(nearest);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(ino(parent), name.as_bytes()) {
            Err(error) if error.to_errno() == libc::ENOENT => reply.entry(&FOREVER, &absent(), GENERATION),
            result => reply_entry("lookup", result, reply),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, _lookups: u64) {
        self.tree.forget(ino(number));
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr("getattr", self.tree.getattr(ino(number)), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            fh: handle.map(fh),
            kill_suid: unprivileged(request.uid()),
        };
        self.tree.setattr(ino(number), changes, Box::new(move |result| reply_attr("setattr", result, reply)));
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        match self.tree.readlink(ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno("readlink", &error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = file_kind(mode).ok_or(TreeError::Invalid("unknown kind of file"));
        let made = kind
            .and_then(|kind| self.tree.mknod(ino(parent), name.as_bytes(), kind, mode & 0o7777, rdev, caller(request)));
        reply_entry("mknod", made, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        reply_entry("mkdir", self.tree.mkdir(ino(parent), name.as_bytes(), mode & 0o7777, caller(request)), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("unlink", self.tree.unlink(ino(parent), name.as_bytes()), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("rmdir", self.tree.rmdir(ino(parent), name.as_bytes()), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        reply_entry("symlink", self.tree.symlink(ino(parent), name.as_bytes(), target, caller(request)), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        let (from, to) = (ino(parent), ino(new_parent));
        reply_empty("rename", self.tree.rename(from, name.as_bytes(), to, new_name.as_bytes(), mode), reply);
    }

    fn link(&self, _request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry("link", self.tree.link(ino(number), ino(parent), name.as_bytes()), reply);
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.tree.open(ino(number), access(flags, request.uid())) {
            Ok(opened) => reply.opened(FileHandle(opened.fh.0), open_flags(&opened)),
            Err(error) => reply.error(errno("open", &error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let access = access(OpenFlags(flags), request.uid());
        match self.tree.create(ino(parent), name.as_bytes(), mode & 0o7777, caller(request), access) {
            Ok((attr, opened)) => {
                let handle = FileHandle(opened.fh.0);
                reply.created(&FOREVER, &file_attr(&attr), GENERATION, handle, open_flags(&opened));
            }
            Err(error) => reply.error(errno("create", &error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.tree.read(fh(handle), offset, size as usize, move |result: Result<&[u8]>| match result {
            Ok(data) => reply.data(data),
            Err(error) => reply.error(errno("read", &error)),
        });
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = Written {
            from_page_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            kill_suid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        match self.tree.write(fh(handle), offset, data, how) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(errno("write", &error)),
        }
    }

    fn flush(&self, _request: &Request, _number: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.tree.flush(fh(handle), Box::new(move |result| reply_empty("close", result, reply)));
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.tree.release(fh(handle));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _number: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.tree.fsync(fh(handle), Box::new(move |result| reply_empty("fsync", result, reply)));
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.tree.opendir(ino(number)) {
            Ok(handle) => {
                reply.opened(FileHandle(handle.0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
            }
            Err(error) => reply.error(errno("opendir", &error)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.tree.readdir(fh(handle), offset, &mut |entry| {
            let name = OsStr::from_bytes(entry.name);
            !reply.add(INodeNo(entry.attr.ino.0), entry.offset, file_type(entry.attr.kind), name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno("readdir", &error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.tree.readdir(fh(handle), offset, &mut |entry| {
            let (number, name) = (INodeNo(entry.attr.ino.0), OsStr::from_bytes(entry.name));
            !reply.add(number, entry.offset, name, &FOREVER, &file_attr(entry.attr), GENERATION)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno("readdir", &error)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.tree.releasedir(fh(handle));
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _number: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.tree.sync_names(Box::new(move |result| reply_empty("fsync", result, reply)));
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let Statistics { blocks, free, files, files_free } = self.tree.statfs();
        let name_max = fdfs_index::NAME_MAX as u32;
        reply.statfs(
            blocks,
            free,
            free,
            files + files_free,
            files_free,
            Statistics::BLOCK,
            name_max,
            Statistics::BLOCK,
        );
    }

    fn setxattr(
        &self,
        _request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        reply_empty("setxattr", self.tree.setxattr(ino(number), name.as_bytes(), value, mode), reply);
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.tree.getxattr(ino(number), name.as_bytes(), <[u8]>::to_vec);
        reply_xattr("getxattr", value, size, reply);
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr("listxattr", self.tree.listxattr(ino(number)), size, reply);
    }

    fn removexattr(&self, _request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("removexattr", self.tree.removexattr(ino(number), name.as_bytes()), reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(what) = allocate(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let kill_suid = unprivileged(request.uid());
        reply_empty("fallocate", self.tree.fallocate(fh(handle), offset, length, what, kill_suid), reply);
    }

    // Every program that wonders whether it writes to a terminal asks.
    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // Files are always ready: after this answer, the kernel says so itself.
    fn poll(
        &self,
        _request: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _request: &Request, number: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.tree.lseek(ino(number), offset, what) {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(errno("lseek", &error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _from: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits.
        let len = len.min(u64::from(!4095u32));
        let done = Box::new(move |result: Result<u64>| match result {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(errno("copy_file_range", &error)),
        });
        let kill_suid = unprivileged(request.uid());
        self.tree.copy_range((fh(from), from_offset), (fh(to), to_offset), len, kill_suid, done);
    }
}
