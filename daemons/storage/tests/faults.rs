//! Clients that go away, processes that die, disks that are full.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use std::io::{Read, Write};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use common::{Client, Fixture, noise};
use fdfs_protocol::header::Header;
use fdfs_protocol::storage::{AppendHead, MetadataMode, UploadHead};
use fdfs_protocol::{Command, Encode, ExtName};
use fdfs_storage::Storage;
use fdfs_storage::disk::pending::{Kind, Pending};
use fdfs_storage::disk::store::StorePathConfig;

/// Waits for something the server does after a client is gone.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !check() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

fn begin(c: &mut Client, cmd: Command, head: &impl Encode, size: u64, sent: &[u8]) {
    let mut body = Vec::new();
    head.encode(&mut body);
    let header = Header::request(cmd, body.len() as u64 + size);
    c.stream.write_all(&[&header.encode()[..], &body, sent].concat()).unwrap();
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let f = Fixture::start();
    for (size, sent) in [(1000, 500), (200_000, 100_000), (5_000_000, 3_000_000), (5_000_000, 0)] {
        let mut c = f.client();
        let head = UploadHead { store_path: None, size, ext: ExtName::NONE };
        begin(&mut c, Command::UploadFile, &head, size, &noise(sent, 1));
    }
    assert!(f.client().is_alive());
    eventually("pieces stay", || f.stored().is_empty());
    assert_eq!(f.binlog(), "");
}

#[test]
fn an_append_that_breaks_off_is_taken_back() {
    let f = Fixture::start();
    let mut c = f.client();
    let before = noise(300_000, 5);
    let name = c.upload_appender(&before, "");
    for (size, sent) in [(1000, 500), (5_000_000, 3_000_000)] {
        let mut broken = f.client();
        begin(&mut broken, Command::AppendFile, &AppendHead { size, name }, size, &noise(sent, 2));
        // Not before the server has begun to write, where it will.
        if sent > 1_000_000 {
            eventually("nothing is written", || std::fs::metadata(f.path(&name)).unwrap().len() > 300_000);
        }
        drop(broken);
        eventually("the piece stays", || std::fs::metadata(f.path(&name)).unwrap().len() == 300_000);
    }
    // The running sum is that of what is there.
    c.append(&name, b"end").ok();
    let sealed = c.regenerate(&name).name();
    assert_eq!(sealed.block().unwrap().crc32, crc32fast::hash(&[&before[..], b"end"].concat()));
    assert_eq!(f.changes().len(), 3);
}

#[test]
fn slow_clients_are_given_up_and_idle_ones_are_not() {
    let f = Fixture::with(|c| c.network_timeout = Duration::from_secs(1));
    let mut idle = f.client();
    assert!(idle.is_alive());
    let mut silent = f.client();
    let mut half = f.client();
    half.stream.write_all(&[0, 0, 0]).unwrap();
    let mut stalled = f.client();
    let head = UploadHead { store_path: None, size: 1_000_000, ext: ExtName::NONE };
    begin(&mut stalled, Command::UploadFile, &head, 1_000_000, &noise(400_000, 1));
    for c in [&mut silent, &mut half, &mut stalled] {
        assert_eq!(c.stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    assert!(f.stored().is_empty());
    assert!(idle.is_alive());
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let f = Fixture::with(|c| c.workers = 1);
    let mut c = f.client();
    let large = noise(32 << 20, 1);
    let name = c.upload(&large, "");
    let mut lazy = f.client();
    let mut body = Vec::new();
    fdfs_protocol::storage::Download { offset: 0, len: 0, group: common::group(), name }.encode(&mut body);
    lazy.send_raw(Command::DownloadFile.code(), 0, &body);
    for i in 0..100 {
        let name = c.upload(&[i; 100], "");
        assert_eq!(c.content(&name), [i; 100]);
    }
    assert_eq!(lazy.answer().ok(), large);
}

#[test]
fn counters_and_positions_survive_a_restart() {
    let mut f = Fixture::start();
    let mut c = f.client();
    let first = c.upload(b"one", "");
    c.content(&first);
    f.restart();
    let text = std::fs::read_to_string(f.config.base_path.join("data/storage_stat.dat")).unwrap();
    for line in ["total_upload_count=1", "success_upload_bytes=3", "success_download_count=1"] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    let mut c = f.client();
    let second = c.upload(b"two", "");
    assert_eq!((c.content(&first), c.content(&second)), (b"one".to_vec(), b"two".to_vec()));
    assert_eq!(f.changes(), [format!("C {first}"), format!("C {second}")]);
    assert_eq!(f.storage.as_ref().unwrap().service().counters.snapshot().upload_count.total, 2);
    let flag = std::fs::read_to_string(f.config.base_path.join("data/.data_init_flag")).unwrap();
    assert!(flag.contains("last_ip_addr=127.0.0.1\n") && flag.contains("store_path_mark0="), "{flag}");
}

#[test]
fn mixed_up_store_paths_are_refused_at_start() {
    let second = tempfile::tempdir().unwrap();
    let mut f = Fixture::with(|c| c.paths.push(StorePathConfig { path: second.path().into(), readonly: false }));
    f.storage.take().unwrap().stop();
    let mut config = f.config.clone();
    config.paths.reverse();
    let e = format!("{:#}", Storage::start(config).unwrap_err());
    assert!(e.contains("store_path0") && e.contains("check the order"), "{e}");
    Storage::start(f.config.clone()).unwrap().stop();
}

#[test]
fn a_taken_port_is_an_error_with_a_remedy() {
    let f = Fixture::start();
    let other = tempfile::tempdir().unwrap();
    let mut config = common::config(other.path());
    config.port = f.addr().port();
    let e = format!("{:#}", Storage::start(config).unwrap_err());
    assert!(e.contains(&f.addr().to_string()) && e.contains("already running"), "{e}");
}

#[test]
fn a_full_disk_is_said_so_and_leaves_no_pieces() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut f = Fixture::with(|c| c.paths = vec![StorePathConfig { path: disk.0.path().into(), readonly: false }]);
    let mut c = f.client();
    // More than there is, known before: refused at once.
    assert_eq!(c.upload_as(Command::UploadFile, &noise(20 << 20, 1), "").status, 28);
    let mut c = f.client();
    let appender = c.upload_appender(b"start", "");
    let mut kept = Vec::new();
    // An append is not checked before: the disk itself refuses, in the middle.
    assert_eq!(c.append(&appender, &noise(20 << 20, 1)).status, 28);
    c = f.client();
    assert_eq!(c.content(&appender), b"start");
    // Files until it is full; the free space is looked at once a second, so some are refused by the disk itself, and the
    // first perhaps for what the append had taken.
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        let answer = c.upload_as(Command::UploadFile, &noise(60_000, kept.len() as u64), "");
        match answer.status {
            0 => kept.push(answer.name()),
            28 if kept.is_empty() && Instant::now() < deadline => c = f.client(),
            status => break status,
        }
    };
    assert_eq!(status, 28);
    let mut c = f.client();
    for (i, name) in kept.iter().enumerate() {
        assert_eq!(c.content(name), noise(60_000, i as u64));
    }
    assert_eq!(f.stored().len(), kept.len() + 1);
    assert_eq!(f.changes().len(), kept.len() + 1);
    // A write into a file is made whole or not at all.
    while c.append(&appender, &[b'x'; 4096]).status == 0 {}
    let mut c = f.client();
    let full = c.content(&appender);
    assert_eq!(c.modify(&appender, full.len() as u64 - 1000, &noise(20_000, 1)).status, 28);
    let mut c = f.client();
    assert!(c.content(&appender) == full);
    assert_eq!(f.changes().iter().filter(|line| line.starts_with("M ")).count(), 0);
    // Growing is refused, making room is not.
    assert_eq!(c.truncate(&appender, 1 << 40).status, 28);
    let mut c = f.client();
    c.truncate(&appender, 2).ok();
    c.delete(&kept[0]).ok();
    f.storage.take().unwrap().stop();
}

#[test]
fn on_a_full_disk_a_removal_is_done_and_recorded_or_refused() {
    let Some(disk) = SmallDisk::mount() else { return };
    let f = Fixture::with(|c| {
        c.base_path = disk.0.path().join("base");
        c.paths = vec![StorePathConfig { path: disk.0.path().join("files"), readonly: false }];
        std::fs::create_dir_all(&c.base_path).unwrap();
        std::fs::create_dir_all(&c.paths[0].path).unwrap();
    });
    let mut c = f.client();
    // Their removal makes no room, and there is room taken for the records of some 1000.
    let names: Vec<_> = (0..2500).map(|_| c.upload(b"", "")).collect();
    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|n| n == 4096) {}
    let mut refused = 0;
    for name in &names[1..] {
        match c.delete(name).status {
            0 => assert!(!f.path(name).exists()),
            28 => {
                assert!(f.path(name).exists(), "refused, and gone");
                refused += 1;
            }
            status => panic!("{name}: {status}"),
        }
    }
    assert!((100..2499).contains(&refused), "{refused} were refused");
    assert_eq!(c.set_metadata(&names[0], MetadataMode::Overwrite, b"a\x02b").status, 28);
    assert_eq!(c.metadata(&names[0]).status, 2, "refused, and there");
    drop(file);
    std::fs::remove_file(filler).unwrap();
    let recorded = f.changes().iter().filter(|line| line.starts_with('D')).count();
    assert_eq!(recorded + refused, names.len() - 1);
    assert_eq!(f.stored().len(), refused + 1);
    for name in &names {
        let there = f.path(name).exists();
        assert_eq!(c.delete(name).status, if there { 0 } else { 2 }, "there is room again");
    }
}

/// A file system of 8 MiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let done = Process::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(dir.path()).output();
        let mounted = done.is_ok_and(|o| o.status.success());
        if !mounted {
            assert!(std::env::var_os("FDFS_TESTS_REQUIRE").is_none(), "a tmpfs cannot be mounted");
            println!("SKIPPED: a full disk needs the right to mount a tmpfs");
        }
        mounted.then(|| SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_new_file_that_was_noted_is_removed_only_if_it_never_had_a_record() {
    let mut f = Fixture::start();
    let mut c = f.client();
    let kept = c.upload(b"kept", "txt");
    let unrecorded = c.upload(b"x", "txt");
    f.storage.take().unwrap().stop();
    // The record is far back: others went on while it waited, or the note could not be taken back long ago.
    let data = f.config.base_path.join("data");
    let log = data.join("sync/binlog.000");
    let line = f.binlog().lines().next().unwrap().to_owned() + "\n";
    let other = line.replace(kept.file_part(), &"x".repeat(kept.file_part().len()));
    std::fs::write(&log, line + &other.repeat((8 << 20) / other.len())).unwrap();
    let note = |name| {
        let (pending, _) = Pending::open(&data).unwrap();
        std::mem::forget(pending.note(Kind::Create, name));
    };
    note(&kept);
    f.storage = Some(Storage::start(f.config.clone()).unwrap());
    assert_eq!(f.client().content(&kept), b"kept");
    f.storage.take().unwrap().stop();
    note(&unrecorded);
    f.storage = Some(Storage::start(f.config.clone()).unwrap());
    assert_eq!(f.client().download(&unrecorded, 0, 0).status, 2);
    f.storage.take().unwrap().stop();
    // Where its record may have been is gone: it stays, and the members get it.
    std::fs::rename(&log, data.join("sync/binlog.001")).unwrap();
    std::fs::write(data.join("sync/binlog_index.dat"), "current_write=1\n").unwrap();
    std::fs::write(f.path(&unrecorded), b"x").unwrap();
    note(&unrecorded);
    f.storage = Some(Storage::start(f.config.clone()).unwrap());
    assert_eq!(f.client().content(&unrecorded), b"x");
    let text = std::fs::read_to_string(data.join("sync/binlog.001")).unwrap();
    assert!(text.ends_with(&format!(" U {unrecorded}\n")));
}

#[test]
fn killed_in_the_middle_of_work_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let conf = dir.path().join("storage.conf");
        // No tracker listens there; a storage on its own is enough here, so the test makes the daemon itself.
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon_for_the_kill_test", "--ignored", "--nocapture"])
            .env("STORAGE_DIR", dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let addr = {
            use std::io::BufRead;
            let mut lines = std::io::BufReader::new(child.stdout.as_mut().unwrap()).lines();
            let line = lines.by_ref().map(|l| l.unwrap()).find(|l| l.contains("ADDR ")).unwrap();
            line.split("ADDR ").nth(1).unwrap().parse().unwrap()
        };
        let workers: Vec<_> = (0..4)
            .map(|w| {
                std::thread::spawn(move || {
                    let mut c = Client::connect(addr);
                    let mut done = Vec::new();
                    for i in 0.. {
                        let content = noise(100 + (i % 3) * 200_000, w * 1000 + i as u64);
                        let mut body = Vec::new();
                        UploadHead { store_path: None, size: content.len() as u64, ext: ExtName::NONE }
                            .encode(&mut body);
                        body.extend_from_slice(&content);
                        c.send_raw(Command::UploadFile.code(), 0, &body);
                        match c.try_answer() {
                            Ok(answer) => done.push((answer.name(), content)),
                            Err(_) => return done,
                        }
                    }
                    done
                })
            })
            .collect();
        let mut c = Client::connect(addr);
        for _ in 0..50 * (round + 1) {
            c.upload(b"some time passes", "");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let done: Vec<_> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
        assert!(!done.is_empty());
        let storage = Storage::start(common::config(dir.path())).unwrap();
        let mut c = Client::connect(storage.addr());
        let binlog = std::fs::read_to_string(dir.path().join("data/sync/binlog.000")).unwrap();
        for (name, content) in &done {
            assert_eq!(c.content(name), *content);
            assert!(binlog.contains(&format!(" C {name}\n")), "{name}");
        }
        storage.stop();
        drop(conf);
    }
}

#[test]
#[ignore = "the process that another test kills"]
fn daemon_for_the_kill_test() {
    let Some(dir) = std::env::var_os("STORAGE_DIR") else { return };
    let storage = Storage::start(common::config(dir.as_ref())).unwrap();
    println!("ADDR {}", storage.addr());
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}
