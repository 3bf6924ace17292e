//! The client against our own tracker and storages, in this process.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use fdfs_client::{
    Client, ClientConfig, Content, Error, ExtName, FileInfoFlags, Metadata, MetadataMode, ServerAddress,
};
use fdfs_protocol::file_id::Kind;
use fdfs_storage::{Storage, StorageConfig};
use fdfs_tracker::{Tracker, TrackerConfig};
use tempfile::TempDir;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    storages: Vec<Storage>,
    tracker: Option<Tracker>,
    _directory: TempDir,
}

impl Cluster {
    /// A tracker, and one storage for each of `groups`.
    fn start(groups: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("tracker");
        std::fs::create_dir(&base).unwrap();
        let tracker = Tracker::start(TrackerConfig::embedded(base, Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
        let storages = groups.iter().enumerate().map(|(i, group)| {
            let base = directory.path().join(format!("storage{i}"));
            std::fs::create_dir(&base).unwrap();
            Storage::start(StorageConfig::embedded(&base, tracker.addr(), group.parse().unwrap())).unwrap()
        });
        let storages: Vec<_> = storages.collect();
        for storage in &storages {
            assert!(storage.wait_active(PATIENCE));
        }
        let config = ClientConfig { verify_crc: true, ..ClientConfig::new([ServerAddress::from(tracker.addr())]) };
        run(wait_for_space(&Client::new(config.clone()), groups));
        Self { client: Client::new(config), storages, tracker: Some(tracker), _directory: directory }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for storage in self.storages.drain(..) {
            storage.stop();
        }
        if let Some(tracker) = self.tracker.take() {
            tracker.stop();
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// A storage is active before the tracker knows how much space it has.
async fn wait_for_space(client: &Client, groups: &[&str]) {
    let deadline = std::time::Instant::now() + PATIENCE;
    for group in groups {
        let group = group.parse().unwrap();
        while let Err(error) = client.trackers().query_store(Some(&group)).await {
            assert!(std::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn txt() -> ExtName {
    "txt".parse().unwrap()
}

#[test]
fn everything_once() {
    let cluster = Cluster::start(&["group1"]);
    let client = &cluster.client;
    run(async {
        // Every way to upload, sizes around the limits that matter.
        for size in [0usize, 1, 511, 4096, 65_536, 300_000, 5_000_000] {
            let content: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
            let parts: Vec<Bytes> = content.chunks(100_000).map(Bytes::copy_from_slice).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            let ids = [
                client.upload_buf(&parts, &txt()).await.unwrap(),
                client.upload_file(&file, 0..size as u64, &txt()).await.unwrap(),
                client.upload_reader(&content[..], size as u64, &ExtName::NONE).await.unwrap(),
            ];
            for id in ids {
                assert_eq!(id.name.kind().unwrap(), Kind::Normal);
                assert_eq!(id.name.block().unwrap().size.size(), Some(size as u64));
                assert!(client.download_buf(&id, 0, 0).await.unwrap() == content);
                let info = client.file_info(&id, FileInfoFlags::default()).await.unwrap();
                assert_eq!((info.size, info.crc32), (size as u64, crc32fast::hash(&content)));
                if size > 10 {
                    assert_eq!(client.download_buf(&id, 3, 5).await.unwrap(), content[3..8]);
                    let mut end = [0; 100];
                    let n = client.download_into(&id, size as u64 - 10, &mut end).await.unwrap();
                    assert_eq!(end[..n], content[size - 10..]);
                }
                client.delete(&id).await.unwrap();
                assert!(client.download_buf(&id, 0, 0).await.unwrap_err().is_not_found());
                assert!(client.delete(&id).await.unwrap_err().is_not_found());
            }
        }
    });
}

#[test]
fn an_appender_from_first_byte_to_normal_file() {
    let cluster = Cluster::start(&["group1"]);
    let client = &cluster.client;
    run(async {
        let id = client.upload_appender_buf(&[], &"log".parse().unwrap()).await.unwrap();
        assert_eq!(id.name.kind().unwrap(), Kind::Appender);
        assert!(client.download_buf(&id, 0, 0).await.unwrap().is_empty());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 2_000_000]).unwrap();
        client.append_file(&id, &file, 0..2_000_000).await.unwrap();
        client.append_buf(&id, &[Bytes::from_static(b"end")]).await.unwrap();
        client.append_buf(&id, &[]).await.unwrap();
        client.modify_buf(&id, 0, &[Bytes::from_static(b"start")]).await.unwrap();
        client.modify_buf(&id, 2_000_003, &[Bytes::from_static(b"!")]).await.unwrap();
        let error = client.modify_buf(&id, 3_000_000, &[Bytes::from_static(b"x")]).await.unwrap_err();
        assert_eq!(error.to_errno(), 22, "{error}");
        client.truncate(&id, 2_000_004).await.unwrap();
        let mut expected = vec![7; 2_000_000];
        expected[..5].copy_from_slice(b"start");
        expected.extend_from_slice(b"end!");
        assert!(client.download_buf(&id, 0, 0).await.unwrap() == expected);
        assert_eq!(client.file_info(&id, FileInfoFlags::default()).await.unwrap().crc32, crc32fast::hash(&expected));

        let normal = client.regenerate(&id).await.unwrap();
        assert_eq!(normal.name.kind().unwrap(), Kind::Normal);
        assert!(client.download_buf(&normal, 0, 0).await.unwrap() == expected);
        assert!(client.regenerate(&id).await.unwrap_err().is_not_found());
        assert_eq!(client.append_buf(&normal, &[Bytes::from_static(b"x")]).await.unwrap_err().to_errno(), 22);
    });
}

#[test]
fn slaves_and_metadata() {
    let cluster = Cluster::start(&["group1"]);
    let client = &cluster.client;
    run(async {
        let master = client.upload_buf(&[Bytes::from_static(b"master")], &txt()).await.unwrap();
        let data = [Bytes::from_static(b"slave")];
        let prefix = "_150x150".parse().unwrap();
        let slave = client.upload_slave(&master, &prefix, &txt(), Content::buffers(&data)).await.unwrap();
        assert_eq!(slave.name, master.name.slave(&prefix, &txt()).unwrap());
        assert_eq!(client.download_buf(&slave, 0, 0).await.unwrap(), &b"slave"[..]);
        let again = client.upload_slave(&master, &prefix, &txt(), Content::buffers(&data)).await.unwrap_err();
        assert!(matches!(again, Error::Exists { .. }), "{again}");

        let mut metadata = Metadata::new();
        metadata.insert(b"width", b"100").unwrap();
        client.set_metadata(&master, &metadata, MetadataMode::Overwrite).await.unwrap();
        let mut more = Metadata::new();
        more.insert(b"author", b"me").unwrap();
        client.set_metadata(&master, &more, MetadataMode::Merge).await.unwrap();
        assert_eq!(client.get_metadata(&master).await.unwrap(), metadata.merge(more));
        client.set_metadata(&master, &Metadata::new(), MetadataMode::Overwrite).await.unwrap();
        assert!(client.get_metadata(&master).await.unwrap_err().is_not_found());
    });
}

#[test]
fn what_the_tracker_knows() {
    let cluster = Cluster::start(&["group1", "group2"]);
    let client = &cluster.client;
    run(async {
        let groups = client.list_groups().await.unwrap();
        assert_eq!(groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["group1", "group2"]);
        for (group, storage) in groups.iter().zip(&cluster.storages) {
            let storages = client.list_storages(&group.name).await.unwrap();
            assert_eq!(storages.len(), 1);
            assert_eq!(storages[0].port, storage.addr().port());
            client.storage_active_test(storage.addr()).await.unwrap();
        }
        let tracker = client.trackers();
        tracker.active_test().await.unwrap();
        assert!(tracker.parameters().await.unwrap().contains("store_path=0"));
        assert_eq!(tracker.storage_ids().await.unwrap(), "");
        assert_eq!(tracker.storage_stat(Default::default()).await.unwrap().storages.len(), 2);
        assert_eq!(tracker.volume_stat(Default::default()).await.unwrap().groups.len(), 2);
        assert_eq!(tracker.list_group(&groups[1].name).await.unwrap().name, groups[1].name);
    });
}

#[test]
fn uploads_spread_and_survive_the_loss_of_a_storage() {
    let mut cluster = Cluster::start(&["group1", "group2"]);
    let client = cluster.client.clone();
    run(async {
        let mut groups = std::collections::BTreeSet::new();
        for _ in 0..16 {
            groups.insert(client.upload_buf(&[Bytes::from_static(b"x")], &txt()).await.unwrap().group);
        }
        assert_eq!(groups.len(), 2, "the tracker's round robin is kept");
    });
    cluster.storages.remove(0).stop();
    run(async {
        // Connections belong to the runtime they were made on.
        client.reset();
        for _ in 0..16 {
            let id = client.upload_buf(&[Bytes::from_static(b"x")], &txt()).await.unwrap();
            assert_eq!(id.group.as_str(), "group2");
        }
    });
}
