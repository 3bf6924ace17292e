//! What the own binlog says of files, to be compared with what another member's says.
//!
//! Changes of one file reach every member in their order. So of two members one has what the other has, and perhaps more:
//! the one whose last change is later, or which has more of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use fdfs_protocol::RemoteName;
use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::peer::compare::{Extent, SyncCompare};

use super::reader::{Line, Reader};
use super::rules::names;
use crate::disk::binlog::{Binlog, Place};

/// Records counted per part: few enough that a part is a bounded message, and fits into memory.
const PART: u64 = 100_000;

#[derive(Debug, Default)]
struct Entry {
    last: u32,
    records: u16,
    /// Checksums of the changes that differ.
    changes: Vec<u32>,
    /// Another member pushed some of it.
    pushed: bool,
}

impl Entry {
    fn extent(&self) -> Extent {
        let distinct = u16::try_from(self.changes.len()).unwrap_or(u16::MAX);
        Extent { last: self.last, distinct, records: self.records }
    }
}

/// The files that a part of the binlog tells of.
#[derive(Debug, Default)]
pub struct Account {
    files: BTreeMap<RemoteName, Entry>,
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
    /// Those of names that fall into this part.
    pub part: u32,
    /// Of so many.
    pub parts: u32,
}

impl Account {
    /// Reads the binlog from its beginning to its end.
    ///
    /// # Errors
    /// What reading reported.
    pub async fn read(binlog: Arc<Binlog>, scope: Scope) -> io::Result<Account> {
        let mut account = Account::default();
        each(binlog, scope.span, |record| account.add(record, scope)).await?;
        Ok(account)
    }

    fn add(&mut self, record: &Record, scope: Scope) {
        for name in names(record).iter().flatten() {
            // What is linked to is not changed by that.
            let linked = matches!(record.change, Change::Link { .. }) && *name != record.name;
            if linked || SyncCompare::part_of(name, scope.parts) != scope.part {
                continue;
            }
            let entry = self.files.entry(*name).or_default();
            entry.last = entry.last.max(record.timestamp);
            entry.records = entry.records.saturating_add(1);
            entry.pushed |= record.origin == Origin::Replica;
            let change = checksum(record);
            if !entry.changes.contains(&change) {
                entry.changes.push(change);
            }
        }
    }

    /// The files, in the order of their names.
    pub fn extents(&self) -> Vec<(RemoteName, Extent)> {
        self.files.iter().map(|(name, entry)| (*name, entry.extent())).collect()
    }

    /// The files of which this account knows more than the other's `extents`, with the time of their last change. With
    /// `own` also those that only clients changed here: these are pushed to the other anyway, unless it has lost them since.
    pub fn ahead_of(&self, extents: &[(RemoteName, Extent)], own: bool) -> Vec<(RemoteName, u32)> {
        let theirs: BTreeMap<_, _> = extents.iter().map(|(name, extent)| (name, *extent)).collect();
        let ahead = |name: &RemoteName, entry: &Entry| theirs.get(name).is_none_or(|their| *their < entry.extent());
        let counted = self.files.iter().filter(|(_, entry)| own || entry.pushed);
        counted.filter(|(name, entry)| ahead(name, entry)).map(|(name, entry)| (*name, entry.last)).collect()
    }
}

/// In how many parts the records of `span` are compared.
///
/// # Errors
/// What reading reported.
pub async fn parts(binlog: Arc<Binlog>, span: Span) -> io::Result<u32> {
    let mut count = 0;
    each(binlog, span, |_| count += 1).await?;
    Ok(u32::try_from(count / PART + 1).unwrap_or(u32::MAX))
}

async fn each(binlog: Arc<Binlog>, span: Span, mut take: impl FnMut(&Record)) -> io::Result<()> {
    let mut reader = Reader::new(binlog, Place { file: 0, offset: 0 });
    while let Some((line, _)) = reader.next().await? {
        if let Line::Record(record) = line
            && (span.since..=span.until).contains(&i64::from(record.timestamp))
        {
            take(&record);
        }
    }
    Ok(())
}

/// Of what was changed and when, whoever changed it where.
fn checksum(record: &Record) -> u32 {
    let text = Record { origin: Origin::Client, ..*record }.to_string();
    crc32fast::hash(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Scope = Scope { span: Span { since: 100, until: 110 }, part: 0, parts: 1 };

    fn name(n: u32) -> RemoteName {
        format!("M00/00/00/file{n:06}").parse().unwrap()
    }

    async fn account(lines: &str) -> Account {
        let tmp = tempfile::tempdir().unwrap();
        let log = Arc::new(Binlog::open(tmp.path()).unwrap());
        for line in lines.lines() {
            let (head, files) = line.trim().rsplit_once('|').unwrap();
            let files: Vec<_> = files.split(' ').map(|n| name(n.parse().unwrap()).to_string()).collect();
            let head: Vec<_> = head.split(' ').collect();
            let rest = [&files[..], &head[2..].iter().map(|s| s.to_string()).collect::<Vec<_>>()].concat().join(" ");
            log.append(format!("{} {} {rest}\n", head[0], head[1]).as_bytes()).unwrap();
        }
        Account::read(log, ALL).await.unwrap()
    }

    #[tokio::test]
    async fn who_has_more_of_a_file_is_ahead() {
        let b = account("100 c|1\n100 c|2\n100 a 0 5|2\n100 c|3\n101 d|3\n100 c|4\n99 c|5\n105 C|6\n100 c|7\n111 c|8")
            .await;
        // 1: the same; 2: one append less; 3: not yet removed; 4: missing; 5: too old; 6: pushed anyway; 8: too new; 7: twice the same
        let p = account("100 c|1\n100 c|2\n100 c|2\n100 c|3\n100 C|7\n100 c|7").await;
        assert_eq!(b.ahead_of(&p.extents(), true).len(), 4, "what clients changed here too");
        assert_eq!(b.ahead_of(&p.extents(), false), [(name(2), 100), (name(3), 101), (name(4), 100)]);
        assert_eq!(p.ahead_of(&b.extents(), false), [(name(7), 100)]);
    }

    #[tokio::test]
    async fn a_new_name_changes_the_old_one_too_and_a_link_not_its_target() {
        let b = account("100 c|1\n103 r|2 1\n104 l|3 4").await;
        let known: Vec<_> = b.extents().into_iter().map(|(name, extent)| (name, extent.last)).collect();
        assert_eq!(known, [(name(1), 103), (name(2), 103), (name(3), 104)]);
    }

    #[tokio::test]
    async fn parts_together_are_the_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let log = Arc::new(Binlog::open(tmp.path()).unwrap());
        for n in 0..200 {
            log.append(format!("100 c {}\n", name(n)).as_bytes()).unwrap();
        }
        assert_eq!(parts(log.clone(), ALL.span).await.unwrap(), 1);
        let mut found = 0;
        for part in 0..3 {
            found += Account::read(log.clone(), Scope { part, parts: 3, ..ALL }).await.unwrap().extents().len();
        }
        assert_eq!(found, 200);
    }
}
