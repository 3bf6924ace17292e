//! One connection to a peer, and what is pushed over it: one change at a time.
//!
//! What is sent of a file is what it is at that moment: the change a record tells of may have been overtaken by later
//! ones, whose records come later. So a file that is gone is no error, and a push ends in the same state however often
//! and however late it is made.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fdfs_host::TcpStream;
use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::header::{self, Header};
use fdfs_protocol::peer::compare::SyncCompare;
use fdfs_protocol::peer::replica::{
    ReportServerId, SyncDelete, SyncFileHead, SyncRangeHead, SyncTruncate, SyncTwoNames,
};
use fdfs_protocol::storage::{FileInfo, FileInfoFlags, FileRequest};
use fdfs_protocol::{Command, Encode, RemoteName, Status, StorageId};
use fdfs_server::Dial;
use tracing::debug;

use super::aside::Cause;
use super::rules::{Answer, Verdict, judge};
use crate::clock;
use crate::counters::Count;
use crate::disk::dir::{self, Meta};
use crate::net::{Conn, Gone, SendError};
use crate::serve::Service;
use crate::serve::info::{has_sum, is_appender};

/// Answers are short; the longest known is a request that some servers send back.
const MAX_ANSWER: u64 = 4096;

/// Times a file is looked at anew because it became shorter while it was being sent.
const TRIES: u32 = 3;

const NO_CRC: FileInfoFlags = FileInfoFlags { no_crc: true, silent: true };
const WITH_CRC: FileInfoFlags = FileInfoFlags { no_crc: false, silent: true };

/// What became of a push.
#[derive(Debug)]
pub enum Outcome {
    /// The peer has the change, or there is nothing left to push.
    Done,
    /// The peer does not have the change, and never will: it has a later one, or has removed the file.
    PassedOver,
    /// The peer cannot take it.
    Refused(Command, Status),
    /// The file cannot be read here.
    Unreadable(io::Error),
}

/// Why an exchange came to no end that the caller has to know.
enum Stop {
    Gone,
    Outcome(Outcome),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Stop {
        Stop::Gone
    }
}

/// A file to be pushed whole.
#[derive(Clone, Copy)]
struct Whole<'a> {
    name: &'a RemoteName,
    timestamp: u32,
}

/// A connection to a peer.
#[derive(Debug)]
pub struct Lane {
    service: Arc<Service>,
    stream: TcpStream,
    peer: SocketAddr,
    timeout: Duration,
    /// The last file created over this connection was there already, so the next may be too.
    had_last: bool,
    /// The peer closes, or has closed, this connection.
    stale: bool,
    /// Something was sent that is not answered.
    asking: bool,
}

impl Drop for Lane {
    /// What was given up is sent again over another connection: of this one nothing more shall arrive, after what comes
    /// over that.
    fn drop(&mut self) {
        if self.asking
            && let Err(e) = self.stream.set_zero_linger()
        {
            debug!("{}: what is on its way may arrive late: {e}", self.peer);
        }
    }
}

impl Lane {
    /// Connects.
    ///
    /// # Errors
    /// What the system reported.
    pub async fn connect(service: Arc<Service>, peer: SocketAddr, dial: Dial) -> io::Result<Lane> {
        let (stream, _) = fdfs_server::link::connect([peer], dial).await?;
        Ok(Lane { service, stream, peer, timeout: dial.answer, had_last: false, stale: false, asking: false })
    }

    /// Whether another connection is needed for the next push.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Tells the peer who pushes: from now on it counts what comes over this connection as applied.
    ///
    /// # Errors
    /// [`Gone`] when the connection is of no further use.
    pub async fn identify(&mut self, id: StorageId) -> Result<(), Gone> {
        match self.ask(Command::ReportServerId, ReportServerId::STRICT_TIMES, &ReportServerId { id }).await?.status {
            Status::OK => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Tells the peer that one of its kind pushes, and not who: what comes over this connection it does not count.
    ///
    /// # Errors
    /// [`Gone`] when the connection is of no further use.
    pub async fn announce(&mut self) -> Result<(), Gone> {
        match self.ask(Command::ActiveTest, ReportServerId::STRICT_TIMES, &()).await?.status {
            Status::OK => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Tells the peer what this storage has of the files of a lost member; it sets aside for this storage what that lacks.
    ///
    /// # Errors
    /// [`Gone`] when the connection broke.
    pub async fn compare(&mut self, compare: &SyncCompare) -> Result<Status, Gone> {
        Ok(self.ask(Command::SyncCompare, 0, compare).await?.status)
    }

    /// Asks the peer for a sign of life.
    ///
    /// # Errors
    /// [`Gone`] when there is none.
    pub async fn keep_alive(&mut self) -> Result<(), Gone> {
        self.ask(Command::ActiveTest, 0, &()).await.map(drop)
    }

    /// Pushes what a record tells of.
    ///
    /// # Errors
    /// [`Gone`] when the connection broke: the peer may or may not have the change.
    pub async fn push(&mut self, record: &Record) -> Result<Outcome, Gone> {
        finish(self.try_push(record).await)
    }

    /// Makes the peer's file what the file is here now.
    ///
    /// # Errors
    /// As [`Lane::push`].
    pub async fn reconcile(&mut self, name: &RemoteName, cause: Cause) -> Result<Outcome, Gone> {
        finish(self.try_reconcile(Whole { name, timestamp: cause.timestamp }, cause.removed).await)
    }

    async fn try_push(&mut self, record: &Record) -> Result<(), Stop> {
        let (name, timestamp) = (&record.name, record.timestamp);
        let group = self.service.settings.group;
        let whole = Whole { name, timestamp };
        match record.change {
            Change::Create => self.create(self.dated(record, whole)?).await,
            // Taken from another member, in place of what others may have made something of by now; or what it was after
            // a change that was cut off by a kill.
            Change::Update if is_appender(name) => self.try_reconcile(whole, false).await,
            Change::Update => self.send_whole(Command::SyncUpdateFile, whole).await,
            Change::Delete => {
                if self.meta(name, false)?.is_some() {
                    // It was made anew; the record of that comes later.
                    return Err(Stop::Outcome(Outcome::PassedOver));
                }
                self.simple(Command::SyncDeleteFile, &SyncDelete { timestamp, group, name: *name }).await
            }
            Change::Append { offset, len } => self.range(Command::SyncAppendFile, whole, offset, len).await,
            Change::Modify { offset, len } => self.range(Command::SyncModifyFile, whole, offset, len).await,
            Change::Truncate { old, new } => self.truncate(whole, old, new).await,
            Change::Link { source } => self.link(whole, source).await,
            Change::Rename { old } => self.rename(record.origin, whole, old).await,
        }
    }

    /// An appender that goes as old data goes with the time of its last change: records of the changes are not pushed
    /// then, and a peer that has an older copy must not take its own for the newer one.
    fn dated<'n>(&self, record: &Record, whole: Whole<'n>) -> Result<Whole<'n>, Stop> {
        if record.origin == Origin::Client || !is_appender(whole.name) {
            return Ok(whole);
        }
        let changed = self.meta(whole.name, true)?.and_then(|meta| u32::try_from(meta.mtime).ok());
        Ok(Whole { timestamp: whole.timestamp.max(changed.unwrap_or(0)), ..whole })
    }

    async fn try_reconcile(&mut self, whole: Whole<'_>, removed: bool) -> Result<(), Stop> {
        let group = self.service.settings.group;
        let (name, timestamp) = (*whole.name, whole.timestamp);
        match self.meta(whole.name, false)? {
            None => match self.service.deleted.renamed_to(&name) {
                // The peer must know that the file was not removed: the name may be given back.
                Some(new) => self.rename(Origin::Client, Whole { name: &new, timestamp }, name).await,
                None if removed => self.simple(Command::SyncDeleteFile, &SyncDelete { timestamp, group, name }).await,
                // If it was removed, the record of that comes later. If a disk was lost, the peer's may be the last one.
                None => {
                    debug!(
                        "{name} is not here, and was not removed as far as is known: {} keeps what it has",
                        self.peer
                    );
                    Err(Stop::Outcome(Outcome::PassedOver))
                }
            },
            Some(meta) if meta.is_link() => self.link(whole, None).await,
            Some(meta) => match self.send_whole(Command::SyncUpdateFile, whole).await {
                Err(Stop::Outcome(Outcome::PassedOver)) if is_appender(&name) => self.catch_up(whole, meta.mtime).await,
                sent => sent,
            },
        }
    }

    /// The peer has a later change of an appender, and may lack this one. What is here has both once that has come here, by
    /// when it has the time of that; until then it is tried again.
    async fn catch_up(&mut self, whole: Whole<'_>, mtime: i64) -> Result<(), Stop> {
        let command = Command::SyncUpdateFile;
        let passed_over = Err(Stop::Outcome(Outcome::PassedOver));
        let again = Err(Stop::Outcome(Outcome::Refused(command, Status::EAGAIN)));
        let later = |there: Option<FileInfo>| there.is_some_and(|there| there.mtime > mtime);
        match self.info(whole.name, NO_CRC).await? {
            None => passed_over,
            // Of equal times the peer passes over only what is less than it has, and owes that to this storage.
            Some(there) if there.mtime == mtime && i64::from(whole.timestamp) == mtime => passed_over,
            there if later(there) => again,
            Some(_) => match self.send_both(Whole { timestamp: clock::seconds(mtime), ..whole }).await {
                // It was changed there on the way.
                Err(Stop::Outcome(Outcome::PassedOver)) if later(self.info(whole.name, NO_CRC).await?) => again,
                sent => sent,
            },
        }
    }

    /// After a file that the peer had, it is asked first: content that it has need not be sent.
    async fn create(&mut self, whole: Whole<'_>) -> Result<(), Stop> {
        if self.had_last
            && whole.name.is_given_once()
            && let Some(meta) = self.meta(whole.name, true)?
        {
            match self.info(whole.name, NO_CRC).await? {
                // Of an appender that was changed since, the size does not tell.
                Some(there)
                    if there.size == meta.size
                        && (!is_appender(whole.name) || there.mtime >= i64::from(whole.timestamp)) =>
                {
                    return self.log_only(&whole, there.size).await;
                }
                Some(_) => return self.send_whole(Command::SyncUpdateFile, whole).await,
                None => {}
            }
        }
        self.send_whole(Command::SyncCreateFile, whole).await
    }

    /// The peer has the file; it only writes its record.
    async fn log_only(&mut self, whole: &Whole<'_>, size: u64) -> Result<(), Stop> {
        let head = self.file_head(whole, size);
        let answer = self.ask(Command::SyncCreateFile, Status::EEXIST.0, &head).await?;
        self.conclude(Command::SyncCreateFile, answer)
    }

    fn file_head(&self, whole: &Whole<'_>, size: u64) -> SyncFileHead {
        let group = self.service.settings.group;
        SyncFileHead { size, timestamp: whole.timestamp, group, name: *whole.name }
    }

    async fn send_whole(&mut self, command: Command, whole: Whole<'_>) -> Result<(), Stop> {
        self.send_content(command, 0, whole).await
    }

    /// To a peer that has a later change, which this storage has as well, and did not take an earlier one.
    async fn send_both(&mut self, whole: Whole<'_>) -> Result<(), Stop> {
        self.send_content(Command::SyncUpdateFile, SyncFileHead::HAS_BOTH, whole).await
    }

    async fn send_content(&mut self, command: Command, flag: u8, whole: Whole<'_>) -> Result<(), Stop> {
        for _ in 0..TRIES {
            let Some((file, meta)) = self.open(whole.name)? else { return Ok(()) };
            let head = self.file_head(&whole, meta.size);
            match self.send(command, flag, &head, &file, 0, meta.size).await {
                Ok(answer) => {
                    self.had_last = answer.status == Status::EEXIST;
                    return self.conclude(command, answer);
                }
                Err(SendError::Gone) => return Err(Stop::Gone),
                Err(SendError::Read(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(SendError::Read(e)) => return Err(Stop::Outcome(Outcome::Unreadable(e))),
            }
        }
        Err(Stop::Outcome(Outcome::Unreadable(io::ErrorKind::UnexpectedEof.into())))
    }

    async fn range(&mut self, command: Command, whole: Whole<'_>, offset: u64, len: u64) -> Result<(), Stop> {
        let Some((file, meta)) = self.open(whole.name)? else { return Ok(()) };
        // It may have been made shorter since; the record of that comes later. What is left of the range counts.
        let left = meta.size.saturating_sub(offset);
        if left == 0 {
            return Ok(());
        }
        let len = len.min(left);
        let group = self.service.settings.group;
        let head = SyncRangeHead { offset, len, timestamp: whole.timestamp, group, name: *whole.name };
        let answer = match self.send(command, 0, &head, &file, offset, len).await {
            Ok(answer) => answer,
            Err(SendError::Gone) => return Err(Stop::Gone),
            Err(SendError::Read(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(SendError::Read(e)) => return Err(Stop::Outcome(Outcome::Unreadable(e))),
        };
        match judge(command, answer) {
            Verdict::Update => self.try_reconcile(whole, false).await,
            _ => self.conclude(command, answer),
        }
    }

    async fn truncate(&mut self, whole: Whole<'_>, old_size: u64, new_size: u64) -> Result<(), Stop> {
        if self.meta(whole.name, true)?.is_none() {
            return Ok(());
        }
        let command = Command::SyncTruncateFile;
        let group = self.service.settings.group;
        let message = SyncTruncate { old_size, new_size, timestamp: whole.timestamp, group, name: *whole.name };
        let answer = self.ask(command, 0, &message).await?;
        match judge(command, answer) {
            Verdict::Update => self.try_reconcile(whole, false).await,
            Verdict::Compare => match self.info(whole.name, NO_CRC).await? {
                Some(there) if there.size == new_size => Ok(()),
                _ => self.try_reconcile(whole, false).await,
            },
            _ => self.conclude(command, answer),
        }
    }

    async fn link(&mut self, whole: Whole<'_>, source: Option<RemoteName>) -> Result<(), Stop> {
        if !self.meta(whole.name, false)?.is_some_and(|meta| meta.is_link()) {
            return Ok(());
        }
        let Some(other) = source.or_else(|| self.service.store.link_target(whole.name)) else { return Ok(()) };
        let group = self.service.settings.group;
        let message = SyncTwoNames { timestamp: whole.timestamp, group, name: *whole.name, other };
        self.simple(Command::SyncCreateLink, &message).await?;
        // A peer that does not have what is linked to makes no link, and says nothing.
        let checkable = whole.name.as_bytes().len() >= FileInfo::MIN_NAME && self.meta(whole.name, true)?.is_some();
        if checkable && self.info(whole.name, NO_CRC).await?.is_none() {
            return Err(Stop::Outcome(Outcome::Refused(Command::SyncCreateLink, Status::ENOENT)));
        }
        Ok(())
    }

    async fn rename(&mut self, origin: Origin, whole: Whole<'_>, old: RemoteName) -> Result<(), Stop> {
        if origin == Origin::Replica {
            // Old data: the peer never had the old name.
            return self.create(whole).await;
        }
        let group = self.service.settings.group;
        let remove_old = SyncDelete { timestamp: whole.timestamp, group, name: old };
        let Some(meta) = self.meta(whole.name, true)? else {
            // The record of the new name's end comes later; of the old one nothing else is said. Without such an end, a
            // disk was lost.
            return match self.meta(&old, false)? {
                None if !self.is_lost(&whole) => self.simple(Command::SyncDeleteFile, &remove_old).await,
                _ => Ok(()),
            };
        };
        let mut created = None;
        if self.is_another(&old, &whole, meta.size).await? {
            debug!("{old} at {} is not what became {}; pushing that whole", self.peer, whole.name);
            let sent = self.send_whole(Command::SyncCreateFile, whole).await;
            if !matches!(sent, Ok(()) | Err(Stop::Outcome(Outcome::PassedOver))) {
                return sent;
            }
            created = Some(sent);
        }
        // Also then: who only hears that the old name is gone takes it for removed, and never takes it back.
        let command = Command::SyncRenameFile;
        let message = SyncTwoNames { timestamp: whole.timestamp, group, name: *whole.name, other: old };
        let answer = self.ask(command, 0, &message).await?;
        match judge(command, answer) {
            Verdict::Create => match created {
                Some(sent) => sent,
                None => self.send_whole(Command::SyncCreateFile, whole).await,
            },
            // FastDFS leaves the old one where the new one is already.
            Verdict::Done if answer.status == Status::EEXIST && self.info(&old, NO_CRC).await?.is_some() => {
                self.simple(Command::SyncDeleteFile, &remove_old).await
            }
            _ => self.conclude(command, answer),
        }
    }

    /// Whether a file that is not here may have been lost with its disk: nothing is known of its removal, and the store path
    /// began no earlier than the change was made.
    fn is_lost(&self, whole: &Whole<'_>) -> bool {
        let began = self.service.store.locate(whole.name).map_or(0, |(path, _)| path.began());
        whole.timestamp <= began && !self.service.deleted.has(whole.name)
    }

    /// Whether the peer has something else under the old name than what got the new one: changes of the old name may not
    /// have been pushed, since it was gone when their records came. A name that is given back to an appender tells nothing.
    async fn is_another(&mut self, old: &RemoteName, new: &Whole<'_>, size: u64) -> Result<bool, Stop> {
        let Some(told) = new.name.block().ok().filter(|_| has_sum(new.name)) else { return Ok(false) };
        let there = match self.info(old, WITH_CRC).await {
            // It takes the peer too long to tell.
            Err(Stop::Outcome(Outcome::Refused(_, Status::EAGAIN))) => return Ok(true),
            told => told?,
        };
        Ok(there.is_some_and(|there| there.size != size || there.crc32 != told.crc32))
    }

    async fn simple(&mut self, command: Command, message: &impl Encode) -> Result<(), Stop> {
        let answer = self.ask(command, 0, message).await?;
        self.conclude(command, answer)
    }

    fn conclude(&self, command: Command, answer: Answer) -> Result<(), Stop> {
        match judge(command, answer) {
            Verdict::Done => Ok(()),
            Verdict::PassedOver => Err(Stop::Outcome(Outcome::PassedOver)),
            _ => Err(Stop::Outcome(Outcome::Refused(command, answer.status))),
        }
    }

    /// What the peer has under this name; `None` if nothing.
    async fn info(&mut self, name: &RemoteName, flags: FileInfoFlags) -> Result<Option<FileInfo>, Stop> {
        let request = FileRequest { group: self.service.settings.group, name: *name };
        let command = Command::QueryFileInfo;
        let (answer, body) = self.exchange(command, flags.to_byte(), &request).await?;
        match answer.status {
            Status::OK => Ok(FileInfo::decode(&body).ok()),
            Status::ENOENT => Ok(None),
            // It tells nothing about names this short.
            Status::EINVAL if name.as_bytes().len() < FileInfo::MIN_NAME => Ok(None),
            status => Err(Stop::Outcome(Outcome::Refused(command, status))),
        }
    }

    fn local(&self, result: io::Result<Meta>) -> Result<Option<Meta>, Stop> {
        match result {
            Ok(meta) => Ok(Some(meta)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Stop::Outcome(Outcome::Unreadable(e))),
        }
    }

    fn meta(&self, name: &RemoteName, follow: bool) -> Result<Option<Meta>, Stop> {
        // A store path that this storage does not have (any more) has no files.
        let Ok((path, rel)) = self.service.store.locate(name) else { return Ok(None) };
        Ok(self.local(path.dir.meta(&rel, follow))?.map(|meta| self.service.names.recorded(name, meta)))
    }

    fn open(&self, name: &RemoteName) -> Result<Option<(File, Meta)>, Stop> {
        let Ok((path, rel)) = self.service.store.locate(name) else { return Ok(None) };
        let opened = path.dir.open_read(&rel).and_then(|file| dir::meta_of(&file).map(|meta| (file, meta)));
        match opened {
            Ok((file, meta)) => Ok(Some((file, self.service.names.recorded(name, meta))).filter(|_| meta.is_file())),
            Err(e) => self.local(Err(e)).map(|_| None),
        }
    }

    async fn ask(&mut self, command: Command, flags: u8, message: &impl Encode) -> Result<Answer, Gone> {
        Ok(self.exchange(command, flags, message).await?.0)
    }

    async fn exchange(
        &mut self,
        command: Command,
        flags: u8,
        message: &impl Encode,
    ) -> Result<(Answer, Vec<u8>), Gone> {
        let mut out = Vec::with_capacity(320);
        header::frame_flags(command, flags, message, &mut out);
        let mut conn = Conn::new(&mut self.stream, self.peer, self.timeout);
        self.asking = true;
        conn.send(&out).await?;
        let (answer, body) = answer(&mut conn).await?;
        self.note(answer.status);
        Ok((answer, body))
    }

    async fn send(
        &mut self,
        command: Command,
        flag: u8,
        head: &impl Encode,
        file: &File,
        offset: u64,
        len: u64,
    ) -> Result<Answer, SendError> {
        let mut out = Vec::with_capacity(320);
        header::frame_head_flags(command, flag, head, len, &mut out);
        let counters = &self.service.counters;
        counters.tried(Count::SyncOutBytes, len);
        let mut conn = Conn::new(&mut self.stream, self.peer, self.timeout);
        self.asking = true;
        conn.send_range(&out, file, offset, len).await?;
        let (answer, _) = answer(&mut conn).await?;
        if answer.status.is_ok() {
            counters.went_well(Count::SyncOutBytes, len);
        }
        self.note(answer.status);
        Ok(answer)
    }

    /// Takes note of an answer. FastDFS closes a connection after this one.
    fn note(&mut self, status: Status) {
        self.asking = false;
        self.stale |= status == Status::EINVAL;
    }
}

fn finish(result: Result<(), Stop>) -> Result<Outcome, Gone> {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(Stop::Outcome(outcome)) => Ok(outcome),
        Err(Stop::Gone) => Err(Gone),
    }
}

async fn answer(conn: &mut Conn<'_>) -> Result<(Answer, Vec<u8>), Gone> {
    let header: Header = conn.request(false).await?;
    let overtaken = header.cmd == Command::Overtaken.code();
    if !(overtaken || header.cmd == Command::Response.code()) || header.body_len > MAX_ANSWER {
        return Err(Gone);
    }
    let len = header.body_len as usize;
    let body = conn.head(len).await?.to_vec();
    conn.consume(len);
    Ok((Answer { status: header.outcome(), overtaken }, body))
}
