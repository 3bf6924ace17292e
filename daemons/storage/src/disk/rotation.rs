//! Which of the `HH/HH` directories new files go to.
//!
//! FastDFS fills one directory with `file_distribute_rotate_count` files and goes on to the next. So do we, but each
//! serving thread has a directory of its own to fill: creating files takes the directory's lock in the kernel, and
//! threads that share a directory wait for each other there. The position that is saved is the next directory that no
//! thread has; a restart begins with a fresh one.

use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::dir::{Dir, RelPath};
use crate::thread;

/// Threads beyond this number share directories.
const SHARDS: usize = 16;

/// How directories are chosen: `file_distribute_path_mode` and `file_distribute_rotate_count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Mode 0: one after the other, with this many files each time.
    Rotate(u32),
    /// Mode 1: any. (FastDFS hashes the temporary name, which is random.)
    Random,
}

/// The position of the rotation, as it is saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// First level.
    pub high: u32,
    /// Second level.
    pub low: u32,
    /// Files already in that directory in this round.
    pub written: u32,
}

/// A directory to put a file in.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// First and second level.
    pub at: (u8, u8),
    /// The directory itself.
    pub fd: Arc<OwnedFd>,
}

#[derive(Debug)]
struct Lease {
    at: (u32, u32),
    left: u32,
    /// One per store path, opened when first used.
    open: Vec<Option<Arc<OwnedFd>>>,
}

/// The rotation over all directories of all store paths.
#[derive(Debug)]
pub struct Rotation {
    distribution: Distribution,
    subdirs: u32,
    next: Mutex<Position>,
    /// Locked across `open(2)` of a directory, by threads that share the shard only.
    leases: [Mutex<Option<Lease>>; SHARDS],
}

impl Rotation {
    /// A rotation over `subdirs` x `subdirs` directories, going on from `position`.
    pub fn new(distribution: Distribution, subdirs: u32, position: Position) -> Rotation {
        let inside = position.high < subdirs && position.low < subdirs;
        Rotation {
            distribution,
            subdirs: subdirs.max(1),
            next: Mutex::new(if inside { position } else { Position::default() }),
            leases: Default::default(),
        }
    }

    /// The position to save.
    pub fn position(&self) -> Position {
        *self.next.lock()
    }

    /// The directory of store path `index` that takes the next file.
    ///
    /// # Errors
    /// What opening (or making) the directory reported.
    pub fn leaf(&self, index: usize, dir: &Dir) -> io::Result<Leaf> {
        let mut shard = self.leases[thread::number() % SHARDS].lock();
        let lease = match &mut *shard {
            Some(lease) if lease.left > 0 => lease,
            other => other.insert(self.lease()),
        };
        lease.left -= 1;
        if lease.open.len() <= index {
            lease.open.resize(index + 1, None);
        }
        let fd = match &lease.open[index] {
            Some(fd) => fd.clone(),
            None => {
                let path = RelPath::new(&dir_name(lease.at.0, lease.at.1)).ok_or(io::ErrorKind::InvalidInput)?;
                lease.open[index].insert(Arc::new(dir.open_dir(&path)?)).clone()
            }
        };
        Ok(Leaf { at: (lease.at.0 as u8, lease.at.1 as u8), fd })
    }

    /// Forgets the directories held open; after a store path failed, the next use opens them afresh.
    pub fn reopen(&self) {
        for shard in &self.leases {
            *shard.lock() = None;
        }
    }

    fn lease(&self) -> Lease {
        match self.distribution {
            Distribution::Random => {
                let bits = thread::random();
                let at = ((bits >> 32) as u32 % self.subdirs, bits as u32 % self.subdirs);
                Lease { at, left: 1, open: Vec::new() }
            }
            Distribution::Rotate(count) => {
                let count = count.max(1);
                let mut next = self.next.lock();
                let left = count.saturating_sub(next.written).max(1);
                let at = (next.high, next.low);
                next.written = 0;
                next.low += 1;
                if next.low >= self.subdirs {
                    next.low = 0;
                    next.high = (next.high + 1) % self.subdirs;
                }
                Lease { at, left, open: Vec::new() }
            }
        }
    }
}

/// `HH/HH` of two numbers below 256.
pub fn dir_name(high: u32, low: u32) -> [u8; 5] {
    let mut text = String::with_capacity(5);
    let mut out = *b"00/00";
    if write!(text, "{:02X}/{:02X}", high & 0xFF, low & 0xFF).is_ok() {
        out.copy_from_slice(text.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(r: &Rotation, dir: &Dir, n: usize) -> Vec<String> {
        let name = |leaf: Leaf| format!("{:02X}/{:02X}", leaf.at.0, leaf.at.1);
        (0..n).map(|_| name(r.leaf(0, dir).unwrap())).collect()
    }

    #[test]
    fn fills_each_directory_and_wraps() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let r = Rotation::new(Distribution::Rotate(2), 2, Position::default());
        let got = names(&r, &dir, 9);
        assert_eq!(got, ["00/00", "00/00", "00/01", "00/01", "01/00", "01/00", "01/01", "01/01", "00/00"]);
        assert!(tmp.path().join("01/01").is_dir());
    }

    #[test]
    fn goes_on_where_it_was() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let r = Rotation::new(Distribution::Rotate(100), 256, Position { high: 3, low: 255, written: 98 });
        assert_eq!(names(&r, &dir, 3), ["03/FF", "03/FF", "04/00"]);
        assert_eq!(r.position(), Position { high: 4, low: 1, written: 0 });
        let r = Rotation::new(Distribution::Rotate(100), 16, Position { high: 3, low: 255, written: 98 });
        assert_eq!(r.position(), Position::default());
    }

    #[test]
    fn threads_do_not_share_a_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open(tmp.path()).unwrap());
        let r = Arc::new(Rotation::new(Distribution::Rotate(100), 256, Position::default()));
        let here = names(&r, &dir, 1);
        let (r2, dir2) = (r.clone(), dir.clone());
        let there = std::thread::spawn(move || (thread::number(), names(&r2, &dir2, 1))).join().unwrap();
        if there.0 % SHARDS != thread::number() % SHARDS {
            assert_ne!(here, there.1);
        }
    }

    #[test]
    fn random_stays_inside() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let r = Rotation::new(Distribution::Random, 2, Position::default());
        assert!(names(&r, &dir, 50).iter().all(|n| ["00/00", "00/01", "01/00", "01/01"].contains(&n.as_str())));
    }
}
