//! The remote that is a FastDFS cluster.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fdfs_client::{Client, ClientConfig, Error, ExtName, FileId, FileInfoFlags};

use super::disk::{Disk, LocalRange};
use super::remote::{Body, Copies, Download, Remote};
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
        // A copy that ends before is passed over for another one.
        let is_whole = |bytes: &[u8]| bytes.len() as u64 == len;
        Ok(self.client.download_checked(&parse(file_id)?, range.start, len, &is_whole).await?)
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

    async fn copies(&self, file_id: &str) -> Result<Copies, ContentError> {
        let fdfs_client::Copies { likely, idle, away, unknown } = self.client.copies(&parse(file_id)?).await?;
        let is_away = |copy| ContentError::Unreachable(format!("{copy} is away, and may have {file_id}").into());
        let unseen = unknown.map(ContentError::from).or(away.first().map(is_away));
        Ok(Copies { likely, idle, unseen })
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
        let id = parse(file_id)?;
        let Err(error) = self.client.hasty().delete(&id).await else { return Ok(()) };
        if !error.is_not_found() {
            return Err(error.into());
        }
        // The word of one storage, which may not have got the file yet: that it is nowhere, all have to say.
        let flags = FileInfoFlags { no_crc: true, silent: true };
        match self.client.file_info(&id, flags).await {
            Ok(_) => Err(error.into()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
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
            Error::Corrupt { .. } => ContentError::Corrupt(detail),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use fdfs_client::{Role, Server};
    use fdfs_protocol::stat::{StorageRecord, StorageStatus};
    use fdfs_protocol::storage::FileInfo;
    use fdfs_protocol::tracker::{FetchAll, FetchOne};
    use fdfs_protocol::{Command, HEADER_LEN, Header, IpSize, Status};

    const FILE: &str = "group1/M00/00/00/wKgBaFqtJXqASMYZAAAADAAAAAAA123.txt";

    #[test]
    fn a_storage_that_breaks_the_protocol_says_nothing_of_its_copy() {
        let server = Server { role: Role::Storage, addr: SocketAddr::from(([10, 0, 0, 1], 23000)) };
        let broken = Error::Protocol { command: Command::DownloadFile, server, detail: "as told".into() };
        let error = ContentError::from(broken);
        assert!(matches!(error, ContentError::Refused { errno: libc::EIO, .. }), "{error}");
        let corrupt = Error::Corrupt { file: FILE.into(), server, detail: "as told".into() };
        assert!(matches!(ContentError::from(corrupt), ContentError::Corrupt(_)));
    }

    /// A server that answers each request with a body, or that there is no such thing.
    fn serve(answer: impl Fn(Command) -> Option<Vec<u8>> + Send + Clone + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer = answer.clone();
                std::thread::spawn(move || {
                    let mut head = [0; HEADER_LEN];
                    while stream.read_exact(&mut head).is_ok() {
                        let header = Header::decode(&head).unwrap();
                        stream.read_exact(&mut vec![0; header.body_len as usize]).unwrap();
                        let answer = match answer(Command::from_code(header.cmd).unwrap()) {
                            Some(body) => [&Header::ok(body.len() as u64).encode(), &body[..]].concat(),
                            None => Header::failure(Status::ENOENT).encode().to_vec(),
                        };
                        stream.write_all(&answer).unwrap();
                    }
                });
            }
        });
        addr
    }

    /// A cluster of two storages without the file, or of which the second one has it. The first takes the changes.
    fn cluster(second_has_it: bool) -> Cluster {
        let storage = |has: bool| {
            serve(move |command| {
                let info =
                    FileInfo { size: 12, mtime: 1, crc32: 0, source: std::net::IpAddr::from([127, 0, 0, 1]).into() };
                let mut body = Vec::new();
                info.encode(IpSize::V4, &mut body);
                (has && command == Command::QueryFileInfo).then_some(body)
            })
        };
        let storages = [storage(false), storage(second_has_it)];
        let tracker = serve(move |command| {
            let group = "group1".parse().unwrap();
            let mut body = Vec::new();
            match command {
                Command::QueryUpdate => FetchOne { group, server: storages[0].into() }.encode(IpSize::V4, &mut body),
                Command::QueryFetchAll => {
                    FetchAll { group, servers: vec![storages[0].into()] }.encode(IpSize::V4, &mut body);
                }
                Command::ListStorage => storages.iter().for_each(|storage| {
                    let blank = vec![0; StorageRecord::len(IpSize::V4)];
                    let record = StorageRecord {
                        status: StorageStatus::Active,
                        ip: storage.ip().into(),
                        port: storage.port(),
                        ..StorageRecord::decode(&blank, IpSize::V4).unwrap()
                    };
                    record.encode(IpSize::V4, &mut body);
                }),
                _ => return None,
            }
            Some(body)
        });
        Cluster { client: Client::new(ClientConfig::new([tracker.into()])), disk: None }
    }

    #[tokio::test]
    async fn a_file_counts_as_deleted_only_when_no_member_has_it() {
        let error = cluster(true).delete(FILE).await.unwrap_err();
        assert!(matches!(error, ContentError::NotFound(_)), "{error}");
        cluster(false).delete(FILE).await.unwrap();
    }
}
