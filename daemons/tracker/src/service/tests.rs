//! What must hold for any request: exactly one answer, whatever the bytes, and a state that stays consistent.

use super::*;
use crate::state::MAX_GROUPS;
use crate::state::group::MAX_MEMBERS;
use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::peer::JoinRequest;
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{Command, Encode};
use proptest::prelude::*;

pub(super) fn shared() -> Arc<Shared> {
    let config = TrackerConfig::embedded("/nonexistent", [127, 0, 0, 1].into(), 22122);
    let mut cluster = Cluster::new(Arc::new(config.settings), Trackers::new(22122, 1000, None));
    let directory = cluster.publish().unwrap();
    Arc::new(Shared {
        cluster: Mutex::new(cluster),
        directory: ArcSwap::from_pointee(directory),
        wishes: keeper::Wishes::default(),
        counts: OnceLock::new(),
        sessions: AtomicU64::new(1),
        max_package: config.max_package,
        network_timeout: config.network_timeout,
        slots: config.max_connections,
        leadership: Notify::new(),
        catch_up: CatchUp::new(1000, None),
        dialling: Dialling { bind: config.bind, connect: config.connect_timeout, answer: config.network_timeout },
    })
}

fn connect(shared: &Arc<Shared>, host: u8) -> Connection {
    Connection::new(shared.clone(), [127, 0, 0, host].into(), [127, 0, 0, 1].into(), host.into())
}

/// A request that may make sense: the fields are drawn from few values, so that they meet.
fn join_body(port: u16, paths: u16, fresh: bool, status: u8) -> Vec<u8> {
    let request = JoinRequest {
        group: if paths > 2 { "group2" } else { "group1" }.parse().unwrap(),
        port,
        store_path_count: paths,
        subdir_count_per_path: 4,
        upload_priority: 10,
        join_time: 1,
        up_time: 1,
        version: "6.16.1".parse().unwrap(),
        fresh,
        status: StorageStatus::from_code(status),
        id: Default::default(),
        tracker_ip: "127.0.0.1".parse().unwrap(),
        trackers: vec!["127.0.0.1:22122".parse().unwrap()],
    };
    let mut out = Vec::new();
    request.encode(&mut out);
    out
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let padded = |text: &str, len: usize| {
        let mut field = text.as_bytes().to_vec();
        field.resize(len, 0);
        field
    };
    let name = prop_oneof![Just("group1"), Just("group2"), Just("a b"), Just("")].prop_map(move |g| padded(g, 16));
    let id = prop_oneof![Just("127.0.0.1"), Just("127.0.0.2"), Just("x")].prop_map(move |i| padded(i, 16));
    let ip = prop_oneof![Just("127.0.0.1"), Just("127.0.0.2"), Just("::1")].prop_map(move |i| padded(i, 46));
    let brief = (0u8..10, id.clone(), ip.clone())
        .prop_map(|(status, id, ip)| [vec![status, 0, 0, 0x59, 0xd8], id, ip].concat());
    prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 0..200),
        (23000u16..23002, 1u16..4, any::<bool>(), 0u8..10).prop_map(|(p, n, f, s)| join_body(p, n, f, s)),
        name.clone(),
        (name.clone(), id.clone()).prop_map(|(g, i)| [g, i].concat()),
        (name.clone(), id.clone()).prop_map(|(g, i)| [&g[..], &i[..9]].concat()),
        (name.clone(), "[A-Za-z0-9_/-]{20,130}").prop_map(|(g, n)| [g, n.into_bytes()].concat()),
        (name.clone(), ip.clone(), ip).prop_map(|(g, a, b)| [g, a, b].concat()),
        (id, 0u32..9).prop_map(|(i, t)| [i, t.to_be_bytes().to_vec()].concat()),
        (0u8..10).prop_map(|s| vec![s]),
        (0u64..2000, 0u64..2000, 1usize..4)
            .prop_map(|(t, f, n)| { [t.to_be_bytes(), f.to_be_bytes()].concat().repeat(n) }),
        brief.clone(),
        (name, brief).prop_map(|(g, b)| [g, b].concat()),
    ]
}

/// Commands that mean something to a tracker come up more often.
fn command() -> impl Strategy<Value = u8> {
    prop_oneof![1 => any::<u8>(), 3 => Just(Command::StorageJoin.code()), 8 => 58u8..112]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_request_has_one_answer(requests in proptest::collection::vec((1u8..4, command(), body()), 1..60)) {
        let shared = shared();
        let mut connections: Vec<Connection> = (1..4).map(|host| connect(&shared, host)).collect();
        let mut out = Vec::new();
        for (i, (host, cmd, body)) in requests.into_iter().enumerate() {
            out.clear();
            out.push(0x55);
            let header = Header { body_len: body.len() as u64, cmd, status: 0 };
            let done = connections[usize::from(host) - 1].answer(header, &body, 2000 + i as i64, &mut out);
            prop_assert_eq!(out[0], 0x55, "answers that wait are not touched");
            if let dispatch::Done::Joins(request) = &done {
                connections[usize::from(host) - 1].join_after(Ok(()), request, &mut out);
            }
            if matches!(done, dispatch::Done::Close) {
                prop_assert_eq!((cmd, out.len()), (Command::Quit.code(), 1));
                connections[usize::from(host) - 1] = connect(&shared, host);
                continue;
            }
            let answer = Header::decode(out[1..].first_chunk::<HEADER_LEN>().unwrap()).unwrap();
            prop_assert_eq!((answer.cmd, answer.body_len as usize), (100, out.len() - 1 - HEADER_LEN));
            prop_assert!(answer.outcome().is_ok() || answer.body_len == 0);
        }
        check(&shared);
        connections.clear();
        let cluster = shared.cluster.lock();
        for m in cluster.groups().flat_map(|g| g.members()) {
            prop_assert!(!m.is_active() && m.session.is_none(), "who is not connected does not serve");
        }
    }
}

#[test]
fn a_copier_that_loses_its_turn_is_told() {
    let shared = shared();
    let (mut storage, mut first) = (connect(&shared, 1), connect(&shared, 2));
    let ask = |of: &mut Connection, command: Command, body: &[u8]| {
        let mut out = Vec::new();
        of.answer(Header { body_len: body.len() as u64, cmd: command.code(), status: 0 }, body, 2000, &mut out);
        Header::decode(out.first_chunk::<HEADER_LEN>().unwrap()).unwrap().outcome()
    };
    let request = fdfs_protocol::peer::JoinRequest::decode(&join_body(23000, 1, true, 0)).unwrap();
    storage.join_after(Ok(()), &request, &mut Vec::new());
    assert!(ask(&mut first, Command::TrackerGetSysFilesStart, &[]).is_ok());
    assert!(ask(&mut first, Command::TrackerGetOneSysFile, &[0; 9]).is_ok());
    shared.cluster.lock().end_copy(first.caller.session);
    assert_eq!(ask(&mut first, Command::TrackerGetOneSysFile, &[0; 9]), fdfs_protocol::Status::EACCES);
}

/// What holds between any two requests.
fn check(shared: &Shared) {
    let mut cluster = shared.cluster.lock();
    assert!(cluster.publish().is_none(), "queries see the present");
    assert!(cluster.groups().count() <= MAX_GROUPS);
    for group in cluster.groups() {
        assert!(group.members().len() <= MAX_MEMBERS);
        let ids: Vec<_> = group.by_id().map(|m| m.id).collect();
        assert!(ids.windows(2).all(|w| w[0] < w[1]), "ids are unique");
        for (i, m) in group.members().iter().enumerate() {
            assert_eq!(group.synced_row(i).len(), ids.len());
            assert!(m.sync_source.is_none_or(|id| ids.contains(&id)), "a source is a member");
            assert!(!m.is_active() || m.session.is_some(), "who serves is connected");
            assert!(m.paths.len() <= 256);
        }
    }
}
