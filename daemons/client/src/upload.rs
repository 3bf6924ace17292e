//! New files: uploads, appender uploads, slave uploads.
//!
//! An upload goes to the storage the tracker chose. When that one fails (or has no space) another storage is tried: of
//! the same group first, then of other groups, unless a group was asked for. A storage that stops moving and does not answer
//! a probe either is left behind; only when all others have failed too is it waited for. Every try makes a file of its own, so the worst a
//! try can leave behind is a file that nobody knows the name of.

use std::collections::VecDeque;
use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use fdfs_protocol::header::frame_head;
use fdfs_protocol::storage::{UploadHead, UploadSlaveHead};
use fdfs_protocol::{Command, ExtName, FileId, GroupName, Prefix, Status};
use tokio::io::AsyncRead;

use crate::client::{Client, Shared};
use crate::content::Content;
use crate::error::{Error, Server};
use crate::exchange::{Repeat, Request};
use crate::routes::StoreTarget;
use crate::watch::Watch;

/// Answers to "where to upload" fetched at once. Enough to spread over groups, storages and paths as the tracker would,
/// few enough to be one packet.
const TARGETS: usize = 8;
/// Storages tried for one upload.
const TRIES: usize = 4;

impl Client {
    /// Stores the bytes of `data`, one part after the other, as a new file.
    ///
    /// On a warm client this is one vectored write and one read. `ext` becomes part of the file's name; it has no dot.
    pub async fn upload_buf(&self, data: &[Bytes], ext: &ExtName) -> Result<FileId, Error> {
        self.upload(Content::buffers(data), ext).await
    }

    /// Stores a range of a local file as a new file, with `sendfile(2)`.
    pub async fn upload_file(&self, file: &File, range: Range<u64>, ext: &ExtName) -> Result<FileId, Error> {
        self.upload(Content::file(file, range), ext).await
    }

    /// Stores the next `len` bytes of `reader` as a new file.
    ///
    /// Fails over to another storage only until the first byte was taken from the reader.
    pub async fn upload_reader<R>(&self, mut reader: R, len: u64, ext: &ExtName) -> Result<FileId, Error>
    where
        R: AsyncRead + Send + Unpin,
    {
        self.upload(Content::reader(&mut reader, len), ext).await
    }

    /// Stores `content` as a new file.
    pub async fn upload(&self, content: Content<'_>, ext: &ExtName) -> Result<FileId, Error> {
        self.store(Command::UploadFile, content, ext).await
    }

    /// Stores `data` as a new file that can be appended to, modified and truncated later.
    pub async fn upload_appender_buf(&self, data: &[Bytes], ext: &ExtName) -> Result<FileId, Error> {
        self.upload_appender(Content::buffers(data), ext).await
    }

    /// Stores `content` as a new file that can be appended to, modified and truncated later.
    pub async fn upload_appender(&self, content: Content<'_>, ext: &ExtName) -> Result<FileId, Error> {
        self.store(Command::UploadAppenderFile, content, ext).await
    }

    /// Stores `content` on a certain storage without asking a tracker; `store_path` of `None` lets the storage choose.
    pub async fn upload_to(
        &self,
        storage: SocketAddr,
        store_path: Option<u8>,
        mut content: Content<'_>,
        ext: &ExtName,
    ) -> Result<FileId, Error> {
        self.shared.store_at(Command::UploadFile, (storage, store_path), &mut content, ext, Watch::Never).await
    }

    /// Stores `content` as a slave of `master`: a file named after it, in the same group.
    ///
    /// Which name that will be can be computed beforehand ([`RemoteName::slave`](fdfs_protocol::RemoteName::slave)). Not
    /// retried once some of the request was sent: the second try could find the work of the first and report
    /// [`Error::Exists`].
    pub async fn upload_slave(
        &self,
        master: &FileId,
        prefix: &Prefix,
        ext: &ExtName,
        mut content: Content<'_>,
    ) -> Result<FileId, Error> {
        // What the storage would refuse anyway is refused before the content travels.
        if let Err(error) = master.name.slave(prefix, ext) {
            return Err(Error::Invalid(format!("no slave of {master} with prefix {prefix:?}: {error}")));
        }
        let message = UploadSlaveHead { size: content.len(), prefix: *prefix, ext: *ext, master: master.name };
        let mut head = Vec::with_capacity(192);
        frame_head(Command::UploadSlaveFile, &message, content.len(), &mut head);
        let request = Request::new(Command::UploadSlaveFile, &head, Repeat::Never).about(master);
        let answer = self.shared.change(master, request, &mut content, self.hasty).await?;
        self.shared.finish(answer, FileId::decode).await
    }

    async fn store(&self, command: Command, mut content: Content<'_>, ext: &ExtName) -> Result<FileId, Error> {
        let shared = &self.shared;
        let group = shared.config.group;
        let (first, cached) = self.first_target(group).await?;
        let mut target = first;
        let mut alternatives: Option<VecDeque<StoreTarget>> = None;
        let mut failed = Vec::new();
        let mut asked_again = !cached;
        // A stream cannot be sent again once it was begun.
        let mut watch = if content.repeatable() { Watch::Always } else { Watch::Untouched };
        let mut hung = None;
        loop {
            let path = (target.store_path != StoreTarget::ANY_PATH).then_some(target.store_path);
            let error = match shared.store_at(command, (target.addr, path), &mut content, ext, watch).await {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            if !content.replayable() {
                return Err(error);
            }
            match &error {
                // What the tracker said a while ago may have been overtaken: fewer store paths, another group.
                Error::Status { status: Status::EINVAL, .. } if !asked_again => {
                    asked_again = true;
                    shared.routes.lock().forget_targets();
                    target = self.first_target(group).await?.0;
                    continue;
                }
                Error::Status { status, .. } if *status != Status::EINVAL => {}
                Error::NoSpace { .. } => {}
                other if other.is_of_server() => {}
                _ => return Err(error),
            }
            tracing::debug!(storage = %target.addr, %error, "upload failed, looking for another storage");
            if matches!(error, Error::Hung { .. }) {
                hung.get_or_insert(target);
            }
            if !matches!(error, Error::Busy { .. }) {
                shared.routes.lock().forget_storage(target.addr);
            }
            failed.push(target.addr);
            if watch == Watch::Never {
                return Err(error);
            }
            let known = match &mut alternatives {
                Some(known) => known,
                None => alternatives.insert(shared.alternatives(group, first.group).await),
            };
            match next_alternative(known, &failed).filter(|_| failed.len() < TRIES) {
                Some(next) => target = next,
                // Nobody takes it: then the one that may still come back gets all the time there is.
                None => match hung {
                    Some(hung) => (target, watch) = (hung, Watch::Never),
                    // The storage's own error says more than "nothing else found".
                    None => return Err(error),
                },
            }
        }
    }

    /// Where to try first, and whether that was known already.
    async fn first_target(&self, group: Option<GroupName>) -> Result<(StoreTarget, bool), Error> {
        let shared = &self.shared;
        let known = shared.known_target(group);
        if let Some((target, renew)) = known {
            if renew {
                // In the background: this upload need not wait for it.
                let client = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = client.shared.fetch_targets(group).await {
                        tracing::debug!(%error, "where to upload could not be renewed");
                    }
                });
            }
            return Ok((target, true));
        }
        Ok((shared.fetch_targets(group).await?, false))
    }
}

impl Shared {
    fn known_target(&self, group: Option<GroupName>) -> Option<(StoreTarget, bool)> {
        let now = Instant::now();
        let health = self.health.lock();
        let pick = self.routes.lock().pick_target(group, |addr| health.usable(addr), now)?;
        Some((pick.target, pick.renew))
    }

    /// Asks where to upload; the first place, which nobody can take from the list before it was used.
    async fn fetch_targets(&self, group: Option<GroupName>) -> Result<StoreTarget, Error> {
        let mut targets = self.ask_targets(group, TARGETS).await?;
        self.look_after(targets.iter().map(|target| Server::storage(target.addr)));
        // A tracker notices late that a storage is gone, and some give all uploads to one storage.
        if !targets.iter().any(|target| self.health.lock().usable(target.addr)) {
            let others = self.alternatives(group, targets[0].group).await;
            let health = self.health.lock();
            let usable: Vec<_> = others.into_iter().filter(|target| health.usable(target.addr)).collect();
            if !usable.is_empty() {
                targets = usable;
            }
        }
        let (now, health) = (Instant::now(), self.health.lock());
        let mut routes = self.routes.lock();
        routes.learn_targets(group, targets, now);
        let first = routes.pick_target(group, |addr| health.usable(addr), now);
        first.map(|pick| pick.target).ok_or_else(|| Error::Invalid("the tracker named no storage".to_owned()))
    }

    /// Other places for an upload: the storages of the group that was chosen, then those of the other groups.
    async fn alternatives(&self, pinned: Option<GroupName>, chosen: GroupName) -> VecDeque<StoreTarget> {
        let mut targets = self.ask_all_targets(Some(chosen)).await.unwrap_or_default();
        if pinned.is_none() {
            for group in self.ask_groups(None).await.unwrap_or_default() {
                if group.name != chosen && group.writable_count > 0 {
                    targets.extend(self.ask_all_targets(Some(group.name)).await.unwrap_or_default());
                }
                if targets.len() > 4 * TRIES {
                    break;
                }
            }
        }
        self.look_after(targets.iter().map(|target| Server::storage(target.addr)));
        let health = self.health.lock();
        let (usable, avoided): (Vec<_>, Vec<_>) = targets.into_iter().partition(|target| health.usable(target.addr));
        usable.into_iter().chain(avoided).collect()
    }

    async fn store_at(
        &self,
        command: Command,
        (storage, store_path): (SocketAddr, Option<u8>),
        content: &mut Content<'_>,
        ext: &ExtName,
        watch: Watch,
    ) -> Result<FileId, Error> {
        let mut head = Vec::with_capacity(32);
        frame_head(command, &UploadHead { store_path, size: content.len(), ext: *ext }, content.len(), &mut head);
        let request = Request::new(command, &head, Repeat::Harmless);
        let answer = self.exchange_watched(Server::storage(storage), request, content, watch).await?;
        let id = self.finish(answer, FileId::decode).await?;
        self.routes.lock().learn_source(&id, storage, Instant::now());
        Ok(id)
    }
}

fn next_alternative(known: &mut VecDeque<StoreTarget>, failed: &[SocketAddr]) -> Option<StoreTarget> {
    std::iter::from_fn(|| known.pop_front()).find(|target| !failed.contains(&target.addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_that_failed_is_not_tried_again() {
        let target = |port| StoreTarget {
            group: "g".parse().unwrap(),
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            store_path: 0,
        };
        let mut known: VecDeque<_> = [target(1), target(2), target(1), target(3)].into();
        let failed = [target(1).addr];
        assert_eq!(next_alternative(&mut known, &failed), Some(target(2)));
        assert_eq!(next_alternative(&mut known, &failed), Some(target(3)));
        assert_eq!(next_alternative(&mut known, &failed), None);
    }
}
