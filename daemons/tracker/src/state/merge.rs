//! What others say about the status of a storage: sources, other members, other trackers.

use fdfs_protocol::Status;
use fdfs_protocol::names::GroupName;
use fdfs_protocol::peer::Brief;
use fdfs_protocol::stat::StorageStatus;

use super::turn::Cause;
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
    /// A leader knows better, and tells the member so with its next report: a member that was told of a returning
    /// storage while it was still forgetting it would otherwise never hear of it again.
    ///
    /// # Errors
    /// As [`Cluster::report_status`]; the entries before the failing one were taken.
    pub fn replica_changes(&mut self, member: &Member, briefs: &[Brief]) -> Result<(), Status> {
        if self.trackers.i_lead() {
            let group = self.group_mut(&member.group)?;
            let stale = group.changes.wrapping_sub(1);
            if let Some(storage) = group.member_quietly(&member.id) {
                storage.seen_changes = stale;
            }
            return Ok(());
        }
        briefs.iter().try_for_each(|brief| self.merge_one(&member.group, brief))
    }

    fn merge_one(&mut self, name: &GroupName, brief: &Brief) -> Result<(), Status> {
        use StorageStatus as S;
        let group = self.group_mut(name)?;
        if let Some(storage) = group.member_quietly(&brief.id) {
            if let Some(status) = merged(storage.status, brief.status) {
                let cause = match (storage.sync_source, status) {
                    (Some(source), S::Offline) if matches!(storage.status, S::WaitSync | S::Syncing) => {
                        Cause::GotEverythingFrom(source)
                    }
                    _ => Cause::Reported(brief.status),
                };
                group.turn(&brief.id, status, cause);
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
        let status = if matches!(told, S::Online | S::Active) { S::Offline } else { told };
        group.turn(&member.id, status, Cause::SaysItself(told));
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
    use super::super::testing::*;
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

    mod members {
        use super::super::super::testing::*;
        use super::*;

        fn brief(id: &str, status: S) -> Brief {
            Brief { status, port: 23000, id: id.parse().unwrap(), ip: id.parse().unwrap() }
        }

        #[test]
        fn a_source_moves_its_destination_along() {
            let mut c = cluster(settings());
            c.bring_up("10.0.0.1");
            c.join_from("10.0.0.2", &request()).unwrap();
            let b = member("10.0.0.2");
            c.assign_source(&b, NOW).unwrap();
            for (told, expected) in [(S::Syncing, S::Syncing), (S::WaitSync, S::Syncing), (S::Offline, S::Offline)] {
                c.report_status(&b.group, &brief("10.0.0.2", told)).unwrap();
                assert_eq!(c.status(&b), expected);
            }
            c.beat(&b, None, NOW, AT).unwrap();
            assert_eq!(c.status(&b), S::Active);
            assert_eq!(c.report_status(&"g9".parse().unwrap(), &brief("10.0.0.2", S::Offline)), Err(Status::ENOENT));
        }

        #[test]
        fn unknown_members() {
            let mut c = cluster(settings());
            let a = c.bring_up("10.0.0.1");
            assert_eq!(c.replica_changes(&a, &[brief("10.0.0.2", S::Offline)]), Ok(()));
            assert!(c.storage(&a.group, &"10.0.0.2".parse().unwrap()).is_err(), "a leader knows better");
            let mut seen = 0;
            assert!(c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap().members.is_some(), "and says so");
            assert!(c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap().members.is_none());
            c.trackers.step_down().unwrap();
            for (i, (told, known)) in [
                (S::Init, true),
                (S::WaitSync, true),
                (S::Syncing, true),
                (S::Offline, true),
                (S::Recovery, true),
                (S::IpChanged, false),
                (S::Deleted, false),
                (S::Online, false),
                (S::Active, false),
                (S::None, false),
            ]
            .into_iter()
            .enumerate()
            {
                let id = format!("10.0.1.{i}");
                c.replica_changes(&a, &[brief(&id, told)]).unwrap();
                let found = c.storage(&a.group, &id.parse().unwrap());
                assert_eq!(found.map(|m| m.status).ok(), known.then_some(told), "{told}");
            }
        }

        #[test]
        fn ones_own_word() {
            for (own, told, expected) in [
                (S::Active, S::Offline, S::Active),
                (S::Offline, S::Active, S::Offline),
                (S::WaitSync, S::Active, S::Offline),
                (S::Init, S::Online, S::Offline),
                (S::Active, S::WaitSync, S::WaitSync),
                (S::Deleted, S::Syncing, S::Syncing),
            ] {
                let mut c = cluster(settings());
                let m = c.bring_up("10.0.0.1");
                c.set_status(&m, own);
                c.change_status(&m, told).unwrap();
                assert_eq!(c.status(&m), expected, "{own}, told {told}");
            }
        }
    }

    #[test]
    fn a_member_that_is_gone_is_nobodys_source() {
        for told in [S::Deleted, S::IpChanged] {
            let mut c = cluster(settings());
            let (a, b) = (c.bring_up("10.0.0.1"), c.bring_up("10.0.0.2"));
            c.group_mut(&b.group).unwrap().member_mut(&b.id).unwrap().sync_source = Some(a.id);
            c.set_status(&a, S::Offline);
            c.change_status(&a, told).unwrap();
            assert_eq!(c.status(&a), told);
            assert_eq!(c.storage(&b.group, &b.id).unwrap().sync_source, None);
        }
    }

    /// The leader deleted it, and gave it another source when it returned; this tracker may lead next.
    #[test]
    fn a_member_that_was_gone_has_the_source_that_it_got_since() {
        use fdfs_protocol::peer::{Brief, SyncNotify};
        for gone in [S::Deleted, S::IpChanged] {
            let mut c = cluster(settings());
            let (a, b, z) = (c.bring_up("10.0.0.1"), c.bring_up("10.0.0.2"), c.bring_up("10.0.0.9"));
            let sources = [(a.id, 5), (z.id, 50)].map(|(source, until)| SyncNotify { source, until });
            c.note_source(&b, &sources[0]).unwrap();
            c.set_status(&b, S::Offline);
            let ip = b.id.as_str().parse().unwrap();
            c.report_status(&b.group, &Brief { status: gone, port: 23000, id: b.id, ip }).unwrap();
            assert_eq!(c.source_of(&b), Ok(None), "{gone}");
            assert_eq!(c.join_from("10.0.0.2", &request()).unwrap().source.as_str(), "");
            c.note_source(&b, &sources[1]).unwrap();
            assert_eq!(c.source_for(&b.group, &b.id), Ok(Some(sources[1])), "{gone}");
            // The files of FastDFS's tracker may have a source of one that is gone.
            c.set_status(&b, gone);
            assert_eq!(c.join_from("10.0.0.2", &request()).unwrap().source.as_str(), "");
        }
    }
}
