//! Modifications and cuts of appenders that other members pushed here, so that one which comes again is not made again.
//!
//! A source that was killed pushes again what was done a moment before, with the bytes that it has by then. Meanwhile
//! another member may have taken later changes of the file, which the source does not have yet: they must not be undone
//! here.
//!
//! The newest are remembered, and after a start those in the last part of the binlog.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use fdfs_protocol::binlog::{Change, Origin, Record};
use parking_lot::Mutex;

/// Changes remembered; some 3 MB.
const MAX: usize = 65_536;

/// The changes, as hashes of their binlog lines: these tell source's time, file and range.
#[derive(Debug, Default)]
pub struct Taken {
    hasher: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Taken {
    /// Remembers what the last records of the binlog tell.
    pub fn of(records: &[Record]) -> Taken {
        let taken = Taken::default();
        for record in records {
            let is_write = matches!(record.change, Change::Modify { .. } | Change::Truncate { .. });
            if record.origin == Origin::Replica && is_write {
                taken.add(format!("{record}\n").as_bytes());
            }
        }
        taken
    }

    /// A change was made; `line` is its record.
    pub fn add(&self, line: &[u8]) {
        let hash = self.hasher.hash_one(line);
        let mut inner = self.inner.lock();
        if inner.lines.insert(hash) {
            inner.order.push_back(hash);
        }
        if inner.order.len() > MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.lines.remove(&oldest);
        }
    }

    /// Whether it was made.
    pub fn has(&self, line: &[u8]) -> bool {
        self.inner.lock().lines.contains(&self.hasher.hash_one(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deleted::TAIL;
    use crate::disk::binlog::Binlog;
    use crate::disk::history::last_records;

    fn line(n: usize) -> Vec<u8> {
        format!("{n} m M00/00/00/Ck4AAWsA5LaEYVcFAAAAALBg714379.txt 0 7\n").into_bytes()
    }

    #[test]
    fn the_newest_are_remembered() {
        let taken = Taken::default();
        for n in 0..MAX + 10 {
            taken.add(&line(n));
        }
        taken.add(&line(MAX));
        assert!(!taken.has(&line(9)) && taken.has(&line(10)) && taken.has(&line(MAX + 9)));
        assert_eq!(taken.inner.lock().lines.len(), MAX);
    }

    #[test]
    fn a_start_looks_into_the_binlog() {
        let dir = tempfile::tempdir().unwrap();
        let binlog = Binlog::open(dir.path()).unwrap();
        let own = String::from_utf8(line(1)).unwrap().replace(" m ", " M ");
        binlog.append(own.as_bytes()).unwrap();
        binlog.append(&line(2)).unwrap();
        let taken = Taken::of(&last_records(&binlog, TAIL).unwrap());
        assert!(taken.has(&line(2)) && !taken.has(own.as_bytes()) && !taken.has(&line(1)));
    }
}
