//! Keeping an unlinked inode alive while it is open.
//!
//! Invariant: an inode without a name and without a hold is reclaimed in the transaction that took the last of the two,
//! or, after a crash, when the index is opened.

use std::sync::Arc;

use crate::contents::Want;
use crate::core::Core;
use crate::delta::Tx;
use crate::error::Result;
use crate::node::{Locked, Node};
use crate::types::*;

/// Keeps an inode alive though its last name may go. When the last hold of an inode without names drops, the inode is
/// reclaimed and its content released.
#[derive(Debug)]
#[must_use = "the inode is only kept while the hold lives"]
pub struct Hold {
    core: Arc<Core>,
    node: Arc<Node>,
}

impl Hold {
    pub(crate) fn new(core: &Arc<Core>, ino: Ino) -> Result<Hold> {
        let node = core.node(ino)?;
        node.state.write().alive()?.holds += 1;
        Ok(Hold { core: Arc::clone(core), node })
    }

    /// The inode that is held.
    pub fn ino(&self) -> Ino {
        self.node.ino
    }

    fn reclaim(&self) -> Result<()> {
        let mut locked = Locked::new([&self.node]);
        let state = locked.at(self.node.ino);
        state.holds -= 1;
        if state.holds > 0 || state.attr.nlink > 0 {
            return Ok(());
        }
        // If this fails, it stays an orphan, which the next opening of the index reclaims.
        let wants: Vec<Want> = state.attr.content.map(Want::Id).into_iter().collect();
        let mut contents = self.core.contents_with(&wants)?;
        let mut tx = Tx::new();
        self.core.reclaim(state, Some(&mut contents), &mut tx);
        self.core.publish(locked, Some(contents), tx);
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = self.reclaim() {
            tracing::warn!(ino = self.node.ino.0, %error, "an unlinked file is kept until the index is opened again");
        }
    }
}
