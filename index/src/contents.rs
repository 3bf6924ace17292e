//! The contents in memory, their reference counts, and what becomes of those without a reference.
//!
//! Invariants:
//! - As with inodes, what is in memory is the truth and what is not is committed. A content that died stays in memory,
//!   with no references, until its deletion is committed: nobody can find its row and bring it back to life.
//! - Fingerprint + size are unique, and so are file IDs: a file ID becomes garbage only when the one content that has it
//!   dies, in the same transaction.
//! - Mutable content has one reference and no fingerprint.
//! - What the cluster was found to have lost stays in use by those who refer to it, and is offered to nobody else.
//! - The lock is held until the change is queued, so that counts are committed in the order in which they changed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::delta::{Delta, Tx, signed};
use crate::types::*;

/// Absent fingerprints and file IDs that are remembered, to spare the look-up between asking and storing.
const ABSENT: usize = 4096;

/// Something that must be known in memory before a change of contents can be decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    Id(ContentId),
    Print(Fingerprint, u64),
    File(Arc<str>),
}

#[derive(Debug)]
struct Record {
    /// With no references it is dead.
    content: Content,
    /// Sequence number of the last change; 0: as loaded.
    seq: u64,
    used: bool,
}

impl Record {
    fn new(content: Content) -> Record {
        Record { content, seq: 0, used: true }
    }
}

/// The contents in memory.
#[derive(Debug)]
pub(crate) struct Contents {
    by_id: HashMap<ContentId, Record>,
    /// By fingerprint or file ID; `None`: there is no such content.
    by_key: HashMap<Want, Option<ContentId>>,
    /// The keys that are known to be absent, oldest first.
    absent: VecDeque<Want>,
    /// Dead contents and the number of their death, oldest first.
    dead: VecDeque<(u64, ContentId)>,
    /// How often something was evicted.
    epoch: u64,
    next_content: u64,
    next_garbage: u64,
    /// Most records kept.
    cap: usize,
    /// The number of records from which the next eviction is worth while.
    evict_from: usize,
}

impl Contents {
    pub fn new(next_content: ContentId, next_garbage: GarbageId, cap: usize) -> Contents {
        Contents {
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            absent: VecDeque::new(),
            dead: VecDeque::new(),
            epoch: 0,
            next_content: next_content.0,
            next_garbage: next_garbage.0,
            cap,
            evict_from: cap,
        }
    }

    /// To be taken before a query whose result goes to [`Contents::learn`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether memory can answer for `want`.
    pub fn knows(&self, want: &Want) -> bool {
        match want {
            Want::Id(id) => self.by_id.contains_key(id),
            key => self.by_key.contains_key(key),
        }
    }

    /// Takes in what the database answered to `want` after `epoch` was taken; an old answer is dropped.
    pub fn learn(&mut self, want: Want, row: Option<Content>, epoch: u64) {
        if self.epoch != epoch || self.knows(&want) {
            return;
        }
        match row {
            Some(content) => {
                if !self.by_id.contains_key(&content.id) {
                    self.index(&content);
                    self.by_id.insert(content.id, Record::new(content));
                }
            }
            None if matches!(want, Want::Id(_)) => {}
            None => self.remember_absent(want),
        }
    }

    fn remember_absent(&mut self, key: Want) {
        self.by_key.insert(key.clone(), None);
        self.absent.push_back(key);
        if self.absent.len() > ABSENT
            && let Some(oldest) = self.absent.pop_front()
            && self.by_key.get(&oldest) == Some(&None)
        {
            self.by_key.remove(&oldest);
        }
    }

    /// Makes a content findable by its keys.
    fn index(&mut self, content: &Content) {
        if let Some(fingerprint) = content.fingerprint {
            self.by_key.insert(Want::Print(fingerprint, content.size), Some(content.id));
        }
        self.by_key.insert(Want::File(Arc::clone(&content.file_id)), Some(content.id));
    }

    /// A living content.
    pub fn get(&mut self, id: ContentId) -> Option<&Content> {
        let record = self.by_id.get_mut(&id).filter(|record| record.content.refs > 0)?;
        record.used = true;
        Some(&record.content)
    }

    /// The living content that `key` leads to; the key must be known.
    pub fn find(&mut self, key: &Want) -> Option<&Content> {
        let id = match key {
            Want::Id(id) => *id,
            key => (*self.by_key.get(key)?)?,
        };
        self.get(id)
    }

    /// The cluster has lost a content; `false`, and nothing is to be published: that was known, or it goes by another file
    /// ID by now.
    pub fn lose(&mut self, id: ContentId, file_id: &str, tx: &mut Tx) -> bool {
        let record = self.by_id.get_mut(&id).filter(|record| *record.content.file_id == *file_id);
        let Some(record) = record.filter(|record| record.content.refs > 0 && !record.content.lost) else {
            return false;
        };
        record.content.lost = true;
        tx.push(Delta::Content(record.content.clone()));
        true
    }

    /// The lost content `id` has been stored again, as `file_id`, which must be known to be absent.
    pub fn restore(&mut self, id: ContentId, file_id: Arc<str>, tx: &mut Tx) {
        if let Some(former) = self.give(id, file_id, false, tx) {
            // Its row may say otherwise for a while.
            self.remember_absent(Want::File(Arc::clone(&former)));
            self.add_garbage(former, tx);
        }
    }

    /// As [`Contents::restore`], with the file ID of another content, which gets the lost one for it.
    pub fn restore_from(&mut self, id: ContentId, other: &Content, tx: &mut Tx) {
        if let Some(former) = self.give(id, Arc::clone(&other.file_id), false, tx) {
            self.give(other.id, former, true, tx);
        }
    }

    /// Gives a content another file ID; the answer is the one before, which the caller gives to somebody else.
    fn give(&mut self, id: ContentId, file_id: Arc<str>, lost: bool, tx: &mut Tx) -> Option<Arc<str>> {
        let record = self.by_id.get_mut(&id)?;
        record.content.lost = lost;
        let former = std::mem::replace(&mut record.content.file_id, file_id);
        let content = record.content.clone();
        self.index(&content);
        tx.push(Delta::Content(content));
        Some(former)
    }

    /// One reference more.
    pub fn retain(&mut self, id: ContentId, tx: &mut Tx) {
        if let Some(record) = self.by_id.get_mut(&id) {
            record.content.refs += 1;
            tx.totals.logical_bytes += signed(record.content.size);
            tx.push(Delta::Content(record.content.clone()));
        }
    }

    /// One reference less; with the last one the content dies and its file ID is garbage.
    pub fn release(&mut self, id: ContentId, tx: &mut Tx) {
        let Some(record) = self.by_id.get_mut(&id).filter(|record| record.content.refs > 0) else { return };
        record.content.refs -= 1;
        tx.totals.logical_bytes -= signed(record.content.size);
        if record.content.refs > 0 {
            tx.push(Delta::Content(record.content.clone()));
            return;
        }
        tx.totals.contents -= 1;
        tx.totals.stored_bytes -= signed(record.content.size);
        let file_id = Arc::clone(&record.content.file_id);
        tx.push(Delta::ContentGone(id));
        self.add_garbage(file_id, tx);
    }

    /// Queues a file ID for deletion in the cluster.
    pub fn add_garbage(&mut self, file_id: Arc<str>, tx: &mut Tx) {
        let id = GarbageId(self.next_garbage);
        self.next_garbage += 1;
        tx.totals.garbage += 1;
        tx.push(Delta::Garbage(id, file_id));
    }

    /// A new content with one reference. Its fingerprint and its file ID must be known to be absent.
    pub fn insert(&mut self, new: NewContent, tx: &mut Tx) -> ContentId {
        let id = ContentId(self.next_content);
        self.next_content += 1;
        let NewContent { fingerprint, size, file_id, mutable } = new;
        let content = Content { id, fingerprint, size, file_id, mutable, refs: 1, lost: false };
        tx.totals.contents += 1;
        tx.totals.logical_bytes += signed(size);
        tx.totals.stored_bytes += signed(size);
        tx.push(Delta::Content(content.clone()));
        self.index(&content);
        self.by_id.insert(id, Record::new(content));
        id
    }

    /// The mutable content `id` has changed in place, or is sealed now under the same file ID.
    pub fn update(&mut self, id: ContentId, new: &NewContent, tx: &mut Tx) {
        let Some(record) = self.by_id.get_mut(&id) else { return };
        let change = signed(new.size) - signed(record.content.size);
        tx.totals.logical_bytes += change;
        tx.totals.stored_bytes += change;
        record.content.size = new.size;
        record.content.fingerprint = new.fingerprint;
        record.content.mutable = new.mutable;
        record.content.lost = false;
        let content = record.content.clone();
        self.index(&content);
        tx.push(Delta::Content(content));
    }

    /// The change of `id` has this sequence number: until it is committed, the content stays in memory.
    pub fn mark(&mut self, id: ContentId, seq: u64) {
        if let Some(record) = self.by_id.get_mut(&id) {
            record.seq = seq;
            if record.content.refs == 0 {
                self.dead.push_back((seq, id));
            }
        }
    }

    /// Forgets the dead whose deletion is committed, and, above the cap, what was not used lately.
    pub fn settle(&mut self, committed: u64) {
        while let Some((_, id)) = self.dead.pop_front_if(|(seq, _)| *seq <= committed) {
            self.evict(id);
        }
        if self.by_id.len() <= self.evict_from {
            return;
        }
        // Two rounds: the first may only find that everything was used.
        for _ in 0..2 {
            let idle = |(id, record): (&ContentId, &mut Record)| {
                let used = std::mem::take(&mut record.used);
                (!used && record.seq <= committed && record.content.refs > 0).then_some(*id)
            };
            let idle: Vec<ContentId> = self.by_id.iter_mut().filter_map(idle).collect();
            idle.into_iter().for_each(|id| self.evict(id));
            if self.by_id.len() <= self.cap - self.cap / 4 {
                break;
            }
        }
        self.evict_from = self.cap.max(self.by_id.len() + self.cap / 4);
    }

    fn evict(&mut self, id: ContentId) {
        let Some(Record { content, .. }) = self.by_id.remove(&id) else { return };
        self.epoch += 1;
        // A dead content's keys may lead to a younger one.
        let print = content.fingerprint.map(|fingerprint| Want::Print(fingerprint, content.size));
        for key in [print, Some(Want::File(content.file_id))].into_iter().flatten() {
            if self.by_key.get(&key) == Some(&Some(id)) {
                self.by_key.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(number: u8) -> NewContent {
        NewContent {
            fingerprint: Some(Fingerprint([number; 32])),
            size: 10,
            file_id: format!("group1/M00/00/00/{number}").into(),
            mutable: false,
        }
    }

    fn print(number: u8) -> Want {
        Want::Print(Fingerprint([number; 32]), 10)
    }

    #[test]
    fn the_last_release_makes_garbage_and_the_sums_come_out_even() {
        let mut contents = Contents::new(ContentId(1), GarbageId(1), 100);
        let mut tx = Tx::new();
        let id = contents.insert(new(1), &mut tx);
        contents.retain(id, &mut tx);
        assert_eq!((tx.totals.logical_bytes, tx.totals.stored_bytes, tx.totals.contents), (20, 10, 1));
        contents.release(id, &mut tx);
        assert_eq!(contents.find(&print(1)).unwrap().refs, 1);
        contents.release(id, &mut tx);
        assert!(contents.find(&print(1)).is_none());
        assert_eq!((tx.totals.logical_bytes, tx.totals.stored_bytes, tx.totals.contents), (0, 0, 0));
        assert_eq!(tx.totals.garbage, 1);
        assert!(matches!(tx.deltas.last(), Some(Delta::Garbage(_, file)) if &**file == "group1/M00/00/00/1"));
        // It is dead: a further release changes nothing.
        contents.release(id, &mut tx);
        assert_eq!(tx.totals.garbage, 1);
    }

    #[test]
    fn the_dead_are_known_until_their_end_is_committed() {
        let mut contents = Contents::new(ContentId(1), GarbageId(1), 100);
        let mut tx = Tx::new();
        let id = contents.insert(new(1), &mut tx);
        let old = contents.get(id).unwrap().clone();
        contents.release(id, &mut tx);
        contents.mark(id, 5);
        contents.settle(4);
        let epoch = contents.epoch();
        contents.learn(print(1), Some(old.clone()), epoch);
        assert!(contents.knows(&print(1)) && contents.find(&print(1)).is_none());
        // A successor with the same fingerprint is not forgotten with it.
        let next = contents.insert(NewContent { file_id: "other".into(), ..new(1) }, &mut tx);
        contents.mark(next, 6);
        contents.settle(5);
        assert_eq!(contents.find(&print(1)).unwrap().id, next);
        assert!(!contents.knows(&Want::Id(id)));
        // The row of before is out of date.
        contents.learn(Want::Id(id), Some(old), epoch);
        assert!(!contents.knows(&Want::Id(id)));
    }

    #[test]
    fn absent_keys_are_remembered_within_limits() {
        let mut contents = Contents::new(ContentId(1), GarbageId(1), 100);
        for number in 0..2 * ABSENT {
            contents.learn(Want::File(number.to_string().into()), None, 0);
        }
        assert_eq!(contents.by_key.len(), ABSENT);
        assert!(!contents.knows(&Want::File("0".into())));
        let last = Want::File((2 * ABSENT - 1).to_string().into());
        assert!(contents.knows(&last) && contents.find(&last).is_none());
    }

    #[test]
    fn only_committed_contents_are_evicted() {
        let mut contents = Contents::new(ContentId(1), GarbageId(1), 8);
        let mut tx = Tx::new();
        for number in 0..100 {
            let id = contents.insert(new(number), &mut tx);
            contents.mark(id, u64::from(number));
            contents.settle(50);
        }
        assert!((51..100).all(|number| contents.knows(&print(number))));
        assert!(contents.by_id.len() < 70);
        contents.settle(100);
        let id = contents.insert(new(101), &mut tx);
        contents.mark(id, 101);
        contents.settle(100);
        assert!(contents.by_id.len() <= 70);
    }
}
