//! The store paths: the directories that hold the files, the space they have, and which one a new file goes to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use fdfs_protocol::config::ReservedSpace;
use fdfs_protocol::{RemoteName, Status};
use tracing::{info, warn};

use super::dir::{Dir, RelPath};
use super::rotation::dir_name;
use crate::clock;

const MIB: u64 = 1024 * 1024;

/// One store path of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePathConfig {
    /// The directory that holds `data/`.
    pub path: PathBuf,
    /// Takes no new files.
    pub readonly: bool,
}

/// A store path in use.
#[derive(Debug)]
pub struct StorePath {
    /// `<store path>/data`.
    pub dir: Arc<Dir>,
    /// Takes no new files.
    pub readonly: bool,
    /// Directories were made at this start: the disk is new, or another one.
    pub created: bool,
    began: AtomicU32,
    total: AtomicU64,
    free: AtomicU64,
}

impl StorePath {
    /// Since when it has been this store path, as far as is known, unix seconds: what is older and missing may have been on
    /// another disk. 0 if that is not known.
    pub fn began(&self) -> u32 {
        self.began.load(Ordering::Relaxed)
    }

    /// Its mark tells since when it has been this store path.
    pub fn begins(&self, time: u32) {
        self.began.store(time, Ordering::Relaxed);
    }

    /// Total and free bytes as last looked at, less what was written since.
    pub fn space(&self) -> (u64, u64) {
        (self.total.load(Ordering::Relaxed), self.free.load(Ordering::Relaxed))
    }

    /// Total and free MiB, as reported to trackers.
    pub fn space_mb(&self) -> (u64, u64) {
        let (total, free) = self.space();
        (total / MIB, free / MIB)
    }

    /// Whether a file of `size` bytes may come here, when there are `paths` store paths.
    pub fn has_room(&self, size: u64, reserved: &ReservedSpace, paths: usize) -> bool {
        let (total, free) = self.space();
        reserved.allows_path(free.saturating_sub(size) / MIB, total / MIB, paths as u64)
    }

    /// Accounts for a file before the next look at the disk.
    pub fn took(&self, bytes: u64) {
        let _ = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |f| Some(f.saturating_sub(bytes)));
    }
}

/// How a path is chosen when the client leaves it to the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathChoice {
    /// In turn.
    #[default]
    RoundRobin,
    /// The one with most free space (`store_path = 2` at the tracker).
    MostFree,
}

/// All store paths of a storage.
#[derive(Debug)]
pub struct Store {
    paths: Vec<StorePath>,
    turn: AtomicUsize,
}

impl Store {
    /// Opens the store paths, making their `subdirs` x `subdirs` directories where they are missing.
    ///
    /// # Errors
    /// Texts name the key and the path.
    pub fn open(paths: &[StorePathConfig], subdirs: u32) -> anyhow::Result<Store> {
        let mut opened = Vec::with_capacity(paths.len());
        for (i, config) in paths.iter().enumerate() {
            let created = make_directories(&config.path, subdirs).map_err(|e| {
                anyhow::Error::new(e).context(format!(
                    "store_path{i} = {}: cannot make its data directories (does it exist, and may this user write there?)",
                    config.path.display()
                ))
            })?;
            let data = config.path.join("data");
            let dir = Dir::open(&data).map_err(|e| {
                anyhow::Error::new(e)
                    .context(format!("store_path{i} = {}: cannot open its data directory", config.path.display()))
            })?;
            let path = StorePath {
                dir: Arc::new(dir),
                readonly: config.readonly,
                created,
                began: AtomicU32::new(if created { clock::seconds(clock::now()) } else { 0 }),
                total: AtomicU64::new(0),
                free: AtomicU64::new(0),
            };
            opened.push(path);
        }
        let store = Store { paths: opened, turn: AtomicUsize::new(0) };
        store.refresh_space();
        Ok(store)
    }

    /// The store paths, in the order of their indexes.
    pub fn paths(&self) -> &[StorePath] {
        &self.paths
    }

    /// The store path with this index.
    pub fn path(&self, index: u8) -> Option<&StorePath> {
        self.paths.get(usize::from(index))
    }

    /// The store path of a name, and the path of the file below its `data/`.
    ///
    /// # Errors
    /// `EINVAL` for a store path that does not exist.
    pub fn locate(&self, name: &RemoteName) -> Result<(&StorePath, RelPath), Status> {
        let path = self.path(name.store_path()).ok_or(Status::EINVAL)?;
        Ok((path, RelPath::new(name.true_name().as_bytes()).ok_or(Status::EINVAL)?))
    }

    /// What a link is a link to, if that is a file of this storage.
    pub fn link_target(&self, name: &RemoteName) -> Option<RemoteName> {
        let (path, rel) = self.locate(name).ok()?;
        let target = std::fs::read_link(path.dir.full(&rel)).ok()?;
        self.paths.iter().enumerate().find_map(|(i, path)| {
            let below = target.strip_prefix(path.dir.path()).ok()?.to_str()?;
            RemoteName::parse(format!("M{i:02X}/{below}").as_bytes()).ok()
        })
    }

    /// Looks how much space the file systems have.
    pub fn refresh_space(&self) {
        for path in &self.paths {
            match path.dir.space() {
                Ok((total, free)) => {
                    path.total.store(total, Ordering::Relaxed);
                    path.free.store(free, Ordering::Relaxed);
                }
                Err(e) => {
                    warn!("{}: cannot tell its free space: {e}", path.dir.path().display());
                    path.free.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// The path for a new file of `size` bytes. `wanted` is the client's (that is, the tracker's) choice, if any; a
    /// read-only one is replaced.
    ///
    /// # Errors
    /// `EINVAL` for a path that does not exist, `ENOSPC` when no path may take the file.
    pub fn choose(
        &self,
        wanted: Option<u8>,
        size: u64,
        reserved: &ReservedSpace,
        choice: PathChoice,
    ) -> Result<usize, Status> {
        let n = self.paths.len();
        if let Some(wanted) = wanted {
            let path = self.path(wanted).ok_or(Status::EINVAL)?;
            if !path.readonly {
                return if path.has_room(size, reserved, n) { Ok(usize::from(wanted)) } else { Err(Status::ENOSPC) };
            }
        }
        let usable = |i: &usize| {
            let path = &self.paths[*i];
            !path.readonly && path.has_room(size, reserved, n)
        };
        let found = match choice {
            PathChoice::MostFree => (0..n).filter(usable).max_by_key(|&i| self.paths[i].space().1),
            PathChoice::RoundRobin => {
                let first = self.turn.fetch_add(1, Ordering::Relaxed);
                (0..n).map(|i| (first + i) % n).find(usable)
            }
        };
        found.ok_or(Status::ENOSPC)
    }
}

/// Makes `data/HH/HH`; says whether anything was missing. As FastDFS does, the first and the last directory stand for
/// all others.
fn make_directories(store_path: &Path, subdirs: u32) -> io::Result<bool> {
    let data = store_path.join("data");
    std::fs::create_dir_all(&data)?;
    let sub = |high, low| data.join(String::from_utf8_lossy(&dir_name(high, low)).as_ref());
    if sub(0, 0).is_dir() && sub(subdirs - 1, subdirs - 1).is_dir() {
        return Ok(false);
    }
    info!("{}: making {subdirs} x {subdirs} directories", data.display());
    for high in 0..subdirs {
        for low in 0..subdirs {
            let dir = sub(high, low);
            match std::fs::create_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(&dir)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                other => other?,
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(n: usize, readonly: &[usize]) -> (tempfile::TempDir, Store) {
        let tmp = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..n)
            .map(|i| StorePathConfig { path: tmp.path().join(format!("p{i}")), readonly: readonly.contains(&i) })
            .collect();
        let store = Store::open(&paths, 2).unwrap();
        (tmp, store)
    }

    #[test]
    fn directories_are_made_once() {
        let (tmp, store) = store(1, &[]);
        assert!(store.paths()[0].created);
        assert!(tmp.path().join("p0/data/01/01").is_dir());
        assert!(!tmp.path().join("p0/data/02").exists());
        let again = Store::open(&[StorePathConfig { path: tmp.path().join("p0"), readonly: false }], 2).unwrap();
        assert!(!again.paths()[0].created);
    }

    #[test]
    fn an_impossible_path_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("file"), "").unwrap();
        let path = StorePathConfig { path: tmp.path().join("file/x"), readonly: false };
        let e = Store::open(&[path], 2).unwrap_err();
        assert!(e.to_string().contains("store_path0 = "), "{e}");
        assert!(e.to_string().contains("file/x"), "{e}");
    }

    #[test]
    fn paths_are_chosen_in_turn_and_read_only_ones_replaced() {
        let (_tmp, store) = store(3, &[1]);
        let none = &ReservedSpace::Megabytes(0);
        let rr = PathChoice::RoundRobin;
        let picks: Vec<_> = (0..4).map(|_| store.choose(None, 1, none, rr).unwrap()).collect();
        assert!(picks.contains(&0) && picks.contains(&2) && !picks.contains(&1), "{picks:?}");
        assert_eq!(store.choose(Some(2), 1, none, rr), Ok(2));
        assert_ne!(store.choose(Some(1), 1, none, rr), Ok(1));
        assert_eq!(store.choose(Some(3), 1, none, rr), Err(Status::EINVAL));
        assert_eq!(store.choose(Some(0), u64::MAX, none, rr), Err(Status::ENOSPC));
        assert_eq!(store.choose(None, 1, &ReservedSpace::Ratio(0.9999999), rr), Err(Status::ENOSPC));
        assert!(store.choose(None, 1, none, PathChoice::MostFree).is_ok());
    }

    #[test]
    fn the_reserve_is_strict_and_shared() {
        let (_tmp, store) = store(1, &[]);
        let path = &store.paths()[0];
        path.total.store(1000 * MIB, Ordering::Relaxed);
        path.free.store(101 * MIB, Ordering::Relaxed);
        let r = ReservedSpace::Megabytes(100);
        assert!(path.has_room(0, &r, 1) && !path.has_room(1, &r, 1) && path.has_room(50 * MIB, &r, 2));
        let r = ReservedSpace::Ratio(0.1);
        assert!(path.has_room(0, &r, 1) && !path.has_room(MIB, &r, 1));
        path.total.store(0, Ordering::Relaxed);
        assert!(!path.has_room(0, &r, 1));
    }

    #[test]
    fn written_bytes_count_at_once() {
        let (_tmp, store) = store(1, &[]);
        let before = store.paths()[0].space().1;
        store.paths()[0].took(4096);
        assert_eq!(store.paths()[0].space().1, before - 4096);
    }
}
