//! Attributes: reading and changing them, and the rules of what changes along.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fdfs_index::{Attr, FileKind, Ino, SetAttr, Timestamp};

use super::data::CAPABILITY;
use super::error::{Done, Result, TreeError};
use super::handle::{Fh, FileHandle};
use super::inode::{Body, OpenInode, State, Times};
use super::{Atime, Core};

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This time.
    To(Timestamp),
}

impl SetTime {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            SetTime::Now => now,
            SetTime::To(time) => time,
        }
    }
}

/// What `setattr` changes; `None` leaves a thing as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits, `07777`.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes: content is cut, or extended with zeros.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Time of the last change of the content.
    pub mtime: Option<SetTime>,
    /// The handle it comes through (`ftruncate`).
    pub fh: Option<Fh>,
    /// A change of the size takes set-user-ID and set-group-ID away: the caller is not privileged to keep them.
    pub kill_suid: bool,
}

/// The mode after somebody else than a privileged process has changed the content, or anybody the owner. Set-group-ID
/// without group execution is not about execution (mandatory locking) and stays, as in Linux's own file systems.
pub(crate) fn without_suid(mode: u32) -> u32 {
    let mut mode = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        mode &= !libc::S_ISGID;
    }
    mode
}

impl Core {
    /// The attributes of an inode.
    ///
    /// The look into the table of inodes in use comes first, and the index is read under the lock of the inode: else, with
    /// changes being handed over to the index between the two, the answer could be older than what was answered before,
    /// and the kernel would keep it.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        let Some(inode) = self.open.get(ino) else { return Ok(self.index.getattr(ino)?) };
        let state = inode.lock();
        let mut attr = self.index.getattr(ino)?;
        state.overlay(&mut attr);
        Ok(attr)
    }

    /// The same for attributes that the index has just given, which only for regular files may be out of date.
    pub(crate) fn refreshed(&self, attr: Attr) -> Result<Attr> {
        if attr.kind == FileKind::Regular { self.getattr(attr.ino) } else { Ok(attr) }
    }

    /// Changes attributes. A new size through a handle is part of what that handle writes, stored when it is closed;
    /// through a path (`truncate`), it is stored before this answers.
    pub fn setattr(self: &Arc<Self>, ino: Ino, changes: Changes, done: Done<Attr>) {
        if let Err(error) = self.writable() {
            return done(Err(error));
        }
        match changes.size {
            Some(size) => self.resize(ino, size, changes, done),
            None => done(self.set_plain(ino, &changes)),
        }
    }

    /// Everything but the size.
    fn set_plain(&self, ino: Ino, changes: &Changes) -> Result<Attr> {
        let now = Timestamp::now();
        let mut set = SetAttr {
            mode: changes.mode,
            uid: changes.uid,
            gid: changes.gid,
            size: None,
            atime: changes.atime.map(|time| time.at(now)),
            mtime: changes.mtime.map(|time| time.at(now)),
            ctime: Some(now),
        };
        if changes.uid.is_some() || changes.gid.is_some() {
            let old = self.index.getattr(ino)?;
            if old.kind != FileKind::Directory {
                if changes.mode.is_none() && without_suid(old.mode) != old.mode {
                    set.mode = Some(without_suid(old.mode));
                }
                self.drop_capability(ino, now)?;
            }
        }
        let Some(inode) = self.open.get(ino) else { return Ok(self.index.setattr(ino, &set)?) };
        let mut state = inode.lock();
        let mut attr = self.index.setattr(ino, &set)?;
        if let Some(times) = &mut state.times {
            times.mtime = set.mtime.unwrap_or(times.mtime);
            times.ctime = now;
        }
        state.overlay(&mut attr);
        Ok(attr)
    }

    fn resize(self: &Arc<Self>, ino: Ino, size: u64, changes: Changes, done: Done<Attr>) {
        let inode = match self.open.enter(&self.index, ino) {
            Ok(inode) => inode,
            Err(error) => return done(Err(error)),
        };
        let resized = self.resize_open(&inode, &mut inode.lock(), size, &changes);
        // The times that came along (`O_TRUNC` of some kernels, `utimensat`) win over those of the change.
        let rest = Changes { size: None, ..changes };
        let others = rest.mode.or(rest.uid).or(rest.gid).is_some() || rest.atime.is_some() || rest.mtime.is_some();
        let resized = resized.and_then(|changed| {
            if others {
                self.set_plain(ino, &rest)?;
            }
            Ok(changed)
        });
        let mut state = inode.lock();
        let attr = resized.and_then(|changed| {
            let mut attr = self.index.getattr(ino)?;
            state.overlay(&mut attr);
            Ok((changed, attr))
        });
        let mut settled = Vec::new();
        let answer = match attr {
            Ok((true, attr)) if changes.fh.is_none() && state.dirty() && attr.nlink > 0 => {
                // Storing changes nothing that these attributes show.
                let stored: Done<()> = Box::new(move |stored| done(stored.map(|()| attr)));
                settled = self.store_now(&inode, &mut state, Some(stored));
                None
            }
            Ok((_, attr)) => Some((done, Ok(attr))),
            Err(error) => Some((done, Err(error))),
        };
        drop(state);
        self.settle(&inode, settled);
        self.open.leave(&inode);
        self.abandon_if_lost(&inode, &mut inode.lock());
        self.open.forget_idle(&inode);
        if let Some((done, attr)) = answer {
            done(attr);
        }
    }

    /// Whether it changed the content; the times it changes always.
    fn resize_open(&self, inode: &OpenInode, state: &mut State, size: u64, changes: &Changes) -> Result<bool> {
        let attr = self.index.getattr(inode.ino)?;
        match attr.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(TreeError::IsDirectory),
            _ => return Err(TreeError::Invalid("only regular files have a size to set")),
        }
        let handle = changes.fh.map(|fh| self.handles.file(fh)).transpose()?;
        if handle.as_ref().is_some_and(|handle| !handle.writable) {
            return Err(TreeError::BadHandle);
        }
        let old = state.size().unwrap_or(attr.size);
        self.check_growth(old, size)?;
        let now = Timestamp::now();
        self.drop_privileges(inode.ino, state, changes.kill_suid, now)?;
        if size == old {
            self.touch(inode.ino, state, now)?;
            return Ok(false);
        }
        if size == 0 {
            self.stage_nothing(inode.ino, state)?;
        } else {
            self.staged(inode.ino, state)?.stage.truncate(size)?;
        }
        let version = state.changed(now);
        if let Some(handle) = handle {
            handle.wrote.store(version, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Marks the content as changed though it is the same.
    pub(crate) fn touch(&self, ino: Ino, state: &mut State, now: Timestamp) -> Result<()> {
        if let Some(times) = &mut state.times {
            *times = Times::at(now);
        } else {
            self.index.setattr(ino, &SetAttr { mtime: Some(now), ctime: Some(now), ..SetAttr::default() })?;
        }
        Ok(())
    }

    /// Refuses sizes beyond the limit, and growth that the cluster cannot hold.
    pub(crate) fn check_growth(&self, old: u64, new: u64) -> Result<()> {
        let limit = self.options.max_file_size;
        if new > limit {
            return Err(TreeError::TooLarge { limit });
        }
        // Small growth is checked by the upload itself; asking each time would cost more than it saves.
        const WORTH_ASKING: u64 = 64 << 20;
        let growth = new.saturating_sub(old);
        if growth > WORTH_ASKING && self.store.space().is_ok_and(|space| space.free < growth) {
            return Err(TreeError::NoSpace { bytes: growth });
        }
        Ok(())
    }

    /// What every change of a content does to its inode: capabilities go, and set-user-ID and set-group-ID unless the
    /// caller may keep them.
    pub(crate) fn drop_privileges(&self, ino: Ino, state: &mut State, kill_suid: bool, now: Timestamp) -> Result<()> {
        if !state.without_capability {
            self.drop_capability(ino, now)?;
            state.without_capability = true;
        }
        if kill_suid {
            let mode = self.index.getattr(ino)?.mode;
            if without_suid(mode) != mode {
                let set = SetAttr { mode: Some(without_suid(mode)), ctime: Some(now), ..SetAttr::default() };
                self.index.setattr(ino, &set)?;
            }
        }
        Ok(())
    }

    fn drop_capability(&self, ino: Ino, now: Timestamp) -> Result<()> {
        match self.index.removexattr(ino, CAPABILITY, now) {
            Ok(()) | Err(fdfs_index::IndexError::NoAttribute) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Marks the access time at the first read through a handle. That it fails is no reason to fail the read.
    pub(crate) fn mark_read(&self, handle: &FileHandle) {
        const DAY: i64 = 86_400;
        if handle.atime_settled.load(Ordering::Relaxed) || handle.atime_settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let ino = handle.inode.ino;
        let Ok(attr) = self.getattr(ino) else { return };
        let now = Timestamp::now();
        let stale = attr.atime <= attr.mtime.max(attr.ctime) || attr.atime.secs <= now.secs - DAY;
        if (self.options.atime == Atime::Strict || stale)
            && let Err(error) = self.index.setattr(ino, &SetAttr { atime: Some(now), ..SetAttr::default() })
        {
            tracing::debug!(ino = ino.0, "access time not marked: {error}");
        }
    }

    /// Whether nothing of the inode's content is only in this process.
    pub(crate) fn clean(state: &State) -> bool {
        !state.dirty() && !matches!(state.body, Body::Copying { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suid_goes_and_sgid_only_with_group_execution() {
        assert_eq!(without_suid(0o6755), 0o755);
        assert_eq!(without_suid(0o6745), 0o2745);
        assert_eq!(without_suid(0o644), 0o644);
    }
}
