//! The lists and statistics for monitoring.

use std::net::{IpAddr, SocketAddr};

use fdfs_protocol::Status;
use fdfs_protocol::names::{GroupName, IpText, StorageId};
use fdfs_protocol::stat::{
    Connections, GroupRecord, HostText, StorageHealth, StorageRecord, TrackerHealth, VolumeStat,
};
use fdfs_protocol::tracker::{
    StorageClusterFilter, StorageClusterStat, TrackerClusterFilter, TrackerClusterStat, TrackerStatus, VolumeFilter,
    VolumeStatReport,
};

use super::Cluster;
use super::group::Group;
use super::storage::Storage;
use super::trackers::Moment;

/// The version this tracker reports: that of the protocol it speaks.
pub const VERSION: &str = "6.16.1";

fn host(at: SocketAddr) -> HostText {
    HostText::new(&at.to_string()).unwrap_or_default()
}

impl Cluster {
    /// LIST_ONE_GROUP.
    ///
    /// # Errors
    /// `ENOENT`: no such group.
    pub fn group_record(&self, name: &GroupName) -> Result<GroupRecord, Status> {
        self.group(name).map(|g| self.record_of_group(g))
    }

    /// LIST_ALL_GROUPS, sorted by name.
    pub fn group_records(&self) -> impl Iterator<Item = GroupRecord> {
        self.groups().map(|g| self.record_of_group(g))
    }

    fn record_of_group(&self, g: &Group) -> GroupRecord {
        let writable = g.writable().count();
        GroupRecord {
            name: g.name,
            total_mb: g.space.total_mb,
            free_mb: g.space.free_mb,
            reserved_mb: self.rules().reserve.megabytes_of(g.space.total_mb),
            trunk_free_mb: g.trunk_free_mb,
            storage_count: g.members().len() as u64,
            storage_port: g.port.into(),
            readable_count: g.readable().count() as u64,
            writable_count: writable as u64,
            current_write_server: g.cursors.next_writer(writable) as u64,
            store_path_count: g.path_count.into(),
            subdir_count_per_path: g.subdir_count.into(),
            current_trunk_file_id: if self.rules().use_trunk { g.trunk_file_id.into() } else { -1 },
        }
    }

    /// LIST_STORAGE: one member of a group, or all of them sorted by id, tombstones included.
    ///
    /// # Errors
    /// `ENOENT`: no such group or member.
    pub fn storage_records(
        &self,
        group: &GroupName,
        id: &StorageId,
        client: IpAddr,
    ) -> Result<Vec<StorageRecord>, Status> {
        let group = self.group(group)?;
        let record = |m: &Storage| self.record_of_storage(group, m, client);
        if id.is_none() {
            return Ok(group.by_id().map(record).collect());
        }
        Ok(vec![record(group.member(id).ok_or(Status::ENOENT)?)])
    }

    fn record_of_storage(&self, group: &Group, m: &Storage, client: IpAddr) -> StorageRecord {
        StorageRecord {
            status: m.status,
            rw_mode: m.rw,
            id: m.id,
            ip: IpText::from(m.addresses.for_peer(client)),
            source_id: m.sync_source.unwrap_or_default(),
            version: m.version,
            join_time: m.join_time,
            up_time: m.up_time,
            total_mb: m.space.total_mb,
            free_mb: m.space.free_mb,
            reserved_mb: self.rules().reserve.megabytes_of(m.space.total_mb),
            upload_priority: m.upload_priority,
            store_path_count: m.path_count.into(),
            subdir_count_per_path: m.subdir_count.into(),
            current_write_path: m.current_path() as u64,
            port: m.port,
            stat: m.stat,
            trunk_server: group.trunk_server == Some(m.id),
        }
    }

    /// TRACKER_CLUSTER_STAT; `own` are this tracker's own connections.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: only the leader knows.
    pub fn tracker_stat(
        &self,
        filter: &TrackerClusterFilter,
        own: Connections,
        now: Moment,
    ) -> Result<TrackerClusterStat, Status> {
        if !self.trackers.i_lead() {
            return Err(Status::EOPNOTSUPP);
        }
        let records = self.trackers.list().iter().enumerate().map(|(i, t)| {
            let (me, leader) = (self.trackers.is_me(i), self.trackers.is_leader(i));
            TrackerHealth {
                host: host(t.host_port()),
                leader,
                active: leader || t.is_alive(now),
                connections: if me { own } else { t.connections },
                version: if me { VERSION.parse().unwrap_or_default() } else { t.version },
                up_time: if me { self.trackers.up_time() } else { t.up_time },
                last_heart_beat: if leader { 0 } else { t.last_ping },
            }
        });
        Ok(TrackerClusterStat(records.filter(|r| filter.matches(r)).collect()))
    }

    /// STORAGE_CLUSTER_STAT: the storages of all groups, sorted by group and id.
    pub fn storage_stat(&self, filter: &StorageClusterFilter, client: IpAddr) -> StorageClusterStat {
        let use_trunk = self.rules().use_trunk;
        let of_group = |g: &Group| -> Vec<StorageHealth> {
            let health = |m: &Storage| StorageHealth {
                id: m.id,
                host: host(SocketAddr::new(m.addresses.for_peer(client), m.port)),
                trunk_server: use_trunk && g.trunk_server == Some(m.id),
                status: m.status,
                connections: m.stat.connections,
                version: m.version,
                up_time: m.up_time,
                last_heart_beat: m.stat.last_heart_beat_time,
            };
            g.by_id().map(health).filter(|h| filter.matches(h, use_trunk)).collect()
        };
        StorageClusterStat {
            use_storage_id: self.settings.ids.is_some(),
            use_trunk,
            storages: self.groups().flat_map(of_group).collect(),
        }
    }

    /// VOLUME_STAT: space of all groups, sorted by name.
    pub fn volume_stat(&self, filter: &VolumeFilter) -> VolumeStatReport {
        let rules = self.rules();
        // Without trunk files the trunk filter means nothing.
        let filter = VolumeFilter { trunk: filter.trunk.filter(|_| rules.use_trunk), ..*filter };
        let groups = self.groups().map(|g| {
            let with_trunk =
                fdfs_protocol::peer::PathSpace { free_mb: g.space.free_mb.saturating_add(g.trunk_free_mb), ..g.space };
            let disk_available = rules.allows_group(g.space);
            let trunk_available = rules.use_trunk && rules.allows_group(with_trunk);
            let reserved = rules.reserve.megabytes_of(g.space.total_mb);
            VolumeStat {
                group: g.name,
                total_mb: g.space.total_mb,
                free_mb: g.space.free_mb,
                reserved_mb: reserved,
                avail_mb: if disk_available { g.space.free_mb.saturating_sub(reserved) } else { 0 },
                trunk_free_mb: if trunk_available { g.trunk_free_mb } else { 0 },
                disk_available,
                trunk_available,
            }
        });
        VolumeStatReport { use_trunk: rules.use_trunk, groups: groups.filter(|v| filter.matches(v)).collect() }
    }

    /// TRACKER_GET_STATUS.
    ///
    /// # Errors
    /// `ENOENT`: this tracker knows no group yet, so it has no say among trackers.
    pub fn tracker_status(&self, wall: i64, now: Moment) -> Result<TrackerStatus, Status> {
        if self.groups.is_empty() {
            return Err(Status::ENOENT);
        }
        let (running, restart) = self.trackers.running_times(wall);
        Ok(TrackerStatus { leader: self.trackers.leads(now), running_time: running, restart_interval: restart })
    }
}
