//! Checksums of the parts of large contents, so that a part can be checked before it is given out.
//!
//! The CRC32 in a file ID is that of the whole content. The CRC32s of its parts combine to it, so a list of them proves
//! itself: it is believed only if it does. The list is made while a content is staged, or read as a whole for the first
//! time, and kept beside the cache, 4 bytes for 128 KiB. Whatever happens to these files, content is at worst checked
//! at its end only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;
use parking_lot::Mutex;

use super::cache::name_of;

/// Lists in memory.
const KEPT: usize = 64;

/// The checksums of a content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Length of the parts; the last may be shorter.
    part: u64,
    size: u64,
    crcs: Vec<u32>,
}

impl Sums {
    /// The CRC32 of the whole content.
    pub(crate) fn whole(&self) -> u32 {
        let mut whole = Hasher::new();
        for (i, &crc) in self.crcs.iter().enumerate() {
            let start = i as u64 * self.part;
            whole.combine(&Hasher::new_with_initial_len(crc, self.part.min(self.size - start)));
        }
        whole.finalize()
    }

    /// The part that `offset` lies in.
    pub(crate) fn part(&self, offset: u64) -> std::ops::Range<u64> {
        let start = offset / self.part * self.part;
        start..(start + self.part).min(self.size)
    }

    /// Whether `bytes` are the part at `start`.
    pub(crate) fn fits(&self, start: u64, bytes: &[u8]) -> bool {
        self.states(start, crc32fast::hash(bytes))
    }

    /// Whether the part at `start` has this CRC32.
    pub(crate) fn states(&self, start: u64, crc: u32) -> bool {
        self.crcs.get((start / self.part) as usize) == Some(&crc)
    }

    /// Whether the parts that begin before `end` are the same.
    pub(crate) fn agrees(&self, other: &Sums, end: u64) -> bool {
        let parts = end.div_ceil(self.part) as usize;
        self.part == other.part && self.crcs.get(..parts).is_some_and(|crcs| other.crcs.get(..parts) == Some(crcs))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let head = [self.part.to_le_bytes(), self.size.to_le_bytes()].concat();
        head.into_iter().chain(self.crcs.iter().flat_map(|crc| crc.to_le_bytes())).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Sums> {
        let (part, rest) = bytes.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (part, size) = (u64::from_le_bytes(*part), u64::from_le_bytes(*size));
        let (crcs, left) = rest.as_chunks::<4>();
        let whole = part > 0 && left.is_empty() && size.div_ceil(part) == crcs.len() as u64;
        whole.then(|| Sums { part, size, crcs: crcs.iter().map(|crc| u32::from_le_bytes(*crc)).collect() })
    }
}

/// Checksums being made, of bytes that come in order.
#[derive(Debug, Clone)]
pub(crate) struct Summing {
    part: u64,
    size: u64,
    crcs: Vec<u32>,
    current: Hasher,
}

impl Summing {
    pub(crate) fn new(part: u64) -> Summing {
        Summing { part, size: 0, crcs: Vec::new(), current: Hasher::new() }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.part - self.size % self.part;
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.current.update(now);
            self.size += now.len() as u64;
            if self.size.is_multiple_of(self.part) {
                self.crcs.push(std::mem::take(&mut self.current).finalize());
            }
            bytes = later;
        }
    }

    pub(crate) fn finish(mut self) -> Sums {
        if !self.size.is_multiple_of(self.part) {
            self.crcs.push(self.current.finalize());
        }
        Sums { part: self.part, size: self.size, crcs: self.crcs }
    }
}

/// The checksums that are known.
pub(crate) struct KnownSums {
    dir: PathBuf,
    part: u64,
    recent: Mutex<HashMap<Arc<str>, Arc<Sums>>>,
}

impl KnownSums {
    /// Those in `dir`, which is made when it is needed.
    pub(crate) fn open(dir: &Path, part: u64) -> KnownSums {
        KnownSums { dir: dir.to_owned(), part, recent: Mutex::default() }
    }

    /// Begins to make some.
    pub(crate) fn summing(&self) -> Summing {
        Summing::new(self.part)
    }

    /// Those of a content of which the file ID states the CRC32. Reads a small file; `None`: they are not known.
    pub(crate) fn get(&self, file_id: &str, size: u64, stated: u32) -> Option<Arc<Sums>> {
        let name = name_of(file_id);
        if let Some(sums) = self.recent.lock().get(&name) {
            return Some(sums.clone());
        }
        let sums = Sums::from_bytes(&std::fs::read(self.dir.join(&*name)).ok()?);
        match sums.filter(|sums| sums.size == size && sums.whole() == stated) {
            Some(sums) => Some(self.remember(name, sums)),
            None => {
                tracing::warn!(file_id, "checksums of parts are damaged, and made anew");
                self.remove(file_id);
                None
            }
        }
    }

    /// Keeps those of a content that is what its file ID states.
    pub(crate) fn keep(&self, file_id: &str, sums: Sums) -> Arc<Sums> {
        let name = name_of(file_id);
        let path = self.dir.join(&*name);
        let write = || std::fs::write(&path, sums.to_bytes());
        let written = write().or_else(|_| std::fs::create_dir_all(&self.dir).and_then(|()| write()));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "checksums of parts not kept");
        }
        self.remember(name, sums)
    }

    fn remember(&self, name: Arc<str>, sums: Sums) -> Arc<Sums> {
        let sums = Arc::new(sums);
        let mut recent = self.recent.lock();
        if recent.len() >= KEPT {
            recent.clear();
        }
        recent.insert(name, sums.clone());
        sums
    }

    /// Forgets those of a content that is gone.
    pub(crate) fn remove(&self, file_id: &str) {
        let name = name_of(file_id);
        self.recent.lock().remove(&name);
        let _ = std::fs::remove_file(self.dir.join(&*name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums(bytes: &[u8], part: u64) -> Sums {
        let mut summing = Summing::new(part);
        summing.update(bytes);
        summing.finish()
    }

    proptest! {
        #[test]
        fn parts_combine_to_the_whole_however_they_come(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(1..700usize, 0..10),
            part in 1..1000u64,
        ) {
            let mut summing = Summing::new(part);
            let mut rest = &bytes[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                summing.update(now);
                rest = later;
            }
            summing.update(rest);
            let made = summing.finish();
            prop_assert_eq!(&made, &sums(&bytes, part));
            prop_assert_eq!(made.whole(), crc32fast::hash(&bytes));
            prop_assert_eq!(Sums::from_bytes(&made.to_bytes()), Some(sums(&bytes, part)));
            for start in (0..bytes.len()).step_by(part as usize) {
                let range = made.part(start as u64);
                let mut part = bytes[range.start as usize..range.end as usize].to_vec();
                prop_assert!(made.fits(range.start, &part));
                part[0] ^= 1;
                prop_assert!(!made.fits(range.start, &part));
            }
        }

        #[test]
        fn any_file_is_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Sums::from_bytes(&bytes).map(|sums| sums.whole());
        }
    }

    #[test]
    fn agreement_ends_with_the_first_difference() {
        let (a, b) = (sums(b"aaaabbbbcc", 4), sums(b"aaaabbXbcc", 4));
        assert!(a.agrees(&b, 0) && a.agrees(&b, 4) && !a.agrees(&b, 5) && !a.agrees(&b, 10));
    }

    #[test]
    fn kept_ones_are_found_and_damaged_ones_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("sums");
        let crc = crc32fast::hash(b"aaaabbbbcc");
        KnownSums::open(&place, 4).keep("g/M00/00/00/x", sums(b"aaaabbbbcc", 4));
        let known = KnownSums::open(&place, 4);
        assert_eq!(*known.get("g/M00/00/00/x", 10, crc).unwrap(), sums(b"aaaabbbbcc", 4));
        assert!(known.get("g/M00/00/00/y", 10, crc).is_none());
        known.remove("g/M00/00/00/x");
        assert!(known.get("g/M00/00/00/x", 10, crc).is_none());
        known.keep("g/M00/00/00/x", sums(b"aaaabbXbcc", 4));
        assert!(KnownSums::open(&place, 4).get("g/M00/00/00/x", 10, crc).is_none());
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    }
}
