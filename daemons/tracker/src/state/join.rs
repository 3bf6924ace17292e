//! A storage joins (FastDFS 6.16, STORAGE_JOIN).

use fdfs_protocol::Status;
use fdfs_protocol::names::StorageId;
use fdfs_protocol::peer::join::TrackerAddress;
use fdfs_protocol::peer::{JoinReply, JoinRequest};
use fdfs_protocol::stat::StorageStatus;

use super::group::{Group, MIXED_PORTS};
use super::identity::id_from;
use super::own::Reached;
use super::turn::Cause;
use super::{Caller, Cluster, MAX_GROUPS, Member, Storage, Unsaved};
use crate::address::Addresses;
use fdfs_protocol::peer::parameters::IdType;

impl Cluster {
    /// Lets a storage join, or says why not. The steps and their order are the protocol's: what an earlier one has
    /// created stays if a later one refuses.
    ///
    /// # Errors
    /// `ENOENT`: this tracker is not in the storage's list of trackers, or the storage not in the table of ids.
    /// `EINVAL`: it does not fit its group (id, port, number of paths or directories). `EFAULT`: it had joined
    /// elsewhere and does not know its state; another tracker must accept it first. `ENOSPC`: one tracker, group or
    /// member too many.
    pub fn join(&mut self, caller: &Caller, request: &JoinRequest) -> Result<(Member, JoinReply), Status> {
        self.trackers.learn(&listed(request), reached(caller, request))?;
        self.ensure_group(request)?;
        let id = self.joining_id(caller, request)?;
        let member = Member { group: request.group, id };
        self.agree_on_port(caller, &member, request.port)?;
        let new = self.enter(caller, request, &member)?;
        self.agree_on_paths(&member, request)?;
        self.settle(caller, request, &member, new)
    }

    fn ensure_group(&mut self, request: &JoinRequest) -> Result<(), Status> {
        if self.groups.contains_key(&request.group) {
            return Ok(());
        }
        if self.groups.len() >= MAX_GROUPS {
            return Err(Status::ENOSPC);
        }
        self.groups.insert(request.group, Group::new(request.group));
        self.regrouped = true;
        self.unsaved.groups = true;
        Ok(())
    }

    fn joining_id(&self, caller: &Caller, request: &JoinRequest) -> Result<StorageId, Status> {
        let Some(ids) = &self.settings.ids else {
            return id_from(caller.peer);
        };
        let entry = if self.settings.parameters.trust_storage_server_id && !request.id.is_none() {
            ids.by_id(&request.id)
        } else {
            ids.by_address(&request.group, caller.peer, request.port)
        };
        let entry = entry.ok_or(Status::ENOENT)?;
        if entry.group == request.group { Ok(entry.id) } else { Err(Status::EINVAL) }
    }

    /// All members of a group listen on the same port, unless file names carry ids.
    fn agree_on_port(&mut self, caller: &Caller, member: &Member, port: u16) -> Result<(), Status> {
        let may_differ = self.settings.ids.is_some() && self.settings.parameters.id_type_in_filename == IdType::Id;
        let group = self.group_mut(&member.group)?;
        let port_now = i32::from(port);
        if group.port == port_now || (group.port == MIXED_PORTS && may_differ) {
            return Ok(());
        }
        if group.port > 0 {
            if may_differ {
                group.port = MIXED_PORTS;
                self.unsaved.groups = true;
                return Ok(());
            }
            // The port of a whole group can be changed by restarting its members one after the other: each is
            // refused until the last has the new one. A member that is being served is another process than the one
            // that asks here: clients go on finding it where it is.
            let session = group.member(&member.id).and_then(|storage| storage.session);
            if session.is_some_and(|session| session != caller.session) {
                return Err(Status::EINVAL);
            }
            if let Some(storage) = group.member_mut(&member.id) {
                storage.port = port;
            }
            if group.members().iter().any(|m| m.port != port) {
                return Err(Status::EINVAL);
            }
        }
        group.port = port_now;
        self.unsaved.groups = true;
        Ok(())
    }

    /// Finds or makes the record of the joining storage; true if it is new.
    fn enter(&mut self, caller: &Caller, request: &JoinRequest, member: &Member) -> Result<bool, Status> {
        let group = self.group_mut(&member.group)?;
        if let Some(storage) = group.member_mut(&member.id) {
            if storage.is_tombstone() {
                storage.sync_source = None;
                group.turn(&member.id, StorageStatus::Init, Cause::Returned);
            } else if has_begun_anew(storage, request) {
                storage.sync_source = None;
                group.turn(&member.id, StorageStatus::Init, Cause::BeganAnew);
                group.note_change();
            }
            return Ok(false);
        }
        use StorageStatus as S;
        let nameless = matches!(request.status, None | Some(S::Deleted | S::IpChanged | S::None));
        if !request.fresh && nameless {
            return Err(Status::EFAULT);
        }
        let storage = self.identify(&member.group, &member.id, caller.peer, request.port)?;
        let group = self.group_mut(&member.group)?;
        if !group.has_room() {
            return Err(Status::ENOSPC);
        }
        group.add(storage);
        Ok(true)
    }

    /// What the storage says of itself is recorded first and judged then, so that a group whose members were all
    /// changed is adopted with the last of them.
    fn agree_on_paths(&mut self, member: &Member, request: &JoinRequest) -> Result<(), Status> {
        let (paths, subdirs) = (u32::from(request.store_path_count), u32::from(request.subdir_count_per_path));
        let group = self.group_mut(&member.group)?;
        let storage = group.member_mut(&member.id).ok_or(Status::ENOENT)?;
        storage.path_count = paths;
        storage.subdir_count = subdirs;
        storage.upload_priority = request.upload_priority;
        storage.join_time = request.join_time;
        storage.up_time = request.up_time;
        storage.version = request.version;
        storage.port = request.port;
        let living = || group.members().iter().filter(|m| !m.is_tombstone());
        let all_have_paths = living().all(|m| m.path_count == paths);
        let all_have_subdirs = living().all(|m| m.subdir_count == subdirs);
        if group.path_count != paths {
            if group.path_count == 0 || all_have_paths {
                group.path_count = paths;
                self.unsaved.groups = true;
            } else if paths < group.path_count {
                return Err(Status::EINVAL);
            }
        }
        let group = self.group_mut(&member.group)?;
        if group.subdir_count != subdirs {
            if group.subdir_count != 0 && !all_have_subdirs {
                return Err(Status::EINVAL);
            }
            group.subdir_count = subdirs;
            self.unsaved.groups = true;
        }
        Ok(())
    }

    fn settle(
        &mut self,
        caller: &Caller,
        request: &JoinRequest,
        member: &Member,
        new: bool,
    ) -> Result<(Member, JoinReply), Status> {
        use StorageStatus as S;
        let changelog_end = self.changelog.len() as u64;
        let group = self.group_mut(&member.group)?;
        let claimed = request.status.filter(|s| new && !request.fresh && *s != S::Init);
        let status = claimed.unwrap_or(group.member(&member.id).ok_or(Status::ENOENT)?.status);
        let status = match status {
            S::Offline | S::Recovery => S::Online,
            S::Active if claimed.is_some() => S::Online,
            status => status,
        };
        group.turn(&member.id, status, if claimed.is_some() { Cause::Claimed } else { Cause::Joined });
        let storage = group.member_mut(&member.id).ok_or(Status::ENOENT)?;
        if status == S::Init {
            storage.changelog_offset = changelog_end;
        }
        storage.session = Some(caller.session);
        storage.heard = None;
        // A new process knows nothing of what an earlier one was told, even if the earlier one's end went unnoticed.
        storage.seen_changes = 0;
        storage.seen_trunk_changes = 0;
        let reply = JoinReply { status: storage.status, source: storage.sync_source.unwrap_or_default() };
        self.unsaved = self.unsaved.with(if new {
            Unsaved { changelog: false, ..Unsaved::ALL }
        } else {
            Unsaved { storages: true, ..Unsaved::default() }
        });
        Ok((*member, reply))
    }
}

/// Whether a known storage has lost its disks since: it has none of the group's files, whatever it had. FastDFS's
/// tracker takes it for a restart, and sends readers to it.
///
/// The tracker that it meets first hears that it is fresh; the others, when it knows its source already, see that it
/// joined its group later than they knew. One that they missed beginning anew, and that has its files by now, claims so.
fn has_begun_anew(storage: &Storage, request: &JoinRequest) -> bool {
    let serves = |status: StorageStatus| status.is_available();
    serves(storage.status)
        && (request.fresh
            || (storage.join_time > 0 && request.join_time > storage.join_time && !request.status.is_some_and(serves)))
}

/// Under which address it reached this tracker.
pub fn reached(caller: &Caller, request: &JoinRequest) -> Reached {
    Reached { local: caller.local, dialled: request.tracker_ip.addr().filter(|ip| !ip.is_unspecified()) }
}

/// The trackers a joining storage knows.
pub fn listed(request: &JoinRequest) -> Vec<(Addresses, u16)> {
    request.trackers.iter().map(tracker_entry).collect()
}

fn tracker_entry(t: &TrackerAddress) -> (Addresses, u16) {
    let addresses = match t.other {
        // Two addresses of one kind cannot be told apart by clients; the first is as good as both.
        Some(other) => Addresses::two(t.ip, other).unwrap_or(Addresses::one(t.ip)),
        None => Addresses::one(t.ip),
    };
    (addresses, t.port)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use StorageStatus as S;

    #[test]
    fn a_fresh_storage_makes_its_group() {
        let mut c = cluster(settings());
        let reply = c.join_from("10.0.0.1", &request()).unwrap();
        assert_eq!((reply.status, reply.source), (S::Init, StorageId::NONE));
        let g = c.group(&"group1".parse().unwrap()).unwrap();
        assert_eq!((g.port, g.path_count, g.subdir_count, g.members().len()), (23000, 1, 4, 1));
        let unsaved = c.take_unsaved();
        assert!(unsaved.groups && unsaved.storages && unsaved.synced);
        assert!(c.trackers.i_lead());
    }

    #[test]
    fn what_an_unknown_storage_becomes() {
        let all = [
            (None, Err(Status::EFAULT)),
            (Some(S::Init), Ok(S::Init)),
            (Some(S::WaitSync), Ok(S::WaitSync)),
            (Some(S::Syncing), Ok(S::Syncing)),
            (Some(S::IpChanged), Err(Status::EFAULT)),
            (Some(S::Deleted), Err(Status::EFAULT)),
            (Some(S::Offline), Ok(S::Online)),
            (Some(S::Online), Ok(S::Online)),
            (Some(S::Active), Ok(S::Online)),
            (Some(S::Recovery), Ok(S::Online)),
            (Some(S::None), Err(Status::EFAULT)),
        ];
        for (status, expected) in all {
            let old = JoinRequest { fresh: false, status, ..request() };
            let result = cluster(settings()).join_from("10.0.0.1", &old).map(|r| r.status);
            assert_eq!(result, expected, "{status:?}");
            let fresh = JoinRequest { fresh: true, status, ..request() };
            let result = cluster(settings()).join_from("10.0.0.1", &fresh).map(|r| r.status);
            assert_eq!(result, Ok(S::Init), "{status:?}, fresh");
        }
    }

    #[test]
    fn a_known_storage_that_lost_its_data_begins_anew() {
        // fresh, claimed status, joined later than known, the status it had, begins anew
        for (fresh, claimed, later, before, anew) in [
            (true, Some(S::Init), 0, S::Active, true),
            (true, Some(S::Init), 0, S::Offline, true),
            (true, Some(S::Init), 9, S::Syncing, false),
            (false, Some(S::WaitSync), 9, S::Offline, true),
            (false, None, 9, S::Active, true),
            (false, Some(S::Active), 9, S::Active, false),
            (false, Some(S::WaitSync), 0, S::Offline, false),
            (false, None, 0, S::Offline, false),
        ] {
            let mut c = cluster(settings());
            let m = c.bring_up("10.0.0.1");
            c.bring_up("10.0.0.2");
            c.set_status(&m, before);
            c.group_mut(&m.group).unwrap().member_mut(&m.id).unwrap().sync_source = Some("10.0.0.2".parse().unwrap());
            let again = JoinRequest { fresh, status: claimed, join_time: NOW + later, ..request() };
            let reply = c.join_from("10.0.0.1", &again).unwrap();
            let case = format!("{fresh} {claimed:?} {later} {before}");
            assert_eq!(reply.status == S::Init, anew, "{case}");
            assert_eq!(reply.source.is_none(), anew, "{case}");
        }
    }

    #[test]
    fn what_a_known_storage_becomes() {
        for (before, expected) in [
            (S::Init, S::Init),
            (S::WaitSync, S::WaitSync),
            (S::Syncing, S::Syncing),
            (S::IpChanged, S::Init),
            (S::Deleted, S::Init),
            (S::Offline, S::Online),
            (S::Online, S::Online),
            (S::Active, S::Active),
            (S::Recovery, S::Online),
        ] {
            let mut c = cluster(settings());
            let m = c.bring_up("10.0.0.1");
            c.set_status(&m, before);
            let again = JoinRequest { fresh: false, status: Some(S::Active), ..request() };
            assert_eq!(c.join_from("10.0.0.1", &again).unwrap().status, expected, "{before}");
        }
    }

    #[test]
    fn trackers_must_know_each_other() {
        let mut c = cluster(settings());
        let elsewhere = JoinRequest { trackers: vec!["10.0.0.77:22122".parse().unwrap()], ..request() };
        assert_eq!(c.join_from("10.0.0.1", &elsewhere), Err(Status::ENOENT));
        assert_eq!(c.groups().count(), 0);
    }

    #[test]
    fn members_have_one_port() {
        let mut c = cluster(settings());
        c.join_from("10.0.0.1", &request()).unwrap();
        let other_port = JoinRequest { port: 23001, ..request() };
        assert_eq!(c.join_from("10.0.0.2", &other_port), Err(Status::EINVAL));
        c.join_from("10.0.0.2", &request()).unwrap();
        assert_eq!(c.join_from("10.0.0.1", &other_port), Err(Status::EINVAL), "not all of them yet");
        c.join_from("10.0.0.2", &other_port).unwrap();
        c.join_from("10.0.0.1", &other_port).unwrap();
        assert_eq!(c.group(&"group1".parse().unwrap()).unwrap().port, 23001, "the whole group moved");
    }

    #[test]
    fn ports_may_differ_when_names_carry_ids() {
        let mut s = with_ids("1 group1 10.0.0.1:23000\n2 group1 10.0.0.1:23001");
        s.parameters.id_type_in_filename = IdType::Id;
        let mut c = cluster(s);
        c.join_from("10.0.0.1", &request()).unwrap();
        c.join_from("10.0.0.1", &JoinRequest { port: 23001, ..request() }).unwrap();
        let g = c.group(&"group1".parse().unwrap()).unwrap();
        assert_eq!(g.port, MIXED_PORTS);
        assert_eq!(g.by_id().map(|m| (m.id.as_str(), m.port)).collect::<Vec<_>>(), [("1", 23000), ("2", 23001)]);
    }

    #[test]
    fn paths_and_directories() {
        let mut c = cluster(settings());
        let two = JoinRequest { store_path_count: 2, ..request() };
        c.join_from("10.0.0.1", &two).unwrap();
        assert_eq!(c.join_from("10.0.0.2", &request()), Err(Status::EINVAL), "fewer paths than the group");
        let three = JoinRequest { store_path_count: 3, ..request() };
        c.join_from("10.0.0.2", &three).unwrap();
        assert_eq!(c.group(&"group1".parse().unwrap()).unwrap().path_count, 2, "more is fine, the group keeps two");
        c.join_from("10.0.0.1", &three).unwrap();
        assert_eq!(c.group(&"group1".parse().unwrap()).unwrap().path_count, 3, "all have three now");
        let wide = JoinRequest { subdir_count_per_path: 256, ..three.clone() };
        assert_eq!(c.join_from("10.0.0.3", &wide), Err(Status::EINVAL));
        let mut alone = cluster(settings());
        alone.join_from("10.0.0.1", &request()).unwrap();
        alone.join_from("10.0.0.1", &JoinRequest { subdir_count_per_path: 256, ..request() }).unwrap();
        assert_eq!(alone.group(&"group1".parse().unwrap()).unwrap().subdir_count, 256);
    }

    #[test]
    fn configured_ids() {
        let table = "1 group1 10.0.0.1\n2 group1 10.0.0.2\n3 group2 10.0.0.3";
        let says = |id: &str| JoinRequest { id: id.parse().unwrap(), ..request() };
        let mut c = cluster(with_ids(table));
        assert_eq!(c.join_from("10.0.0.9", &request()), Err(Status::ENOENT), "not in the table");
        assert_eq!(c.join_from("10.0.0.9", &says("9")), Err(Status::ENOENT));
        assert_eq!(c.join_from("10.0.0.9", &says("3")), Err(Status::EINVAL), "an id of another group");
        c.join_from("10.0.0.9", &says("2")).unwrap();
        let m = c.storage(&"group1".parse().unwrap(), &"2".parse().unwrap()).unwrap();
        assert_eq!(m.addresses.first(), ip("10.0.0.2"), "the address is that of the table");
        c.join_from("10.0.0.1", &request()).unwrap();
        let mut distrust = with_ids(table);
        distrust.parameters.trust_storage_server_id = false;
        assert_eq!(cluster(distrust).join_from("10.0.0.9", &says("2")), Err(Status::ENOENT));
    }

    #[test]
    fn ipv6_needs_ids() {
        assert_eq!(cluster(settings()).join_from("fd77::1", &request()), Err(Status::EINVAL));
        let mut c = cluster(with_ids("1 group1 fd77::1"));
        c.join_from("fd77::1", &request()).unwrap();
    }

    #[test]
    fn a_group_holds_32() {
        let mut c = cluster(settings());
        for i in 1..=32 {
            c.join_from(&format!("10.0.0.{i}"), &request()).unwrap();
        }
        assert_eq!(c.join_from("10.0.0.33", &request()), Err(Status::ENOSPC));
    }

    #[test]
    fn another_process_on_the_host_of_a_member_does_not_move_it() {
        let mut c = cluster(settings());
        let (a, _) = (c.bring_up("10.0.0.1"), c.bring_up("10.0.0.2"));
        let other = JoinRequest { port: 24000, ..request() };
        assert_eq!(c.join(&caller("10.0.0.1", 99), &other).map(|_| ()), Err(Status::EINVAL));
        assert_eq!(c.storage(&a.group, &a.id).unwrap().port, 23000);
    }

    #[test]
    fn a_new_process_is_told_everything() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        c.group_mut(&a.group).unwrap().member_mut(&a.id).unwrap().seen_changes = 7;
        // Nobody noticed the end of the first.
        c.join(&caller("10.0.0.1", 99), &request()).unwrap();
        assert_eq!(c.storage(&a.group, &a.id).unwrap().seen_changes, 0);
    }
}
