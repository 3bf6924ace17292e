//! Pushes of another member that come late: after what they bring was removed or changed here.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use common::{Client, Fixture, group, noise};
use fdfs_protocol::peer::replica::{
    ReportServerId, SyncDelete, SyncFileHead, SyncRangeHead, SyncTruncate, SyncTwoNames,
};
use fdfs_protocol::storage::{AppendHead, MetadataMode, ModifyHead};
use fdfs_protocol::{Command, Encode, RemoteName, Status};
use fdfs_storage::config::Fsync;

const CONTENT: &[u8] = b"content of a member that was away";

/// A connection over which a member pushes that is none of FastDFS's storages.
fn member(f: &Fixture) -> Client {
    let mut c = f.client();
    assert_eq!(c.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
    c
}

fn push(client: &mut Client, command: Command, name: &RemoteName, timestamp: u32, content: &[u8]) -> Status {
    let head = SyncFileHead { size: content.len() as u64, timestamp, group: group(), name: *name };
    Status(client.ask(command, &head, content).status)
}

fn create(client: &mut Client, name: &RemoteName, timestamp: u32) -> Status {
    push(client, Command::SyncCreateFile, name, timestamp, CONTENT)
}

fn remove(client: &mut Client, name: &RemoteName, timestamp: u32) -> Status {
    Status(client.ask(Command::SyncDeleteFile, &SyncDelete { timestamp, group: group(), name: *name }, b"").status)
}

fn bytes(head: &impl Encode, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    head.encode(&mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn now() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as u32
}

/// A name that another member could have given.
fn foreign(client: &mut Client, appender: bool) -> RemoteName {
    let mine = if appender { client.upload_appender(b"x", "txt") } else { client.upload(b"x", "txt") };
    let mut block = mine.block().unwrap();
    block.timestamp -= 1000;
    mine.with_block(&block)
}

#[test]
fn what_was_removed_is_not_made_again() {
    let mut f = Fixture::start();
    let mut c = member(&f);
    let mine = c.upload(CONTENT, "txt");
    c.delete(&mine).ok();
    for command in [Command::SyncCreateFile, Command::SyncUpdateFile] {
        assert_eq!(push(&mut c, command, &mine, now(), CONTENT), Status::EEXIST);
    }
    // Also if the removal came before the creation, and over a restart.
    let name = foreign(&mut c, false);
    assert_eq!(remove(&mut c, &name, 1000), Status::ENOENT);
    assert_eq!(create(&mut c, &name, 990), Status::EEXIST);
    f.restart();
    let mut c = member(&f);
    assert_eq!(create(&mut c, &name, 990), Status::EEXIST);
    assert_eq!(create(&mut c, &name.metadata().unwrap(), 995), Status::EEXIST);
    assert_eq!(create(&mut c, &mine, now()), Status::EEXIST);
    assert!(!f.path(&name).exists() && !f.path(&mine).exists());
    // The connection is in step, and others are made.
    let other = foreign(&mut c, true);
    assert_eq!(create(&mut c, &other, 1000), Status::OK);
    assert_eq!(std::fs::read(f.path(&other)).unwrap(), CONTENT);
}

#[test]
fn metadata_goes_with_its_file() {
    let f = Fixture::start();
    let mut c = member(&f);
    let name = foreign(&mut c, true);
    let metadata = name.metadata().unwrap();
    assert_eq!(create(&mut c, &name, 1000), Status::OK);
    assert_eq!(create(&mut c, &metadata, 1001), Status::OK);
    // The member that removes the file does not have the metadata, and so says nothing about it.
    assert_eq!(remove(&mut c, &name, 1002), Status::OK);
    assert!(!f.path(&metadata).exists() && f.changes().last().unwrap().ends_with(&format!("d {metadata}")));
    assert_eq!(create(&mut c, &metadata, 1001), Status::EEXIST);
}

#[test]
fn a_slave_can_be_made_anew() {
    let f = Fixture::start();
    let mut c = member(&f);
    let master = c.upload(b"master", "txt");
    let slave = c.upload_slave(&master, "_s", "txt", b"first").name();
    c.delete(&slave).ok();
    assert_eq!(create(&mut c, &slave, now() - 100), Status::EEXIST);
    assert_eq!(create(&mut c, &slave, now() + 1), Status::OK);
    c.delete(&slave).ok();
    assert_eq!(c.upload_slave(&master, "_s", "txt", b"second").name(), slave);
    assert_eq!(c.content(&slave), b"second");
    // The removal of the first once more, by a member that was cut off.
    let made = std::fs::metadata(f.path(&slave)).unwrap().mtime() as u32;
    assert_eq!(remove(&mut c, &slave, made - 1), Status::ENOENT);
    assert_eq!(c.content(&slave), b"second");
    assert_eq!(remove(&mut c, &slave, made + 1), Status::OK);
    assert!(!f.path(&slave).exists());
}

#[test]
fn a_rename_leaves_nothing_behind() {
    let f = Fixture::start();
    let mut c = member(&f);
    let (old, new) = (foreign(&mut c, true), foreign(&mut c, false));
    let message = SyncTwoNames { timestamp: 1000, group: group(), name: new, other: old };
    // The file comes under its old name after that was given up.
    assert_eq!(Status(c.ask(Command::SyncRenameFile, &message, b"").status), Status::ENOENT);
    assert_eq!(create(&mut c, &old, 990), Status::EEXIST);
    assert_eq!(create(&mut c, &new, 1000), Status::OK);
    assert!(!f.path(&old).exists() && f.path(&new).exists());
    // The file was removed under its new name before that was known here.
    let (old, new) = (foreign(&mut c, true), foreign(&mut c, false));
    assert_eq!(create(&mut c, &old, 990), Status::OK);
    assert_eq!(remove(&mut c, &new, 1010), Status::ENOENT);
    let message = SyncTwoNames { timestamp: 1000, group: group(), name: new, other: old };
    assert_eq!(Status(c.ask(Command::SyncRenameFile, &message, b"").status), Status::EEXIST);
    assert!(!f.path(&old).exists() && !f.path(&new).exists());
}

#[test]
fn a_rename_where_both_names_are_there_leaves_one() {
    let f = Fixture::start();
    let mut c = member(&f);
    let rename = |c: &mut Client, old: RemoteName, new: RemoteName| {
        let message = SyncTwoNames { timestamp: 1000, group: group(), name: new, other: old };
        Status(c.ask(Command::SyncRenameFile, &message, b"").status)
    };
    let (old, new) = (foreign(&mut c, true), foreign(&mut c, false));
    assert_eq!(push(&mut c, Command::SyncCreateFile, &old, 990, b"x"), Status::OK);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &new, 990, b"x"), Status::OK);
    assert_eq!(rename(&mut c, old, new), Status::EEXIST);
    assert!(!f.path(&old).exists() && f.path(&new).exists());
    assert_eq!(f.changes().last(), Some(&format!("d {old}")));
    // Under an appender's name there may be something older: the whole file must come.
    let (old, new) = (foreign(&mut c, true), foreign(&mut c, false));
    assert_eq!(push(&mut c, Command::SyncCreateFile, &old, 990, b"older"), Status::OK);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &new, 1000, b"x"), Status::OK);
    assert_eq!(rename(&mut c, new, old), Status::ENOENT);
    assert!(f.path(&old).exists() && !f.path(&new).exists());
    assert_eq!(push(&mut c, Command::SyncCreateFile, &old, 1000, b"x"), Status::OK);
    assert_eq!(rename(&mut c, old, old), Status::EINVAL);
    assert_eq!(f.client().content(&old), b"x");
}

#[test]
fn who_does_not_have_what_is_pushed_says_so() {
    let f = Fixture::start();
    let mut c = member(&f);
    let name = foreign(&mut c, true);
    let metadata = name.metadata().unwrap();
    let file = |name, timestamp, content: &[u8]| {
        let head = SyncFileHead { size: content.len() as u64, timestamp, group: group(), name };
        bytes(&head, content)
    };
    let deletion = |name, timestamp| bytes(&SyncDelete { timestamp, group: group(), name }, b"");
    let range = SyncRangeHead { offset: 0, len: CONTENT.len() as u64, timestamp: 1000, group: group(), name };
    let range = bytes(&range, CONTENT);
    let mut ask = |command: Command, body: &[u8]| {
        let answer = c.raw(command.code(), 0, body);
        (Status(answer.status), answer.overtaken)
    };
    use Command::{SyncAppendFile, SyncCreateFile, SyncDeleteFile, SyncUpdateFile};
    let (done, here, gone) = ((Status::OK, false), (Status::EEXIST, false), (Status::ENOENT, false));
    let overtaken = (Status::EEXIST, true);
    assert_eq!(ask(SyncCreateFile, &file(name, 1000, CONTENT)), done);
    assert_eq!(ask(SyncCreateFile, &file(name, 1000, CONTENT)), here);
    assert_eq!(ask(SyncAppendFile, &range), here);
    assert_eq!(ask(SyncUpdateFile, &file(name, 999, b"older")), overtaken);
    assert_eq!(ask(SyncCreateFile, &file(metadata, 1000, b"m")), done);
    assert_eq!(ask(SyncCreateFile, &file(metadata, 1000, b"m")), here);
    assert_eq!(ask(SyncUpdateFile, &file(metadata, 999, b"older")), overtaken);
    assert_eq!(ask(SyncDeleteFile, &deletion(metadata, 999)), (Status::ENOENT, true));
    // It stays, and is owed to the pusher: but nobody pushes to this one.
    assert_eq!(ask(SyncDeleteFile, &deletion(metadata, 1000)), (Status::EAGAIN, false));
    assert_eq!(ask(SyncUpdateFile, &file(metadata, 1000, b"")), (Status::EAGAIN, false));
    assert_eq!(ask(SyncDeleteFile, &deletion(metadata, 1001)), done);
    assert_eq!(ask(SyncDeleteFile, &deletion(metadata, 1001)), gone);
    assert_eq!(ask(SyncDeleteFile, &deletion(name, 1001)), done);
    assert_eq!(ask(SyncCreateFile, &file(name, 1000, CONTENT)), overtaken);
    assert_eq!(ask(SyncUpdateFile, &file(name, 1000, CONTENT)), overtaken);
    assert_eq!(ask(SyncAppendFile, &range), gone, "the whole file is tried then");
}

#[test]
fn a_later_removal_of_what_was_removed_is_recorded() {
    let f = Fixture::start();
    let mut c = member(&f);
    let name = foreign(&mut c, false).metadata().unwrap();
    for timestamp in [1000, 1001, 1001, 999] {
        assert_eq!(remove(&mut c, &name, timestamp), Status::ENOENT);
    }
    let records = f.binlog().lines().filter(|line| line.ends_with("-m")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(records, [format!("1000 d {name}"), format!("1001 d {name}")]);
}

#[test]
fn what_comes_twice_waits_for_stable_storage_too() {
    let f = Fixture::with(|config| config.fsync = Fsync::Always);
    let mut c = member(&f);
    let (name, gone) = (foreign(&mut c, true), foreign(&mut c, false));
    let head = SyncFileHead { size: CONTENT.len() as u64, timestamp: 1000, group: group(), name };
    let range = SyncRangeHead { offset: 0, len: CONTENT.len() as u64, timestamp: 1000, group: group(), name };
    let deletion = SyncDelete { timestamp: 1000, group: group(), name: gone };
    let mut again = || {
        let known = c.raw(Command::SyncCreateFile.code(), Status::EEXIST.0, &bytes(&head, b"")).status;
        let created = c.ask(Command::SyncCreateFile, &head, CONTENT).status;
        let appended = c.ask(Command::SyncAppendFile, &range, CONTENT).status;
        let removed = c.ask(Command::SyncDeleteFile, &deletion, b"").status;
        [known, created, appended, removed].map(Status)
    };
    let (here, gone) = (Status::EEXIST, Status::ENOENT);
    assert_eq!(again(), [here, Status::OK, here, gone]);
    assert_eq!(again(), [here, here, here, gone]);
    // Who could not put it there must not say that it is there.
    f.storage.as_ref().unwrap().service().syncer.as_ref().unwrap().stop();
    assert_eq!(again(), [Status::EIO; 4]);
}

#[test]
fn later_changes_stay() {
    let f = Fixture::start();
    let mut c = member(&f);
    let name = foreign(&mut c, true);
    assert_eq!(create(&mut c, &name, 1000), Status::OK);
    assert_eq!(c.append(&name, b" and more").status, 0);
    let all = [CONTENT, b" and more"].concat();
    for command in [Command::SyncCreateFile, Command::SyncUpdateFile] {
        assert_eq!(push(&mut c, command, &name, 1000, CONTENT), Status::EEXIST);
        assert_eq!(c.content(&name), all);
    }
    assert_eq!(push(&mut c, Command::SyncUpdateFile, &name, now() + 1, b"newer"), Status::OK);
    assert_eq!(c.content(&name), b"newer");

    let metadata = name.metadata().unwrap();
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"a\x02late").status, 0);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, 1000, b"a\x02early, and longer"), Status::EEXIST);
    assert_eq!(c.metadata(&name).ok(), b"a\x02late");
    assert_eq!(push(&mut c, Command::SyncUpdateFile, &metadata, now() + 1, b"a\x02later"), Status::OK);
    assert_eq!(c.metadata(&name).ok(), b"a\x02later");
    // Made anew elsewhere, with the same size: it is not what is here.
    let then = now() + 2;
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, then, b"a\x02other"), Status::OK);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, then, b"a\x02other"), Status::EEXIST);
    assert_eq!(c.metadata(&name).ok(), b"a\x02other");
}

#[test]
fn metadata_that_was_cleared_before_it_came_stays_away() {
    let mut f = Fixture::start();
    let mut c = member(&f);
    let name = foreign(&mut c, true);
    let metadata = name.metadata().unwrap();
    assert_eq!(create(&mut c, &name, 1000), Status::OK);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"").status, 0);
    assert_eq!(f.changes().last(), Some(&format!("D {metadata}")), "members that have it are told");
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, 1001, b"a\x02early"), Status::EEXIST);
    f.restart();
    let mut c = member(&f);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, 1001, b"a\x02early"), Status::EEXIST);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, now() + 1, b"a\x02later"), Status::OK);
    assert_eq!(c.metadata(&name).ok(), b"a\x02later");
}

#[test]
fn metadata_that_was_made_anew_is_not_removed_by_a_late_removal() {
    let f = Fixture::start();
    let mut c = member(&f);
    let name = c.upload(CONTENT, "txt");
    let metadata = name.metadata().unwrap();
    let then = now() + 100;
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, then, b"a\x02b"), Status::OK);
    assert_eq!(remove(&mut c, &metadata, then - 1), Status::ENOENT);
    assert_eq!(c.metadata(&name).ok(), b"a\x02b");
    assert_eq!(remove(&mut c, &metadata, then + 1), Status::OK);
    assert_eq!(c.metadata(&name).status, 2);
    // A clock that is behind does not make a removal older than what it removes.
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, then + 1, b"a\x02b"), Status::OK);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"").status, 0);
    assert_eq!(f.binlog().lines().last(), Some(format!("{} D {metadata}", then + 2).as_str()));
}

#[test]
fn what_is_changed_here_comes_after_what_a_member_with_a_clock_ahead_pushed() {
    let f = Fixture::start();
    let mut c = member(&f);
    let then = now() + 100;
    let mtime = |name: &RemoteName| std::fs::metadata(f.path(name)).unwrap().mtime();
    let last = || f.binlog().lines().last().unwrap().to_owned();

    let name = foreign(&mut c, true);
    assert_eq!(create(&mut c, &name, then), Status::OK);
    let len = CONTENT.len();
    assert_eq!(c.append(&name, b" and more").status, 0);
    assert_eq!(last(), format!("{} A {name} {len} 9", then + 1));
    assert_eq!(c.modify(&name, 0, b"C").status, 0);
    assert_eq!(last(), format!("{} M {name} 0 1", then + 2));
    assert_eq!(c.truncate(&name, 3).status, 0);
    assert_eq!(mtime(&name), i64::from(then) + 3);
    assert_eq!(push(&mut c, Command::SyncUpdateFile, &name, then, CONTENT), Status::EEXIST);
    assert_eq!(c.content(&name), b"Con");

    let metadata = name.metadata().unwrap();
    assert_eq!(create(&mut c, &metadata, then), Status::OK);
    for later in 1..3 {
        assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"a\x02b").status, 0);
        assert_eq!(last(), format!("{} U {metadata}", then + later));
        assert_eq!(mtime(&metadata), i64::from(then + later));
    }
    // What came over another connection before may come again.
    assert_eq!(push(&mut c, Command::SyncUpdateFile, &metadata, then + 1, b"a\x02early"), Status::EEXIST);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"").status, 0);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"a\x02c").status, 0);
    assert_eq!(last(), format!("{} C {metadata}", then + 4));
    assert_eq!(remove(&mut c, &metadata, then + 3), Status::ENOENT, "its removal once more");
    assert_eq!(c.metadata(&name).ok(), b"a\x02c");

    let master = c.upload(b"master", "txt");
    let slave = c.upload_slave(&master, "_s", "txt", b"first").name();
    c.delete(&slave).ok();
    assert_eq!(create(&mut c, &slave, then), Status::OK);
    c.delete(&slave).ok();
    assert_eq!(last(), format!("{} D {slave}", then + 1));
    assert_eq!(c.upload_slave(&master, "_s", "txt", b"second").name(), slave);
    assert_eq!(last(), format!("{} C {slave}", then + 2));
    assert_eq!(mtime(&slave), i64::from(then) + 2);
}

#[test]
fn a_write_that_fails_does_not_count_as_a_change() {
    let f = Fixture::start();
    let mut c = member(&f);
    let name = foreign(&mut c, true);
    assert_eq!(create(&mut c, &name, 1000), Status::OK);
    // Pushed, and by a client: both end after a part.
    for by_client in [false, true] {
        let mut gone = f.client();
        let (offset, len) = (CONTENT.len() as u64, 1 << 20);
        match by_client {
            true => gone.begin(Command::AppendFile, &AppendHead { name, size: len }, len),
            false => {
                let head = SyncRangeHead { offset, len, timestamp: 1001, group: group(), name };
                gone.begin(Command::SyncAppendFile, &head, len);
            }
        }
        gone.send(&[7; 400_000]);
        let there = || std::fs::metadata(f.path(&name)).unwrap();
        until("a part is there", || there().len() > offset);
        drop(gone);
        until("it is taken back", || there().len() == offset && there().mtime() == 1000);
    }
    assert_eq!(push(&mut c, Command::SyncUpdateFile, &name, 1001, b"newer"), Status::OK);
    assert_eq!(c.content(&name), b"newer");
}

#[test]
fn a_modification_that_fails_half_way_is_told_to_the_members() {
    let f = Fixture::start();
    let mut c = member(&f);
    let len = 1 << 20;
    let name = c.upload_appender(&vec![1; len as usize], "txt");
    let mut gone = f.client();
    gone.begin(Command::ModifyFile, &ModifyHead { offset: 8, size: len, name }, len);
    gone.send(&[7; 400_000]);
    until("a part is written", || std::fs::read(f.path(&name)).unwrap()[8] == 7);
    drop(gone);
    // What it has become, and not more.
    until("it is recorded", || f.changes().last() == Some(&format!("M {name} 8 {}", len - 8)));
    assert_eq!(c.content(&name).len() as u64, len);
}

#[test]
fn a_pushed_write_changes_nothing_before_it_is_here() {
    let f = Fixture::start();
    let mut c = member(&f);
    let (before, written) = (noise(600_000, 1), noise(500_000, 2));
    let name = foreign(&mut c, true);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &name, 1000, &before), Status::OK);
    let head = SyncRangeHead { offset: 200_000, len: 500_000, timestamp: 1001, group: group(), name };
    // Its source is lost on the way, and nobody else knows of it.
    let mut gone = f.client();
    gone.begin(Command::SyncModifyFile, &head, 500_000);
    gone.send(&written[..450_000]);
    drop(gone);
    // It waits for the one before.
    let known = SyncRangeHead { offset: 0, len: 1, timestamp: 1000, group: group(), name };
    assert_eq!(c.ask(Command::SyncAppendFile, &known, &before[..1]).status, Status::EEXIST.0);
    assert!(c.content(&name) == before);
    assert_eq!(c.ask(Command::SyncModifyFile, &head, &written).status, 0);
    assert!(c.content(&name) == [&before[..200_000], &written].concat());
    assert_eq!(f.changes().last(), Some(&format!("m {name} 200000 500000")));
}

#[test]
fn a_write_that_is_pushed_again_does_not_undo_a_later_one() {
    let mut f = Fixture::start();
    let name = foreign(&mut f.client(), true);
    let modify = |c: &mut Client, timestamp, content: &[u8]| {
        let head = SyncRangeHead { offset: 2, len: content.len() as u64, timestamp, group: group(), name };
        Status(c.ask(Command::SyncModifyFile, &head, content).status)
    };
    let cut = |c: &mut Client| {
        let message = SyncTruncate { old_size: 8, new_size: 6, timestamp: 1002, group: group(), name };
        Status(c.ask(Command::SyncTruncateFile, &message, b"").status)
    };
    let mut c = member(&f);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &name, 1000, b"01234567"), Status::OK);
    assert_eq!(modify(&mut c, 1001, b"ab"), Status::OK);
    assert_eq!(cut(&mut c), Status::OK);
    // By a client of this member, or by a third one.
    assert_eq!(c.append(&name, b"later").status, 0);
    assert_eq!(c.modify(&name, 2, b"AB").status, 0);
    for _ in 0..2 {
        assert_eq!(modify(&mut c, 1001, b"ab"), Status::EEXIST);
        assert_eq!(cut(&mut c), Status::OK, "it is known");
        assert_eq!(c.content(&name), b"01AB45later");
        f.restart();
        c = f.client();
    }
    // One that was not here before is made, in whatever order they come.
    assert_eq!(modify(&mut c, 1003, b"cd"), Status::OK);
    assert_eq!(c.content(&name), b"01cd45later");
}
