//! How far the changes of each member of the group have been applied here.
//!
//! Trackers are told, and send readers here for files that are older. A time is taken from the record that was applied,
//! never from the clock here, and only from a connection whose sender has said who it is: FastDFS says it on the one
//! connection per peer that carries the records in order.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use fdfs_protocol::StorageId;
use parking_lot::RwLock;

/// Ids remembered; a group has at most 32 members, and some may be replaced while this process runs.
const MAX_SOURCES: usize = 128;

/// The largest time of a change that was applied, by source.
#[derive(Debug, Default)]
pub struct Synced {
    sources: RwLock<BTreeMap<StorageId, Source>>,
    applied: AtomicU64,
}

/// A source of changes that has said who it is.
#[derive(Debug, Clone, Default)]
pub struct Source(Arc<Times>);

#[derive(Debug, Default)]
struct Times {
    /// The largest time of a change.
    until: AtomicU32,
    /// That of the one that came last.
    last: AtomicU32,
    /// When that came, by the clock here.
    heard: AtomicI64,
}

impl Synced {
    /// The source with this id; `None` when there are too many to be true.
    pub fn source(&self, id: StorageId) -> Option<Source> {
        if let Some(known) = self.sources.read().get(&id) {
            return Some(known.clone());
        }
        let mut sources = self.sources.write();
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&id) {
            return None;
        }
        Some(sources.entry(id).or_default().clone())
    }

    /// A change made at `timestamp` was applied, `now`.
    pub fn applied(&self, source: &Source, timestamp: u32, now: i64) {
        source.0.until.fetch_max(timestamp, Ordering::Relaxed);
        source.0.last.store(timestamp, Ordering::Relaxed);
        source.0.heard.store(now, Ordering::Relaxed);
        self.applied.fetch_add(1, Ordering::Relaxed);
    }

    /// The largest time of a change of this source, unix seconds; 0 for none.
    pub fn until(&self, id: &StorageId) -> u32 {
        self.sources.read().get(id).map_or(0, |source| source.0.until.load(Ordering::Relaxed))
    }

    /// The times at which this source made what came last: as its changes tell, or, since its clock may have been set, when
    /// they came. What did not come was hardly made before the first. `None` if nothing came.
    pub fn last(&self, id: &StorageId) -> Option<RangeInclusive<i64>> {
        let sources = self.sources.read();
        let Source(times) = sources.get(id)?;
        let [until, last] = [&times.until, &times.last].map(|time| i64::from(time.load(Ordering::Relaxed)));
        let heard = times.heard.load(Ordering::Relaxed);
        (until > 0).then(|| heard.min(last)..=until)
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
        assert_eq!(synced.last(&a), None);
        synced.applied(&source, 100, 200);
        assert_eq!(synced.last(&a), Some(100..=100));
        // It was ahead.
        synced.applied(&source, 300, 201);
        assert_eq!(synced.last(&a), Some(201..=300));
        synced.applied(&source, 202, 203);
        assert_eq!(synced.last(&a), Some(202..=300));
        // It was set back.
        synced.applied(&synced.source(a).unwrap(), 50, 204);
        assert_eq!((synced.until(&a), synced.last(&a), synced.count()), (300, Some(50..=300), 4));
        assert_eq!(synced.until(&"10.0.0.2".parse().unwrap()), 0);
        let taken = (0..1000).filter(|i| synced.source(format!("{i}").parse().unwrap()).is_some()).count();
        assert_eq!(taken, MAX_SOURCES - 1);
        assert!(synced.source(a).is_some());
    }
}
