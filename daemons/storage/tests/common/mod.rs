//! A storage on its own on 127.0.0.1, and a client that sends raw messages.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::names::Prefix;
use fdfs_protocol::storage::{
    AppendHead, Download, FileRequest, MetadataMode, ModifyHead, Regenerate, SetMetadata, Truncate, UploadHead,
    UploadSlaveHead,
};
use fdfs_protocol::{Command, Encode, ExtName, FileId, GroupName, RemoteName};
use fdfs_storage::{Storage, StorageConfig};

/// A storage in a directory that is removed with it.
pub struct Fixture {
    pub storage: Option<Storage>,
    pub config: StorageConfig,
    pub dir: tempfile::TempDir,
}

pub fn group() -> GroupName {
    GroupName::new("group1").unwrap()
}

/// The settings tests begin with: few directories, few threads, short waits.
pub fn config(dir: &Path) -> StorageConfig {
    let mut config = StorageConfig::standalone(dir, group());
    config.subdirs = 4;
    config.workers = 2;
    config.network_timeout = Duration::from_secs(60);
    config
}

impl Fixture {
    pub fn start() -> Fixture {
        Fixture::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut StorageConfig)) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        let storage = Storage::start(config.clone()).unwrap();
        Fixture { storage: Some(storage), config, dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.storage.as_ref().unwrap().addr()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    pub fn restart(&mut self) {
        self.storage.take().unwrap().stop();
        self.storage = Some(Storage::start(self.config.clone()).unwrap());
    }

    /// Path of a stored file.
    pub fn path(&self, name: &RemoteName) -> PathBuf {
        self.config.paths[usize::from(name.store_path())].path.join("data").join(name.true_name())
    }

    pub fn binlog(&self) -> String {
        std::fs::read_to_string(self.config.base_path.join("data/sync/binlog.000")).unwrap()
    }

    /// The binlog without its times.
    pub fn changes(&self) -> Vec<String> {
        self.binlog().lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// All files below the data directories that are neither directories nor the storage's own.
    pub fn stored(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for path in &self.config.paths {
            for high in std::fs::read_dir(path.path.join("data")).unwrap().flatten() {
                if high.file_name().len() != 2 {
                    continue;
                }
                for low in std::fs::read_dir(high.path()).unwrap().flatten() {
                    found.extend(std::fs::read_dir(low.path()).unwrap().flatten().map(|f| f.path()));
                }
            }
        }
        found
    }
}

/// An answer: its status and its body.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u8,
    /// It says that what was pushed was overtaken here.
    pub overtaken: bool,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.status, 0, "{:?}", self.body);
        self.body
    }

    pub fn name(self) -> RemoteName {
        let id = FileId::decode(&self.ok()).unwrap();
        assert_eq!(id.group, group());
        id.name
    }
}

pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Client {
        Client::over(TcpStream::connect(addr).unwrap())
    }

    /// From an address of this host.
    pub fn connect_from(from: IpAddr, addr: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        Client::over(socket.into())
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // The server may close while it refuses; what matters is what it answers.
        let _ = self.stream.write_all(bytes);
    }

    pub fn try_answer(&mut self) -> io::Result<Answer> {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head)?;
        let header = Header::decode(&head).unwrap();
        assert!(header.cmd == 100 || (header.cmd == 201 && header.status != 0));
        assert!(header.status == 0 || header.body_len == 0, "a refusal has no body");
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status: header.status, overtaken: header.cmd == 201, body })
    }

    pub fn answer(&mut self) -> Answer {
        self.try_answer().unwrap()
    }

    /// A request with any body.
    pub fn raw(&mut self, cmd: u8, flags: u8, body: &[u8]) -> Answer {
        self.send_raw(cmd, flags, body);
        self.answer()
    }

    pub fn send_raw(&mut self, cmd: u8, flags: u8, body: &[u8]) {
        let mut out = Header { body_len: body.len() as u64, cmd, status: flags }.encode().to_vec();
        out.extend_from_slice(body);
        self.send(&out);
    }

    pub fn ask(&mut self, cmd: Command, head: &impl Encode, content: &[u8]) -> Answer {
        let mut body = Vec::new();
        head.encode(&mut body);
        body.extend_from_slice(content);
        self.raw(cmd.code(), 0, &body)
    }

    /// Sends a request without its content, of which `len` bytes are to follow.
    pub fn begin(&mut self, cmd: Command, head: &impl Encode, len: u64) {
        let mut body = Vec::new();
        head.encode(&mut body);
        let header = Header { body_len: body.len() as u64 + len, cmd: cmd.code(), status: 0 };
        self.send(&[&header.encode()[..], &body].concat());
    }

    /// Whether the server has closed, or does so soon.
    pub fn is_closed(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0; 1]), Ok(1))
    }

    pub fn is_alive(&mut self) -> bool {
        self.raw(Command::ActiveTest.code(), 0, b"").status == 0
    }

    pub fn upload(&mut self, content: &[u8], ext: &str) -> RemoteName {
        self.upload_as(Command::UploadFile, content, ext).name()
    }

    pub fn upload_appender(&mut self, content: &[u8], ext: &str) -> RemoteName {
        self.upload_as(Command::UploadAppenderFile, content, ext).name()
    }

    pub fn upload_as(&mut self, cmd: Command, content: &[u8], ext: &str) -> Answer {
        let head = UploadHead { store_path: None, size: content.len() as u64, ext: ExtName::new(ext).unwrap() };
        self.ask(cmd, &head, content)
    }

    pub fn upload_slave(&mut self, master: &RemoteName, prefix: &str, ext: &str, content: &[u8]) -> Answer {
        let head = UploadSlaveHead {
            size: content.len() as u64,
            prefix: Prefix::new(prefix).unwrap(),
            ext: ExtName::new(ext).unwrap(),
            master: *master,
        };
        self.ask(Command::UploadSlaveFile, &head, content)
    }

    pub fn download(&mut self, name: &RemoteName, offset: u64, len: u64) -> Answer {
        self.ask(Command::DownloadFile, &Download { offset, len, group: group(), name: *name }, b"")
    }

    pub fn content(&mut self, name: &RemoteName) -> Vec<u8> {
        self.download(name, 0, 0).ok()
    }

    pub fn delete(&mut self, name: &RemoteName) -> Answer {
        self.ask(Command::DeleteFile, &FileRequest { group: group(), name: *name }, b"")
    }

    pub fn append(&mut self, name: &RemoteName, content: &[u8]) -> Answer {
        self.ask(Command::AppendFile, &AppendHead { size: content.len() as u64, name: *name }, content)
    }

    pub fn modify(&mut self, name: &RemoteName, offset: u64, content: &[u8]) -> Answer {
        self.ask(Command::ModifyFile, &ModifyHead { offset, size: content.len() as u64, name: *name }, content)
    }

    pub fn truncate(&mut self, name: &RemoteName, size: u64) -> Answer {
        self.ask(Command::TruncateFile, &Truncate { size, name: *name }, b"")
    }

    pub fn regenerate(&mut self, name: &RemoteName) -> Answer {
        self.ask(Command::RegenerateAppenderFilename, &Regenerate { name: *name }, b"")
    }

    pub fn set_metadata(&mut self, name: &RemoteName, mode: MetadataMode, metadata: &[u8]) -> Answer {
        self.ask(Command::SetMetadata, &SetMetadata { mode, group: group(), name: *name, metadata }, b"")
    }

    pub fn metadata(&mut self, name: &RemoteName) -> Answer {
        self.ask(Command::GetMetadata, &FileRequest { group: group(), name: *name }, b"")
    }

    pub fn info(&mut self, name: &RemoteName, flags: u8) -> Answer {
        let mut body = Vec::new();
        FileRequest { group: group(), name: *name }.encode(&mut body);
        self.raw(Command::QueryFileInfo.code(), flags, &body)
    }
}

/// Bytes that do not repeat soon.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}
