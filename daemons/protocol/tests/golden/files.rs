//! Files of live servers: read and written again, byte for byte.

use std::path::{Path, PathBuf};

use fdfs_protocol::binlog::{Record, RecordError};
use fdfs_protocol::config::ConfigError;
use fdfs_protocol::datafile::*;
use fdfs_protocol::metadata::Metadata;

use crate::vectors::golden;

fn read(name: &str) -> (PathBuf, Vec<u8>) {
    let path = golden().join("files").join(name);
    let text = std::fs::read(&path).unwrap();
    (path, text)
}

fn check<T>(name: &str, parse: impl Fn(&Path, &[u8]) -> Result<T, ConfigError>, to_text: impl Fn(&T) -> String) -> T {
    let (path, text) = read(name);
    let value = parse(&path, &text).unwrap();
    assert_eq!(to_text(&value), String::from_utf8(text).unwrap(), "{name}");
    value
}

fn lines<T>(name: &str, parse: impl Fn(&str) -> Vec<T>)
where
    T: std::fmt::Display,
{
    let text = String::from_utf8(read(name).1).unwrap();
    let again: String = parse(&text).iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(again, text, "{name}");
}

#[test]
fn of_a_storage() {
    let flag = check("data_init_flag", InitFlag::parse, InitFlag::to_text);
    assert!(flag.sync_old_done && flag.sync_src_server.as_str() == "10.78.0.1");
    let mark = PathMark::decode(&flag.store_path_marks[&0]).unwrap();
    assert_eq!((mark.ip.as_str(), mark.port, mark.store_path), ("10.78.0.3", 23000, 0));
    assert_eq!(mark.created, 1_795_220_738);
    assert_eq!(mark.encode(), flag.store_path_marks[&0]);
    let vars = check("fastdfs_vars", PathMarkFile::parse, PathMarkFile::to_text);
    assert!(PathMark::decode(&vars.store_path_mark).is_some());
    let stat = check("storage_stat.dat", StorageStatFile::parse, StorageStatFile::to_text);
    assert_eq!((stat.stat.upload_count.total, stat.dist_write_file_count), (13, 15));
}

#[test]
fn of_replication() {
    check("binlog_index.dat", BinlogIndex::parse, BinlogIndex::to_text);
    for mark in ["10.78.0.1_23000.mark", "10.78.0.2_23000.mark", "100002.mark"] {
        check(mark, SyncMark::parse, SyncMark::to_text);
    }
    check("trunk_100001.mark", BinlogOffset::parse, BinlogOffset::to_text);
    check("recovery.mark.0", BinlogOffset::parse, BinlogOffset::to_text);
    check("recovery.flag", RecoveryFlag::parse, RecoveryFlag::to_text);
}

#[test]
fn binlogs() {
    let mut broken = 0;
    for name in ["binlog.source.000", "binlog.replica.000", "binlog.recovery.0"] {
        for line in String::from_utf8(read(name).1).unwrap().lines() {
            match Record::parse(line.as_bytes()) {
                Ok(record) => assert_eq!(record.to_string(), line),
                Err(error) => {
                    // The receiver of a link writes a record without a name.
                    assert!(line.ends_with(" l "), "{line}: {error}");
                    assert!(matches!(error, RecordError::Name(_)));
                    broken += 1;
                }
            }
        }
    }
    assert_eq!(broken, 5);
    lines("trunk_binlog", |text| text.lines().map(|line| line.parse::<TrunkRecord>().unwrap()).collect());
}

#[test]
fn of_a_tracker() {
    for name in ["storage_groups_new.dat", "storage_groups_new.trunk.dat"] {
        check(name, GroupsFile::parse, GroupsFile::to_text);
    }
    let servers = check("storage_servers_new.dat", ServersFile::parse, ServersFile::to_text);
    assert_eq!(servers.0.len(), 3);
    assert!(servers.0[0].id.is_none());
    let servers = check("storage_servers_new.id.dat", ServersFile::parse, ServersFile::to_text);
    assert_eq!(servers.0[0].id.as_str(), "100001");
    check("tracker_status", TrackerRunFile::parse, TrackerRunFile::to_text);
    lines("storage_changelog.dat", |text| ChangelogLine::parse_all(text).unwrap());
    lines("storage_sync_timestamp.dat", |text| SyncTimestamps::parse_all(text).unwrap());
}

#[test]
fn metadata() {
    let packed = read("metadata_sample-m").1;
    assert_eq!(Metadata::parse(&packed).pack(), packed);
}

#[test]
fn slots_of_a_trunk_file() {
    let bytes = read("trunk_file_000001.first2560.bin").1;
    let mut at = 0;
    let mut kinds = Vec::new();
    while let Some(raw) = bytes.get(at..at + SlotHeader::LEN) {
        let header = SlotHeader::decode(raw.try_into().unwrap()).unwrap();
        assert_eq!(header.encode(), raw);
        if header.is_unused() {
            break;
        }
        if header.kind == SlotKind::File {
            let content = &bytes[at + 24..at + 24 + header.file_size as usize];
            assert_eq!(crc32fast::hash(content), header.crc32);
        }
        kinds.push((header.kind, header.alloc_size));
        at += header.alloc_size as usize;
    }
    use SlotKind::{File, Link};
    assert_eq!(kinds[..4], [(File, 256), (Link, 256), (File, 256), (File, 512)]);
}
