//! What a start says to the person who starts a program, on standard error: everything he should know, once.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use fdfs_tests::cluster::{Cluster, Daemon, free_addr};
use fdfs_tests::mount::Mount;
use fdfs_tests::{need, programs};

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A tracker.conf with `lines` under `dir`, on `port`.
fn tracker_conf(dir: &Path, port: u16, lines: &str) -> std::path::PathBuf {
    let base = dir.join("tracker");
    fs::create_dir_all(&base).unwrap();
    let conf = dir.join("tracker.conf");
    fs::write(&conf, format!("bind_addr = 127.0.0.1\nport = {port}\nbase_path = {}\n{lines}", base.display())).unwrap();
    conf
}

fn free_port() -> u16 {
    free_addr().unwrap().port()
}

#[test]
fn a_daemon_tells_a_misspelt_key_before_it_goes_to_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let conf = tracker_conf(dir.path(), free_port(), "stor_lookup = 2\n");
    let out = programs::command("fdfs_trackerd").arg(&conf).arg("start").output().unwrap();
    let stopped = programs::command("fdfs_trackerd").arg(&conf).arg("stop").output().unwrap();
    let text = said(&out);
    assert!(out.status.success() && stopped.status.success(), "{text}");
    let told = format!("{}:4: stor_lookup: unknown", conf.display());
    assert_eq!(text.matches(&told).count(), 1, "{text}");
    assert!(text.contains("did you mean store_lookup?"), "{text}");
    assert!(said(&stopped).is_empty(), "only a start says it: {}", said(&stopped));
    let log = fs::read_to_string(dir.path().join("tracker/logs/trackerd.log")).unwrap();
    assert!(log.contains(&told), "{log}");
}

#[test]
fn a_daemon_tells_once_why_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let conf = tracker_conf(dir.path(), taken.local_addr().unwrap().port(), "");
    for foreground in [false, true] {
        let mut command = programs::command("fdfs_trackerd");
        let out = command.args(foreground.then_some("-N")).arg(&conf).output().unwrap();
        let text = said(&out);
        assert_eq!(out.status.code(), Some(libc::EADDRINUSE), "{text}");
        assert!(text.starts_with("fdfs_trackerd: ") && text.matches("ddress").count() == 1, "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn a_second_storage_on_a_base_path_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(dir.path()).unwrap();
    let pid = cluster.storage().pid().unwrap().to_string();
    let base = dir.path().join("storage");
    let conf = fs::read_to_string(dir.path().join("storage.conf")).unwrap();
    let port = cluster.storage().addr().port();
    let second = dir.path().join("second.conf");
    fs::write(&second, conf.replace(&format!("port = {port}"), &format!("port = {}", free_port()))).unwrap();
    // With the pid file, and with the lock alone.
    for _ in 0..2 {
        let out = programs::command("fdfs_storaged").arg("-N").arg(&second).output().unwrap();
        let text = said(&out);
        assert!(!out.status.success(), "{text}");
        for part in [base.to_str().unwrap(), &pid, "stop that one, or choose another base_path"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        let _ = fs::remove_file(base.join("data/fdfs_storaged.pid"));
    }
}

/// Each host is an address of the loopback interface here, with ports that are free, and what keeps the test short; all
/// else is as in the files.
#[test]
fn the_replicated_example_runs() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/replicated");
    let (tracker_port, storage_port) = (free_port(), free_port());
    let conf = |kind: &str, host: u8| {
        let text = fs::read_to_string(examples.join(format!("{kind}.conf"))).unwrap();
        let base = root.join(host.to_string());
        fs::create_dir_all(base.join(kind)).unwrap();
        let text = text
            .replace("10.0.0.", "127.0.0.")
            .replace("22122", &tracker_port.to_string())
            .replace("23000", &storage_port.to_string())
            .replace("/var/lib/fdfs", base.to_str().unwrap())
            .replace("= 5%", "= 0.1%");
        let path = base.join(format!("{kind}.conf"));
        let own = match kind {
            "storage" => format!("bind_addr = 127.0.0.{host}\nheart_beat_interval = 1\nsubdir_count_per_path = 4\n"),
            "tracker" => format!("bind_addr = 127.0.0.{host}\n"),
            _ => String::new(),
        };
        fs::write(&path, text + &own).unwrap();
        path
    };
    let daemon = |program, kind, host, port| {
        let mut daemon = Daemon::new(program, conf(kind, host), ([127, 0, 0, host], port).into());
        daemon.start().unwrap();
        daemon
    };
    let _trackers = [1, 2].map(|host| daemon("fdfs_trackerd", "tracker", host, tracker_port));
    let mut storages = [1, 2, 3].map(|host| daemon("fdfs_storaged", "storage", host, storage_port));

    let (client, content) = (conf("client", 1), root.join("content"));
    fs::write(&content, "content").unwrap();
    let upload = || {
        let out = programs::command("fdfs_upload_file").arg(&client).arg(&content).output().unwrap();
        if out.status.success() {
            Ok(String::from_utf8(out.stdout).unwrap().trim().to_owned())
        } else {
            Err(said(&out))
        }
    };
    // Members become active one after the other, and two are enough for an acknowledgement.
    let id = eventually(upload);
    let copies = || {
        let name = id.split_once("M00/").unwrap().1;
        ["1", "2", "3"].map(|host| root.join(host).join("storage/data").join(name).exists())
    };
    assert!(copies().iter().filter(|there| **there).count() >= 2, "{id} is at {:?}", copies());
    eventually(|| {
        let out = programs::command("fdfs_monitor").arg(&client).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if copies() == [true; 3] && text.matches("  ACTIVE").count() == 3 { Ok(()) } else { Err(text) }
    });
    // What was acknowledged outlives any member; and two go on.
    storages[0].kill();
    let got = root.join("got");
    let out = programs::command("fdfs_download_file").arg(&client).arg(&id).arg(&got).output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(fs::read_to_string(got).unwrap(), "content");
    eventually(upload);
}

/// Tries until it succeeds: nothing announces to a bystander what a cluster comes to.
fn eventually<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(why) => assert!(Instant::now() < deadline, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Mounts at `dir/mnt` in the background with `args`; what was said, how long it took, and whether it succeeded.
fn mount(dir: &Path, args: &[&str]) -> (String, Duration, bool) {
    let point = dir.join("mnt");
    fs::create_dir_all(&point).unwrap();
    let begun = Instant::now();
    let mut command = programs::command("fdfs-mount");
    let out = command.arg(&point).arg("--data-dir").arg(dir.join("data")).args(args).output().unwrap();
    let took = begun.elapsed();
    let _ = std::process::Command::new("umount").arg(&point).output().unwrap();
    (said(&out), took, out.status.success())
}

#[test]
fn a_mount_tells_of_a_cluster_that_is_not_there_and_of_misspelt_keys() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (text, _, mounted) = mount(&root, &["--tracker", &format!("127.0.0.1:{}", free_port())]);
    assert!(mounted && text.matches("the cluster does not answer now").count() == 1, "{text}");

    // One that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (text, took, mounted) = mount(&root, &["--tracker", &silent.local_addr().unwrap().to_string()]);
    assert!(mounted && text.matches("the cluster does not answer now").count() == 1, "{text}");
    assert!(took < Duration::from_secs(20), "waited for the network timeout: {took:?}");

    let cluster = Cluster::start(&root).unwrap();
    let conf = root.join("typo.conf");
    let text = fs::read_to_string(cluster.client_conf()).unwrap();
    fs::write(&conf, text + "network_timout = 5\n").unwrap();
    let (text, _, mounted) = mount(&root, &["-c", conf.to_str().unwrap(), "--group", "nowhere"]);
    assert!(mounted, "{text}");
    assert_eq!(text.matches("no storage of group nowhere").count(), 1, "{text}");
    assert_eq!(text.matches("typo.conf:5: network_timout: unknown").count(), 1, "{text}");
    assert!(text.contains("did you mean network_timeout?"), "{text}");
}

#[test]
fn a_mount_tells_once_why_it_does_not_start() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let running = Mount::embedded(&root.join("first"), &root.join("data")).unwrap();
    let pid = running.pid().to_string();
    for args in [&[][..], &["--foreground"]] {
        let (text, _, mounted) = mount(&root, args);
        assert!(!mounted && text.contains(&pid), "{text}");
        assert_eq!(text.matches("index.db").count(), 1, "{text}");
    }
}

#[test]
fn a_mount_takes_the_place_of_a_killed_one() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (point, data) = (root.join("mnt"), root.join("data"));
    for cached in [false, true] {
        let mut killed = Mount::embedded(&point, &data).unwrap();
        fs::write(point.join("file"), "content").unwrap();
        // The kernel has the attributes of the root or has not: it answers stat(2) for a dead mount from its cache.
        let known = cached.then(|| fs::metadata(&point).unwrap());
        killed.abandon().unwrap();
        let out = programs::command("fdfs-mount").arg(&point).arg("--data-dir").arg(&data).output().unwrap();
        let text = said(&out);
        assert!(out.status.success(), "{text}");
        assert_eq!(text.matches("dead mount, which is removed").count(), 1, "{text}");
        assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "content");
        // A living one is not removed.
        let out =
            programs::command("fdfs-mount").arg(&point).arg("--data-dir").arg(root.join("other")).output().unwrap();
        assert!(!out.status.success() && said(&out).contains("unmount it with: umount"), "{}", said(&out));
        assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "content");
        // Ends the second, whose mount is the only one there.
        drop((killed, known));
        assert!(!fdfs_tests::mount::is_mounted(&point).unwrap());
    }
}
