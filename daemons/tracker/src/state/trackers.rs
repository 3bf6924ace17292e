//! The trackers of the cluster and which of them leads.
//!
//! Trackers are not configured: the first storage that joins brings the list, and this tracker finds itself in it by
//! its own addresses. One tracker alone is its own leader from that moment. With several, the leader is whoever was
//! proposed to all and then confirmed (FastDFS 6.16, NOTIFY_NEXT_LEADER and COMMIT_NEXT_LEADER). This module keeps that
//! state and judges the notices of others; it sends nothing. Who asks and proposes is [`super::election`].
//!
//! To lead and to act as the leader are two things: a leader that was stopped for a while, or cut off, may have been
//! replaced without knowing. [`Trackers::acts`] says whether it may act.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use fdfs_protocol::Status;
use fdfs_protocol::names::Version;
use fdfs_protocol::stat::Connections;
use fdfs_protocol::tracker::TrackerStatus;

use super::election::LEASE;
use super::own::{Own, Reached};
use crate::address::Addresses;

/// Most trackers a cluster may have.
pub const MAX_TRACKERS: usize = 16;

/// Most addresses this tracker takes for its own.
const MAX_OWN: usize = 32;

/// A follower that has not been heard of for longer than this is not active.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// Time since this host was booted: it never jumps, and goes on while the host sleeps.
pub type Moment = Duration;

/// Running times are compared in steps of this many seconds, so that trackers started together count as equal.
const TIME_STEP: u64 = TrackerStatus::TIME_STEP;

/// One tracker of the cluster.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// One or two addresses.
    pub addresses: Addresses,
    /// Its port.
    pub port: u16,
    /// What it told about itself when it followed.
    pub up_time: i64,
    /// Its version.
    pub version: Version,
    /// Its connections, as of its last ping.
    pub connections: Connections,
    /// When it pinged last: the time of day.
    pub last_ping: i64,
    /// The same, as what liveness is judged by.
    pinged: Option<Moment>,
}

impl Tracker {
    fn new(addresses: Addresses, port: u16) -> Tracker {
        Tracker {
            addresses,
            port,
            up_time: 0,
            version: Version::NONE,
            connections: Connections::default(),
            last_ping: 0,
            pinged: None,
        }
    }

    /// How others call it.
    pub fn host_port(&self) -> SocketAddr {
        SocketAddr::new(self.addresses.first(), self.port)
    }

    fn is(&self, ip: IpAddr, port: u16) -> bool {
        self.port == port && self.addresses.contains(ip)
    }

    /// Whether it was heard of lately.
    pub fn is_alive(&self, now: Moment) -> bool {
        self.pinged.is_some_and(|at| now.saturating_sub(at) <= PING_LIMIT)
    }
}

/// The trackers, and who leads.
#[derive(Debug)]
pub struct Trackers {
    port: u16,
    own: Own,
    list: Vec<Tracker>,
    me: Option<usize>,
    leader: Option<usize>,
    next_leader: Option<usize>,
    /// Moves with every change of the leader; storages compare it with what they were told.
    leader_changes: u32,
    /// When I may act as the leader.
    term: Option<Range<Moment>>,
    /// When the election ran last.
    ran: Moment,
    up_time: i64,
    restart_interval: i64,
}

impl Trackers {
    /// A tracker on `port` that knows no other yet. `last_check` is when its previous run was last seen alive.
    pub fn new(port: u16, up_time: i64, last_check: Option<i64>) -> Trackers {
        Trackers {
            port,
            own: Own::default(),
            list: Vec::new(),
            me: None,
            leader: None,
            next_leader: None,
            leader_changes: 0,
            term: None,
            ran: Moment::ZERO,
            up_time,
            restart_interval: last_check.map_or(0, |t| (up_time - t).max(0)),
        }
    }

    /// Sets the port this tracker listens on, once it is known.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// The port this tracker listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All trackers known.
    pub fn list(&self) -> &[Tracker] {
        &self.list
    }

    /// Whether this entry of the list is me.
    pub fn is_me(&self, index: usize) -> bool {
        self.me == Some(index)
    }

    /// Whether this entry of the list leads.
    pub fn is_leader(&self, index: usize) -> bool {
        self.leader == Some(index)
    }

    /// My place in the list, once I have found it.
    pub fn me(&self) -> Option<usize> {
        self.me
    }

    /// The places of all others. An entry that is another address of mine is none of them.
    pub fn others(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.list.len()).filter(|&i| !self.is_mine(&self.list[i].addresses, self.list[i].port))
    }

    fn is_mine(&self, addresses: &Addresses, port: u16) -> bool {
        port == self.port && self.own.is(addresses)
    }

    /// My addresses, as of a list.
    fn taught(&self, listed: &[(Addresses, u16)], reached: Reached) -> Own {
        let of_my_port: Vec<_> = listed.iter().filter(|(_, port)| *port == self.port).map(|(ips, _)| *ips).collect();
        self.own.taught(&of_my_port, reached, |ip| self.others().any(|i| self.list[i].is(ip, self.port)))
    }

    /// Those of a list that are not me, if I am in it.
    pub fn others_in(&self, listed: &[(Addresses, u16)], reached: Reached) -> Option<Vec<(Addresses, u16)>> {
        let own = self.taught(listed, reached);
        let (mine, others): (Vec<_>, Vec<_>) = listed.iter().partition(|(ips, port)| *port == self.port && own.is(ips));
        (!mine.is_empty()).then_some(others)
    }

    /// My addresses that this machine had when a storage joined. Whether it still has them is for the caller to find
    /// out, and [`Trackers::note_own`] to be told before the election runs.
    pub fn own(&self) -> impl Iterator<Item = IpAddr> {
        self.own.ends()
    }

    /// Takes which addresses this machine has now.
    pub fn note_own(&mut self, addresses: impl IntoIterator<Item = (IpAddr, bool)>) {
        let mut own = self.own.clone();
        addresses.into_iter().for_each(|(ip, here)| own.note(ip, here));
        if own != self.own {
            self.own = own;
            self.find_myself();
            self.term = None;
        }
    }

    /// Who leads under an address that is another's now does not lead.
    fn find_myself(&mut self) {
        let led = self.i_lead();
        let mine = |i: &usize| self.is_mine(&self.list[*i].addresses, self.list[*i].port);
        self.me = self.me.filter(mine).or_else(|| (0..self.list.len()).find(mine));
        if led && !self.i_lead() {
            self.set_leader(None);
        }
    }

    /// The place of the leader, if one is known.
    pub fn leader_index(&self) -> Option<usize> {
        self.leader
    }

    /// The leader, if one is known.
    pub fn leader(&self) -> Option<&Tracker> {
        self.leader.and_then(|i| self.list.get(i))
    }

    /// Whether I lead.
    pub fn i_lead(&self) -> bool {
        self.leader.is_some() && self.leader == self.me
    }

    /// Whether I say that I lead. A leader whose election did not run for [`LEASE`] was stopped, and may have been
    /// replaced: it is about to give up. A tracker that is alone leads, whatever the clock says.
    pub fn leads(&self, now: Moment) -> bool {
        self.i_lead() && (self.is_alone() || now.saturating_sub(self.ran) <= LEASE)
    }

    /// Whether I lead, and may act as the leader at this moment.
    pub fn acts(&self, now: Moment) -> bool {
        self.i_lead() && (self.is_alone() || self.term.as_ref().is_some_and(|t| t.contains(&now)))
    }

    /// Whether there cannot be another. Where all entries are mine one may be another's by now: addresses move.
    fn is_alone(&self) -> bool {
        self.list.len() == 1 && self.others().next().is_none()
    }

    /// The election ran, and found when I may act as long as I lead.
    pub fn set_term(&mut self, now: Moment, term: Option<Range<Moment>>) {
        self.ran = now;
        self.term = term.filter(|_| self.i_lead());
    }

    /// The counter of leader changes.
    pub fn leader_changes(&self) -> u32 {
        self.leader_changes
    }

    /// When this process started.
    pub fn up_time(&self) -> i64 {
        self.up_time
    }

    /// Seconds this tracker runs, and how long it was away before; in steps of 300 s.
    pub fn running_times(&self, now: i64) -> (u64, u64) {
        let step = |t: i64| t.max(0) as u64 / TIME_STEP * TIME_STEP;
        (step(now - self.up_time), step(self.restart_interval))
    }

    /// Takes the tracker list of a joining storage. A refused one leaves nothing behind.
    ///
    /// # Errors
    /// `ENOENT`: this tracker is not in the first list. `ENOSPC`: more than 16 trackers, or more than 32 addresses of this one.
    pub fn learn(&mut self, listed: &[(Addresses, u16)], reached: Reached) -> Result<(), Status> {
        let own = self.taught(listed, reached);
        if own.count() > MAX_OWN {
            return Err(Status::ENOSPC);
        }
        let mut list = self.list.clone();
        for (addresses, port) in listed {
            let known = list.iter().position(|t| t.port == *port && t.addresses.overlaps(addresses));
            match known {
                Some(known) => addresses.iter().for_each(|ip| list[known].addresses.extend(ip)),
                None if list.len() == MAX_TRACKERS => return Err(Status::ENOSPC),
                None => list.push(Tracker::new(*addresses, *port)),
            }
        }
        if !list.iter().any(|t| t.port == self.port && own.is(&t.addresses)) {
            return Err(Status::ENOENT);
        }
        if list.len() != self.list.len() || own != self.own {
            // There may be others who were not asked yet.
            self.term = None;
        }
        (self.list, self.own) = (list, own);
        self.find_myself();
        if self.list.len() == 1 && self.leader.is_none() {
            self.set_leader(self.me);
        }
        Ok(())
    }

    fn set_leader(&mut self, leader: Option<usize>) {
        if leader.is_some() {
            self.next_leader = None;
        }
        if self.leader != leader {
            self.leader = leader;
            self.term = None;
            self.leader_changes = self.leader_changes.wrapping_add(1);
        }
    }

    /// Follows a tracker that says of itself that it leads.
    pub fn follow(&mut self, leader: usize) {
        if leader < self.list.len() {
            self.set_leader(Some(leader));
        }
    }

    /// The leader does not answer, or another one leads as well: there is none until one is elected.
    pub fn forget_leader(&mut self) {
        self.set_leader(None);
    }

    /// The place of a tracker; for all my addresses it is the same.
    fn find(&self, at: SocketAddr) -> Option<usize> {
        let found = self.list.iter().position(|t| t.is(at.ip(), at.port()))?;
        let tracker = &self.list[found];
        if self.is_mine(&tracker.addresses, tracker.port) { self.me } else { Some(found) }
    }

    /// NOTIFY_NEXT_LEADER: somebody proposes a leader.
    ///
    /// # Errors
    /// `ENOENT`: not in the list. `EINVAL`: I was the leader; I give up and everybody elects anew.
    pub fn propose_leader(&mut self, at: SocketAddr) -> Result<(), Status> {
        let index = self.find(at).ok_or(Status::ENOENT)?;
        if self.i_lead() && self.leader != Some(index) {
            self.set_leader(None);
            self.next_leader = None;
            return Err(Status::EINVAL);
        }
        self.next_leader = Some(index);
        Ok(())
    }

    /// COMMIT_NEXT_LEADER: the proposal stands.
    ///
    /// # Errors
    /// `ENOENT`: not in the list. `EINVAL`: not what was proposed.
    pub fn commit_leader(&mut self, at: SocketAddr) -> Result<(), Status> {
        let index = self.find(at).ok_or(Status::ENOENT)?;
        if self.next_leader != Some(index) {
            return Err(Status::EINVAL);
        }
        self.set_leader(Some(index));
        Ok(())
    }

    /// NOTIFY_RESELECT_LEADER: a storage has seen two leaders.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: I am not one of them.
    pub fn step_down(&mut self) -> Result<(), Status> {
        if !self.i_lead() {
            return Err(Status::EOPNOTSUPP);
        }
        self.set_leader(None);
        Ok(())
    }

    /// TRACKER_JOIN_LEADER: a follower presents itself; the result is its place in the list.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: I do not lead. `ENOENT`: it is not in the list.
    pub fn accept_follower(
        &mut self,
        peer: IpAddr,
        port: u16,
        up_time: i64,
        version: Version,
        now: Moment,
    ) -> Result<usize, Status> {
        if !self.leads(now) {
            return Err(Status::EOPNOTSUPP);
        }
        let index = self.find(SocketAddr::new(peer, port)).ok_or(Status::ENOENT)?;
        self.list[index].up_time = up_time;
        self.list[index].version = version;
        Ok(index)
    }

    /// TRACKER_PING_LEADER: a follower lives.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: I do not lead (any more). `EINVAL`: no follower has presented itself on the connection.
    pub fn accept_ping(
        &mut self,
        follower: Option<usize>,
        connections: Connections,
        wall: i64,
        now: Moment,
    ) -> Result<(), Status> {
        if !self.leads(now) {
            return Err(Status::EOPNOTSUPP);
        }
        let follower = follower.ok_or(Status::EINVAL)?;
        if let Some(t) = self.list.get_mut(follower) {
            t.connections = connections;
            t.last_ping = wall;
            t.pinged = Some(now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
