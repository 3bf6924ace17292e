//! What a mount needs below the tree: its directories, the index, the cluster and the content store over it.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use fdfs_client::ClientConfig;
use fdfs_index::{Index, IndexError};
use fdfs_protocol::GroupName;

use crate::cli::{Cluster, Settings};
use crate::content::{ClusterStore, StoreConfig};
use crate::embedded::Embedded;

/// How long a start waits for the cluster's first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Where the local files of a mount are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The directory of this mount: the data directory, or one in it for each cluster.
    pub home: PathBuf,
    /// The index.
    pub index: PathBuf,
    /// Staged and cached content.
    pub cache: PathBuf,
}

impl Places {
    /// Decides on them and makes the directories.
    pub fn make(settings: &Settings, client: Option<&ClientConfig>) -> Result<Places> {
        // Every cluster has its own namespace: file IDs of one mean nothing to another.
        let home = match client.and_then(|client| client.trackers.first()) {
            Some(tracker) => {
                settings.data_dir.join(format!("cluster-{}", tracker.to_string().replace(['/', ':'], "_")))
            }
            None => settings.data_dir.clone(),
        };
        let index = settings.index.clone().unwrap_or_else(|| home.join("index.db"));
        let cache = settings.cache_dir.clone().unwrap_or_else(|| home.join("cache"));
        let index_dir = index.parent().unwrap_or(Path::new("/"));
        for (dir, option) in [(home.as_path(), "--data-dir"), (index_dir, "--index"), (&cache, "--cache-dir")] {
            std::fs::create_dir_all(dir).and_then(|()| writable(dir)).with_context(|| {
                format!("cannot write to {}; make it writable, or choose another with {option}", dir.display())
            })?;
            outside(dir, &settings.mountpoint).with_context(|| {
                format!("{} lies below the mountpoint; choose another with {option}", dir.display())
            })?;
        }
        Ok(Places { home, index, cache })
    }
}

/// A mount that keeps its own files in itself would wait for itself.
fn outside(dir: &Path, mountpoint: &Path) -> Result<()> {
    let (dir, mountpoint) = (dir.canonicalize()?, mountpoint.canonicalize()?);
    if dir.starts_with(&mountpoint) { bail!("a mount cannot keep its own files in itself") } else { Ok(()) }
}

fn writable(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".fdfs-probe-{}", std::process::id()));
    File::create(&path)?;
    std::fs::remove_file(path)
}

/// A directory that belongs to this process alone until it ends.
#[derive(Debug)]
struct Claim {
    _lock: File,
}

impl Claim {
    fn on(dir: &Path, what: &str) -> Result<Claim> {
        let path = dir.join(format!("{what}.lock"));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: the descriptor is open; flock touches no memory.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(Claim { _lock: lock });
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::WouldBlock {
            bail!("{} is in use by another fdfs-mount; unmount that one, or choose another directory", dir.display());
        }
        Err(error).with_context(|| format!("cannot lock {}", path.display()))
    }
}

/// Opens the index. A mount that has been unmounted lets go of it only a moment after umount(8) has returned, so one that
/// is in use is asked for again for a while.
fn open_index(path: &Path) -> fdfs_index::Result<Index> {
    const PATIENCE: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(20);
    let begun = Instant::now();
    loop {
        match Index::open(path, fdfs_index::Options::default()) {
            // Nothing tells when a lock of another process is released but trying.
            Err(IndexError::Busy { .. }) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}

/// A tenth of the free space, but not more than 10 GiB.
fn default_cache_size(dir: &Path) -> u64 {
    const MOST: u64 = 10 << 30;
    let free = CString::new(dir.as_os_str().as_bytes()).ok().and_then(|path| {
        // SAFETY: all-zero is a valid statvfs; the path is NUL-terminated, and both outlive the call.
        unsafe {
            let mut space: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(path.as_ptr(), &mut space) == 0).then(|| space.f_bavail.saturating_mul(space.f_frsize))
        }
    });
    free.map_or(MOST, |free| (free / 10).min(MOST))
}

/// Everything below the tree, running.
pub struct Backend {
    /// Names, attributes, references.
    pub index: Arc<Index>,
    /// The bytes.
    pub store: Arc<ClusterStore>,
    /// What file IDs are appended to in URLs, unless the settings say otherwise.
    pub url_prefix: String,
    /// The group that takes all new contents, if there is only one such.
    group: Option<GroupName>,
    embedded: Option<Embedded>,
    claims: Vec<Claim>,
}

/// The cluster of the settings; `None`: the embedded one.
pub fn client_config(settings: &Settings) -> Result<Option<ClientConfig>> {
    let mut config = match &settings.cluster {
        Cluster::Embedded => return Ok(None),
        Cluster::Config(path) => ClientConfig::load(path)?,
        Cluster::Trackers(trackers) => {
            let addresses: Result<Vec<_>> = trackers
                .iter()
                .map(|tracker| tracker.parse().map_err(|e| anyhow!("tracker `{tracker}`: {e}")))
                .collect();
            ClientConfig::new(addresses?)
        }
    };
    if let Some(group) = &settings.group {
        config.group = Some(group.parse().map_err(|e| anyhow!("group `{group}`: {e}"))?);
    }
    Ok(Some(config))
}

impl Backend {
    /// Opens the index, starts the embedded cluster if there is no other, and connects.
    pub fn start(settings: &Settings, places: &Places, client: Option<ClientConfig>) -> Result<Backend> {
        // First, because it is what tells a second mount of the same tree.
        let index = open_index(&places.index).map_err(|error| match error {
            IndexError::Busy { .. } => anyhow!("index {error}"),
            error => anyhow!("cannot open the index {}: {error}", places.index.display()),
        })?;
        let index = Arc::new(index);
        let mut claims = vec![Claim::on(&places.cache, "cache")?];
        let embedded = match &client {
            Some(_) => None,
            None => {
                claims.push(Claim::on(&places.home, "cluster")?);
                Some(Embedded::start(&places.home)?)
            }
        };
        let client = match (client, &embedded) {
            (Some(client), _) => client,
            (None, Some(embedded)) => embedded.client_config()?,
            (None, None) => bail!("no cluster"),
        };
        let url_prefix = client.trackers.first().map_or_else(String::new, |tracker| {
            let address = tracker.to_string();
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            format!("http://{host}/")
        });
        let mut config = StoreConfig::new(&places.cache);
        config.cache_size = settings.cache_size.unwrap_or_else(|| match &embedded {
            // Its files are on this host, a copy would gain nothing.
            Some(_) => 0,
            None => default_cache_size(&places.cache),
        });
        config.disk = embedded.as_ref().map(Embedded::disk);
        let discarded = index.clone();
        config.discard = Some(Arc::new(move |file_id: &str| {
            if let Err(error) = discarded.discard(file_id) {
                tracing::warn!(file_id, "unreferenced content is left in the cluster: {error}");
            }
        }));
        let group = client.group;
        let store = ClusterStore::open(client, config).context("cannot open the content store")?;
        Ok(Backend { index, store: Arc::new(store), url_prefix, group, embedded, claims })
    }

    /// Looks whether the cluster answers; a warning if not, because names and attributes can be used without it.
    pub fn probe(&self) -> Option<String> {
        if self.embedded.is_none() {
            tracing::warn!(
                "fsync waits for the storages' acknowledgement: content is on their disks then only if storage.conf has \
                 fsync_before_ack = always, which this mount cannot see"
            );
        }
        let no_answer = "the cluster does not answer now; contents cannot be read or stored until it does";
        match (self.store.probe(FIRST_ANSWER), &self.group) {
            (None, _) => Some(format!("{no_answer}: nothing was heard within {} s", FIRST_ANSWER.as_secs())),
            (Some(Err(error)), _) => Some(format!("{no_answer}: {error}")),
            (Some(Ok(space)), Some(group)) if space.total == 0 => {
                Some(format!("the cluster has no storage of group {group} now; nothing can be stored until it has"))
            }
            (Some(Ok(space)), None) if space.total == 0 => {
                Some("the cluster has no storage now; nothing can be read or stored until it has".to_owned())
            }
            (Some(Ok(_)), _) => None,
        }
    }

    /// Closes everything in order. Trees over it must have been closed.
    pub fn stop(self) -> Result<()> {
        self.store.close();
        if let Some(embedded) = self.embedded {
            embedded.stop();
        }
        // Whoever gets the index next finds all else free.
        drop(self.claims);
        self.index.close().context("cannot close the index")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::on(dir.path(), "x").unwrap();
        assert!(Claim::on(dir.path(), "x").unwrap_err().to_string().contains("in use"));
        Claim::on(dir.path(), "y").unwrap();
        drop(claim);
        Claim::on(dir.path(), "x").unwrap();
    }
}
