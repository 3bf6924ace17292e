use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::Status;
use crate::names::{GroupName, IpSize, StorageId};
use crate::stat::{StatBlock, StorageHealth, StorageRecord, StorageStatus, TrackerHealth, VolumeStat};
use crate::wire::Encode;

fn bytes<M: Encode>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn storage_health(status: StorageStatus, trunk_server: bool) -> StorageHealth {
    StorageHealth {
        id: "1".parse().unwrap(),
        host: crate::names::Text::new("10.0.0.1:23000").unwrap(),
        trunk_server,
        status,
        connections: Default::default(),
        version: Default::default(),
        up_time: 1,
        last_heart_beat: 2,
    }
}

#[test]
fn ids_are_at_most_15_bytes() {
    let mut body = b"group1\0\0\0\0\0\0\0\0\0\0".to_vec();
    assert!(StorageQuery::decode(&body).unwrap().id.is_none());
    assert_eq!(DeleteStorage::decode(&body).unwrap_err().status(), Status::EINVAL);
    body.extend(b"10.0.0.1\0\0\0\0\0\0\0");
    assert_eq!(StorageQuery::decode(&body).unwrap().id.as_str(), "10.0.0.1");
    let delete = DeleteStorage::decode(&body).unwrap();
    assert_eq!(DeleteStorage::decode(&bytes(&delete)), Ok(delete));
    body.push(0);
    assert!(StorageQuery::decode(&body).is_err());
    assert!(DeleteStorage::decode(&body[..15]).is_err());
}

#[test]
fn addresses() {
    for text in ["10.0.0.1:22122", "[fd77::36]:22122"] {
        let leader = LeaderAddress::decode(text.as_bytes()).unwrap();
        assert_eq!(bytes(&leader), text.as_bytes());
    }
    assert!(LeaderAddress::decode(b"10.0.0.1").is_err());
    assert!(LeaderAddress::decode(&[b'1'; 60]).is_err());
    let mine = MyIpAddresses::decode(b"10.0.0.1,[fd77::36]").unwrap();
    assert_eq!(bytes(&mine), b"10.0.0.1,fd77::36");
    assert!(MyIpAddresses::decode(b"").is_err());
    let too_long = [b'1'; 50];
    assert_eq!(GroupNameQuery::decode(&too_long).unwrap_err().status(), Status::ENAMETOOLONG);
    assert!(GroupNameQuery::decode(b"abc").is_err());
    assert!(GroupNameQuery::decode(b"nowhere\0\0\x59\xd8").is_err());
}

#[test]
fn filters_of_storages() {
    let active = storage_health(StorageStatus::Active, false);
    let filter = |body: &[u8]| StorageClusterFilter::decode(body).unwrap();
    assert!(filter(&[0, 0, 0, 0]).matches(&active, true));
    assert!(filter(&[2, b'=', 7, 0]).matches(&active, true));
    assert!(!filter(&[2, b'!', 7, 0]).matches(&active, true));
    assert!(!filter(&[2, b'<', 7, 0]).matches(&active, true));
    assert!(!filter(&[1, 0, 0, 1]).matches(&active, true));
    // Without trunk files that filter does not count.
    assert!(filter(&[1, 0, 0, 1]).matches(&active, false));
}

#[test]
fn filters_of_trackers_and_groups() {
    let tracker = TrackerHealth {
        host: crate::names::Text::new("10.0.0.1:22122").unwrap(),
        leader: true,
        active: false,
        connections: Default::default(),
        version: Default::default(),
        up_time: 1,
        last_heart_beat: 0,
    };
    let filter = |body: &[u8]| TrackerClusterFilter::decode(body).unwrap();
    assert!(filter(&[0, 1, 0]).matches(&tracker));
    assert!(filter(&[2, 0, 1]).matches(&tracker));
    assert!(!filter(&[3, 1, 1]).matches(&tracker));
    let group = VolumeStat {
        group: "g".parse().unwrap(),
        total_mb: 1,
        free_mb: 1,
        reserved_mb: 0,
        avail_mb: 1,
        trunk_free_mb: 0,
        disk_available: true,
        trunk_available: false,
    };
    let filter = |body: &[u8]| VolumeFilter::decode(body).unwrap();
    assert!(filter(&[0, 0, 0, 0]).matches(&group));
    assert!(filter(&[5, 1, 0, 1]).matches(&group));
    assert!(!filter(&[2, 0, 1, 0]).matches(&group));
    assert!(!filter(&[4, 0, 0, 0]).matches(&group));
}

#[test]
fn lists_must_have_what_they_announce() {
    let one = StorageClusterStat {
        use_storage_id: true,
        use_trunk: false,
        storages: vec![storage_health(StorageStatus::Init, true)],
    };
    let mut body = bytes(&one);
    assert_eq!(StorageClusterStat::decode(&body), Ok(one));
    body[5] = 2;
    assert!(StorageClusterStat::decode(&body).is_err());
    assert!(TrackerClusterStat::decode(&[1]).is_err());
    assert!(TrackerClusterStat::decode(&[]).is_err());
    assert!(VolumeStatReport::decode(&[0, 0xff, 0xff, 0xff, 0xff]).is_err());
    assert!(StorageList::decode(&[0; 400]).is_err());
    assert_eq!(StorageList::decode(&[]), Ok(StorageList::default()));
}

#[test]
fn storage_lists_of_both_sizes() {
    let record = StorageRecord {
        status: StorageStatus::Active,
        rw_mode: Default::default(),
        id: "100001".parse().unwrap(),
        ip: "10.0.0.1".parse().unwrap(),
        source_id: StorageId::NONE,
        version: "6.16.1".parse().unwrap(),
        join_time: 1,
        up_time: 2,
        total_mb: 3,
        free_mb: 4,
        reserved_mb: 5,
        upload_priority: -6,
        store_path_count: 7,
        subdir_count_per_path: 8,
        current_write_path: 9,
        port: 23000,
        stat: StatBlock::default(),
        trunk_server: true,
    };
    let list = StorageList(vec![record; 3]);
    for size in [IpSize::V4, IpSize::V6] {
        let mut out = Vec::new();
        list.encode(size, &mut out);
        assert_eq!(StorageList::decode(&out), Ok(list.clone()));
    }
}

proptest! {
    #[test]
    fn messages_survive(
        start in 0..=i32::MAX as u32, allow_empty: bool, port: u16, ip: Option<IpAddr>,
        active: Option<bool>, leader: Option<bool>, space: Option<bool>, status: Option<(u8, u8)>,
        running_time in 0..=i64::MAX as u64, text in "[ -~\n]{0,60}",
    ) {
        let group: GroupName = "group1".parse().unwrap();
        let ids = FetchStorageIds { start, allow_empty };
        prop_assert_eq!(FetchStorageIds::decode(&bytes(&ids)), Ok(ids));
        let page = StorageIdsPage { total: start, count: 1, text: &text };
        let body = bytes(&page);
        prop_assert_eq!(StorageIdsPage::decode(&body), Ok(page));
        let name = GroupNameQuery { ip, port };
        prop_assert_eq!(GroupNameQuery::decode(&bytes(&name)), Ok(name));
        let mine = MyIpQuery { group, port };
        prop_assert_eq!(MyIpQuery::decode(&bytes(&mine)), Ok(mine));
        if let Some(ip) = ip {
            let server = ServerQuery { group, addr: SocketAddr::new(ip, port) };
            prop_assert_eq!(ServerQuery::decode(&bytes(&server)), Ok(server));
        }
        let trackers = TrackerClusterFilter { active, leader };
        prop_assert_eq!(TrackerClusterFilter::decode(&bytes(&trackers)), Ok(trackers));
        let storages = StorageClusterFilter { trunk_server: active, status };
        prop_assert_eq!(StorageClusterFilter::decode(&bytes(&storages)), Ok(storages));
        let volumes = VolumeFilter { disk: active, trunk: leader, space };
        prop_assert_eq!(VolumeFilter::decode(&bytes(&volumes)), Ok(volumes));
        let status = TrackerStatus { leader: allow_empty, running_time, restart_interval: 300 };
        prop_assert_eq!(TrackerStatus::decode(&bytes(&status)), Ok(status));
        let choice = TrunkServerChoice { id: "100001".parse().unwrap() };
        prop_assert_eq!(TrunkServerChoice::decode(&bytes(&choice)), Ok(choice));
    }

    #[test]
    fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..240)) {
        let _ = StorageQuery::decode(&body);
        let _ = DeleteStorage::decode(&body);
        let _ = StorageList::decode(&body);
        let _ = TrunkServerChoice::decode(&body);
        let _ = LeaderAddress::decode(&body);
        let _ = TrackerStatus::decode(&body);
        let _ = FetchStorageIds::decode(&body);
        let _ = StorageIdsPage::decode(&body);
        let _ = ServerQuery::decode(&body);
        let _ = GroupNameQuery::decode(&body);
        let _ = MyIpQuery::decode(&body);
        let _ = MyIpAddresses::decode(&body);
        let _ = TrackerClusterStat::decode(&body);
        let _ = StorageClusterStat::decode(&body);
        let _ = VolumeStatReport::decode(&body);
        let _ = crate::tracker::GroupList::decode(&body);
    }
}
