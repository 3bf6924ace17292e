//! Who waits for other members of the group to have a change (`ack_members`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use fdfs_protocol::StorageId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::disk::binlog::Place;

#[derive(Debug)]
struct Waiter {
    missing: usize,
    have: Vec<StorageId>,
    enough: Option<oneshot::Sender<()>>,
}

/// Changes that are waited for, by the end of their binlog line.
#[derive(Debug, Default)]
pub struct Acks {
    waiting: Mutex<HashMap<Place, Waiter>>,
    count: AtomicUsize,
}

/// A change that is waited for. Dropping it ends the wait.
#[derive(Debug)]
pub struct Expected<'a> {
    acks: &'a Acks,
    end: Place,
    enough: oneshot::Receiver<()>,
}

impl Acks {
    /// Begins to wait until `members` other members have the change whose line ends at `end`. Call it before any push
    /// loop can see that line.
    pub fn expect(&self, end: Place, members: usize) -> Expected<'_> {
        let (sender, enough) = oneshot::channel();
        let waiter = Waiter { missing: members, have: Vec::new(), enough: Some(sender) };
        self.waiting.lock().insert(end, waiter);
        self.count.fetch_add(1, Ordering::Release);
        Expected { acks: self, end, enough }
    }

    /// A member has the change whose line ends at `end`.
    pub fn done(&self, end: Place, member: StorageId) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        let Some(waiter) = waiting.get_mut(&end) else { return };
        // A change that is pushed twice counts once.
        if waiter.have.contains(&member) {
            return;
        }
        waiter.have.push(member);
        waiter.missing = waiter.missing.saturating_sub(1);
        if waiter.missing == 0
            && let Some(enough) = waiter.enough.take()
        {
            let _ = enough.send(());
        }
    }
}

impl Expected<'_> {
    /// Returns when enough members have the change.
    pub async fn wait(&mut self) {
        // The sender lives in the table as long as this does.
        let _ = (&mut self.enough).await;
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.acks.waiting.lock().remove(&self.end);
        self.acks.count.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> StorageId {
        format!("10.0.0.{n}").parse().unwrap()
    }

    #[tokio::test]
    async fn members_count_once_and_nothing_is_left() {
        let acks = Acks::default();
        let end = Place { file: 0, offset: 10 };
        acks.done(end, id(1));
        let mut expected = acks.expect(end, 2);
        acks.done(end, id(2));
        acks.done(end, id(2));
        acks.done(Place { file: 0, offset: 20 }, id(3));
        assert!(expected.enough.try_recv().is_err());
        acks.done(end, id(3));
        expected.wait().await;
        drop(expected);
        assert!(acks.waiting.lock().is_empty() && acks.count.load(Ordering::Relaxed) == 0);
    }
}
