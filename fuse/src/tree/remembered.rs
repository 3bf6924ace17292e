//! Inodes without a name that the kernel still knows: of a path it is just resolving, of an `O_PATH` descriptor, of a
//! working directory. They live on until it says that it has forgotten them, as on a local file system; a file replaced by
//! rename can so be opened by who has looked it up just before.

use std::collections::HashMap;

use fdfs_index::{Hold, Ino};
use parking_lot::Mutex;

use super::Core;

/// See the module.
#[derive(Default)]
pub(crate) struct Remembered(Mutex<HashMap<Ino, Hold>>);

impl Remembered {
    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        drop(all);
    }
}

impl Core {
    /// Keeps what a name refers to over the removal of that name.
    pub(crate) fn hold_name(&self, dir: Ino, name: &[u8]) -> Option<Hold> {
        if !self.options.forgotten {
            return None;
        }
        self.index.lookup(dir, name).and_then(|attr| self.index.hold(attr.ino)).ok()
    }

    /// The removal has happened: what is without a name now is kept until [`forget`](Core::forget).
    pub(crate) fn remember(&self, hold: Option<Hold>) {
        if let Some(hold) = hold
            && self.doomed(hold.ino())
        {
            self.remembered.0.lock().insert(hold.ino(), hold);
        }
    }

    /// The kernel no longer knows the inode.
    ///
    /// How often it had looked it up is not counted: only inodes that cannot be looked up any more are kept for it.
    pub fn forget(&self, ino: Ino) {
        let hold = self.remembered.0.lock().remove(&ino);
        drop(hold);
    }
}
