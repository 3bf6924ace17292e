//! Identical content is stored once, and as long as anybody refers to it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fdfs_tests::mount::{Mount, attribute};
use fdfs_tests::need;
use fdfs_tests::tree::{Random, disk_usage};

const MIB: u64 = 1 << 20;

fn stored(data: &Path) -> u64 {
    disk_usage(&data.join("storage")).unwrap()
}

/// Waits until the storage occupies at most `limit` bytes: removal from the cluster happens in the background.
fn await_usage_below(data: &Path, limit: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while stored(data) > limit {
        assert!(Instant::now() < deadline, "the storage still occupies {} bytes, more than {limit}", stored(data));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn ten_names_of_one_content_are_stored_once() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mount = Mount::embedded(&dir.path().join("mnt"), &data).unwrap();
    let before = stored(&data);
    let content = Random(7).bytes(64 * MIB as usize);
    let name = |i: usize| mount.path().join(format!("copy{i}"));
    // By another process: when this one starts children for other tests, they close a file that is being written here,
    // and each close stores what is there.
    let source = dir.path().join("source");
    fs::write(&source, &content).unwrap();
    for i in 0..10 {
        assert!(Command::new("cp").arg(&source).arg(name(i)).status().unwrap().success());
    }
    let grown = stored(&data) - before;
    assert!(grown < 64 * MIB * 11 / 10, "ten names of 64 MiB occupy {grown} bytes");
    for i in 0..9 {
        fs::remove_file(name(i)).unwrap();
    }
    assert!(fs::read(name(9)).unwrap() == content, "the last name lost its content");
    fs::remove_file(name(9)).unwrap();
    await_usage_below(&data, before + MIB);
    mount.unmount().unwrap();
}

#[test]
fn cp_inside_the_mount_uploads_nothing() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mount = Mount::embedded(&dir.path().join("mnt"), &data).unwrap();
    let (a, b) = (mount.path().join("a"), mount.path().join("b"));
    let content = Random(8).bytes(100 * MIB as usize + 12345);
    fs::write(&a, &content).unwrap();
    let (before, id) = (stored(&data), attribute(&a, "user.fdfs.file_id"));
    assert!(Command::new("cp").args([&a, &b]).status().unwrap().success());
    assert!(stored(&data) < before + MIB, "cp stored {} bytes more", stored(&data) - before);
    assert!(fs::read(&b).unwrap() == content);
    assert_eq!(attribute(&b, "user.fdfs.file_id"), id);
    // Writing to one of them leaves the other alone.
    fs::write(&a, b"short").unwrap();
    assert!(fs::read(&b).unwrap() == content);
    mount.unmount().unwrap();
}
