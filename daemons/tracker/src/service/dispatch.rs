//! One request: from command and body to the state machine, and its answer back into bytes.

use fdfs_protocol::header::{Header, response, response_with};
use fdfs_protocol::names::StorageId;
use fdfs_protocol::peer::election::{GetSystemFile, JoinLeader, PingLeader, SystemFilePiece, TrunkServerTable};
use fdfs_protocol::peer::{
    Beat, ChangeStatus, ChangelogRequest, DiskUsage, GroupMember, IpChanged, JoinRequest, ReplicaChange, ReportStatus,
    SyncNotify, SyncReport, SyncSource, TrunkFileId, TrunkFreeSpace,
};
use fdfs_protocol::tracker::{
    DeleteStorage, FetchStorageIds, GroupList, GroupNameQuery, GroupQuery, LeaderAddress, MyIpAddresses, MyIpQuery,
    ServerQuery, StorageClusterFilter, StorageIdsPage, StorageList, StorageQuery, TrackerClusterFilter,
    TrunkServerChoice, VolumeFilter, no_body,
};
use fdfs_protocol::{Command, Status, WireError};
use tracing::{debug, info, warn};

use super::connection::{Connection, Saved};
use super::moment;
use crate::files;
use crate::state::{Cluster, Member};

/// What became of a request.
pub(super) enum Done {
    /// Its answer is in the output.
    Answered,
    /// Its answer is in the output, but must not be sent before this; if it fails, its status is the answer.
    WhenSaved(Saved),
    /// A storage may join, but not before this tracker has caught up with the others.
    Joins(Box<JoinRequest>),
    /// There is no answer; the connection ends.
    Close,
}

/// Why a request is refused.
struct Refusal(Status);

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal(status)
    }
}

impl From<WireError> for Refusal {
    fn from(e: WireError) -> Self {
        Refusal(e.status())
    }
}

type Outcome = Result<Done, Refusal>;

impl Connection {
    /// Answers one request into `out`.
    pub(super) fn answer(&mut self, header: Header, body: &[u8], now: i64, out: &mut Vec<u8>) -> Done {
        let start = out.len();
        let Some(command) = Command::from_code(header.cmd) else {
            out.extend_from_slice(&Header::failure(Status::EINVAL).encode());
            return Done::Answered;
        };
        match self.dispatch(command, body, now, out) {
            Ok(done) => done,
            Err(Refusal(status)) => {
                debug!("{command} of {} is answered with {status:?}", self.caller.peer);
                out.truncate(start);
                out.extend_from_slice(&Header::failure(status).encode());
                Done::Answered
            }
        }
    }

    fn dispatch(&mut self, command: Command, body: &[u8], now: i64, out: &mut Vec<u8>) -> Outcome {
        use Command as C;
        match command {
            C::QueryStoreWithoutGroupOne
            | C::QueryStoreWithGroupOne
            | C::QueryStoreWithoutGroupAll
            | C::QueryStoreWithGroupAll
            | C::QueryFetchOne
            | C::QueryFetchAll
            | C::QueryUpdate => {
                self.shared.directory.load().answer(command, body, self.kind, now, out)?;
                Ok(Done::Answered)
            }
            C::ActiveTest => {
                no_body(body)?;
                ok(out)
            }
            C::Quit => Ok(Done::Close),
            C::StorageJoin => {
                let request = JoinRequest::decode(body)?;
                if self.shared.catch_up.is_due(&self.shared.cluster.lock()) {
                    return Ok(Done::Joins(Box::new(request)));
                }
                self.join(&request, out)
            }
            C::StorageBeat
            | C::StorageReportDiskUsage
            | C::StorageSyncReport
            | C::StorageReplicaChg
            | C::StorageChangeStatus
            | C::StorageSyncDestReq
            | C::StorageSyncDestQuery
            | C::StorageSyncNotify
            | C::StorageFetchTrunkFid
            | C::StorageReportTrunkFid
            | C::StorageReportTrunkFree => self.of_member(command, body, now, out),
            C::StorageReportStatus
            | C::StorageSyncSrcReq
            | C::StorageChangelogReq
            | C::StorageReportIpChanged
            | C::StorageParameterReq => self.of_storage(command, body, now, out),
            C::GetMyIp | C::GetGroupName | C::GetServerId | C::StorageGetStatus | C::FetchStorageIds => {
                self.of_identity(command, body, out)
            }
            C::ListOneGroup
            | C::ListAllGroups
            | C::ListStorage
            | C::GetLeader
            | C::TrackerClusterStat
            | C::StorageClusterStat
            | C::VolumeStat
            | C::TrackerGetStatus => self.of_monitoring(command, body, now, out),
            C::DeleteStorage | C::DeleteGroup | C::SetTrunkServer => self.of_administration(command, body, now, out),
            C::TrackerJoinLeader
            | C::TrackerPingLeader
            | C::TrackerNotifyNextLeader
            | C::TrackerCommitNextLeader
            | C::TrackerNotifyReselectLeader
            | C::TrackerGetSysFilesStart
            | C::TrackerGetOneSysFile
            | C::TrackerGetSysFilesEnd => self.of_tracker(command, body, now, out),
            _ => Err(Refusal(Status::EINVAL)),
        }
    }

    /// The join that had to wait, now that this tracker has caught up, or why it could not.
    pub(super) fn join_after(&mut self, caught_up: Result<(), Status>, request: &JoinRequest, out: &mut Vec<u8>) {
        let joined = caught_up.map_err(Refusal).and_then(|()| self.join(request, out));
        if let Err(Refusal(status)) = joined {
            out.extend_from_slice(&Header::failure(status).encode());
        }
    }

    fn join(&mut self, request: &JoinRequest, out: &mut Vec<u8>) -> Outcome {
        let caller = self.caller;
        // Who joins again on the same connection leaves as whom it joined before, if that was somebody else.
        let (joined, trackers) = self.shared.change(|cluster| {
            let before = cluster.trackers.list().len();
            let joined = cluster.join(&caller, request);
            let known = cluster.trackers.list();
            (
                joined,
                (known.len() > before).then(|| known.iter().map(|t| t.host_port().to_string()).collect::<Vec<_>>()),
            )
        });
        if let Some(trackers) = trackers {
            info!("the trackers are {}, as a storage tells", trackers.join(", "));
        }
        let (member, reply) = joined.inspect_err(|status| {
            warn!("storage {}:{} cannot join {}: {status}", caller.peer, request.port, request.group);
        })?;
        if let Some(before) = self.member.filter(|before| *before != member) {
            self.shared.change(|cluster| cluster.leave(caller.session, Some(before)));
        }
        info!("storage {} of {} joins, {}", member.id, member.group, reply.status);
        self.shared.leadership.notify_one();
        self.member = Some(member);
        response(&reply, out);
        Ok(Done::Answered)
    }

    /// Commands that only a storage that joined on this connection may send.
    fn of_member(&mut self, command: Command, body: &[u8], now: i64, out: &mut Vec<u8>) -> Outcome {
        use Command as C;
        let member = self.member.ok_or(Status::EACCES)?;
        // A storage that has joined anew since speaks on its newer connection.
        if !self.shared.cluster.lock().is_joined(&member, self.caller.session) {
            return Err(Refusal(Status::EACCES));
        }
        match command {
            C::StorageBeat => {
                let beat = Beat::decode(body)?;
                self.report(&member, out, |c| c.beat(&member, beat.0.as_ref(), now, moment()))
            }
            C::StorageReportDiskUsage => {
                let usage = DiskUsage::decode(body)?;
                self.report(&member, out, |c| c.disk_usage(&member, &usage.0))
            }
            C::StorageSyncReport => {
                let report = SyncReport::decode(body)?;
                self.report(&member, out, |c| c.sync_report(&member, &report.0))
            }
            C::StorageReplicaChg => {
                let change = ReplicaChange::decode(body)?;
                self.shared.change(|c| c.replica_changes(&member, &change.0))?;
                ok(out)
            }
            C::StorageChangeStatus => {
                let told = ChangeStatus::decode(body)?;
                self.shared.change(|c| c.change_status(&member, told.0))?;
                ok(out)
            }
            C::StorageSyncDestReq => {
                no_body(body)?;
                let source = self.shared.change(|c| c.assign_source(&member, now))?;
                answered(&SyncSource(source), out)
            }
            C::StorageSyncDestQuery => {
                no_body(body)?;
                let source = self.shared.cluster.lock().source_of(&member)?;
                answered(&SyncSource(source), out)
            }
            C::StorageSyncNotify => {
                let told = SyncNotify::decode(body)?;
                self.shared.change(|c| c.note_source(&member, &told))?;
                ok(out)
            }
            C::StorageFetchTrunkFid => {
                no_body(body)?;
                let file = self.shared.cluster.lock().trunk_file_id(&member)?;
                answered(&TrunkFileId(file), out)
            }
            C::StorageReportTrunkFid => {
                let file = TrunkFileId::decode(body)?;
                self.shared.change(|c| c.report_trunk_file_id(&member, file.0))?;
                ok(out)
            }
            C::StorageReportTrunkFree => {
                let free = TrunkFreeSpace::decode(body)?;
                self.shared.change(|c| c.report_trunk_free(&member, free.0))?;
                ok(out)
            }
            _ => Err(Refusal(Status::EINVAL)),
        }
    }

    /// A report of a member; it is told what it does not know yet.
    fn report(
        &mut self,
        member: &Member,
        out: &mut Vec<u8>,
        report: impl FnOnce(&mut Cluster) -> Result<(), Status>,
    ) -> Outcome {
        let (peer, leader_seen) = (self.caller.peer, &mut self.leader_seen);
        let changes = self.shared.change(|cluster| {
            report(cluster)?;
            let at = moment();
            cluster.choose_trunk_server(&member.group, at);
            cluster.changes_for(member, peer, leader_seen, at)
        })?;
        answered(&changes, out)
    }

    /// Commands of storages that need not have joined here.
    fn of_storage(&mut self, command: Command, body: &[u8], now: i64, out: &mut Vec<u8>) -> Outcome {
        use Command as C;
        match command {
            C::StorageReportStatus => {
                let report = ReportStatus::decode(body)?;
                let brief = report.brief;
                self.shared.change(|c| c.report_status(&report.group, &brief))?;
                info!("{} reports storage {} of {}: {}", self.caller.peer, brief.id, report.group, brief.status);
                ok(out)
            }
            C::StorageSyncSrcReq => {
                let destination = GroupMember::decode(body)?;
                let source = self.shared.change(|c| c.source_for(&destination.group, &destination.id))?;
                answered(&SyncSource(source), out)
            }
            C::StorageChangelogReq => {
                let asked = ChangelogRequest::decode(body)?.0;
                let member = match (self.member, asked) {
                    (Some(member), None) => member,
                    (None, Some(member)) => member,
                    _ => return Err(Refusal(Status::EINVAL)),
                };
                self.shared.change(|c| c.next_changes(&member).map(|piece| response(piece, out)))?;
                Ok(Done::Answered)
            }
            C::StorageReportIpChanged => {
                let change = IpChanged::decode(body)?;
                let peer = self.caller.peer;
                self.durably(out, |c| c.ip_changed(&change.group, change.old.addr(), change.new.addr(), peer, now))
            }
            C::StorageParameterReq => {
                no_body(body)?;
                let settings = self.shared.cluster.lock().settings().clone();
                answered(&settings.parameters, out)
            }
            _ => Err(Refusal(Status::EINVAL)),
        }
    }

    fn of_identity(&mut self, command: Command, body: &[u8], out: &mut Vec<u8>) -> Outcome {
        use Command as C;
        let cluster = self.shared.cluster.lock();
        match command {
            C::GetMyIp => {
                // A storage that does not know its group yet asks too, and has at least the address it asks from.
                let addresses = match MyIpQuery::decode(body) {
                    Ok(q) => cluster.addresses_of(&q.group, self.caller.peer, q.port),
                    Err(WireError::NoSuchGroup(_)) => MyIpAddresses(vec![self.caller.peer]),
                    Err(e) => return Err(e.into()),
                };
                answered(&addresses, out)
            }
            C::GetGroupName => {
                // Without ids the question itself is not supported, however it is put.
                cluster.settings().ids.as_ref().ok_or(Status::EOPNOTSUPP)?;
                let q = GroupNameQuery::decode(body)?;
                let group = cluster.group_of(q.ip.unwrap_or(self.caller.peer), q.port)?;
                answered(&GroupQuery { group }, out)
            }
            C::GetServerId => {
                let q = ServerQuery::decode(body)?;
                let id = cluster.id_of(&q.group, q.addr)?;
                answered(id.as_bytes(), out)
            }
            C::StorageGetStatus => {
                let q = ServerQuery::decode(body)?;
                answered(&cluster.status_of(&q.group, q.addr)?, out)
            }
            C::FetchStorageIds => {
                let q = FetchStorageIds::decode(body)?;
                let (total, count, text) = cluster.ids_page(q.start as usize, q.allow_empty)?;
                answered(&StorageIdsPage { total: total as u32, count: count as u32, text: &text }, out)
            }
            _ => Err(Refusal(Status::EINVAL)),
        }
    }

    fn of_monitoring(&mut self, command: Command, body: &[u8], now: i64, out: &mut Vec<u8>) -> Outcome {
        use Command as C;
        let peer = self.caller.peer;
        let cluster = self.shared.cluster.lock();
        match command {
            C::ListOneGroup => {
                let q = GroupQuery::decode(body)?;
                answered(&GroupList(vec![cluster.group_record(&q.group)?]), out)
            }
            C::ListAllGroups => {
                no_body(body)?;
                answered(&GroupList(cluster.group_records().collect()), out)
            }
            C::ListStorage => {
                let q = StorageQuery::decode(body)?;
                let records = StorageList(cluster.storage_records(&q.group, &q.id, peer)?);
                let size = cluster.settings().rules.ip_size;
                response_with(out, |out| records.encode(size, out));
                Ok(Done::Answered)
            }
            C::GetLeader => {
                no_body(body)?;
                let leader = cluster.trackers.leader().ok_or(Status::ENOENT)?;
                answered(&LeaderAddress(leader.host_port()), out)
            }
            C::TrackerClusterStat => {
                let filter = TrackerClusterFilter::decode(body)?;
                answered(&cluster.tracker_stat(&filter, self.shared.connections(), moment())?, out)
            }
            C::StorageClusterStat => {
                let filter = StorageClusterFilter::decode(body)?;
                answered(&cluster.storage_stat(&filter, peer), out)
            }
            C::VolumeStat => {
                let filter = VolumeFilter::decode(body)?;
                answered(&cluster.volume_stat(&filter), out)
            }
            C::TrackerGetStatus => {
                no_body(body)?;
                answered(&cluster.tracker_status(now, moment())?, out)
            }
            _ => Err(Refusal(Status::EINVAL)),
        }
    }

    fn of_administration(&mut self, command: Command, body: &[u8], now: i64, out: &mut Vec<u8>) -> Outcome {
        use Command as C;
        match command {
            C::DeleteStorage => {
                let q = DeleteStorage::decode(body)?;
                info!("{} deletes storage {} of {}", self.caller.peer, q.id, q.group);
                self.durably(out, |c| c.delete_storage(&q.group, &q.id, now))
            }
            C::DeleteGroup => {
                let q = GroupQuery::decode(body)?;
                info!("{} deletes group {}", self.caller.peer, q.group);
                self.durably(out, |c| c.delete_group(&q.group))
            }
            C::SetTrunkServer => {
                let q = StorageQuery::decode(body)?;
                let id: StorageId = self.shared.change(|c| c.set_trunk_server(&q.group, &q.id, moment()))?;
                answered(&TrunkServerChoice { id }, out)
            }
            _ => Err(Refusal(Status::EINVAL)),
        }
    }

    /// A change that must be on disk before it is reported as done.
    fn durably(&mut self, out: &mut Vec<u8>, change: impl FnOnce(&mut Cluster) -> Result<(), Status>) -> Outcome {
        let (result, unsaved) = self.shared.transition(change);
        let saved = self.shared.wishes.add_and_wait(unsaved);
        result?;
        response(&(), out);
        Ok(Done::WhenSaved(Saved(saved)))
    }

    fn of_tracker(&mut self, command: Command, body: &[u8], now: i64, out: &mut Vec<u8>) -> Outcome {
        use Command as C;
        let session = self.caller.session;
        match command {
            C::TrackerJoinLeader => {
                let q = JoinLeader::decode(body)?;
                let mut cluster = self.shared.cluster.lock();
                if cluster.trackers.leads(moment()) && self.follower.is_some() {
                    return Err(Refusal(Status::EEXIST));
                }
                let peer = self.caller.peer;
                self.follower = Some(cluster.trackers.accept_follower(peer, q.port, q.up_time, q.version, moment())?);
                ok(out)
            }
            C::TrackerPingLeader => {
                let ping = PingLeader::decode(body)?;
                let mut cluster = self.shared.cluster.lock();
                let at = moment();
                cluster.trackers.accept_ping(self.follower, ping.connections, now, at)?;
                if !cluster.trackers.acts(at) {
                    // What it has is as good as what this tracker could tell.
                    return ok(out);
                }
                let table = cluster.trunk_servers();
                if self.trunk_table.as_ref() == Some(&table) {
                    return ok(out);
                }
                let table = TrunkServerTable(self.trunk_table.insert(table).clone());
                answered(&table, out)
            }
            C::TrackerNotifyNextLeader => {
                let at = LeaderAddress::decode(body)?.0;
                self.shared.cluster.lock().trackers.propose_leader(at).inspect_err(|status| {
                    warn!("{} proposes tracker {at} as the leader: {status}", self.caller.peer);
                    self.shared.leadership.notify_one();
                })?;
                ok(out)
            }
            C::TrackerCommitNextLeader => {
                let at = LeaderAddress::decode(body)?.0;
                self.shared.cluster.lock().trackers.commit_leader(at)?;
                info!("tracker {at} leads");
                self.shared.leadership.notify_one();
                ok(out)
            }
            C::TrackerNotifyReselectLeader => {
                no_body(body)?;
                self.shared.cluster.lock().trackers.step_down()?;
                warn!("{} has seen two leaders: no longer leading", self.caller.peer);
                self.shared.leadership.notify_one();
                ok(out)
            }
            C::TrackerGetSysFilesStart => {
                no_body(body)?;
                self.shared.cluster.lock().begin_copy(&self.caller, moment(), files::render_all)?;
                ok(out)
            }
            C::TrackerGetOneSysFile => {
                let q = GetSystemFile::decode(body)?;
                let files = self.shared.cluster.lock().go_on_copying(session, moment())?;
                let file = files.get(usize::from(q.index)).ok_or(Status::EINVAL)?;
                let rest = usize::try_from(q.offset).ok().and_then(|at| file.get(at..)).ok_or(Status::EINVAL)?;
                let data = &rest[..rest.len().min(SystemFilePiece::MAX_DATA)];
                answered(&SystemFilePiece { file_size: file.len() as u64, data }, out)
            }
            C::TrackerGetSysFilesEnd => {
                no_body(body)?;
                self.shared.cluster.lock().end_copy(session);
                ok(out)
            }
            _ => Err(Refusal(Status::EINVAL)),
        }
    }
}

fn ok(out: &mut Vec<u8>) -> Outcome {
    answered(&(), out)
}

fn answered<M: fdfs_protocol::Encode + ?Sized>(message: &M, out: &mut Vec<u8>) -> Outcome {
    response(message, out);
    Ok(Done::Answered)
}
