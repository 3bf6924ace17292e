//! The hosts of the simulated cluster: trackers `t0`, `t1`, storages `g1s0`…, clients `c0`….

use std::cell::RefCell;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use anyhow::Context;
use fdfs_client::{Client, ClientConfig, ServerAddress};
use fdfs_protocol::GroupName;
use fdfs_protocol::config::ReservedSpace;
use fdfs_protocol::peer::join::TrackerAddress;
use fdfs_storage::disk::store::StorePathConfig;
use fdfs_storage::{Storage, StorageConfig};
use fdfs_tracker::{Tracker, TrackerConfig};
use turmoil::Sim;

use crate::random::Random;

/// A simulated host moves by this at a time; messages are delivered in between.
pub const TICK: Duration = Duration::from_millis(5);

const TRACKER_PORT: u16 = 22122;
const STORAGE_PORT: u16 = 23000;

/// What of the cluster is running, and what is to happen when it starts again. Handles are weak: a daemon ends with its
/// host.
#[derive(Default)]
struct Running {
    tracker: Weak<Tracker>,
    storage: Weak<Storage>,
    /// The host is up, but its daemon starts only after this.
    start_after: Duration,
}

type Slot = Rc<RefCell<Running>>;

/// A tracker.
pub struct TrackerHost {
    /// Its name in the simulation.
    pub name: String,
    slot: Slot,
}

/// A storage.
pub struct StorageHost {
    /// Its name in the simulation.
    pub name: String,
    /// Its group.
    pub group: GroupName,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where its data is.
    pub base: PathBuf,
    slot: Slot,
}

impl StorageHost {
    /// Where its data was put aside when it lost its disks, each time.
    pub fn lost(&self) -> impl Iterator<Item = PathBuf> {
        (0..).map(|number| self.base.with_extension(format!("lost{number}"))).take_while(|path| path.exists())
    }
}

/// All hosts that run daemons.
pub struct Cluster {
    /// The trackers.
    pub trackers: Vec<TrackerHost>,
    /// The storages, group by group.
    pub storages: Vec<StorageHost>,
    tracker_ips: Vec<IpAddr>,
    /// As the storages are configured.
    ack_members: usize,
}

impl Cluster {
    /// Makes the hosts: two trackers, and one or two groups of two or three storages.
    pub fn new(sim: &mut Sim<'_>, random: &mut Random) -> anyhow::Result<Cluster> {
        let tracker_ips: Vec<IpAddr> = (0..2).map(|i| sim.lookup(format!("t{i}"))).collect();
        let mut cluster = Cluster { trackers: Vec::new(), storages: Vec::new(), tracker_ips, ack_members: 1 };
        for i in 0..2 {
            cluster.add_tracker(sim, i);
        }
        let groups = if random.one_in(4) { 2 } else { 1 };
        if random.one_in(3) {
            cluster.ack_members = 2;
        }
        for group in 1..=groups {
            for member in 0..random.within(2..4) {
                cluster.add_storage(sim, group, member)?;
            }
        }
        Ok(cluster)
    }

    fn add_tracker(&mut self, sim: &mut Sim<'_>, i: usize) {
        let name = format!("t{i}");
        let config = tracker_config(&name, self.tracker_ips[i]);
        let slot = Slot::default();
        let running = slot.clone();
        sim.host(name.as_str(), move || {
            let (config, running) = (config.clone(), running.clone());
            async move {
                wait_to_start(&running).await;
                let tracker = Rc::new(Tracker::start(config)?);
                running.borrow_mut().tracker = Rc::downgrade(&tracker);
                pending::<()>().await;
                drop(tracker);
                Ok(())
            }
        });
        self.trackers.push(TrackerHost { name, slot });
    }

    fn add_storage(&mut self, sim: &mut Sim<'_>, group: u64, member: u64) -> anyhow::Result<()> {
        let name = format!("g{group}s{member}");
        let group: GroupName = format!("group{group}").parse().context("a group's name")?;
        let addr = SocketAddr::new(sim.lookup(name.as_str()), STORAGE_PORT);
        let mut config = storage_config(&name, group, addr, &self.tracker_ips)?;
        config.ack_members = self.ack_members;
        config.ack_timeout = Duration::from_secs(3);
        let base = config.base_path.clone();
        let slot = Slot::default();
        let running = slot.clone();
        sim.host(name.as_str(), move || {
            let (config, running) = (config.clone(), running.clone());
            async move {
                wait_to_start(&running).await;
                let (storage, settled) = Storage::begin(config).map_err(|e| format!("{e:#}"))?;
                let storage = Rc::new(storage);
                running.borrow_mut().storage = Rc::downgrade(&storage);
                pending::<()>().await;
                drop((storage, settled));
                Ok(())
            }
        });
        self.storages.push(StorageHost { name, group, addr, base, slot });
        Ok(())
    }

    /// The names of the hosts that run daemons.
    pub fn names(&self) -> Vec<String> {
        let trackers = self.trackers.iter().map(|t| t.name.clone());
        trackers.chain(self.storages.iter().map(|s| s.name.clone())).collect()
    }

    /// Kills the daemon of a host, and starts it again after some time. Meanwhile the host refuses connections.
    pub fn kill(&self, sim: &mut Sim<'_>, name: &str, down: Duration) {
        if let Some(slot) = self.slot(name) {
            slot.borrow_mut().start_after = down;
            sim.bounce(name);
        }
    }

    /// The storages of which one may lose its disks, and nothing that was acknowledged is lost.
    pub fn dispensable(&self) -> Vec<String> {
        let Some(first) = self.storages.first().filter(|_| self.ack_members > 1) else { return Vec::new() };
        let group: Vec<String> =
            self.storages.iter().filter(|s| s.group == first.group).map(|s| s.name.clone()).collect();
        // While it comes back, two must be left that acknowledge.
        if group.len() > 2 { group } else { Vec::new() }
    }

    /// Kills a storage, and starts it again with empty disks after some time. What it had stays aside.
    pub fn lose_disks(&self, sim: &mut Sim<'_>, name: &str, down: Duration) {
        let Some(storage) = self.storages.iter().find(|s| s.name == name) else { return };
        sim.crash(name);
        let aside = storage.base.with_extension(format!("lost{}", storage.lost().count()));
        let lost = std::fs::rename(&storage.base, aside).and_then(|()| std::fs::create_dir(&storage.base));
        // A panic is how a seed fails.
        assert!(lost.is_ok(), "{name} cannot be made to lose its disks: {lost:?}");
        storage.slot.borrow_mut().start_after = down;
        sim.bounce(name);
    }

    fn slot(&self, name: &str) -> Option<&Slot> {
        let tracker = self.trackers.iter().find(|t| t.name == name).map(|t| &t.slot);
        tracker.or_else(|| self.storages.iter().find(|s| s.name == name).map(|s| &s.slot))
    }

    /// Whether every storage is in use by a tracker, and one tracker leads for sure.
    pub fn is_ready(&self) -> bool {
        let active = |s: &StorageHost| s.slot.borrow().storage.upgrade().is_some_and(|s| s.is_active());
        self.storages.iter().all(active) && !self.acting().is_empty()
    }

    /// The trackers that lead and act on it.
    pub fn acting(&self) -> Vec<&str> {
        let acts = |t: &&TrackerHost| t.slot.borrow().tracker.upgrade().is_some_and(|t| t.acts());
        self.trackers.iter().filter(acts).map(|t| t.name.as_str()).collect()
    }

    /// A client of this cluster.
    pub fn client(&self) -> Client {
        // An address is always one.
        let trackers = self.tracker_ips.iter().map(|ip| ServerAddress::parse(&ip.to_string(), TRACKER_PORT));
        let mut config = ClientConfig::new(trackers.flatten());
        config.connect_timeout = Duration::from_secs(2);
        config.network_timeout = Duration::from_secs(5);
        config.failover_after = Duration::from_millis(500);
        Client::new(config)
    }
}

async fn wait_to_start(slot: &Slot) {
    let wait = std::mem::take(&mut slot.borrow_mut().start_after);
    tokio::time::sleep(wait).await;
}

fn tracker_config(name: &str, ip: IpAddr) -> TrackerConfig {
    let mut config = TrackerConfig::embedded(name, ip, TRACKER_PORT);
    config.connect_timeout = Duration::from_secs(2);
    config.network_timeout = Duration::from_secs(5);
    config.settings.rules.reserve = ReservedSpace::Megabytes(0);
    config.settings.parameters.reserved_storage_space = ReservedSpace::Megabytes(0);
    config.settings.check_active_interval = 5;
    config
}

fn storage_config(
    name: &str,
    group: GroupName,
    addr: SocketAddr,
    trackers: &[IpAddr],
) -> anyhow::Result<StorageConfig> {
    let base = Path::new(name);
    std::fs::create_dir_all(base).with_context(|| format!("cannot make {}", base.display()))?;
    let mut config = StorageConfig::standalone(base, group);
    config.bind = vec![addr.ip()];
    config.port = addr.port();
    config.workers = 2;
    config.subdirs = 2;
    config.paths = vec![StorePathConfig { path: base.to_owned(), readonly: false }];
    config.trackers = trackers.iter().map(|ip| TrackerAddress { ip: *ip, other: None, port: TRACKER_PORT }).collect();
    config.connect_timeout = Duration::from_secs(2);
    config.network_timeout = Duration::from_secs(5);
    config.heart_beat_interval = Duration::from_secs(1);
    config.stat_report_interval = Duration::from_secs(2);
    config.stat_save_interval = Duration::from_secs(5);
    Ok(config)
}
