//! The command codes of FastDFS 6.16, and those of our own from 200 on.

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What a message asks for; the `cmd` byte of its header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Command {
            $($(#[$doc])* $name = $code,)*
        }

        impl Command {
            /// Every command there is.
            pub const ALL: &'static [Command] = &[$(Command::$name),*];

            /// The command with this code, if there is one.
            pub fn from_code(code: u8) -> Option<Command> {
                match code {
                    $($code => Some(Command::$name),)*
                    _ => None,
                }
            }

            /// The name FastDFS users know, for logs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Command::$name => $text,)*
                }
            }
        }
    };
}

impl Command {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.code())
    }
}

commands! {
    /// Storage to storage: who I am, first on a replication connection.
    ReportServerId = 9, "REPORT_SERVER_ID";
    /// Client to storage: store a file.
    UploadFile = 11, "UPLOAD_FILE";
    /// Client to storage: remove a file.
    DeleteFile = 12, "DELETE_FILE";
    /// Client to storage: overwrite or merge metadata.
    SetMetadata = 13, "SET_METADATA";
    /// Client to storage: read a file or a range of it.
    DownloadFile = 14, "DOWNLOAD_FILE";
    /// Client to storage: read metadata.
    GetMetadata = 15, "GET_METADATA";
    /// Replication of a new file.
    SyncCreateFile = 16, "SYNC_CREATE_FILE";
    /// Replication of a removal.
    SyncDeleteFile = 17, "SYNC_DELETE_FILE";
    /// Replication of a replaced file.
    SyncUpdateFile = 18, "SYNC_UPDATE_FILE";
    /// Replication of a link.
    SyncCreateLink = 19, "SYNC_CREATE_LINK";
    /// Storage to storage: make a link to a file of yours.
    CreateLink = 20, "CREATE_LINK";
    /// Client to storage: store a file under a name derived from another file's.
    UploadSlaveFile = 21, "UPLOAD_SLAVE_FILE";
    /// Client to storage: size, time, checksum and source of a file.
    QueryFileInfo = 22, "QUERY_FILE_INFO";
    /// Client to storage: store a file that may be changed later.
    UploadAppenderFile = 23, "UPLOAD_APPENDER_FILE";
    /// Client to storage: write at the end of an appender file.
    AppendFile = 24, "APPEND_FILE";
    /// Replication of an append.
    SyncAppendFile = 25, "SYNC_APPEND_FILE";
    /// Storage to storage: the binlog of one store path, to rebuild a disk.
    FetchOnePathBinlog = 26, "FETCH_ONE_PATH_BINLOG";
    /// Storage to trunk server: reserve a slot.
    TrunkAllocSpace = 27, "TRUNK_ALLOC_SPACE";
    /// Storage to trunk server: the slot was used, or not.
    TrunkAllocConfirm = 28, "TRUNK_ALLOC_CONFIRM";
    /// Storage to trunk server: give a slot back.
    TrunkFreeSpace = 29, "TRUNK_FREE_SPACE";
    /// Trunk server to storage: lines of the trunk binlog.
    TrunkSyncBinlog = 30, "TRUNK_SYNC_BINLOG";
    /// Tracker to storage: size of your trunk binlog.
    TrunkGetBinlogSize = 31, "TRUNK_GET_BINLOG_SIZE";
    /// Tracker to storage: forget the trunk binlog positions of your peers.
    TrunkDeleteBinlogMarks = 32, "TRUNK_DELETE_BINLOG_MARKS";
    /// Trunk server to storage: empty your trunk binlog.
    TrunkTruncateBinlogFile = 33, "TRUNK_TRUNCATE_BINLOG_FILE";
    /// Client to storage: write inside an appender file.
    ModifyFile = 34, "MODIFY_FILE";
    /// Replication of a modification.
    SyncModifyFile = 35, "SYNC_MODIFY_FILE";
    /// Client to storage: change the size of an appender file.
    TruncateFile = 36, "TRUNCATE_FILE";
    /// Replication of a change of size.
    SyncTruncateFile = 37, "SYNC_TRUNCATE_FILE";
    /// Client to storage: turn an appender file into a normal one.
    RegenerateAppenderFilename = 38, "REGENERATE_APPENDER_FILENAME";
    /// Replication of a rename.
    SyncRenameFile = 40, "SYNC_RENAME_FILE";
    /// Follower tracker to leader tracker: I follow you.
    TrackerJoinLeader = 58, "TRACKER_JOIN_LEADER";
    /// Storage to tracker: set my status.
    StorageChangeStatus = 59, "STORAGE_CHANGE_STATUS";
    /// Which address do you see me under?
    GetMyIp = 60, "STORAGE_GET_MY_IP";
    /// Tracker to tracker: lock your system files for me.
    TrackerGetSysFilesStart = 61, "TRACKER_GET_SYS_FILES_START";
    /// Tracker to tracker: unlock them.
    TrackerGetSysFilesEnd = 62, "TRACKER_GET_SYS_FILES_END";
    /// Tracker to tracker: a piece of a system file.
    TrackerGetOneSysFile = 63, "TRACKER_GET_ONE_SYS_FILE";
    /// Are you the leader, and since when do you run?
    TrackerGetStatus = 64, "TRACKER_GET_STATUS";
    /// Follower tracker to leader tracker: I am here.
    TrackerPingLeader = 65, "TRACKER_PING_LEADER";
    /// Tracker to tracker: this one shall lead.
    TrackerNotifyNextLeader = 66, "TRACKER_NOTIFY_NEXT_LEADER";
    /// Tracker to tracker: this one leads now.
    TrackerCommitNextLeader = 67, "TRACKER_COMMIT_NEXT_LEADER";
    /// Storage to tracker: there are two leaders, elect again.
    TrackerNotifyReselectLeader = 68, "TRACKER_NOTIFY_RESELECT_LEADER";
    /// The table of storage ids.
    FetchStorageIds = 69, "FETCH_STORAGE_IDS";
    /// The storage id of an address.
    GetServerId = 70, "STORAGE_GET_SERVER_ID";
    /// The status of a storage.
    StorageGetStatus = 71, "STORAGE_GET_STATUS";
    /// Trunk server to tracker: the highest trunk file id you know.
    StorageFetchTrunkFid = 72, "STORAGE_FETCH_TRUNK_FID";
    /// Trunk server to tracker: the highest trunk file id.
    StorageReportTrunkFid = 73, "STORAGE_REPORT_TRUNK_FID";
    /// Trunk server to tracker: free space in trunk files.
    StorageReportTrunkFree = 74, "STORAGE_REPORT_TRUNK_FREE";
    /// The settings a tracker hands to storages and clients.
    StorageParameterReq = 75, "STORAGE_PARAMETER_REQ";
    /// Storage to tracker: the status of another storage.
    StorageReportStatus = 76, "STORAGE_REPORT_STATUS";
    /// Storage to tracker: what changed in the list of storages.
    StorageChangelogReq = 77, "STORAGE_CHANGELOG_REQ";
    /// Storage to tracker: I have a new address.
    StorageReportIpChanged = 78, "STORAGE_REPORT_IP_CHANGED";
    /// Storage to tracker: which source did I get?
    StorageSyncDestQuery = 79, "STORAGE_SYNC_DEST_QUERY";
    /// Storage to tracker: I begin to serve.
    StorageJoin = 81, "STORAGE_JOIN";
    /// Any to any: I close; the only command without an answer.
    Quit = 82, "QUIT";
    /// Storage to tracker: I live, and my counters.
    StorageBeat = 83, "STORAGE_BEAT";
    /// Storage to tracker: space on my store paths.
    StorageReportDiskUsage = 84, "STORAGE_REPORT_DISK_USAGE";
    /// Storage to tracker: members whose status you do not know.
    StorageReplicaChg = 85, "STORAGE_REPLICA_CHG";
    /// Storage to tracker: shall I push old data to this member?
    StorageSyncSrcReq = 86, "STORAGE_SYNC_SRC_REQ";
    /// Storage to tracker: give me a source for old data.
    StorageSyncDestReq = 87, "STORAGE_SYNC_DEST_REQ";
    /// Storage to tracker: the source another tracker gave me.
    StorageSyncNotify = 88, "STORAGE_SYNC_NOTIFY";
    /// Storage to tracker: how far I have applied the others' changes.
    StorageSyncReport = 89, "STORAGE_SYNC_REPORT";
    /// One group's record.
    ListOneGroup = 90, "SERVER_LIST_ONE_GROUP";
    /// All groups' records.
    ListAllGroups = 91, "SERVER_LIST_ALL_GROUPS";
    /// The storages of a group.
    ListStorage = 92, "SERVER_LIST_STORAGE";
    /// Remove a storage from its group.
    DeleteStorage = 93, "SERVER_DELETE_STORAGE";
    /// Choose the trunk server of a group.
    SetTrunkServer = 94, "SERVER_SET_TRUNK_SERVER";
    /// The address of the leader tracker.
    GetLeader = 95, "SERVER_GET_LEADER";
    /// State of the trackers.
    TrackerClusterStat = 96, "SERVER_TRACKER_CLUSTER_STAT";
    /// State of all storages.
    StorageClusterStat = 97, "SERVER_STORAGE_CLUSTER_STAT";
    /// Space of all groups.
    VolumeStat = 98, "SERVER_STORAGE_VOLUME_STAT";
    /// The code of every response.
    Response = 100, "RESPONSE";
    /// Where to upload, any group, one storage.
    QueryStoreWithoutGroupOne = 101, "QUERY_STORE_WITHOUT_GROUP_ONE";
    /// Where to read a file, one storage.
    QueryFetchOne = 102, "QUERY_FETCH_ONE";
    /// Where to change a file.
    QueryUpdate = 103, "QUERY_UPDATE";
    /// Where to upload, given group, one storage.
    QueryStoreWithGroupOne = 104, "QUERY_STORE_WITH_GROUP_ONE";
    /// Where to read a file, all storages.
    QueryFetchAll = 105, "QUERY_FETCH_ALL";
    /// Where to upload, any group, all storages.
    QueryStoreWithoutGroupAll = 106, "QUERY_STORE_WITHOUT_GROUP_ALL";
    /// Where to upload, given group, all storages.
    QueryStoreWithGroupAll = 107, "QUERY_STORE_WITH_GROUP_ALL";
    /// Remove an empty group.
    DeleteGroup = 108, "SERVER_DELETE_GROUP";
    /// The group of a storage's address.
    GetGroupName = 109, "STORAGE_GET_GROUP_NAME";
    /// Are you alive?
    ActiveTest = 111, "ACTIVE_TEST";
    /// Storage to storage, an extension: what I have of a lost member's files.
    SyncCompare = 200, "SYNC_COMPARE";
    /// Storage to storage, an extension: RESPONSE to a push of something that was overtaken here. FastDFS's storages look
    /// at the status of a response only.
    Overtaken = 201, "RESPONSE_OVERTAKEN";
    /// Storage to storage, an extension: is there a later change of this file than mine?
    SyncLatest = 202, "SYNC_LATEST";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_map_both_ways() {
        for &command in Command::ALL {
            assert_eq!(Command::from_code(command.code()), Some(command));
            assert!(command.to_string().contains(command.name()));
        }
        let known = (0..=255).filter(|&c| Command::from_code(c).is_some()).count();
        assert_eq!(known, Command::ALL.len());
        assert_eq!(Command::from_code(199), None);
    }
}
