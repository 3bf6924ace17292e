//! Other trackers: real ones as processes, and one that says what a test wants.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::peer::{Beat, JoinRequest, MemberChanges};
use fdfs_protocol::tracker::{LeaderAddress, TrackerStatus};
use fdfs_protocol::{Command, Status};

use crate::support::{Peer, join_request};

pub use crate::support::until;

/// An address nobody listens on.
pub fn free(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

/// A tracker process.
pub struct TrackerProcess {
    pub addr: SocketAddr,
    base: tempfile::TempDir,
    child: Option<Child>,
}

impl TrackerProcess {
    /// One that is not running yet.
    pub fn new(host: &str) -> TrackerProcess {
        let addr = free(host);
        let base = tempfile::tempdir().unwrap();
        let conf = format!("base_path={}\nbind_addr={host}\nport={}\n", base.path().display(), addr.port());
        std::fs::write(base.path().join("tracker.conf"), conf).unwrap();
        std::fs::create_dir(base.path().join("data")).unwrap();
        TrackerProcess { addr, base, child: None }
    }

    /// Adds lines to its configuration.
    pub fn configure(&self, lines: &str) {
        let file = self.base.path().join("tracker.conf");
        let conf = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, format!("{conf}{lines}\n")).unwrap();
    }

    pub fn start(&mut self) {
        let mut command = Process::new(env!("CARGO_BIN_EXE_fdfs_trackerd"));
        command.arg("-N").arg(self.base.path().join("tracker.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        until("it listens", || std::net::TcpStream::connect(self.addr).ok());
    }

    pub fn signal(&self, signal: i32) {
        let pid = self.child.as_ref().unwrap().id() as i32;
        // SAFETY: a plain system call; the child was not waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Stops it, and waits until no thread of it runs any more.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let pid = self.child.as_ref().unwrap().id() as i32;
        let mut status = 0;
        // SAFETY: the pointer is to a live value; the child is this process's own.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) }, pid);
        assert!(libc::WIFSTOPPED(status));
    }

    /// Ends it, and waits until it is gone.
    pub fn end(&mut self, signal: i32) {
        self.signal(signal);
        self.child.take().unwrap().wait().unwrap();
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.base.path().join("data")
    }

    /// Whom it takes for the leader; `None` also if it does not answer.
    pub fn leader(&self) -> Option<SocketAddr> {
        let (status, body) = ask(self.addr, Command::GetLeader, Duration::from_secs(5))?;
        status.is_ok().then(|| LeaderAddress::decode(&body).unwrap().0)
    }

    /// Whether it says that it leads.
    pub fn leads(&self) -> bool {
        let answer = ask(self.addr, Command::TrackerGetStatus, Duration::from_secs(5));
        answer.is_some_and(|(status, body)| status.is_ok() && TrackerStatus::decode(&body).unwrap().leader)
    }
}

impl Drop for TrackerProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ask(addr: SocketAddr, command: Command, limit: Duration) -> Option<(Status, Vec<u8>)> {
    let mut stream = std::net::TcpStream::connect_timeout(&addr, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.write_all(&Header::request(command, 0).encode()).ok()?;
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).ok()?;
    let header = Header::decode(&head).ok()?;
    let mut body = vec![0; header.body_len as usize];
    stream.read_exact(&mut body).ok()?;
    Some((header.outcome(), body))
}

/// What a storage says to one of several trackers.
pub fn join_of(to: SocketAddr, all: &[SocketAddr]) -> JoinRequest {
    let trackers = all.iter().map(|a| a.to_string().parse().unwrap()).collect();
    JoinRequest { trackers, ..join_request(to) }
}

/// Joins as soon as the tracker lets it.
pub fn join(source: &str, to: SocketAddr, all: &[SocketAddr]) -> Peer {
    until("the storage joins", || {
        let mut peer = Peer::connect_from(source.parse().unwrap(), to);
        let (status, _) = peer.call(Command::StorageJoin, &join_of(to, all));
        assert!(status.is_ok() || status == Status::EAGAIN, "{status}");
        status.is_ok().then_some(peer)
    })
}

/// Whether a tracker acts as the leader: whether it tells a storage that just joined who leads.
pub fn acts(source: &str, tracker: SocketAddr, all: &[SocketAddr]) -> bool {
    let mut peer = Peer::connect_from(source.parse().unwrap(), tracker);
    if !peer.call(Command::StorageJoin, &join_of(tracker, all)).0.is_ok() {
        return false;
    }
    let told = MemberChanges::decode(&peer.ask(Command::StorageBeat, &Beat(None))).unwrap();
    match &told.leader {
        Some(leader) => {
            assert_eq!((leader.ip.as_str(), leader.port), (tracker.ip().to_string().as_str(), tracker.port()));
        }
        None => assert!(told.is_empty(), "who does not act tells nothing: {told:?}"),
    }
    told.leader.is_some()
}

/// Notices when this machine is so loaded that the trackers may have stalled too: then a leader that runs may lose its
/// place, which is no error.
pub struct Calm {
    stalls: Arc<AtomicUsize>,
    /// How many there were when the part of the test began that is judged now.
    before: Cell<usize>,
}

impl Calm {
    pub fn watch() -> Calm {
        let stalls = Arc::new(AtomicUsize::new(0));
        let seen = Arc::downgrade(&stalls);
        std::thread::spawn(move || {
            let mut last = Instant::now();
            while let Some(stalls) = seen.upgrade() {
                std::thread::sleep(Duration::from_millis(50));
                if last.elapsed() > Duration::from_millis(500) {
                    stalls.fetch_add(1, Ordering::Relaxed);
                }
                last = Instant::now();
            }
        });
        Calm { stalls, before: Cell::new(0) }
    }

    /// What follows does not depend on who led before: stalls until now excuse nothing any more.
    pub fn begin(&self) {
        self.before.set(self.stalls.load(Ordering::Relaxed));
    }

    /// What must be so, unless the machine stalled since [`Calm::begin`].
    pub fn assert(&self, holds: bool, what: &str) {
        assert!(holds || self.stalls.load(Ordering::Relaxed) != self.before.get(), "{what}");
    }
}

/// A tracker that answers as a test wants, for as long as the test runs.
pub fn scripted(
    host: &str,
    answer: impl Fn(Command, &[u8]) -> Result<Vec<u8>, Status> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut head = [0; HEADER_LEN];
                while stream.read_exact(&mut head).is_ok() {
                    let header = Header::decode(&head).unwrap();
                    let mut body = vec![0; header.body_len as usize];
                    stream.read_exact(&mut body).unwrap();
                    let Some(command) = Command::from_code(header.cmd) else { return };
                    if command == Command::Quit {
                        return;
                    }
                    let out = match answer(command, &body) {
                        Ok(body) => {
                            [&Header { body_len: body.len() as u64, cmd: 100, status: 0 }.encode()[..], &body].concat()
                        }
                        Err(status) => Header::failure(status).encode().to_vec(),
                    };
                    if stream.write_all(&out).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}
