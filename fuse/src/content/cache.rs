//! Stored content kept on the local disk, so that what is read again need not cross the network.
//!
//! Invariants:
//! - An entry is a whole verified content under the name of its file ID: files get that name by `rename` when complete.
//! - The sum of all entries, those being written included, never exceeds the limit.
//! - Nothing is trusted that could have been torn by a crash of the system: after one, the cache starts empty. (A
//!   crash of this process alone tears nothing.)

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{ContentError, Fingerprint};

/// The largest content that is cached, unless an eighth of the limit is less.
const LARGEST: u64 = 64 << 20;

/// What a file takes on disk is counted in blocks.
const BLOCK: u64 = 4096;

/// Written to the state file when the cache was closed in order.
const CLEAN: &str = "clean";

/// A directory of cached contents.
pub(crate) struct Cache {
    dir: PathBuf,
    limit: u64,
    next: AtomicU64,
    entries: Mutex<Entries>,
}

/// What is cached, and when it was used last.
#[derive(Default)]
struct Entries {
    by_name: HashMap<Arc<str>, Entry>,
    /// Use → name. The first is the next to go.
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    /// Bytes on disk, including reservations for files being written.
    total: u64,
}

struct Entry {
    size: u64,
    used: u64,
}

impl Entries {
    fn touch(&mut self, name: &str) -> Option<u64> {
        let entry = self.by_name.get_mut(name)?;
        let name = self.by_use.remove(&entry.used)?;
        self.uses += 1;
        entry.used = self.uses;
        self.by_use.insert(self.uses, name);
        Some(entry.size)
    }

    /// Adds an entry whose space is already part of the total.
    fn add(&mut self, name: Arc<str>, size: u64) {
        self.remove(&name);
        self.uses += 1;
        self.by_use.insert(self.uses, name.clone());
        self.by_name.insert(name, Entry { size, used: self.uses });
    }

    fn remove(&mut self, name: &str) {
        if let Some(entry) = self.by_name.remove(name) {
            self.by_use.remove(&entry.used);
            self.total -= on_disk(entry.size);
        }
    }

    /// Reserves room for a file, and names those that have to go for it.
    fn reserve(&mut self, size: u64, limit: u64) -> Option<Vec<Arc<str>>> {
        let mut victims = Vec::new();
        while self.total + on_disk(size) > limit {
            let (_, name) = self.by_use.first_key_value()?;
            let name = name.clone();
            self.remove(&name);
            victims.push(name);
        }
        self.total += on_disk(size);
        Some(victims)
    }
}

fn on_disk(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

/// The name of a cache file. Group names and file names have no `+` in them.
pub(crate) fn name_of(file_id: &str) -> Arc<str> {
    file_id.replace('/', "+").into()
}

impl Cache {
    /// Opens the cache in `dir` (created if missing), with at most `limit` bytes.
    ///
    /// What is there already is taken over in the background, so that the start does not depend on how much it is.
    pub(crate) fn open(dir: &Path, limit: u64) -> Result<Arc<Cache>, ContentError> {
        let local = |path: &Path, e| ContentError::local(path, e);
        std::fs::create_dir_all(dir).map_err(|e| local(dir, e))?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let state = dir.join("state");
        let was = std::fs::read_to_string(&state).unwrap_or_default();
        let objects = dir.join("objects");
        let trusted = was == CLEAN || (!boot.is_empty() && was == boot);
        if !trusted && objects.exists() {
            let old = dir.join("distrusted");
            // Left by an earlier start that did not get to the end of this.
            remove_all(&old);
            std::fs::rename(&objects, &old).map_err(|e| local(&objects, e))?;
        }
        std::fs::create_dir_all(&objects).map_err(|e| local(&objects, e))?;
        std::fs::write(&state, &boot).map_err(|e| local(&state, e))?;
        let cache = Arc::new(Cache { dir: dir.to_owned(), limit, next: AtomicU64::new(0), entries: Mutex::default() });
        let adopter = cache.clone();
        std::thread::Builder::new()
            .name("fdfs-cache".into())
            .spawn(move || adopter.adopt())
            .map_err(|e| local(dir, e))?;
        Ok(cache)
    }

    /// Takes over what an earlier process cached, and removes what it left half-done.
    fn adopt(&self) {
        remove_all(&self.dir.join("distrusted"));
        let Ok(listing) = std::fs::read_dir(self.dir.join("objects")) else { return };
        for entry in listing.flatten() {
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else { continue };
            let size = entry.metadata().map(|m| m.len());
            // Temporary files of this process begin with its own number; see `begin`.
            let own = name.starts_with(&self.temporary());
            let mut entries = self.entries.lock();
            if own || entries.by_name.contains_key(name) {
                continue;
            }
            match size {
                Ok(size) if !name.starts_with("tmp-") && entries.total + on_disk(size) <= self.limit => {
                    entries.total += on_disk(size);
                    entries.add(name.into(), size);
                }
                // Under the lock, so that it is not a file that has just got this name.
                _ => drop(std::fs::remove_file(entry.path())),
            }
        }
    }

    fn temporary(&self) -> String {
        format!("tmp-{}-", std::process::id())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("objects").join(name)
    }

    /// The cached content of a file ID.
    pub(crate) fn get(&self, file_id: &str, size: u64) -> Option<Arc<File>> {
        let name = name_of(file_id);
        let known = self.entries.lock().touch(&name)?;
        let file = File::open(self.path(&name)).ok();
        let good = file.filter(|f| known == size && f.metadata().is_ok_and(|m| m.len() == size));
        if good.is_none() {
            // Removed or damaged by somebody else.
            self.remove(file_id);
        }
        good.map(Arc::new)
    }

    /// Drops a content, for instance because it was deleted from the cluster.
    pub(crate) fn remove(&self, file_id: &str) {
        let name = name_of(file_id);
        let mut entries = self.entries.lock();
        if entries.by_name.contains_key(&name) {
            entries.remove(&name);
            // Under the lock: `adopt` must not take it for one that nobody knows yet.
            let _ = std::fs::remove_file(self.path(&name));
        }
    }

    /// Begins to write a content. `None`: it is not to be cached, or is already.
    pub(crate) fn begin(self: &Arc<Self>, file_id: &str, size: u64) -> Option<Filling> {
        if size > LARGEST.min(self.limit / 8) {
            return None;
        }
        let name = name_of(file_id);
        {
            let mut entries = self.entries.lock();
            if entries.by_name.contains_key(&name) {
                return None;
            }
            // Under the lock, as in `remove`.
            for victim in entries.reserve(size, self.limit)? {
                let _ = std::fs::remove_file(self.path(&victim));
            }
        }
        let tmp = self.path(&format!("{}{}", self.temporary(), self.next.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().write(true).create_new(true).open(&tmp);
        // From here on, dropping the filling undoes the reservation.
        let filling =
            |file| Filling { cache: self.clone(), file, tmp, name, size, hasher: blake3::Hasher::new(), done: false };
        match file {
            Ok(file) => Some(filling(Some(file))),
            Err(error) => {
                tracing::warn!(%error, "not cached");
                drop(filling(None));
                None
            }
        }
    }

    /// Caches a verified content in the background.
    pub(crate) fn fill(self: &Arc<Self>, runtime: &tokio::runtime::Handle, file_id: &str, bytes: Bytes) {
        let (cache, file_id) = (self.clone(), file_id.to_owned());
        runtime.spawn_blocking(move || {
            if let Some(filling) = cache.begin(&file_id, bytes.len() as u64).and_then(|f| f.write(&bytes)) {
                filling.commit(None);
            }
        });
    }

    /// Closes the cache in order: a later start trusts it even after a restart of the system.
    pub(crate) fn close(&self) {
        let synced = File::open(&self.dir).is_ok_and(|dir| {
            // SAFETY: the descriptor is open while `dir` lives; the call takes no pointers.
            unsafe { libc::syncfs(dir.as_raw_fd()) == 0 }
        });
        if synced {
            let _ = std::fs::write(self.dir.join("state"), CLEAN);
        }
    }
}

fn remove_all(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %dir.display(), %error, "old cache not removed");
    }
}

/// A content being written into the cache.
pub(crate) struct Filling {
    cache: Arc<Cache>,
    file: Option<File>,
    tmp: PathBuf,
    name: Arc<str>,
    size: u64,
    hasher: blake3::Hasher,
    done: bool,
}

impl Filling {
    /// Adds the next bytes. `None`: it failed and is given up.
    pub(crate) fn write(mut self, bytes: &[u8]) -> Option<Filling> {
        self.hasher.update(bytes);
        match self.file.as_mut()?.write_all(bytes) {
            Ok(()) => Some(self),
            Err(error) => {
                tracing::warn!(path = %self.tmp.display(), %error, "not cached");
                None
            }
        }
    }

    /// Makes the content visible, if it is what it should be.
    pub(crate) fn commit(mut self, fingerprint: Option<&Fingerprint>) {
        let whole = self.hasher.count() == self.size;
        let good = fingerprint.is_none_or(|f| *f == Fingerprint::from(self.hasher.finalize()));
        let mut entries = self.cache.entries.lock();
        // Under the lock, so that `adopt` sees the file and its entry together; a rename is short.
        if whole && good && std::fs::rename(&self.tmp, self.cache.path(&self.name)).is_ok() {
            entries.add(self.name.clone(), self.size);
            self.done = true;
        }
        // `drop` takes the lock again.
        drop(entries);
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.tmp);
            self.cache.entries.lock().total -= on_disk(self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn put(cache: &Arc<Cache>, id: &str, bytes: &[u8]) {
        if let Some(filling) = cache.begin(id, bytes.len() as u64).and_then(|f| f.write(bytes)) {
            filling.commit(Some(&Fingerprint::of(bytes)));
        }
    }

    fn content(file: &File) -> Vec<u8> {
        let mut buf = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut buf, 0).unwrap();
        buf
    }

    fn disk(cache: &Cache) -> u64 {
        std::fs::read_dir(cache.dir.join("objects"))
            .unwrap()
            .map(|e| on_disk(e.unwrap().metadata().unwrap().len()))
            .sum()
    }

    #[test]
    fn the_least_recently_used_goes_and_the_limit_holds() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = Cache::open(tmp.path(), 8 * BLOCK).unwrap();
        for i in 0..8 {
            put(&cache, &format!("group1/M00/00/00/{i}"), &[i; 10]);
        }
        assert_eq!(content(&cache.get("group1/M00/00/00/0", 10).unwrap()), [0; 10]);
        put(&cache, "group1/M00/00/00/8", &[8; 10]);
        assert!(cache.get("group1/M00/00/00/1", 10).is_none());
        assert!(cache.get("group1/M00/00/00/0", 10).is_some());
        assert!(cache.get("group1/M00/00/00/8", 10).is_some());
        assert_eq!(disk(&cache), 8 * BLOCK);
        // Too large for this cache.
        put(&cache, "group1/M00/00/00/9", &[9; 5000]);
        assert!(cache.get("group1/M00/00/00/9", 5000).is_none());
    }

    #[test]
    fn wrong_or_half_written_content_is_never_seen() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = Cache::open(tmp.path(), 1 << 20).unwrap();
        let filling = cache.begin("g/M00/a", 4).unwrap().write(b"ab").unwrap();
        filling.commit(None);
        assert!(cache.get("g/M00/a", 4).is_none());
        cache.begin("g/M00/a", 4).unwrap().write(b"abcd").unwrap().commit(Some(&Fingerprint([0; 32])));
        assert!(cache.get("g/M00/a", 4).is_none());
        put(&cache, "g/M00/a", b"abcd");
        std::fs::write(cache.path("g+M00+a"), b"abc").unwrap();
        assert!(cache.get("g/M00/a", 4).is_none());
        assert_eq!((disk(&cache), cache.entries.lock().total), (0, 0));
        put(&cache, "g/M00/a", b"abcd");
        cache.remove("g/M00/a");
        assert_eq!((disk(&cache), cache.entries.lock().total), (0, 0));
    }

    #[test]
    fn an_earlier_cache_is_taken_over_only_if_no_system_crash_can_have_torn_it() {
        let tmp = tempfile::tempdir().unwrap();
        let first = Cache::open(tmp.path(), 1 << 20).unwrap();
        put(&first, "g/M00/a", b"abcd");
        first.close();
        // `open` adopts in the background; a second adoption finds the same.
        let second = Cache::open(tmp.path(), 1 << 20).unwrap();
        second.adopt();
        assert!(second.get("g/M00/a", 4).is_some());
        std::fs::write(tmp.path().join("state"), "another boot").unwrap();
        let third = Cache::open(tmp.path(), 1 << 20).unwrap();
        third.adopt();
        assert!(third.get("g/M00/a", 4).is_none());
        assert_eq!(disk(&third), 0);
    }
}
