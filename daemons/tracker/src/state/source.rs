//! Who pushes a new member the data from before it joined.

use fdfs_protocol::Status;
use fdfs_protocol::names::{GroupName, StorageId};
use fdfs_protocol::peer::SyncNotify;
use fdfs_protocol::stat::StorageStatus;

use super::{Cluster, Member};

impl Cluster {
    /// STORAGE_SYNC_DEST_REQ: a fresh member asks for a source. `None`: there is nothing to get, it is ONLINE.
    ///
    /// # Errors
    /// `ENOENT`: there are members with data, but none that serves; ask again later.
    pub fn assign_source(&mut self, member: &Member, now: i64) -> Result<Option<SyncNotify>, Status> {
        let group = self.group_mut(&member.group)?;
        let others = || group.members().iter().filter(|m| m.id != member.id);
        let source = if others().any(|m| m.status.is_available()) {
            let chosen = others().filter(|m| m.is_writable()).map(|m| m.id).min();
            Some(SyncNotify { source: chosen.ok_or(Status::ENOENT)?, until: now })
        } else {
            None
        };
        let storage = group.member_mut(&member.id).ok_or(Status::ENOENT)?;
        match source {
            Some(source) => {
                storage.sync_source = Some(source.source);
                storage.sync_until = source.until;
                storage.status = StorageStatus::WaitSync;
            }
            None => storage.status = StorageStatus::Online,
        }
        group.note_change();
        self.unsaved.storages = true;
        Ok(source)
    }

    /// STORAGE_SYNC_NOTIFY: a member says which source another tracker gave it; without an id it needs none.
    ///
    /// # Errors
    /// `ENOENT`: that source is unknown or gone.
    pub fn note_source(&mut self, member: &Member, told: &SyncNotify) -> Result<(), Status> {
        use StorageStatus::{Init, Online, Syncing, WaitSync};
        let group = self.group_mut(&member.group)?;
        let source_exists = group.member(&told.source).is_some_and(|m| !m.is_tombstone());
        let storage = group.member_quietly(&member.id).ok_or(Status::ENOENT)?;
        let old = storage.status;
        if told.source.is_none() {
            if matches!(old, Init | WaitSync | Syncing) {
                storage.status = Online;
                group.note_change();
                self.unsaved.storages = true;
            }
            return Ok(());
        }
        if old == Init {
            storage.status = WaitSync;
        }
        let asked = storage.sync_source.is_none();
        if asked && source_exists {
            storage.sync_source = Some(told.source);
            storage.sync_until = told.until;
        }
        if old == Init {
            group.note_change();
        }
        self.unsaved.storages |= old == Init || (asked && source_exists);
        if asked && !source_exists { Err(Status::ENOENT) } else { Ok(()) }
    }

    /// STORAGE_SYNC_DEST_QUERY: which source did I get?
    ///
    /// # Errors
    /// `ENOENT`: no such member.
    pub fn source_of(&self, member: &Member) -> Result<Option<SyncNotify>, Status> {
        let storage = self.storage(&member.group, &member.id)?;
        Ok(storage.sync_source.map(|id| SyncNotify { source: id, until: storage.sync_until }))
    }

    /// STORAGE_SYNC_SRC_REQ: a possible source asks whether it has to push old data to `destination`. A source that is
    /// gone is forgotten.
    ///
    /// # Errors
    /// `ENOENT`: no such group or storage, or it cannot have a source.
    pub fn source_for(&mut self, group: &GroupName, destination: &StorageId) -> Result<Option<SyncNotify>, Status> {
        use StorageStatus::{Init, Recovery};
        let group = self.group_mut(group)?;
        let storage = group.member(destination).ok_or(Status::ENOENT)?;
        if storage.status == Init || storage.is_tombstone() {
            return Err(Status::ENOENT);
        }
        let Some(id) = storage.sync_source else { return Ok(None) };
        let until = storage.sync_until;
        let lives = |m: &super::Storage| m.status.is_available() || m.status == Recovery;
        if group.member(&id).is_some_and(lives) {
            return Ok(Some(SyncNotify { source: id, until }));
        }
        if let Some(storage) = group.member_quietly(destination) {
            storage.sync_source = None;
        }
        self.unsaved.storages = true;
        Ok(None)
    }
}
