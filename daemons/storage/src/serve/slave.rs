//! UPLOAD_SLAVE_FILE: a file named after another one, in the same directory.

use std::fs::File;
use std::io;

use fdfs_protocol::binlog::Change;
use fdfs_protocol::storage::UploadSlaveHead;
use fdfs_protocol::{RemoteName, Status};
use tracing::error;

use super::info::is_appender;
use super::{Done, Note, Place, Refusal, Service, noted, warn_removed};
use crate::clock;
use crate::counters::Count;
use crate::disk::dir::RelPath;
use crate::disk::incoming::Incoming;
use crate::disk::pending::{Kind, Noted};
use crate::names::Sum;
use crate::net::Conn;

impl Service {
    pub(super) async fn upload_slave(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let body = conn.body_left();
        if body <= UploadSlaveHead::FIXED_LEN as u64 {
            return Err(Status::EINVAL.into());
        }
        let name_len = UploadSlaveHead::name_len(conn.head(UploadSlaveHead::FIXED_LEN).await?, body)?;
        let len = UploadSlaveHead::FIXED_LEN + name_len;
        let head = UploadSlaveHead::decode(conn.head(len).await?, body)?;
        conn.consume(len);
        self.can_keep()?;
        let name = head.master.slave(&head.prefix, &head.ext).map_err(|_| Status::EINVAL)?;
        noted(self, note, &name);
        let master = self.place(&head.master)?;
        let place = self.place(&name)?;
        if !place.path.has_room(head.size, &self.membership()?.reserved, self.store.paths().len()) {
            return Err(Status::ENOSPC.into());
        }
        master.try_on("look at", |m| m.dir().meta(&m.rel, true))?;
        if place.dir().meta(&place.rel, false).is_ok() {
            return Err(Status::EEXIST.into());
        }
        self.counters.tried(Count::UploadBytes, head.size);
        let (file, noted) = self.receive_slave(conn, &place, &name, head.size).await?;
        self.publish_slave(&place, &name, file, noted).await?;
        place.path.took(head.size);
        self.counters.went_well(Count::UploadBytes, head.size);
        self.answer_name(conn, &name).await
    }

    /// Unlike that of an ordinary upload, the name can be guessed by everybody: it appears when the file is complete,
    /// however small that is.
    async fn receive_slave(
        &self,
        conn: &mut Conn<'_>,
        place: &Place<'_>,
        name: &RemoteName,
        size: u64,
    ) -> Result<(File, Noted<'_>), Refusal> {
        let (parent, file) = place.rel.split();
        let parent = RelPath::new(parent).ok_or(Status::EINVAL)?;
        let file = RelPath::new(file).ok_or(Status::EINVAL)?;
        let begun = place.dir().open_dir(&parent).and_then(|dir| Incoming::begin(&dir.into()));
        self.counters.count(Count::FileOpen, 1, begun.is_ok());
        let mut incoming = begun.map_err(|e| refused(place, &e))?;
        let mut hasher = crc32fast::Hasher::new();
        self.receive_into(conn, incoming.file(), 0, size, &mut hasher).await?;
        // Nobody else may make it now: what is noted is taken for ours if this process dies.
        let mut held = self.names.hold(name, self.settings.timeout).await?;
        if place.dir().meta(&place.rel, false).is_ok() {
            return Err(Status::EEXIST.into());
        }
        let noted = self.pending.note(Kind::Create, name);
        incoming.publish(&file).map_err(|e| refused(place, &e))?;
        // Not only of appenders: QUERY_FILE_INFO computes the checksum of slaves as well. But those are rarely asked.
        if is_appender(name) {
            held.set_sum(Some(Sum { hasher, size }));
            held.set_latest(Some(self.names.term()));
        }
        drop(held);
        Ok((incoming.into_file(), noted))
    }

    async fn publish_slave(
        &self,
        place: &Place<'_>,
        name: &RemoteName,
        file: File,
        _noted: Noted<'_>,
    ) -> Result<(), Refusal> {
        let time = self.deleted.time_of_creation(name, clock::now());
        place.date(&file, time);
        let recorded = match self.record(time, Change::Create, name) {
            Ok(recorded) => recorded,
            Err(status) => {
                remove(place);
                return Err(status.into());
            }
        };
        self.deleted.forget(name);
        let kept = match self.dir_to_settle(place) {
            Ok(dir) => self.keep(recorded, place.index, Some(file), dir).await,
            Err(status) => Err(status),
        };
        if let Err(status) = kept {
            remove(place);
            self.record_undone(time.saturating_add(1), Change::Delete, name);
            return Err(status.into());
        }
        Ok(())
    }
}

fn refused(place: &Place<'_>, e: &io::Error) -> Status {
    if e.kind() != io::ErrorKind::AlreadyExists {
        error!("cannot write {}: {e}", place.dir().full(&place.rel).display());
    }
    Status::from(e)
}

fn remove(place: &Place<'_>) {
    warn_removed("an incomplete upload", &place.dir().full(&place.rel), place.dir().unlink(&place.rel));
}
