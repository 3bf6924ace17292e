//! The inodes in memory: a hash table in shards, bounded.
//!
//! Invariants:
//! - What is in the table is the truth. What is not in it is committed, so the database has the truth.
//! - A row read from the database enters only if its shard has lost nothing since before the query (`epoch`): otherwise
//!   the inode may have been in memory, changed, written and evicted meanwhile, and the row would be old.
//! - Only nodes that are committed and that nobody else holds an `Arc` of are evicted. `Arc`s are handed out under the
//!   shard's lock, so none appears while the sweep looks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::node::Node;
use crate::types::Ino;

const SHARDS: usize = 64;
/// A directory that has to stay in memory keeps at least this many names.
const NAMES_KEPT: usize = 1024;

/// Spreads inode numbers, which are counted up, over all bits.
#[derive(Default)]
pub(crate) struct InoHasher(u64);

fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26)
}

impl Hasher for InoHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = spread(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = spread(number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Arc<Node>>,
    at: HashMap<Ino, usize, BuildHasherDefault<InoHasher>>,
    /// Where the next sweep goes on.
    hand: usize,
    /// How often something was evicted.
    epoch: u64,
}

impl Shard {
    fn insert(&mut self, node: Arc<Node>) {
        self.at.insert(node.ino, self.slots.len());
        self.slots.push(node);
    }

    fn evict(&mut self, slot: usize) {
        let node = self.slots.swap_remove(slot);
        self.at.remove(&node.ino);
        if let Some(moved) = self.slots.get(slot) {
            self.at.insert(moved.ino, slot);
        }
        self.epoch += 1;
    }
}

/// The epochs of all shards before a query.
pub(crate) struct Epochs([u64; SHARDS]);

/// The inodes in memory.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Box<[RwLock<Shard>]>,
    /// Inodes and names in memory, together.
    weight: AtomicIsize,
    /// What `weight` should not exceed.
    cap: isize,
    sweep: Mutex<Sweep>,
}

#[derive(Debug)]
struct Sweep {
    shard: usize,
    /// The weight from which the next sweep is worth while; above the cap if the last one found too little.
    from: isize,
}

impl Table {
    pub fn new(cap: usize) -> Table {
        let cap = cap.try_into().unwrap_or(isize::MAX / 2);
        Table {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            weight: AtomicIsize::new(0),
            cap,
            sweep: Mutex::new(Sweep { shard: 0, from: cap }),
        }
    }

    fn shard_of(ino: Ino) -> usize {
        // Other bits than the hash tables inside the shards use first.
        (spread(ino.0) >> 20) as usize % SHARDS
    }

    pub fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        let shard = self.shards[Table::shard_of(ino)].read();
        let node = shard.at.get(&ino).and_then(|slot| shard.slots.get(*slot))?;
        node.touch();
        Some(Arc::clone(node))
    }

    pub fn contains(&self, ino: Ino) -> bool {
        self.shards[Table::shard_of(ino)].read().at.contains_key(&ino)
    }

    /// To be taken before a query whose rows go to [`Table::insert_loaded`].
    pub fn epoch(&self, ino: Ino) -> u64 {
        self.shards[Table::shard_of(ino)].read().epoch
    }

    /// [`Table::epoch`] for a query for many.
    pub fn epochs(&self) -> Epochs {
        Epochs(std::array::from_fn(|shard| self.shards[shard].read().epoch))
    }

    /// Puts in a node that was just created.
    pub fn insert_new(&self, node: Arc<Node>) {
        self.shards[Table::shard_of(node.ino)].write().insert(node);
        self.weigh(1);
    }

    /// Puts in a node as the database had it after `epoch` was taken, and returns it, or the one that is there already.
    /// `None`: the row may be old, read it again.
    pub fn insert_loaded(&self, node: Node, epoch: u64) -> Option<Arc<Node>> {
        let mut shard = self.shards[Table::shard_of(node.ino)].write();
        if let Some(slot) = shard.at.get(&node.ino) {
            return shard.slots.get(*slot).cloned();
        }
        if shard.epoch != epoch {
            return None;
        }
        let node = Arc::new(node);
        shard.insert(Arc::clone(&node));
        drop(shard);
        self.weigh(1);
        Some(node)
    }

    /// [`Table::insert_loaded`] for one of many.
    pub fn insert_loaded_of(&self, node: Node, epochs: &Epochs) -> Option<Arc<Node>> {
        let epoch = epochs.0[Table::shard_of(node.ino)];
        self.insert_loaded(node, epoch)
    }

    /// Counts names (or inodes) in or out.
    pub fn weigh(&self, change: isize) {
        self.weight.fetch_add(change, Ordering::Relaxed);
    }

    /// Inodes and names in memory.
    #[cfg(test)]
    pub fn weight(&self) -> usize {
        self.weight.load(Ordering::Relaxed).max(0).unsigned_abs()
    }

    /// If there is too much in memory, evicts what was not used since the last sweep; of all that is committed up to
    /// `committed`. Returns whether it would have to wait for commits to get down to the cap.
    pub fn trim(&self, committed: u64) -> bool {
        let weight = self.weight.load(Ordering::Relaxed);
        if weight <= self.cap {
            return false;
        }
        let Some(mut sweep) = self.sweep.try_lock() else { return false };
        if weight < sweep.from {
            return false;
        }
        let slack = (self.cap / 16).max(1);
        // The first round may only find that everything was used.
        for _ in 0..2 * SHARDS {
            if self.weight.load(Ordering::Relaxed) <= self.cap - slack {
                break;
            }
            self.sweep_shard(sweep.shard, committed);
            sweep.shard = (sweep.shard + 1) % SHARDS;
        }
        sweep.from = self.cap.max(self.weight.load(Ordering::Relaxed) + slack);
        sweep.from > self.cap + slack
    }

    fn sweep_shard(&self, index: usize, committed: u64) {
        let mut shard = self.shards[index].write();
        let mut change = 0;
        for _ in 0..shard.slots.len() {
            let at = if shard.hand < shard.slots.len() { shard.hand } else { 0 };
            let Some(node) = shard.slots.get(at) else { break };
            // A lock that is taken belongs to somebody who is using the node right now.
            let Some(mut state) = node.state.try_write() else {
                shard.hand = at + 1;
                continue;
            };
            let used = node.used.swap(false, Ordering::Relaxed) && !state.gone;
            let free = state.seq <= committed && Arc::strong_count(node) == 1;
            if free && !used {
                change -= 1 + state.dir.as_ref().map_or(0, |dir| dir.weighed());
                drop(state);
                shard.evict(at);
                continue;
            }
            if let Some(dir) = state.dir.as_mut().filter(|dir| dir.len() > NAMES_KEPT) {
                let surplus = dir.len() - NAMES_KEPT;
                dir.forget(committed, surplus);
                change += dir.reweigh();
            }
            drop(state);
            shard.hand = at + 1;
        }
        drop(shard);
        self.weigh(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Attr, FileKind, Timestamp};

    fn node(number: u64) -> Node {
        let time = Timestamp::default();
        let attr = Attr {
            ino: Ino(number),
            kind: FileKind::Regular,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 1,
            rdev: 0,
            size: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            content: None,
        };
        Node::created(attr, None, None)
    }

    #[test]
    fn it_stays_near_its_cap_and_keeps_what_is_in_use_or_not_committed() {
        let table = Table::new(1000);
        let held: Vec<_> = (0..10).map(|number| table.insert_loaded(node(number), 0).unwrap()).collect();
        let dirty = node(10);
        dirty.state.write().seq = 7;
        table.insert_new(Arc::new(dirty));
        for number in 11..10_000 {
            let epoch = table.epoch(Ino(number));
            table.insert_loaded(node(number), epoch).unwrap();
            table.trim(6);
            assert!(table.weight() <= 1000);
        }
        for node in held {
            assert!(Arc::ptr_eq(&node, &table.get(node.ino).unwrap()));
        }
        assert!(table.get(Ino(10)).is_some());
        assert!(table.get(Ino(11)).is_none());
    }

    #[test]
    fn an_old_row_does_not_enter() {
        let table = Table::new(0);
        let before = table.epochs();
        for number in 0..1000 {
            table.insert_loaded(node(number), table.epoch(Ino(number))).unwrap();
        }
        table.trim(0);
        assert!(table.get(Ino(5)).is_none(), "evicted");
        assert!(table.insert_loaded_of(node(5), &before).is_none());
        assert!(table.insert_loaded(node(5), table.epoch(Ino(5))).is_some());
    }

    #[test]
    fn of_two_rows_the_first_stays() {
        let table = Table::new(100);
        let first = table.insert_loaded(node(5), 0).unwrap();
        let second = table.insert_loaded(node(5), 0).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(table.weight(), 1);
    }
}
