//! STORAGE_PARAMETER_REQ: the settings a tracker hands to storages and clients.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::BufMut;

use crate::config::{ConfigError, Ini, ReservedSpace, Section, TimeOfDay};
use crate::names::IpSize;
use crate::wire::Encode;

/// Which form of source new file names carry (`id_type_in_filename`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IdType {
    /// The IPv4 address of the storage.
    #[default]
    Ip,
    /// Its numeric id.
    Id,
}

/// The answer, in the order in which FastDFS writes it. Defaults are those of a tracker.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Storages are known by configured ids.
    pub use_storage_id: bool,
    /// What new file names carry.
    pub id_type_in_filename: IdType,
    /// A storage may say its own id.
    pub trust_storage_server_id: bool,
    /// Width of address fields in answers.
    pub response_ip_addr_size: IpSize,
    /// A storage whose address changed may keep its identity.
    pub storage_ip_changed_auto_adjust: bool,
    /// After this time a file is taken to be on every storage.
    pub storage_sync_file_max_delay: Duration,
    /// 0: store paths in turn; 2: the one with the most free space.
    pub store_path: u8,
    /// Space that uploads must leave free.
    pub reserved_storage_space: ReservedSpace,
    /// Settings of trunk files.
    pub trunk: TrunkParameters,
    /// A slave file is a link to a file with a name of its own.
    pub store_slave_file_use_link: bool,
}

/// The settings of trunk files. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkParameters {
    /// Whether small files go into trunk files.
    pub use_trunk_file: bool,
    /// Smallest slot.
    pub slot_min_size: u64,
    /// Largest slot.
    pub slot_max_size: u64,
    /// Slots are rounded up to a multiple of this; 0 does not round.
    pub alloc_alignment_size: u64,
    /// Size of a trunk file.
    pub file_size: u64,
    /// Make trunk files before they are needed.
    pub create_file_advance: bool,
    /// When to begin to.
    pub create_file_time_base: TimeOfDay,
    /// How often.
    pub create_file_interval: Duration,
    /// Until so much space is free.
    pub create_file_space_threshold: u64,
    /// While loading, skip slots that are in use.
    pub init_check_occupying: bool,
    /// Load from the binlog rather than the snapshot.
    pub init_reload_from_binlog: bool,
    /// Merge neighbouring free slots.
    pub free_space_merge: bool,
    /// Delete trunk files that are wholly free.
    pub delete_unused_files: bool,
    /// Compress the trunk binlog at most so often while loading; zero never.
    pub compress_binlog_min_interval: Duration,
    /// Compress it so often; zero never.
    pub compress_binlog_interval: Duration,
    /// When to begin to.
    pub compress_binlog_time_base: TimeOfDay,
    /// How many old binlogs to keep.
    pub binlog_max_backups: u32,
}

impl Default for TrunkParameters {
    fn default() -> Self {
        TrunkParameters {
            use_trunk_file: false,
            slot_min_size: 256,
            slot_max_size: 8 << 20,
            alloc_alignment_size: 0,
            file_size: 64 << 20,
            create_file_advance: false,
            create_file_time_base: TimeOfDay { hour: 2, minute: 0 },
            create_file_interval: Duration::from_secs(86400),
            create_file_space_threshold: 0,
            init_check_occupying: false,
            init_reload_from_binlog: false,
            free_space_merge: false,
            delete_unused_files: false,
            compress_binlog_min_interval: Duration::ZERO,
            compress_binlog_interval: Duration::ZERO,
            compress_binlog_time_base: TimeOfDay { hour: 3, minute: 0 },
            binlog_max_backups: 0,
        }
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            use_storage_id: false,
            id_type_in_filename: IdType::Ip,
            trust_storage_server_id: true,
            response_ip_addr_size: IpSize::V4,
            storage_ip_changed_auto_adjust: true,
            storage_sync_file_max_delay: Duration::from_secs(86400),
            store_path: 0,
            reserved_storage_space: ReservedSpace::default(),
            trunk: TrunkParameters::default(),
            store_slave_file_use_link: false,
        }
    }
}

impl Parameters {
    /// Reads the answer. Keys that are missing get the values that a storage gives them, which
    /// are not those of [`Parameters::default`]; keys that are not known are passed over.
    pub fn decode(body: &[u8]) -> Result<Self, ConfigError> {
        let ini = Ini::parse_text(Path::new("parameters from the tracker"), body)?;
        let s = ini.global();
        let use_storage_id = s.bool("use_storage_id", false)?;
        let id_type = |text: &str| match text {
            "id" => Some(IdType::Id),
            "ip" => Some(IdType::Ip),
            _ => None,
        };
        let ip_size = |text: &str| match text {
            "16" => Some(IpSize::V4),
            "46" => Some(IpSize::V6),
            _ => None,
        };
        Ok(Parameters {
            use_storage_id,
            id_type_in_filename: s.value("id_type_in_filename", IdType::Ip, "needs ip or id", id_type)?,
            trust_storage_server_id: s.bool("trust_storage_server_id", false)?,
            response_ip_addr_size: s.value("response_ip_addr_size", IpSize::V6, "needs 16 or 46", ip_size)?,
            storage_ip_changed_auto_adjust: s.bool("storage_ip_changed_auto_adjust", false)?,
            storage_sync_file_max_delay: s.duration("storage_sync_file_max_delay", Duration::from_secs(86400))?,
            store_path: s.number("store_path", 0, 0..=255)?,
            reserved_storage_space: s.parsed("reserved_storage_space", ReservedSpace::default())?,
            trunk: TrunkParameters::read(&s)?,
            store_slave_file_use_link: s.bool("store_slave_file_use_link", false)?,
        })
    }

    /// The answer as text.
    pub fn to_text(&self) -> String {
        let mut out = String::with_capacity(768);
        let mut put = |key: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{key}={value}");
        };
        let id_type = match (self.use_storage_id, self.id_type_in_filename) {
            (true, IdType::Id) => "id",
            _ => "ip",
        };
        let t = &self.trunk;
        put("use_storage_id", &u8::from(self.use_storage_id));
        put("id_type_in_filename", &id_type);
        put("trust_storage_server_id", &u8::from(self.trust_storage_server_id));
        put("response_ip_addr_size", &self.response_ip_addr_size.field());
        put("storage_ip_changed_auto_adjust", &u8::from(self.storage_ip_changed_auto_adjust));
        put("storage_sync_file_max_delay", &self.storage_sync_file_max_delay.as_secs());
        put("store_path", &self.store_path);
        put("reserved_storage_space", &self.reserved_storage_space);
        put("use_trunk_file", &u8::from(t.use_trunk_file));
        put("slot_min_size", &t.slot_min_size);
        put("slot_max_size", &t.slot_max_size);
        put("trunk_alloc_alignment_size", &t.alloc_alignment_size);
        put("trunk_file_size", &t.file_size);
        put("trunk_create_file_advance", &u8::from(t.create_file_advance));
        put("trunk_create_file_time_base", &t.create_file_time_base);
        put("trunk_create_file_interval", &t.create_file_interval.as_secs());
        put("trunk_create_file_space_threshold", &t.create_file_space_threshold);
        put("trunk_init_check_occupying", &u8::from(t.init_check_occupying));
        put("trunk_init_reload_from_binlog", &u8::from(t.init_reload_from_binlog));
        put("trunk_free_space_merge", &u8::from(t.free_space_merge));
        put("delete_unused_trunk_files", &u8::from(t.delete_unused_files));
        put("trunk_compress_binlog_min_interval", &t.compress_binlog_min_interval.as_secs());
        put("trunk_compress_binlog_interval", &t.compress_binlog_interval.as_secs());
        put("trunk_compress_binlog_time_base", &t.compress_binlog_time_base);
        put("trunk_binlog_max_backups", &t.binlog_max_backups);
        put("store_slave_file_use_link", &u8::from(self.store_slave_file_use_link));
        out
    }
}

impl TrunkParameters {
    fn read(s: &Section<'_>) -> Result<Self, ConfigError> {
        let default = TrunkParameters::default();
        let file_size = s.size("trunk_file_size", default.file_size)?;
        Ok(TrunkParameters {
            use_trunk_file: s.bool("use_trunk_file", false)?,
            slot_min_size: s.size("slot_min_size", default.slot_min_size)?,
            slot_max_size: s.size("slot_max_size", file_size / 4)?,
            alloc_alignment_size: s.size("trunk_alloc_alignment_size", 0)?,
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
            compress_binlog_time_base: s
                .parsed("trunk_compress_binlog_time_base", default.compress_binlog_time_base)?,
            binlog_max_backups: s.number("trunk_binlog_max_backups", 0, 0..=u32::MAX)?,
        })
    }
}

impl Encode for Parameters {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.to_text().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn missing_keys() {
        let read = Parameters::decode(b"trunk_file_size=8388608\nfuture_key=1\n").unwrap();
        assert_eq!(read.response_ip_addr_size, IpSize::V6);
        assert!(!read.trust_storage_server_id && !read.storage_ip_changed_auto_adjust);
        assert_eq!(read.trunk.slot_max_size, 2 << 20);
    }

    #[test]
    fn bad_values_are_named() {
        let error = Parameters::decode(b"response_ip_addr_size=17\n").unwrap_err().to_string();
        assert!(error.contains("response_ip_addr_size = 17: needs 16 or 46"), "{error}");
        assert!(Parameters::decode(b"id_type_in_filename=x\n").is_err());
    }

    proptest! {
        #[test]
        fn survive(ids: bool, id: bool, v6: bool, delay: u32, slot in 0u64..1 << 40, ratio: bool) {
            let parameters = Parameters {
                use_storage_id: ids,
                id_type_in_filename: if ids && id { IdType::Id } else { IdType::Ip },
                response_ip_addr_size: if v6 { IpSize::V6 } else { IpSize::V4 },
                storage_sync_file_max_delay: Duration::from_secs(delay.into()),
                reserved_storage_space: if ratio {
                    ReservedSpace::Ratio(0.25)
                } else {
                    ReservedSpace::Megabytes(slot >> 20)
                },
                trunk: TrunkParameters { slot_max_size: slot, ..Default::default() },
                ..Default::default()
            };
            let mut out = Vec::new();
            parameters.encode(&mut out);
            // The buffer FastDFS clients read it into.
            prop_assert!(out.len() < 1024);
            prop_assert_eq!(Parameters::decode(&out).unwrap(), parameters);
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Parameters::decode(&body);
        }
    }
}
