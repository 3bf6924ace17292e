//! Positions in binlogs, and the state of a disk recovery.

use std::path::Path;

use super::{flag, ini, optional_number, required_number};
use crate::config::ConfigError;

/// `binlog_index.dat`: which binlog file is written, and up to which they are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BinlogIndex {
    /// Number of the file that is written.
    pub current_write: u32,
    /// Number of the first file that is not compressed.
    pub current_compress: u32,
}

impl BinlogIndex {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let s = ini.global();
        Ok(BinlogIndex {
            current_write: required_number(&s, "current_write")?,
            current_compress: optional_number(&s, "current_compress")?,
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let BinlogIndex { current_write, current_compress } = self;
        format!("current_write={current_write}\ncurrent_compress={current_compress}\n")
    }
}

/// A mark file: how far the push loop of one peer has read the binlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncMark {
    /// Number of the binlog file.
    pub binlog_index: u32,
    /// Offset in it, bytes.
    pub binlog_offset: u64,
    /// Old data is to be pushed to this peer.
    pub need_sync_old: bool,
    /// Old data has been pushed.
    pub sync_old_done: bool,
    /// Changes up to this time are old data, unix seconds.
    pub until_timestamp: i64,
    /// Records read.
    pub scan_row_count: u64,
    /// Records pushed.
    pub sync_row_count: u64,
}

impl SyncMark {
    /// Reads the file; all seven lines must be there.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let s = ini.global();
        let yes = |key| required_number::<i32>(&s, key).map(|n| n != 0);
        Ok(SyncMark {
            binlog_index: required_number(&s, "binlog_index")?,
            binlog_offset: required_number(&s, "binlog_offset")?,
            need_sync_old: yes("need_sync_old")?,
            sync_old_done: yes("sync_old_done")?,
            until_timestamp: required_number(&s, "until_timestamp")?,
            scan_row_count: required_number(&s, "scan_row_count")?,
            sync_row_count: required_number(&s, "sync_row_count")?,
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        format!(
            "binlog_index={}\nbinlog_offset={}\nneed_sync_old={}\nsync_old_done={}\n\
             until_timestamp={}\nscan_row_count={}\nsync_row_count={}\n",
            self.binlog_index,
            self.binlog_offset,
            flag(self.need_sync_old),
            flag(self.sync_old_done),
            self.until_timestamp,
            self.scan_row_count,
            self.sync_row_count,
        )
    }
}

/// A mark file that is one offset: of the trunk binlog, and of a disk recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BinlogOffset {
    /// The offset in bytes.
    pub binlog_offset: u64,
}

impl BinlogOffset {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        Ok(BinlogOffset { binlog_offset: required_number(&ini.global(), "binlog_offset")? })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        format!("binlog_offset={}\n", self.binlog_offset)
    }
}

/// `.recovery.flag`: a disk is being rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryFlag {
    /// Code of the status to return to.
    pub saved_storage_status: u8,
    /// The list of files has been fetched.
    pub fetch_binlog_done: bool,
    /// Into how many lists it is split; -1 before it is.
    pub recovery_threads: i32,
}

impl RecoveryFlag {
    /// Reads the file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        let ini = ini(path, text)?;
        let s = ini.global();
        Ok(RecoveryFlag {
            saved_storage_status: required_number(&s, "saved_storage_status")?,
            fetch_binlog_done: s.bool("fetch_binlog_done", false)?,
            recovery_threads: s.number("recovery_threads", -1, -1..=i32::MAX)?,
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        format!(
            "saved_storage_status={}\nfetch_binlog_done={}\nrecovery_threads={}\n",
            self.saved_storage_status,
            flag(self.fetch_binlog_done),
            self.recovery_threads,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn missing_and_negative_values_are_errors() {
        let path = Path::new("x.mark");
        let text = SyncMark::default().to_text();
        assert!(SyncMark::parse(path, text.as_bytes()).is_ok());
        let shorter = text.replace("sync_row_count=0\n", "");
        let error = SyncMark::parse(path, shorter.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "x.mark: sync_row_count is missing; the file is damaged");
        let negative = text.replace("binlog_offset=0", "binlog_offset=-1");
        let error = SyncMark::parse(path, negative.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "x.mark:2: binlog_offset = -1: needs a number");
        assert!(BinlogOffset::parse(path, b"").is_err());
        assert!(BinlogIndex::parse(path, b"current_write=1\n").is_ok());
    }

    proptest! {
        #[test]
        fn marks_survive(a: u32, b: u64, c: bool, d: bool, e: i64, f: u64, g: u64) {
            let path = Path::new("x");
            let mark = SyncMark {
                binlog_index: a,
                binlog_offset: b,
                need_sync_old: c,
                sync_old_done: d,
                until_timestamp: e,
                scan_row_count: f,
                sync_row_count: g,
            };
            prop_assert_eq!(SyncMark::parse(path, mark.to_text().as_bytes()).unwrap(), mark);
            let index = BinlogIndex { current_write: a, current_compress: a };
            prop_assert_eq!(BinlogIndex::parse(path, index.to_text().as_bytes()).unwrap(), index);
            let recovery = RecoveryFlag {
                saved_storage_status: a as u8, fetch_binlog_done: c, recovery_threads: -1,
            };
            let text = recovery.to_text();
            prop_assert_eq!(RecoveryFlag::parse(path, text.as_bytes()).unwrap(), recovery);
        }
    }
}
