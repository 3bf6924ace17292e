//! Handing out file IDs that nothing refers to, for deletion from the cluster.
//!
//! Invariants:
//! - A file ID is handed out only when the transaction that took its last reference away is on stable storage: no power
//!   cut brings the reference back.
//! - A file ID that a content has is not handed out, however it came to be in the table.
//!
//! The lock of the hand-out is held while the table is read: only those who delete wait for it, and two of them reading the
//! same rows at once would be no faster.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::contents::Want;
use crate::core::Core;
use crate::delta::{Delta, Tx};
use crate::error::{IndexError, Result};
use crate::types::*;

/// What was handed out, and where to go on.
#[derive(Debug, Default)]
pub(crate) struct Handout {
    /// Rows below this were handed out.
    next: u64,
    in_flight: HashMap<GarbageId, Arc<str>>,
    /// Given back; first in the next hand-out.
    failed: VecDeque<GarbageId>,
}

impl Core {
    pub fn garbage(&self, limit: usize) -> Result<Vec<(GarbageId, Arc<str>)>> {
        self.queue.check_open()?;
        let mut handout = self.garbage.lock();
        let mut answer = Vec::new();
        // At most half of a hand-out: what cannot be deleted must not keep everything else from being so.
        let retried = limit.div_ceil(2).min(handout.failed.len());
        for id in handout.failed.drain(..retried).collect::<Vec<_>>() {
            if let Some(file_id) = handout.in_flight.get(&id) {
                answer.push((id, Arc::clone(file_id)));
            }
        }
        while answer.len() < limit {
            let wanted = limit - answer.len();
            let rows = self.readers.garbage(GarbageId(handout.next), self.queue.garbage_synced(), wanted)?;
            let Some((last, _)) = rows.last() else { break };
            let next = last.0 + 1;
            for (id, file_id) in rows {
                let want = [Want::File(file_id.into())];
                let mut contents = self.contents_with(&want)?;
                let [Want::File(file_id)] = want else { continue };
                if contents.find(&Want::File(Arc::clone(&file_id))).is_some() {
                    // It was adopted after it was discarded.
                    let mut tx = Tx::new();
                    tx.totals.garbage -= 1;
                    tx.push(Delta::GarbageGone(id));
                    self.publish_contents(contents, tx);
                    continue;
                }
                drop(contents);
                handout.in_flight.insert(id, Arc::clone(&file_id));
                answer.push((id, file_id));
            }
            handout.next = next;
        }
        Ok(answer)
    }

    pub fn garbage_done(&self, done: &[GarbageId]) -> Result<()> {
        self.queue.admit()?;
        let mut handout = self.garbage.lock();
        let mut tx = Tx::new();
        for id in done {
            if handout.in_flight.remove(id).is_some() {
                tx.totals.garbage -= 1;
                tx.push(Delta::GarbageGone(*id));
            }
        }
        if !tx.deltas.is_empty() {
            self.publish_contents(self.contents.lock(), tx);
        }
        Ok(())
    }

    pub fn garbage_failed(&self, failed: &[GarbageId]) {
        let mut handout = self.garbage.lock();
        for id in failed {
            if handout.in_flight.contains_key(id) && !handout.failed.contains(id) {
                handout.failed.push_back(*id);
            }
        }
    }

    pub fn discard(&self, file_id: &str) -> Result<()> {
        self.queue.admit()?;
        let want = [Want::File(file_id.into())];
        let mut contents = self.contents_with(&want)?;
        if contents.find(&want[0]).is_some() {
            return Err(IndexError::Invalid("a file ID that is referenced cannot be discarded"));
        }
        let mut tx = Tx::new();
        contents.add_garbage(file_id.into(), &mut tx);
        self.publish_contents(contents, tx);
        Ok(())
    }
}
