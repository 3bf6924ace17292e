//! Changes to files that exist: append, modify, truncate, regenerate, delete, metadata.
//!
//! A change goes to the storage that takes changes to the file. It is never made twice: once some of the request was sent,
//! a failure is reported ([`Error::outcome_unknown`] tells), not repeated.

use std::fs::File;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use fdfs_protocol::Encode;
use fdfs_protocol::header::{frame, frame_head};
use fdfs_protocol::storage::{AppendHead, FileRequest, MetadataMode, ModifyHead, Regenerate, SetMetadata, Truncate};
use fdfs_protocol::{Command, FileId};

use crate::client::{Client, Shared};
use crate::content::Content;
use crate::error::{Error, Server};
use crate::exchange::{Answer, Repeat, Request, SLOW};
use crate::watch::Watch;
use fdfs_protocol::metadata::Metadata;

/// Storages tried for one change.
const TRIES: usize = 3;

impl Client {
    /// Writes `data` at the end of an appender file; see [`append`](Client::append).
    pub async fn append_buf(&self, id: &FileId, data: &[Bytes]) -> Result<(), Error> {
        self.append(id, Content::buffers(data)).await
    }

    /// Writes a range of a local file at the end of an appender file, with `sendfile(2)`; see [`append`](Client::append).
    pub async fn append_file(&self, id: &FileId, file: &File, range: Range<u64>) -> Result<(), Error> {
        self.append(id, Content::file(file, range)).await
    }

    /// Writes `content` at the end of an appender file.
    ///
    /// The end is that of the storage which takes the change. When the one that took the appends before fails, that is
    /// another, as with FastDFS's clients, and it may not have got all of them yet. Who must not lose one unnoticed uses
    /// [`modify`](Client::modify) at the offset that is due: where something before it is missing, that is refused (EINVAL).
    pub async fn append(&self, id: &FileId, content: Content<'_>) -> Result<(), Error> {
        let message = AppendHead { size: content.len(), name: id.name };
        self.change_content(Command::AppendFile, id, &message, content).await
    }

    /// Writes `data` into an appender file at `offset`, which is at most its size.
    pub async fn modify_buf(&self, id: &FileId, offset: u64, data: &[Bytes]) -> Result<(), Error> {
        self.modify(id, offset, Content::buffers(data)).await
    }

    /// Writes `content` into an appender file at `offset`, which is at most its size.
    pub async fn modify(&self, id: &FileId, offset: u64, content: Content<'_>) -> Result<(), Error> {
        let message = ModifyHead { offset, size: content.len(), name: id.name };
        self.change_content(Command::ModifyFile, id, &message, content).await
    }

    /// Gives an appender file another size; what is added are zero bytes.
    pub async fn truncate(&self, id: &FileId, size: u64) -> Result<(), Error> {
        self.change_content(Command::TruncateFile, id, &Truncate { size, name: id.name }, Content::empty()).await
    }

    /// Turns an appender file into a normal one and returns its new ID, which tells size and CRC32. The old ID is gone,
    /// and so is the metadata.
    ///
    /// The storage reads the whole file for that, so it may take 20 times the network timeout.
    pub async fn regenerate(&self, id: &FileId) -> Result<FileId, Error> {
        let command = Command::RegenerateAppenderFilename;
        let mut head = Vec::with_capacity(160);
        frame(command, &Regenerate { name: id.name }, &mut head);
        let request = Request { slowness: SLOW, ..Request::new(command, &head, Repeat::Never).about(id) };
        let answer = self.shared.change(id, request, &mut Content::empty(), self.hasty).await?;
        let storage = answer.server().addr;
        let new = self.shared.finish(answer, FileId::decode).await?;
        self.shared.routes.lock().learn_source(&new, storage, Instant::now());
        Ok(new)
    }

    /// Removes a file and its metadata. Slaves of it stay.
    ///
    /// As with every change, [`Error::NotFound`] is the word of the one storage that takes the changes. While the source of
    /// the file is down, that may be one that has not got the file yet; [`file_info`](Client::file_info) asks them all.
    pub async fn delete(&self, id: &FileId) -> Result<(), Error> {
        let message = FileRequest { group: id.group, name: id.name };
        self.change_content(Command::DeleteFile, id, &message, Content::empty()).await
    }

    /// Sets the metadata of a file, replacing what was there or merging with it.
    ///
    /// Overwriting with nothing removes the metadata.
    pub async fn set_metadata(&self, id: &FileId, metadata: &Metadata, mode: MetadataMode) -> Result<(), Error> {
        let packed = metadata.pack();
        let message = SetMetadata { mode, group: id.group, name: id.name, metadata: &packed };
        self.change_content(Command::SetMetadata, id, &message, Content::empty()).await
    }

    /// Sends a change whose answer has no body.
    async fn change_content<M: Encode>(
        &self,
        command: Command,
        id: &FileId,
        message: &M,
        mut content: Content<'_>,
    ) -> Result<(), Error> {
        let mut head = Vec::with_capacity(192);
        frame_head(command, message, content.len(), &mut head);
        let request = Request::new(command, &head, Repeat::Never).about(id);
        self.shared.change(id, request, &mut content, self.hasty).await?.finish_empty(&self.shared);
        Ok(())
    }
}

impl Shared {
    /// Sends a change to the storage that takes it. Another storage is tried only if the one before cannot have made the
    /// change: it could not be reached, or took not a byte of the request. `hasty`: given up at any point if the storage
    /// turns out to be gone.
    pub(crate) async fn change(
        &self,
        id: &FileId,
        request: Request<'_>,
        content: &mut Content<'_>,
        hasty: bool,
    ) -> Result<Answer, Error> {
        let mut watch = if hasty { Watch::Always } else { Watch::Untouched };
        let known = self.routes.lock().updater(id, Instant::now());
        let (mut storage, mut cached) = match known {
            Some(storage) => (storage, true),
            None => (self.fetch_updater(id).await?, false),
        };
        for attempt in 1.. {
            let error = match self.exchange_watched(Server::storage(storage), request, content, watch).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // A storage that does not have the file may not be the one to ask any more.
            let elsewhere = match &error {
                Error::NotFound { .. } => cached,
                other => other.is_of_server() && !other.outcome_unknown() && !matches!(other, Error::Protocol { .. }),
            };
            if attempt == TRIES || !elsewhere || !content.replayable() {
                return Err(error);
            }
            {
                let mut routes = self.routes.lock();
                routes.forget_file(id);
                if error.is_of_server() {
                    routes.forget_storage(storage);
                }
            }
            match self.fetch_updater(id).await {
                Ok(other) if other != storage => (storage, cached) = (other, false),
                // Nobody else takes it: then with all patience.
                Ok(_) if !hasty && matches!(error, Error::Hung { .. }) && watch != Watch::Never => watch = Watch::Never,
                // The tracker has not noticed yet, or there is no other.
                _ => return Err(error),
            }
        }
        Err(Error::Invalid("no storage was tried".to_owned()))
    }

    async fn fetch_updater(&self, id: &FileId) -> Result<std::net::SocketAddr, Error> {
        let storage = self.ask_updater(id).await?;
        self.routes.lock().learn_updater(id, storage, Instant::now());
        Ok(storage)
    }
}
