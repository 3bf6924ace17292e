//! The namespace: look-up, creation, removal, renaming and links.

use std::sync::Arc;

use fdfs_index::{Attr, FileKind, Ino, NewInode, RenameMode, Timestamp};

use super::Core;
use super::error::{Result, TreeError};

/// Who asks. Permissions have been checked by the kernel (`default_permissions`); this decides who owns what is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Core {
    /// The inode that `name` in `dir` leads to.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let attr = match name {
            // Asked for by the kernel when it finds its way back from a number alone (NFS, `open_by_handle_at`).
            b"." => self.index.getattr(dir)?,
            b".." => self.index.getattr(self.index.parent(dir)?)?,
            _ => self.index.lookup(dir, name)?,
        };
        self.refreshed(attr)
    }

    /// Owner, group and mode of something new in `dir`. A directory with set-group-ID passes its group on, and to
    /// directories the bit itself.
    pub(crate) fn ownership(&self, dir: Ino, kind: FileKind, mode: u32, caller: Caller) -> Result<(u32, u32, u32)> {
        let parent = self.index.getattr(dir)?;
        let mode = mode & 0o7777;
        Ok(if parent.mode & libc::S_ISGID == 0 {
            (caller.uid, caller.gid, mode)
        } else if kind == FileKind::Directory {
            (caller.uid, parent.gid, mode | libc::S_ISGID)
        } else {
            (caller.uid, parent.gid, mode)
        })
    }

    /// Creates a directory.
    pub fn mkdir(&self, dir: Ino, name: &[u8], mode: u32, caller: Caller) -> Result<Attr> {
        self.make(dir, name, FileKind::Directory, mode, 0, None, caller)
    }

    /// Creates a file of any kind but a directory or a symbolic link, without opening it.
    pub fn mknod(&self, dir: Ino, name: &[u8], kind: FileKind, mode: u32, rdev: u32, caller: Caller) -> Result<Attr> {
        match kind {
            FileKind::Directory | FileKind::Symlink => Err(TreeError::Invalid("not made by mknod")),
            FileKind::CharDevice | FileKind::BlockDevice => self.make(dir, name, kind, mode, rdev, None, caller),
            FileKind::Regular | FileKind::Fifo | FileKind::Socket => self.make(dir, name, kind, mode, 0, None, caller),
        }
    }

    /// Creates a symbolic link.
    pub fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], caller: Caller) -> Result<Attr> {
        self.make(dir, name, FileKind::Symlink, 0o777, 0, Some(target.to_vec()), caller)
    }

    #[allow(clippy::too_many_arguments)] // One private function in place of three near-copies.
    fn make(
        &self,
        dir: Ino,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u32,
        target: Option<Vec<u8>>,
        caller: Caller,
    ) -> Result<Attr> {
        self.writable()?;
        let (uid, gid, mode) = self.ownership(dir, kind, mode, caller)?;
        let new = NewInode { kind, mode, uid, gid, rdev, target };
        Ok(self.index.create(dir, name, &new, Timestamp::now())?)
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Arc<[u8]>> {
        Ok(self.index.readlink(ino)?)
    }

    /// Gives a file one more name.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        self.writable()?;
        let attr = self.index.link(ino, dir, name, Timestamp::now())?;
        self.refreshed(attr)
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        let hold = self.hold_name(dir, name);
        let attr = self.index.unlink(dir, name, Timestamp::now())?;
        self.remember(hold);
        self.after_removal(&attr);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        let hold = self.hold_name(dir, name);
        self.index.rmdir(dir, name, Timestamp::now())?;
        self.remember(hold);
        Ok(())
    }

    /// Moves an entry, atomically.
    pub fn rename(&self, dir: Ino, name: &[u8], new_dir: Ino, new_name: &[u8], mode: RenameMode) -> Result<()> {
        self.writable()?;
        let hold = self.hold_name(new_dir, new_name);
        let replaced = self.index.rename(dir, name, new_dir, new_name, mode, Timestamp::now())?;
        self.remember(hold);
        if let Some(attr) = replaced {
            self.after_removal(&attr);
        }
        Ok(())
    }

    /// Gives up data that waits to be stored for a file that has just lost its last name, unless it is open.
    fn after_removal(&self, attr: &Attr) {
        if attr.nlink > 0 || attr.kind != FileKind::Regular {
            return;
        }
        let Some(inode) = self.open.get(attr.ino) else { return };
        self.abandon_if_lost(&inode, &mut inode.lock());
        self.open.forget_idle(&inode);
    }
}
