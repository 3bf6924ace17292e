//! The stream of one client, seen as requests: a header, then a body that is taken in pieces.
//!
//! Invariants:
//! - `body` counts the bytes of the present request's body that the handler has not consumed, buffered or not;
//!   what is buffered beyond them belongs to the next request.
//! - A connection waiting with nothing received holds no buffer; one waiting with a little holds just that.
//! - Every wait inside a request ends after `timeout`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use fdfs_host::{TcpStream, tcp};
use fdfs_protocol::header::{HEADER_LEN, Header};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::scratch::{SIZE, Scratch};

/// A waiting connection with no more than this keeps it in a buffer of its own size.
const CARRY: usize = 1024;

/// Buffers a thread may have waiting for the rest of a request before it moves such beginnings to small buffers.
const MAX_WAITING: usize = 32;

/// The longest pause in, and the most that is read of, a refused request so that the client sees the answer and not a
/// reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 * 1024 * 1024;

/// The peer closed, was too slow, or broke the protocol beyond an answer: the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Gone {
        Gone
    }
}

/// A client's connection.
pub struct Conn<'a> {
    pub(super) stream: &'a mut TcpStream,
    peer: SocketAddr,
    since: Instant,
    timeout: Duration,
    buf: Option<Scratch>,
    /// Bytes received and not consumed, while no buffer is held.
    carry: Vec<u8>,
    start: usize,
    end: usize,
    body: u64,
    pub(super) sent: u64,
}

impl<'a> Conn<'a> {
    /// A connection that was just accepted.
    pub fn new(stream: &'a mut TcpStream, peer: SocketAddr, timeout: Duration) -> Conn<'a> {
        let since = Instant::now();
        Conn { stream, peer, since, timeout, buf: None, carry: Vec::new(), start: 0, end: 0, body: 0, sent: 0 }
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// When this was made: just after the connection was.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Body bytes of the present request that were not consumed.
    pub fn body_left(&self) -> u64 {
        self.body
    }

    /// Bytes sent in answer to the present request.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Waits for the next request. `patient` waits for ever for its first byte.
    ///
    /// # Errors
    /// [`Gone`] when there will be none.
    pub async fn request(&mut self, patient: bool) -> Result<Header, Gone> {
        debug_assert_eq!(self.body, 0);
        self.sent = 0;
        while self.held() < HEADER_LEN {
            let patient = patient && self.held() == 0;
            self.receive(HEADER_LEN, SIZE, !patient).await?;
        }
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&self.bytes()[..HEADER_LEN]);
        // A negative length leaves no way to find the next request.
        let header = Header::decode(&bytes).map_err(|_| Gone)?;
        self.skip(HEADER_LEN);
        self.body = header.body_len;
        Ok(header)
    }

    /// The first `n` bytes of what is left of the body, waiting for them. The caller keeps `n` within the body and
    /// within a buffer.
    ///
    /// # Errors
    /// [`Gone`] when they do not come.
    pub async fn head(&mut self, n: usize) -> Result<&[u8], Gone> {
        if n as u64 > self.body || n > SIZE {
            return Err(Gone);
        }
        while self.held() < n {
            self.receive(n, SIZE, true).await?;
        }
        Ok(&self.bytes()[..n])
    }

    /// At least one byte of the body (which has some left), waiting for it. Pieces end where the file offset, which is
    /// `offset` at their start, is a multiple of the page size, if they can.
    ///
    /// # Errors
    /// [`Gone`] when nothing comes.
    pub async fn piece(&mut self, offset: u64) -> Result<&[u8], Gone> {
        if self.body == 0 {
            return Err(Gone);
        }
        if self.held() == 0 {
            let limit = SIZE - (offset % 4096) as usize;
            self.receive(1, limit, true).await?;
        }
        Ok(self.buffered())
    }

    /// What has been received of the body, without waiting.
    pub fn buffered(&self) -> &[u8] {
        let all = self.bytes();
        &all[..all.len().min(usize::try_from(self.body).unwrap_or(usize::MAX))]
    }

    /// Marks `n` bytes of the body, buffered before, as done with.
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.buffered().len());
        self.skip(n);
        self.body -= n as u64;
    }

    /// Reads and drops what is left of the body.
    ///
    /// # Errors
    /// [`Gone`] when it does not come.
    pub async fn drain(&mut self) -> Result<(), Gone> {
        while self.body > 0 {
            let n = self.piece(0).await?.len();
            self.consume(n);
        }
        Ok(())
    }

    /// Sends the whole of `bytes`.
    ///
    /// # Errors
    /// [`Gone`] when the peer does not take it.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.send_with(bytes, false).await
    }

    pub(super) async fn send_with(&mut self, mut bytes: &[u8], more: bool) -> Result<(), Gone> {
        self.sent += bytes.len() as u64;
        while !bytes.is_empty() {
            match tcp::try_send(self.stream, bytes, more) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Ends the sending side and reads what the client still sends for a short while: closing with unread bytes would
    /// reset the connection, and the client might lose the answer.
    pub async fn linger(&mut self) {
        tcp::shutdown_write(self.stream);
        let patience = self.timeout;
        let all = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.start = 0;
                self.end = 0;
                match tokio::time::timeout(LINGER, self.receive(1, SIZE, false)).await {
                    Ok(Ok(())) => left = left.saturating_sub(self.end as u64),
                    _ => return,
                }
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }

    pub(super) async fn writable(&self) -> Result<(), Gone> {
        match tokio::time::timeout(self.timeout, self.stream.writable()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.buf {
            Some(buf) => &buf[self.start..self.end],
            None => &self.carry[self.start..self.end],
        }
    }

    fn held(&self) -> usize {
        self.end - self.start
    }

    fn skip(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.buf = None;
        }
    }

    /// Receives at least one byte. Makes room for `need` bytes in a row, and does not read beyond `limit` of the buffer.
    async fn receive(&mut self, need: usize, limit: usize, timed: bool) -> Result<(), Gone> {
        loop {
            self.shrink();
            if timed {
                let begun = self.body > 0 || self.held() > 0;
                let stream = &*self.stream;
                let ready = async { if begun { fdfs_host::tcp::rest(stream).await } else { stream.readable().await } };
                match tokio::time::timeout(self.timeout, ready).await {
                    Ok(Ok(())) => {}
                    _ => return Err(Gone),
                }
            } else {
                self.stream.readable().await?;
            }
            let end = self.grow(need);
            let Some(buf) = &mut self.buf else { return Err(Gone) };
            let mut room = ReadBuf::new(&mut buf[end..limit.max(end)]);
            let stream = &mut *self.stream;
            // A short read also tells tokio that the socket is empty, which saves the read that would say so.
            let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut room))).await;
            match polled {
                Poll::Ready(Ok(())) if room.filled().is_empty() => return Err(Gone),
                Poll::Ready(Ok(())) => {
                    self.end += room.filled().len();
                    return Ok(());
                }
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(_)) => return Err(Gone),
                // Not ready after all, or this task has had its share for now.
                Poll::Pending => tokio::task::yield_now().await,
            }
        }
    }

    /// Before waiting: keeps a large buffer only for a large beginning, and only while few wait.
    fn shrink(&mut self) {
        if self.buf.is_some() && (self.held() <= CARRY || Scratch::lent() > MAX_WAITING) {
            self.carry = self.bytes().to_vec();
            self.buf = None;
            self.start = 0;
            self.end = self.carry.len();
        }
    }

    /// Makes sure that there is a large buffer with room for `need` bytes from where the held ones begin; gives the end
    /// of those.
    fn grow(&mut self, need: usize) -> usize {
        let held = self.held();
        match &mut self.buf {
            Some(_) if self.start + need <= SIZE => return self.end,
            Some(buf) => buf.copy_within(self.start..self.end, 0),
            none => {
                let mut buf = Scratch::take();
                buf[..held].copy_from_slice(&self.carry[self.start..self.end]);
                self.carry = Vec::new();
                *none = Some(buf);
            }
        }
        self.start = 0;
        self.end = held;
        held
    }
}
