//! The remote that is a FastDFS cluster.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fdfs_client::{Client, ClientConfig, Error, ExtName, FileId};

use super::disk::{Disk, LocalRange};
use super::remote::{Body, Download, Remote};
use super::store::{Store, StoreConfig};
use super::{ContentError, Object, Space};

/// The content store of a FastDFS cluster.
pub type ClusterStore = Store<Cluster>;

impl Store<Cluster> {
    /// Opens the store. Connects to nothing yet: [`probe`](Store::probe) tells whether the cluster can be reached.
    pub fn open(client: ClientConfig, config: StoreConfig) -> Result<ClusterStore, ContentError> {
        let disk = config.disk.clone();
        Store::over(config, || Cluster { client: Client::new(client), disk })
    }
}

/// A FastDFS cluster, through its client, and past it where its files are at hand.
pub struct Cluster {
    client: Client,
    disk: Option<Disk>,
}

impl Remote for Cluster {
    type Download = ClusterDownload;

    async fn upload(&self, body: Body, extension: &ExtName) -> Result<String, ContentError> {
        let uploaded = match body {
            Body::Memory(bytes) => self.client.upload_buf(&[bytes], extension).await,
            Body::File(file, len) => self.client.upload_file(&file, 0..len, extension).await,
        };
        uploaded.map(|id| id.to_string()).map_err(ContentError::from)
    }

    async fn create_appender(
        &self,
        file: &Arc<File>,
        range: Range<u64>,
        extension: &ExtName,
    ) -> Result<String, ContentError> {
        let content = fdfs_client::Content::file(file, range);
        Ok(self.client.upload_appender(content, extension).await?.to_string())
    }

    async fn append(&self, appender: &str, file: &Arc<File>, range: Range<u64>) -> Result<(), ContentError> {
        // Hasty, since the content can be stored elsewhere from the start.
        Ok(self.client.hasty().append_file(&parse(appender)?, file, range).await?)
    }

    async fn finish_appender(&self, appender: &str) -> Result<String, ContentError> {
        Ok(self.client.hasty().regenerate(&parse(appender)?).await?.to_string())
    }

    async fn read(&self, file_id: &str, range: Range<u64>) -> Result<Bytes, ContentError> {
        let len = range.end - range.start;
        if let Some(mut local) = self.disk.as_ref().and_then(|disk| disk.read(file_id, range.clone())) {
            let mut bytes = vec![0; len as usize];
            local.fill(&mut bytes).await?;
            return Ok(bytes.into());
        }
        let bytes = self.client.download_buf(&parse(file_id)?, range.start, len).await?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(shorter(file_id)) }
    }

    async fn read_checked(
        &self,
        file_id: &str,
        range: Range<u64>,
        check: &(dyn Fn(&[u8]) -> bool + Send + Sync),
    ) -> Result<Bytes, ContentError> {
        if self.disk.is_some()
            && let Ok(bytes) = self.read(file_id, range.clone()).await
            && check(&bytes)
        {
            return Ok(bytes);
        }
        let len = range.end - range.start;
        Ok(self.client.download_checked(&parse(file_id)?, range.start, len, check).await?)
    }

    async fn copies(&self, file_id: &str) -> Result<Vec<SocketAddr>, ContentError> {
        Ok(self.client.copies(&parse(file_id)?).await?)
    }

    async fn download_from(
        &self,
        copy: SocketAddr,
        file_id: &str,
        range: Range<u64>,
    ) -> Result<Self::Download, ContentError> {
        let len = range.end - range.start;
        let download = self.client.download_from(copy, &parse(file_id)?, range.start, len).await?;
        if download.len() == len { Ok(ClusterDownload::Network(Box::new(download))) } else { Err(shorter(file_id)) }
    }

    fn distrust(&self, copy: SocketAddr, file_id: &str) {
        if let Ok(id) = parse(file_id) {
            self.client.distrust(&id, copy);
        }
    }

    async fn download(&self, file_id: &str, range: Range<u64>) -> Result<Self::Download, ContentError> {
        if let Some(local) = self.disk.as_ref().and_then(|disk| disk.read(file_id, range.clone())) {
            return Ok(ClusterDownload::Local(local));
        }
        let len = range.end - range.start;
        let download = self.client.download_exact(&parse(file_id)?, range.start, len).await?;
        if download.len() == len { Ok(ClusterDownload::Network(Box::new(download))) } else { Err(shorter(file_id)) }
    }

    async fn delete(&self, file_id: &str) -> Result<(), ContentError> {
        // Hasty, since a deletion can be made again.
        match self.client.hasty().delete(&parse(file_id)?).await {
            Err(error) if error.is_not_found() => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    async fn space(&self) -> Result<Space, ContentError> {
        const MB: u64 = 1 << 20;
        let pinned = self.client.config().group;
        let mut space = Space::default();
        for group in self.client.list_groups().await? {
            if pinned.is_none_or(|pinned| pinned == group.name) {
                space.total = space.total.saturating_add(group.total_mb.saturating_mul(MB));
                let free = group.free_mb.saturating_sub(group.reserved_mb);
                space.free = space.free.saturating_add(free.saturating_mul(MB));
            }
        }
        Ok(space)
    }

    fn crc32(&self, object: &Object) -> Option<u32> {
        let name = object.file_id.parse::<FileId>().ok()?.name;
        let block = name.block().ok()?;
        // An appender's name has no CRC32. That of a slave can look like an ordinary one and carry the size and CRC32
        // of its master; the size tells.
        let ordinary = name.kind().is_ok_and(|kind| kind.is_normal()) && block.size.size() == Some(object.size);
        ordinary.then_some(block.crc32)
    }
}

/// A range being received, or read.
pub enum ClusterDownload {
    /// From a storage.
    Network(Box<fdfs_client::Download>),
    /// From the disk of this host.
    Local(LocalRange),
}

impl Download for ClusterDownload {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<(), ContentError> {
        match self {
            ClusterDownload::Network(download) => Ok(download.read_exact(buf).await?),
            ClusterDownload::Local(local) => local.fill(buf).await,
        }
    }
}

fn parse(file_id: &str) -> Result<FileId, ContentError> {
    file_id.parse().map_err(|e| ContentError::Corrupt(format!("{file_id}: {e}").into()))
}

fn shorter(file_id: &str) -> ContentError {
    ContentError::Corrupt(format!("{file_id}: shorter in the cluster than when it was stored").into())
}

impl From<Error> for ContentError {
    fn from(error: Error) -> ContentError {
        let detail: Arc<str> = error.to_string().into();
        match error {
            Error::NotFound { .. } => ContentError::NotFound(detail),
            Error::NoSpace { .. } => ContentError::NoSpace(detail),
            Error::Timeout { .. } | Error::Busy { .. } => ContentError::Timeout(detail),
            Error::Corrupt { .. } | Error::Protocol { .. } => ContentError::Corrupt(detail),
            Error::NoTracker { last, .. } if matches!(*last, Error::Timeout { .. }) => ContentError::Timeout(detail),
            Error::NoStorage { .. }
            | Error::Unreachable { .. }
            | Error::Hung { .. }
            | Error::Disconnected { .. }
            | Error::Resolve { .. }
            | Error::NoTracker { .. } => ContentError::Unreachable(detail),
            Error::Local { source, .. } => ContentError::Local { path: detail, source: Arc::new(source) },
            other => ContentError::Refused { errno: other.to_errno(), detail },
        }
    }
}
