//! Questions to trackers: any of them, one after the other, or a certain one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fdfs_protocol::Encode;
use fdfs_protocol::header::frame;
use fdfs_protocol::stat::{GroupRecord, StorageHealth, StorageRecord};
use fdfs_protocol::tracker::{
    DeleteStorage, FetchAll, FetchOne, FetchStorageIds, FileQuery, GroupList, GroupNameQuery, GroupQuery,
    LeaderAddress, MyIpAddresses, MyIpQuery, ServerQuery, StorageClusterFilter, StorageClusterStat, StorageIdsPage,
    StorageList, StorageQuery, StoreAll, StoreOne, TrackerClusterFilter, TrackerClusterStat, TrackerStatus,
    TrunkServerChoice, VolumeFilter, VolumeStatReport,
};
use fdfs_protocol::{Command, FileId, GroupName, Status, StorageId, WireError};

use crate::client::{Client, Shared};
use crate::error::{Error, Server};
use crate::exchange::{MAX_ANSWER, Repeat, Request};
use crate::members::Members;
use crate::patience::Pulse;
use crate::race::{Event, Race};
use crate::routes::StoreTarget;

/// The largest answer that tells of all storages: 512 groups of 32, and a head.
const MAX_STORAGE_STAT: u64 = 8 + 512 * 32 * StorageHealth::LEN as u64;

/// A question to a tracker, as [`Shared::ask`] puts it.
struct Question<'a, M> {
    command: Command,
    message: &'a M,
    /// The group asked about, for messages.
    group: Option<GroupName>,
    /// Ask this tracker only.
    at: Option<SocketAddr>,
    repeat: Repeat,
    /// The largest answer that is taken.
    limit: u64,
}

impl<'a, M: Encode> Question<'a, M> {
    fn any(command: Command, message: &'a M) -> Self {
        Self { command, message, group: None, at: None, repeat: Repeat::Harmless, limit: MAX_ANSWER }
    }

    fn about(self, group: GroupName) -> Self {
        Self { group: Some(group), ..self }
    }
}

impl Shared {
    async fn ask<M: Encode, T: Send>(
        &self,
        question: Question<'_, M>,
        decode: impl Fn(&[u8]) -> Result<T, WireError> + Sync,
    ) -> Result<T, Error> {
        let command = question.command;
        let mut answers = self.ask_many(question, 1, decode).await?;
        answers.pop().ok_or_else(|| Error::Invalid(format!("{command}: no answer")))
    }

    /// Asks the trackers in turn until one answers, not waiting long for any of them while there are others; puts the
    /// question `count` times at once. A tracker that knows no storage (it may just have started) does not have the last
    /// word while there are others.
    async fn ask_many<M: Encode, T: Send>(
        &self,
        question: Question<'_, M>,
        count: usize,
        decode: impl Fn(&[u8]) -> Result<T, WireError> + Sync,
    ) -> Result<Vec<T>, Error> {
        let Question { command, message, group, at, repeat, limit } = question;
        let mut head = Vec::new();
        frame(command, message, &mut head);
        let request = Request { limit, ..Request::new(command, &head, repeat) };
        let order = match at {
            Some(addr) => vec![addr],
            None => {
                let addrs = self.trackers.addrs(self.config.connect_timeout).await?;
                self.look_after(addrs.iter().copied().map(Server::tracker));
                self.health.lock().order(&addrs, self.turn())
            }
        };
        let mut order = order.into_iter();
        let (pulse, decode) = (Pulse::default(), &decode);
        let request = Request { pulse: Some(&pulse), ..request };
        let mut race = Race::new(&pulse);
        let (mut refusal, mut failure, mut tried) = (None, None, 0);
        loop {
            match order.next() {
                Some(addr) => {
                    tried += 1;
                    race.start(Some(addr), self.pipeline(addr, request, count, decode));
                }
                None if race.is_empty() => break,
                None => {}
            }
            // What may happen only once is asked of one after the other.
            let may_overtake = repeat == Repeat::Harmless && order.len() > 0;
            let (answered, overtaken) = match race.next(may_overtake.then_some(self.config.failover_after)).await {
                Event::Ended { outcome, overtaken } => (outcome, overtaken),
                Event::Stalled => continue,
            };
            match answered {
                Ok(answers) => {
                    let mut health = self.health.lock();
                    overtaken.into_iter().for_each(|slow| health.failed(slow, Instant::now()));
                    return Ok(answers);
                }
                // It may have happened: what another tracker says of it would hide that.
                Err(error) if repeat == Repeat::Never && error.outcome_unknown() => return Err(error),
                Err(error) if error.is_of_server() => failure = Some(error),
                Err(Error::Status { command, server, status: Status::ENOENT }) if is_query(command) => {
                    refusal.get_or_insert(Error::NoStorage { command, server, group });
                }
                Err(error) if another_may_know(&error) => {
                    refusal.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(match (refusal, failure) {
            (Some(refusal), _) => refusal,
            (None, Some(last)) if tried > 1 => Error::NoTracker { tried, last: Box::new(last) },
            (None, Some(only)) => only,
            (None, None) => Error::Invalid("no tracker is configured; set tracker_server".to_owned()),
        })
    }

    /// The tracker's choice of where to upload, several times over.
    pub(crate) async fn ask_targets(&self, group: Option<GroupName>, count: usize) -> Result<Vec<StoreTarget>, Error> {
        let answers = match group {
            None => {
                self.ask_many(Question::any(Command::QueryStoreWithoutGroupOne, &()), count, StoreOne::decode).await
            }
            Some(group) => {
                let message = GroupQuery { group };
                let question = Question::any(Command::QueryStoreWithGroupOne, &message).about(group);
                self.ask_many(question, count, StoreOne::decode).await
            }
        }?;
        let targets: Vec<_> = answers
            .iter()
            .filter_map(|answer| {
                let addr = answer.server.socket_addr()?;
                Some(StoreTarget { group: answer.group, addr, store_path: answer.store_path })
            })
            .collect();
        if targets.is_empty() {
            return Err(Error::Invalid("the tracker named a storage without an address".to_owned()));
        }
        Ok(targets)
    }

    /// All storages of one group that take uploads: of `group`, or of one the tracker chooses.
    pub(crate) async fn ask_all_targets(&self, group: Option<GroupName>) -> Result<Vec<StoreTarget>, Error> {
        let answer = match group {
            None => self.ask(Question::any(Command::QueryStoreWithoutGroupAll, &()), StoreAll::decode).await,
            Some(group) => {
                let message = GroupQuery { group };
                self.ask(Question::any(Command::QueryStoreWithGroupAll, &message).about(group), StoreAll::decode).await
            }
        }?;
        let addrs = answer.servers.iter().filter_map(|server| server.socket_addr());
        let target = |(i, addr)| StoreTarget {
            group: answer.group,
            addr,
            // The tracker's path is that of the first storage; the others know theirs better.
            store_path: if i == 0 { answer.store_path } else { StoreTarget::ANY_PATH },
        };
        Ok(addrs.enumerate().map(target).collect())
    }

    pub(crate) async fn ask_groups(&self, at: Option<SocketAddr>) -> Result<Vec<GroupRecord>, Error> {
        let question = Question { at, ..Question::any(Command::ListAllGroups, &()) };
        Ok(self.ask(question, GroupList::decode).await?.0)
    }

    /// Every storage that has the file.
    pub(crate) async fn ask_readers(&self, id: &FileId) -> Result<Arc<[SocketAddr]>, Error> {
        let message = FileQuery { group: id.group, name: id.name.as_bytes() };
        let answer =
            self.ask(Question::any(Command::QueryFetchAll, &message).about(id.group), FetchAll::decode).await?;
        Ok(answer.servers.iter().filter_map(|server| server.socket_addr()).collect())
    }

    /// The members of a group.
    pub(crate) async fn ask_members(&self, group: &GroupName) -> Result<Members, Error> {
        let message = StorageQuery { group: *group, id: StorageId::default() };
        let question = Question::any(Command::ListStorage, &message).about(*group);
        Ok(Members::of(&self.ask(question, StorageList::decode).await?.0))
    }

    /// The storage that takes changes to the file.
    pub(crate) async fn ask_updater(&self, id: &FileId) -> Result<SocketAddr, Error> {
        self.ask_one(Command::QueryUpdate, id).await
    }

    async fn ask_one(&self, command: Command, id: &FileId) -> Result<SocketAddr, Error> {
        let message = FileQuery { group: id.group, name: id.name.as_bytes() };
        let answer = self.ask(Question::any(command, &message).about(id.group), FetchOne::decode).await?;
        let nameless = || Error::Invalid(format!("the tracker named a storage of {} without an address", id.group));
        answer.server.socket_addr().ok_or_else(nameless)
    }
}

fn is_query(command: Command) -> bool {
    matches!(
        command,
        Command::QueryStoreWithoutGroupOne
            | Command::QueryStoreWithGroupOne
            | Command::QueryStoreWithoutGroupAll
            | Command::QueryStoreWithGroupAll
            | Command::QueryFetchOne
            | Command::QueryFetchAll
            | Command::QueryUpdate
    )
}

/// Refusals that depend on which tracker is asked: its knowledge of storages, and whether it leads.
fn another_may_know(error: &Error) -> bool {
    match error {
        Error::NoSpace { command, .. } => is_query(*command),
        Error::Status { status, .. } => matches!(*status, Status::ENOENT | Status::EOPNOTSUPP),
        _ => false,
    }
}

/// The trackers, for questions about the cluster and its administration; made by [`Client::trackers`] (any tracker,
/// in turn, until one answers) and [`Client::tracker`] (a certain one).
#[derive(Debug, Clone, Copy)]
pub struct Tracker<'a> {
    shared: &'a Shared,
    at: Option<SocketAddr>,
}

impl Client {
    /// Whichever tracker answers.
    pub fn trackers(&self) -> Tracker<'_> {
        Tracker { shared: &self.shared, at: None }
    }

    /// The tracker at `addr`, which need not be a configured one.
    pub fn tracker(&self, addr: SocketAddr) -> Tracker<'_> {
        Tracker { shared: &self.shared, at: Some(addr) }
    }

    /// The addresses of the configured trackers.
    pub async fn tracker_addrs(&self) -> Result<Arc<[SocketAddr]>, Error> {
        self.shared.trackers.addrs(self.shared.connect_timeout()).await
    }

    /// All groups, sorted by name.
    pub async fn list_groups(&self) -> Result<Vec<GroupRecord>, Error> {
        self.trackers().list_groups().await
    }

    /// All storages of a group, sorted by id.
    pub async fn list_storages(&self, group: &GroupName) -> Result<Vec<StorageRecord>, Error> {
        self.trackers().list_storages(group, None).await
    }
}

impl Tracker<'_> {
    fn question<'m, M: Encode>(&self, command: Command, message: &'m M) -> Question<'m, M> {
        Question { at: self.at, ..Question::any(command, message) }
    }

    fn change<'m, M: Encode>(&self, command: Command, message: &'m M) -> Question<'m, M> {
        Question { repeat: Repeat::Never, ..self.question(command, message) }
    }

    /// Whether the tracker answers at all.
    pub async fn active_test(&self) -> Result<(), Error> {
        self.shared.ask(self.question(Command::ActiveTest, &()), nothing).await
    }

    /// All groups, sorted by name.
    pub async fn list_groups(&self) -> Result<Vec<GroupRecord>, Error> {
        self.shared.ask_groups(self.at).await
    }

    /// One group.
    pub async fn list_group(&self, group: &GroupName) -> Result<GroupRecord, Error> {
        let message = GroupQuery { group: *group };
        self.shared.ask(self.question(Command::ListOneGroup, &message), GroupRecord::decode).await
    }

    /// The storages of a group, sorted by id; all of them or the one with `id`.
    pub async fn list_storages(&self, group: &GroupName, id: Option<StorageId>) -> Result<Vec<StorageRecord>, Error> {
        let message = StorageQuery { group: *group, id: id.unwrap_or_default() };
        Ok(self.shared.ask(self.question(Command::ListStorage, &message), StorageList::decode).await?.0)
    }

    /// Where this tracker would have a new file uploaded: to `group`, or to a group it chooses.
    pub async fn query_store(&self, group: Option<&GroupName>) -> Result<StoreOne, Error> {
        match group {
            None => self.shared.ask(self.question(Command::QueryStoreWithoutGroupOne, &()), StoreOne::decode).await,
            Some(group) => {
                let message = GroupQuery { group: *group };
                let question = self.question(Command::QueryStoreWithGroupOne, &message).about(*group);
                self.shared.ask(question, StoreOne::decode).await
            }
        }
    }

    /// All storages that take uploads, of `group` or of a group the tracker chooses.
    pub async fn query_store_all(&self, group: Option<&GroupName>) -> Result<StoreAll, Error> {
        match group {
            None => self.shared.ask(self.question(Command::QueryStoreWithoutGroupAll, &()), StoreAll::decode).await,
            Some(group) => {
                let message = GroupQuery { group: *group };
                let question = self.question(Command::QueryStoreWithGroupAll, &message).about(*group);
                self.shared.ask(question, StoreAll::decode).await
            }
        }
    }

    /// A storage to read `id` from.
    pub async fn query_fetch(&self, id: &FileId) -> Result<FetchOne, Error> {
        let message = FileQuery { group: id.group, name: id.name.as_bytes() };
        let question = self.question(Command::QueryFetchOne, &message).about(id.group);
        self.shared.ask(question, FetchOne::decode).await
    }

    /// All storages that have `id`.
    pub async fn query_fetch_all(&self, id: &FileId) -> Result<FetchAll, Error> {
        let message = FileQuery { group: id.group, name: id.name.as_bytes() };
        let question = self.question(Command::QueryFetchAll, &message).about(id.group);
        self.shared.ask(question, FetchAll::decode).await
    }

    /// The storage that takes changes to `id`.
    pub async fn query_update(&self, id: &FileId) -> Result<FetchOne, Error> {
        let message = FileQuery { group: id.group, name: id.name.as_bytes() };
        let question = self.question(Command::QueryUpdate, &message).about(id.group);
        self.shared.ask(question, FetchOne::decode).await
    }

    /// Removes a storage that is not active from this tracker's knowledge. To be told to every tracker.
    pub async fn delete_storage(&self, group: &GroupName, id: StorageId) -> Result<(), Error> {
        let message = DeleteStorage { group: *group, id };
        self.shared.ask(self.change(Command::DeleteStorage, &message), nothing).await
    }

    /// Removes a group without storages from this tracker's knowledge. To be told to every tracker.
    pub async fn delete_group(&self, group: &GroupName) -> Result<(), Error> {
        let message = GroupQuery { group: *group };
        self.shared.ask(self.change(Command::DeleteGroup, &message), nothing).await
    }

    /// Makes a storage the trunk server of its group (without an id: the tracker chooses); returns which one it is.
    pub async fn set_trunk_server(&self, group: &GroupName, id: Option<StorageId>) -> Result<StorageId, Error> {
        let message = StorageQuery { group: *group, id: id.unwrap_or_default() };
        let question = self.change(Command::SetTrunkServer, &message);
        Ok(self.shared.ask(question, TrunkServerChoice::decode).await?.id)
    }

    /// The tracker that leads.
    pub async fn leader(&self) -> Result<SocketAddr, Error> {
        Ok(self.shared.ask(self.question(Command::GetLeader, &()), LeaderAddress::decode).await?.0)
    }

    /// Whether this tracker leads, and how long it has been running.
    pub async fn status(&self) -> Result<TrackerStatus, Error> {
        self.shared.ask(self.question(Command::TrackerGetStatus, &()), TrackerStatus::decode).await
    }

    /// All trackers, as the leader sees them.
    pub async fn cluster_stat(&self, filter: TrackerClusterFilter) -> Result<TrackerClusterStat, Error> {
        self.shared.ask(self.question(Command::TrackerClusterStat, &filter), TrackerClusterStat::decode).await
    }

    /// All storages of all groups.
    pub async fn storage_stat(&self, filter: StorageClusterFilter) -> Result<StorageClusterStat, Error> {
        let question = Question { limit: MAX_STORAGE_STAT, ..self.question(Command::StorageClusterStat, &filter) };
        self.shared.ask(question, StorageClusterStat::decode).await
    }

    /// Space of all groups.
    pub async fn volume_stat(&self, filter: VolumeFilter) -> Result<VolumeStatReport, Error> {
        self.shared.ask(self.question(Command::VolumeStat, &filter), VolumeStatReport::decode).await
    }

    /// The settings that trackers hand to storages and clients, as `key=value` lines.
    pub async fn parameters(&self) -> Result<String, Error> {
        let text = |body: &[u8]| Ok(String::from_utf8_lossy(body).into_owned());
        self.shared.ask(self.question(Command::StorageParameterReq, &()), text).await
    }

    /// The lines of the storage ids file; empty if ids are not in use.
    pub async fn storage_ids(&self) -> Result<String, Error> {
        let mut lines = String::new();
        let mut start = 0;
        loop {
            let message = FetchStorageIds { start, allow_empty: true };
            let page = |body: &[u8]| {
                let page = StorageIdsPage::decode(body)?;
                Ok((page.total, page.count, page.text.to_owned()))
            };
            let (total, count, text) = self.shared.ask(self.question(Command::FetchStorageIds, &message), page).await?;
            lines.push_str(&text);
            start += count;
            // A tracker that promises lines and sends none must not keep us here.
            if count == 0 || start >= total {
                return Ok(lines);
            }
        }
    }

    /// The id of the storage at `addr`.
    pub async fn storage_id(&self, group: &GroupName, addr: SocketAddr) -> Result<StorageId, Error> {
        let message = ServerQuery { group: *group, addr };
        self.shared.ask(self.question(Command::GetServerId, &message), StorageId::decode).await
    }

    /// The group of the storage at `ip` (`None`: at this host) and `port`.
    pub async fn group_of(&self, ip: Option<std::net::IpAddr>, port: u16) -> Result<GroupName, Error> {
        let message = GroupNameQuery { ip, port };
        self.shared.ask(self.question(Command::GetGroupName, &message), GroupName::decode).await
    }

    /// The addresses under which the tracker sees this host.
    pub async fn my_ip(&self, group: &GroupName, port: u16) -> Result<MyIpAddresses, Error> {
        let message = MyIpQuery { group: *group, port };
        self.shared.ask(self.question(Command::GetMyIp, &message), MyIpAddresses::decode).await
    }
}

fn nothing(body: &[u8]) -> Result<(), WireError> {
    fdfs_protocol::tracker::no_body(body)
}
