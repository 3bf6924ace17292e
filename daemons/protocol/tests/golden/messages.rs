//! Every command: its request and its answer, decoded and encoded again.

use fdfs_protocol::command::Command;
use fdfs_protocol::metadata::Metadata;
use fdfs_protocol::names::GroupName;
use fdfs_protocol::peer::{election, replica, trunk, *};
use fdfs_protocol::storage::*;
use fdfs_protocol::tracker::*;
use fdfs_protocol::{Encode, FileId, IpSize, Status, StorageId, WireError};

use crate::vectors::{Answered, Message};

type Recoded = Result<Vec<u8>, WireError>;

fn bytes<M: Encode + ?Sized>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn same<M: Encode>(decoded: Result<M, WireError>) -> Recoded {
    decoded.map(|message| bytes(&message))
}

fn nothing(body: &[u8]) -> Recoded {
    no_body(body).map(|()| Vec::new())
}

/// Head decoded and encoded again, content as it is.
fn with_content<M: Encode>(
    body: &[u8],
    head_len: Result<usize, WireError>,
    decode: impl FnOnce(&[u8]) -> Result<M, WireError>,
) -> Recoded {
    let short = WireError::Length { what: "head", got: body.len() };
    let (head, content) = body.split_at_checked(head_len?).ok_or(short)?;
    let mut out = bytes(&decode(head)?);
    out.extend_from_slice(content);
    Ok(out)
}

pub fn request(server: Answered, message: &Message) -> Recoded {
    let body = message.body.as_slice();
    let len = message.header.body_len;
    let Some(command) = Command::from_code(message.header.cmd) else {
        // An unknown command is answered with EINVAL whatever it carries.
        return Err(WireError::Range { what: "command", value: message.header.cmd.into() });
    };
    use Command as C;
    match (server, command) {
        (_, C::ActiveTest) => nothing(body),
        // QUIT is obeyed whatever it carries.
        (_, C::Quit) => Ok(body.to_vec()),
        (Answered::Tracker, command) => tracker_request(command, body),
        (Answered::Storage, C::UploadFile | C::UploadAppenderFile) => {
            with_content(body, Ok(UploadHead::FIXED_LEN), |head| UploadHead::decode(head, len))
        }
        (Answered::Storage, C::UploadSlaveFile) => {
            let head = UploadSlaveHead::name_len(body, len).map(|n| n + UploadSlaveHead::FIXED_LEN);
            with_content(body, head, |head| UploadSlaveHead::decode(head, len))
        }
        (Answered::Storage, C::AppendFile) => {
            let head = AppendHead::name_len(body, len).map(|n| n + AppendHead::FIXED_LEN);
            with_content(body, head, |head| AppendHead::decode(head, len))
        }
        (Answered::Storage, C::ModifyFile) => {
            let head = ModifyHead::name_len(body, len).map(|n| n + ModifyHead::FIXED_LEN);
            with_content(body, head, |head| ModifyHead::decode(head, len))
        }
        (Answered::Storage, C::SyncCreateFile | C::SyncUpdateFile) => {
            let content = message.header.status != Status::EEXIST.0;
            let head = replica::SyncFileHead::names_len(body).map(|n| n + replica::SyncFileHead::FIXED_LEN);
            with_content(body, head, |head| replica::SyncFileHead::decode(head, len, content))
        }
        (Answered::Storage, C::SyncAppendFile | C::SyncModifyFile) => {
            let head = replica::SyncRangeHead::names_len(body).map(|n| n + replica::SyncRangeHead::FIXED_LEN);
            with_content(body, head, |head| replica::SyncRangeHead::decode(head, len))
        }
        (Answered::Storage, command) => storage_request(command, body),
    }
}

fn storage_request(command: Command, body: &[u8]) -> Recoded {
    use Command as C;
    match command {
        C::TruncateFile => same(Truncate::decode(body)),
        C::RegenerateAppenderFilename => same(Regenerate::decode(body)),
        C::DeleteFile | C::GetMetadata | C::QueryFileInfo => same(FileRequest::decode(body)),
        C::DownloadFile => same(Download::decode(body)),
        C::SetMetadata => same(SetMetadata::decode(body)),
        C::ReportServerId => same(replica::ReportServerId::decode(body)),
        C::SyncDeleteFile => same(replica::SyncDelete::decode(body)),
        C::SyncTruncateFile => same(replica::SyncTruncate::decode(body)),
        C::SyncCreateLink | C::SyncRenameFile => same(replica::SyncTwoNames::decode(body)),
        C::CreateLink => same(replica::CreateLink::decode(body)),
        C::FetchOnePathBinlog => same(replica::FetchPathBinlog::decode(body)),
        C::TrunkAllocSpace => same(trunk::AllocSpace::decode(body)),
        C::TrunkAllocConfirm | C::TrunkFreeSpace => same(trunk::SlotRequest::decode(body)),
        C::TrunkGetBinlogSize | C::TrunkDeleteBinlogMarks | C::TrunkTruncateBinlogFile => nothing(body),
        C::TrunkSyncBinlog => Ok(trunk_lines(body)),
        other => Err(WireError::Range { what: "storage command", value: other.code().into() }),
    }
}

fn tracker_request(command: Command, body: &[u8]) -> Recoded {
    use Command as C;
    match command {
        C::QueryStoreWithGroupOne | C::QueryStoreWithGroupAll | C::ListOneGroup | C::DeleteGroup => {
            same(GroupQuery::decode(body))
        }
        C::QueryFetchOne | C::QueryFetchAll | C::QueryUpdate => same(FileQuery::decode(body)),
        C::ListStorage | C::SetTrunkServer => same(StorageQuery::decode(body)),
        C::DeleteStorage => same(DeleteStorage::decode(body)),
        C::TrackerClusterStat => same(TrackerClusterFilter::decode(body)),
        C::StorageClusterStat => same(StorageClusterFilter::decode(body)),
        C::VolumeStat => same(VolumeFilter::decode(body)),
        C::FetchStorageIds => same(FetchStorageIds::decode(body)),
        C::GetServerId | C::StorageGetStatus => same(ServerQuery::decode(body)),
        C::GetGroupName => same(GroupNameQuery::decode(body)),
        C::GetMyIp => same(MyIpQuery::decode(body)),
        C::StorageJoin => same(JoinRequest::decode(body)),
        C::StorageBeat => same(Beat::decode(body)),
        C::StorageReportDiskUsage => same(DiskUsage::decode(body)),
        C::StorageReplicaChg => same(ReplicaChange::decode(body)),
        C::StorageSyncSrcReq => same(GroupMember::decode(body)),
        C::StorageSyncNotify => same(SyncNotify::decode(body)),
        C::StorageSyncReport => same(SyncReport::decode(body)),
        C::StorageReportStatus => same(ReportStatus::decode(body)),
        C::StorageChangelogReq => same(ChangelogRequest::decode(body)),
        C::StorageReportIpChanged => same(IpChanged::decode(body)),
        C::StorageReportTrunkFid => same(TrunkFileId::decode(body)),
        C::StorageReportTrunkFree => same(TrunkFreeSpace::decode(body)),
        C::StorageChangeStatus => same(ChangeStatus::decode(body)),
        C::TrackerJoinLeader => same(election::JoinLeader::decode(body)),
        C::TrackerPingLeader => same(election::PingLeader::decode(body)),
        C::TrackerNotifyNextLeader | C::TrackerCommitNextLeader => same(LeaderAddress::decode(body)),
        C::TrackerGetOneSysFile => same(election::GetSystemFile::decode(body)),
        C::QueryStoreWithoutGroupOne
        | C::QueryStoreWithoutGroupAll
        | C::ListAllGroups
        | C::GetLeader
        | C::TrackerGetStatus
        | C::StorageParameterReq
        | C::StorageSyncDestReq
        | C::StorageSyncDestQuery
        | C::StorageFetchTrunkFid
        | C::TrackerGetSysFilesStart
        | C::TrackerGetSysFilesEnd => nothing(body),
        other => Err(WireError::Range { what: "tracker command", value: other.code().into() }),
    }
}

/// The body of a successful answer.
pub fn response(server: Answered, command: u8, size: IpSize, body: &[u8]) -> Recoded {
    use Command as C;
    let command = Command::from_code(command).expect("a command that was understood");
    let sized = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        Ok(out)
    };
    match (server, command) {
        (_, C::QueryStoreWithoutGroupOne | C::QueryStoreWithGroupOne) => {
            let answer = StoreOne::decode(body)?;
            sized(&|out| answer.encode(size, out))
        }
        (_, C::QueryStoreWithoutGroupAll | C::QueryStoreWithGroupAll) => {
            let answer = StoreAll::decode(body)?;
            sized(&|out| answer.encode(size, out))
        }
        (_, C::QueryFetchOne | C::QueryUpdate) => {
            let answer = FetchOne::decode(body)?;
            sized(&|out| answer.encode(size, out))
        }
        (_, C::QueryFetchAll) => {
            let answer = FetchAll::decode(body)?;
            sized(&|out| answer.encode(size, out))
        }
        (_, C::ListStorage) => {
            let answer = StorageList::decode(body)?;
            sized(&|out| answer.encode(size, out))
        }
        (_, C::QueryFileInfo) => {
            let answer = FileInfo::decode(body)?;
            sized(&|out| answer.encode(size, out))
        }
        (_, C::ListOneGroup | C::ListAllGroups) => same(GroupList::decode(body)),
        (_, C::SetTrunkServer) => same(TrunkServerChoice::decode(body)),
        (_, C::GetLeader) => same(LeaderAddress::decode(body)),
        (_, C::TrackerClusterStat) => same(TrackerClusterStat::decode(body)),
        (_, C::StorageClusterStat) => same(StorageClusterStat::decode(body)),
        (_, C::VolumeStat) => same(VolumeStatReport::decode(body)),
        (_, C::TrackerGetStatus) => same(TrackerStatus::decode(body)),
        (_, C::StorageParameterReq) => Ok(Parameters::decode(body).unwrap().to_text().into_bytes()),
        (_, C::FetchStorageIds) => {
            let page = StorageIdsPage::decode(body)?;
            let lines = fdfs_protocol::datafile::StorageIdLine::parse_all(page.text).unwrap();
            assert_eq!(lines.len(), page.count as usize);
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            Ok(bytes(&StorageIdsPage { text: &text, ..page }))
        }
        (_, C::GetServerId) => Ok(StorageId::decode(body)?.as_bytes().to_vec()),
        (_, C::StorageGetStatus) => same(Brief::decode(body)),
        (_, C::GetGroupName) => GroupName::decode(body).map(|group| bytes(&GroupQuery { group })),
        (_, C::GetMyIp) => same(MyIpAddresses::decode(body)),
        (_, C::StorageJoin) => same(JoinReply::decode(body)),
        (_, C::StorageBeat | C::StorageReportDiskUsage | C::StorageSyncReport) => same(MemberChanges::decode(body)),
        (_, C::StorageSyncDestReq | C::StorageSyncDestQuery | C::StorageSyncSrcReq) => same(SyncSource::decode(body)),
        (_, C::StorageChangelogReq) => {
            let text = std::str::from_utf8(body).unwrap();
            let lines = fdfs_protocol::datafile::ChangelogLine::parse_all(text).unwrap();
            Ok(lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes())
        }
        (_, C::StorageFetchTrunkFid) => same(TrunkFileId::decode(body)),
        (_, C::TrackerPingLeader) => same(election::TrunkServerTable::decode(body)),
        (_, C::TrackerGetOneSysFile) => same(election::SystemFilePiece::decode(body)),
        (_, C::TrunkAllocSpace) => same(trunk::SlotInfo::decode(body)),
        (_, C::TrunkGetBinlogSize) => same(trunk::BinlogSize::decode(body)),
        (
            _,
            C::UploadFile | C::UploadAppenderFile | C::UploadSlaveFile | C::RegenerateAppenderFilename | C::CreateLink,
        ) => same(FileId::decode(body)),
        (_, C::DownloadFile) => Ok(body.to_vec()),
        (_, C::GetMetadata) => Ok(Metadata::parse(body).pack()),
        // Everything else is answered with a header alone.
        _ => nothing(body),
    }
}

fn trunk_lines(body: &[u8]) -> Vec<u8> {
    let lines = std::str::from_utf8(body).unwrap().lines();
    lines
        .flat_map(|line| {
            let record: fdfs_protocol::datafile::TrunkRecord = line.parse().unwrap();
            format!("{record}\n").into_bytes()
        })
        .collect()
}
