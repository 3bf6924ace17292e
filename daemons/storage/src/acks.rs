//! The promise that other members of the group have a change before it is acknowledged (`ack_members`).
//!
//! Whoever records a change expects it at the end of its binlog line, before the push loops can see the line; the loops
//! tell which member has taken which line. What was not taken in time is an error to the client.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fdfs_protocol::StorageId;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info};

use crate::disk::binlog::Place;

/// Alarms about promises that cannot be kept come no more often than this.
const ALARM_EVERY: Duration = Duration::from_secs(10);

/// Who has what, as far as somebody waits for it.
#[derive(Debug)]
pub struct Acks {
    /// Other members that must have a change.
    others: usize,
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: HashMap<Place, Waiter>,
    /// Members that can be pushed to now.
    reached: usize,
    /// Since when there have been fewer than needed.
    short_since: Option<Instant>,
    alarm_at: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    have: Vec<StorageId>,
    kept: oneshot::Sender<()>,
}

/// Too few members had the change in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late;

impl Acks {
    /// `members` must have a change, this one among them, within `patience`; `None` when this one is enough.
    pub fn new(members: usize, patience: Duration) -> Option<Arc<Acks>> {
        let others = members.checked_sub(1).filter(|others| *others > 0)?;
        let state = State { waiting: HashMap::new(), reached: 0, short_since: Some(Instant::now()), alarm_at: None };
        Some(Arc::new(Acks { others, patience, state: Mutex::new(state) }))
    }

    /// Refuses at once what cannot be promised: too few members have been reached for longer than anybody would wait.
    ///
    /// # Errors
    /// [`Late`], before anything was changed.
    pub fn possible(&self) -> Result<(), Late> {
        let short = self.state.lock().short_since;
        match short {
            Some(since) if since.elapsed() > self.patience => Err(self.late()),
            _ => Ok(()),
        }
    }

    /// Somebody will wait for the line that ends at `end`, which no push loop has seen yet.
    pub fn expect(self: &Arc<Self>, end: Place) -> Expected {
        let (kept, receiver) = oneshot::channel();
        self.state.lock().waiting.insert(end, Waiter { have: Vec::new(), kept });
        Expected { acks: self.clone(), end, receiver, deadline: Instant::now() + self.patience }
    }

    /// Whether somebody waits for members to have the change whose line ends at `end`.
    pub fn is_expected(&self, end: Place) -> bool {
        self.state.lock().waiting.contains_key(&end)
    }

    /// The change whose line ends at `end` is at `member`.
    pub fn taken(&self, end: Place, member: StorageId) {
        let mut state = self.state.lock();
        let Some(waiter) = state.waiting.get_mut(&end) else { return };
        // After a break of the connection the same line is pushed again.
        if waiter.have.contains(&member) {
            return;
        }
        waiter.have.push(member);
        if waiter.have.len() >= self.others
            && let Some(waiter) = state.waiting.remove(&end)
        {
            let _ = waiter.kept.send(());
        }
    }

    /// Whether too few members can be pushed to: trackers are asked for them more often then.
    pub fn is_short(&self) -> bool {
        self.state.lock().short_since.is_some()
    }

    /// A member can be pushed to as long as what is returned lives.
    pub fn reach(self: &Arc<Self>) -> Reached {
        let short = {
            let mut state = self.state.lock();
            state.reached += 1;
            if state.reached >= self.others { state.short_since.take() } else { None }
        };
        if short.is_some_and(|since| since.elapsed() > self.patience) {
            info!("enough members can be reached again for changes to be acknowledged");
        }
        Reached(self.clone())
    }

    /// A change is late; somebody should know.
    fn late(&self) -> Late {
        let now = Instant::now();
        let (reached, alarm) = {
            let mut state = self.state.lock();
            let alarm = state.alarm_at.is_none_or(|at| at <= now);
            if alarm {
                state.alarm_at = Some(now + ALARM_EVERY);
            }
            (state.reached, alarm)
        };
        if alarm {
            error!(
                "ack_members = {}: a change has not reached so many members within ack_timeout = {} s, and is refused \
                 ({} others are connected; start the missing members, or lower ack_members)",
                self.others + 1,
                self.patience.as_secs(),
                reached
            );
        }
        Late
    }
}

/// A member can be pushed to.
#[derive(Debug)]
pub struct Reached(Arc<Acks>);

impl Drop for Reached {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.reached -= 1;
        if state.reached < self.0.others {
            state.short_since.get_or_insert_with(Instant::now);
        }
    }
}

/// A change that somebody waits for.
#[derive(Debug)]
pub struct Expected {
    acks: Arc<Acks>,
    end: Place,
    receiver: oneshot::Receiver<()>,
    deadline: Instant,
}

impl Expected {
    /// Waits until enough members have the change.
    ///
    /// # Errors
    /// [`Late`] when the time is over; some may have it, and the others get it later.
    pub async fn kept(mut self) -> Result<(), Late> {
        match timeout_at(self.deadline, &mut self.receiver).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.acks.late()),
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.acks.state.lock().waiting.remove(&self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn place(offset: u64) -> Place {
        Place { file: 0, offset }
    }

    fn id(text: &str) -> StorageId {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_acknowledged_when_enough_different_members_have_it() {
        let acks = Acks::new(3, PATIENCE).unwrap();
        let mut kept = Box::pin(acks.expect(place(10)).kept());
        acks.taken(place(20), id("a"));
        acks.taken(place(10), id("a"));
        acks.taken(place(10), id("a"));
        tokio::select! {
            biased;
            _ = &mut kept => panic!("one member is not two"),
            () = std::future::ready(()) => {}
        }
        acks.taken(place(10), id("b"));
        assert_eq!(kept.await, Ok(()));
        assert!(acks.state.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_too_late_is_an_error_and_leaves_nothing() {
        let acks = Acks::new(2, PATIENCE).unwrap();
        let began = Instant::now();
        assert_eq!(acks.expect(place(10)).kept().await, Err(Late));
        assert_eq!(began.elapsed(), PATIENCE);
        drop(acks.expect(place(20)));
        assert!(acks.state.lock().waiting.is_empty());
        acks.taken(place(10), id("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_has_been_too_small_for_long_refuses_at_once() {
        let acks = Acks::new(2, PATIENCE).unwrap();
        assert_eq!(acks.possible(), Ok(()));
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(acks.possible(), Err(Late));
        let reached = acks.reach();
        let other = acks.reach();
        assert_eq!(acks.possible(), Ok(()));
        drop(reached);
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(acks.possible(), Ok(()));
        drop(other);
        assert_eq!(acks.possible(), Ok(()));
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(acks.possible(), Err(Late));
    }

    #[test]
    fn one_member_is_no_promise() {
        assert!(Acks::new(1, PATIENCE).is_none() && Acks::new(0, PATIENCE).is_none());
    }
}
