//! Which member has the last change of a file: asked of all others before a client changes it here, where that is not known.
//!
//! The member that was away when a file was changed may be asked for the next change before the first one is pushed to it;
//! and so may one that was not among those that got the last one of a member that is away now. Changes of two states of a
//! file cannot be joined: one of them would be lost. So a member changes an appender, or metadata that is there, only when
//! every other member that answers says that it has nothing later, and nothing that is still to be pushed here (SYNC_LATEST);
//! until then the change waits. What is later comes from who made it, never from others: these may lack what is here. The
//! answers hold until another member asks in its turn, or pushes a change of that file, and
//! for one term ([`Names::term`]): so mostly nobody need be asked. The name is held while others are asked, and whoever holds
//! a name tells others to come again, so that two who ask each other do not both go on. Who does not have to ask lets those
//! go first that do ([`Names::wish`]): otherwise they would find something later each time.
//!
//! Times may differ where content does not: FastDFS's members give one change several times, and files are copied back. Who
//! waits in vain therefore tells the checksum, too, and takes the later time if the content is the same.
//!
//! A member that cannot be reached or does not answer is passed over ([`Silent`](crate::silent::Silent)), so that the group
//! goes on without it, unless it pushes changes of that file itself: before it is passed over the name is let go for a moment,
//! for these. It asks before its next change, since its term is over by then, as a rule: it has stood still, joins a tracker
//! again, cannot push, or is pushed to over a new connection.
//!
//! [`Names::term`]: crate::names::Names::term
//! [`Names::wish`]: crate::names::Names::wish

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use fdfs_protocol::binlog::Origin;
use fdfs_protocol::header::Header;
use fdfs_protocol::peer::latest::SyncLatest;
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{Command, RemoteName, Status};
use fdfs_server::{Dial, Link, LinkError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::info::is_appender;
use super::{Done, Membership, Refusal, Service};
use crate::clock;
use crate::disk::dir::{self, Meta};
use crate::names::{Held, Term};
use crate::net::Conn;
use crate::silent::{LET_GO, Turn};
use crate::thread;

/// Longest wait for another member's answer: what that takes to find one, and as long as it may stand still without noticing.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// Of a connection or answer: [`ANSWER`] is the limit for both.
const UNTIMED: Duration = Duration::from_secs(3600);

/// Who is asked answers by then.
const FOUND: Duration = Duration::from_secs(1);

/// Longest wait for a connection to one that is away, as trackers said last: it may be back.
const CONNECT_AWAY: Duration = Duration::from_millis(300);

/// Pause before the others are asked again, which doubles, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Who is asked waits so long for somebody who changes the file, so that its turn comes.
const TURN: Duration = Duration::from_millis(200);

/// Who has waited so long looks whether only the times differ.
const LOOK: Duration = Duration::from_secs(1);

/// Why a file is not changed now.
struct Wait {
    reason: String,
    /// Nothing speaks against it but that members did not answer, which are passed over soon.
    silent: bool,
}

impl Wait {
    fn silent(member: SocketAddr) -> Wait {
        Wait { reason: format!("{member} does not answer"), silent: true }
    }
}

impl From<String> for Wait {
    fn from(reason: String) -> Wait {
        Wait { reason, silent: false }
    }
}

/// What a request remembers from one time it asks to the next.
struct Asking {
    began: Instant,
    has_asked: bool,
    /// The checksum of what was here, if it could be told, and when that was looked at.
    looked: Option<(Last, Option<u32>, Instant)>,
}

impl Asking {
    fn new() -> Asking {
        Asking { began: Instant::now(), has_asked: false, looked: None }
    }
}

/// What is known here of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Last {
    /// When it was changed last, unix seconds; of metadata also when it was removed.
    changed: i64,
    /// Its size in bytes.
    size: u64,
    is_here: bool,
}

/// The other members, as they are to be asked.
struct Others {
    /// Where they are, and how to connect to each.
    asked: Vec<(SocketAddr, Dial)>,
    /// One that was found silent, and may push in this moment.
    awaited: Option<SocketAddr>,
    /// From before anybody is asked.
    term: Term,
}

fn awaits(others: &Option<Others>) -> Option<Wait> {
    others.as_ref()?.awaited.map(Wait::silent)
}

/// What comes of asking one member.
enum Answer {
    /// It has nothing later, or is not there.
    Nothing,
    /// It has the same, with this time, unix seconds.
    Same(i64),
    /// It is silent, and is not to be waited for again so soon.
    Silent,
    /// It does not know the question.
    Foreign,
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
        let mut asking = Asking::new();
        let patience = self.settings.patience();
        let mut pause = PAUSE;
        loop {
            let mut held = self.names.hold(name, patience.saturating_sub(asking.began.elapsed())).await?;
            let is_over = asking.began.elapsed() + pause > patience;
            let wait = match held.is_latest() {
                true if held.is_wished() && !is_over => Some("another member is to change it first".to_owned().into()),
                true => None,
                false => self.ask_again(&mut held, name, &mut asking).await?,
            };
            let Some(Wait { reason, silent }) = wait else { return Ok(held) };
            drop(held);
            let elapsed = asking.began.elapsed();
            if silent && elapsed <= patience + self.settings.timeout / 8 {
                sleep(LET_GO).await;
                continue;
            }
            if elapsed + pause > patience {
                warn!("{name} is not changed: {reason}");
                return Err(Status::EAGAIN);
            }
            // Two that ask each other come at different times.
            sleep(pause.mul_f64(0.5 + (thread::random() % 1024) as f64 / 1024.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks the others about what is here now; says why, if it has to wait.
    async fn ask_again(
        &self,
        held: &mut Held<'_>,
        name: &RemoteName,
        asking: &mut Asking,
    ) -> Result<Option<Wait>, Status> {
        if !is_mutable(name) {
            // It will turn out that it cannot be changed.
            return Ok(None);
        }
        let here = match self.last_change(name)? {
            // There is nothing to change.
            None if !name.is_metadata() => return Ok(None),
            here => here.unwrap_or_default(),
        };
        // What a silent member pushes is not held up by a look.
        if let Some(wait) = awaits(&self.others(name)?) {
            return Ok(Some(wait));
        }
        let patience = self.settings.patience() + self.settings.timeout / 8;
        let left = || patience.saturating_sub(asking.began.elapsed());
        let is_looked_at = asking
            .looked
            .is_some_and(|(last, _, at)| last == here && held.pushed_ago().is_none_or(|ago| ago > at.elapsed()));
        if asking.began.elapsed() > LOOK && !is_looked_at {
            let at = Instant::now();
            asking.looked = Some((here, self.look(held, name, here, ANSWER.min(left())).await?, at));
        }
        let crc32 = asking.looked.filter(|(last, ..)| *last == here).and_then(|(_, crc32, _)| crc32);
        let others = self.others(name)?;
        if let Some(wait) = awaits(&others) {
            return Ok(Some(wait));
        }
        let asked = self.ask(held, name, here, crc32, others);
        // It is found out once who does not answer.
        if !std::mem::replace(&mut asking.has_asked, true) {
            return asked.await;
        }
        let wait = timeout(left(), asked).await;
        wait.unwrap_or_else(|_| Ok(Some("others do not answer in time".to_owned().into())))
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
        if !is_mutable(name) || held.is_latest() {
            return Ok(());
        }
        let here = Last { changed: before.mtime, size: before.size, is_here: true };
        let others = self.others(name)?;
        match self.ask(held, name, here, None, others).await? {
            None | Some(Wait { silent: true, .. }) => Ok(()),
            Some(Wait { reason, .. }) => {
                warn!("{name} is not changed: {reason}");
                Err(Status::EAGAIN)
            }
        }
    }

    /// The checksum of what is here, if that can be told soon.
    async fn look(
        &self,
        held: &Held<'_>,
        name: &RemoteName,
        here: Last,
        patience: Duration,
    ) -> Result<Option<u32>, Status> {
        if !here.is_here {
            return Ok(None);
        }
        let file = self.place(name)?.try_on("open", |p| p.dir().open_read(&p.rel))?;
        match self.checksum_held(held, patience, file, here.size).await {
            Err(Status::EAGAIN) => Ok(None),
            told => told.map(Some),
        }
    }

    /// Asks these members whether they have a later change than this one; says why, if it has to wait.
    async fn ask(
        &self,
        held: &mut Held<'_>,
        name: &RemoteName,
        here: Last,
        crc32: Option<u32>,
        others: Option<Others>,
    ) -> Result<Option<Wait>, Status> {
        let Some(others) = others else {
            return Ok(Some("no tracker has said which members there are".to_owned().into()));
        };
        let Last { changed, size, .. } = here;
        let question = SyncLatest { asker: self.membership()?.id, changed, size, crc32, name: *name };
        let mut same_at = changed;
        let (began, mut asked) = (Instant::now(), JoinSet::new());
        for (other, dial) in others.asked {
            asked.spawn(async move { (other, ask(other, question, dial).await) });
        }
        let (mut wait, mut silent) = (None, None);
        while wait.is_none()
            && let Some(joined) = asked.join_next().await
        {
            match joined {
                Ok((_, Answer::Nothing)) => {}
                Ok((_, Answer::Same(at))) => same_at = same_at.max(at),
                Ok((other, Answer::Foreign)) => self.silent.note_foreign(other),
                Ok((other, Answer::Silent)) => {
                    self.silent.note(other, name, began);
                    silent = Some(Wait::silent(other));
                }
                Ok((_, Answer::Wait(reason))) => wait = Some(reason.into()),
                Err(e) => wait = Some(e.to_string().into()),
            }
        }
        let wait = wait.or(silent);
        if wait.is_none() {
            if same_at > changed {
                self.take_time(name, here, same_at)?;
            }
            held.set_latest(others.awaited.is_none().then_some(others.term));
        }
        Ok(wait)
    }

    /// What is here is another member's as well, with this later time; or metadata is at neither, and the other one knows of
    /// its removal at this time. What follows must be later.
    fn take_time(&self, name: &RemoteName, here: Last, time: i64) -> Result<(), Status> {
        if !here.is_here {
            self.deleted.add(name, clock::seconds(time));
            return Ok(());
        }
        info!("{name} has a later time at another member, and the same content: takes that time");
        self.place(name)?.try_on("set the time of", |p| {
            dir::set_mtime(&p.dir().open_write(&p.rel)?, clock::seconds(time), Origin::Replica)
        })
    }

    /// Whom to ask about this file; `None` while it is not known which members there are.
    fn others(&self, name: &RemoteName) -> Result<Option<Others>, Status> {
        let mut others = Others { asked: Vec::new(), awaited: None, term: self.names.term() };
        let Membership { id: me, alone, .. } = self.membership()?;
        let members = self.members.borrow();
        if !alone && members.get(me).is_none() {
            return Ok(None);
        }
        for (_, member) in members.iter().filter(|(id, _)| *id != me) {
            let connect = match member.status {
                StorageStatus::None | StorageStatus::Deleted | StorageStatus::IpChanged => continue,
                StorageStatus::Active => UNTIMED,
                _ => CONNECT_AWAY,
            };
            let Some(ip) = member.ip.addr() else { continue };
            let at = SocketAddr::new(ip.to_canonical(), member.port);
            match self.silent.turn(at, name) {
                Turn::Ask => others.asked.push((at, Dial { connect, answer: UNTIMED, ..self.settings.dial })),
                Turn::Wait => others.awaited = Some(at),
                Turn::PassOver => {}
            }
        }
        Ok(Some(others))
    }

    /// The last change of a file, of metadata also its removal; `None` if nothing is known of it.
    fn last_change(&self, name: &RemoteName) -> Result<Option<Last>, Status> {
        let place = self.place(name)?;
        match place.try_on("look at", |p| p.dir().meta(&p.rel, true)) {
            Ok(meta) => Ok(Some(Last { changed: meta.mtime, size: meta.size, is_here: true })),
            Err(Status::ENOENT) if name.is_metadata() => {
                Ok(self.deleted.time(name).map(|time| Last { changed: time.into(), size: 0, is_here: false }))
            }
            Err(Status::ENOENT) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Another member asks before it changes a file.
    pub(super) async fn tell_latest(&self, conn: &mut Conn<'_>) -> Done {
        let question = self.message(conn, SyncLatest::decode).await?;
        let (name, ip) = (&question.name, conn.peer().ip());
        if !is_mutable(name) {
            return Err(Status::EINVAL.into());
        }
        self.hears(ip);
        let began = Instant::now();
        let mut held = self.names.hold(name, TURN).await.inspect_err(|_| self.names.wish(name))?;
        let here = match self.last_change(name) {
            // A store path that is not here, or a disk that is broken: nobody changes the file here.
            Err(Status::EINVAL | Status::EIO) => None,
            other => other?,
        };
        let later = here.is_some_and(|here| question.is_before(here.changed, here.size));
        // Nothing comes after the removal, or the new name, of an appender.
        let gone = here.is_none() && is_appender(name) && self.deleted.time(name).is_some();
        // Changes may be on their way that are not the last.
        let before = held.recorded_before();
        let has = timeout(FOUND / 2, self.questions.has(&question.asker, *name, before));
        let has = has.await.unwrap_or(Status::EAGAIN).is_ok();
        // Nobody pushes there now, and what was pushed before is not known to lack anything.
        let nothing_known = before.is_none() && !self.questions.pushes_to(&question.asker);
        let same_at = match here {
            _ if gone || !(has || nothing_known) => None,
            Some(here) if later => self.same_at(&held, &question, here, FOUND.saturating_sub(began.elapsed())).await,
            _ => Some(Vec::new()),
        };
        let Some(answer) = same_at else {
            if held.is_latest() {
                self.names.wish(name);
            }
            self.questions.visited();
            return Err(Refusal::Status(Status::EAGAIN));
        };
        held.grant();
        drop(held);
        Ok(conn.send(&[&Header::ok(answer.len() as u64).encode()[..], &answer].concat()).await?)
    }

    /// The answer to one that has the same with an earlier time.
    async fn same_at(&self, held: &Held<'_>, question: &SyncLatest, here: Last, patience: Duration) -> Option<Vec<u8>> {
        let is_same = match here.is_here {
            true => {
                let told = question.crc32.filter(|_| here.size == question.size)?;
                self.look(held, &question.name, here, patience).await.ok()?? == told
            }
            // Metadata that is at neither: of the removals one may be forgotten.
            false => question.size == 0,
        };
        is_same.then(|| SyncLatest::answer(here.changed).to_vec())
    }

    /// A storage has connected to push here, and has said who it is. What it took while it did not push has not come.
    pub(super) fn heard_of(&self, ip: IpAddr) {
        if self.hears(ip) {
            self.names.begin_term();
            self.questions.visited();
        }
    }

    /// Whether there is a member at this address: it is there.
    fn hears(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_member =
            self.members.borrow().iter().any(|(_, m)| m.ip.addr().is_some_and(|at| at.to_canonical() == ip));
        if is_member {
            self.silent.heard(ip);
        }
        is_member
    }
}

/// Whether clients change what has such a name: then it is asked about.
pub(super) fn is_mutable(name: &RemoteName) -> bool {
    is_appender(name) || name.is_metadata()
}

async fn ask(other: SocketAddr, question: SyncLatest, dial: Dial) -> Answer {
    let mut answer = pin!(async {
        let mut link = Link::connect([other], dial).await?;
        let same_at = link.ask_for(Command::SyncLatest, &question, SyncLatest::decode_answer).await?;
        link.quit().await;
        Ok::<_, LinkError>(same_at)
    });
    let mut answered = None;
    // In parts: if this member stands still for longer than that, it is one of them only.
    for _ in 0..3 {
        if let Ok(answer) = timeout(ANSWER / 3, &mut answer).await {
            answered = Some(answer);
            break;
        }
    }
    let error = match answered {
        Some(Ok(None)) => return Answer::Nothing,
        Some(Ok(Some(time))) => return Answer::Same(time),
        Some(Err(e)) => e,
        None => LinkError::Io(io::ErrorKind::TimedOut.into()),
    };
    debug!("{}: {other} does not say that it has nothing later: {error}", question.name);
    match &error {
        LinkError::Status(Status::EINVAL, _) => Answer::Foreign,
        LinkError::Status(Status::EAGAIN, _) => {
            Answer::Wait(format!("{other} has a later change of it, or is changing it"))
        }
        LinkError::Io(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused => Answer::Nothing,
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Answer::Silent
            }
            // It is there, or this host is in trouble.
            _ => Answer::Wait(format!("{other} cannot be asked whether it has a later change of it: {e}")),
        },
        _ => Answer::Wait(format!("{other} does not say whether it has a later change of it: {error}")),
    }
}
