//! A storage joins (FastDFS 6.16, STORAGE_JOIN).

use std::net::IpAddr;

use fdfs_protocol::Status;
use fdfs_protocol::names::StorageId;
use fdfs_protocol::peer::join::TrackerAddress;
use fdfs_protocol::peer::{JoinReply, JoinRequest};
use fdfs_protocol::stat::StorageStatus;

use super::group::{Group, MIXED_PORTS};
use super::{Caller, Cluster, MAX_GROUPS, Member, Unsaved};
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
        let listed: Vec<_> = request.trackers.iter().map(tracker_entry).collect();
        let dialled = request.tracker_ip.addr();
        let mine: Vec<IpAddr> = std::iter::once(caller.local).chain(dialled).collect();
        self.trackers.learn(&listed, &mine)?;
        self.ensure_group(request)?;
        let id = self.joining_id(caller, request)?;
        let member = Member { group: request.group, id };
        self.agree_on_port(&member, request.port)?;
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
            // An IPv6 address does not fit into the id: such a storage needs a configured one.
            return StorageId::from_ip(caller.peer).map_err(|_| Status::EINVAL);
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
    fn agree_on_port(&mut self, member: &Member, port: u16) -> Result<(), Status> {
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
            // refused until the last has the new one.
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
        if let Some(storage) = self.group_mut(&member.group)?.member_mut(&member.id) {
            if storage.is_tombstone() {
                storage.status = StorageStatus::Init;
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
        let storage = group.member_mut(&member.id).ok_or(Status::ENOENT)?;
        let claimed = request.status.filter(|s| new && !request.fresh && *s != S::Init);
        if let Some(status) = claimed {
            storage.status = if status == S::Active { S::Online } else { status };
        }
        match storage.status {
            S::Offline | S::Recovery => storage.status = S::Online,
            S::Init => storage.changelog_offset = changelog_end,
            _ => {}
        }
        storage.session = Some(caller.session);
        let reply = JoinReply { status: storage.status, source: storage.sync_source.unwrap_or_default() };
        self.unsaved = self.unsaved.with(if new {
            Unsaved { changelog: false, ..Unsaved::ALL }
        } else {
            Unsaved { storages: true, ..Unsaved::default() }
        });
        Ok((*member, reply))
    }
}

fn tracker_entry(t: &TrackerAddress) -> (Addresses, u16) {
    let addresses = match t.other {
        // Two addresses of one kind cannot be told apart by clients; the first is as good as both.
        Some(other) => Addresses::two(t.ip, other).unwrap_or(Addresses::one(t.ip)),
        None => Addresses::one(t.ip),
    };
    (addresses, t.port)
}
