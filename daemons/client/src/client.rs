//! The client: what its clones share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::avoid::Avoidance;
use crate::config::ClientConfig;
use crate::pool::{Limits, Pools};
use crate::resolve::Trackers;
use crate::routes::Routes;

/// A client of one FastDFS cluster.
///
/// Cheap to make (nothing is connected) and to clone (clones share connections and what trackers answered). It
/// has no thread of its own: its work is done by the tasks that call it, on their tokio runtime, which must have its
/// network and time drivers enabled. Connections belong to the runtime they were made on, so use a client
/// from one runtime only.
///
/// Any of its futures may be dropped half-way: the connection in use is then closed.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    /// See [`Client::hasty`].
    pub(crate) hasty: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) pools: Arc<Pools>,
    pub(crate) trackers: Trackers,
    /// Which servers failed lately. Like `routes`, never held across an await.
    pub(crate) health: Mutex<Avoidance<SocketAddr>>,
    pub(crate) routes: Mutex<Routes>,
    turn: AtomicUsize,
    /// This, for work that goes on beside the operations.
    pub(crate) this: Weak<Shared>,
}

impl Client {
    /// A client of the cluster that `config` describes.
    pub fn new(config: ClientConfig) -> Self {
        let limits = Limits {
            connections: config.max_connections_per_server.clamp(1, tokio::sync::Semaphore::MAX_PERMITS),
            idle_time: config.max_idle_time,
            connect_timeout: config.connect_timeout,
            wait: config.network_timeout,
        };
        Self {
            hasty: false,
            shared: Arc::new_cyclic(|this| Shared {
                this: this.clone(),
                pools: Pools::new(limits),
                trackers: Trackers::new(&config.trackers),
                health: Mutex::new(Avoidance::new()),
                routes: Mutex::new(Routes::default()),
                turn: AtomicUsize::new(0),
                config,
            }),
        }
    }

    /// The same client for changes that can be done over elsewhere, from the start: they are given up
    /// ([`Error::Hung`](crate::Error::Hung)) as soon as their storage turns out to be gone, and not only after the network
    /// timeout. Whether such a change was made is not known.
    pub fn hasty(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), hasty: true }
    }

    /// The settings in force.
    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// Closes the idle connections and forgets what trackers answered. The client stays usable.
    pub fn reset(&self) {
        self.shared.pools.clear();
        *self.shared.routes.lock() = Routes::default();
        *self.shared.health.lock() = Avoidance::new();
    }

    /// The number of idle connections kept to a server.
    pub fn idle_connections(&self, addr: SocketAddr) -> usize {
        self.shared.pools.idle(addr)
    }
}

impl Shared {
    /// A number that is different each time, to take servers in turn.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }
}
