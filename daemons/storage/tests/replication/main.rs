//! Groups of storages: what a client changes at one member arrives at the others.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

#[path = "../common/mod.rs"]
mod common;
mod conflict;
mod group;
mod latest;
mod loss;
mod promise;
mod source;

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Client, noise};
use fdfs_protocol::file_id::{NameBlock, SizeField};
use fdfs_protocol::peer::replica::{SyncRangeHead, SyncTruncate, SyncTwoNames};
use fdfs_protocol::peer::{ChangeStatus, JoinRequest};
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::storage::{AppendHead, MetadataMode};
use fdfs_protocol::{Command, ExtName, Prefix, RemoteName, Status, StorageId, Version};
use fdfs_storage::disk::pending::{self, Pending};
use group::Group;

#[test]
fn every_kind_of_change_arrives_at_every_member() {
    let group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    let mut kept = Vec::new();
    for i in 0..3 {
        let mut c = group.client(i);
        // Slaves and metadata are made where the file was uploaded: trackers send clients there.
        let own = kept.len();
        for (n, len) in [0usize, 10, 100_000, 1_500_000].into_iter().enumerate() {
            let name = c.upload(&noise(len, (10 * i + n) as u64), "bin");
            assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"a\x021\x01b\x022").status, 0);
            kept.push((name, noise(len, (10 * i + n) as u64)));
        }
        let gone = c.upload(b"gone", "txt");
        assert_eq!(c.set_metadata(&gone, MetadataMode::Overwrite, b"a\x021").status, 0);
        let slave = c.upload_slave(&kept[own].0, &format!("_{i}"), "jpg", b"slave").name();
        kept.push((slave, b"slave".to_vec()));
        let appender = c.upload_appender(b"0123456789", "log");
        assert_eq!(c.append(&appender, &noise(400_000, 7)).status, 0);
        assert_eq!(c.modify(&appender, 5, b"xyz").status, 0);
        assert_eq!(c.truncate(&appender, 200_000).status, 0);
        assert_eq!(c.append(&appender, b"end").status, 0);
        let content = [&b"01234xyz89"[..], &noise(400_000, 7)[..199_990], b"end"].concat();
        kept.push((appender, content.clone()));
        let sealed = c.upload_appender(b"", "log");
        assert_eq!(c.append(&sealed, &content).status, 0);
        kept.push((c.regenerate(&sealed).name(), content));
        assert_eq!(c.delete(&gone).status, 0);
        assert_eq!(c.set_metadata(&kept[own + 1].0, MetadataMode::Merge, b"m\x02x").status, 0);
    }
    let files = group.converge("after all kinds of changes");
    // Every file, and the metadata of twelve.
    assert_eq!(files.len(), kept.len() + 12);
    for i in 0..3 {
        let mut c = group.client(i);
        for (name, content) in &kept {
            assert!(c.content(name) == *content, "{name} at {i}");
        }
    }
}

#[test]
fn a_member_that_was_away_catches_up() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    let first = c.upload_appender(b"first", "txt");
    group.converge("before");
    group.stop(1);
    assert_eq!(c.append(&first, b" and more").status, 0);
    let names: Vec<_> = (0..300).map(|i| c.upload(&noise(i * 10, i as u64), "bin")).collect();
    for name in &names[..100] {
        assert_eq!(c.delete(name).status, 0);
    }
    // The other goes away too, and its position with it.
    group.stop(0);
    group.start(1);
    group.start(0);
    assert_eq!(group.converge("after both were away").len(), 201);
    assert_eq!(group.client(1).content(&first), b"first and more");
}

#[test]
fn a_new_member_gets_the_old_files_and_then_serves() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let mut names = Vec::new();
    for i in 0..2 {
        let mut c = group.client(i);
        names.extend((0..100).map(|n| c.upload(&noise(1000 + n, n as u64), "bin")));
        let appender = c.upload_appender(b"abc", "log");
        assert_eq!(c.append(&appender, b"def").status, 0);
        assert_eq!(c.set_metadata(&appender, MetadataMode::Overwrite, b"k\x02v").status, 0);
        assert_eq!(c.delete(&names[100 * i]).status, 0);
    }
    group.converge("two");
    let new = group.add(|_| {});
    group.wait_active(new);
    let files = group.converge("three");
    assert_eq!(files.len(), 198 + 4);
    // It was the source of one of them and pushes what is new.
    let name = group.client(new).upload(b"from the new one", "txt");
    group.converge("a change at the new one");
    assert_eq!(group.client(0).content(&name), b"from the new one");
    let pushed = group.binlog(new);
    assert!(pushed.lines().filter(|l| l.contains(" c ")).count() >= 200, "{pushed}");
}

#[test]
fn what_a_member_cannot_take_is_set_aside_and_holds_up_nobody() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    // A directory where the file must go: the member cannot take it, whatever it tries.
    group.stop(1);
    let bad = c.upload(b"in the way", "txt");
    let obstacle = group.members[1].config.base_path.join("data").join(bad.true_name());
    std::fs::create_dir_all(obstacle.join("x")).unwrap();
    let good: Vec<_> = (0..50).map(|i| c.upload(&noise(100, i), "txt")).collect();
    group.start(1);
    group.wait_active(1);
    let there = |group: &Group| {
        let files = group.files(1);
        good.iter().all(|name| files.contains_key(&std::path::Path::new("data").join(name.true_name())))
    };
    group.until("the others arrive", there);
    let aside = group.aside(0, 1);
    group.until("it is set aside", |_| std::fs::read_to_string(&aside).is_ok_and(|t| t.contains(bad.as_str())));
    // Also over a restart; and it comes when it can be taken.
    group.stop(0);
    group.start(0);
    std::fs::remove_dir_all(&obstacle).unwrap();
    group.converge("when nothing is in the way");
    group.until("nothing is set aside", |_| !aside.exists());
}

#[test]
fn files_that_break_the_connection_hold_up_nobody() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    group.stop(1);
    let good = group.client(0).upload(b"good", "txt");
    group.stop(0);
    group.start(1);
    // Who cannot begin to take a file this large closes the connection in the middle of it.
    let leaf = if good.true_name().starts_with("00/00/") { "00/01" } else { "00/00" };
    let data = |i: usize| group.members[i].config.base_path.join("data");
    std::fs::remove_dir(data(1).join(leaf)).unwrap();
    std::fs::write(data(1).join(leaf), "").unwrap();
    let count = 2 * group.members[0].config.sync_threads;
    let bad: Vec<RemoteName> = (0..count).map(|i| format!("M00/{leaf}/large{i:06}").parse().unwrap()).collect();
    for name in &bad {
        std::fs::File::create(data(0).join(name.true_name())).unwrap().set_len(256 << 20).unwrap();
    }
    let aside = group.aside(0, 1);
    std::fs::write(&aside, bad.iter().map(|name| format!("1 U {name}\n")).collect::<String>()).unwrap();
    group.start(0);
    let path = std::path::Path::new("data").join(good.true_name());
    group.until("another file arrives", |group| group.files(1).contains_key(&path));
    let left = std::fs::read_to_string(&aside).unwrap();
    assert!(bad.iter().all(|name| left.contains(name.as_str())), "{left}");
}

#[test]
fn a_link_waits_for_what_it_links_to() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    group.stop(1);
    let target = group.client(0).upload(b"linked to", "txt");
    group.stop(0);
    // Links come from servers that store identical content once: made by hand here, file and record.
    let link = target.as_str().replace(".txt", ".lnk");
    let data = group.members[0].config.base_path.join("data");
    let linked = data.join(link.split_once('/').unwrap().1);
    std::os::unix::fs::symlink(data.join(target.true_name()), linked).unwrap();
    let binlog = data.join("sync/binlog.000");
    let mut lines = std::fs::read_to_string(&binlog).unwrap();
    lines.push_str(&format!("{} L {link} {target}\n", &lines[..10]));
    std::fs::write(&binlog, lines).unwrap();
    // The other member cannot take the target at first, and so not the link.
    let obstacle = group.members[1].config.base_path.join("data").join(target.true_name());
    std::fs::create_dir_all(obstacle.join("x")).unwrap();
    group.start(1);
    group.start(0);
    let aside = group.aside(0, 1);
    group.until("both are set aside", |_| {
        std::fs::read_to_string(&aside).is_ok_and(|t| t.contains(&link) && t.contains(target.as_str()))
    });
    std::fs::remove_dir_all(&obstacle).unwrap();
    assert_eq!(group.converge("the link and its target").len(), 2);
}

#[test]
fn a_binlog_that_was_lost_does_not_stop_what_comes_after() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    for i in 0..20 {
        c.upload(&noise(100, i), "bin");
    }
    assert_eq!(group.converge("before").len(), 20);
    group.stop(0);
    let mark = group.aside(0, 1).with_extension("mark");
    assert!(!std::fs::read_to_string(mark).unwrap().contains("binlog_offset=0\n"));
    std::fs::write(group.members[0].config.base_path.join("data/sync/binlog.000"), "").unwrap();
    group.start(0);
    group.client(0).upload(b"after", "txt");
    group.until("the new file arrives", |group| group.files(1).len() == 21);
}

#[test]
fn a_rename_that_nobody_could_read_is_refused_before_it_happens() {
    let group = Group::with(1);
    group.wait_active(0);
    let name = |c: char| -> RemoteName { format!("M00/00/00/{}", String::from(c).repeat(117)).parse().unwrap() };
    let mut c = group.client(0);
    let old = name('a');
    std::fs::write(group.members[0].config.base_path.join("data").join(old.true_name()), "content").unwrap();
    let rename = SyncTwoNames { timestamp: 1, group: common::group(), name: name('b'), other: old };
    assert_eq!(c.ask(Command::SyncRenameFile, &rename, b"").status, Status::ENAMETOOLONG.0);
    assert_eq!(c.content(&old), b"content");
    assert_eq!(group.binlog(0), "");
}

#[test]
fn an_appender_that_was_sealed_and_removed_while_a_member_was_away_is_gone_there_too() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    let appender = c.upload_appender(b"content", "log");
    group.converge("before");
    group.stop(1);
    let sealed = c.regenerate(&appender).name();
    assert_eq!(c.delete(&sealed).status, 0);
    group.start(1);
    assert_eq!(group.converge("after").len(), 0);
}

#[test]
fn a_name_that_is_set_aside_after_a_rename_may_be_given_back() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    let old = c.upload_appender(b"content", "log");
    group.converge("before");
    group.stop(1);
    let new = c.regenerate(&old).name();
    group.stop(0);
    // As if the member had not taken the rename and the new name had come to it by another way.
    let log = group.binlog(0);
    let mark = group.aside(0, 1).with_extension("mark");
    let text = std::fs::read_to_string(&mark).unwrap();
    let place = |line: &str| match line.starts_with("binlog_offset=") {
        true => format!("binlog_offset={}\n", log.len()),
        false => format!("{line}\n"),
    };
    std::fs::write(&mark, text.lines().map(place).collect::<String>()).unwrap();
    let data = group.members[1].config.base_path.join("data");
    std::fs::write(data.join(new.true_name()), b"content").unwrap();
    std::fs::write(group.aside(0, 1), format!("{} R {new} {old}\n{} D {old}\n", &log[..10], &log[..10])).unwrap();
    group.start(1);
    group.start(0);
    assert_eq!(group.converge("the old name is gone").len(), 1);
    group.until("nothing is set aside", |group| !group.aside(0, 1).exists());
    let back = SyncTwoNames { timestamp: u32::MAX, group: common::group(), name: old, other: new };
    assert_eq!(group.client(1).ask(Command::SyncRenameFile, &back, b"").status, 0);
    assert_eq!(group.client(1).content(&old), b"content");
}

/// The member that took the later change may be quicker to push it.
#[test]
fn an_append_that_has_not_ended_is_not_pushed_with_the_file() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    group.stop(1);
    let mut c = group.client(0);
    let name = c.upload_appender(b"whole", "log");
    let size = 4 << 20;
    let head = AppendHead { size, name };
    c.begin(Command::AppendFile, &head, size);
    c.send(&noise(size as usize / 2, 1));
    let path = std::path::Path::new("data").join(name.true_name());
    let len = |group: &Group, i: usize| group.files(i).get(&path).map(Vec::len);
    group.until("a part of it has come", |group| len(group, 0) > Some(5));
    group.start(1);
    group.until("the file is pushed", |group| len(group, 1).is_some());
    assert_eq!(len(&group, 1), Some(5));
    // Its client dies.
    drop(c);
    group.until("it is taken back", |group| len(group, 0) == Some(5));
    group.converge("after");
    assert_eq!(group.client(0).append(&name, b" and more").status, 0);
    group.converge("and with another append");
    assert_eq!(group.client(1).content(&name), b"whole and more");
}

#[test]
fn an_append_that_has_not_ended_makes_no_older_file_the_later_one() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload_appender(b"one", "log");
    group.converge("before");
    group.stop(0);
    group.stop(1);
    // Member 0 has a change that member 1 lacks, and member 1 something older that is set aside for member 0.
    let made = name.block().unwrap().timestamp;
    let before = |seconds: u32| UNIX_EPOCH + Duration::from_secs((made - seconds).into());
    group.put(0, &name, b"one, two", before(100));
    group.put(1, &name, b"one", before(200));
    std::fs::write(group.aside(1, 0), format!("{} U {name}\n", made - 200)).unwrap();
    group.start(1);
    group.wait_active(1);
    let mut c = group.client(1);
    let size = 4 << 20;
    c.begin(Command::AppendFile, &AppendHead { size, name }, size);
    c.send(&noise(size as usize / 2, 1));
    let len = |group: &Group| group.files(1)[&std::path::Path::new("data").join(name.true_name())].len();
    group.until("a part of it has come", |group| len(group) > 3);
    group.start(0);
    // What is due comes before this.
    let new = group.client(1).upload(b"new", "txt");
    let path = std::path::Path::new("data").join(new.true_name());
    group.until("names set aside were tried", |group| group.files(0).contains_key(&path));
    drop(c);
    group.until("it is taken back", |group| len(group) == 3);
    assert!(group.client(0).content(&name) == b"one, two");
}

/// FastDFS skips changes of a file that has got another name since.
#[test]
fn a_pushed_name_is_given_only_to_the_content_it_tells() {
    let group = Group::with(1);
    group.wait_active(0);
    let mut c = group.client(0);
    let content = noise(300_000, 1);
    for (pushed, size) in [(&content[..], 300_000), (&content[..200_000], 200_000), (&content[..100_000], 100_000)] {
        // As it is after a restart, and with its sum known.
        for known in [false, true] {
            let old = c.upload_appender(&pushed[..10], "log");
            let path = group.members[0].config.base_path.join("data").join(old.true_name());
            match known {
                true => assert_eq!(c.append(&old, &pushed[10..]).status, 0),
                false => std::fs::write(&path, pushed).unwrap(),
            }
            let block = old.block().unwrap();
            let right = NameBlock { size: SizeField::normal(size, 1), crc32: crc32fast::hash(pushed), ..block };
            for wrong in [
                NameBlock { crc32: right.crc32 ^ 1, ..right },
                NameBlock { size: SizeField::normal(size + 1, 1), ..right },
                right,
            ] {
                std::fs::write(&path, pushed).unwrap();
                let name = old.with_block(&wrong);
                let rename = SyncTwoNames { timestamp: 1, group: common::group(), name, other: old };
                let status = c.ask(Command::SyncRenameFile, &rename, b"").status;
                let is_right = wrong == right;
                assert_eq!(status, if is_right { 0 } else { Status::ENOENT.0 }, "{name}");
                assert!(!path.exists(), "neither remains under the old name");
                assert_eq!(c.download(&name, 0, 0).status == 0, is_right);
                let line = if is_right { format!("1 r {name} {old}") } else { format!("1 d {old}") };
                assert!(group.binlog(0).ends_with(&format!("{line}\n")), "{line}");
            }
        }
    }
}

#[test]
fn a_range_that_comes_late_is_taken_as_known_only_if_it_is() {
    let group = Group::with(1);
    group.wait_active(0);
    let mut c = group.client(0);
    let content = noise(200_000, 1);
    let name = c.upload_appender(&content, "log");
    let mut push = |at: usize, range: &[u8]| {
        let head =
            SyncRangeHead { offset: at as u64, len: range.len() as u64, timestamp: 1, group: common::group(), name };
        c.ask(Command::SyncAppendFile, &head, range).status
    };
    assert_eq!(push(50_000, &content[50_000..150_000]), Status::EEXIST.0);
    let mut other = content[50_000..150_000].to_vec();
    other[99_999] ^= 1;
    // The source sends the whole file then.
    assert_eq!(push(50_000, &other), Status::ENOENT.0);
    assert_eq!(push(150_000, &content[..100_000]), Status::ENOENT.0);
    assert_eq!(push(200_000, b"fits"), 0);
    assert_eq!(c.content(&name), [&content[..], b"fits"].concat());
}

#[test]
fn a_pushed_cut_is_made_also_where_what_it_undoes_never_came() {
    let group = Group::with(1);
    group.wait_active(0);
    let mut c = group.client(0);
    let name = c.upload_appender(b"0123456789", "log");
    let mut cut = |old_size, new_size| {
        let message = SyncTruncate { old_size, new_size, timestamp: 1, group: common::group(), name };
        c.ask(Command::SyncTruncateFile, &message, b"").status
    };
    assert_eq!(cut(500, 10), Status::EEXIST.0);
    assert_eq!(cut(500, 20), Status::EEXIST.0);
    assert_eq!(cut(500, 9), 0);
    assert_eq!(cut(500, 9), Status::EEXIST.0);
    assert_eq!(cut(9, 8), 0);
    assert_eq!(cut(8, 11), 0);
    assert_eq!(c.content(&name), b"01234567\0\0\0");
    // Before it serves it is given old files, as they are now, and then what made them so.
    let active = &group.members[0].storage.as_ref().unwrap().service().active;
    active.set(false);
    let mut c = group.client(0);
    let message = SyncTruncate { old_size: 500, new_size: 4, timestamp: 1, group: common::group(), name };
    assert_eq!(c.ask(Command::SyncTruncateFile, &message, b"").status, Status::EEXIST.0);
    assert_eq!(c.content(&name).len(), 11);
}

#[test]
fn a_member_that_was_deleted_may_come_back() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    group.client(0).upload(b"before", "txt");
    group.converge("before");
    group.stop(1);
    group.delete(1);
    let mark = group.aside(0, 1).with_extension("mark");
    group.until("its mark is set aside", |_| !mark.exists());
    group.client(0).upload(b"meanwhile", "txt");
    group.start(1);
    group.wait_active(1);
    assert_eq!(group.converge("after").len(), 2);
    group.client(1).upload(b"there", "txt");
    assert_eq!(group.converge("both ways").len(), 3);
}

#[test]
fn a_member_that_is_put_back_to_waiting_serves_again() {
    let group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    group.client(0).upload(b"before", "txt");
    group.converge("before");
    // The tracker says so while its source is pushing to it, and believes that it is done.
    let member = &group.members[1].config;
    let tracker = group.tracker.addr();
    let join = JoinRequest {
        group: common::group(),
        port: member.port,
        store_path_count: 1,
        subdir_count_per_path: 2,
        upload_priority: member.upload_priority,
        join_time: 0,
        up_time: 0,
        version: Version::NONE,
        fresh: false,
        status: Some(StorageStatus::Active),
        id: StorageId::NONE,
        tracker_ip: tracker.ip().into(),
        trackers: member.trackers.clone(),
    };
    for status in [StorageStatus::WaitSync, StorageStatus::Syncing] {
        group.wait_active(1);
        let mut in_its_name = Client::connect_from(member.bind[0], tracker);
        in_its_name.ask(Command::StorageJoin, &join, b"").ok();
        in_its_name.ask(Command::StorageChangeStatus, &ChangeStatus(status), b"").ok();
        drop(in_its_name);
        let is_active = |group: &Group| group.members[1].storage.as_ref().unwrap().is_active();
        group.until("it waits", |group| !is_active(group));
        group.until("it serves", is_active);
    }
    group.client(0).upload(b"after", "txt");
    assert_eq!(group.converge("after").len(), 2);
}

#[test]
fn a_push_that_died_half_way_is_made_good() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let appender = group.client(0).upload_appender(b"0123", "log");
    group.converge("before");
    group.stop(1);
    assert_eq!(group.client(0).append(&appender, b"4567").status, 0);
    let data = group.members[1].config.base_path.join("data");
    let file = data.join(appender.true_name());
    let before = std::fs::metadata(&file).unwrap().mtime();
    // As a kill leaves it: part of the push, at a later time than it has.
    group.put(1, &appender, b"012345", SystemTime::now() + Duration::from_secs(60));
    let (pending, _) = Pending::open(&data).unwrap();
    std::mem::forget(pending.note(pending::Kind::Push { mtime: before as u32 }, &appender));
    group.start(1);
    group.converge("after");
    assert_eq!(group.client(1).content(&appender), b"01234567");
}

#[test]
fn a_change_that_died_before_its_record_is_nowhere_or_everywhere() {
    for marked in [true, false] {
        a_change_died_before_its_record(marked);
    }
}

fn a_change_died_before_its_record(marked: bool) {
    let mut group = Group::new();
    for _ in 0..2 {
        group.add(|config| config.check_store_path_mark = marked);
    }
    (0..2).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    let appender = c.upload_appender(b"0123", "log");
    let removed = c.upload(b"removed", "txt");
    assert_eq!(c.set_metadata(&removed, MetadataMode::Overwrite, b"a\x021").status, 0);
    let kept = c.upload(b"x", "txt");
    let made: RemoteName = kept.slave(&Prefix::new("_s").unwrap(), &ExtName::new("txt").unwrap()).unwrap();
    // It was there once.
    assert_eq!(c.upload_slave(&kept, "_s", "txt", b"before").name(), made);
    assert_eq!(c.delete(&made).status, 0);
    group.converge("before");
    group.stop(0);
    let data = group.members[0].config.base_path.join("data");
    let (pending, left) = Pending::open(&data).unwrap();
    assert!(left.is_empty());
    // As a kill leaves it.
    std::fs::write(data.join(made.true_name()), b"made").unwrap();
    std::fs::write(data.join(appender.true_name()), b"01234567").unwrap();
    std::fs::remove_file(data.join(removed.true_name())).unwrap();
    std::mem::forget(pending.note(pending::Kind::Create, &made));
    // This one has its record.
    std::mem::forget(pending.note(pending::Kind::Create, &kept));
    std::mem::forget(pending.note(pending::Kind::Change { mtime: 0 }, &appender));
    std::mem::forget(pending.note(pending::Kind::Change { mtime: 0 }, &removed));
    group.start(0);
    let files = group.converge("after");
    assert_eq!(files.len(), 2);
    assert_eq!(group.client(0).content(&kept), b"x");
    assert_eq!(group.client(1).content(&appender), b"01234567");
    assert!(Pending::open(&data).unwrap().1.is_empty());
}
