//! What a storage reports to its trackers and asks of them.

use bytes::BufMut;

use super::member::{Brief, GroupMember};
use crate::names::{GroupName, IpText, StorageId};
use crate::stat::{StatBlock, StorageStatus};
use crate::wire::{Cursor, Encode, WireError, records};

/// Most storages in a group.
pub const MAX_GROUP_MEMBERS: usize = 32;

/// STORAGE_BEAT: the counters, or nothing when none changed since the last beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat(
    /// The counters.
    pub Option<StatBlock>,
);

impl Beat {
    /// Reads 0 or 348 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() { Ok(Beat(None)) } else { StatBlock::decode(body).map(Some).map(Beat) }
    }
}

impl Encode for Beat {
    fn encode<B: BufMut>(&self, out: &mut B) {
        if let Some(stat) = &self.0 {
            stat.encode(out);
        }
    }
}

/// Space on one store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathSpace {
    /// Size in MiB, rounded down.
    pub total_mb: u64,
    /// Free for ordinary users, in MiB, rounded down.
    pub free_mb: u64,
}

/// STORAGE_REPORT_DISK_USAGE: every store path in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskUsage(
    /// The paths.
    pub Vec<PathSpace>,
);

impl DiskUsage {
    /// Reads 16 bytes for each path; whether there are as many as the group has is for the
    /// tracker to check.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        records("disk usage", body, 16)?
            .map(|record| {
                let mut c = Cursor::new("disk usage", record);
                let total_mb = c.size("total space")?;
                Ok(PathSpace { total_mb, free_mb: c.size("free space")? })
            })
            .collect::<Result<_, _>>()
            .map(DiskUsage)
    }
}

impl Encode for DiskUsage {
    fn encode<B: BufMut>(&self, out: &mut B) {
        for path in &self.0 {
            out.put_u64(path.total_mb);
            out.put_u64(path.free_mb);
        }
    }
}

/// How far the reporter has applied the changes of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncedTo {
    /// The source.
    pub source: StorageId,
    /// The largest time of a change applied, unix seconds; 0 for none.
    pub timestamp: u32,
}

/// STORAGE_SYNC_REPORT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReport(
    /// One entry for each storage the reporter knows, itself included.
    pub Vec<SyncedTo>,
);

impl SyncReport {
    /// Reads 20 bytes for each source, at least one.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() {
            return Err(WireError::Length { what: "sync report", got: 0 });
        }
        records("sync report", body, 20)?
            .map(|record| {
                let mut c = Cursor::new("sync report", record);
                Ok(SyncedTo { source: StorageId::decode(c.take(16)?)?, timestamp: c.u32()? })
            })
            .collect::<Result<_, _>>()
            .map(SyncReport)
    }
}

impl Encode for SyncReport {
    fn encode<B: BufMut>(&self, out: &mut B) {
        for entry in &self.0 {
            entry.source.encode(out);
            out.put_u32(entry.timestamp);
        }
    }
}

/// Answer of STORAGE_SYNC_DEST_REQ, STORAGE_SYNC_DEST_QUERY and STORAGE_SYNC_SRC_REQ: who pushes
/// old data, or nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncSource(
    /// The source and the time up to which changes count as old.
    pub Option<SyncNotify>,
);

impl SyncSource {
    /// Reads 0 or 24 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() {
            return Ok(SyncSource(None));
        }
        SyncNotify::decode(body).map(Some).map(SyncSource)
    }
}

impl Encode for SyncSource {
    fn encode<B: BufMut>(&self, out: &mut B) {
        if let Some(source) = &self.0 {
            source.encode(out);
        }
    }
}

/// STORAGE_SYNC_NOTIFY: the source another tracker gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncNotify {
    /// The source, or none.
    pub source: StorageId,
    /// Changes up to this time are old data, unix seconds.
    pub until: i64,
}

impl SyncNotify {
    /// Reads 24 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("sync source", body, 24)?;
        Ok(SyncNotify { source: StorageId::decode(c.take(16)?)?, until: c.i64()? })
    }
}

impl Encode for SyncNotify {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.source.encode(out);
        out.put_i64(self.until);
    }
}

/// STORAGE_REPORT_STATUS: the status of a storage as another one sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportStatus {
    /// The group.
    pub group: GroupName,
    /// The storage and its status.
    pub brief: Brief,
}

impl ReportStatus {
    /// Reads 83 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("status report", body, GroupName::LEN + Brief::LEN)?;
        let group = GroupName::decode_known(c.take(16)?)?;
        Ok(ReportStatus { group, brief: Brief::decode(c.rest())? })
    }
}

impl Encode for ReportStatus {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        self.brief.encode(out);
    }
}

/// STORAGE_REPLICA_CHG: members whose status this tracker does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaChange(
    /// The members, 1 to [`MAX_GROUP_MEMBERS`].
    pub Vec<Brief>,
);

impl ReplicaChange {
    /// Reads 67 bytes for each member.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let what = "replica change";
        let count = body.len() / Brief::LEN;
        if count == 0 || count > MAX_GROUP_MEMBERS {
            return Err(WireError::Length { what, got: body.len() });
        }
        records(what, body, Brief::LEN)?.map(Brief::decode).collect::<Result<_, _>>().map(ReplicaChange)
    }
}

impl Encode for ReplicaChange {
    fn encode<B: BufMut>(&self, out: &mut B) {
        for brief in &self.0 {
            brief.encode(out);
        }
    }
}

/// STORAGE_CHANGE_STATUS: the storage's own status, for a tracker that has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeStatus(
    /// The new status.
    pub StorageStatus,
);

impl ChangeStatus {
    /// Reads one byte.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("change status", body, 1)?;
        StorageStatus::decode(c.u8()?).map(ChangeStatus)
    }
}

impl Encode for ChangeStatus {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.0.code());
    }
}

/// STORAGE_CHANGELOG_REQ: on a joined connection nothing, else who asks. The answer is text:
/// lines of [`crate::datafile::ChangelogLine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangelogRequest(
    /// Who asks.
    pub Option<GroupMember>,
);

impl ChangelogRequest {
    /// Reads 0 or 32 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() {
            return Ok(ChangelogRequest(None));
        }
        GroupMember::decode(body).map(Some).map(ChangelogRequest)
    }
}

impl Encode for ChangelogRequest {
    fn encode<B: BufMut>(&self, out: &mut B) {
        if let Some(member) = &self.0 {
            member.encode(out);
        }
    }
}

/// STORAGE_REPORT_IP_CHANGED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpChanged {
    /// The group.
    pub group: GroupName,
    /// The address it had.
    pub old: IpText,
    /// The address it has.
    pub new: IpText,
}

impl IpChanged {
    /// Reads 108 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("ip changed", body, 108)?;
        Ok(IpChanged {
            group: GroupName::decode_known(c.take(16)?)?,
            old: IpText::decode(c.take(46)?)?,
            new: IpText::decode(c.take(46)?)?,
        })
    }
}

impl Encode for IpChanged {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        self.old.encode(46, out);
        self.new.encode(46, out);
    }
}

/// Answer of STORAGE_FETCH_TRUNK_FID, request of STORAGE_REPORT_TRUNK_FID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrunkFileId(
    /// The highest number of a trunk file.
    pub u32,
);

impl TrunkFileId {
    /// Reads 4 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        Cursor::exact("trunk file id", body, 4)?.count("trunk file id").map(TrunkFileId)
    }
}

impl Encode for TrunkFileId {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.0);
    }
}

/// STORAGE_REPORT_TRUNK_FREE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrunkFreeSpace(
    /// Free space in trunk files, MiB.
    pub u64,
);

impl TrunkFreeSpace {
    /// Reads 8 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        Cursor::exact("trunk free space", body, 8)?.size("trunk free space").map(TrunkFreeSpace)
    }
}

impl Encode for TrunkFreeSpace {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::brief;
    use super::*;
    use proptest::prelude::*;

    fn bytes<M: Encode>(message: &M) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(Beat::decode(&[]), Ok(Beat(None)));
        assert!(Beat::decode(&[0; 347]).is_err());
        assert!(SyncReport::decode(&[]).is_err());
        assert!(ReplicaChange::decode(&[]).is_err());
        assert!(ReplicaChange::decode(&[0; 67 * 33]).is_err());
        assert!(ReplicaChange::decode(&[0; 67 * 32]).is_ok());
        assert_eq!(DiskUsage::decode(&[]), Ok(DiskUsage(vec![])));
        assert!(DiskUsage::decode(&[0xff; 16]).is_err());
        assert_eq!(ChangeStatus::decode(&[9]), Ok(ChangeStatus(StorageStatus::Recovery)));
        assert!(TrunkFileId::decode(&[0xff; 4]).is_err());
    }

    proptest! {
        #[test]
        fn reports_survive(
            brief in brief(), space in 0..=i64::MAX as u64, until: i64, id in "[0-9.]{0,15}",
            timestamp: u32, ip: std::net::IpAddr,
        ) {
            let group = "group1".parse().unwrap();
            let id: StorageId = id.parse().unwrap();
            let usage = DiskUsage(vec![PathSpace { total_mb: space, free_mb: space / 2 }; 3]);
            prop_assert_eq!(DiskUsage::decode(&bytes(&usage)), Ok(usage));
            let report = SyncReport(vec![SyncedTo { source: id, timestamp }; 2]);
            prop_assert_eq!(SyncReport::decode(&bytes(&report)), Ok(report));
            let source = SyncSource(Some(SyncNotify { source: id, until }));
            prop_assert_eq!(SyncSource::decode(&bytes(&source)), Ok(source));
            let status = ReportStatus { group, brief };
            prop_assert_eq!(ReportStatus::decode(&bytes(&status)), Ok(status));
            let change = ReplicaChange(vec![brief]);
            prop_assert_eq!(ReplicaChange::decode(&bytes(&change)), Ok(change));
            let changelog = ChangelogRequest(Some(GroupMember { group, id }));
            prop_assert_eq!(ChangelogRequest::decode(&bytes(&changelog)), Ok(changelog));
            let changed = IpChanged { group, old: IpText::NONE, new: ip.into() };
            prop_assert_eq!(IpChanged::decode(&bytes(&changed)), Ok(changed));
            let free = TrunkFreeSpace(space);
            prop_assert_eq!(TrunkFreeSpace::decode(&bytes(&free)), Ok(free));
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Beat::decode(&body);
            let _ = SyncReport::decode(&body);
            let _ = SyncSource::decode(&body);
            let _ = ReportStatus::decode(&body[..body.len().min(83)]);
            let _ = ReplicaChange::decode(&body);
            let _ = ChangelogRequest::decode(&body);
            let _ = IpChanged::decode(&body[..body.len().min(108)]);
        }
    }
}
