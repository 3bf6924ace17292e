//! What other storages of the group push here: REPORT_SERVER_ID and the SYNC commands.
//!
//! Every command may come twice, and after the change it brings was overtaken by later ones; what is here already is
//! answered with the status that makes the pusher go on (`EEXIST`, `ENOENT`), as FastDFS does; so is what is passed over
//! because something later is here, with a mark that tells members of our kind not to count on it. A change is complete
//! under its name, and in the binlog with its source's time and a lower-case letter, before it is answered. Answers have
//! no body.

mod fetch;
mod rename;

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crc32fast::Hasher;
use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::header::Header;
use fdfs_protocol::peer::compare::SyncCompare;
use fdfs_protocol::peer::replica::{
    ReportServerId, SyncDelete, SyncFileHead, SyncRangeHead, SyncTruncate, SyncTwoNames,
};
use fdfs_protocol::{Command, RemoteName, Status};
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use super::change::shorten;
use super::info::{has_sum, is_appender};
use super::record::{Line, logged};
use super::upload::WHOLE;
use super::{Done, Place, Pusher, Refusal, Service, canonical, fixed, warn_removed};
use crate::blocking;
use crate::clock;
use crate::counters::Count;
use crate::disk::dir::{self, Meta, RelPath};
use crate::disk::incoming::Incoming;
use crate::disk::pending;
use crate::names::{Held, Sum};
use crate::net::{Conn, Gone};
use crate::sync::aside::Cause;

/// The time of a change at its source, and the source if it has said who it is.
#[derive(Clone, Copy)]
struct Origins<'a> {
    timestamp: u32,
    /// It may be later than the clock of the source was.
    ahead: bool,
    pusher: Option<&'a Pusher>,
}

impl Origins<'_> {
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
        let from = pusher.as_ref();
        match command {
            Command::ReportServerId => {
                let ReportServerId { id } = self.message(conn, ReportServerId::decode).await?;
                let source = self.synced.source(id).ok_or(Status::EINVAL)?;
                *pusher = Some(Pusher { source: Some(source), strict: flag == ReportServerId::STRICT_TIMES });
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
        let held = self.names.hold(name, self.settings.patience()).await?;
        if self.lives.is_over(conn.peer().ip(), conn.accepted()) {
            info!("{name}: what {} sent before it lost its disks comes too late", conn.peer());
            return Err(Refusal::Gone);
        }
        Ok(held)
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
        if let Some(source) = origin.pusher.and_then(|pusher| pusher.source.as_ref())
            && !(origin.ahead && i64::from(origin.timestamp) > clock::now())
        {
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
        let cause = Cause { timestamp: origin.timestamp, removed: false };
        let owed = self.questions.owe(conn.peer().ip(), *name, cause);
        // The loops are quick; the pusher has waited for the name already.
        match timeout(self.settings.timeout / 8, owed).await {
            Ok(Status::OK) => self.overtaken(conn, origin, status).await,
            _ => {
                conn.drain().await?;
                Err(Status::EAGAIN.into())
            }
        }
    }

    async fn take_file(&self, conn: &mut Conn<'_>, flag: u8, replace: bool, pusher: Option<&Pusher>) -> Done {
        let body = conn.body_left();
        let names = SyncFileHead::names_len(fixed(conn, SyncFileHead::FIXED_LEN).await?)?;
        let with_content = match Status(flag) {
            Status::OK => true,
            Status::EEXIST => false,
            _ => return Err(Status::EINVAL.into()),
        };
        let len = SyncFileHead::FIXED_LEN + names;
        let head = SyncFileHead::decode(conn.head(len).await?, body, with_content)?;
        conn.consume(len);
        self.own_group(&head.group)?;
        let place = self.place(&head.name)?;
        let origin = Origins { timestamp: head.timestamp, ahead: runs_ahead(&head.name), pusher };
        let line = origin.line(if replace { Change::Update } else { Change::Create }, &head.name)?;
        if !with_content {
            self.record_push(&line, false)?;
            return self.had(conn, origin, &place, Status::EEXIST).await;
        }
        self.counters.tried(Count::SyncInBytes, head.size);
        let known = |p: &Place<'_>| p.dir().meta(&p.rel, false).ok().filter(Meta::is_file);
        let late = |p: &Place<'_>| {
            self.deleted.is_late(&head.name, head.timestamp)
                || known(p).is_some_and(|meta| is_overtaken(&head, replace, &meta))
        };
        if late(&place) {
            return self.overtaken(conn, origin, Status::EEXIST).await;
        }
        if !replace && head.name.is_given_once() && known(&place).is_some_and(|meta| meta.size == head.size) {
            self.record_push(&line, false)?;
            return self.had(conn, origin, &place, Status::EEXIST).await;
        }
        let mut incoming = self.begin_push(&place)?;
        let hasher = self.receive_push(conn, incoming.file(), &head).await?;
        place.try_on("set the time of", |_| dir::set_mtime(incoming.file(), head.timestamp, Origin::Replica))?;
        // Whoever changes the file now comes first, and what it did is pushed to its source in turn.
        let began = Instant::now();
        let mut held = self.hold_for_push(conn, &head.name).await?;
        if late(&place) {
            return self.overtaken(conn, origin, Status::EEXIST).await;
        }
        // Of two that members made at the same time all keep the same one.
        let at_once = |meta: &Meta| !head.name.is_given_once() && meta.mtime == i64::from(head.timestamp);
        let tied = known(&place).filter(at_once);
        if let Some(here) = &tied {
            let file = place.try_on("open", |p| p.dir().open_read(&p.rel))?;
            let patience = self.settings.patience().saturating_sub(began.elapsed());
            let crc32 = self.checksum_soon(patience, file, here.size).await?;
            match (here.size, crc32).cmp(&(head.size, hasher.clone().finalize())) {
                Ordering::Equal if !replace => {
                    self.record_push(&line, false)?;
                    return self.had(conn, origin, &place, Status::EEXIST).await;
                }
                Ordering::Greater if origin.is_strict() => {
                    return self.kept(conn, origin, &head.name, Status::EEXIST).await;
                }
                _ => {}
            }
        }
        let replace = replace || tied.is_some();
        let (_, base) = place.rel.split();
        let base = RelPath::new(base).ok_or(Status::EINVAL)?;
        let fresh = match if replace { Err(io::ErrorKind::AlreadyExists.into()) } else { incoming.publish(&base) } {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !replace {
                    warn!("{} is here with another size; taking the one that is pushed", head.name);
                }
                self.can_record()?;
                place.try_on("replace", |_| incoming.replace(&base))?;
                false
            }
            other => place.try_on("name", |_| other).map(|()| true)?,
        };
        held.set_sum(is_appender(&head.name).then_some(Sum { hasher, size: head.size }));
        if let Err(status) = self.record_push(&line, !fresh) {
            if fresh {
                warn_removed("a file without a record", &place.dir().full(&place.rel), place.dir().unlink(&place.rel));
            }
            return Err(status.into());
        }
        self.deleted.forget(&head.name);
        place.path.took(head.size);
        let dir = self.dir_to_settle(&place)?;
        self.settle(place.index, Some(incoming.into_file()), dir).await?;
        drop(held);
        self.counters.went_well(Count::SyncInBytes, head.size);
        self.has(origin);
        Ok(())
    }

    /// A file without a name in the directory of `place`.
    fn begin_push(&self, place: &Place<'_>) -> Result<Incoming, Status> {
        let parent = RelPath::new(place.rel.split().0).ok_or(Status::EINVAL)?;
        let begun = place
            .try_on("open the directory of", |p| p.dir().open_dir(&parent))
            .and_then(|dir| place.try_on("make", |_| Incoming::begin(&Arc::new(dir))));
        self.counters.count(Count::FileOpen, 1, begun.is_ok());
        begun
    }

    async fn receive_push(&self, conn: &mut Conn<'_>, file: &File, head: &SyncFileHead) -> Result<Hasher, Refusal> {
        let mut hasher = Hasher::new();
        match head.size <= WHOLE {
            true => self.receive_at_once(conn, file, 0, head.size, &mut hasher).await?,
            false => self.receive_into(conn, file, 0, head.size, &mut hasher).await?,
        }
        // The source is taken at its word: refusing would stop it for good. But somebody should look at its disk.
        let told = head.name.block().ok().filter(|_| has_sum(&head.name));
        if let Some(block) = told
            && (block.size.size() != Some(head.size) || block.crc32 != hasher.clone().finalize())
        {
            error!("{}: what was pushed here does not have the size and checksum in its name", head.name);
        }
        Ok(hasher)
    }

    async fn take_delete(&self, conn: &mut Conn<'_>, pusher: Option<&Pusher>) -> Done {
        let request = self.message(conn, SyncDelete::decode).await?;
        self.own_group(&request.group)?;
        let place = self.place(&request.name)?;
        let origin = Origins { timestamp: request.timestamp, ahead: runs_ahead(&request.name), pusher };
        let line = origin.line(Change::Delete, &request.name)?;
        let mut held = self.hold_for_push(conn, &request.name).await?;
        held.set_sum(None);
        let meta = match place.try_on("look at", |p| p.dir().meta(&p.rel, false)) {
            Err(Status::ENOENT) => {
                // Its creation may still come, also after a restart.
                if self.deleted.add(&request.name, request.timestamp) {
                    self.record_push(&line, true)?;
                    self.lose_metadata(&request.name, origin)?;
                }
                return self.had(conn, origin, &place, Status::ENOENT).await;
            }
            other => other?,
        };
        if !meta.is_file() && !meta.is_link() {
            return Err(Status::EINVAL.into());
        }
        // Our members never remove a file at an earlier time than it has, nor at the same. FastDFS's may: each of their
        // threads learns of a new second a little later or earlier, and clocks differ. What they remove so soon after it was
        // made at another clock stays here: better than to lose what was made anew. (A link has its own time.)
        let removed = i64::from(request.timestamp) + if origin.is_strict() { -1 } else { THEIR_CLOCK };
        if !request.name.is_given_once() && meta.is_file() && meta.mtime > removed {
            debug!("{}: was made anew after it was removed elsewhere", request.name);
            if origin.is_strict() && meta.mtime == i64::from(request.timestamp) {
                return self.kept(conn, origin, &request.name, Status::ENOENT).await;
            }
            return self.overtaken(conn, origin, Status::ENOENT).await;
        }
        self.can_record()?;
        self.deleted.add(&request.name, request.timestamp);
        self.unlink(&place, meta.size).await?;
        self.record_push(&line, true)?;
        self.lose_metadata(&request.name, origin)?;
        self.settle(place.index, None, self.dir_to_settle(&place)?).await?;
        self.has(origin);
        Ok(())
    }

    /// Removes the metadata of a file that is gone for good: who removed the file may not have had it yet, and tells
    /// nobody to remove it then.
    fn lose_metadata(&self, name: &RemoteName, origin: Origins<'_>) -> Result<(), Status> {
        let Some(metadata) = name.metadata().filter(|_| name.is_given_once()) else { return Ok(()) };
        let (Ok(place), Ok(line)) = (self.place(&metadata), origin.line(Change::Delete, &metadata)) else {
            return Ok(());
        };
        match place.try_on("remove", |p| p.dir().unlink(&p.rel)) {
            Ok(()) => self.record_push(&line, true),
            Err(Status::ENOENT) => Ok(()),
            Err(status) => Err(status),
        }
    }

    async fn take_range(&self, conn: &mut Conn<'_>, modify: bool, pusher: Option<&Pusher>) -> Done {
        let body = conn.body_left();
        let names = SyncRangeHead::names_len(fixed(conn, SyncRangeHead::FIXED_LEN).await?)?;
        let len = SyncRangeHead::FIXED_LEN + names;
        let head = SyncRangeHead::decode(conn.head(len).await?, body)?;
        conn.consume(len);
        self.own_group(&head.group)?;
        let place = self.place(&head.name)?;
        let end = head.offset.checked_add(head.len).filter(|&end| end <= i64::MAX as u64).ok_or(Status::EINVAL)?;
        let origin = Origins { timestamp: head.timestamp, ahead: runs_ahead(&head.name), pusher };
        let change = match modify {
            true => Change::Modify { offset: head.offset, len: head.len },
            false => Change::Append { offset: head.offset, len: head.len },
        };
        let line = origin.line(change, &head.name)?;
        self.counters.tried(Count::SyncInBytes, head.len);
        let mut held = self.hold_for_push(conn, &head.name).await?;
        let opened = place.try_on("open", |p| p.dir().open_write(&p.rel));
        let file = match opened {
            Err(Status::ENOENT) => {
                conn.drain().await?;
                return Err(Status::ENOENT.into());
            }
            Err(Status::EISDIR) => return self.overtaken(conn, origin, Status::EEXIST).await,
            other => other?,
        };
        let old = place.try_on("look at", |_| dir::meta_of(&file))?;
        let fits = if modify { old.size >= head.offset } else { old.size == head.offset };
        if !old.is_file() {
            return self.overtaken(conn, origin, Status::EEXIST).await;
        }
        if modify && self.came_before(&line, &old, origin) {
            return self.had(conn, origin, &place, Status::EEXIST).await;
        }
        let late = self.is_out_of_turn(&old, origin);
        if !fits || late {
            if !modify && old.size >= end && has_content(conn, file, head.offset).await? {
                return self.had(conn, origin, &place, Status::EEXIST).await;
            }
            if late {
                debug!("{}: was changed later here than {}..{end}", head.name, head.offset);
                conn.drain().await?;
                return Err(Status::EAGAIN.into());
            }
            debug!("{}: has {} bytes here, cannot take {}..{end}", head.name, old.size, head.offset);
            conn.drain().await?;
            return Err(Status::ENOENT.into());
        }
        let _noted =
            self.pending.note(pending::Kind::Push { mtime: u32::try_from(old.mtime).unwrap_or(0) }, &head.name);
        // As for clients: the sum goes on over what is added at the end.
        let before = held.sum(old.size).filter(|_| head.offset == old.size);
        let mut hasher = before.as_ref().map_or_else(Hasher::new, |sum| sum.hasher.clone());
        if head.offset < old.size {
            held.set_sum(None);
        }
        let received = match head.len <= WHOLE {
            true => self.receive_at_once(conn, &file, head.offset, head.len, &mut hasher).await,
            false => self.receive_into(conn, &file, head.offset, head.len, &mut hasher).await,
        };
        let recorded = received.and_then(|()| Ok(self.record_push(&line, false)?));
        if let Err(refusal) = recorded {
            shorten(&place, &file, &mut held, &old);
            return Err(refusal);
        }
        if modify {
            self.taken.add(line.as_bytes());
        }
        date(&place, &file, &old, head.timestamp)?;
        if head.offset == old.size {
            held.set_sum(before.map(|_| Sum { hasher, size: end }));
        }
        place.path.took(end.saturating_sub(old.size));
        self.settle(place.index, Some(file), None).await?;
        self.counters.went_well(Count::SyncInBytes, head.len);
        self.has(origin);
        Ok(())
    }

    /// Whether a write was made by an earlier push, and the file was changed again since.
    fn came_before(&self, line: &Line, here: &Meta, origin: Origins<'_>) -> bool {
        i64::from(origin.timestamp) < here.mtime && self.taken.has(line.as_bytes())
    }

    /// Whether a change of an appender comes after one that another member made later, and perhaps knowing this one: that
    /// member was quicker to push. To make it now would be another file than the members have that saw both in their turn.
    /// The pusher is told to come again, which it does with the whole file. FastDFS's storages make nothing of that.
    fn is_out_of_turn(&self, here: &Meta, origin: Origins<'_>) -> bool {
        origin.is_strict() && self.active.get() && i64::from(origin.timestamp) < here.mtime
    }

    async fn take_truncate(&self, conn: &mut Conn<'_>, pusher: Option<&Pusher>) -> Done {
        let request = self.message(conn, SyncTruncate::decode).await?;
        self.own_group(&request.group)?;
        let place = self.place(&request.name)?;
        let origin = Origins { timestamp: request.timestamp, ahead: runs_ahead(&request.name), pusher };
        let line = origin.line(Change::Truncate { old: request.old_size, new: request.new_size }, &request.name)?;
        let began = Instant::now();
        let mut held = self.hold_for_push(conn, &request.name).await?;
        let file = match place.try_on("open", |p| p.dir().open_write(&p.rel)) {
            Err(Status::EISDIR) => return Err(Status::EEXIST.into()),
            other => other?,
        };
        let old = place.try_on("look at", |_| dir::meta_of(&file))?;
        // Longer than the new size, it is cut whatever it was: FastDFS passes over what was appended and cut again before
        // it was pushed. What is shorter lacks something. But old files come as they are now, before what made them so, and of
        // that FastDFS passes over what goes beyond their present end: they must not be cut on the way.
        if old.is_file() && self.is_out_of_turn(&old, origin) && !self.came_before(&line, &old, origin) {
            debug!("{}: was changed later here than it was cut to {} bytes", request.name, request.new_size);
            return Err(Status::EAGAIN.into());
        }
        let lacks = !origin.is_strict() && self.active.get() && fetch::may_lack(&request, &old);
        if lacks && !self.came_before(&line, &old, origin) {
            let patience = self.settings.patience().saturating_sub(began.elapsed());
            if self.fetch_cut(conn.peer(), &request, origin, (&place, &old), &mut held, patience).await? {
                self.has(origin);
                return Ok(());
            }
        }
        let other = old.size != request.old_size;
        if !old.is_file() || (other && (old.size <= request.new_size || !self.active.get())) {
            return self.had(conn, origin, &place, Status::EEXIST).await;
        }
        if self.came_before(&line, &old, origin) {
            self.settle(place.index, Some(file), None).await?;
            self.has(origin);
            return Ok(());
        }
        self.can_record()?;
        held.set_sum(None);
        place.try_on("truncate", |_| file.set_len(request.new_size))?;
        date(&place, &file, &old, request.timestamp)?;
        self.record_push(&line, true)?;
        self.taken.add(line.as_bytes());
        self.settle(place.index, Some(file), None).await?;
        self.has(origin);
        Ok(())
    }

    async fn take_link(&self, conn: &mut Conn<'_>, pusher: Option<&Pusher>) -> Done {
        let request = self.two_names(conn).await?;
        let (place, target) = (self.place(&request.name)?, self.place(&request.other)?);
        let origin = Origins { timestamp: request.timestamp, ahead: runs_ahead(&request.name), pusher };
        let line = origin.line(Change::Link { source: Some(canonical(&request.other)?) }, &request.name)?;
        let _held = self.hold_for_push(conn, &request.name).await?;
        let there = |p: &Place<'_>, follow| p.dir().meta(&p.rel, follow).is_ok();
        let late = self.deleted.is_late(&request.name, request.timestamp);
        if late || there(&place, false) || !there(&target, true) {
            self.has(origin);
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

/// A change that came later than it was made gets the time it was made, by which [`is_overtaken`] decides.
fn date(place: &Place<'_>, file: &File, before: &Meta, timestamp: u32) -> Result<(), Status> {
    let time = timestamp.max(u32::try_from(before.mtime).unwrap_or(0));
    place.try_on("set the time of", |_| dir::set_mtime(file, time, Origin::Replica))
}

/// Whether the file here has changed after what is pushed was: what can be made anew under its name (metadata, slaves), and
/// appenders, which another member may have changed while their source was away. When a creation is pushed again, the
/// changes that followed come after it.
fn is_overtaken(head: &SyncFileHead, replace: bool, here: &Meta) -> bool {
    let pushed = i64::from(head.timestamp);
    let appender = is_appender(&head.name);
    (here.mtime > pushed && (appender || !head.name.is_given_once()))
        || (appender && !replace && here.mtime == pushed && here.size > head.size)
}

/// Whether a file has, from `at` on, what comes with the request; reads that until it differs.
async fn has_content(conn: &mut Conn<'_>, file: File, mut at: u64) -> Result<bool, Refusal> {
    let file = Arc::new(file);
    let mut same = true;
    while same && conn.body_left() > 0 {
        let piece = conn.piece(0).await?.to_vec();
        let (file, from, len) = (file.clone(), at, piece.len());
        let compare = move || {
            let mut there = vec![0; piece.len()];
            file.read_exact_at(&mut there, from).map(|()| there == piece)
        };
        // What cannot be read is not the same.
        same = blocking::run(compare).await.unwrap_or(false);
        conn.consume(len);
        at += len as u64;
    }
    Ok(same)
}
