//! Trunk servers: who hands out slots in trunk files.
//!
//! Which member may become one depends on whose trunk binlog is longest; with a wrong choice slots would be handed out
//! twice. So this tracker chooses by itself only where there is nothing to choose: a group with one writable member
//! that is, or that follows, nobody else. In all other cases an administrator names the server (SET_TRUNK_SERVER).

use fdfs_protocol::Status;
use fdfs_protocol::names::{GroupName, StorageId};

use super::trackers::Moment;
use super::{Cluster, Member};

impl Cluster {
    fn decides_trunk_servers(&self, at: Moment) -> bool {
        self.settings.rules.use_trunk && self.trackers.acts(at)
    }

    /// SET_TRUNK_SERVER: makes `id` the trunk server, or without an id says who is, choosing if it can.
    ///
    /// # Errors
    /// `ENOENT`: unknown group or storage, or nobody to choose. `EOPNOTSUPP`: not with these settings, or not here.
    /// `EALREADY`: it is already. `EEXIST`: another one is and serves. `ENONET`: it does not serve. `EACCES`: it
    /// takes no writes.
    pub fn set_trunk_server(&mut self, name: &GroupName, id: &StorageId, at: Moment) -> Result<StorageId, Status> {
        self.group(name)?;
        if !self.decides_trunk_servers(at) {
            return Err(Status::EOPNOTSUPP);
        }
        let group = self.group_mut(name)?;
        let current = group.trunk_server.and_then(|id| group.member(&id)).filter(|m| m.is_active()).map(|m| m.id);
        match (current, id.is_none()) {
            (Some(current), true) => return Ok(current),
            (Some(current), false) => {
                return Err(if current == *id { Status::EALREADY } else { Status::EEXIST });
            }
            (None, true) => {
                self.choose_trunk_server(name, at);
                return self.group(name)?.trunk_server.ok_or(Status::ENOENT);
            }
            (None, false) => {}
        }
        let storage = group.member(id).ok_or(Status::ENOENT)?;
        if !storage.is_active() {
            return Err(Status::ENONET);
        }
        if !storage.rw.can_write() {
            return Err(Status::EACCES);
        }
        group.set_trunk_server(Some(*id));
        self.unsaved.groups = true;
        Ok(*id)
    }

    /// Gives a group a trunk server if there is no doubt who it has to be.
    pub fn choose_trunk_server(&mut self, name: &GroupName, at: Moment) {
        if !self.decides_trunk_servers(at) {
            return;
        }
        let Ok(group) = self.group_mut(name) else { return };
        let serves = |id: StorageId| group.member(&id).is_some_and(|m| m.is_writable());
        if group.trunk_server.is_some_and(serves) {
            return;
        }
        let living = group.members().iter().filter(|m| !m.is_tombstone());
        let alone = living.clone().count() == 1;
        let Some(only) = living.filter(|m| m.is_writable()).map(|m| m.id).next().filter(|_| alone) else { return };
        if group.last_trunk_server.is_none() || group.last_trunk_server == only {
            group.set_trunk_server(Some(only));
            self.unsaved.groups = true;
        }
    }

    /// The trunk servers of all groups, sorted by name, as followers are told.
    pub fn trunk_servers(&self) -> Vec<Member> {
        self.groups().map(|g| Member { group: g.name, id: g.trunk_server.unwrap_or_default() }).collect()
    }

    /// Takes over what the leader told about trunk servers. Groups this tracker does not know yet are left out; the
    /// leader tells all of them again with the next change.
    pub fn adopt_trunk_servers(&mut self, table: &[Member]) {
        for told in table {
            let Ok(group) = self.group_mut(&told.group) else { continue };
            let server = group.member(&told.id).map(|m| m.id);
            let known = (group.trunk_server, group.last_trunk_server);
            group.set_trunk_server(server);
            group.last_trunk_server = told.id;
            if known != (server, told.id) {
                self.unsaved.groups = true;
            }
        }
    }

    /// STORAGE_FETCH_TRUNK_FID: the highest trunk file id of a group.
    ///
    /// # Errors
    /// `ENOENT`: no such group.
    pub fn trunk_file_id(&self, member: &Member) -> Result<u32, Status> {
        Ok(self.group(&member.group)?.trunk_file_id)
    }

    /// STORAGE_REPORT_TRUNK_FID: the trunk server has begun a new file. The number never falls.
    ///
    /// # Errors
    /// `EINVAL`: whoever reports is not the trunk server.
    pub fn report_trunk_file_id(&mut self, member: &Member, file: u32) -> Result<(), Status> {
        let group = self.group_mut(&member.group)?;
        if group.trunk_server != Some(member.id) {
            return Err(Status::EINVAL);
        }
        if file > group.trunk_file_id {
            group.trunk_file_id = file;
            self.unsaved.groups = true;
        }
        Ok(())
    }

    /// STORAGE_REPORT_TRUNK_FREE: free space inside trunk files.
    ///
    /// # Errors
    /// `EINVAL`: whoever reports is not the trunk server.
    pub fn report_trunk_free(&mut self, member: &Member, free_mb: u64) -> Result<(), Status> {
        let group = self.group_mut(&member.group)?;
        if group.trunk_server != Some(member.id) {
            return Err(Status::EINVAL);
        }
        group.trunk_free_mb = free_mb;
        group.note_report();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use fdfs_protocol::stat::StorageStatus;

    fn trunk_cluster() -> Cluster {
        let mut s = settings();
        s.rules.use_trunk = true;
        cluster(s)
    }

    fn name(m: &Member) -> GroupName {
        m.group
    }

    #[test]
    fn alone_there_is_no_doubt() {
        let mut c = trunk_cluster();
        let a = c.bring_up("10.0.0.1");
        c.choose_trunk_server(&name(&a), AT);
        assert_eq!(c.set_trunk_server(&name(&a), &StorageId::NONE, AT), Ok(a.id));
        assert_eq!(c.set_trunk_server(&name(&a), &a.id, AT), Err(Status::EALREADY));
        assert_eq!(c.set_trunk_server(&name(&a), &"10.0.0.9".parse().unwrap(), AT), Err(Status::EEXIST));
        let mut seen = 0;
        let told = c.changes_for(&a, ip("10.0.0.1"), &mut seen, AT).unwrap();
        assert_eq!(told.trunk_server.unwrap().id, a.id);
        c.report_trunk_file_id(&a, 7).unwrap();
        c.report_trunk_file_id(&a, 3).unwrap();
        assert_eq!(c.trunk_file_id(&a), Ok(7), "it never falls");
        c.report_trunk_free(&a, 55).unwrap();
        assert_eq!(c.group(&name(&a)).unwrap().trunk_free_mb, 55);
    }

    #[test]
    fn among_several_somebody_must_say() {
        let mut c = trunk_cluster();
        let a = c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        c.choose_trunk_server(&name(&a), AT);
        assert_eq!(c.set_trunk_server(&name(&a), &StorageId::NONE, AT), Err(Status::ENOENT));
        assert_eq!(c.set_trunk_server(&name(&a), &"10.0.0.9".parse().unwrap(), AT), Err(Status::ENOENT));
        c.set_status(&b, StorageStatus::Offline);
        assert_eq!(c.set_trunk_server(&name(&a), &b.id, AT), Err(Status::ENONET));
        assert_eq!(c.set_trunk_server(&name(&a), &a.id, AT), Ok(a.id));
        assert_eq!(c.report_trunk_free(&b, 1), Err(Status::EINVAL), "only the trunk server reports");
        assert_eq!(c.report_trunk_file_id(&b, 1), Err(Status::EINVAL));
    }

    #[test]
    fn only_with_trunk_files_and_only_the_leader() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        assert_eq!(c.set_trunk_server(&name(&a), &a.id, AT), Err(Status::EOPNOTSUPP));
        assert_eq!(c.set_trunk_server(&"g9".parse().unwrap(), &a.id, AT), Err(Status::ENOENT));
        let mut c = trunk_cluster();
        let a = c.bring_up("10.0.0.1");
        c.trackers.step_down().unwrap();
        assert_eq!(c.set_trunk_server(&name(&a), &a.id, AT), Err(Status::EOPNOTSUPP));
    }

    #[test]
    fn a_follower_takes_over_the_leaders_table() {
        let mut c = trunk_cluster();
        let a = c.bring_up("10.0.0.1");
        c.take_unsaved();
        let told = |id: &str| [Member { group: a.group, id: id.parse().unwrap() }];
        let stranger = Member { group: "group9".parse().unwrap(), id: a.id };
        c.adopt_trunk_servers(&[stranger, told("10.0.0.1")[0]]);
        assert_eq!(c.trunk_servers(), told("10.0.0.1"));
        assert!(c.take_unsaved().groups);
        c.adopt_trunk_servers(&told("10.0.0.1"));
        assert!(!c.take_unsaved().any(), "nothing new");
        c.adopt_trunk_servers(&told("10.0.0.7"));
        let group = c.group(&a.group).unwrap();
        assert_eq!((group.trunk_server, group.last_trunk_server.as_str()), (None, "10.0.0.7"), "not here yet");
        c.adopt_trunk_servers(&told(""));
        assert!(c.group(&a.group).unwrap().last_trunk_server.is_none());
    }
}
