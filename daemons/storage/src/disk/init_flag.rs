//! `.data_init_flag`, what the storage knows about its place in the group, and the marks of the store paths.
//!
//! Each store path carries a mark, and `.data_init_flag` has a copy of each: disks that were mixed up, or belong to
//! another storage, are found before anything is written to them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use fdfs_protocol::IpText;
use fdfs_protocol::datafile::{InitFlag, PathMark, PathMarkFile};
use parking_lot::Mutex;
use tracing::warn;

use super::replace_file;
use super::store::{Store, StorePath};
use crate::blocking;
use crate::clock;

/// `.data_init_flag` on disk and in memory.
#[derive(Debug)]
pub struct InitState {
    path: PathBuf,
    flag: Mutex<InitFlag>,
    /// Held for as long as the storage runs: two would each overwrite what the other knows.
    _lock: File,
}

/// Beside the data, not the pid file: C's tools replace that one.
const LOCK: &str = ".fdfs_storaged.lock";

impl InitState {
    /// Reads the file below `data`, or begins a new one: this storage has never joined. Keeps other storages away.
    ///
    /// # Errors
    /// Another storage runs on this directory, or what reading reported; texts name the file.
    pub fn open(data: &Path) -> anyhow::Result<InitState> {
        let lock_path = data.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.with_context(|| format!("cannot write {}", lock_path.display()))?;
        match lock.try_lock() {
            // Only for the message below: a full disk is no reason not to start.
            Ok(()) => drop(lock.set_len(0).and_then(|()| (&lock).write_all(std::process::id().to_string().as_bytes()))),
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&lock_path).unwrap_or_default();
                bail!(
                    "{} is in use by another storage, process {}; stop that one, or choose another base_path",
                    data.display(),
                    if holder.is_empty() { "unknown" } else { &holder }
                )
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        let path = data.join(".data_init_flag");
        let flag = match std::fs::read(&path) {
            Ok(text) => InitFlag::parse(&path, &text)
                .context("restore the file from a backup, or from the tracker's knowledge")?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let flag = InitFlag { storage_join_time: clock::now(), ..InitFlag::default() };
                replace_file(&path, flag.to_text().as_bytes())?;
                flag
            }
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(InitState { path, flag: Mutex::new(flag), _lock: lock })
    }

    /// A copy of what is known.
    pub fn get(&self) -> InitFlag {
        self.flag.lock().clone()
    }

    /// [`update`](InitState::update) on a thread that may wait for the disk.
    ///
    /// # Errors
    /// As [`update`](InitState::update).
    pub async fn update_later(
        self: &Arc<InitState>,
        change: impl FnOnce(&mut InitFlag) + Send + 'static,
    ) -> io::Result<()> {
        let state = self.clone();
        blocking::run(move || state.update(change)).await
    }

    /// Changes it, in memory and, if something did change, on disk.
    ///
    /// # Errors
    /// What writing reported; memory keeps the change.
    pub fn update(&self, change: impl FnOnce(&mut InitFlag)) -> io::Result<()> {
        // Held across the write so that the file never goes back; it is written a few times in the life of a storage.
        let mut flag = self.flag.lock();
        let before = flag.clone();
        change(&mut flag);
        if *flag == before { Ok(()) } else { replace_file(&self.path, flag.to_text().as_bytes()) }
    }

    /// Checks that each store path is the one it was; those without a mark get one later from [`InitState::mark_paths`].
    ///
    /// # Errors
    /// Names the path and what can be done.
    pub fn check_marks(&self, store: &Store) -> anyhow::Result<()> {
        let flag = self.flag.lock();
        for (i, path) in store.paths().iter().enumerate() {
            let file = mark_path(path.dir.path());
            let own = flag.store_path_marks.get(&(i as u8));
            match (own, read_mark(&file)?) {
                (None, None) => {}
                (Some(own), Some(found)) if *own == found => {
                    path.begins(PathMark::decode(own).map_or(0, |mark| mark.created));
                }
                (Some(_), None) => {
                    if !path.created {
                        warn!("{} is missing and will be made again (is this the right disk?)", file.display());
                    }
                }
                (_, Some(found)) => bail!(
                    "store_path{i} = {}: belongs to {}, not to this place of this storage; check the order of the store \
                     paths and the mounted disks; if it is surely not used elsewhere, remove {}, or set \
                     check_store_path_mark = false",
                    path.dir.path().display(),
                    describe(&found),
                    file.display()
                ),
            }
        }
        Ok(())
    }

    /// Marks the store paths that have no mark yet.
    ///
    /// # Errors
    /// What writing reported.
    pub fn mark_paths(&self, store: &Store, ip: IpText, port: u16) -> anyhow::Result<()> {
        for (i, path) in store.paths().iter().enumerate() {
            let file = mark_path(path.dir.path());
            if read_mark(&file)?.is_some() {
                continue;
            }
            let created = clock::seconds(clock::now());
            let mark = PathMark { ip, port, store_path: i as u8, created }.encode();
            // The copy first: a path without a mark is marked again, one with a mark that is not known is refused.
            self.update(|flag| drop(flag.store_path_marks.insert(i as u8, mark.clone())))?;
            replace_file(&file, PathMarkFile { store_path_mark: mark }.to_text().as_bytes())?;
        }
        Ok(())
    }
}

/// Whether a store path has the mark of some storage: it is not an empty directory, where a disk should have been mounted.
pub fn is_marked(path: &StorePath) -> bool {
    mark_path(path.dir.path()).exists()
}

fn mark_path(data: &Path) -> PathBuf {
    data.join(".fastdfs_vars")
}

fn read_mark(file: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read(file) {
        Ok(text) => {
            let mark = PathMarkFile::parse(file, &text)?.store_path_mark;
            Ok((!mark.is_empty()).then_some(mark))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn describe(mark: &str) -> String {
    match PathMark::decode(mark) {
        Some(m) => format!("storage {}:{}, store path {}", m.ip, m.port, m.store_path),
        None => "something else (its mark cannot be read)".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::store::StorePathConfig;

    fn store(root: &Path, names: &[&str]) -> Store {
        let paths: Vec<_> = names.iter().map(|n| StorePathConfig { path: root.join(n), readonly: false }).collect();
        Store::open(&paths, 1).unwrap()
    }

    fn ip() -> IpText {
        IpText::new("10.78.0.1").unwrap()
    }

    #[test]
    fn begins_and_goes_on() {
        let tmp = tempfile::tempdir().unwrap();
        let state = InitState::open(tmp.path()).unwrap();
        let joined = state.get().storage_join_time;
        assert!(joined > 0 && !state.get().sync_old_done);
        state.update(|f| f.sync_old_done = true).unwrap();
        let taken = InitState::open(tmp.path()).unwrap_err().to_string();
        let holder = format!("in use by another storage, process {};", std::process::id());
        assert!(taken.contains(&holder) && taken.contains("another base_path"), "{taken}");
        drop(state);
        let again = InitState::open(tmp.path()).unwrap().get();
        assert!(again.sync_old_done);
        assert_eq!(again.storage_join_time, joined);
    }

    #[test]
    fn paths_are_marked_and_mixed_up_ones_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let state = InitState::open(tmp.path()).unwrap();
        let right = store(tmp.path(), &["a", "b"]);
        state.check_marks(&right).unwrap();
        state.mark_paths(&right, ip(), 23000).unwrap();
        state.check_marks(&right).unwrap();
        let wrong = store(tmp.path(), &["b", "a"]);
        let e = state.check_marks(&wrong).unwrap_err().to_string();
        assert!(
            e.contains("store_path0") && e.contains("10.78.0.1:23000, store path 1") && e.contains("remove"),
            "{e}"
        );
        // A disk of another storage, unknown here.
        let other = tempfile::tempdir().unwrap();
        let e = InitState::open(other.path()).unwrap().check_marks(&right).unwrap_err().to_string();
        assert!(e.contains("belongs to"), "{e}");
    }

    #[test]
    fn a_lost_mark_is_made_again() {
        let tmp = tempfile::tempdir().unwrap();
        let state = InitState::open(tmp.path()).unwrap();
        let one = store(tmp.path(), &["a"]);
        state.mark_paths(&one, ip(), 23000).unwrap();
        let file = tmp.path().join("a/data/.fastdfs_vars");
        std::fs::remove_file(&file).unwrap();
        state.check_marks(&one).unwrap();
        state.mark_paths(&one, ip(), 23000).unwrap();
        assert!(file.exists());
        drop(state);
        InitState::open(tmp.path()).unwrap().check_marks(&one).unwrap();
    }
}
