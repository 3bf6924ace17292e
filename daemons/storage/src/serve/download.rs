//! DOWNLOAD_FILE.
//!
//! A short range is read behind the header and sent with it in one call; a long one goes from the page cache to the
//! socket by sendfile(2). What is not in the page cache is first brought there by another thread, so that a slow disk
//! holds up nobody but who asked.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use fdfs_protocol::Status;
use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::storage::Download;
use tracing::error;

use super::{Done, Note, Refusal, Service, noted};
use crate::blocking;
use crate::counters::Count;
use crate::disk::dir;
use crate::net::Conn;
use crate::net::scratch::Scratch;

/// Ranges up to this size are copied; beyond it the copy costs more than the system calls of sending the file.
const COPY: u64 = 32 * 1024;

impl Service {
    pub(super) async fn download(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let body = self.whole(conn).await?;
        let request = Download::decode(body)?;
        let len = body.len();
        conn.consume(len);
        noted(self, note, &request.name);
        self.own_group(&request.group)?;
        let place = self.place(&request.name)?;
        let opened = place.try_on("open", |p| p.dir().open_read(&p.rel));
        self.counters.count(Count::FileOpen, 1, opened.is_ok());
        let file = opened?;
        let meta = place.try_on("look at", |_| dir::meta_of(&file))?;
        if !meta.is_file() {
            return Err(Status::EISDIR.into());
        }
        // FastDFS refuses to send an empty file and so blocks the recovery of a disk that has one; we send it.
        let empty = meta.size == 0 && request.offset == 0;
        if request.offset >= meta.size && !empty {
            return Err(Status::EINVAL.into());
        }
        let rest = meta.size - request.offset;
        let len = if request.len == 0 { rest } else { request.len.min(rest) };
        self.counters.tried(Count::DownloadBytes, len);
        let sent = match len <= COPY {
            true => send_copy(conn, file, request.offset, len as usize).await,
            false => {
                let head = Header::ok(len).encode();
                conn.send_file(&head, &file, request.offset, len).await.map_err(Refusal::from)
            }
        };
        self.counters.count(Count::FileRead, 1, sent.is_ok());
        sent?;
        self.counters.went_well(Count::DownloadBytes, len);
        Ok(())
    }
}

async fn send_copy(conn: &mut Conn<'_>, file: File, offset: u64, len: usize) -> Result<(), Refusal> {
    let mut out = Scratch::take();
    out[..HEADER_LEN].copy_from_slice(&Header::ok(len as u64).encode());
    let content = &mut out[HEADER_LEN..HEADER_LEN + len];
    if len > 0 && read_cached(&file, content, offset).is_none() {
        let read = blocking::run(move || {
            let mut buf = vec![0; len];
            file.read_exact_at(&mut buf, offset).map(|()| buf)
        });
        let read = read.await;
        let buf = read.map_err(|e| {
            error!("cannot read a file for a download: {e}");
            Status::from(&e)
        })?;
        content.copy_from_slice(&buf);
    }
    Ok(conn.send(&out[..HEADER_LEN + len]).await?)
}

/// Reads what is in the page cache without waiting for the disk; `None` if that is not all of it.
fn read_cached(file: &File, buf: &mut [u8], offset: u64) -> Option<()> {
    let io = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: the vector points to `buf`, which is writable for its length and outlives the call.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &io, 1, offset as libc::off_t, libc::RWF_NOWAIT) };
    if n >= 0 {
        return (n as usize == buf.len()).then_some(());
    }
    // A file system without that flag is read where we are.
    let unsupported = io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP);
    if unsupported { file.read_exact_at(buf, offset).ok() } else { None }
}
