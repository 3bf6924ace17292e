//! UPLOAD_FILE and UPLOAD_APPENDER_FILE.
//!
//! Content that fits into the receive buffer is summed there and created straight under its final name: create, write,
//! close, one binlog line, one answer. Larger content flows through the buffer into a file without a name, and gets its
//! name, which carries the checksum, when it is complete.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use fdfs_protocol::binlog::{Change, Origin};
use fdfs_protocol::file_id::{NameBlock, NewName, SizeField};
use fdfs_protocol::storage::UploadHead;
use fdfs_protocol::{RemoteName, Status};
use tracing::{debug, error};

use super::{Done, Note, Refusal, Service, noted, warn_removed};
use crate::clock;
use crate::clock::seconds;
use crate::counters::Count;
use crate::disk::dir::{self, RelPath};
use crate::disk::incoming::Incoming;
use crate::disk::pending::{Kind, Noted, Pending};
use crate::disk::rotation::Leaf;
use crate::disk::store::StorePath;
use crate::names::Sum;
use crate::net::Conn;
use crate::net::scratch::SIZE;
use crate::thread;

/// Content up to this size is received whole before a file is made.
pub(super) const WHOLE: u64 = SIZE as u64 - 4096;

/// Names drawn before giving up; names carry at least 23 random bits, so the second draw is unlikely already.
const DRAWS: u32 = 10;

/// After this many bytes other connections get their turn.
const TURN: u64 = 1024 * 1024;

/// What the name of a new file is made of, beside its content.
struct Draft<'a> {
    head: &'a UploadHead,
    appender: bool,
    index: usize,
    leaf: Leaf,
}

impl Draft<'_> {
    fn draw(&self, service: &Service, crc32: u32) -> Result<RemoteName, Status> {
        let bits = thread::random();
        let size = match self.appender {
            true => SizeField::appender(bits as u32),
            false => SizeField::normal(self.head.size, bits as u32),
        };
        Ok(RemoteName::generate(&NewName {
            store_path: self.index as u8,
            directories: self.leaf.at,
            block: NameBlock { source: service.membership()?.source, timestamp: seconds(clock::now()), size, crc32 },
            slot: None,
            ext: &self.head.ext,
            random: (bits >> 32) as u32,
        }))
    }
}

/// A file that has its name, and no record yet.
struct New<'a> {
    name: RemoteName,
    file: File,
    sum: Sum,
    pending: Noted<'a>,
}

/// Tries names until one is free.
fn first_free<'p, T>(
    pending: &'p Pending,
    mut draw: impl FnMut() -> Result<RemoteName, Status>,
    mut take: impl FnMut(&RelPath) -> io::Result<T>,
) -> Result<(RemoteName, T, Noted<'p>), Status> {
    for _ in 0..DRAWS {
        let name = draw()?;
        let file = RelPath::new(name.file_part().as_bytes()).ok_or(Status::EINVAL)?;
        let noted = pending.note(Kind::Create, &name);
        match take(&file) {
            Ok(taken) => return Ok((name, taken, noted)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                error!("cannot make a file: {e}");
                return Err(Status::from(&e));
            }
        }
    }
    error!("no free name in {DRAWS} draws");
    Err(Status::EEXIST)
}

impl Service {
    pub(super) async fn upload(&self, conn: &mut Conn<'_>, appender: bool, note: &mut Note) -> Done {
        let body = conn.body_left();
        if body < UploadHead::FIXED_LEN as u64 {
            return Err(Status::EINVAL.into());
        }
        let head = UploadHead::decode(conn.head(UploadHead::FIXED_LEN).await?, body)?;
        conn.consume(UploadHead::FIXED_LEN);
        self.can_keep()?;
        let membership = self.membership()?;
        let index = self.store.choose(head.store_path, head.size, &membership.reserved, membership.choice)?;
        let path = &self.store.paths()[index];
        let draft = Draft { head: &head, appender, index, leaf: self.leaf(index, path)? };
        self.counters.tried(Count::UploadBytes, head.size);
        let New { name, file, sum, pending } = match head.size <= WHOLE {
            true => self.receive_whole(conn, &draft).await?,
            false => self.receive_stream(conn, &draft).await?,
        };
        noted(self, note, &name);
        self.publish(&draft, path, &name, file, pending).await?;
        path.took(head.size);
        if appender {
            self.names.remember(&name, sum);
        }
        self.counters.went_well(Count::UploadBytes, head.size);
        self.answer_name(conn, &name).await
    }

    fn leaf(&self, index: usize, path: &StorePath) -> Result<Leaf, Status> {
        let leaf = self.rotation.leaf(index, &path.dir);
        self.counters.count(Count::FileOpen, 1, leaf.is_ok());
        leaf.map_err(|e| {
            error!("cannot open a directory below {}: {e}", path.dir.path().display());
            Status::from(&e)
        })
    }

    async fn receive_whole(&self, conn: &mut Conn<'_>, draft: &Draft<'_>) -> Result<New<'_>, Refusal> {
        let content = conn.head(draft.head.size as usize).await?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(content);
        let crc = hasher.clone().finalize();
        let leaf = draft.leaf.fd.as_fd();
        let take = |file: &RelPath| dir::create_new_at(leaf, file);
        let (name, mut file, pending) = first_free(&self.pending, || draft.draw(self, crc), take)?;
        let written = file.write_all(content);
        self.counters.count(Count::FileWrite, 1, written.is_ok());
        if let Err(e) = written {
            error!("cannot write {name}: {e}");
            self.withdraw(draft, &name);
            return Err(Status::from(&e).into());
        }
        conn.consume(draft.head.size as usize);
        Ok(New { name, file, sum: Sum { hasher, size: draft.head.size }, pending })
    }

    async fn receive_stream(&self, conn: &mut Conn<'_>, draft: &Draft<'_>) -> Result<New<'_>, Refusal> {
        let begun = Incoming::begin(&draft.leaf.fd).map_err(|e| {
            error!("cannot make a file: {e}");
            Status::from(&e)
        });
        let mut incoming = begun?;
        let mut hasher = crc32fast::Hasher::new();
        self.receive_into(conn, incoming.file(), 0, draft.head.size, &mut hasher).await?;
        let crc = hasher.clone().finalize();
        let take = |file: &RelPath| incoming.publish(file);
        let (name, (), pending) = first_free(&self.pending, || draft.draw(self, crc), take)?;
        let file = incoming.into_file();
        Ok(New { name, file, sum: Sum { hasher, size: draft.head.size }, pending })
    }

    /// Receives `size` bytes of content into `file` from `offset`, adding them to `hasher`.
    pub(super) async fn receive_into(
        &self,
        conn: &mut Conn<'_>,
        file: &File,
        offset: u64,
        size: u64,
        hasher: &mut crc32fast::Hasher,
    ) -> Result<(), Refusal> {
        use std::os::unix::fs::FileExt;
        let (mut at, end) = (offset, offset + size);
        let mut turn = TURN;
        while at < end {
            let piece = conn.piece(at).await?;
            hasher.update(piece);
            let written = file.write_all_at(piece, at);
            self.counters.count(Count::FileWrite, 1, written.is_ok());
            if let Err(e) = written {
                error!("cannot write content: {e}");
                return Err(Status::from(&e).into());
            }
            let n = piece.len();
            conn.consume(n);
            at += n as u64;
            turn = turn.saturating_sub(n as u64);
            if turn == 0 {
                turn = TURN;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Records the new file; without a record, or not kept as was asked for, there is no new file.
    async fn publish(
        &self,
        draft: &Draft<'_>,
        path: &StorePath,
        name: &RemoteName,
        file: File,
        _pending: Noted<'_>,
    ) -> Result<(), Refusal> {
        let time = clock::now();
        if draft.appender
            // Members go by the times of appenders: theirs is that of the record.
            && let Err(e) = dir::set_mtime(&file, seconds(time), Origin::Client)
        {
            error!("cannot set the time of {name}: {e}");
        }
        let recorded = match self.record(time, Change::Create, name) {
            Ok(recorded) => recorded,
            Err(status) => {
                self.withdraw(draft, name);
                return Err(status.into());
            }
        };
        if let Err(status) = self.keep(recorded, draft.index, Some(file), Some(draft.leaf.fd.clone())).await {
            self.withdraw(draft, name);
            self.record_undone(clock::now(), Change::Delete, name);
            debug!("{}: {name} could not be kept as was asked for, and was removed", path.dir.path().display());
            return Err(status.into());
        }
        Ok(())
    }

    fn withdraw(&self, draft: &Draft<'_>, name: &RemoteName) {
        if let Some(file) = RelPath::new(name.file_part().as_bytes()) {
            let removed = dir::unlink_at(draft.leaf.fd.as_fd(), &file);
            warn_removed("an incomplete upload", std::path::Path::new(name.as_str()), removed);
        }
    }
}
