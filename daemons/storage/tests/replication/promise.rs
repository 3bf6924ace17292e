//! `ack_members`: what is acknowledged is at other members already, and what could not be is not there.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fdfs_protocol::storage::MetadataMode;
use fdfs_protocol::{RemoteName, Status};

use crate::common::noise;
use crate::group::Group;

const TIMEOUT: Duration = Duration::from_secs(2);
const NEVER: Duration = Duration::from_secs(3600);

fn promising(members: usize) -> Group {
    let mut group = Group::new();
    for _ in 0..members {
        group.add(|config| (config.ack_members, config.ack_timeout) = (2, TIMEOUT));
    }
    (0..members).for_each(|i| group.wait_active(i));
    group
}

/// The content of a file at a member's disk, now.
fn at(group: &Group, member: usize, name: &RemoteName) -> Option<Vec<u8>> {
    group.files(member).remove(&Path::new("data").join(name.true_name()))
}

#[test]
fn a_new_member_does_not_wait_for_a_beat_to_be_used() {
    let mut group = promising(2);
    let slow = |config: &mut fdfs_storage::StorageConfig| {
        (config.heart_beat_interval, config.stat_report_interval) = (NEVER, NEVER);
        // Of three, one is missing until the new one is there: the members look out for it.
        (config.ack_members, config.ack_timeout) = (3, Duration::from_secs(20));
    };
    (0..2).for_each(|i| group.stop(i));
    for i in 0..2 {
        slow(&mut group.members[i].config);
        group.start(i);
    }
    (0..2).for_each(|i| group.wait_active(i));
    let new = group.add(|config| {
        slow(config);
        config.ack_members = 1;
    });
    group.wait_active(new);
    for i in 0..2 {
        assert_eq!(group.client(i).upload_as(fdfs_protocol::Command::UploadFile, b"content", "txt").status, 0);
    }
}

#[test]
fn members_of_which_changes_wait_are_looked_for_between_beats() {
    let mut group = promising(2);
    (0..2).for_each(|i| group.stop(i));
    for i in 0..2 {
        let config = &mut group.members[i].config;
        (config.heart_beat_interval, config.stat_report_interval) = (NEVER, NEVER);
        group.start(i);
    }
    (0..2).for_each(|i| group.wait_active(i));
    group.until("they take changes", |group| {
        (0..2).all(|i| group.client(i).upload_as(fdfs_protocol::Command::UploadFile, b"content", "txt").status == 0)
    });
}

#[test]
fn what_is_acknowledged_is_at_two_members() {
    let group = promising(3);
    let mut c = group.client(0);
    for i in 0..30 {
        let content = noise(i * 1000, i as u64);
        let name = c.upload(&content, "bin");
        let there = [1, 2].map(|member| at(&group, member, &name));
        assert!(there.contains(&Some(content)), "{name} is nowhere else");
    }
    let appender = c.upload_appender(b"abc", "log");
    assert_eq!(c.append(&appender, b"def").status, 0);
    assert_eq!(c.modify(&appender, 1, b"X").status, 0);
    assert!([1, 2].map(|m| at(&group, m, &appender)).contains(&Some(b"aXcdef".to_vec())));
    assert_eq!(c.truncate(&appender, 2).status, 0);
    assert!([1, 2].map(|m| at(&group, m, &appender)).contains(&Some(b"aX".to_vec())));
    let sealed = c.regenerate(&appender).name();
    assert!([1, 2].map(|m| at(&group, m, &sealed)).contains(&Some(b"aX".to_vec())));
    assert_eq!(c.set_metadata(&sealed, MetadataMode::Overwrite, b"a\x021").status, 0);
    let metadata = sealed.metadata().unwrap();
    assert!([1, 2].map(|m| at(&group, m, &metadata)).contains(&Some(b"a\x021".to_vec())));
    group.until("both others have it", |group| [1, 2].iter().all(|m| at(group, *m, &metadata).is_some()));
    assert_eq!(c.delete(&sealed).status, 0);
    assert!([1, 2].map(|m| at(&group, m, &sealed)).contains(&None));
    assert!([1, 2].map(|m| at(&group, m, &metadata)).contains(&None));
    group.converge("after everything was acknowledged");
}

#[test]
fn what_cannot_be_promised_is_an_error_and_leaves_no_half_file() {
    let mut group = promising(2);
    let mut c = group.client(0);
    let late = Status::ETIMEDOUT.0;
    let appender = c.upload_appender(b"0123", "log");
    let kept = c.upload(b"kept", "txt");
    let before = group.converge("before");
    group.stop(1);
    // At first it is waited for, and what was made is taken back; later it is refused before it is made.
    let binlog = || group.binlog(0).lines().count();
    let lines = binlog();
    assert_eq!(c.append(&appender, b"4567").status, late);
    assert_eq!(binlog(), lines + 2);
    assert_eq!(at(&group, 0, &appender).unwrap(), b"0123");
    group.until("no promise is possible", |_| {
        let lines = binlog();
        assert_eq!(c.upload_as(fdfs_protocol::Command::UploadFile, b"new", "txt").status, late);
        binlog() == lines
    });
    assert_eq!(c.upload_slave(&kept, "_s", "txt", b"slave").status, late);
    assert_eq!(c.regenerate(&appender).status, late);
    assert_eq!(c.delete(&kept).status, late);
    assert_eq!(c.set_metadata(&kept, MetadataMode::Overwrite, b"a\x021").status, late);
    assert_eq!(c.content(&kept), b"kept");
    assert_eq!(group.files(0), before);
    group.start(1);
    group.wait_active(1);
    group.until("promises are possible again", |group| {
        group.client(0).upload_as(fdfs_protocol::Command::UploadFile, b"new", "txt").status == 0
    });
    let mut c = group.client(0);
    assert_eq!(c.append(&appender, b"4567").status, 0);
    assert_eq!(group.converge("after").len(), before.len() + 1);
    assert_eq!(group.client(1).content(&appender), b"01234567");
}

#[test]
fn a_new_name_that_is_not_kept_is_taken_back() {
    let mut group = promising(2);
    let mut c = group.client(0);
    let appender = c.upload_appender(b"0123", "log");
    group.converge("before");
    group.stop(1);
    assert_eq!(c.regenerate(&appender).status, Status::ETIMEDOUT.0);
    assert_eq!(c.content(&appender), b"0123");
    group.start(1);
    let files = group.converge("after");
    assert_eq!(files.len(), 1);
    group.until("changes are taken again", |group| group.client(0).append(&appender, b"4").status == 0);
    assert_eq!(group.converge("at the end").into_values().next().unwrap(), b"01234");
}

/// As a member that is stopped in the middle of the push and continues when it was given up.
fn regenerate_in_vain(group: &Group, appender: &RemoteName, late: usize) {
    let service = group.members[late].storage.as_ref().unwrap().service().clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let held = runtime.block_on(service.names.hold(appender, Duration::ZERO)).unwrap();
    assert_eq!(group.client(0).regenerate(appender).status, Status::ETIMEDOUT.0);
    drop(held);
}

#[test]
fn a_new_name_that_is_taken_back_costs_a_member_nothing_that_had_it_already() {
    let group = promising(2);
    for same in [true, false] {
        let mut c = group.client(0);
        let appender = c.upload_appender(b"abc", "log");
        assert_eq!(c.append(&appender, b"defg").status, 0);
        assert_eq!(c.set_metadata(&appender, MetadataMode::Overwrite, b"a\x021").status, 0);
        let metadata = appender.metadata().unwrap();
        group.converge("before");
        if !same {
            // Changes of it did not come, as from a FastDFS storage: the new name comes with all of the file.
            group.put(1, &appender, b"abc", SystemTime::now() - Duration::from_secs(1000));
        }
        regenerate_in_vain(&group, &appender, 1);
        group.until("the member had the new name, and has the old one again", |group| {
            let binlog = group.binlog(1);
            let renamed =
                binlog.lines().filter(|line| line.contains(" r ") && line.contains(appender.as_str())).count();
            let lost = binlog.contains(&format!(" d {appender}\n"));
            renamed > usize::from(same) && lost != same && at(group, 1, &appender).is_some()
        });
        let files = group.converge("after it was taken back");
        assert_eq!(at(&group, 1, &appender).unwrap(), b"abcdefg");
        assert_eq!(at(&group, 1, &metadata).unwrap(), b"a\x021");
        assert_eq!(c.append(&appender, b"hi").status, 0);
        assert_eq!(at(&group, 1, &appender).unwrap(), b"abcdefghi");
        let sealed = c.regenerate(&appender).name();
        assert_eq!(at(&group, 1, &sealed).unwrap(), b"abcdefghi");
        assert_eq!(c.delete(&sealed).status, 0);
        assert_eq!(group.converge("at the end").len() + 2, files.len());
    }
}

#[test]
fn a_member_that_has_something_later_is_not_counted() {
    let group = promising(2);
    let mut c = group.client(0);
    let name = c.upload(b"content", "txt");
    let appender = c.upload_appender(b"0123", "log");
    group.converge("before");
    let ahead = SystemTime::now() + Duration::from_secs(1000);
    let later = |name: &RemoteName, content: &[u8]| group.put(1, name, content, ahead);
    later(&name.metadata().unwrap(), b"a\x02later");
    later(&appender, b"other");
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"a\x02early").status, Status::ETIMEDOUT.0);
    assert_eq!(c.append(&appender, b"4567").status, Status::ETIMEDOUT.0);
    // And goes on.
    assert_eq!(c.upload_as(fdfs_protocol::Command::UploadFile, b"new", "txt").status, 0);
}

#[test]
fn a_change_that_is_set_aside_counts_when_it_has_come() {
    let mut group = promising(2);
    // Long enough for another try.
    group.stop(0);
    group.members[0].config.ack_timeout = Duration::from_secs(30);
    group.start(0);
    group.wait_active(0);
    let name = group.client(0).upload_appender(b"0123", "log");
    group.converge("before");
    let file = group.members[1].config.base_path.join("data").join(name.true_name());
    // A file where its directory must be.
    let (dir, elsewhere) = (file.parent().unwrap(), file.ancestors().nth(2).unwrap().join("elsewhere"));
    std::fs::rename(dir, &elsewhere).unwrap();
    std::fs::write(dir, "in the way").unwrap();
    let aside = group.aside(0, 1);
    std::thread::scope(|scope| {
        let appended = scope.spawn(|| group.client(0).append(&name, b"4567").status);
        group.until("it is set aside", |_| std::fs::read_to_string(&aside).is_ok_and(|t| t.contains(name.as_str())));
        std::fs::remove_file(dir).unwrap();
        std::fs::rename(&elsewhere, dir).unwrap();
        assert_eq!(appended.join().unwrap(), 0);
    });
    assert_eq!(at(&group, 1, &name).unwrap(), b"01234567");
}
