//! Connections kept open, one pool for each server address.
//!
//! Invariant: a connection in a pool has no request in progress and no unread bytes. A [`Lease`]
//! goes back only by [`Lease::give_back`], after the answer was read to its end; dropped in any other way
//! (an error, a cancelled future, an abandoned download) it closes its connection.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::{Broken, Connection};

/// A connection idle for less than this is checked by the readiness the runtime already knows of, which
/// costs nothing; one idle for longer is asked with a system call.
const FRESH: Duration = Duration::from_millis(500);

/// Bounds of the pools.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections to one server, in use and idle.
    pub(crate) connections: usize,
    /// How long an unused connection is kept.
    pub(crate) idle_time: Duration,
    pub(crate) connect_timeout: Duration,
    /// How long to wait when all connections are in use.
    pub(crate) wait: Duration,
}

/// Which connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// An idle one that seems to be open, or a new one.
    Kept,
    /// An idle one of which the kernel says that the peer has not closed it, or a new one.
    Checked,
    New,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    Busy(usize),
    Broken(Broken),
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
struct Pool {
    /// The most recently used at the back; taken from the back, so that the surplus ages at the front.
    idle: Mutex<VecDeque<Idle>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// The most recently used connection that is still open and quiet; `checked`: whatever its age, the kernel is asked.
    fn take(&self, limits: &Limits, checked: bool) -> Option<Connection> {
        loop {
            // Popped one at a time: the check is a system call, made without the lock.
            let Idle { connection, since } = self.idle.lock().pop_back()?;
            let age = since.elapsed();
            if age < limits.idle_time && connection.is_quiet(checked || age >= FRESH) {
                return Some(connection);
            }
        }
    }
}

/// All pools of a client.
#[derive(Debug)]
pub(crate) struct Pools {
    limits: Limits,
    pools: RwLock<HashMap<SocketAddr, Arc<Pool>>>,
    /// Whether a task is closing connections that have been idle too long.
    reaping: Mutex<bool>,
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Connection,
    pool: Arc<Pool>,
    pools: Weak<Pools>,
    reused: bool,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Whether the connection carried a request before: then the peer may have closed it unnoticed.
    pub(crate) fn reused(&self) -> bool {
        self.reused
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Puts the connection back; only after the whole answer was read.
    pub(crate) fn give_back(self) {
        let Lease { mut connection, pool, pools, _permit, .. } = self;
        let Some(pools) = pools.upgrade() else { return };
        // Bytes that nobody asked for: no further answer on this connection can be trusted.
        if !connection.is_in_step() {
            return;
        }
        connection.trim();
        pool.idle.lock().push_back(Idle { connection, since: Instant::now() });
        drop(_permit);
        Pools::reap_later(&pools);
    }
}

impl Pools {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, pools: RwLock::new(HashMap::new()), reaping: Mutex::new(false) })
    }

    fn pool(&self, addr: SocketAddr) -> Arc<Pool> {
        if let Some(pool) = self.pools.read().get(&addr) {
            return Arc::clone(pool);
        }
        let mut pools = self.pools.write();
        Arc::clone(pools.entry(addr).or_insert_with(|| {
            Arc::new(Pool {
                idle: Mutex::new(VecDeque::new()),
                permits: Arc::new(Semaphore::new(self.limits.connections)),
            })
        }))
    }

    /// A connection to `addr`.
    pub(crate) async fn lease(self: &Arc<Self>, addr: SocketAddr, which: Which) -> Result<Lease, NoConnection> {
        let pool = self.pool(addr);
        let permit = match Arc::clone(&pool.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let wait = Arc::clone(&pool.permits).acquire_owned();
                match tokio::time::timeout(self.limits.wait, wait).await {
                    Ok(Ok(permit)) => permit,
                    _ => return Err(NoConnection::Busy(self.limits.connections)),
                }
            }
        };
        let kept = match which {
            Which::New => None,
            Which::Kept | Which::Checked => pool.take(&self.limits, which == Which::Checked),
        };
        let (connection, reused) = match kept {
            Some(connection) => (connection, true),
            None => {
                let connection =
                    Connection::open(addr, self.limits.connect_timeout).await.map_err(NoConnection::Broken)?;
                (connection, false)
            }
        };
        Ok(Lease { connection, pool, pools: Arc::downgrade(self), reused, _permit: permit })
    }

    /// Closes the idle connections to `addr`: the server restarted or went away.
    pub(crate) fn forget(&self, addr: SocketAddr) {
        let pool = self.pools.read().get(&addr).cloned();
        if let Some(pool) = pool {
            let closed = std::mem::take(&mut *pool.idle.lock());
            drop(closed);
        }
    }

    /// Closes all idle connections.
    pub(crate) fn clear(&self) {
        let pools: Vec<_> = self.pools.read().values().cloned().collect();
        for pool in pools {
            let closed = std::mem::take(&mut *pool.idle.lock());
            drop(closed);
        }
    }

    /// The number of idle connections to `addr`.
    pub(crate) fn idle(&self, addr: SocketAddr) -> usize {
        self.pools.read().get(&addr).map_or(0, |pool| pool.idle.lock().len())
    }

    /// Sees to it that idle connections are closed in time even if no further request comes.
    fn reap_later(this: &Arc<Self>) {
        if this.limits.idle_time == Duration::ZERO {
            this.close_expired(Instant::now());
            return;
        }
        let mut reaping = this.reaping.lock();
        if *reaping {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        *reaping = true;
        drop(reaping);
        let guard = Reaping(Arc::downgrade(this));
        let period = (this.limits.idle_time / 2).max(Duration::from_millis(10));
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(pools) = guard.0.upgrade() else { return };
                if pools.close_expired(Instant::now()) == 0 {
                    return guard.end(&pools);
                }
            }
        });
    }

    /// Closes what has been idle for too long, forgets servers without connections; returns how many
    /// connections are left.
    fn close_expired(&self, now: Instant) -> usize {
        let mut closed = Vec::new();
        let mut left = 0;
        self.pools.write().retain(|_, pool| {
            let mut idle = pool.idle.lock();
            while let Some(oldest) = idle.front()
                && now.duration_since(oldest.since) >= self.limits.idle_time
            {
                closed.extend(idle.pop_front());
            }
            left += idle.len();
            // A pool in use elsewhere must stay the one that counts its connections.
            !idle.is_empty() || Arc::strong_count(pool) > 1
        });
        left
    }
}

/// Marks the reaper as gone when its task ends, also when the runtime it ran on is shut down.
struct Reaping(Weak<Pools>);

impl Reaping {
    /// Ends the reaping, unless a connection was given back after the last look: whoever did that saw that there is a
    /// reaper, and relies on it.
    fn end(self, pools: &Arc<Pools>) {
        drop(self);
        if pools.close_expired(Instant::now()) > 0 {
            Pools::reap_later(pools);
        }
    }
}

impl Drop for Reaping {
    fn drop(&mut self) {
        if let Some(pools) = self.0.upgrade() {
            *pools.reaping.lock() = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn limits() -> Limits {
        Limits {
            connections: 2,
            idle_time: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            wait: Duration::from_millis(20),
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    #[tokio::test]
    async fn the_last_used_connection_is_used_next() {
        let (_listener, addr) = listener().await;
        let pools = Pools::new(limits());
        let first = pools.lease(addr, Which::Kept).await.unwrap();
        let second = pools.lease(addr, Which::Kept).await.unwrap();
        assert!(!first.reused() && !second.reused());
        let port = second.connection.local_addr().unwrap();
        first.give_back();
        second.give_back();
        assert_eq!(pools.idle(addr), 2);
        let again = pools.lease(addr, Which::Kept).await.unwrap();
        assert!(again.reused());
        assert_eq!(again.connection.local_addr().unwrap(), port);
        drop(again);
        assert_eq!(pools.idle(addr), 1, "a lease that is dropped closes its connection");
    }

    #[tokio::test]
    async fn connections_are_bounded() {
        let (_listener, addr) = listener().await;
        let pools = Pools::new(limits());
        let first = pools.lease(addr, Which::Kept).await.unwrap();
        let _second = pools.lease(addr, Which::Kept).await.unwrap();
        assert!(matches!(pools.lease(addr, Which::Kept).await, Err(NoConnection::Busy(2))));
        drop(first);
        assert!(pools.lease(addr, Which::Kept).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_the_peer_closed_is_not_handed_out() {
        let (listener, addr) = listener().await;
        let pools = Pools::new(limits());
        let lease = pools.lease(addr, Which::Kept).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        drop(peer);
        lease.connection.readable().await;
        lease.give_back();
        assert!(!pools.lease(addr, Which::Kept).await.unwrap().reused());
    }

    #[tokio::test]
    async fn what_must_not_be_sent_twice_finds_a_closed_connection_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let pools = Pools::new(limits());
        let lease = pools.lease(addr, Which::Kept).await.unwrap();
        drop(listener.accept().unwrap());
        // The runtime has not looked since.
        lease.give_back();
        assert!(!pools.lease(addr, Which::Checked).await.unwrap().reused());
    }

    #[tokio::test]
    async fn a_connection_with_unread_bytes_is_not_handed_out() {
        let (listener, addr) = listener().await;
        let pools = Pools::new(limits());
        let lease = pools.lease(addr, Which::Kept).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut peer, b"x").await.unwrap();
        lease.connection.readable().await;
        lease.give_back();
        assert!(!pools.lease(addr, Which::Kept).await.unwrap().reused());
    }

    #[tokio::test]
    async fn idle_connections_expire() {
        let (_listener, addr) = listener().await;
        let pools = Pools::new(limits());
        pools.lease(addr, Which::Kept).await.unwrap().give_back();
        assert_eq!(pools.close_expired(Instant::now()), 1);
        assert_eq!(pools.close_expired(Instant::now() + Duration::from_secs(61)), 0);
        assert_eq!(pools.idle(addr), 0);
        assert!(pools.pools.read().is_empty());
    }

    #[tokio::test]
    async fn a_connection_given_back_while_the_reaper_ends_is_not_forgotten() {
        let (_listener, addr) = listener().await;
        let pools = Pools::new(limits());
        *pools.reaping.lock() = true;
        let reaper = Reaping(Arc::downgrade(&pools));
        assert_eq!(pools.close_expired(Instant::now()), 0);
        pools.lease(addr, Which::Kept).await.unwrap().give_back();
        reaper.end(&pools);
        assert!(*pools.reaping.lock(), "there is another reaper");
        // With nothing left it ends.
        *pools.reaping.lock() = true;
        pools.clear();
        Reaping(Arc::downgrade(&pools)).end(&pools);
        assert!(!*pools.reaping.lock());
    }

    #[tokio::test]
    async fn without_idle_time_nothing_is_kept() {
        let (_listener, addr) = listener().await;
        let pools = Pools::new(Limits { idle_time: Duration::ZERO, ..limits() });
        pools.lease(addr, Which::Kept).await.unwrap().give_back();
        assert_eq!(pools.idle(addr), 0);
    }

    #[tokio::test]
    async fn forget_closes_the_idle_ones() {
        let (_listener, addr) = listener().await;
        let pools = Pools::new(limits());
        pools.lease(addr, Which::Kept).await.unwrap().give_back();
        pools.forget(addr);
        assert_eq!(pools.idle(addr), 0);
        pools.lease(addr, Which::Kept).await.unwrap().give_back();
        pools.clear();
        assert_eq!(pools.idle(addr), 0);
    }

    #[tokio::test]
    async fn refused_is_reported() {
        let (listener, addr) = listener().await;
        drop(listener);
        let pools = Pools::new(limits());
        assert!(matches!(pools.lease(addr, Which::Kept).await, Err(NoConnection::Broken(_))));
    }
}
