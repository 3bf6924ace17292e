//! The storages of the group, as this one knows them: merged from what the trackers say.
//!
//! Pure. A tracker's list may be older or newer than what is known here; the merge decides by status, as FastDFS does
//! ("member list merge"), and says what the tracker should be told.

use std::collections::BTreeMap;

use fdfs_protocol::peer::member::Brief;
use fdfs_protocol::peer::report::{MAX_GROUP_MEMBERS, SyncReport, SyncedTo};
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{IpText, StorageId};

/// One storage of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its address.
    pub ip: IpText,
    /// Its port.
    pub port: u16,
    /// Its status.
    pub status: StorageStatus,
}

/// What follows from a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Members whose status is newer here, or which the tracker does not know: for REPLICA_CHG.
    pub differences: Vec<Brief>,
    /// The own status, if the tracker's list has it.
    pub mine: Option<StorageStatus>,
    /// The tracker must be joined again: it has put us back to the beginning.
    pub rejoin: bool,
}

/// The storages of the group.
#[derive(Debug, Clone, Default)]
pub struct Members {
    list: BTreeMap<StorageId, Member>,
}

impl Members {
    /// All members, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&StorageId, &Member)> {
        self.list.iter()
    }

    /// The member with this id.
    pub fn get(&self, id: &StorageId) -> Option<&Member> {
        self.list.get(id)
    }

    /// This storage has found out, or decided, that a member of status `from` has another now; false if nothing changes,
    /// because it has that already or a tracker has told yet another meanwhile.
    pub fn change_status(&mut self, id: &StorageId, from: StorageStatus, to: StorageStatus) -> bool {
        match self.list.get_mut(id) {
            Some(member) if member.status == from && from != to => {
                member.status = to;
                true
            }
            _ => false,
        }
    }

    /// Whether a tracker's list says of a member, as the first, that it has another address.
    pub fn moves(&self, briefs: &[Brief]) -> bool {
        let is_new =
            |id| self.get(id).is_some_and(|m| !matches!(m.status, StorageStatus::IpChanged | StorageStatus::None));
        briefs.iter().any(|b| b.status == StorageStatus::IpChanged && is_new(&b.id))
    }

    /// How far the changes of each source were applied, as `until` knows it; `None` while nobody is known.
    pub fn sync_report(&self, until: impl Fn(&StorageId) -> u32) -> Option<SyncReport> {
        let entries: Vec<_> = self.list.keys().map(|id| SyncedTo { source: *id, timestamp: until(id) }).collect();
        (!entries.is_empty()).then_some(SyncReport(entries))
    }

    /// Takes in the list of a tracker. `me` is the own id; `leads`: the tracker decides, so that a member it puts back to
    /// the beginning has lost its files.
    pub fn merge(&mut self, briefs: &[Brief], me: &StorageId, leads: bool) -> Merged {
        let mut merged = Merged::default();
        for brief in briefs.iter().filter(|b| !b.is_none()) {
            let is_me = brief.id == *me;
            if is_me {
                merged.mine = Some(brief.status);
            }
            match self.list.get_mut(&brief.id) {
                Some(known) => {
                    known.ip = brief.ip;
                    known.port = brief.port;
                    match judge(known.status, brief.status, leads) {
                        Verdict::Take => known.status = brief.status,
                        Verdict::Keep => {}
                        Verdict::Tell if is_me => merged.rejoin |= brief.status != StorageStatus::Offline,
                        Verdict::Tell => merged.differences.push(Brief { status: known.status, ..*brief }),
                    }
                }
                None => self.add(brief),
            }
        }
        for (id, known) in &self.list {
            let listed = briefs.iter().any(|b| b.id == *id);
            if !listed && known.status != StorageStatus::None && id != me {
                merged.differences.push(Brief { status: known.status, port: known.port, id: *id, ip: known.ip });
            }
        }
        merged
    }

    fn add(&mut self, brief: &Brief) {
        let gone = matches!(brief.status, StorageStatus::Deleted | StorageStatus::IpChanged);
        if gone {
            return;
        }
        if self.list.len() >= MAX_GROUP_MEMBERS {
            // Those that have left, and that their loops have forgotten.
            self.list.retain(|_, member| member.status != StorageStatus::None);
        }
        if self.list.len() < MAX_GROUP_MEMBERS {
            let member = Member { ip: brief.ip, port: brief.port, status: brief.status };
            self.list.insert(brief.id, member);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The tracker knows better.
    Take,
    /// Nothing follows.
    Keep,
    /// We know better.
    Tell,
}

fn judge(old: StorageStatus, new: StorageStatus, leads: bool) -> Verdict {
    use StorageStatus as S;
    match (old, new) {
        (old, new) if old == new => Verdict::Keep,
        (S::Active | S::Online, S::Offline) => Verdict::Take,
        (S::None | S::Init, S::Offline) => Verdict::Keep,
        (_, S::Offline) => Verdict::Tell,
        (S::None, S::Deleted | S::IpChanged) => Verdict::Keep,
        (S::Offline | S::None, _) => Verdict::Take,
        // FastDFS's storages would go on telling the leader that it is wrong, and push nothing to that member.
        (S::Online | S::Active, S::WaitSync | S::Syncing) if leads => Verdict::Take,
        (old, S::WaitSync | S::Syncing) if old > new => Verdict::Tell,
        _ => Verdict::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StorageStatus as S;

    fn id(n: u8) -> StorageId {
        StorageId::new(&format!("10.0.0.{n}")).unwrap()
    }

    fn brief(n: u8, status: S) -> Brief {
        let ip = IpText::new(&format!("10.0.0.{n}")).unwrap();
        Brief { status, port: 23000, id: id(n), ip }
    }

    #[test]
    fn the_first_list_is_taken() {
        let mut m = Members::default();
        let merged = m.merge(&[brief(1, S::Active), brief(2, S::Deleted), Brief::default()], &id(1), false);
        assert_eq!(merged, Merged { mine: Some(S::Active), ..Merged::default() });
        assert_eq!(m.iter().count(), 1);
    }

    #[test]
    fn those_that_have_left_keep_nobody_out() {
        let mut m = Members::default();
        let full = MAX_GROUP_MEMBERS as u8;
        (0..full).for_each(|n| drop(m.merge(&[brief(n, S::Active)], &id(0), false)));
        m.merge(&[brief(full, S::Active)], &id(0), false);
        assert!(m.get(&id(full)).is_none());
        assert!(m.change_status(&id(7), S::Active, S::None));
        m.merge(&[brief(full, S::Active)], &id(0), false);
        assert!(m.get(&id(full)).is_some() && m.get(&id(7)).is_none() && m.get(&id(8)).is_some());
    }

    #[test]
    fn every_pair_is_judged_as_fastdfs_does() {
        for (old, new, verdict) in [
            (S::Active, S::Active, Verdict::Keep),
            (S::Active, S::Offline, Verdict::Take),
            (S::Online, S::Offline, Verdict::Take),
            (S::Init, S::Offline, Verdict::Keep),
            (S::None, S::Offline, Verdict::Keep),
            (S::Deleted, S::Offline, Verdict::Tell),
            (S::Recovery, S::Offline, Verdict::Tell),
            (S::Offline, S::Init, Verdict::Take),
            (S::None, S::Deleted, Verdict::Keep),
            (S::None, S::Active, Verdict::Take),
            (S::Active, S::WaitSync, Verdict::Tell),
            (S::Active, S::Syncing, Verdict::Tell),
            (S::Init, S::WaitSync, Verdict::Take),
            (S::Active, S::Deleted, Verdict::Take),
            (S::WaitSync, S::Active, Verdict::Take),
        ] {
            assert_eq!(judge(old, new, false), verdict, "{old} {new}");
        }
    }

    #[test]
    fn the_leader_says_who_has_lost_its_files() {
        for old in [S::Online, S::Active, S::Offline] {
            assert_eq!(judge(old, S::WaitSync, true), Verdict::Take, "{old}");
        }
        assert_eq!(judge(S::Syncing, S::WaitSync, true), Verdict::Tell);
        let mut m = Members::default();
        m.merge(&[brief(1, S::Active), brief(2, S::Active)], &id(1), true);
        assert!(m.merge(&[brief(1, S::Active), brief(2, S::WaitSync)], &id(1), true).differences.is_empty());
        assert_eq!(m.get(&id(2)).unwrap().status, S::WaitSync);
    }

    #[test]
    fn differences_are_told_and_members_unknown_to_the_tracker_too() {
        let mut m = Members::default();
        m.merge(&[brief(1, S::Active), brief(2, S::Active), brief(3, S::Active)], &id(1), false);
        let merged = m.merge(&[brief(1, S::Active), brief(2, S::WaitSync)], &id(1), false);
        assert_eq!(merged.differences, [brief(2, S::Active), brief(3, S::Active)]);
        assert!(!merged.rejoin);
    }

    #[test]
    fn being_put_back_means_joining_again() {
        let mut m = Members::default();
        m.merge(&[brief(1, S::Active)], &id(1), false);
        let merged = m.merge(&[brief(1, S::WaitSync)], &id(1), false);
        assert!(merged.rejoin && merged.differences.is_empty());
    }

    #[test]
    fn the_sync_report_has_everybody() {
        let mut m = Members::default();
        assert!(m.sync_report(|_| 1).is_none());
        m.merge(&[brief(1, S::Active), brief(2, S::Active)], &id(1), false);
        let entries = m.sync_report(|other| if *other == id(2) { 100 } else { 0 }).unwrap().0;
        assert_eq!(entries.iter().map(|e| e.timestamp).collect::<Vec<_>>(), [0, 100]);
    }

    #[test]
    fn a_move_is_one_once() {
        let mut m = Members::default();
        assert!(!m.moves(&[brief(2, S::IpChanged)]), "never heard of");
        m.merge(&[brief(2, S::Offline)], &id(1), false);
        assert!(m.moves(&[brief(3, S::Active), brief(2, S::IpChanged)]) && !m.moves(&[brief(2, S::Deleted)]));
        m.merge(&[brief(2, S::IpChanged)], &id(1), false);
        assert!(!m.moves(&[brief(2, S::IpChanged)]));
    }

    #[test]
    fn own_findings_are_changes_once() {
        let mut m = Members::default();
        m.merge(&[brief(2, S::WaitSync)], &id(1), false);
        assert!(m.change_status(&id(2), S::WaitSync, S::Syncing) && !m.change_status(&id(2), S::Syncing, S::Syncing));
        assert_eq!(m.get(&id(2)).unwrap().status, S::Syncing);
        assert!(!m.change_status(&id(3), S::Syncing, S::Active));
        // A tracker was faster: what it told stays.
        m.merge(&[brief(2, S::Active)], &id(1), false);
        assert!(!m.change_status(&id(2), S::Syncing, S::Offline));
        assert_eq!(m.get(&id(2)).unwrap().status, S::Active);
    }
}
