//! Listening sockets and the worker threads that serve what they accept.
//!
//! One worker is one thread with its own current-thread tokio runtime. A connection is given to a worker when it is
//! accepted (round robin) and never migrates: no work stealing, no wake-ups across cores, and state that a handler
//! keeps per connection stays in one core's cache. Measured against the multi-threaded runtime this is what makes
//! small requests cheap; the price is that a handler must not block its thread for long.
//!
//! Stopping: the listeners close, then the receiving side of every connection is shut down. A handler waiting for a
//! request sees the end of its stream and returns; one that is answering finishes its answer. Handlers therefore need
//! no cancellation of their own, and the request path pays nothing for it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fdfs_host::TcpStream;
use fdfs_host::tcp::{self, Accepted, Bound, Closer, Listener};
use fdfs_host::thread::{self, Thread};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use crate::allow::AllowHosts;

/// How long [`Server::stop`] waits for answers in progress before it drops their connections.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How often a worker shows that it runs.
const TICK: Duration = Duration::from_millis(500);

/// Where and how to listen.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Addresses to bind; empty means all of IPv4, and IPv6 too where the host has it.
    pub bind: Vec<IpAddr>,
    /// TCP port; 0 lets the kernel choose (see [`Server::local_addr`]).
    pub port: u16,
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// Connections above this number are closed as soon as they are accepted.
    pub max_connections: usize,
    /// Peers that are not allowed are closed without a byte.
    pub allow: AllowHosts,
    /// Prefix of the worker threads' names, such as `tracker`.
    pub name: &'static str,
}

/// Why a server could not start; the text names the address and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address could not be bound.
    #[error("cannot listen on {addr}: {source}{}", bind_hint(.source))]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A worker thread or its runtime could not be made.
    #[error("cannot start a worker thread: {0} (is the limit of processes or open files too low?)")]
    Worker(#[from] io::Error),
}

fn bind_hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => " (another process has the port; is the daemon already running?)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this host has the address; check bind_addr)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need privileges)",
        _ => "",
    }
}

impl StartError {
    /// The error the system gave.
    pub fn io(&self) -> &io::Error {
        match self {
            StartError::Bind { source, .. } => source,
            StartError::Worker(e) => e,
        }
    }
}

/// How many connections there are and were.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    current: AtomicUsize,
    max: AtomicUsize,
    refused: AtomicU64,
}

impl ConnectionCounts {
    /// Connections open now.
    pub fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The most that were open at once.
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Connections closed because of `max_connections`.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn enter(&self, limit: usize) -> bool {
        let now = self.current.fetch_add(1, Ordering::Relaxed) + 1;
        if now > limit {
            self.leave();
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.max.fetch_max(now, Ordering::Relaxed);
        true
    }

    fn leave(&self) {
        self.current.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves connections.
pub trait Handler: Send + Sync + 'static {
    /// Serves one connection until the peer is done; runs on one worker thread from beginning to end.
    ///
    /// At [`Server::stop`] the stream reports its end (a read gives 0 bytes); the handler then returns. The stream is
    /// lent, not given, because stopping must know that the descriptor is still this connection's.
    fn serve(self: Arc<Self>, stream: &mut TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + Send;

    /// Called on each worker thread twice a second: this one runs.
    fn tick(&self, _worker: usize) {}
}

/// A running server: worker threads and what they serve. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    addrs: Vec<SocketAddr>,
    counts: Arc<ConnectionCounts>,
    stop: watch::Sender<bool>,
    threads: Vec<Thread>,
}

impl Server {
    /// Binds and starts serving.
    ///
    /// # Errors
    /// [`StartError`] when an address cannot be bound or a thread cannot be started; nothing keeps running then.
    pub fn start<H: Handler>(listen: Listen, handler: Arc<H>) -> Result<Server, StartError> {
        let listeners = bind_all(&listen)?;
        let mut addrs = Vec::with_capacity(listeners.len());
        for l in &listeners {
            addrs.push(l.local_addr()?);
        }
        let counts = Arc::new(ConnectionCounts::default());
        let (stop, stopped) = watch::channel(false);
        let mut server = Server { addrs, counts: counts.clone(), stop, threads: Vec::new() };

        let workers = listen.workers.max(1);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let mut acceptor = Some(Acceptor {
            listeners,
            workers: senders,
            next: AtomicUsize::new(0),
            counts: counts.clone(),
            limit: listen.max_connections,
            allow: listen.allow,
        });
        for (i, queue) in receivers.into_iter().enumerate() {
            let (handler, counts) = (handler.clone(), counts.clone());
            let worker = Worker { number: i, queue, handler, counts, stopped: stopped.clone() };
            // The first worker accepts for all: accepting is rare next to serving, a thread of its own would only
            // add a switch.
            let acceptor = acceptor.take();
            let stopped = stopped.clone();
            let thread = thread::spawn(&format!("{}-{i}", listen.name), async move {
                if let Some(acceptor) = acceptor {
                    tokio::spawn(acceptor.run(stopped));
                }
                worker.run().await;
            })?;
            server.threads.push(thread);
        }
        Ok(server)
    }

    /// The first address listened on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Counters of connections.
    pub fn connections(&self) -> &Arc<ConnectionCounts> {
        &self.counts
    }

    /// Stops accepting, lets answers in progress end, closes all connections and joins the threads.
    pub fn stop(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        let _ = self.stop.send(true);
        for t in self.threads.drain(..) {
            if t.join().is_err() {
                warn!("a worker thread had panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut();
    }
}

fn bind_all(listen: &Listen) -> Result<Vec<Bound>, StartError> {
    if listen.bind.is_empty() {
        let v4 = bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listen.port))?;
        let port = v4.local_addr()?.port();
        let mut all = vec![v4];
        // A host without IPv6 is a normal host.
        match bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
            Ok(v6) => all.push(v6),
            Err(e) => debug!("not listening on IPv6: {e}"),
        }
        return Ok(all);
    }
    let mut all = Vec::with_capacity(listen.bind.len());
    let mut port = listen.port;
    for ip in &listen.bind {
        let l = bind(SocketAddr::new(*ip, port))?;
        port = l.local_addr()?.port();
        all.push(l);
    }
    Ok(all)
}

fn bind(addr: SocketAddr) -> Result<Bound, StartError> {
    tcp::bind(addr).map_err(|source| StartError::Bind { addr, source })
}

struct Acceptor {
    listeners: Vec<Bound>,
    workers: Vec<mpsc::UnboundedSender<(Accepted, SocketAddr)>>,
    next: AtomicUsize,
    counts: Arc<ConnectionCounts>,
    limit: usize,
    allow: AllowHosts,
}

impl Acceptor {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        let listeners = std::mem::take(&mut self.listeners);
        let this = Arc::new(self);
        let mut tasks = JoinSet::new();
        for l in listeners {
            match l.listen() {
                Ok(l) => drop(tasks.spawn(this.clone().accept(l, stopped.clone()))),
                Err(e) => warn!("cannot accept connections: {e}"),
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn accept(self: Arc<Self>, listener: Listener, mut stopped: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                _ = stopped.wait_for(|s| *s) => return,
                a = listener.accept() => a,
            };
            match accepted {
                Ok((stream, peer)) => self.place(stream, peer),
                Err(e) if is_exhaustion(&e) => {
                    // Out of descriptors or memory: wait for some to come back instead of spinning.
                    warn!("cannot accept a connection: {e} (raise the limit of open files, ulimit -n)");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => debug!("accept: {e}"),
            }
        }
    }

    fn place(&self, stream: Accepted, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if !self.allow.allows(peer.ip()) {
            warn!("connection from {peer} refused: not in allow_hosts");
            return;
        }
        if !self.counts.enter(self.limit) {
            warn!("connection from {peer} refused: max_connections = {} are open", self.limit);
            return;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        if self.workers[turn].send((stream, peer)).is_err() {
            self.counts.leave();
        }
    }
}

fn is_exhaustion(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

struct Worker<H> {
    number: usize,
    queue: mpsc::UnboundedReceiver<(Accepted, SocketAddr)>,
    handler: Arc<H>,
    counts: Arc<ConnectionCounts>,
    stopped: watch::Receiver<bool>,
}

impl<H: Handler> Worker<H> {
    async fn run(mut self) {
        let open = Arc::new(OpenSockets::default());
        let mut tasks = JoinSet::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = self.stopped.wait_for(|s| *s) => break,
                _ = ticks.tick() => self.handler.tick(self.number),
                Some((stream, peer)) = self.queue.recv() => {
                    match stream.stream() {
                        Ok(stream) => {
                            let guard = Guard::new(self.counts.clone(), open.clone(), Closer::of(&stream));
                            tasks.spawn(serve(self.handler.clone(), stream, peer, guard));
                        }
                        Err(e) => {
                            self.counts.leave();
                            warn!("connection from {peer} dropped: {e}");
                        }
                    }
                }
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => report(ended),
            }
        }
        open.shutdown_all();
        let drained = tokio::time::timeout(STOP_GRACE, async {
            while let Some(ended) = tasks.join_next().await {
                report(ended);
            }
        });
        if drained.await.is_err() {
            warn!("{} connections were still busy after {STOP_GRACE:?} and are dropped", tasks.len());
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        warn!("a connection ended badly: {e}");
    }
}

async fn serve<H: Handler>(handler: Arc<H>, mut stream: TcpStream, peer: SocketAddr, guard: Guard) {
    handler.serve(&mut stream, peer).await;
    // Out of the registry before the descriptor closes and its number can mean something else.
    drop(guard);
    drop(stream);
}

/// The sockets of one worker, so that stopping can end what waits on them.
#[derive(Debug, Default)]
struct OpenSockets(Mutex<HashMap<u64, Closer>>, AtomicU64);

impl OpenSockets {
    fn shutdown_all(&self) {
        // Each leaves this map before its stream is dropped (see `serve`).
        self.0.lock().values().for_each(Closer::close_reading);
    }
}

/// One open connection: leaves the counts and the registry when dropped.
struct Guard {
    counts: Arc<ConnectionCounts>,
    open: Arc<OpenSockets>,
    key: u64,
}

impl Guard {
    fn new(counts: Arc<ConnectionCounts>, open: Arc<OpenSockets>, closer: Closer) -> Guard {
        let key = open.1.fetch_add(1, Ordering::Relaxed);
        open.0.lock().insert(key, closer);
        Guard { counts, open, key }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.open.0.lock().remove(&self.key);
        self.counts.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Echo;

    impl Handler for Echo {
        async fn serve(self: Arc<Self>, stream: &mut TcpStream, _peer: SocketAddr) {
            let mut buf = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut buf).await {
                if stream.write_all(&buf[..n]).await.is_err() {
                    return;
                }
            }
        }
    }

    fn listen(max_connections: usize, allow: AllowHosts) -> Listen {
        Listen { bind: vec![Ipv4Addr::LOCALHOST.into()], port: 0, workers: 2, max_connections, allow, name: "test" }
    }

    fn echo(stream: &mut std::net::TcpStream) -> io::Result<usize> {
        stream.write_all(b"ping")?;
        let mut buf = [0; 4];
        stream.read(&mut buf)
    }

    #[test]
    fn serves_and_stops_with_idle_connections_open() {
        let server = Server::start(listen(10, AllowHosts::any()), Arc::new(Echo)).unwrap();
        let addr = server.local_addr();
        let mut conns: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
        for c in &mut conns {
            assert_eq!(echo(c).unwrap(), 4);
        }
        assert_eq!(server.connections().current(), 5);
        assert_eq!(server.connections().max(), 5);
        server.stop();
        for c in &mut conns {
            assert!(matches!(c.read(&mut [0; 1]), Ok(0) | Err(_)));
        }
        assert!(std::net::TcpStream::connect(addr).is_err());
    }

    #[test]
    fn refuses_above_the_limit_and_recovers() {
        let server = Server::start(listen(1, AllowHosts::any()), Arc::new(Echo)).unwrap();
        let mut first = std::net::TcpStream::connect(server.local_addr()).unwrap();
        assert_eq!(echo(&mut first).unwrap(), 4);
        let mut second = std::net::TcpStream::connect(server.local_addr()).unwrap();
        assert!(matches!(echo(&mut second), Ok(0) | Err(_)));
        assert_eq!(server.connections().refused(), 1);
        drop(first);
        // The end of the first connection is seen asynchronously; a new one must be accepted soon.
        let served = (0..1000).any(|_| {
            let mut c = std::net::TcpStream::connect(server.local_addr()).unwrap();
            matches!(echo(&mut c), Ok(4))
        });
        assert!(served);
    }

    #[test]
    fn refuses_hosts_that_are_not_allowed() {
        let allow = AllowHosts::parse(["10.1.2.3"]);
        let server = Server::start(listen(10, allow), Arc::new(Echo)).unwrap();
        let mut c = std::net::TcpStream::connect(server.local_addr()).unwrap();
        assert!(matches!(echo(&mut c), Ok(0) | Err(_)));
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let e = Server::start(Listen { port, ..listen(1, AllowHosts::any()) }, Arc::new(Echo)).unwrap_err();
        assert!(e.to_string().contains(&format!("127.0.0.1:{port}")), "{e}");
        assert!(e.to_string().contains("already running"), "{e}");
    }
}
