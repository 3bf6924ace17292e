//! The cluster as content needs it: a few operations on whole files and appenders.
//!
//! Two implementations: [`Cluster`](super::cluster) over the FastDFS client, and one in memory with faults, for tests.

use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{ContentError, ExtName, Object, Space};

/// What is uploaded.
#[derive(Debug, Clone)]
pub enum Body {
    /// Bytes in memory.
    Memory(Bytes),
    /// The first bytes of a file.
    File(Arc<File>, u64),
}

/// Where copies of a file may be.
#[derive(Debug)]
pub struct Copies {
    /// The storages to ask, the likely ones first.
    pub likely: Vec<SocketAddr>,
    /// Others, to be asked before it is said that no copy is good.
    pub idle: Vec<SocketAddr>,
    /// Why there may be a copy elsewhere.
    pub unseen: Option<ContentError>,
}

/// Operations on the cluster. All end within the network timeouts of the client.
pub trait Remote: Send + Sync + 'static {
    /// A download under way.
    type Download: Download;

    /// Stores a file; its file ID.
    fn upload(&self, body: Body, extension: &ExtName) -> impl Future<Output = Result<String, ContentError>> + Send;

    /// Begins an appender with a part of a file; its file ID.
    fn create_appender(
        &self,
        file: &Arc<File>,
        range: Range<u64>,
        extension: &ExtName,
    ) -> impl Future<Output = Result<String, ContentError>> + Send;

    /// Adds a part of a file to an appender. After an error it is not known how much was added.
    fn append(
        &self,
        appender: &str,
        file: &Arc<File>,
        range: Range<u64>,
    ) -> impl Future<Output = Result<(), ContentError>> + Send;

    /// Makes an appender an ordinary file; its new file ID. The old one is gone.
    fn finish_appender(&self, appender: &str) -> impl Future<Output = Result<String, ContentError>> + Send;

    /// Reads a range, which must not be empty, into one piece of memory.
    fn read(&self, file_id: &str, range: Range<u64>) -> impl Future<Output = Result<Bytes, ContentError>> + Send;

    /// Reads a range, from the first copy that passes `check`.
    fn read_checked(
        &self,
        file_id: &str,
        range: Range<u64>,
        check: &(dyn Fn(&[u8]) -> bool + Send + Sync),
    ) -> impl Future<Output = Result<Bytes, ContentError>> + Send;

    /// Where copies of the file may be.
    fn copies(&self, file_id: &str) -> impl Future<Output = Result<Copies, ContentError>> + Send;

    /// Begins to receive a range, which must not be empty, from one of the [copies](Remote::copies).
    fn download_from(
        &self,
        copy: SocketAddr,
        file_id: &str,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Self::Download, ContentError>> + Send;

    /// One of the copies is damaged: it is not to be read while there are others.
    fn distrust(&self, copy: SocketAddr, file_id: &str);

    /// Begins to receive a range, which must not be empty.
    fn download(
        &self,
        file_id: &str,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Self::Download, ContentError>> + Send;

    /// Deletes a file. One that does not exist counts as deleted.
    fn delete(&self, file_id: &str) -> impl Future<Output = Result<(), ContentError>> + Send;

    /// Room in the cluster.
    fn space(&self) -> impl Future<Output = Result<Space, ContentError>> + Send;

    /// The CRC32 of the content that the file ID of an object states, if it states one.
    fn crc32(&self, object: &Object) -> Option<u32>;
}

/// A range of stored content that is being received.
pub trait Download: Send + 'static {
    /// Receives exactly the next `buf.len()` bytes of the range.
    fn fill(&mut self, buf: &mut [u8]) -> impl Future<Output = Result<(), ContentError>> + Send;
}
