//! How far the changes of each member of the group have been applied here.
//!
//! Trackers are told, and send readers here for files that are older. A time is taken from the record that was applied,
//! never from the clock here, and only from a connection whose sender has said who it is: FastDFS says it on the one
//! connection per peer that carries the records in order.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fdfs_protocol::binlog::{Origin, Record};
use fdfs_protocol::{RemoteName, StorageId};
use parking_lot::{Mutex, RwLock};

/// Ids remembered; a group has at most 32 members, and some may be replaced while this process runs.
const MAX_SOURCES: usize = 128;

/// Changes of one source remembered that were not taken.
const MAX_MISSED: usize = 256;

/// What came from each source, also before this process began: it is saved beside the binlog.
#[derive(Debug)]
pub struct Synced {
    sources: RwLock<BTreeMap<StorageId, Source>>,
    applied: AtomicU64,
    /// Something was refused since this was asked for the last time.
    refused: AtomicBool,
    /// When this storage began to take changes, unix seconds.
    birth: i64,
}

/// A source of changes that has said who it is.
#[derive(Debug, Clone, Default)]
pub struct Source(Arc<Mutex<Times>>);

/// All in unix seconds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Times {
    /// The largest time of a change; 0: none came.
    until: u32,
    /// That of the one that came last.
    last: u32,
    /// When that came, by the clock here.
    heard: i64,
    /// What is being taken now, or was refused: the source may have gone on to the next change, and tries again later.
    missed: BTreeMap<RemoteName, i64>,
    /// The earliest of those that there was no room for.
    missed_too: Option<i64>,
    /// Where it connects from.
    ip: Option<IpAddr>,
}

impl Times {
    fn miss(&mut self, name: &RemoteName, made: i64) {
        if let Some(before) = self.missed.get_mut(name) {
            *before = made.min(*before);
        } else if self.missed.len() < MAX_MISSED {
            self.missed.insert(*name, made);
        } else {
            self.missed_too = self.missed_too.into_iter().chain([made]).min();
        }
    }

    /// When the first change was made that may be missing here, although the source has gone on.
    fn first_missed(&self) -> Option<i64> {
        self.missed.values().copied().chain(self.missed_too).min()
    }
}

impl Source {
    /// A change made at `timestamp` has begun to come, `now`: it counts as missed until it [ends](Source::ends).
    pub fn begins(&self, name: &RemoteName, timestamp: u32, now: i64) {
        self.0.lock().miss(name, now.min(timestamp.into()));
    }

    /// The change is here, or what came after it; its time says nothing of other files.
    pub fn ends(&self, name: &RemoteName) {
        self.0.lock().missed.remove(name);
    }
}

impl Synced {
    /// A storage that takes changes from `birth` on, unix seconds.
    pub fn new(birth: i64) -> Synced {
        Synced { sources: RwLock::default(), applied: AtomicU64::new(0), refused: AtomicBool::new(false), birth }
    }

    /// What was saved. Without that, `born` now if this storage is new.
    ///
    /// # Errors
    /// What reading reported, with the path in the text.
    pub fn load(path: &Path, born: Option<i64>) -> io::Result<Synced> {
        match std::fs::read_to_string(path) {
            // What makes no sense says nothing, as if changes had come from the beginning of time on.
            Ok(text) => Ok(Synced::parse(&text).unwrap_or_else(|| Synced::new(0))),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Synced::new(0)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Synced::new(born.unwrap_or(0))),
            Err(e) => Err(io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()))),
        }
    }

    fn parse(text: &str) -> Option<Synced> {
        let time = |text: &str| text.parse::<u32>().ok();
        let mut lines = text.lines();
        let synced = Synced::new(time(lines.next()?.strip_prefix("birth ")?)?.into());
        for line in lines {
            let fields: Vec<_> = line.split(' ').collect();
            let source = synced.source(fields.get(1)?.parse().ok()?);
            let mut times = source.0.lock();
            match fields[..] {
                ["source", _, until, last, heard] => {
                    (times.until, times.last, times.heard) = (time(until)?, time(last)?, time(heard)?.into());
                }
                ["missed", _, made, name] => times.miss(&name.parse().ok()?, time(made)?.into()),
                ["missed", _, made] => times.missed_too = Some(time(made)?.into()),
                _ => return None,
            }
        }
        Some(synced)
    }

    /// What was on its way when this was saved has come before the process died, if there is a record of it. Its source
    /// does not come again with that.
    pub fn came(&self, record: &Record) {
        if record.origin == Origin::Client {
            return;
        }
        for source in self.sources.read().values() {
            let mut times = source.0.lock();
            if times.missed.get(&record.name) == Some(&record.timestamp.into()) {
                times.missed.remove(&record.name);
            }
        }
    }

    /// What [`load`](Synced::load) reads.
    pub fn to_text(&self) -> String {
        let mut text = format!("birth {}\n", self.birth);
        for (id, source) in &*self.sources.read() {
            let Times { until, last, heard, missed, missed_too, .. } = source.0.lock().clone();
            if until == 0 && missed.is_empty() && missed_too.is_none() {
                continue;
            }
            // Writing to a string does not fail.
            let _ = writeln!(text, "source {id} {until} {last} {heard}");
            for (name, made) in missed {
                let _ = writeln!(text, "missed {id} {made} {name}");
            }
            if let Some(made) = missed_too {
                let _ = writeln!(text, "missed {id} {made}");
            }
        }
        text
    }

    /// The source with this id. When there are too many to be true, the one that was heard of longest ago goes.
    pub fn source(&self, id: StorageId) -> Source {
        if let Some(known) = self.sources.read().get(&id) {
            return known.clone();
        }
        let mut sources = self.sources.write();
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&id) {
            let oldest = sources.iter().min_by_key(|(_, source)| source.0.lock().heard).map(|(id, _)| *id);
            oldest.and_then(|id| sources.remove(&id));
        }
        sources.entry(id).or_default().clone()
    }

    /// The source with this id, which has connected from here.
    pub fn connected(&self, id: StorageId, ip: IpAddr) -> Source {
        let source = self.source(id);
        // Another may have been there before.
        for other in self.sources.read().values() {
            let mut times = other.0.lock();
            times.ip = times.ip.filter(|other| *other != ip);
        }
        source.0.lock().ip = Some(ip);
        source
    }

    /// The source that has said who it is over another connection from this address.
    pub fn source_at(&self, ip: IpAddr) -> Option<Source> {
        self.sources.read().values().find(|source| source.0.lock().ip == Some(ip)).cloned()
    }

    /// A change made at `timestamp` was applied, `now`.
    pub fn applied(&self, source: &Source, timestamp: u32, now: i64) {
        let mut times = source.0.lock();
        times.until = times.until.max(timestamp);
        (times.last, times.heard) = (timestamp, now);
        drop(times);
        self.applied.fetch_add(1, Ordering::Relaxed);
    }

    /// What may be missing of this source is asked for elsewhere from now on.
    pub fn asked_for(&self, id: &StorageId) {
        if let Some(source) = self.sources.read().get(id) {
            let mut times = source.0.lock();
            times.missed.clear();
            times.missed_too = None;
        }
    }

    /// A change was refused.
    pub fn refuses(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether there is something new to be saved that must not wait: the source of what was refused goes on.
    pub fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }

    /// The largest time of a change of this source, unix seconds; 0 for none.
    pub fn until(&self, id: &StorageId) -> u32 {
        self.sources.read().get(id).map_or(0, |source| source.0.lock().until)
    }

    /// The times at which this source made what came last: as its changes tell, or, since its clock may have been set, when
    /// they came. What did not come was hardly made before the first. `None` if nothing came.
    pub fn last(&self, id: &StorageId) -> Option<RangeInclusive<i64>> {
        let sources = self.sources.read();
        let times = sources.get(id)?.0.lock();
        let last = times.heard.min(times.last.into());
        let first = times.first_missed().map_or(last, |missed| missed.min(last));
        (times.until > 0).then(|| first..=times.until.into())
    }

    /// When this storage began to take changes, unix seconds.
    pub fn birth(&self) -> i64 {
        self.birth
    }

    /// Changes whenever something was applied.
    pub fn count(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use fdfs_protocol::binlog::Change;

    use super::*;

    fn name(n: usize) -> RemoteName {
        format!("M00/00/00/file{n:06}").parse().unwrap()
    }

    #[test]
    fn times_only_grow_and_strangers_are_bounded() {
        let synced = Synced::new(0);
        let a: StorageId = "10.0.0.1".parse().unwrap();
        let source = synced.source(a);
        assert_eq!(synced.last(&a), None);
        synced.applied(&source, 100, 200);
        assert_eq!(synced.last(&a), Some(100..=100));
        // It was ahead.
        synced.applied(&source, 300, 201);
        assert_eq!(synced.last(&a), Some(201..=300));
        synced.applied(&source, 202, 203);
        assert_eq!(synced.last(&a), Some(202..=300));
        // It was set back.
        synced.applied(&synced.source(a), 50, 204);
        assert_eq!((synced.until(&a), synced.last(&a), synced.count()), (300, Some(50..=300), 4));
        assert_eq!(synced.until(&"10.0.0.2".parse().unwrap()), 0);
        // Nor do strangers remain of whom nothing came.
        let text = synced.to_text();
        (0..1000).for_each(|i| drop(synced.source(format!("{i}").parse().unwrap())));
        assert_eq!(synced.sources.read().len(), MAX_SOURCES);
        assert_eq!(synced.to_text(), text);
    }

    #[test]
    fn what_was_refused_is_in_question_until_it_comes_also_after_a_restart() {
        let synced = Synced::new(7);
        let a: StorageId = "10.0.0.1".parse().unwrap();
        let source = synced.source(a);
        source.begins(&name(1), 100, 1000);
        // Made while its clock was ahead.
        source.begins(&name(2), 900, 150);
        synced.applied(&source, 300, 301);
        assert_eq!(synced.last(&a), Some(100..=300));
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("synced");
        assert_eq!([None, Some(5)].map(|born| Synced::load(&path, born).unwrap().birth()), [0, 5]);
        std::fs::write(&path, synced.to_text()).unwrap();
        let synced = Synced::load(&path, Some(5)).unwrap();
        assert_eq!((synced.birth(), synced.until(&a), synced.last(&a)), (7, 300, Some(100..=300)));
        let source = synced.source(a);
        // A later change, one that was not pushed, and one of another file say nothing of what is in question.
        for (n, timestamp, origin, missed) in [
            (1, 101, Origin::Replica, 100),
            (1, 100, Origin::Client, 100),
            (3, 100, Origin::Replica, 100),
            (1, 100, Origin::Replica, 150),
        ] {
            let change = Change::Append { offset: 0, len: 1 };
            synced.came(&Record { timestamp, origin, change, name: name(n) });
            assert_eq!(synced.last(&a), Some(missed..=300), "{n} {timestamp}");
        }
        source.ends(&name(2));
        assert_eq!(synced.last(&a), Some(300..=300));

        // More than there is room for.
        (0..300).rev().for_each(|n| source.begins(&name(n), 50 + n as u32, 1000));
        (0..300).for_each(|n| source.ends(&name(n)));
        assert_eq!(synced.last(&a), Some(50..=300));
        let text = synced.to_text();
        assert_eq!(Synced::parse(&text).unwrap().to_text(), text);

        // Others are asked for it.
        synced.asked_for(&a);
        assert_eq!(synced.last(&a), Some(300..=300));

        // Damaged: nothing is known.
        for damaged in [&text[..text.len() - 3], "birth", "", "birth 7\nsource 10.0.0.1 1 2 -9223372036854775808\n"] {
            std::fs::write(&path, damaged).unwrap();
            let synced = Synced::load(&path, Some(5)).unwrap();
            assert!(synced.birth() == 0 || synced.last(&a).unwrap().start() < &50, "{damaged}");
        }
        std::fs::write(&path, b"birth \xff").unwrap();
        assert_eq!(Synced::load(&path, Some(5)).unwrap().birth(), 0);
    }

    #[test]
    fn an_address_is_of_who_connected_from_it_last() {
        let synced = Synced::new(0);
        let [a, b] = ["100001", "100002"].map(|id| id.parse().unwrap());
        let [here, there] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let is = |ip, id| synced.source_at(ip).is_some_and(|source| Arc::ptr_eq(&source.0, &synced.source(id).0));
        synced.connected(a, here);
        assert!(is(here, a));
        synced.connected(b, here);
        assert!(is(here, b));
        synced.connected(a, there);
        assert!(is(here, b) && is(there, a));
    }
}
