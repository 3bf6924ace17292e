//! Names of files that were removed here, so that what is late does not bring them back.
//!
//! A member may be sent a file after its removal: its source pushes again what it had pushed before it was killed, was
//! cut off while another member took the removal, or gave up a connection whose bytes arrive later all the same. Names
//! of normal and appender files are given once, so whatever makes one of these again is late. Slaves, metadata and links can be
//! made anew under the same name: there the times decide. Of two at the same time FastDFS's storages mean the later to come;
//! of those of our members what is made stays, since they remove nothing at the time it has.
//!
//! The newest are remembered, and after a start those in the last part of the binlog.

use std::collections::{HashMap, VecDeque};

use fdfs_protocol::RemoteName;
use fdfs_protocol::binlog::{Change, Record};
use parking_lot::Mutex;

/// Names remembered; some 10 MB.
const MAX: usize = 65_536;
/// Bytes of the binlog that are looked at after a start: about as many records.
pub const TAIL: u64 = 4 << 20;

type Key = (u8, Box<str>);

#[derive(Debug, Clone)]
struct Removal {
    timestamp: u32,
    /// The name the file has now; it may be given this one back.
    renamed: Option<Box<RemoteName>>,
    number: u64,
}

/// The names that were removed.
#[derive(Debug)]
pub struct Deleted {
    inner: Mutex<Inner>,
    max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    names: HashMap<Key, Removal>,
    order: VecDeque<(u64, Key)>,
    next: u64,
}

impl Default for Deleted {
    fn default() -> Deleted {
        Deleted { inner: Mutex::default(), max: MAX }
    }
}

fn key(name: &RemoteName) -> Key {
    (name.store_path(), name.true_name().into())
}

impl Deleted {
    /// Remembers what the last records of the binlog tell.
    pub fn of(records: &[Record]) -> Deleted {
        let deleted = Deleted::default();
        for record in records {
            match &record.change {
                Change::Delete => drop(deleted.add(&record.name, record.timestamp)),
                Change::Rename { old } => drop(deleted.rename(old, &record.name, record.timestamp)),
                Change::Create | Change::Link { .. } => deleted.forget(&record.name),
                _ => {}
            }
        }
        deleted
    }

    /// A file is removed. False if that was known: of what can be made anew, that it was removed at this time or later.
    pub fn add(&self, name: &RemoteName, timestamp: u32) -> bool {
        self.insert(name, timestamp, None)
    }

    /// A file gets another name. False if that was known.
    pub fn rename(&self, old: &RemoteName, new: &RemoteName, timestamp: u32) -> bool {
        let known = self.renamed_to(old).as_ref() == Some(new);
        self.forget(new);
        self.insert(old, timestamp, Some(Box::new(*new)));
        !known
    }

    fn insert(&self, name: &RemoteName, timestamp: u32, renamed: Option<Box<RemoteName>>) -> bool {
        let key = key(name);
        let mut inner = self.inner.lock();
        let number = inner.next;
        let timestamp = inner.names.get(&key).map_or(timestamp, |known| known.timestamp.max(timestamp));
        let known = inner.names.insert(key.clone(), Removal { timestamp, renamed, number });
        inner.next += 1;
        inner.order.push_back((number, key));
        while inner.order.len() > self.max {
            if let Some((number, key)) = inner.order.pop_front()
                && inner.names.get(&key).is_some_and(|removal| removal.number == number)
            {
                inner.names.remove(&key);
            }
        }
        known.is_none_or(|known| !name.is_given_once() && known.timestamp < timestamp)
    }

    /// The time of a file of this name that is made at `now`: after its removal, whatever the clock says.
    pub fn time_of_creation(&self, name: &RemoteName, now: i64) -> i64 {
        let inner = self.inner.lock();
        let removal = if inner.names.is_empty() { None } else { inner.names.get(&key(name)) };
        removal.map_or(now, |removal| now.max(i64::from(removal.timestamp) + 1))
    }

    /// When the file was removed, if that is known, unix seconds.
    pub fn time(&self, name: &RemoteName) -> Option<u32> {
        self.inner.lock().names.get(&key(name)).map(|removal| removal.timestamp)
    }

    /// A file of this name is here again.
    pub fn forget(&self, name: &RemoteName) {
        let mut inner = self.inner.lock();
        if !inner.names.is_empty() {
            inner.names.remove(&key(name));
        }
    }

    /// Whether a file that was made or renamed at `timestamp` is known to be removed.
    pub fn is_late(&self, name: &RemoteName, timestamp: u32) -> bool {
        let inner = self.inner.lock();
        if inner.names.is_empty() {
            return false;
        }
        let key = key(name);
        if let Some(removal) = inner.names.get(&key)
            && (name.is_given_once() || timestamp < removal.timestamp)
        {
            return true;
        }
        // Metadata goes with its file.
        let base = key.1.strip_suffix("-m").filter(|_| name.is_metadata());
        let removed = |base: &str| inner.names.contains_key(&(key.0, base.into()));
        base.is_some_and(removed) && base_of(name).is_some_and(|base| base.is_given_once())
    }

    /// As [`Deleted::is_late`] for a rename to `name`, which may take back an earlier one.
    pub fn is_late_rename(&self, name: &RemoteName, timestamp: u32) -> bool {
        self.renamed_to(name).is_none() && self.is_late(name, timestamp)
    }

    /// Whether a file of this name was removed, or got another one.
    pub fn has(&self, name: &RemoteName) -> bool {
        self.inner.lock().names.contains_key(&key(name))
    }

    /// The name that the file of this name was given instead, if that is how this one came to its end.
    pub fn renamed_to(&self, name: &RemoteName) -> Option<RemoteName> {
        self.inner.lock().names.get(&key(name))?.renamed.as_deref().copied()
    }
}

fn base_of(metadata: &RemoteName) -> Option<RemoteName> {
    metadata.as_str().strip_suffix("-m")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::binlog::Binlog;
    use crate::disk::history::last_records;

    const NORMAL: &str = "M00/00/00/Ck0ABmsHvW6AJhDDAAIzYN_CIyA451.dat";
    const APPENDER: &str = "M00/00/00/Ck4AAWsA5LaEYVcFAAAAALBg714379.txt";

    fn name(text: &str) -> RemoteName {
        text.parse().unwrap()
    }
    fn slave() -> RemoteName {
        name(&NORMAL.replace(".dat", "_big.jpg"))
    }
    fn metadata(of: &str) -> RemoteName {
        name(&format!("{of}-m"))
    }

    #[test]
    fn names_that_are_given_once_never_come_back() {
        for text in [NORMAL, APPENDER] {
            let deleted = Deleted::default();
            assert!(!deleted.is_late(&name(text), 10));
            assert!(deleted.add(&name(text), 10) && !deleted.add(&name(text), 11));
            // Whatever the clocks say.
            assert!(deleted.is_late(&name(text), 5) && deleted.is_late(&name(text), 50));
            assert!(deleted.is_late(&metadata(text), 50), "its metadata neither");
            deleted.forget(&name(text));
            assert!(!deleted.is_late(&name(text), 5) && !deleted.is_late(&metadata(text), 5));
        }
    }

    #[test]
    fn times_decide_about_names_that_can_be_made_anew() {
        for name in [slave(), metadata(NORMAL), metadata(slave().as_str())] {
            let deleted = Deleted::default();
            assert!(deleted.add(&name, 8) && deleted.add(&name, 10) && !deleted.add(&name, 10));
            assert!(deleted.is_late(&name, 9), "{name}");
            assert!(!deleted.is_late(&name, 10) && !deleted.is_late(&name, 11), "{name}");
            // A removal that comes late does not make it older.
            assert!(!deleted.add(&name, 7));
            assert!(deleted.is_late(&name, 9), "{name}");
        }
        let deleted = Deleted::default();
        deleted.add(&slave(), 10);
        assert!(!deleted.is_late(&metadata(slave().as_str()), 12), "the slave may be there again");
        assert!(!deleted.is_late(&name(NORMAL), 1), "its master is another file");
    }

    #[test]
    fn a_rename_removes_a_name_and_may_be_taken_back() {
        let deleted = Deleted::default();
        let (old, new) = (name(APPENDER), name(NORMAL));
        assert!(deleted.rename(&old, &new, 10) && !deleted.rename(&old, &new, 10));
        assert!(deleted.is_late(&old, 10) && !deleted.is_late(&new, 10));
        assert!(deleted.is_late(&metadata(APPENDER), 10));
        assert!(!deleted.is_late_rename(&old, 11));
        assert_eq!((deleted.renamed_to(&old), deleted.renamed_to(&new)), (Some(new), None));
        deleted.rename(&new, &old, 11);
        assert!(!deleted.is_late(&old, 10) && deleted.is_late(&new, 10));
        deleted.add(&old, 12);
        assert!(deleted.is_late_rename(&old, 13) && deleted.renamed_to(&old).is_none(), "removed is not renamed");
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let deleted = Deleted { max: 3, ..Deleted::default() };
        let names: Vec<_> = (0..9).map(|i| name(&NORMAL.replace("451", &format!("45{i}")))).collect();
        for name in &names[..5] {
            deleted.add(name, 1);
        }
        // One that was removed again counts as new.
        deleted.add(&names[2], 2);
        deleted.add(&names[5], 1);
        let known: Vec<_> = names.iter().map(|name| deleted.is_late(name, 1)).collect();
        assert_eq!(known, [false, false, true, false, true, true, false, false, false]);
        assert!(deleted.inner.lock().names.len() <= 3 && deleted.inner.lock().order.len() <= 3);
    }

    #[test]
    fn a_start_looks_into_the_binlog() {
        let dir = tempfile::tempdir().unwrap();
        let binlog = Binlog::open(dir.path()).unwrap();
        let load = || Deleted::of(&last_records(&binlog, TAIL).unwrap());
        assert!(!load().is_late(&name(NORMAL), 1));
        let again = slave();
        let text = format!(
            "10 C {NORMAL}\n11 d {NORMAL}\nnonsense\n12 r {} {APPENDER}\n13 D {again}\n14 C {again}\n",
            NORMAL.replace("451", "452")
        );
        binlog.append(text.as_bytes()).unwrap();
        let deleted = load();
        assert!(deleted.is_late(&name(NORMAL), 10) && deleted.is_late(&name(APPENDER), 10));
        assert!(!deleted.is_late(&again, 12));
    }
}
