//! A member that loses its disks.

use std::path::Path;

use fdfs_protocol::RemoteName;

use crate::common::noise;
use crate::group::Group;

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
