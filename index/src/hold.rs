//! Keeping an unlinked inode alive while it is open.

use crate::Ino;

/// Keeps an inode alive though its last name may go. When the last hold of an inode without names
/// drops, the inode is reclaimed and its content released.
#[derive(Debug)]
#[must_use = "the inode is only kept while the hold lives"]
pub struct Hold {
    ino: Ino,
}

impl Hold {
    pub(crate) fn new(ino: Ino) -> Hold {
        Hold { ino }
    }

    /// The inode that is held.
    pub fn ino(&self) -> Ino {
        self.ino
    }
}
