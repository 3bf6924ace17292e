//! Files that are being changed: who may, one at a time, and what is known of their content.
//!
//! Appends, modifications, truncations and metadata updates of one file exclude each other; they wait without holding
//! up anybody else. With the lock comes the running CRC32 of an appender file, as long as it was written in sequence
//! here: sealing a large file then needs no second look at its content. And it is remembered of which files this member has
//! the last change, as far as any other could be asked. What is remembered is bounded; what was forgotten is computed from
//! the file, and asked again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fdfs_protocol::{RemoteName, Status};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::disk::binlog::Place;
use crate::disk::dir::Meta;
use crate::serve::info::is_appender;

/// Files remembered at most; some 5 MB.
const MAX_FILES: usize = 16_384;

/// A worker that stood still for longer may have been passed over by members that asked it. They wait longer for an answer
/// ([`ANSWER`](crate::serve::latest::ANSWER)).
const LAPSE: Duration = Duration::from_secs(2);

/// A member that waits to change a file goes first for so long after it asked last; and at most so long, so often: if what it
/// lacks does not come, others are not held up for more than a part of the time.
const GOES_FIRST: Duration = Duration::from_secs(1);
const GOES_FIRST_MOST: Duration = Duration::from_secs(5);
const GOES_AGAIN: Duration = Duration::from_secs(20);

/// The CRC32 state of the first `size` bytes of a file.
#[derive(Debug, Clone)]
pub struct Sum {
    /// The state, which can be continued.
    pub hasher: crc32fast::Hasher,
    /// Bytes it covers: the whole file.
    pub size: u64,
}

/// A span of time in which no other member can have changed files without asking here or pushing the change, as far as this
/// one can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term(u64);

/// What is remembered of a file.
#[derive(Debug, Default)]
struct Known {
    sum: Option<Sum>,
    /// In this term it was found that no other member has a later change.
    latest: Option<Term>,
    /// The record of the last change that a client made here ends before this place.
    recorded: Option<Place>,
    /// When a change of it was taken last that another member pushed.
    pushed: Option<Instant>,
}

impl Known {
    fn is_nothing(&self) -> bool {
        self.sum.is_none() && self.latest.is_none() && self.recorded.is_none() && self.pushed.is_none()
    }
}

/// Another member waits to change a file.
#[derive(Debug, Clone, Copy)]
struct Wish {
    since: Instant,
    /// Until then it goes first.
    until: Instant,
}

#[derive(Debug, Default)]
struct Terms {
    number: u64,
    /// When each worker was seen to run.
    seen: Vec<Instant>,
}

impl Terms {
    /// Whoever stands still longer than a member waits for an answer is passed over, and may still change files then.
    fn lapse(&mut self, seen: Instant, now: Instant) {
        self.number += u64::from(now.saturating_duration_since(seen) > LAPSE);
    }
}

/// A file, however its name is spelled.
pub type Key = (u8, Box<str>);
type Cell = Arc<tokio::sync::Mutex<Known>>;

#[derive(Debug)]
struct Slot {
    cell: Cell,
    used: u64,
    /// While something is being added to the file: what it was before.
    before: Option<Meta>,
    wish: Option<Wish>,
}

/// The files being changed, and those of which something is remembered.
#[derive(Debug, Default)]
pub struct Names {
    slots: Mutex<HashMap<Key, Slot>>,
    clock: AtomicU64,
    terms: Mutex<Terms>,
}

/// The right to change one file. What it remembers of the content is the holder's to keep true.
#[derive(Debug)]
pub struct Held<'a> {
    names: &'a Names,
    key: Key,
    guard: Option<OwnedMutexGuard<Known>>,
    adding: bool,
}

/// What the file of this name is remembered by.
pub fn key(name: &RemoteName) -> Key {
    // `M0a/..`, `M0A/..` and, for the first path, a name without it are the same file.
    (name.store_path(), name.true_name().into())
}

impl Names {
    /// Waits until nobody else changes the file.
    ///
    /// # Errors
    /// `EAGAIN` when that takes longer than `patience`.
    pub async fn hold(&self, name: &RemoteName, patience: Duration) -> Result<Held<'_>, Status> {
        let key = key(name);
        let cell = self.cell(&key);
        let guard = match cell.clone().try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => tokio::time::timeout(patience, cell.lock_owned()).await.map_err(|_| Status::EAGAIN)?,
        };
        Ok(Held { names: self, key, guard: Some(guard), adding: false })
    }

    /// The sum of a file of this size, if it is known and nobody is changing the file.
    pub fn sum(&self, name: &RemoteName, size: u64) -> Option<Sum> {
        let cell = self.slots.lock().get(&key(name))?.cell.clone();
        let sum = cell.try_lock().ok()?.sum.clone();
        sum.filter(|sum| sum.size == size)
    }

    /// The present term. While a worker stands still, each is over at once.
    pub fn term(&self) -> Term {
        let mut terms = self.terms.lock();
        let now = Instant::now();
        if let Some(seen) = terms.seen.iter().min().copied() {
            terms.lapse(seen, now);
        }
        Term(terms.number)
    }

    /// Begins another term: this member, or one that pushes here, was away.
    pub fn begin_term(&self) {
        self.terms.lock().number += 1;
    }

    /// This worker runs; to be called more often than it could be passed over.
    pub fn tick(&self, worker: usize) {
        let mut terms = self.terms.lock();
        let now = Instant::now();
        if terms.seen.len() <= worker {
            terms.seen.resize(worker + 1, now);
        }
        let seen = std::mem::replace(&mut terms.seen[worker], now);
        terms.lapse(seen, now);
    }

    /// Another member waits to change a file that is changed here: it is to go first.
    pub fn wish(&self, name: &RemoteName) {
        let now = Instant::now();
        if let Some(slot) = self.slots.lock().get_mut(&key(name)) {
            let since = slot.wish.map_or(now, |wish| wish.since);
            let since = if now < since + GOES_AGAIN { since } else { now };
            slot.wish = Some(Wish { since, until: (now + GOES_FIRST).min(since + GOES_FIRST_MOST) });
        }
    }

    /// What of a file that looks like this is there to stay, and since when: what is being added may yet be taken back. To be
    /// asked after the look at the file: what is taken back by then is missing when it is sent.
    pub fn recorded(&self, name: &RemoteName, meta: Meta) -> Meta {
        if !is_appender(name) {
            return meta;
        }
        let before = self.slots.lock().get(&key(name)).and_then(|slot| slot.before);
        before.map_or(meta, |before| before.cut(meta.size))
    }

    /// Remembers the sum of a file that was just made, which nobody else can know yet.
    pub fn remember(&self, name: &RemoteName, sum: Sum) {
        let latest = Some(self.term());
        if let Ok(mut cell) = self.cell(&key(name)).try_lock() {
            *cell = Known { sum: Some(sum), latest, ..Known::default() };
        }
    }

    fn cell(&self, key: &Key) -> Cell {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get_mut(key) {
            slot.used = now;
            return slot.cell.clone();
        }
        if slots.len() >= MAX_FILES {
            // Forgets the older half of what nobody holds.
            let oldest = now.saturating_sub(MAX_FILES as u64 / 2);
            slots.retain(|_, slot| slot.used >= oldest || Arc::strong_count(&slot.cell) > 1);
        }
        let slot = Slot { cell: Cell::default(), used: now, before: None, wish: None };
        let cell = slot.cell.clone();
        slots.insert(key.clone(), slot);
        cell
    }
}

impl Held<'_> {
    /// The sum of the whole file, if it is known and the file has this size.
    pub fn sum(&self, size: u64) -> Option<Sum> {
        self.guard.as_ref()?.sum.as_ref().filter(|sum| sum.size == size).cloned()
    }

    /// Says what the sum is from now on.
    pub fn set_sum(&mut self, sum: Option<Sum>) {
        if let Some(guard) = &mut self.guard {
            guard.sum = sum;
        }
    }

    /// Whether it is known that no other member has a later change of the file.
    pub fn is_latest(&self) -> bool {
        let latest = self.guard.as_ref().and_then(|guard| guard.latest);
        latest.is_some_and(|term| term == self.names.term())
    }

    /// Says whether that is known, and since which term: one from before the others were asked.
    pub fn set_latest(&mut self, since: Option<Term>) {
        if let Some(guard) = &mut self.guard {
            guard.latest = since;
        }
    }

    /// Whether another member is to change the file first.
    pub fn is_wished(&self) -> bool {
        let wish = self.names.slots.lock().get(&self.key).and_then(|slot| slot.wish);
        wish.is_some_and(|wish| wish.until > Instant::now())
    }

    /// Another member may change the file.
    pub fn grant(&mut self) {
        self.set_latest(None);
        if let Some(slot) = self.names.slots.lock().get_mut(&self.key) {
            slot.wish = None;
        }
    }

    /// A change was taken that another member pushed.
    pub fn set_pushed(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.pushed = Some(Instant::now());
        }
    }

    /// How long ago such a change was taken last; `None` if that is not remembered.
    pub fn pushed_ago(&self) -> Option<Duration> {
        self.guard.as_ref()?.pushed.map(|pushed| pushed.elapsed())
    }

    /// Where the record of the last change ends that a client made here, or a later place; `None` if there is none, or that was
    /// forgotten.
    pub fn recorded_before(&self) -> Option<Place> {
        self.guard.as_ref().and_then(|guard| guard.recorded)
    }

    /// A client has changed the file here; its record ends before this place.
    pub fn set_recorded_before(&mut self, end: Place) {
        if let Some(guard) = &mut self.guard {
            guard.recorded = Some(end);
        }
    }

    /// Something is going to be added to the file, which looks like this.
    pub fn adding(&mut self, before: &Meta) {
        self.set_before(Some(*before));
    }

    /// All of it is there, and is going to be recorded.
    pub fn added(&mut self) {
        self.set_before(None);
    }

    fn set_before(&mut self, before: Option<Meta>) {
        self.adding = before.is_some();
        if let Some(slot) = self.names.slots.lock().get_mut(&self.key) {
            slot.before = before;
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.adding {
            self.set_before(None);
        }
        let Some(guard) = self.guard.take() else { return };
        if !guard.is_nothing() {
            return;
        }
        let mut slots = self.names.slots.lock();
        // Two: the slot's and the guard's. New holders come through the map, which is locked.
        if slots.get(&self.key).is_some_and(|slot| Arc::strong_count(&slot.cell) == 2) {
            slots.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::dir;
    use fdfs_protocol::binlog::Origin;

    fn name(n: u32) -> RemoteName {
        RemoteName::parse(format!("M00/00/00/file{n:08}").as_bytes()).unwrap()
    }

    fn sum(size: u64) -> Sum {
        Sum { hasher: crc32fast::Hasher::new(), size }
    }

    #[tokio::test]
    async fn one_holder_at_a_time_and_no_trace_after() {
        let names = Names::default();
        let short = Duration::from_millis(1);
        let first = names.hold(&name(1), short).await.unwrap();
        assert_eq!(names.hold(&name(1), short).await.err(), Some(Status::EAGAIN));
        names.hold(&name(2), short).await.unwrap();
        drop(first);
        names.hold(&name(1), short).await.unwrap();
        assert!(names.slots.lock().is_empty());
    }

    #[tokio::test]
    async fn sums_are_for_their_size_only() {
        let names = Names::default();
        names.remember(&name(1), sum(5));
        let mut held = names.hold(&name(1), Duration::ZERO).await.unwrap();
        assert!(held.sum(5).is_some() && held.sum(6).is_none());
        held.set_sum(Some(sum(7)));
        drop(held);
        let mut held = names.hold(&name(1), Duration::ZERO).await.unwrap();
        assert!(held.sum(7).is_some());
        held.set_sum(None);
        held.set_latest(None);
        drop(held);
        assert!(names.slots.lock().is_empty());
    }

    #[tokio::test]
    async fn what_is_being_added_does_not_count() {
        let names = Names::default();
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("file")).unwrap();
        let meta = |size, mtime| {
            file.set_len(size).unwrap();
            dir::set_mtime(&file, mtime, Origin::Client).unwrap();
            dir::meta_of(&file).unwrap()
        };
        let name =
            |n: u32| RemoteName::parse(format!("M00/00/00/Ck0ABWsIc9eEOrZKAAAAAOQmBhg{n:07}").as_bytes()).unwrap();
        let recorded = |n, now: Meta| {
            let meta = names.recorded(&name(n), now);
            (meta.size, meta.mtime)
        };
        for sum in [None, Some(sum(9))] {
            let mut held = names.hold(&name(1), Duration::ZERO).await.unwrap();
            held.set_sum(sum);
            held.adding(&meta(5, 100));
            assert_eq!((recorded(1, meta(7, 200)), recorded(2, meta(7, 200))), ((5, 100), (7, 200)));
            assert_eq!(recorded(1, meta(4, 200)), (4, 100), "taken back, or cut, in this moment");
            held.added();
            assert_eq!(recorded(1, meta(7, 200)), (7, 200));
            held.adding(&meta(5, 100));
            drop(held);
            assert_eq!(recorded(1, meta(7, 200)), (7, 200));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_of_other_members_holds_for_a_term() {
        let names = Names::default();
        let hold = async |n| names.hold(&name(n), Duration::ZERO).await.unwrap();
        assert!(!hold(1).await.is_latest());
        names.remember(&name(1), sum(1));
        assert!(hold(1).await.is_latest(), "it was made here");
        let asked = names.term();
        hold(2).await.set_latest(Some(asked));
        assert!(hold(2).await.is_latest());
        names.begin_term();
        assert!(!hold(1).await.is_latest() && !hold(2).await.is_latest());
        hold(2).await.set_latest(Some(asked));
        assert!(!hold(2).await.is_latest(), "asked before");
        let asked = names.term();
        for n in [1, 2] {
            hold(n).await.set_latest(Some(asked));
        }
        hold(1).await.set_latest(None);
        assert!(!hold(1).await.is_latest() && hold(2).await.is_latest());
        let tick = |workers: &[usize]| workers.iter().for_each(|worker| names.tick(*worker));
        for _ in 0..3 {
            tick(&[0, 1]);
            tokio::time::advance(LAPSE).await;
            assert!(hold(2).await.is_latest());
        }
        for worker in [0, 1] {
            tick(&[0, 1]);
            tokio::time::advance(LAPSE).await;
            tick(&[1 - worker]);
            hold(2).await.set_latest(Some(names.term()));
            assert!(hold(2).await.is_latest());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!hold(2).await.is_latest(), "a worker stands still");
            hold(2).await.set_latest(Some(names.term()));
            assert!(!hold(2).await.is_latest(), "it still does");
        }
        tick(&[0, 1]);
        hold(2).await.set_latest(Some(names.term()));
        tokio::time::advance(LAPSE + Duration::from_millis(1)).await;
        tick(&[0, 1]);
        assert!(!hold(2).await.is_latest(), "all stood still");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_first_for_a_while() {
        let names = Names::default();
        let hold = async || names.hold(&name(1), Duration::ZERO).await.unwrap();
        names.wish(&name(1));
        assert!(names.slots.lock().is_empty(), "nobody changes it here");
        names.remember(&name(1), sum(1));
        assert!(!hold().await.is_wished());
        names.wish(&name(1));
        assert!(hold().await.is_wished() && hold().await.is_latest());
        hold().await.grant();
        assert!(!hold().await.is_wished() && !hold().await.is_latest());
        for round in 0..2 {
            let began = Instant::now();
            while began.elapsed() < GOES_FIRST_MOST {
                names.wish(&name(1));
                assert!(hold().await.is_wished());
                tokio::time::advance(GOES_FIRST / 2).await;
            }
            names.wish(&name(1));
            assert!(!hold().await.is_wished(), "{round}: it did not get what it lacks");
            tokio::time::advance(GOES_AGAIN - GOES_FIRST_MOST).await;
        }
        names.wish(&name(1));
        tokio::time::advance(GOES_FIRST).await;
        assert!(!hold().await.is_wished(), "it asks no more");
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let names = Names::default();
        for n in 0..3 * MAX_FILES as u32 {
            names.remember(&name(n), sum(1));
        }
        assert!(names.slots.lock().len() <= MAX_FILES);
        let last = names.hold(&name(3 * MAX_FILES as u32 - 1), Duration::ZERO).await.unwrap();
        assert!(last.sum(1).is_some());
    }

    #[tokio::test]
    async fn different_spellings_are_one_file() {
        let names = Names::default();
        let parse = |s: &str| RemoteName::parse(s.as_bytes()).unwrap();
        names.remember(&parse("M0A/00/00/some-file"), sum(1));
        assert!(names.hold(&parse("M0a/00/00/some-file"), Duration::ZERO).await.unwrap().sum(1).is_some());
        names.remember(&parse("M00/00/00/some-file"), sum(2));
        assert!(names.hold(&parse("00/00/some-file"), Duration::ZERO).await.unwrap().sum(2).is_some());
    }
}
