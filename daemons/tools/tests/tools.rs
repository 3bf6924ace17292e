//! The tools as a user runs them: output and exit codes, against our own tracker and storage.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, its helpers too")]

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fdfs_client::{Client, ClientConfig, ServerAddress};
use fdfs_storage::{Storage, StorageConfig};
use fdfs_tracker::{Tracker, TrackerConfig};
use tempfile::TempDir;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    directory: TempDir,
    config: PathBuf,
    storage: Option<Storage>,
    tracker: Option<Tracker>,
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let tracker = Tracker::start(TrackerConfig::embedded(make("tracker"), Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
        let group = "group1".parse().unwrap();
        let storage = Storage::start(StorageConfig::embedded(&make("storage"), tracker.addr(), group)).unwrap();
        assert!(storage.wait_active(PATIENCE));
        wait_for_space(tracker.addr());
        let config = directory.path().join("client.conf");
        fs::write(&config, format!("tracker_server = {}\nbase_path = /tmp\n", tracker.addr())).unwrap();
        Self { config, directory, storage: Some(storage), tracker: Some(tracker) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Runs a tool with the config file and `args`, in the directory of the test.
    fn run(&self, tool: &str, args: &[&dyn AsRef<OsStr>]) -> Output {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&self.config];
        all.extend(args);
        run_in(self.directory.path(), tool, &all)
    }

    fn upload(&self, tool: &str, path: &Path) -> String {
        let output = self.run(tool, &[&path]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let line = stdout(&output);
        let id = line.strip_suffix('\n').unwrap();
        assert!(id.starts_with("group1/M00/"), "{id}");
        id.to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(storage) = self.storage.take() {
            storage.stop();
        }
        if let Some(tracker) = self.tracker.take() {
            tracker.stop();
        }
    }
}

/// A storage is active before the tracker knows how much space it has.
fn wait_for_space(tracker: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(ClientConfig::new([ServerAddress::from(tracker)]));
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.trackers().query_store(None).await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

fn run_in(directory: &Path, tool: &str, args: &[&dyn AsRef<OsStr>]) -> Output {
    let path = match tool {
        "fdfs_upload_file" => env!("CARGO_BIN_EXE_fdfs_upload_file"),
        "fdfs_upload_appender" => env!("CARGO_BIN_EXE_fdfs_upload_appender"),
        "fdfs_download_file" => env!("CARGO_BIN_EXE_fdfs_download_file"),
        "fdfs_delete_file" => env!("CARGO_BIN_EXE_fdfs_delete_file"),
        "fdfs_file_info" => env!("CARGO_BIN_EXE_fdfs_file_info"),
        "fdfs_append_file" => env!("CARGO_BIN_EXE_fdfs_append_file"),
        "fdfs_regenerate_filename" => env!("CARGO_BIN_EXE_fdfs_regenerate_filename"),
        "fdfs_crc32" => env!("CARGO_BIN_EXE_fdfs_crc32"),
        "fdfs_monitor" => env!("CARGO_BIN_EXE_fdfs_monitor"),
        other => panic!("no tool {other}"),
    };
    let args = args.iter().map(|arg| arg.as_ref());
    Command::new(path).args(args).current_dir(directory).env("TZ", "UTC").env_remove("RUST_LOG").output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn assert_fails(output: &Output, errno: i32, first_line: &str) {
    assert_eq!(code(output), errno, "{}", stderr(output));
    assert_eq!(stdout(output), "");
    assert_eq!(stderr(output).lines().next().unwrap(), first_line);
}

const ABSENT: &str = "group1/M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt";

#[test]
fn a_file_there_and_back() {
    let cluster = Cluster::start();
    let content: Vec<u8> = (0..700_000).map(|i| (i % 251) as u8).collect();
    let path = cluster.file("photo.tar.gz", &content);
    let id = cluster.upload("fdfs_upload_file", &path);
    assert!(id.ends_with(".tar.gz"), "{id}");

    // To a named file; silent.
    let output = cluster.run("fdfs_download_file", &[&id, &"copy"]);
    assert_eq!((code(&output), stdout(&output), stderr(&output)), (0, String::new(), String::new()));
    assert!(fs::read(cluster.path("copy")).unwrap() == content);
    // To the last part of the ID.
    assert_eq!(code(&cluster.run("fdfs_download_file", &[&id])), 0);
    assert!(fs::read(cluster.path(id.rsplit('/').next().unwrap())).unwrap() == content);
    // A range; a larger one than there is.
    assert_eq!(code(&cluster.run("fdfs_download_file", &[&id, &"part", &"5", &"10"])), 0);
    assert_eq!(fs::read(cluster.path("part")).unwrap(), content[5..15]);
    assert_eq!(code(&cluster.run("fdfs_download_file", &[&id, &"part", &"699990", &"0"])), 0);
    assert_eq!(fs::read(cluster.path("part")).unwrap(), content[699_990..]);
    // To what is not a regular file.
    let output = cluster.run("fdfs_download_file", &[&id, &"/dev/stdout"]);
    assert!(output.stdout == content);
    // On a named storage, with and without store path.
    let storage = cluster.storage.as_ref().unwrap().addr().to_string();
    for extra in [&["0"][..], &["-1"], &[]] {
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&path, &storage];
        args.extend(extra.iter().map(|arg| arg as &dyn AsRef<OsStr>));
        assert_eq!(code(&cluster.run("fdfs_upload_file", &args)), 0);
    }

    let output = cluster.run("fdfs_delete_file", &[&id]);
    assert_eq!((code(&output), stdout(&output), stderr(&output)), (0, String::new(), String::new()));
    let gone = "error no: 2, error info: No such file or directory";
    assert_fails(&cluster.run("fdfs_delete_file", &[&id]), 2, &format!("delete file fail, {gone}"));
    // The original exits with 0 here.
    let output = cluster.run("fdfs_download_file", &[&id, &"copy"]);
    assert_fails(&output, 2, &format!("download file fail, {gone}"));
    assert!(stderr(&output).contains(&id));
    assert!(fs::read(cluster.path("copy")).unwrap() == content, "a failure leaves the local file as it was");
    let files = fs::read_dir(cluster.directory.path()).unwrap();
    let left: Vec<_> =
        files.map(|file| file.unwrap().file_name()).filter(|name| name.as_encoded_bytes()[0] == b'.').collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_empty_file() {
    let cluster = Cluster::start();
    let id = cluster.upload("fdfs_upload_file", &cluster.file("empty", b""));
    assert_eq!(code(&cluster.run("fdfs_download_file", &[&id, &"copy"])), 0);
    assert_eq!(fs::read(cluster.path("copy")).unwrap(), b"");
}

#[test]
fn a_download_keeps_permissions_and_links() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::start();
    let id = cluster.upload("fdfs_upload_file", &cluster.file("new.txt", b"new"));
    cluster.file("old", b"old");
    fs::set_permissions(cluster.path("old"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("old", cluster.path("link")).unwrap();
    assert_eq!(code(&cluster.run("fdfs_download_file", &[&id, &"link"])), 0);
    assert!(cluster.path("link").is_symlink());
    assert_eq!(fs::read(cluster.path("old")).unwrap(), b"new");
    assert_eq!(fs::metadata(cluster.path("old")).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn file_info_of_a_normal_file_comes_from_its_name() {
    let directory = tempfile::tempdir().unwrap();
    // No server needs to be there.
    let config = directory.path().join("client.conf");
    fs::write(&config, "tracker_server = 127.0.0.1:1\n").unwrap();
    let output = run_in(directory.path(), "fdfs_file_info", &[&config, &ABSENT]);
    assert_eq!(code(&output), 0);
    assert_eq!(
        stdout(&output),
        "GET FROM SERVER: false\n\nfile type: normal\nsource storage id: 0\nsource ip address: 10.77.0.1\n\
         file create timestamp: 2026-11-21 00:53:22\nfile size: 14\nfile crc32: 235977309 (0x0e10ba5d)\n\n"
    );
    let output = run_in(directory.path(), "fdfs_file_info", &[&"-n", &config, &ABSENT]);
    assert!(stdout(&output).contains("file crc32: 235977309"), "what is known is shown");
    let negative = "group1/M00/00/00/Ck0AAWsA64KANo6OAAST4Nhaauc716.dat";
    let output = run_in(directory.path(), "fdfs_file_info", &[&config, &negative]);
    assert!(stdout(&output).contains("file size: 300000\nfile crc32: -665163033 (0xd85a6ae7)\n"));
}

#[test]
fn a_storage_id_is_looked_up_where_the_config_says() {
    let directory = tempfile::tempdir().unwrap();
    let id = "group1/M00/00/00/oYYBAGsA64KAZ7krAAAADg4Qul0330.txt";
    let config = directory.path().join("client.conf");
    let with = |more: &str| {
        fs::write(&config, format!("tracker_server = 127.0.0.1:1\n{more}")).unwrap();
        run_in(directory.path(), "fdfs_file_info", &[&config, &id])
    };
    fs::write(directory.path().join("ids.conf"), "100001 group1 10.77.5.1:23000\n").unwrap();
    let output = with("use_storage_id = true\nstorage_ids_filename = ids.conf\n");
    assert!(
        stdout(&output).starts_with(
            "GET FROM SERVER: false\n\nfile type: normal\nsource storage id: 100001\nsource ip address: 10.77.5.1\n"
        ),
        "{}",
        stdout(&output)
    );
    let output = with("use_storage_id = true\nstorage_ids_filename = absent.conf\n");
    assert_fails(&output, 2, "load storage ids fail, error no: 2, error info: No such file or directory");
    // Without a table a storage would have to be asked, and there is none.
    assert_eq!(code(&with("")), 111);
}

#[test]
fn appenders() {
    let cluster = Cluster::start();
    let path = cluster.file("begin.log", b"begin-");
    let id = cluster.upload("fdfs_upload_appender", &path);
    let more = cluster.file("more", b"more");
    let output = cluster.run("fdfs_append_file", &[&id, &more]);
    assert_eq!((code(&output), stdout(&output), stderr(&output)), (0, String::new(), String::new()));

    let output = cluster.run("fdfs_file_info", &[&id]);
    let text = stdout(&output);
    assert!(
        text.starts_with(
            "GET FROM SERVER: true\n\nfile type: appender\nsource storage id: 0\nsource ip address: 127.0.0.1\n\
             file create timestamp: "
        ),
        "{text}"
    );
    let crc = crc32fast::hash(b"begin-more");
    let end = format!("\nfile size: 10\nfile crc32: {} (0x{crc:08x})\n\n", crc as i32);
    assert!(text.ends_with(&end), "{text}");
    let text = stdout(&cluster.run("fdfs_file_info", &[&"-ns", &id]));
    assert!(text.ends_with("\nfile size: 10\n\n"), "{text}");

    let output = cluster.run("fdfs_regenerate_filename", &[&id]);
    assert_eq!(code(&output), 0);
    let normal = stdout(&output).trim_end().to_owned();
    let fail = format!("regenerate file {id} fail, error no: 2, error info: No such file or directory");
    assert_fails(&cluster.run("fdfs_regenerate_filename", &[&id]), 2, &fail);
    let fail = "query file info fail, error no: 2, error info: No such file or directory";
    assert_fails(&cluster.run("fdfs_file_info", &[&id]), 2, fail);
    let fail = "append file fail, error no: 22, error info: Invalid argument";
    assert_fails(&cluster.run("fdfs_append_file", &[&normal, &more]), 22, fail);
    let text = stdout(&cluster.run("fdfs_file_info", &[&normal]));
    assert!(text.starts_with("GET FROM SERVER: false\n\nfile type: normal\n"), "{text}");
}

#[test]
fn what_goes_wrong_before_a_server_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let run = |tool, args: &[&dyn AsRef<OsStr>]| run_in(directory.path(), tool, args);
    let config = directory.path().join("client.conf");
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(&config, format!("tracker_server = {free}\n")).unwrap();
    fs::write(directory.path().join("file"), "x").unwrap();

    // Wrong usage.
    for tool in ["fdfs_upload_file", "fdfs_download_file", "fdfs_delete_file", "fdfs_file_info", "fdfs_append_file"] {
        let output = run(tool, &[&config]);
        assert_eq!(code(&output), 1, "{tool}");
        assert!(stderr(&output).contains("Usage:"), "{tool}");
        let output = run(tool, &[&"--help"]);
        assert_eq!(code(&output), 0, "{tool}");
        assert!(stdout(&output).contains("Exit code"), "{tool}");
    }
    // No config file, a wrong one.
    let missing = "load config fail, error no: 2, error info: No such file or directory";
    assert_fails(&run("fdfs_delete_file", &[&"absent.conf", &ABSENT]), 2, missing);
    fs::write(directory.path().join("bad.conf"), "tracker_server = a b\n").unwrap();
    let output = run("fdfs_delete_file", &[&"bad.conf", &ABSENT]);
    assert_fails(&output, 22, "load config fail, error no: 22, error info: Invalid argument");
    assert!(stderr(&output).contains("bad.conf:1") && stderr(&output).contains("a b"), "{}", stderr(&output));
    // No local file, no file ID, no tracker.
    let fail = "upload file fail, error no: 2, error info: No such file or directory";
    assert_fails(&run("fdfs_upload_file", &[&config, &"absent"]), 2, fail);
    let fail = "delete file fail, error no: 22, error info: Invalid argument";
    assert_fails(&run("fdfs_delete_file", &[&config, &"no-id"]), 22, fail);
    let refused = "error no: 111, error info: Connection refused";
    assert_fails(&run("fdfs_upload_file", &[&config, &"file"]), 111, &format!("upload file fail, {refused}"));
    assert_fails(&run("fdfs_delete_file", &[&config, &ABSENT]), 111, &format!("delete file fail, {refused}"));
    let output = run("fdfs_download_file", &[&config, &ABSENT]);
    assert_fails(&output, 111, &format!("download file fail, {refused}"));
    assert!(stderr(&output).contains(&free.to_string()), "{}", stderr(&output));
}

#[test]
fn crc32_of_a_local_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "hello fastdfs\n").unwrap();
    fs::write(directory.path().join("empty"), "").unwrap();
    let run = |name: &str| run_in(directory.path(), "fdfs_crc32", &[&name]);
    // Without leading zeros.
    assert_eq!(stdout(&run("f")), "e10ba5d\n");
    assert_eq!(stdout(&run("empty")), "0\n");
    assert_eq!(code(&run("absent")), 2);
}

#[test]
fn monitor() {
    let cluster = Cluster::start();
    let tracker = cluster.tracker.as_ref().unwrap().addr();
    let head = format!("tracker server count=1, current server index=0\n\ntracker server is {tracker}\n\n");
    let all = stdout(&cluster.run("fdfs_monitor", &[]));
    let expected = format!("{head}group count: 1\n\nGroup 1:\ngroup name = group1\ndisk total space     = ");
    assert!(all.starts_with(&expected), "{all}");
    assert!(all.contains("  ACTIVE\n\t\tread write mode = both (normal)\n"), "{all}");
    let text = stdout(&cluster.run("fdfs_monitor", &[&"-h", &tracker.to_string(), &"list", &"group1"]));
    assert!(text.starts_with(&format!("{head}group name = group1\n")), "{text}");
    let none = cluster.run("fdfs_monitor", &[&"list", &"nogroup"]);
    assert_eq!((code(&none), stdout(&none)), (2, head.clone()));
    assert!(stderr(&none).contains("knows no such group"), "{}", stderr(&none));

    let help = run_in(cluster.directory.path(), "fdfs_monitor", &[&"-h"]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("set_trunk_server"));
    let output = cluster.run("fdfs_monitor", &[&"-h", &"127.0.0.9:1"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).starts_with("tracker server: 127.0.0.9:1 not exists!"), "{}", stderr(&output));
    let output = cluster.run("fdfs_monitor", &[&"delete", &"nogroup"]);
    assert_eq!(code(&output), 2);
    let fail = "delete group: nogroup fail, error no: 2, error info: No such file or directory\n";
    assert_eq!(stdout(&output), format!("{head}{fail}"));
    let output = cluster.run("fdfs_monitor", &[&"delete", &"group1", &"127.0.0.1"]);
    assert_eq!(code(&output), 16);
    let fail = "delete storage server group1::127.0.0.1 fail, error no: 16, error info: Device or resource busy\n";
    assert_eq!(stdout(&output), format!("{head}{fail}"));
    assert_eq!(code(&cluster.run("fdfs_monitor", &[&"set_trunk_server"])), 1);
}

#[test]
fn the_monitor_goes_on_to_the_next_tracker_unless_one_was_named() {
    let cluster = Cluster::start();
    let tracker = cluster.tracker.as_ref().unwrap().addr();
    let trackers = ["127.0.0.9:1".to_owned(), tracker.to_string()];
    fs::write(&cluster.config, trackers.map(|addr| format!("tracker_server = {addr}\n")).concat()).unwrap();
    // It begins with any of them.
    for _ in 0..10 {
        let text = stdout(&cluster.run("fdfs_monitor", &[]));
        assert!(text.contains(&format!("\ntracker server is {tracker}\n\ngroup count: 1\n")), "{text}");
    }
    assert_eq!(code(&cluster.run("fdfs_monitor", &[&"-h", &"127.0.0.9:1"])), 111);
}

#[test]
fn what_one_tracker_never_heard_of_is_deleted_at_the_other() {
    let mut cluster = Cluster::start();
    let base = cluster.path("another");
    fs::create_dir(&base).unwrap();
    let another = Tracker::start(TrackerConfig::embedded(base, Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
    let trackers = [cluster.tracker.as_ref().unwrap().addr(), another.addr()];
    fs::write(&cluster.config, trackers.map(|addr| format!("tracker_server = {addr}\n")).concat()).unwrap();
    cluster.storage.take().unwrap().stop();
    let deadline = Instant::now() + PATIENCE;
    let delete = || cluster.run("fdfs_monitor", &[&"delete", &"group1", &"127.0.0.1"]);
    while code(&delete()) != 0 {
        assert!(Instant::now() < deadline, "{}", stdout(&delete()));
    }
    another.stop();
}
