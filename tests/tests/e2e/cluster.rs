//! A mount on daemons of its own, and what happens when they go.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::IntoRawFd;
use std::time::{Duration, Instant};

use fdfs_tests::cluster::Cluster;
use fdfs_tests::mount::Mount;
use fdfs_tests::need;
use fdfs_tests::programs;
use fdfs_tests::tree::Random;

fn mount(cluster: &Cluster, dir: &std::path::Path) -> Mount {
    let (conf, data) = (cluster.client_conf(), dir.join("mount-data"));
    Mount::with(&dir.join("mnt"), |c| c.arg("-c").arg(conf).arg("--data-dir").arg(data)).unwrap()
}

fn close(file: fs::File) -> std::io::Result<()> {
    // SAFETY: the descriptor was just given up by `file` and is closed once.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn metadata_goes_on_without_the_cluster_and_a_retry_succeeds_when_it_is_back() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&dir.path().join("cluster")).unwrap();
    let mount = mount(&cluster, dir.path());
    let at = |name: &str| mount.path().join(name);
    let content = Random(3).bytes(300_000);
    fs::write(at("before"), &content).unwrap();

    cluster.storage().kill();
    cluster.tracker().kill();

    // Metadata does not need the cluster.
    fs::create_dir(at("dir")).unwrap();
    fs::rename(at("before"), at("dir/renamed")).unwrap();
    assert_eq!(fs::metadata(at("dir/renamed")).unwrap().len(), 300_000);
    fs::File::create(at("empty")).unwrap();

    // Content does (unless it is known, which costs no upload): an error within the network timeout, no hang.
    let fresh = Random(5).bytes(300_000);
    let mut file = fs::File::create(at("during")).unwrap();
    file.write_all(&fresh).unwrap();
    assert!(file.sync_all().is_err(), "fsync claims success without a cluster");
    // The data is still readable here, and the file stays open for a retry.
    assert!(fs::read(at("during")).unwrap() == fresh);

    cluster.tracker().start().unwrap();
    cluster.storage().start().unwrap();
    cluster.await_usable().unwrap();

    file.sync_all().unwrap();
    close(file).unwrap();
    assert!(fs::read(at("dir/renamed")).unwrap() == content);
    mount.unmount().unwrap();
}

#[test]
fn a_failed_close_keeps_the_data_for_the_next_mount() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&dir.path().join("cluster")).unwrap();
    let content = Random(4).bytes(2_000_000);
    {
        let mount = mount(&cluster, dir.path());
        cluster.storage().kill();
        let mut file = fs::File::create(mount.path().join("staged")).unwrap();
        file.write_all(&content).unwrap();
        assert!(close(file).is_err(), "close claims success without a storage");
        mount.kill().unwrap();
    }
    cluster.storage().start().unwrap();
    cluster.await_usable().unwrap();
    let mount = mount(&cluster, dir.path());
    assert!(fs::read(mount.path().join("staged")).unwrap() == content);
    mount.unmount().unwrap();
}

#[test]
fn fsync_waits_and_a_dup_closed_early_loses_nothing() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&dir.path().join("cluster")).unwrap();
    let mount = mount(&cluster, dir.path());
    let path = mount.path().join("file");
    let mut file = fs::File::create(&path).unwrap();
    // SAFETY: plain system calls on an open descriptor.
    unsafe { libc::close(libc::dup(file.as_raw_fd())) };
    file.write_all(b"first").unwrap();
    // SAFETY: as above.
    unsafe { libc::close(libc::dup(file.as_raw_fd())) };
    file.write_all(b" second").unwrap();
    file.sync_all().unwrap();
    file.write_all(b" third").unwrap();
    close(file).unwrap();
    mount.unmount().unwrap();
    let mount = self::mount(&cluster, dir.path());
    assert_eq!(fs::read_to_string(&path).unwrap(), "first second third");
    mount.unmount().unwrap();
}

#[test]
fn a_promise_that_cannot_be_kept_in_time_is_told_as_such() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cluster");
    let mut cluster = Cluster::start(&root).unwrap();
    let mount = mount(&cluster, dir.path());
    cluster.storage().stop();
    let mut conf = fs::OpenOptions::new().append(true).open(root.join("storage.conf")).unwrap();
    // The group has no other member.
    writeln!(conf, "ack_members = 2\nack_timeout = 1").unwrap();
    cluster.storage().start().unwrap();
    let is_active = || {
        let shown = programs::command("fdfs_monitor").arg(cluster.client_conf()).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).contains(" ACTIVE")
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_active() {
        assert!(Instant::now() < deadline, "the storage does not become active");
        // Nothing announces it to a bystander.
        std::thread::sleep(Duration::from_millis(50));
    }

    // At once, and through an appender.
    for (name, len) in [("small", 1000), ("large", 12 << 20)] {
        let mut file = fs::File::create(mount.path().join(name)).unwrap();
        let write = file.write_all(&Random(6).bytes(len));
        let error = write.and_then(|()| file.sync_all()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "fsync of {name}: {error}");
        let error = close(file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "close of {name}: {error}");
    }
}

#[test]
fn the_log_names_what_could_not_be_stored_and_tells_when_it_is() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&dir.path().join("cluster")).unwrap();
    let (conf, data, log) = (cluster.client_conf(), dir.path().join("data"), dir.path().join("log"));
    let mount = Mount::with(&dir.path().join("mnt"), |c| {
        c.arg("-c").arg(conf).arg("--data-dir").arg(data).arg("--log-file").arg(&log)
    })
    .unwrap();
    let at = |name: &str| mount.path().join(name);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("dir/old"), "as it was").unwrap();
    cluster.storage().kill();
    // One that is new, and one that is replaced.
    for name in ["dir/sub/new", "dir/old"] {
        let mut file = fs::File::create(at(name)).unwrap();
        file.write_all(name.as_bytes()).unwrap();
        assert!(close(file).is_err());
    }
    let logged = |words: &str| {
        let deadline = Instant::now() + Duration::from_secs(120);
        let count = || fs::read_to_string(&log).unwrap().matches(words).count();
        while count() == 0 {
            assert!(Instant::now() < deadline, "not in the log: {words}");
            std::thread::sleep(Duration::from_millis(50));
        }
        count()
    };
    logged("dir/sub/new is not stored yet, and kept here");
    logged("dir/old is not stored yet, and kept here");
    cluster.storage().start().unwrap();
    assert_eq!(logged("dir/sub/new, which could not be stored before, is stored now"), 1);
    assert_eq!(logged("dir/old, which could not be stored before, is stored now"), 1);
    mount.unmount().unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("is stored now").count(), 2, "{text}");
}
