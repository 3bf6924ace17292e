//! Which member has the last change of a file: asked of all others before a client changes it here, where that is not known.
//!
//! The member that was away when a file was changed may be asked for the next change before the first one is pushed to it;
//! and so may one that was not among those that got the last one of a member that is away now. Changes of two states of a
//! file cannot be joined: one of them would be lost. So a member changes an appender, or merges into metadata, only when no
//! other member that serves and answers has something later (SYNC_LATEST); until then the change waits. The answer holds
//! until another member asks in its turn, or pushes a change of that file, and for one term ([`Names::term`]): so mostly
//! nobody need be asked. The name is held while others are asked, and whoever holds a name tells others to come again, so
//! that two who ask each other do not both go on.
//!
//! A member that does not answer is passed over, so that the group goes on without it. It asks before its next change, since
//! its term is over: it has stood still, joins a tracker again, or is pushed to over a new connection.
//!
//! [`Names::term`]: crate::names::Names::term

use std::net::SocketAddr;
use std::time::Duration;

use fdfs_protocol::header::Header;
use fdfs_protocol::peer::latest::SyncLatest;
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{Command, RemoteName, Status};
use fdfs_server::{Dial, Link, LinkError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::info::is_appender;
use super::{Done, Membership, Refusal, Service};
use crate::clock::seconds;
use crate::names::Held;
use crate::net::Conn;
use crate::thread;

/// Longest wait for another member's answer. Longer than one that stands still may do so without noticing.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// The same of one that is away, as trackers said last: it may be back.
const ANSWER_AWAY: Duration = Duration::from_millis(300);

/// Pause before the others are asked again, which doubles, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What a member made comes by itself in that time, as a rule.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

impl Service {
    /// The right to change a file for a client, on top of its last change.
    ///
    /// # Errors
    /// `EAGAIN` when somebody else changes it, or a later change of another member does not come, for longer than a client
    /// would wait.
    pub(super) async fn hold_latest(&self, name: &RemoteName) -> Result<Held<'_>, Status> {
        let began = Instant::now();
        let mut pause = PAUSE;
        loop {
            let left = self.settings.timeout.saturating_sub(began.elapsed());
            let mut held = self.names.hold(name, left).await?;
            // Of others it will turn out that they cannot be changed.
            let is_mutable = is_appender(name) || name.is_metadata();
            if !is_mutable || held.is_latest() {
                return Ok(held);
            }
            let term = self.names.term();
            let (changed, size) = self.last_change(name)?;
            let question = SyncLatest { owed: began.elapsed() > ON_ITS_WAY, changed, size, name: *name };
            let later = match self.others()? {
                Some(others) => ask(&others, question, self.settings.dial).await,
                None => Some("no tracker has said which members there are".to_owned()),
            };
            let Some(later) = later else {
                held.set_latest(Some(term));
                return Ok(held);
            };
            drop(held);
            if began.elapsed() + pause > self.settings.patience() {
                warn!("{name} is not changed: {later}");
                return Err(Status::EAGAIN);
            }
            // Two that ask each other come at different times.
            sleep(pause.mul_f64(0.5 + (thread::random() % 1024) as f64 / 1024.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Where the members are that have served clients, this one left out, and how long to wait for each; `None` while that is
    /// not known.
    fn others(&self) -> Result<Option<Vec<(SocketAddr, Duration)>>, Status> {
        let Membership { id: me, alone, .. } = self.membership()?;
        let members = self.members.borrow();
        if !alone && members.get(me).is_none() {
            return Ok(None);
        }
        let others = members.iter().filter(|(id, _)| *id != me).filter_map(|(_, member)| {
            let patience = match member.status {
                StorageStatus::Active => ANSWER,
                StorageStatus::Offline | StorageStatus::Online => ANSWER_AWAY,
                _ => return None,
            };
            Some((SocketAddr::new(member.ip.addr()?, member.port), patience))
        });
        Ok(Some(others.collect()))
    }

    /// Time, unix seconds, and size of a file; zero if there is none.
    fn last_change(&self, name: &RemoteName) -> Result<(i64, u64), Status> {
        let place = self.place(name)?;
        match place.try_on("look at", |p| p.dir().meta(&p.rel, true)) {
            Ok(meta) => Ok((meta.mtime, meta.size)),
            Err(Status::ENOENT) => Ok((0, 0)),
            Err(status) => Err(status),
        }
    }

    /// Another member asks before it changes a file.
    pub(super) async fn tell_latest(&self, conn: &mut Conn<'_>) -> Done {
        let question = self.message(conn, SyncLatest::decode).await?;
        let Some(mut held) = self.names.try_hold(&question.name) else { return Err(Status::EAGAIN.into()) };
        let (changed, size) = self.last_change(&question.name)?;
        if !question.is_before(changed, size) {
            held.set_latest(None);
            return Ok(conn.send(&Header::ok(0).encode()).await?);
        }
        drop(held);
        self.questions.visited();
        if question.owed {
            // Whether it is kept in mind or not: the asker comes again.
            let owed = self.questions.owe(conn.peer().ip(), question.name, seconds(changed));
            let _ = timeout(ANSWER / 2, owed).await;
        }
        Err(Refusal::Status(Status::EAGAIN))
    }
}

/// Asks all at once; says of one that it has something later, if any does. Who does not know the question, or does not answer
/// in time, has nothing.
async fn ask(others: &[(SocketAddr, Duration)], question: SyncLatest, dial: Dial) -> Option<String> {
    let mut asked = JoinSet::new();
    for &(other, patience) in others {
        asked.spawn(async move {
            let answer = async {
                let mut link = Link::connect([other], dial).await?;
                link.ask(Command::SyncLatest, &question).await?;
                link.quit().await;
                Ok::<_, LinkError>(())
            };
            match timeout(patience, answer).await {
                Ok(Err(e)) if e.status() == Some(Status::EAGAIN) => {
                    return Some(format!("{other} has a later change of it, or is changing it"));
                }
                Ok(Err(e)) => debug!("{}: {other} does not say whether it has a later change: {e}", question.name),
                Err(_) => debug!("{}: {other} does not say whether it has a later change", question.name),
                Ok(Ok(())) => {}
            }
            None
        });
    }
    // The first that has something is enough; nobody else need be waited for.
    while let Some(joined) = asked.join_next().await {
        if let Ok(Some(later)) = joined {
            return Some(later);
        }
    }
    None
}
