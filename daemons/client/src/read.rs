//! Reading: which storage to ask, and which one next.
//!
//! A file that never changes is read from any storage that has it, in turn; a changeable one from its source. A storage
//! that fails, or does not have what it should, is passed over for the next. "Not found" is only reported when
//! every storage that was to have the file could be asked and none had it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fdfs_protocol::header::{frame, frame_flags};
use fdfs_protocol::storage::{FileInfo, FileInfoFlags, FileRequest};
use fdfs_protocol::{Command, FileId, Status};

use crate::client::{Client, Shared};
use crate::content::Content;
use crate::error::{Error, Server};
use crate::exchange::{Answer, Repeat, Request, SLOW};
use fdfs_protocol::metadata::Metadata;

/// Storages tried for one read.
const TRIES: usize = 4;

impl Client {
    /// Size, time, CRC32 and source of a file, as a storage knows them. The CRC32 of an appender or a slave is computed
    /// by the storage from the whole content, unless `flags` say no; that may take 20 times the network timeout.
    pub async fn file_info(&self, id: &FileId, flags: FileInfoFlags) -> Result<FileInfo, Error> {
        self.shared.file_info(id, flags).await
    }

    /// The metadata of a file. Having none is [`Error::NotFound`], as for a file that does not exist: storages do not
    /// tell the two apart.
    pub async fn get_metadata(&self, id: &FileId) -> Result<Metadata, Error> {
        let message = FileRequest { group: id.group, name: id.name };
        let mut head = Vec::with_capacity(160);
        frame(Command::GetMetadata, &message, &mut head);
        let request = Request::new(Command::GetMetadata, &head, Repeat::Harmless).about(id);
        // Metadata changes, so the storage that takes the changes is the one to ask; replicas when it is down.
        let answer = match self.shared.change(id, request, &mut Content::empty()).await {
            Err(error) if error.is_of_server() => self.shared.read(id, request, &mut Vec::new()).await?,
            answer => answer?,
        };
        self.shared.finish(answer, |body| Ok(Metadata::parse(body))).await
    }

    /// Whether the storage at `addr` answers at all.
    pub async fn storage_active_test(&self, addr: SocketAddr) -> Result<(), Error> {
        let mut head = Vec::new();
        frame(Command::ActiveTest, &(), &mut head);
        let request = Request::new(Command::ActiveTest, &head, Repeat::Harmless);
        self.shared.exchange(Server::storage(addr), request, &mut Content::empty()).await?.finish_empty();
        Ok(())
    }
}

impl Shared {
    pub(crate) async fn file_info(&self, id: &FileId, flags: FileInfoFlags) -> Result<FileInfo, Error> {
        let message = FileRequest { group: id.group, name: id.name };
        let mut head = Vec::with_capacity(160);
        frame_flags(Command::QueryFileInfo, flags.to_byte(), &message, &mut head);
        let slowness = if flags.no_crc { 1 } else { SLOW };
        let request = Request { slowness, ..Request::new(Command::QueryFileInfo, &head, Repeat::Harmless).about(id) };
        let answer = self.read(id, request, &mut Vec::new()).await?;
        self.finish(answer, FileInfo::decode).await
    }

    /// Sends a request to the storages that have the file, one after the other, until one does it. Those in `tried` are
    /// left out; those asked are added.
    pub(crate) async fn read(
        &self,
        id: &FileId,
        request: Request<'_>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Answer, Error> {
        let known = self.routes.lock().readers(id, Instant::now());
        let (mut candidates, mut cached) = match known {
            Some(known) => (known, true),
            None => (self.fetch_readers(id).await?, false),
        };
        // Not found is the weakest finding: any other failure leaves open whether the file exists.
        let mut missing: Option<Error> = None;
        let mut failure: Option<Error> = None;
        loop {
            for storage in self.in_order(&candidates) {
                if tried.len() >= TRIES {
                    break;
                }
                if tried.contains(&storage) {
                    continue;
                }
                tried.push(storage);
                match self.exchange(Server::storage(storage), request, &mut Content::empty()).await {
                    Ok(answer) => return Ok(answer),
                    Err(error @ Error::NotFound { .. }) => missing = Some(error),
                    Err(error) if error.is_of_server() || another_copy_may_do(&error) => {
                        tracing::debug!(%storage, %error, "read failed, looking for another storage");
                        self.routes.lock().forget_storage(storage);
                        failure = Some(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            if !cached || tried.len() >= TRIES {
                break;
            }
            self.routes.lock().forget_file(id);
            cached = false;
            match self.fetch_readers(id).await {
                Ok(fresh) => candidates = fresh,
                Err(error) => {
                    failure.get_or_insert(error);
                    break;
                }
            }
        }
        let none = || Error::Invalid(format!("no other storage has {id}"));
        Err(failure.or(missing).unwrap_or_else(none))
    }

    async fn fetch_readers(&self, id: &FileId) -> Result<Arc<[SocketAddr]>, Error> {
        let readers = self.ask_readers(id).await?;
        self.routes.lock().learn_readers(id, &readers, Instant::now());
        Ok(readers)
    }

    /// `candidates` in the order to try them.
    fn in_order(&self, candidates: &[SocketAddr]) -> Vec<SocketAddr> {
        self.health.lock().order(candidates, self.turn(), Instant::now())
    }
}

/// Statuses that speak of one storage's disk rather than of the request.
fn another_copy_may_do(error: &Error) -> bool {
    matches!(error, Error::Status { status, .. } if *status != Status::EINVAL && *status != Status::EISDIR)
}
