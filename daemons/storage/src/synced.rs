//! How far the changes of each member of the group have been applied here.
//!
//! Trackers are told, and send readers here for files that are older. A time is taken from the record that was applied,
//! never from the clock here, and only from a connection whose sender has said who it is: FastDFS says it on the one
//! connection per peer that carries the records in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use fdfs_protocol::StorageId;
use parking_lot::RwLock;

/// Ids remembered; a group has at most 32 members, and some may be replaced while this process runs.
const MAX_SOURCES: usize = 128;

/// The largest time of a change that was applied, by source.
#[derive(Debug, Default)]
pub struct Synced {
    sources: RwLock<BTreeMap<StorageId, Arc<AtomicU32>>>,
    applied: AtomicU64,
}

/// A source of changes that has said who it is.
#[derive(Debug, Clone)]
pub struct Source(Arc<AtomicU32>);

impl Synced {
    /// The source with this id; `None` when there are too many to be true.
    pub fn source(&self, id: StorageId) -> Option<Source> {
        if let Some(known) = self.sources.read().get(&id) {
            return Some(Source(known.clone()));
        }
        let mut sources = self.sources.write();
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&id) {
            return None;
        }
        Some(Source(sources.entry(id).or_default().clone()))
    }

    /// A change made at `timestamp` was applied.
    pub fn applied(&self, source: &Source, timestamp: u32) {
        source.0.fetch_max(timestamp, Ordering::Relaxed);
        self.applied.fetch_add(1, Ordering::Relaxed);
    }

    /// The largest time of a change of this source, unix seconds; 0 for none.
    pub fn until(&self, id: &StorageId) -> u32 {
        self.sources.read().get(id).map_or(0, |time| time.load(Ordering::Relaxed))
    }

    /// Changes whenever something was applied.
    pub fn count(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_only_grow_and_strangers_are_bounded() {
        let synced = Synced::default();
        let a: StorageId = "10.0.0.1".parse().unwrap();
        let source = synced.source(a).unwrap();
        synced.applied(&source, 100);
        synced.applied(&synced.source(a).unwrap(), 50);
        assert_eq!((synced.until(&a), synced.count()), (100, 2));
        assert_eq!(synced.until(&"10.0.0.2".parse().unwrap()), 0);
        let taken = (0..1000).filter(|i| synced.source(format!("{i}").parse().unwrap()).is_some()).count();
        assert_eq!(taken, MAX_SOURCES - 1);
        assert!(synced.source(a).is_some());
    }
}
