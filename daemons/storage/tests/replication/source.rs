//! Members that are new, or begin anew, and those that give them the files of the group.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fdfs_protocol::RemoteName;
use fdfs_server::AllowHosts;

use crate::common::noise;
use crate::group::Group;

fn has(group: &Group, member: usize, names: &[RemoteName]) -> bool {
    let files = group.files(member);
    names.iter().all(|name| files.contains_key(&Path::new("data").join(name.true_name())))
}

fn upload(group: &Group, member: usize, count: u64) -> Vec<RemoteName> {
    let mut c = group.client(member);
    (0..count).map(|n| c.upload(&noise(1000, 100 * member as u64 + n), "bin")).collect()
}

/// Only this host may connect to the storage.
fn allow_only(group: &mut Group, index: usize, host: &str) {
    group.members[index].config.allow = AllowHosts::parse([host]);
}

#[test]
fn a_new_member_gets_what_its_source_lacked_when_it_was_chosen() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    group.stop(0);
    let names = upload(&group, 1, 10);
    group.stop(1);
    // They are long here, and member 0, which cannot be reached, does not have them.
    let binlog = group.members[1].config.base_path.join("data/sync/binlog.000");
    let old = |line: &str| format!("{}{}\n", line[..10].parse::<u32>().unwrap() - 5000, &line[10..]);
    let text: String = group.binlog(1).lines().map(old).collect();
    std::fs::write(binlog, text).unwrap();
    let before = group.members[0].config.allow.clone();
    allow_only(&mut group, 0, "127.0.0.4");
    (0..2).for_each(|i| group.start(i));
    (0..2).for_each(|i| group.wait_active(i));
    let new = group.add(|_| {});
    group.wait_active(new);
    assert!(!has(&group, 0, &names));
    group.until("the new member gets them", |group| has(group, new, &names));
    group.stop(0);
    group.members[0].config.allow = before;
    group.start(0);
    group.converge("when all can be reached");
}

#[test]
fn a_new_member_gets_what_is_set_aside_for_its_source() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    group.stop(0);
    // One that this storage has from another member which is no more.
    let names = upload(&group, 1, 1);
    let obstacle = group.members[0].config.base_path.join("data").join(names[0].true_name());
    std::fs::create_dir_all(obstacle.join("x")).unwrap();
    group.stop(1);
    let binlog = group.members[1].config.base_path.join("data/sync/binlog.000");
    std::fs::write(binlog, group.binlog(1).replace(" C ", " c ")).unwrap();
    std::fs::write(group.aside(1, 0), format!("1000000000 U {}\n", names[0])).unwrap();
    (0..2).for_each(|i| group.start(i));
    (0..2).for_each(|i| group.wait_active(i));
    let new = group.add(|_| {});
    group.wait_active(new);
    assert!(!has(&group, 0, &names));
    group.until("the new member gets it", |group| has(group, new, &names));
}

#[test]
fn a_member_that_began_anew_unseen_gets_everything_once() {
    // The first has no source.
    let mut group = Group::with(1);
    for _ in 1..3 {
        group.wait_active(0);
        let new = group.add(|_| {});
        group.wait_active(new);
    }
    group.stop(0);
    let names = upload(&group, 2, 10);
    group.converge("without member 0");
    group.stop(2);
    group.stop(1);
    let base = group.members[1].config.base_path.clone();
    std::fs::remove_dir_all(&base).unwrap();
    std::fs::create_dir_all(&base).unwrap();
    // Trackers tell such times apart by the second.
    let mark = group.aside(2, 1).with_extension("mark");
    let until = |text: &str| text.lines().find_map(|l| l.strip_prefix("until_timestamp=")?.parse::<u64>().ok());
    let before = until(&std::fs::read_to_string(&mark).unwrap()).unwrap();
    assert!(before > 0);
    group.until("the next second", |_| UNIX_EPOCH.elapsed().unwrap().as_secs() > before);
    // Its source is member 0, which lacks them; and nobody tells member 2 that it was away.
    group.start(0);
    group.wait_active(0);
    group.start(1);
    group.wait_active(1);
    (0..2).for_each(|i| group.stop(i));
    for i in 0..2 {
        for entry in std::fs::read_dir(group.members[i].config.base_path.join("data/sync")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".lost") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    group.start(1);
    group.start(2);
    group.until("it gets them", |group| has(group, 1, &names));
    // It is seen once that it has begun anew.
    let pushed = |_: &Group| std::fs::read_to_string(&mark).unwrap().contains("sync_row_count=10\n");
    group.until("the position is saved", pushed);
    group.stop(2);
    group.start(2);
    let name = group.client(2).upload(b"after", "txt");
    group.until("what comes after", |group| has(group, 1, &[name]));
    group.until("the position goes on", |_| std::fs::read_to_string(&mark).unwrap().contains("sync_row_count=11\n"));
}

#[test]
fn a_member_that_was_deleted_and_came_back_unseen_gets_everything() {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    let names = upload(&group, 2, 10);
    group.converge("before");
    group.stop(2);
    group.stop(1);
    group.delete(1);
    let lost = group.members[1].config.base_path.join("data").join(names[3].true_name());
    std::fs::remove_file(&lost).unwrap();
    group.start(1);
    group.wait_active(1);
    group.start(2);
    group.until("it gets them", |group| has(group, 1, &names));
    // Told once: the position goes on.
    let sync = group.aside(2, 1).parent().unwrap().to_owned();
    let retired = || {
        let entries = std::fs::read_dir(&sync).unwrap().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().contains(".mark.")).count()
    };
    group.until("its position is set aside", |_| retired() == 1);
    group.stop(2);
    group.start(2);
    let name = group.client(2).upload(b"after", "txt");
    group.until("what comes after", |group| has(group, 1, &[name]));
    assert_eq!(retired(), 1);
}

#[test]
fn another_member_takes_over_from_a_source_that_is_deleted() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let names: Vec<_> = (0..2).flat_map(|i| upload(&group, i, 10)).collect();
    group.converge("two");
    group.stop(0);
    // One push an hour: it does not come to an end.
    group.members[0].config.sync_interval = Duration::from_secs(3600);
    group.start(0);
    group.wait_active(0);
    let new = group.add(|_| {});
    group.until("it is being given the files", |group| !group.files(new).is_empty());
    let storage = |group: &Group| group.members[new].storage.as_ref().unwrap().is_active();
    assert!(!storage(&group));
    group.stop(0);
    group.delete(0);
    group.until("it serves", storage);
    assert!(has(&group, new, &names));
}

#[test]
fn another_member_takes_over_from_a_source_that_never_began() {
    let mut group = Group::with(2);
    (0..2).for_each(|i| group.wait_active(i));
    let names: Vec<_> = (0..2).flat_map(|i| upload(&group, i, 10)).collect();
    group.converge("two");
    let new = group.add(|config| config.allow = AllowHosts::parse(["127.0.0.3"]));
    let source = |group: &Group| {
        let flag = group.members[new].config.base_path.join("data/.data_init_flag");
        std::fs::read_to_string(flag).unwrap().contains("sync_src_server=127.0.0.2\n")
    };
    group.until("it waits for member 0", source);
    group.stop(0);
    group.delete(0);
    group.wait_active(new);
    assert!(has(&group, new, &names));
}

#[test]
fn a_member_with_another_address_goes_on_where_it_was() {
    let mut group = Group::with(3);
    (0..3).for_each(|i| group.wait_active(i));
    let names: Vec<_> = (0..3).flat_map(|i| upload(&group, i, 10)).collect();
    group.converge("before");
    let position = |group: &Group, of: usize| std::fs::read_to_string(group.aside(of, 0).with_extension("mark"));
    let pushed = |group: &Group, of: usize, count: u64| {
        position(group, of).is_ok_and(|text| text.contains(&format!("sync_row_count={count}\n")))
    };
    // Member 1 had pushed its files to member 0 before there were others, or since; as member 2 had.
    group.until("all positions are saved", |group| (1..3).all(|i| pushed(group, i, 10)));
    let old = [1, 2].map(|i| group.aside(i, 0).with_extension("mark"));
    let flag = |group: &Group, of: usize| {
        std::fs::read_to_string(group.members[of].config.base_path.join("data/.data_init_flag")).unwrap()
    };
    assert!((1..3).all(|i| flag(&group, i).contains("sync_src_server=127.0.0.2\n")));
    group.stop(0);
    // One of the others is away meanwhile, and is told when it comes back.
    group.stop(2);
    group.members[0].config.bind = vec!["127.0.0.9".parse().unwrap()];
    group.start(0);
    group.wait_active(0);
    group.start(2);
    group.wait_active(2);
    let more: Vec<_> = (1..3).map(|i| group.client(i).upload(b"after", "txt")).collect();
    group.until("what comes after", |group| has(group, 0, &more));
    group.until("the positions go on", |group| (1..3).all(|i| pushed(group, i, 11)));
    for path in old {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut left = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten();
        assert!(left.all(|e| !e.file_name().to_string_lossy().starts_with(&name)), "{name}");
    }
    assert!((1..3).all(|i| flag(&group, i).contains("sync_src_server=127.0.0.9\n")));
    let name = group.client(0).upload(b"from there", "txt");
    assert_eq!(group.converge("both ways").len(), names.len() + more.len() + 1);
    assert!(has(&group, 1, &[name]));
}
