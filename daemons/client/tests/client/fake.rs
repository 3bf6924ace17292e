//! Servers for tests: they speak the raw protocol on 127.0.0.1, keep what they were asked, and fail on demand.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fdfs_protocol::file_id::{NameBlock, NewName, SizeField, Source};
use fdfs_protocol::stat::{GroupRecord, StorageRecord, StorageStatus};
use fdfs_protocol::storage as wire;
use fdfs_protocol::tracker::{
    Endpoint, FetchAll, FetchOne, FileQuery, GroupList, GroupQuery, StorageQuery, StoreAll, StoreOne,
};
use fdfs_protocol::{Command, Encode, ExtName, FileId, GroupName, HEADER_LEN, Header, IpSize, RemoteName, Status};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub header: Header,
    pub body: Vec<u8>,
}

impl Received {
    pub fn command(&self) -> Command {
        Command::from_code(self.header.cmd).unwrap()
    }
}

/// What a server does about a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers with status 0 and this body.
    Body(Vec<u8>),
    Status(Status),
    /// Sends these bytes, whatever they are, and goes on.
    Raw(Vec<u8>),
    /// Sends these bytes and closes.
    RawThenClose(Vec<u8>),
    Close,
    /// Never answers, keeps the connection open.
    Silence,
}

impl Reply {
    pub fn message<M: Encode>(message: &M) -> Self {
        let mut body = Vec::new();
        message.encode(&mut body);
        Self::Body(body)
    }

    /// A header that announces more than follows, and then the end.
    pub fn cut_off(announced: u64, content: &[u8]) -> Self {
        let mut bytes = Header::ok(announced).encode().to_vec();
        bytes.extend_from_slice(content);
        Self::RawThenClose(bytes)
    }
}

type Handler = dyn Fn(&Received) -> Reply + Send + Sync;

/// What is done instead of handling the next requests.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This reply, after the whole request arrived.
    Reply(Reply),
    /// This reply when the header has come, then the connection is closed with the body unread.
    Early(Status),
    /// The connection is closed when the header has come, with the body unread.
    Cut,
    /// The whole server hangs when the header has come, as one that is stopped: see [`Fake::hang`].
    Hang,
    /// The answer is a while in coming; other connections are served meanwhile.
    Slow(Duration),
}

struct State {
    handler: Box<Handler>,
    faults: Mutex<VecDeque<(Command, Fault)>>,
    log: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    hung: watch::Sender<bool>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// A running server; stops when dropped.
pub struct Fake {
    pub addr: SocketAddr,
    state: Arc<State>,
    accept: AbortHandle,
}

impl Fake {
    pub async fn start(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), Box::new(handler))
    }

    fn start_on(listener: TcpListener, handler: Box<Handler>) -> Self {
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            handler,
            faults: Mutex::default(),
            log: Mutex::default(),
            connections: AtomicUsize::new(0),
            hung: watch::Sender::new(false),
            tasks: Mutex::default(),
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&state))).abort_handle();
        Self { addr, state, accept }
    }

    /// An address on which nobody listens.
    pub async fn refused() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    /// The next request with `command` that finds no earlier fault meets this one.
    pub fn fail(&self, command: Command, fault: Fault) {
        self.state.faults.lock().push_back((command, fault));
    }

    /// From now on nothing is answered, though connections are made: what a client sees of a process that is stopped.
    pub fn hang(&self) {
        self.state.hung.send_replace(true);
    }

    /// Ends that: what came meanwhile is answered late.
    pub fn go_on(&self) {
        self.state.hung.send_replace(false);
    }

    /// Faults not met yet are not met any more.
    pub fn clear_faults(&self) {
        self.state.faults.lock().clear();
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.log.lock().clone()
    }

    pub fn count(&self, command: Command) -> usize {
        self.state.log.lock().iter().filter(|request| request.header.cmd == command.code()).count()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Closes all connections, as a restart does; goes on listening.
    pub async fn close_connections(&self) {
        let tasks = std::mem::take(&mut *self.state.tasks.lock());
        for task in &tasks {
            task.abort();
        }
        while tasks.iter().any(|task| !task.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    /// Closes everything.
    pub async fn stop(&self) {
        self.accept.abort();
        while !self.accept.is_finished() {
            tokio::task::yield_now().await;
        }
        self.close_connections().await;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accept.abort();
        for task in self.state.tasks.lock().iter() {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut set = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::SeqCst);
        let task = set.spawn(serve(stream, Arc::clone(&state)));
        state.tasks.lock().push(task);
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    loop {
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).await.ok()?;
        let header = Header::decode(&head).ok()?;
        state.hung.subscribe().wait_for(|hung| !hung).await.ok()?;
        let fault = {
            let mut faults = state.faults.lock();
            let position = faults.iter().position(|(command, _)| command.code() == header.cmd);
            position.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
        };
        if let Some(Fault::Early(status)) = fault {
            stream.write_all(&Header::failure(status).encode()).await.ok()?;
            return None;
        }
        match fault {
            Some(Fault::Cut) => return None,
            Some(Fault::Hang) => {
                state.hung.send_replace(true);
                state.hung.subscribe().wait_for(|hung| !hung).await.ok()?;
            }
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        let mut body = vec![0; usize::try_from(header.body_len).ok()?];
        stream.read_exact(&mut body).await.ok()?;
        let request = Received { header, body };
        state.log.lock().push(request.clone());
        let reply = match fault {
            Some(Fault::Reply(reply)) => reply,
            _ => (state.handler)(&request),
        };
        match reply {
            Reply::Body(body) => {
                let mut answer = Header::ok(body.len() as u64).encode().to_vec();
                answer.extend_from_slice(&body);
                stream.write_all(&answer).await.ok()?;
            }
            Reply::Status(status) => stream.write_all(&Header::failure(status).encode()).await.ok()?,
            Reply::Raw(bytes) => stream.write_all(&bytes).await.ok()?,
            Reply::RawThenClose(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                return None;
            }
            Reply::Close => return None,
            Reply::Silence => std::future::pending().await,
        }
    }
}

pub fn group() -> GroupName {
    "group1".parse().unwrap()
}

/// A storage that keeps its files in memory. Replicas share them.
pub type Files = Arc<Mutex<HashMap<RemoteName, Vec<u8>>>>;

/// Starts a storage with `files`.
pub async fn storage(files: &Files) -> Fake {
    let files = Arc::clone(files);
    let serial = AtomicUsize::new(0);
    Fake::start(move |request| store(&files, &serial, request)).await
}

fn store(files: &Files, serial: &AtomicUsize, request: &Received) -> Reply {
    let mut files = files.lock();
    let body = request.body.as_slice();
    let missing = Reply::Status(Status::ENOENT);
    match request.command() {
        command @ (Command::UploadFile | Command::UploadAppenderFile) => {
            let (head, content) = body.split_at(wire::UploadHead::FIXED_LEN);
            let head = wire::UploadHead::decode(head, body.len() as u64).unwrap();
            let random = serial.fetch_add(1, Ordering::SeqCst) as u32;
            let name = name_of(content, &head.ext, random, command == Command::UploadAppenderFile);
            files.insert(name, content.to_vec());
            Reply::message(&FileId::new(group(), name))
        }
        Command::UploadSlaveFile => {
            let len =
                wire::UploadSlaveHead::FIXED_LEN + wire::UploadSlaveHead::name_len(body, body.len() as u64).unwrap();
            let head = wire::UploadSlaveHead::decode(&body[..len], body.len() as u64).unwrap();
            let name = head.master.slave(&head.prefix, &head.ext).unwrap();
            if !files.contains_key(&head.master) {
                return missing;
            }
            if files.contains_key(&name) {
                return Reply::Status(Status::EEXIST);
            }
            files.insert(name, body[len..].to_vec());
            Reply::message(&FileId::new(group(), name))
        }
        Command::AppendFile => {
            let len = wire::AppendHead::FIXED_LEN + wire::AppendHead::name_len(body, body.len() as u64).unwrap();
            let head = wire::AppendHead::decode(&body[..len], body.len() as u64).unwrap();
            let Some(file) = files.get_mut(&head.name) else { return missing };
            file.extend_from_slice(&body[len..]);
            Reply::Body(Vec::new())
        }
        Command::ModifyFile => {
            let len = wire::ModifyHead::FIXED_LEN + wire::ModifyHead::name_len(body, body.len() as u64).unwrap();
            let head = wire::ModifyHead::decode(&body[..len], body.len() as u64).unwrap();
            let Some(file) = files.get_mut(&head.name) else { return missing };
            let (start, end) = (head.offset as usize, (head.offset + head.size) as usize);
            file.resize(file.len().max(end), 0);
            file[start..end].copy_from_slice(&body[len..]);
            Reply::Body(Vec::new())
        }
        Command::TruncateFile => {
            let request = wire::Truncate::decode(body).unwrap();
            let Some(file) = files.get_mut(&request.name) else { return missing };
            if file.len() as u64 == request.size {
                // What FastDFS storages do when there is nothing to do.
                return Reply::Body(body.to_vec());
            }
            file.resize(request.size as usize, 0);
            Reply::Body(Vec::new())
        }
        Command::RegenerateAppenderFilename => {
            let request = wire::Regenerate::decode(body).unwrap();
            let Some(content) = files.remove(&request.name) else { return missing };
            let name = name_of(&content, &ExtName::NONE, 77, false);
            files.insert(name, content);
            Reply::message(&FileId::new(group(), name))
        }
        Command::DeleteFile => {
            let request = wire::FileRequest::decode(body).unwrap();
            files.remove(&request.name).map_or(missing, |_| Reply::Body(Vec::new()))
        }
        Command::SetMetadata => {
            let request = wire::SetMetadata::decode(body).unwrap();
            files.insert(request.name.metadata().unwrap(), request.metadata.to_vec());
            Reply::Body(Vec::new())
        }
        Command::GetMetadata => {
            let request = wire::FileRequest::decode(body).unwrap();
            files.get(&request.name.metadata().unwrap()).map_or(missing, |data| Reply::Body(data.clone()))
        }
        Command::DownloadFile => {
            let request = wire::Download::decode(body).unwrap();
            let Some(file) = files.get(&request.name) else { return missing };
            let (offset, len) = (request.offset as usize, request.len as usize);
            if offset >= file.len() {
                return Reply::Status(Status::EINVAL);
            }
            let rest = &file[offset..];
            Reply::Body(rest[..if len == 0 { rest.len() } else { len.min(rest.len()) }].to_vec())
        }
        Command::QueryFileInfo => {
            let request = wire::FileRequest::decode(body).unwrap();
            let Some(file) = files.get(&request.name) else { return missing };
            let info = wire::FileInfo {
                size: file.len() as u64,
                mtime: 1,
                crc32: crc32fast::hash(file),
                source: "127.0.0.1".parse::<std::net::IpAddr>().unwrap().into(),
            };
            let mut answer = Vec::new();
            info.encode(IpSize::V4, &mut answer);
            Reply::Body(answer)
        }
        Command::ActiveTest => Reply::Body(Vec::new()),
        other => panic!("no storage command: {other}"),
    }
}

fn name_of(content: &[u8], ext: &ExtName, random: u32, appender: bool) -> RemoteName {
    let size = if appender { SizeField::appender(random) } else { SizeField::normal(content.len() as u64, random) };
    // An id, not an address: all storages of a test have the same address.
    let block =
        NameBlock { source: Source::id(100_001).unwrap(), timestamp: 1000, size, crc32: crc32fast::hash(content) };
    RemoteName::generate(&NewName { store_path: 0, directories: (0, 0), block, slot: None, ext, random })
}

/// A storage with a copy of one of `files`, as a replica after a transfer: each has its own.
pub fn copy(files: &Files) -> Files {
    Arc::new(Mutex::new(files.lock().clone()))
}

/// What a tracker knows: its groups and their storages.
pub type Members = Arc<Mutex<Vec<(GroupName, Vec<SocketAddr>)>>>;

pub fn members(storages: &[SocketAddr]) -> Members {
    Arc::new(Mutex::new(vec![(group(), storages.to_vec())]))
}

/// Starts a tracker that knows `members` and takes their storages in turn.
pub async fn tracker(members: &Members) -> Fake {
    tracker_believing(members, |storages| storages.to_vec()).await
}

/// Starts a tracker that has its own belief about which storages of a group have a file, take changes, and come first
/// for uploads.
pub async fn tracker_believing(
    members: &Members,
    believed: impl Fn(&[SocketAddr]) -> Vec<SocketAddr> + Send + Sync + 'static,
) -> Fake {
    let members = Arc::clone(members);
    let turn = AtomicUsize::new(0);
    Fake::start(move |request| match request.command() {
        Command::QueryFetchAll
        | Command::QueryFetchOne
        | Command::QueryUpdate
        | Command::QueryStoreWithoutGroupOne
        | Command::QueryStoreWithGroupOne => {
            let known = members.lock().iter().map(|(group, storages)| (*group, believed(storages))).collect();
            answer(&Mutex::new(known), &turn, request)
        }
        _ => answer(&members, &turn, request),
    })
    .await
}

fn answer(members: &Mutex<Vec<(GroupName, Vec<SocketAddr>)>>, turn: &AtomicUsize, request: &Received) -> Reply {
    let members = members.lock();
    let none = Reply::Status(Status::ENOENT);
    let of = |group: GroupName| members.iter().find(|(name, storages)| *name == group && !storages.is_empty());
    let first = || members.iter().find(|(_, storages)| !storages.is_empty());
    let endpoints = |storages: &[SocketAddr]| storages.iter().copied().map(Endpoint::from).collect::<Vec<_>>();
    let mut body = Vec::new();
    match request.command() {
        command @ (Command::QueryStoreWithoutGroupOne | Command::QueryStoreWithGroupOne) => {
            let found = match command {
                Command::QueryStoreWithGroupOne => of(GroupQuery::decode(&request.body).unwrap().group),
                _ => first(),
            };
            let Some((group, storages)) = found else { return none };
            let server = storages[turn.fetch_add(1, Ordering::SeqCst) % storages.len()].into();
            StoreOne { group: *group, server, store_path: 0 }.encode(IpSize::V4, &mut body);
        }
        command @ (Command::QueryStoreWithoutGroupAll | Command::QueryStoreWithGroupAll) => {
            let found = match command {
                Command::QueryStoreWithGroupAll => of(GroupQuery::decode(&request.body).unwrap().group),
                _ => first(),
            };
            let Some((group, storages)) = found else { return none };
            StoreAll { group: *group, servers: endpoints(storages), store_path: 0 }.encode(IpSize::V4, &mut body);
        }
        command @ (Command::QueryFetchOne | Command::QueryUpdate) => {
            let Some((group, storages)) = of(FileQuery::decode(&request.body).unwrap().group) else { return none };
            let at = if command == Command::QueryUpdate { 0 } else { turn.fetch_add(1, Ordering::SeqCst) };
            FetchOne { group: *group, server: storages[at % storages.len()].into() }.encode(IpSize::V4, &mut body);
        }
        Command::QueryFetchAll => {
            let Some((group, storages)) = of(FileQuery::decode(&request.body).unwrap().group) else { return none };
            FetchAll { group: *group, servers: endpoints(storages) }.encode(IpSize::V4, &mut body);
        }
        Command::ListStorage => {
            let Some((_, storages)) = of(StorageQuery::decode(&request.body).unwrap().group) else { return none };
            for storage in storages {
                let blank = vec![0; StorageRecord::len(IpSize::V4)];
                let record = StorageRecord {
                    status: StorageStatus::Active,
                    ip: storage.ip().into(),
                    port: storage.port(),
                    ..StorageRecord::decode(&blank, IpSize::V4).unwrap()
                };
                record.encode(IpSize::V4, &mut body);
            }
        }
        Command::ListAllGroups => {
            let record = |(name, storages): &(GroupName, Vec<SocketAddr>)| GroupRecord {
                name: *name,
                total_mb: 100,
                free_mb: 50,
                reserved_mb: 1,
                trunk_free_mb: 0,
                storage_count: storages.len() as u64,
                storage_port: 23000,
                readable_count: storages.len() as u64,
                writable_count: storages.len() as u64,
                current_write_server: 0,
                store_path_count: 1,
                subdir_count_per_path: 256,
                current_trunk_file_id: -1,
            };
            return Reply::message(&GroupList(members.iter().map(record).collect()));
        }
        Command::ActiveTest | Command::DeleteGroup | Command::DeleteStorage => {}
        other => panic!("no tracker command of these tests: {other}"),
    }
    Reply::Body(body)
}
