//! One connection to another daemon: a question, an answer, one at a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fdfs_host::{TcpStream, tcp};
use fdfs_protocol::header::{self, HEADER_LEN, Header};
use fdfs_protocol::{Command, Encode, Status, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// No answer is longer: the longest is a page of the storage ids table.
const MAX_ANSWER: u64 = 1024 * 1024;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection failed; it is of no further use.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer refused.
    #[error("the peer answers {1} with status {number}: {0}", number = .0.0)]
    Status(Status, Command),
    /// The answer does not have the form it must have.
    #[error("the answer to {1} is malformed: {0}")]
    Malformed(String, Command),
}

impl LinkError {
    /// The peer's refusal, if it is one.
    pub fn status(&self) -> Option<Status> {
        match self {
            LinkError::Status(status, _) => Some(*status),
            _ => None,
        }
    }
}

/// How to connect.
#[derive(Debug, Clone, Copy)]
pub struct Dial {
    /// Source address, if it matters: without storage ids others know a storage by the address it comes from.
    pub from: Option<IpAddr>,
    /// Longest wait for the connection.
    pub connect: Duration,
    /// Longest wait for an answer.
    pub answer: Duration,
}

/// An open connection.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    answer: Duration,
    /// The address that was reached.
    pub ip: IpAddr,
}

impl Link {
    /// Connects to the first of a peer's addresses that answers.
    ///
    /// # Errors
    /// Of the last address tried.
    pub async fn connect(addrs: impl IntoIterator<Item = SocketAddr>, dial: Dial) -> Result<Link, LinkError> {
        let (stream, addr) = connect(addrs, dial).await?;
        Ok(Link { stream, answer: dial.answer, ip: addr.ip() })
    }

    /// Sends a request and gives the body of its answer.
    ///
    /// # Errors
    /// After anything but [`LinkError::Status`] the connection is of no further use.
    pub async fn ask<M: Encode + ?Sized>(&mut self, command: Command, message: &M) -> Result<Vec<u8>, LinkError> {
        let exchange = exchange(&mut self.stream, command, message);
        let (status, body) =
            timeout(self.answer, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if status.is_ok() { Ok(body) } else { Err(LinkError::Status(status, command)) }
    }

    /// [`Link::ask`], with the answer taken apart.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub async fn ask_for<M: Encode + ?Sized, T>(
        &mut self,
        command: Command,
        message: &M,
        decode: impl FnOnce(&[u8]) -> Result<T, WireError>,
    ) -> Result<T, LinkError> {
        let body = self.ask(command, message).await?;
        decode(&body).map_err(|e| LinkError::Malformed(e.to_string(), command))
    }

    /// Says good-bye.
    pub async fn quit(mut self) {
        let bytes = Header::request(Command::Quit, 0).encode();
        let _ = timeout(self.answer, self.stream.write_all(&bytes)).await;
    }
}

/// A connection to the first of these addresses that answers.
///
/// # Errors
/// Of the last address tried.
pub async fn connect(addrs: impl IntoIterator<Item = SocketAddr>, dial: Dial) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for addr in addrs {
        match timeout(dial.connect, tcp::connect(addr, dial.from)).await {
            Ok(Ok(stream)) => return Ok((stream, addr)),
            Ok(Err(e)) => last = e,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn exchange<M: Encode + ?Sized>(
    stream: &mut TcpStream,
    command: Command,
    message: &M,
) -> io::Result<(Status, Vec<u8>)> {
    let mut out = Vec::with_capacity(512);
    header::frame(command, message, &mut out);
    stream.write_all(&out).await?;
    let mut bytes = [0; HEADER_LEN];
    stream.read_exact(&mut bytes).await?;
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let header = Header::decode(&bytes).map_err(|e| invalid(e.to_string()))?;
    if header.cmd != Command::Response.code() || header.body_len > MAX_ANSWER {
        return Err(invalid(format!("no sensible answer to {command}: {header:?}")));
    }
    // Some refusals of FastDFS carry a body; it is read so that the connection stays in step.
    let mut body = vec![0; header.body_len as usize];
    stream.read_exact(&mut body).await?;
    Ok((header.outcome(), body))
}
