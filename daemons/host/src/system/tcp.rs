//! TCP connections of the operating system.
//!
//! The functions that send or look do not wait: they give `WouldBlock` where waiting would be needed, and tell the
//! runtime so, which makes [`TcpStream::writable`] wait.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket};

pub use tokio::net::TcpStream;

/// Pending connections the kernel may queue; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// After this time of silence the kernel asks whether the peer of an accepted connection is there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connects; from the address `from`, if it is one of the same family.
///
/// # Errors
/// What the system reported.
pub async fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from.filter(|f| f.is_ipv4() == to.is_ipv4() && !f.is_unspecified()) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Waits until there is something to read of a message that has begun, and acknowledges what has come of it first.
///
/// FastDFS's daemons and clients have Nagle's algorithm on, and send a message's head and its content apart: the content
/// does not leave them before the head is acknowledged, and the kernel puts that off by 40 ms, in the hope of an answer
/// that could carry it.
///
/// # Errors
/// What the system reported; the connection is of no further use.
pub async fn rest(stream: &TcpStream) -> io::Result<()> {
    let mut readable = pin!(stream.readable());
    let mut acknowledged = false;
    poll_fn(|cx| {
        let polled = readable.as_mut().poll(cx);
        if polled.is_pending() && !acknowledged {
            acknowledged = true;
            // Without it the rest comes later; that is all.
            let _ = stream.set_quickack(true);
        }
        polled
    })
    .await
}

/// A socket that listens, on no runtime yet.
#[derive(Debug)]
pub struct Bound(std::net::TcpListener);

/// Listens at `addr`; IPv6 addresses take no IPv4 connections.
///
/// # Errors
/// What the system reported.
pub fn bind(addr: SocketAddr) -> io::Result<Bound> {
    let s = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        s.set_only_v6(true)?;
    }
    s.set_reuse_address(true)?;
    s.set_nonblocking(true)?;
    s.bind(&addr.into())?;
    s.listen(BACKLOG)?;
    Ok(Bound(s.into()))
}

impl Bound {
    /// The address, with the real port.
    ///
    /// # Errors
    /// What the system reported.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Puts it on the runtime that will accept.
    ///
    /// # Errors
    /// What the system reported.
    pub fn listen(self) -> io::Result<Listener> {
        TcpListener::from_std(self.0).map(Listener)
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// What the system reported; the listener is still good.
    pub async fn accept(&self) -> io::Result<(Accepted, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        Ok((Accepted(stream.into_std()?), peer))
    }
}

/// An accepted connection, on no runtime yet.
#[derive(Debug)]
pub struct Accepted(std::net::TcpStream);

impl Accepted {
    /// Puts it on the runtime that will serve it.
    ///
    /// # Errors
    /// What the system reported.
    pub fn stream(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self.0)
    }
}

/// Ends the receiving side of a stream from elsewhere. It must not be used after the stream is dropped, when its
/// descriptor may mean something else.
#[derive(Debug)]
pub struct Closer(RawFd);

impl Closer {
    /// For this stream.
    pub fn of(stream: &TcpStream) -> Closer {
        Closer(stream.as_raw_fd())
    }

    /// Whoever reads finds the end of the stream.
    pub fn close_reading(&self) {
        // SAFETY: a plain call without memory effects; that the descriptor is still the stream's is the caller's duty.
        unsafe { libc::shutdown(self.0, libc::SHUT_RD) };
    }
}

/// Sends as much of `bytes` as is taken at once. `more`: the rest of the packet will follow.
///
/// # Errors
/// `WouldBlock`, and what the system reported.
pub fn try_send(stream: &TcpStream, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = if more { libc::MSG_MORE } else { 0 };
    stream.try_io(Interest::WRITABLE, || SockRef::from(stream).send_with_flags(bytes, flags | libc::MSG_NOSIGNAL))
}

/// [`try_send`] of several pieces.
///
/// # Errors
/// As [`try_send`].
pub fn try_send_vectored(stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || SockRef::from(stream).send_vectored(pieces))
}

/// Sends up to `len` bytes of a file from `offset` with one `sendfile(2)`; 0 at its end. The offset of the file itself
/// is neither used nor moved.
///
/// # Errors
/// `WouldBlock`, and what the system reported.
pub fn try_send_file(stream: &TcpStream, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    stream.try_io(Interest::WRITABLE, || {
        // SAFETY: both descriptors are open, since stream and file are borrowed; `offset` lives during the call.
        let n = unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &mut offset, len) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    })
}

/// Whether the connection is open and nothing is there to be received; `thorough` asks the kernel even if the runtime
/// has not seen an event.
pub fn is_quiet(stream: &TcpStream, thorough: bool) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let peek = |byte: &mut [_]| SockRef::from(stream).peek(byte);
    let seen = if thorough { peek(&mut byte) } else { stream.try_io(Interest::READABLE, || peek(&mut byte)) };
    // Zero bytes are the end; errors are errors.
    matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// For each of these addresses whether this host has it now. What it may only bind to (`ip_nonlocal_bind`) does not count,
/// nor what leads here by translation.
///
/// # Errors
/// What the system reported: it cannot be found out.
pub fn own(addresses: &[IpAddr]) -> io::Result<Vec<(IpAddr, bool)>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: the pointer is to a live value; it is set to a list, which is freed below.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut has = BTreeSet::new();
    let mut next = first;
    // SAFETY: entries of the list are valid until it is freed, and the last one has no next.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: as an entry of the list promises.
        has.extend(unsafe { ip_of(entry.ifa_addr) });
        next = entry.ifa_next;
    }
    // SAFETY: it comes from `getifaddrs`, and nothing points into it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses.iter().map(|ip| (*ip, ip.is_loopback() || has.contains(ip) || is_local(*ip))).collect())
}

/// Whether what is sent to an address stays on this host: also where a route alone makes it local, and no interface has it.
fn is_local(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let way = UdpSocket::bind((any, 0)).and_then(|way| way.connect((ip, 9)).map(|()| way));
    way.and_then(|way| way.local_addr()).is_ok_and(|own| own.ip() == ip)
}

/// The address behind a pointer, if it is one of IP.
///
/// # Safety
/// The pointer is null, or to an address as long as its family has it.
unsafe fn ip_of(at: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: as promised.
    match i32::from(unsafe { at.as_ref() }?.sa_family) {
        libc::AF_INET => {
            // SAFETY: an address of this family, as promised.
            let v4 = unsafe { (*at.cast::<libc::sockaddr_in>()).sin_addr };
            Some(Ipv4Addr::from(u32::from_be(v4.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an address of this family, as promised.
            let v6 = unsafe { (*at.cast::<libc::sockaddr_in6>()).sin6_addr };
            Some(Ipv6Addr::from(v6.s6_addr).into())
        }
        _ => None,
    }
}

/// Ends the sending side.
pub fn shutdown_write(stream: &TcpStream) {
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn addresses_of_this_host() {
        let way = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        way.connect("192.0.2.1:9").or_else(|_| way.connect("127.0.0.1:9")).unwrap();
        let mine = way.local_addr().unwrap().ip();
        let [v4, v6, aside, own4, own6] =
            ["192.0.2.1", "2001:db8::1", "127.9.9.9", "127.0.0.1", "::1"].map(|ip| ip.parse().unwrap());
        let found = own(&[v4, mine, v6, aside, own4, own6]).unwrap();
        assert_eq!(found, [(v4, false), (mine, true), (v6, false), (aside, true), (own4, true), (own6, true)]);
    }

    #[tokio::test]
    async fn acknowledges_before_it_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();

        stream.set_quickack(false).unwrap();
        peer.write_all(b"head").await.unwrap();
        rest(&stream).await.unwrap();
        assert!(!stream.quickack().unwrap(), "there was something to read");

        assert_eq!(stream.read(&mut [0; 100]).await.unwrap(), 4);
        let mut waiting = pin!(rest(&stream));
        let polled = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        assert!(stream.quickack().unwrap());
        peer.write_all(b"content").await.unwrap();
        waiting.await.unwrap();
    }
}
