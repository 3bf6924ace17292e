//! The loop of one peer: waits until the peer can be pushed to, finds out where to begin, pushes until that ends, and
//! begins again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fdfs_protocol::datafile::SyncMark;
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{Status, StorageId};
use fdfs_server::LinkError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::aside::Aside;
use super::lane::Lane;
use super::lost::in_question;
use super::mark::{Mark, PeerFiles};
use super::pump::{Poison, Pump};
use super::reader::{Line, Reader};
use super::rules::{Step, is_old_data, step};
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

/// A storage that is not the source of a new member begins this many seconds before the member asked for its source:
/// clocks differ, and what comes twice is no harm.
const CLOCKS_DIFFER: i64 = 600;

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
    poison: Poison,
    /// As long as this process lives, so that pauses outlast a connection.
    aside: Option<Aside>,
    /// The peer was connected to since the last trouble.
    reached: bool,
    /// The peer has begun anew, and that was noted.
    anew: bool,
}

impl Peer {
    /// The loop of the member with this id.
    pub fn new(cluster: Arc<Cluster>, id: StorageId) -> Peer {
        Peer { cluster, id, poison: Poison::default(), aside: None, reached: false, anew: false }
    }

    /// Pushes until the peer leaves the group.
    pub async fn run(mut self) {
        let mut members = self.cluster.members.subscribe();
        let mut pause = PAUSE;
        let mut complained = false;
        while let Some(member) = self.wait(&mut members, true).await {
            let began = Instant::now();
            self.reached = false;
            let ended = self.push(&mut members, member).await;
            if self.reached && began.elapsed() > LONGEST_PAUSE {
                (pause, complained) = (PAUSE, false);
            }
            match ended {
                Ok(()) => continue,
                // Once for each time it worked: a peer may be away for days.
                Err(e) if !complained => warn!("replication to {}: {e}; trying again until it works", self.id),
                Err(e) => debug!("replication to {}: {e}", self.id),
            }
            complained = true;
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let known = self.cluster.members.borrow().get(&self.id).copied();
        if let Some(member) = known.filter(|m| matches!(m.status, StorageStatus::Deleted | StorageStatus::IpChanged)) {
            self.files(&member).retire();
            if member.status == StorageStatus::Deleted
                && let Err(e) = self.note_lost().await
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
        let use_ids = self.cluster.identity.parameters.use_storage_id;
        PeerFiles::new(self.cluster.service.binlog.dir(), &self.id, &member.ip, self.cluster.port, use_ids)
    }

    /// Pushes until the peer's status forbids it, or something is wrong.
    async fn push(&mut self, members: &mut watch::Receiver<Members>, member: Member) -> Result<(), Trouble> {
        let files = self.files(&member);
        if self.aside.as_ref().is_none_or(|aside| aside.path() != files.aside()) {
            let path = files.aside();
            self.aside = Some(blocking::run(move || Aside::open(path, Instant::now())).await?);
        }
        let mut mark = self.mark(&files, member.status).await?;
        // A storage that is not its source has nothing for a new member before that serves.
        let Some(member) = self.wait(members, mark.state.need_sync_old).await else { return Ok(()) };
        if let Some(hours) = self.cluster.config.sync_hours
            && let now = clock::local(clock::now()).second_of_day()
            && hours.left(now).is_none()
        {
            sleep(hours.wait(now).min(LOOK_AT_CLOCK)).await;
            return Ok(());
        }
        let ip: IpAddr = member.ip.addr().ok_or(Trouble::NoAddress)?;
        let addr = SocketAddr::new(ip, member.port);
        let connected = Lane::connect(self.cluster.service.clone(), addr, self.cluster.dial).await;
        let mut lane = connected.map_err(|e| Trouble::Connect(addr, e))?;
        lane.identify(self.cluster.identity.id).await.map_err(|_| Trouble::Broken(addr))?;
        self.reached = true;
        self.anew &= member.status != StorageStatus::Active;
        match member.status {
            StorageStatus::WaitSync => {
                info!("pushing the files of the group to {}, as its source", self.id);
                self.cluster.report_status(&self.id, StorageStatus::Syncing).await?;
            }
            // It was told before this process began, or not at all.
            StorageStatus::Syncing if mark.state.sync_old_done => {
                self.cluster.report_status(&self.id, StorageStatus::Offline).await?;
            }
            _ => {}
        }
        mark.save_later().await?;
        debug!("replication to {}: going on from {:?}", self.id, mark.progress());
        let Some(aside) = &mut self.aside else { return Ok(()) };
        Pump::new(self.cluster.clone(), self.id, addr, mark, aside, lane).run(members, &mut self.poison).await
    }

    /// Where to begin.
    async fn mark(&mut self, files: &PeerFiles, status: StorageStatus) -> Result<Mark, Trouble> {
        let known = Mark::load(files.mark()).map_err(|e| Trouble::Mark(format!("{e:#}")))?;
        if let Some(mut known) = known {
            let end = self.cluster.service.binlog.place();
            if known.progress().place > end {
                warn!(
                    "replication to {}: the binlog ends before what was pushed (was it removed?); pushing all of it",
                    self.id
                );
                known.advance(Progress { place: Place { file: 0, offset: 0 }, ..known.progress() });
            }
            match status {
                StorageStatus::Init | StorageStatus::WaitSync if self.anew => {}
                StorageStatus::Init | StorageStatus::WaitSync => {
                    self.note_lost().await?;
                    self.anew = true;
                }
                // It may have begun anew while this storage was away.
                StorageStatus::Syncing if !known.state.need_sync_old => {
                    if !self.ask_source().await?.need_sync_old {
                        return Ok(known);
                    }
                }
                _ => return Ok(known),
            }
        }
        let mut mark = Mark::new(files.mark(), self.ask_source().await?);
        if !is_old_data(&mark.state) && mark.state.until_timestamp > 0 {
            let from = mark.state.until_timestamp - CLOCKS_DIFFER;
            let place = self.first_since(from).await?;
            mark.state.binlog_index = place.file;
            mark.state.binlog_offset = place.offset;
        }
        Ok(mark)
    }

    /// The peer was a member, and has begun anew or left. What it pushed to some members only is looked for among them.
    async fn note_lost(&self) -> std::io::Result<()> {
        let span = in_question(self.cluster.service.synced.until(&self.id));
        self.cluster.service.lost.note(self.id, span).await
    }

    async fn ask_source(&self) -> Result<SyncMark, Trouble> {
        let source = self.cluster.sync_source(&self.id).await?.0;
        let need_sync_old = source.is_some_and(|s| s.source == self.cluster.identity.id);
        let until_timestamp = source.map_or(0, |s| s.until);
        Ok(SyncMark { need_sync_old, until_timestamp, ..SyncMark::default() })
    }

    /// The place of the first record that is not older.
    async fn first_since(&self, time: i64) -> Result<Place, Trouble> {
        let mut reader = Reader::new(self.cluster.service.binlog.clone(), Place { file: 0, offset: 0 });
        loop {
            let begin = reader.place();
            match reader.next().await? {
                Some((Line::Record(record), _)) if i64::from(record.timestamp) >= time => return Ok(begin),
                Some(_) => {}
                None => return Ok(begin),
            }
        }
    }
}
