//! Files that two members took changes of in one round in which these could not ask each other. They are changes of two
//! states of the file, and cannot be joined; what is promised of such a file is that the members become equal, no more.
//! Where they could ask, that excuses metadata only: of what is set as a whole the later stays, by the clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;

use fdfs_protocol::RemoteName;
use fdfs_protocol::binlog::{Change, Origin, Record};

use super::fleet::Fleet;

/// How long the binlogs of the storages are, by number of the server.
#[derive(Debug)]
pub struct Marks(BTreeMap<usize, usize>);

/// Where the binlogs end now.
///
/// # Errors
/// When one cannot be read.
pub fn mark(fleet: &Fleet) -> io::Result<Marks> {
    let ends = fleet.shape().storages().map(|i| Ok((i, fleet.records(i)?.len())));
    Ok(Marks(ends.collect::<io::Result<_>>()?))
}

/// Leaves those that are excused though the members could ask each other.
pub fn of_metadata(disputed: &mut BTreeSet<String>) {
    disputed.retain(|name| name.ends_with("-m"));
}

/// Names of what two members have changed for clients since then, as file IDs have them; for metadata with `-m`. Or what one
/// has that had lost its disks, and did not know of all that it had taken before: whoever could have told was away.
///
/// # Errors
/// When a binlog cannot be read.
pub fn since(fleet: &Fleet, marks: &Marks) -> io::Result<BTreeSet<String>> {
    let mut takers: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut disputed = BTreeSet::new();
    let mut renamed = Vec::new();
    for (i, from) in &marks.0 {
        let text = fleet.records(*i)?;
        let id = |name: &dyn Display| format!("{}/{name}", fleet.group(*i));
        disputed.extend(forgotten(&text, *from).iter().map(|name| id(name)));
        let new = text.get(*from..).unwrap_or_default();
        for line in new.split_inclusive(|&byte| byte == b'\n') {
            let Ok(record) = Record::parse(line) else { continue };
            if is_of_client(&record) && is_mutable(&record) {
                takers.entry(id(&record.name)).or_default().insert(*i);
            }
            if let (Origin::Client, Change::Rename { old }) = (record.origin, record.change) {
                // It has the content that this member knew.
                takers.entry(id(&old)).or_default().insert(*i);
                renamed.push((id(&old), id(&record.name)));
            }
        }
    }
    disputed.extend(takers.into_iter().filter(|(_, members)| members.len() > 1).map(|(name, _)| name));
    let renamed: Vec<_> = renamed.into_iter().filter(|(old, _)| disputed.contains(old)).map(|(_, new)| new).collect();
    disputed.extend(renamed);
    Ok(disputed)
}

/// What a member took changes of, `from` there on, when it did not know of the last one that it had taken before it lost its
/// disks. Its binlogs are parted by empty lines.
fn forgotten(binlogs: &[u8], from: usize) -> BTreeSet<RemoteName> {
    let (mut forgotten, mut taken, mut known) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let mut end = 0;
    let mut before = taken.clone();
    for line in binlogs.split_inclusive(|&byte| byte == b'\n') {
        end += line.len();
        if line == b"\n" {
            before = taken.clone();
            known.clear();
        }
        let Some(record) = Record::parse(line).ok().filter(is_mutable) else { continue };
        let latest = known.entry(record.name).or_insert(0);
        if is_of_client(&record) {
            if end > from && before.get(&record.name).is_some_and(|last| *latest < *last) {
                forgotten.insert(record.name);
            }
            taken.insert(record.name, record.timestamp);
        }
        *latest = record.timestamp.max(*latest);
    }
    forgotten
}

/// Whether a client asked for the change. Who takes another member's appender for its own passes it on as its own.
fn is_of_client(record: &Record) -> bool {
    record.origin == Origin::Client && (record.name.is_metadata() || !matches!(record.change, Change::Update))
}

fn is_mutable(record: &Record) -> bool {
    record.name.is_metadata() || record.name.kind().is_ok_and(|kind| !kind.is_normal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_without_knowing_what_was_taken_before_the_loss() {
        let name = |n: u32| format!("M00/00/00/Ck0ABWsIc9eEOrZKAAAAAOQmBhg{n:07}");
        let of = |lines: &str| {
            let lines = lines.replace('|', "\n").replace("1.", &name(1)).replace("2.", &name(2));
            forgotten(format!("{lines}\n").as_bytes(), 0).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("10 C 1.|12 M 1. 0 5|13 M 1. 0 5"), Vec::<String>::new());
        assert_eq!(of("10 C 1.|12 M 1. 0 5||10 c 1.|13 M 1. 0 5"), [name(1)]);
        assert_eq!(of("10 C 1.|12 M 1. 0 5||10 c 1.|12 u 1.|13 M 1. 0 5"), Vec::<String>::new());
        let lines = format!("10 C {0}\n\n13 M {0} 0 5\n", name(1));
        assert_eq!([0, lines.len()].map(|from| forgotten(lines.as_bytes(), from).len()), [1, 0]);
        assert_eq!(of("10 C 1.|12 M 1. 0 5||10 c 2.|13 M 2. 0 5||14 A 1. 5 5"), [name(1)]);
    }
}
