//! What other storages of the group push here: REPORT_SERVER_ID and the SYNC commands.
//!
//! Every command may come twice, and after the change it brings was overtaken by later ones; what is here already is
//! answered with the status that makes the pusher go on (`EEXIST`, `ENOENT`), as FastDFS does; so is what is passed over
//! because something later is here, with a mark that tells members of our kind not to count on it. A change is complete
//! under its name, and in the binlog with its source's time and a lower-case letter, before it is answered. Answers have
//! no body.

mod delete;
mod fetch;
mod file;
mod range;
mod rename;

use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::header::Header;
use fdfs_protocol::peer::compare::SyncCompare;
use fdfs_protocol::peer::replica::{ReportServerId, SyncTwoNames};
use fdfs_protocol::{Command, RemoteName, Status};
use tokio::time::timeout;
use tracing::info;

use super::info::is_appender;
use super::latest::is_mutable;
use super::record::{Line, logged};
use super::{Done, Place, Pusher, Refusal, Service, canonical};
use crate::clock;
use crate::names::Held;
use crate::net::{Conn, Gone};
use crate::synced::Source;

/// The time of a change at its source, and the source if it has said who it is.
#[derive(Clone, Copy)]
struct Origins<'a> {
    name: &'a RemoteName,
    timestamp: u32,
    pusher: Option<&'a Pusher>,
}

impl<'a> Origins<'a> {
    /// A change of the file of this name has begun to come.
    fn new(name: &'a RemoteName, timestamp: u32, pusher: Option<&'a Pusher>) -> Origins<'a> {
        let origin = Origins { name, timestamp, pusher };
        if let Some(source) = origin.source() {
            source.begins(name, timestamp, clock::now());
        }
        origin
    }

    fn source(&self) -> Option<&'a Source> {
        self.pusher.and_then(|pusher| pusher.source.as_ref())
    }

    /// Whether what is here with the same time is another member's change. FastDFS's storages make several at one time.
    fn is_strict(&self) -> bool {
        self.pusher.is_some_and(|pusher| pusher.strict)
    }

    /// The binlog line of a change. Made before the change: a line that nobody could read is refused then.
    fn line(&self, change: Change, name: &RemoteName) -> Result<Line, Status> {
        let timestamp = self.timestamp;
        Line::new(&Record { timestamp, origin: Origin::Replica, change, name: canonical(name)? })
    }
}

/// By how much two times of one of FastDFS's storages may be in the wrong order, seconds.
const THEIR_CLOCK: i64 = 1;

impl Service {
    pub(super) async fn take_push(
        &self,
        conn: &mut Conn<'_>,
        command: Command,
        flag: u8,
        pusher: &mut Option<Pusher>,
    ) -> Done {
        if self.lives.is_over(conn.peer().ip(), conn.since()) {
            return Err(Refusal::Gone);
        }
        let done = self.take_change(conn, command, flag, pusher).await;
        if matches!(done, Err(Refusal::Status(status)) if status != Status::EEXIST && status != Status::ENOENT) {
            self.synced.refuses();
        }
        done
    }

    async fn take_change(&self, conn: &mut Conn<'_>, command: Command, flag: u8, pusher: &mut Option<Pusher>) -> Done {
        let from = pusher.as_ref();
        match command {
            Command::ReportServerId => {
                let ReportServerId { id } = self.message(conn, ReportServerId::decode).await?;
                let source = self.synced.connected(id, conn.peer().ip());
                self.heard_of(conn.peer().ip());
                let strict = flag == ReportServerId::STRICT_TIMES;
                *pusher = Some(Pusher { source: Some(source), first: true, strict });
            }
            Command::SyncCreateFile => self.take_file(conn, flag, false, from).await?,
            Command::SyncUpdateFile => self.take_file(conn, flag, true, from).await?,
            Command::SyncDeleteFile => self.take_delete(conn, from).await?,
            Command::SyncAppendFile => self.take_range(conn, false, from).await?,
            Command::SyncModifyFile => self.take_range(conn, true, from).await?,
            Command::SyncTruncateFile => self.take_truncate(conn, from).await?,
            Command::SyncCreateLink => self.take_link(conn, from).await?,
            Command::SyncRenameFile => self.take_rename(conn, from).await?,
            Command::SyncCompare => self.take_compare(conn).await?,
            _ => return Err(Status::EINVAL.into()),
        }
        Ok(conn.send(&Header::ok(0).encode()).await?)
    }

    /// Another member says what it has. Answered when it is certain to get what it lacks.
    async fn take_compare(&self, conn: &mut Conn<'_>) -> Done {
        let len = usize::try_from(conn.body_left()).ok().filter(|len| *len <= SyncCompare::MAX_LEN);
        let len = len.ok_or(Status::EINVAL)?;
        let _turn = self.questions.turn().ok_or(Status::EAGAIN)?;
        let mut body = Vec::with_capacity(len);
        let receive = async {
            while body.len() < len {
                let piece = conn.piece(0).await?;
                body.extend_from_slice(piece);
                let taken = piece.len();
                conn.consume(taken);
            }
            Ok::<_, Gone>(())
        };
        // For all of it: whoever sends it keeps the others waiting.
        timeout(self.settings.timeout, receive).await.unwrap_or(Err(Gone))?;
        let compare = SyncCompare::decode(&body)?;
        drop(body);
        match timeout(self.settings.timeout, self.questions.ask(compare)).await {
            Ok(Status::OK) => Ok(()),
            Ok(status) => Err(status.into()),
            Err(_) => Err(Status::EAGAIN.into()),
        }
    }

    /// The right to make a pushed change. A pusher whose disks are lost makes none any more.
    async fn hold_for_push(&self, conn: &Conn<'_>, name: &RemoteName) -> Result<Held<'_>, Refusal> {
        let mut held = self.names.hold(name, self.settings.patience()).await?;
        held.set_latest(None);
        if is_mutable(name) {
            self.silent.pushes(conn.peer().ip(), name);
        }
        self.not_lost(conn, name).map(|()| held)
    }

    /// Asked after every long wait before a change.
    fn not_lost(&self, conn: &Conn<'_>, name: &RemoteName) -> Result<(), Refusal> {
        if !self.lives.is_over(conn.peer().ip(), conn.since()) {
            return Ok(());
        }
        info!("{name}: what {} sent before it lost its disks comes too late", conn.peer());
        Err(Refusal::Gone)
    }

    /// Writes the record of a pushed change. `done`: the change cannot be taken back, so that the record is owed if it
    /// cannot be written now.
    fn record_push(&self, line: &Line, done: bool) -> Result<(), Status> {
        logged(self.binlog.append_pushed(line.as_bytes(), done))?;
        self.counters.sync_update(clock::now());
        Ok(())
    }

    /// The change is here, by this push or by an earlier one. The times of what is changed often run ahead of the
    /// clock: these tell nothing of other files.
    fn has(&self, origin: Origins<'_>) {
        let Some(source) = origin.source() else { return };
        source.ends(origin.name);
        let first = origin.pusher.is_some_and(|pusher| pusher.first);
        if first && !(runs_ahead(origin.name) && i64::from(origin.timestamp) > clock::now()) {
            self.synced.applied(source, origin.timestamp, clock::now());
        }
    }

    /// The change is here already: reads what comes with it and says so. Who brought it may have been killed before it was
    /// on stable storage.
    async fn had(&self, conn: &mut Conn<'_>, origin: Origins<'_>, place: &Place<'_>, status: Status) -> Done {
        conn.drain().await?;
        if self.syncer.is_some() {
            let file = match place.try_on("open", |p| p.dir().open_read(&p.rel)) {
                Err(Status::ENOENT) => None,
                other => Some(other?),
            };
            self.settle(place.index, file, self.dir_to_settle(place)?).await?;
        }
        self.has(origin);
        Err(status.into())
    }

    /// Something later is here, which stays: reads what comes with the push and says so.
    async fn overtaken(&self, conn: &mut Conn<'_>, origin: Origins<'_>, status: Status) -> Done {
        conn.drain().await?;
        self.has(origin);
        Err(Refusal::Overtaken(status))
    }

    /// What is here was made at the same time, and stays. The pusher gets it from here: who made it may be lost.
    async fn kept(&self, conn: &mut Conn<'_>, origin: Origins<'_>, name: &RemoteName, status: Status) -> Done {
        let owed = self.questions.owe(conn.peer().ip(), *name, origin.timestamp);
        // The loops are quick; the pusher has waited for the name already.
        match timeout(self.settings.timeout / 8, owed).await {
            Ok(Status::OK) => self.overtaken(conn, origin, status).await,
            _ => {
                conn.drain().await?;
                Err(Status::EAGAIN.into())
            }
        }
    }

    async fn take_link(&self, conn: &mut Conn<'_>, pusher: Option<&Pusher>) -> Done {
        let request = self.two_names(conn).await?;
        let (place, target) = (self.place(&request.name)?, self.place(&request.other)?);
        let origin = Origins::new(&request.name, request.timestamp, pusher);
        let line = origin.line(Change::Link { source: Some(canonical(&request.other)?) }, &request.name)?;
        let _held = self.hold_for_push(conn, &request.name).await?;
        let there = |p: &Place<'_>, follow| p.dir().meta(&p.rel, follow).is_ok();
        let late = self.deleted.is_late(&request.name, request.timestamp);
        let lacking = !there(&target, true);
        if late || lacking || there(&place, false) {
            // Our members ask whether it was made, and come again.
            if late || !lacking || !origin.is_strict() {
                self.has(origin);
            }
            return Ok(());
        }
        self.can_record()?;
        place.try_on("make the link", |p| p.dir().symlink(&target.dir().full(&target.rel), &p.rel))?;
        self.record_push(&line, true)?;
        self.deleted.forget(&request.name);
        self.settle(place.index, None, self.dir_to_settle(&place)?).await?;
        self.has(origin);
        Ok(())
    }

    async fn two_names(&self, conn: &mut Conn<'_>) -> Result<SyncTwoNames, Refusal> {
        let request = self.message(conn, SyncTwoNames::decode).await?;
        self.own_group(&request.group)?;
        Ok(request)
    }
}

/// Whether the times of changes of a file may run ahead of the clock: each is later than the one before.
fn runs_ahead(name: &RemoteName) -> bool {
    name.is_metadata() || is_appender(name)
}
