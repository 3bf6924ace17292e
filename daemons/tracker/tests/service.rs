//! The tracker as a server: framing, limits, timeouts, logins, persistence. Over real sockets, in this process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use fdfs_protocol::header::{HEADER_LEN, Header, frame};
use fdfs_protocol::peer::election::{GetSystemFile, SystemFilePiece};
use fdfs_protocol::peer::{ChangelogRequest, GroupMember, JoinRequest};
use fdfs_protocol::stat::{StatBlock, StorageStatus};
use fdfs_protocol::tracker::{DeleteStorage, GroupQuery, StorageList, StorageQuery, StoreOne};
use fdfs_protocol::{Command, Status};
use fdfs_tracker::{Tracker, TrackerConfig};
use support::{Double, Peer, Running, join_request, space, until};

const LOCAL: &str = "127.0.0.1";

fn group1() -> GroupQuery {
    GroupQuery { group: "group1".parse().unwrap() }
}

fn up(running: &Running) -> Double {
    Double::active(LOCAL, running.addr(), &join_request(running.addr()), space(100_000, 50_000))
}

fn status_of(peer: &mut Peer, id: &str) -> StorageStatus {
    let query = StorageQuery { group: "group1".parse().unwrap(), id: id.parse().unwrap() };
    StorageList::decode(&peer.ask(Command::ListStorage, &query)).unwrap().0[0].status
}

#[test]
fn requests_in_one_segment_are_answered_in_order() {
    let running = Running::start(LOCAL, "");
    let _storage = up(&running);
    let mut peer = Peer::connect(running.addr());
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        frame(Command::QueryStoreWithoutGroupOne, &(), &mut bytes);
        frame(Command::ActiveTest, b"x".as_slice(), &mut bytes);
        frame(Command::ListOneGroup, &group1(), &mut bytes);
    }
    std::thread::scope(|s| {
        let mut sender = peer.stream.try_clone().unwrap();
        s.spawn(move || sender.write_all(&bytes).unwrap());
        for _ in 0..1000 {
            assert_eq!(peer.receive().1.len(), 40);
            assert_eq!(peer.receive().0, Status::EINVAL);
            assert_eq!(peer.receive().1.len(), 113);
        }
    });
}

#[test]
fn requests_in_single_bytes_and_half_closed_connections() {
    let running = Running::start(LOCAL, "");
    let _storage = up(&running);
    let mut peer = Peer::connect(running.addr());
    let mut bytes = Vec::new();
    frame(Command::QueryStoreWithGroupOne, &group1(), &mut bytes);
    for b in &bytes {
        peer.send(&[*b]);
    }
    assert_eq!(StoreOne::decode(&peer.receive().1).unwrap().server.port, 23000);
    peer.send(&bytes);
    peer.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.receive().1.len(), 40, "answered though nothing more will come");
    assert!(peer.is_closed());
}

#[test]
fn frames_that_cannot_be_kept_in_step_close_the_connection() {
    let running = Running::start(LOCAL, "");
    let mut other = Peer::connect(running.addr());
    for length in [-1i64, i64::MIN, i64::MAX, 1 << 32, 262_135] {
        let mut peer = Peer::connect(running.addr());
        let mut head = [0; HEADER_LEN];
        head[..8].copy_from_slice(&length.to_be_bytes());
        head[8] = Command::ActiveTest.code();
        let mut bytes = Vec::new();
        frame(Command::ActiveTest, &(), &mut bytes);
        bytes.extend_from_slice(&head);
        peer.send(&bytes);
        assert_eq!(peer.receive().0, Status::OK, "what came before is answered");
        assert!(peer.is_closed(), "{length}");
        assert_eq!(other.call(Command::ActiveTest, &()).0, Status::OK, "others do not notice");
    }
}

#[test]
fn the_largest_request_and_unknown_commands_are_answered() {
    let running = Running::start(LOCAL, "");
    let mut peer = Peer::connect(running.addr());
    let mut bytes = Header { body_len: 262_134, cmd: Command::ActiveTest.code(), status: 0 }.encode().to_vec();
    bytes.resize(262_144, 0);
    assert_eq!(peer.exchange(&bytes).0, Status::EINVAL);
    for cmd in 0..=255u8 {
        if cmd == Command::Quit.code() {
            continue;
        }
        for body in [0, 1, 3, 16, 20, 40, 500] {
            let mut bytes = Header { body_len: body, cmd, status: 7 }.encode().to_vec();
            bytes.resize(HEADER_LEN + body as usize, 0xff);
            let known = Command::from_code(cmd).is_some();
            let (status, _) = peer.exchange(&bytes);
            assert!(known || status == Status::EINVAL, "command {cmd}");
        }
    }
    assert_eq!(peer.call(Command::ActiveTest, &()).0, Status::OK);
    peer.send(&Header { body_len: 3, cmd: Command::Quit.code(), status: 0 }.encode());
    peer.send(b"bye");
    assert!(peer.is_closed());
}

#[test]
fn who_did_not_join_may_not_report() {
    let running = Running::start(LOCAL, "");
    let mut peer = Peer::connect(running.addr());
    for cmd in [59, 72, 73, 74, 79, 83, 84, 85, 87, 88, 89] {
        let command = Command::from_code(cmd).unwrap();
        assert_eq!(peer.call(command, &()).0, Status::EACCES, "{command}");
        assert_eq!(peer.call(command, [0xff; 24].as_slice()).0, Status::EACCES, "{command}");
    }
}

#[test]
fn only_connections_that_keep_the_tracker_waiting_time_out() {
    let mut config = TrackerConfig::embedded(tempfile::tempdir().unwrap().path(), [127, 0, 0, 1].into(), 0);
    config.network_timeout = Duration::from_millis(300);
    let tracker = Tracker::start(config).unwrap();
    // On a machine that stalls the first request itself may come too late; then it is made again.
    let served = || loop {
        let mut peer = Peer::connect(tracker.addr());
        let mut bytes = Vec::new();
        frame(Command::ActiveTest, &(), &mut bytes);
        if peer.stream.write_all(&bytes).is_ok() && peer.stream.read_exact(&mut [0; HEADER_LEN]).is_ok() {
            return peer;
        }
    };
    let mut idle = served();
    let mut silent = Peer::connect(tracker.addr());
    let mut half = served();
    half.send(&[0, 0, 0]);
    let mut half_body = served();
    half_body.send(&Header { body_len: 16, cmd: Command::ListOneGroup.code(), status: 0 }.encode());
    assert!(silent.is_closed() && half.is_closed() && half_body.is_closed());
    assert_eq!(idle.call(Command::ActiveTest, &()).0, Status::OK, "between requests there is no limit");
}

#[test]
fn max_connections_and_allow_hosts() {
    let running = Running::start(LOCAL, "max_connections=2\nwork_threads=1\nallow_hosts=127.0.0.1");
    let mut stranger = Peer::connect_from("127.0.0.2".parse().unwrap(), running.addr());
    assert!(stranger.is_closed(), "closed without a byte");
    let mut peers: Vec<Peer> = (0..2).map(|_| Peer::connect(running.addr())).collect();
    peers.iter_mut().for_each(|p| assert_eq!(p.call(Command::ActiveTest, &()).0, Status::OK));
    assert!(Peer::connect(running.addr()).is_closed());
    let mut gone = peers.pop().unwrap();
    gone.send(&Header { body_len: 0, cmd: Command::Quit.code(), status: 0 }.encode());
    assert!(gone.is_closed());
    // The slot is free as soon as the tracker has noticed.
    until("the slot is free", || {
        let mut peer = Peer::connect(running.addr());
        let mut bytes = Vec::new();
        frame(Command::ActiveTest, &(), &mut bytes);
        let sent = peer.stream.write_all(&bytes).is_ok();
        (sent && peer.stream.read(&mut [0]).is_ok_and(|n| n > 0)).then_some(())
    });
}

/// What a storage says that has its files.
fn rejoin_request(addr: std::net::SocketAddr) -> JoinRequest {
    JoinRequest { fresh: false, ..join_request(addr) }
}

#[test]
fn a_storage_lives_as_long_as_its_connection() {
    let running = Running::start(LOCAL, "");
    let mut client = Peer::connect(running.addr());
    let mut storage = up(&running);
    assert_eq!(status_of(&mut client, LOCAL), StorageStatus::Active);
    let changes = storage.beat(None);
    assert!(changes.leader.is_none(), "told with the first beat");
    drop(storage);
    until("it is down", || (!client.call(Command::QueryStoreWithoutGroupOne, &()).0.is_ok()).then_some(()));
    assert_eq!(status_of(&mut client, LOCAL), StorageStatus::Offline);
    let mut again = Double::join(LOCAL, running.addr(), &rejoin_request(running.addr()));
    assert_eq!(again.reply.status, StorageStatus::Online);
    let changes = again.beat(None);
    assert_eq!(changes.leader.unwrap().port, running.addr().port());
    assert_eq!(changes.members.unwrap()[0].status, StorageStatus::Active);
}

#[test]
fn silence_takes_a_storage_out() {
    let running = Running::start(LOCAL, "check_active_interval=1");
    let mut client = Peer::connect(running.addr());
    let mut storage = up(&running);
    until("it is down", || (!client.call(Command::QueryStoreWithoutGroupOne, &()).0.is_ok()).then_some(()));
    until("it serves again", || {
        storage.beat(None);
        client.call(Command::QueryStoreWithoutGroupOne, &()).0.is_ok().then_some(())
    });
}

#[test]
fn a_restart_keeps_what_was_known() {
    let mut running = Running::start(LOCAL, "");
    let a = up(&running);
    let request = join_request(running.addr());
    let mut b = Double::join("127.0.0.2", running.addr(), &request);
    b.peer.ask(Command::StorageSyncDestReq, &());
    let mut counters = StatBlock::default();
    counters.upload_count.total = 77;
    b.beat(Some(counters));
    drop((a, b));
    running.restart(LOCAL, "");
    let mut client = Peer::connect(running.addr());
    assert_eq!(status_of(&mut client, LOCAL), StorageStatus::Offline);
    assert_eq!(status_of(&mut client, "127.0.0.2"), StorageStatus::WaitSync);
    let query = StorageQuery { group: "group1".parse().unwrap(), id: "127.0.0.2".parse().unwrap() };
    let record = StorageList::decode(&client.ask(Command::ListStorage, &query)).unwrap().0[0];
    assert_eq!((record.source_id.as_str(), record.stat.upload_count.total), (LOCAL, 77));
    assert_eq!(client.call(Command::QueryStoreWithoutGroupOne, &()).0, Status::ENOENT, "nobody is up yet");
    let known = Double::join(LOCAL, running.addr(), &rejoin_request(running.addr()));
    assert_eq!(known.reply.status, StorageStatus::Online);
}

#[test]
fn a_deletion_is_on_disk_when_it_is_answered() {
    let running = Running::start(LOCAL, "");
    let mut client = Peer::connect(running.addr());
    let survivor = up(&running);
    let b = Double::active("127.0.0.2", running.addr(), &join_request(running.addr()), space(100_000, 50_000));
    let delete = DeleteStorage { group: "group1".parse().unwrap(), id: "127.0.0.2".parse().unwrap() };
    assert_eq!(client.call(Command::DeleteStorage, &delete).0, Status::EBUSY);
    drop(b);
    until("it is down", || (client.call(Command::DeleteStorage, &delete).0 != Status::EBUSY).then_some(()));
    assert!(running.file("storage_changelog.dat").ends_with(" group1 127.0.0.2 4 \n"));
    assert!(!running.file("storage_servers_new.dat").contains("127.0.0.2"));
    assert_eq!(running.file("storage_sync_timestamp.dat"), "group1,127.0.0.1,0\n");
    assert_eq!(client.call(Command::DeleteStorage, &delete).0, Status::EALREADY);
    let mut survivor = survivor;
    let told = survivor.peer.ask(Command::StorageChangelogReq, &ChangelogRequest(None));
    assert!(told.ends_with(b" group1 127.0.0.2 4 \n"));
    assert_eq!(survivor.peer.ask(Command::StorageChangelogReq, &ChangelogRequest(None)), b"");
    let who = GroupMember { group: "group1".parse().unwrap(), id: LOCAL.parse().unwrap() };
    assert_eq!(client.ask(Command::StorageChangelogReq, &ChangelogRequest(Some(who))), b"");
    assert_eq!(client.call(Command::StorageChangelogReq, &ChangelogRequest(None)).0, Status::EINVAL);
}

#[test]
fn another_tracker_copies_the_files() {
    let running = Running::start(LOCAL, "");
    let mut tracker = Peer::connect(running.addr());
    assert_eq!(tracker.call(Command::TrackerGetSysFilesStart, &()).0, Status::ENOENT);
    let _storage = up(&running);
    tracker.ask(Command::TrackerGetSysFilesStart, &());
    let mut second = Peer::connect_from("127.0.0.2".parse().unwrap(), running.addr());
    assert_eq!(second.call(Command::TrackerGetSysFilesStart, &()).0, Status::EBUSY);
    let mut text = Vec::new();
    loop {
        let body = tracker.ask(Command::TrackerGetOneSysFile, &GetSystemFile { index: 0, offset: text.len() as u64 });
        let piece = SystemFilePiece::decode(&body).unwrap();
        text.extend_from_slice(piece.data);
        if text.len() as u64 == piece.file_size {
            break;
        }
    }
    assert!(text.starts_with(b"[Global]\n\tgroup_count=1\n"));
    let beyond = GetSystemFile { index: 0, offset: text.len() as u64 + 1 };
    assert_eq!(tracker.call(Command::TrackerGetOneSysFile, &beyond).0, Status::EINVAL);
    tracker.ask(Command::TrackerGetSysFilesEnd, &());
    second.ask(Command::TrackerGetSysFilesStart, &());
}

#[test]
fn starting_twice_says_what_is_wrong() {
    let running = Running::start(LOCAL, "");
    let config = TrackerConfig::embedded(running.base.path(), [127, 0, 0, 1].into(), 0);
    let error = Tracker::start(config).unwrap_err().to_string();
    assert!(error.contains("another tracker runs"), "{error}");
    let elsewhere = tempfile::tempdir().unwrap();
    let taken = TrackerConfig::embedded(elsewhere.path(), [127, 0, 0, 1].into(), running.addr().port());
    let error = Tracker::start(taken).unwrap_err().to_string();
    assert!(error.contains(&running.addr().to_string()) && error.contains("another process"), "{error}");
    let fine = TrackerConfig::embedded(elsewhere.path(), [127, 0, 0, 1].into(), 0);
    Tracker::start(fine).unwrap().stop();
}
