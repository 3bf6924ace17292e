//! The records of the list commands.

use bytes::BufMut;

use super::counters::StatBlock;
use super::status::{RwMode, StorageStatus};
use crate::names::{GroupName, IpSize, IpText, StorageId, Version};
use crate::wire::{Cursor, Encode, WireError};

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
