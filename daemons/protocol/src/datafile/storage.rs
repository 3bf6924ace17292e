//! What a storage keeps about itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use base64::Engine;

use super::{flag, ini, optional_name, optional_number};
use crate::config::ConfigError;
use crate::file_id::BASE64;
use crate::names::{IpText, StorageId, cut_at_nul};
use crate::stat::StatBlock;

/// `.data_init_flag`: what a storage knows about its place in the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitFlag {
    /// When this data directory first joined, unix seconds.
    pub storage_join_time: i64,
    /// The question who pushes old data here is settled.
    pub sync_old_done: bool,
    /// Who does, or none.
    pub sync_src_server: StorageId,
    /// Changes up to this time are old data, unix seconds.
    pub sync_until_timestamp: i64,
    /// The addresses at the last start, comma separated.
    pub last_ip_addr: String,
    /// The port at the last start.
    pub last_server_port: u16,
    /// Highest number of a trunk file.
    pub current_trunk_file_id: u32,
    /// When the trunk binlog was last compressed, unix seconds.
    pub trunk_last_compress_time: i64,
    /// How far a compression of it got; 0 is never.
    pub trunk_binlog_compress_stage: u8,
    /// By index of the store path, the mark its disk must carry.
    pub store_path_marks: BTreeMap<u8, String>,
}

impl InitFlag {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let s = ini.global();
        let mut store_path_marks = BTreeMap::new();
        for entry in ini.entries() {
            if let Some(index) = entry.key.strip_prefix("store_path_mark") {
                let index = index.parse().map_err(|_| entry.error("has a bad path number"))?;
                if !entry.value.is_empty() {
                    store_path_marks.insert(index, entry.value.clone());
                }
            }
        }
        Ok(InitFlag {
            storage_join_time: optional_number(&s, "storage_join_time")?,
            sync_old_done: s.bool("sync_old_done", false)?,
            sync_src_server: optional_name(&s, "sync_src_server")?,
            sync_until_timestamp: optional_number(&s, "sync_until_timestamp")?,
            last_ip_addr: s.str("last_ip_addr").unwrap_or_default().to_owned(),
            last_server_port: optional_number(&s, "last_server_port")?,
            current_trunk_file_id: optional_number(&s, "current_trunk_file_id")?,
            trunk_last_compress_time: optional_number(&s, "trunk_last_compress_time")?,
            trunk_binlog_compress_stage: optional_number(&s, "trunk_binlog_compress_stage")?,
            store_path_marks,
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "storage_join_time={}\nsync_old_done={}\nsync_src_server={}\n\
             sync_until_timestamp={}\nlast_ip_addr={}\nlast_server_port={}\n\
             current_trunk_file_id={}\ntrunk_last_compress_time={}\n\
             trunk_binlog_compress_stage={}\n",
            self.storage_join_time,
            flag(self.sync_old_done),
            self.sync_src_server,
            self.sync_until_timestamp,
            self.last_ip_addr,
            self.last_server_port,
            self.current_trunk_file_id,
            self.trunk_last_compress_time,
            self.trunk_binlog_compress_stage,
        );
        for (index, mark) in &self.store_path_marks {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "store_path_mark{index}={mark}");
        }
        text
    }
}

/// What a store path's mark says: by whom and when the path was taken into use. It guards against
/// disks that were mixed up; only equality matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMark {
    /// The storage.
    pub ip: IpText,
    /// Its port.
    pub port: u16,
    /// Index of the store path.
    pub store_path: u8,
    /// Unix seconds.
    pub created: u32,
}

impl PathMark {
    const LEN: usize = 56;

    /// Reads the text of a mark. In contrast to everything on the wire, numbers are in the byte
    /// order of the machine that wrote them: little-endian here.
    pub fn decode(text: &str) -> Option<PathMark> {
        let mut buffer = [0; Self::LEN + 4];
        if BASE64.decode_slice(text, &mut buffer).ok()? != Self::LEN {
            return None;
        }
        let ip = IpText::new(std::str::from_utf8(cut_at_nul(&buffer[..46])).ok()?).ok()?;
        Some(PathMark {
            ip,
            port: u16::from_le_bytes([buffer[46], buffer[47]]),
            store_path: buffer[48],
            created: u32::from_le_bytes([buffer[52], buffer[53], buffer[54], buffer[55]]),
        })
    }

    /// The text of the mark.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(Self::LEN);
        self.ip.encode(46, &mut bytes);
        bytes.extend(self.port.to_le_bytes());
        bytes.extend([self.store_path, 0, 0, 0]);
        bytes.extend(self.created.to_le_bytes());
        BASE64.encode(bytes)
    }
}

/// `.fastdfs_vars` of a store path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathMarkFile {
    /// The text of its mark, empty for none.
    pub store_path_mark: String,
}

impl PathMarkFile {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let mark = ini.global().str("store_path_mark").unwrap_or_default();
        Ok(PathMarkFile { store_path_mark: mark.to_owned() })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        format!("store_path_mark={}\n", self.store_path_mark)
    }
}

/// `storage_stat.dat`: the counters, and where the next file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StorageStatFile {
    /// The counters; connections and the tracker's own times are not kept.
    pub stat: StatBlock,
    /// First directory of the next file.
    pub dist_path_index_high: u32,
    /// Second directory.
    pub dist_path_index_low: u32,
    /// How many files that directory got.
    pub dist_write_file_count: u32,
}

/// The counters in the order of the file, which is not that of the wire. The two times stand
/// after the first group.
const FIRST_COUNTERS: [&str; 5] = ["upload_count", "append_count", "modify_count", "truncate_count", "download_count"];
const OTHER_COUNTERS: [&str; 14] = [
    "set_meta_count",
    "delete_count",
    "get_meta_count",
    "create_link_count",
    "delete_link_count",
    "upload_bytes",
    "append_bytes",
    "modify_bytes",
    "download_bytes",
    "sync_in_bytes",
    "sync_out_bytes",
    "file_open_count",
    "file_read_count",
    "file_write_count",
];

impl StorageStatFile {
    /// Reads the file; counters that are missing are zero.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let s = ini.global();
        let mut stat = StatBlock::default();
        for name in FIRST_COUNTERS.iter().chain(&OTHER_COUNTERS) {
            if let Some(counter) = stat.counter_mut(name) {
                counter.total = optional_number(&s, &format!("total_{name}"))?;
                counter.success = optional_number(&s, &format!("success_{name}"))?;
            }
        }
        stat.last_source_update = optional_number(&s, "last_source_update")?;
        stat.last_sync_update = optional_number(&s, "last_sync_update")?;
        Ok(StorageStatFile {
            stat,
            dist_path_index_high: optional_number(&s, "dist_path_index_high")?,
            dist_path_index_low: optional_number(&s, "dist_path_index_low")?,
            dist_write_file_count: optional_number(&s, "dist_write_file_count")?,
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(1400);
        let mut stat = self.stat;
        let mut put = |names: &[&str], text: &mut String| {
            for name in names {
                if let Some(counter) = stat.counter_mut(name) {
                    let _ = writeln!(text, "total_{name}={}", counter.total);
                    let _ = writeln!(text, "success_{name}={}", counter.success);
                }
            }
        };
        put(&FIRST_COUNTERS, &mut text);
        let _ = writeln!(text, "last_source_update={}", self.stat.last_source_update);
        let _ = writeln!(text, "last_sync_update={}", self.stat.last_sync_update);
        put(&OTHER_COUNTERS, &mut text);
        let _ = writeln!(text, "dist_path_index_high={}", self.dist_path_index_high);
        let _ = writeln!(text, "dist_path_index_low={}", self.dist_path_index_low);
        let _ = writeln!(text, "dist_write_file_count={}", self.dist_write_file_count);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::Counter;
    use proptest::prelude::*;

    #[test]
    fn every_counter_is_in_the_file() {
        let names: Vec<&str> = StatBlock::default().counters().map(|(name, _)| name).collect();
        for name in &names {
            let there = FIRST_COUNTERS.contains(name) || OTHER_COUNTERS.contains(name);
            assert!(there, "{name}");
        }
        assert_eq!(names.len(), FIRST_COUNTERS.len() + OTHER_COUNTERS.len());
        let stat =
            StatBlock { file_write_count: Counter { total: 9, success: 8 }, last_sync_update: 5, ..Default::default() };
        let file = StorageStatFile { stat, dist_write_file_count: 3, ..Default::default() };
        let read = StorageStatFile::parse(Path::new("x"), file.to_text().as_bytes()).unwrap();
        assert_eq!(read, file);
    }

    #[test]
    fn bad_init_flags() {
        let parse = |text: &str| InitFlag::parse(Path::new("f"), text.as_bytes());
        assert_eq!(parse("").unwrap(), InitFlag::default());
        assert!(parse("store_path_markX=abc\n").is_err());
        assert!(parse("store_path_mark300=abc\n").is_err());
        assert!(parse("store_path_mark1=\n").unwrap().store_path_marks.is_empty());
        assert!(parse("last_server_port=99999\n").is_err());
        assert!(parse("sync_src_server=a b\n").is_err());
    }

    proptest! {
        #[test]
        fn marks_survive(ip: std::net::IpAddr, port: u16, store_path: u8, created: u32) {
            let mark = PathMark { ip: ip.into(), port, store_path, created };
            prop_assert_eq!(mark.encode().len(), 75);
            prop_assert_eq!(PathMark::decode(&mark.encode()), Some(mark));
        }

        #[test]
        fn any_text(text in "\\PC{0,90}") {
            let _ = PathMark::decode(&text);
            let _ = InitFlag::parse(Path::new("f"), text.as_bytes());
            let _ = StorageStatFile::parse(Path::new("f"), text.as_bytes());
        }
    }
}
