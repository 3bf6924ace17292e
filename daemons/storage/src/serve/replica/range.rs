//! SYNC_APPEND_FILE, SYNC_MODIFY_FILE and SYNC_TRUNCATE_FILE: changes of an appender.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crc32fast::Hasher;
use fdfs_protocol::Status;
use fdfs_protocol::binlog::{Change, Origin};
use fdfs_protocol::peer::replica::{SyncRangeHead, SyncTruncate};
use tokio::time::Instant;
use tracing::debug;

use super::{Origins, THEIR_CLOCK, fetch};
use crate::blocking;
use crate::clock::seconds;
use crate::counters::Count;
use crate::disk::dir::{self, Meta};
use crate::disk::incoming::Incoming;
use crate::disk::pending;
use crate::names::Sum;
use crate::net::Conn;
use crate::serve::change::shorten;
use crate::serve::record::Line;
use crate::serve::upload::WHOLE;
use crate::serve::{Done, Place, Pusher, Refusal, Service, fixed};

/// Bytes that one job copies, so that others have their turn.
const COPIED_AT_ONCE: u64 = 16 * 1024 * 1024;

impl Service {
    pub(super) async fn take_range(&self, conn: &mut Conn<'_>, modify: bool, pusher: Option<&Pusher>) -> Done {
        let body = conn.body_left();
        let names = SyncRangeHead::names_len(fixed(conn, SyncRangeHead::FIXED_LEN).await?)?;
        let len = SyncRangeHead::FIXED_LEN + names;
        let head = SyncRangeHead::decode(conn.head(len).await?, body)?;
        conn.consume(len);
        self.own_group(&head.group)?;
        let place = self.place(&head.name)?;
        let end = head.offset.checked_add(head.len).filter(|&end| end <= i64::MAX as u64).ok_or(Status::EINVAL)?;
        let origin = Origins::new(&head.name, head.timestamp, pusher);
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
        let late = self.is_out_of_turn(&change, &old, origin);
        if !fits || late {
            // A write that has come with the whole file is known, too.
            let known = !modify || i64::from(origin.timestamp) == old.mtime;
            if known && old.size >= end {
                let there = place.try_on("open", |_| file.try_clone())?;
                if has_content(conn, there, head.offset).await? {
                    date_known(&place, &file, &old, head.timestamp)?;
                    return self.had(conn, origin, &place, Status::EEXIST).await;
                }
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
        let over = head.offset < old.size;
        let staged = if over { self.stage(conn, &place, &head).await? } else { None };
        let _noted = self.pending.note(pending::Kind::Push { mtime: seconds(old.mtime) }, &head.name);
        // As for clients: the sum goes on over what is added at the end.
        let before = held.sum(old.size).filter(|_| head.offset == old.size);
        let mut hasher = before.as_ref().map_or_else(Hasher::new, |sum| sum.hasher.clone());
        if over {
            held.set_sum(None);
        }
        held.adding(&old);
        let received = match staged {
            Some(staged) => write_staged(&place, staged, &file, head.offset).await,
            None if head.len <= WHOLE => self.receive_at_once(conn, &file, head.offset, head.len, &mut hasher).await,
            None => self.receive_into(conn, &file, head.offset, head.len, &mut hasher).await,
        };
        let recorded = received.and_then(|()| self.not_lost(conn, &head.name)).and_then(|()| {
            held.added();
            Ok(self.record_push(&line, over)?)
        });
        if let Err(refusal) = recorded {
            shorten(&place, &file, &mut held, &old);
            if over && self.not_lost(conn, &head.name).is_err() {
                // What was there before is gone, and nobody comes again with what is there now. Who has anything later
                // keeps that.
                let change = Change::Modify { offset: head.offset, len: head.len.min(old.size - head.offset) };
                self.record_undone(old.mtime, change, &head.name);
                held.set_recorded_before(self.binlog.place());
            }
            return Err(refusal);
        }
        if modify {
            self.taken.add(line.as_bytes());
        }
        held.set_pushed();
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

    /// Receives what is to be written over something: its source may be lost before all of it is here, and nobody could
    /// complete it then. What does not fit into the receive buffer comes to a file of its own.
    async fn stage(
        &self,
        conn: &mut Conn<'_>,
        place: &Place<'_>,
        head: &SyncRangeHead,
    ) -> Result<Option<Incoming>, Refusal> {
        let staged = match head.len <= WHOLE {
            true => conn.head(head.len as usize).await.map(|_| None)?,
            false => {
                let staged = self.begin_push(place)?;
                let (file, len) = (place.try_on("open", |_| staged.file().try_clone())?, head.len);
                let reserved = blocking::run(move || dir::reserve(&file, 0, len)).await;
                place.try_on("make room in", |_| reserved)?;
                self.receive_into(conn, staged.file(), 0, head.len, &mut Hasher::new()).await?;
                Some(staged)
            }
        };
        self.not_lost(conn, &head.name)?;
        self.can_record()?;
        Ok(staged)
    }

    /// Whether a write or a cut was made by an earlier push, and the file may have been changed again since. Of those of
    /// FastDFS's storages two may look the same.
    fn came_before(&self, line: &Line, here: &Meta, origin: Origins<'_>) -> bool {
        let made = i64::from(origin.timestamp);
        (made < here.mtime || (made == here.mtime && origin.is_strict())) && self.taken.has(line.as_bytes())
    }

    /// Whether a change of an appender comes after one that another member made later, and perhaps knowing this one: that
    /// member was quicker to push. To make it now would be another file than the members have that saw both in their turn.
    /// So it is with one that was made at the same time, since writes and cuts come later than all that is known to who
    /// makes them. The pusher is told to come again, which it does with the whole file. FastDFS's storages make nothing of
    /// that.
    fn is_out_of_turn(&self, change: &Change, here: &Meta, origin: Origins<'_>) -> bool {
        let made = i64::from(origin.timestamp);
        let late = match change {
            Change::Append { .. } => made < here.mtime,
            _ => made <= here.mtime,
        };
        late && origin.is_strict() && self.active.get()
    }

    pub(super) async fn take_truncate(&self, conn: &mut Conn<'_>, pusher: Option<&Pusher>) -> Done {
        let request = self.message(conn, SyncTruncate::decode).await?;
        self.own_group(&request.group)?;
        let place = self.place(&request.name)?;
        let origin = Origins::new(&request.name, request.timestamp, pusher);
        let change = Change::Truncate { old: request.old_size, new: request.new_size };
        let line = origin.line(change, &request.name)?;
        let began = Instant::now();
        let mut held = self.hold_for_push(conn, &request.name).await?;
        let file = match place.try_on("open", |p| p.dir().open_write(&p.rel)) {
            Err(Status::EISDIR) => return self.overtaken(conn, origin, Status::EEXIST).await,
            other => other?,
        };
        let old = place.try_on("look at", |_| dir::meta_of(&file))?;
        if old.is_file() && self.is_out_of_turn(&change, &old, origin) && !self.came_before(&line, &old, origin) {
            debug!("{}: was changed later here than it was cut to {} bytes", request.name, request.new_size);
            return Err(Status::EAGAIN.into());
        }
        // Not a second time, nor in place of what another member has changed since.
        let lacks =
            fetch::may_lack(&request, &old) && !self.taken.has(line.as_bytes()) && !is_changed_since(&old, origin);
        if lacks && !origin.is_strict() && self.active.get() {
            let patience = self.settings.patience().saturating_sub(began.elapsed());
            if self.fetch_cut(conn, &request, (&line, origin), (&place, &old), &mut held, patience).await? {
                return Ok(());
            }
            self.not_lost(conn, &request.name)?;
        }
        // Longer than the new size, it is cut whatever it was: FastDFS passes over what was appended and cut again before
        // it was pushed. What is shorter lacks something. But old files come as they are now, before what made them so, and of
        // that FastDFS passes over what goes beyond their present end: they must not be cut on the way.
        let other = old.size != request.old_size;
        if !old.is_file() || (other && (old.size <= request.new_size || !self.active.get())) {
            if old.size == request.new_size {
                date_known(&place, &file, &old, request.timestamp)?;
            }
            return self.had(conn, origin, &place, Status::EEXIST).await;
        }
        if self.came_before(&line, &old, origin) {
            self.settle(place.index, Some(file), None).await?;
            self.has(origin);
            return Ok(());
        }
        self.can_record()?;
        held.set_sum(None);
        let _noted = self.pending.note(pending::Kind::Push { mtime: seconds(old.mtime) }, &request.name);
        place.try_on("truncate", |_| file.set_len(request.new_size))?;
        date(&place, &file, &old, request.timestamp)?;
        self.record_push(&line, true)?;
        self.taken.add(line.as_bytes());
        self.settle(place.index, Some(file), None).await?;
        self.has(origin);
        Ok(())
    }
}

/// Copies what was received to its place in a file.
async fn write_staged(place: &Place<'_>, staged: Incoming, file: &File, offset: u64) -> Result<(), Refusal> {
    let (mut from, mut to) = (staged.into_file(), place.try_on("open", |_| file.try_clone())?);
    place.try_on("write to", |_| to.seek(SeekFrom::Start(offset)))?;
    let mut copied = COPIED_AT_ONCE;
    while copied == COPIED_AT_ONCE {
        let piece = blocking::run(move || {
            let copied = io::copy(&mut (&from).take(COPIED_AT_ONCE), &mut &to)?;
            Ok((from, to, copied))
        });
        let piece = piece.await;
        (from, to, copied) = place.try_on("write to", |_| piece)?;
    }
    Ok(())
}

/// Whether the file was changed here after one of FastDFS's storages made a change of it.
fn is_changed_since(here: &Meta, origin: Origins<'_>) -> bool {
    here.mtime > i64::from(origin.timestamp) + THEIR_CLOCK
}

/// A change that came later than it was made gets the time it was made, by which later pushes are judged.
pub(super) fn date(place: &Place<'_>, file: &File, before: &Meta, timestamp: u32) -> Result<(), Status> {
    let time = timestamp.max(u32::try_from(before.mtime).unwrap_or(0));
    place.try_on("set the time of", |_| dir::set_mtime(file, time, Origin::Replica))
}

/// The same for one that had come with the file, at an earlier time: what is changed here next comes after it.
fn date_known(place: &Place<'_>, file: &File, before: &Meta, timestamp: u32) -> Result<(), Status> {
    match before.is_file() && before.mtime < i64::from(timestamp) {
        true => date(place, file, before, timestamp),
        false => Ok(()),
    }
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
