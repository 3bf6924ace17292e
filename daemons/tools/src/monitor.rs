//! The report of `fdfs_monitor`: groups and their storages.

use std::fmt::{self, Display, Write};

use fdfs_protocol::stat::{GroupRecord, RwMode, StorageRecord, StorageStatus};

use crate::human::{local_time, megabytes, seconds};

/// The part of the report about one group.
pub fn group(group: &GroupRecord, storages: &[StorageRecord]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_group(&mut out, group, storages);
    out
}

fn write_group(out: &mut String, group: &GroupRecord, storages: &[StorageRecord]) -> fmt::Result {
    let space = |mb| format!("{:>7}", megabytes(mb));
    let uses_trunk = group.current_trunk_file_id >= 0;
    writeln!(out, "group name = {}", group.name)?;
    writeln!(out, "disk total space     = {}", space(group.total_mb))?;
    writeln!(out, "disk free space      = {}", space(group.free_mb))?;
    writeln!(out, "disk reserved space  = {}", space(group.reserved_mb))?;
    writeln!(out, "disk available space = {}", space(group.free_mb.saturating_sub(group.reserved_mb)))?;
    if uses_trunk {
        writeln!(out, "trunk free space = {}", space(group.trunk_free_mb))?;
    }
    writeln!(out, "storage server count = {}", group.storage_count)?;
    writeln!(out, "readable server count = {}", group.readable_count)?;
    writeln!(out, "writable server count = {}", group.writable_count)?;
    writeln!(out, "storage server port = {}", group.storage_port)?;
    writeln!(out, "store path count = {}", group.store_path_count)?;
    writeln!(out, "subdir count per path = {}", group.subdir_count_per_path)?;
    writeln!(out, "current write server index = {}", group.current_write_server)?;
    if uses_trunk && let Some(server) = storages.iter().find(|storage| storage.trunk_server) {
        writeln!(out, "current trunk server = {} ({})", server.id, server.ip)?;
        writeln!(out, "current trunk file id = {}", group.current_trunk_file_id)?;
    }
    writeln!(out)?;
    for (index, storage) in storages.iter().enumerate() {
        let newest = newest_update_of_others(storages, index);
        write_storage(out, index + 1, storage, newest)?;
    }
    Ok(())
}

fn newest_update_of_others(storages: &[StorageRecord], index: usize) -> i64 {
    let others = storages.iter().enumerate().filter(|(i, _)| *i != index);
    others.map(|(_, storage)| storage.stat.last_source_update).max().unwrap_or(0)
}

fn write_storage(out: &mut String, number: usize, storage: &StorageRecord, newest: i64) -> fmt::Result {
    writeln!(out, "\tStorage {number}:")?;
    let mut line = |name: &str, value: &dyn Display| writeln!(out, "\t\t{name} = {value}");
    let space = |mb| format!("{:>7}", megabytes(mb));
    let stat = &storage.stat;
    let host = if storage.ip.as_str().contains(':') { format!("[{}]", storage.ip) } else { storage.ip.to_string() };
    line("id", &storage.id)?;
    line("host", &format_args!("{host}:{}  {}", storage.port, status(storage.status)))?;
    line("read write mode", &mode(storage.rw_mode))?;
    line("version", &storage.version)?;
    line("join time", &local_time(storage.join_time))?;
    line("up time", &if storage.up_time == 0 { String::new() } else { local_time(storage.up_time) })?;
    line("disk total space    ", &space(storage.total_mb))?;
    line("disk free space     ", &space(storage.free_mb))?;
    line("disk reserved space ", &space(storage.reserved_mb))?;
    line("disk available space", &space(storage.free_mb.saturating_sub(storage.reserved_mb)))?;
    line("upload priority", &storage.upload_priority)?;
    line("store_path_count", &storage.store_path_count)?;
    line("subdir_count_per_path", &storage.subdir_count_per_path)?;
    line("current_write_path", &storage.current_write_path)?;
    line("source storage id", &storage.source_id)?;
    line("if_trunk_server", &u8::from(storage.trunk_server))?;
    line("connection.alloc_count", &stat.connections.alloc)?;
    line("connection.current_count", &stat.connections.current)?;
    line("connection.max_count", &stat.connections.max)?;
    for (name, counter) in stat.counters() {
        // Misspelt in the original, and scripts read it.
        let total = if name == "download_bytes" { "stotal" } else { "total" };
        line(&format!("{total}_{name}"), &counter.total)?;
        line(&format!("success_{name}"), &counter.success)?;
    }
    line("last_heart_beat_time", &local_time(stat.last_heart_beat_time))?;
    line("last_source_update", &local_time(stat.last_source_update))?;
    line("last_sync_update", &local_time(stat.last_sync_update))?;
    let delay = match (newest, stat.last_synced_timestamp) {
        (0, _) => String::new(),
        (_, 0) => "(never synced)".to_owned(),
        (newest, synced) => format!("({} delay)", seconds(newest.saturating_sub(synced))),
    };
    line("last_synced_timestamp", &format_args!("{} {delay}", local_time(stat.last_synced_timestamp)))
}

fn status(status: StorageStatus) -> &'static str {
    if status == StorageStatus::None { "UNKNOWN" } else { status.name() }
}

fn mode(mode: RwMode) -> &'static str {
    match mode {
        RwMode::None => "none (disabled)",
        RwMode::Read => "readonly",
        RwMode::Write => "writeonly",
        RwMode::Both => "both (normal)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdfs_protocol::stat::StatBlock;
    use fdfs_protocol::{IpText, StorageId, Version};

    fn storage(id: &str, stat: StatBlock) -> StorageRecord {
        StorageRecord {
            status: StorageStatus::Active,
            rw_mode: RwMode::Both,
            id: id.parse().unwrap(),
            ip: IpText::new("10.78.0.1").unwrap(),
            source_id: StorageId::NONE,
            version: Version::new("6.16.1").unwrap(),
            join_time: 0,
            up_time: 0,
            total_mb: 252 * 1024,
            free_mb: 79 * 1024,
            reserved_mb: 2560,
            upload_priority: 10,
            store_path_count: 1,
            subdir_count_per_path: 4,
            current_write_path: 0,
            port: 23100,
            stat,
            trunk_server: true,
        }
    }

    fn record(trunk: i64) -> GroupRecord {
        GroupRecord {
            name: "group1".parse().unwrap(),
            total_mb: 252 * 1024,
            free_mb: 77 * 1024,
            reserved_mb: 2560,
            trunk_free_mb: 0,
            storage_count: 2,
            storage_port: 23100,
            readable_count: 2,
            writable_count: 2,
            current_write_server: 0,
            store_path_count: 1,
            subdir_count_per_path: 4,
            current_trunk_file_id: trunk,
        }
    }

    #[test]
    fn a_group_with_trunk_files() {
        let text = group(&record(0), &[storage("100001", StatBlock::default())]);
        let expected = "group name = group1\n\
             disk total space     =  252 GB\n\
             disk free space      =   77 GB\n\
             disk reserved space  =  2.5 GB\n\
             disk available space =   75 GB\n\
             trunk free space =    0  B\n\
             storage server count = 2\n\
             readable server count = 2\n\
             writable server count = 2\n\
             storage server port = 23100\n\
             store path count = 1\n\
             subdir count per path = 4\n\
             current write server index = 0\n\
             current trunk server = 100001 (10.78.0.1)\n\
             current trunk file id = 0\n\
             \n\
             \tStorage 1:\n\
             \t\tid = 100001\n\
             \t\thost = 10.78.0.1:23100  ACTIVE\n\
             \t\tread write mode = both (normal)\n\
             \t\tversion = 6.16.1\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\t\tup time = \n\t\tdisk total space     =  252 GB\n"), "{text}");
        assert!(text.contains("\t\tsource storage id = \n\t\tif_trunk_server = 1\n"), "{text}");
        assert!(text.contains("\t\tstotal_download_bytes = 0\n\t\tsuccess_download_bytes = 0\n"), "{text}");
        assert_eq!(text.lines().count(), 17 + 19 + 38 + 4);
    }

    #[test]
    fn without_trunk_files_nothing_is_said_of_them() {
        let text = group(&record(-1), &[storage("10.78.0.1", StatBlock::default())]);
        assert!(!text.contains("trunk free") && !text.contains("current trunk"), "{text}");
    }

    #[test]
    fn delays() {
        let last = |storages: &[StorageRecord]| {
            let text = group(&record(-1), storages);
            text.lines()
                .filter(|line| line.contains("last_synced"))
                .map(|line| line[45..].to_owned())
                .collect::<Vec<_>>()
        };
        let stat = |source, synced| StatBlock {
            last_source_update: source,
            last_synced_timestamp: synced,
            ..StatBlock::default()
        };
        assert_eq!(last(&[storage("1", stat(0, 0))]), [" "]);
        let two = [storage("1", stat(1000, 0)), storage("2", stat(1062, 1000))];
        assert_eq!(last(&two), [" (never synced)", " (0 second delay)"]);
        let two = [storage("1", stat(1000, 1000)), storage("2", stat(1062, 1000))];
        assert_eq!(last(&two), [" (1 minute 2 seconds delay)", " (0 second delay)"]);
    }
}
