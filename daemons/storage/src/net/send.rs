//! Sending files.
//!
//! A short range is read behind the header and sent with it in one call; a long one goes from the page cache to the
//! socket by sendfile(2). What is not in the page cache is first brought there by another thread, so that a slow disk
//! holds up nobody but who asked.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use fdfs_host::tcp;

use super::scratch::{SIZE, Scratch};
use super::{Conn, Gone};
use crate::blocking;

/// Ranges up to this size are copied; beyond it the copy costs more than the system calls of sending the file.
const COPY: u64 = 32 * 1024;

/// Longest piece sent from a file before others get their turn.
const SEND_PIECE: u64 = 1024 * 1024;

/// Why a range of a file was not sent.
#[derive(Debug)]
pub enum SendError {
    /// The connection ends.
    Gone,
    /// The file cannot be read; nothing was sent.
    Read(io::Error),
}

impl From<Gone> for SendError {
    fn from(_: Gone) -> SendError {
        SendError::Gone
    }
}

impl Conn<'_> {
    /// Sends `head`, then `len` bytes of a file from `offset`.
    ///
    /// # Errors
    /// [`SendError::Read`]: nothing was sent. [`SendError::Gone`] when the peer does not take it, or the file turns out
    /// to be shorter when part of it was sent: the length was promised, so there is no other way to say so.
    pub async fn send_range(&mut self, head: &[u8], file: &File, offset: u64, len: u64) -> Result<(), SendError> {
        if len > COPY || head.len() as u64 + len > SIZE as u64 {
            return Ok(self.send_file(head, file, offset, len).await?);
        }
        let len = len as usize;
        let mut out = Scratch::take();
        out[..head.len()].copy_from_slice(head);
        let content = &mut out[head.len()..head.len() + len];
        if len > 0 && read_cached(file, content, offset).is_none() {
            let file = file.try_clone().map_err(SendError::Read)?;
            let read = blocking::run(move || {
                let mut buf = vec![0; len];
                file.read_exact_at(&mut buf, offset).map(|()| buf)
            });
            content.copy_from_slice(&read.await.map_err(SendError::Read)?);
        }
        Ok(self.send(&out[..head.len() + len]).await?)
    }

    /// Without copying the content through this process.
    async fn send_file(&mut self, head: &[u8], file: &File, offset: u64, len: u64) -> Result<(), Gone> {
        self.send_with(head, len > 0).await?;
        let (mut at, end) = (offset, offset + len);
        while at < end {
            if !cached(file, at) {
                // Let another thread wait for the disk.
                let file = file.try_clone()?;
                let want = (end - at).min(SEND_PIECE);
                blocking::run(move || load(&file, at, want)).await?;
            }
            let piece_end = end.min(at + SEND_PIECE);
            while at < piece_end {
                match tcp::try_send_file(self.stream, file, at, (piece_end - at) as usize) {
                    Ok(0) => return Err(Gone),
                    Ok(n) => {
                        at += n as u64;
                        self.sent += n as u64;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Err(Gone),
                }
            }
            if at < end {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Whether a read at `at` would find its data in memory.
fn cached(file: &File, at: u64) -> bool {
    let mut byte = [0u8; 1];
    let io = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: the vector points to one writable byte that outlives the call.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &io, 1, at as libc::off_t, libc::RWF_NOWAIT) };
    // Only "would block" says no; file systems without the flag are read where they are.
    n >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// Brings a range of a file into memory.
fn load(file: &File, at: u64, len: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buf = vec![0; 128 * 1024];
    let (mut at, end) = (at, at + len);
    while at < end {
        let want = (end - at).min(buf.len() as u64) as usize;
        match file.read_at(&mut buf[..want], at)? {
            // Shorter than it was; sending it will find that out.
            0 => break,
            n => at += n as u64,
        }
    }
    Ok(())
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
