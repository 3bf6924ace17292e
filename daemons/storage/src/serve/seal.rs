//! REGENERATE_APPENDER_FILENAME: an appender file becomes a normal one, under a name that tells its size and checksum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use fdfs_protocol::binlog::Change;
use fdfs_protocol::file_id::{NameBlock, SizeField};
use fdfs_protocol::storage::Regenerate;
use fdfs_protocol::{RemoteName, Status};
use tracing::error;

use super::{Done, Note, Service, name_time};
use crate::blocking;
use crate::clock;
use crate::net::Conn;
use crate::thread;

/// Names drawn before giving up.
const DRAWS: u32 = 10;

/// Content up to this size is summed where the request is served; more is summed on another thread.
const INLINE: u64 = 256 * 1024;

impl Service {
    pub(super) async fn regenerate(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let body = self.whole(conn).await?;
        let Regenerate { name: old } = Regenerate::decode(body)?;
        let len = body.len();
        conn.consume(len);
        super::noted(self, note, &old);
        let source = self.membership()?.source;
        let place = self.place(&old)?;
        let mut held = self.names.hold(&old, self.settings.timeout).await?;
        let (file, meta) = self.open_appender(&place, &old)?;
        let crc32 = match held.sum(meta.size) {
            Some(sum) => sum.hasher.finalize(),
            None => checksum(file, meta.size).await?,
        };
        let mut renamed = None;
        for _ in 0..DRAWS {
            let size = SizeField::normal(meta.size, thread::random() as u32);
            let block = NameBlock { source, timestamp: name_time(), size, crc32 };
            let new = old.with_block(&block);
            let target = self.place(&new)?;
            match place.dir().rename_new(&place.rel, &target.rel) {
                Ok(()) => {
                    renamed = Some((new, target));
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    error!("cannot rename {old} to {new}: {e}");
                    return Err(Status::from(&e).into());
                }
            }
        }
        let (new, target) = renamed.ok_or(Status::EEXIST)?;
        if let Err(status) = self.record(clock::now(), Change::Rename { old: super::canonical(&old) }, &new) {
            if let Err(e) = place.dir().rename_new(&target.rel, &place.rel) {
                error!("{new} has no binlog record and cannot be renamed back to {old}: {e}");
            }
            return Err(status.into());
        }
        held.set_sum(None);
        self.settle(target.index, None, self.dir_to_settle(&target)?).await?;
        drop(held);
        self.log_rename(note, &old, &new);
        self.answer_name(conn, &new).await
    }

    fn log_rename(&self, note: &mut Note, old: &RemoteName, new: &RemoteName) {
        if self.access.is_some() {
            note.name = format!("{old}=>{new}");
        }
    }
}

/// The CRC32 of the first `size` bytes of a file.
pub(super) async fn checksum(file: File, size: u64) -> Result<u32, Status> {
    let summed = match size <= INLINE {
        true => sum(&file, size),
        false => blocking::run(move || sum(&file, size)).await,
    };
    summed.map_err(|e| {
        error!("cannot read a file for its checksum: {e}");
        Status::from(&e)
    })
}

fn sum(file: &File, size: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buf = vec![0; size.clamp(1, INLINE) as usize];
    let mut at = 0;
    while at < size {
        let want = (size - at).min(buf.len() as u64) as usize;
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
    Ok(hasher.finalize())
}
