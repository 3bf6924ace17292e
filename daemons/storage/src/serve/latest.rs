//! Which member has the last change of a file: asked of all others before a client changes it here, where that is not known.
//!
//! The member that was away when a file was changed may be asked for the next change before the first one is pushed to it;
//! and so may one that was not among those that got the last one of a member that is away now. Changes of two states of a
//! file cannot be joined: one of them would be lost. So a member changes an appender, or metadata that is there, only when
//! every other member that answers says that it has nothing later, and nothing that is still to be pushed here (SYNC_LATEST);
//! until then the change waits. What is later comes from who made it, never from others: these may lack what is here. The
//! answers hold until another member asks in its turn, or pushes a change of that file, and
//! for one term ([`Names::term`]): so mostly nobody need be asked. The name is held while others are asked, and whoever holds
//! a name tells others to come again, so that two who ask each other do not both go on.
//!
//! A member that cannot be reached or does not answer is passed over, so that the group goes on without it. It asks before
//! its next change, since its term is over by then, as a rule: it has stood still, joins a tracker again, cannot push, or is
//! pushed to over a new connection.
//!
//! [`Names::term`]: crate::names::Names::term

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fdfs_protocol::header::Header;
use fdfs_protocol::peer::latest::SyncLatest;
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{Command, RemoteName, Status};
use fdfs_server::{Dial, Link, LinkError};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::info::is_appender;
use super::{Done, Membership, Refusal, Service};
use crate::disk::dir::Meta;
use crate::names::Held;
use crate::net::Conn;
use crate::thread;

/// Longest wait for another member's answer. Longer than one that stands still may do so without noticing.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// Longest wait for a connection to one that is away, as trackers said last: it may be back.
const CONNECT_AWAY: Duration = Duration::from_millis(300);

/// Who did not answer is not waited for again so soon, and who does not know the question is not asked again.
const SILENT: Duration = Duration::from_secs(10);
const FOREIGN: Duration = Duration::from_secs(600);

/// Pause before the others are asked again, which doubles, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Who is asked waits so long for somebody who changes the file, so that its turn comes.
const TURN: Duration = Duration::from_millis(200);

/// Members that are not asked now. One that was away asks, or connects, before it changes anything.
#[derive(Debug, Default)]
pub struct Silent(Mutex<HashMap<IpAddr, Instant>>);

impl Silent {
    /// The member at this address is there.
    pub fn heard(&self, ip: IpAddr) {
        self.0.lock().remove(&ip.to_canonical());
    }

    fn is_silent(&self, ip: IpAddr) -> bool {
        self.0.lock().get(&ip.to_canonical()).is_some_and(|until| *until > Instant::now())
    }

    fn note(&self, ip: IpAddr, time: Duration) {
        self.0.lock().insert(ip.to_canonical(), Instant::now() + time);
    }
}

/// What comes of asking one member.
enum Answer {
    /// It has nothing later, or is not there.
    Nothing,
    /// It is not there, and is not to be waited for again for so long.
    Silent(Duration),
    /// The change has to wait.
    Wait(String),
}

impl Service {
    /// The right to change a file for a client, on top of its last change.
    ///
    /// # Errors
    /// `EAGAIN` when somebody else changes it, or a later change of another member does not come, for longer than a client
    /// would wait.
    pub(super) async fn hold_latest(&self, name: &RemoteName) -> Result<Held<'_>, Status> {
        let began = Instant::now();
        let patience = self.settings.patience();
        let mut pause = PAUSE;
        loop {
            let mut held = self.names.hold(name, patience.saturating_sub(began.elapsed())).await?;
            if held.is_latest() {
                return Ok(held);
            }
            let here = self.last_change(name)?;
            let Some(reason) = (match here {
                // There is nothing to change.
                None if !name.is_metadata() => None,
                here => self.ask(&mut held, name, here.unwrap_or_default()).await?,
            }) else {
                return Ok(held);
            };
            drop(held);
            if began.elapsed() + pause > patience {
                warn!("{name} is not changed: {reason}");
                return Err(Status::EAGAIN);
            }
            // Two that ask each other come at different times.
            sleep(pause.mul_f64(0.5 + (thread::random() % 1024) as f64 / 1024.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asked after a long wait, before the change is made: the file was as `before` when it was held.
    ///
    /// # Errors
    /// `EAGAIN` when another member has changed it meanwhile.
    pub(super) async fn still_latest(
        &self,
        held: &mut Held<'_>,
        name: &RemoteName,
        before: &Meta,
    ) -> Result<(), Status> {
        match self.ask(held, name, (before.mtime, before.size)).await? {
            None => Ok(()),
            Some(reason) => {
                warn!("{name} is not changed: {reason}");
                Err(Status::EAGAIN)
            }
        }
    }

    /// Asks the other members, unless it is known that none has a later change than the one of this time, unix seconds, and
    /// size; gives the reason if it has to wait.
    async fn ask(
        &self,
        held: &mut Held<'_>,
        name: &RemoteName,
        (changed, size): (i64, u64),
    ) -> Result<Option<String>, Status> {
        // Of others it will turn out that they cannot be changed.
        let is_mutable = is_appender(name) || name.is_metadata();
        if !is_mutable || held.is_latest() {
            return Ok(None);
        }
        let term = self.names.term();
        let Some(others) = self.others()? else {
            return Ok(Some("no tracker has said which members there are".to_owned()));
        };
        let question = SyncLatest { changed, size, name: *name };
        let mut asked = JoinSet::new();
        for (other, dial) in others {
            asked.spawn(async move { (other, ask(other, question, dial).await) });
        }
        let mut reason = None;
        while reason.is_none()
            && let Some(joined) = asked.join_next().await
        {
            match joined {
                Ok((_, Answer::Nothing)) => {}
                Ok((other, Answer::Silent(time))) => self.silent.note(other.ip(), time),
                Ok((_, Answer::Wait(text))) => reason = Some(text),
                Err(e) => reason = Some(e.to_string()),
            }
        }
        if reason.is_none() {
            held.set_latest(Some(term));
        }
        Ok(reason)
    }

    /// Where the members are, this one left out, and how to connect to each; `None` while that is not known.
    fn others(&self) -> Result<Option<Vec<(SocketAddr, Dial)>>, Status> {
        let Membership { id: me, alone, .. } = self.membership()?;
        let members = self.members.borrow();
        if !alone && members.get(me).is_none() {
            return Ok(None);
        }
        let others = members.iter().filter(|(id, _)| *id != me).filter_map(|(_, member)| {
            let connect = match member.status {
                StorageStatus::None | StorageStatus::Deleted | StorageStatus::IpChanged => return None,
                StorageStatus::Active => self.settings.dial.connect.min(ANSWER),
                _ => CONNECT_AWAY,
            };
            let at = SocketAddr::new(member.ip.addr()?, member.port);
            (!self.silent.is_silent(at.ip())).then_some((at, Dial { connect, answer: ANSWER, ..self.settings.dial }))
        });
        Ok(Some(others.collect()))
    }

    /// Time, unix seconds, and size of a file that is here; of metadata also the time of its removal. `None` if nothing is
    /// known of it.
    fn last_change(&self, name: &RemoteName) -> Result<Option<(i64, u64)>, Status> {
        let place = self.place(name)?;
        match place.try_on("look at", |p| p.dir().meta(&p.rel, true)) {
            Ok(meta) => Ok(Some((meta.mtime, meta.size))),
            Err(Status::ENOENT) if name.is_metadata() => Ok(self.deleted.time(name).map(|time| (time.into(), 0))),
            Err(Status::ENOENT) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Another member asks before it changes a file.
    pub(super) async fn tell_latest(&self, conn: &mut Conn<'_>) -> Done {
        let question = self.message(conn, SyncLatest::decode).await?;
        let (name, ip) = (&question.name, conn.peer().ip());
        if !is_appender(name) && !name.is_metadata() {
            return Err(Status::EINVAL.into());
        }
        self.silent.heard(ip);
        let mut held = self.names.hold(name, TURN).await?;
        let here = match self.last_change(name) {
            // A store path that is not here, or a disk that is broken: nobody changes the file here.
            Err(Status::EINVAL | Status::EIO) => None,
            other => other?,
        };
        let later = here.is_some_and(|(changed, size)| question.is_before(changed, size));
        // Nothing comes after the removal, or the new name, of an appender.
        let gone = here.is_none() && self.deleted.time(name).is_some();
        // Changes may be on their way that are not the last.
        let has = match held.recorded_before() {
            None if later || gone => Status::EAGAIN,
            before => timeout(ANSWER / 2, self.questions.has(ip, *name, before)).await.unwrap_or(Status::EAGAIN),
        };
        // Nobody pushes there now, and what was pushed before is not known to lack anything.
        let nothing_known = held.recorded_before().is_none() && !self.questions.pushes_to(ip);
        if !later && !gone && (has.is_ok() || nothing_known) {
            held.set_latest(None);
            drop(held);
            return Ok(conn.send(&Header::ok(0).encode()).await?);
        }
        self.questions.visited();
        Err(Refusal::Status(Status::EAGAIN))
    }

    /// A storage has connected to push here, and has said who it is. What it took while it did not push has not come.
    pub(super) fn heard_of(&self, ip: IpAddr) {
        let is_member =
            self.members.borrow().iter().any(|(_, m)| m.ip.addr().is_some_and(|at| at == ip.to_canonical()));
        if is_member {
            self.silent.heard(ip);
            self.names.begin_term();
            self.questions.visited();
        }
    }
}

async fn ask(other: SocketAddr, question: SyncLatest, dial: Dial) -> Answer {
    let answer = async {
        let mut link = Link::connect([other], dial).await?;
        link.ask(Command::SyncLatest, &question).await?;
        link.quit().await;
        Ok::<_, LinkError>(())
    };
    let error = match timeout(ANSWER, answer).await {
        Ok(Ok(())) => return Answer::Nothing,
        Ok(Err(e)) => e,
        Err(_) => LinkError::Io(io::ErrorKind::TimedOut.into()),
    };
    debug!("{}: {other} does not say that it has nothing later: {error}", question.name);
    match &error {
        LinkError::Status(Status::EINVAL, _) => Answer::Silent(FOREIGN),
        LinkError::Status(Status::EAGAIN, _) => {
            Answer::Wait(format!("{other} has a later change of it, or is changing it"))
        }
        LinkError::Io(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused => Answer::Nothing,
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Answer::Silent(SILENT)
            }
            // It is there, or this host is in trouble.
            _ => Answer::Wait(format!("{other} cannot be asked whether it has a later change of it: {e}")),
        },
        _ => Answer::Wait(format!("{other} does not say whether it has a later change of it: {error}")),
    }
}
