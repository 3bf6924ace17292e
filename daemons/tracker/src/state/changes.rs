//! What a member is told with the answer to its reports (FastDFS 6.16, "member-change response").
//!
//! Only the leader tells anything. Counters decide: the leader counter per connection, group and trunk counters per
//! storage; the latter fall back to zero when a storage goes offline, so that it is told everything when it returns.

use std::net::IpAddr;

use fdfs_protocol::Status;
use fdfs_protocol::names::IpText;
use fdfs_protocol::peer::{Brief, MemberChanges};

use super::trackers::Moment;
use super::{Cluster, Member};

impl Cluster {
    /// What `member` does not know yet. `leader_seen` is the leader counter its connection was told last; `at` decides
    /// whether this tracker may act as the leader.
    ///
    /// # Errors
    /// `ENOENT`: there is no such member (any more).
    pub fn changes_for(
        &mut self,
        member: &Member,
        peer: IpAddr,
        leader_seen: &mut u32,
        at: Moment,
    ) -> Result<MemberChanges, Status> {
        let mut changes = MemberChanges::default();
        if !self.trackers.acts(at) {
            return Ok(changes);
        }
        if *leader_seen != self.trackers.leader_changes() {
            *leader_seen = self.trackers.leader_changes();
            changes.leader = Some(self.leader_brief());
        }
        let group = self.group_mut(&member.group)?;
        let (now, trunk_now) = (group.changes, group.trunk_changes);
        let storage = group.member_quietly(&member.id).ok_or(Status::ENOENT)?;
        let tell_trunk = std::mem::replace(&mut storage.seen_trunk_changes, trunk_now) != trunk_now;
        let tell_members = std::mem::replace(&mut storage.seen_changes, now) != now;
        if tell_trunk {
            let server = group.trunk_server.and_then(|id| group.member(&id));
            changes.trunk_server = Some(server.map_or_else(Brief::default, |s| s.brief(peer)));
        }
        if tell_members {
            changes.members = Some(group.by_id().map(|m| m.brief(peer)).collect());
        }
        Ok(changes)
    }

    fn leader_brief(&self) -> Brief {
        let leader = self.trackers.leader();
        leader.map_or_else(Brief::default, |t| Brief::leader(IpText::from(t.addresses.first()), t.port))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use fdfs_protocol::peer::JoinRequest;
    use fdfs_protocol::stat::StorageStatus;

    #[test]
    fn everything_once_then_only_what_changed() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let mut seen = 0;
        let first = c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap();
        let leader = first.leader.unwrap();
        assert_eq!((leader.id.as_str(), leader.ip.as_str(), leader.port), ("10.0.9.9", "10.0.9.9", 22122));
        assert!(first.trunk_server.is_none());
        assert_eq!(first.members.unwrap().len(), 1);
        assert!(c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap().is_empty());

        let b = c.bring_up("10.0.0.2");
        let told = c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap();
        assert!(told.leader.is_none());
        let list: Vec<_> = told.members.unwrap().iter().map(|m| (m.id.to_string(), m.status)).collect();
        assert_eq!(list, [("10.0.0.1".into(), StorageStatus::Active), ("10.0.0.2".into(), StorageStatus::Active)]);

        c.leave(session("10.0.0.2"), Some(b));
        c.delete_storage(&b.group, &b.id, NOW).unwrap();
        let told = c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap().members.unwrap();
        assert_eq!(told[1].status, StorageStatus::Deleted, "the deleted are listed");
    }

    #[test]
    fn whoever_was_offline_is_told_everything() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let mut seen = 0;
        c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap();
        c.leave(session("10.0.0.1"), Some(a));
        c.bring_up("10.0.0.1");
        assert!(c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap().members.is_some());
    }

    #[test]
    fn a_follower_tells_nothing() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        c.trackers.step_down().unwrap();
        assert!(c.changes_for(&a, ip("10.0.0.1"), &mut 0, AT).unwrap().is_empty());
    }

    #[test]
    fn a_leader_that_may_not_act_tells_nothing_and_forgets_nothing() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let two = JoinRequest { trackers: vec!["10.0.9.8:22122".parse().unwrap()], ..request() };
        c.join_from("10.0.0.1", &two).unwrap();
        assert!(c.trackers.i_lead());
        let mut seen = 0;
        assert!(c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap().is_empty());
        c.trackers.set_term(AT, Some(AT..AT * 2));
        assert!(c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT * 2).unwrap().is_empty(), "its term is over");
        let told = c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap();
        assert!(told.leader.is_some() && told.members.is_some());
    }
}
