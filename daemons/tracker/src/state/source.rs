//! Who pushes a new member the data from before it joined.

use fdfs_protocol::Status;
use fdfs_protocol::names::{GroupName, StorageId};
use fdfs_protocol::peer::SyncNotify;
use fdfs_protocol::stat::StorageStatus;

use super::turn::Cause;
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
            // Members know from the time that this is another beginning, whatever the clock says.
            let before = group.member(&member.id).map_or(0, |storage| storage.sync_until);
            Some(SyncNotify { source: chosen.ok_or(Status::ENOENT)?, until: now.max(before.saturating_add(1)) })
        } else {
            None
        };
        let storage = group.member_mut(&member.id).ok_or(Status::ENOENT)?;
        match source {
            Some(source) => {
                storage.sync_source = Some(source.source);
                storage.sync_until = source.until;
                group.turn(&member.id, StorageStatus::WaitSync, Cause::WaitsFor(source.source));
            }
            None => group.turn(&member.id, StorageStatus::Online, Cause::NothingToGet),
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
                group.turn(&member.id, Online, Cause::NeedsNoSource);
                group.note_change();
                self.unsaved.storages = true;
            }
            return Ok(());
        }
        let asked = storage.sync_source.is_none();
        if asked && source_exists {
            storage.sync_source = Some(told.source);
            storage.sync_until = told.until;
        }
        if old == Init {
            group.turn(&member.id, WaitSync, Cause::WaitsFor(told.source));
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

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use StorageStatus as S;

    fn told(id: &str) -> SyncNotify {
        SyncNotify { source: if id.is_empty() { StorageId::NONE } else { id.parse().unwrap() }, until: 5 }
    }

    #[test]
    fn the_first_of_a_group_needs_no_source() {
        let mut c = cluster(settings());
        c.join_from("10.0.0.1", &request()).unwrap();
        let a = member("10.0.0.1");
        assert_eq!(c.assign_source(&a, NOW), Ok(None));
        assert_eq!(c.status(&a), S::Online);
    }

    #[test]
    fn a_new_member_gets_the_first_active_one() {
        let mut c = cluster(settings());
        c.bring_up("10.0.0.2");
        c.bring_up("10.0.0.1");
        c.join_from("10.0.0.3", &request()).unwrap();
        let m = member("10.0.0.3");
        let source = c.assign_source(&m, NOW).unwrap().unwrap();
        assert_eq!((source.source.as_str(), source.until), ("10.0.0.1", NOW));
        assert_eq!(c.status(&m), S::WaitSync);
        assert_eq!(c.source_of(&m), Ok(Some(source)));
        assert_eq!(c.source_for(&m.group, &m.id), Ok(Some(source)));
    }

    #[test]
    fn each_beginning_has_a_later_time_than_the_one_before() {
        let mut c = cluster(settings());
        c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        for (now, until) in [(NOW, NOW), (NOW - 2000, NOW + 1), (NOW + 5, NOW + 5)] {
            c.set_status(&b, S::Offline);
            c.join_from("10.0.0.2", &fdfs_protocol::peer::JoinRequest { fresh: true, ..request() }).unwrap();
            assert_eq!(c.assign_source(&b, now).unwrap().unwrap().until, until);
        }
    }

    #[test]
    fn data_exists_but_nobody_serves_it() {
        for status in [S::Offline, S::Online] {
            let mut c = cluster(settings());
            let a = c.bring_up("10.0.0.1");
            c.set_status(&a, status);
            c.join_from("10.0.0.2", &request()).unwrap();
            let b = member("10.0.0.2");
            assert_eq!(c.assign_source(&b, NOW), Err(Status::ENOENT), "{status}");
            assert_eq!(c.status(&b), S::Init, "nothing changed");
        }
        for status in [S::Init, S::WaitSync, S::Deleted, S::Recovery] {
            let mut c = cluster(settings());
            let a = c.bring_up("10.0.0.1");
            c.set_status(&a, status);
            c.join_from("10.0.0.2", &request()).unwrap();
            assert_eq!(c.assign_source(&member("10.0.0.2"), NOW), Ok(None), "{status}: nothing to get");
        }
    }

    #[test]
    fn what_another_tracker_decided() {
        for (own, expected) in [
            (S::Init, S::Online),
            (S::WaitSync, S::Online),
            (S::Syncing, S::Online),
            (S::Offline, S::Offline),
            (S::Active, S::Active),
        ] {
            let mut c = cluster(settings());
            let a = c.bring_up("10.0.0.1");
            c.set_status(&a, own);
            c.note_source(&a, &told("")).unwrap();
            assert_eq!(c.status(&a), expected, "{own}: no source needed");
        }
        let mut c = cluster(settings());
        c.bring_up("10.0.0.1");
        c.join_from("10.0.0.2", &request()).unwrap();
        let b = member("10.0.0.2");
        assert_eq!(c.note_source(&b, &told("10.0.0.9")), Err(Status::ENOENT));
        c.note_source(&b, &told("10.0.0.1")).unwrap();
        assert_eq!(c.status(&b), S::WaitSync);
        assert_eq!(c.source_of(&b).unwrap().unwrap().until, 5);
        c.note_source(&b, &told("10.0.0.9")).unwrap();
        assert_eq!(c.source_of(&b).unwrap().unwrap().source.as_str(), "10.0.0.1", "a known source stays");
    }

    #[test]
    fn a_source_that_is_gone() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let z = c.bring_up("10.0.0.9");
        c.join_from("10.0.0.2", &request()).unwrap();
        let b = member("10.0.0.2");
        assert_eq!(c.source_for(&b.group, &b.id), Err(Status::ENOENT), "INIT has no source yet");
        assert_eq!(c.source_for(&b.group, &"10.0.0.7".parse().unwrap()), Err(Status::ENOENT));
        c.assign_source(&b, NOW).unwrap();
        for status in [S::Offline, S::Online, S::Active, S::Recovery] {
            c.set_status(&a, status);
            assert!(c.source_for(&b.group, &b.id).unwrap().is_some(), "{status}");
        }
        c.set_status(&a, S::Offline);
        c.delete_storage(&a.group, &a.id, NOW).unwrap();
        assert_eq!(c.source_of(&b), Ok(None), "deleting the source forgets it");
        assert_eq!(c.note_source(&b, &told("10.0.0.1")), Err(Status::ENOENT), "and it cannot come back");
        c.note_source(&b, &told("10.0.0.9")).unwrap();
        c.set_status(&z, S::Init);
        assert_eq!(c.source_for(&b.group, &b.id), Ok(None), "a source that does not serve is forgotten");
        assert_eq!(c.source_of(&b), Ok(None));
    }
}
