//! A raw client and a storage double, for tests against a tracker in this process.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fdfs_protocol::header::{HEADER_LEN, Header, frame};
use fdfs_protocol::peer::{
    Beat, DiskUsage, JoinReply, JoinRequest, MemberChanges, PathSpace, SyncReport, SyncSource, SyncedTo,
};
use fdfs_protocol::stat::{StatBlock, StorageStatus};
use fdfs_protocol::{Command, Encode, Status};
use fdfs_tracker::{Tracker, TrackerConfig};
use socket2::{Domain, Socket, Type};

/// Long enough for any machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until something is so.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A tracker with its own directory.
pub struct Running {
    pub tracker: Option<Tracker>,
    pub base: tempfile::TempDir,
}

impl Running {
    /// Starts a tracker configured by these lines, on `host` and a free port.
    pub fn start(host: &str, lines: &str) -> Running {
        let base = tempfile::tempdir().unwrap();
        let tracker = Some(start_on(base.path(), host, lines));
        Running { tracker, base }
    }

    pub fn addr(&self) -> SocketAddr {
        self.tracker.as_ref().unwrap().addr()
    }

    /// Stops it and starts another on the same directory.
    pub fn restart(&mut self, host: &str, lines: &str) {
        self.tracker.take().unwrap().stop();
        self.tracker = Some(start_on(self.base.path(), host, lines));
    }

    /// The contents of a data file.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.base.path().join("data").join(name)).unwrap_or_default()
    }
}

fn start_on(base: &std::path::Path, host: &str, lines: &str) -> Tracker {
    let file = base.join("tracker.conf");
    std::fs::write(&file, format!("base_path={}\nbind_addr={host}\n{lines}\n", base.display())).unwrap();
    let mut config = TrackerConfig::load(&file).unwrap();
    config.port = 0;
    Tracker::start(config).unwrap()
}

/// A connection to a tracker.
pub struct Peer {
    pub stream: TcpStream,
}

impl Peer {
    pub fn connect(addr: SocketAddr) -> Peer {
        Peer::with(TcpStream::connect(addr).unwrap())
    }

    /// Connects from a certain address of this host.
    pub fn connect_from(source: IpAddr, addr: SocketAddr) -> Peer {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        Peer::with(socket.into())
    }

    fn with(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next answer: status and body.
    pub fn receive(&mut self) -> (Status, Vec<u8>) {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).unwrap();
        let header = Header::decode(&head).unwrap();
        assert_eq!(header.cmd, 100);
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body).unwrap();
        assert!(header.outcome().is_ok() || body.is_empty(), "an error never has a body");
        (header.outcome(), body)
    }

    /// Sends a whole frame and takes the answer.
    pub fn exchange(&mut self, bytes: &[u8]) -> (Status, Vec<u8>) {
        self.send(bytes);
        self.receive()
    }

    pub fn call<M: Encode + ?Sized>(&mut self, command: Command, message: &M) -> (Status, Vec<u8>) {
        let mut out = Vec::new();
        frame(command, message, &mut out);
        self.exchange(&out)
    }

    /// The body of a successful answer.
    pub fn ask<M: Encode + ?Sized>(&mut self, command: Command, message: &M) -> Vec<u8> {
        let (status, body) = self.call(command, message);
        assert_eq!(status, Status::OK, "{command}");
        body
    }

    /// Whether the tracker has closed, or closes without another byte.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0)) || self.stream.peer_addr().is_err()
    }
}

/// What a fresh storage on port 23000 says to the tracker at `addr`.
pub fn join_request(addr: SocketAddr) -> JoinRequest {
    JoinRequest {
        group: "group1".parse().unwrap(),
        port: 23000,
        store_path_count: 1,
        subdir_count_per_path: 4,
        upload_priority: 10,
        join_time: 1_795_220_644,
        up_time: 1_795_220_644,
        version: "6.16.1".parse().unwrap(),
        fresh: true,
        status: Some(StorageStatus::Init),
        id: Default::default(),
        tracker_ip: addr.ip().into(),
        trackers: vec![addr.to_string().parse().unwrap()],
    }
}

/// A storage as far as a tracker can tell.
pub struct Double {
    pub peer: Peer,
    pub reply: JoinReply,
}

impl Double {
    /// Joins from an address; no more.
    pub fn join(source: &str, addr: SocketAddr, request: &JoinRequest) -> Double {
        let mut peer = Peer::connect_from(source.parse().unwrap(), addr);
        let reply = JoinReply::decode(&peer.ask(Command::StorageJoin, request)).unwrap();
        Double { peer, reply }
    }

    /// Joins and becomes ACTIVE, with this much space on each path; whatever source it gets is said to be done.
    pub fn active(source: &str, addr: SocketAddr, request: &JoinRequest, space: PathSpace) -> Double {
        let mut double = Double::join(source, addr, request);
        if double.reply.status == StorageStatus::Init {
            let source = double.peer.ask(Command::StorageSyncDestReq, &());
            if SyncSource::decode(&source).unwrap().0.is_some() {
                // A source would report this when it has pushed everything.
                double.peer.ask(Command::StorageSyncNotify, &fdfs_protocol::peer::SyncNotify::default());
            }
        }
        double.beat(Some(StatBlock::default()));
        double.disk(&vec![space; request.store_path_count.into()]);
        double
    }

    pub fn beat(&mut self, counters: Option<StatBlock>) -> MemberChanges {
        MemberChanges::decode(&self.peer.ask(Command::StorageBeat, &Beat(counters))).unwrap()
    }

    pub fn disk(&mut self, paths: &[PathSpace]) -> MemberChanges {
        MemberChanges::decode(&self.peer.ask(Command::StorageReportDiskUsage, &DiskUsage(paths.to_vec()))).unwrap()
    }

    /// Reports that all changes of these sources up to a time have been applied.
    pub fn synced(&mut self, sources: &[&str], timestamp: u32) {
        let report = sources.iter().map(|s| SyncedTo { source: s.parse().unwrap(), timestamp }).collect();
        self.peer.ask(Command::StorageSyncReport, &SyncReport(report));
    }
}

pub fn space(total_mb: u64, free_mb: u64) -> PathSpace {
    PathSpace { total_mb, free_mb }
}
