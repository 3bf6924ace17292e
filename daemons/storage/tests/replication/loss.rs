//! A member that loses its disks.

use std::path::Path;

use fdfs_protocol::header::Header;
use fdfs_protocol::peer::compare::SyncCompare;
use fdfs_protocol::peer::replica::{ReportServerId, SyncDelete, SyncFileHead};
use fdfs_protocol::storage::MetadataMode;
use fdfs_protocol::{Command, Encode, RemoteName, Status};
use fdfs_storage::StorageConfig;
use fdfs_storage::disk::pending::{self, Pending};

use crate::common::{Client, noise};
use crate::group::Group;

fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn wipe(group: &Group, index: usize) {
    let base = &group.members[index].config.base_path;
    std::fs::remove_dir_all(base).unwrap();
    std::fs::create_dir_all(base).unwrap();
}

fn has(group: &Group, member: usize, name: &RemoteName) -> bool {
    group.files(member).contains_key(&Path::new("data").join(name.true_name()))
}

#[test]
fn a_member_that_lost_its_disks_gets_everything_again() {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    let names: Vec<_> = (0..3)
        .flat_map(|i| {
            let mut c = group.client(i);
            (0..20).map(|n| c.upload(&noise(1000 + n, n as u64), "bin")).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(group.converge("before").len(), names.len());
    group.stop(0);
    wipe(&group, 0);
    group.start(0);
    group.wait_active(0);
    assert_eq!(group.converge("after").len(), names.len());
    assert!(names.iter().all(|name| has(&group, 0, name)));
    let name = group.client(0).upload(b"new", "txt");
    group.converge("what comes after");
    assert!(has(&group, 1, &name));
}

#[test]
fn what_a_member_made_while_its_clock_was_ahead_comes_back_to_it() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload_appender(b"ahead", "log");
    group.converge("before");
    group.stop(0);
    group.stop(1);
    let binlog = group.members[1].config.base_path.join("data/sync/binlog.000");
    let ahead = |line: &str| match line.split_once(' ') {
        Some((_, rest)) if rest.contains(&name.to_string()) => format!("{} {rest}\n", seconds() + 5000),
        _ => format!("{line}\n"),
    };
    let text: String = group.binlog(1).lines().map(ahead).collect();
    std::fs::write(binlog, text).unwrap();
    (0..2).for_each(|i| group.start(i));
    (0..2).for_each(|i| group.wait_active(i));
    // By what came last from it, the other knows how its clock goes now.
    group.client(0).upload(b"now", "txt");
    group.converge("with its clock set right");
    group.stop(0);
    wipe(&group, 0);
    group.start(0);
    group.wait_active(0);
    group.until("it has the file again", |group| has(group, 0, &name));
}

#[test]
fn what_a_lost_member_gave_to_some_reaches_all() {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    let appender = c.upload_appender(b"0123", "log");
    let gone = c.upload(b"to be removed", "txt");
    let files = group.converge("before").len();
    // All this misses member 1, which then is the one that pushes the old files to member 0.
    group.stop(1);
    let names: Vec<_> = (0..10).map(|n| c.upload(&noise(1000, n), "bin")).collect();
    assert_eq!(c.append(&appender, b"4567").status, 0);
    assert_eq!(c.set_metadata(&names[0], MetadataMode::Overwrite, b"a\x021").status, 0);
    assert_eq!(c.delete(&gone).status, 0);
    group.converge("without member 1");
    group.stop(0);
    wipe(&group, 0);
    group.start(1);
    group.wait_active(1);
    group.client(1).upload(b"another", "txt");
    group.start(0);
    group.wait_active(0);
    let all = group.converge("after member 0 lost its disks");
    assert_eq!(all.len(), files - 1 + 10 + 1 + 1);
    assert_eq!(group.client(1).content(&appender), b"01234567");
    assert!(names.iter().all(|name| has(&group, 1, name)) && !has(&group, 1, &gone));
    let noted = |group: &Group, i: usize| {
        let sync = group.members[i].config.base_path.join("data/sync");
        std::fs::read_dir(sync).unwrap().flatten().any(|e| e.file_name().to_string_lossy().ends_with(".lost"))
    };
    group.until("all have been asked", |group| (0..3).all(|i| !noted(group, i)));
}

#[test]
fn what_a_member_sent_before_it_lost_its_disks_is_not_taken_any_more() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload(b"stays", "txt");
    group.converge("before");
    let addr = |i: usize| group.members[i].storage.as_ref().unwrap().addr();
    let (ip, there) = (addr(0).ip(), addr(1));
    let connect = || {
        let mut c = Client::connect_from(ip, there);
        assert_eq!(c.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
        c
    };
    let timestamp = name.block().unwrap().timestamp;
    let delete = SyncDelete { timestamp, group: crate::common::group(), name };
    let mut body = Vec::new();
    delete.encode(&mut body);
    // Also when it is lost again while it is pushed to.
    for _ in 0..2 {
        let mut before = connect();
        group.stop(0);
        wipe(&group, 0);
        group.start(0);
        // Member 1 is its source, and so has noted what happened.
        group.wait_active(0);
        before.send_raw(Command::SyncDeleteFile.code(), 0, &body);
        assert!(before.is_closed());
        assert!(has(&group, 1, &name));
        group.until("it has the file again", |group| has(group, 0, &name));
        // Losses are told from each other by the second.
        let second = seconds();
        group.until("the clock goes on", |_| seconds() > second);
    }
    assert_eq!(connect().ask(Command::SyncDeleteFile, &delete, b"").status, 0);
    assert!(!has(&group, 1, &name));
}

#[test]
fn what_was_not_taken_stays_in_question_until_it_comes() {
    let mut group = Group::with(1);
    group.wait_active(0);
    let name = group.client(0).upload(b"hello", "txt");
    let timestamp = name.block().unwrap().timestamp;
    let head = SyncFileHead { size: 5, timestamp, group: crate::common::group(), name };
    // What comes over the further connections of a member, too.
    let push = |group: &Group| {
        let mut id = Vec::new();
        ReportServerId { id: "10.0.0.9".parse().unwrap() }.encode(&mut id);
        let (mut first, mut further) = (group.client(0), group.client(0));
        assert_eq!(first.raw(Command::ReportServerId.code(), ReportServerId::STRICT_TIMES, &id).status, 0);
        assert_eq!(further.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
        further.ask(Command::SyncUpdateFile, &head, b"hello").status
    };
    let in_question = |group: &Group| {
        let saved = std::fs::read_to_string(group.members[0].config.base_path.join("data/sync/synced.dat")).unwrap();
        saved.lines().filter(|line| line.starts_with("missed ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let dir = group.members[0].config.base_path.join("data").join(name.true_name());
    let dir = dir.parent().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    std::fs::write(dir, "in the way").unwrap();
    assert_ne!(push(&group), 0);
    for _ in 0..2 {
        group.stop(0);
        assert_eq!(in_question(&group), [format!("missed 10.0.0.9 {timestamp} {name}")]);
        std::fs::remove_file(dir).and_then(|()| std::fs::create_dir(dir)).unwrap_or(());
        group.start(0);
        group.wait_active(0);
    }
    assert_eq!(push(&group), 0);
    group.stop(0);
    assert_eq!(in_question(&group), Vec::<String>::new());
}

#[test]
fn a_lost_member_gets_what_its_source_never_had() {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    // Member 0 loses its disks; member 1 will push the old files to it, and lacks some of member 2.
    group.stop(1);
    let names: Vec<_> = (0..10).map(|n| group.client(2).upload(&noise(1000, n), "bin")).collect();
    group.converge("without member 1");
    group.stop(0);
    wipe(&group, 0);
    group.stop(2);
    // As if they had been cut off from each other for long.
    let mark = group.aside(2, 1).with_extension("mark");
    let pushed = std::fs::read_to_string(group.aside(2, 0).with_extension("mark")).unwrap();
    std::fs::write(mark, pushed).unwrap();
    group.start(1);
    group.wait_active(1);
    group.start(0);
    group.wait_active(0);
    group.start(2);
    group.wait_active(2);
    group.until("member 0 gets them", |group| names.iter().all(|name| has(group, 0, name)));
}

#[test]
fn a_rename_reaches_all_though_its_source_is_lost_and_the_file_never_had_its_old_name_elsewhere() {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    // Member 1 has the file under its first name only, member 2 under its last name only.
    group.stop(2);
    let name = group.client(0).upload_appender(b"content", "log");
    group.converge("before");
    group.stop(1);
    let sealed = group.client(0).regenerate(&name).name();
    group.start(2);
    group.until("member 2 has it", |group| has(group, 2, &sealed));
    let ended = format!(" {sealed} {name}\n");
    group.until("and knows of the rename", |group| group.binlog(2).contains(&ended));
    group.stop(0);
    wipe(&group, 0);
    group.start(1);
    group.start(0);
    (0..3).for_each(|i| group.wait_active(i));
    group.converge("all have it");
    assert!((0..3).all(|i| has(&group, i, &sealed) && !has(&group, i, &name)));
}

#[test]
fn a_store_path_that_is_lost_costs_no_other_member_its_files() {
    let mut group = Group::new();
    for _ in 0..2 {
        group.add(|config| config.paths[0].path = config.base_path.join("disk"));
    }
    (0..2).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    let refused = c.upload(b"refused once", "txt");
    let [half, renamed, ended] = [b"half", b"name", b"ends"].map(|content| c.upload_appender(content, "log"));
    let there = |group: &Group, name: &RemoteName| {
        group.members[1].config.paths[0].path.join("data").join(name.true_name()).exists()
    };
    group.until("all arrive", |group| [refused, half, renamed, ended].iter().all(|name| there(group, name)));
    group.stop(1);
    c.regenerate(&renamed).name();
    let sealed = c.regenerate(&ended).name();
    assert_eq!(c.delete(&sealed).status, 0);
    group.stop(0);
    let StorageConfig { base_path, paths, .. } = &group.members[0].config;
    std::fs::remove_dir_all(&paths[0].path).unwrap();
    std::fs::create_dir_all(&paths[0].path).unwrap();
    let (pending, _) = Pending::open(&base_path.join("data")).unwrap();
    std::mem::forget(pending.note(pending::Kind::Change { mtime: 0 }, &half));
    drop(pending);
    std::fs::write(group.aside(0, 1), format!("1700000000 U {refused}\n")).unwrap();
    group.start(0);
    group.start(1);
    (0..2).for_each(|i| group.wait_active(i));
    let last = group.client(0).upload(b"the last", "txt");
    let mark = group.aside(0, 1).with_extension("mark");
    group.until("everything is pushed", |group| {
        let end = format!("binlog_offset={}", group.binlog(0).len());
        there(group, &last) && std::fs::read_to_string(&mark).unwrap().lines().any(|line| line == end)
    });
    group.until("nothing is set aside", |group| !group.aside(0, 1).exists());
    assert!([refused, half, renamed].iter().all(|name| there(&group, name)));
    assert!(!there(&group, &ended), "that one was removed");
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let group = Group::with(1);
    group.wait_active(0);
    let ask = |body: &[u8]| group.client(0).raw(Command::SyncCompare.code(), 0, body).status;
    let compare = SyncCompare {
        lost: "127.0.0.9".parse().unwrap(),
        sender: "127.0.0.8".parse().unwrap(),
        since: 0,
        until: i64::MAX,
        part: 0,
        parts: 1,
        files: Vec::new(),
    };
    let mut body = Vec::new();
    compare.encode(&mut body);
    assert_eq!(ask(&body), Status::EAGAIN.0, "nobody pushes to the sender");
    assert_eq!(ask(&body[..body.len() - 1]), Status::EINVAL.0);
    assert_eq!(ask(&[&body[..], &[200, 1]].concat()), Status::EINVAL.0);
    assert_eq!(ask(b""), Status::EINVAL.0);
    let mut c = group.client(0);
    c.send(&Header { body_len: 1 << 40, cmd: Command::SyncCompare.code(), status: 0 }.encode());
    assert_eq!(c.answer().status, Status::EINVAL.0);
}
