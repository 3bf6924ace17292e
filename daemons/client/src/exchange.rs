//! One request to one server, and its answer.
//!
//! Here is decided what may be repeated: a request that failed on a connection used before is sent once more
//! on a new one if the server cannot have carried it out, or if carrying it out twice does no harm.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fdfs_protocol::{Command, FileId, Header, Status, WireError};

use crate::client::Shared;
use crate::connection::{Broken, Cause, Stage};
use crate::content::Content;
use crate::error::{Error, Role, Server};
use crate::patience::{Patience, Pulse};
use crate::pool::{Lease, NoConnection, Which};

/// How long to look for the reason after a server refused to take the rest of a request.
const REASON: Duration = Duration::from_secs(1);
/// Answers are never larger, but for file content and the list of all storages; the next (a list of groups) has 58 KiB.
pub(crate) const MAX_ANSWER: u64 = 1024 * 1024;
/// How much longer than others a request may take that has a storage compute the CRC32 of a whole file.
pub(crate) const SLOW: u32 = 20;

/// Whether a request may be carried out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Reads, queries, and uploads: the second time leaves at most a file that nobody knows.
    Harmless,
    /// Changes: the second time would change again, or find the work done.
    Never,
}

/// A request, but for its content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) command: Command,
    /// Frame header and fixed part.
    pub(crate) head: &'a [u8],
    /// The file it is about, for messages.
    pub(crate) file: Option<&'a FileId>,
    pub(crate) repeat: Repeat,
    /// The length of the answer's body, if it is likely to be large: room is made for it beforehand.
    pub(crate) expect: usize,
    /// The longest body the answer may have.
    pub(crate) limit: u64,
    /// How many answers there will be: `head` may hold several requests.
    pub(crate) answers: usize,
    /// The network timeout for the answer, times this: some requests make a storage read a whole file first.
    pub(crate) slowness: u32,
    /// Shows those who wait beside the request that it moves.
    pub(crate) pulse: Option<&'a Pulse>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(command: Command, head: &'a [u8], repeat: Repeat) -> Self {
        Self { command, head, file: None, repeat, expect: 0, limit: MAX_ANSWER, answers: 1, slowness: 1, pulse: None }
    }

    pub(crate) fn about(self, id: &'a FileId) -> Self {
        Self { file: Some(id), ..self }
    }
}

/// An answer with status 0 whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    lease: Lease,
    patience: Patience,
    command: Command,
    server: Server,
    /// Length of the body, as announced.
    pub(crate) len: u64,
}

impl Shared {
    /// Sends a request to `server` and receives the head of the answer. A status other than 0 is an error.
    pub(crate) async fn exchange(
        &self,
        server: Server,
        request: Request<'_>,
        content: &mut Content<'_>,
    ) -> Result<Answer, Error> {
        let Request { command, .. } = request;
        // What cannot be sent twice must not be sent into a connection that the server closed.
        let mut which = if request.repeat == Repeat::Never { Which::Checked } else { Which::Kept };
        loop {
            let mut lease = match self.pools.lease(server.addr, which).await {
                Ok(lease) => lease,
                Err(NoConnection::Busy(limit)) => return Err(Error::Busy { command, server, limit }),
                Err(NoConnection::Broken(broken)) => return Err(self.failed(command, server, broken)),
            };
            let mut patience = Patience::new(self.config.network_timeout).shown(request.pulse);
            match converse(&mut lease, request, content, &mut patience).await {
                Ok((header, whole)) => {
                    patience = Patience::new(self.config.network_timeout).shown(request.pulse);
                    if header.status == 0 && header.body_len > request.limit {
                        let announced = header.body_len;
                        let detail =
                            format!("it announced an answer of {announced} bytes; at most {} fit", request.limit);
                        return Err(self.note(Error::Protocol { command, server, detail }));
                    }
                    // A refusal is the whole answer. A storage whose disk hangs may send the header of a file and no more.
                    if header.status != 0 {
                        self.health.lock().answered(server.addr);
                    }
                    return accept(lease, patience, server, request, content, header, whole);
                }
                Err(mut broken) => {
                    // A storage that dies keeps what it got of a change.
                    if broken.stage == Stage::Sending && request.repeat == Repeat::Never {
                        broken.stage = Stage::Sent;
                    }
                    let stale = lease.reused() && matches!(broken.cause, Cause::Io(_));
                    let harmless = match broken.stage {
                        Stage::Connecting | Stage::Untouched | Stage::Sending => true,
                        Stage::Sent => request.repeat == Repeat::Harmless,
                        Stage::Answering => false,
                    };
                    if stale && harmless && content.replayable() && which != Which::New {
                        // The server has restarted, so its other connections are as dead.
                        self.pools.forget(server.addr);
                        which = Which::New;
                        continue;
                    }
                    return Err(self.failed(command, server, broken));
                }
            }
        }
    }

    /// Sends requests that carry nothing but their heads, all at once, and decodes the answers as they come.
    /// Trackers allow that; storages do not.
    pub(crate) async fn pipeline<T>(
        &self,
        addr: SocketAddr,
        request: Request<'_>,
        count: usize,
        decode: impl Fn(&[u8]) -> Result<T, WireError>,
    ) -> Result<Vec<T>, Error> {
        let heads = request.head.repeat(count);
        let request_all = Request { head: &heads, answers: count, ..request };
        let mut answer = self.exchange(Server::tracker(addr), request_all, &mut Content::empty()).await?;
        let mut answers = Vec::with_capacity(count);
        loop {
            answers.push(answer.decode(&decode).await.map_err(|error| self.note(error))?);
            if answers.len() == count {
                answer.finish(self);
                return Ok(answers);
            }
            let next = answer.next(request.expect).await;
            match next {
                Ok(true) => {}
                // One answer is enough to go on; the connection is out of step and closes.
                Ok(false) | Err(_) => return Ok(answers),
            }
        }
    }

    /// Receives the body of an answer, decodes it and gives the connection back.
    pub(crate) async fn finish<T>(
        &self,
        mut answer: Answer,
        decode: impl Fn(&[u8]) -> Result<T, WireError>,
    ) -> Result<T, Error> {
        let decoded = answer.decode(decode).await.map_err(|error| self.note(error))?;
        answer.finish(self);
        Ok(decoded)
    }

    /// The error for a connection that failed, with what it means for the server's standing.
    pub(crate) fn failed(&self, command: Command, server: Server, broken: Broken) -> Error {
        self.note(error_of(command, server, broken))
    }

    /// Takes note of what `error` means for the standing of its server.
    pub(crate) fn note(&self, error: Error) -> Error {
        if error.is_of_server()
            && !matches!(error, Error::Busy { .. })
            && !error.is_of_this_host()
            && let Some(server) = error.server()
        {
            tracing::debug!(%server, %error, "request failed");
            self.health.lock().failed(server.addr, Instant::now());
            self.pools.forget(server.addr);
        }
        error
    }
}

/// Sends the request and receives the header of the answer; also says whether the whole request was taken.
async fn converse(
    lease: &mut Lease,
    request: Request<'_>,
    content: &mut Content<'_>,
    patience: &mut Patience,
) -> Result<(Header, bool), Broken> {
    let connection = lease.connection();
    match connection.send(request.head, content, patience).await {
        Ok(()) => {
            let limit = patience.full().saturating_mul(request.slowness);
            let mut patience = Patience::new(limit).shown(request.pulse);
            Ok((connection.receive_header(request.expect, &mut patience).await?, true))
        }
        Err(broken) if matches!(broken.cause, Cause::Io(_)) => {
            // A server that refuses a request early (no space, bad name) answers and closes: the reason may be
            // there although the rest could not be sent.
            let mut brief = Patience::new(REASON.min(patience.left()));
            match connection.receive_header(0, &mut brief).await {
                Ok(header) if header.status != 0 => Ok((header, false)),
                _ => Err(broken),
            }
        }
        Err(broken) => Err(broken),
    }
}

/// Takes an answer whose header has come.
fn accept(
    lease: Lease,
    patience: Patience,
    server: Server,
    request: Request<'_>,
    content: &Content<'_>,
    header: Header,
    whole: bool,
) -> Result<Answer, Error> {
    let Request { command, file, .. } = request;
    let status = header.outcome();
    if status.is_ok() {
        return Ok(Answer { lease, patience, command, server, len: header.body_len });
    }
    // After EINVAL a storage closes the connection; after an early refusal it may take content for requests. Answers
    // still to come would be taken for those to the next request.
    let closes = server.role == Role::Storage && status == Status::EINVAL;
    if whole && header.body_len == 0 && content.is_empty() && request.answers == 1 && !closes {
        lease.give_back();
    }
    let file = file.map(FileId::to_string).unwrap_or_default();
    Err(Error::from_status(command, server, status, &file))
}

pub(crate) fn error_of(command: Command, server: Server, Broken { stage, cause }: Broken) -> Error {
    let sent = matches!(stage, Stage::Sent | Stage::Answering);
    match cause {
        Cause::Timeout(limit) if stage == Stage::Connecting => Error::Unreachable {
            command,
            server,
            source: std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no answer within {limit:?} (connect_timeout)"),
            ),
        },
        Cause::Io(source) if stage == Stage::Connecting => Error::Unreachable { command, server, source },
        Cause::Timeout(limit) => Error::Timeout { command, server, limit, sent },
        Cause::Io(source) => Error::Disconnected { command, server, source, sent },
        Cause::Protocol(detail) => Error::Protocol { command, server, detail },
        Cause::Local(what, source) => Error::Local { what, source },
    }
}

impl Answer {
    pub(crate) fn server(&self) -> Server {
        self.server
    }

    fn error(&self, broken: Broken) -> Error {
        error_of(self.command, self.server, broken)
    }

    fn protocol(&self, detail: String) -> Error {
        Error::Protocol { command: self.command, server: self.server, detail }
    }

    /// The announced length; the request's limit has been checked.
    fn body_len(&self) -> Result<usize, Error> {
        usize::try_from(self.len).map_err(|_| self.protocol(format!("{} bytes do not fit into memory", self.len)))
    }

    /// Receives the body and decodes it where it lies.
    async fn decode<T>(&mut self, decode: impl Fn(&[u8]) -> Result<T, WireError>) -> Result<T, Error> {
        let len = self.body_len()?;
        let connection = self.lease.connection();
        if let Err(broken) = connection.receive_body(len, &mut self.patience).await {
            return Err(self.error(broken));
        }
        let connection = self.lease.connection();
        let decoded = decode(connection.body(len));
        connection.consume(len);
        decoded.map_err(|error| self.protocol(error.to_string()))
    }

    /// Receives the header of the next answer to a pipelined request; false if that is a refusal.
    async fn next(&mut self, expect: usize) -> Result<bool, Error> {
        match self.lease.connection().receive_header(expect, &mut self.patience).await {
            Ok(header) => {
                self.len = header.body_len;
                Ok(header.outcome().is_ok() && header.body_len <= MAX_ANSWER)
            }
            Err(broken) => Err(self.error(broken)),
        }
    }

    /// Receives the body whole.
    pub(crate) async fn bytes(mut self, shared: &Shared) -> Result<Bytes, Error> {
        let len = self.body_len()?;
        if let Err(broken) = self.lease.connection().receive_body(len, &mut self.patience).await {
            return Err(self.error(broken));
        }
        let body = self.lease.connection().take_body(len);
        self.finish(shared);
        Ok(body)
    }

    /// Receives some of the body into `buf`; the caller counts.
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        match self.lease.connection().receive_into(buf, &mut self.patience).await {
            Ok(n) => Ok(n),
            Err(broken) => Err(self.error(broken)),
        }
    }

    /// The answer was read to its end: the server works, and the connection may serve again.
    pub(crate) fn finish(self, shared: &Shared) {
        shared.health.lock().answered(self.server.addr);
        self.lease.give_back();
    }

    /// The answer should have no body. FastDFS storages send the request back as the body of an answer that there
    /// was nothing to do; then the connection is given up rather than drained.
    pub(crate) fn finish_empty(self, shared: &Shared) {
        if self.len == 0 {
            self.finish(shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::config::ClientConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A storage that sends `answer` when asked for the first time, and then does nothing more.
    async fn storage(answer: Vec<u8>) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; fdfs_protocol::HEADER_LEN]).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            std::future::pending::<()>().await;
        });
        addr
    }

    /// A client that uses the storage at `addr` again after it failed.
    fn on_trial(addr: std::net::SocketAddr) -> Client {
        let client = Client::new(ClientConfig::new([]));
        let mut health = client.shared.health.lock();
        health.failed(addr, Instant::now());
        health.answered_probe(addr);
        drop(health);
        client
    }

    fn is_on_trial(client: &Client, addr: std::net::SocketAddr) -> bool {
        client.shared.health.lock().failures(addr) == 1
    }

    fn answer(header: Header, body: &[u8]) -> Vec<u8> {
        [&header.encode(), body].concat()
    }

    fn file() -> FileId {
        "group1/M00/00/00/wKgBaFqtJXqASMYZAAAADAAAAAA123.txt".parse().unwrap()
    }

    #[tokio::test]
    async fn a_download_ends_the_trial_of_a_storage_when_all_of_it_has_come() {
        let addr = storage(answer(Header::ok(12), b"some content")).await;
        let client = on_trial(addr);
        let mut download = client.download_from(addr, &file(), 0, 0).await.unwrap();
        let mut buffer = [0; 12];
        assert!(is_on_trial(&client, addr), "the header has come");
        download.read_exact(&mut buffer[..11]).await.unwrap();
        assert!(is_on_trial(&client, addr), "the last byte is missing");
        download.read_exact(&mut buffer[11..]).await.unwrap();
        assert!(!is_on_trial(&client, addr));
    }

    #[tokio::test]
    async fn so_does_any_other_whole_answer() {
        let download = Request::new(Command::DownloadFile, &[0; fdfs_protocol::HEADER_LEN], Repeat::Harmless);
        for (refused, bytes) in [(false, answer(Header::ok(0), b"")), (true, answer(Header::failure(Status::EIO), b""))]
        {
            let addr = storage(bytes).await;
            let client = on_trial(addr);
            let answer = client.shared.exchange(Server::storage(addr), download, &mut Content::empty()).await;
            assert_eq!(answer.is_err(), refused);
            answer.into_iter().for_each(|answer| answer.finish_empty(&client.shared));
            assert!(!is_on_trial(&client, addr));
        }
    }

    #[tokio::test]
    async fn what_this_host_lacks_is_no_fault_of_the_server() {
        let server = Server::storage(([10, 0, 0, 1], 23000).into());
        for (errno, is_of_server) in
            [(libc::EMFILE, false), (libc::ENFILE, false), (libc::EADDRNOTAVAIL, false), (libc::ECONNREFUSED, true)]
        {
            let client = Client::new(ClientConfig::new([]));
            let source = std::io::Error::from_raw_os_error(errno);
            let broken = Broken { stage: Stage::Connecting, cause: Cause::Io(source) };
            let error = client.shared.failed(Command::DownloadFile, server, broken);
            assert_eq!(client.shared.health.lock().usable(server.addr), !is_of_server, "{error}");
            assert_eq!(error.to_string().contains("check that it runs"), is_of_server, "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_stands_still_does_not() {
        let addr = storage(answer(Header::ok(12), b"some cont")).await;
        let client = on_trial(addr);
        let request = Request::new(Command::DownloadFile, &[0; fdfs_protocol::HEADER_LEN], Repeat::Harmless);
        let answer = client.shared.exchange(Server::storage(addr), request, &mut Content::empty()).await.unwrap();
        let whole = tokio::time::timeout(Duration::from_millis(200), answer.bytes(&client.shared)).await;
        assert!(whole.is_err() && is_on_trial(&client, addr));
    }
}
