//! The trunk settings of tracker.conf, which the tracker hands to the storages.

use std::time::Duration;

use fdfs_protocol::config::{ConfigError, Section};
use fdfs_protocol::peer::parameters::TrunkParameters;

/// Smallest trunk file, and largest smallest slot; other values are moved to these, as FastDFS does.
const MIN_FILE: u64 = 4 << 20;
const MAX_MIN_SLOT: u64 = 64 << 10;

/// Reads them, with the defaults and limits of a tracker.
pub fn read(s: &Section<'_>) -> Result<TrunkParameters, ConfigError> {
    let default = TrunkParameters::default();
    let file_size = s.size("trunk_file_size", default.file_size)?.max(MIN_FILE);
    let alloc_alignment_size = s.size("trunk_alloc_alignment_size", 0)?;
    let slot_min_size = s.size("slot_min_size", default.slot_min_size)?.min(MAX_MIN_SLOT).max(alloc_alignment_size);
    if let Some(entry) = s.entry("slot_min_size").filter(|_| slot_min_size == 0) {
        return Err(entry.error("needs a size above 0"));
    }
    let slot_max_size = s.size("slot_max_size", file_size / 8)?;
    if slot_max_size <= slot_min_size {
        let entry = s.entry("slot_max_size").or_else(|| s.entry("slot_min_size"));
        let why = format!("slot_max_size ({slot_max_size}) must be above slot_min_size ({slot_min_size})");
        return Err(entry.map_or_else(|| s.missing("slot_max_size", &why), |e| e.error(&why)));
    }
    Ok(TrunkParameters {
        use_trunk_file: s.bool("use_trunk_file", false)?,
        slot_min_size,
        slot_max_size: slot_max_size.min(file_size / 2),
        alloc_alignment_size,
        file_size,
        create_file_advance: s.bool("trunk_create_file_advance", false)?,
        create_file_time_base: s.parsed("trunk_create_file_time_base", default.create_file_time_base)?,
        create_file_interval: s.duration("trunk_create_file_interval", default.create_file_interval)?,
        create_file_space_threshold: s.size("trunk_create_file_space_threshold", 0)?,
        init_check_occupying: s.bool("trunk_init_check_occupying", false)?,
        init_reload_from_binlog: s.bool("trunk_init_reload_from_binlog", false)?,
        free_space_merge: s.bool("trunk_free_space_merge", false)?,
        delete_unused_files: s.bool("delete_unused_trunk_files", false)?,
        compress_binlog_min_interval: s.duration("trunk_compress_binlog_min_interval", Duration::ZERO)?,
        compress_binlog_interval: s.duration("trunk_compress_binlog_interval", Duration::ZERO)?,
        compress_binlog_time_base: s.parsed("trunk_compress_binlog_time_base", default.compress_binlog_time_base)?,
        binlog_max_backups: s.number("trunk_binlog_max_backups", 0, 0..=u32::MAX)?,
    })
}
