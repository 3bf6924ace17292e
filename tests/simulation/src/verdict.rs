//! Whether the members hold what they must: the same files, and of every file that was acknowledged one of the contents
//! it may have.
//!
//! Of a file that may be changed the content is not judged if two members took changes of it from clients: each is then
//! ahead of the other, and what comes of that is not promised, as in FastDFS, but that it is the same at all. So it is if
//! one member took changes, lost its disks, and took another before it had got the first ones back. Not judged at all are
//! one that a kill may have left with part of a long change, and the metadata of one that was removed: who removes a file
//! knows only the metadata that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use fdfs_client::Metadata;
use fdfs_protocol::GroupName;
use fdfs_protocol::binlog::{Change, Origin, Record};

use crate::cluster::{Cluster, StorageHost};
use crate::history::{File, History};

/// Files by their names, as IDs have them.
type Files = BTreeMap<String, Vec<u8>>;

/// What is wrong with the members now; nothing if they hold what they must.
pub fn complaints(cluster: &Cluster, history: &History) -> anyhow::Result<Vec<String>> {
    let groups: BTreeSet<&GroupName> = cluster.storages.iter().map(|s| &s.group).collect();
    let mut wrong = Vec::new();
    for group in groups {
        let members: Vec<&StorageHost> = cluster.storages.iter().filter(|s| s.group == *group).collect();
        let held: Vec<Files> = members.iter().map(|member| files(&member.base)).collect::<Result<_, _>>()?;
        let (disputed, left) = (disputed(&members)?, left_out(history));
        wrong.extend(differences(&members, &held, &left));
        for file in history.files.iter().filter(|file| file.id.group == *group && !file.torn) {
            for (member, held) in members.iter().zip(&held) {
                wrong.extend(judge(file, held, &disputed).map(|what| format!("{}: {what}", member.name)));
            }
        }
    }
    Ok(wrong)
}

/// Names of files of which the content is not judged.
pub fn unpredictable(cluster: &Cluster, history: &History) -> anyhow::Result<BTreeSet<String>> {
    let members: Vec<&StorageHost> = cluster.storages.iter().collect();
    let mut names = disputed(&members)?;
    names.extend(left_out(history));
    Ok(names)
}

/// Names that are not judged.
fn left_out(history: &History) -> BTreeSet<String> {
    let torn = history.files.iter().filter(|file| file.torn).map(|file| file.id.name.to_string());
    let described = history.files.iter().filter(|file| file.given_up).map(|file| format!("{}-m", file.id.name));
    torn.chain(described).collect()
}

fn differences(members: &[&StorageHost], held: &[Files], left: &BTreeSet<String>) -> Vec<String> {
    let names: BTreeSet<&String> = held.iter().flat_map(BTreeMap::keys).filter(|name| !left.contains(*name)).collect();
    let mut wrong = Vec::new();
    for name in names {
        let tell = |files: &Files| match files.get(name) {
            Some(content) => format!("{} bytes {:08x}", content.len(), crc32fast::hash(content)),
            None => "nothing".to_owned(),
        };
        let told: Vec<String> = held.iter().map(tell).collect();
        if told.iter().any(|one| *one != told[0]) {
            let each = members.iter().zip(told).map(|(member, told)| format!("{} has {told}", member.name));
            wrong.push(format!("{name}: {}", each.collect::<Vec<_>>().join(", ")));
        }
    }
    wrong
}

fn judge(file: &File, held: &Files, disputed: &BTreeSet<String>) -> Option<String> {
    let name = file.id.name.to_string();
    let content = held.get(&name).map(Vec::as_slice);
    let may_be = match disputed.contains(&name) {
        true => content.is_some() || !file.must_exist(),
        false => file.may_be(content),
    };
    if !may_be {
        let may: Vec<Option<usize>> = file.states.iter().map(|s| s.content.as_ref().map(Vec::len)).collect();
        return Some(format!("{name} is {:?} bytes, may be {may:?}", content.map(<[u8]>::len)));
    }
    let described = format!("{name}-m");
    if content.is_none() || file.given_up || disputed.contains(&described) {
        return None;
    }
    let metadata = held.get(&described).map_or_else(Metadata::new, |text| Metadata::parse(text));
    (!file.may_have(&metadata)).then(|| format!("{described} is {metadata:?}, may be {:?}", file.states[0].metadata))
}

/// Names of appenders and metadata whose changes two members took from clients, or one that had lost its disks and did not
/// know of all that it had taken before: whoever could have told was away.
fn disputed<'a>(members: &[&'a StorageHost]) -> anyhow::Result<BTreeSet<String>> {
    let mut takers: BTreeMap<String, BTreeSet<&'a str>> = BTreeMap::new();
    let mut forgotten = BTreeSet::new();
    for member in members {
        // When the last change was taken in an earlier life.
        let mut taken: BTreeMap<String, u32> = BTreeMap::new();
        for base in member.lost().chain([member.base.clone()]) {
            let before = taken.clone();
            let mut known: BTreeMap<String, u32> = BTreeMap::new();
            for record in mutable_records(&base)? {
                let name = record.name.to_string();
                let now = known.entry(name.clone()).or_default();
                if is_of_client(&record) {
                    if before.get(&name).is_some_and(|last| *now < *last) {
                        forgotten.insert(name.clone());
                    }
                    takers.entry(name.clone()).or_default().insert(&member.name);
                    taken.insert(name, record.timestamp);
                }
                *now = record.timestamp.max(*now);
            }
        }
    }
    forgotten.extend(takers.into_iter().filter(|(_, by)| by.len() > 1).map(|(name, _)| name));
    Ok(forgotten)
}

/// Whether a client asked for the change. Who takes another member's appender for its own passes it on as its own.
fn is_of_client(record: &Record) -> bool {
    record.origin == Origin::Client && (record.name.is_metadata() || !matches!(record.change, Change::Update))
}

/// What a binlog tells of appenders and metadata.
fn mutable_records(base: &Path) -> anyhow::Result<Vec<Record>> {
    let path = base.join("data/sync/binlog.000");
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let records = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| Record::parse(line).ok());
    let mutable = |record: &Record| record.name.is_metadata() || !record.name.kind().is_ok_and(|kind| kind.is_normal());
    Ok(records.filter(mutable).collect())
}

fn files(base: &Path) -> anyhow::Result<Files> {
    let mut found = Files::new();
    let data = base.join("data");
    for high in 0..2 {
        for low in 0..2 {
            let dir = data.join(format!("{high:02X}/{low:02X}"));
            for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.starts_with('.') {
                    found.insert(format!("M00/{high:02X}/{low:02X}/{name}"), fs::read(entry.path())?);
                }
            }
        }
    }
    Ok(found)
}
