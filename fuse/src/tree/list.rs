//! Listing directories.
//!
//! The offset of an entry is its cookie in the index, which stays with it and only grows; `.` and `..` have the offsets
//! below the first cookie. A listing ends at the highest cookie there was when it began, so that a process which creates
//! or renames entries while it reads comes to an end.

use std::sync::atomic::{AtomicU64, Ordering};

use fdfs_index::{Attr, FileKind, Ino};

use super::Core;
use super::error::{Result, TreeError};
use super::handle::{DirHandle, Fh};

/// Offset of `.`; the one of `..` follows.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// One entry of a listing.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Where a listing goes on behind it.
    pub offset: u64,
    /// Its name.
    pub name: &'a [u8],
    /// The attributes of what it leads to.
    pub attr: &'a Attr,
}

impl Core {
    /// Opens a directory for listing.
    pub fn opendir(&self, ino: Ino) -> Result<Fh> {
        if self.index.getattr(ino)?.kind != FileKind::Directory {
            return Err(TreeError::Index(fdfs_index::IndexError::NotDirectory));
        }
        Ok(self.handles.add_dir(DirHandle { ino, horizon: AtomicU64::new(0) }))
    }

    /// Hands out the entries behind `offset` (0: from the start) until `take` answers false.
    pub fn readdir(&self, fh: Fh, offset: u64, take: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        let handle = self.handles.dir(fh)?;
        if offset == 0 {
            handle.horizon.store(self.index.horizon(), Ordering::Relaxed);
        }
        let horizon = handle.horizon.load(Ordering::Relaxed);
        if offset < DOT {
            let attr = self.index.getattr(handle.ino)?;
            if !take(Entry { offset: DOT, name: b".", attr: &attr }) {
                return Ok(());
            }
        }
        if offset < DOT_DOT {
            let attr = self.index.getattr(self.index.parent(handle.ino)?)?;
            if !take(Entry { offset: DOT_DOT, name: b"..", attr: &attr }) {
                return Ok(());
            }
        }
        self.index.readdir(handle.ino, offset.max(DOT_DOT), &mut |cookie, name, attr| {
            if cookie > horizon {
                return false;
            }
            // One that has just been removed is still part of this listing.
            let attr = self.refreshed(*attr).unwrap_or(*attr);
            take(Entry { offset: cookie, name, attr: &attr })
        })?;
        Ok(())
    }

    /// Closes a listing.
    pub fn releasedir(&self, fh: Fh) {
        self.handles.remove_dir(fh);
    }
}
