//! The tracker's own files under `<base_path>/data`, in FastDFS's formats, so that either tracker can go on where the
//! other stopped. The formats themselves are those of `fdfs_protocol::datafile`; here they become groups and members.
//!
//! | file | module |
//! |---|---|
//! | storage_groups_new.dat | [`groups`] |
//! | storage_servers_new.dat | [`storages`] |
//! | storage_sync_timestamp.dat | [`synced`] |
//! | storage_changelog.dat, .tracker_status | here |
//!
//! A file is replaced as a whole (written aside, synced, renamed), except the changelog, which only grows. [`DataDir`]
//! alone touches the disk.

pub mod groups;
pub mod storages;
pub mod synced;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fdfs_protocol::config::ConfigError;
use fdfs_protocol::datafile::{ServersFile, TrackerRunFile};
use fdfs_protocol::peer::election::SYSTEM_FILES;

use crate::settings::Settings;
use crate::state::group::Group;
use crate::state::{Cluster, Unsaved};

/// storage_groups_new.dat
pub const GROUPS: &str = "storage_groups_new.dat";
/// storage_servers_new.dat
pub const STORAGES: &str = "storage_servers_new.dat";
/// storage_sync_timestamp.dat
pub const SYNCED: &str = "storage_sync_timestamp.dat";
/// storage_changelog.dat
pub const CHANGELOG: &str = "storage_changelog.dat";
/// .tracker_status
pub const STATUS: &str = ".tracker_status";

/// Held while a tracker runs on the directory.
const LOCK: &str = ".fdfs_trackerd.lock";

/// Files of FastDFS before version 3, which only it can convert.
const OLD: [(&str, &str); 2] = [("storage_groups.dat", GROUPS), ("storage_servers.dat", STORAGES)];

/// The contents of the files that `unsaved` names, in the order groups, storages, timestamps, changelog.
pub fn render(cluster: &Cluster, unsaved: Unsaved) -> [Option<Vec<u8>>; 4] {
    let groups = || cluster.groups();
    let with_ids = cluster.settings().ids.is_some();
    [
        unsaved.groups.then(|| groups::render(groups()).into_bytes()),
        unsaved.storages.then(|| storages::render(groups(), with_ids).into_bytes()),
        unsaved.synced.then(|| synced::render(groups()).into_bytes()),
        unsaved.changelog.then(|| cluster.changelog().to_vec()),
    ]
}

/// Reads the contents of the files of another tracker, in that order. Paths in errors and warnings are mere names.
///
/// # Errors
/// What cannot be parsed, or does not fit together or to the configuration.
pub fn parse(texts: &[Vec<u8>; 4], settings: &Settings) -> Result<Loaded, DataError> {
    assemble(Path::new(""), texts.each_ref().map(|text| Some(text.as_slice())), settings)
}

fn assemble(dir: &Path, texts: [Option<&[u8]>; 4], settings: &Settings) -> Result<Loaded, DataError> {
    let [groups, storages, synced, changelog] = texts;
    let mut loaded = Loaded::default();
    if let Some(text) = groups {
        loaded.groups = groups::parse(&dir.join(GROUPS), text)?;
    }
    if let Some(text) = storages {
        storages::parse(&dir.join(STORAGES), text, settings, &mut loaded.groups)?;
    }
    if let Some(text) = synced {
        let text = String::from_utf8_lossy(text);
        loaded.warnings = synced::parse(&dir.join(SYNCED), &text, settings.rules.store_server, &mut loaded.groups);
    }
    if let Some(text) = changelog {
        // A crash may have left half a line; it was never answered to anybody.
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        loaded.changelog = text[..whole].to_vec();
    }
    Ok(loaded)
}

/// The contents of all files, in the same order, which is that of TRACKER_GET_ONE_SYS_FILE.
pub fn render_all(cluster: &Cluster) -> [Vec<u8>; 4] {
    render(cluster, Unsaved::ALL).map(Option::unwrap_or_default)
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system refused.
    #[error("base_path: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another tracker runs there.
    #[error("base_path: another tracker runs on {} (stop it, or give each its own base_path)", path.display())]
    Taken {
        /// The data directory.
        path: PathBuf,
    },
    /// A file is not of its format.
    #[error(transparent)]
    Format(#[from] ConfigError),
    /// The contents of the files do not fit together, or not to the configuration.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A format of long ago.
    #[error("{}: this is the format of FastDFS before version 3; start a FastDFS 3 to 6 tracker on it once to convert it",
        path.display())]
    Old {
        /// The file.
        path: PathBuf,
    },
}

/// What the files held.
#[derive(Debug, Default)]
pub struct Loaded {
    /// All groups with their members.
    pub groups: Vec<Group>,
    /// The whole changelog.
    pub changelog: Vec<u8>,
    /// When the previous run was last known to live.
    pub last_check: Option<i64>,
    /// What was odd but harmless.
    pub warnings: Vec<String>,
}

/// The data directory, locked as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens, and if need be creates, `<base_path>/data`.
    ///
    /// # Errors
    /// [`DataError::Io`] when that is not possible, [`DataError::Taken`] when a tracker runs there.
    pub fn open(base_path: &Path) -> Result<DataDir, DataError> {
        let path = base_path.join("data");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataError::Io { action, path, source }
        };
        std::fs::create_dir_all(&path).map_err(failed("make", &path))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed("write", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataError::Taken { path }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &lock_path)(source)),
        }
    }

    /// Reads everything. A file that is not there is empty.
    ///
    /// # Errors
    /// What cannot be read, parsed, or does not fit together.
    pub fn load(&self, settings: &Settings) -> Result<Loaded, DataError> {
        for (old, new) in OLD {
            let path = self.path.join(old);
            if path.exists() && !self.path.join(new).exists() {
                return Err(DataError::Old { path });
            }
        }
        let [groups, storages, synced, changelog] = SYSTEM_FILES.map(|name| self.read(name));
        let texts = [groups?, storages?, synced?, changelog?];
        let mut loaded = assemble(&self.path, texts.each_ref().map(Option::as_deref), settings)?;
        if let Some(text) = self.read(STATUS)? {
            let run = TrackerRunFile::parse(&self.path.join(STATUS), &text)?;
            loaded.last_check = Some(run.last_check_time).filter(|t| *t > 0);
        }
        Ok(loaded)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataError> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::Io { action: "read", path, source }),
        }
    }

    /// Replaces a file by new contents, on stable storage when this returns.
    ///
    /// # Errors
    /// What the system said, with the name of the file. The old contents are still there then.
    pub fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let (path, aside) = (self.path.join(name), self.path.join(format!("{name}.tmp")));
        let write = || {
            let mut file = File::create(&aside)?;
            file.write_all(text)?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| named(&path, &e))
    }

    /// Replaces all four files by new contents, in the order of [`render_all`]. A crash in between leaves files that can be
    /// loaded: there are no storages without their group at any time.
    ///
    /// # Errors
    /// As [`DataDir::replace`].
    pub fn replace_all(&self, texts: &[Vec<u8>; 4]) -> io::Result<()> {
        self.replace(STORAGES, ServersFile::default().to_text().as_bytes())?;
        SYSTEM_FILES.iter().zip(texts).try_for_each(|(name, text)| self.replace(name, text))
    }

    /// Makes the changelog hold `text`, of which the first `saved` bytes are there already.
    ///
    /// # Errors
    /// What the system said, with the name of the file; trying again with the same arguments is right.
    pub fn extend_changelog(&self, saved: u64, text: &[u8]) -> io::Result<()> {
        let path = self.path.join(CHANGELOG);
        let tail = usize::try_from(saved).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let write = || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            // Cuts off what a failed or interrupted attempt may have left behind it.
            file.set_len(saved)?;
            file.write_all_at(tail, saved)?;
            file.sync_all()
        };
        write().map_err(|e| named(&path, &e))
    }
}

fn named(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests;
