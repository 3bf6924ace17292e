//! Requests that make no sense, in every way: an error status, the connection closed where FastDFS closes it, nothing
//! left on disk, nobody else disturbed.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use common::{Answer, Client, Fixture, group};
use fdfs_protocol::header::Header;
use fdfs_protocol::storage::{Download, FileRequest, MetadataMode, UploadHead};
use fdfs_protocol::{Command, Encode, ExtName, RemoteName, Status};
use std::io::Read;
use std::time::{Duration, Instant};

const EINVAL: u8 = 22;

/// The answer is this status; for EINVAL the connection is closed after it.
fn expect(f: &Fixture, cmd: u8, body: &[u8], status: u8) {
    let mut c = f.client();
    let answer = c.raw(cmd, 0, body);
    assert_eq!(
        answer,
        Answer { status, overtaken: false, body: Vec::new() },
        "{cmd} {:?}",
        String::from_utf8_lossy(body)
    );
    if status == EINVAL {
        assert!(c.is_closed(), "{cmd}");
    } else {
        assert!(c.is_alive(), "{cmd}");
    }
}

fn field(text: &[u8], len: usize) -> Vec<u8> {
    let mut out = text.to_vec();
    out.resize(len, 0);
    out
}

fn file(name: &[u8]) -> Vec<u8> {
    [field(b"group1", 16), name.to_vec()].concat()
}

fn download(offset: i64, len: i64, group: &[u8], name: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &len.to_be_bytes(), &field(group, 16), name].concat()
}

fn upload(path: u8, size: i64, ext: &[u8], content: &[u8]) -> Vec<u8> {
    [&[path][..], &size.to_be_bytes(), &field(ext, 6), content].concat()
}

fn slave(master_len: i64, size: i64, prefix: &[u8], ext: &[u8], rest: &[u8]) -> Vec<u8> {
    [&master_len.to_be_bytes()[..], &size.to_be_bytes(), &field(prefix, 16), &field(ext, 6), rest].concat()
}

#[test]
fn unknown_commands_and_bodies_that_should_not_be() {
    let f = Fixture::start();
    for cmd in [0, 1, 10, 16, 20, 26, 39, 81, 100, 101, 110, 112, 200, 202, 255] {
        expect(&f, cmd, b"", EINVAL);
        expect(&f, cmd, &[7; 100], EINVAL);
    }
    expect(&f, 111, b"x", EINVAL);
    let mut c = f.client();
    c.send_raw(82, 0, b"any body");
    assert!(c.is_closed());
}

#[test]
fn names_that_are_none() {
    let f = Fixture::start();
    let long = [b"M00/00/00/".as_slice(), &[b'a'; 118]].concat();
    let very_long = [b"M00/00/00/".as_slice(), &[b'a'; 4000]].concat();
    let names: &[&[u8]] = &[
        b"",
        b"M00/00/00",
        b"M00/00/00/",
        b"M00/../../etc/passwd",
        b"M00/00/../../passwd",
        b"M00/00/00/../x.......",
        b"M00/00/00/a/b.......",
        b"../../../../etc/passwd",
        b"/etc/passwd/////",
        b"M00//etc/passwd...",
        b"M01/00/00/Ck0AAWsA64KAdKM",
        b"MFF/00/00/Ck0AAWsA64KAdKM",
        b"MXX/00/00/Ck0AAWsA64KAdKM",
        b"M00/0a/00/Ck0AAWsA64KAdKM",
        b"M00/00/GG/Ck0AAWsA64KAdKM",
        b"M00/00/00\0/Ck0AAWsA64KAdKM",
        b"M00/00/00/\xff\xfe\x01\x02\x03\x04\x05",
        b"M00/00/00/with a space inside",
        b"M00/00/00/with\na newline inside",
        &long,
        &very_long,
    ];
    for name in names {
        for cmd in [12, 15, 22] {
            expect(&f, cmd, &file(name), EINVAL);
        }
        expect(&f, 14, &download(0, 0, b"group1", name), EINVAL);
        let len = (name.len() as i64).to_be_bytes();
        expect(&f, 24, &[&len[..], &1i64.to_be_bytes(), name, b"x"].concat(), EINVAL);
        expect(&f, 34, &[&len[..], &0i64.to_be_bytes(), &1i64.to_be_bytes(), name, b"x"].concat(), EINVAL);
        expect(&f, 36, &[&len[..], &0i64.to_be_bytes(), name].concat(), EINVAL);
        expect(&f, 38, name, EINVAL);
        expect(&f, 21, &slave(name.len() as i64, 1, b"_s", b"", &[name, &b"x"[..]].concat()), EINVAL);
        let meta = [&len[..], &3i64.to_be_bytes(), b"O", &field(b"group1", 16), name, b"a\x02b"].concat();
        expect(&f, 13, &meta, EINVAL);
    }
    assert!(f.stored().is_empty());
    assert_eq!(f.binlog(), "");
}

#[test]
fn a_name_is_cut_at_a_zero_byte() {
    let f = Fixture::start();
    let mut c = f.client();
    let name = c.upload(b"content", "");
    let body = download(0, 0, b"group1\0garbage", &[name.as_bytes(), b"\0trailing"].concat());
    assert_eq!(c.raw(14, 0, &body).ok(), b"content");
}

#[test]
fn uploads_with_wrong_numbers() {
    let f = Fixture::start();
    for cmd in [11, 23] {
        expect(&f, cmd, b"", EINVAL);
        expect(&f, cmd, &[0; 14], EINVAL);
        for size in [-1, i64::MIN, i64::MAX, 0, 4, 6, 1 << 40] {
            expect(&f, cmd, &upload(0, size, b"txt", b"12345"), EINVAL);
        }
        for path in [1, 9, 254] {
            expect(&f, cmd, &upload(path, 5, b"txt", b"12345"), EINVAL);
        }
        for ext in [b"a/b".as_slice(), b"a b", b"..\\", b"\xff\xff", b"a\nb"] {
            expect(&f, cmd, &upload(0, 5, ext, b"12345"), EINVAL);
        }
    }
    assert!(f.stored().is_empty());
}

#[test]
fn slaves_with_wrong_numbers() {
    let f = Fixture::start();
    let master = f.client().upload(b"master", "txt");
    let m = master.as_bytes();
    let rest = [m, b"12345"].concat();
    expect(&f, 21, b"", EINVAL);
    expect(&f, 21, &[0; 38], EINVAL);
    for len in [-1, 0, 10, 43, 45, 128, i64::MAX, i64::MIN] {
        expect(&f, 21, &slave(len, 5, b"_s", b"", &rest), EINVAL);
    }
    for size in [-1, 4, 6, i64::MAX] {
        expect(&f, 21, &slave(44, size, b"_s", b"", &rest), EINVAL);
    }
    for prefix in [b"".as_slice(), b"a/b", b"-m", b"a b"] {
        expect(&f, 21, &slave(44, 5, prefix, b"", &rest), EINVAL);
    }
    expect(&f, 21, &slave(44, 5, b"_s", b"a/b", &rest), EINVAL);
    assert_eq!(f.stored().len(), 1);
}

#[test]
fn changes_with_wrong_numbers() {
    let f = Fixture::start();
    let mut c = f.client();
    let name = c.upload_appender(b"0123456789", "log");
    let normal = c.upload(b"0123456789", "log");
    let missing = RemoteName::parse(name.as_str().replace(".log", ".lag").as_bytes()).unwrap();
    let append = |len: i64, size: i64, name: &RemoteName| {
        [&len.to_be_bytes()[..], &size.to_be_bytes(), name.as_bytes(), b"12345"].concat()
    };
    let modify = |len: i64, offset: i64, size: i64, name: &RemoteName| {
        [&len.to_be_bytes()[..], &offset.to_be_bytes(), &size.to_be_bytes(), name.as_bytes(), b"12345"].concat()
    };
    let truncate = |len: i64, size: i64, name: &RemoteName| {
        [&len.to_be_bytes()[..], &size.to_be_bytes(), name.as_bytes()].concat()
    };
    for len in [-1, 0, 43, 45, 128, i64::MAX] {
        expect(&f, 24, &append(len, 5, &name), EINVAL);
        expect(&f, 34, &modify(len, 0, 5, &name), EINVAL);
        expect(&f, 36, &truncate(len, 5, &name), EINVAL);
    }
    for size in [-1, 4, 6, i64::MAX, i64::MIN] {
        expect(&f, 24, &append(44, size, &name), EINVAL);
        expect(&f, 34, &modify(44, 0, size, &name), EINVAL);
    }
    for offset in [-1, 11, i64::MAX, i64::MIN] {
        expect(&f, 34, &modify(44, offset, 5, &name), EINVAL);
    }
    expect(&f, 36, &truncate(44, -1, &name), EINVAL);
    expect(&f, 24, &append(44, 5, &missing), 2);
    expect(&f, 34, &modify(44, 0, 5, &missing), 2);
    expect(&f, 36, &truncate(44, 5, &missing), 2);
    expect(&f, 38, missing.as_bytes(), 2);
    expect(&f, 24, &append(44, 5, &normal), EINVAL);
    expect(&f, 34, &modify(44, 0, 5, &normal), EINVAL);
    expect(&f, 36, &truncate(44, 5, &normal), EINVAL);
    expect(&f, 38, normal.as_bytes(), EINVAL);
    for body in [0, 15, 16, 23, 24] {
        for cmd in [24, 34, 36, 38] {
            expect(&f, cmd, &vec![0; body], EINVAL);
        }
    }
    assert_eq!(c.content(&name), b"0123456789");
    assert_eq!(c.content(&normal), b"0123456789");
    assert_eq!(f.binlog().lines().count(), 2);
}

#[test]
fn reads_with_wrong_numbers_and_groups() {
    let f = Fixture::start();
    let mut c = f.client();
    let name = c.upload(b"0123456789", "");
    let missing = RemoteName::parse(b"M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt").unwrap();
    for (offset, len) in [(-1, 0), (0, -1), (10, 0), (i64::MAX, 0), (i64::MIN, i64::MIN)] {
        expect(&f, 14, &download(offset, len, b"group1", name.as_bytes()), EINVAL);
    }
    for group in [b"group2".as_slice(), b"group10", b"", b"group1 ", b"gro/up"] {
        expect(&f, 14, &download(0, 0, group, name.as_bytes()), EINVAL);
        for cmd in [12, 15, 22] {
            expect(&f, cmd, &[&field(group, 16), name.as_bytes()].concat(), EINVAL);
        }
    }
    expect(&f, 14, &download(0, 0, b"group1", missing.as_bytes()), 2);
    for cmd in [12, 15, 22] {
        expect(&f, cmd, &file(missing.as_bytes()), 2);
    }
    // A huge length is cut to what is there.
    let body =
        c.ask(Command::DownloadFile, &Download { offset: 5, len: i64::MAX as u64, group: group(), name }, b"").ok();
    assert_eq!(body, b"56789");
    // Names of directories and metadata that is too large.
    expect(&f, 14, &download(0, 0, b"group1", b"M00/00/00/................"), 2);
    expect(&f, 13, &vec![0; 300_000], EINVAL);
    expect(&f, 14, &vec![b'M'; 300_000], EINVAL);
}

#[test]
fn metadata_with_wrong_numbers() {
    let f = Fixture::start();
    let name = f.client().upload(b"0123456789", "");
    let meta = |len: i64, size: i64, mode: &[u8], group: &[u8]| {
        [&len.to_be_bytes()[..], &size.to_be_bytes(), mode, &field(group, 16), name.as_bytes(), b"a\x02b"].concat()
    };
    for body in [
        meta(-1, 3, b"O", b"group1"),
        meta(0, 3, b"O", b"group1"),
        meta(128, 3, b"O", b"group1"),
        meta(i64::MAX, 3, b"O", b"group1"),
        meta(44, -1, b"O", b"group1"),
        meta(44, 2, b"O", b"group1"),
        meta(44, 4, b"O", b"group1"),
        meta(44, i64::MAX, b"O", b"group1"),
        meta(44, 3, b"X", b"group1"),
        meta(44, 3, b"O", b"group2"),
        vec![0; 33],
        Vec::new(),
    ] {
        expect(&f, 13, &body, EINVAL);
    }
    assert_eq!(f.stored().len(), 1);
}

#[test]
fn lengths_that_cannot_be() {
    let f = Fixture::start();
    for len in [-1i64, i64::MIN] {
        let mut c = f.client();
        c.send(&[&len.to_be_bytes()[..], &[11, 0]].concat());
        assert_eq!(c.stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    // A length nobody can send is refused at once for commands without content.
    for cmd in [12u8, 13, 14, 15, 22, 36, 38, 111, 99] {
        let mut c = f.client();
        c.send(&[&i64::MAX.to_be_bytes()[..], &[cmd, 0]].concat());
        assert_eq!(c.answer().status, EINVAL, "{cmd}");
        drop(c);
    }
    // And for those with content when it does not fit the head.
    for cmd in [11u8, 21, 23, 24, 34] {
        let mut c = f.client();
        c.send(&[&i64::MAX.to_be_bytes()[..], &[cmd, 0], &[0; 200]].concat());
        assert_eq!(c.answer().status, EINVAL, "{cmd}");
    }
    // One larger than any disk is for the disk to refuse.
    let mut c = f.client();
    let size = i64::MAX as u64 - 15;
    let mut head = Vec::new();
    UploadHead { store_path: None, size, ext: ExtName::NONE }.encode(&mut head);
    c.send(&[&i64::MAX.to_be_bytes()[..], &[11, 0], &head].concat());
    assert_eq!(c.answer().status, 28);
}

#[test]
fn others_are_not_disturbed() {
    let f = Fixture::start();
    let mut steady = f.client();
    let name = steady.upload(b"steady", "");
    for seed in 0..300u64 {
        let mut c = f.client();
        let mut bytes = common::noise(64, seed);
        // Small bodies, so that the server has all of it and answers.
        bytes[..8].copy_from_slice(&(54u64).to_be_bytes());
        c.send(&bytes);
        let _ = c.try_answer();
        assert_eq!(steady.content(&name), b"steady");
    }
    // What a random upload may have stored is whole; nothing else is there.
    let changes = f.changes();
    let made = changes.iter().filter(|l| l.starts_with("C ")).count();
    assert_eq!(f.stored().len(), made);
}

#[test]
fn a_refused_body_is_read_away_or_the_connection_closed() {
    let f = Fixture::start();
    let mut c = f.client();
    let name = c.upload_appender(b"x", "log");
    let missing = RemoteName::parse(name.as_str().replace(".log", ".lag").as_bytes()).unwrap();
    // Short: the connection goes on, in step.
    assert_eq!(c.append(&missing, &[7; 1000]).status, 2);
    assert!(c.is_alive());
    // Long: the answer arrives although the client still sends.
    let mut c: Client = f.client();
    assert_eq!(c.append(&missing, &vec![7; 8 << 20]).status, 2);
    assert!(c.is_closed());
    let mut c = f.client();
    assert_eq!(c.set_metadata(&missing, MetadataMode::Overwrite, b"a\x02b").status, 2);
    assert!(c.is_alive());
    let request = FileRequest { group: group(), name };
    c.ask(Command::DeleteFile, &request, b"").ok();
}

#[test]
fn a_name_too_long_for_a_record_with_its_store_path_is_refused() {
    let f = Fixture::start();
    let mut c = f.client();
    let mut name = c.upload(b"master", "");
    name = RemoteName::parse(name.true_name().as_bytes()).unwrap();
    let before = f.changes().len();
    let mut made = 0;
    // Each slave is named after the one before; none has a store path in its name.
    loop {
        let answer = c.upload_slave(&name, "0123456789abcdef", "", b"slave");
        if answer.status != 0 {
            assert_eq!(answer.status, EINVAL);
            break;
        }
        made += 1;
        let full = answer.name();
        name = RemoteName::parse(full.true_name().as_bytes()).unwrap();
        c = f.client();
    }
    assert!(made > 3);
    let changes = f.changes();
    assert_eq!(changes.len(), before + made);
    assert!(changes.iter().all(|line| line.contains("M00/")), "{changes:?}");
}

#[test]
fn who_has_the_last_change_is_told_of_files_only_that_can_be_changed() {
    let f = Fixture::start();
    let ask = |name: &[u8]| [&[0; 37][..], name].concat();
    for name in [&b""[..], b"M00/../../../../etc/passwd-m", b"M00/00/00/\0", b"/etc/passwd-m", &[b'a'; 300]] {
        expect(&f, 202, &ask(name), EINVAL);
    }
    // Of a store path that is not here there is nothing later.
    expect(&f, 202, &ask(b"M55/00/00/x-m"), 0);
    let normal = f.client().upload(b"content", "txt");
    expect(&f, 202, &ask(normal.as_bytes()), EINVAL);
    // Whoever asks: there is something later, and nobody to push it to.
    let appender = f.client().upload_appender(b"content", "log");
    expect(&f, 202, &ask(appender.as_bytes()), Status::EAGAIN.0);
    assert_eq!(f.client().append(&appender, b" and more").status, 0);
    assert_eq!(f.client().content(&appender), b"content and more");
}

/// Only one question at a time is received: each may be large.
#[test]
fn a_question_that_trickles_in_does_not_keep_others_waiting() {
    let f = Fixture::with(|config| config.network_timeout = Duration::from_secs(2));
    let mut slow = f.client();
    slow.send(&Header { body_len: 1 << 20, cmd: Command::SyncCompare.code(), status: 0 }.encode());
    slow.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // A byte now and then is always in time; all of it is not.
    while !matches!(slow.stream.read(&mut [0]), Ok(0)) {
        assert!(Instant::now() < deadline, "still waiting for the rest");
        slow.send(b"x");
    }
}
