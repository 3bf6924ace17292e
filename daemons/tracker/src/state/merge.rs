//! What others say about the status of a storage: sources, other members, other trackers.

use fdfs_protocol::Status;
use fdfs_protocol::names::GroupName;
use fdfs_protocol::peer::Brief;
use fdfs_protocol::stat::StorageStatus;

use super::{Cluster, Member};

/// What a known storage's status becomes when somebody else says it is `told`; `None` to leave it.
///
/// A status this tracker learned from the storage itself stands. Otherwise tombstones are believed, and progress (the
/// numeric order of the states). Nobody but the storage itself can make it serve: ONLINE and ACTIVE count as OFFLINE,
/// its own next beat does the rest.
pub fn merged(own: StorageStatus, told: StorageStatus) -> Option<StorageStatus> {
    use StorageStatus as S;
    if told == S::None || own == told || matches!(own, S::Init | S::Online | S::Active | S::Recovery) {
        return None;
    }
    let told = if matches!(told, S::Online | S::Active) { S::Offline } else { told };
    let gone = matches!(told, S::Deleted | S::IpChanged);
    (own != told && (gone || told > own)).then_some(told)
}

impl Cluster {
    /// STORAGE_REPORT_STATUS: somebody reports the status of one storage of a group.
    ///
    /// # Errors
    /// `ENOENT`: no such group. Those of creating an unknown storage: `ENOENT`, `EINVAL`, `ENOSPC`.
    pub fn report_status(&mut self, group: &GroupName, brief: &Brief) -> Result<(), Status> {
        self.group(group)?;
        self.merge_one(group, brief)
    }

    /// STORAGE_REPLICA_CHG: a member knows storages, or a newer status of them, that this tracker seems not to know.
    /// A leader knows better.
    ///
    /// # Errors
    /// As [`Cluster::report_status`]; the entries before the failing one were taken.
    pub fn replica_changes(&mut self, member: &Member, briefs: &[Brief]) -> Result<(), Status> {
        if self.trackers.i_lead() {
            return Ok(());
        }
        briefs.iter().try_for_each(|brief| self.merge_one(&member.group, brief))
    }

    fn merge_one(&mut self, name: &GroupName, brief: &Brief) -> Result<(), Status> {
        use StorageStatus as S;
        let group = self.group_mut(name)?;
        if let Some(storage) = group.member_quietly(&brief.id) {
            if let Some(status) = merged(storage.status, brief.status) {
                storage.status = status;
                group.note_change();
                self.unsaved.storages = true;
            }
            return Ok(());
        }
        // A storage that serves will join here itself, and one that is gone is of no interest.
        if matches!(brief.status, S::None | S::Deleted | S::IpChanged | S::Online | S::Active) {
            return Ok(());
        }
        let mut storage = self.identify(name, &brief.id, brief.ip.addr().ok_or(Status::EINVAL)?, brief.port)?;
        storage.status = brief.status;
        let group = self.group_mut(name)?;
        if !group.has_room() {
            return Err(Status::ENOSPC);
        }
        group.add(storage);
        self.unsaved.storages = true;
        self.unsaved.synced = true;
        Ok(())
    }

    /// STORAGE_CHANGE_STATUS: a member tells its own status, because the leader sees another one than this tracker.
    ///
    /// # Errors
    /// `ENOENT`: no such member.
    pub fn change_status(&mut self, member: &Member, told: StorageStatus) -> Result<(), Status> {
        use StorageStatus as S;
        let group = self.group_mut(&member.group)?;
        let storage = group.member_quietly(&member.id).ok_or(Status::ENOENT)?;
        let old = storage.status;
        if old == told || (old.is_available() && told.is_available()) {
            return Ok(());
        }
        storage.status = if matches!(told, S::Online | S::Active) { S::Offline } else { told };
        if matches!(old, S::Active) {
            group.recompute_space();
        }
        group.note_change();
        self.unsaved.storages = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StorageStatus as S;

    const ALL: [S; 10] = [
        S::Init,
        S::WaitSync,
        S::Syncing,
        S::IpChanged,
        S::Deleted,
        S::Offline,
        S::Online,
        S::Active,
        S::Recovery,
        S::None,
    ];

    #[test]
    fn every_pair() {
        for own in ALL {
            for told in ALL {
                let result = merged(own, told);
                let expected = match (own, told) {
                    (_, S::None) | (S::Init | S::Online | S::Active | S::Recovery, _) => None,
                    (o, t) if o == t => None,
                    (o, S::Deleted | S::IpChanged) if o != told => Some(told),
                    (S::WaitSync, S::Syncing) => Some(S::Syncing),
                    (S::WaitSync | S::Syncing | S::IpChanged | S::Deleted, S::Offline | S::Online | S::Active) => {
                        Some(S::Offline)
                    }
                    (S::WaitSync | S::Syncing | S::IpChanged | S::Deleted | S::Offline, S::Recovery) => {
                        Some(S::Recovery)
                    }
                    _ => None,
                };
                // `None` as own status never occurs in a tracker.
                if own != S::None {
                    assert_eq!(result, expected, "own {own}, told {told}");
                }
                assert!(!matches!(result, Some(S::Active | S::Online | S::None)), "own {own}, told {told}");
            }
        }
    }
}
