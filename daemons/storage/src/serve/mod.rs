//! What the storage does for its clients, one module per kind of request.
//!
//! | commands | module |
//! |---|---|
//! | UPLOAD_FILE, UPLOAD_APPENDER_FILE, UPLOAD_SLAVE_FILE | [`upload`], [`slave`] |
//! | APPEND_FILE, MODIFY_FILE, TRUNCATE_FILE | [`change`] |
//! | REGENERATE_APPENDER_FILENAME | [`seal`] |
//! | DELETE_FILE | [`delete`] |
//! | SET_METADATA, GET_METADATA | [`metadata`] |
//! | DOWNLOAD_FILE | [`download`] |
//! | QUERY_FILE_INFO | [`info`] |
//! | REPORT_SERVER_ID, SYNC_* (of other storages) | [`replica`] |
//! | SYNC_LATEST (of other storages) | [`latest`] |
//!
//! What changes have in common, their records and what they wait for, is in [`record`].
//!
//! A handler takes what it needs of the body, answers success itself, and reports everything else as a [`Refusal`]:
//! [`Service::serve`] turns that into an answer, keeps the stream in step or ends it, and counts and logs the request.

mod change;
mod delete;
mod download;
pub(crate) mod info;
pub(crate) mod latest;
mod metadata;
mod record;
mod replica;
mod seal;
mod slave;
mod upload;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use fdfs_host::TcpStream;
use fdfs_protocol::binlog::Origin;
use fdfs_protocol::config::ReservedSpace;
use fdfs_protocol::file_id::Source;
use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::peer::replica::ReportServerId;
use fdfs_protocol::{Command, GroupName, IpSize, IpText, RemoteName, Status, StorageId, WireError};
use fdfs_server::{Dial, Handler};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::access_log::{AccessLog, Entry};
use crate::acks::Acks;
use crate::active::Active;
use crate::clock::seconds;
use crate::counters::{Count, Counters};
use crate::deleted::Deleted;
use crate::disk::binlog::Binlog;
use crate::disk::dir::{self, RelPath};
use crate::disk::durable::Syncer;
use crate::disk::pending::Pending;
use crate::disk::rotation::Rotation;
use crate::disk::store::{PathChoice, Store, StorePath};
use crate::names::Names;
use crate::net::scratch::SIZE;
use crate::net::{Conn, Gone};
use crate::report::members::Members;
use crate::silent::Silent;
use crate::sync::compare::Questions;
use crate::sync::lives::Lives;
use crate::sync::lost::Lost;
use crate::synced::Synced;
use crate::taken::Taken;

/// A refused body of at most this many bytes is read to its end, so that the connection can be used again.
const DRAIN: u64 = 1024 * 1024;

/// What this storage is in its cluster: known when a tracker has told.
#[derive(Debug)]
pub struct Membership {
    /// What stands in the names of new files.
    pub source: Source,
    /// Space to keep free.
    pub reserved: ReservedSpace,
    /// How a store path is chosen when the client leaves it open.
    pub choice: PathChoice,
    /// The id of this storage.
    pub id: StorageId,
    /// There are no trackers, and so no other members.
    pub alone: bool,
    /// The port of the group's storages.
    pub port: u16,
    /// Width of address fields.
    pub ip_size: IpSize,
    /// Addresses of the storages with configured ids.
    pub ids: HashMap<u32, IpText>,
}

/// Limits and switches of the service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The group this storage belongs to.
    pub group: GroupName,
    /// Longest wait inside a request, and for the first one.
    pub timeout: Duration,
    /// Longest request without file content, header included.
    pub buff_size: usize,
    /// How to connect to other members.
    pub dial: Dial,
}

/// Who pushes over a connection.
#[derive(Debug)]
struct Pusher {
    /// The member, if it has said who it is.
    source: Option<crate::synced::Source>,
    /// Over this connection, so that what comes over it is counted as applied.
    first: bool,
    /// No two of its changes of one file have the same time: it is none of FastDFS's storages.
    strict: bool,
}

impl Settings {
    /// Longest wait before another storage is told that it should come again: it is to hear that before it gives the
    /// connection up, and with it whatever else is on its way.
    fn patience(&self) -> Duration {
        self.timeout * 3 / 4
    }
}

/// Everything a request may need.
#[derive(Debug)]
pub struct Service {
    /// Limits and switches.
    pub settings: Settings,
    /// The store paths.
    pub store: Store,
    /// Where new files go.
    pub rotation: Rotation,
    /// The log of changes.
    pub binlog: Arc<Binlog>,
    /// What was done.
    pub counters: Counters,
    /// How far the changes of the other storages have been applied.
    pub synced: Synced,
    /// What clients are changing, for the next start.
    pub pending: Pending,
    /// Files being changed.
    pub names: Names,
    /// Files that were removed.
    pub deleted: Deleted,
    /// Whether some tracker uses this storage: it has got the old files then.
    pub active: Arc<Active>,
    /// Writes that were pushed here.
    pub taken: Taken,
    /// Makes changes durable before they are acknowledged, if that was asked for.
    pub syncer: Option<Syncer>,
    /// Makes changes wait for other members before they are acknowledged, if that was asked for.
    pub acks: Option<Arc<Acks>>,
    /// What other members let the push loops know.
    pub questions: Questions,
    /// Members that do not answer.
    pub silent: Silent,
    /// Members that lost their disks.
    pub lost: Lost,
    /// Connections that these had made.
    pub lives: Lives,
    /// The access log, if enabled.
    pub access: Option<AccessLog>,
    /// Set once, when a tracker has told.
    pub membership: OnceLock<Membership>,
    /// The storages of the group.
    pub members: watch::Sender<Members>,
}

/// Why a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// To be answered with this status.
    Status(Status),
    /// What was pushed was overtaken here. To be answered with this status, which lets the pusher go on, and as a member
    /// that does not have the change.
    Overtaken(Status),
    /// There is nobody to answer.
    Gone,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Status(status)
    }
}

impl From<Gone> for Refusal {
    fn from(_: Gone) -> Refusal {
        Refusal::Gone
    }
}

impl From<WireError> for Refusal {
    fn from(e: WireError) -> Refusal {
        Refusal::Status(e.status())
    }
}

type Done = Result<(), Refusal>;

/// What the access log wants to know of a request.
#[derive(Debug, Default)]
struct Note {
    action: &'static str,
    name: String,
}

/// A file of this storage, found by its name from outside.
struct Place<'a> {
    index: usize,
    path: &'a StorePath,
    rel: RelPath,
}

impl Place<'_> {
    /// Runs a call on the file; failures other than "no such file" are logged, since the client sees a number only.
    fn try_on<T>(&self, what: &str, call: impl FnOnce(&Self) -> io::Result<T>) -> Result<T, Status> {
        call(self).map_err(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                error!("cannot {what} {}: {e}", self.path.dir.full(&self.rel).display());
            }
            Status::from(&e)
        })
    }

    /// Gives the file the time of a change that was made here. Without it the change is made all the same, and recorded
    /// with this time.
    fn date(&self, file: &File, time: i64) {
        let _ = self.try_on("set the time of", |_| dir::set_mtime(file, seconds(time), Origin::Client));
    }

    fn dir(&self) -> &crate::disk::dir::Dir {
        &self.path.dir
    }
}

impl Service {
    /// The membership, or `EAGAIN` while no tracker has told it.
    fn membership(&self) -> Result<&Membership, Status> {
        self.membership.get().ok_or(Status::EAGAIN)
    }

    fn place(&self, name: &RemoteName) -> Result<Place<'_>, Status> {
        let (path, rel) = self.store.locate(name)?;
        // What cannot be recorded is refused before anything is done.
        canonical(name)?;
        Ok(Place { index: usize::from(name.store_path()), path, rel })
    }

    /// The whole body of a request without file content.
    async fn whole<'c>(&self, conn: &'c mut Conn<'_>) -> Result<&'c [u8], Refusal> {
        let limit = self.settings.buff_size.min(SIZE) - HEADER_LEN;
        match usize::try_from(conn.body_left()) {
            Ok(len) if len < limit => Ok(conn.head(len).await?),
            _ => Err(Status::EINVAL.into()),
        }
    }

    /// A request without file content, taken off the stream.
    async fn message<M>(
        &self,
        conn: &mut Conn<'_>,
        decode: impl FnOnce(&[u8]) -> Result<M, WireError>,
    ) -> Result<M, Refusal> {
        let body = self.whole(conn).await?;
        let message = decode(body)?;
        let len = body.len();
        conn.consume(len);
        Ok(message)
    }

    fn own_group(&self, group: &GroupName) -> Result<(), Status> {
        if *group == self.settings.group { Ok(()) } else { Err(Status::EINVAL) }
    }

    /// Answers with this storage's group and a name.
    async fn answer_name(&self, conn: &mut Conn<'_>, name: &RemoteName) -> Done {
        let name = name.as_bytes();
        let mut out = [0u8; HEADER_LEN + GroupName::LEN + RemoteName::MAX_LEN];
        let body = GroupName::LEN + name.len();
        out[..HEADER_LEN].copy_from_slice(&Header::ok(body as u64).encode());
        let group = self.settings.group.as_bytes();
        out[HEADER_LEN..HEADER_LEN + group.len()].copy_from_slice(group);
        out[HEADER_LEN + GroupName::LEN..HEADER_LEN + body].copy_from_slice(name);
        Ok(conn.send(&out[..HEADER_LEN + body]).await?)
    }

    async fn handle(&self, conn: &mut Conn<'_>, header: Header, note: &mut Note, pusher: &mut Option<Pusher>) -> Done {
        let Some(command) = Command::from_code(header.cmd) else { return Err(Status::EINVAL.into()) };
        match command {
            Command::UploadFile | Command::UploadAppenderFile => {
                note.action = "upload";
                let done = self.upload(conn, command == Command::UploadAppenderFile, note).await;
                self.count(Count::Upload, done)
            }
            Command::UploadSlaveFile => {
                note.action = "upload";
                let done = self.upload_slave(conn, note).await;
                self.count(Count::Upload, done)
            }
            Command::DownloadFile => {
                note.action = "download";
                let done = self.download(conn, note).await;
                self.count(Count::Download, done)
            }
            Command::AppendFile => {
                note.action = "append";
                let done = self.append(conn, note).await;
                self.count(Count::Append, done)
            }
            Command::ModifyFile => {
                note.action = "modify";
                let done = self.modify(conn, note).await;
                self.count(Count::Modify, done)
            }
            Command::TruncateFile => {
                note.action = "truncate";
                let done = self.truncate(conn, note).await;
                self.count(Count::Truncate, done)
            }
            Command::RegenerateAppenderFilename => {
                note.action = "rename";
                self.regenerate(conn, note).await
            }
            Command::DeleteFile => {
                note.action = "delete";
                let (what, done) = self.delete(conn, note).await;
                self.count(what, done)
            }
            Command::SetMetadata => {
                note.action = "set_metadata";
                let done = self.set_metadata(conn, note).await;
                self.count(Count::SetMeta, done)
            }
            Command::GetMetadata => {
                note.action = "get_metadata";
                let done = self.get_metadata(conn, note).await;
                self.count(Count::GetMeta, done)
            }
            Command::QueryFileInfo => {
                note.action = "status";
                self.query_file_info(conn, header.status, note).await
            }
            Command::ReportServerId
            | Command::SyncCreateFile
            | Command::SyncUpdateFile
            | Command::SyncDeleteFile
            | Command::SyncAppendFile
            | Command::SyncModifyFile
            | Command::SyncTruncateFile
            | Command::SyncCreateLink
            | Command::SyncRenameFile
            | Command::SyncCompare => self.take_push(conn, command, header.status, pusher).await,
            Command::SyncLatest => self.tell_latest(conn).await,
            Command::ActiveTest if header.body_len == 0 => {
                if header.status == ReportServerId::STRICT_TIMES {
                    let source = self.synced.source_at(conn.peer().ip());
                    pusher.get_or_insert(Pusher { source, first: false, strict: true });
                }
                Ok(conn.send(&Header::ok(0).encode()).await?)
            }
            Command::Quit => Err(Refusal::Gone),
            _ => Err(Status::EINVAL.into()),
        }
    }

    fn count(&self, what: Count, done: Done) -> Done {
        self.counters.count(what, 1, done.is_ok());
        done
    }

    /// Answers a refused request; says whether the connection can go on.
    async fn refuse(&self, conn: &mut Conn<'_>, answer: Header) -> bool {
        if conn.send(&answer.encode()).await.is_err() {
            return false;
        }
        // FastDFS closes after EINVAL, and clients expect it: a request that makes no sense may not be in step.
        if answer.outcome() != Status::EINVAL && conn.body_left() <= DRAIN {
            return conn.drain().await.is_ok();
        }
        if conn.body_left() > 0 {
            conn.linger().await;
        }
        false
    }

    fn log_access(
        &self,
        log: &AccessLog,
        peer: SocketAddr,
        note: &Note,
        status: Status,
        began: (SystemTime, Instant),
        lengths: (u64, u64),
    ) {
        if note.action.is_empty() {
            return;
        }
        log.add(&Entry {
            peer: peer.ip(),
            action: note.action,
            name: &note.name,
            status: status.0,
            began: began.0,
            took: began.1.elapsed(),
            request: lengths.0,
            response: lengths.1,
        });
    }
}

impl Handler for Service {
    fn tick(&self, worker: usize) {
        self.names.tick(worker);
    }

    async fn serve(self: Arc<Self>, stream: &mut TcpStream, peer: SocketAddr) {
        let mut conn = Conn::new(stream, peer, self.settings.timeout);
        let mut served = false;
        let mut pusher = None;
        // A connection on which nothing was ever asked is closed after the timeout; one that has served may stay idle.
        while let Ok(header) = conn.request(served).await {
            let mut note = Note::default();
            let began = self.access.as_ref().map(|_| (SystemTime::now(), Instant::now()));
            let done = self.handle(&mut conn, header, &mut note, &mut pusher).await;
            let (status, go_on) = match done {
                Ok(()) => (Status::OK, conn.body_left() == 0),
                Err(Refusal::Status(status)) => (status, self.refuse(&mut conn, Header::failure(status)).await),
                Err(Refusal::Overtaken(status)) => (status, self.refuse(&mut conn, Header::overtaken(status)).await),
                Err(Refusal::Gone) => return,
            };
            if let (Some(log), Some(began)) = (&self.access, began) {
                let lengths = (header.body_len.saturating_add(HEADER_LEN as u64), conn.sent());
                self.log_access(log, peer, &note, status, began, lengths);
            }
            if !go_on {
                return;
            }
            served = true;
        }
    }
}

/// The fixed part of a body that must have it.
async fn fixed<'c>(conn: &'c mut Conn<'_>, len: usize) -> Result<&'c [u8], Refusal> {
    if conn.body_left() <= len as u64 {
        return Err(Status::EINVAL.into());
    }
    Ok(conn.head(len).await?)
}

/// The name of a file as the log shows it, kept only if there is a log.
fn noted(service: &Service, note: &mut Note, name: &RemoteName) {
    if service.access.is_some() {
        note.name = name.to_string();
    }
}

/// Warns of something that should have been removed and was not. One that is not there is no matter.
fn warn_removed(what: &str, path: &std::path::Path, result: io::Result<()>) {
    if let Err(e) = result
        && e.kind() != io::ErrorKind::NotFound
    {
        warn!("cannot remove {what} {}: {e}", path.display());
    }
}

/// The name as records carry it: with its store path, in upper case. Requests may leave out the first one; `EINVAL` if
/// the name is too long with it, for a record without it would stop the replication of the group.
pub(crate) fn canonical(name: &RemoteName) -> Result<RemoteName, Status> {
    let text = name.as_bytes();
    let plain = text[0] == b'M' && !text[1].is_ascii_lowercase() && !text[2].is_ascii_lowercase();
    if plain {
        return Ok(*name);
    }
    RemoteName::parse(format!("M{:02X}/{}", name.store_path(), name.true_name()).as_bytes()).map_err(|_| Status::EINVAL)
}
