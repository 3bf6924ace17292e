//! Members that go for good: deleted, or moved to another address. What went is kept as a tombstone, and the
//! changelog tells it to members that were away.

use std::net::IpAddr;

use fdfs_protocol::Status;
use fdfs_protocol::datafile::ChangelogLine;
use fdfs_protocol::names::{GroupName, StorageId};
use fdfs_protocol::stat::{RwMode, StorageStatus};

use super::identity::id_from;
use super::storage::Storage;
use super::turn::Cause;
use super::{Cluster, Member, Unsaved};
use crate::address::Addresses;

/// Longest piece of the changelog in one answer.
const PIECE: usize = 8 * 1024 - 10;

impl Cluster {
    /// DELETE_STORAGE: an administrator removes a storage that is down.
    ///
    /// # Errors
    /// `ENOENT`: unknown, or moved to another address. `EBUSY`: it is up. `EALREADY`: it was deleted before.
    pub fn delete_storage(&mut self, group: &GroupName, id: &StorageId, now: i64) -> Result<(), Status> {
        use StorageStatus as S;
        let g = self.group_mut(group)?;
        match g.member(id).ok_or(Status::ENOENT)?.status {
            S::IpChanged => return Err(Status::ENOENT),
            S::Online | S::Active | S::Recovery => return Err(Status::EBUSY),
            S::Deleted => return Err(Status::EALREADY),
            _ => {}
        }
        if let Some(m) = g.member_mut(id) {
            m.clear();
        }
        g.turn(id, S::Deleted, Cause::Deleted);
        if g.trunk_server == Some(*id) {
            g.set_trunk_server(None);
        }
        g.note_change();
        self.note_in_changelog(now, group, id, S::Deleted, StorageId::NONE);
        self.unsaved = self.unsaved.with(Unsaved::ALL);
        Ok(())
    }

    /// DELETE_GROUP: an administrator removes a group that never had, or no longer has, any record of a member.
    ///
    /// # Errors
    /// `ENOENT`: unknown. `EBUSY`: it has members, tombstones included.
    pub fn delete_group(&mut self, name: &GroupName) -> Result<(), Status> {
        if !self.group(name)?.members().is_empty() {
            return Err(Status::EBUSY);
        }
        self.groups.remove(name);
        self.regrouped = true;
        self.unsaved = self.unsaved.with(Unsaved { changelog: false, ..Unsaved::ALL });
        Ok(())
    }

    /// STORAGE_REPORT_IP_CHANGED: a storage that was known under `old` now has the address `new`, which must be the
    /// one it reports from.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: ids are configured, addresses mean nothing. `ENOENT`: unknown group or old address. `EINVAL`:
    /// not its address. `EBUSY`: the old address is up. `EALREADY`: done before. `EEXIST`: the new one is taken.
    pub fn ip_changed(
        &mut self,
        group: &GroupName,
        old: Option<IpAddr>,
        new: Option<IpAddr>,
        peer: IpAddr,
        now: i64,
    ) -> Result<(), Status> {
        use StorageStatus as S;
        if self.settings.ids.is_some() {
            return Err(Status::EOPNOTSUPP);
        }
        let g = self.group_mut(group)?;
        if new != Some(peer) {
            return Err(Status::EINVAL);
        }
        let new_id = id_from(peer)?;
        let old_ip = old.ok_or(Status::ENOENT)?;
        let old_id = id_from(old_ip).map_err(|_| Status::ENOENT)?;
        let storage = g.member(&old_id).ok_or(Status::ENOENT)?;
        match storage.status {
            S::Deleted => return Err(Status::ENOENT),
            S::Online | S::Active | S::Recovery => return Err(Status::EBUSY),
            S::IpChanged => return Err(Status::EALREADY),
            _ => {}
        }
        let port = storage.port;
        let tombstone = match g.member(&new_id).map(|m| m.status) {
            None if !g.has_room() => return Err(Status::ENOSPC),
            None => None,
            Some(S::Deleted) => Some(new_id),
            Some(_) => return Err(Status::EEXIST),
        };
        // The record keeps its data and its place as somebody's source under the new name; a tombstone takes the old
        // one. If a deleted storage had the new address before, its tombstone serves for that.
        const HELD: &str = "moving";
        let held = StorageId::new(HELD).map_err(|_| Status::EINVAL)?;
        if let Some(id) = tombstone {
            g.rename(&id, held);
        }
        g.rename(&old_id, new_id);
        if let Some(m) = g.member_mut(&new_id) {
            m.addresses = Addresses::one(peer);
            // A connection from the old address, if one lingers, is not this storage's any more.
            m.session = None;
            m.up_time = 0;
        }
        if tombstone.is_some() {
            g.rename(&held, old_id);
        } else {
            g.add(Storage::new(old_id, Addresses::one(old_ip), port, RwMode::Both));
        }
        if let Some(m) = g.member_mut(&old_id) {
            m.addresses = Addresses::one(old_ip);
        }
        g.turn(&old_id, S::IpChanged, Cause::Moved(new_id));
        if g.trunk_server == Some(old_id) {
            g.set_trunk_server(Some(new_id));
        }
        g.note_change();
        self.note_in_changelog(now, group, &old_id, S::IpChanged, new_id);
        self.unsaved = self.unsaved.with(Unsaved::ALL);
        Ok(())
    }

    fn note_in_changelog(
        &mut self,
        now: i64,
        group: &GroupName,
        id: &StorageId,
        status: StorageStatus,
        new_id: StorageId,
    ) {
        let timestamp = u32::try_from(now).unwrap_or(0);
        let line = ChangelogLine { timestamp, group: *group, id: *id, status, new_id };
        self.changelog.extend_from_slice(format!("{line}\n").as_bytes());
    }

    /// STORAGE_CHANGELOG_REQ: the next lines a storage has not read, which count as read then. Empty: no more.
    ///
    /// # Errors
    /// `ENOENT`: no such storage.
    pub fn next_changes(&mut self, member: &Member) -> Result<&[u8], Status> {
        let group = self.groups.get_mut(&member.group).ok_or(Status::ENOENT)?;
        let storage = group.member_quietly(&member.id).ok_or(Status::ENOENT)?;
        let end = self.changelog.len();
        let start = usize::try_from(storage.changelog_offset).unwrap_or(end).min(end);
        let mut piece = &self.changelog[start..end.min(start + PIECE)];
        // Whole lines only, so that no reader has to put halves together.
        if start + piece.len() < end
            && let Some(last) = piece.iter().rposition(|&b| b == b'\n')
        {
            piece = &piece[..=last];
        }
        if !piece.is_empty() {
            storage.changelog_offset = (start + piece.len()) as u64;
            self.unsaved.storages = true;
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use StorageStatus as S;

    #[test]
    fn who_can_be_deleted() {
        for (status, expected) in [
            (S::Init, Ok(())),
            (S::WaitSync, Ok(())),
            (S::Syncing, Ok(())),
            (S::Offline, Ok(())),
            (S::IpChanged, Err(Status::ENOENT)),
            (S::Deleted, Err(Status::EALREADY)),
            (S::Online, Err(Status::EBUSY)),
            (S::Active, Err(Status::EBUSY)),
            (S::Recovery, Err(Status::EBUSY)),
        ] {
            let mut c = cluster(settings());
            let m = c.bring_up("10.0.0.1");
            c.set_status(&m, status);
            assert_eq!(c.delete_storage(&m.group, &m.id, NOW), expected, "{status}");
        }
        let mut c = cluster(settings());
        let m = c.bring_up("10.0.0.1");
        assert_eq!(c.delete_storage(&m.group, &"10.0.0.2".parse().unwrap(), NOW), Err(Status::ENOENT));
        assert_eq!(c.delete_storage(&"g2".parse().unwrap(), &m.id, NOW), Err(Status::ENOENT));
    }

    #[test]
    fn a_deleted_storage_is_a_tombstone_that_may_return() {
        let mut c = cluster(settings());
        let m = c.bring_up("10.0.0.1");
        c.leave(session("10.0.0.1"), Some(m));
        c.delete_storage(&m.group, &m.id, NOW).unwrap();
        let record = c.storage(&m.group, &m.id).unwrap();
        assert_eq!((record.space, record.path_count, record.join_time), (Default::default(), 0, NOW));
        assert_eq!(c.delete_group(&m.group), Err(Status::EBUSY), "tombstones count");
        let mut again = request();
        again.fresh = false;
        again.status = None;
        assert_eq!(c.join_from("10.0.0.1", &again).unwrap().status, S::Init);
    }

    #[test]
    fn the_changelog_is_read_from_where_each_storage_was() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        c.leave(session("10.0.0.2"), Some(b));
        c.delete_storage(&b.group, &b.id, NOW).unwrap();
        let line = format!("{NOW} group1 10.0.0.2 4 \n");
        assert_eq!(c.changelog(), line.as_bytes());
        assert_eq!(c.next_changes(&a).unwrap(), line.as_bytes());
        assert_eq!(c.next_changes(&a).unwrap(), b"");
        c.join_from("10.0.0.3", &request()).unwrap();
        assert_eq!(c.next_changes(&member("10.0.0.3")).unwrap(), b"", "who is new has missed nothing");
        assert_eq!(c.next_changes(&member("10.0.0.4")), Err(Status::ENOENT));
    }

    #[test]
    fn long_changelogs_come_in_whole_lines() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let log: String = (0..1000).map(|i| format!("{i} group1 10.0.0.2 4 \n")).collect();
        c.changelog = log.clone().into_bytes();
        let mut read = Vec::new();
        loop {
            let piece = c.next_changes(&a).unwrap();
            assert!(piece.len() <= PIECE && (piece.is_empty() || piece.ends_with(b"\n")));
            if piece.is_empty() {
                break;
            }
            read.extend_from_slice(piece);
        }
        assert_eq!(read, log.as_bytes());
    }

    fn moved(c: &mut Cluster, old: &str, new: &str, peer: &str) -> Result<(), Status> {
        c.ip_changed(&"group1".parse().unwrap(), Some(ip(old)), Some(ip(new)), ip(peer), NOW)
    }

    #[test]
    fn a_storage_moves_to_another_address() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        c.join_from("10.0.0.5", &request()).unwrap();
        c.assign_source(&member("10.0.0.5"), NOW).unwrap();
        assert_eq!(moved(&mut c, "10.0.0.1", "10.0.0.2", "10.0.0.2"), Err(Status::EBUSY));
        c.leave(session("10.0.0.1"), Some(a));
        assert_eq!(moved(&mut c, "10.0.0.1", "10.0.0.2", "10.0.0.3"), Err(Status::EINVAL), "not its address");
        assert_eq!(moved(&mut c, "10.0.0.8", "10.0.0.2", "10.0.0.2"), Err(Status::ENOENT));
        assert_eq!(moved(&mut c, "10.0.0.1", "10.0.0.5", "10.0.0.5"), Err(Status::EEXIST));
        moved(&mut c, "10.0.0.1", "10.0.0.2", "10.0.0.2").unwrap();
        let new = c.storage(&a.group, &"10.0.0.2".parse().unwrap()).unwrap();
        assert_eq!((new.status, new.space.free_mb, new.addresses.first()), (S::Offline, 500, ip("10.0.0.2")));
        assert_eq!(c.status(&a), S::IpChanged);
        assert_eq!(c.source_of(&member("10.0.0.5")).unwrap().unwrap().source.as_str(), "10.0.0.2");
        assert_eq!(c.changelog(), format!("{NOW} group1 10.0.0.1 3 10.0.0.2\n").as_bytes());
        assert_eq!(moved(&mut c, "10.0.0.1", "10.0.0.3", "10.0.0.3"), Err(Status::EALREADY));
        assert_eq!(c.group(&a.group).unwrap().members().len(), 3);
    }

    #[test]
    fn a_connection_that_lingers_at_the_old_address_is_cut_off() {
        let mut c = cluster(settings());
        c.join_from("10.0.0.1", &request()).unwrap();
        let (old, new) = (member("10.0.0.1"), member("10.0.0.2"));
        assert!(c.is_joined(&old, session("10.0.0.1")));
        moved(&mut c, "10.0.0.1", "10.0.0.2", "10.0.0.2").unwrap();
        assert!(!c.is_joined(&old, session("10.0.0.1")) && !c.is_joined(&new, session("10.0.0.1")));
        c.join_from("10.0.0.2", &request()).unwrap();
        c.leave(session("10.0.0.1"), Some(old));
        assert!(c.is_joined(&new, session("10.0.0.2")));
    }

    #[test]
    fn it_may_move_where_a_deleted_one_was() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        c.leave(session("10.0.0.1"), Some(a));
        c.leave(session("10.0.0.2"), Some(b));
        c.delete_storage(&b.group, &b.id, NOW).unwrap();
        moved(&mut c, "10.0.0.1", "10.0.0.2", "10.0.0.2").unwrap();
        assert_eq!((c.status(&a), c.status(&b)), (S::IpChanged, S::Offline));
        let g = c.group(&a.group).unwrap();
        assert_eq!(g.members().len(), 2);
        assert_eq!(g.member(&a.id).unwrap().addresses.first(), ip("10.0.0.1"));
        assert_eq!(g.member(&b.id).unwrap().space.free_mb, 500, "the data moved along");
    }

    #[test]
    fn with_ids_addresses_mean_nothing() {
        let mut c = cluster(with_ids("1 group1 10.0.0.1"));
        assert_eq!(moved(&mut c, "10.0.0.1", "10.0.0.2", "10.0.0.2"), Err(Status::EOPNOTSUPP));
    }

    #[test]
    fn groups_without_members_can_be_deleted() {
        let mut c = cluster(settings());
        assert_eq!(c.delete_group(&"group1".parse().unwrap()), Err(Status::ENOENT));
        let mut wrong = request();
        wrong.fresh = false;
        wrong.status = None;
        assert_eq!(c.join_from("10.0.0.1", &wrong), Err(Status::EFAULT));
        assert_eq!(c.groups().count(), 1, "the refused storage left its group");
        c.delete_group(&"group1".parse().unwrap()).unwrap();
        assert_eq!(c.groups().count(), 0);
    }
}
