//! REGENERATE_APPENDER_FILENAME: an appender file becomes a normal one, under a name that tells its size and checksum.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use fdfs_protocol::binlog::Change;
use fdfs_protocol::file_id::{NameBlock, SizeField};
use fdfs_protocol::storage::Regenerate;
use fdfs_protocol::{RemoteName, Status};
use tokio::sync::Semaphore;
use tracing::error;

use super::{Done, Note, Service};
use crate::blocking;
use crate::clock;
use crate::clock::seconds;
use crate::disk::dir;
use crate::disk::pending::Kind;
use crate::names::Held;
use crate::net::Conn;
use crate::thread;

/// Names drawn before giving up.
const DRAWS: u32 = 10;

/// Content up to this size is summed where the request is served; more is summed on another thread.
const INLINE: u64 = 256 * 1024;

/// Checksums of larger content computed at one time, in the whole process.
const LONG: usize = 4;
static TURNS: Semaphore = Semaphore::const_new(LONG);

/// Bytes of content summed in one job.
const PIECE: u64 = 16 * 1024 * 1024;

impl Service {
    pub(super) async fn regenerate(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let Regenerate { name: old } = self.message(conn, Regenerate::decode).await?;
        super::noted(self, note, &old);
        self.can_keep()?;
        let source = self.membership()?.source;
        let place = self.place(&old)?;
        let mut held = self.hold_latest(&old).await?;
        let (file, meta) = self.open_appender(&place, &old)?;
        let crc32 = match held.sum(meta.size) {
            Some(sum) => sum.hasher.finalize(),
            None => checksum(file, meta.size, self.settings.timeout).await?,
        };
        // It may have taken long.
        self.still_latest(&mut held, &old, &meta).await?;
        let mut renamed = None;
        let change = Kind::Change { mtime: seconds(meta.mtime) };
        let _old = self.pending.note(change, &old);
        for _ in 0..DRAWS {
            let size = SizeField::normal(meta.size, thread::random() as u32);
            let block = NameBlock { source, timestamp: seconds(clock::now()), size, crc32 };
            let new = old.with_block(&block);
            let target = self.place(&new)?;
            let noted = self.pending.note(change, &new);
            match place.dir().rename_new(&place.rel, &target.rel) {
                Ok(()) => {
                    renamed = Some((new, target, noted));
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    error!("cannot rename {old} to {new}: {e}");
                    return Err(Status::from(&e).into());
                }
            }
        }
        let (new, target, noted) = renamed.ok_or(Status::EEXIST)?;
        // The client knows the old name only, as long as it has no answer.
        let undo = || {
            let renamed = place.dir().rename_new(&target.rel, &place.rel);
            let undone = renamed.inspect_err(|e| error!("{new} cannot be renamed back to {old}: {e}")).is_ok();
            if undone {
                self.deleted.rename(&new, &old, seconds(clock::now()));
            }
            undone
        };
        self.deleted.rename(&old, &new, seconds(clock::now()));
        let recorded = match self.record(clock::now(), Change::Rename { old: super::canonical(&old)? }, &new) {
            Ok(recorded) => recorded,
            Err(status) => {
                undo();
                return Err(status.into());
            }
        };
        held.set_sum(None);
        let kept = match self.dir_to_settle(&target) {
            Ok(dir) => self.keep(recorded, target.index, None, dir).await,
            Err(status) => Err(status),
        };
        if let Err(status) = kept {
            if undo() {
                self.record_undone(clock::now(), Change::Rename { old: new }, &old);
                self.push_metadata(&old).await;
            }
            return Err(status.into());
        }
        // FastDFS leaves it where nobody can ask for it; members that have it and members that do not would differ for good.
        // It is no part of what is acknowledged: the client must learn the new name now.
        drop(self.delete_metadata(&old));
        drop((noted, held));
        self.log_rename(note, &old, &new);
        self.answer_name(conn, &new).await
    }

    /// [`checksum`], before who asks for it gives up.
    ///
    /// # Errors
    /// As [`checksum`]; `EAGAIN` also when it takes longer than `patience`.
    pub(super) async fn checksum_soon(&self, patience: Duration, file: File, size: u64) -> Result<u32, Status> {
        tokio::time::timeout(patience, checksum(file, size, patience)).await.unwrap_or(Err(Status::EAGAIN))
    }

    /// The same of a file whose name is held: known already, if it was appended to here.
    ///
    /// # Errors
    /// As [`Service::checksum_soon`].
    pub(super) async fn checksum_held(
        &self,
        held: &Held<'_>,
        patience: Duration,
        file: File,
        size: u64,
    ) -> Result<u32, Status> {
        match held.sum(size) {
            Some(sum) => Ok(sum.hasher.finalize()),
            None => self.checksum_soon(patience, file, size).await,
        }
    }

    /// Has the members get the metadata of an appender again: where it had its new name already they removed it.
    async fn push_metadata(&self, name: &RemoteName) {
        let Some(metadata) = name.metadata() else { return };
        let (Ok(place), Ok(mut held)) =
            (self.place(&metadata), self.names.hold(&metadata, self.settings.timeout).await)
        else {
            return;
        };
        let Ok(file) = place.dir().open_write(&place.rel) else { return };
        let Ok(meta) = place.try_on("look at", |_| dir::meta_of(&file)) else { return };
        let time = meta.time_of_next(clock::now());
        place.date(&file, time);
        self.record_undone(time, Change::Update, &metadata);
        held.set_recorded_before(self.binlog.place());
    }

    fn log_rename(&self, note: &mut Note, old: &RemoteName, new: &RemoteName) {
        if self.access.is_some() {
            note.name = format!("{old}=>{new}");
        }
    }
}

/// The CRC32 of the first `size` bytes of a file. That of a large file is computed piece by piece on other threads: it
/// ends when the request does, and no more than [`LONG`] of them keep disks and threads from others.
///
/// # Errors
/// `EAGAIN`: it was not its turn within `patience`, or the file became shorter meanwhile; else what the system reported.
pub(super) async fn checksum(file: File, size: u64, patience: Duration) -> Result<u32, Status> {
    let mut hasher = crc32fast::Hasher::new();
    let _turn = match size <= INLINE {
        true => None,
        // Nobody closes the semaphore.
        false => tokio::time::timeout(patience, TURNS.acquire()).await.map_err(|_| Status::EAGAIN)?.ok(),
    };
    let file = Arc::new(file);
    let mut at = 0;
    while at < size {
        let piece = at..size.min(at + PIECE);
        at = piece.end;
        let summed = match size <= INLINE {
            true => add(&mut hasher, &file, piece).map(|()| hasher.clone()),
            false => {
                let (mut hasher, file) = (hasher.clone(), file.clone());
                blocking::run(move || add(&mut hasher, &file, piece).map(|()| hasher)).await
            }
        };
        hasher = summed.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Status::EAGAIN,
            _ => {
                error!("cannot read a file for its checksum: {e}");
                Status::from(&e)
            }
        })?;
    }
    Ok(hasher.finalize())
}

/// Adds a range of a file to a checksum.
fn add(hasher: &mut crc32fast::Hasher, file: &File, range: Range<u64>) -> io::Result<()> {
    let mut buf = vec![0; (range.end - range.start).clamp(1, INLINE) as usize];
    let mut at = range.start;
    while at < range.end {
        let want = (range.end - at).min(buf.len() as u64) as usize;
        match file.read_at(&mut buf[..want], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                hasher.update(&buf[..n]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
