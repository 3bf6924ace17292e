//! What the own binlog says of files, to be compared with what another member's says.
//!
//! Changes of one file reach every member in their order. So of two members one has what the other has, and perhaps more:
//! the one whose last change is later, or which has more of them; and nobody is ahead of the one that has removed the file,
//! if its name is not given again: the clock of who removed it may be behind that of who made it.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use fdfs_protocol::RemoteName;
use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::peer::compare::{Extent, SyncCompare};

use super::aside::Cause;
use super::reader::{CHUNK, MAX_LINE, open};
use super::rules::names;
use crate::disk::binlog::Binlog;
use crate::serve::info::is_appender;

/// Records counted per part: few enough that a part is a bounded message.
const PART: u64 = 100_000;

/// Changes that an account has at most; some 100 MB.
const MOST: usize = 400_000;

/// Changes of one file that are told from each other: an [`Extent`] counts no further.
const DISTINCT: usize = u16::MAX as usize;

#[derive(Debug, Default)]
struct Entry {
    last: u32,
    /// The last record tells that it is gone.
    removed: bool,
    /// For good.
    gone: bool,
    /// It tells of the file's beginning.
    created: bool,
    /// When the last change came that says nothing of those before it.
    whole: Option<u32>,
    records: u16,
    /// Checksums of the changes that differ.
    changes: HashSet<u32>,
    /// Another member pushed some of it.
    pushed: bool,
}

impl Entry {
    fn cause(&self) -> Cause {
        Cause { timestamp: self.last, removed: self.removed }
    }

    /// For how many changes it counts in what an account has room for.
    fn weight(&self) -> usize {
        if self.records == 0 { 0 } else { self.changes.len().max(1) }
    }

    fn extent(&self) -> Extent {
        let distinct = u16::try_from(self.changes.len()).unwrap_or(u16::MAX);
        let whole = self.whole == Some(self.last);
        Extent { gone: self.gone, last: self.last, distinct, records: self.records, whole }
    }
}

/// A stretch of time, its ends included; unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Its beginning.
    pub since: i64,
    /// Its end.
    pub until: i64,
}

/// Which records count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Those of this time.
    pub span: Span,
    /// Those of names that fall into this part, and as many of the next ones as there is room for.
    pub part: u32,
    /// Of so many.
    pub parts: u32,
}

/// The files that some parts of the binlog tell of.
#[derive(Debug)]
pub struct Account {
    span: Span,
    parts: u32,
    covered: Range<u32>,
    /// By part and name.
    files: BTreeMap<(u32, RemoteName), Entry>,
    changes: usize,
    most: usize,
}

impl Account {
    /// Reads the binlog from its beginning to its end, which takes long. `None`: there is no room for the first part, ask
    /// for more and smaller ones.
    ///
    /// # Errors
    /// What reading reported, with the path in the text.
    pub fn read(binlog: &Binlog, scope: Scope) -> io::Result<Option<Account>> {
        Account::read_up_to(MOST, binlog, scope)
    }

    fn read_up_to(most: usize, binlog: &Binlog, scope: Scope) -> io::Result<Option<Account>> {
        let Scope { span, part, parts } = scope;
        let covered = part..parts;
        let mut account = Account { span, parts, covered, files: BTreeMap::new(), changes: 0, most };
        each(binlog, span, |record| account.add(record))?;
        Ok(Some(account).filter(|account| !account.covered.is_empty()))
    }

    /// Whether it tells of the first part of `scope`.
    pub fn covers(&self, scope: Scope) -> bool {
        self.span == scope.span && self.parts == scope.parts && self.covered.contains(&scope.part)
    }

    fn add(&mut self, record: &Record) {
        for name in names(record).iter().flatten() {
            // What is linked to is not changed by that.
            let linked = matches!(record.change, Change::Link { .. }) && *name != record.name;
            let part = SyncCompare::part_of(name, self.parts);
            if linked || !self.covered.contains(&part) {
                continue;
            }
            let entry = self.files.entry((part, *name)).or_default();
            let before = entry.weight();
            let cause = Cause::of(record, name);
            entry.last = entry.last.max(cause.timestamp);
            entry.removed = cause.removed;
            entry.gone = matches!(record.change, Change::Delete) && name.is_given_once();
            entry.records = entry.records.saturating_add(1);
            entry.pushed |= record.origin == Origin::Replica;
            entry.created |= matches!(record.change, Change::Create);
            if matches!(record.change, Change::Rename { .. }) && cause.removed && !entry.created {
                // Perhaps all that came of it is its new name.
                entry.whole = entry.whole.max(Some(record.timestamp));
            }
            if matches!(record.change, Change::Update) && is_appender(name) {
                // It brings what other records tell of, and says nothing of how much that is.
                entry.whole = entry.whole.max(Some(record.timestamp));
            } else if entry.changes.len() < DISTINCT {
                entry.changes.insert(checksum(record, name));
            }
            self.changes += entry.weight() - before;
        }
        while self.changes > self.most
            && let Some(((part, _), entry)) = self.files.pop_last()
        {
            // The last part has no room any more: not one of its files counts.
            self.covered.end = part;
            self.changes -= entry.weight();
            while let Some(last) = self.files.last_entry().filter(|last| last.key().0 == part) {
                self.changes -= last.remove().weight();
            }
        }
    }

    fn part(&self, part: u32) -> impl Iterator<Item = (&RemoteName, &Entry)> {
        // No way to begin at the first name of a part: names have no least one.
        self.files
            .iter()
            .skip_while(move |((other, _), _)| *other < part)
            .take_while(move |((other, _), _)| *other == part)
            .map(|((_, name), entry)| (name, entry))
    }

    /// The files of a part, in the order of their names.
    pub fn extents(&self, part: u32) -> Vec<(RemoteName, Extent)> {
        self.part(part).map(|(name, entry)| (*name, entry.extent())).collect()
    }

    /// The files of a part of which this account knows more than the other's `extents`, with their last
    /// change. With `own` also those that only clients changed here: these are pushed to the other anyway, unless it has
    /// lost them since.
    pub fn ahead_of(&self, part: u32, extents: &[(RemoteName, Extent)], own: bool) -> Vec<(RemoteName, Cause)> {
        let theirs: BTreeMap<_, _> = extents.iter().map(|(name, extent)| (name, *extent)).collect();
        let ahead = |name: &RemoteName, entry: &Entry| {
            theirs.get(name).is_none_or(|their| entry.extent().may_have_more_than(their))
        };
        let counted = self.part(part).filter(|(_, entry)| own || entry.pushed);
        counted.filter(|(name, entry)| ahead(name, entry)).map(|(name, entry)| (*name, entry.cause())).collect()
    }
}

/// In how many parts the records of `span` are compared. Reads the binlog, which takes long.
///
/// # Errors
/// What reading reported, with the path in the text.
pub fn parts(binlog: &Binlog, span: Span) -> io::Result<u32> {
    let mut count = 0;
    each(binlog, span, |_| count += 1)?;
    Ok(u32::try_from(count / PART + 1).unwrap_or(u32::MAX))
}

fn each(binlog: &Binlog, span: Span, mut take: impl FnMut(&Record)) -> io::Result<()> {
    let end = binlog.place();
    let mut line = Vec::new();
    for number in 0..=end.file {
        let limit = if number == end.file { end.offset } else { u64::MAX };
        let mut file = BufReader::with_capacity(CHUNK as usize, open(binlog, number)?.take(limit));
        let mut next = |line: &mut Vec<u8>| {
            line.clear();
            // A piece of a longer one is no record.
            let read = (&mut file).take(MAX_LINE as u64).read_until(b'\n', line);
            read.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", binlog.file_path(number).display())))
        };
        while next(&mut line)? > 0 {
            if let Ok(record) = Record::parse(&line)
                && (span.since..=span.until).contains(&i64::from(record.timestamp))
            {
                take(&record);
            }
        }
    }
    Ok(())
}

/// Of what was changed and when, whoever changed it where. A file that does not change is the same however it came.
fn checksum(record: &Record, name: &RemoteName) -> u32 {
    let change = match record.change {
        Change::Update if name.is_given_once() => Change::Create,
        change => change,
    };
    let text = Record { origin: Origin::Client, change, ..*record }.to_string();
    crc32fast::hash(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Scope = Scope { span: Span { since: 100, until: 110 }, part: 0, parts: 1 };

    fn name(n: u32) -> RemoteName {
        format!("M00/00/00/Ck0ACGsIfCeAQPNBAAAFkBYc1F4{n:07}").parse().unwrap()
    }

    fn appender(n: u32) -> RemoteName {
        format!("M00/00/00/Ck0ABWsIc9eEOrZKAAAAAOQmBhg{n:07}").parse().unwrap()
    }

    fn account(lines: &str) -> Account {
        let tmp = tempfile::tempdir().unwrap();
        let log = Binlog::open(tmp.path()).unwrap();
        for line in lines.lines() {
            let (head, files) = line.trim().rsplit_once('|').unwrap();
            let name = |n: &str| match n.strip_prefix('a') {
                Some(n) => appender(n.parse().unwrap()),
                None => name(n.parse().unwrap()),
            };
            let files: Vec<_> = files.split(' ').map(|n| name(n).to_string()).collect();
            let head: Vec<_> = head.split(' ').collect();
            let rest = [&files[..], &head[2..].iter().map(|s| s.to_string()).collect::<Vec<_>>()].concat().join(" ");
            log.append(format!("{} {} {rest}\n", head[0], head[1]).as_bytes()).unwrap();
        }
        Account::read(&log, ALL).unwrap().unwrap()
    }

    #[test]
    fn who_has_more_of_a_file_is_ahead() {
        let b = account("100 c|1\n100 c|2\n100 a 0 5|2\n100 c|3\n101 d|3\n100 c|4\n99 c|5\n105 C|6\n100 c|7\n111 c|8");
        // 1: the same; 2: one append less; 3: not yet removed; 4: missing; 5: too old; 6: pushed anyway; 8: too new; 7: twice the same
        let p = account("100 c|1\n100 c|2\n100 c|2\n100 c|3\n100 C|7\n100 c|7");
        assert_eq!(b.ahead_of(0, &p.extents(0), true).len(), 4, "what clients changed here too");
        let cause = |n, timestamp, removed| (name(n), Cause { timestamp, removed });
        let lacking = [cause(2, 100, false), cause(3, 101, true), cause(4, 100, false)];
        assert_eq!(b.ahead_of(0, &p.extents(0), false), lacking);
        assert_eq!(p.ahead_of(0, &b.extents(0), false), [cause(7, 100, false)]);
    }

    #[test]
    fn who_has_removed_a_file_is_ahead_whatever_its_clock_says() {
        let b = account("105 c|1\n101 d|1\n103 c|2\n104 d|2");
        let p = account("105 c|1\n105 u|1\n104 c|2\n103 d|2\n103 d|2");
        let cause = Cause { timestamp: 105, removed: true };
        assert_eq!(b.ahead_of(0, &p.extents(0), false), [(name(1), cause)]);
        // Both have removed the other.
        assert_eq!(p.ahead_of(0, &b.extents(0), false), []);
    }

    #[test]
    fn a_whole_file_tells_nothing_of_the_changes_that_came_with_it() {
        assert!(is_appender(&appender(1)) && !is_appender(&name(1)));
        let ahead = |b: &str, p: &str| {
            let (b, p) = (account(b), account(p));
            (b.ahead_of(0, &p.extents(0), false).len(), p.ahead_of(0, &b.extents(0), false).len())
        };
        let changes = "100 c|a1\n101 a 0 5|a1\n101 a 5 5|a1";
        assert_eq!(ahead(changes, "100 c|a1\n101 a 0 5|a1\n101 u|a1\n101 u|a1"), (1, 1));
        // Which of them has the other's last change?
        assert_eq!(ahead("100 c|a1\n101 a 0 5|a1\n101 u|a1", "100 c|a1\n101 a 0 5|a1\n101 a 0 5|a1"), (1, 1));
        assert_eq!(ahead("100 c|a1\n101 u|a1\n102 a 5 5|a1", "100 c|a1\n102 a 5 5|a1"), (1, 0));
        // All that came of it may be its new name.
        assert_eq!(ahead("100 c|a1", "100 r|2 a1"), (1, 2));
        assert_eq!(ahead("100 c|a1", "100 c|a1\n100 r|2 a1"), (0, 2));
        // What does not change is the same however it came.
        assert_eq!(ahead("100 c|1", "100 u|1"), (0, 0));
    }

    #[test]
    fn a_new_name_changes_the_old_one_too_and_a_link_not_its_target() {
        let b = account("100 c|1\n103 r|2 1\n104 l|3 4");
        let known: Vec<_> = b.extents(0).into_iter().map(|(name, extent)| (name, extent.last)).collect();
        assert_eq!(known, [(name(1), 103), (name(2), 103), (name(3), 104)]);
    }

    #[test]
    fn parts_together_are_the_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let log = Binlog::open(tmp.path()).unwrap();
        for n in 0..200 {
            log.append(format!("100 c {}\n", name(n)).as_bytes()).unwrap();
        }
        assert_eq!(parts(&log, ALL.span).unwrap(), 1);
        let (mut found, mut scans, mut part) = (0, 0, 0);
        while part < 7 {
            let scope = Scope { part, parts: 7, ..ALL };
            let account = Account::read_up_to(70, &log, scope).unwrap().unwrap();
            assert!(account.changes <= 70 && account.covers(scope), "{}", account.changes);
            while account.covers(Scope { part, ..scope }) {
                found += account.extents(part).len();
                part += 1;
            }
            scans += 1;
        }
        assert!((3..7).contains(&scans), "{scans}");
        assert_eq!(found, 200);
        assert!(Account::read_up_to(70, &log, ALL).unwrap().is_none(), "no room for one part");
    }

    #[test]
    fn a_file_with_very_many_changes_takes_bounded_memory_and_time() {
        let tmp = tempfile::tempdir().unwrap();
        let log = Binlog::open(tmp.path()).unwrap();
        let lines: String = (0..70_000).map(|n| format!("100 a {} {n} 1\n", name(1))).collect();
        log.append(lines.as_bytes()).unwrap();
        let account = Account::read(&log, ALL).unwrap().unwrap();
        let extent = Extent { gone: false, last: 100, distinct: u16::MAX, records: u16::MAX, whole: false };
        assert_eq!((account.extents(0), account.changes), (vec![(name(1), extent)], DISTINCT));
    }
}
