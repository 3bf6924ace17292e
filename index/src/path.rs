//! Where an inode is in the tree, for messages to people.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::core::Core;
use crate::error::Result;
use crate::types::Ino;

/// The largest tree of which all entries are looked through for one inode: that takes milliseconds.
const SEARCHED: u64 = 20_000;

/// Deeper than any path that can be used: the bound for a database that is damaged.
const DEEPEST: usize = 4096;

impl Core {
    pub fn path(&self, ino: Ino, dir: Option<Ino>) -> Result<Option<PathBuf>> {
        let mut found = match dir {
            Some(_) => self.readers.name_of(ino, dir)?,
            None => None,
        };
        if found.is_none() && self.sums.stats().inodes <= SEARCHED {
            found = self.readers.name_of(ino, None)?;
        }
        let mut names = Vec::new();
        while let Some((dir, name)) = found.filter(|_| names.len() < DEEPEST) {
            names.push(name);
            if dir == Ino::ROOT {
                return Ok(Some(names.iter().rev().map(|name| OsStr::from_bytes(name)).collect()));
            }
            found = self.readers.name_of(dir, Some(self.parent(dir)?))?;
        }
        Ok(None)
    }
}
