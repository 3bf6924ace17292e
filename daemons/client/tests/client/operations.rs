//! Every operation, against servers that work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::fake::{Fake, Files, Reply, members, storage, tracker};
use bytes::Bytes;
use fdfs_client::{
    Client, ClientConfig, Content, Error, ExtName, FileId, FileInfoFlags, Metadata, MetadataMode, ServerAddress,
};
use fdfs_protocol::Command;
use fdfs_protocol::stat::StorageHealth;
use fdfs_protocol::tracker::{StorageClusterFilter, StorageClusterStat};

struct Cluster {
    tracker: Fake,
    storage: Fake,
    files: Files,
    client: Client,
}

fn client_of(tracker: &Fake) -> Client {
    let config = ClientConfig {
        connect_timeout: Duration::from_secs(5),
        network_timeout: Duration::from_secs(5),
        ..ClientConfig::new([ServerAddress::from(tracker.addr)])
    };
    Client::new(config)
}

async fn cluster() -> Cluster {
    let files = Files::default();
    let storage = storage(&files).await;
    let tracker = tracker(&members(&[storage.addr])).await;
    let client = client_of(&tracker);
    Cluster { tracker, storage, files, client }
}

fn txt() -> ExtName {
    "txt".parse().unwrap()
}

fn content_of(cluster: &Cluster, id: &FileId) -> Vec<u8> {
    cluster.files.lock().get(&id.name).cloned().unwrap()
}

#[tokio::test]
async fn a_warm_upload_is_one_request_on_one_connection() {
    let cluster = cluster().await;
    for i in 0..20u8 {
        let id = cluster.client.upload_buf(&[Bytes::from(vec![i; 10])], &txt()).await.unwrap();
        assert_eq!(content_of(&cluster, &id), [i; 10]);
    }
    assert_eq!(cluster.storage.count(Command::UploadFile), 20);
    assert_eq!(cluster.storage.connections(), 1);
    // Several answers at once, on one connection, and no more of them while they are fresh.
    let asked = cluster.tracker.count(Command::QueryStoreWithoutGroupOne);
    assert!((1..=8).contains(&asked), "{asked}");
    assert_eq!(cluster.tracker.connections(), 1);
    assert_eq!(cluster.client.idle_connections(cluster.storage.addr), 1);
}

#[tokio::test]
async fn buffers_of_any_number_and_size_arrive_in_order() {
    let cluster = cluster().await;
    for (count, size) in [(0, 0), (1, 0), (3, 5), (100, 1), (70, 3000), (2, 3_000_000)] {
        let parts: Vec<Bytes> = (0..count).map(|i| Bytes::from(vec![i as u8; size])).collect();
        let id = cluster.client.upload_buf(&parts, &txt()).await.unwrap();
        assert_eq!(content_of(&cluster, &id), parts.concat());
        assert!(id.name.as_str().ends_with(".txt"));
    }
}

#[tokio::test]
async fn files_and_readers() {
    use std::io::Write;
    let cluster = cluster().await;
    let content: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();

    let id = cluster.client.upload(Content::whole_file(&file).unwrap(), &txt()).await.unwrap();
    assert_eq!(content_of(&cluster, &id), content);
    let id = cluster.client.upload_file(&file, 10..1_500_000, &txt()).await.unwrap();
    assert_eq!(content_of(&cluster, &id), content[10..1_500_000]);
    let id = cluster.client.upload_file(&file, 5..5, &txt()).await.unwrap();
    assert!(content_of(&cluster, &id).is_empty());

    let id = cluster.client.upload_reader(&content[..], 1_000_000, &txt()).await.unwrap();
    assert_eq!(content_of(&cluster, &id), content[..1_000_000]);
    let id = cluster.client.upload_reader(&b""[..], 0, &txt()).await.unwrap();
    assert!(content_of(&cluster, &id).is_empty());
    assert_eq!(cluster.storage.connections(), 1);
}

#[tokio::test]
async fn local_content_that_ends_early_is_the_callers_error() {
    let cluster = cluster().await;
    let file = tempfile::tempfile().unwrap();
    file.set_len(100).unwrap();
    let error = cluster.client.upload_file(&file, 0..200, &txt()).await.unwrap_err();
    assert!(matches!(&error, Error::Local { .. }), "{error}");
    assert!(error.to_string().contains("100 of 200"), "{error}");
    let error = cluster.client.upload_reader(&b"short"[..], 10, &txt()).await.unwrap_err();
    assert!(matches!(&error, Error::Local { .. }), "{error}");
    // The storage is not to blame: it serves on.
    cluster.client.upload_buf(&[Bytes::from_static(b"x")], &txt()).await.unwrap();
    assert!(cluster.files.lock().values().all(|content| content == b"x"));
}

#[tokio::test]
async fn downloads_whole_and_in_ranges() {
    let cluster = cluster().await;
    let content: Vec<u8> = (0..1_000_000u32).map(|i| (i % 241) as u8).collect();
    let id = cluster.client.upload_buf(&[Bytes::from(content.clone())], &txt()).await.unwrap();
    let client = &cluster.client;

    assert_eq!(client.download_buf(&id, 0, 0).await.unwrap(), content);
    assert_eq!(client.download_buf(&id, 10, 20).await.unwrap(), content[10..30]);
    assert_eq!(client.download_buf(&id, 999_990, 100).await.unwrap(), content[999_990..]);

    let mut buffer = vec![0; 300_000];
    assert_eq!(client.download_into(&id, 100, &mut buffer).await.unwrap(), 300_000);
    assert_eq!(buffer, content[100..300_100]);
    assert_eq!(client.download_into(&id, 900_000, &mut buffer).await.unwrap(), 100_000);
    assert_eq!(client.download_into(&id, 0, &mut []).await.unwrap(), 0);

    let mut written = Vec::new();
    assert_eq!(client.download_to(&id, 0, 0, &mut written).await.unwrap(), 1_000_000);
    assert_eq!(written, content);

    let mut download = client.download(&id, 0, 1000).await.unwrap();
    assert_eq!((download.len(), download.remaining()), (1000, 1000));
    let mut head = [0; 600];
    download.read_exact(&mut head).await.unwrap();
    assert_eq!(head, content[..600]);
    assert!(download.read_exact(&mut head).await.is_err(), "only 400 are left");
    let mut rest = [0; 400];
    download.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest, content[600..1000]);
    assert_eq!(download.chunk(&mut head).await.unwrap(), 0);
    drop(download);

    assert_eq!(cluster.storage.connections(), 1, "finished downloads give their connection back");
    drop(client.download(&id, 0, 0).await.unwrap());
    client.download_buf(&id, 0, 1).await.unwrap();
    assert_eq!(cluster.storage.connections(), 2, "an abandoned one closes it");
}

#[tokio::test]
async fn empty_files_can_be_downloaded() {
    let cluster = cluster().await;
    let normal = cluster.client.upload_buf(&[], &txt()).await.unwrap();
    let appender = cluster.client.upload_appender_buf(&[], &txt()).await.unwrap();
    for id in [normal, appender] {
        assert!(cluster.client.download_buf(&id, 0, 0).await.unwrap().is_empty());
        let mut download = cluster.client.download(&id, 0, 0).await.unwrap();
        assert!(download.is_empty());
        assert_eq!(download.chunk(&mut [0; 10]).await.unwrap(), 0);
        let beyond = cluster.client.download_buf(&id, 1, 0).await.unwrap_err();
        assert_eq!(beyond.to_errno(), 22, "an offset beyond the end stays an error");
    }
    let gone = cluster.client.upload_buf(&[], &txt()).await.unwrap();
    cluster.client.delete(&gone).await.unwrap();
    assert!(cluster.client.download_buf(&gone, 0, 0).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn appenders_change_and_become_normal() {
    use std::io::Write;
    let cluster = cluster().await;
    let client = &cluster.client;
    let id = client.upload_appender_buf(&[Bytes::from_static(b"begin-")], &txt()).await.unwrap();
    client.append_buf(&id, &[Bytes::from_static(b"mo"), Bytes::from_static(b"re")]).await.unwrap();
    client.modify_buf(&id, 0, &[Bytes::from_static(b"BEG")]).await.unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    client.append_file(&id, &file, 3..6).await.unwrap();
    assert_eq!(content_of(&cluster, &id), b"BEGin-more345");
    client.truncate(&id, 5).await.unwrap();
    client.truncate(&id, 5).await.unwrap();
    client.truncate(&id, 6).await.unwrap();
    assert_eq!(client.download_buf(&id, 0, 0).await.unwrap(), &b"BEGin\0"[..]);

    let normal = client.regenerate(&id).await.unwrap();
    assert_eq!(client.download_buf(&normal, 0, 0).await.unwrap(), &b"BEGin\0"[..]);
    assert!(client.download_buf(&id, 0, 0).await.unwrap_err().is_not_found());
    assert_eq!(cluster.tracker.count(Command::QueryUpdate), 0, "who made a file is asked without a question");
}

#[tokio::test]
async fn slaves() {
    let cluster = cluster().await;
    let client = &cluster.client;
    let master = client.upload_buf(&[Bytes::from_static(b"master")], &txt()).await.unwrap();
    let prefix = "_small".parse().unwrap();
    let data = [Bytes::from_static(b"slave")];
    let slave = client.upload_slave(&master, &prefix, &txt(), Content::buffers(&data)).await.unwrap();
    assert_eq!(slave.name, master.name.slave(&prefix, &txt()).unwrap());
    assert_eq!(client.download_buf(&slave, 0, 0).await.unwrap(), &b"slave"[..]);
    let again = client.upload_slave(&master, &prefix, &txt(), Content::buffers(&data)).await.unwrap_err();
    assert!(matches!(again, Error::Exists { .. }), "{again}");
    let metadata_file = client.upload_slave(&master, &"-m".parse().unwrap(), &ExtName::NONE, Content::empty()).await;
    assert_eq!(metadata_file.unwrap_err().to_errno(), 22);
}

#[tokio::test]
async fn metadata_and_info() {
    let cluster = cluster().await;
    let client = &cluster.client;
    let id = client.upload_buf(&[Bytes::from_static(b"hello")], &txt()).await.unwrap();
    assert!(client.get_metadata(&id).await.unwrap_err().is_not_found());
    let mut metadata = Metadata::new();
    metadata.insert(b"width", b"100").unwrap();
    metadata.insert(b"author", b"me").unwrap();
    client.set_metadata(&id, &metadata, MetadataMode::Overwrite).await.unwrap();
    assert_eq!(client.get_metadata(&id).await.unwrap(), metadata);

    let info = client.file_info(&id, FileInfoFlags::default()).await.unwrap();
    assert_eq!((info.size, info.crc32), (5, crc32fast::hash(b"hello")));
    client.file_info(&id, FileInfoFlags { no_crc: true, silent: true }).await.unwrap();
    let flags = cluster.storage.received().last().unwrap().header.status;
    assert_eq!(flags, 3, "the flags travel in the status byte");

    client.delete(&id).await.unwrap();
    let error = client.delete(&id).await.unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    assert_eq!(error.to_errno(), 2);
}

#[tokio::test]
async fn questions_to_trackers() {
    let cluster = cluster().await;
    let client = &cluster.client;
    assert_eq!(client.list_groups().await.unwrap()[0].name, crate::fake::group());
    client.trackers().active_test().await.unwrap();
    client.tracker(cluster.tracker.addr).delete_group(&crate::fake::group()).await.unwrap();
    client.storage_active_test(cluster.storage.addr).await.unwrap();
    assert_eq!(&client.tracker_addrs().await.unwrap()[..], [cluster.tracker.addr]);
    let id = client.upload_buf(&[Bytes::from_static(b"x")], &txt()).await.unwrap();
    let tracker = client.trackers();
    let storage = Some(cluster.storage.addr);
    assert_eq!(tracker.query_update(&id).await.unwrap().server.socket_addr(), storage);
    assert_eq!(tracker.query_fetch(&id).await.unwrap().server.socket_addr(), storage);
    assert_eq!(tracker.query_fetch_all(&id).await.unwrap().servers.len(), 1);
    assert_eq!(tracker.query_store(None).await.unwrap().group, crate::fake::group());
    assert_eq!(tracker.query_store_all(Some(&crate::fake::group())).await.unwrap().servers.len(), 1);
    let unknown = tracker.query_store(Some(&"nogroup".parse().unwrap())).await.unwrap_err();
    assert!(matches!(&unknown, Error::NoStorage { group: Some(group), .. } if group.as_str() == "nogroup"));
}

#[tokio::test]
async fn the_largest_cluster_can_be_looked_at() {
    let mut stat = StorageClusterStat::default();
    let storage = StorageHealth::decode(&[0; StorageHealth::LEN]).unwrap();
    stat.storages.resize(512 * 32, storage);
    let tracker = Fake::start(move |_| Reply::message(&stat)).await;
    let client = Client::new(ClientConfig::new([tracker.addr.into()]));
    let told = client.trackers().storage_stat(StorageClusterFilter::default()).await.unwrap();
    assert_eq!(told.storages.len(), 512 * 32);
}

#[tokio::test]
async fn a_group_can_be_asked_for() {
    let files = Files::default();
    let (first, second) = (storage(&files).await, storage(&files).await);
    let members = members(&[first.addr]);
    members.lock().push(("group2".parse().unwrap(), vec![second.addr]));
    let tracker = tracker(&members).await;
    let mut config = ClientConfig::new([ServerAddress::from(tracker.addr)]);
    config.group = Some("group2".parse().unwrap());
    let client = Client::new(config);
    client.upload_buf(&[Bytes::from_static(b"x")], &txt()).await.unwrap();
    assert_eq!((first.connections(), second.count(Command::UploadFile)), (0, 1));
}

#[tokio::test]
async fn clones_share_connections_and_work_at_the_same_time() {
    let cluster = cluster().await;
    let tasks: Vec<_> = (0..50u8)
        .map(|i| {
            let client = cluster.client.clone();
            tokio::spawn(async move {
                let id = client.upload_buf(&[Bytes::from(vec![i; 1000])], &ExtName::NONE).await.unwrap();
                assert_eq!(client.download_buf(&id, 0, 0).await.unwrap(), vec![i; 1000]);
                client.delete(&id).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(cluster.files.lock().is_empty());
    assert!(cluster.storage.connections() <= 50);
}

#[tokio::test]
async fn a_storage_can_be_named() {
    let cluster = cluster().await;
    let data = [Bytes::from_static(b"direct")];
    let id =
        cluster.client.upload_to(cluster.storage.addr, None, Content::buffers(&data), &ExtName::NONE).await.unwrap();
    assert_eq!(content_of(&cluster, &id), b"direct");
    assert_eq!(cluster.tracker.connections(), 0);
    assert_eq!(cluster.storage.received()[0].body[0], 255, "the storage chooses the store path");
}

/// A reader that hands out one byte per poll, so that the request leaves in many pieces.
struct Dripping(usize);

impl tokio::io::AsyncRead for Dripping {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.0 += 1;
        buf.put_slice(&[self.0 as u8]);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_slow_reader_is_given_its_time() {
    let cluster = cluster().await;
    let id = cluster.client.upload_reader(Dripping(0), 300, &ExtName::NONE).await.unwrap();
    assert_eq!(content_of(&cluster, &id), (1..=300).map(|i: i32| i as u8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dropped_future_leaves_nothing_out_of_step() {
    let cluster = cluster().await;
    let id = cluster.client.upload_buf(&[Bytes::from(vec![7; 100_000])], &ExtName::NONE).await.unwrap();
    let polls = AtomicUsize::new(0);
    // Dropped after each possible number of polls.
    for limit in 1..20 {
        polls.store(0, Ordering::SeqCst);
        let mut download = Box::pin(cluster.client.download_buf(&id, 0, 0));
        let outcome = std::future::poll_fn(|cx| {
            if polls.fetch_add(1, Ordering::SeqCst) == limit {
                return Poll::Ready(None);
            }
            download.as_mut().poll(cx).map(Some)
        })
        .await;
        drop(download);
        if let Some(content) = outcome {
            assert_eq!(content.unwrap(), vec![7; 100_000]);
        }
        assert_eq!(cluster.client.download_buf(&id, 5, 10).await.unwrap(), vec![7; 10]);
    }
}
