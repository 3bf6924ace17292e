//! Changes of one file that clients make at several members: each is made on top of the one before.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::peer::latest::SyncLatest;
use fdfs_protocol::peer::replica::{ReportServerId, SyncRangeHead};
use fdfs_protocol::storage::MetadataMode;
use fdfs_protocol::{Command, RemoteName, Status, StorageId};
use fdfs_server::AllowHosts;
use fdfs_storage::StorageConfig;

use crate::common::{self, Client};
use crate::group::Group;

fn group_of(count: usize, change: impl Fn(&mut StorageConfig)) -> Group {
    let mut group = Group::new();
    for _ in 0..count {
        group.add(&change);
    }
    (0..count).for_each(|i| group.wait_active(i));
    group
}

/// Starts a member anew, which takes connections from these hosts only: 127.0.0.1 is the test.
fn restart(group: &mut Group, index: usize, hosts: &[&str]) {
    if group.members[index].storage.is_some() {
        group.stop(index);
    }
    group.members[index].config.allow = AllowHosts::parse(hosts.iter().copied());
    group.start(index);
    group.wait_active(index);
}

fn content(group: &Group, member: usize, name: &RemoteName) -> Vec<u8> {
    group.client(member).content(name)
}

#[test]
fn a_member_that_was_away_changes_nothing_before_it_has_what_others_took_meanwhile() {
    // What waits in vain, waits for three quarters of this.
    let mut group = group_of(2, |config| config.network_timeout = Duration::from_secs(4));
    let all = group.members[0].config.allow.clone();
    let name = group.client(0).upload_appender(b"one ", "log");
    assert_eq!(group.client(0).set_metadata(&name, MetadataMode::Overwrite, b"a\x021").status, 0);
    group.converge("before");
    group.stop(0);
    assert_eq!(group.client(1).append(&name, b"two ").status, 0);
    assert_eq!(group.client(1).set_metadata(&name, MetadataMode::Merge, b"b\x022").status, 0);
    // It can ask, and not be pushed to.
    restart(&mut group, 0, &["127.0.0.1"]);
    let mut back = group.client(0);
    for refused in [
        back.append(&name, b"three "),
        back.modify(&name, 0, b"ONE"),
        back.truncate(&name, 1),
        back.regenerate(&name),
        back.set_metadata(&name, MetadataMode::Merge, b"c\x023"),
    ] {
        assert_eq!(refused.status, Status::EAGAIN.0);
    }
    assert_eq!(content(&group, 0, &name), b"one ");
    // A file that nobody else changed is not held up.
    let other = back.upload_appender(b"1", "log");
    assert_eq!(back.append(&other, b"2").status, 0);
    group.stop(0);
    group.members[0].config.allow = all;
    group.start(0);
    group.wait_active(0);
    // No matter whether it has been pushed to.
    let mut back = group.client(0);
    assert_eq!(back.append(&name, b"three ").status, 0);
    assert_eq!(back.set_metadata(&name, MetadataMode::Merge, b"c\x023").status, 0);
    group.converge("after");
    assert_eq!(content(&group, 1, &name), b"one two three ");
    assert_eq!(back.metadata(&name).body, b"a\x021\x01b\x022\x01c\x023");
}

#[test]
fn what_only_one_of_the_others_got_of_a_member_that_is_away_is_not_passed_over() {
    let mut group = group_of(3, |config| config.network_timeout = Duration::from_secs(4));
    let name = group.client(0).upload_appender(b"one ", "log");
    group.converge("before");
    group.stop(1);
    assert_eq!(group.client(0).append(&name, b"two ").status, 0);
    group.until("the other one has it", |group| content(group, 2, &name) == b"one two ");
    group.stop(0);
    group.start(1);
    group.wait_active(1);
    assert_eq!(content(&group, 1, &name), b"one ");
    assert_eq!(group.client(1).append(&name, b"three ").status, Status::EAGAIN.0);
    assert_eq!(group.client(2).append(&name, b"three ").status, 0);
    group.start(0);
    group.wait_active(0);
    group.converge("after");
    assert_eq!(content(&group, 0, &name), b"one two three ");
}

#[test]
fn of_what_clients_append_at_all_members_at_once_nothing_is_lost() {
    const EACH: usize = 20;
    let group = group_of(3, |config| config.ack_members = 2);
    let name = group.client(0).upload_appender(b"", "log");
    group.converge("before");
    let begin = Barrier::new(3);
    std::thread::scope(|scope| {
        for member in 0..3 {
            let (group, begin) = (&group, &begin);
            scope.spawn(move || {
                let mut client = group.client(member);
                begin.wait();
                for n in 0..EACH {
                    let line = format!("{member}:{n:02}\n");
                    // Who comes too often at the same time as others is told to come again.
                    while client.append(&name, line.as_bytes()).status != 0 {}
                }
            });
        }
    });
    group.converge("after");
    let all = String::from_utf8(content(&group, 0, &name)).unwrap();
    for member in 0..3 {
        let of: Vec<_> = all.lines().filter(|line| line.starts_with(&format!("{member}:"))).collect();
        let expected: Vec<_> = (0..EACH).map(|n| format!("{member}:{n:02}")).collect();
        assert_eq!(of, expected);
    }
}

#[test]
fn what_was_removed_or_renamed_elsewhere_is_not_changed() {
    let mut group = group_of(2, |config| config.network_timeout = Duration::from_secs(4));
    let all = group.members[1].config.allow.clone();
    let mut c = group.client(0);
    let appender = c.upload_appender(b"one ", "log");
    let name = c.upload(b"has metadata", "txt");
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"a\x021").status, 0);
    group.converge("before");
    group.stop(1);
    assert_eq!(c.regenerate(&appender).status, 0);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"").status, 0);
    restart(&mut group, 1, &["127.0.0.1"]);
    let mut back = group.client(1);
    assert_eq!(back.append(&appender, b"two ").status, Status::EAGAIN.0);
    assert_eq!(back.set_metadata(&name, MetadataMode::Merge, b"b\x022").status, Status::EAGAIN.0);
    group.stop(1);
    group.members[1].config.allow = all;
    group.start(1);
    group.wait_active(1);
    let mut back = group.client(1);
    assert_eq!(back.append(&appender, b"two ").status, Status::ENOENT.0);
    assert_eq!(back.set_metadata(&name, MetadataMode::Merge, b"b\x022").status, 0);
    group.converge("after");
    assert_eq!(c.metadata(&name).body, b"b\x022");
}

#[test]
fn a_member_that_has_the_last_change_may_lack_one_before() {
    let mut group = group_of(3, |config| config.network_timeout = Duration::from_secs(4));
    let all = group.members[1].config.allow.clone();
    let name = group.client(0).upload_appender(b"0123456789", "log");
    group.converge("before");
    group.stop(1);
    assert_eq!(group.client(0).modify(&name, 0, b"AA").status, 0);
    group.until("the other has it", |group| content(group, 2, &name) == b"AA23456789");
    assert_eq!(group.client(2).append(&name, b"x").status, 0);
    // It hears from member 2, at 127.0.0.4, only.
    restart(&mut group, 1, &["127.0.0.1", "127.0.0.4"]);
    group.until("the later one is here", |group| content(group, 1, &name) == b"0123456789x");
    group.until("and there", |group| content(group, 0, &name) == b"AA23456789x");
    assert_eq!(group.client(1).append(&name, b"y").status, Status::EAGAIN.0);
    group.stop(1);
    group.members[1].config.allow = all;
    group.start(1);
    group.wait_active(1);
    assert_eq!(group.client(1).append(&name, b"y").status, 0);
    group.converge("after");
    assert_eq!(content(&group, 0, &name), b"AA23456789xy");
}

#[test]
fn metadata_is_made_anew_where_its_removal_is_forgotten() {
    let mut group = group_of(2, |config| config.network_timeout = Duration::from_secs(4));
    let mut client = group.client(0);
    let name = client.upload(b"has metadata", "txt");
    assert_eq!(client.set_metadata(&name, MetadataMode::Overwrite, b"a\x021").status, 0);
    group.converge("set");
    assert_eq!(client.set_metadata(&name, MetadataMode::Overwrite, b"").status, 0);
    group.converge("removed");
    group.until("it is recorded", |group| group.binlog(1).contains(" d "));
    group.stop(1);
    // What many other files leave in the binlog: only its end is read at a start.
    let path = group.members[1].config.base_path.join("data/sync/binlog.000");
    let mut binlog = std::fs::File::options().append(true).open(path).unwrap();
    let line = format!("1900000000 c {}\n", name.as_str().replace("M00/00/00", "M00/00/01"));
    binlog.write_all(line.repeat((5 << 20) / line.len()).as_bytes()).unwrap();
    group.start(1);
    group.wait_active(1);
    assert_eq!(group.client(1).set_metadata(&name, MetadataMode::Merge, b"b\x022").status, 0);
    group.until("it comes to the other one", |group| group.client(0).metadata(&name).body == b"b\x022");
}

/// As FastDFS's storages leave them behind, or what was copied back.
#[test]
fn equal_files_with_different_times_are_changed_at_every_member() {
    let mut group = group_of(2, |config| config.network_timeout = Duration::from_secs(4));
    let mut client = group.client(0);
    let name = client.upload_appender(b"content", "log");
    assert_eq!(client.set_metadata(&name, MetadataMode::Overwrite, b"a\x021").status, 0);
    group.converge("before");
    let later = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    group.stop(0);
    group.put(0, &name, b"content", later);
    group.put(0, &name.metadata().unwrap(), b"a\x021", later);
    group.start(0);
    group.wait_active(0);
    let mut other = group.client(1);
    assert_eq!(other.append(&name, b" and more").status, 0);
    assert_eq!(other.set_metadata(&name, MetadataMode::Merge, b"b\x022").status, 0);
    group.until("both come to the other one", |group| {
        content(group, 0, &name) == b"content and more" && group.client(0).metadata(&name).body == b"a\x021\x01b\x022"
    });
    // Something else with a later time has to come first.
    group.stop(0);
    group.put(0, &name, b"content and MORE", later + Duration::from_secs(60));
    group.start(0);
    group.wait_active(0);
    group.client(0).upload(b"new", "txt");
    group.until("it pushes", |group| group.files(0).len() == group.files(1).len());
    assert_eq!(other.append(&name, b"!").status, Status::EAGAIN.0);
}

#[test]
fn clients_that_never_pause_at_one_member_do_not_shut_out_those_of_another() {
    for (acks, busy) in [(1, 4), (2, 4)] {
        let group = group_of(2, |config| config.ack_members = acks);
        let name = group.client(0).upload_appender(b"", "log");
        group.converge("before");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..busy {
                scope.spawn(|| {
                    let mut client = group.client(0);
                    while !over.load(Ordering::Relaxed) {
                        // It may have to wait for the other one.
                        client.append(&name, b"0");
                    }
                });
            }
            group.until("they are at work", |group| content(group, 0, &name).len() > 100);
            let mut client = group.client(1);
            // On a slow machine what it lacks takes more than one turn.
            let made = (0..4).filter(|_| client.append(&name, b"1").status == 0).count();
            over.store(true, Ordering::Relaxed);
            assert!(made > 0, "{acks}");
        });
        group.converge("after");
        assert!(content(&group, 0, &name).contains(&b'1'));
    }
}

/// It answers nothing that it is asked over new connections, and pushes over one that it has.
#[test]
fn a_silent_member_is_asked_again_about_a_file_that_it_pushes() {
    let mut group = group_of(2, |_| {});
    let mut client = group.client(0);
    let names = [b"1 ", b"2 ", b"3 "].map(|content| client.upload_appender(content, "log"));
    group.converge("before");
    group.stop(1);
    let listener = TcpListener::bind(group.addr(1)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut connected: Vec<TcpStream> = Vec::new();
    let mut asked = || {
        connected.extend(listener.incoming().map_while(Result::ok));
        let mut head = [0; HEADER_LEN];
        let commands = connected.iter_mut().filter_map(|stream| {
            stream.set_nonblocking(true).unwrap();
            stream.read_exact(&mut head).ok()?;
            Some(Header::decode(&head).unwrap().cmd)
        });
        commands.filter(|cmd| *cmd == Command::SyncLatest.code()).count()
    };
    let mut peer = Client::connect_from(group.addr(1).ip(), group.addr(0));
    let id = StorageId::new(&group.addr(1).ip().to_string()).unwrap();
    assert_eq!(peer.ask(Command::ReportServerId, &ReportServerId { id }, b"").status, 0);
    let mut push = |name, content: &[u8]| {
        let len = content.len() as u64;
        let head = SyncRangeHead { offset: 2, len, timestamp: 1_900_000_000, group: common::group(), name };
        peer.ask(Command::SyncAppendFile, &head, content).status
    };
    // What it pushes while it is asked comes before all that clients wait for.
    std::thread::scope(|scope| {
        let append = |content| {
            let mut client = group.client(0);
            assert!(client.is_alive());
            let name = &names[0];
            scope.spawn(move || assert_eq!(client.append(name, content).status, 0));
        };
        append(b"a ");
        group.until("it is asked", |_| asked() == 1);
        append(b"a ");
        assert_eq!(push(names[0], b"pushed "), 0);
    });
    assert_eq!(content(&group, 0, &names[0]), b"1 pushed a a ");
    assert!(asked() > 0, "it has pushed since");
    assert_eq!(push(names[1], b"pushed "), 0);
    assert_eq!(client.append(&names[2], b"a ").status, 0);
    assert_eq!(asked(), 0, "of this file it pushes nothing");
    for questions in [1, 0] {
        assert_eq!(client.append(&names[1], b"a ").status, 0);
        assert_eq!(asked(), questions);
    }
    assert_eq!(content(&group, 0, &names[1]), b"2 pushed a a ");
}

#[test]
fn only_the_same_content_is_said_to_be_the_same() {
    let group = group_of(2, |_| {});
    let name = group.client(1).upload_appender(b"x", "log");
    assert_eq!(group.client(1).set_metadata(&name, MetadataMode::Overwrite, b"a\x021").status, 0);
    group.converge("pushed");
    assert_eq!(group.client(0).set_metadata(&name, MetadataMode::Overwrite, b"a\x022").status, 0);
    group.converge("changed");
    let ask = |content: Option<&[u8]>| {
        let crc32 = content.map(crc32fast::hash);
        let name = name.metadata().unwrap();
        let question = SyncLatest { asker: "127.0.0.3".parse().unwrap(), changed: 1, size: 3, crc32, name };
        group.client(0).ask(Command::SyncLatest, &question, b"")
    };
    for other in [None, Some(&b"a\x021"[..]), Some(b"a\x02")] {
        assert_eq!(ask(other).status, Status::EAGAIN.0, "{other:?}");
    }
    // Not before the other member has it for certain.
    group.until("it says so", |_| ask(Some(b"a\x022")).status == 0);
    assert!(SyncLatest::decode_answer(&ask(Some(b"a\x022")).body).unwrap() > Some(1));
}
