//! Monitoring and administration.

use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;

use crate::names::{GroupName, IpSize, StorageId, TextError, cut_at_nul};
use crate::stat::{StorageHealth, StorageRecord, TrackerHealth, VolumeStat};
use crate::wire::{Cursor, Encode, WireError, records, utf8};

/// Request of LIST_STORAGE and SET_TRUNK_SERVER: a group and perhaps one storage of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageQuery {
    /// The group.
    pub group: GroupName,
    /// The storage, or [`StorageId::NONE`].
    pub id: StorageId,
}

impl StorageQuery {
    /// Reads a group and 0 to 15 bytes of id.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (group, id) = group_and_id(body)?;
        Ok(StorageQuery { group: GroupName::decode_known(group)?, id: StorageId::decode(id)? })
    }
}

impl Encode for StorageQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_slice(self.id.as_bytes());
    }
}

/// Request of DELETE_STORAGE: the id is mandatory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteStorage {
    /// The group.
    pub group: GroupName,
    /// The storage.
    pub id: StorageId,
}

impl DeleteStorage {
    /// Reads a group and 1 to 15 bytes of id.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (group, id) = group_and_id(body)?;
        let id = StorageId::decode(id)?;
        if id.is_none() {
            return Err(WireError::Length { what: "delete storage", got: body.len() });
        }
        Ok(DeleteStorage { group: GroupName::decode_known(group)?, id })
    }
}

impl Encode for DeleteStorage {
    fn encode<B: BufMut>(&self, out: &mut B) {
        StorageQuery { group: self.group, id: self.id }.encode(out);
    }
}

fn group_and_id(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let mut c = Cursor::new("group and storage", body);
    let group = c.take(GroupName::LEN)?;
    if c.left() >= StorageId::LEN {
        return Err(c.bad_length());
    }
    Ok((group, c.rest()))
}

/// Answer of LIST_STORAGE, sorted by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageList(
    /// The records.
    pub Vec<StorageRecord>,
);

impl StorageList {
    /// Reads either size; the smaller is tried first, as FastDFS clients do.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let size = [IpSize::V4, IpSize::V6]
            .into_iter()
            .find(|&size| body.len().is_multiple_of(StorageRecord::len(size)))
            .ok_or(WireError::Length { what: "storage list", got: body.len() })?;
        body.chunks_exact(StorageRecord::len(size))
            .map(|record| StorageRecord::decode(record, size))
            .collect::<Result<_, _>>()
            .map(StorageList)
    }

    /// Writes the records.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        for record in &self.0 {
            record.encode(size, out);
        }
    }
}

/// Answer of SET_TRUNK_SERVER: the id of the trunk server, with a zero byte behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrunkServerChoice {
    /// The trunk server.
    pub id: StorageId,
}

impl TrunkServerChoice {
    /// Reads the id.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        Ok(TrunkServerChoice { id: StorageId::decode(body)? })
    }
}

impl Encode for TrunkServerChoice {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.id.as_bytes());
        out.put_u8(0);
    }
}

/// Answer of GET_LEADER, and the request of NOTIFY_ and COMMIT_NEXT_LEADER: `ip:port`, an IPv6
/// address in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderAddress(
    /// The address of the tracker.
    pub SocketAddr,
);

impl LeaderAddress {
    /// Reads the text.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        socket_addr("leader address", body).map(LeaderAddress)
    }
}

impl Encode for LeaderAddress {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.0.to_string().as_bytes());
    }
}

/// Longest `ip:port` text FastDFS accepts.
const MAX_HOST: usize = 52;

pub(crate) fn socket_addr(what: &'static str, text: &[u8]) -> Result<SocketAddr, WireError> {
    let text = cut_at_nul(text);
    if text.len() > MAX_HOST {
        return Err(WireError::Length { what, got: text.len() });
    }
    utf8(what, text)?.parse().map_err(|_| WireError::Text { what, reason: TextError::NotAnAddress })
}

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

/// Request of FETCH_STORAGE_IDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchStorageIds {
    /// Index of the first line wanted.
    pub start: u32,
    /// With storage ids off: answer nothing rather than an error.
    pub allow_empty: bool,
}

impl FetchStorageIds {
    /// Reads 5 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("storage ids query", body, 5)?;
        Ok(FetchStorageIds { start: c.count("start index")?, allow_empty: c.flag()? })
    }
}

impl Encode for FetchStorageIds {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.start);
        out.put_u8(self.allow_empty.into());
    }
}

/// Answer of FETCH_STORAGE_IDS: some lines of the table. A line is read by
/// [`crate::datafile::StorageIdLine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageIdsPage<'a> {
    /// Lines in the whole table.
    pub total: u32,
    /// Lines in this answer.
    pub count: u32,
    /// The lines, each ended by a newline.
    pub text: &'a str,
}

impl<'a> StorageIdsPage<'a> {
    /// Reads the counts and the text.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("storage ids", body);
        Ok(StorageIdsPage {
            total: c.count("total count")?,
            count: c.count("count")?,
            text: utf8("storage ids", c.rest())?,
        })
    }
}

impl Encode for StorageIdsPage<'_> {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.total);
        out.put_u32(self.count);
        out.put_slice(self.text.as_bytes());
    }
}

/// Request of GET_SERVER_ID and STORAGE_GET_STATUS: group and `ip:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerQuery {
    /// The group.
    pub group: GroupName,
    /// The storage.
    pub addr: SocketAddr,
}

impl ServerQuery {
    /// Reads a group and an address with its port.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("server query", body);
        let group = c.take(GroupName::LEN)?;
        let addr = socket_addr("server address", c.rest())?;
        Ok(ServerQuery { group: GroupName::decode_known(group)?, addr })
    }
}

impl Encode for ServerQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_slice(self.addr.to_string().as_bytes());
    }
}

/// Request of GET_GROUP_NAME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupNameQuery {
    /// The address of the storage; `None` stands for the peer's.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

impl GroupNameQuery {
    /// Reads an address text, perhaps empty, and a port.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let what = "group name query";
        let mut c = Cursor::new(what, body);
        let text_len = body.len().checked_sub(4).ok_or(c.bad_length())?;
        if text_len > 45 {
            return Err(WireError::AddressTooLong { what, got: text_len });
        }
        let text = c.take(text_len)?;
        let ip = if text.is_empty() {
            None
        } else {
            let not_an_address = WireError::Text { what, reason: TextError::NotAnAddress };
            Some(utf8(what, cut_at_nul(text))?.parse().map_err(|_| not_an_address)?)
        };
        Ok(GroupNameQuery { ip, port: c.port32()? })
    }
}

impl Encode for GroupNameQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        if let Some(ip) = self.ip {
            out.put_slice(ip.to_string().as_bytes());
        }
        out.put_i32(self.port.into());
    }
}

/// Request of GET_MY_IP, 21 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MyIpQuery {
    /// The group of the asking storage.
    pub group: GroupName,
    /// Its port.
    pub port: u16,
}

impl MyIpQuery {
    /// Reads 21 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("my ip query", body, 21)?;
        let group = GroupName::decode_known(c.take(17)?)?;
        Ok(MyIpQuery { group, port: c.port32()? })
    }
}

impl Encode for MyIpQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode17(out);
        out.put_i32(self.port.into());
    }
}

/// Answer of GET_MY_IP: the addresses of the asking storage, comma separated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MyIpAddresses(
    /// One address, or two with storage ids.
    pub Vec<IpAddr>,
);

impl MyIpAddresses {
    /// Reads the text.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let what = "my ip addresses";
        utf8(what, cut_at_nul(body))?
            .split(',')
            .map(|text| text.trim_matches(['[', ']']).parse())
            .collect::<Result<_, _>>()
            .map(MyIpAddresses)
            .map_err(|_| WireError::Text { what, reason: TextError::NotAnAddress })
    }
}

impl Encode for MyIpAddresses {
    fn encode<B: BufMut>(&self, out: &mut B) {
        for (i, ip) in self.0.iter().enumerate() {
            if i > 0 {
                out.put_u8(b',');
            }
            out.put_slice(ip.to_string().as_bytes());
        }
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

#[cfg(test)]
mod tests;
