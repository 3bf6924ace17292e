//! What is known in memory of the entries of one directory.
//!
//! Invariants:
//! - Memory decides about every name it knows, removed ones included; the database about the others, unless the directory
//!   is `complete`: then a name that is not known does not exist.
//! - A name whose change is not committed is known. So what the database says of an unknown name is up to date.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::delta::Name;
use crate::load::DentryRow;
use crate::types::Ino;

/// Where a name leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub ino: Ino,
    pub cookie: u64,
}

/// What memory says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Present(Entry),
    Absent,
    /// The database has to be asked.
    Unknown,
}

#[derive(Debug)]
struct Slot {
    /// `None`: removed.
    entry: Option<Entry>,
    /// Sequence number of the last change; 0: as loaded.
    seq: u64,
}

/// The known entries of a directory.
#[derive(Debug, Default)]
pub(crate) struct Dir {
    names: HashMap<Name, Slot>,
    /// The present ones in the order of their cookies.
    order: BTreeMap<u64, Name>,
    /// Removed names with the number of their removal, oldest first; forgotten when that is committed.
    removed: VecDeque<(u64, Name)>,
    pub complete: bool,
    /// Look-ups that had to ask the database.
    pub misses: u32,
    /// Names that the table has counted.
    weighed: usize,
}

impl Dir {
    /// A directory that was just created: all there is to know of it is that it is empty.
    pub fn new_empty() -> Dir {
        Dir { complete: true, ..Dir::default() }
    }

    pub fn get(&self, name: &[u8]) -> Known {
        match self.names.get(name) {
            Some(Slot { entry: Some(entry), .. }) => Known::Present(*entry),
            Some(Slot { entry: None, .. }) => Known::Absent,
            None if self.complete => Known::Absent,
            None => Known::Unknown,
        }
    }

    /// Puts an entry in; an earlier one of that name is forgotten.
    pub fn put(&mut self, name: &Name, entry: Entry) {
        self.replace(name, Some(entry));
        self.order.insert(entry.cookie, Name::clone(name));
    }

    /// Takes an entry out, and remembers that it is not there.
    pub fn remove(&mut self, name: &Name) {
        self.replace(name, None);
    }

    fn replace(&mut self, name: &Name, entry: Option<Entry>) {
        let former = self.names.insert(Name::clone(name), Slot { entry, seq: 0 });
        // A rename within the directory has handed the cookie on to the new name already.
        if let Some(Entry { cookie, .. }) = former.and_then(|slot| slot.entry)
            && self.order.get(&cookie) == Some(name)
        {
            self.order.remove(&cookie);
        }
    }

    /// The change of `name` has this sequence number: until it is committed, the name stays known.
    pub fn mark(&mut self, name: &Name, seq: u64) {
        if let Some(slot) = self.names.get_mut(name) {
            slot.seq = seq;
            if slot.entry.is_none() {
                self.removed.push_back((seq, Name::clone(name)));
            }
        }
    }

    /// Forgets removals that are committed.
    pub fn settle(&mut self, committed: u64) {
        while let Some((seq, name)) = self.removed.pop_front_if(|(seq, _)| *seq <= committed) {
            if self.names.get(&name).is_some_and(|slot| slot.entry.is_none() && slot.seq == seq) {
                self.names.remove(&name);
            }
        }
    }

    /// Takes in what the database has; names that are known already are left as they are.
    pub fn learn(&mut self, rows: Vec<DentryRow>) {
        for DentryRow { cookie, name, ino } in rows {
            if !self.names.contains_key(&name) {
                self.put(&name, Entry { ino, cookie });
            }
        }
    }

    /// Known entries with a cookie above `after`, in order.
    pub fn after(&self, after: u64) -> impl Iterator<Item = (u64, &Name, Ino)> {
        let range = self.order.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        range.filter_map(|(cookie, name)| match self.get(name) {
            Known::Present(entry) => Some((*cookie, name, entry.ino)),
            _ => None,
        })
    }

    /// Number of names in memory.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Forgets up to `limit` of the oldest entries that are as the database has them.
    pub fn forget(&mut self, committed: u64, limit: usize) {
        self.settle(committed);
        let clean = |name: &&Name| self.names.get(*name).is_some_and(|slot| slot.seq <= committed);
        let names: Vec<Name> = self.order.values().filter(clean).take(limit).cloned().collect();
        for name in &names {
            if let Some(Slot { entry: Some(entry), .. }) = self.names.remove(name) {
                self.order.remove(&entry.cookie);
            }
        }
        self.complete &= names.is_empty();
    }

    /// The number of names that the table has counted.
    pub fn weighed(&self) -> isize {
        self.weighed.cast_signed()
    }

    /// The change of the number of names since this was last asked.
    pub fn reweigh(&mut self) -> isize {
        let change = self.names.len().cast_signed() - self.weighed.cast_signed();
        self.weighed = self.names.len();
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.as_bytes().into()
    }

    fn entry(number: u64) -> Entry {
        Entry { ino: Ino(number), cookie: number }
    }

    #[test]
    fn unknown_names_exist_only_outside() {
        let mut dir = Dir::default();
        assert_eq!(dir.get(b"a"), Known::Unknown);
        dir.complete = true;
        assert_eq!(dir.get(b"a"), Known::Absent);
    }

    #[test]
    fn a_removal_is_known_until_it_is_committed() {
        let mut dir = Dir::default();
        dir.put(&name("a"), entry(20));
        dir.mark(&name("a"), 1);
        dir.remove(&name("a"));
        dir.mark(&name("a"), 2);
        dir.forget(1, 10);
        assert_eq!(dir.get(b"a"), Known::Absent);
        dir.learn(vec![DentryRow { cookie: 20, name: name("a"), ino: Ino(20) }]);
        assert_eq!(dir.get(b"a"), Known::Absent);
        dir.settle(2);
        assert_eq!(dir.get(b"a"), Known::Unknown);
        assert_eq!(dir.len(), 0);
    }

    #[test]
    fn a_name_that_came_back_survives_the_settling_of_its_removal() {
        let mut dir = Dir::default();
        dir.put(&name("a"), entry(20));
        dir.remove(&name("a"));
        dir.mark(&name("a"), 1);
        dir.put(&name("a"), entry(21));
        dir.mark(&name("a"), 2);
        dir.settle(1);
        assert_eq!(dir.get(b"a"), Known::Present(entry(21)));
        assert_eq!(dir.after(0).count(), 1);
    }

    #[test]
    fn a_new_name_may_take_over_the_cookie() {
        let mut dir = Dir::new_empty();
        dir.put(&name("old"), entry(20));
        dir.put(&name("new"), entry(20));
        dir.remove(&name("old"));
        let names: Vec<&Name> = dir.after(0).map(|(_, name, _)| name).collect();
        assert_eq!(names, [&name("new")]);
    }

    #[test]
    fn only_what_is_committed_is_forgotten_and_the_rest_keeps_its_order() {
        let mut dir = Dir::new_empty();
        for number in 20..30 {
            dir.put(&name(&number.to_string()), entry(number));
            dir.mark(&name(&number.to_string()), number);
        }
        assert_eq!(dir.reweigh(), 10);
        dir.forget(24, 3);
        assert!(!dir.complete);
        assert_eq!(dir.reweigh(), -3);
        dir.forget(24, 100);
        let cookies: Vec<u64> = dir.after(26).map(|(cookie, ..)| cookie).collect();
        assert_eq!(cookies, [27, 28, 29]);
        assert_eq!(dir.len(), 5);
    }
}
