//! The loop of one peer: waits until the peer can be pushed to, finds out where to begin, pushes until that ends, and
//! begins again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fdfs_protocol::datafile::SyncMark;
use fdfs_protocol::peer::SyncNotify;
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{Status, StorageId};
use fdfs_server::LinkError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::aside::Aside;
use super::lane::Lane;
use super::mark::{Mark, PeerFiles, Trails};
use super::pump::{Late, Poison, Pump};
use super::rules::{Step, step};
use super::window::Progress;
use crate::blocking;
use crate::clock;
use crate::disk::binlog::Place;
use crate::report::members::{Member, Members};
use crate::report::session::Cluster;

/// The first pause after trouble, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The clock is looked at this often outside the hours for pushing: somebody may set it.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

/// What a new member's source had of this storage is looked up for this many seconds before the member asked for its
/// source: clocks differ, and what comes twice is no harm.
const CLOCKS_DIFFER: i64 = 600;

/// The beginning of the binlog.
const BEGINNING: Place = Place { file: 0, offset: 0 };

/// Why pushing to a peer has stopped.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The peer cannot be connected to.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection broke.
    #[error("the connection to {0} broke")]
    Broken(SocketAddr),
    /// No tracker says what is needed.
    #[error("no tracker can be asked or told: {0}")]
    Tracker(#[from] LinkError),
    /// The binlog or the files about the peer.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
    /// A mark file that makes no sense.
    #[error("{0}")]
    Mark(String),
    /// The peer answers, but not what is hoped for.
    #[error("{0} answers with status {code}: {1}", code = .1.0)]
    Refused(SocketAddr, Status),
    /// The peer has no address.
    #[error("no address is known")]
    NoAddress,
}

/// A peer and its loop.
#[derive(Debug)]
pub struct Peer {
    cluster: Arc<Cluster>,
    id: StorageId,
    trails: Arc<Trails>,
    poison: Poison,
    /// As long as this process lives, so that pauses outlast a connection.
    aside: Option<Aside>,
    late: Late,
    /// The peer was connected to since the last trouble.
    reached: bool,
    /// The peer begins anew since it was given a source at this time, and what follows from that was noted.
    anew: Option<i64>,
}

impl Peer {
    /// The loop of the member with this id.
    pub fn new(cluster: Arc<Cluster>, id: StorageId, trails: Arc<Trails>) -> Peer {
        Peer {
            cluster,
            id,
            trails,
            poison: Poison::default(),
            aside: None,
            late: Late::new(),
            reached: false,
            anew: None,
        }
    }

    /// Pushes until the peer leaves the group.
    pub async fn run(mut self) {
        let mut members = self.cluster.members.subscribe();
        let mut pause = PAUSE;
        let mut complained = false;
        while let Some(member) = self.wait(&mut members, true).await {
            let began = Instant::now();
            self.reached = false;
            let ended = self.push(&mut members, member, complained).await;
            if self.reached && began.elapsed() > LONGEST_PAUSE {
                (pause, complained) = (PAUSE, false);
            }
            if self.reached {
                // From now on it may take changes without hearing of this storage.
                self.cluster.service.names.begin_term();
            }
            match ended {
                Ok(()) => continue,
                // Once for each time it worked: a peer may be away for days.
                Err(e) if !complained => warn!("replication to {}: {e}; trying again until it works", self.id),
                Err(e) => debug!("replication to {}: {e}", self.id),
            }
            complained = true;
            sleep(PAUSE).await;
            // It may be back.
            let _ = timeout(pause - PAUSE, self.cluster.service.questions.visit()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let known = self.cluster.members.borrow().get(&self.id).copied();
        if let Some(member) = known.filter(|m| matches!(m.status, StorageStatus::Deleted | StorageStatus::IpChanged)) {
            self.files(&member).retire();
            if member.status == StorageStatus::Deleted
                && let Err(e) = self.cluster.member_lost(self.id).await
            {
                warn!("{e}");
            }
            // From here on it is as a storage that was never heard of: it may come again, and begins anew then.
            let forget = |members: &mut Members| members.change_status(&self.id, member.status, StorageStatus::None);
            self.cluster.members.send_if_modified(forget);
        }
    }

    /// Waits until the peer can be pushed to; `None` when it has left.
    async fn wait(&self, members: &mut watch::Receiver<Members>, old_data: bool) -> Option<Member> {
        loop {
            let member = members.borrow_and_update().get(&self.id).copied();
            match step(member.map(|m| m.status), old_data) {
                Step::Push => return member,
                Step::End => return None,
                Step::Wait => members.changed().await.ok()?,
            }
        }
    }

    fn files(&self, member: &Member) -> PeerFiles {
        self.files_of(&self.id, member)
    }

    fn files_of(&self, id: &StorageId, member: &Member) -> PeerFiles {
        let use_ids = self.cluster.identity.parameters.use_storage_id;
        PeerFiles::new(self.cluster.service.binlog.dir(), id, &member.ip, self.cluster.port, use_ids)
    }

    /// Pushes until the peer's status forbids it, or something is wrong.
    ///
    /// `complained`: it has been said that something is wrong.
    async fn push(
        &mut self,
        members: &mut watch::Receiver<Members>,
        member: Member,
        complained: bool,
    ) -> Result<(), Trouble> {
        let files = self.files(&member);
        if self.aside.as_ref().is_none_or(|aside| aside.path() != files.aside()) {
            let path = files.aside();
            self.aside = Some(blocking::run(move || Aside::open(path, Instant::now())).await?);
        }
        // What trackers say of a member after it is connected to holds for the process that answers here.
        let early = match member.status {
            StorageStatus::Active => match self.connect(&member).await? {
                None => return Ok(()),
                lane => lane,
            },
            _ => None,
        };
        // Asked whatever the status is: the peer may have left, or lost its disks, and come back while this storage was
        // away, or could not hear the trackers. FastDFS's trackers, too, answer it for members that serve.
        let source = self.cluster.sync_source(&self.id).await?.0;
        let mut mark = self.mark(&files, member.status, source).await?;
        // Kept before it is used: where to begin is found out while the member is new, and holds when it serves.
        mark.save_later().await?;
        // A storage that is not its source has nothing for a new member before that serves. Who its source is may change
        // with everything that is told of it.
        if step(Some(member.status), mark.state.need_sync_old) != Step::Push {
            // Who answered may know less than another tracker: asked again when nothing is heard.
            let _ = timeout(self.cluster.config.heart_beat_interval, members.changed()).await;
            return Ok(());
        }
        let Some((addr, lane)) = (match early {
            None => self.connect(&member).await?,
            lane => lane,
        }) else {
            return Ok(());
        };
        self.anew = self.anew.filter(|_| member.status != StorageStatus::Active);
        match member.status {
            StorageStatus::WaitSync => {
                info!("pushing the files of the group to {}, as its source", self.id);
                self.cluster.report_status(&self.id, StorageStatus::Syncing).await?;
            }
            // It was told before this process began, or not at all. It may have another source since.
            StorageStatus::Syncing
                if mark.state.sync_old_done && source.is_none_or(|s| s.source == self.cluster.identity.id) =>
            {
                self.cluster.report_status(&self.id, StorageStatus::Offline).await?;
            }
            _ => {}
        }
        if complained {
            info!("replication to {}: works again", self.id);
        }
        debug!("replication to {}: going on from {:?}", self.id, mark.progress());
        let Some(aside) = &mut self.aside else { return Ok(()) };
        let kept = (aside, &mut self.late);
        Pump::new(self.cluster.clone(), self.id, addr, mark, kept, lane).run(members, &mut self.poison).await
    }

    /// Connects to the peer; `None` outside the hours for pushing, after a while.
    async fn connect(&mut self, member: &Member) -> Result<Option<(SocketAddr, Lane)>, Trouble> {
        if let Some(hours) = self.cluster.config.sync_hours
            && let now = clock::local(clock::now()).second_of_day()
            && hours.left(now).is_none()
        {
            sleep(hours.wait(now).min(LOOK_AT_CLOCK)).await;
            return Ok(None);
        }
        let ip: IpAddr = member.ip.addr().ok_or(Trouble::NoAddress)?;
        let addr = SocketAddr::new(ip, member.port);
        let connected = Lane::connect(self.cluster.service.clone(), addr, self.cluster.dial).await;
        let mut lane = connected.map_err(|e| Trouble::Connect(addr, e))?;
        lane.identify(self.cluster.identity.id).await.map_err(|_| Trouble::Broken(addr))?;
        self.reached = true;
        self.cluster.service.silent.heard(ip);
        Ok(Some((addr, lane)))
    }

    /// Where to go on, or to begin.
    async fn mark(
        &mut self,
        files: &PeerFiles,
        status: StorageStatus,
        source: Option<SyncNotify>,
    ) -> Result<Mark, Trouble> {
        let known = {
            let (path, trails) = (files.mark(), self.trails.clone());
            blocking::run(move || Ok(Mark::load(path, trails))).await?
        };
        let known = known.map_err(|e| Trouble::Mark(format!("{e:#}")))?;
        let is_source = source.is_some_and(|s| s.source == self.cluster.identity.id);
        let waits = matches!(status, StorageStatus::Init | StorageStatus::WaitSync);
        let until = known.as_ref().map(|m| m.state.until_timestamp);
        // No source is no evidence: trackers forget one that is gone.
        let begins_anew = until.is_some_and(|until| source.is_some_and(|s| s.until > until));
        let life = source.map_or(0, |s| s.until);
        if let Some(mut known) = known {
            let goes_on = match status {
                _ if begins_anew => false,
                // One that is put back to waiting for the old files begins anew, for this storage if that is, or was, its
                // source; others go on.
                _ if waits => !is_source && source.is_some() && !known.state.sync_old_done,
                StorageStatus::Syncing => known.state.need_sync_old || !is_source,
                _ => true,
            };
            if goes_on {
                if waits {
                    self.anew = self.anew.max(Some(life));
                }
                if known.progress().place > self.cluster.service.binlog.place() {
                    warn!(
                        "replication to {}: the binlog ends before what was pushed (was it removed?); pushing all of it",
                        self.id
                    );
                    known.advance(Progress { place: BEGINNING, ..known.progress() });
                } else {
                    known.leave_trail();
                }
                return Ok(known);
            }
            // It may have served, and been lost again, while it was pushed to.
            if self.anew.is_none_or(|known| life > known) {
                info!("{} has begun anew since something was pushed to it", self.id);
                self.cluster.member_lost(self.id).await?;
            }
        }
        if waits || begins_anew {
            self.anew = self.anew.max(Some(life));
        }
        let serves = !waits && status != StorageStatus::Syncing;
        let state = SyncMark {
            need_sync_old: is_source && !(serves && begins_anew),
            // A mark that says less than the one before would be found outdated again.
            until_timestamp: source.map_or(0, |s| s.until).max(until.unwrap_or(0)),
            ..SyncMark::default()
        };
        let mut mark = Mark::new(files.mark(), state, self.trails.clone());
        // One that has been given a source unseen is given all of this storage's changes, and no others, from the
        // beginning: what the source had of them at that time is not known.
        if let Some(source) = source.filter(|_| !is_source && (waits || until.is_none())) {
            let place = self.taken_over(&source).await?;
            mark.advance(Progress { place, ..mark.progress() });
        }
        Ok(mark)
    }

    /// Before which place in the binlog the changes made here come to a new member from its source: those that the source
    /// had when it was chosen. What it had not is old data by then, and nobody else's to push.
    async fn taken_over(&mut self, source: &SyncNotify) -> Result<Place, Trouble> {
        let Some(member) = self.cluster.members.borrow().get(&source.source).copied() else { return Ok(BEGINNING) };
        let files = self.files_of(&source.source, &member);
        let now = Instant::now();
        // These need not be changes made here, nor come after any place.
        let path = files.aside();
        let of_source = blocking::run(move || Aside::open(path, now)).await?;
        if let Some(aside) = &mut self.aside {
            for (name, cause) in of_source.names() {
                if aside.contains(&name) {
                    continue;
                }
                aside.add(name, cause, now)?;
            }
            aside.sync().await?;
        }
        // It may be later than any clock: each beginning of a member has a later time than the one before.
        let chosen = source.until.min(clock::now());
        Ok(self.trails.at(&files.mark(), chosen - CLOCKS_DIFFER).unwrap_or(BEGINNING))
    }
}
