//! Members that go for good: deleted, or moved to another address. What went is kept as a tombstone, and the
//! changelog tells it to members that were away.

use std::net::IpAddr;

use fdfs_protocol::Status;
use fdfs_protocol::datafile::ChangelogLine;
use fdfs_protocol::names::{GroupName, StorageId};
use fdfs_protocol::stat::{RwMode, StorageStatus};

use super::storage::Storage;
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
        for m in g.members_mut() {
            if m.sync_source == Some(*id) {
                m.sync_source = None;
            }
            if m.id == *id {
                m.clear();
                m.status = S::Deleted;
            }
        }
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
        let new_id = StorageId::from_ip(peer).map_err(|_| Status::EINVAL)?;
        let old_ip = old.ok_or(Status::ENOENT)?;
        let old_id = StorageId::from_ip(old_ip).map_err(|_| Status::ENOENT)?;
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
        }
        if tombstone.is_some() {
            g.rename(&held, old_id);
        } else {
            g.add(Storage::new(old_id, Addresses::one(old_ip), port, RwMode::Both));
        }
        if let Some(m) = g.member_mut(&old_id) {
            m.addresses = Addresses::one(old_ip);
            m.status = S::IpChanged;
        }
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
