//! The records of the cluster-wide monitoring commands.

use bytes::BufMut;

use super::counters::Connections;
use super::status::StorageStatus;
use crate::names::{GroupName, StorageId, Text, Version, cut_at_nul};
use crate::wire::{Cursor, Encode, WireError};

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
