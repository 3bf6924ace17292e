//! Extended attributes.
//!
//! Invariant: `xattr_count` of an inode is how many it has, loaded or not. So an inode without any, the common case, costs
//! no look-up.

use std::collections::BTreeMap;

use crate::core::Core;
use crate::delta::{Delta, Name, Tx};
use crate::error::{IndexError, Result};
use crate::node::{Locked, State};
use crate::types::*;

impl Core {
    /// Calls `f` with the extended attributes of `ino`.
    fn with_xattrs<T>(&self, ino: Ino, f: impl FnOnce(&BTreeMap<Name, Name>) -> T) -> Result<T> {
        let node = self.node(ino)?;
        let state = node.state.read();
        if state.gone {
            return Err(IndexError::NotFound);
        }
        if let Some(xattrs) = &state.xattrs {
            return Ok(f(xattrs));
        }
        drop(state);
        let mut state = node.state.write();
        Ok(f(self.loaded_xattrs(state.alive()?)?))
    }

    fn loaded_xattrs<'a>(&self, state: &'a mut State) -> Result<&'a mut BTreeMap<Name, Name>> {
        if state.xattrs.is_none() {
            state.xattrs = Some(self.readers.xattrs(state.attr.ino)?.into_iter().collect());
        }
        Ok(state.xattrs.get_or_insert_default())
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Name> {
        self.with_xattrs(ino, |xattrs| xattrs.get(name).cloned())?.ok_or(IndexError::NoAttribute)
    }

    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Name>> {
        self.with_xattrs(ino, |xattrs| xattrs.keys().cloned().collect())
    }

    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode, now: Timestamp) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(IndexError::NameTooLong);
        }
        if name.is_empty() || name.contains(&0) {
            return Err(IndexError::Invalid("not a name of an extended attribute"));
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(IndexError::TooLarge);
        }
        self.queue.admit()?;
        let node = self.node(ino)?;
        let mut locked = Locked::new([&node]);
        let xattrs = self.loaded_xattrs(locked.at(ino).alive()?)?;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(IndexError::Exists),
            (XattrMode::Replace, false) => return Err(IndexError::NoAttribute),
            (_, true) => {}
            (_, false) => {
                let list: usize = xattrs.keys().map(|name| name.len() + 1).sum();
                if list + name.len() + 1 > XATTR_LIST_MAX {
                    return Err(IndexError::AttributesFull);
                }
            }
        }
        let (name, value): (Name, Name) = (name.into(), value.into());
        xattrs.insert(Name::clone(&name), Name::clone(&value));
        self.publish_xattr(locked, ino, name, Some(value), now);
        Ok(())
    }

    pub fn removexattr(&self, ino: Ino, name: &[u8], now: Timestamp) -> Result<()> {
        self.queue.admit()?;
        let node = self.node(ino)?;
        let mut locked = Locked::new([&node]);
        let xattrs = self.loaded_xattrs(locked.at(ino).alive()?)?;
        let (name, _) = xattrs.remove_entry(name).ok_or(IndexError::NoAttribute)?;
        self.publish_xattr(locked, ino, name, None, now);
        Ok(())
    }

    fn publish_xattr(&self, mut locked: Locked<'_>, ino: Ino, name: Name, value: Option<Name>, now: Timestamp) {
        let state = locked.at(ino);
        state.attr.ctime = now;
        // Bounded by XATTR_LIST_MAX.
        state.xattr_count = state.xattrs.as_ref().map_or(0, |xattrs| u32::try_from(xattrs.len()).unwrap_or(u32::MAX));
        let mut tx = Tx::new();
        tx.push(state.row());
        tx.push(Delta::Xattr { ino, name, value });
        self.publish(locked, None, tx);
    }
}
