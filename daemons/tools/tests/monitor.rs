//! `fdfs_monitor` shows what happened: every field of a group of two, after a known number of operations of each kind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use fdfs_client::{
    Bytes, Client, ClientConfig, Content, Error, ExtName, FileId, Metadata, MetadataMode, Prefix, ServerAddress,
};
use fdfs_storage::{Storage, StorageConfig};
use fdfs_tracker::{Tracker, TrackerConfig};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How FastDFS's tool shows that something has not happened yet.
const NEVER: &str = "1970-01-01 00:00:00";

type Fields = BTreeMap<String, String>;

#[test]
fn every_field_is_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let began = seconds();
    let tracker = {
        let base = dir.path().join("tracker");
        fs::create_dir(&base).unwrap();
        Tracker::start(TrackerConfig::embedded(base, Ipv4Addr::LOCALHOST.into(), 0)).unwrap()
    };
    let conf = dir.path().join("client.conf");
    fs::write(&conf, format!("tracker_server = {}\nbase_path = /tmp\n", tracker.addr())).unwrap();
    let first = storage(dir.path(), tracker.addr(), Ipv4Addr::new(127, 0, 0, 1), 0);
    assert!(first.wait_active(PATIENCE));

    let kept = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work(Client::new(ClientConfig::new([ServerAddress::from(tracker.addr())]))));
    let second = storage(dir.path(), tracker.addr(), Ipv4Addr::new(127, 0, 0, 2), first.addr().port());
    assert!(second.wait_active(PATIENCE));

    // The storages report once a second.
    let deadline = Instant::now() + PATIENCE;
    let (head, group, storages) = loop {
        let (head, group, storages) = monitor(&conf);
        let counts = |i: usize, key: &str| storages.get(i).and_then(|s: &Fields| s[key].parse().ok()).unwrap_or(0u64);
        let arrived = counts(1, "success_sync_in_bytes") == kept && counts(0, "success_sync_out_bytes") == kept;
        if arrived && storages.iter().all(|s| s["host"].ends_with("  ACTIVE")) {
            break (head, group, storages);
        }
        assert!(Instant::now() < deadline, "{storages:#?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let ended = seconds();

    assert!(head.starts_with("tracker server count=1, current server index=0\n"), "{head}");
    assert!(head.contains(&format!("tracker server is {}\n", tracker.addr())) && head.contains("group count: 1\n"));

    let port = first.addr().port();
    let same = |key: &str| group[key].clone();
    let mut expected: Fields = [
        ("group name", "group1"),
        ("storage server count", "2"),
        ("readable server count", "2"),
        ("writable server count", "2"),
        ("store path count", "1"),
        ("subdir count per path", "32"),
        ("current write server index", "0"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    expected.insert("storage server port".into(), port.to_string());
    // Whatever disk this is: both are on it.
    let spaces = ["disk total space", "disk free space", "disk reserved space", "disk available space"];
    spaces.iter().for_each(|key| drop(expected.insert((*key).to_owned(), same(key))));
    assert_eq!(group, expected);

    // Uploads: three files of 10, 20 and 0 bytes, an appender of 100, a slave of 7.
    let first_counts: &[(&str, u64, u64)] = &[
        ("upload_count", 5, 5),
        ("append_count", 3, 2),
        ("modify_count", 2, 1),
        ("truncate_count", 2, 1),
        ("set_meta_count", 3, 2),
        ("delete_count", 2, 1),
        ("download_count", 3, 2),
        // Of a file that the storage does not have, all members are asked; this one again.
        ("get_meta_count", 3, 1),
        ("create_link_count", 0, 0),
        ("delete_link_count", 0, 0),
        ("upload_bytes", 137, 137),
        ("append_bytes", 30, 30),
        ("modify_bytes", 5, 5),
        ("download_bytes", 30, 30),
        ("sync_in_bytes", 0, 0),
        ("sync_out_bytes", kept, kept),
    ];
    let second_counts: Vec<(&str, u64, u64)> = first_counts
        .iter()
        .map(|(name, ..)| if *name == "sync_in_bytes" { (*name, kept, kept) } else { (*name, 0, 0) })
        .collect();
    for (i, counts) in [first_counts, &second_counts].into_iter().enumerate() {
        let ip = format!("127.0.0.{}", i + 1);
        let mut found = storages[i].clone();
        let mut take = |key: &str| found.remove(key).unwrap_or_else(|| panic!("{key} is not shown"));
        let mut must = |key: &str, value: &str| assert_eq!(take(key), value, "{key} of {ip}");
        must("id", &ip);
        must("host", &format!("{ip}:{port}  ACTIVE"));
        must("read write mode", "both (normal)");
        must("version", "6.16.1");
        must("upload priority", "10");
        must("store_path_count", "1");
        must("subdir_count_per_path", "32");
        must("current_write_path", "0");
        must("source storage id", if i == 0 { "" } else { "127.0.0.1" });
        must("if_trunk_server", "0");
        for (name, total, success) in counts {
            let prefix = if *name == "download_bytes" { "stotal" } else { "total" };
            must(&format!("{prefix}_{name}"), &total.to_string());
            must(&format!("success_{name}"), &success.to_string());
        }
        spaces.iter().for_each(|key| must(key, &group[*key]));
        // Pushers, and clients that are gone or not.
        let connections = ["alloc", "current", "max"].map(|kind| number(&take(&format!("connection.{kind}_count"))));
        let [alloc, current, max] = connections;
        assert!(alloc == max && current <= max && (1..=8).contains(&max), "{connections:?} of {ip}");
        // How often files were opened, read and written depends on how they are taken; nothing of that failed but what was
        // asked of files that are not there.
        for name in ["file_open_count", "file_read_count", "file_write_count"] {
            let (total, success) = (number(&take(&format!("total_{name}"))), number(&take(&format!("success_{name}"))));
            let failed = total - success;
            let may_fail = if i == 0 && name == "file_open_count" { 4 } else { 0 };
            assert!(failed <= may_fail && (success > 0 || (i == 1 && name == "file_read_count")), "{name} of {ip}");
        }
        let within = |key: &str| {
            let text = storages[i][key].clone();
            let shown = time(&text);
            assert!((began..=ended).contains(&shown), "{key} of {ip}: {text}");
            shown
        };
        let (joined, up) = (within("join time"), within("up time"));
        assert!(joined >= up && within("last_heart_beat_time") >= joined);
        for key in ["join time", "up time", "last_heart_beat_time"] {
            take(key);
        }
        let [source, sync, synced] = ["last_source_update", "last_sync_update", "last_synced_timestamp"].map(&mut take);
        if i == 0 {
            assert!(within("last_source_update") >= joined);
            assert_eq!((sync.as_str(), synced.as_str()), (NEVER, NEVER), "the other member has changed nothing");
        } else {
            assert_eq!(source, NEVER);
            assert!(within("last_sync_update") >= joined);
            let (at, delay) = synced.split_once(" (").unwrap();
            assert!(time(at) <= ended && delay == "0 second delay)", "{synced}");
        }
        assert!(found.is_empty(), "fields that nobody looked at: {found:?}");
    }
    first.stop();
    second.stop();
    tracker.stop();
}

/// Every kind of operation, done and refused. Gives the bytes that are pushed to another member later.
async fn work(client: Client) -> u64 {
    let bytes = |len: usize| [Bytes::from(vec![b'x'; len])];
    let (txt, none) = (ExtName::new("txt").unwrap(), ExtName::NONE);
    let deadline = Instant::now() + PATIENCE;
    let ten = loop {
        match client.upload_buf(&bytes(10), &txt).await {
            Ok(id) => break id,
            // The tracker does not know the space of the disks yet.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let twenty = client.upload_buf(&bytes(20), &none).await.unwrap();
    let empty = client.upload_buf(&bytes(0), &none).await.unwrap();
    let appender = client.upload_appender_buf(&bytes(100), &txt).await.unwrap();
    let slave = bytes(7);
    client.upload_slave(&ten, &Prefix::new("_s").unwrap(), &txt, Content::buffers(&slave)).await.unwrap();
    for _ in 0..2 {
        client.append_buf(&appender, &bytes(15)).await.unwrap();
    }
    client.modify_buf(&appender, 50, &bytes(5)).await.unwrap();
    client.truncate(&appender, 90).await.unwrap();
    let mut metadata = Metadata::new();
    metadata.insert(b"width", b"160").unwrap();
    client.set_metadata(&ten, &metadata, MetadataMode::Overwrite).await.unwrap();
    client.set_metadata(&ten, &metadata, MetadataMode::Merge).await.unwrap();
    assert_eq!(client.get_metadata(&ten).await.unwrap(), metadata);
    assert_eq!(client.download_buf(&ten, 0, 0).await.unwrap().len(), 10);
    assert_eq!(client.download_buf(&twenty, 0, 0).await.unwrap().len(), 20);
    client.delete(&empty).await.unwrap();

    // Of files that are not there.
    let mut block = appender.name.block().unwrap();
    block.timestamp -= 1;
    let gone = FileId { name: appender.name.with_block(&block), ..appender };
    let missing = |error: Error| assert!(error.is_not_found(), "{error}");
    missing(client.append_buf(&gone, &bytes(4)).await.unwrap_err());
    missing(client.modify_buf(&gone, 0, &bytes(4)).await.unwrap_err());
    missing(client.truncate(&gone, 1).await.unwrap_err());
    missing(client.set_metadata(&gone, &metadata, MetadataMode::Overwrite).await.unwrap_err());
    missing(client.get_metadata(&gone).await.unwrap_err());
    missing(client.download_buf(&gone, 0, 0).await.unwrap_err());
    missing(client.delete(&gone).await.unwrap_err());
    // By record: what a file is now, or what is left of the range. Metadata has two, and the modification is within what is
    // left of the appender.
    (10 + 20 + 90 + 7 + 5 + 2 * metadata.pack().len()) as u64
}

fn storage(dir: &Path, tracker: SocketAddr, ip: Ipv4Addr, port: u16) -> Storage {
    let base = dir.join(ip.to_string());
    fs::create_dir(&base).unwrap();
    let mut config = StorageConfig::embedded(&base, tracker, "group1".parse().unwrap());
    (config.bind, config.port) = (vec![ip.into()], port);
    config.heart_beat_interval = Duration::from_secs(1);
    config.stat_report_interval = Duration::from_secs(1);
    Storage::start(config).unwrap()
}

/// What is said of the tracker, of the group, and of each storage.
fn monitor(conf: &Path) -> (String, Fields, Vec<Fields>) {
    let output = Command::new(env!("CARGO_BIN_EXE_fdfs_monitor")).arg(conf).env("TZ", "UTC").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, rest) = text.split_once("Group 1:\n").unwrap();
    let mut parts = rest.split("\tStorage ");
    let fields = |part: &str| {
        let pairs = part.lines().filter_map(|line| line.split_once(" ="));
        pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect::<Fields>()
    };
    let group = fields(parts.next().unwrap());
    (head.to_owned(), group, parts.map(fields).collect())
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Unix seconds of a time as it is shown, in UTC.
fn time(text: &str) -> u64 {
    let output = Command::new("date").args(["-u", "+%s", "-d", text]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("{text} is no time"))
}
