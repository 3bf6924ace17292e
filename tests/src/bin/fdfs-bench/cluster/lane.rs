//! One connection with one request outstanding.

use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use fdfs_protocol::{HEADER_LEN, Header, Status};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::load::{Workload, connect};

/// Bytes asked for by one `recv` whose data is looked at: a small answer comes whole.
const READ: usize = 16 << 10;
/// Bytes dropped by one `recv` whose data is not looked at.
const DROP: usize = 4 << 20;

/// Memory that the lanes of a thread share for receiving.
pub struct Scratch {
    read: Vec<u8>,
    /// Only its length matters: the kernel does not write what it drops.
    drop: Vec<u8>,
}

impl Scratch {
    /// Scratch memory of one thread.
    pub fn new() -> Scratch {
        Scratch { read: vec![0; READ], drop: vec![0; DROP] }
    }
}

/// What [`Lane::advance`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The socket has to become ready first.
    Waiting,
    /// The answer is complete.
    Done(Status),
}

/// One connection and what it does.
pub struct Lane<W> {
    socket: TcpStream,
    peer: SocketAddr,
    /// What this connection asks for.
    pub workload: W,
    head: Vec<u8>,
    /// Bytes of head and content sent so far, and in all.
    sent: u64,
    to_send: u64,
    /// Header and wanted body of an answer that came in pieces.
    kept: Vec<u8>,
    /// Bytes of the answer received so far, and its header once known.
    received: u64,
    header: Option<Header>,
    started: Instant,
}

impl<W: Workload> Lane<W> {
    /// Connects to `peer`.
    pub fn connect(peer: SocketAddr, workload: W) -> Result<Lane<W>> {
        Ok(Lane::over(connect(peer)?, peer, workload))
    }

    fn over(socket: TcpStream, peer: SocketAddr, workload: W) -> Lane<W> {
        Lane {
            socket,
            peer,
            workload,
            head: Vec::new(),
            sent: 0,
            to_send: 0,
            kept: Vec::new(),
            received: 0,
            header: None,
            started: Instant::now(),
        }
    }

    /// The same connection with another workload.
    pub fn with<V: Workload>(self, change: impl FnOnce(W) -> V) -> Lane<V> {
        Lane::over(self.socket, self.peer, change(self.workload))
    }

    /// The socket, to be watched.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// When the present request was begun.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Sends the next request, or as much of it as the socket takes; `false` when there is none.
    pub fn begin(&mut self, now: Instant) -> Result<bool> {
        if !self.workload.request(&mut self.head) {
            return Ok(false);
        }
        self.started = now;
        self.sent = 0;
        self.to_send = self.head.len() as u64 + self.workload.content().len() as u64;
        self.received = 0;
        self.header = None;
        self.kept.clear();
        self.send()?;
        Ok(true)
    }

    /// Goes on after the socket became ready for `flags`.
    pub fn advance(&mut self, flags: EventFlags, scratch: &mut Scratch) -> Result<Progress> {
        if self.sent < self.to_send {
            self.send()?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            return Ok(Progress::Waiting);
        }
        let progress = self.receive(scratch)?;
        if let Progress::Done(status) = progress
            && self.sent < self.to_send
        {
            bail!("{} answered before the request was sent: {status}", self.peer);
        }
        Ok(progress)
    }

    /// Sends until everything is sent or the socket is full.
    fn send(&mut self) -> Result<()> {
        let head_len = self.head.len() as u64;
        while self.sent < self.to_send {
            let content = self.workload.content();
            let sent = if self.sent >= head_len {
                rustix::net::send(&self.socket, &content[(self.sent - head_len) as usize..], SendFlags::NOSIGNAL)
            } else if content.is_empty() {
                rustix::net::send(&self.socket, &self.head[self.sent as usize..], SendFlags::NOSIGNAL)
            } else {
                let parts = [IoSlice::new(&self.head[self.sent as usize..]), IoSlice::new(content)];
                let mut control = SendAncillaryBuffer::default();
                rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL)
            };
            match sent {
                Ok(0) => bail!("{}: nothing could be sent", self.peer),
                Ok(n) => self.sent += n as u64,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).with_context(|| format!("sending to {}", self.peer)),
            }
        }
        Ok(())
    }

    /// Receives until the answer is complete or the socket is empty.
    fn receive(&mut self, scratch: &mut Scratch) -> Result<Progress> {
        loop {
            // A short read means that the socket is empty: its next edge will come, no need to ask again.
            let (n, short) = match self.to_drop() {
                Some(left) => {
                    let len = left.min(DROP as u64) as usize;
                    let n = self.recv(&mut scratch.drop[..len], RecvFlags::TRUNC)?;
                    self.received += n as u64;
                    (n, n < len)
                }
                None => {
                    let n = self.recv(&mut scratch.read, RecvFlags::empty())?;
                    let data = &scratch.read[..n];
                    if self.received == 0
                        && let Some((header, body)) = split(data)?
                        && header.body_len == body.len() as u64
                    {
                        return self.finish(header, body).map(Progress::Done);
                    }
                    self.keep(data)?;
                    (n, n < READ)
                }
            };
            if let Some(header) = self.header {
                let due = HEADER_LEN as u64 + header.body_len;
                ensure!(self.received <= due, "{} sent more than its answer", self.peer);
                if self.received == due {
                    let kept = std::mem::take(&mut self.kept);
                    let status = self.finish(header, kept.get(HEADER_LEN..).unwrap_or_default())?;
                    self.kept = kept;
                    return Ok(Progress::Done(status));
                }
            }
            if short || n == 0 {
                return Ok(Progress::Waiting);
            }
        }
    }

    /// How much of the answer is left, when nobody wants to see it.
    fn to_drop(&self) -> Option<u64> {
        let header = self.header?;
        let wanted = header.body_len.min(self.workload.wanted() as u64);
        (self.received >= HEADER_LEN as u64 + wanted).then(|| HEADER_LEN as u64 + header.body_len - self.received)
    }

    /// Keeps what has come of an answer that is not complete.
    fn keep(&mut self, data: &[u8]) -> Result<()> {
        self.received += data.len() as u64;
        let room = (HEADER_LEN + self.workload.wanted()).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&data[..data.len().min(room)]);
        if self.header.is_none() {
            self.header = split(&self.kept)?.map(|(header, _)| header);
        }
        Ok(())
    }

    /// Bytes received; zero when the socket is empty.
    fn recv(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize> {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, flags) {
                Ok((_, 0)) => bail!("{} closed the connection", self.peer),
                Ok((_, n)) => return Ok(n),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).with_context(|| format!("receiving from {}", self.peer)),
            }
        }
    }

    fn finish(&mut self, header: Header, body: &[u8]) -> Result<Status> {
        let status = header.outcome();
        if status.is_ok() {
            let wanted = body.len().min(self.workload.wanted());
            self.workload
                .answer(header.body_len, &body[..wanted])
                .with_context(|| format!("unexpected answer from {}", self.peer))?;
        } else {
            ensure!(header.body_len == 0, "{}: an answer with status {status} has a body", self.peer);
        }
        Ok(status)
    }
}

/// The header and what has come of the body, once the header is complete.
fn split(data: &[u8]) -> Result<Option<(Header, &[u8])>> {
    match data.split_first_chunk::<HEADER_LEN>() {
        Some((header, body)) => Ok(Some((Header::decode(header)?, body))),
        None => Ok(None),
    }
}
