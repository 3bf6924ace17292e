//! The records of changes, and what a change waits for before it is acknowledged: its record, stable storage, other members.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::{RemoteName, Status};
use tracing::error;

use super::{Place, Service, canonical};
use crate::acks::{Expected, Late};
use crate::clock::seconds;
use crate::disk::dir::RelPath;
use crate::disk::durable::Touched;
use crate::disk::pending::Noted;

impl From<Late> for Status {
    fn from(_: Late) -> Status {
        Status::ETIMEDOUT
    }
}

/// A change that has its binlog record, and is acknowledged when it is [kept](Recorded::kept).
#[derive(Debug, Default)]
#[must_use = "what was asked for before the acknowledgement must be waited for"]
pub(super) struct Recorded(Option<Expected>);

impl Recorded {
    /// Waits until as many members have the change as was asked for; `ETIMEDOUT` if that takes too long.
    pub(super) async fn kept(self) -> Result<(), Status> {
        match self.0 {
            Some(expected) => Ok(expected.kept().await?),
            None => Ok(()),
        }
    }
}

impl Service {
    /// Writes the binlog record of a change that a client made at `now`.
    pub(super) fn record(&self, now: i64, change: Change, name: &RemoteName) -> Result<Recorded, Status> {
        self.write_record(now, change, name, false)
    }

    /// [`record`](Service::record) of a change that cannot be taken back; it is written later if it cannot be now.
    pub(super) fn record_done(&self, now: i64, change: Change, name: &RemoteName) -> Result<Recorded, Status> {
        self.write_record(now, change, name, true)
    }

    fn write_record(&self, now: i64, change: Change, name: &RemoteName, done: bool) -> Result<Recorded, Status> {
        self.counters.source_update(now);
        let line = Line::new(&client_record(now, change, name)?)?;
        let expect = |end| Recorded(self.acks.as_ref().map(|acks| acks.expect(end)));
        logged(self.binlog.append_announced(line.as_bytes(), done, expect))
    }

    /// [`record_done`](Service::record_done) of a change that was noted. It stays so, for the next start, if it cannot be
    /// recorded now.
    pub(super) fn record_noted(
        &self,
        now: i64,
        change: Change,
        name: &RemoteName,
        noted: Noted<'_>,
    ) -> Result<Recorded, Status> {
        let recorded = self.record_done(now, change, name);
        if recorded.is_err() {
            noted.stay();
        }
        recorded
    }

    /// Writes the record of a change that takes back one that could not be kept. Nobody waits for that.
    pub(super) fn record_undone(&self, now: i64, change: Change, name: &RemoteName) {
        // A failure has been logged, and the record is written later.
        drop(self.record_done(now, change, name));
    }

    /// Refuses a change that could not be kept, before it is made.
    pub(super) fn can_keep(&self) -> Result<(), Status> {
        match &self.acks {
            Some(acks) => Ok(acks.possible()?),
            None => Ok(()),
        }
    }

    /// Fails while there are changes that could not be recorded: no more of that kind are made then.
    pub(super) fn can_record(&self) -> Result<(), Status> {
        logged(self.binlog.ready())
    }

    /// Puts a change and its record on stable storage, if that was asked for.
    pub(super) async fn settle(
        &self,
        path: usize,
        file: Option<File>,
        dir: Option<Arc<OwnedFd>>,
    ) -> Result<(), Status> {
        let Some(syncer) = &self.syncer else { return Ok(()) };
        syncer.sync(Touched { path, file, dir }).await.map_err(|e| {
            error!("cannot put a change on stable storage: {e}");
            Status::from(&e)
        })
    }

    /// Waits for all that was asked for before a recorded change is acknowledged: stable storage, and other members, which
    /// get it meanwhile.
    pub(super) async fn keep(
        &self,
        recorded: Recorded,
        path: usize,
        file: Option<File>,
        dir: Option<Arc<OwnedFd>>,
    ) -> Result<(), Status> {
        self.settle(path, file, dir).await?;
        recorded.kept().await
    }

    /// The directory a file is in, held open, if somebody will have to sync it.
    pub(super) fn dir_to_settle(&self, place: &Place<'_>) -> Result<Option<Arc<OwnedFd>>, Status> {
        if self.syncer.is_none() {
            return Ok(None);
        }
        let parent = RelPath::new(place.rel.split().0).ok_or(Status::EINVAL)?;
        place.try_on("open the directory of", |p| p.dir().open_dir(&parent)).map(|dir| Some(Arc::new(dir)))
    }
}

/// A binlog line, on the stack.
pub(super) struct Line {
    bytes: [u8; Record::MAX_LINE],
    len: usize,
}

impl Line {
    /// `ENAMETOOLONG` if nobody could read the line: two names near the longest.
    pub(super) fn new(record: &Record) -> Result<Line, Status> {
        let mut bytes = [0; Record::MAX_LINE];
        let mut rest = &mut bytes[..];
        writeln!(rest, "{record}").map_err(|_| Status::ENAMETOOLONG)?;
        let len = Record::MAX_LINE - rest.len();
        Ok(Line { bytes, len })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn client_record(now: i64, change: Change, name: &RemoteName) -> Result<Record, Status> {
    Ok(Record { timestamp: seconds(now), origin: Origin::Client, change, name: canonical(name)? })
}

/// What was written to the binlog; a failure is logged, since the client sees a number only.
pub(super) fn logged<T>(written: io::Result<T>) -> Result<T, Status> {
    written.map_err(|e| {
        error!("cannot write the binlog: {e}");
        Status::from(&e)
    })
}
