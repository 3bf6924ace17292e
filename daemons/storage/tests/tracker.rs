//! What a storage says to its trackers, in which order, and what it makes of their answers. The tracker here is a double
//! that keeps everything it is sent.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use common::{Client, Fixture};
use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::peer::join::TrackerAddress;
use fdfs_protocol::peer::member::{Brief, MemberChanges};
use fdfs_protocol::peer::{DiskUsage, JoinReply, JoinRequest, Parameters, SyncNotify};
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::tracker::TrackerStatus;
use fdfs_protocol::{Command, Encode, IpText, StorageId};
use fdfs_storage::StorageConfig;
use parking_lot::{Condvar, Mutex};

type Sent = (usize, Command, Vec<u8>);
type Answer = dyn Fn(&Sent) -> Option<(u8, Vec<u8>)> + Send + Sync;

/// A tracker that answers by rule.
struct Double {
    addr: SocketAddr,
    heard: Arc<(Mutex<Vec<Sent>>, Condvar)>,
}

impl Double {
    /// `answer` overrides the answers of a healthy tracker with one fresh storage.
    fn start(answer: impl Fn(&Sent) -> Option<(u8, Vec<u8>)> + Send + Sync + 'static) -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let heard = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let all = heard.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (heard, answer) = (all.clone(), answer.clone());
                std::thread::spawn(move || serve(number, stream.unwrap(), &heard, &*answer));
            }
        });
        Double { addr, heard }
    }

    /// Waits until what was heard satisfies `enough`.
    fn wait<T>(&self, what: &str, enough: impl Fn(&[Sent]) -> Option<T>) -> T {
        let mut heard = self.heard.0.lock();
        loop {
            if let Some(found) = enough(&heard) {
                return found;
            }
            let timed_out = self.heard.1.wait_for(&mut heard, Duration::from_secs(60)).timed_out();
            assert!(!timed_out, "{what}: {:?}", heard.iter().map(|s| (s.0, s.1)).collect::<Vec<_>>());
        }
    }

    /// The commands of the connection that joined first.
    fn session(&self, len: usize) -> Vec<Sent> {
        self.wait("session", |all| {
            let joined = all.iter().find(|s| s.1 == Command::StorageJoin)?.0;
            let session: Vec<_> = all.iter().filter(|s| s.0 == joined).cloned().collect();
            (session.len() >= len).then_some(session)
        })
    }
}

fn serve(number: usize, mut stream: TcpStream, heard: &(Mutex<Vec<Sent>>, Condvar), answer: &Answer) {
    loop {
        let mut head = [0; HEADER_LEN];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; header.body_len as usize];
        stream.read_exact(&mut body).unwrap();
        let sent = (number, Command::from_code(header.cmd).unwrap(), body);
        let reply = answer(&sent).or_else(|| healthy(sent.1));
        heard.0.lock().push(sent);
        heard.1.notify_all();
        let Some((status, body)) = reply else { return };
        let head = Header { body_len: body.len() as u64, cmd: 100, status };
        if stream.write_all(&[&head.encode()[..], &body].concat()).is_err() {
            return;
        }
    }
}

fn encoded(message: &impl Encode) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn healthy(command: Command) -> Option<(u8, Vec<u8>)> {
    let body = match command {
        Command::Quit => return None,
        Command::GetMyIp => b"127.0.0.1".to_vec(),
        Command::StorageParameterReq => encoded(&Parameters::default()),
        Command::StorageJoin => encoded(&JoinReply { status: StorageStatus::Init, source: StorageId::NONE }),
        Command::StorageBeat | Command::StorageReportDiskUsage | Command::StorageSyncReport => {
            encoded(&MemberChanges::default())
        }
        _ => Vec::new(),
    };
    Some((0, body))
}

fn with_tracker(double: &Double) -> impl FnOnce(&mut StorageConfig) {
    let addr = double.addr;
    move |c| {
        *c = StorageConfig::embedded(&c.base_path, addr, common::group());
        c.subdirs = 2;
        c.workers = 1;
        c.heart_beat_interval = Duration::from_secs(1);
    }
}

#[test]
fn the_order_is_that_of_fastdfs() {
    let double = Double::start(|_| None);
    let f = Fixture::with(with_tracker(&double));
    assert!(f.storage.as_ref().unwrap().wait_active(Duration::from_secs(60)));
    let session = double.session(8);
    let commands: Vec<_> = session.iter().map(|s| s.1).collect();
    use Command as C;
    let expected = [
        C::StorageJoin,
        C::StorageSyncDestReq,
        C::StorageSyncNotify,
        C::StorageBeat,
        C::StorageChangelogReq,
        C::StorageReportDiskUsage,
        C::StorageBeat,
        C::StorageChangelogReq,
    ];
    assert_eq!(commands[..8], expected);
    // Each connection is heard by a thread of its own: only the order within one is certain.
    let mut before = double.wait("the end of the first connections", |all| {
        let others: Vec<_> = all.iter().filter(|s| s.0 != session[0].0).map(|s| (s.0, s.1)).collect();
        (others.len() >= 4).then_some(others)
    });
    before.sort_by_key(|(connection, _)| *connection);
    let before: Vec<_> = before.into_iter().map(|(_, command)| command).collect();
    assert_eq!(before, [C::GetMyIp, C::Quit, C::StorageParameterReq, C::Quit]);

    let join = JoinRequest::decode(&session[0].2).unwrap();
    assert_eq!(
        (join.group, join.port, join.store_path_count, join.subdir_count_per_path),
        (common::group(), f.addr().port(), 1, 2)
    );
    assert!(join.fresh && join.id.is_none() && join.version.as_str() == "6.16.1");
    assert_eq!(join.status, Some(StorageStatus::Init));
    assert_eq!(join.tracker_ip.as_str(), "127.0.0.1");
    assert_eq!(join.trackers.len(), 1);
    assert_eq!(SyncNotify::decode(&session[2].2).unwrap(), SyncNotify::default());
    assert_eq!(session[3].2.len(), 348);
    assert_eq!(DiskUsage::decode(&session[5].2).unwrap().0.len(), 1);
    // Nothing was counted since: an empty beat.
    assert!(session[6].2.is_empty());
}

#[test]
fn a_restart_does_not_ask_for_a_source_again() {
    let source = SyncNotify { source: StorageId::new("10.0.0.9").unwrap(), until: 1234 };
    let double = Double::start(move |s| (s.1 == Command::StorageSyncDestReq).then(|| (0, encoded(&source))));
    let mut f = Fixture::with(with_tracker(&double));
    double.wait("first beat", |all| all.iter().any(|s| s.1 == Command::StorageBeat).then_some(()));
    let flag = std::fs::read_to_string(f.config.base_path.join("data/.data_init_flag")).unwrap();
    assert!(flag.contains("sync_old_done=1\nsync_src_server=10.0.0.9\nsync_until_timestamp=1234\n"), "{flag}");
    let count = double.wait("now", |all| Some(all.len()));
    f.restart();
    let after = double.wait("second beat", |all| {
        let after = &all[count..];
        after.iter().any(|s| s.1 == Command::StorageBeat).then(|| after.to_vec())
    });
    let join = after.iter().find(|s| s.1 == Command::StorageJoin).unwrap();
    assert!(!JoinRequest::decode(&join.2).unwrap().fresh);
    assert!(!after.iter().any(|s| s.1 == Command::StorageSyncDestReq));
    let notify = after.iter().find(|s| s.1 == Command::StorageSyncNotify).unwrap();
    assert_eq!(SyncNotify::decode(&notify.2).unwrap(), source);
}

#[test]
fn who_waits_for_old_files_tells_again_who_is_to_give_them() {
    let source = SyncNotify { source: StorageId::new("10.0.0.9").unwrap(), until: 1234 };
    let double = Double::start(move |s| (s.1 == Command::StorageSyncDestReq).then(|| (0, encoded(&source))));
    let f = Fixture::with(with_tracker(&double));
    // Not only when it joins.
    let told = double.wait("told twice", |all| {
        let notes: Vec<_> = all.iter().filter(|s| s.1 == Command::StorageSyncNotify).cloned().collect();
        (notes.len() >= 2).then_some(notes)
    });
    assert!(told.iter().all(|s| s.0 == told[0].0 && SyncNotify::decode(&s.2).unwrap() == source));
    drop(f);
}

#[test]
fn a_source_that_is_deleted_is_replaced_only_if_it_was_not_done() {
    for complete in [true, false] {
        let source = SyncNotify { source: StorageId::new("10.0.0.9").unwrap(), until: 1234 };
        let deleted = Arc::new(AtomicBool::new(false));
        let told = deleted.clone();
        let double = Double::start(move |s| match s.1 {
            Command::StorageSyncDestReq if told.load(Relaxed) => None,
            Command::StorageSyncDestReq => Some((0, encoded(&source))),
            Command::StorageJoin if told.load(Relaxed) => {
                let status = if complete { StorageStatus::Online } else { StorageStatus::Syncing };
                Some((0, encoded(&JoinReply { status, source: StorageId::NONE })))
            }
            // Told every time: once is enough.
            Command::StorageChangelogReq if told.load(Relaxed) => Some((0, b"1 group1 10.0.0.9 4 \n".to_vec())),
            _ => None,
        });
        let mut f = Fixture::with(with_tracker(&double));
        double.wait("first beat", |all| all.iter().any(|s| s.1 == Command::StorageBeat).then_some(()));
        f.storage.take().unwrap().stop();
        deleted.store(true, Relaxed);
        let count = double.wait("now", |all| Some(all.len()));
        f.storage = Some(fdfs_storage::Storage::start(f.config.clone()).unwrap());
        let after = double.wait("reports", |all| {
            let reports = all[count..].iter().filter(|s| s.1 == Command::StorageReportDiskUsage).count();
            (reports >= 1).then(|| all[count..].to_vec())
        });
        assert_eq!(after.iter().filter(|s| s.1 == Command::StorageSyncDestReq).count(), usize::from(!complete));
        let flag = std::fs::read_to_string(f.config.base_path.join("data/.data_init_flag")).unwrap();
        assert!(flag.contains("sync_old_done=1\nsync_src_server=\n"), "{flag}");
    }
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let double = Double::start(|s| {
        // The first session breaks at its disk report.
        (s.1 == Command::StorageReportDiskUsage && s.0 == 2).then_some((0, b"\xff".to_vec()))
    });
    let f = Fixture::with(with_tracker(&double));
    double.wait("second join", |all| (all.iter().filter(|s| s.1 == Command::StorageJoin).count() >= 2).then_some(()));
    assert!(f.storage.as_ref().unwrap().wait_active(Duration::from_secs(60)));
}

#[test]
fn a_refused_join_is_tried_again() {
    let double = Double::start(|s| (s.1 == Command::StorageJoin && s.0 == 2).then_some((14, Vec::new())));
    let f = Fixture::with(with_tracker(&double));
    assert!(f.storage.as_ref().unwrap().wait_active(Duration::from_secs(60)));
    let joins = double.wait("joins", |all| Some(all.iter().filter(|s| s.1 == Command::StorageJoin).count()));
    assert_eq!(joins, 2);
}

#[test]
fn members_that_the_tracker_does_not_know_are_told() {
    let brief = |n: u8, status| Brief {
        status,
        port: 23000,
        id: StorageId::new(&format!("10.0.0.{n}")).unwrap(),
        ip: IpText::new(&format!("10.0.0.{n}")).unwrap(),
    };
    let double = Double::start(move |s| {
        let list = match s.1 {
            Command::StorageBeat => vec![brief(1, StorageStatus::Active), brief(2, StorageStatus::Active)],
            Command::StorageReportDiskUsage => vec![brief(1, StorageStatus::Active)],
            _ => return None,
        };
        Some((0, encoded(&MemberChanges { members: Some(list), ..MemberChanges::default() })))
    });
    let _f = Fixture::with(with_tracker(&double));
    let told = double.wait("told", |all| all.iter().find(|s| s.1 == Command::StorageReplicaChg).cloned());
    assert_eq!(told.2, encoded(&brief(2, StorageStatus::Active)));
}

#[test]
fn files_wait_until_a_tracker_says_who_we_are() {
    let open = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = open.clone();
    let double = Double::start(move |s| {
        if s.1 == Command::GetMyIp {
            let mut open = gate.0.lock();
            while !*open {
                gate.1.wait(&mut open);
            }
        }
        None
    });
    let f = Fixture::with(with_tracker(&double));
    let mut c = f.client();
    assert!(c.is_alive());
    assert_eq!(c.upload_as(Command::UploadFile, b"early", "").status, 11);
    assert!(c.is_alive());
    *open.0.lock() = true;
    open.1.notify_all();
    assert!(f.storage.as_ref().unwrap().wait_active(Duration::from_secs(60)));
    let mut c = Client::connect(f.addr());
    let name = c.upload(b"now", "");
    assert_eq!(c.content(&name), b"now");
}

#[test]
fn storage_ids_and_wide_addresses() {
    use fdfs_protocol::peer::parameters::IdType;
    use fdfs_protocol::tracker::StorageIdsPage;
    let double = Double::start(|s| {
        let body = match s.1 {
            Command::StorageParameterReq => encoded(&Parameters {
                use_storage_id: true,
                id_type_in_filename: IdType::Id,
                response_ip_addr_size: fdfs_protocol::IpSize::V6,
                ..Parameters::default()
            }),
            Command::FetchStorageIds => {
                let text = "100001 group1 127.0.0.1\n100002 group1 10.0.0.2:23000 rw=read\n";
                encoded(&StorageIdsPage { total: 2, count: 2, text })
            }
            _ => return None,
        };
        Some((0, body))
    });
    let f = Fixture::with(with_tracker(&double));
    let join = JoinRequest::decode(&double.session(1)[0].2).unwrap();
    assert_eq!(join.id.as_str(), "100001");
    let mut c = f.client();
    let name = c.upload(b"content", "");
    assert_eq!(name.block().unwrap().source, fdfs_protocol::file_id::Source::Id(100_001));
    let info = c.info(&name, 0).ok();
    assert_eq!(info.len(), 70);
    assert_eq!(&info[24..33], b"127.0.0.1");
}

#[test]
fn the_real_tracker_sends_clients_here() {
    use fdfs_protocol::tracker::StoreOne;
    use fdfs_tracker::{Tracker, TrackerConfig};
    let dir = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(TrackerConfig::embedded(dir.path(), [127, 0, 0, 1].into(), 0)).unwrap();
    let addr = tracker.addr();
    let mut f = Fixture::with(|c| *c = StorageConfig::embedded(&c.base_path, addr, common::group()));
    for round in 0..2 {
        assert!(f.storage.as_ref().unwrap().wait_active(Duration::from_secs(60)));
        let mut c = Client::connect(addr);
        let answer = c.raw(Command::QueryStoreWithoutGroupOne.code(), 0, b"").ok();
        let store = StoreOne::decode(&answer).unwrap();
        assert_eq!((store.group, store.server.socket_addr()), (common::group(), Some(f.addr())), "{round}");
        let mut c = f.client();
        let name = c.upload(b"content", "txt");
        assert_eq!(c.content(&name), b"content");
        f.restart();
    }
    f.storage.take().unwrap().stop();
    tracker.stop();
}

/// A tracker that says in its first answer to a beat that it leads, and says so when it is asked if `leads`.
fn leader(leads: bool) -> Double {
    let own = Arc::new(Mutex::new(None));
    let known = own.clone();
    let double = Double::start(move |(_, command, _)| match command {
        Command::StorageBeat => {
            let addr: Option<SocketAddr> = known.lock().take();
            let brief = |addr: SocketAddr| {
                let ip = addr.ip();
                Brief { id: StorageId::from_ip(ip).unwrap(), ip: ip.into(), port: addr.port(), ..Brief::default() }
            };
            let changes = MemberChanges { leader: addr.map(brief), ..MemberChanges::default() };
            Some((0, encoded(&changes)))
        }
        Command::TrackerGetStatus => {
            Some((0, encoded(&TrackerStatus { leader: leads, running_time: 0, restart_interval: 0 })))
        }
        _ => None,
    });
    *own.lock() = Some(double.addr);
    double
}

#[test]
fn two_leaders_are_told_to_elect_anew_and_one_that_stepped_down_is_not() {
    for both in [true, false] {
        let trackers = [leader(both), leader(both)];
        let listed = trackers.each_ref().map(|t| TrackerAddress { ip: t.addr.ip(), other: None, port: t.addr.port() });
        let with = with_tracker(&trackers[0]);
        let _f = Fixture::with(move |c| {
            with(c);
            c.trackers = listed.to_vec();
        });
        let count = |all: &[Sent], command| all.iter().filter(|s| s.1 == command).count();
        if both {
            for tracker in &trackers {
                let reselect = |all: &[Sent]| (count(all, Command::TrackerNotifyReselectLeader) > 0).then_some(());
                tracker.wait("to elect anew", reselect);
            }
            continue;
        }
        // The second leader was heard of when every tracker has had two beats; what follows from it comes before a third.
        for tracker in &trackers {
            tracker.wait("three beats", |all| (count(all, Command::StorageBeat) >= 3).then_some(()));
        }
        let heard = trackers.each_ref().map(|t| t.heard.0.lock().clone());
        assert_eq!(heard.iter().map(|all| count(all, Command::TrackerGetStatus)).sum::<usize>(), 1);
        assert!(heard.iter().all(|all| count(all, Command::TrackerNotifyReselectLeader) == 0));
    }
}
