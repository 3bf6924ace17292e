//! A running storage: its parts put together, started and stopped.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use fdfs_host::thread::{self, Thread};
use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::datafile::StorageStatFile;
use fdfs_protocol::{GroupName, IpText, RemoteName};
use fdfs_server::{Dial, Listen, Server};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tracing::{error, info, warn};

use crate::access_log::AccessLog;
use crate::acks::Acks;
use crate::active::Active;
use crate::blocking;
use crate::clock;
use crate::config::{Fsync, StorageConfig};
use crate::counters::Counters;
use crate::deleted::{Deleted, TAIL};
use crate::disk::binlog::{Binlog, Place};
use crate::disk::dir;
use crate::disk::durable::Syncer;
use crate::disk::history::{last_of, last_records};
use crate::disk::init_flag::{InitState, is_marked};
use crate::disk::pending::{Kind, Pending};
use crate::disk::replace_file;
use crate::disk::rotation::{Position, Rotation};
use crate::disk::store::{Store, StorePath};
use crate::names::Names;
use crate::report::identity::{self, Identity};
use crate::report::session::Cluster;
use crate::serve::{Service, Settings, canonical};
use crate::silent::Silent;
use crate::sync::Replication;
use crate::sync::compare::Questions;
use crate::sync::lives::Lives;
use crate::sync::lost::Lost;
use crate::synced::Synced;
use crate::taken::Taken;

/// How long [`Storage::start`] waits for a tracker to say who this storage is. After that it goes on waiting in the
/// background, and answers requests for files with EAGAIN until then.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// Pause between questions to trackers that did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often the free space is looked at and the access log written.
const TICK: Duration = Duration::from_secs(1);

/// A running storage. Dropping it stops it.
#[derive(Debug)]
pub struct Storage {
    server: Option<Server>,
    service: Arc<Service>,
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    active: Arc<Active>,
    background: Option<Thread>,
}

impl Storage {
    /// Starts to serve. Returns when the storage listens and, if a tracker answers within a few seconds, knows who it is.
    ///
    /// # Errors
    /// Whatever keeps it from serving, with the key, the path and the remedy; nothing keeps running then.
    pub fn start(config: StorageConfig) -> anyhow::Result<Storage> {
        let (storage, settled) = Storage::begin(config)?;
        match settled.recv_timeout(FIRST_WAIT) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(e),
            Err(_) => warn!("no tracker has answered yet; serving begins when one does"),
        }
        Ok(storage)
    }

    /// [`Storage::start`] without waiting: whether the storage could begin to serve, once it knows who it is, can be
    /// received.
    ///
    /// # Errors
    /// As [`Storage::start`].
    pub fn begin(config: StorageConfig) -> anyhow::Result<(Storage, Settled)> {
        let up_time = clock::now();
        let dial = config.dial();
        let group = match config.group {
            Some(group) => group,
            None => ask_group(&config, dial)?,
        };
        let promise = config.promise();
        let config = Arc::new(config);
        let (service, init) = open(&config, group)?;
        let service = Arc::new(service);
        let init = Arc::new(init);
        let server = Server::start(listen(&config), service.clone()).context("check bind_addr and port")?;
        let addr = server.local_addr();
        let (stop, stopped) = watch::channel(false);
        let active = service.active.clone();
        let (ready, settled) = std::sync::mpsc::channel();
        let background = Background {
            config,
            service: service.clone(),
            init,
            dial,
            up_time,
            addr,
            connections: server.connections().clone(),
            active: active.clone(),
        };
        let thread =
            thread::spawn("storage-report", background.run(stopped, ready)).context("cannot start a thread")?;
        let storage = Storage { server: Some(server), service, addr, stop, active, background: Some(thread) };
        info!("storage of {group} listens on {addr}; {promise}");
        Ok((storage, settled))
    }

    /// The address it listens on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Blocks until a tracker uses this storage; false if that takes longer than `patience`.
    pub fn wait_active(&self, patience: Duration) -> bool {
        self.active.wait(patience)
    }

    /// Whether a tracker uses this storage now.
    pub fn is_active(&self) -> bool {
        self.active.get()
    }

    /// The service, for statistics.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Stops: answers in progress end, counters are saved, trackers see the connection close.
    pub fn stop(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
        let _ = self.stop.send(true);
        if let Some(thread) = self.background.take()
            && thread.join().is_err()
        {
            error!("the reporting thread had panicked");
        }
        if let Some(syncer) = &self.service.syncer {
            syncer.stop();
        }
        if let Some(log) = &self.service.access {
            log.flush();
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.shut();
    }
}

fn listen(config: &StorageConfig) -> Listen {
    Listen {
        bind: config.bind.clone(),
        port: config.port,
        workers: config.workers,
        max_connections: config.max_connections,
        allow: config.allow.clone(),
        name: "storage",
    }
}

fn ask_group(config: &StorageConfig, dial: Dial) -> anyhow::Result<GroupName> {
    if config.trackers.is_empty() {
        bail!("group_name is missing; name the group of this storage");
    }
    thread::block_on(identity::ask_group(config, dial))?
        .context("group_name is missing, and no tracker could tell it: name the group, or add this storage to the tracker's storage ids")
}

/// Opens everything on disk.
pub(crate) fn open(config: &StorageConfig, group: GroupName) -> anyhow::Result<(Service, InitState)> {
    let data = config.base_path.join("data");
    std::fs::create_dir_all(&data).with_context(|| {
        format!("base_path = {}: cannot make its data directory (wrong path or owner?)", config.base_path.display())
    })?;
    let init = InitState::open(&data)?;
    let store = Store::open(&config.paths, config.subdirs)?;
    if config.check_store_path_mark {
        init.check_marks(&store)?;
    }
    let rebuilt = store.paths().iter().filter(|p| p.created);
    for path in rebuilt.filter(|_| init.get().sync_old_done) {
        warn!(
            "{}: the directories were missing and have been made; files that were there can be had from other storages \
             of the group only (rebuilding a disk is not supported by this version)",
            path.dir.path().display()
        );
    }
    let saved = read_stat(&stat_path(config))?;
    let position = Position {
        high: saved.dist_path_index_high,
        low: saved.dist_path_index_low,
        written: saved.dist_write_file_count,
    };
    let binlog = Arc::new(Binlog::open(&data)?);
    let (pending, left) = Pending::open(&data)?;
    settle_pending(&store, &binlog, &left, |path| path.created || (config.check_store_path_mark && !is_marked(path)))
        .and_then(|()| pending.settled())
        .context("cannot settle changes that were being made when the storage died")?;
    let recent = last_records(&binlog, TAIL).context("cannot read the binlog")?;
    let (deleted, taken) = (Deleted::of(&recent), Taken::of(&recent));
    let syncer = match config.fsync {
        Fsync::Never => None,
        Fsync::Always => {
            let dirs = store.paths().iter().map(|p| p.dir.clone()).collect();
            Some(Syncer::start(dirs, binlog.clone()).context("cannot start a thread")?)
        }
    };
    let access =
        config.access_log.map(|log| AccessLog::open(&config.base_path, log.precision, log.keep_days)).transpose()?;
    // Of what came before anything was noted, nothing is known.
    let born = (binlog.place() == Place { file: 0, offset: 0 }).then(clock::now);
    let synced = Synced::load(&synced_path(&binlog), born).context("remove it to take everything to be in question")?;
    recent.iter().for_each(|record| synced.came(record));
    if born.is_some() {
        replace_file(&synced_path(&binlog), synced.to_text().as_bytes())?;
    }
    let (lost, lives) = (Lost::new(binlog.dir()), Lives::default());
    let settings =
        Settings { group, timeout: config.network_timeout, buff_size: config.buff_size, dial: config.dial() };
    let service = Service {
        settings,
        store,
        rotation: Rotation::new(config.distribution, config.subdirs, position),
        binlog,
        counters: Counters::new(saved.stat),
        synced,
        names: Names::default(),
        pending,
        deleted,
        taken,
        active: Arc::default(),
        syncer,
        acks: Acks::new(config.ack_members, config.ack_timeout),
        questions: Questions::default(),
        silent: Silent::default(),
        lost,
        lives,
        access,
        membership: OnceLock::new(),
        members: watch::Sender::default(),
    };
    Ok((service, init))
}

/// Nothing of this was acknowledged, as a rule: where the disk refused to forget a note it may have been. So a new file that
/// has no record in all of the binlog is removed; of another one it is recorded what it is.
///
/// `replaced` tells whether a store path need not be the one that it was: what is missing there was not removed, and other
/// members keep it.
fn settle_pending(
    store: &Store,
    binlog: &Binlog,
    left: &[(Kind, RemoteName)],
    replaced: impl Fn(&StorePath) -> bool,
) -> std::io::Result<()> {
    let recorded = if left.is_empty() { Vec::new() } else { last_records(binlog, TAIL)? };
    let made = left.iter().filter(|(kind, _)| *kind == Kind::Create);
    let known = last_of(binlog, made.filter_map(|(_, name)| canonical(name).ok()).collect())?;
    for (kind, name) in left {
        let (Ok((path, rel)), Ok(name)) = (store.locate(name), canonical(name)) else { continue };
        let meta = match path.dir.meta(&rel, false) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let last = known.last.get(&name).or_else(|| recorded.iter().rfind(|record| record.name == name));
        let change = match (kind, meta) {
            (Kind::Push { mtime }, Some(meta)) if meta.is_file() => {
                info!("{name} was being written by another member when this storage died");
                dir::set_mtime(&path.dir.open_write(&rel)?, *mtime, Origin::Replica)?;
                continue;
            }
            (Kind::Push { .. }, _) => continue,
            (_, None) if replaced(path) => {
                warn!("{name} was being changed when the storage died, and is gone with its store path");
                continue;
            }
            // Others may have it already.
            (_, None) => Change::Delete,
            (Kind::Create, Some(_)) if last.is_some_and(|record| record.change != Change::Delete) => continue,
            // Members do not have it: they have all that has a record, and nothing else.
            (Kind::Create, Some(_)) if last.is_some() || known.complete => {
                info!("{name} was being made when the storage died; removing it");
                path.dir.unlink(&rel)?;
                continue;
            }
            // Of a new file, too, if older records are gone: it may have been acknowledged long ago.
            (Kind::Create | Kind::Change { .. }, Some(meta)) if meta.is_file() => Change::Update,
            // A link is made or removed at once.
            (Kind::Create | Kind::Change { .. }, Some(_)) => continue,
        };
        info!("{name} was being changed when the storage died; recording what it is now");
        let now = clock::seconds(clock::now());
        let before = match kind {
            Kind::Change { mtime } => *mtime,
            Kind::Create | Kind::Push { .. } => 0,
        };
        let latest = last.map_or(before, |record| before.max(record.timestamp));
        let timestamp = now.max(latest.saturating_add(1));
        if change == Change::Update {
            // What a client changes next comes after it.
            dir::set_mtime(&path.dir.open_write(&rel)?, timestamp, Origin::Client)?;
        }
        let record = Record { timestamp, origin: Origin::Client, change, name };
        binlog.append(format!("{record}\n").as_bytes())?;
        if record.change == Change::Delete {
            remove_metadata(store, binlog, &name)?;
        }
    }
    Ok(())
}

/// Removes the metadata of a file that was removed, as the storage would have done that died.
fn remove_metadata(store: &Store, binlog: &Binlog, file: &RemoteName) -> std::io::Result<()> {
    let Some(Ok(name)) = file.metadata().map(|name| canonical(&name)) else { return Ok(()) };
    let Ok((path, rel)) = store.locate(&name) else { return Ok(()) };
    let Ok(meta) = path.dir.meta(&rel, false) else { return Ok(()) };
    let timestamp = clock::seconds(meta.time_of_next(clock::now()));
    let record = Record { timestamp, origin: Origin::Client, change: Change::Delete, name };
    // First: a record of what is still there is passed over, but what is gone without one nobody hears of.
    binlog.append(format!("{record}\n").as_bytes())?;
    if let Err(e) = path.dir.unlink(&rel) {
        warn!("cannot remove {name}, whose file was removed: {e}");
    }
    Ok(())
}

fn stat_path(config: &StorageConfig) -> PathBuf {
    config.base_path.join("data").join("storage_stat.dat")
}

fn synced_path(binlog: &Binlog) -> PathBuf {
    binlog.dir().join("synced.dat")
}

fn read_stat(path: &std::path::Path) -> anyhow::Result<StorageStatFile> {
    match std::fs::read(path) {
        Ok(text) => StorageStatFile::parse(path, &text).context("correct the file, or remove it to count from zero"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(StorageStatFile::default()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// What runs beside the serving threads.
struct Background {
    config: Arc<StorageConfig>,
    service: Arc<Service>,
    init: Arc<InitState>,
    dial: Dial,
    up_time: i64,
    addr: SocketAddr,
    connections: Arc<fdfs_server::ConnectionCounts>,
    active: Arc<Active>,
}

type Ready = std::sync::mpsc::Sender<anyhow::Result<()>>;

/// Where it can be received whether a storage serves.
pub type Settled = std::sync::mpsc::Receiver<anyhow::Result<()>>;

impl Background {
    async fn run(self, mut stopped: watch::Receiver<bool>, ready: Ready) {
        let config = self.config.clone();
        let service = self.service.clone();
        tokio::select! {
            () = keep_house(&config, &service, &mut stopped) => {}
            () = self.report(ready) => {}
        }
    }

    /// Finds out who we are, then attends to every tracker; never returns.
    async fn report(self, ready: Ready) {
        let Background { config, service, init, dial, up_time, addr, connections, active } = self;
        let port = addr.port();
        let group = service.settings.group;
        let identity = if config.trackers.is_empty() {
            Identity::alone(own_address(addr.ip()))
        } else {
            ask_until_known(&config, dial, group, port).await
        };
        let settled = settle(&config, &service, &init, dial, &identity, port).await;
        let alone = config.trackers.is_empty();
        let count = config.trackers.len();
        let cluster = Arc::new(Cluster::new(config, service, init, connections, port, up_time, dial, identity, active));
        let started = settled.and_then(|()| {
            Replication::start(cluster.clone()).context("cannot start the thread that pushes changes to other storages")
        });
        let text = started.as_ref().err().map(|e| format!("{e:#}"));
        let (replication, settled) = match started {
            Ok(replication) => (Some(replication), Ok(())),
            Err(e) => (None, Err(e)),
        };
        // Nobody waits any more if the tracker took its time.
        if ready.send(settled).is_err()
            && let Some(text) = text
        {
            error!("{text}");
        }
        // Its thread runs as long as this does.
        let Some(_replication) = replication else { return std::future::pending().await };
        if alone {
            cluster.active.set(true);
        }
        let mut sessions = JoinSet::new();
        for index in 0..count {
            sessions.spawn(cluster.clone().attend(index));
        }
        // Sessions do not end; should one panic, the others go on.
        while let Some(ended) = sessions.join_next().await {
            if let Err(e) = ended {
                error!("a tracker session ended badly: {e}");
            }
        }
        std::future::pending().await
    }
}

async fn ask_until_known(config: &StorageConfig, dial: Dial, group: GroupName, port: u16) -> Identity {
    let mut complained = false;
    loop {
        match identity::ask(config, dial, group, port).await {
            Ok(identity) => return identity,
            Err(e) => {
                if !complained {
                    warn!("{e}; asking the trackers again until one answers");
                }
                complained = true;
                sleep(ASK_AGAIN).await;
            }
        }
    }
}

/// Records who we are on disk and begins to serve files.
async fn settle(
    config: &StorageConfig,
    service: &Service,
    init: &InitState,
    dial: Dial,
    identity: &Identity,
    port: u16,
) -> anyhow::Result<()> {
    let last = init.get().last_ip_addr;
    identity::report_changed_ip(config, dial, service.settings.group, identity, &last).await;
    init.update(|flag| {
        flag.last_ip_addr = identity.ip_text();
        flag.last_server_port = port;
    })?;
    if config.check_store_path_mark
        && let Some(ip) = identity.ips.first()
    {
        init.mark_paths(&service.store, IpText::from(*ip), port)?;
    }
    let _ = service.membership.set(identity.membership(port));
    Ok(())
}

fn own_address(bound: IpAddr) -> IpAddr {
    if bound.is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { bound }
}

/// The small jobs that recur, until it is stopped. It is not to be dropped before: a write would go on meanwhile.
async fn keep_house(config: &StorageConfig, service: &Arc<Service>, stopped: &mut watch::Receiver<bool>) {
    let mut ticks = interval(TICK);
    let mut save_at = Instant::now() + config.stat_save_interval;
    let (mut counted, mut known) = (String::new(), String::new());
    loop {
        let now = tokio::select! {
            now = ticks.tick() => now,
            _ = stopped.wait_for(|s| *s) => break,
        };
        let present = service.clone();
        let looked = blocking::run(move || {
            present.store.refresh_space();
            if let Some(log) = &present.access {
                log.flush();
            }
            Ok(())
        });
        if let Err(e) = looked.await {
            error!("cannot look at the free space: {e}");
        }
        if now >= save_at {
            save_at = now + config.stat_save_interval;
            save_counters(config, service, &mut counted).await.unwrap_or_else(|e| warn!("{e}"));
            save_synced(service, &mut known).await.unwrap_or_else(|e| warn!("{e}"));
        } else if service.synced.take_refused() {
            // What keeps it from that, a full disk perhaps, is said when its time has come.
            let _ = save_synced(service, &mut known).await;
        }
    }
    save_counters(config, service, &mut counted).await.unwrap_or_else(|e| warn!("{e}"));
    save_synced(service, &mut known).await.unwrap_or_else(|e| warn!("{e}"));
}

/// Writes the counters.
async fn save_counters(config: &StorageConfig, service: &Service, saved: &mut String) -> std::io::Result<()> {
    let position = service.rotation.position();
    let stat = StorageStatFile {
        stat: service.counters.snapshot(),
        dist_path_index_high: position.high,
        dist_path_index_low: position.low,
        dist_write_file_count: position.written,
    };
    save(stat_path(config), stat.to_text(), saved).await
}

/// Writes what came from whom.
async fn save_synced(service: &Service, saved: &mut String) -> std::io::Result<()> {
    save(synced_path(&service.binlog), service.synced.to_text(), saved).await
}

/// Writes a file that has changed since it was `saved`.
async fn save(path: PathBuf, text: String, saved: &mut String) -> std::io::Result<()> {
    if text != *saved {
        let new = text.clone();
        blocking::run(move || replace_file(&path, new.as_bytes())).await?;
        *saved = text;
    }
    Ok(())
}
