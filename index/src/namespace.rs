//! Names and inodes: look up, create, link, unlink, remove.
//!
//! Every change goes the same way: find the inodes, lock them all, make sure that the entry still leads where it did (or
//! start again), check, change memory, publish. Nothing can fail after the first change.

use std::sync::Arc;

use crate::contents::Want;
use crate::core::Core;
use crate::delta::{Delta, Name, Tx};
use crate::dir::Entry;
use crate::error::{IndexError, Result};
use crate::node::{Locked, Node, State};
use crate::types::*;

/// Refuses what can never be a name.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(IndexError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(IndexError::Invalid("not a name of a directory entry"));
    }
    Ok(())
}

impl Core {
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        if name.len() > NAME_MAX {
            return Err(IndexError::NameTooLong);
        }
        let dir = self.node(dir)?;
        loop {
            let (_, child) = self.child(&dir, name)?.ok_or(IndexError::NotFound)?;
            match child.attr() {
                // It went between the two steps; so the entry did.
                Err(IndexError::NotFound) => continue,
                attr => return attr,
            }
        }
    }

    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.queue.admit()?;
        if set.size.is_some_and(|size| i64::try_from(size).is_err()) {
            return Err(IndexError::Invalid("a size must be below 2^63"));
        }
        let node = self.node(ino)?;
        let mut locked = Locked::new([&node]);
        let state = locked.at(ino).alive()?;
        if set.size.is_some() && state.attr.kind == FileKind::Directory {
            return Err(IndexError::IsDirectory);
        }
        if *set == SetAttr::default() {
            return Ok(state.attr);
        }
        let SetAttr { mode, uid, gid, size, atime, mtime, ctime } = *set;
        let attr = &mut state.attr;
        attr.mode = mode.map_or(attr.mode, |mode| mode & 0o7777);
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.size = size.unwrap_or(attr.size);
        attr.atime = atime.unwrap_or(attr.atime);
        attr.mtime = mtime.unwrap_or(attr.mtime);
        attr.ctime = ctime.unwrap_or(attr.ctime);
        self.publish_attr(locked, ino)
    }

    /// Publishes the changed attributes of one inode.
    pub fn publish_attr(&self, mut locked: Locked<'_>, ino: Ino) -> Result<Attr> {
        let mut tx = Tx::new();
        let state = locked.at(ino);
        let attr = state.attr;
        tx.push(state.row());
        self.publish(locked, None, tx);
        Ok(attr)
    }

    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        let node = self.node(dir)?;
        let state = node.state.read();
        if state.gone {
            return Err(IndexError::NotFound);
        }
        state.parent.ok_or(IndexError::NotDirectory)
    }

    pub fn readlink(&self, ino: Ino) -> Result<Name> {
        let node = self.node(ino)?;
        let state = node.state.read();
        if state.gone {
            return Err(IndexError::NotFound);
        }
        state.target.clone().ok_or(IndexError::Invalid("not a symbolic link"))
    }

    pub fn create(&self, dir: Ino, name: &[u8], new: &NewInode, now: Timestamp) -> Result<Attr> {
        check_name(name)?;
        let target = check_target(new)?;
        self.queue.admit()?;
        let dir_node = self.node(dir)?;
        // Declared before the locks, because it has to outlive them.
        #[allow(clippy::needless_late_init)]
        let node;
        let mut locked = Locked::new([&dir_node]);
        let parent = locked.at(dir).open_dir()?;
        if self.entry_locked(parent, name)?.is_some() {
            return Err(IndexError::Exists);
        }
        let is_dir = new.kind == FileKind::Directory;
        if is_dir && parent.attr.nlink >= LINK_MAX {
            return Err(IndexError::TooManyLinks);
        }

        let mut tx = Tx::new();
        // A new inode's number serves as the cookie of its first entry, too: both are unused, and grow.
        let number = self.numbers.take(&mut tx);
        let attr = Attr {
            ino: Ino(number),
            kind: new.kind,
            mode: new.mode & 0o7777,
            uid: new.uid,
            gid: new.gid,
            nlink: if is_dir { 2 } else { 1 },
            rdev: new.rdev,
            size: target.as_ref().map_or(0, |target| target.len() as u64),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            content: None,
        };
        tx.totals.inodes += 1;
        parent.put_entry(&name.into(), Entry { ino: attr.ino, cookie: number }, &mut tx);
        parent.attr.size += 1;
        parent.attr.nlink += u32::from(is_dir);
        parent.entries_changed(now);
        tx.push(parent.row());
        node = Arc::new(Node::created(attr, is_dir.then_some(dir), target));
        locked.add_new(&node);
        tx.push(locked.at(attr.ino).row());
        self.table.insert_new(Arc::clone(&node));
        self.publish(locked, None, tx);
        Ok(attr)
    }

    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        check_name(name)?;
        self.queue.admit()?;
        let dir_node = self.node(dir)?;
        let node = self.node(ino)?;
        if node.kind == FileKind::Directory {
            return Err(IndexError::NotPermitted);
        }
        let mut locked = Locked::new([&dir_node, &node]);
        let state = locked.at(ino).alive()?;
        match state.attr.nlink {
            // Its last name went while it was open: it must not come back.
            0 => return Err(IndexError::NotFound),
            LINK_MAX.. => return Err(IndexError::TooManyLinks),
            _ => {}
        }
        let parent = locked.at(dir).open_dir()?;
        if self.entry_locked(parent, name)?.is_some() {
            return Err(IndexError::Exists);
        }

        let mut tx = Tx::new();
        let cookie = self.numbers.take(&mut tx);
        parent.put_entry(&name.into(), Entry { ino, cookie }, &mut tx);
        parent.attr.size += 1;
        parent.entries_changed(now);
        tx.push(parent.row());
        let state = locked.at(ino);
        state.attr.nlink += 1;
        state.attr.ctime = now;
        let attr = state.attr;
        tx.push(state.row());
        self.publish(locked, None, tx);
        Ok(attr)
    }

    pub fn unlink(&self, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        self.remove(dir, name, now, |child| match child.kind {
            FileKind::Directory => Err(IndexError::IsDirectory),
            _ => Ok(()),
        })
    }

    pub fn rmdir(&self, dir: Ino, name: &[u8], now: Timestamp) -> Result<Attr> {
        self.remove(dir, name, now, |child| match child.kind {
            FileKind::Directory => Ok(()),
            _ => Err(IndexError::NotDirectory),
        })
    }

    fn remove(&self, dir: Ino, name: &[u8], now: Timestamp, fits: impl Fn(&Node) -> Result<()>) -> Result<Attr> {
        check_name(name)?;
        self.queue.admit()?;
        let dir_node = self.node(dir)?;
        loop {
            let (_, child) = self.child(&dir_node, name)?.ok_or(IndexError::NotFound)?;
            fits(&child)?;
            let mut locked = Locked::new([&dir_node, &child]);
            let parent = locked.at(dir).open_dir()?;
            match self.entry_locked(parent, name)? {
                Some(entry) if entry.ino == child.ino => {}
                _ => continue,
            }
            let state = locked.at(child.ino).alive()?;
            if child.kind == FileKind::Directory && state.attr.size > 0 {
                return Err(IndexError::NotEmpty);
            }
            let mut contents = match state.content_to_release() {
                Some(id) => Some(self.contents_with(&[Want::Id(id)])?),
                None => None,
            };

            let mut tx = Tx::new();
            let parent = locked.at(dir);
            parent.remove_entry(&name.into(), &mut tx);
            parent.attr.size = parent.attr.size.saturating_sub(1);
            if child.kind == FileKind::Directory {
                parent.attr.nlink = parent.attr.nlink.saturating_sub(1);
            }
            parent.entries_changed(now);
            tx.push(parent.row());
            let attr = self.lose_name(locked.at(child.ino), contents.as_deref_mut(), now, &mut tx);
            self.publish(locked, contents, tx);
            return Ok(attr);
        }
    }

    /// The inode has one name less. Without any, it waits for its holds as an orphan, or is reclaimed at once.
    /// The answer is what is left of it; of the content only the number, if that died.
    pub fn lose_name(
        &self,
        state: &mut State,
        contents: Option<&mut crate::contents::Contents>,
        now: Timestamp,
        tx: &mut Tx,
    ) -> Attr {
        let is_dir = state.attr.kind == FileKind::Directory;
        state.attr.nlink = if is_dir { 0 } else { state.attr.nlink.saturating_sub(1) };
        state.attr.ctime = now;
        let attr = state.attr;
        if attr.nlink > 0 {
            tx.push(state.row());
        } else if state.holds > 0 {
            tx.push(state.row());
            tx.push(Delta::Orphan(attr.ino));
        } else {
            self.reclaim(state, contents, tx);
        }
        attr
    }
}

impl State {
    /// The content that goes when this inode loses one more name.
    pub fn content_to_release(&self) -> Option<ContentId> {
        self.attr.content.filter(|_| self.attr.nlink <= 1 && self.holds == 0)
    }
}

/// The target of a new symbolic link, and no target for anything else.
fn check_target(new: &NewInode) -> Result<Option<Name>> {
    match (&new.target, new.kind) {
        (Some(target), FileKind::Symlink) => {
            if target.len() > TARGET_MAX {
                return Err(IndexError::NameTooLong);
            }
            if target.is_empty() || target.contains(&0) {
                return Err(IndexError::Invalid("not a target of a symbolic link"));
            }
            Ok(Some(target.as_slice().into()))
        }
        (None, FileKind::Symlink) => Err(IndexError::Invalid("a symbolic link needs a target")),
        (Some(_), _) => Err(IndexError::Invalid("only a symbolic link has a target")),
        (None, _) => Ok(None),
    }
}
