//! Downloads, whole or in ranges: as a stream, or into memory.

use std::net::SocketAddr;

use bytes::Bytes;
use fdfs_protocol::header::frame;
use fdfs_protocol::storage::{self, FileInfoFlags};
use fdfs_protocol::{Command, FileId, RemoteName, Status};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::client::Client;
use crate::content::Content;
use crate::error::{Error, Server};
use crate::exchange::{Answer, Repeat, Request};
use crate::patience::Pulse;
use crate::race::Attempt;
use crate::read::AT_ONCE;
use crate::routes::is_fixed;
use crate::watch::Watch;

/// Room made at once for content of known length; for more, room is made as it comes.
const RESERVE: u64 = 1024 * 1024;
/// Buffer for copying to a writer.
const COPY: usize = 256 * 1024;

/// Says whether content is what it should be.
type Judge<'a> = &'a (dyn Fn(&[u8]) -> bool + Send + Sync);

/// Content on its way from a storage.
///
/// Read it with [`Download::chunk`] or [`Download::read_exact`] until [`Download::remaining`] is 0; then the connection is
/// kept for the next request. Dropped before, the connection is closed.
///
/// If the storage fails half-way, the rest of a file that cannot change is fetched from another storage.
#[derive(Debug)]
pub struct Download {
    client: Client,
    id: FileId,
    /// `None` once everything has come.
    answer: Option<Answer>,
    server: Option<Server>,
    /// Offset in the file of the next byte.
    offset: u64,
    remaining: u64,
    len: u64,
    tried: Vec<SocketAddr>,
    check: Option<Check>,
    /// Nobody else is asked.
    alone: bool,
}

/// What the content of a whole file must be, and the CRC32 of what has come so far.
#[derive(Debug, Clone)]
struct Check {
    size: u64,
    crc32: u32,
    so_far: crc32fast::Hasher,
}

impl Check {
    /// The check for a download of `len` bytes (0: to the end), if that is all of a file whose name tells size and CRC32.
    fn of(id: &FileId, offset: u64, len: u64) -> Option<Self> {
        let block = id.name.block().ok()?;
        let size = block.size.size()?;
        // A shorter name that counts as normal is one of a slave and tells of its master.
        let tells = is_fixed(id) && id.name.as_str().len() >= RemoteName::NORMAL_LEN;
        let whole = offset == 0 && (len == 0 || len >= size);
        (tells && whole).then(|| Self { size, crc32: block.crc32, so_far: crc32fast::Hasher::new() })
    }

    fn size(&self, id: &FileId, server: Server, announced: u64) -> Result<(), Error> {
        if announced == self.size {
            return Ok(());
        }
        let detail = format!("has {announced} bytes, the file ID says {}", self.size);
        Err(Error::Corrupt { file: id.to_string().into(), server, detail })
    }

    fn verify(self, id: &FileId, server: Server) -> Result<(), Error> {
        let found = self.so_far.finalize();
        if found == self.crc32 {
            return Ok(());
        }
        let detail = format!("has CRC32 {found:08x}, the file ID says {:08x}", self.crc32);
        Err(Error::Corrupt { file: id.to_string().into(), server, detail })
    }

    fn verify_all(check: Option<Self>, id: &FileId, server: Server, content: &[u8]) -> Result<(), Error> {
        let Some(mut check) = check else { return Ok(()) };
        check.size(id, server, content.len() as u64)?;
        check.so_far.update(content);
        check.verify(id, server)
    }
}

impl Client {
    /// Starts a download of `len` bytes from `offset`; `len` 0 means to the end, and what lies beyond the end is left out.
    ///
    /// An `offset` beyond the end is refused with `EINVAL`.
    pub async fn download(&self, id: &FileId, offset: u64, len: u64) -> Result<Download, Error> {
        let mut tried = Vec::new();
        let check = self.config().verify_crc.then(|| Check::of(id, offset, len)).flatten();
        let answer = match self
            .open_download(id, offset, len, Shape { check: check.as_ref(), exact: false }, &mut tried)
            .await
        {
            Ok(answer) => Some(answer),
            Err(error) if self.is_empty_file(id, offset, &error).await? => None,
            Err(error) => return Err(error),
        };
        Ok(Download { tried, ..self.download_of(id, offset, answer, check)? })
    }

    /// [`Client::download`] of a range that the file is known to have, at least one byte: a copy that is shorter is damaged,
    /// and another one is read.
    pub async fn download_exact(&self, id: &FileId, offset: u64, len: u64) -> Result<Download, Error> {
        let mut tried = Vec::new();
        let answer = self.open_download(id, offset, len, Shape { check: None, exact: true }, &mut tried).await?;
        Ok(Download { tried, ..self.download_of(id, offset, Some(answer), None)? })
    }

    /// Starts a download from a certain storage; nobody else is asked if it fails.
    ///
    /// [`Client::copies`] tells which storages there are.
    pub async fn download_from(
        &self,
        storage: SocketAddr,
        id: &FileId,
        offset: u64,
        len: u64,
    ) -> Result<Download, Error> {
        let head = head(id, offset, len);
        let request = Request { limit: limit(len), ..download_request(id, &head) };
        let watch = Watch::Always;
        let answer =
            self.shared.exchange_watched(Server::storage(storage), request, &mut Content::empty(), watch).await;
        let answer = answer.map_err(|error| if len > 0 { ends_early(error, id) } else { error })?;
        Ok(Download { alone: true, ..self.download_of(id, offset, Some(answer), None)? })
    }

    fn download_of(
        &self,
        id: &FileId,
        offset: u64,
        answer: Option<Answer>,
        check: Option<Check>,
    ) -> Result<Download, Error> {
        let announced = answer.as_ref().map_or(0, |answer| answer.len);
        let mut download = Download {
            client: self.clone(),
            id: *id,
            server: answer.as_ref().map(Answer::server),
            answer,
            offset,
            remaining: announced,
            len: announced,
            tried: Vec::new(),
            check,
            alone: false,
        };
        if announced == 0 {
            download.complete()?;
        }
        Ok(download)
    }

    /// Downloads `len` bytes from `offset` (`len` 0: to the end) into memory, in one piece.
    ///
    /// Without a `len`, no more than [`max_download_buffer`](crate::ClientConfig::max_download_buffer) is accepted.
    pub async fn download_buf(&self, id: &FileId, offset: u64, len: u64) -> Result<Bytes, Error> {
        match self.download_whole(id, offset, len, None).await {
            Err(error) if self.is_empty_file(id, offset, &error).await? => Ok(Bytes::new()),
            downloaded => downloaded,
        }
    }

    /// [`Client::download_buf`] of a range that the file is known to have, from the first storage whose bytes pass `check`.
    /// With none, it fails with [`Error::Corrupt`].
    pub async fn download_checked(
        &self,
        id: &FileId,
        offset: u64,
        len: u64,
        check: &(dyn Fn(&[u8]) -> bool + Send + Sync),
    ) -> Result<Bytes, Error> {
        self.download_whole(id, offset, len, Some(check)).await
    }

    async fn download_whole(
        &self,
        id: &FileId,
        offset: u64,
        len: u64,
        check: Option<Judge<'_>>,
    ) -> Result<Bytes, Error> {
        let most = if len == 0 { self.config().max_download_buffer } else { len };
        // With the length known, header and content come into one buffer with one read.
        let expect = if len == 0 { told_size(id, offset) } else { len }.min(RESERVE) as usize;
        let pulse = Pulse::default();
        let head = head(id, offset, len);
        let request = Request { expect, limit: limit(len), pulse: Some(&pulse), ..download_request(id, &head) };
        let attempt = |storage| -> Attempt<'_, _> {
            Box::pin(async move {
                let server = Server::storage(storage);
                let answer = self.shared.exchange(server, request, &mut Content::empty()).await;
                let answer = answer.map_err(|error| if check.is_some() { ends_early(error, id) } else { error })?;
                if answer.len > most {
                    let announced = answer.len;
                    return Err(Error::Invalid(format!(
                        "{id} has {announced} bytes, more than max_download_buffer ({most}); download it as a stream"
                    )));
                }
                let content = answer.bytes(&self.shared).await.map_err(|error| self.shared.note(error))?;
                let stated = self.config().verify_crc.then(|| Check::of(id, offset, len)).flatten();
                Check::verify_all(stated, id, server, &content)?;
                if check.is_none_or(|check| check(&content)) {
                    return Ok(content);
                }
                let detail = format!("has {} bytes that are not those that were stored", content.len());
                Err(Error::Corrupt { file: id.to_string().into(), server, detail })
            })
        };
        self.shared.read(id, &pulse, AT_ONCE, &mut Vec::new(), attempt).await
    }

    /// Downloads into `buf`, from `offset`; returns the number of bytes, which is less only at the end of the file.
    pub async fn download_into(&self, id: &FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Error> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut download = self.download(id, offset, buf.len() as u64).await?;
        let len = usize::try_from(download.remaining()).unwrap_or(buf.len()).min(buf.len());
        download.read_exact(&mut buf[..len]).await?;
        Ok(len)
    }

    /// Downloads `len` bytes from `offset` (`len` 0: to the end) into `writer`; returns their number.
    pub async fn download_to<W>(&self, id: &FileId, offset: u64, len: u64, writer: &mut W) -> Result<u64, Error>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        self.download(id, offset, len).await?.copy_to(writer).await
    }

    /// Sends the request; an announced length beyond `len`, or other than `shape` says, is the storage's fault.
    async fn open_download(
        &self,
        id: &FileId,
        offset: u64,
        len: u64,
        shape: Shape<'_>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Answer, Error> {
        let pulse = Pulse::default();
        let head = head(id, offset, len);
        let request = Request { limit: limit(len), pulse: Some(&pulse), ..download_request(id, &head) };
        let attempt = |storage| -> Attempt<'_, _> {
            Box::pin(async move {
                let server = Server::storage(storage);
                let answer = self.shared.exchange(server, request, &mut Content::empty()).await;
                let answer = answer.map_err(|error| if shape.exact { ends_early(error, id) } else { error })?;
                if let Some(check) = shape.check {
                    check.size(id, server, answer.len)?;
                }
                if shape.exact && answer.len != len {
                    let detail = format!("has {} of the {len} bytes from {offset} on", answer.len);
                    return Err(Error::Corrupt { file: id.to_string().into(), server, detail });
                }
                Ok(answer)
            })
        };
        self.shared.read(id, &pulse, AT_ONCE, tried, attempt).await
    }

    /// FastDFS storages refuse to download an empty file as an offset beyond its end. If that is the reason for `error`,
    /// the download is one of nothing.
    async fn is_empty_file(&self, id: &FileId, offset: u64, error: &Error) -> Result<bool, Error> {
        let refused = matches!(error, Error::Status { status: Status::EINVAL, .. });
        if !refused || offset != 0 {
            return Ok(false);
        }
        let flags = FileInfoFlags { no_crc: true, silent: true };
        Ok(self.shared.file_info(id, flags).await?.size == 0)
    }
}

/// The rest of a download that has begun.
const REST: Shape<'static> = Shape { check: None, exact: true };

/// What the answer to a download must be like.
#[derive(Debug, Clone, Copy)]
struct Shape<'a> {
    check: Option<&'a Check>,
    /// The range is known to be in the file.
    exact: bool,
}

/// A storage refuses an offset beyond the end: if the file is known to be longer, that copy is damaged.
fn ends_early(error: Error, id: &FileId) -> Error {
    match error {
        Error::Status { server, status: Status::EINVAL, .. } => {
            let detail = "ends before what was asked for".to_owned();
            Error::Corrupt { file: id.to_string().into(), server, detail }
        }
        other => other,
    }
}

fn head(id: &FileId, offset: u64, len: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(192);
    frame(Command::DownloadFile, &storage::Download { offset, len, group: id.group, name: id.name }, &mut head);
    head
}

fn download_request<'a>(id: &'a FileId, head: &'a [u8]) -> Request<'a> {
    Request::new(Command::DownloadFile, head, Repeat::Harmless).about(id)
}

/// The longest answer to a request for `len` bytes.
fn limit(len: u64) -> u64 {
    if len == 0 { u64::MAX } else { len }
}

/// The number of bytes from `offset` to the end, as far as the name tells; 0 if it does not.
fn told_size(id: &FileId, offset: u64) -> u64 {
    let size = if is_fixed(id) { id.name.block().ok().and_then(|block| block.size.size()) } else { None };
    size.unwrap_or(0).saturating_sub(offset)
}

impl Download {
    /// The number of bytes of the whole download.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there was nothing to download.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Receives the next bytes, as many as have come, straight into `buf`. Returns 0 at the end (and for an empty `buf`).
    ///
    /// With `verify_crc`, the call that receives the last byte of a whole file fails with [`Error::Corrupt`] if the content
    /// is not what it should be.
    pub async fn chunk(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            let Some(answer) = &mut self.answer else { return Ok(0) };
            let received = {
                let read = answer.read(&mut buf[..wanted]);
                let elsewhere = async {
                    tokio::time::sleep(self.client.config().failover_after).await;
                    if self.alone || !is_fixed(&self.id) {
                        return std::future::pending().await;
                    }
                    let (offset, len, mut tried) = (self.offset, self.remaining, self.tried.clone());
                    match self.client.open_download(&self.id, offset, len, REST, &mut tried).await {
                        Ok(answer) if answer.len == len => (answer, tried),
                        // Nobody does better.
                        _ => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    received = read => Ok(received),
                    faster = elsewhere => Err(faster),
                }
            };
            let received = match received {
                Ok(received) => received,
                Err((faster, tried)) => {
                    self.tried = tried;
                    self.overtaken(faster);
                    continue;
                }
            };
            let error = match received {
                Ok(n) => {
                    if let Some(check) = &mut self.check {
                        check.so_far.update(&buf[..n]);
                    }
                    self.offset += n as u64;
                    self.remaining -= n as u64;
                    if self.remaining == 0 {
                        self.complete()?;
                    }
                    return Ok(n);
                }
                Err(error) => self.client.shared.note(error),
            };
            self.resume(error).await?;
        }
    }

    /// Receives exactly `buf.len()` bytes; asking for more than [`Download::remaining`] is an error.
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        if buf.len() as u64 > self.remaining {
            let (id, left) = (self.id, self.remaining);
            return Err(Error::Invalid(format!("{} bytes of {id} wanted, {left} are left", buf.len())));
        }
        let mut done = 0;
        while done < buf.len() {
            done += self.chunk(&mut buf[done..]).await?;
        }
        Ok(())
    }

    /// Receives all that is left and writes it to `writer`; returns the number of bytes.
    pub async fn copy_to<W>(mut self, writer: &mut W) -> Result<u64, Error>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        let local = |source| Error::Local { what: "write the download", source };
        let mut buffer = vec![0; COPY.min(usize::try_from(self.remaining).unwrap_or(COPY))];
        let mut copied = 0;
        while self.remaining > 0 {
            let n = self.chunk(&mut buffer).await?;
            writer.write_all(&buffer[..n]).await.map_err(local)?;
            copied += n as u64;
        }
        writer.flush().await.map_err(local)?;
        Ok(copied)
    }

    /// Another storage began to send the rest while this one was silent.
    fn overtaken(&mut self, faster: Answer) {
        if let Some(slow) = self.server.replace(faster.server()) {
            tracing::debug!(server = %slow, id = %self.id, "download stands still, going on elsewhere");
            self.client.shared.left_behind(slow.addr);
        }
        self.answer = Some(faster);
    }

    /// Everything has come: gives the connection back and checks what came.
    fn complete(&mut self) -> Result<(), Error> {
        if let Some(answer) = self.answer.take() {
            answer.finish(&self.client.shared);
        }
        match (self.check.take(), self.server) {
            (Some(check), Some(server)) => check.verify(&self.id, server),
            _ => Ok(()),
        }
    }

    /// Goes on at another storage after `error`, if the content there is sure to be the same.
    async fn resume(&mut self, error: Error) -> Result<(), Error> {
        self.answer = None;
        if self.alone || !is_fixed(&self.id) {
            return Err(error);
        }
        tracing::debug!(id = %self.id, %error, offset = self.offset, "download broke off, looking for another storage");
        let opened = self.client.open_download(&self.id, self.offset, self.remaining, REST, &mut self.tried).await;
        match opened {
            Ok(answer) if answer.len == self.remaining => {
                self.server = Some(answer.server());
                self.answer = Some(answer);
                Ok(())
            }
            // The first error says what happened; that there is no way round it adds nothing.
            _ => Err(error),
        }
    }
}
