//! Records into lanes: what runs while a peer takes pushes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fdfs_protocol::binlog::{Change, Record};
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{RemoteName, Status, StorageId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::account::{Scope, Span};
use super::aside::{self, Aside, Cause};
use super::compare::{Known, Question, Word};
use super::lane::{Lane, Outcome};
use super::mark::Mark;
use super::peer::Trouble;
use super::reader::{Line, Reader};
use super::rules::{Step, is_old_data, is_wanted, names, step};
use super::turns::{Turn, Turns};
use super::window::{Progress, Ticket, Window};
use crate::acks::Reached;
use crate::blocking;
use crate::clock;
use crate::disk::binlog::Place;
use crate::net::Gone;
use crate::report::members::Members;
use crate::report::session::Cluster;

/// A position that has moved is saved at least this often.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Breaks of the connection during the same push before that is set aside.
const POISONED: u32 = 5;

/// Alarms about a peer that cannot take changes come no more often than this.
const ALARM_EVERY: Duration = Duration::from_secs(10);

/// How often the log tells how far a full sync has come.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The push during which the connection broke, and how many times in a row.
#[derive(Debug, Default)]
pub struct Poison {
    at: Option<Place>,
    times: u32,
}

impl Poison {
    /// Counts a break; true if it is the push that breaks the connection.
    fn broke(&mut self, at: Place) -> bool {
        self.times = if self.at == Some(at) { self.times + 1 } else { 1 };
        self.at = Some(at);
        self.times >= POISONED
    }
}

/// Names that were set aside, and where the records of their changes end that somebody may wait for.
pub type Late = Vec<(RemoteName, Place)>;

#[derive(Debug)]
enum Job {
    Record(Record, Ticket, Place),
    /// What is set aside, and where the records of changes end that come with it, as far as somebody waits for them.
    Aside(RemoteName, Cause, Vec<Place>),
}

struct Finished {
    number: usize,
    lane: Option<Lane>,
    job: Job,
    result: Result<Outcome, Lost>,
}

/// Why a job has no outcome.
enum Lost {
    /// There was no connection for it.
    Unconnected(io::Error),
    /// The connection broke meanwhile.
    Broken,
}

impl Lost {
    fn trouble(self, addr: SocketAddr) -> Trouble {
        match self {
            Lost::Unconnected(e) => Trouble::Connect(addr, e),
            Lost::Broken => Trouble::Broken(addr),
        }
    }
}

impl From<Gone> for Lost {
    fn from(_: Gone) -> Lost {
        Lost::Broken
    }
}

/// Nothing more can be begun before a push ends or this time, which is to come.
enum Idle {
    /// Or until the binlog grows: all of it was read.
    End(Option<Instant>),
    Until(Option<Instant>),
}

/// The state of pushing to one peer.
pub struct Pump<'a> {
    cluster: Arc<Cluster>,
    id: StorageId,
    addr: SocketAddr,
    mark: Mark,
    aside: &'a mut Aside,
    window: Window,
    reader: Reader,
    /// Idle lanes by number; `None` for one that carries something or was never connected.
    lanes: Vec<Option<Lane>>,
    turns: Turns,
    jobs: JoinSet<Finished>,
    /// Names that are being reconciled.
    reconciling: Vec<RemoteName>,
    /// Changes that were set aside, and that somebody may wait for.
    late: &'a mut Late,
    /// Read, and not admitted yet.
    next: Option<(Record, Place)>,
    save_at: Option<Instant>,
    alarm_at: Instant,
    tell_at: Instant,
    /// What the peer lets this loop know.
    words: mpsc::Receiver<Word>,
    /// As long as this lives, changes may wait for the peer to have them.
    _reached: Option<Reached>,
}

impl<'a> Pump<'a> {
    /// Goes on from `mark` over `first`, and more lanes as there is work for them.
    pub fn new(
        cluster: Arc<Cluster>,
        id: StorageId,
        addr: SocketAddr,
        mark: Mark,
        (aside, late): (&'a mut Aside, &'a mut Late),
        first: Lane,
    ) -> Pump<'a> {
        let reader = Reader::new(cluster.service.binlog.clone(), mark.progress().place);
        let mut lanes: Vec<_> = (0..cluster.config.sync_threads.max(1)).map(|_| None).collect();
        lanes[0] = Some(first);
        let turns = Turns::new(lanes.len(), cluster.config.sync_interval, Instant::now());
        Pump {
            words: cluster.service.questions.of(id, addr.ip()),
            _reached: cluster.service.acks.as_ref().map(|acks| acks.reach()),
            window: Window::new(mark.progress()),
            reader,
            lanes,
            cluster,
            id,
            addr,
            mark,
            aside,
            turns,
            jobs: JoinSet::new(),
            reconciling: Vec::new(),
            late,
            next: None,
            save_at: None,
            alarm_at: Instant::now(),
            tell_at: Instant::now() + TELL_EVERY,
        }
    }

    /// Pushes until the peer's status changes to one that forbids it.
    ///
    /// # Errors
    /// What keeps it from going on.
    pub async fn run(mut self, members: &mut watch::Receiver<Members>, poison: &mut Poison) -> Result<(), Trouble> {
        let ended = self.push(members, poison).await;
        self.save().await?;
        ended
    }

    async fn push(&mut self, members: &mut watch::Receiver<Members>, poison: &mut Poison) -> Result<(), Trouble> {
        let beat = self.cluster.config.heart_beat_interval;
        let mut sign_at = Instant::now() + beat;
        loop {
            if self.hours_are_over() {
                return Ok(());
            }
            let idle = self.begin().await?;
            let at_end = matches!(idle, Idle::End(_));
            if at_end && self.is_idle() {
                self.caught_up().await?;
            }
            let now = Instant::now();
            if self.save_at.is_some_and(|at| at <= now) || self.mark.unsaved() >= self.cluster.config.write_mark_every {
                self.save().await?;
            }
            self.tell(now);
            let (Idle::End(until) | Idle::Until(until)) = idle;
            let wake = [self.save_at, until].into_iter().flatten().fold(sign_at, Instant::min);
            let binlog = self.cluster.service.binlog.clone();
            tokio::select! {
                Some(joined) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    let finished = joined.map_err(|e| Trouble::Disk(io::Error::other(e)))?;
                    self.finish(finished, poison)?;
                }
                () = binlog.beyond(self.reader.place()), if at_end => {}
                Some(word) = self.words.recv() => match word {
                    Word::Question(question) => self.answer(question).await?,
                    // Without room, who owes it is asked again.
                    Word::Owed(..) if self.aside.len() >= aside::MAX => {}
                    Word::Owed(name, timestamp, answer) => {
                        // It may have been removed since.
                        let removed = self.aside.cause(&name).is_some_and(|cause| cause.removed);
                        self.aside.add(name, Cause { timestamp, removed }, Instant::now())?;
                        self.aside.sync().await?;
                        let _ = answer.send(Status::OK);
                    }
                    Word::Has(name, before, answer) => {
                        let read = before.is_none_or(|before| self.reader.place() >= before);
                        let next = self.next.as_ref().is_some_and(|(next, _)| names(next).contains(&Some(name)));
                        let on_its_way = self.window.has(&[Some(name), None]) || self.reconciling.contains(&name);
                        let has = read && !next && !on_its_way && !self.aside.contains(&name);
                        self.aside.hasten(&name, Instant::now());
                        let _ = answer.send(if has { Status::OK } else { Status::EAGAIN });
                    }
                },
                changed = members.changed() => {
                    let status = members.borrow_and_update().get(&self.id).map(|m| m.status);
                    // One that is put back to waiting for the old files after it got them is begun with anew.
                    if changed.is_err() || step(status, is_old_data(&self.mark.state)) != Step::Push {
                        return Ok(());
                    }
                }
                () = sleep_until(wake) => {
                    if Instant::now() >= sign_at {
                        sign_at = Instant::now() + beat;
                        self.keep_alive().await?;
                    }
                }
            }
        }
    }

    /// It is noticed when something else happens, a keep-alive at the latest.
    fn hours_are_over(&self) -> bool {
        let now = || clock::local(clock::now()).second_of_day();
        self.cluster.config.sync_hours.is_some_and(|hours| hours.left(now()).is_none())
    }

    fn is_idle(&self) -> bool {
        self.window.is_empty() && self.next.is_none()
    }

    /// Begins what can be begun.
    async fn begin(&mut self) -> Result<Idle, Trouble> {
        loop {
            let now = Instant::now();
            let busy = |name: &RemoteName| self.window.has(&[Some(*name), None]) || self.reconciling.contains(name);
            let mut aside = self.aside.due(now, |name| !busy(name));
            let finished = self.window.is_empty();
            // Its time may be after those of records that are still to be pushed: not over the first lane, if there is
            // another.
            let mut turn = self.turns.next(finished && aside.is_none(), now);
            if turn == Turn::Full && aside.take().is_some() {
                turn = self.turns.next(finished, now);
            }
            let number = match turn {
                Turn::Lane(number) => number,
                Turn::Not(until) => return Ok(Idle::Until(Some(until))),
                Turn::Full => return Ok(Idle::Until(None)),
            };
            if let Some((name, cause)) = aside {
                self.reconciling.push(name);
                let late = self.late.iter().filter(|(late, _)| *late == name).map(|(_, end)| *end).collect();
                self.start(number, Job::Aside(name, cause, late));
                continue;
            }
            // What is due by now has to wait for a push to end.
            let due = self.aside.next_due(now);
            if self.aside.len() >= aside::MAX {
                return Ok(Idle::Until(due));
            }
            let Some((record, end)) = (match self.next.take() {
                None => self.read().await?,
                next => next,
            }) else {
                return Ok(Idle::End(due));
            };
            let names = names(&record);
            if names.iter().flatten().any(|name| self.reconciling.contains(name)) {
                self.next = Some((record, end));
                return Ok(Idle::Until(due));
            }
            if self.aside.contains(&record.name) && !matches!(record.change, Change::Rename { .. }) {
                // The next try brings this change too. Of a name that is given back it does not tell where the file was.
                self.set_aside(&record, end)?;
                self.window.skip(end);
                self.moved();
                continue;
            }
            match self.window.admit(names, end) {
                Ok(ticket) => self.start(number, Job::Record(record, ticket, end)),
                Err(_) => {
                    self.next = Some((record, end));
                    return Ok(Idle::Until(due));
                }
            }
        }
    }

    fn start(&mut self, number: usize, job: Job) {
        self.turns.begin(number, Instant::now());
        let lane = self.lanes[number].take();
        let (cluster, addr) = (self.cluster.clone(), self.addr);
        self.jobs.spawn(async move {
            let (lane, result) = carry_out(&cluster, addr, number, lane, &job).await;
            Finished { number, lane, job, result }
        });
    }

    /// The next record that is to be pushed.
    async fn read(&mut self) -> Result<Option<(Record, Place)>, Trouble> {
        while let Some((line, end)) = self.reader.next().await? {
            match line {
                Line::Record(record) if is_wanted(&record, &self.mark.state) => return Ok(Some((record, end))),
                Line::Record(_) => {}
                Line::Malformed(e, text) => {
                    warn!("binlog.{:03}, before byte {}: passing over `{text}`: {e}", end.file, end.offset);
                }
            }
            self.window.skip(end);
            self.moved();
        }
        Ok(None)
    }

    /// The position has moved, or something else that is to be on disk soon.
    fn moved(&mut self) {
        self.mark.advance(self.window.progress());
        self.save_at.get_or_insert_with(|| Instant::now() + SAVE_EVERY);
    }

    /// What a position relies on is on stable storage before it: after a power cut, a binlog that ends before the
    /// position would grow into what nobody reads.
    async fn save(&mut self) -> Result<(), Trouble> {
        self.save_at = None;
        if !self.mark.is_saved() {
            let binlog = self.cluster.service.binlog.clone();
            blocking::run(move || binlog.sync()).await?;
        }
        self.aside.sync().await?;
        Ok(self.mark.save_later().await?)
    }

    /// A full sync may take hours: says how far it is.
    fn tell(&mut self, now: Instant) {
        if now < self.tell_at || !is_old_data(&self.mark.state) {
            return;
        }
        self.tell_at = now + TELL_EVERY;
        let Progress { place, pushed, .. } = self.mark.progress();
        let end = self.cluster.service.binlog.place();
        info!(
            "replication to {}: {pushed} changes pushed, up to binlog.{:03} byte {} of binlog.{:03} byte {}",
            self.id, place.file, place.offset, end.file, end.offset
        );
    }

    fn finish(&mut self, finished: Finished, poison: &mut Poison) -> Result<(), Trouble> {
        let Finished { number, lane, job, result } = finished;
        self.turns.end(number);
        self.lanes[number] = lane;
        let result = match result {
            Ok(outcome) => Ok(outcome),
            Err(Lost::Broken) => Err(Gone),
            Err(lost @ Lost::Unconnected(_)) => return Err(lost.trouble(self.addr)),
        };
        match job {
            Job::Record(record, ticket, end) => {
                match result {
                    Ok(Outcome::Done) => {
                        if let Some(acks) = &self.cluster.service.acks {
                            acks.taken(end, self.id);
                        }
                    }
                    // It is finished, but who waits for members that have it does not count this one.
                    Ok(Outcome::PassedOver) => {}
                    Ok(outcome) => {
                        self.alarm(&record.name, &outcome);
                        self.set_aside(&record, end)?;
                    }
                    Err(Gone) if poison.broke(end) => {
                        error!(
                            "replication to {}: the connection breaks whenever `{record}` is pushed; set aside",
                            self.id
                        );
                        self.set_aside(&record, end)?;
                        self.window.done(ticket);
                        self.moved();
                        return Err(Trouble::Broken(self.addr));
                    }
                    Err(Gone) => return Err(Trouble::Broken(self.addr)),
                }
                self.window.done(ticket);
                self.moved();
            }
            Job::Aside(name, cause, late) => {
                self.reconciling.retain(|other| *other != name);
                if let (Ok(Outcome::Done), Some(acks)) = (&result, &self.cluster.service.acks) {
                    late.iter().for_each(|end| acks.taken(*end, self.id));
                }
                match result {
                    Ok(outcome @ (Outcome::Done | Outcome::PassedOver)) => {
                        self.aside.settled(&name, cause);
                        self.moved();
                        match outcome {
                            Outcome::Done => debug!("replication to {}: {name} is as it is here", self.id),
                            _ => debug!("replication to {}: {name} stays as it is there", self.id),
                        }
                        if self.aside.is_empty() {
                            info!("replication to {}: of what was set aside, nothing is left", self.id);
                        }
                    }
                    Ok(outcome) => {
                        let pause = self.aside.failed(&name, Instant::now());
                        debug!("replication to {}: {name}: {outcome:?}; trying again in {pause:?}", self.id);
                    }
                    // Its lane is made anew when it is needed. If the peer is gone, so are the others.
                    Err(Gone) => {
                        let pause = self.aside.failed(&name, Instant::now());
                        debug!("replication to {}: {name}: the connection broke; trying again in {pause:?}", self.id);
                    }
                }
            }
        }
        Ok(())
    }

    /// The peer says what it has of a lost member's files. What it lacks is set aside for it, which is as good as pushed.
    async fn answer(&mut self, question: Question) -> Result<(), Trouble> {
        let Question { compare, answer } = question;
        let span = Span { since: compare.since, until: compare.until };
        let scope = Scope { span, part: compare.part, parts: compare.parts };
        let lost = compare.lost;
        // Before anything is read: what comes after that is compared by nobody.
        self.cluster.hear_of_lost(&compare).await?;
        let about = (lost, compare.sender);
        let account = match self.cluster.service.questions.known(&self.cluster.service.binlog, about, scope) {
            Known::Account(account) => account,
            Known::TooLarge => {
                let _ = answer.send(Status::EFBIG);
                return Ok(());
            }
            Known::Not => return Ok(()),
        };
        let compared = blocking::run(move || {
            // Who lost its disks lost what this storage had pushed to it, too, and its source need not have all of that.
            Ok(account.ahead_of(compare.part, &compare.files, compare.sender == compare.lost))
        });
        let lacking = compared.await?;
        if lacking.len() > aside::MAX {
            self.cluster.service.questions.forget();
            let _ = answer.send(Status::EFBIG);
            return Ok(());
        }
        // All or nothing: what the asker has by the next time, it need not have looked at again.
        if self.aside.len() + lacking.len() > aside::MAX {
            return Ok(());
        }
        let now = Instant::now();
        // The comparison need not reach as far as what is known of what is set aside already.
        let lacking: Vec<_> = lacking.into_iter().filter(|(name, cause)| !self.aside.covers(name, *cause)).collect();
        for (name, cause) in &lacking {
            self.aside.add(*name, *cause, now)?;
            // All loops share this thread.
            tokio::task::consume_budget().await;
        }
        self.aside.sync().await?;
        if !lacking.is_empty() {
            info!(
                "replication to {}: pushing {} files that it may not have got from {lost} before that lost its disks",
                self.id,
                lacking.len()
            );
        }
        if scope.part + 1 == scope.parts {
            self.cluster.service.questions.forget();
        }
        // An asker that is gone asks again.
        let _ = answer.send(Status::OK);
        Ok(())
    }

    /// `end`: where the record ends.
    fn set_aside(&mut self, record: &Record, end: Place) -> Result<(), Trouble> {
        let now = Instant::now();
        if let Some(acks) = &self.cluster.service.acks {
            // As many as there are waiting requests.
            self.late.retain(|(_, end)| acks.is_expected(*end));
            if acks.is_expected(end) {
                self.late.push((record.name, end));
            }
        }
        self.aside.add(record.name, Cause::of(record, &record.name), now)?;
        if let Change::Rename { old } = record.change {
            self.aside.add(old, Cause::of(record, &old), now)?;
        }
        Ok(())
    }

    fn alarm(&mut self, name: &RemoteName, outcome: &Outcome) {
        let text = match outcome {
            Outcome::Done | Outcome::PassedOver => return,
            Outcome::Refused(command, status) => format!("answers {command} with status {}: {status}", status.0),
            Outcome::Unreadable(e) => format!("is not sent it, since it cannot be read here: {e}"),
        };
        if Instant::now() < self.alarm_at {
            debug!("replication to {}: {name} {text}", self.id);
            return;
        }
        self.alarm_at = Instant::now() + ALARM_EVERY;
        let others = self.aside.len();
        error!(
            "replication: {} ({}) has not got {name}: it {text}; set aside with {others} others, and tried again",
            self.id, self.addr
        );
    }

    /// Everything in the binlog has been pushed.
    async fn caught_up(&mut self) -> Result<(), Trouble> {
        if !is_old_data(&self.mark.state) {
            return Ok(());
        }
        self.mark.advance(self.window.progress());
        self.mark.state.sync_old_done = true;
        self.save().await?;
        info!("replication to {}: all old files have been pushed", self.id);
        let syncing = self.cluster.members.borrow().get(&self.id).is_some_and(|m| m.status == StorageStatus::Syncing);
        if syncing {
            self.cluster.report_status(&self.id, StorageStatus::Offline).await?;
        }
        Ok(())
    }

    /// An idle connection that broke is found out before it is needed, and a peer that is gone while nothing is pushed.
    async fn keep_alive(&mut self) -> Result<(), Trouble> {
        match &mut self.lanes[0] {
            Some(lane) => lane.keep_alive().await.map_err(|_| Trouble::Broken(self.addr))?,
            None if self.turns.is_busy(0) => {}
            none => *none = Some(connect(&self.cluster, self.addr, 0).await.map_err(|lost| lost.trouble(self.addr))?),
        }
        // The others are made when they are needed.
        self.lanes.iter_mut().skip(1).for_each(|lane| *lane = None);
        Ok(())
    }
}

impl Drop for Pump<'_> {
    /// At the end of the process. What is not saved is pushed twice, which is no harm; but it need not be.
    fn drop(&mut self) {
        if self.mark.is_saved() {
            return;
        }
        let saved = self.cluster.service.binlog.sync().and_then(|()| self.aside.sync_now());
        if let Err(e) = saved.and_then(|()| self.mark.save()) {
            warn!("{e}");
        }
    }
}

async fn carry_out(
    cluster: &Cluster,
    addr: SocketAddr,
    number: usize,
    lane: Option<Lane>,
    job: &Job,
) -> (Option<Lane>, Result<Outcome, Lost>) {
    let connected = match lane.filter(|lane| !lane.is_stale()) {
        Some(lane) => Ok(lane),
        None => connect(cluster, addr, number).await,
    };
    let mut lane = match connected {
        Ok(lane) => lane,
        Err(lost) => return (None, Err(lost)),
    };
    let result = match job {
        Job::Record(record, ..) => lane.push(record).await,
        Job::Aside(name, cause, _) => lane.reconcile(name, *cause).await,
    };
    (Some(lane).filter(|_| result.is_ok()), result.map_err(Lost::from))
}

async fn connect(cluster: &Cluster, addr: SocketAddr, number: usize) -> Result<Lane, Lost> {
    let connected = Lane::connect(cluster.service.clone(), addr, cluster.dial).await;
    let mut lane = connected.map_err(Lost::Unconnected)?;
    match number {
        0 => lane.identify(cluster.identity.id).await?,
        _ => lane.announce().await?,
    }
    Ok(lane)
}
