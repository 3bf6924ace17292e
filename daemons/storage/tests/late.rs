//! Pushes of another member that come late: after what they bring was removed or changed here.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use common::{Client, Fixture, group};
use fdfs_protocol::peer::replica::{SyncDelete, SyncFileHead, SyncTwoNames};
use fdfs_protocol::storage::MetadataMode;
use fdfs_protocol::{Command, RemoteName, Status};

const CONTENT: &[u8] = b"content of a member that was away";

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
    let mut c = f.client();
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
    let mut c = f.client();
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
    let mut c = f.client();
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
    let mut c = f.client();
    let master = c.upload(b"master", "txt");
    let slave = c.upload_slave(&master, "_s", "txt", b"first").name();
    c.delete(&slave).ok();
    assert_eq!(create(&mut c, &slave, now() - 100), Status::EEXIST);
    assert_eq!(create(&mut c, &slave, now() + 1), Status::OK);
    c.delete(&slave).ok();
    assert_eq!(c.upload_slave(&master, "_s", "txt", b"second").name(), slave);
    assert_eq!(c.content(&slave), b"second");
}

#[test]
fn a_rename_leaves_nothing_behind() {
    let f = Fixture::start();
    let mut c = f.client();
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
fn later_changes_stay() {
    let f = Fixture::start();
    let mut c = f.client();
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
    let mut c = f.client();
    let name = foreign(&mut c, true);
    let metadata = name.metadata().unwrap();
    assert_eq!(create(&mut c, &name, 1000), Status::OK);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"").status, 0);
    assert_eq!(f.changes().last(), Some(&format!("D {metadata}")), "members that have it are told");
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, 1001, b"a\x02early"), Status::EEXIST);
    f.restart();
    let mut c = f.client();
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, 1001, b"a\x02early"), Status::EEXIST);
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, now() + 1, b"a\x02later"), Status::OK);
    assert_eq!(c.metadata(&name).ok(), b"a\x02later");
}

#[test]
fn metadata_that_was_made_anew_is_not_removed_by_a_late_removal() {
    let f = Fixture::start();
    let mut c = f.client();
    let name = c.upload(CONTENT, "txt");
    let metadata = name.metadata().unwrap();
    let then = now() + 100;
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, then, b"a\x02b"), Status::OK);
    assert_eq!(remove(&mut c, &metadata, then - 1), Status::ENOENT);
    assert_eq!(c.metadata(&name).ok(), b"a\x02b");
    assert_eq!(remove(&mut c, &metadata, then), Status::OK);
    assert_eq!(c.metadata(&name).status, 2);
    // A clock that is behind does not make a removal older than what it removes.
    assert_eq!(push(&mut c, Command::SyncCreateFile, &metadata, then, b"a\x02b"), Status::OK);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"").status, 0);
    assert_eq!(f.binlog().lines().last(), Some(format!("{then} D {metadata}").as_str()));
}
