//! One connection to a server: sends a request, receives its answer, step by step, each step bounded in time.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use fdfs_host::{TcpStream, tcp};
use fdfs_protocol::{HEADER_LEN, Header};
use tokio::io::AsyncReadExt;

use crate::content::{Content, Kind};
use crate::patience::Patience;

/// Room for an ordinary answer. Reads ask for more than an answer has: a read that comes back short
/// tells the runtime that the socket is empty, which saves it a futile read before the next answer.
const INBOX: usize = 512;
/// An inbox that grew beyond this is not kept with an idle connection.
const INBOX_KEPT: usize = 8 * 1024;
/// Memory is reserved for what a peer announced in steps of this, as it arrives.
const RESERVE: usize = 1024 * 1024;
/// Bytes handed to the socket in one go, so that other tasks of the thread get their turn.
const PIECE: usize = 512 * 1024;
/// Buffer for streams and for files that `sendfile(2)` does not take.
const COPY: usize = 128 * 1024;
/// Slices in one vectored write.
const SLICES: usize = 32;

/// How far a request had come when its connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    /// Not a byte of the request was taken.
    Untouched,
    /// The server did not get the whole request, so it cannot have carried it out as a whole.
    Sending,
    /// The server may have carried it out; not a byte of the answer came.
    Sent,
    /// The answer had begun.
    Answering,
}

/// Why a connection failed.
#[derive(Debug)]
pub(crate) enum Cause {
    Timeout(Duration),
    Io(io::Error),
    /// The peer sent what no server may send.
    Protocol(String),
    /// The caller's file, reader or writer failed.
    Local(&'static str, io::Error),
}

/// A connection that can no longer be used.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) stage: Stage,
    pub(crate) cause: Cause,
}

impl Broken {
    pub(crate) fn protocol(detail: String) -> Self {
        Self { stage: Stage::Answering, cause: Cause::Protocol(detail) }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes received and not yet used.
    inbox: BytesMut,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr, timeout: Duration) -> Result<Self, Broken> {
        let broken = |cause| Broken { stage: Stage::Connecting, cause };
        let stream = match tokio::time::timeout(timeout, tcp::connect(addr, None)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(broken(Cause::Io(error))),
            Err(_) => return Err(broken(Cause::Timeout(timeout))),
        };
        Ok(Self { stream, inbox: BytesMut::new() })
    }

    /// Whether the connection is open and nothing unasked has come; `thorough` asks the kernel even
    /// if the runtime has not seen an event.
    pub(crate) fn is_quiet(&self, thorough: bool) -> bool {
        tcp::is_quiet(&self.stream, thorough)
    }

    /// Whether everything received has been used.
    pub(crate) fn is_in_step(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Frees a large inbox.
    pub(crate) fn trim(&mut self) {
        if self.inbox.capacity() > INBOX_KEPT {
            self.inbox = BytesMut::new();
        }
    }

    /// Sends a whole request: `head` (frame header and fixed part), then the content. `patience` is new.
    pub(crate) async fn send(
        &mut self,
        head: &[u8],
        content: &mut Content<'_>,
        patience: &mut Patience,
    ) -> Result<(), Broken> {
        let sent = match &mut content.kind {
            Kind::Buffers { parts, .. } => self.send_buffers(head, parts, patience).await,
            Kind::File { file, range } if range.start < range.end => match self.send_more(head, patience).await {
                Ok(()) => self.send_file(file, range.start, range.end, patience).await,
                Err(cause) => Err(cause),
            },
            Kind::File { .. } => self.send_buffers(head, &[], patience).await,
            Kind::Reader { reader, len, started } => {
                // The head goes first and alone: a stream, once begun, cannot be sent again.
                match self.send_more(head, patience).await {
                    Ok(()) => {
                        *started = true;
                        self.send_reader(*reader, *len, patience).await
                    }
                    Err(cause) => Err(cause),
                }
            }
        };
        patience.renew();
        let stage = if patience.has_moved() { Stage::Sending } else { Stage::Untouched };
        sent.map_err(|cause| Broken { stage, cause })
    }

    /// Calls `write`, which does not wait, whenever the socket may take bytes, until it has taken some.
    async fn write_some(
        &self,
        patience: &mut Patience,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Result<usize, Cause> {
        loop {
            match write() {
                Ok(n) => {
                    patience.spend(Duration::ZERO, n as u64);
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Cause::Io(error)),
            }
            let start = Instant::now();
            match tokio::time::timeout(patience.left(), self.stream.writable()).await {
                Ok(Ok(())) => patience.spend(start.elapsed(), 0),
                Ok(Err(error)) => return Err(Cause::Io(error)),
                Err(_) => return Err(Cause::Timeout(patience.full())),
            }
        }
    }

    async fn send_buffers(&mut self, head: &[u8], parts: &[Bytes], patience: &mut Patience) -> Result<(), Cause> {
        // Position: how many of [head, parts...] are sent, and how much of the next one.
        let piece = |i: usize| -> &[u8] { if i == 0 { head } else { &parts[i - 1] } };
        let count = parts.len() + 1;
        let (mut next, mut offset) = (0, 0);
        while next < count {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for i in next..count.min(next + SLICES) {
                slices[used] = IoSlice::new(if i == next { &piece(i)[offset..] } else { piece(i) });
                used += 1;
            }
            let mut n = self.write_some(patience, || tcp::try_send_vectored(&self.stream, &slices[..used])).await?;
            while next < count && n >= piece(next).len() - offset {
                n -= piece(next).len() - offset;
                (next, offset) = (next + 1, 0);
            }
            offset += n;
            if next < count {
                tokio::task::coop::consume_budget().await;
            }
        }
        Ok(())
    }

    /// Sends `bytes`, telling the kernel that more will follow at once: no packet for the head alone.
    async fn send_more(&mut self, mut bytes: &[u8], patience: &mut Patience) -> Result<(), Cause> {
        while !bytes.is_empty() {
            let n = self.write_some(patience, || tcp::try_send(&self.stream, bytes, true)).await?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    async fn send_file(
        &mut self,
        file: &std::fs::File,
        start: u64,
        end: u64,
        patience: &mut Patience,
    ) -> Result<(), Cause> {
        let mut offset = start;
        while offset < end {
            let piece = (end - offset).min(PIECE as u64) as usize;
            match self.write_some(patience, || tcp::try_send_file(&self.stream, file, offset, piece)).await {
                Ok(0) => return Err(Cause::Local("read the file to upload", ended_early(offset, end))),
                Ok(n) => offset += n as u64,
                // Files of some file systems cannot be the source of sendfile.
                Err(Cause::Io(error))
                    if offset == start && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
                {
                    return self.copy_file(file, start, end, patience).await;
                }
                // EIO and its like come from the disk, not from the socket.
                Err(Cause::Io(error))
                    if matches!(error.raw_os_error(), Some(libc::EIO | libc::EBADF | libc::EISDIR)) =>
                {
                    return Err(Cause::Local("read the file to upload", error));
                }
                Err(cause) => return Err(cause),
            }
            tokio::task::coop::consume_budget().await;
        }
        Ok(())
    }

    async fn copy_file(
        &mut self,
        file: &std::fs::File,
        start: u64,
        end: u64,
        patience: &mut Patience,
    ) -> Result<(), Cause> {
        use std::os::unix::fs::FileExt;
        let mut buffer = vec![0; COPY.min((end - start) as usize)];
        let mut offset = start;
        while offset < end {
            let wanted = (end - offset).min(buffer.len() as u64) as usize;
            let n = match file.read_at(&mut buffer[..wanted], offset) {
                Ok(0) => return Err(Cause::Local("read the file to upload", ended_early(offset, end))),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Cause::Local("read the file to upload", error)),
            };
            self.send_buffers(&buffer[..n], &[], patience).await?;
            offset += n as u64;
            tokio::task::coop::consume_budget().await;
        }
        Ok(())
    }

    async fn send_reader(
        &mut self,
        reader: &mut (dyn tokio::io::AsyncRead + Send + Unpin),
        len: u64,
        patience: &mut Patience,
    ) -> Result<(), Cause> {
        let mut left = len;
        let mut buffer = BytesMut::with_capacity(COPY.min(len as usize));
        while left > 0 {
            buffer.clear();
            let n = (&mut *reader)
                .take(left)
                .read_buf(&mut buffer)
                .await
                .map_err(|error| Cause::Local("read the stream to upload", error))?;
            if n == 0 {
                return Err(Cause::Local("read the stream to upload", ended_early(len - left, len)));
            }
            left -= n as u64;
            self.send_buffers(&buffer, &[], patience).await?;
        }
        Ok(())
    }

    /// Receives some bytes into the inbox, which has room for `more`.
    async fn receive(&mut self, more: usize, patience: &mut Patience) -> Result<(), Broken> {
        let stage = if self.inbox.is_empty() { Stage::Sent } else { Stage::Answering };
        self.inbox.reserve(more);
        let start = Instant::now();
        match tokio::time::timeout(patience.left(), self.stream.read_buf(&mut self.inbox)).await {
            Ok(Ok(0)) => Err(Broken { stage, cause: Cause::Io(closed()) }),
            Ok(Ok(n)) => {
                patience.spend(start.elapsed(), n as u64);
                Ok(())
            }
            Ok(Err(error)) => Err(Broken { stage, cause: Cause::Io(error) }),
            Err(_) => Err(Broken { stage, cause: Cause::Timeout(patience.full()) }),
        }
    }

    /// Receives the header of an answer. `body` is the length of the body that is likely to follow: room for it
    /// is made, so that both come with one read.
    pub(crate) async fn receive_header(&mut self, body: usize, patience: &mut Patience) -> Result<Header, Broken> {
        let room = if body > INBOX - HEADER_LEN { HEADER_LEN + body + 1 } else { INBOX };
        while self.inbox.len() < HEADER_LEN {
            self.receive(room, patience).await?;
        }
        let Some(bytes) = self.inbox.first_chunk::<HEADER_LEN>() else {
            return Err(Broken::protocol("no header".to_owned()));
        };
        let header = Header::decode(bytes).map_err(|error| Broken::protocol(error.to_string()))?;
        self.inbox.advance(HEADER_LEN);
        if header.cmd != fdfs_protocol::Command::Response.code() {
            return Err(Broken::protocol(format!(
                "the answer has command {} instead of {}",
                header.cmd,
                fdfs_protocol::Command::Response.code()
            )));
        }
        Ok(header)
    }

    /// Receives a body of `len` bytes into the inbox. The caller has checked that `len` is no more than it asked for.
    pub(crate) async fn receive_body(&mut self, len: usize, patience: &mut Patience) -> Result<(), Broken> {
        while self.inbox.len() < len {
            let missing = len - self.inbox.len();
            // Memory grows with what arrives, not with what was announced.
            self.receive(missing.min(RESERVE.max(self.inbox.len())), patience)
                .await
                .map_err(|broken| Broken { stage: Stage::Answering, ..broken })?;
        }
        Ok(())
    }

    /// The body that [`Connection::receive_body`] received, to be looked at where it is.
    pub(crate) fn body(&self, len: usize) -> &[u8] {
        &self.inbox[..len.min(self.inbox.len())]
    }

    /// Throws away a body that was looked at.
    pub(crate) fn consume(&mut self, len: usize) {
        self.inbox.advance(len.min(self.inbox.len()));
    }

    /// Takes a received body away; nothing is copied.
    pub(crate) fn take_body(&mut self, len: usize) -> Bytes {
        if self.inbox.len() <= len {
            return std::mem::take(&mut self.inbox).freeze();
        }
        self.inbox.split_to(len).freeze()
    }

    /// Receives some bytes of a body straight into `buf`; at least one.
    pub(crate) async fn receive_into(&mut self, buf: &mut [u8], patience: &mut Patience) -> Result<usize, Broken> {
        if !self.inbox.is_empty() {
            let n = self.inbox.len().min(buf.len());
            self.inbox.copy_to_slice(&mut buf[..n]);
            return Ok(n);
        }
        let start = Instant::now();
        let broken = |cause| Broken { stage: Stage::Answering, cause };
        match tokio::time::timeout(patience.left(), self.stream.read(buf)).await {
            Ok(Ok(0)) => Err(broken(Cause::Io(closed()))),
            Ok(Ok(n)) => {
                patience.spend(start.elapsed(), n as u64);
                Ok(n)
            }
            Ok(Err(error)) => Err(broken(Cause::Io(error))),
            Err(_) => Err(broken(Cause::Timeout(patience.full()))),
        }
    }

    #[cfg(test)]
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    #[cfg(test)]
    pub(crate) async fn readable(&self) {
        self.stream.readable().await.unwrap();
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the server closed it")
}

fn ended_early(at: u64, end: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ended at {at} of {end} bytes"))
}
