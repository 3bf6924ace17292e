//! Which content an inode refers to.
//!
//! Invariants:
//! - The new reference, the release of the old one, the reference counts and the garbage are one change.
//! - A file ID that was handed to [`Core::attach`] is referenced afterwards, or garbage; after an error it is neither, and
//!   still the caller's.

use std::sync::Arc;

use crate::contents::{Contents, Want};
use crate::core::Core;
use crate::delta::{Delta, Tx};
use crate::error::{IndexError, Result};
use crate::node::{Locked, State};
use crate::types::*;

/// What becomes of the content of an inode.
enum Change {
    /// It stays the one it was.
    Keep,
    /// One more reference to this one.
    Share(ContentId),
    /// This one, counted already.
    Own(ContentId),
    /// None.
    Clear,
}

impl State {
    /// Fails unless this inode can have content.
    fn regular(&mut self) -> Result<&mut State> {
        if self.gone {
            return Err(IndexError::NotFound);
        }
        match self.attr.kind {
            FileKind::Regular => Ok(self),
            FileKind::Directory => Err(IndexError::IsDirectory),
            _ => Err(IndexError::Invalid("only a regular file has content")),
        }
    }

    fn current(&self) -> Option<Want> {
        self.attr.content.map(Want::Id)
    }

    /// Makes the change; the caller publishes it.
    fn refer(&mut self, contents: &mut Contents, change: Change, size: u64, along: Along, tx: &mut Tx) {
        let former = self.attr.content;
        match change {
            Change::Keep => {}
            Change::Share(id) if former == Some(id) => {}
            Change::Share(id) => {
                contents.retain(id, tx);
                self.attr.content = Some(id);
            }
            Change::Own(id) => self.attr.content = Some(id),
            Change::Clear => self.attr.content = None,
        }
        if let Some(former) = former.filter(|_| self.attr.content != former) {
            contents.release(former, tx);
        }
        self.attr.size = size;
        self.attr.mtime = along.mtime;
        // The content may have been written some time before it is attached.
        self.attr.ctime = along.ctime.unwrap_or(self.attr.ctime.max(along.mtime));
        tx.push(self.row());
        if along.unstage {
            tx.push(Delta::StagedGone(self.attr.ino));
        }
    }
}

impl Core {
    pub fn content(&self, ino: Ino) -> Result<Option<Content>> {
        let node = self.node(ino)?;
        // The lock keeps the inode, and so the content, from being released meanwhile.
        let state = node.state.read();
        if state.gone {
            return Err(IndexError::NotFound);
        }
        let Some(id) = state.attr.content else { return Ok(None) };
        let mut contents = self.contents_with(&[Want::Id(id)])?;
        Ok(contents.get(id).cloned())
    }

    pub fn content_lost(&self, ino: Ino, file_id: &str) -> Result<bool> {
        self.queue.admit()?;
        let node = self.node(ino)?;
        let state = node.state.read();
        let Some(id) = state.attr.content.filter(|_| !state.gone) else { return Ok(false) };
        let mut contents = self.contents_with(&[Want::Id(id)])?;
        let mut tx = Tx::new();
        let news = contents.lose(id, file_id, &mut tx);
        if news {
            self.publish_contents(contents, tx);
        }
        Ok(news)
    }

    pub fn reuse(&self, ino: Ino, print: &Fingerprint, size: u64, along: Along) -> Result<Option<Attr>> {
        self.queue.admit()?;
        let node = self.node(ino)?;
        let mut locked = Locked::new([&node]);
        let state = locked.at(ino).regular()?;
        let key = Want::Print(*print, size);
        let wants: Vec<Want> = state.current().into_iter().chain([key.clone()]).collect();
        let mut contents = self.contents_with(&wants)?;
        let known = contents.find(&key).filter(|content| !content.lost);
        let Some(id) = known.map(|content| content.id) else { return Ok(None) };
        let mut tx = Tx::new();
        state.refer(&mut contents, Change::Share(id), size, along, &mut tx);
        let attr = state.attr;
        self.publish(locked, Some(contents), tx);
        Ok(Some(attr))
    }

    pub fn attach(&self, ino: Ino, new: NewContent, along: Along) -> Result<Attr> {
        self.queue.admit()?;
        if i64::try_from(new.size).is_err() {
            return Err(IndexError::Invalid("a size must be below 2^63"));
        }
        let new = NewContent { fingerprint: new.fingerprint.filter(|_| !new.mutable), ..new };
        let size = new.size;
        let node = self.node(ino)?;
        let mut locked = Locked::new([&node]);
        let state = locked.at(ino).regular()?;
        let print = new.fingerprint.map(|fingerprint| Want::Print(fingerprint, size));
        let file = Want::File(Arc::clone(&new.file_id));
        let wants: Vec<Want> = [state.current(), print.clone(), Some(file.clone())].into_iter().flatten().collect();
        let mut contents = self.contents_with(&wants)?;

        let current = state.attr.content;
        let twin = print.and_then(|print| contents.find(&print)).map(|content| (content.id, content.lost));
        let lost = twin.is_some_and(|(_, lost)| lost);
        let twin = twin.map(|(id, _)| id);
        let owner = contents.find(&file).cloned();
        let mut tx = Tx::new();
        let change = match (owner, twin) {
            (Some(owner), twin) if Some(owner.id) == current && owner.mutable => match twin {
                // Sealed, it turns out to be the same as one that is there.
                Some(twin) => {
                    if lost {
                        contents.restore_from(twin, &owner, &mut tx);
                    }
                    Change::Share(twin)
                }
                None => {
                    contents.update(owner.id, &new, &mut tx);
                    Change::Keep
                }
            },
            (Some(owner), twin) => {
                // The file ID is known: it may be said again, but not of something else.
                let same = !owner.mutable && !new.mutable && owner.size == size && twin.is_none_or(|id| id == owner.id);
                if !same || new.fingerprint.is_some_and(|print| owner.fingerprint.is_some_and(|known| known != print)) {
                    return Err(IndexError::Invalid("this file ID belongs to another content"));
                }
                Change::Share(owner.id)
            }
            (None, Some(twin)) => {
                if lost {
                    contents.restore(twin, new.file_id, &mut tx);
                } else {
                    contents.add_garbage(new.file_id, &mut tx);
                }
                Change::Share(twin)
            }
            (None, None) => Change::Own(contents.insert(new, &mut tx)),
        };
        state.refer(&mut contents, change, size, along, &mut tx);
        let attr = state.attr;
        self.publish(locked, Some(contents), tx);
        Ok(attr)
    }

    pub fn clone_content(&self, from: Ino, to: Ino, expected: ContentId, along: Along) -> Result<Option<Attr>> {
        self.queue.admit()?;
        let (from_node, to_node) = (self.node(from)?, self.node(to)?);
        let mut locked = Locked::new([&from_node, &to_node]);
        let source = locked.at(from).regular()?;
        if source.attr.content != Some(expected) {
            return Ok(None);
        }
        let size = source.attr.size;
        let state = locked.at(to).regular()?;
        let wants: Vec<Want> = state.current().into_iter().chain([Want::Id(expected)]).collect();
        let mut contents = self.contents_with(&wants)?;
        let content = contents.get(expected);
        if content.is_some_and(|content| content.lost) {
            return Ok(None);
        }
        if content.is_some_and(|content| content.mutable) && from != to {
            return Err(IndexError::Invalid("mutable content cannot be shared"));
        }
        let mut tx = Tx::new();
        state.refer(&mut contents, Change::Share(expected), size, along, &mut tx);
        let attr = state.attr;
        self.publish(locked, Some(contents), tx);
        Ok(Some(attr))
    }

    pub fn clear_content(&self, ino: Ino, along: Along) -> Result<Attr> {
        self.queue.admit()?;
        let node = self.node(ino)?;
        let mut locked = Locked::new([&node]);
        let state = locked.at(ino).regular()?;
        let wants: Vec<Want> = state.current().into_iter().collect();
        let mut contents = self.contents_with(&wants)?;
        let mut tx = Tx::new();
        state.refer(&mut contents, Change::Clear, 0, along, &mut tx);
        let attr = state.attr;
        self.publish(locked, Some(contents), tx);
        Ok(attr)
    }

    pub fn stage_put(&self, row: StagedRow) -> Result<()> {
        self.queue.admit()?;
        let node = self.node(row.ino)?;
        let mut locked = Locked::new([&node]);
        locked.at(row.ino).regular()?;
        let mut tx = Tx::new();
        tx.push(Delta::Staged(row));
        self.publish(locked, None, tx);
        Ok(())
    }

    pub fn stage_remove(&self, ino: Ino) -> Result<()> {
        self.queue.admit()?;
        let mut tx = Tx::new();
        tx.push(Delta::StagedGone(ino));
        self.publish(Locked::new([]), None, tx);
        Ok(())
    }

    pub fn staged(&self) -> Result<Vec<StagedRow>> {
        self.queue.wait(false)?;
        self.readers.staged()
    }
}
