//! The rules of choice against a model that is as plain as their description, for clusters that change while they are
//! asked: groups and members that come, go, fill up and change their modes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use fdfs_protocol::Status;
use fdfs_protocol::config::ReservedSpace;
use fdfs_protocol::file_id::Source;
use fdfs_protocol::names::IpSize;
use fdfs_protocol::peer::PathSpace as Space;
use proptest::prelude::*;

use super::name::NameFacts;
use super::{
    Directory, DownloadServer, GroupCursors, GroupView, MemberFacts, Rules, StoreLookup, StorePath, StoreServer,
};
use crate::address::Addresses;

const NOW: i64 = 1_800_000_000;
const PATHS: usize = 2;

/// An active member; its number is the last byte of its address and its place in the order of ids.
#[derive(Debug, Clone)]
struct Member {
    free: [u64; PATHS],
    priority: i64,
    synced: i64,
    readable: bool,
    writable: bool,
    path: usize,
}

#[derive(Debug, Clone, Default)]
struct Group {
    trunk_free: u64,
    members: BTreeMap<u8, Member>,
    write_turn: usize,
    read_turn: usize,
}

#[derive(Debug)]
struct Model {
    rules: Rules,
    groups: BTreeMap<char, Group>,
    turn: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// Comes, or changes.
    Member(char, u8, Member),
    Gone(char, u8),
    Trunk(char, u64),
    Upload(Option<char>, bool),
    /// Group, source, age, normal.
    Read(char, u8, i64, bool),
    ReadAll(char, u8, i64, bool),
    Change(char, u8),
}

type Chosen = Result<(char, u8, u8), Status>;

impl Group {
    fn readable(&self) -> Vec<u8> {
        self.members.iter().filter(|(_, m)| m.readable).map(|(&i, _)| i).collect()
    }

    fn writable(&self) -> Vec<u8> {
        self.members.iter().filter(|(_, m)| m.writable).map(|(&i, _)| i).collect()
    }

    /// That of the writable member with the least.
    fn space(&self) -> Space {
        let free = |i| self.members[&i].free.iter().sum();
        Space { total_mb: 1000 * PATHS as u64, free_mb: self.writable().into_iter().map(free).min().unwrap_or(0) }
    }

    fn store_server(&self, rules: &Rules) -> Option<u8> {
        let writable = self.writable();
        match rules.store_server {
            StoreServer::ByPriority => writable.into_iter().min_by_key(|i| (self.members[i].priority, *i)),
            StoreServer::RoundRobin | StoreServer::First => writable.first().copied(),
        }
    }

    fn writer(&mut self, rules: &Rules) -> Option<u8> {
        let writable = self.writable();
        if rules.store_server != StoreServer::RoundRobin || writable.len() < 2 {
            return self.store_server(rules);
        }
        self.write_turn += 1;
        Some(writable[(self.write_turn - 1) % writable.len()])
    }
}

impl Model {
    fn enough(&self, free_mb: u64, total_mb: u64) -> bool {
        match self.rules.reserve {
            ReservedSpace::Megabytes(reserve) => free_mb > reserve,
            ReservedSpace::Ratio(ratio) => total_mb > 0 && free_mb as f64 / total_mb as f64 > ratio,
        }
    }

    fn has_space(&self, group: char, with_trunk: bool) -> bool {
        let space = self.groups[&group].space();
        let trunk = if with_trunk { self.groups[&group].trunk_free } else { 0 };
        (!with_trunk || self.rules.use_trunk) && self.enough(space.free_mb + trunk, space.total_mb)
    }

    fn path_has_space(&self, free_mb: u64) -> bool {
        match self.rules.reserve {
            ReservedSpace::Megabytes(reserve) => free_mb > reserve / PATHS as u64,
            ReservedSpace::Ratio(_) => self.enough(free_mb, 1000),
        }
    }

    fn named(&self, group: char) -> Result<char, Status> {
        match self.groups.get(&group) {
            Some(known) if !known.writable().is_empty() => {}
            _ => return Err(Status::ENOENT),
        }
        if self.has_space(group, false) || self.has_space(group, true) { Ok(group) } else { Err(Status::ENOSPC) }
    }

    fn any(&mut self) -> Result<char, Status> {
        let names: Vec<char> = self.groups.keys().copied().collect();
        let most_free = self.rules.store_lookup == StoreLookup::MostFree;
        let first = if self.turn < names.len() { self.turn } else { 0 };
        let writable = |name: &char| !self.groups[name].writable().is_empty();
        if !names.iter().any(writable) {
            return Err(Status::ENOENT);
        }
        let mut turned = names.clone();
        turned.rotate_left(first);
        let with_space = turned.iter().copied().filter(writable).find(|&name| {
            self.has_space(name, false) || (most_free && name == names[first] && self.has_space(name, true))
        });
        let trunk_only = || names.iter().copied().filter(writable).find(|&name| self.has_space(name, true));
        let chosen = with_space.or_else(trunk_only).ok_or(Status::ENOSPC)?;
        let at = names.iter().position(|&name| name == chosen).unwrap();
        self.turn = if most_free { at } else { (at + 1) % names.len() };
        Ok(chosen)
    }

    fn upload(&mut self, group: Option<char>, all: bool) -> Chosen {
        let name = match (group, self.rules.store_lookup) {
            (Some(name), _) => self.named(name)?,
            (None, StoreLookup::Group(name)) => self.named(name.as_str().chars().next().unwrap())?,
            (None, _) => self.any()?,
        };
        let rules = self.rules;
        let group = self.groups.get_mut(&name).unwrap();
        let number = if all { group.writable().first().copied() } else { group.writer(&rules) }.unwrap();
        let trunk = if rules.use_trunk { group.trunk_free } else { 0 };
        let Member { free, path: current, .. } = group.members[&number];
        let from_current = [current, (current + 1) % PATHS];
        let path = from_current
            .into_iter()
            .find(|&path| self.path_has_space(free[path]))
            .or_else(|| from_current.into_iter().find(|&path| trunk > 0 && self.path_has_space(free[path] + trunk)))
            .ok_or(Status::ENOSPC)?;
        let next = if rules.store_path == StorePath::RoundRobin { (path + 1) % PATHS } else { path };
        self.groups.get_mut(&name).unwrap().members.get_mut(&number).unwrap().path = next;
        Ok((name, number, path as u8))
    }

    fn has_file(&self, member: &Member, is_source: bool, age: i64) -> bool {
        let time = NOW - age;
        is_source
            || age > self.rules.sync_max_delay
            || member.synced > time
            || (member.synced + 1 >= time && age > self.rules.sync_max_time)
    }

    /// All that are to have the file; the store server if nobody is.
    fn readers(&self, group: char, source: u8, age: i64, normal: bool) -> Result<Vec<u8>, Status> {
        let group = self.groups.get(&group).ok_or(Status::ENOENT)?;
        let has = |i: &u8| match normal {
            true => self.has_file(&group.members[i], *i == source, age),
            false => *i == source,
        };
        let found: Vec<u8> = group.readable().into_iter().filter(has).collect();
        let last = group.store_server(&self.rules).filter(|i| group.members[i].readable);
        match (found.is_empty(), last) {
            (false, _) => Ok(found),
            (true, Some(last)) => Ok(vec![last]),
            (true, None) => Err(Status::ENOENT),
        }
    }

    fn reader(&mut self, name: char, source: u8, age: i64, normal: bool) -> Result<u8, Status> {
        let readers = self.readers(name, source, age, normal)?;
        let group = &self.groups[&name];
        let readable = group.readable();
        let source_first = !normal || self.rules.download_server == DownloadServer::Source;
        if source_first && readable.contains(&source) {
            return Ok(source);
        }
        let has = |i: &u8| normal && self.has_file(&group.members[i], *i == source, age);
        let first = group.read_turn % readable.len().max(1);
        match (0..readable.len()).map(|i| (first + i) % readable.len()).find(|&at| has(&readable[at])) {
            Some(at) => {
                let number = readable[at];
                self.groups.get_mut(&name).unwrap().read_turn = (at + 1) % readable.len();
                Ok(number)
            }
            None => Ok(readers[0]),
        }
    }

    fn changer(&mut self, name: char, source: u8) -> Result<u8, Status> {
        let rules = self.rules;
        let group = self.groups.get_mut(&name).ok_or(Status::ENOENT)?;
        if group.members.get(&source).is_some_and(|m| m.writable) {
            return Ok(source);
        }
        group.writer(&rules).ok_or(Status::ENOENT)
    }

    /// `store_lookup` 2: after each report the turn is that of the group with the most space.
    fn reported(&mut self) {
        if self.rules.store_lookup != StoreLookup::MostFree {
            return;
        }
        let names: Vec<char> = self.groups.keys().copied().collect();
        let most = |key: &dyn Fn(char) -> u64| {
            let writable = (0..names.len()).filter(|&i| !self.groups[&names[i]].writable().is_empty());
            writable.max_by_key(|&i| (key(names[i]), std::cmp::Reverse(i)))
        };
        let Some(best) = most(&|name| self.groups[&name].space().free_mb) else { return };
        let full = !self.has_space(names[best], false);
        let trunk = if full && self.rules.use_trunk { most(&|name| self.groups[&name].trunk_free) } else { None };
        self.turn = trunk.unwrap_or(best);
    }
}

/// What is shared by successive pictures.
#[derive(Default)]
struct Cursors {
    cluster: Arc<AtomicUsize>,
    groups: BTreeMap<char, Arc<GroupCursors>>,
    paths: BTreeMap<(char, u8), Arc<AtomicUsize>>,
}

impl Cursors {
    fn picture(&mut self, model: &Model) -> Directory {
        let mut views = Vec::new();
        for (&name, group) in &model.groups {
            let spaces: Vec<(u8, Vec<Space>, Arc<AtomicUsize>)> = group
                .members
                .iter()
                .map(|(&i, m)| {
                    let space = m.free.iter().map(|&free_mb| Space { total_mb: 1000, free_mb }).collect();
                    (i, space, self.paths.entry((name, i)).or_default().clone())
                })
                .collect();
            let facts = spaces.iter().map(|(i, paths, write_path)| {
                let m = &group.members[i];
                MemberFacts {
                    id: address(*i).to_string().parse().unwrap(),
                    number: None,
                    addresses: Addresses::one(address(*i).into()),
                    port: 23000,
                    upload_priority: m.priority,
                    paths,
                    last_synced: m.synced,
                    readable: m.readable,
                    writable: m.writable,
                    write_path,
                }
            });
            let cursors = self.groups.entry(name).or_default().clone();
            let view = GroupView::new(
                name.to_string().parse().unwrap(),
                group.space(),
                group.trunk_free,
                PATHS,
                facts,
                cursors,
                &model.rules,
            );
            views.push(Arc::new(view));
        }
        Directory::new(model.rules, views, self.cluster.clone())
    }
}

fn address(number: u8) -> std::net::Ipv4Addr {
    [10, 0, 0, number].into()
}

fn number(member: &super::MemberView) -> u8 {
    member.id.as_str().rsplit('.').next().unwrap().parse().unwrap()
}

fn facts(source: u8, age: i64, normal: bool) -> NameFacts {
    NameFacts { source: Source::Ip(address(source)), time: (NOW - age) as i32, normal }
}

fn rules() -> impl Strategy<Value = Rules> {
    let lookup = prop_oneof![
        Just(StoreLookup::RoundRobin),
        Just(StoreLookup::MostFree),
        Just(StoreLookup::Group("b".parse().unwrap())),
    ];
    let server = prop_oneof![Just(StoreServer::RoundRobin), Just(StoreServer::First), Just(StoreServer::ByPriority)];
    let path = prop_oneof![Just(StorePath::RoundRobin), Just(StorePath::MostFree)];
    let download = prop_oneof![Just(DownloadServer::RoundRobin), Just(DownloadServer::Source)];
    let reserve = prop_oneof![Just(ReservedSpace::Megabytes(101)), Just(ReservedSpace::Ratio(0.10))];
    (lookup, server, path, download, reserve, any::<bool>()).prop_map(
        |(store_lookup, store_server, store_path, download_server, reserve, use_trunk)| Rules {
            store_lookup,
            store_server,
            store_path,
            download_server,
            reserve,
            use_trunk,
            sync_max_delay: 86400,
            sync_max_time: 300,
            ip_size: IpSize::V4,
        },
    )
}

fn member() -> impl Strategy<Value = Member> {
    let free = prop_oneof![2 => Just(500u64), 1 => 0..60u64, 2 => 40..120u64];
    // Many meet the age of a file to the second.
    let synced = prop::sample::select(vec![NOW, NOW - 50, NOW - 51, NOW - 300, NOW - 301, NOW - 302, 0]);
    let mode = prop_oneof![6 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true)), 1 => Just((false, false))];
    ([free.clone(), free], 0..3i64, synced, mode).prop_map(|(free, priority, synced, (readable, writable))| Member {
        free,
        priority,
        synced,
        readable,
        writable,
        path: 0,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let group = || prop::sample::select(vec!['a', 'b', 'c', 'd']);
    let age = || prop::sample::select(vec![0, 49, 50, 51, 52, 299, 300, 301, 302, 303, 86_399, 86_400, 86_401]);
    let file = move || (group(), 1..5u8, age(), any::<bool>());
    prop_oneof![
        6 => (group(), 1..5u8, member()).prop_map(|(g, i, m)| Step::Member(g, i, m)),
        1 => (group(), 1..5u8).prop_map(|(g, i)| Step::Gone(g, i)),
        1 => (group(), prop_oneof![Just(0u64), 1..200u64]).prop_map(|(g, free)| Step::Trunk(g, free)),
        8 => (prop::option::weighted(0.3, group()), any::<bool>()).prop_map(|(g, all)| Step::Upload(g, all)),
        4 => file().prop_map(|(g, source, age, normal)| Step::Read(g, source, age, normal)),
        4 => file().prop_map(|(g, source, age, normal)| Step::ReadAll(g, source, age, normal)),
        2 => (group(), 1..5u8).prop_map(|(g, source)| Step::Change(g, source)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn choices_are_those_of_the_model(rules in rules(), steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model { rules, groups: BTreeMap::new(), turn: 0 };
        let mut cursors = Cursors::default();
        let mut directory = cursors.picture(&model);
        for step in steps {
            let name = |group: char| group.to_string().parse().unwrap();
            match step.clone() {
                Step::Member(group, i, new) => {
                    let members = &mut model.groups.entry(group).or_default().members;
                    let path = members.get(&i).map_or(0, |old| old.path);
                    members.insert(i, Member { path, ..new });
                }
                Step::Gone(group, i) => {
                    if let Some(group) = model.groups.get_mut(&group) {
                        group.members.remove(&i);
                    }
                    cursors.paths.remove(&(group, i));
                }
                Step::Trunk(group, free) => {
                    if let Some(group) = model.groups.get_mut(&group) {
                        group.trunk_free = free;
                    }
                }
                Step::Upload(group, all) => {
                    let chosen = directory.choose_upload(group.map(name).as_ref(), all);
                    let chosen = chosen.map(|upload| {
                        (upload.group.name.as_str().chars().next().unwrap(), number(upload.member), upload.path)
                    });
                    let expected = model.upload(group, all);
                    prop_assert_eq!(chosen, expected, "{:?} of {:#?}", step, model);
                    if let Ok((group, i, path)) = chosen {
                        let member = &model.groups[&group].members[&i];
                        let trunk = if rules.use_trunk { model.groups[&group].trunk_free } else { 0 };
                        prop_assert!(member.writable && model.path_has_space(member.free[usize::from(path)] + trunk));
                    }
                    continue;
                }
                Step::Read(group, source, age, normal) => {
                    let chosen = directory.fetch_one(&name(group), &facts(source, age, normal), NOW);
                    let chosen = chosen.map(|(_, member)| number(member));
                    prop_assert_eq!(chosen, model.reader(group, source, age, normal), "{:?} of {:#?}", step, model);
                    continue;
                }
                Step::ReadAll(group, source, age, normal) => {
                    let mut found = Vec::new();
                    let asked = directory
                        .fetch_all(&name(group), &facts(source, age, normal), NOW, |_, member| found.push(number(member)))
                        .map(|()| found);
                    prop_assert_eq!(asked, model.readers(group, source, age, normal), "{:?} of {:#?}", step, model);
                    continue;
                }
                Step::Change(group, source) => {
                    let chosen = directory.locate_update(&name(group), &facts(source, 0, true));
                    let chosen = chosen.map(|(_, member)| number(member));
                    prop_assert_eq!(chosen, model.changer(group, source), "{:?} of {:#?}", step, model);
                    continue;
                }
            }
            model.reported();
            directory = cursors.picture(&model);
        }
    }

    #[test]
    fn turns_are_fair(groups in 1..5usize, members in 1..5u8, rounds in 1..4usize) {
        let rules = Rules {
            store_lookup: StoreLookup::RoundRobin,
            store_server: StoreServer::RoundRobin,
            ..super::testing::rules()
        };
        let full = Member { free: [500; PATHS], priority: 0, synced: 0, readable: true, writable: true, path: 0 };
        let group = Group { members: (1..=members).map(|i| (i, full.clone())).collect(), ..Group::default() };
        let model = Model { rules, groups: ('a'..='d').take(groups).map(|name| (name, group.clone())).collect(), turn: 0 };
        let directory = Cursors::default().picture(&model);
        let mut counts: BTreeMap<(String, u8), usize> = BTreeMap::new();
        for _ in 0..rounds * groups * usize::from(members) {
            let upload = directory.choose_upload(None, false).unwrap();
            *counts.entry((upload.group.name.to_string(), number(upload.member))).or_default() += 1;
        }
        prop_assert_eq!(counts.len(), groups * usize::from(members));
        prop_assert!(counts.values().all(|&count| count == rounds), "{:?}", counts);
    }
}

/// Groups that join and fill up while uploads go on.
#[test]
fn groups_that_come_and_fill_up_while_uploads_go_on() {
    let with = |free| Group {
        members: [(1, Member { free: [free; PATHS], priority: 0, synced: 0, readable: true, writable: true, path: 0 })]
            .into(),
        ..Group::default()
    };
    for (lookup, expected) in [
        (StoreLookup::RoundRobin, ["ENOENT", "bbbb", "abab", "abcd", "acac", "cccc", "ENOSPC"]),
        (StoreLookup::MostFree, ["ENOENT", "bbbb", "aaaa", "dddd", "cccc", "cccc", "ENOSPC"]),
        (StoreLookup::Group("b".parse().unwrap()), ["ENOENT", "bbbb", "bbbb", "bbbb", "ENOSPC", "ENOSPC", "ENOSPC"]),
    ] {
        let rules = Rules { store_lookup: lookup, ..super::testing::rules() };
        let mut model = Model { rules, groups: BTreeMap::new(), turn: 0 };
        let mut cursors = Cursors::default();
        let changes: [&[(char, u64)]; 7] = [
            &[],
            &[('b', 200)],
            &[('a', 300)],
            &[('c', 250), ('d', 400)],
            &[('b', 10), ('d', 20), ('a', 240)],
            &[('a', 0)],
            &[('c', 50)],
        ];
        for (change, expected) in changes.into_iter().zip(expected) {
            model.groups.extend(change.iter().map(|&(name, free)| (name, with(free))));
            let directory = cursors.picture(&model);
            let mut got: Vec<String> = (0..4)
                .map(|_| match directory.choose_upload(None, false) {
                    Ok(upload) => upload.group.name.to_string(),
                    Err(Status::ENOENT) => "ENOENT".into(),
                    Err(Status::ENOSPC) => "ENOSPC".into(),
                    Err(other) => format!("{other:?}"),
                })
                .collect();
            if lookup == StoreLookup::RoundRobin {
                // Whose turn it is depends on what was before.
                got.sort();
            }
            let mut expected: Vec<String> = match expected {
                error @ ("ENOENT" | "ENOSPC") => vec![error.into(); 4],
                names => names.chars().map(String::from).collect(),
            };
            if lookup == StoreLookup::RoundRobin {
                expected.sort();
            }
            assert_eq!(got, expected, "{lookup:?} after {change:?}");
        }
    }
}
