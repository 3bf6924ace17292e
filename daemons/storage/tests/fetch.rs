//! Cuts that one of FastDFS's storages pushes of a file that may not be here what it was there: the file is fetched.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Client, Fixture, group, noise};
use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::peer::replica::{ReportServerId, SyncRangeHead, SyncTruncate};
use fdfs_protocol::storage::Download;
use fdfs_protocol::{Command, RemoteName, Status};
use fdfs_storage::config::Fsync;

/// The address of the member that pushes.
const MEMBER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// Later than any change that is made here.
const THEN: u32 = 1_900_000_000;

/// Where a member of the group of `f` answers clients.
fn listener(f: &Fixture) -> TcpListener {
    TcpListener::bind((MEMBER, f.addr().port())).unwrap()
}

fn member(f: &Fixture) -> Client {
    Client::connect_from(MEMBER, f.addr())
}

/// Takes one connection, which must ask for `name`, sends `answer` and closes; one that `hangs` keeps the connection.
fn answering(listener: &TcpListener, name: RemoteName, answer: Vec<u8>, hangs: bool) -> JoinHandle<Option<TcpStream>> {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).unwrap();
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; header.body_len as usize];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(header.cmd, Command::DownloadFile.code());
        assert_eq!(Download::decode(&body).unwrap(), Download { offset: 0, len: 0, group: group(), name });
        stream.write_all(&answer).unwrap();
        hangs.then_some(stream)
    })
}

fn whole(content: &[u8]) -> Vec<u8> {
    [&Header::ok(content.len() as u64).encode(), content].concat()
}

fn cut(c: &mut Client, name: &RemoteName, old_size: u64, new_size: u64, timestamp: u32) -> Status {
    let message = SyncTruncate { old_size, new_size, timestamp, group: group(), name: *name };
    Status(c.ask(Command::SyncTruncateFile, &message, b"").status)
}

#[test]
fn a_file_that_may_lack_what_was_cut_is_fetched() {
    let f = Fixture::start();
    let listener = listener(&f);
    let (mut c, mut peer) = (f.client(), member(&f));
    let large = noise(700_000, 1);
    // Shorter here than it was, or as it is to be, or longer; and as the member has it now.
    for (here, old, new, there) in [
        (10, 900_000, 700_000, &large[..]),
        (10, 30, 20, b"what is there now"),
        (20, 30, 20, b"what is there, as long"),
        (40, 30, 20, b"short"),
        (40, 30, 35, b"longer, but cut again"),
        // A write into it may have been passed over.
        (30, 30, 20, b"what is there, as long"),
        (10, 30, 20, b""),
    ] {
        let name = c.upload_appender(&noise(here, 2), "log");
        let asked = answering(&listener, name, whole(there), false);
        assert_eq!(cut(&mut peer, &name, old, new, THEN), Status::OK);
        asked.join().unwrap();
        assert_eq!(std::fs::read(f.path(&name)).unwrap(), there);
        assert_eq!(std::fs::metadata(f.path(&name)).unwrap().mtime(), i64::from(THEN));
        assert!(f.binlog().ends_with(&format!("\n{THEN} u {name}\n")));
        // What was passed over there and is pushed after all is known; what follows fits.
        let at = there.len() as u64 / 2;
        let push = |peer: &mut Client, offset: u64, content: &[u8]| {
            let head = SyncRangeHead { offset, len: content.len() as u64, timestamp: THEN, group: group(), name };
            Status(peer.ask(Command::SyncAppendFile, &head, content).status)
        };
        if !there.is_empty() {
            assert_eq!(push(&mut peer, at, &there[at as usize..]), Status::EEXIST);
        }
        assert_eq!(push(&mut peer, there.len() as u64, b" and more"), Status::OK);
        // The sum that goes into the name is that of what was fetched.
        let all = [there, b" and more"].concat();
        let sealed = c.regenerate(&name).name();
        assert_eq!(sealed.block().unwrap().crc32, crc32fast::hash(&all));
        assert_eq!(c.content(&sealed), all);
    }
    assert!(f.stored().iter().all(|path| !path.to_string_lossy().contains(".up")));
}

#[test]
fn what_was_fetched_has_no_time_before_what_was_here() {
    let f = Fixture::start();
    let listener = listener(&f);
    let name = f.client().upload_appender(b"0123456789", "log");
    let before = std::fs::metadata(f.path(&name)).unwrap().mtime();
    let cut_at = |time: i64| cut(&mut member(&f), &name, 20, 5, time as u32);
    // What was changed later here stays, and nobody asks for it.
    assert_eq!(cut_at(before - 2), Status::OK);
    assert_eq!(f.client().content(&name), b"01234");
    let asked = answering(&listener, name, whole(b"there and here"), false);
    assert_eq!(cut_at(before - 1), Status::OK, "clocks differ a little");
    asked.join().unwrap();
    assert_eq!(std::fs::metadata(f.path(&name)).unwrap().mtime(), before);
    assert_eq!(f.changes().last(), Some(&format!("u {name}")));
}

#[test]
fn what_cannot_be_fetched_is_cut_where_it_is_longer() {
    let f = Fixture::with(|config| config.network_timeout = Duration::from_secs(1));
    let listener = listener(&f);
    let refusal = |status| Header::failure(status).encode().to_vec();
    let short = whole(b"what is there")[..HEADER_LEN + 5].to_vec();
    for (answer, hangs) in [
        (refusal(Status::ENOENT), false),
        (refusal(Status::EINVAL), false),
        (short.clone(), false),
        (short, true),
        (vec![], false),
        (vec![], true),
        (vec![0xff; HEADER_LEN], false),
        (Header::request(Command::ActiveTest, 0).encode().to_vec(), false),
        // Too much to wait for.
        (Header::ok((256 << 20) + 1).encode().to_vec(), true),
    ] {
        for (here, status, left) in
            [(5, Status::EEXIST, 5), (20, Status::EEXIST, 20), (30, Status::OK, 20), (40, Status::OK, 20)]
        {
            // It was made, and changed last, before the cut.
            let content = noise(here, 1);
            let name = f.client().upload_appender(&content, "log");
            let lines = f.changes().len();
            let asked = answering(&listener, name, answer.clone(), hangs);
            assert_eq!(cut(&mut member(&f), &name, 30, 20, THEN), status);
            assert_eq!(std::fs::read(f.path(&name)).unwrap(), content[..left]);
            let made = match status {
                Status::OK => vec![format!("t {name} 30 20")],
                _ => vec![],
            };
            assert_eq!(f.changes()[lines..], made);
            asked.join().unwrap();
        }
    }
    // Nobody listens there.
    drop(listener);
    let name = f.client().upload_appender(b"01234", "log");
    assert_eq!(cut(&mut member(&f), &name, 30, 20, THEN), Status::EEXIST);
    assert_eq!(f.client().content(&name), b"01234");
    assert!(f.stored().iter().all(|path| !path.to_string_lossy().contains(".up")));
}

#[test]
fn nothing_is_fetched_where_the_cut_tells_all() {
    let f = Fixture::start();
    let listener = listener(&f);
    listener.set_nonblocking(true).unwrap();
    let mut c = f.client();
    let mut peer = member(&f);
    let content = noise(40, 1);
    let mut made = |peer: &mut Client, (here, old, new): (u64, u64, u64), timestamp, status| {
        let name = c.upload_appender(&content[..content.len().min(here as usize)], "log");
        std::fs::File::options().write(true).open(f.path(&name)).unwrap().set_len(here).unwrap();
        assert_eq!(cut(peer, &name, old, new, timestamp), status);
        let asked = listener.accept();
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody asks");
        std::fs::metadata(f.path(&name)).unwrap().len()
    };
    // It became longer, or nothing is left of it.
    assert_eq!(made(&mut peer, (30, 30, 35), THEN, Status::OK), 35);
    assert_eq!(made(&mut peer, (30, 30, 0), THEN, Status::OK), 0);
    assert_eq!(made(&mut peer, (40, 30, 0), THEN, Status::OK), 0);
    assert_eq!(made(&mut peer, (0, 30, 0), THEN, Status::EEXIST), 0);
    // To fetch that much takes long, and mostly for nothing.
    let large = 20 << 20;
    assert_eq!(made(&mut peer, (large, large, large - 1), THEN, Status::OK), large - 1);
    // A member of our kind sends the file itself.
    let mut strict = member(&f);
    assert_eq!(strict.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
    assert_eq!(made(&mut strict, (10, 30, 20), THEN, Status::EEXIST), 10);
    assert_eq!(made(&mut strict, (40, 30, 20), THEN, Status::OK), 20);
    // Before it serves it is given old files, as they are now.
    f.storage.as_ref().unwrap().service().active.set(false);
    assert_eq!(made(&mut peer, (40, 30, 20), THEN, Status::EEXIST), 40);
}

#[test]
fn a_cut_that_was_made_before_is_known() {
    for answer in [Header::failure(Status::ENOENT).encode().to_vec(), whole(&noise(20, 2))] {
        let mut f = Fixture::start();
        let listener = listener(&f);
        let name = f.client().upload_appender(&noise(30, 1), "log");
        let asked = answering(&listener, name, answer, false);
        assert_eq!(cut(&mut member(&f), &name, 30, 20, THEN), Status::OK);
        asked.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(f.client().append(&name, b"later").status, 0);
        // A later write, which gives it a later time.
        assert_eq!(f.client().modify(&name, 0, b"x").status, 0);
        for restarted in [false, true] {
            if restarted {
                f.restart();
            }
            let status = cut(&mut member(&f), &name, 30, 20, THEN);
            assert!([Status::OK, Status::EEXIST].contains(&status), "its pusher was killed: {status}");
            assert!(listener.accept().is_err());
            assert_eq!(f.client().content(&name).len(), 25);
        }
    }
}

#[test]
fn what_was_fetched_waits_for_stable_storage() {
    let f = Fixture::with(|config| config.fsync = Fsync::Always);
    let listener = listener(&f);
    let name = f.client().upload_appender(b"0123456789", "log");
    for (timestamp, status) in [(THEN, Status::OK), (THEN + 1, Status::EIO)] {
        let asked = answering(&listener, name, whole(b"there"), false);
        assert_eq!(cut(&mut member(&f), &name, 30, 20, timestamp), status);
        asked.join().unwrap();
        f.storage.as_ref().unwrap().service().syncer.as_ref().unwrap().stop();
    }
}
