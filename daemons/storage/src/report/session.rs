//! The connection to each tracker, for ever: join, beats, disk reports.
//!
//! A tracker uses a storage as long as this connection lives: the order of the first messages is join, sync source, beat,
//! disk report, and only then it is chosen for uploads. Whatever goes wrong, the connection is made anew.

use std::sync::Arc;
use std::time::Duration;

use fdfs_protocol::datafile::ChangelogLine;
use fdfs_protocol::peer::join::TrackerAddress;
use fdfs_protocol::peer::member::MemberChanges;
use fdfs_protocol::peer::{
    Beat, ChangeStatus, ChangelogRequest, DiskUsage, JoinReply, JoinRequest, PathSpace, ReplicaChange, SyncNotify,
    SyncSource,
};
use fdfs_protocol::stat::{Connections, StatBlock, StorageStatus};
use fdfs_protocol::{Command, GroupName, IpText, Status, StorageId, Version};
use fdfs_server::{ConnectionCounts, Dial, Link, LinkError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::identity::Identity;
use super::members::{Members, Merged};
use super::seat::{Seat, Standing};
use crate::active::Active;
use crate::blocking;
use crate::config::StorageConfig;
use crate::disk::init_flag::InitState;
use crate::serve::Service;
use crate::sync::mark::PeerFiles;

/// The version trackers show; the protocol is that of this FastDFS.
pub const VERSION: &str = "6.16.1";

/// Pause before a connection that broke is made again.
const RECONNECT: Duration = Duration::from_secs(1);

/// While the old files do not come, trackers are told so often who is to give them.
const REMIND: Duration = Duration::from_secs(10);

/// What the sessions with all trackers share.
#[derive(Debug)]
pub struct Cluster {
    /// Settings.
    pub config: Arc<StorageConfig>,
    /// What is reported about.
    pub service: Arc<Service>,
    /// The place in the group.
    pub init: Arc<InitState>,
    /// Connections of clients.
    pub connections: Arc<ConnectionCounts>,
    /// Our group.
    pub group: GroupName,
    /// Our port.
    pub port: u16,
    /// When we started, unix seconds.
    pub up_time: i64,
    /// How to connect.
    pub dial: Dial,
    /// Who we are.
    pub identity: Identity,
    /// The storages of the group.
    pub members: watch::Sender<Members>,
    /// True while some tracker uses us.
    pub active: Arc<Active>,
    seats: Mutex<Vec<Seat>>,
    standing: Mutex<Standing>,
    pub(super) leader: Mutex<Option<usize>>,
    /// Held across the question for a sync source: one tracker answers for all.
    asking_source: tokio::sync::Mutex<()>,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The connection broke, or an answer made no sense.
    Broken(LinkError),
    /// The tracker did not take us, or has no source for us yet; it is asked again after a while.
    Refused(LinkError),
    /// To be begun again at once.
    Again,
}

impl From<LinkError> for End {
    fn from(e: LinkError) -> End {
        End::Broken(e)
    }
}

/// What has been reported over one connection.
struct Reported {
    stat: Option<StatBlock>,
    applied: u64,
}

impl Cluster {
    /// The shared state at the start of the process.
    #[allow(clippy::too_many_arguments, reason = "the parts of a storage, each known only once it runs")]
    pub fn new(
        config: Arc<StorageConfig>,
        service: Arc<Service>,
        init: Arc<InitState>,
        connections: Arc<ConnectionCounts>,
        port: u16,
        up_time: i64,
        dial: Dial,
        identity: Identity,
        active: Arc<Active>,
    ) -> Cluster {
        let seats = Mutex::new(vec![Seat::default(); config.trackers.len()]);
        let (group, members) = (service.settings.group, service.members.clone());
        Cluster {
            config,
            service,
            init,
            connections,
            group,
            port,
            up_time,
            dial,
            identity,
            members,
            active,
            seats,
            standing: Mutex::default(),
            leader: Mutex::new(None),
            asking_source: tokio::sync::Mutex::default(),
        }
    }

    /// Serves one tracker until the task is dropped.
    pub async fn attend(self: Arc<Self>, index: usize) {
        let Some(tracker) = self.config.trackers.get(index).cloned() else { return };
        let mut complained = false;
        loop {
            let joined = self.join(index, &tracker).await;
            self.seat(index, |seat| match &joined {
                Ok(_) => (seat.tried, seat.failed, seat.no_source) = (true, false, false),
                Err(End::Refused(LinkError::Status(Status::ENOENT, Command::StorageSyncDestReq))) => {
                    (seat.tried, seat.no_source) = (true, true);
                }
                Err(_) => *seat = Seat { tried: true, failed: true, ..Seat::default() },
            });
            self.consider_active();
            let end = match joined {
                Ok((mut link, status)) => {
                    info!("tracker {tracker}: joined, status there {status}");
                    complained = false;
                    let end = self.converse(index, &mut link).await;
                    self.lost(index);
                    end
                }
                Err(end) => end,
            };
            let (problem, pause) = match end {
                End::Again => (None, RECONNECT),
                End::Broken(e) => (Some(e), RECONNECT),
                End::Refused(e) => (Some(e), self.config.heart_beat_interval),
            };
            match problem {
                // Once for each time it worked: a tracker may be away for days.
                Some(e) if !complained => {
                    warn!("tracker {tracker}: {e}; trying again until it works");
                    complained = true;
                }
                Some(e) => debug!("tracker {tracker}: {e}"),
                None => {}
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn seat<T>(&self, index: usize, change: impl FnOnce(&mut Seat) -> T) -> Option<T> {
        self.seats.lock().get_mut(index).map(change)
    }

    /// The connection to a tracker is gone, and with it our status there.
    fn lost(&self, index: usize) {
        self.seat(index, |seat| *seat = Seat { tried: true, ..Seat::default() });
        self.consider_active();
        let mut leader = self.leader.lock();
        if *leader == Some(index) {
            *leader = None;
        }
    }

    /// The status to join with: the one the group knows, or none while a tracker that may know better was not asked.
    fn known_status(&self) -> Option<StorageStatus> {
        if let Some(me) = self.members.borrow().get(&self.identity.id) {
            return Some(me.status);
        }
        let seats = self.seats.lock();
        (seats.len() == 1 || seats.iter().all(|s| s.tried)).then_some(StorageStatus::Init)
    }

    async fn join(&self, index: usize, tracker: &TrackerAddress) -> Result<(Link, StorageStatus), End> {
        let mut link = Link::connect(tracker.addrs(), self.dial).await?;
        let flag = self.init.get();
        let request = JoinRequest {
            group: self.group,
            port: self.port,
            store_path_count: self.service.store.paths().len() as u16,
            subdir_count_per_path: self.config.subdirs as u16,
            upload_priority: self.config.upload_priority,
            join_time: flag.storage_join_time,
            up_time: self.up_time,
            version: Version::new(VERSION).unwrap_or(Version::NONE),
            fresh: !flag.sync_old_done,
            status: self.known_status(),
            id: self.identity.join_id,
            tracker_ip: IpText::from(link.ip),
            trackers: self.config.trackers.clone(),
        };
        let asked = Instant::now();
        let reply = match link.ask_for(Command::StorageJoin, &request, JoinReply::decode).await {
            Err(e @ LinkError::Status(..)) => return Err(End::Refused(e)),
            other => other?,
        };
        // It may have sent clients elsewhere until now.
        self.service.names.begin_term();
        self.seat(index, |seat| seat.hear(Some(reply.status), asked));
        if reply.source.is_none() && !flag.sync_src_server.is_none() {
            self.notify(index, &mut link, reply.status).await?;
        }
        if !self.init.get().sync_old_done {
            self.ask_source(index, &mut link).await?;
        }
        self.notify(index, &mut link, reply.status).await?;
        Ok((link, reply.status))
    }

    /// A storage that never got the group's old files asks who will push them; the first tracker to answer decides.
    async fn ask_source(&self, index: usize, link: &mut Link) -> Result<(), End> {
        let _one = self.asking_source.lock().await;
        if self.init.get().sync_old_done {
            return Ok(());
        }
        let asked = Instant::now();
        let answer = match link.ask_for(Command::StorageSyncDestReq, &(), SyncSource::decode).await {
            Err(e @ LinkError::Status(..)) => return Err(End::Refused(e)),
            other => other?,
        };
        let source = answer.0.unwrap_or_default();
        if !source.source.is_none() {
            info!("{} will push the files of the group to this storage", source.source);
            self.seat(index, |seat| seat.hear(Some(StorageStatus::WaitSync), asked));
            // An earlier source may have begun.
            let me = self.identity.id;
            let back =
                |members: &mut Members| members.change_status(&me, StorageStatus::Syncing, StorageStatus::WaitSync);
            self.members.send_if_modified(back);
        }
        self.save(move |flag| {
            flag.sync_old_done = true;
            flag.sync_src_server = source.source;
            flag.sync_until_timestamp = source.until;
        })
        .await;
        Ok(())
    }

    /// Tells a tracker what another one decided about our source.
    async fn notify(&self, index: usize, link: &mut Link, status: StorageStatus) -> Result<(), End> {
        let flag = self.init.get();
        let message = SyncNotify { source: flag.sync_src_server, until: flag.sync_until_timestamp };
        let asked = Instant::now();
        match link.ask(Command::StorageSyncNotify, &message).await {
            Ok(_) => {
                // By that it takes one that is new to it for one that waits.
                if status == StorageStatus::Init && !message.source.is_none() {
                    self.seat(index, |seat| seat.hear(Some(StorageStatus::WaitSync), asked));
                }
                Ok(())
            }
            // The source was removed from the group.
            Err(LinkError::Status(Status::ENOENT, _)) => {
                let leads = self.config.trackers.len() == 1 || *self.leader.lock() == Some(index);
                if leads {
                    warn!("{} has left the group: it will not push old files to this storage", message.source);
                    self.save(move |flag| {
                        flag.sync_src_server = StorageId::NONE;
                        flag.sync_old_done = status.code() >= StorageStatus::Offline.code();
                    })
                    .await;
                    return Err(End::Again);
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Tells a tracker again who is to give us the old files: it forgets a source that was asked about while it was itself
    /// without them, or beginning anew.
    async fn remind(&self, index: usize, link: &mut Link) -> Result<(), End> {
        let status = self.seats.lock().get(index).and_then(|seat| seat.status);
        match status.filter(|status| matches!(status, StorageStatus::WaitSync | StorageStatus::Syncing)) {
            Some(status) if !self.init.get().sync_src_server.is_none() => self.notify(index, link, status).await,
            _ => Ok(()),
        }
    }

    async fn save(&self, change: impl FnOnce(&mut fdfs_protocol::datafile::InitFlag) + Send + 'static) {
        if let Err(e) = self.init.update_later(change).await {
            warn!("{e}");
        }
    }

    /// Beats and reports until something ends the session.
    async fn converse(&self, index: usize, link: &mut Link) -> End {
        let mut reported = Reported { stat: None, applied: 0 };
        // Taken before the clock starts: the first tick, which comes at once, is the first beat.
        let (mut beat_at, mut disk_at) = (Instant::now(), Instant::now());
        let remind = REMIND.min(self.config.heart_beat_interval);
        let mut remind_at = Instant::now() + remind;
        let mut ticks = interval(Duration::from_secs(1).min(self.config.heart_beat_interval));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            let round = async {
                if now >= beat_at || self.waits_for_news() {
                    beat_at = now + self.config.heart_beat_interval;
                    self.beat(index, link, &mut reported).await?;
                }
                if now >= disk_at {
                    disk_at = now + self.config.stat_report_interval;
                    self.report_disk(index, link).await?;
                    self.seat(index, |seat| seat.knows_disks = true);
                    self.consider_active();
                }
                if now >= remind_at {
                    remind_at = now + remind;
                    self.remind(index, link).await?;
                }
                self.settle_status(index, link).await
            };
            if let Err(end) = round.await {
                return end;
            }
        }
    }

    /// What trackers say of the group, and with that the end of waiting, comes with the beats: this storage is not used
    /// yet, or a member that is away may have come back, for which changes may wait, and others wait for what is pushed.
    fn waits_for_news(&self) -> bool {
        use StorageStatus as S;
        let there = |status| matches!(status, S::Active | S::Deleted | S::IpChanged | S::None);
        let away = |members: &Members| members.iter().any(|(_, member)| !there(member.status));
        !self.active.get()
            || self.service.acks.as_ref().is_some_and(|acks| acks.is_short())
            || away(&self.members.borrow())
    }

    async fn beat(&self, index: usize, link: &mut Link, reported: &mut Reported) -> Result<(), End> {
        let stat = self.stat();
        let news = (reported.stat != Some(stat)).then_some(stat);
        let asked = Instant::now();
        let changes = link.ask_for(Command::StorageBeat, &Beat(news), MemberChanges::decode).await?;
        reported.stat = Some(stat);
        // Before the list: a member that has another address is a new one there.
        if self.identity.parameters.storage_ip_changed_auto_adjust {
            self.read_changelog(index, link).await?;
        }
        self.take_changes(index, link, changes, asked).await?;
        let synced = &self.service.synced;
        let applied = synced.count();
        let report = self.members.borrow().sync_report(|id| synced.until(id));
        if applied != reported.applied
            && let Some(report) = report
        {
            let asked = Instant::now();
            let changes = link.ask_for(Command::StorageSyncReport, &report, MemberChanges::decode).await?;
            reported.applied = applied;
            self.take_changes(index, link, changes, asked).await?;
        }
        Ok(())
    }

    fn stat(&self) -> StatBlock {
        let current = self.connections.current() as u32;
        let max = self.connections.max() as u32;
        StatBlock { connections: Connections { alloc: max, current, max }, ..self.service.counters.snapshot() }
    }

    async fn report_disk(&self, index: usize, link: &mut Link) -> Result<(), End> {
        self.service.store.refresh_space();
        let paths = self.service.store.paths().iter().map(|p| {
            let (total_mb, free_mb) = p.space_mb();
            PathSpace { total_mb, free_mb }
        });
        let usage = DiskUsage(paths.collect());
        let asked = Instant::now();
        let changes = link.ask_for(Command::StorageReportDiskUsage, &usage, MemberChanges::decode).await?;
        self.take_changes(index, link, changes, asked).await
    }

    async fn read_changelog(&self, index: usize, link: &mut Link) -> Result<(), End> {
        let text = link.ask(Command::StorageChangelogReq, &ChangelogRequest(None)).await?;
        let text = String::from_utf8_lossy(&text);
        let Ok(lines) = ChangelogLine::parse_all(&text) else {
            warn!("the tracker's changelog has lines that are not understood");
            return Ok(());
        };
        for line in lines.iter().filter(|l| l.group == self.group) {
            match line.status {
                StorageStatus::Deleted => {
                    self.member_left(&line.id).await;
                    self.source_left(index, &line.id).await?;
                }
                StorageStatus::IpChanged => self.member_moved(&line.id, &line.new_id).await,
                _ => {}
            }
        }
        Ok(())
    }

    /// A member was removed from the group while this storage was away: it may have come again, and begins anew then. Of
    /// one that was known, its loop takes care.
    async fn member_left(&self, id: &StorageId) {
        if *id == self.identity.id || self.members.borrow().get(id).is_some() {
            return;
        }
        let use_ids = self.identity.parameters.use_storage_id;
        let Ok(ip) = (if use_ids { Ok(IpText::default()) } else { IpText::new(id.as_str()) }) else { return };
        let files = PeerFiles::new(self.service.binlog.dir(), id, &ip, self.port, use_ids);
        let retired = blocking::run(move || Ok(files.retire())).await;
        if retired.unwrap_or(false)
            && let Err(e) = self.member_lost(*id).await
        {
            warn!("{e}");
        }
    }

    /// A member was removed from the group. If it was to push the old files here and has not done so, another is asked for.
    async fn source_left(&self, index: usize, id: &StorageId) -> Result<(), End> {
        if id.is_none() || *id != self.init.get().sync_src_server {
            return Ok(());
        }
        // After a restart no list has come yet.
        let status = self.members.borrow().get(&self.identity.id).map(|m| m.status);
        let status = status.or_else(|| self.seat(index, |seat| seat.status).flatten());
        let complete = status.is_some_and(|status| status.code() >= StorageStatus::Offline.code());
        self.save(move |flag| {
            flag.sync_src_server = StorageId::NONE;
            flag.sync_old_done = complete;
        })
        .await;
        if complete {
            info!("{id}, which pushed the old files to this storage, has left the group");
            return Ok(());
        }
        warn!("{id} has left the group before it had pushed all old files to this storage; asking for another source");
        Err(End::Again)
    }

    /// A member has another address; without storage ids that is another id.
    async fn member_moved(&self, old: &StorageId, new: &StorageId) {
        if self.identity.parameters.use_storage_id || new.is_none() {
            return;
        }
        info!("{old} has the address {new} now");
        let (old, new, port) = (*old, *new, self.port);
        self.save(move |flag| {
            if flag.sync_src_server == old {
                flag.sync_src_server = new;
            }
        })
        .await;
        let dir = self.service.binlog.dir().to_owned();
        let moved = blocking::run(move || PeerFiles::rename(&dir, &old, &new, port)).await;
        if let Err(e) = moved {
            warn!("{e}; everything is compared with {new}");
        }
    }

    /// Takes in what a tracker says has changed in the group, when asked at the time `asked`.
    async fn take_changes(
        &self,
        index: usize,
        link: &mut Link,
        changes: MemberChanges,
        asked: Instant,
    ) -> Result<(), End> {
        if let Some(leader) = changes.leader {
            let known = self.config.trackers.iter().position(|t| {
                let has = |ip| Some(ip) == leader.ip.addr();
                t.port == leader.port && (has(t.ip) || t.other.is_some_and(has))
            });
            self.take_leader(known.filter(|_| !leader.is_none())).await;
        }
        let Some(list) = changes.members else {
            self.seat(index, |seat| seat.hear(None, asked));
            return Ok(());
        };
        if self.identity.parameters.storage_ip_changed_auto_adjust && self.members.borrow().moves(&list) {
            self.read_changelog(index, link).await?;
        }
        let mut merged = Merged::default();
        let leads = self.config.trackers.len() == 1 || *self.leader.lock() == Some(index);
        self.members.send_modify(|members| merged = members.merge(&list, &self.identity.id, leads));
        self.seat(index, |seat| seat.hear(merged.mine, asked));
        if merged.mine.is_some() {
            self.consider_active();
        }
        if !merged.differences.is_empty() {
            link.ask(Command::StorageReplicaChg, &ReplicaChange(merged.differences)).await?;
        }
        if leads {
            // Where the changelog is not read.
            for brief in list.iter().filter(|b| b.status == StorageStatus::Deleted) {
                self.source_left(index, &brief.id).await?;
            }
        }
        if merged.rejoin { Err(End::Again) } else { Ok(()) }
    }

    /// A follower that disagrees with the leader about our status is told, and joined anew.
    async fn settle_status(&self, index: usize, link: &mut Link) -> Result<(), End> {
        let leader = match *self.leader.lock() {
            Some(leader) if leader != index => leader,
            _ => return Ok(()),
        };
        let overruled = {
            let seats = self.seats.lock();
            seats.get(index).zip(seats.get(leader)).and_then(|(here, there)| here.overruled_by(there))
        };
        let Some(status) = overruled else { return Ok(()) };
        link.ask(Command::StorageChangeStatus, &ChangeStatus(status)).await?;
        Err(End::Again)
    }

    /// Something has changed in what trackers think of us. Why none uses us is said once.
    fn consider_active(&self) {
        let flag = self.init.get();
        let source = flag.sync_src_server;
        let source = (!source.is_none()).then(|| (source, self.members.borrow().get(&source).map(|m| m.status)));
        let standing = {
            let seats = self.seats.lock();
            self.active.set(seats.iter().any(Seat::is_used));
            Standing::of(&seats, *self.leader.lock(), source)
        };
        let before = std::mem::replace(&mut *self.standing.lock(), standing);
        if before == standing {
            return;
        }
        match standing {
            Standing::Joining => {}
            Standing::Used => info!("trackers use this storage: it is ACTIVE"),
            Standing::Waits(..) | Standing::Given(_) => info!("this storage is not ACTIVE: {standing}"),
            _ => warn!("this storage is not ACTIVE: {standing}"),
        }
    }
}
