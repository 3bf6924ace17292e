//! Damaged copies in a group of real storages, in this process, each on a loopback address of its own.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fdfs_client::{Client, ClientConfig, ExtName, FileId, ServerAddress};
use fdfs_protocol::config::ReservedSpace;
use fdfs_protocol::file_id::Source;
use fdfs_protocol::stat::StorageStatus;
use fdfs_storage::{Storage, StorageConfig};
use fdfs_tracker::{Tracker, TrackerConfig};

use super::{bytes, read};
use crate::content::cluster::ClusterStore;
use crate::content::{ContentError, ContentStore, Fingerprint, Object, StoreConfig};

/// Bounds a failure; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);
const SIZE: usize = 3 << 20;
const HALF: u64 = SIZE as u64 / 2;

struct Member {
    config: StorageConfig,
    storage: Option<Storage>,
}

/// Three storages that have one file; the first one is its source.
struct Group {
    members: Vec<Member>,
    tracker: Option<Tracker>,
    id: FileId,
    content: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Group {
    fn with_a_file() -> Group {
        let dir = tempfile::tempdir().unwrap();
        let mut config = TrackerConfig::embedded(dir.path().join("tracker"), Ipv4Addr::LOCALHOST.into(), 0);
        config.settings.rules.reserve = ReservedSpace::Megabytes(0);
        config.settings.parameters.reserved_storage_space = ReservedSpace::Megabytes(0);
        let tracker = Tracker::start(config).unwrap();
        let port = free_port();
        let mut members: Vec<_> = (0..3).map(|i| Member::start(dir.path(), i, port, &tracker)).collect();
        for member in &members {
            assert!(member.storage.as_ref().unwrap().wait_active(PATIENCE));
        }
        let content = bytes(SIZE, 7);
        let client = Client::new(ClientConfig::new([ServerAddress::from(tracker.addr())]));
        // A storage is active before the tracker knows how much space it has.
        let id = until("the upload", || {
            block_on(async {
                let uploaded = client.upload_buf(&[Bytes::from(content.clone())], &ExtName::NONE).await;
                client.reset();
                uploaded.ok()
            })
        });
        let Source::Ip(source) = id.name.block().unwrap().source else { panic!("{id}") };
        members.sort_by_key(|member| member.config.bind[0] != IpAddr::from(source));
        let group = Group { members, tracker: Some(tracker), id, content, dir };
        for i in 0..3 {
            until("every member has the file", || (std::fs::read(group.path(i)).ok()? == group.content).then_some(()));
        }
        group
    }

    /// Where a member has the file.
    fn path(&self, member: usize) -> PathBuf {
        self.members[member].config.base_path.join("data").join(self.id.name.true_name())
    }

    /// Cuts off what a power cut takes.
    fn cut(&self, member: usize) {
        File::options().write(true).open(self.path(member)).unwrap().set_len(HALF).unwrap();
    }

    fn client(&self) -> ClientConfig {
        ClientConfig::new([ServerAddress::from(self.tracker.as_ref().unwrap().addr())])
    }

    /// Waits until the tracker knows a member as `status`.
    fn wait_for(&self, member: usize, status: StorageStatus) {
        let client = Client::new(self.client());
        let ip = self.members[member].config.bind[0];
        until("the tracker notices", || {
            let listed = block_on(async {
                let listed = client.list_storages(&self.id.group).await;
                client.reset();
                listed.ok()
            })?;
            listed.iter().any(|record| record.ip.addr() == Some(ip) && record.status == status).then_some(())
        });
    }

    /// One that has read nothing yet.
    fn store(&self) -> ClusterStore {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        ClusterStore::open(self.client(), StoreConfig::new(dir.keep())).unwrap()
    }

    /// Reads out of sequence.
    fn read(&self, store: &ClusterStore, offset: u64) -> Result<(), ContentError> {
        let fingerprint = Some(Fingerprint::of(&self.content));
        let object = Object { file_id: self.id.to_string().into(), size: SIZE as u64, fingerprint };
        let got = read(&*store.open(&object), offset, 8192)?;
        assert!(got == self.content[offset as usize..][..8192], "wrong bytes at {offset}");
        Ok(())
    }
}

impl Member {
    fn start(dir: &Path, index: u8, port: u16, tracker: &Tracker) -> Member {
        let path = dir.join(format!("storage{index}"));
        std::fs::create_dir_all(&path).unwrap();
        let mut config = StorageConfig::embedded(&path, tracker.addr(), "group1".parse().unwrap());
        config.bind = vec![Ipv4Addr::new(127, 0, 0, 2 + index).into()];
        config.port = port;
        config.subdirs = 2;
        config.workers = 2;
        config.heart_beat_interval = Duration::from_millis(100);
        let storage = Some(Storage::start(config.clone()).unwrap());
        Member { config, storage }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.members.iter_mut().filter_map(|member| member.storage.take()).for_each(Storage::stop);
        self.tracker.take().into_iter().for_each(Tracker::stop);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Waits for what nothing announces.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that the system gives to nobody, free on all addresses: members of a group have the same one.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 10_000) as u16;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if (2..5).all(|n| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), port)).is_ok()) {
            return port;
        }
    }
}

#[test]
fn out_of_sequence_a_copy_that_is_cut_short_is_read_elsewhere() {
    for offset in [HALF + 8192, HALF - 4096] {
        let group = Group::with_a_file();
        group.cut(0);
        let store = group.store();
        // In turn, each copy is the first to be asked.
        for _ in 0..6 {
            group.read(&store, offset).unwrap();
        }
    }
}

#[test]
fn out_of_sequence_what_is_cut_short_wherever_it_is_is_lost() {
    for offset in [HALF + 8192, HALF - 4096] {
        let group = Group::with_a_file();
        (0..3).for_each(|member| group.cut(member));
        let error = group.read(&group.store(), offset).unwrap_err();
        assert!(error.is_loss(), "{error}");
    }
}

#[test]
fn what_a_member_that_is_away_has_is_not_lost() {
    let mut group = Group::with_a_file();
    group.cut(0);
    std::fs::remove_file(group.path(1)).unwrap();
    group.members[2].storage.take().unwrap().stop();
    group.wait_for(2, StorageStatus::Offline);
    let store = group.store();
    for offset in [HALF - 4096, HALF + 8192] {
        let error = group.read(&store, offset).unwrap_err();
        assert!(!error.is_loss(), "{error}");
    }
    group.members[2].storage = Some(Storage::start(group.members[2].config.clone()).unwrap());
    group.wait_for(2, StorageStatus::Active);
    let store = group.store();
    for offset in [HALF - 4096, HALF + 8192] {
        group.read(&store, offset).unwrap();
    }
}
