//! TCP connections of a simulated host: turmoil's, with the interface of [the system's](../system/tcp.rs).
//!
//! A simulated host has one address, so neither where to connect from nor which address to bind is asked.

use std::fs::File;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::trace;

/// Longest segment: sends are cut into these, as a network does.
const SEGMENT: usize = 16 * 1024;

/// A connection between two simulated hosts. The mutex serves methods that tokio's stream has on `&self`; everything
/// runs on one thread, so nobody waits for it.
#[derive(Debug)]
pub struct TcpStream {
    inner: Mutex<turmoil::net::TcpStream>,
    local: SocketAddr,
    peer: SocketAddr,
}

impl TcpStream {
    fn new(inner: turmoil::net::TcpStream) -> io::Result<TcpStream> {
        let (local, peer) = (inner.local_addr()?, inner.peer_addr()?);
        Ok(TcpStream { inner: Mutex::new(inner), local, peer })
    }

    /// As the real one's; here what was sent arrives all the same.
    ///
    /// # Errors
    /// None.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        Ok(())
    }

    /// What two runs of the same seed must have in common.
    fn trace(&self, what: &str, bytes: &[u8]) {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        trace!("{} {what} {} bytes, {:016x}, {}", self.local, bytes.len(), hasher.finish(), self.peer);
    }

    /// The own end.
    ///
    /// # Errors
    /// None; as tokio's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Waits until something can be read, be it the end or an error.
    ///
    /// # Errors
    /// None; reading reports them.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_peek(cx).map(|_| Ok(()))).await
    }

    /// Waits until something can be sent.
    ///
    /// # Errors
    /// That the sending side is shut.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let inner = self.inner.lock();
            let writable = pin!(inner.writable());
            writable.poll(cx)
        })
        .await
    }

    fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut byte = [0];
        self.inner.lock().poll_peek(cx, &mut ReadBuf::new(&mut byte))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.inner.lock()).poll_read(cx, buf);
        if read.is_ready() {
            self.trace("receives", &buf.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.inner.lock()).poll_write(cx, &buf[..buf.len().min(SEGMENT)]);
        if let Poll::Ready(Ok(n)) = written {
            self.trace("sends", &buf[..n]);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner.lock()).poll_shutdown(cx)
    }
}

/// Connects.
///
/// # Errors
/// As on a real network.
pub async fn connect(to: SocketAddr, _from: Option<IpAddr>) -> io::Result<TcpStream> {
    TcpStream::new(turmoil::net::TcpStream::connect(to).await?)
}

/// Waits until there is something to read of a message that has begun.
///
/// # Errors
/// None; reading reports them.
pub async fn rest(stream: &TcpStream) -> io::Result<()> {
    stream.readable().await
}

/// A socket that listens.
pub struct Bound(turmoil::net::TcpListener);

/// Listens at the port of `addr`, on the host's address.
///
/// # Errors
/// That the port is taken, or that the host has no address of that family.
pub fn bind(addr: SocketAddr) -> io::Result<Bound> {
    if addr.is_ipv6() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let bound = pin!(turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, addr.port())));
    match bound.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(bound) => bound.map(Bound),
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Bound {
    /// The address, with the real port.
    ///
    /// # Errors
    /// None; as the system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// As the system's.
    ///
    /// # Errors
    /// None; as the system's.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener(self.0))
    }
}

/// A socket that accepts connections.
pub struct Listener(turmoil::net::TcpListener);

impl Listener {
    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// None; as the system's.
    pub async fn accept(&self) -> io::Result<(Accepted, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Accepted(TcpStream::new(stream)?), peer))
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted(TcpStream);

impl Accepted {
    /// As the system's.
    ///
    /// # Errors
    /// None; as the system's.
    pub fn stream(self) -> io::Result<TcpStream> {
        Ok(self.0)
    }
}

/// Ends the receiving side of a stream from elsewhere, which only a server that is stopped does. Simulated hosts are
/// killed.
#[derive(Debug)]
pub struct Closer;

impl Closer {
    /// For this stream.
    pub fn of(_stream: &TcpStream) -> Closer {
        Closer
    }

    /// Does nothing.
    pub fn close_reading(&self) {}
}

/// Sends as much of `bytes` as is taken at once.
///
/// # Errors
/// `WouldBlock`, and that the connection is broken.
pub fn try_send(stream: &TcpStream, bytes: &[u8], _more: bool) -> io::Result<usize> {
    let n = stream.inner.lock().try_write(&bytes[..bytes.len().min(SEGMENT)])?;
    stream.trace("sends", &bytes[..n]);
    Ok(n)
}

/// [`try_send`] of several pieces.
///
/// # Errors
/// As [`try_send`].
pub fn try_send_vectored(stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(&piece[..piece.len().min(SEGMENT - bytes.len())]);
    }
    try_send(stream, &bytes, false)
}

/// Sends some bytes of a file from `offset`; 0 at its end.
///
/// # Errors
/// As [`try_send`], and what reading reported.
pub fn try_send_file(stream: &TcpStream, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut bytes = vec![0; len.min(SEGMENT)];
    let n = file.read_at(&mut bytes, offset)?;
    try_send(stream, &bytes[..n], false)
}

/// Whether the connection is open and nothing is there to be received.
pub fn is_quiet(stream: &TcpStream, _thorough: bool) -> bool {
    stream.poll_peek(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// For each of these addresses whether this host has it; those of simulated hosts never move.
///
/// # Errors
/// None.
pub fn own(addresses: &[IpAddr]) -> io::Result<Vec<(IpAddr, bool)>> {
    Ok(addresses.iter().map(|ip| (*ip, true)).collect())
}

/// Ends the sending side.
pub fn shutdown_write(stream: &TcpStream) {
    let mut inner = stream.inner.lock();
    let _ = Pin::new(&mut *inner).poll_shutdown(&mut Context::from_waker(Waker::noop()));
}
