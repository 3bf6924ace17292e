//! A cluster for tests, talked to as storages would.

use std::net::IpAddr;
use std::sync::Arc;

use fdfs_protocol::Status;
use fdfs_protocol::peer::{JoinReply, JoinRequest, PathSpace};
use fdfs_protocol::stat::StorageStatus;

use super::trackers::{Moment, Trackers};
use super::{Caller, Cluster, Member};
use crate::config::TrackerConfig;
use crate::settings::Settings;
use crate::storage_ids::IdTable;

pub const NOW: i64 = 1_800_000_000;
/// Time since boot, for what depends on it.
pub const AT: Moment = Moment::from_secs(1000);
const TRACKER: &str = "10.0.9.9";

pub fn settings() -> Settings {
    TrackerConfig::embedded("/nonexistent", [127, 0, 0, 1].into(), 0).settings
}

pub fn with_ids(table: &str) -> Settings {
    let ids = IdTable::parse("ids".as_ref(), table, |h| h.parse().ok()).unwrap();
    let mut settings = settings();
    settings.parameters.use_storage_id = true;
    settings.ids = Some(ids);
    settings
}

pub fn cluster(settings: Settings) -> Cluster {
    Cluster::new(Arc::new(settings), Trackers::new(22122, NOW, None))
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn caller(peer: &str, session: u64) -> Caller {
    Caller { peer: ip(peer), local: ip(TRACKER), session }
}

/// What a fresh storage of group1 with one path says.
pub fn request() -> JoinRequest {
    JoinRequest {
        group: "group1".parse().unwrap(),
        port: 23000,
        store_path_count: 1,
        subdir_count_per_path: 4,
        upload_priority: 10,
        join_time: NOW,
        up_time: NOW,
        version: "6.16.1".parse().unwrap(),
        fresh: true,
        status: Some(StorageStatus::Init),
        id: Default::default(),
        tracker_ip: TRACKER.parse().unwrap(),
        trackers: vec![format!("{TRACKER}:22122").parse().unwrap()],
    }
}

pub fn member(id: &str) -> Member {
    Member { group: "group1".parse().unwrap(), id: id.parse().unwrap() }
}

impl Cluster {
    /// A storage joins from an address, on a session derived from it.
    pub fn join_from(&mut self, peer: &str, request: &JoinRequest) -> Result<JoinReply, Status> {
        self.join(&caller(peer, session(peer)), request).map(|(_, reply)| reply)
    }

    /// A storage joins, has nothing to sync, and reports: it serves.
    pub fn bring_up(&mut self, peer: &str) -> Member {
        let (m, reply) = self.join(&caller(peer, session(peer)), &request()).unwrap();
        if reply.status == StorageStatus::Init {
            // As if the old data had been pushed already.
            self.group_mut(&m.group).unwrap().member_mut(&m.id).unwrap().status = StorageStatus::Online;
        }
        self.beat(&m, None, NOW, AT).unwrap();
        self.disk_usage(&m, &[PathSpace { total_mb: 1000, free_mb: 500 }]).unwrap();
        m
    }

    /// How a storage stands.
    pub fn status(&self, m: &Member) -> StorageStatus {
        self.storage(&m.group, &m.id).unwrap().status
    }

    /// Makes it stand otherwise.
    pub fn set_status(&mut self, m: &Member, status: StorageStatus) {
        self.group_mut(&m.group).unwrap().member_mut(&m.id).unwrap().status = status;
    }
}

pub fn session(peer: &str) -> u64 {
    peer.bytes().fold(7, |h, b| h * 31 + u64::from(b))
}
