//! What the push loops ask of trackers and tell them, on connections of their own.

use fdfs_protocol::peer::join::TrackerAddress;
use fdfs_protocol::peer::{Brief, GroupMember, ReportStatus, SyncSource};
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::tracker::TrackerStatus;
use fdfs_protocol::{Command, Encode, StorageId};
use fdfs_server::{Link, LinkError};
use tokio::time::{Duration, sleep, timeout};
use tracing::{debug, warn};

use super::session::Cluster;

/// Times a tracker is tried to be told a status.
const TRIES: u32 = 3;

/// The longest wait for an answer that keeps beats waiting.
const AT_ONCE: Duration = Duration::from_secs(2);

impl Cluster {
    /// The trackers, the leader first.
    fn leader_first(&self) -> Vec<TrackerAddress> {
        let mut trackers = self.config.trackers.clone();
        if let Some(leader) = *self.leader.lock()
            && leader < trackers.len()
        {
            trackers.swap(0, leader);
        }
        trackers
    }

    async fn ask_tracker(
        &self,
        tracker: &TrackerAddress,
        command: Command,
        message: &impl Encode,
    ) -> Result<Vec<u8>, LinkError> {
        let mut link = Link::connect(tracker.addrs(), self.dial).await?;
        let answer = link.ask(command, message).await;
        link.quit().await;
        answer
    }

    /// A tracker says who leads. When another one did, and still does, both are told to elect anew: they cannot reach each
    /// other, or one of them would have stepped down.
    pub(super) async fn take_leader(&self, told: Option<usize>) {
        let before = std::mem::replace(&mut *self.leader.lock(), told);
        let (Some(before), Some(told)) = (before, told) else { return };
        if before == told || !self.leads(before).await {
            return;
        }
        *self.leader.lock() = None;
        for index in [before, told] {
            let Some(tracker) = self.config.trackers.get(index) else { continue };
            warn!("tracker {tracker}: two trackers lead; telling it to elect anew");
            if let Err(e) = self.ask_at_once(tracker, Command::TrackerNotifyReselectLeader).await {
                debug!("tracker {tracker}: cannot tell it to elect anew: {e}");
            }
        }
    }

    /// Whether a tracker says that it leads; a tracker that says nothing does not.
    async fn leads(&self, index: usize) -> bool {
        let Some(tracker) = self.config.trackers.get(index) else { return false };
        let answer = self.ask_at_once(tracker, Command::TrackerGetStatus).await;
        answer.is_ok_and(|body| TrackerStatus::decode(&body).is_ok_and(|status| status.leader))
    }

    /// Asks something that beats wait for.
    async fn ask_at_once(&self, tracker: &TrackerAddress, command: Command) -> Result<Vec<u8>, LinkError> {
        match timeout(AT_ONCE, self.ask_tracker(tracker, command, &())).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Who pushes old data to a member, and up to which time.
    ///
    /// # Errors
    /// What the last tracker answered, when none told.
    pub async fn sync_source(&self, member: &StorageId) -> Result<SyncSource, LinkError> {
        let request = GroupMember { group: self.group, id: *member };
        let mut last = LinkError::Io(std::io::ErrorKind::NotConnected.into());
        for tracker in self.leader_first() {
            let command = Command::StorageSyncSrcReq;
            match self.ask_tracker(&tracker, command, &request).await {
                Ok(body) => {
                    return SyncSource::decode(&body).map_err(|e| LinkError::Malformed(e.to_string(), command));
                }
                Err(e) => {
                    debug!("tracker {tracker}: cannot tell the source of {member}: {e}");
                    last = e;
                }
            }
        }
        Err(last)
    }

    /// Tells every tracker the status of a member, and takes it as true here unless a tracker knows better by then.
    ///
    /// # Errors
    /// What the last tracker answered, when none took it.
    pub async fn report_status(&self, member: &StorageId, status: StorageStatus) -> Result<(), LinkError> {
        let Some(known) = self.members.borrow().get(member).copied() else { return Ok(()) };
        let brief = Brief { status, port: known.port, id: *member, ip: known.ip };
        let report = ReportStatus { group: self.group, brief };
        let mut taken = false;
        let mut last = LinkError::Io(std::io::ErrorKind::NotConnected.into());
        for tracker in self.leader_first() {
            for tried in 1..=TRIES {
                match self.ask_tracker(&tracker, Command::StorageReportStatus, &report).await {
                    Ok(_) => {
                        taken = true;
                        break;
                    }
                    Err(e @ LinkError::Io(_)) if tried < TRIES => {
                        debug!("tracker {tracker}: {e}");
                        sleep(Duration::from_secs(1)).await;
                        last = e;
                    }
                    Err(e) => {
                        warn!("tracker {tracker}: cannot tell it that {member} is {status}: {e}");
                        last = e;
                        break;
                    }
                }
            }
        }
        if !taken {
            return Err(last);
        }
        // What follows from it may have been told by one tracker while another could not be reached.
        self.members.send_if_modified(|members| members.change_status(member, known.status, status));
        Ok(())
    }
}
