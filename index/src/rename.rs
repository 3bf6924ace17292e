//! Moving an entry.
//!
//! Invariants:
//! - The tree stays a tree: a directory gets another parent only under the rename lock, after a walk from the new parent
//!   to the root that did not meet it. No directory's ancestors change meanwhile.
//! - A listing reports a name that is replaced exactly once, and an entry renamed within its directory exactly once: the
//!   name that was there keeps its cookie, else the moved entry keeps its own.

use std::sync::Arc;

use crate::contents::Want;
use crate::core::Core;
use crate::delta::{Name, Tx};
use crate::dir::Entry;
use crate::error::{IndexError, Result};
use crate::namespace::check_name;
use crate::node::{Locked, Node};
use crate::types::*;

/// One end of the move: a directory and a name in it.
struct Side {
    dir: Arc<Node>,
    name: Name,
}

/// What the two names lead to, while everything is locked.
struct Found {
    source: Entry,
    target: Option<Entry>,
}

impl Core {
    pub fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        mode: RenameMode,
        now: Timestamp,
    ) -> Result<Option<Attr>> {
        check_name(name)?;
        check_name(new_name)?;
        self.queue.admit()?;
        let from = Side { dir: self.node(dir)?, name: name.into() };
        let to = Side { dir: self.node(new_dir)?, name: new_name.into() };
        let mut renaming = None;
        loop {
            let (source, moved) = self.child(&from.dir, name)?.ok_or(IndexError::NotFound)?;
            let target = self.child(&to.dir, new_name)?;
            match (mode, &target) {
                (RenameMode::NoReplace, Some(_)) => return Err(IndexError::Exists),
                (RenameMode::Exchange, None) => return Err(IndexError::NotFound),
                _ => {}
            }
            let other = target.as_ref().map_or(&moved, |(_, node)| node);
            let swaps_dir = mode == RenameMode::Exchange && other.kind == FileKind::Directory;
            if dir != new_dir && (moved.kind == FileKind::Directory || swaps_dir) {
                if renaming.is_none() {
                    // The lock comes before all others, so it is taken with nothing held and all is looked up again.
                    renaming = Some(self.renames.lock());
                    continue;
                }
                self.refuse_below(&to.dir, &moved)?;
                if swaps_dir {
                    self.refuse_below(&from.dir, other)?;
                }
            }

            let mut locked = Locked::new([&from.dir, &to.dir, &moved, other]);
            let now_source = self.entry_locked(locked.at(dir).open_dir()?, name)?;
            let now_target = self.entry_locked(locked.at(new_dir).open_dir()?, new_name)?;
            let found = Found { source, target: target.as_ref().map(|(entry, _)| *entry) };
            if now_source != Some(found.source) || now_target != found.target {
                continue;
            }
            return match found.target {
                Some(target) if target.ino == source.ino => Ok(None),
                Some(target) if mode == RenameMode::Exchange => {
                    self.exchange(locked, &from, &to, source, target, now).map(Some)
                }
                _ => self.replace(locked, &from, &to, found, now),
            };
        }
    }

    /// Fails if `dir` is `top` or below it. Only under the rename lock.
    fn refuse_below(&self, dir: &Arc<Node>, top: &Node) -> Result<()> {
        if top.kind != FileKind::Directory {
            return Ok(());
        }
        let mut node = Arc::clone(dir);
        loop {
            if node.ino == top.ino {
                return Err(IndexError::CrossesItself);
            }
            if node.ino == Ino::ROOT {
                return Ok(());
            }
            let parent = node.state.read().parent.ok_or(IndexError::NotDirectory)?;
            node = self.node(parent)?;
        }
    }

    fn exchange(
        &self,
        mut locked: Locked<'_>,
        from: &Side,
        to: &Side,
        source: Entry,
        target: Entry,
        now: Timestamp,
    ) -> Result<Attr> {
        let is_dir = |locked: &mut Locked<'_>, ino| u32::from(locked.at(ino).attr.kind == FileKind::Directory);
        let (out, back) = (is_dir(&mut locked, source.ino), is_dir(&mut locked, target.ino));
        if from.dir.ino != to.dir.ino {
            for (side, gain) in [(to, out.saturating_sub(back)), (from, back.saturating_sub(out))] {
                if gain > 0 && locked.at(side.dir.ino).attr.nlink >= LINK_MAX {
                    return Err(IndexError::TooManyLinks);
                }
            }
        }

        let mut tx = Tx::new();
        let side = locked.at(from.dir.ino);
        side.put_entry(&from.name, Entry { ino: target.ino, cookie: source.cookie }, &mut tx);
        let side = locked.at(to.dir.ino);
        side.put_entry(&to.name, Entry { ino: source.ino, cookie: target.cookie }, &mut tx);
        for (dir, gains, loses) in [(from.dir.ino, back, out), (to.dir.ino, out, back)] {
            let side = locked.at(dir);
            side.attr.nlink = (side.attr.nlink + gains).saturating_sub(loses);
            side.entries_changed(now);
        }
        for (ino, parent) in [(source.ino, to.dir.ino), (target.ino, from.dir.ino)] {
            let state = locked.at(ino);
            state.parent = state.parent.map(|_| parent);
            state.attr.ctime = now;
        }
        let attr = locked.at(target.ino).attr;
        for state in locked.iter_mut() {
            tx.push(state.row());
        }
        self.publish(locked, None, tx);
        Ok(attr)
    }

    fn replace(
        &self,
        mut locked: Locked<'_>,
        from: &Side,
        to: &Side,
        found: Found,
        now: Timestamp,
    ) -> Result<Option<Attr>> {
        let Found { source, target } = found;
        let moves_dir = locked.at(source.ino).attr.kind == FileKind::Directory;
        let same_dir = from.dir.ino == to.dir.ino;
        let mut contents = None;
        if let Some(target) = target {
            let state = locked.at(target.ino).alive()?;
            match (moves_dir, state.attr.kind == FileKind::Directory) {
                (true, false) => return Err(IndexError::NotDirectory),
                (false, true) => return Err(IndexError::IsDirectory),
                (true, true) if state.attr.size > 0 => return Err(IndexError::NotEmpty),
                _ => {}
            }
            if let Some(id) = state.content_to_release() {
                contents = Some(self.contents_with(&[Want::Id(id)])?);
            }
        } else if moves_dir && !same_dir && locked.at(to.dir.ino).attr.nlink >= LINK_MAX {
            return Err(IndexError::TooManyLinks);
        }

        let mut tx = Tx::new();
        let cookie = match target {
            Some(target) => target.cookie,
            None if same_dir => source.cookie,
            None => self.numbers.take(&mut tx),
        };
        // First the new name, then without the old one: whoever looks in between finds it twice rather than not at all.
        let side = locked.at(to.dir.ino);
        side.put_entry(&to.name, Entry { ino: source.ino, cookie }, &mut tx);
        side.attr.size += u64::from(target.is_none());
        side.attr.nlink += u32::from(moves_dir && target.is_none());
        side.entries_changed(now);
        let side = locked.at(from.dir.ino);
        side.remove_entry(&from.name, &mut tx);
        side.attr.size = side.attr.size.saturating_sub(1);
        side.attr.nlink = side.attr.nlink.saturating_sub(u32::from(moves_dir));
        side.entries_changed(now);
        let state = locked.at(source.ino);
        state.parent = state.parent.map(|_| to.dir.ino);
        state.attr.ctime = now;
        for ino in [Some(from.dir.ino), (!same_dir).then_some(to.dir.ino), Some(source.ino)].into_iter().flatten() {
            tx.push(locked.at(ino).row());
        }
        let replaced =
            target.map(|target| self.lose_name(locked.at(target.ino), contents.as_deref_mut(), now, &mut tx));
        self.publish(locked, contents, tx);
        Ok(replaced)
    }
}
