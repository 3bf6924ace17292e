//! The state of the whole cluster: trackers, storages, space.

use bytes::BufMut;

use crate::stat::{StorageHealth, TrackerHealth, VolumeStat};
use crate::wire::{Cursor, Encode, WireError, records};

/// Answer of TRACKER_GET_STATUS, 17 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackerStatus {
    /// Whether the tracker that answers is the leader.
    pub leader: bool,
    /// Seconds since its start, in steps of 300.
    pub running_time: u64,
    /// Seconds it was down before, in steps of 300; 0 if unknown.
    pub restart_interval: u64,
}

impl TrackerStatus {
    /// Trackers give their times in steps of this many seconds.
    pub const TIME_STEP: u64 = 300;

    /// Reads 17 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("tracker status", body, 17)?;
        Ok(TrackerStatus {
            leader: c.flag()?,
            running_time: c.size("running time")?,
            restart_interval: c.size("restart interval")?,
        })
    }
}

impl Encode for TrackerStatus {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.leader.into());
        out.put_u64(self.running_time);
        out.put_u64(self.restart_interval);
    }
}

/// Request of TRACKER_CLUSTER_STAT. `None` does not filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackerClusterFilter {
    /// Only trackers that are, or are not, active.
    pub active: Option<bool>,
    /// Only trackers that are, or are not, the leader.
    pub leader: Option<bool>,
}

impl TrackerClusterFilter {
    /// Reads 3 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("tracker filter", body, 3)?;
        let by = c.u8()?;
        let (active, leader) = (c.flag()?, c.flag()?);
        Ok(TrackerClusterFilter { active: (by & 1 != 0).then_some(active), leader: (by & 2 != 0).then_some(leader) })
    }

    /// Whether a tracker is wanted.
    pub fn matches(&self, tracker: &TrackerHealth) -> bool {
        self.active.is_none_or(|wanted| tracker.active == wanted)
            && self.leader.is_none_or(|wanted| tracker.leader == wanted)
    }
}

impl Encode for TrackerClusterFilter {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(u8::from(self.active.is_some()) | u8::from(self.leader.is_some()) << 1);
        out.put_u8(self.active.unwrap_or_default().into());
        out.put_u8(self.leader.unwrap_or_default().into());
    }
}

/// Answer of TRACKER_CLUSTER_STAT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrackerClusterStat(
    /// The trackers, 255 at most.
    pub Vec<TrackerHealth>,
);

impl TrackerClusterStat {
    /// Reads the count and the records.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("tracker list", body);
        let count = usize::from(c.u8()?);
        if c.left() != count * TrackerHealth::LEN {
            return Err(c.bad_length());
        }
        records("tracker list", c.rest(), TrackerHealth::LEN)?
            .map(TrackerHealth::decode)
            .collect::<Result<_, _>>()
            .map(TrackerClusterStat)
    }
}

impl Encode for TrackerClusterStat {
    fn encode<B: BufMut>(&self, out: &mut B) {
        let shown = &self.0[..self.0.len().min(255)];
        out.put_u8(shown.len() as u8);
        for record in shown {
            record.encode(out);
        }
    }
}

/// Request of STORAGE_CLUSTER_STAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StorageClusterFilter {
    /// Only storages that are, or are not, trunk servers; to be ignored without trunk files.
    pub trunk_server: Option<bool>,
    /// Only storages with, or without, a status: the operator (`=` or `!`; any other matches
    /// nothing) and the status code.
    pub status: Option<(u8, u8)>,
}

impl StorageClusterFilter {
    /// Reads 4 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("storage filter", body, 4)?;
        let by = c.u8()?;
        let (operator, status, trunk_server) = (c.u8()?, c.u8()?, c.flag()?);
        Ok(StorageClusterFilter {
            trunk_server: (by & 1 != 0).then_some(trunk_server),
            status: (by & 2 != 0).then_some((operator, status)),
        })
    }

    /// Whether a storage is wanted.
    pub fn matches(&self, storage: &StorageHealth, use_trunk: bool) -> bool {
        let status = match self.status {
            None => true,
            Some((b'=', code)) => storage.status.code() == code,
            Some((b'!', code)) => storage.status.code() != code,
            Some(_) => false,
        };
        let trunk = self.trunk_server.is_none_or(|wanted| storage.trunk_server == wanted);
        status && (trunk || !use_trunk)
    }
}

impl Encode for StorageClusterFilter {
    fn encode<B: BufMut>(&self, out: &mut B) {
        let (operator, status) = self.status.unwrap_or_default();
        out.put_u8(u8::from(self.trunk_server.is_some()) | u8::from(self.status.is_some()) << 1);
        out.put_u8(operator);
        out.put_u8(status);
        out.put_u8(self.trunk_server.unwrap_or_default().into());
    }
}

/// Answer of STORAGE_CLUSTER_STAT: all groups, sorted by group and id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageClusterStat {
    /// Whether storage ids are on.
    pub use_storage_id: bool,
    /// Whether trunk files are on.
    pub use_trunk: bool,
    /// The storages.
    pub storages: Vec<StorageHealth>,
}

impl StorageClusterStat {
    /// Reads the head and the records.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("storage stat list", body);
        let (use_storage_id, use_trunk) = (c.flag()?, c.flag()?);
        let storages = counted(&mut c, StorageHealth::LEN, StorageHealth::decode)?;
        Ok(StorageClusterStat { use_storage_id, use_trunk, storages })
    }
}

impl Encode for StorageClusterStat {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.use_storage_id.into());
        out.put_u8(self.use_trunk.into());
        out.put_u32(self.storages.len() as u32);
        for record in &self.storages {
            record.encode(out);
        }
    }
}

/// Request of VOLUME_STAT. `None` does not filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeFilter {
    /// Only groups with, or without, free disk space.
    pub disk: Option<bool>,
    /// Only groups with, or without, free trunk space.
    pub trunk: Option<bool>,
    /// Only groups with, or without, either.
    pub space: Option<bool>,
}

impl VolumeFilter {
    /// Reads 4 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("volume filter", body, 4)?;
        let by = c.u8()?;
        let (disk, trunk, space) = (c.flag()?, c.flag()?, c.flag()?);
        Ok(VolumeFilter {
            disk: (by & 1 != 0).then_some(disk),
            trunk: (by & 2 != 0).then_some(trunk),
            space: (by & 4 != 0).then_some(space),
        })
    }

    /// Whether a group is wanted.
    pub fn matches(&self, group: &VolumeStat) -> bool {
        let either = group.disk_available || group.trunk_available;
        self.disk.is_none_or(|wanted| group.disk_available == wanted)
            && self.trunk.is_none_or(|wanted| group.trunk_available == wanted)
            && self.space.is_none_or(|wanted| either == wanted)
    }
}

impl Encode for VolumeFilter {
    fn encode<B: BufMut>(&self, out: &mut B) {
        let by = [self.disk, self.trunk, self.space]
            .iter()
            .enumerate()
            .fold(0, |by, (i, wanted)| by | u8::from(wanted.is_some()) << i);
        out.put_u8(by);
        out.put_u8(self.disk.unwrap_or_default().into());
        out.put_u8(self.trunk.unwrap_or_default().into());
        out.put_u8(self.space.unwrap_or_default().into());
    }
}

/// Answer of VOLUME_STAT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeStatReport {
    /// Whether trunk files are on.
    pub use_trunk: bool,
    /// The groups.
    pub groups: Vec<VolumeStat>,
}

impl VolumeStatReport {
    /// Reads the head and the records.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("volume list", body);
        let use_trunk = c.flag()?;
        let groups = counted(&mut c, VolumeStat::LEN, VolumeStat::decode)?;
        Ok(VolumeStatReport { use_trunk, groups })
    }
}

impl Encode for VolumeStatReport {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.use_trunk.into());
        out.put_u32(self.groups.len() as u32);
        for record in &self.groups {
            record.encode(out);
        }
    }
}

/// A count and exactly so many records to the end.
fn counted<T>(
    c: &mut Cursor<'_>,
    size: usize,
    decode: impl Fn(&[u8]) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = c.count("record count")? as usize;
    if !c.left().is_multiple_of(size) || c.left() / size != count {
        return Err(c.bad_length());
    }
    c.rest().chunks_exact(size).map(decode).collect()
}
