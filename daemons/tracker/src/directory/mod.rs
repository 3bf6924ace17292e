//! What queries read: an immutable picture of the cluster, replaced as a whole when something changes.
//!
//! The state proper ([`crate::state`]) is behind one lock and belongs to the storages' reports, which are rare. Queries
//! are not: they take the current [`Directory`] without a lock and find in it, per group, the active members in the
//! order of their ids, with the bytes of their addresses ready to copy. Only the round-robin cursors move, and those
//! are atomics shared by successive pictures; two queries that race for a cursor may get the same member, never a
//! wrong one.
//!
//! The rules are those of FastDFS 6.16: [`upload`] chooses where to write, [`locate`] where a file may be read or
//! changed. Neither knows sockets or clocks.

pub mod answer;
pub mod locate;
#[cfg(test)]
mod model;
pub mod name;
pub mod upload;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fdfs_protocol::names::{GroupName, IpSize, IpText, StorageId};

use crate::address::{Addresses, Kind};
use fdfs_protocol::config::ReservedSpace;
use fdfs_protocol::peer::PathSpace as Space;

/// `store_lookup`: which group takes an upload that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreLookup {
    /// 0: the groups in turn.
    RoundRobin,
    /// 1: always this group (`store_group`).
    Group(GroupName),
    /// 2: the group with the most free space.
    MostFree,
}

/// `store_server`: which member of the group takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreServer {
    /// 0: the writable members in turn.
    RoundRobin,
    /// 1: the first by id.
    First,
    /// 2: the one with the smallest `upload_priority`.
    ByPriority,
}

/// `store_path`: which path of the member takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePath {
    /// 0: the paths in turn.
    RoundRobin,
    /// 2: the path with the most free space.
    MostFree,
}

/// `download_server`: which member serves a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadServer {
    /// 0: those that have the file, in turn.
    RoundRobin,
    /// 1: the one that took the upload, if it is up.
    Source,
}

/// The settings that decide a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Which group.
    pub store_lookup: StoreLookup,
    /// Which member.
    pub store_server: StoreServer,
    /// Which path.
    pub store_path: StorePath,
    /// Who serves reads.
    pub download_server: DownloadServer,
    /// When something is full.
    pub reserve: ReservedSpace,
    /// Whether free space inside trunk files counts.
    pub use_trunk: bool,
    /// Seconds after which every member is assumed to have a file.
    pub sync_max_delay: i64,
    /// Seconds within which one second of a storage's clock may matter.
    pub sync_max_time: i64,
    /// Width of addresses in answers.
    pub ip_size: IpSize,
}

impl Rules {
    /// Whether something with this space takes uploads.
    pub fn allows_group(&self, space: Space) -> bool {
        self.reserve.allows(space.free_mb, space.total_mb)
    }

    fn allows_path(&self, space: Space, paths: usize) -> bool {
        self.reserve.allows_path(space.free_mb, space.total_mb, paths as u64)
    }
}

/// The cursors of one group; they survive a change of the picture.
#[derive(Debug, Default)]
pub struct GroupCursors {
    write: AtomicUsize,
    read: AtomicUsize,
}

impl GroupCursors {
    /// The index of the writable member whose turn it is.
    pub fn next_writer(&self, writable: usize) -> usize {
        if writable == 0 { 0 } else { self.write.load(Ordering::Relaxed) % writable }
    }
}

/// One address of a member, ready to be copied into an answer.
#[derive(Debug, Clone, Copy)]
struct Endpoint {
    kind: Kind,
    len: u8,
    /// Address text padded to the width of answers, then the port as 8 bytes.
    bytes: [u8; 45 + 8],
}

impl Endpoint {
    fn new(ip: IpAddr, port: u16, size: IpSize) -> Endpoint {
        let width = size.answer();
        let mut bytes = [0; 53];
        IpText::from(ip).encode(width, &mut &mut bytes[..width]);
        bytes[width..width + 8].copy_from_slice(&i64::from(port).to_be_bytes());
        Endpoint { kind: Kind::of(ip), len: (width + 8) as u8, bytes }
    }
}

/// An active member of a group.
#[derive(Debug)]
pub struct MemberView {
    /// Its id.
    pub id: StorageId,
    /// The id as a number, where ids are configured.
    number: Option<u32>,
    /// The IPv4 addresses that may stand in names of its files.
    sources: [Option<Ipv4Addr>; 2],
    endpoints: [Endpoint; 2],
    upload_priority: i64,
    paths: Vec<Space>,
    last_synced: i64,
    readable: bool,
    write_path: Arc<AtomicUsize>,
}

/// What a [`MemberView`] is made of.
#[derive(Debug)]
pub struct MemberFacts<'a> {
    /// Its id.
    pub id: StorageId,
    /// The id as a number, where ids are configured.
    pub number: Option<u32>,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its port.
    pub port: u16,
    /// Its `upload_priority`.
    pub upload_priority: i64,
    /// Space per store path, as reported.
    pub paths: &'a [Space],
    /// Up to which source time it has applied the others' changes.
    pub last_synced: i64,
    /// Whether reads may go there.
    pub readable: bool,
    /// Whether writes may go there.
    pub writable: bool,
    /// The path whose turn it is.
    pub write_path: &'a Arc<AtomicUsize>,
}

/// A group as queries see it.
#[derive(Debug)]
pub struct GroupView {
    /// Its name.
    pub name: GroupName,
    space: Space,
    trunk_free_mb: u64,
    path_count: usize,
    members: Vec<MemberView>,
    readable: Vec<usize>,
    writable: Vec<usize>,
    /// The member `store_server` 1 and 2 choose.
    store_server: Option<usize>,
    cursors: Arc<GroupCursors>,
}

impl GroupView {
    /// Builds the picture of a group; `members` are its active members in the order of their ids.
    pub fn new<'a>(
        name: GroupName,
        space: Space,
        trunk_free_mb: u64,
        path_count: usize,
        members: impl Iterator<Item = MemberFacts<'a>>,
        cursors: Arc<GroupCursors>,
        rules: &Rules,
    ) -> GroupView {
        let (mut list, mut readable, mut writable) = (Vec::new(), Vec::new(), Vec::new());
        for m in members {
            if m.readable {
                readable.push(list.len());
            }
            if m.writable {
                writable.push(list.len());
            }
            list.push(MemberView::new(m, rules.ip_size));
        }
        let store_server = match rules.store_server {
            // The first of equals: min_by_key keeps it.
            StoreServer::ByPriority => writable.iter().copied().min_by_key(|&i: &usize| list[i].upload_priority),
            StoreServer::RoundRobin | StoreServer::First => writable.first().copied(),
        };
        GroupView { name, space, trunk_free_mb, path_count, members: list, readable, writable, store_server, cursors }
    }

    fn member(&self, index: usize) -> &MemberView {
        &self.members[index]
    }

    /// Whether any member takes uploads.
    pub fn is_writable(&self) -> bool {
        !self.writable.is_empty()
    }

    /// Free space including that inside trunk files.
    fn space_with_trunk(&self) -> Space {
        Space { free_mb: self.space.free_mb.saturating_add(self.trunk_free_mb), ..self.space }
    }

    /// The writable member for an update or an upload.
    fn choose_writer(&self, rule: StoreServer) -> Option<&MemberView> {
        let index = match (rule, self.writable.len()) {
            (StoreServer::RoundRobin, n @ 2..) => self.writable[self.cursors.write.fetch_add(1, Ordering::Relaxed) % n],
            _ => self.store_server?,
        };
        Some(self.member(index))
    }
}

impl MemberView {
    fn new(m: MemberFacts<'_>, size: IpSize) -> MemberView {
        let mut ips = m.addresses.iter();
        let first = m.addresses.first();
        let second = ips.nth(1).unwrap_or(first);
        let v4 = |ip| match ip {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        };
        MemberView {
            id: m.id,
            number: m.number,
            sources: [v4(first), v4(second)],
            endpoints: [Endpoint::new(first, m.port, size), Endpoint::new(second, m.port, size)],
            upload_priority: m.upload_priority,
            paths: m.paths.to_vec(),
            last_synced: m.last_synced,
            readable: m.readable,
            write_path: m.write_path.clone(),
        }
    }

    fn space(&self, path: usize) -> Space {
        self.paths.get(path).copied().unwrap_or_default()
    }

    /// Address and port for a client whose own address is of this kind.
    fn endpoint(&self, client: Kind) -> &[u8] {
        let [first, second] = &self.endpoints;
        let chosen = if second.kind == client { second } else { first };
        &chosen.bytes[..usize::from(chosen.len)]
    }
}

/// The whole picture.
#[derive(Debug)]
pub struct Directory {
    /// The settings that decide.
    pub rules: Rules,
    /// Sorted by name.
    groups: Vec<Arc<GroupView>>,
    /// The group whose turn it is, or the one with the most free space.
    cursor: Arc<AtomicUsize>,
}

impl Directory {
    /// A picture of these groups, which must be sorted by name.
    pub fn new(rules: Rules, groups: Vec<Arc<GroupView>>, cursor: Arc<AtomicUsize>) -> Directory {
        debug_assert!(groups.is_sorted_by_key(|g| g.name));
        let directory = Directory { rules, groups, cursor };
        if rules.store_lookup == StoreLookup::MostFree {
            directory.point_at_most_free();
        }
        directory
    }

    /// The group of this name.
    pub fn group(&self, name: &GroupName) -> Option<&GroupView> {
        self.groups.binary_search_by_key(name, |g| g.name).ok().map(|i| &*self.groups[i])
    }

    /// `store_lookup` 2: the cursor stands on the writable group with the most free space; if that one is full and
    /// trunk files are in use, on the one with the most space inside trunk files.
    fn point_at_most_free(&self) {
        let most = |key: fn(&GroupView) -> u64| {
            let mut best: Option<usize> = None;
            for (i, g) in self.groups.iter().enumerate().filter(|(_, g)| g.is_writable()) {
                if best.is_none_or(|b| key(g) > key(&self.groups[b])) {
                    best = Some(i);
                }
            }
            best
        };
        let Some(best) = most(|g| g.space.free_mb) else { return };
        let full = !self.rules.allows_group(self.groups[best].space);
        let chosen = if full && self.rules.use_trunk { most(|g| g.trunk_free_mb).unwrap_or(best) } else { best };
        self.cursor.store(chosen, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Pictures for tests, built without a cluster.

    use super::*;

    pub fn rules() -> Rules {
        Rules {
            store_lookup: StoreLookup::RoundRobin,
            store_server: StoreServer::RoundRobin,
            store_path: StorePath::RoundRobin,
            download_server: DownloadServer::RoundRobin,
            reserve: ReservedSpace::Megabytes(100),
            use_trunk: false,
            sync_max_delay: 86400,
            sync_max_time: 300,
            ip_size: IpSize::V4,
        }
    }

    /// An active member: name its id (an address) and free space per path; change the rest as needed.
    #[derive(Debug, Clone)]
    pub struct M {
        pub id: &'static str,
        pub number: Option<u32>,
        pub second: Option<&'static str>,
        pub free: Vec<u64>,
        pub priority: i64,
        pub synced: i64,
        pub readable: bool,
        pub writable: bool,
    }

    pub fn member(id: &'static str, free: &[u64]) -> M {
        M {
            id,
            number: None,
            second: None,
            free: free.to_vec(),
            priority: 10,
            synced: 0,
            readable: true,
            writable: true,
        }
    }

    pub fn group(name: &str, trunk_free_mb: u64, members: &[M], rules: &Rules) -> Arc<GroupView> {
        let facts: Vec<(Vec<Space>, Arc<AtomicUsize>)> = members
            .iter()
            .map(|m| {
                let paths = m.free.iter().map(|&free_mb| Space { total_mb: 1000, free_mb }).collect();
                (paths, Arc::new(AtomicUsize::new(0)))
            })
            .collect();
        let smallest = members.iter().filter(|m| m.writable).map(|m| m.free.iter().sum::<u64>()).min().unwrap_or(0);
        let paths = members.first().map_or(1, |m| m.free.len());
        let list = members.iter().zip(&facts).map(|(m, (space, cursor))| {
            let first: IpAddr = m.id.parse().unwrap();
            let addresses = match m.second {
                Some(second) => Addresses::two(first, second.parse().unwrap()).unwrap(),
                None => Addresses::one(first),
            };
            MemberFacts {
                id: m.id.parse().unwrap(),
                number: m.number,
                addresses,
                port: 23000,
                upload_priority: m.priority,
                paths: space,
                last_synced: m.synced,
                readable: m.readable,
                writable: m.writable,
                write_path: cursor,
            }
        });
        let space = Space { total_mb: 1000 * paths as u64, free_mb: smallest };
        Arc::new(GroupView::new(name.parse().unwrap(), space, trunk_free_mb, paths, list, Arc::default(), rules))
    }

    pub fn directory(rules: Rules, groups: Vec<Arc<GroupView>>) -> Directory {
        Directory::new(rules, groups, Arc::default())
    }
}
