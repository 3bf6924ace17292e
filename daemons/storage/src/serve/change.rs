//! APPEND_FILE, MODIFY_FILE and TRUNCATE_FILE: changes of appender files.
//!
//! One file is changed by one client at a time. A failed append leaves the file as long as it was; a modification that
//! fails half-way leaves it half-way, as in FastDFS, unless it fitted into the receive buffer: then it was written whole
//! or not at all, on a full disk too, where the file system writes in place. A modification or truncation that is made but
//! not kept as was asked for stays made, since what was there before is gone: its error says that it is not safe yet.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use fdfs_protocol::binlog::Change;
use fdfs_protocol::header::Header;
use fdfs_protocol::storage::{AppendHead, ModifyHead, Truncate};
use fdfs_protocol::{RemoteName, Status};
use tracing::error;

use super::info::is_appender;
use super::upload::WHOLE;
use super::{Done, Note, Place, Refusal, Service, fixed, noted};
use crate::clock::{self, seconds};
use crate::counters::Count;
use crate::disk::dir::{self, Meta};
use crate::disk::pending::Kind;
use crate::names::{Held, Sum};
use crate::net::Conn;

/// A write into an appender file.
struct Write<'a> {
    name: &'a RemoteName,
    /// `None` is the end of the file.
    offset: Option<u64>,
    size: u64,
    bytes: Count,
}

impl Service {
    pub(super) async fn append(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let body = conn.body_left();
        let name_len = AppendHead::name_len(fixed(conn, AppendHead::FIXED_LEN).await?, body)?;
        let len = AppendHead::FIXED_LEN + name_len;
        let head = AppendHead::decode(conn.head(len).await?, body)?;
        conn.consume(len);
        noted(self, note, &head.name);
        self.write(conn, Write { name: &head.name, offset: None, size: head.size, bytes: Count::AppendBytes }).await
    }

    pub(super) async fn modify(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let body = conn.body_left();
        let name_len = ModifyHead::name_len(fixed(conn, ModifyHead::FIXED_LEN).await?, body)?;
        let len = ModifyHead::FIXED_LEN + name_len;
        let head = ModifyHead::decode(conn.head(len).await?, body)?;
        conn.consume(len);
        noted(self, note, &head.name);
        let write = Write { name: &head.name, offset: Some(head.offset), size: head.size, bytes: Count::ModifyBytes };
        self.write(conn, write).await
    }

    async fn write(&self, conn: &mut Conn<'_>, write: Write<'_>) -> Done {
        self.can_keep()?;
        let place = self.place(write.name)?;
        let mut held = self.hold_latest(write.name).await?;
        let (file, old) = self.open_appender(&place, write.name)?;
        let at = write.offset.unwrap_or(old.size);
        if at > old.size || at.checked_add(write.size).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Status::EINVAL.into());
        }
        self.counters.tried(write.bytes, write.size);
        if write.size == 0 {
            return Ok(conn.send(&Header::ok(0).encode()).await?);
        }
        if write.size <= WHOLE {
            // Nothing of the file changes before all of it is here.
            conn.head(write.size as usize).await?;
            self.still_latest(&mut held, write.name, &old).await?;
        }
        // The running sum goes on only over writes at the end; an append that fails leaves it as it was.
        let before = held.sum(old.size).filter(|_| at == old.size);
        let mut hasher = before.as_ref().map_or_else(crc32fast::Hasher::new, |sum| sum.hasher.clone());
        if at < old.size {
            self.can_record()?;
            held.set_sum(None);
        }
        let noted = self.pending.note(Kind::Change { mtime: seconds(old.mtime) }, write.name);
        held.adding(&old);
        if at < old.size && write.size <= WHOLE {
            let reserved = place.try_on("make room in", |_| dir::reserve(&file, at, write.size));
            reserved.inspect_err(|_| shorten(&place, &file, &mut held, &old))?;
        }
        let received = match write.size <= WHOLE {
            true => self.receive_at_once(conn, &file, at, write.size, &mut hasher).await,
            false => self.receive_into(conn, &file, at, write.size, &mut hasher).await,
        };
        let received = match received {
            // It may have taken long. What of the file was replaced stays so, and is recorded.
            Ok(()) if at == old.size => self.still_latest(&mut held, write.name, &old).await.map_err(Refusal::from),
            other => other,
        };
        let change = match write.offset {
            Some(offset) => Change::Modify { offset, len: write.size },
            None => Change::Append { offset: at, len: write.size },
        };
        let recorded = received.and_then(|()| {
            // From the record on, push loops may send the file whole.
            held.added();
            let recorded = self.record(stamp(&place, &file, &old, &change), change, write.name)?;
            held.set_recorded_before(self.binlog.place());
            Ok(recorded)
        });
        let recorded = match recorded {
            Ok(recorded) => recorded,
            Err(refusal) => {
                shorten(&place, &file, &mut held, &old);
                if at < old.size {
                    // What was there before may be gone.
                    let change = Change::Modify { offset: at, len: write.size.min(old.size - at) };
                    let time = stamp(&place, &file, &old, &change);
                    drop(self.record_noted(time, change, write.name, noted));
                    held.set_recorded_before(self.binlog.place());
                }
                return Err(refusal);
            }
        };
        if at == old.size {
            held.set_sum(before.map(|_| Sum { hasher, size: at + write.size }));
        }
        place.path.took((at + write.size).saturating_sub(old.size));
        if let Err(status) = self.keep(recorded, place.index, Some(file), None).await {
            if at == old.size {
                self.take_back(&place, write.name, &mut held, &old);
            }
            return Err(status.into());
        }
        drop(noted);
        drop(held);
        self.counters.went_well(write.bytes, write.size);
        Ok(conn.send(&Header::ok(0).encode()).await?)
    }

    pub(super) async fn receive_at_once(
        &self,
        conn: &mut Conn<'_>,
        file: &File,
        at: u64,
        size: u64,
        hasher: &mut crc32fast::Hasher,
    ) -> Result<(), Refusal> {
        let content = conn.head(size as usize).await?;
        hasher.update(content);
        let written = file.write_all_at(content, at);
        self.counters.count(Count::FileWrite, 1, written.is_ok());
        conn.consume(size as usize);
        written.map_err(|e| {
            error!("cannot write content: {e}");
            Refusal::Status(Status::from(&e))
        })
    }

    pub(super) async fn truncate(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let request = self.message(conn, Truncate::decode).await?;
        noted(self, note, &request.name);
        self.can_keep()?;
        let place = self.place(&request.name)?;
        let mut held = self.hold_latest(&request.name).await?;
        let (file, old) = self.open_appender(&place, &request.name)?;
        if request.size != old.size {
            // A full disk must not keep anybody from making room.
            if request.size > old.size {
                let growth = request.size - old.size;
                if !place.path.has_room(growth, &self.membership()?.reserved, self.store.paths().len()) {
                    return Err(Status::ENOSPC.into());
                }
            }
            self.can_record()?;
            held.set_sum(None);
            let noted = self.pending.note(Kind::Change { mtime: seconds(old.mtime) }, &request.name);
            place.try_on("truncate", |_| file.set_len(request.size))?;
            let change = Change::Truncate { old: old.size, new: request.size };
            let recorded = self.record_noted(stamp(&place, &file, &old, &change), change, &request.name, noted)?;
            held.set_recorded_before(self.binlog.place());
            self.keep(recorded, place.index, Some(file), None).await?;
        }
        drop(held);
        Ok(conn.send(&Header::ok(0).encode()).await?)
    }

    /// Takes back a write at the end that was recorded and could not be kept, so that its error means it did not happen.
    fn take_back(&self, place: &Place<'_>, name: &RemoteName, held: &mut Held<'_>, before: &Meta) {
        let Ok((file, meta)) = self.open_appender(place, name) else { return };
        shorten(place, &file, held, before);
        held.set_sum(None);
        let change = Change::Truncate { old: meta.size, new: before.size };
        if dir::meta_of(&file).is_ok_and(|after| after.size == before.size) {
            self.record_undone(stamp(place, &file, &meta, &change), change, name);
        }
    }

    /// Opens an appender file for changing it.
    pub(super) fn open_appender(&self, place: &Place<'_>, name: &RemoteName) -> Result<(File, Meta), Status> {
        let opened = place.try_on("open", |p| p.dir().open_write(&p.rel));
        self.counters.count(Count::FileOpen, 1, opened.is_ok());
        let file = match opened {
            // A directory cannot be opened for writing; to the client it is just not a file.
            Err(Status::EISDIR) => return Err(Status::EINVAL),
            other => other?,
        };
        let meta = place.try_on("look at", |_| dir::meta_of(&file))?;
        if !meta.is_file() || !is_appender(name) {
            return Err(Status::EINVAL);
        }
        Ok((file, meta))
    }
}

/// The time of a change that was just made to a file, which its time is from now on. Of writes into it and cuts no two
/// have the same, so that members can tell them apart; of appends the sizes tell.
fn stamp(place: &Place<'_>, file: &File, before: &Meta, change: &Change) -> i64 {
    let now = clock::now();
    let time = match change {
        Change::Append { .. } => before.time_of_change(now),
        _ => before.time_of_next(now),
    };
    // As a rule the kernel has just given it this one.
    if dir::meta_of(file).map_or(true, |meta| meta.mtime != time) {
        place.date(file, time);
    }
    time
}

/// Takes back what a failed write added to the end, and the time it gave the file: nobody was told of a change.
pub(super) fn shorten(place: &Place<'_>, file: &File, held: &mut Held<'_>, before: &Meta) {
    let cut = || -> io::Result<()> {
        // Also when nothing was added: room may have been.
        file.set_len(before.size)?;
        dir::restore_mtime(file, before)
    };
    if let Err(e) = cut() {
        held.set_sum(None);
        error!("cannot take back a failed write to {}: {e}", place.dir().full(&place.rel).display());
    }
}
