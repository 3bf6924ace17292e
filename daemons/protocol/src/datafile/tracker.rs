//! What a tracker keeps: groups, storages, sync times, changes of membership.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::str::FromStr;

use super::{LineError, ini, optional_name, optional_number, required_name, required_number};
use crate::config::{ConfigError, Section};
use crate::names::{GroupName, StorageId, Version};
use crate::stat::{StatBlock, StorageStatus};

/// A group in `storage_groups_new.dat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// Its name.
    pub group_name: GroupName,
    /// Port of its storages, -1 when they have different ones.
    pub storage_port: i32,
    /// Store paths of each storage.
    pub store_path_count: u32,
    /// Directories per level.
    pub subdir_count_per_path: u32,
    /// Highest number of a trunk file.
    pub current_trunk_file_id: u32,
    /// Its trunk server, or none.
    pub trunk_server: StorageId,
    /// The trunk server before, or none.
    pub last_trunk_server: StorageId,
}

/// `storage_groups_new.dat`, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupsFile(
    /// The groups.
    pub Vec<GroupState>,
);

impl GroupsFile {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let count = required_number(&ini.section("Global"), "group_count")?;
        numbered("Group", count, |name| {
            let s = ini.section(name);
            Ok(GroupState {
                group_name: required_name(&s, "group_name")?,
                storage_port: required_number(&s, "storage_port")?,
                store_path_count: required_number(&s, "store_path_count")?,
                subdir_count_per_path: required_number(&s, "subdir_count_per_path")?,
                current_trunk_file_id: optional_number(&s, "current_trunk_file_id")?,
                trunk_server: optional_name(&s, "trunk_server")?,
                last_trunk_server: optional_name(&s, "last_trunk_server")?,
            })
        })
        .map(GroupsFile)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = format!("[Global]\n\tgroup_count={}\n\n", self.0.len());
        for (i, g) in self.0.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# group: {}\n[Group{:03}]\n\tgroup_name={}\n\tstorage_port={}\n\
                 \tstore_path_count={}\n\tsubdir_count_per_path={}\n\tcurrent_trunk_file_id={}\n\
                 \ttrunk_server={}\n\tlast_trunk_server={}\n\n",
                g.group_name,
                i + 1,
                g.group_name,
                g.storage_port,
                g.store_path_count,
                g.subdir_count_per_path,
                g.current_trunk_file_id,
                g.trunk_server,
                g.last_trunk_server,
            );
        }
        text
    }
}

/// Reads sections `NAME001` to `NAMEcount`. A count beyond what is in the file ends at the first
/// section without its keys.
fn numbered<T>(
    name: &str,
    count: u32,
    mut read: impl FnMut(&str) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    (1..=count).map(|i| read(&format!("{name}{i:03}"))).collect()
}

/// A storage in `storage_servers_new.dat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageState {
    /// Its id; written only when storage ids are in use.
    pub id: StorageId,
    /// Its group.
    pub group_name: GroupName,
    /// Its addresses, comma separated.
    pub ip_addr: String,
    /// Its status.
    pub status: StorageStatus,
    /// Its version.
    pub version: Version,
    /// When it first joined, unix seconds.
    pub join_time: i64,
    /// Its port.
    pub storage_port: u16,
    /// Who pushes old data to it, or none.
    pub sync_src_server: StorageId,
    /// Changes up to this time are old data, unix seconds.
    pub sync_until_timestamp: i64,
    /// Disk space, MiB.
    pub total_mb: u64,
    /// Free space, MiB.
    pub free_mb: u64,
    /// How much of the changelog it has read, bytes.
    pub changelog_offset: u64,
    /// Its store paths.
    pub store_path_count: u32,
    /// Directories per level.
    pub subdir_count_per_path: u32,
    /// The smaller, the earlier it is chosen.
    pub upload_priority: i32,
    /// Its counters, of which the file has most.
    pub stat: StatBlock,
}

/// `storage_servers_new.dat`: all storages in join order, without deleted ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServersFile(
    /// The storages.
    pub Vec<StorageState>,
);

/// The counters the file keeps, in its order.
const COUNTERS: [&str; 16] = [
    "upload_count",
    "append_count",
    "set_meta_count",
    "delete_count",
    "download_count",
    "get_meta_count",
    "create_link_count",
    "delete_link_count",
    "upload_bytes",
    "append_bytes",
    "download_bytes",
    "sync_in_bytes",
    "sync_out_bytes",
    "file_open_count",
    "file_read_count",
    "file_write_count",
];

impl ServersFile {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let count = required_number(&ini.section("Global"), "storage_count")?;
        numbered("Storage", count, |name| storage_state(&ini.section(name))).map(ServersFile)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * 1400 + 40);
        for (i, storage) in self.0.iter().enumerate() {
            storage.write(i + 1, &mut text);
        }
        let _ = write!(text, "\n[Global]\n\tstorage_count={}\n", self.0.len());
        text
    }
}

fn storage_state(s: &Section<'_>) -> Result<StorageState, ConfigError> {
    let mut stat = StatBlock::default();
    for name in COUNTERS {
        if let Some(counter) = stat.counter_mut(name) {
            counter.total = optional_number(s, &format!("total_{name}"))?;
            counter.success = optional_number(s, &format!("success_{name}"))?;
        }
    }
    stat.last_source_update = optional_number(s, "last_source_update")?;
    stat.last_sync_update = optional_number(s, "last_sync_update")?;
    stat.last_synced_timestamp = optional_number(s, "last_synced_timestamp")?;
    stat.last_heart_beat_time = optional_number(s, "last_heart_beat_time")?;
    let status = |text: &str| StorageStatus::from_code(text.parse().ok()?);
    Ok(StorageState {
        id: optional_name(s, "id")?,
        group_name: required_name(s, "group_name")?,
        ip_addr: s.required("ip_addr", "the file is damaged")?.to_owned(),
        status: s.value("status", StorageStatus::Offline, "needs the code of a status", status)?,
        version: optional_name(s, "version")?,
        join_time: optional_number(s, "join_time")?,
        storage_port: optional_number(s, "storage_port")?,
        sync_src_server: optional_name(s, "sync_src_server")?,
        sync_until_timestamp: optional_number(s, "sync_until_timestamp")?,
        total_mb: optional_number(s, "total_mb")?,
        free_mb: optional_number(s, "free_mb")?,
        changelog_offset: optional_number(s, "changelog_offset")?,
        store_path_count: optional_number(s, "store_path_count")?,
        subdir_count_per_path: optional_number(s, "subdir_count_per_path")?,
        upload_priority: optional_number(s, "upload_priority")?,
        stat,
    })
}

impl StorageState {
    fn write(&self, number: usize, text: &mut String) {
        let Self { ip_addr, storage_port, .. } = self;
        let _ = write!(text, "# storage: {ip_addr}:{storage_port}\n[Storage{number:03}]\n");
        let mut put = |key: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "\t{key}={value}");
        };
        if !self.id.is_none() {
            put("id", &self.id);
        }
        put("group_name", &self.group_name);
        put("ip_addr", ip_addr);
        put("status", &self.status.code());
        put("version", &self.version);
        put("join_time", &self.join_time);
        put("storage_port", storage_port);
        put("sync_src_server", &self.sync_src_server);
        put("sync_until_timestamp", &self.sync_until_timestamp);
        put("total_mb", &self.total_mb);
        put("free_mb", &self.free_mb);
        put("changelog_offset", &self.changelog_offset);
        put("store_path_count", &self.store_path_count);
        put("subdir_count_per_path", &self.subdir_count_per_path);
        put("upload_priority", &self.upload_priority);
        for (name, counter) in self.stat.counters().filter(|(name, _)| COUNTERS.contains(name)) {
            put(&format!("total_{name}"), &counter.total);
            put(&format!("success_{name}"), &counter.success);
        }
        put("last_source_update", &self.stat.last_source_update);
        put("last_sync_update", &self.stat.last_sync_update);
        put("last_synced_timestamp", &self.stat.last_synced_timestamp);
        put("last_heart_beat_time", &self.stat.last_heart_beat_time);
        text.push('\n');
    }
}

/// A line of `storage_sync_timestamp.dat`: how far each member of the group has applied the
/// changes of this one. Members are in the order of the servers file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncTimestamps {
    /// The group.
    pub group: GroupName,
    /// The source.
    pub id: StorageId,
    /// One time for each member, unix seconds.
    pub times: Vec<i64>,
}

impl SyncTimestamps {
    /// Reads the file.
    pub fn parse_all(text: &str) -> Result<Vec<SyncTimestamps>, LineError> {
        text.lines().filter(|line| !line.trim().is_empty()).map(str::parse).collect()
    }
}

impl FromStr for SyncTimestamps {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        let parse = || {
            let mut columns = line.trim().split(',').map(str::trim);
            Some(SyncTimestamps {
                group: columns.next()?.parse().ok()?,
                id: columns.next()?.parse().ok()?,
                times: columns.map(str::parse).collect::<Result<_, _>>().ok()?,
            })
        };
        parse().ok_or_else(|| LineError::new("sync timestamps", line))
    }
}

impl fmt::Display for SyncTimestamps {
    /// The line without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.group, self.id)?;
        self.times.iter().try_for_each(|time| write!(f, ",{time}"))
    }
}

/// A line of `storage_changelog.dat`, and of the answer of STORAGE_CHANGELOG_REQ:
/// `<ts> <group> <id> <status> <new id>`. Without a new id the space before it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangelogLine {
    /// Unix seconds.
    pub timestamp: u32,
    /// The group.
    pub group: GroupName,
    /// The storage that changed.
    pub id: StorageId,
    /// Deleted, or its address changed.
    pub status: StorageStatus,
    /// Its id from then on, if the address changed.
    pub new_id: StorageId,
}

impl ChangelogLine {
    /// Reads many lines.
    pub fn parse_all(text: &str) -> Result<Vec<ChangelogLine>, LineError> {
        text.lines().map(str::parse).collect()
    }
}

impl FromStr for ChangelogLine {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        let parse = || {
            let columns: Vec<&str> = line.split(' ').take(6).collect();
            let [timestamp, group, id, status, new_id] = columns.as_slice() else { return None };
            Some(ChangelogLine {
                timestamp: timestamp.parse().ok()?,
                group: group.parse().ok()?,
                id: id.parse().ok()?,
                status: StorageStatus::from_code(status.parse().ok()?)?,
                new_id: new_id.parse().ok()?,
            })
        };
        parse().ok_or_else(|| LineError::new("changelog", line))
    }
}

impl fmt::Display for ChangelogLine {
    /// The line without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChangelogLine { timestamp, group, id, status, new_id } = self;
        write!(f, "{timestamp} {group} {id} {} {new_id}", status.code())
    }
}

/// `.tracker_status`: when the tracker ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackerRunFile {
    /// Its start, unix seconds.
    pub up_time: i64,
    /// The last time it wrote this file.
    pub last_check_time: i64,
}

impl TrackerRunFile {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let s = ini.global();
        Ok(TrackerRunFile {
            up_time: optional_number(&s, "up_time")?,
            last_check_time: optional_number(&s, "last_check_time")?,
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        format!("up_time={}\nlast_check_time={}\n", self.up_time, self.last_check_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn damaged_files_are_named() {
        let path = Path::new("storage_groups_new.dat");
        let error = GroupsFile::parse(path, b"[Global]\ngroup_count=2\n").unwrap_err().to_string();
        assert_eq!(error, "storage_groups_new.dat: group_name is missing; the file is damaged");
        assert!(GroupsFile::parse(path, b"").is_err());
        assert!(GroupsFile::parse(path, b"[Global]\ngroup_count=4000000000\n").is_err());
        let bad_name = b"[Global]\ngroup_count=1\n[Group001]\ngroup_name=a b\n";
        assert!(GroupsFile::parse(path, bad_name).unwrap_err().to_string().contains("a b"));
        let bad_port = b"[Global]\ngroup_count=1\n[Group001]\ngroup_name=a\nstorage_port=x\n";
        assert!(GroupsFile::parse(path, bad_port).unwrap_err().to_string().contains("number"));
        assert_eq!(GroupsFile::parse(path, b"[Global]\ngroup_count=0\n").unwrap().0, []);
        assert!(ServersFile::parse(path, b"[Global]\nstorage_count=1\n").is_err());
    }

    #[test]
    fn changelog_lines() {
        let line: ChangelogLine = "1795220938 group1 10.78.0.3 4 ".parse().unwrap();
        assert!(line.new_id.is_none());
        assert_eq!(line.to_string(), "1795220938 group1 10.78.0.3 4 ");
        let text = "1 g 10.0.0.1 3 10.0.0.2";
        assert_eq!(text.parse::<ChangelogLine>().unwrap().to_string(), text);
        for bad in ["", "1 g a 4", "1 g a 4 b c", "1 g a 8 b", "x g a 4 "] {
            assert!(bad.parse::<ChangelogLine>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text(text in "(\\PC|\n){0,60}") {
            let _ = SyncTimestamps::parse_all(&text);
            let _ = ChangelogLine::parse_all(&text);
            let _ = GroupsFile::parse(Path::new("x"), text.as_bytes());
            let _ = ServersFile::parse(Path::new("x"), text.as_bytes());
            let _ = TrackerRunFile::parse(Path::new("x"), text.as_bytes());
        }

        #[test]
        fn timestamps_survive(times in proptest::collection::vec(any::<i64>(), 0..5)) {
            let line = SyncTimestamps {
                group: "g".parse().unwrap(), id: "1".parse().unwrap(), times,
            };
            prop_assert_eq!(line.to_string().parse(), Ok(line));
        }
    }
}
