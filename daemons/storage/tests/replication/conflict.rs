//! Changes of one file that two members took, neither knowing of the other's.

use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fdfs_protocol::peer::replica::{ReportServerId, SyncDelete, SyncFileHead, SyncRangeHead, SyncTruncate};
use fdfs_protocol::{Command, Encode, RemoteName, Status, StorageId};
use fdfs_storage::disk::pending::{self, Pending};

use crate::common::{self, Client, noise};
use crate::group::Group;

#[test]
fn a_change_that_comes_after_a_later_one_brings_the_whole_file() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload_appender(b"0123456789", "log");
    group.converge("before");
    let mut peer = group.client(1);
    assert_eq!(peer.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
    let mine = common::group();
    let mut range = |command, offset: u64, timestamp: u32, content: &[u8]| {
        let head = SyncRangeHead { offset, len: content.len() as u64, timestamp, group: mine, name };
        peer.ask(command, &head, content).status
    };
    assert_eq!(range(Command::SyncModifyFile, 2, 1_900_000_000, b"later"), 0);
    for (command, offset, content) in [
        (Command::SyncModifyFile, 0, &b"x"[..]),
        (Command::SyncAppendFile, 10, b"x"),
        (Command::SyncAppendFile, 0, b"x"),
    ] {
        assert_eq!(range(command, offset, 1_899_999_999, content), Status::EAGAIN.0);
    }
    assert_eq!(range(Command::SyncModifyFile, 2, 1_900_000_000, b"later"), Status::EEXIST.0, "again");
    let cut = SyncTruncate { old_size: 10, new_size: 5, timestamp: 1_899_999_999, group: mine, name };
    assert_eq!(peer.ask(Command::SyncTruncateFile, &cut, b"").status, Status::EAGAIN.0);
    // The other member has the earlier change, and is about to get the later one.
    let mut set = |content: &[u8], time: u64, cause: Option<&str>| {
        group.stop(0);
        group.put(0, &name, content, UNIX_EPOCH + Duration::from_secs(time));
        if let Some(cause) = cause {
            std::fs::write(group.aside(0, 1), cause).unwrap();
        }
        group.start(0);
        group.wait_active(0);
        // What is due comes before this.
        let new = group.client(0).upload(b"new", "txt");
        let path = std::path::Path::new("data").join(new.true_name());
        group.until("names set aside were tried", |group| group.files(1).contains_key(&path));
    };
    set(b"x123456789", 1_899_999_999, Some(&format!("1899999999 U {name}\n")));
    set(b"x1later789", 1_900_000_000, None);
    group.converge("after");
    assert_eq!(group.client(1).content(&name), b"x1later789");
}

#[test]
fn of_changes_at_the_same_time_all_members_keep_the_same_one() {
    let group = Group::with(1);
    group.wait_active(0);
    let mut c = group.client(0);
    let (timestamp, mine) = (1_900_000_000, common::group());
    // Pushes that a member sees in some order: content, or a removal; and what it has then.
    let mut pushed = |strict: bool, pushes: [Option<&[u8]>; 2], replace: bool| {
        let name = c.upload(b"file", "txt").metadata().unwrap();
        let mut peer = group.client(0);
        // Over one of its further connections a member does not say who it is.
        if strict && !replace {
            assert_eq!(peer.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
        }
        let mut id = Vec::new();
        ReportServerId { id: StorageId::new("10.0.0.9").unwrap() }.encode(&mut id);
        let flag = if strict { ReportServerId::STRICT_TIMES } else { 0 };
        if !strict || replace {
            assert_eq!(peer.raw(Command::ReportServerId.code(), flag, &id).status, 0);
        }
        for push in pushes {
            let status = match push {
                Some(content) => {
                    let head = SyncFileHead { size: content.len() as u64, timestamp, group: mine, name };
                    peer.ask(if replace { Command::SyncUpdateFile } else { Command::SyncCreateFile }, &head, content)
                        .status
                }
                None => peer.ask(Command::SyncDeleteFile, &SyncDelete { timestamp, group: mine, name }, b"").status,
            };
            // EAGAIN: what stays is owed to the pusher, and nobody pushes to this one.
            let known = [Status::OK, Status::EEXIST, Status::ENOENT, Status::EAGAIN];
            assert!(known.contains(&Status(status)), "{status}");
        }
        group.files(0).remove(&std::path::Path::new("data").join(name.true_name()))
    };
    let (one, two, long): (&[u8], &[u8], &[u8]) = (b"a\x021", b"a\x022", b"a\x02333");
    for replace in [false, true] {
        for [this, that] in [[one, two], [one, long], [two, long]] {
            let here = pushed(true, [Some(this), Some(that)], replace);
            assert!(here.is_some() && here == pushed(true, [Some(that), Some(this)], replace));
            assert_eq!(pushed(false, [Some(that), Some(this)], replace).unwrap(), this, "FastDFS means the later one");
        }
        assert_eq!(pushed(true, [Some(one), None], replace).unwrap(), one);
        assert_eq!(pushed(true, [None, Some(one)], replace).unwrap(), one);
        assert_eq!(pushed(false, [Some(one), None], replace), None);
        assert_eq!(pushed(false, [None, Some(one)], replace).unwrap(), one);
    }
}

#[test]
fn of_two_that_were_made_at_once_all_get_the_same_though_their_makers_are_lost() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload(b"has metadata", "txt");
    group.converge("before");
    let metadata = name.metadata().unwrap();
    let timestamp = name.block().unwrap().timestamp + 10;
    for (member, content) in [(0, &b"a\x02less"[..]), (1, b"a\x02greater")] {
        let mut lost = group.client(member);
        assert_eq!(lost.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
        let size = content.len() as u64;
        let head = SyncFileHead { size, timestamp, group: common::group(), name: metadata };
        assert_eq!(lost.ask(Command::SyncCreateFile, &head, content).status, 0);
    }
    // As when those who compare find that this one lacks it.
    group.stop(0);
    std::fs::write(group.aside(0, 1), format!("{timestamp} U {metadata}\n")).unwrap();
    group.start(0);
    group.converge("the greater stays");
    assert_eq!(group.files(0)[&Path::new("data").join(metadata.true_name())], b"a\x02greater");
}

#[test]
fn of_an_appender_with_appends_of_one_second_all_keep_the_last_one() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload_appender(b"one", "log");
    group.converge("before");
    // As when members compare while a third one, which takes appends, has pushed the second to one of them.
    let timestamp = name.block().unwrap().timestamp + 10;
    for (member, content) in [(0, &b"one"[..]), (1, b"one, two")] {
        group.stop(member);
        group.put(member, &name, content, UNIX_EPOCH + Duration::from_secs(timestamp.into()));
    }
    std::fs::write(group.aside(0, 1), format!("{timestamp} U {name}\n")).unwrap();
    (0..2).for_each(|i| group.start(i));
    group.converge("the longer stays");
    assert_eq!(group.client(0).content(&name), b"one, two");
}

#[test]
fn of_an_appender_that_two_changed_at_once_all_keep_the_same_one() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    // Whichever of them is pushed last, and pushed by both.
    let contents = [&b"one"[..], b"two"];
    for pushers in [&[0][..], &[1], &[0, 1]] {
        let name = group.client(0).upload_appender(b"old", "log");
        group.converge("before");
        let timestamp = name.block().unwrap().timestamp + 10;
        for (member, content) in contents.into_iter().enumerate() {
            group.stop(member);
            group.put(member, &name, content, UNIX_EPOCH + Duration::from_secs(timestamp.into()));
        }
        for from in pushers {
            std::fs::write(group.aside(*from, 1 - from), format!("{timestamp} U {name}\n")).unwrap();
        }
        (0..2).for_each(|i| group.start(i));
        group.converge("the greater checksum stays");
        let greater = contents.into_iter().max_by_key(|content| crc32fast::hash(content)).unwrap();
        assert_eq!(group.client(0).content(&name), greater, "pushed by {pushers:?}");
    }
}

/// A change of an appender.
#[derive(Debug, Clone, Copy)]
enum Change {
    Cut(u64),
    Append(&'static [u8]),
    Write(u64, &'static [u8]),
}

impl Change {
    fn random(random: u8) -> Change {
        let (kind, size) = (random % 3, u64::from(random / 3 % 10));
        match kind {
            0 => Change::Cut(size),
            1 => Change::Append([&b"ab"[..], b"cde", b"fghi", b"kl"][random as usize / 3 % 4]),
            _ => Change::Write(size, [&b"mn"[..], b"opq", b"rstu", b"vw"][random as usize / 30 % 4]),
        }
    }

    /// Makes it, if the file of `len` bytes is long enough; what it has then.
    fn make(self, client: &mut Client, name: &RemoteName, len: u64) -> u64 {
        let (answer, len) = match self {
            Change::Cut(size) => (client.truncate(name, size), size),
            Change::Append(content) => (client.append(name, content), len + content.len() as u64),
            Change::Write(offset, _) if offset > len => return len,
            Change::Write(offset, content) => {
                (client.modify(name, offset, content), len.max(offset + content.len() as u64))
            }
        };
        assert_eq!(answer.status, 0, "{name}: {self:?}");
        len
    }
}

/// What all members have of appenders that each of three changed while it was alone.
fn changed_apart(plans: &[[Vec<Change>; 3]]) -> Vec<Vec<u8>> {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    let mut c = group.client(0);
    let names: Vec<_> = plans.iter().map(|_| c.upload_appender(b"0123456789", "log")).collect();
    group.converge("before");
    (0..3).for_each(|i| group.stop(i));
    // Later than now, so that the next change is a second after that, whoever makes it.
    let time = UNIX_EPOCH + Duration::from_secs(u64::from(names[0].block().unwrap().timestamp) + 1000);
    for member in 0..3 {
        names.iter().for_each(|name| group.put(member, name, b"0123456789", time));
        group.start(member);
        group.wait_active(member);
        let mut c = group.client(member);
        for (name, plan) in names.iter().zip(plans) {
            plan[member].iter().fold(10, |len, change| change.make(&mut c, name, len));
        }
        group.stop(member);
    }
    (0..3).for_each(|i| group.start(i));
    let kept = group.converge("after");
    names.iter().map(|name| kept[&Path::new("data").join(name.true_name())].clone()).collect()
}

#[test]
fn of_changes_that_two_members_made_at_once_and_apart_all_keep_one() {
    use Change::{Append, Cut, Write};
    let cases = [
        (Cut(4), Append(b"ab"), &[&b"0123456789ab"[..]][..]),
        (Cut(4), Cut(6), &[b"012345"]),
        (Write(0, b"xyz"), Append(b"ab"), &[b"0123456789ab", b"xyz3456789ab"]),
        (Write(0, b"xyz"), Write(2, b"abc"), &[b"xyz3456789", b"01abc56789"]),
    ];
    let plans: Vec<_> = cases.iter().map(|(first, second, _)| [vec![*first], vec![*second], vec![]]).collect();
    for ((first, second, results), kept) in cases.iter().zip(changed_apart(&plans)) {
        assert!(results.contains(&&kept[..]), "{first:?}, {second:?}: {kept:?}");
    }
}

#[test]
fn of_changes_that_three_members_made_apart_all_keep_the_same() {
    let mut random = noise(4096, 1).into_iter();
    let mut next = move || random.next().unwrap();
    let plans: Vec<[Vec<Change>; 3]> =
        (0..200).map(|_| [(); 3].map(|()| (0..next() % 4).map(|_| Change::random(next())).collect())).collect();
    changed_apart(&plans);
}

#[test]
fn what_takes_the_place_of_another_made_at_once_goes_to_all() {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload_appender(b"old", "log");
    group.converge("before");
    let timestamp = name.block().unwrap().timestamp + 10;
    (0..3).for_each(|i| group.stop(i));
    // Members 1 and 2 have the change of one of them; member 0 has its own, and only member 1 knows that these are two.
    let mut contents = [b"one", b"two"];
    contents.sort_by_key(|content| crc32fast::hash(&content[..]));
    for (member, content) in [(0, contents[1]), (1, contents[0]), (2, contents[0])] {
        group.put(member, &name, content, UNIX_EPOCH + Duration::from_secs(timestamp.into()));
    }
    std::fs::write(group.aside(1, 0), format!("{timestamp} U {name}\n")).unwrap();
    (0..3).for_each(|i| group.start(i));
    group.converge("the greater checksum stays");
    assert_eq!(group.client(2).content(&name), contents[1]);
}

#[test]
fn what_follows_a_change_that_came_with_the_file_is_later_than_that() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    for change in [Change::Append(b"ab"), Change::Cut(4)] {
        group.stop(1);
        let name = group.client(0).upload_appender(b"0123456789", "log");
        // As if the clock of member 0 were ahead, and the change made a second later.
        let time = UNIX_EPOCH + Duration::from_secs(u64::from(name.block().unwrap().timestamp) + 1000);
        group.put(0, &name, b"0123456789", time);
        change.make(&mut group.client(0), &name, 10);
        group.start(1);
        group.wait_active(1);
        group.converge("with the change");
        let mark = group.aside(0, 1).with_extension("mark");
        group.until("all is pushed", |group| {
            let end = format!("binlog_offset={}", group.binlog(0).len());
            std::fs::read_to_string(&mark).unwrap().lines().any(|line| line == end)
        });
        group.stop(0);
        Change::Append(b"cde").make(&mut group.client(1), &name, 0);
        group.start(0);
        group.wait_active(0);
        let kept = group.converge("the last change stays");
        let kept = &kept[&Path::new("data").join(name.true_name())];
        assert!(kept.ends_with(b"cde"), "{change:?}: {kept:?}");
    }
}

#[test]
fn what_follows_a_change_that_a_kill_cut_off_is_later_than_that() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let data = group.members[0].config.base_path.join("data");
    for half_made in [false, true] {
        let name = group.client(0).upload_appender(b"0123456789", "log");
        let path = data.join(name.true_name());
        // As if the clock had been ahead.
        let ahead = name.block().unwrap().timestamp + 1000;
        group.put(0, &name, b"0123456789", UNIX_EPOCH + Duration::from_secs(ahead.into()));
        assert_eq!(group.client(0).modify(&name, 0, b"x").status, 0);
        group.until("taken", |group| group.binlog(1).contains(&format!(" m {name}")));
        group.stop(0);
        let mtime = if half_made {
            // It has the time of the system, and no recent record tells how far ahead it was.
            std::fs::write(&path, b"yy23456789").unwrap();
            group.put(1, &name, b"x123456789", UNIX_EPOCH + Duration::from_secs(u64::from(ahead) + 1000));
            ahead + 1000
        } else {
            // It has its record, and waited for a disk or another member.
            ahead
        };
        let (pending, _) = Pending::open(&data).unwrap();
        std::mem::forget(pending.note(pending::Kind::Change { mtime }, &name));
        group.start(0);
        group.wait_active(0);
        group.until("what it is now is taken", |group| group.binlog(1).contains(&format!(" u {name}")));
        Change::Cut(4).make(&mut group.client(0), &name, 10);
        let kept = group.converge("the cut stays");
        let kept = &kept[&Path::new("data").join(name.true_name())];
        assert_eq!(kept, if half_made { b"yy23" } else { b"x123" });
    }
}

/// The time of what is changed often runs ahead of the clock: it does not tell for how long something has been here.
#[test]
fn a_cut_is_taken_shorter_however_far_the_time_of_the_file_is_ahead() {
    let group = Group::with(1);
    group.wait_active(0);
    let name = group.client(0).upload_appender(b"0123", "log");
    let mut peer = group.client(0);
    assert_eq!(peer.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
    let (mine, timestamp) = (common::group(), 2_000_000_000);
    let head = SyncRangeHead { offset: 4, len: 2, timestamp, group: mine, name };
    assert_eq!(peer.ask(Command::SyncAppendFile, &head, b"45").status, 0);
    let mut body = Vec::new();
    SyncFileHead { size: 4, timestamp, group: mine, name }.encode(&mut body);
    body.extend_from_slice(b"0123");
    let mut push = || peer.raw(Command::SyncUpdateFile.code(), SyncFileHead::HAS_BOTH, &body).status;
    assert_eq!(push(), Status::EAGAIN.0, "it may be on its way to the pusher");
    let began = Instant::now();
    while push() != 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "it is still taken for on its way");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(group.client(0).content(&name), b"0123");
}

#[test]
fn an_older_appender_of_the_same_size_is_not_taken_for_the_same() {
    let group = Group::with(1);
    group.wait_active(0);
    let name = group.client(0).upload_appender(b"0123", "log");
    let mut peer = group.client(0);
    assert_eq!(peer.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
    let mut push = |timestamp, content: &[u8]| {
        let head = SyncFileHead { size: 4, timestamp, group: common::group(), name };
        peer.ask(Command::SyncCreateFile, &head, content).status
    };
    assert_eq!(push(1, b"AB23"), Status::EEXIST.0, "the record of its creation: it was changed since");
    assert_eq!(push(1_900_000_000, b"AB23"), 0);
    assert_eq!(push(1_900_000_000, b"CD23"), Status::EEXIST.0);
    assert_eq!(group.client(0).content(&name), b"AB23");
}

#[test]
fn a_change_that_goes_with_the_whole_file_of_who_lacks_it_goes_everywhere() {
    let group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let name = group.client(0).upload_appender(b"0123456789", "log");
    assert_eq!(group.client(0).append(&name, b"ab").status, 0);
    group.converge("before");
    // Another member, whom nobody pushes to, has made a later change without it.
    let mut peer = group.client(0);
    assert_eq!(peer.raw(Command::ActiveTest.code(), ReportServerId::STRICT_TIMES, b"").status, 0);
    let head = SyncFileHead { size: 10, timestamp: 1_900_000_000, group: common::group(), name };
    assert_eq!(peer.ask(Command::SyncUpdateFile, &head, b"01234XY789").status, 0);
    let files = group.converge("with the later change");
    assert_eq!(files[&Path::new("data").join(name.true_name())], b"01234XY789");
    assert_eq!(group.binlog(0).matches(" U ").count(), 1);
}
