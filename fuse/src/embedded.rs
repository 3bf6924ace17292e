//! A tracker and a storage in this process, on the loopback interface: the cluster of a mount that has none.
//!
//! The data directory holds what FastDFS daemons would have there, with a configuration for each, so that it can be
//! served by real daemons later:
//!
//! ```text
//! DATA/tracker.conf   DATA/tracker/   the tracker's base path
//! DATA/storage.conf   DATA/storage/   the storage's base path and only store path
//! ```
//!
//! The ports are chosen by the system at the first start, written to the configurations, and used again as long as
//! they are free.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use fdfs_client::{ClientConfig, FileId, GroupName};
use fdfs_storage::{Storage, StorageConfig};
use fdfs_tracker::{Tracker, TrackerConfig};

use crate::content::Disk;

/// The one group.
const GROUP: &str = "group1";

/// How long the storage may take to become ready: a first start makes its directories.
const PATIENCE: Duration = Duration::from_secs(60);

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A running cluster. Dropping it stops it.
pub struct Embedded {
    // In the order in which they stop.
    storage: Option<Storage>,
    tracker: Option<Tracker>,
    addr: SocketAddr,
    store_path: PathBuf,
}

impl Embedded {
    /// Starts the cluster kept in `data`, which is created if missing, and waits until it takes uploads.
    ///
    /// # Errors
    /// Name the file, address or directory, and what to do; nothing keeps running then.
    pub fn start(data: &Path) -> Result<Embedded> {
        let (tracker_base, storage_base) = (data.join("tracker"), data.join("storage"));
        for dir in [&tracker_base, &storage_base] {
            std::fs::create_dir_all(dir).with_context(|| {
                format!("cannot create {}; check that it is writable, or choose another --data-dir", dir.display())
            })?;
        }
        let group: GroupName = GROUP.parse().map_err(|e| anyhow!("group {GROUP}: {e}"))?;
        let tracker = start_tracker(&tracker_base, remembered_port(&data.join("tracker.conf")))?;
        let addr = tracker.addr();
        write_conf(&data.join("tracker.conf"), &tracker_conf(&tracker_base, addr.port()))?;

        let storage = start_storage(&storage_base, addr, group, remembered_port(&data.join("storage.conf")))?;
        let config = StorageConfig::embedded(&storage_base, addr, group);
        write_conf(&data.join("storage.conf"), &storage_conf(&config, addr, storage.addr().port()))?;
        let ready = storage.wait_active(PATIENCE);
        let embedded = Embedded { storage: Some(storage), tracker: Some(tracker), addr, store_path: storage_base };
        if !ready {
            return Err(anyhow!(
                "the embedded storage in {} was not ready after {} s; the log says why",
                embedded.store_path.display(),
                PATIENCE.as_secs()
            ));
        }
        Ok(embedded)
    }

    /// How to reach it.
    pub fn client_config(&self) -> Result<ClientConfig> {
        Ok(ClientConfig::new([self.addr.to_string().parse()?]))
    }

    /// The address of the tracker.
    pub fn tracker_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its files on this host.
    pub fn disk(&self) -> Disk {
        let store_path = self.store_path.clone();
        Disk::new(move |file_id| path_of(&store_path, file_id))
    }

    /// Stops storage and tracker; everything is saved when this returns.
    pub fn stop(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        if let Some(storage) = self.storage.take() {
            storage.stop();
        }
        if let Some(tracker) = self.tracker.take() {
            tracker.stop();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shut();
    }
}

/// Where the one store path has a file.
fn path_of(store_path: &Path, file_id: &str) -> Option<PathBuf> {
    let id: FileId = file_id.parse().ok()?;
    // Names of metadata and slots in trunk files are not those of files.
    if id.group.to_string() != GROUP || id.name.store_path() != 0 || id.name.trunk_slot().is_some() {
        return None;
    }
    let (high, low) = id.name.directories();
    Some(store_path.join(format!("data/{high:02X}/{low:02X}")).join(id.name.file_part()))
}

/// Starts on the port used before, or on another one if that is taken.
fn start_tracker(base: &Path, port: u16) -> Result<Tracker> {
    let start = |port| Tracker::start(TrackerConfig::embedded(base, LOCALHOST, port));
    match start(port) {
        Err(error) if port != 0 && is_taken(port) => {
            tracing::info!(port, %error, "the tracker's port is taken; choosing another");
            Ok(start(0)?)
        }
        started => Ok(started?),
    }
}

fn start_storage(base: &Path, tracker: SocketAddr, group: GroupName, port: u16) -> Result<Storage> {
    let start = |port| {
        let mut config = StorageConfig::embedded(base, tracker, group);
        config.port = port;
        Storage::start(config)
    };
    match start(port) {
        Err(error) if port != 0 && is_taken(port) => {
            tracing::info!(port, "the storage's port is taken; choosing another: {error:#}");
            start(0)
        }
        started => started,
    }
}

/// Whether somebody else listens on a port of the loopback interface.
fn is_taken(port: u16) -> bool {
    std::net::TcpListener::bind((LOCALHOST, port)).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

/// The port in a configuration that an earlier start wrote; 0 if there is none.
fn remembered_port(conf: &Path) -> u16 {
    let text = std::fs::read_to_string(conf).unwrap_or_default();
    let port = text.lines().find_map(|line| line.strip_prefix("port = ")?.trim().parse().ok());
    port.unwrap_or(0)
}

const HEAD: &str = "# Written by fdfs-mount at each start. To serve this data with a daemon of its own,\n\
                    # copy this file, and start fdfs-mount with --tracker, and with --index naming the index.db beside it.\n";

fn tracker_conf(base: &Path, port: u16) -> String {
    format!("{HEAD}bind_addr = 127.0.0.1\nport = {port}\nbase_path = {}\nreserved_storage_space = 1%\n", base.display())
}

fn storage_conf(config: &StorageConfig, tracker: SocketAddr, port: u16) -> String {
    let base = config.base_path.display();
    format!(
        "{HEAD}bind_addr = 127.0.0.1\nport = {port}\ngroup_name = {GROUP}\ntracker_server = {tracker}\n\
         base_path = {base}\nstore_path_count = 1\nstore_path0 = {base}\nsubdir_count_per_path = {}\n",
        config.subdirs
    )
}

/// Replaces a configuration, whole or not at all.
fn write_conf(path: &Path, text: &str) -> Result<()> {
    let tmp = path.with_extension("conf.tmp");
    std::fs::write(&tmp, text)
        .and_then(|()| std::fs::rename(&tmp, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{
        Callback, ClusterStore, ContentError, ContentStore, Fingerprint, Object, Reader, Sealed, Stage, StoreConfig,
        Stored,
    };

    fn wait<T: Send + 'static>(start: impl FnOnce(Callback<T>)) -> T {
        let (send, receive) = std::sync::mpsc::channel();
        start(Box::new(move |value| send.send(value).unwrap()));
        receive.recv().unwrap()
    }

    fn seal(stage: &mut dyn Stage) -> Stored {
        match wait(|done| stage.seal(Box::new(|_, _| false), done)) {
            Ok(Sealed::Stored(stored)) => stored,
            other => panic!("{other:?}"),
        }
    }

    fn object(stored: &Stored) -> Object {
        Object { file_id: stored.file_id.as_str().into(), size: stored.size, fingerprint: Some(stored.fingerprint) }
    }

    fn read(reader: &dyn Reader, offset: u64, len: usize) -> Result<Vec<u8>, ContentError> {
        wait(|done| reader.read(offset, len, Box::new(move |r| done(r.map(<[u8]>::to_vec)))))
    }

    fn read_all(store: &ClusterStore, object: &Object) -> Vec<u8> {
        let reader = store.open(object);
        let mut all = Vec::new();
        while (all.len() as u64) < object.size {
            all.extend(read(&*reader, all.len() as u64, 1 << 20).unwrap());
        }
        all
    }

    /// Bytes that are the same at no two places.
    fn bytes(len: usize, seed: u32) -> Vec<u8> {
        (0..len as u32 / 4 + 1)
            .flat_map(|i| i.wrapping_mul(2654435761).wrapping_add(seed).to_le_bytes())
            .take(len)
            .collect()
    }

    #[test]
    fn content_of_any_size_comes_back_also_after_a_restart() {
        let tmp = tempfile::tempdir().unwrap();
        let data = tmp.path().join("data");
        let mut stored = Vec::new();
        let first = Embedded::start(&data).unwrap();
        {
            let mut config = StoreConfig::new(tmp.path().join("cache"));
            config.disk = Some(first.disk());
            let store = ClusterStore::open(first.client_config().unwrap(), config).unwrap();
            assert!(store.probe(PATIENCE).unwrap().unwrap().free > 0);
            // In memory, in a file, streamed.
            for (seed, len) in [(1, 10), (2, 300_000), (3, 3 << 20), (4, (37 << 20) + 123)] {
                let content = bytes(len, seed);
                let mut stage = store.stage(None, 0).unwrap();
                for (i, part) in content.chunks(1 << 20).enumerate() {
                    stage.write((i << 20) as u64, part).unwrap();
                }
                let sealed = seal(&mut *stage);
                assert_eq!((sealed.size, sealed.fingerprint), (len as u64, Fingerprint::of(&content)));
                assert!(wait(|done| store.persist(&sealed.file_id, done)).unwrap());
                assert!(read_all(&store, &object(&sealed)) == content);
                stored.push((sealed, content));
            }
            // A change in the middle of a large content, and reads through the stage and at random.
            let (base, mut content) = stored[3].clone();
            let mut stage = store.stage(Some(&object(&base)), base.size).unwrap();
            stage.write(20 << 20, b"changed").unwrap();
            content[20 << 20..(20 << 20) + 7].copy_from_slice(b"changed");
            let part = wait(|done| stage.read((20 << 20) - 100, 200, Box::new(move |r| done(r.map(<[u8]>::to_vec)))));
            assert!(part.unwrap() == content[(20 << 20) - 100..(20 << 20) + 100]);
            let sealed = seal(&mut *stage);
            drop(stage);
            let reader = store.open(&object(&sealed));
            for at in [30 << 20, 5_000_001, 20 << 20, 0, 36 << 20] {
                assert!(read(&*reader, at as u64, 70_000).unwrap() == content[at..at + 70_000]);
            }
            stored.push((sealed, content));
            wait(|done| store.remove(&stored[0].0.file_id, done)).unwrap();
            wait(|done| store.remove(&stored[0].0.file_id, done)).unwrap();
            let gone = store.open(&object(&stored[0].0));
            assert!(matches!(read(&*gone, 0, 10), Err(ContentError::NotFound(_))));
            assert_eq!(std::fs::read_dir(tmp.path().join("cache/staging")).unwrap().count(), 0);
        }
        let ports = (first.tracker_addr(), remembered_port(&data.join("storage.conf")));
        first.stop();

        let second = Embedded::start(&data).unwrap();
        assert_eq!((second.tracker_addr(), remembered_port(&data.join("storage.conf"))), ports);
        let config = StoreConfig::new(tmp.path().join("cache"));
        let store = ClusterStore::open(second.client_config().unwrap(), config).unwrap();
        for (sealed, content) in &stored[1..] {
            assert!(read_all(&store, &object(sealed)) == *content);
        }
        // Damage on the disk is found.
        let path = |sealed: &Stored| path_of(&data.join("storage"), &sealed.file_id).unwrap();
        let error_of = |store: &ClusterStore, sealed: &Stored| {
            let reader = store.open(&object(sealed));
            let mut at = 0;
            let error = loop {
                match read(&*reader, at, 1 << 17) {
                    Ok(bytes) => at += bytes.len() as u64,
                    Err(error) => break error,
                }
            };
            assert!(read(&*reader, 0, 10).is_err());
            error
        };
        let mut damaged = stored[2].1.clone();
        damaged[5000] ^= 1;
        std::fs::write(path(&stored[2].0), damaged).unwrap();
        let error = error_of(&store, &stored[2].0);
        assert!(matches!(error, ContentError::Damaged(_)), "{error}");
        // And what a power cut took the end of, or everything.
        let mut config = StoreConfig::new(tmp.path().join("other cache"));
        config.disk = Some(second.disk());
        let near = ClusterStore::open(second.client_config().unwrap(), config).unwrap();
        for (sealed, content) in &stored[1..] {
            for len in [content.len() - 1, 100, 0] {
                std::fs::write(path(sealed), &content[..len]).unwrap();
                for store in [&store, &near] {
                    let error = error_of(store, sealed);
                    assert!(matches!(error, ContentError::Damaged(_)), "{len} of {}: {error}", content.len());
                }
            }
        }
    }

    #[test]
    fn without_the_cluster_seals_fail_and_what_was_staged_is_stored_when_it_is_back() {
        let tmp = tempfile::tempdir().unwrap();
        let data = tmp.path().join("data");
        let first = Embedded::start(&data).unwrap();
        let client = first.client_config().unwrap();
        let contents = [bytes(1000, 1), bytes(12 << 20, 2)];
        let (kept, known) = {
            let store = ClusterStore::open(client.clone(), StoreConfig::new(tmp.path().join("cache"))).unwrap();
            let mut stages: Vec<_> = contents.iter().map(|_| store.stage(None, 0).unwrap()).collect();
            let mut known = store.stage(None, 0).unwrap();
            known.write(0, b"stored before").unwrap();
            let known = object(&seal(&mut *known));
            first.stop();
            let mut kept = Vec::new();
            for (stage, content) in stages.iter_mut().zip(&contents) {
                stage.write(0, content).unwrap();
                let failed = wait(|done| stage.seal(Box::new(|_, _| false), done));
                assert!(matches!(failed, Err(ContentError::Unreachable(_))), "{failed:?}");
                assert!(stage.dirty());
                kept.push(stage.keep().unwrap());
            }
            let unread = read(&*store.open(&known), 0, 10);
            assert!(matches!(unread, Err(ContentError::Unreachable(_))), "{unread:?}");
            (kept, known)
        };
        // Another process, with the cluster back.
        let second = Embedded::start(&data).unwrap();
        let store =
            ClusterStore::open(second.client_config().unwrap(), StoreConfig::new(tmp.path().join("cache"))).unwrap();
        store.sweep(&kept).unwrap();
        for (kept, content) in kept.iter().zip(&contents) {
            let mut stage = store.recover(kept).unwrap().stage;
            let stored = seal(&mut *stage);
            assert!(read_all(&store, &object(&stored)) == *content);
        }
        assert_eq!(read_all(&store, &known), b"stored before");
        assert_eq!(std::fs::read_dir(tmp.path().join("cache/staging")).unwrap().count(), 0);
    }

    #[test]
    fn taken_ports_are_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let first = Embedded::start(tmp.path()).unwrap();
        let addr = first.tracker_addr();
        let port = remembered_port(&tmp.path().join("storage.conf"));
        first.stop();
        let _tracker = std::net::TcpListener::bind(addr).unwrap();
        let _storage = std::net::TcpListener::bind((LOCALHOST, port)).unwrap();
        let second = Embedded::start(tmp.path()).unwrap();
        assert_ne!(second.tracker_addr(), addr);
        let dir = tempfile::tempdir().unwrap();
        let store = ClusterStore::open(second.client_config().unwrap(), StoreConfig::new(dir.path())).unwrap();
        let mut stage = store.stage(None, 0).unwrap();
        stage.write(0, b"hello").unwrap();
        seal(&mut *stage);
    }

    #[test]
    fn an_unusable_directory_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Embedded::start(&file).err().unwrap();
        assert!(format!("{error:#}").contains("file/tracker"), "{error:#}");
    }
}
