//! What the storage counts: tries and successes of each kind of work, as reported to trackers and kept in
//! `storage_stat.dat`.
//!
//! Each serving thread counts in a block of its own; readers add the blocks up.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use fdfs_protocol::stat::StatBlock;

use crate::thread;

/// Threads beyond this number share blocks.
const SHARDS: usize = 16;

/// What is counted, in the order of the statistics block of FastDFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are those of the statistics block")]
pub enum Count {
    Upload,
    Append,
    Modify,
    Truncate,
    SetMeta,
    Delete,
    Download,
    GetMeta,
    CreateLink,
    DeleteLink,
    UploadBytes,
    AppendBytes,
    ModifyBytes,
    DownloadBytes,
    SyncInBytes,
    SyncOutBytes,
    FileOpen,
    FileRead,
    FileWrite,
}

/// Number of kinds.
const COUNTS: usize = Count::FileWrite as usize + 1;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    pairs: [(AtomicU64, AtomicU64); COUNTS],
    last_source_update: AtomicI64,
    last_sync_update: AtomicI64,
}

/// The counters of a storage.
#[derive(Debug)]
pub struct Counters {
    shards: Box<[Shard]>,
    base: StatBlock,
}

impl Counters {
    /// Counters that go on from `base`.
    pub fn new(base: StatBlock) -> Counters {
        Counters { shards: (0..SHARDS).map(|_| Shard::default()).collect(), base }
    }

    fn shard(&self) -> &Shard {
        &self.shards[thread::number() % SHARDS]
    }

    /// Something was tried.
    pub fn tried(&self, what: Count, n: u64) {
        self.shard().pairs[what as usize].0.fetch_add(n, Ordering::Relaxed);
    }

    /// Something tried before went well.
    pub fn went_well(&self, what: Count, n: u64) {
        self.shard().pairs[what as usize].1.fetch_add(n, Ordering::Relaxed);
    }

    /// Something was tried and went well or not.
    pub fn count(&self, what: Count, n: u64, well: bool) {
        self.tried(what, n);
        if well {
            self.went_well(what, n);
        }
    }

    /// A client changed something at this time.
    pub fn source_update(&self, now: i64) {
        self.shard().last_source_update.store(now, Ordering::Relaxed);
    }

    /// Another storage's change was applied at this time.
    pub fn sync_update(&self, now: i64) {
        self.shard().last_sync_update.store(now, Ordering::Relaxed);
    }

    /// The sum of all threads; connections are not counted here.
    pub fn snapshot(&self) -> StatBlock {
        let mut sum = self.base;
        for (i, (name, _)) in self.base.counters().enumerate().take(COUNTS) {
            let Some(counter) = sum.counter_mut(name) else { continue };
            for shard in &self.shards {
                counter.total = counter.total.wrapping_add(shard.pairs[i].0.load(Ordering::Relaxed));
                counter.success = counter.success.wrapping_add(shard.pairs[i].1.load(Ordering::Relaxed));
            }
        }
        for shard in &self.shards {
            sum.last_source_update = sum.last_source_update.max(shard.last_source_update.load(Ordering::Relaxed));
            sum.last_sync_update = sum.last_sync_update.max(shard.last_sync_update.load(Ordering::Relaxed));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdfs_protocol::stat::Counter;
    use std::sync::Arc;

    #[test]
    fn kinds_are_in_the_order_of_the_block() {
        let names: Vec<_> = StatBlock::default().counters().map(|(name, _)| name).collect();
        assert_eq!(names.len(), COUNTS);
        assert_eq!(names[Count::Upload as usize], "upload_count");
        assert_eq!(names[Count::DeleteLink as usize], "delete_link_count");
        assert_eq!(names[Count::SyncInBytes as usize], "sync_in_bytes");
        assert_eq!(names[Count::FileWrite as usize], "file_write_count");
    }

    #[test]
    fn threads_add_up_and_go_on() {
        let upload_count = Counter { total: 10, success: 9 };
        let base = StatBlock { last_source_update: 5, upload_count, ..StatBlock::default() };
        let counters = Arc::new(Counters::new(base));
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let counters = counters.clone();
                std::thread::spawn(move || {
                    counters.count(Count::Upload, 1, i != 0);
                    counters.source_update(100 + i);
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        let sum = counters.snapshot();
        assert_eq!(sum.upload_count, Counter { total: 14, success: 12 });
        assert_eq!(sum.download_count, Counter::default());
        assert!(sum.last_source_update >= 100);
    }
}
