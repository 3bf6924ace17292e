//! Bad input: a clear message, a non-zero exit, and nothing left behind.

use std::fs;
use std::path::Path;
use std::process::Output;

use fdfs_tests::mount::{Mount, is_mounted};
use fdfs_tests::{need, programs};

fn fdfs_mount(args: &[&Path]) -> Output {
    programs::command("fdfs-mount").args(args).output().unwrap()
}

/// The command fails, its message contains every word of `words`, and nothing is mounted at `point`.
fn refused(point: &Path, args: &[&Path], words: &[&str]) {
    let out = fdfs_mount(args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{args:?} succeeded");
    for word in words {
        assert!(text.contains(word), "{args:?}: {word:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert!(!is_mounted(point).unwrap(), "{args:?} left a mount behind");
}

#[test]
fn what_cannot_be_mounted_is_explained() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (point, data) = (root.join("mnt"), root.join("data"));
    let dd = Path::new("--data-dir");

    refused(&point, &[&point, dd, &data], &[point.to_str().unwrap()]);
    assert!(!data.exists(), "a data directory was made for a mount that cannot be");

    let file = root.join("file");
    fs::write(&file, "").unwrap();
    refused(&point, &[&file, dd, &data], &[file.to_str().unwrap(), "directory"]);

    fs::create_dir(&point).unwrap();
    refused(&point, &[&point, dd, &file.join("below")], &[file.to_str().unwrap()]);
    refused(&point, &[&point, dd, Path::new("/proc/nothing")], &["/proc/nothing"]);
    refused(&point, &[&point, dd, &data, Path::new("-o"), Path::new("frobnicate")], &["frobnicate"]);
    refused(&point, &[&point, dd, &data, Path::new("-c"), &root.join("no.conf")], &["no.conf"]);

    refused(&point, &[&point, dd, &point.join("data")], &["--data-dir", "below the mountpoint"]);
    refused(&point, &[&point, dd, &data, Path::new("--log-level"), Path::new("loud")], &["loud", "debug"]);

    let conf = root.join("bad.conf");
    fs::write(&conf, "tracker_server = 127.0.0.1:notaport\n").unwrap();
    refused(&point, &[&point, dd, &data, Path::new("-c"), &conf], &["bad.conf", "tracker_server", "notaport"]);
    fs::write(&conf, "connect_timeout = 5\n").unwrap();
    refused(&point, &[&point, dd, &data, Path::new("-c"), &conf], &["bad.conf", "tracker_server"]);
}

#[test]
fn one_index_is_mounted_once_and_one_mountpoint_used_once() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let data = root.join("data");
    let mount = Mount::embedded(&root.join("mnt"), &data).unwrap();
    fs::write(mount.path().join("file"), "content").unwrap();

    let other = root.join("other");
    fs::create_dir(&other).unwrap();
    refused(&other, &[&other, Path::new("--data-dir"), &data], &["data", &mount.pid().to_string()]);

    let out = fdfs_mount(&[mount.path(), Path::new("--data-dir"), &root.join("data2")]);
    assert!(!out.status.success(), "a busy mountpoint was mounted over");

    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "content");
    mount.unmount().unwrap();
}

#[test]
fn without_foreground_it_returns_when_the_mount_answers() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (point, data) = (root.join("mnt"), root.join("data"));
    fs::create_dir(&point).unwrap();
    let status = programs::command("fdfs-mount").arg(&point).arg("--data-dir").arg(&data).status().unwrap();
    assert!(status.success());
    assert!(is_mounted(&point).unwrap());
    fs::write(point.join("file"), "content").unwrap();
    let status = std::process::Command::new("umount").arg(&point).status().unwrap();
    assert!(status.success());
    // The program flushes and ends after umount returned; the index lock says when.
    let mount = (0..600)
        .find_map(|_| {
            let mounted = Mount::embedded(&point, &data).ok();
            if mounted.is_none() {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            mounted
        })
        .expect("the first mount does not let go of its data");
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "content");
    mount.unmount().unwrap();
}

#[test]
fn a_mount_follows_its_unmounting_at_once() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (data, points) = (dir.path().join("data"), [dir.path().join("a"), dir.path().join("b")]);
    let mut mount = Mount::embedded(&points[0], &data).unwrap();
    for round in 1..6 {
        fs::write(mount.path().join("file"), round.to_string()).unwrap();
        mount.detach().unwrap();
        let next = Mount::embedded(&points[round % 2], &data).unwrap();
        assert_eq!(fs::read_to_string(next.path().join("file")).unwrap(), round.to_string());
        mount = next;
    }
    mount.unmount().unwrap();
}
