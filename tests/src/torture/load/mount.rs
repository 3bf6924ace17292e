//! Programs in a mounted tree.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use fdfs_client::{Client, FileId};

use super::super::check::State;
use super::super::fleet::Fleet;
use super::super::history::{Change, Data, History, Outcome};
use super::client::members_agree;
use super::{Known, data, over};
use crate::tree::Random;

/// Files a worker keeps; beyond, it removes.
const MOST_FILES: usize = 30;

/// One program in the mounted tree, and its directory.
#[derive(Debug)]
pub struct MountLoad {
    worker: usize,
    random: Random,
    dir: PathBuf,
    next: u64,
    files: BTreeMap<PathBuf, Known>,
}

impl MountLoad {
    /// A program with a directory of its own under `root`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(worker: usize, seed: u64, root: &Path) -> io::Result<MountLoad> {
        let dir = root.join(format!("worker{worker}"));
        fs::create_dir_all(&dir)?;
        Ok(MountLoad { worker, random: Random(seed), dir, next: 0, files: BTreeMap::new() })
    }

    /// Works until `stop`.
    pub fn work(&mut self, history: &History, stop: &AtomicBool) {
        while !over(stop) {
            let open: Vec<PathBuf> = self
                .files
                .iter()
                .filter(|(_, known)| known.open() && !removed(known))
                .map(|(path, _)| path.clone())
                .collect();
            let pick = self.random.below(open.len() as u64) as usize;
            match (self.random.below(10), open.get(pick)) {
                _ if open.len() > MOST_FILES => self.remove(history, &open[pick]),
                (0..4, _) | (_, None) => {
                    self.next += 1;
                    let path = self.dir.join(format!("f{:06}.dat", self.next));
                    self.write(history, &path, false);
                }
                (4..6, Some(path)) => _ = self.write(history, path, false),
                (6, Some(path)) => _ = self.write(history, path, true),
                (7, Some(path)) => self.replace(history, path),
                (8, Some(path)) => self.remove(history, path),
                (_, Some(path)) => self.rename(history, path),
            }
        }
    }

    /// Writes a whole file anew, or adds to it, and closes it; some with fsync before.
    fn write(&mut self, history: &History, path: &Path, append: bool) -> bool {
        let (data, sync) = (data(&mut self.random), self.random.below(4) == 0);
        let begin = history.clock();
        let done = write_and_close(path, data, append, sync);
        let operation = match (append, sync) {
            (true, _) => "mount append",
            (false, true) => "mount write, fsync",
            (false, false) => "mount write",
        };
        // What a failed close leaves staged here may still reach the cluster.
        let outcome = if done.is_ok() { Outcome::Done } else { Outcome::Unknown };
        let change = if append { Change::Append(data) } else { Change::Put(data) };
        self.note(history, operation, path, change, outcome, begin, &done);
        done.is_ok()
    }

    /// Writes a file beside, and renames it over an old one.
    fn replace(&mut self, history: &History, path: &Path) {
        self.next += 1;
        let beside = self.dir.join(format!("t{:06}.tmp", self.next));
        if self.write(history, &beside, false) {
            self.move_over(history, "mount replace", &beside, path);
        }
    }

    /// Gives a file a new name.
    fn rename(&mut self, history: &History, path: &Path) {
        self.next += 1;
        let new = self.dir.join(format!("r{:06}.dat", self.next));
        self.move_over(history, "mount rename", path, &new);
    }

    fn move_over(&mut self, history: &History, operation: &'static str, from: &Path, to: &Path) {
        // Only of a file whose content is certain it can be said what the other one becomes.
        let Some(data) = self.files.get(from).and_then(certain) else { return };
        let begin = history.clock();
        let done = fs::rename(from, to);
        // The index makes it whole or not at all; an error of it would be one of this host.
        let outcome = if done.is_ok() { Outcome::Done } else { Outcome::Unknown };
        self.note(history, operation, to, Change::Put(data), outcome, begin, &done);
        self.files.entry(from.to_owned()).or_default().push(Change::Delete, outcome);
    }

    fn remove(&mut self, history: &History, path: &Path) {
        let begin = history.clock();
        let done = fs::remove_file(path);
        let outcome = if done.is_ok() { Outcome::Done } else { Outcome::Unknown };
        self.note(history, "mount unlink", path, Change::Delete, outcome, begin, &done);
    }

    #[allow(clippy::too_many_arguments, reason = "the columns of a line of the history")]
    fn note(
        &mut self,
        history: &History,
        operation: &'static str,
        path: &Path,
        change: Change,
        outcome: Outcome,
        begin: std::time::Duration,
        done: &io::Result<()>,
    ) {
        let event = self.files.entry(path.to_owned()).or_default().push(change, outcome);
        let detail = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
        history.note(self.worker, operation, &path.to_string_lossy(), event, begin, &detail);
    }

    /// Reads the files through the mount, as [`MountLoad::check_members`] cannot, and judges them.
    pub fn check(&mut self, violations: &mut Vec<String>) -> Vec<(PathBuf, Arc<Vec<u8>>)> {
        let mut found = Vec::new();
        self.files.retain(|path, known| {
            // What a failed close could not store is kept by the mount for a retry: this one must succeed now.
            if known.events.iter().any(|event| event.outcome == Outcome::Unknown)
                && let Err(error) = store(path)
            {
                violations.push(format!("{}: what was kept cannot be stored: {error}", path.display()));
            }
            let content = match fs::read(path) {
                Ok(content) => Some(Arc::new(content)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    violations.push(format!("{} cannot be read: {error}", path.display()));
                    return false;
                }
            };
            if let Err(violation) = known.settle(State { content: content.clone(), metadata: BTreeMap::new() }) {
                violations.push(format!("{}: {violation}", path.display()));
            }
            found.extend(content.clone().map(|content| (path.clone(), content)));
            content.is_some()
        });
        // Names that were never noted must not be there either.
        if let Ok(names) = fs::read_dir(&self.dir) {
            for path in names.flatten().map(|entry| entry.path()).filter(|path| !self.files.contains_key(path)) {
                violations.push(format!("{}: resurrected: it was removed and is there", path.display()));
            }
        }
        found
    }
}

/// Compares what the members of the cluster have of a mounted file with what the mount gives out. Whether there was a
/// file ID to ask for is returned: what could not be stored yet has none.
///
/// # Errors
/// Who differs, in words.
pub async fn check_members(client: &Client, fleet: &Fleet, path: &Path, content: &Vec<u8>) -> Result<bool, String> {
    let mut buf = [0; 256];
    let Ok(len) = rustix::fs::getxattr(path, "user.fdfs.file_id", &mut buf) else { return Ok(false) };
    let text = String::from_utf8_lossy(&buf[..len]).into_owned();
    let id: FileId = text.parse().map_err(|error| format!("{}: file ID {text}: {error}", path.display()))?;
    members_agree(client, fleet, &id, Some(content)).await.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(true)
}

/// Its content, if its last change that counts gave it one for certain.
fn certain(known: &Known) -> Option<Data> {
    match known.events.last() {
        Some(super::Event { change: Change::Put(data), outcome: Outcome::Done })
            if known.events.iter().all(|event| event.outcome != Outcome::Unknown) =>
        {
            Some(*data)
        }
        _ => None,
    }
}

fn removed(known: &Known) -> bool {
    known.events.last().is_some_and(|event| event.change == Change::Delete)
}

/// Has the mount store what it keeps of a file; one that is gone has nothing.
fn store(path: &Path) -> io::Result<()> {
    match File::options().append(true).open(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn write_and_close(path: &Path, data: Data, append: bool, sync: bool) -> io::Result<()> {
    let mut options = File::options();
    let mut file = if append { options.append(true).open(path)? } else { File::create(path)? };
    let written = file.write_all(&data.bytes()).and_then(|()| if sync { file.sync_all() } else { Ok(()) });
    // SAFETY: the descriptor was just given up by `file` and is closed once; what close reports matters here.
    let closed = match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    written.and(closed)
}
