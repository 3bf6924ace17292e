//! The election: what this tracker asks and tells the others so that exactly one leads.
//!
//! A pure machine over [`Trackers`]: time and answers come in, questions to others come out, and when to be called
//! again. It never waits; whoever drives it sends the questions, and hands in one [`Answer`] for each.
//!
//! The procedure is FastDFS's (6.16). Who knows no leader asks all others how they stand. If one of them leads, it is
//! followed. If this tracker stands best, it proposes itself to all that answered, then confirms; one refusal ends it. If
//! another stands best, this one waits for its notice and, after 1 to 11 seconds, asks again. Followers ping their leader
//! every second, and after three failures forget it.
//!
//! Who was waited for and did nothing is passed over the next time: a tracker that has just started stands well, but does
//! not know the others before a storage joins it, which may take half a minute.
//!
//! # Never two leaders that act
//!
//! FastDFS's leader never looks whether it still is the only one. A leader that was stopped for a while and replaced
//! meanwhile would go on telling storages who the members and the trunk servers are. So a leader here
//!
//! - asks all others every second whether they lead, and steps down if one does;
//! - acts ([`Trackers::acts`]) only while each of them has, within [`LEASE`], denied it or refused the connection (nobody
//!   is there), or has been silent for [`SILENCE`];
//! - acts only when it has led for [`LEASE`];
//! - leads only while this machine itself runs: when it notices that it did not for [`LEASE`], it gives up, and what it
//!   heard before counts for nothing.
//!
//! Say X and Y act at once. If X acts because of a denial, Y did not lead at some moment less than LEASE ago; so Y has led
//! for less, and does not act. The same for Y. If both act because the other is silent, both ran for SILENCE and did not
//! hear each other: they were cut off. That is the limit of the rule: under a partition that lasts, there is a leader on
//! each side, as in FastDFS, and storages that reach both end it (RESELECT). A majority is not asked for, since two
//! trackers are the usual number.

pub mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use fdfs_protocol::Status;
use fdfs_protocol::tracker::TrackerStatus;

use super::trackers::{Moment, Trackers};
use standing::Standing;

/// A leader looks at the others, and a follower pings its leader, this often.
pub const ROUND: Duration = Duration::from_secs(1);
/// What a leader heard is good for this long.
pub const LEASE: Duration = Duration::from_secs(3);
/// Who does not answer for this long does not run. Longer than [`LEASE`], so that it does not act either.
pub const SILENCE: Duration = Duration::from_secs(4);
/// An election does not wait longer than this for an answer.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// So many pings in a row must fail before the leader is forgotten.
const FAILURES: u32 = 3;
/// Longest and shortest rest after an election without result, in milliseconds.
const REST: std::ops::Range<u64> = 1_000..11_000;

/// The place of a tracker in the list.
pub type Peer = usize;

/// What to ask a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// TRACKER_GET_STATUS. Must be left standing as long as the connection does: that there is no answer says something.
    Status,
    /// TRACKER_NOTIFY_NEXT_LEADER.
    Propose(SocketAddr),
    /// TRACKER_COMMIT_NEXT_LEADER.
    Commit(SocketAddr),
    /// TRACKER_PING_LEADER, after TRACKER_JOIN_LEADER on a new connection.
    Ping,
}

/// A question for a tracker; it has exactly one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// To whom.
    pub to: Peer,
    /// What.
    pub question: Question,
    /// To be handed back with the answer; answers of earlier rounds mean nothing any more.
    pub round: u32,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// How it stands.
    Status(TrackerStatus),
    /// It agrees, or is the leader that was pinged.
    Yes,
    /// It refuses; to [`Question::Status`] with ENOENT when it knows no group and has no say.
    No(Status),
    /// Nothing listens there, or the connection was cut.
    Gone,
    /// No answer within the limit.
    Silent,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// No other tracker is known.
    Idle,
    /// Waits before the next attempt, or for another's notice.
    Resting { until: Moment },
    /// Everybody is asked how it stands.
    Asking { since: Moment },
    /// I am proposed.
    Proposing { since: Moment, waiting: usize, refused: bool, agreed: Vec<Peer> },
    /// Those who agreed are told that it stands.
    Committing { waiting: usize, refused: bool },
    /// Another leads; `next` is when to ping, `None` while a ping is out.
    Following { leader: Peer, failures: u32, pinged: Moment, next: Option<Moment> },
    /// I lead.
    Leading { since: Moment },
}

/// What is known of one tracker.
#[derive(Debug, Default)]
struct Watch {
    /// When the question was asked that has no answer yet.
    asked: Option<Moment>,
    /// Since when it has not answered, however often it was asked.
    silent_since: Option<Moment>,
    /// The last answer.
    last: Option<Heard>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    /// When the question was asked.
    asked: Moment,
    /// When the answer came.
    at: Moment,
    answer: Answer,
}

impl Watch {
    fn leads_since(&self, moment: Moment) -> bool {
        self.last.is_some_and(|h| h.at >= moment && matches!(h.answer, Answer::Status(s) if s.leader))
    }

    /// Until when an election waits for its answer, if it does not have it.
    fn patience(&self) -> Option<Moment> {
        Some(self.asked?.max(self.silent_since?) + PATIENCE)
    }

    /// Until when it is sure that this tracker does not act as the leader.
    fn harmless_until(&self, now: Moment) -> Option<Moment> {
        if self.silent_since.is_some_and(|since| now.saturating_sub(since) >= SILENCE) {
            return Some(now + LEASE);
        }
        let heard = self.last?;
        let harmless = match heard.answer {
            Answer::Status(status) => !status.leader,
            Answer::No(_) | Answer::Gone => true,
            Answer::Yes | Answer::Silent => false,
        };
        harmless.then_some(heard.asked + LEASE)
    }
}

/// One call: when, over what, and what comes of it.
struct Turn<'a> {
    now: Moment,
    wall: i64,
    trackers: &'a mut Trackers,
    orders: Vec<Order>,
}

impl Turn<'_> {
    /// How others call this tracker.
    fn me(&self) -> Option<SocketAddr> {
        Some(self.trackers.list().get(self.trackers.me()?)?.host_port())
    }
}

/// The machine.
#[derive(Debug)]
pub struct Election {
    phase: Phase,
    watch: BTreeMap<Peer, Watch>,
    round: u32,
    advanced: Option<Moment>,
    /// Who stood best in this election, and did not become the leader.
    passed_over: BTreeSet<Peer>,
    seed: u64,
}

impl Election {
    /// A machine that has done nothing yet. Trackers should have different seeds: how long each rests depends on it.
    pub fn new(seed: u64) -> Election {
        Election {
            phase: Phase::Idle,
            watch: BTreeMap::new(),
            round: 0,
            advanced: None,
            passed_over: BTreeSet::new(),
            seed: seed | 1,
        }
    }

    /// Does what is due: what to ask now, and when to be called again at the latest. `wall` is the time of day.
    pub fn advance(&mut self, now: Moment, wall: i64, trackers: &mut Trackers) -> (Vec<Order>, Moment) {
        if self.advanced.replace(now).is_some_and(|before| now.saturating_sub(before) > LEASE) {
            self.start_over(now, trackers);
        }
        self.heed_notices(now, trackers);
        let mut turn = Turn { now, wall, trackers, orders: Vec::new() };
        while self.step(&mut turn) {
            self.heed_notices(now, turn.trackers);
        }
        let Turn { trackers, orders, .. } = turn;
        let term = match self.phase {
            Phase::Leading { since } => self.term(since, now, trackers),
            _ => None,
        };
        trackers.set_term(now, term);
        (orders, self.due(now, trackers))
    }

    /// Takes an answer. [`Election::advance`] must be called next.
    pub fn hear(&mut self, now: Moment, order: Order, answer: Answer) {
        let Order { to, question, round } = order;
        if question == Question::Status {
            let watch = self.watch.entry(to).or_default();
            let asked = watch.asked.take().unwrap_or(now);
            if answer != Answer::Silent {
                watch.silent_since = None;
            }
            watch.last = Some(Heard { asked, at: now, answer });
            return;
        }
        if round != self.round {
            return;
        }
        match (&mut self.phase, question) {
            (Phase::Proposing { waiting, refused, agreed, .. }, Question::Propose(_)) => {
                *waiting = waiting.saturating_sub(1);
                match answer {
                    Answer::Yes => agreed.push(to),
                    // It knows no trackers yet, and will ask who leads when it does.
                    Answer::No(Status::ENOENT) => {}
                    Answer::No(_) => *refused = true,
                    _ => {}
                }
            }
            (Phase::Committing { waiting, refused }, Question::Commit(_)) => {
                *waiting = waiting.saturating_sub(1);
                *refused |= matches!(answer, Answer::No(_));
            }
            (Phase::Following { failures, pinged, next, .. }, Question::Ping) => {
                *failures = if answer == Answer::Yes { 0 } else { *failures + 1 };
                *next = Some(*pinged + ROUND);
            }
            _ => {}
        }
    }

    /// This machine did not run for a while: what it knows is too old, and if it led it may have been replaced.
    fn start_over(&mut self, now: Moment, trackers: &mut Trackers) {
        self.round = self.round.wrapping_add(1);
        for watch in self.watch.values_mut() {
            watch.last = None;
            watch.silent_since = watch.asked.map(|_| now);
        }
        match &mut self.phase {
            Phase::Leading { .. } if trackers.others().next().is_some() => trackers.forget_leader(),
            Phase::Asking { .. } | Phase::Proposing { .. } | Phase::Committing { .. } => {
                self.phase = Phase::Asking { since: now };
            }
            // The ping that was out is of an earlier round.
            Phase::Following { next, .. } => *next = Some(now),
            Phase::Idle | Phase::Resting { .. } | Phase::Leading { .. } => {}
        }
    }

    /// Takes over what notices of others have made of the leadership.
    fn heed_notices(&mut self, now: Moment, trackers: &Trackers) {
        let known = trackers.leader_index();
        let fits = match &self.phase {
            Phase::Leading { .. } => trackers.i_lead(),
            Phase::Following { leader, .. } => known == Some(*leader),
            Phase::Idle => trackers.me().is_none(),
            _ => known.is_none(),
        };
        if fits {
            return;
        }
        self.round = self.round.wrapping_add(1);
        self.passed_over.clear();
        self.phase = match known {
            Some(_) if trackers.i_lead() => Phase::Leading { since: now },
            Some(leader) => Phase::Following { leader, failures: 0, pinged: now, next: Some(now) },
            None => Phase::Asking { since: now },
        };
    }

    /// One step; true if it changed the phase, and the next step may be due.
    fn step(&mut self, turn: &mut Turn) -> bool {
        let now = turn.now;
        match &mut self.phase {
            Phase::Idle => false,
            Phase::Resting { until } => {
                let over = now >= *until;
                if over {
                    self.phase = Phase::Asking { since: now };
                }
                over
            }
            Phase::Asking { since } => {
                let since = *since;
                self.ask_where(turn, |last| last.asked < since);
                let watched = turn.trackers.others().filter_map(|peer| self.watch.get(&peer));
                let answered = !watched.filter_map(Watch::patience).any(|end| now < end);
                if answered {
                    self.decide(since, turn);
                }
                answered
            }
            Phase::Proposing { since, waiting: 0, refused, agreed } => {
                let (since, refused, agreed) = (*since, *refused, std::mem::take(agreed));
                match turn.me() {
                    Some(me) if !refused && !self.other_leads(since, turn.trackers) => {
                        self.phase = Phase::Committing { waiting: agreed.len(), refused: false };
                        self.tell(turn, agreed, Question::Commit(me));
                    }
                    _ => self.rest(now),
                }
                true
            }
            Phase::Committing { waiting: 0, refused } => {
                // Another's proposal may have come in between; then mine does not stand.
                let stands = !*refused && turn.me().is_some_and(|me| turn.trackers.commit_leader(me).is_ok());
                if !stands {
                    self.rest(now);
                }
                true
            }
            Phase::Proposing { .. } | Phase::Committing { .. } => false,
            Phase::Following { failures, .. } if *failures >= FAILURES => {
                turn.trackers.forget_leader();
                true
            }
            Phase::Following { leader, pinged, next, .. } => {
                if next.is_some_and(|next| now >= next) {
                    (*pinged, *next) = (now, None);
                    let leader = *leader;
                    self.tell(turn, [leader], Question::Ping);
                }
                false
            }
            Phase::Leading { since } => {
                let since = *since;
                let other = self.other_leads(since, turn.trackers);
                if other {
                    turn.trackers.forget_leader();
                } else {
                    self.ask_where(turn, |last| now >= last.asked + ROUND);
                }
                other
            }
        }
    }

    fn tell(&self, turn: &mut Turn, to: impl IntoIterator<Item = Peer>, question: Question) {
        turn.orders.extend(to.into_iter().map(|to| Order { to, question, round: self.round }));
    }

    /// Asks those how they stand whose last answer is too old, unless the question is still out.
    fn ask_where(&mut self, turn: &mut Turn, too_old: impl Fn(Heard) -> bool) {
        let now = turn.now;
        for to in turn.trackers.others() {
            let watch = self.watch.entry(to).or_default();
            if watch.asked.is_some() || !watch.last.is_none_or(&too_old) {
                continue;
            }
            watch.asked = Some(now);
            // A failure may take no time at all, and the next question comes a round later and a little: the clock is
            // never exact.
            let still = |h: Heard| h.answer == Answer::Silent && now.saturating_sub(h.at) <= ROUND * 2;
            if !watch.last.is_some_and(still) {
                watch.silent_since = Some(now);
            }
            turn.orders.push(Order { to, question: Question::Status, round: self.round });
        }
    }

    fn other_leads(&self, since: Moment, trackers: &Trackers) -> bool {
        trackers.others().any(|peer| self.watch.get(&peer).is_some_and(|w| w.leads_since(since)))
    }

    /// Everybody has answered or has had its time.
    fn decide(&mut self, since: Moment, turn: &mut Turn) {
        let trackers = &mut *turn.trackers;
        let Some(me) = trackers.me() else {
            self.phase = Phase::Idle;
            return;
        };
        let status_of = |peer| {
            let heard = self.watch.get(&peer)?.last.filter(|h| h.asked >= since)?;
            let Answer::Status(status) = heard.answer else { return None };
            Some((peer, status))
        };
        let told: Vec<(Peer, TrackerStatus)> = trackers.others().filter_map(status_of).collect();
        let (running_time, restart_interval) = trackers.running_times(turn.wall);
        let mine = (me, TrackerStatus { leader: false, running_time, restart_interval });
        let rank = |peer: Peer, status| Standing::from(status).at(trackers.list()[peer].host_port());
        let counts = |(peer, status): &(Peer, TrackerStatus)| status.leader || !self.passed_over.contains(peer);
        let candidates = told.iter().copied().filter(counts).chain([mine]);
        match candidates.max_by_key(|&(peer, status)| rank(peer, status)) {
            Some((peer, status)) if status.leader => trackers.follow(peer),
            Some((peer, _)) if peer != me => {
                self.passed_over.insert(peer);
                self.rest(turn.now);
            }
            _ => {
                let at = trackers.list()[me].host_port();
                if trackers.propose_leader(at).is_err() {
                    return self.rest(turn.now);
                }
                self.round = self.round.wrapping_add(1);
                self.phase = Phase::Proposing { since, waiting: told.len(), refused: false, agreed: Vec::new() };
                self.tell(turn, told.into_iter().map(|(to, _)| to), Question::Propose(at));
            }
        }
    }

    /// Nothing came of it, or another has to act; not all should come back at the same time.
    fn rest(&mut self, now: Moment) {
        // xorshift64
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let rest = REST.start + self.seed % (REST.end - REST.start);
        self.phase = Phase::Resting { until: now + Duration::from_millis(rest) };
    }

    /// When I may act, by what I know now.
    fn term(&self, since: Moment, now: Moment, trackers: &Trackers) -> Option<std::ops::Range<Moment>> {
        let mut until = now + LEASE;
        for peer in trackers.others() {
            until = until.min(self.watch.get(&peer)?.harmless_until(now)?);
        }
        Some(since + LEASE..until)
    }

    fn due(&self, now: Moment, trackers: &Trackers) -> Moment {
        let watched = || trackers.others().filter_map(|peer| self.watch.get(&peer));
        let next = match &self.phase {
            Phase::Resting { until } => Some(*until),
            Phase::Asking { .. } => watched().filter_map(Watch::patience).filter(|end| *end > now).min(),
            // A storage that joins, and answers, wake it.
            Phase::Idle | Phase::Proposing { .. } | Phase::Committing { .. } => None,
            Phase::Following { next, .. } => *next,
            Phase::Leading { .. } => {
                let idle = watched().filter(|w| w.asked.is_none());
                idle.filter_map(|w| w.last).map(|h| h.asked + ROUND).min()
            }
        };
        // It must be called every round, or counts as not having run.
        next.unwrap_or(now + ROUND).min(now + ROUND)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
