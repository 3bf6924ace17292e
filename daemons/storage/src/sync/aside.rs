//! Files that a peer could not be brought up to date with: set aside, so that they hold up nobody, and tried again.
//!
//! What is kept is the name, not the change: trying again makes the peer's file what the file is here by then, so that
//! later changes of the same name need no push of their own. The names survive a restart, in a file beside the mark
//! file: one record a line, as in a binlog. A name is in the file before the position of the peer passes its record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fdfs_protocol::RemoteName;
use fdfs_protocol::binlog::{Change, Origin, Record};
use tokio::time::Instant;
use tracing::warn;

use crate::blocking;
use crate::disk::{replace_file, sync_parent};

/// Names kept at most; when there are more, the peer as a whole is in trouble, and its loop waits.
pub const MAX: usize = 100_000;

/// Pause before the first new try; it doubles with each failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// What is known of a change that could not be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The time of the change, unix seconds.
    pub timestamp: u32,
    /// The file was removed. Of one that is missing and was not, the disk may be lost, and the peer keeps what it has.
    pub removed: bool,
}

impl Cause {
    /// What a record tells of a file that it names.
    pub fn of(record: &Record, name: &RemoteName) -> Cause {
        let removed = match &record.change {
            Change::Delete => true,
            Change::Rename { old } => old == name,
            _ => false,
        };
        Cause { timestamp: record.timestamp, removed }
    }
}

#[derive(Debug)]
struct Entry {
    cause: Cause,
    due: Instant,
    pause: Duration,
    /// When another try failed last.
    tried: Option<Instant>,
}

/// The files set aside for one peer.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
    names: BTreeMap<RemoteName, Entry>,
    /// The names by when they are due.
    order: BTreeSet<(Instant, RemoteName)>,
    /// Lines in the file.
    lines: usize,
    /// Lines were added to it, and are not known to be on stable storage.
    added: Option<File>,
    /// It says more than it need, or less than it must: to be written anew.
    stale: bool,
}

impl Aside {
    /// Reads what an earlier process set aside; lines that make no sense are passed over with a warning.
    ///
    /// # Errors
    /// What reading reported, with the path in the text.
    pub fn open(path: PathBuf, now: Instant) -> io::Result<Aside> {
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|e| named(&path, &e))?,
        };
        let mut names = BTreeMap::new();
        let mut lines = 0;
        for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            lines += 1;
            match Record::parse(line) {
                Ok(r) => drop(
                    names.insert(r.name, Entry { cause: Cause::of(&r, &r.name), due: now, pause: FIRST, tried: None }),
                ),
                Err(e) => warn!("{}: line {lines} is passed over: {e}", path.display()),
            }
        }
        let order = names.iter().map(|(name, entry)| (entry.due, *name)).collect();
        Ok(Aside { path, names, order, lines, added: None, stale: false })
    }

    /// The file it is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, each with the last change of it that was not pushed.
    pub fn names(&self) -> impl Iterator<Item = (RemoteName, Cause)> {
        self.names.iter().map(|(name, entry)| (*name, entry.cause))
    }

    /// Whether this name is set aside.
    pub fn contains(&self, name: &RemoteName) -> bool {
        self.names.contains_key(name)
    }

    /// Why a name is set aside.
    pub fn cause(&self, name: &RemoteName) -> Option<Cause> {
        self.names.get(name).map(|entry| entry.cause)
    }

    /// Whether a name is set aside for this change, or for a later one. Nothing is later than the end of a file whose name is
    /// not given again.
    pub fn covers(&self, name: &RemoteName, cause: Cause) -> bool {
        let order = |cause: Cause| (cause.removed && name.is_given_once(), cause.timestamp, cause.removed);
        self.cause(name).is_some_and(|known| order(known) >= order(cause))
    }

    /// Sets a name aside, because of a change that could not be pushed, or a further one of it.
    ///
    /// # Errors
    /// What writing reported: the record must not be passed over then.
    pub fn add(&mut self, name: RemoteName, cause: Cause, now: Instant) -> io::Result<()> {
        let known = self.cause(&name);
        // Peers go by the times: of none is less told after a restart.
        let cause = match known {
            Some(known) => Cause { timestamp: known.timestamp.max(cause.timestamp), ..cause },
            None => cause,
        };
        if known != Some(cause) {
            self.write(&name, cause)?;
        }
        let entry = self.names.entry(name).or_insert(Entry { cause, due: now + FIRST, pause: FIRST, tried: None });
        entry.cause = cause;
        self.order.insert((entry.due, name));
        Ok(())
    }

    /// Somebody waits for a name: it is tried next, but for the pause after the last try.
    pub fn hasten(&mut self, name: &RemoteName, now: Instant) {
        if let Some(entry) = self.names.get_mut(name) {
            self.order.remove(&(entry.due, *name));
            let rested = entry.tried.map_or(now, |tried| tried + FIRST);
            entry.due = entry.due.min(rested.max(now));
            entry.pause = FIRST;
            self.order.insert((entry.due, *name));
        }
    }

    fn write(&mut self, name: &RemoteName, cause: Cause) -> io::Result<()> {
        let mut append = || {
            let mut file = match self.added.take() {
                Some(file) => file,
                None => OpenOptions::new().create(true).append(true).open(&self.path)?,
            };
            // A full disk, or the end of the process, may have left a piece of a line before.
            file.write_all(format!("\n{}", line(name, cause)).as_bytes())?;
            Ok(file)
        };
        let written = append();
        // With the file goes what is known of earlier lines: that they are not on stable storage.
        self.stale |= written.is_err();
        self.added = Some(written.map_err(|e: io::Error| named(&self.path, &e))?);
        self.lines += 1;
        Ok(())
    }

    /// Puts the names on stable storage, before a position is saved that relies on it. Lines of names that are settled
    /// are no harm: those are tried once more after a restart.
    ///
    /// # Errors
    /// What the system reported.
    pub async fn sync(&mut self) -> io::Result<()> {
        match self.unsaved() {
            Some(save) => self.saved(blocking::run(save).await),
            None => Ok(()),
        }
    }

    /// [`sync`](Aside::sync) on this thread.
    ///
    /// # Errors
    /// As [`sync`](Aside::sync).
    pub fn sync_now(&mut self) -> io::Result<()> {
        match self.unsaved() {
            Some(save) => self.saved(save()),
            None => Ok(()),
        }
    }

    fn unsaved(&mut self) -> Option<impl FnOnce() -> io::Result<()> + Send + 'static> {
        let added = self.added.take();
        if added.is_none() && !self.stale {
            return None;
        }
        let text: Option<String> =
            self.stale.then(|| self.names.iter().map(|(name, entry)| line(name, entry.cause)).collect());
        if text.is_some() {
            self.lines = self.names.len();
        }
        let path = self.path.clone();
        Some(move || match (text, added) {
            (Some(text), _) if text.is_empty() => std::fs::remove_file(&path).or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            }),
            (Some(text), _) => replace_file(&path, text.as_bytes()),
            // It may have been made for these lines.
            (None, Some(file)) => file.sync_data().and_then(|()| sync_parent(&path)),
            (None, None) => Ok(()),
        })
    }

    fn saved(&mut self, result: io::Result<()>) -> io::Result<()> {
        self.stale = result.is_err();
        result.map_err(|e| named(&self.path, &e))
    }

    /// A name whose time has come, with the last change of it.
    pub fn due(&self, now: Instant, free: impl Fn(&RemoteName) -> bool) -> Option<(RemoteName, Cause)> {
        let (_, name) = self.order.iter().take_while(|(due, _)| *due <= now).find(|(_, name)| free(name))?;
        Some((*name, self.names.get(name)?.cause))
    }

    /// When the next name's time comes: of those whose time is still to come at `now`.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.order.iter().map(|(due, _)| *due).find(|due| *due > now)
    }

    /// Another try has failed; gives the pause before the next.
    pub fn failed(&mut self, name: &RemoteName, now: Instant) -> Duration {
        let Some(entry) = self.names.get_mut(name) else { return FIRST };
        let pause = entry.pause;
        self.order.remove(&(entry.due, *name));
        entry.due = now + pause;
        entry.tried = Some(now);
        self.order.insert((entry.due, *name));
        entry.pause = (pause * 2).min(LONGEST);
        pause
    }

    /// There is no more to be done about this change of a name; about a later one there is.
    pub fn settled(&mut self, name: &RemoteName, cause: Cause) {
        if self.names.get(name).is_some_and(|entry| entry.cause == cause)
            && let Some(entry) = self.names.remove(name)
        {
            self.order.remove(&(entry.due, *name));
        }
        self.stale |= self.names.is_empty() || self.lines > 2 * self.names.len() + 1000;
    }
}

fn line(name: &RemoteName, cause: Cause) -> String {
    let change = if cause.removed { Change::Delete } else { Change::Update };
    format!("{}\n", Record { timestamp: cause.timestamp, origin: Origin::Client, change, name: *name })
}

fn named(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> RemoteName {
        format!("M00/00/00/file{n:06}").parse().unwrap()
    }

    fn changed(timestamp: u32) -> Cause {
        Cause { timestamp, removed: false }
    }

    #[tokio::test]
    async fn the_last_change_of_a_name_survives() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.aside");
        let now = Instant::now();
        let mut aside = Aside::open(path.clone(), now).unwrap();
        let cause = |aside: &Aside, n| aside.due(now + FIRST, |other| *other == name(n)).unwrap().1;
        for (n, at, removed) in
            [(1, 100, false), (1, 200, false), (2, 100, false), (2, 90, true), (3, 1, true), (3, 2, false)]
        {
            aside.add(name(n), Cause { timestamp: at, removed }, now).unwrap();
        }
        for rewritten in [false, true] {
            aside.stale |= rewritten;
            aside.sync().await.unwrap();
            let again = Aside::open(path.clone(), now).unwrap();
            for aside in [&aside, &again] {
                assert_eq!(cause(aside, 1), changed(200));
                assert_eq!(cause(aside, 2), Cause { timestamp: 100, removed: true });
                assert_eq!(cause(aside, 3), changed(2));
            }
        }
    }

    #[test]
    fn what_is_set_aside_for_an_earlier_change_does_not_cover_a_removal() {
        let tmp = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut aside = Aside::open(tmp.path().join("x.aside"), now).unwrap();
        let removed = |timestamp| Cause { timestamp, removed: true };
        assert!(!aside.covers(&name(1), changed(100)));
        aside.add(name(1), changed(100), now).unwrap();
        assert!(aside.covers(&name(1), changed(99)) && aside.covers(&name(1), changed(100)));
        assert!(!aside.covers(&name(1), removed(100)) && !aside.covers(&name(1), changed(101)));
        aside.add(name(1), removed(200), now).unwrap();
        assert!(aside.covers(&name(1), changed(200)) && !aside.covers(&name(1), removed(201)));
    }

    #[tokio::test]
    async fn after_a_failed_line_all_is_written_anew() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.aside");
        let now = Instant::now();
        let mut aside = Aside::open(path.clone(), now).unwrap();
        aside.add(name(1), changed(1), now).unwrap();
        // As on a full disk: nothing can be written into it.
        aside.added = Some(File::open(&path).unwrap());
        assert!(aside.add(name(2), changed(2), now).is_err() && !aside.contains(&name(2)));
        std::fs::write(&path, "what a power cut has left").unwrap();
        aside.sync().await.unwrap();
        assert!(Aside::open(path, now).unwrap().contains(&name(1)));
    }

    #[tokio::test]
    async fn names_survive_until_they_are_settled() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("10.0.0.2_23000.aside");
        let now = Instant::now();
        let mut aside = Aside::open(path.clone(), now).unwrap();
        aside.add(name(1), changed(100), now).unwrap();
        aside.add(name(1), changed(90), now).unwrap();
        aside.add(name(2), changed(101), now).unwrap();
        aside.sync().await.unwrap();
        // A piece of a line is nobody's, and spoils no other.
        std::fs::write(&path, [&std::fs::read(&path).unwrap()[..], b"102 U M00"].concat()).unwrap();
        aside.add(name(3), changed(102), now).unwrap();
        let mut again = Aside::open(path.clone(), now).unwrap();
        assert!(again.contains(&name(3)));
        again.settled(&name(3), changed(101));
        assert!(again.contains(&name(3)), "it changed since");
        again.settled(&name(3), changed(102));
        assert_eq!((again.len(), again.due(now, |_| true)), (2, Some((name(1), changed(100)))));
        assert_eq!(again.due(now, |n| *n != name(1)), Some((name(2), changed(101))));
        again.settled(&name(1), changed(100));
        assert!(!again.contains(&name(1)) && again.contains(&name(2)));
        again.settled(&name(2), changed(101));
        again.sync().await.unwrap();
        assert!(again.is_empty() && !path.exists());
        again.add(name(4), changed(103), now).unwrap();
        again.sync_now().unwrap();
        assert!(Aside::open(path, now).unwrap().contains(&name(4)));
    }

    #[test]
    fn pauses_double_up_to_their_limit() {
        let tmp = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut aside = Aside::open(tmp.path().join("x.aside"), now).unwrap();
        aside.add(name(1), changed(1), now).unwrap();
        assert_eq!((aside.due(now, |_| true), aside.next_due(now)), (None, Some(now + FIRST)));
        assert_eq!(aside.next_due(now + FIRST), None, "its time has come");
        let pauses: Vec<_> = (0..12).map(|_| aside.failed(&name(1), now).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }

    #[test]
    fn nonsense_in_the_file_is_passed_over() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.aside");
        std::fs::write(&path, format!("nonsense\n5 U {}\n5 U ../../etc", name(1))).unwrap();
        let aside = Aside::open(path, Instant::now()).unwrap();
        assert_eq!(aside.len(), 1);
    }

    #[test]
    fn who_waits_makes_nobody_wait_longer_afterwards() {
        let tmp = tempfile::tempdir().unwrap();
        let mut now = Instant::now();
        let mut aside = Aside::open(tmp.path().join("x.aside"), now).unwrap();
        aside.add(name(1), changed(1), now).unwrap();
        let mut tries = 0;
        for _ in 0..20 {
            now += FIRST / 4;
            aside.hasten(&name(1), now);
            if aside.due(now, |_| true).is_some() {
                aside.failed(&name(1), now);
                tries += 1;
            }
        }
        assert_eq!(tries, 5, "at once, and then with a pause");
        assert!(aside.next_due(now).unwrap() - now <= FIRST);
    }
}
