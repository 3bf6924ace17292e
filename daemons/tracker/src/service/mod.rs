//! The shell around the state machine: sockets, time and files.
//!
//! | module | what it does |
//! |---|---|
//! | [`connection`] | one connection: frames in, answers out |
//! | [`dispatch`] | one request: from command and body to the state machine and back |
//! | [`catch_up`] | copying another tracker's files before the first storage joins |
//! | [`keeper`] | the thread that saves the files and watches the clock |
//! | [`relations`] | the thread that drives the election among trackers |
//!
//! The state is behind one mutex, held for single transitions and never across I/O; storages' reports are rare enough
//! for that. What queries read is an immutable [`Directory`] behind an atomic pointer, so that neither a report nor a
//! descheduled thread ever makes a query wait.

mod catch_up;
mod connection;
mod dispatch;
mod keeper;
mod relations;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use fdfs_host::TcpStream;
use fdfs_protocol::stat::Connections;
use fdfs_server::{ConnectionCounts, Handler, Listen, Server, StartError};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::config::TrackerConfig;
use crate::directory::Directory;
use crate::files::{DataDir, DataError};
use crate::state::storage::Session;
use crate::state::trackers::{Moment, Trackers};
use crate::state::{Cluster, Member, Unsaved};
use catch_up::CatchUp;
use connection::Connection;
use keeper::Keeper;
use relations::{Dialling, Relations};

/// Why a tracker does not start; the text names the key and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Listening.
    #[error(transparent)]
    Listen(#[from] StartError),
    /// The threads beside the server.
    #[error("cannot start a thread: {0} (is the limit of processes too low?)")]
    Thread(#[from] std::io::Error),
}

/// A running tracker. Dropping it stops it.
#[derive(Debug)]
pub struct Tracker {
    // In the order in which they end: no connection outlives the keeper that saves what it changed.
    relations: Option<Relations>,
    server: Option<Server>,
    keeper: Option<Keeper>,
    shared: Arc<Shared>,
    addr: SocketAddr,
}

impl Tracker {
    /// Loads the state, listens, and serves until [`Tracker::stop`].
    ///
    /// # Errors
    /// [`TrackerError`]; nothing keeps running then.
    pub fn start(config: TrackerConfig) -> Result<Tracker, TrackerError> {
        let data = DataDir::open(&config.base_path)?;
        let loaded = data.load(&config.settings)?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let changelog_saved = loaded.changelog.len() as u64;
        let up_time = now();
        let trackers = Trackers::new(config.port, up_time, loaded.last_check);
        let mut cluster = Cluster::new(Arc::new(config.settings), trackers);
        cluster.restore(loaded.groups, loaded.changelog);
        let rules = cluster.settings().rules;
        let directory = cluster.publish().unwrap_or_else(|| Directory::new(rules, Vec::new(), Arc::default()));

        let shared = Arc::new(Shared {
            cluster: Mutex::new(cluster),
            directory: ArcSwap::from_pointee(directory),
            wishes: keeper::Wishes::default(),
            counts: OnceLock::new(),
            sessions: AtomicU64::new(1),
            max_package: config.max_package,
            network_timeout: config.network_timeout,
            slots: config.max_connections,
            leadership: Notify::new(),
            catch_up: CatchUp::new(up_time, loaded.last_check),
            dialling: Dialling {
                bind: config.bind.clone(),
                connect: config.connect_timeout,
                answer: config.network_timeout,
            },
        });
        let keeper = Keeper::start(shared.clone(), data, changelog_saved)?;
        let listen = Listen {
            bind: config.bind,
            port: config.port,
            workers: config.work_threads,
            max_connections: config.max_connections,
            allow: config.allow_hosts,
            name: "tracker",
        };
        // A storage finds this tracker in its list by the port, so nobody may join before the port is known.
        let mut cluster = shared.cluster.lock();
        let server = Server::start(listen, Arc::new(Service(shared.clone())))?;
        let addr = server.local_addr();
        cluster.trackers.set_port(addr.port());
        drop(cluster);
        let _ = shared.counts.set(server.connections().clone());
        let relations = Relations::start(shared.clone())?;
        info!("listening on {addr}; which other trackers there are is told by the storages that join");
        Ok(Tracker { relations: Some(relations), server: Some(server), keeper: Some(keeper), shared, addr })
    }

    /// The address it listens on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether it leads the trackers, and is sure enough of that to tell storages about members and trunk servers.
    pub fn acts(&self) -> bool {
        self.shared.cluster.lock().trackers.acts(moment())
    }

    /// Stops serving, saves everything, and returns when that is done.
    pub fn stop(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        drop(self.relations.take());
        drop(self.server.take());
        drop(self.keeper.take());
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.shut();
    }
}

/// What connections and the keeper share.
#[derive(Debug)]
struct Shared {
    cluster: Mutex<Cluster>,
    directory: ArcSwap<Directory>,
    wishes: keeper::Wishes,
    counts: OnceLock<Arc<ConnectionCounts>>,
    sessions: AtomicU64,
    max_package: usize,
    network_timeout: Duration,
    slots: usize,
    /// Wakes the election when a notice of another, or a list of trackers, may have changed what it has to do.
    leadership: Notify,
    catch_up: CatchUp,
    dialling: Dialling,
}

impl Shared {
    /// Makes a transition; what queries should see of it is published before this returns, what should be saved is
    /// handed to the keeper.
    fn change<R>(&self, transition: impl FnOnce(&mut Cluster) -> R) -> R {
        let (result, unsaved) = self.transition(transition);
        self.wishes.add(unsaved);
        result
    }

    fn transition<R>(&self, transition: impl FnOnce(&mut Cluster) -> R) -> (R, Unsaved) {
        let (result, turns, unsaved) = {
            let mut cluster = self.cluster.lock();
            let result = transition(&mut cluster);
            if let Some(directory) = cluster.publish() {
                self.directory.store(Arc::new(directory));
            }
            (result, cluster.take_turns(), cluster.take_unsaved())
        };
        for turn in turns {
            info!("{turn}");
        }
        (result, unsaved)
    }

    fn leave(&self, session: Session, member: Option<Member>) {
        self.change(|cluster| cluster.leave(session, member));
    }

    fn connections(&self) -> Connections {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (current, max) = self.counts.get().map_or((0, 0), |c| (c.current(), c.max()));
        Connections { alloc: small(self.slots), current: small(current), max: small(max) }
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// Time since the host was booted, sleep included.
fn moment() -> Moment {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the right type; the call only writes to it. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
    Moment::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

struct Service(Arc<Shared>);

impl Handler for Service {
    async fn serve(self: Arc<Self>, stream: &mut TcpStream, peer: SocketAddr) {
        let session = self.0.sessions.fetch_add(1, Ordering::Relaxed);
        // Without a local address the peer is gone already.
        let Ok(local) = stream.local_addr() else { return };
        let local = local.ip().to_canonical();
        Connection::new(self.0.clone(), peer.ip(), local, session).serve(stream).await;
    }
}

#[cfg(test)]
mod tests;
