//! Counters of a storage, and the records of the list and monitoring commands.

use bytes::BufMut;

use crate::names::{GroupName, IpSize, IpText, StorageId, Text, Version, cut_at_nul};
use crate::wire::{Cursor, Encode, WireError};

/// State of a storage in its group; the numeric order means something to FastDFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum StorageStatus {
    /// Known, has not asked for a source of old data.
    #[default]
    Init = 0,
    /// Waits for its source to begin.
    WaitSync = 1,
    /// Gets old data.
    Syncing = 2,
    /// Left behind under an old address.
    IpChanged = 3,
    /// Removed by an administrator.
    Deleted = 4,
    /// Not serving.
    Offline = 5,
    /// Connected, first beat awaited.
    Online = 6,
    /// Serving.
    Active = 7,
    /// Rebuilding a disk.
    Recovery = 9,
    /// No status; used inside a storage only.
    None = 99,
}

impl StorageStatus {
    /// The code on the wire and in files.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The status with this code.
    pub fn from_code(code: u8) -> Option<StorageStatus> {
        use StorageStatus as S;
        [
            S::Init,
            S::WaitSync,
            S::Syncing,
            S::IpChanged,
            S::Deleted,
            S::Offline,
            S::Online,
            S::Active,
            S::Recovery,
            S::None,
        ]
        .into_iter()
        .find(|s| s.code() == code)
    }

    /// The name FastDFS users know.
    pub const fn name(self) -> &'static str {
        match self {
            StorageStatus::Init => "INIT",
            StorageStatus::WaitSync => "WAIT_SYNC",
            StorageStatus::Syncing => "SYNCING",
            StorageStatus::IpChanged => "IP_CHANGED",
            StorageStatus::Deleted => "DELETED",
            StorageStatus::Offline => "OFFLINE",
            StorageStatus::Online => "ONLINE",
            StorageStatus::Active => "ACTIVE",
            StorageStatus::Recovery => "RECOVERY",
            StorageStatus::None => "NONE",
        }
    }

    /// Whether the server is merely up or down: OFFLINE, ONLINE or ACTIVE.
    pub const fn is_available(self) -> bool {
        matches!(self, StorageStatus::Offline | StorageStatus::Online | StorageStatus::Active)
    }

    pub(crate) fn decode(code: u8) -> Result<StorageStatus, WireError> {
        let bad = WireError::Range { what: "storage status", value: code.into() };
        StorageStatus::from_code(code).ok_or(bad)
    }
}

impl std::fmt::Display for StorageStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What clients may do with a storage (`rw=` in the storage ids file).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RwMode {
    /// Only replication.
    None,
    /// Downloads.
    Read,
    /// Uploads and changes.
    Write,
    /// Everything.
    #[default]
    Both,
}

impl RwMode {
    /// The code on the wire: bit 4 read, bit 2 write.
    pub const fn code(self) -> u8 {
        match self {
            RwMode::None => 0,
            RwMode::Write => 2,
            RwMode::Read => 4,
            RwMode::Both => 6,
        }
    }

    /// Whether clients may read.
    pub const fn can_read(self) -> bool {
        matches!(self, RwMode::Read | RwMode::Both)
    }

    /// Whether clients may write.
    pub const fn can_write(self) -> bool {
        matches!(self, RwMode::Write | RwMode::Both)
    }

    fn decode(code: u8) -> Result<RwMode, WireError> {
        [RwMode::None, RwMode::Read, RwMode::Write, RwMode::Both]
            .into_iter()
            .find(|mode| mode.code() == code)
            .ok_or(WireError::Range { what: "rw mode", value: code.into() })
    }
}

/// How often something was tried and how often it succeeded; or bytes, likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Tries.
    pub total: u64,
    /// Successes.
    pub success: u64,
}

/// Network connections of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Connection slots allocated.
    pub alloc: u32,
    /// Connections now.
    pub current: u32,
    /// Most connections at one time.
    pub max: u32,
}

impl Connections {
    pub(crate) fn decode(c: &mut Cursor<'_>) -> Result<Self, WireError> {
        Ok(Connections { alloc: c.u32()?, current: c.u32()?, max: c.u32()? })
    }
}

impl Encode for Connections {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.alloc);
        out.put_u32(self.current);
        out.put_u32(self.max);
    }
}

macro_rules! stat_block {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// The counters of a storage: 348 bytes in its beats and in the list of storages.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct StatBlock {
            /// Network connections.
            pub connections: Connections,
            $($(#[$doc])* pub $name: Counter,)*
            /// When a client last changed something there, unix seconds.
            pub last_source_update: i64,
            /// When another storage last changed something there.
            pub last_sync_update: i64,
            /// Changes up to this time have arrived there; kept by the tracker.
            pub last_synced_timestamp: i64,
            /// When the tracker last heard from it; kept by the tracker.
            pub last_heart_beat_time: i64,
        }

        impl StatBlock {
            /// The counters with the names they have in files, in wire order.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, Counter)> + use<> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            /// The counter with this name.
            pub fn counter_mut(&mut self, name: &str) -> Option<&mut Counter> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }

            fn decode_from(c: &mut Cursor<'_>) -> Result<Self, WireError> {
                Ok(StatBlock {
                    connections: Connections::decode(c)?,
                    $($name: Counter { total: c.u64()?, success: c.u64()? },)*
                    last_source_update: c.i64()?,
                    last_sync_update: c.i64()?,
                    last_synced_timestamp: c.i64()?,
                    last_heart_beat_time: c.i64()?,
                })
            }
        }
    };
}

stat_block! {
    /// Uploads.
    upload_count;
    /// Appends.
    append_count;
    /// Modifications.
    modify_count;
    /// Truncations.
    truncate_count;
    /// Changes of metadata.
    set_meta_count;
    /// Removals.
    delete_count;
    /// Downloads.
    download_count;
    /// Reads of metadata.
    get_meta_count;
    /// Links made.
    create_link_count;
    /// Links removed.
    delete_link_count;
    /// Bytes uploaded.
    upload_bytes;
    /// Bytes appended.
    append_bytes;
    /// Bytes modified.
    modify_bytes;
    /// Bytes downloaded.
    download_bytes;
    /// Bytes that other storages sent.
    sync_in_bytes;
    /// Bytes sent to other storages.
    sync_out_bytes;
    /// Files opened.
    file_open_count;
    /// Reads of files.
    file_read_count;
    /// Writes of files.
    file_write_count;
}

impl StatBlock {
    /// Length in bytes.
    pub const LEN: usize = 12 + 42 * 8;

    /// Reads 348 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        StatBlock::decode_from(&mut Cursor::exact("stat block", body, Self::LEN)?)
    }
}

impl Encode for StatBlock {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.connections.encode(out);
        for (_, counter) in self.counters() {
            out.put_u64(counter.total);
            out.put_u64(counter.success);
        }
        out.put_i64(self.last_source_update);
        out.put_i64(self.last_sync_update);
        out.put_i64(self.last_synced_timestamp);
        out.put_i64(self.last_heart_beat_time);
    }
}

/// One group in LIST_ONE_GROUP and LIST_ALL_GROUPS: 113 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRecord {
    /// Its name.
    pub name: GroupName,
    /// Disk space in MiB of the storage with the least free space.
    pub total_mb: u64,
    /// Free space of that storage.
    pub free_mb: u64,
    /// Space that is kept free.
    pub reserved_mb: u64,
    /// Free space in trunk files.
    pub trunk_free_mb: u64,
    /// Number of storages.
    pub storage_count: u64,
    /// Port of the storages, -1 when they have different ones.
    pub storage_port: i64,
    /// Storages that serve reads.
    pub readable_count: u64,
    /// Storages that take writes.
    pub writable_count: u64,
    /// Index of the storage that takes the next upload.
    pub current_write_server: u64,
    /// Store paths of each storage.
    pub store_path_count: u64,
    /// Directories per level.
    pub subdir_count_per_path: u64,
    /// Highest trunk file id, -1 when trunk files are off.
    pub current_trunk_file_id: i64,
}

impl GroupRecord {
    /// Length in bytes.
    pub const LEN: usize = 17 + 12 * 8;

    /// Reads 113 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("group record", body, Self::LEN)?;
        Ok(GroupRecord {
            name: GroupName::decode(c.take(17)?)?,
            total_mb: c.size("total space")?,
            free_mb: c.size("free space")?,
            reserved_mb: c.size("reserved space")?,
            trunk_free_mb: c.size("trunk space")?,
            storage_count: c.size("storage count")?,
            storage_port: c.i64()?,
            readable_count: c.size("readable count")?,
            writable_count: c.size("writable count")?,
            current_write_server: c.size("current write server")?,
            store_path_count: c.size("store path count")?,
            subdir_count_per_path: c.size("subdir count")?,
            current_trunk_file_id: c.i64()?,
        })
    }
}

impl Encode for GroupRecord {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.name.encode17(out);
        out.put_u64(self.total_mb);
        out.put_u64(self.free_mb);
        out.put_u64(self.reserved_mb);
        out.put_u64(self.trunk_free_mb);
        out.put_u64(self.storage_count);
        out.put_i64(self.storage_port);
        out.put_u64(self.readable_count);
        out.put_u64(self.writable_count);
        out.put_u64(self.current_write_server);
        out.put_u64(self.store_path_count);
        out.put_u64(self.subdir_count_per_path);
        out.put_i64(self.current_trunk_file_id);
    }
}

/// One storage in LIST_STORAGE: 487 or 517 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageRecord {
    /// Its status.
    pub status: StorageStatus,
    /// What clients may do there.
    pub rw_mode: RwMode,
    /// Its id.
    pub id: StorageId,
    /// Its address.
    pub ip: IpText,
    /// The storage it got old data from, or none.
    pub source_id: StorageId,
    /// Its version.
    pub version: Version,
    /// When it first joined, unix seconds.
    pub join_time: i64,
    /// When its process started; 0 when it is offline.
    pub up_time: i64,
    /// Disk space in MiB.
    pub total_mb: u64,
    /// Free space in MiB.
    pub free_mb: u64,
    /// Space that is kept free, in MiB.
    pub reserved_mb: u64,
    /// The smaller, the earlier it is chosen.
    pub upload_priority: i64,
    /// Its store paths.
    pub store_path_count: u64,
    /// Directories per level.
    pub subdir_count_per_path: u64,
    /// The store path that takes the next upload.
    pub current_write_path: u64,
    /// Its port.
    pub port: u16,
    /// Its counters.
    pub stat: StatBlock,
    /// Whether it is the trunk server of the group.
    pub trunk_server: bool,
}

impl StorageRecord {
    /// Length in bytes.
    pub const fn len(size: IpSize) -> usize {
        2 + 16 + size.field() + 16 + 8 + 10 * 8 + StatBlock::LEN + 1
    }

    /// Reads a record.
    pub fn decode(body: &[u8], size: IpSize) -> Result<Self, WireError> {
        let mut c = Cursor::exact("storage record", body, Self::len(size))?;
        Ok(StorageRecord {
            status: StorageStatus::decode(c.u8()?)?,
            rw_mode: RwMode::decode(c.u8()?)?,
            id: StorageId::decode(c.take(16)?)?,
            ip: IpText::decode(c.take(size.field())?)?,
            source_id: StorageId::decode(c.take(16)?)?,
            version: Version::decode(c.take(8)?)?,
            join_time: c.i64()?,
            up_time: c.i64()?,
            total_mb: c.size("total space")?,
            free_mb: c.size("free space")?,
            reserved_mb: c.size("reserved space")?,
            upload_priority: c.i64()?,
            store_path_count: c.size("store path count")?,
            subdir_count_per_path: c.size("subdir count")?,
            current_write_path: c.size("current write path")?,
            port: c.port64()?,
            stat: StatBlock::decode_from(&mut c)?,
            trunk_server: c.flag()?,
        })
    }

    /// Writes a record.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        out.put_u8(self.status.code());
        out.put_u8(self.rw_mode.code());
        self.id.encode(out);
        self.ip.encode(size.field(), out);
        self.source_id.encode(out);
        self.version.encode(out);
        out.put_i64(self.join_time);
        out.put_i64(self.up_time);
        out.put_u64(self.total_mb);
        out.put_u64(self.free_mb);
        out.put_u64(self.reserved_mb);
        out.put_i64(self.upload_priority);
        out.put_u64(self.store_path_count);
        out.put_u64(self.subdir_count_per_path);
        out.put_u64(self.current_write_path);
        out.put_i64(self.port.into());
        self.stat.encode(out);
        out.put_u8(self.trunk_server.into());
    }
}

/// `ip:port`, an IPv6 address in brackets; may be empty.
pub type HostText = Text<52>;

fn host_text(field: &[u8]) -> Result<HostText, WireError> {
    Text::from_ascii(cut_at_nul(field)).map_err(|reason| WireError::Text { what: "host", reason })
}

/// One tracker in TRACKER_CLUSTER_STAT: 90 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackerHealth {
    /// Its address.
    pub host: HostText,
    /// Whether it is the leader.
    pub leader: bool,
    /// Whether it was heard from in the last seconds.
    pub active: bool,
    /// Its connections.
    pub connections: Connections,
    /// Its version.
    pub version: Version,
    /// When it started, unix seconds.
    pub up_time: i64,
    /// When the leader last heard from it; 0 for the leader.
    pub last_heart_beat: i64,
}

impl TrackerHealth {
    /// Length in bytes.
    pub const LEN: usize = 90;

    /// Reads 90 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("tracker stat", body, Self::LEN)?;
        Ok(TrackerHealth {
            host: host_text(c.take(52)?)?,
            leader: c.flag()?,
            active: c.flag()?,
            connections: Connections::decode(&mut c)?,
            version: Version::decode(c.take(8)?)?,
            up_time: c.i64()?,
            last_heart_beat: c.i64()?,
        })
    }
}

impl Encode for TrackerHealth {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.host.field());
        out.put_u8(self.leader.into());
        out.put_u8(self.active.into());
        self.connections.encode(out);
        self.version.encode(out);
        out.put_i64(self.up_time);
        out.put_i64(self.last_heart_beat);
    }
}

/// One storage in STORAGE_CLUSTER_STAT: 106 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageHealth {
    /// Its id.
    pub id: StorageId,
    /// Its address.
    pub host: HostText,
    /// Whether it is a trunk server.
    pub trunk_server: bool,
    /// Its status.
    pub status: StorageStatus,
    /// Its connections.
    pub connections: Connections,
    /// Its version.
    pub version: Version,
    /// When it started, unix seconds.
    pub up_time: i64,
    /// When the tracker last heard from it.
    pub last_heart_beat: i64,
}

impl StorageHealth {
    /// Length in bytes.
    pub const LEN: usize = 106;

    /// Reads 106 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("storage stat", body, Self::LEN)?;
        Ok(StorageHealth {
            id: StorageId::decode(c.take(16)?)?,
            host: host_text(c.take(52)?)?,
            trunk_server: c.flag()?,
            status: StorageStatus::decode(c.u8()?)?,
            connections: Connections::decode(&mut c)?,
            version: Version::decode(c.take(8)?)?,
            up_time: c.i64()?,
            last_heart_beat: c.i64()?,
        })
    }
}

impl Encode for StorageHealth {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.id.encode(out);
        out.put_slice(self.host.field());
        out.put_u8(self.trunk_server.into());
        out.put_u8(self.status.code());
        self.connections.encode(out);
        self.version.encode(out);
        out.put_i64(self.up_time);
        out.put_i64(self.last_heart_beat);
    }
}

/// One group in VOLUME_STAT: 59 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeStat {
    /// The group.
    pub group: GroupName,
    /// Disk space in MiB.
    pub total_mb: u64,
    /// Free space.
    pub free_mb: u64,
    /// Space that is kept free.
    pub reserved_mb: u64,
    /// Free space above the reserve; 0 if the disk is not available.
    pub avail_mb: u64,
    /// Free space in trunk files; 0 if those are not available.
    pub trunk_free_mb: u64,
    /// Whether files can be stored.
    pub disk_available: bool,
    /// Whether files can be stored in trunk files.
    pub trunk_available: bool,
}

impl VolumeStat {
    /// Length in bytes.
    pub const LEN: usize = 59;

    /// Reads 59 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("volume stat", body, Self::LEN)?;
        Ok(VolumeStat {
            group: GroupName::decode(c.take(17)?)?,
            total_mb: c.size("total space")?,
            free_mb: c.size("free space")?,
            reserved_mb: c.size("reserved space")?,
            avail_mb: c.size("available space")?,
            trunk_free_mb: c.size("trunk space")?,
            disk_available: c.flag()?,
            trunk_available: c.flag()?,
        })
    }
}

impl Encode for VolumeStat {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode17(out);
        out.put_u64(self.total_mb);
        out.put_u64(self.free_mb);
        out.put_u64(self.reserved_mb);
        out.put_u64(self.avail_mb);
        out.put_u64(self.trunk_free_mb);
        out.put_u8(self.disk_available.into());
        out.put_u8(self.trunk_available.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths() {
        assert_eq!(StatBlock::LEN, 348);
        assert_eq!(GroupRecord::LEN, 113);
        assert_eq!(StorageRecord::len(IpSize::V4), 487);
        assert_eq!(StorageRecord::len(IpSize::V6), 517);
    }

    #[test]
    fn statuses() {
        assert_eq!(StorageStatus::from_code(7), Some(StorageStatus::Active));
        assert_eq!(StorageStatus::from_code(8), None);
        assert_eq!(StorageStatus::Recovery.to_string(), "RECOVERY");
        assert!(StorageStatus::Online.is_available() && !StorageStatus::Init.is_available());
        assert!(StorageStatus::WaitSync < StorageStatus::Offline);
        for code in 0..=99 {
            if let Some(status) = StorageStatus::from_code(code) {
                assert_eq!(status.code(), code);
                assert!(!status.name().is_empty());
            }
        }
        assert!(RwMode::Read.can_read() && !RwMode::Read.can_write());
        assert!(RwMode::decode(1).is_err());
    }

    #[test]
    fn counters_by_name() {
        let mut stat = StatBlock::default();
        stat.counter_mut("file_write_count").unwrap().success = 3;
        assert_eq!(stat.file_write_count.success, 3);
        assert_eq!(stat.counters().count(), 19);
        assert!(stat.counter_mut("nothing").is_none());
        let mut out = Vec::new();
        stat.encode(&mut out);
        assert_eq!(&out[308..316], 3u64.to_be_bytes());
    }

    proptest! {
        #[test]
        fn records_survive(bytes in proptest::collection::vec(any::<u8>(), 517)) {
            // Text fields are set to what they may hold, the rest is arbitrary.
            let stat = StatBlock::decode(&bytes[..348]).unwrap();
            let mut out = Vec::new();
            stat.encode(&mut out);
            prop_assert_eq!(&out[..], &bytes[..348]);
            let mut record = bytes.clone();
            (record[0], record[1]) = (7, 6);
            record[2..90].fill(0);
            record[2] = b'1';
            for at in (104..168).step_by(8) {
                record[at] &= 0x7f;
            }
            record[160..166].fill(0);
            record[516] &= 1;
            let decoded = StorageRecord::decode(&record, IpSize::V6).unwrap();
            out.clear();
            decoded.encode(IpSize::V6, &mut out);
            prop_assert_eq!(out, record);
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..520)) {
            let _ = StatBlock::decode(&body);
            let _ = StorageRecord::decode(&body, IpSize::V4);
            for len in [GroupRecord::LEN, TrackerHealth::LEN, StorageHealth::LEN, VolumeStat::LEN] {
                let part = &body[..body.len().min(len)];
                let _ = GroupRecord::decode(part);
                let _ = TrackerHealth::decode(part);
                let _ = StorageHealth::decode(part);
                let _ = VolumeStat::decode(part);
            }
        }
    }
}
