//! Replays the recorded requests of FastDFS 6.16.1 clients against a tracker in this process, and compares the answers.
//!
//! The recorded clusters lived in 10.77.0.0/16; here they live in 127.0.0.0/16, on storage doubles. Addresses keep
//! their length that way, so recorded and own answers can be compared byte for byte after replacing `10.77.` by
//! `127.0.`. What differs from run to run (disk sizes, times, counters, connections, turns) is compared by shape.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use fdfs_protocol::stat::{GroupRecord, StorageHealth, StorageRecord, TrackerHealth, VolumeStat};
use fdfs_protocol::tracker::{
    FetchAll, GroupList, StorageClusterStat, StorageList, TrackerClusterStat, TrackerStatus, VolumeStatReport,
};
use fdfs_protocol::{Command, Status};
use support::{Double, Peer, Running, join_request, space};

#[derive(Debug, Clone)]
struct Case {
    file: String,
    code: u8,
    name: String,
    cluster: String,
    request: Vec<u8>,
    response: Vec<u8>,
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn here(bytes: &[u8]) -> Vec<u8> {
    let (from, to) = (b"10.77.", b"127.0.");
    let mut out = bytes.to_vec();
    for i in 0..out.len().saturating_sub(from.len() - 1) {
        if out[i..].starts_with(from) {
            out[i..i + from.len()].copy_from_slice(to);
        }
    }
    out
}

/// All recorded exchanges with trackers, by cluster, in the order of the files.
fn cases() -> BTreeMap<String, Vec<Case>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/client");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut all: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for path in files {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !file.starts_with("tracker_") {
            continue;
        }
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for case in json["cases"].as_array().unwrap() {
            let text = |key: &str| case[key].as_str().unwrap().to_owned();
            let request = here(&unhex(&text("request_hex")));
            let case = Case {
                file: file.clone(),
                code: request[8],
                name: text("name"),
                cluster: text("cluster"),
                request,
                response: here(&unhex(&text("response_hex"))),
            };
            all.entry(case.cluster.clone()).or_default().push(case);
        }
    }
    all
}

/// Sends a case and compares; `members` are the addresses a turn may choose from.
fn check(peer: &mut Peer, case: &Case, members: &[&str]) {
    let what = format!("{} {} ({})", case.file, case.name, case.cluster);
    if case.response.is_empty() {
        peer.send(&case.request);
        assert!(peer.is_closed(), "{what}: no answer but a close");
        return;
    }
    let (status, body) = peer.exchange(&case.request);
    assert_eq!(status, Status(case.response[9]), "{what}: status");
    let recorded = &case.response[10..];
    if case.code == Command::QueryFetchAll.code() && status.is_ok() {
        // How many members already had the file when this was recorded is not ours to say.
        let (own, recorded) = (FetchAll::decode(&body).unwrap(), FetchAll::decode(recorded).unwrap());
        assert_eq!(own.group, recorded.group, "{what}");
        assert!(recorded.servers.iter().all(|s| own.servers.contains(s)), "{what}: {own:?}");
        return;
    }
    assert_eq!(body.len(), recorded.len(), "{what}: length");
    if !status.is_ok() || body.is_empty() {
        return;
    }
    let command = Command::from_code(case.code).unwrap();
    match command {
        Command::QueryStoreWithoutGroupOne
        | Command::QueryStoreWithGroupOne
        | Command::QueryFetchOne
        | Command::QueryUpdate => {
            assert_eq!(body[..16], recorded[..16], "{what}: group");
            let end = body.len() - usize::from(command.code() == 101 || command.code() == 104);
            let width = end - 16 - 8;
            let ip = String::from_utf8(body[16..16 + width].to_vec()).unwrap();
            assert!(members.contains(&ip.trim_end_matches('\0')), "{what}: {ip}");
            assert_eq!(body[16 + width..end], recorded[16 + width..end], "{what}: port");
        }
        Command::QueryStoreWithoutGroupAll | Command::QueryStoreWithGroupAll => {
            let last = body.len() - 1;
            assert_eq!(body[..last], recorded[..last], "{what}");
        }
        Command::ListOneGroup | Command::ListAllGroups => {
            let same = |bytes: &[u8]| -> Vec<GroupRecord> {
                let shape = |r: &GroupRecord| GroupRecord {
                    total_mb: 0,
                    free_mb: 0,
                    reserved_mb: 0,
                    trunk_free_mb: 0,
                    current_write_server: 0,
                    current_trunk_file_id: r.current_trunk_file_id.min(0),
                    ..*r
                };
                GroupList::decode(bytes).unwrap().0.iter().map(shape).collect()
            };
            assert_eq!(same(&body), same(recorded), "{what}");
        }
        Command::ListStorage => {
            let same = |bytes: &[u8]| -> Vec<StorageRecord> {
                let shape = |r: &StorageRecord| StorageRecord {
                    join_time: 0,
                    up_time: 0,
                    total_mb: 0,
                    free_mb: 0,
                    reserved_mb: 0,
                    current_write_path: 0,
                    source_id: Default::default(),
                    stat: Default::default(),
                    ..*r
                };
                StorageList::decode(bytes).unwrap().0.iter().map(shape).collect()
            };
            assert_eq!(same(&body), same(recorded), "{what}");
        }
        Command::GetLeader => {
            let host = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().rsplit_once(':').unwrap().0.to_owned();
            assert_eq!(host(&body), host(recorded), "{what}");
        }
        Command::TrackerGetStatus => {
            let (own, recorded) = (TrackerStatus::decode(&body).unwrap(), TrackerStatus::decode(recorded).unwrap());
            assert_eq!((own.leader, own.restart_interval), (recorded.leader, recorded.restart_interval), "{what}");
            assert_eq!(own.running_time % 300, 0);
        }
        Command::TrackerClusterStat => {
            let same = |bytes: &[u8]| -> Vec<TrackerHealth> {
                let shape = |r: &TrackerHealth| TrackerHealth {
                    host: Default::default(),
                    connections: Default::default(),
                    up_time: 0,
                    ..*r
                };
                TrackerClusterStat::decode(bytes).unwrap().0.iter().map(shape).collect()
            };
            assert_eq!(same(&body), same(recorded), "{what}");
        }
        Command::StorageClusterStat => {
            let same = |bytes: &[u8]| {
                let stat = StorageClusterStat::decode(bytes).unwrap();
                let shape = |r: &StorageHealth| StorageHealth {
                    connections: Default::default(),
                    up_time: 0,
                    last_heart_beat: 0,
                    ..*r
                };
                let list: Vec<_> = stat.storages.iter().map(shape).collect();
                (stat.use_storage_id, stat.use_trunk, list)
            };
            assert_eq!(same(&body), same(recorded), "{what}");
        }
        Command::VolumeStat => {
            let same = |bytes: &[u8]| {
                let stat = VolumeStatReport::decode(bytes).unwrap();
                let shape = |r: &VolumeStat| (r.group, r.disk_available, r.trunk_available, r.avail_mb > 0);
                (stat.use_trunk, stat.groups.iter().map(shape).collect::<Vec<_>>())
            };
            assert_eq!(same(&body), same(recorded), "{what}");
        }
        // Everything else must match byte for byte: 60, 69, 70, 71, 75, 109, 111.
        _ => assert_eq!(body, recorded, "{what}"),
    }
}

/// Replays the cases of a cluster as a client at `from`; a case after which the connection is closed gets a new one.
fn replay(running: &Running, from: &str, cases: &[Case], members: &[&str]) -> usize {
    let connect = || Peer::connect_from(from.parse().unwrap(), running.addr());
    let mut peer = connect();
    for case in cases {
        check(&mut peer, case, members);
        if case.response.is_empty() {
            peer = connect();
        }
    }
    // Whatever was refused, the connection of the others stayed open.
    check(&mut peer, &cases[0], members);
    cases.len()
}

fn is_state(case: &Case) -> bool {
    case.name.starts_with("offline-") || case.name.starts_with("nospace-")
}

#[test]
fn one_tracker_one_storage() {
    let running = Running::start("127.0.0.1", "reserved_storage_space=1%");
    let mut request = join_request(running.addr());
    request.subdir_count_per_path = 256;
    let _storage = Double::active("127.0.0.1", running.addr(), &request, space(258_019, 64_822));
    assert!(replay(&running, "127.0.0.1", &cases()["main"], &["127.0.0.1"]) > 100);
}

#[test]
fn the_wide_address_form() {
    let running = Running::start("127.0.0.31", "reserved_storage_space=1%\nresponse_ip_addr_size=IPv6");
    let storage = Double::active("127.0.0.31", running.addr(), &join_request(running.addr()), space(258_019, 64_000));
    let all = cases().remove("v6size").unwrap();
    let (states, ordinary): (Vec<Case>, Vec<Case>) = all.into_iter().partition(is_state);
    assert!(replay(&running, "127.0.0.31", &ordinary, &["127.0.0.31"]) > 20);

    // The storage is gone; the group may be asked for but serves nobody, and the storage can be deleted.
    drop(storage);
    let order = ["list", "store", "query", "group-with-offline-storage"];
    let offline =
        |part: &str| -> Vec<Case> { states.iter().filter(|c| c.name == format!("offline-{part}")).cloned().collect() };
    let mut peer = Peer::connect_from("127.0.0.31".parse().unwrap(), running.addr());
    wait_until_offline(&mut peer);
    for case in order.iter().flat_map(|part| offline(part)) {
        check(&mut peer, &case, &[]);
    }
    for part in ["delete", "delete-again", "list-after-delete", "group-with-deleted-storage"] {
        for case in offline(part) {
            check(&mut peer, &case, &[]);
        }
    }
}

/// The tracker notices the end of a connection by itself, but not at once.
fn wait_until_offline(peer: &mut Peer) {
    let group = fdfs_protocol::tracker::GroupQuery { group: "group1".parse().unwrap() };
    while peer.call(Command::QueryStoreWithGroupOne, &group).0.is_ok() {
        std::thread::yield_now();
    }
}

#[test]
fn no_space() {
    let running = Running::start("127.0.0.31", "reserved_storage_space=1%\nresponse_ip_addr_size=IPv6");
    let _storage = Double::active("127.0.0.31", running.addr(), &join_request(running.addr()), space(258_019, 100));
    let all = cases().remove("v6size").unwrap();
    let full: Vec<Case> = all.into_iter().filter(|c| c.name.starts_with("nospace-")).collect();
    assert_eq!(full.len(), 4);
    let mut peer = Peer::connect_from("127.0.0.31".parse().unwrap(), running.addr());
    for case in full {
        check(&mut peer, &case, &[]);
    }
}

fn with_ids(host: &str, table: &str, more: &str) -> Running {
    let ids = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ids.path(), table).unwrap();
    let lines = format!(
        "reserved_storage_space=1%\nuse_storage_id=true\nid_type_in_filename=id\nstorage_ids_filename={}\n{more}",
        ids.path().display()
    );
    Running::start(host, &lines)
}

#[test]
fn storage_ids_and_two_storages() {
    let table = "100001 group1 127.0.5.1:23000\n100002 group1 127.0.5.2:23000\n";
    let running = with_ids("127.0.5.1", table, "");
    let mut request = join_request(running.addr());
    request.store_path_count = 2;
    let mut doubles: Vec<Double> = ["127.0.5.1", "127.0.5.2"]
        .into_iter()
        .map(|ip| Double::active(ip, running.addr(), &request, space(258_019, 64_600)))
        .collect();
    // Both have everything, whatever the date is today.
    for d in &mut doubles {
        d.synced(&["100001", "100002"], u32::MAX);
    }
    let members = ["127.0.5.1", "127.0.5.2"];
    assert!(replay(&running, "127.0.5.1", &cases()["id"], &members) > 40);
}

#[test]
fn trunk_files() {
    let lines =
        "reserved_storage_space=1%\nuse_trunk_file=true\nslot_min_size=1\nslot_max_size=64KB\ntrunk_file_size=4MB";
    let running = Running::start("127.0.0.34", lines);
    let _storage = Double::active("127.0.0.34", running.addr(), &join_request(running.addr()), space(258_019, 64_600));
    assert!(replay(&running, "127.0.0.34", &cases()["trunk"], &["127.0.0.34"]) > 20);
}

#[test]
fn ipv6_addresses() {
    // No host has the recorded address: the double joins from elsewhere and says its id.
    let running = with_ids("127.0.0.1", "200001 group1 [fd77::36]:23000\n", "");
    let mut request = join_request(running.addr());
    request.id = "200001".parse().unwrap();
    let mut storage = Double::active("127.0.0.1", running.addr(), &request, space(258_019, 64_600));
    storage.synced(&["200001"], u32::MAX);
    let about_the_asker = [60, 95, 109];
    let cases: Vec<Case> =
        cases().remove("ipv6").unwrap().into_iter().filter(|c| !about_the_asker.contains(&c.code)).collect();
    assert!(replay(&running, "127.0.0.1", &cases, &["fd77::36"]) > 15);
}
