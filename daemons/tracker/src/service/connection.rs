//! One connection: frames in, answers out, in order.
//!
//! Everything that one read brought is answered with one write. Memory per connection is bounded: the input by the
//! largest request, the output by [`FLUSH_AT`] and one answer.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fdfs_host::{TcpStream, tcp};
use fdfs_protocol::Status;
use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::peer::GroupMember;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use super::dispatch::Done;
use super::{Shared, now};
use crate::address::Kind;
use crate::state::storage::Session;
use crate::state::{Caller, Member};

/// Input buffer of a connection that does not send anything large.
const INPUT: usize = 4 * 1024;
/// Answers are sent when they reach this size, though more requests wait.
const FLUSH_AT: usize = 64 * 1024;

/// What a connection is and has done.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) caller: Caller,
    /// The kind of the peer's address.
    pub(super) kind: Kind,
    /// The storage that joined on it.
    pub(super) member: Option<Member>,
    /// The leader counter it was told last.
    pub(super) leader_seen: u32,
    /// The tracker that follows on it, as its place in the list.
    pub(super) follower: Option<usize>,
    /// The trunk servers a follower was told last.
    pub(super) trunk_table: Option<Vec<GroupMember>>,
}

impl Drop for Connection {
    /// However a connection ends, whoever joined on it is gone.
    fn drop(&mut self) {
        self.shared.leave(self.caller.session, self.member);
    }
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, peer: IpAddr, local: IpAddr, session: Session) -> Connection {
        Connection {
            shared,
            caller: Caller { peer, local, session },
            kind: Kind::of(peer),
            member: None,
            leader_seen: 0,
            follower: None,
            trunk_table: None,
        }
    }

    /// Serves until the peer is done, breaks the rules, or takes too long.
    pub(super) async fn serve(mut self, stream: &mut TcpStream) {
        if let Err(e) = self.run(stream).await {
            debug!("connection of {} ends: {e}", self.caller.peer);
        }
    }

    async fn run(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let limit = self.shared.network_timeout;
        let mut input = Input::new(self.shared.max_package);
        let mut out = Vec::with_capacity(INPUT);
        let mut served_any = false;
        loop {
            let now = now();
            // What ends the connection, once everything before it is answered.
            let mut end: Option<io::Result<()>> = None;
            while end.is_none() {
                let (header, body) = match input.next() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(e) => {
                        end = Some(Err(e));
                        break;
                    }
                };
                served_any = true;
                let start = out.len();
                match self.answer(header, body, now, &mut out) {
                    Done::Answered => {}
                    Done::WhenSaved(saved) => {
                        if let Err(e) = saved.await {
                            out.truncate(start);
                            out.extend_from_slice(&Header::failure(e).encode());
                        }
                    }
                    Done::Joins(request) => {
                        let shared = self.shared.clone();
                        let caught_up = shared.catch_up.run(&shared, &self.caller, &request).await;
                        self.join_after(caught_up, &request, &mut out);
                    }
                    Done::Close => end = Some(Ok(())),
                }
                if out.len() >= FLUSH_AT {
                    send(stream, &mut out, limit).await?;
                }
            }
            if !out.is_empty() {
                send(stream, &mut out, limit).await?;
            }
            if let Some(end) = end {
                return end;
            }
            // Between requests a peer may be silent for ever, but only after its first one.
            let begun = !input.is_empty();
            let read = async {
                if begun {
                    fdfs_host::tcp::rest(stream).await?;
                }
                stream.read(input.space()).await
            };
            let n = if served_any && !begun { read.await? } else { timeout(limit, read).await?? };
            if n == 0 {
                return Ok(());
            }
            input.filled(n);
        }
    }
}

/// Sends all of `out` and empties it.
async fn send(stream: &mut TcpStream, out: &mut Vec<u8>, limit: Duration) -> io::Result<()> {
    // Nearly always the kernel takes all at once, and no timer is needed.
    let sent = match tcp::try_send(stream, out, false) {
        Ok(n) => n,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
        Err(e) => return Err(e),
    };
    if sent < out.len() {
        timeout(limit, stream.write_all(&out[sent..])).await??;
    }
    out.clear();
    out.shrink_to(FLUSH_AT);
    Ok(())
}

/// What has been received and not been taken yet.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    max_package: usize,
}

impl Input {
    fn new(max_package: usize) -> Input {
        Input { buffer: vec![0; INPUT], start: 0, end: 0, max_package }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next whole request.
    ///
    /// # Errors
    /// A length that is negative or above the limit: the stream cannot be kept in step.
    fn next(&mut self) -> io::Result<Option<(Header, &[u8])>> {
        let waiting = &self.buffer[self.start..self.end];
        let Some(head) = waiting.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::decode(head).map_err(io::Error::other)?;
        let body_len = usize::try_from(header.body_len).unwrap_or(usize::MAX);
        if body_len > self.max_package - HEADER_LEN {
            return Err(io::Error::other(format!("a request of {} bytes is too long", header.body_len)));
        }
        let Some(body) = waiting[HEADER_LEN..].get(..body_len) else { return Ok(None) };
        self.start += HEADER_LEN + body_len;
        Ok(Some((header, body)))
    }

    /// Room for what comes next; never empty. The buffer grows with what was received, not with what was announced.
    fn space(&mut self) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > INPUT {
                self.buffer = vec![0; INPUT];
            }
        } else if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                self.buffer.resize((self.buffer.len() * 2).min(self.max_package.max(INPUT + 1)), 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    fn filled(&mut self, n: usize) {
        self.end += n;
    }
}

/// The future of a save, as a connection waits for it.
pub(super) struct Saved(pub(super) tokio::sync::oneshot::Receiver<io::Result<()>>);

impl std::future::IntoFuture for Saved {
    type Output = Result<(), Status>;
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            match self.0.await {
                Ok(result) => result.map_err(|e| Status::from(&e)),
                Err(_) => Err(Status::EIO),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(input: &mut Input, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = input.space();
            let n = space.len().min(bytes.len());
            assert!(n > 0, "there is always room");
            space[..n].copy_from_slice(&bytes[..n]);
            input.filled(n);
            bytes = &bytes[n..];
        }
    }

    fn frame(body: usize) -> Vec<u8> {
        let mut f = Header { body_len: body as u64, cmd: 1, status: 0 }.encode().to_vec();
        f.resize(HEADER_LEN + body, 7);
        f
    }

    #[test]
    fn frames_of_all_sizes_in_any_split() {
        for size in [0, 1, INPUT - HEADER_LEN, INPUT, 100_000, 262_134] {
            let mut input = Input::new(262_144);
            feed(&mut input, &frame(3));
            assert_eq!(input.next().unwrap().unwrap().1.len(), 3);
            let bytes = frame(size);
            let (first, rest) = bytes.split_at(7);
            feed(&mut input, first);
            assert!(input.next().unwrap().is_none());
            feed(&mut input, rest);
            assert_eq!(input.next().unwrap().unwrap().1.len(), size);
            assert!(input.is_empty() && input.next().unwrap().is_none());
            assert_eq!(input.space().len(), INPUT, "a large request leaves no large buffer");
        }
    }

    #[test]
    fn several_frames_of_one_read() {
        let mut input = Input::new(262_144);
        let three = [frame(1), frame(2), frame(3)].concat();
        feed(&mut input, &three);
        let sizes: Vec<usize> = std::iter::from_fn(|| input.next().unwrap().map(|(_, b)| b.len())).collect();
        assert_eq!(sizes, [1, 2, 3]);
    }

    #[test]
    fn lengths_that_break_the_rules() {
        for length in [262_135, 1 << 32, i64::MAX, -1, i64::MIN] {
            let mut input = Input::new(262_144);
            let mut head = [0u8; HEADER_LEN];
            head[..8].copy_from_slice(&length.to_be_bytes());
            feed(&mut input, &head);
            assert!(input.next().is_err(), "{length}");
        }
    }

    #[test]
    fn the_buffer_grows_with_what_came() {
        let mut input = Input::new(262_144);
        feed(&mut input, &frame(200_000)[..5000]);
        assert!(input.next().unwrap().is_none());
        assert!(input.buffer.len() <= 2 * INPUT);
    }
}
