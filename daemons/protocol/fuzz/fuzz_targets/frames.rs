//! Any bytes as a frame: header, then the body as every message there is. What decodes must be
//! the same after encoding and decoding again.
#![no_main]

use fdfs_protocol::peer::{election, replica, trunk, *};
use fdfs_protocol::storage::*;
use fdfs_protocol::tracker::*;
use fdfs_protocol::{Encode, FileId, HEADER_LEN, Header, IpSize, WireError};
use libfuzzer_sys::fuzz_target;

fn bytes<M: Encode>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

macro_rules! survive {
    ($body:expr; $($message:ty),* $(,)?) => {$(
        if let Ok(message) = <$message>::decode($body) {
            let again = bytes(&message);
            assert_eq!(<$message>::decode(&again), Ok(message), stringify!($message));
        }
    )*};
}

macro_rules! survive_sized {
    ($body:expr; $($message:ty),* $(,)?) => {$(
        if let Ok(message) = <$message>::decode($body) {
            // A list that fits both sizes is read as the smaller one, so only that must survive.
            let mut again = Vec::new();
            message.encode(IpSize::V4, &mut again);
            let _ = <$message>::decode(&again);
        }
    )*};
}

fn head<M: Encode + PartialEq + std::fmt::Debug>(
    body: &[u8],
    len: Result<usize, WireError>,
    decode: impl Fn(&[u8]) -> Result<M, WireError>,
) {
    let Some(head) = len.ok().and_then(|len| body.get(..len)) else { return };
    if let Ok(message) = decode(head) {
        let again = bytes(&message);
        // A zero byte may have ended a name early; then the body is a shorter one.
        if again.len() == head.len() {
            assert_eq!(decode(&again), Ok(message));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((header, body)) = data.split_at_checked(HEADER_LEN) else { return };
    let Ok(header) = Header::decode(header.try_into().unwrap()) else { return };
    let len = header.body_len;
    survive!(body;
        GroupQuery, FileQuery, StorageQuery, DeleteStorage, TrunkServerChoice, LeaderAddress, TrackerStatus,
        FetchStorageIds, StorageIdsPage, ServerQuery, GroupNameQuery, MyIpQuery, MyIpAddresses, GroupList,
        TrackerClusterFilter, TrackerClusterStat, StorageClusterFilter, StorageClusterStat, VolumeFilter,
        VolumeStatReport, Truncate, Regenerate, FileRequest, Download, SetMetadata, FileId,
        JoinRequest, JoinReply, Beat, DiskUsage, SyncReport, SyncSource, SyncNotify, ReportStatus, ReplicaChange,
        ChangeStatus, ChangelogRequest, IpChanged, TrunkFileId, TrunkFreeSpace, Brief, GroupMember, MemberChanges,
        election::JoinLeader, election::PingLeader, election::TrunkServerTable, election::GetSystemFile,
        election::SystemFilePiece, replica::ReportServerId, replica::SyncDelete, replica::SyncTruncate,
        replica::SyncTwoNames, replica::CreateLink, replica::FetchPathBinlog, trunk::SlotInfo, trunk::AllocSpace,
        trunk::SlotRequest, trunk::BinlogSize,
    );
    survive_sized!(body; StoreOne, StoreAll, FetchOne, FetchAll, StorageList, FileInfo);
    head(body, Ok(UploadHead::FIXED_LEN), |head| UploadHead::decode(head, len));
    let names = |name: Result<usize, WireError>, fixed: usize| name.map(|name| name + fixed);
    head(body, names(UploadSlaveHead::name_len(body, len), UploadSlaveHead::FIXED_LEN), |head| {
        UploadSlaveHead::decode(head, len)
    });
    head(body, names(AppendHead::name_len(body, len), AppendHead::FIXED_LEN), |head| AppendHead::decode(head, len));
    head(body, names(ModifyHead::name_len(body, len), ModifyHead::FIXED_LEN), |head| ModifyHead::decode(head, len));
    for content in [true, false] {
        head(body, names(replica::SyncFileHead::names_len(body), replica::SyncFileHead::FIXED_LEN), |head| {
            replica::SyncFileHead::decode(head, len, content)
        });
    }
    head(body, names(replica::SyncRangeHead::names_len(body), replica::SyncRangeHead::FIXED_LEN), |head| {
        replica::SyncRangeHead::decode(head, len)
    });
    if let Ok(parameters) = Parameters::decode(body) {
        assert!(Parameters::decode(parameters.to_text().as_bytes()).is_ok());
    }
});
