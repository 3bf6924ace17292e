//! A tour of the client library: upload, download, metadata, an appender file, delete.
//!
//! Run it against any FastDFS cluster:
//!
//! ```text
//! cargo run -p fdfs-examples --bin fdfs-client-example -- 127.0.0.1:22122
//! ```

use anyhow::{Context, ensure};
use fdfs_client::{Bytes, Client, ClientConfig, Error, ExtName, FileInfoFlags, Metadata, MetadataMode, ServerAddress};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let trackers: Vec<ServerAddress> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    ensure!(!trackers.is_empty(), "usage: fdfs-client-example TRACKER:PORT...");

    // Nothing is connected yet. Clone the client freely: clones share connections.
    let client = Client::new(ClientConfig::new(trackers));
    let txt = ExtName::new("txt")?;

    // Upload from memory. The parts are sent as they are, without being copied together.
    let parts = [Bytes::from_static(b"hello "), Bytes::from_static(b"fastdfs\n")];
    let id = client.upload_buf(&parts, &txt).await.context("is the cluster up?")?;
    println!("uploaded   {id}");

    // Download: whole, in part, or as a stream to any writer.
    let content = client.download_buf(&id, 0, 0).await?;
    println!("downloaded {} bytes: {:?}", content.len(), String::from_utf8_lossy(&content));
    let part = client.download_buf(&id, 6, 4).await?;
    println!("part       {:?}", String::from_utf8_lossy(&part));
    let mut written = Vec::new();
    client.download_to(&id, 0, 0, &mut written).await?;
    ensure!(written == content, "the stream differs");

    // Metadata: a few small values that travel with the file.
    let mut metadata = Metadata::new();
    metadata.insert(b"author", b"me")?;
    metadata.insert(b"width", b"100")?;
    client.set_metadata(&id, &metadata, MetadataMode::Overwrite).await?;
    for (name, value) in client.get_metadata(&id).await?.iter() {
        println!("metadata   {} = {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    }
    let info = client.file_info(&id, FileInfoFlags::default()).await?;
    println!("info       {} bytes, CRC32 {:08x}", info.size, info.crc32);

    // A file that grows, and becomes an ordinary one when it is complete.
    let log = client.upload_appender_buf(&[Bytes::from_static(b"first line\n")], &ExtName::new("log")?).await?;
    client.append_buf(&log, &[Bytes::from_static(b"second line\n")]).await?;
    let sealed = client.regenerate(&log).await?;
    println!("appender   {log}\nsealed     {sealed}");

    for file in [&id, &sealed] {
        client.delete(file).await?;
    }
    // Errors say what happened; this one also has a shape of its own.
    match client.download_buf(&id, 0, 0).await {
        Err(error @ Error::NotFound { .. }) => println!("gone       {error}"),
        other => println!("unexpected: {other:?}"),
    }
    Ok(())
}
