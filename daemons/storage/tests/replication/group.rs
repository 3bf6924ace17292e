//! A tracker and the storages of one group in this process, each storage on a loopback address of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fdfs_protocol::RemoteName;
use fdfs_protocol::config::ReservedSpace;
use fdfs_storage::{Storage, StorageConfig};
use fdfs_tracker::{Tracker, TrackerConfig};

use crate::common::{Client, group};

/// Bounds a failure; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Member {
    pub config: StorageConfig,
    pub storage: Option<Storage>,
}

pub struct Group {
    pub tracker: Tracker,
    pub members: Vec<Member>,
    port: u16,
    dir: tempfile::TempDir,
}

impl Group {
    /// Members are added with [`Group::add`].
    pub fn new() -> Group {
        let dir = tempfile::tempdir().unwrap();
        let mut config = TrackerConfig::embedded(dir.path().join("tracker"), Ipv4Addr::LOCALHOST.into(), 0);
        config.settings.rules.reserve = ReservedSpace::Megabytes(0);
        config.settings.parameters.reserved_storage_space = ReservedSpace::Megabytes(0);
        let tracker = Tracker::start(config).unwrap();
        Group { tracker, members: Vec::new(), port: free_port(), dir }
    }

    pub fn with(count: usize) -> Group {
        let mut group = Group::new();
        for _ in 0..count {
            group.add(|_| {});
        }
        group
    }

    /// Adds a member and waits until a tracker uses it; gives its index.
    pub fn add(&mut self, change: impl FnOnce(&mut StorageConfig)) -> usize {
        let index = self.members.len();
        let path = self.dir.path().join(format!("storage{index}"));
        std::fs::create_dir_all(&path).unwrap();
        let mut config = StorageConfig::embedded(&path, self.tracker.addr(), group());
        config.bind = vec![Ipv4Addr::new(127, 0, 0, 2 + index as u8).into()];
        config.port = self.port;
        config.subdirs = 2;
        config.workers = 2;
        config.heart_beat_interval = Duration::from_millis(100);
        config.connect_timeout = Duration::from_secs(2);
        config.network_timeout = Duration::from_secs(20);
        change(&mut config);
        self.members.push(Member { config, storage: None });
        self.start(index);
        index
    }

    pub fn start(&mut self, index: usize) {
        let storage = Storage::start(self.members[index].config.clone()).unwrap();
        self.members[index].storage = Some(storage);
    }

    pub fn wait_active(&self, index: usize) {
        let storage = self.members[index].storage.as_ref().unwrap();
        assert!(storage.wait_active(PATIENCE), "member {index} does not become active");
    }

    pub fn stop(&mut self, index: usize) {
        self.members[index].storage.take().unwrap().stop();
    }

    /// Has the tracker delete a member that was stopped.
    pub fn delete(&self, index: usize) {
        let ip = self.members[index].config.bind[0].to_string();
        let delete = [format!("{:\0<16}", group().as_str()).as_bytes(), ip.as_bytes()].concat();
        // Not before it has noticed that the member is away.
        self.until("the tracker deletes it", |group| {
            Client::connect(group.tracker.addr()).raw(93, 0, &delete).status == 0
        });
    }

    pub fn addr(&self, index: usize) -> SocketAddr {
        SocketAddr::new(self.members[index].config.bind[0], self.port)
    }

    pub fn client(&self, index: usize) -> Client {
        Client::connect(self.addr(index))
    }

    /// All files of a member by their path below `data/`: content, or the target of a link below the member's directory.
    pub fn files(&self, index: usize) -> BTreeMap<PathBuf, Vec<u8>> {
        let base = &self.members[index].config.base_path;
        let mut found = BTreeMap::new();
        collect(&base.join("data"), base, &mut found);
        found
    }

    /// Waits until all members that run have the same files; `what` is said when they do not.
    pub fn converge(&self, what: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let running: Vec<_> = (0..self.members.len()).filter(|&i| self.members[i].storage.is_some()).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all: Vec<_> = running.iter().map(|&i| self.files(i)).collect();
            if all.iter().all(|files| *files == all[0]) {
                return all.into_iter().next().unwrap();
            }
            if Instant::now() > deadline {
                // Of the first only: it is meant to be read.
                let first = all
                    .iter()
                    .flat_map(BTreeMap::keys)
                    .find(|&path| all.iter().any(|files| files.get(path) != all[0].get(path)));
                let name = first.and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
                for (i, files) in running.iter().zip(&all) {
                    let content =
                        first.and_then(|path| files.get(path)).map(|content| content.escape_ascii().to_string());
                    let records: String = self
                        .binlog(*i)
                        .lines()
                        .filter(|line| line.contains(&*name))
                        .map(|line| format!("  {line}\n"))
                        .collect();
                    eprintln!("member {i}: {name}: {:.200}\n{records}", content.unwrap_or("not there".to_owned()));
                }
                panic!("{what}: the members do not have the same files");
            }
            // Members change on their own; nothing tells a bystander.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn binlog(&self, index: usize) -> String {
        let path = self.members[index].config.base_path.join("data/sync/binlog.000");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Puts a file where `index` has `name`, with the time of its last change, past its storage.
    pub fn put(&self, index: usize, name: &RemoteName, content: &[u8], time: SystemTime) {
        let file = self.members[index].config.base_path.join("data").join(name.true_name());
        std::fs::write(&file, content).unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    }

    /// Where `index` keeps the names that `peer` could not take.
    pub fn aside(&self, index: usize, peer: usize) -> PathBuf {
        let sync = self.members[index].config.base_path.join("data/sync");
        sync.join(format!("{}_{}.aside", self.members[peer].config.bind[0], self.port))
    }

    /// Waits for a condition that nothing announces.
    pub fn until(&self, what: &str, mut condition: impl FnMut(&Group) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Without storage ids all members have the same port, each on its own address. It must be one that the system gives
/// to nobody, since members come back to it.
fn free_port() -> u16 {
    use std::net::TcpListener;
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    loop {
        let port = first + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if (2..10).all(|n| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), port)).is_ok()) {
            return port;
        }
    }
}

fn collect(dir: &Path, base: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        let below = entry.path().strip_prefix(base).unwrap().to_owned();
        let own = below.components().count() == 2 && name.len() != 2;
        if kind.is_dir() && !own {
            collect(&entry.path(), base, found);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            found.insert(below, target.strip_prefix(base).unwrap().to_string_lossy().into_owned().into_bytes());
        } else if kind.is_file() && !own && !name.to_string_lossy().starts_with('.') {
            // It may be gone by now.
            if let Ok(content) = std::fs::read(entry.path()) {
                found.insert(below, content);
            }
        }
    }
}
