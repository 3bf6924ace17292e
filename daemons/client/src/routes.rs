//! What trackers answered lately, so that an operation need not ask again.
//!
//! Pure state: the caller says what time it is and what happened. Two kinds of answers are kept.
//!
//! **Where to upload.** The tracker's choice among groups, storages and store paths follows its settings and the
//! free space. One answer used for everything would undo that; so several answers are fetched at once and used
//! in turn. They are good for [`FRESH`]; then one caller is told to renew them while the others go on with what there
//! is, for at most [`STALE`] (that bridges a while without a tracker).
//!
//! **Where a file is.** Files are not known to trackers one by one: what counts is the storage a file came from (its
//! source) and how old it is. Whether a replica has all files of a source up to time T only ever changes from no to
//! yes, so the answer for a file of time T holds for all files of the same source that are older. The source itself has
//! all its files, changeable ones included.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fdfs_protocol::file_id::Source;
use fdfs_protocol::{FileId, GroupName};

use crate::members::Members;

/// How long an answer is used without a question.
const FRESH: Duration = Duration::from_secs(5);
/// How long where-to-upload answers are used when they cannot be renewed.
const STALE: Duration = Duration::from_secs(60);
/// How soon after an attempt to renew answers the next caller tries.
const RENEW: Duration = Duration::from_secs(1);
/// How long a storage is not asked for a file of which it had a damaged copy, while others are left.
const DISTRUST: Duration = Duration::from_secs(600);
/// More damaged copies than a cluster should have; beyond it, all are forgotten.
const DAMAGED: usize = 1024;
/// More entries than a cluster has sources; beyond it the old ones are thrown away.
const FILE_ROUTES: usize = 4096;

/// A tracker's answer to "where to upload".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreTarget {
    /// The group that will hold the file.
    pub group: GroupName,
    /// The storage to send it to.
    pub addr: SocketAddr,
    /// The store path on that storage; [`StoreTarget::ANY_PATH`] lets the storage choose.
    pub store_path: u8,
}

impl StoreTarget {
    /// The storage chooses the store path.
    pub const ANY_PATH: u8 = 255;
}

/// Where to upload, and whether the caller is the one to renew the answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) target: StoreTarget,
    pub(crate) renew: bool,
}

#[derive(Debug)]
struct Targets {
    list: Vec<StoreTarget>,
    next: usize,
    learned: Instant,
    renewal: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileKey {
    group: GroupName,
    source: [u8; 4],
}

impl FileKey {
    fn of(id: &FileId) -> Option<(Self, Source, u32)> {
        let block = id.name.block().ok()?;
        let key = Self { group: id.group, source: block.source.to_bytes() };
        Some((key, block.source, block.timestamp))
    }
}

#[derive(Debug, Default)]
struct FileRoute {
    /// The storage that is the source; it has each of its files from the first moment.
    source: Option<(SocketAddr, Instant)>,
    /// Storages that have every file of this source up to a time of creation.
    replicas: Option<Replicas>,
    /// Storages to read changeable files from, where the source is not known by its address.
    changeable: Option<(Arc<[SocketAddr]>, Instant)>,
    /// The storage that takes changes.
    update: Option<(SocketAddr, Instant)>,
}

#[derive(Debug)]
struct Replicas {
    addrs: Arc<[SocketAddr]>,
    newest: u32,
    learned: Instant,
}

/// The answers of the trackers that are still good.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    targets: HashMap<Option<GroupName>, Targets>,
    files: HashMap<FileKey, FileRoute>,
    /// By group; as many entries as groups.
    members: HashMap<GroupName, (Members, Instant)>,
    /// Copies that were found damaged.
    damaged: HashMap<(FileId, SocketAddr), Instant>,
}

fn fresh(learned: Instant, now: Instant) -> bool {
    now.saturating_duration_since(learned) < FRESH
}

impl Routes {
    /// Where to upload next (to `group`, if one is asked for), if that is known; storages that are not `usable` are
    /// passed over as long as there is another.
    pub(crate) fn pick_target(
        &mut self,
        group: Option<GroupName>,
        usable: impl Fn(SocketAddr) -> bool,
        now: Instant,
    ) -> Option<Pick> {
        let targets = self.targets.get_mut(&group)?;
        let age = now.saturating_duration_since(targets.learned);
        if age >= STALE || targets.list.is_empty() {
            return None;
        }
        let count = targets.list.len();
        let chosen = (0..count)
            .map(|i| targets.next.wrapping_add(i) % count)
            .find(|&i| usable(targets.list[i].addr))
            .unwrap_or(targets.next % count);
        targets.next = chosen + 1;
        let renew = age >= FRESH && targets.renewal.is_none_or(|at| now >= at + RENEW);
        if renew {
            targets.renewal = Some(now);
        }
        Some(Pick { target: targets.list[chosen], renew })
    }

    /// Keeps answers to "where to upload", in the order the tracker gave them.
    pub(crate) fn learn_targets(&mut self, group: Option<GroupName>, list: Vec<StoreTarget>, now: Instant) {
        self.targets.insert(group, Targets { list, next: 0, learned: now, renewal: None });
    }

    /// Storages to read `id` from, any of which will do.
    pub(crate) fn readers(&self, id: &FileId, now: Instant) -> Option<Arc<[SocketAddr]>> {
        let (key, _, timestamp) = FileKey::of(id)?;
        let route = self.files.get(&key)?;
        if is_fixed(id)
            && let Some(replicas) = &route.replicas
            && timestamp <= replicas.newest
            && fresh(replicas.learned, now)
        {
            return Some(Arc::clone(&replicas.addrs));
        }
        if let Some((source, learned)) = route.source
            && fresh(learned, now)
        {
            return Some(Arc::from([source]));
        }
        let (addrs, learned) = route.changeable.as_ref()?;
        (!is_fixed(id) && fresh(*learned, now)).then(|| Arc::clone(addrs))
    }

    /// Keeps the tracker's list of storages that have `id`.
    pub(crate) fn learn_readers(&mut self, id: &FileId, addrs: &Arc<[SocketAddr]>, now: Instant) {
        let Some((key, source, timestamp)) = FileKey::of(id) else { return };
        let route = self.file_route(key, now);
        // With ids in the names, only an upload tells the address of the source.
        if let Source::Ip(ip) = source {
            let mut same = addrs.iter().filter(|addr| addr.ip() == IpAddr::V4(ip));
            if let (Some(&addr), None) = (same.next(), same.next()) {
                route.source = Some((addr, now));
            }
        }
        if is_fixed(id) {
            let known = route.replicas.as_ref().filter(|replicas| fresh(replicas.learned, now));
            if known.is_none_or(|replicas| replicas.newest <= timestamp) {
                route.replicas = Some(Replicas { addrs: Arc::clone(addrs), newest: timestamp, learned: now });
            }
        } else {
            route.changeable = Some((Arc::clone(addrs), now));
        }
    }

    /// The members of the group of `id`.
    pub(crate) fn members(&self, id: &FileId, now: Instant) -> Option<Members> {
        let (members, learned) = self.members.get(&id.group)?;
        fresh(*learned, now).then(|| members.clone())
    }

    /// Keeps a tracker's list of the members of the group of `id`.
    pub(crate) fn learn_members(&mut self, id: &FileId, members: Members, now: Instant) {
        self.members.retain(|_, (_, learned)| fresh(*learned, now));
        self.members.insert(id.group, (members, now));
    }

    /// The copy of `id` on the storage at `addr` is damaged.
    pub(crate) fn distrust(&mut self, id: &FileId, addr: SocketAddr, now: Instant) {
        if self.damaged.len() >= DAMAGED {
            self.damaged.clear();
        }
        self.damaged.insert((*id, addr), now);
    }

    /// Whether the storage at `addr` had a damaged copy of `id` when it was looked at last.
    pub(crate) fn distrusted(&self, id: &FileId, addr: SocketAddr, now: Instant) -> bool {
        !self.damaged.is_empty()
            && self.damaged.get(&(*id, addr)).is_some_and(|&found| now.saturating_duration_since(found) < DISTRUST)
    }

    /// The storage that takes changes to `id`.
    pub(crate) fn updater(&self, id: &FileId, now: Instant) -> Option<SocketAddr> {
        let (key, ..) = FileKey::of(id)?;
        let (addr, learned) = self.files.get(&key)?.update?;
        fresh(learned, now).then_some(addr)
    }

    /// Keeps the tracker's answer to "who takes changes to `id`".
    pub(crate) fn learn_updater(&mut self, id: &FileId, addr: SocketAddr, now: Instant) {
        let Some((key, ..)) = FileKey::of(id) else { return };
        self.file_route(key, now).update = Some((addr, now));
    }

    /// The storage at `addr` has just made `id`: it is the source, and writable.
    pub(crate) fn learn_source(&mut self, id: &FileId, addr: SocketAddr, now: Instant) {
        let Some((key, ..)) = FileKey::of(id) else { return };
        let route = self.file_route(key, now);
        route.source = Some((addr, now));
        route.update = Some((addr, now));
    }

    /// What is known about the files of `id`'s source turned out wrong.
    pub(crate) fn forget_file(&mut self, id: &FileId) {
        if let Some((key, ..)) = FileKey::of(id) {
            self.files.remove(&key);
        }
    }

    /// The storage at `addr` failed: nothing is to be sent there on the strength of an old answer.
    pub(crate) fn forget_storage(&mut self, addr: SocketAddr) {
        for targets in self.targets.values_mut() {
            targets.list.retain(|target| target.addr != addr);
        }
        self.files.retain(|_, route| {
            route.source.take_if(|(source, _)| *source == addr);
            route.update.take_if(|(update, _)| *update == addr);
            route.changeable.take_if(|(addrs, _)| addrs.contains(&addr));
            // The other replicas may serve; order and avoidance see to the rest.
            route.source.is_some() || route.update.is_some() || route.replicas.is_some() || route.changeable.is_some()
        });
    }

    /// Nothing known about where to upload is to be used any more.
    pub(crate) fn forget_targets(&mut self) {
        self.targets.clear();
    }

    fn file_route(&mut self, key: FileKey, now: Instant) -> &mut FileRoute {
        if self.files.len() >= FILE_ROUTES && !self.files.contains_key(&key) {
            self.files.retain(|_, route| {
                let learned = [
                    route.source.map(|(_, at)| at),
                    route.update.map(|(_, at)| at),
                    route.replicas.as_ref().map(|replicas| replicas.learned),
                    route.changeable.as_ref().map(|(_, at)| *at),
                ];
                learned.into_iter().flatten().any(|at| fresh(at, now))
            });
            if self.files.len() >= FILE_ROUTES {
                self.files.clear();
            }
        }
        self.files.entry(key).or_default()
    }
}

/// Whether the content of the file can never change, so that any replica serves.
pub(crate) fn is_fixed(id: &FileId) -> bool {
    id.name.kind().is_ok_and(|kind| kind.is_normal())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdfs_protocol::file_id::{NameBlock, NewName, SizeField};
    use fdfs_protocol::{ExtName, RemoteName};

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 23000))
    }

    fn group() -> GroupName {
        "group1".parse().unwrap()
    }

    fn target(last: u8) -> StoreTarget {
        StoreTarget { group: group(), addr: addr(last), store_path: 0 }
    }

    fn file(source: Source, timestamp: u32, size: SizeField) -> FileId {
        let block = NameBlock { source, timestamp, size, crc32: 0 };
        let name = RemoteName::generate(&NewName {
            store_path: 0,
            directories: (0, 0),
            block,
            slot: None,
            ext: &ExtName::NONE,
            random: 0,
        });
        FileId::new(group(), name)
    }

    fn normal(last: u8, timestamp: u32) -> FileId {
        file(Source::Ip([10, 0, 0, last].into()), timestamp, SizeField::normal(1, 0))
    }

    fn list(lasts: &[u8]) -> Arc<[SocketAddr]> {
        lasts.iter().map(|&last| addr(last)).collect()
    }

    #[test]
    fn a_damaged_copy_is_remembered_for_a_while() {
        let mut routes = Routes::default();
        let now = Instant::now();
        let id = normal(1, 10);
        routes.distrust(&id, addr(1), now);
        assert!(routes.distrusted(&id, addr(1), now) && !routes.distrusted(&id, addr(2), now));
        assert!(!routes.distrusted(&normal(1, 11), addr(1), now));
        assert!(!routes.distrusted(&id, addr(1), now + DISTRUST));
        for i in 0..5000 {
            routes.distrust(&normal(2, i), addr(1), now);
        }
        assert!(routes.damaged.len() <= DAMAGED);
    }

    #[test]
    fn targets_are_used_in_turn() {
        let mut routes = Routes::default();
        let now = Instant::now();
        assert_eq!(routes.pick_target(None, |_| true, now), None);
        routes.learn_targets(None, vec![target(1), target(2)], now);
        let picked: Vec<_> = (0..4).filter_map(|_| routes.pick_target(None, |_| true, now)).collect();
        assert_eq!(
            picked.iter().map(|pick| pick.target).collect::<Vec<_>>(),
            [target(1), target(2), target(1), target(2)]
        );
        assert!(picked.iter().all(|pick| !pick.renew));
        assert_eq!(routes.pick_target(Some(group()), |_| true, now), None, "groups are kept apart");
    }

    #[test]
    fn unusable_targets_are_passed_over_unless_all_are() {
        let mut routes = Routes::default();
        let now = Instant::now();
        routes.learn_targets(None, vec![target(1), target(2)], now);
        for _ in 0..3 {
            assert_eq!(routes.pick_target(None, |a| a != addr(1), now).unwrap().target, target(2));
        }
        assert!(routes.pick_target(None, |_| false, now).is_some());
        routes.forget_storage(addr(1));
        assert_eq!(routes.pick_target(None, |_| true, now).unwrap().target, target(2));
        routes.forget_storage(addr(2));
        assert_eq!(routes.pick_target(None, |_| true, now), None);
    }

    #[test]
    fn one_caller_renews_while_others_go_on() {
        let mut routes = Routes::default();
        let t0 = Instant::now();
        routes.learn_targets(None, vec![target(1)], t0);
        let t1 = t0 + FRESH;
        assert!(routes.pick_target(None, |_| true, t1).unwrap().renew);
        assert!(!routes.pick_target(None, |_| true, t1).unwrap().renew);
        assert!(routes.pick_target(None, |_| true, t1 + RENEW).unwrap().renew, "a renewal that died is repeated");
        assert_eq!(routes.pick_target(None, |_| true, t0 + STALE), None);
    }

    #[test]
    fn replicas_hold_for_older_files_the_source_for_all() {
        let mut routes = Routes::default();
        let now = Instant::now();
        routes.learn_readers(&normal(1, 100), &list(&[1, 2]), now);
        assert_eq!(routes.readers(&normal(1, 100), now), Some(list(&[1, 2])));
        assert_eq!(routes.readers(&normal(1, 50), now), Some(list(&[1, 2])));
        assert_eq!(routes.readers(&normal(1, 101), now), Some(list(&[1])), "newer: only the source is sure");
        assert_eq!(routes.readers(&normal(2, 50), now), None, "another source");
        assert_eq!(routes.readers(&normal(1, 50), now + FRESH), None);
        // A narrower answer for an older file does not replace the wider one.
        routes.learn_readers(&normal(1, 10), &list(&[1]), now);
        assert_eq!(routes.readers(&normal(1, 100), now), Some(list(&[1, 2])));
    }

    #[test]
    fn changeable_files_are_read_at_their_source_only() {
        let mut routes = Routes::default();
        let now = Instant::now();
        let appender = file(Source::Ip([10, 0, 0, 1].into()), 10, SizeField::appender(0));
        routes.learn_readers(&normal(1, 100), &list(&[1, 2]), now);
        assert_eq!(routes.readers(&appender, now), Some(list(&[1])));
        // With ids in the names only an upload tells the source; the answer holds for changeable files alone.
        let by_id = file(Source::id(100001).unwrap(), 10, SizeField::appender(0));
        routes.learn_readers(&by_id, &list(&[1]), now);
        assert_eq!(routes.readers(&by_id, now), Some(list(&[1])));
        assert_eq!(routes.readers(&file(Source::id(100001).unwrap(), 1, SizeField::normal(1, 0)), now), None);
        routes.learn_source(&by_id, addr(3), now);
        assert_eq!(routes.readers(&by_id, now), Some(list(&[3])));
        assert_eq!(routes.updater(&by_id, now), Some(addr(3)));
    }

    #[test]
    fn two_storages_on_one_address_are_not_mistaken_for_the_source() {
        let mut routes = Routes::default();
        let now = Instant::now();
        let two: Arc<[SocketAddr]> =
            [SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 1], 2))].into();
        routes.learn_readers(&normal(1, 100), &two, now);
        assert_eq!(routes.readers(&normal(1, 101), now), None);
    }

    #[test]
    fn updates_are_learned_and_forgotten() {
        let mut routes = Routes::default();
        let now = Instant::now();
        let id = normal(1, 5);
        routes.learn_updater(&id, addr(2), now);
        assert_eq!(routes.updater(&id, now), Some(addr(2)));
        assert_eq!(routes.updater(&id, now + FRESH), None);
        routes.forget_storage(addr(2));
        assert_eq!(routes.updater(&id, now), None);
        routes.learn_updater(&id, addr(2), now);
        routes.forget_file(&id);
        assert_eq!(routes.updater(&id, now), None);
    }

    #[test]
    fn the_table_of_sources_is_bounded() {
        let mut routes = Routes::default();
        let now = Instant::now();
        for i in 0..2 * FILE_ROUTES as u32 {
            routes.learn_updater(&file(Source::id(i + 1).unwrap(), 1, SizeField::normal(1, 0)), addr(1), now);
        }
        assert!(routes.files.len() <= FILE_ROUTES);
    }
}
