//! Files that two members took changes of in one round: the source was away, and took changes again before it had those
//! of the other. They are changes of two states of the file, and cannot be joined; what is promised of such a file is that
//! the members become equal, no more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

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

/// Names of what two members have changed for clients since then, as file IDs have them; for metadata with `-m`.
///
/// # Errors
/// When a binlog cannot be read.
pub fn since(fleet: &Fleet, marks: &Marks) -> io::Result<BTreeSet<String>> {
    let mut takers: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut renamed = Vec::new();
    for (i, from) in &marks.0 {
        let text = fleet.records(*i)?;
        let new = text.get(*from..).unwrap_or_default();
        for line in new.split_inclusive(|&byte| byte == b'\n') {
            let Ok(record) = Record::parse(line) else { continue };
            if record.origin == Origin::Client && is_mutable(&record) {
                takers.entry(format!("{}/{}", fleet.group(*i), record.name)).or_default().insert(*i);
            }
            if let (Origin::Client, Change::Rename { old }) = (record.origin, record.change) {
                // It has the content that this member knew.
                let [old, new] = [old, record.name].map(|name| format!("{}/{name}", fleet.group(*i)));
                takers.entry(old.clone()).or_default().insert(*i);
                renamed.push((old, new));
            }
        }
    }
    takers.retain(|_, members| members.len() > 1);
    renamed.retain(|(old, _)| takers.contains_key(old));
    Ok(takers.into_keys().chain(renamed.into_iter().map(|(_, new)| new)).collect())
}

fn is_mutable(record: &Record) -> bool {
    record.name.is_metadata() || record.name.kind().is_ok_and(|kind| !kind.is_normal())
}
