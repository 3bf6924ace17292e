//! What the mount wrote is an ordinary FastDFS file, for every tool.

use std::fs;

use fdfs_tests::cluster::Cluster;
use fdfs_tests::mount::{Mount, attribute};
use fdfs_tests::tree::Random;
use fdfs_tests::{need, programs};

#[test]
fn a_mounted_file_is_downloaded_by_its_id() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&dir.path().join("cluster")).unwrap();
    let (conf, data) = (cluster.client_conf(), dir.path().join("mount-data"));
    let mount = Mount::with(&dir.path().join("mnt"), |c| c.arg("-c").arg(&conf).arg("--data-dir").arg(&data)).unwrap();
    for (name, len) in [("small.txt", 10), ("middle.jpg", 500_000), ("large.mp4", 40_000_000)] {
        let path = mount.path().join(name);
        let content = Random(len as u64).bytes(len);
        fs::write(&path, &content).unwrap();
        let id = attribute(&path, "user.fdfs.file_id");
        let ext = name.split_once('.').unwrap().1;
        assert!(id.starts_with("group1/M00/") && id.ends_with(ext), "{id}");
        assert!(attribute(&path, "user.fdfs.url").ends_with(&id));
        assert_eq!(attribute(&path, "user.fdfs.fingerprint").len(), 64);
        let fetched = dir.path().join("fetched");
        let status = programs::command("fdfs_download_file").arg(&conf).arg(&id).arg(&fetched).status().unwrap();
        assert!(status.success());
        assert!(fs::read(&fetched).unwrap() == content, "{name}");
        let info = programs::command("fdfs_file_info").arg(&conf).arg(&id).output().unwrap();
        assert!(String::from_utf8_lossy(&info.stdout).contains(&format!("file size: {len}")));
    }
    mount.unmount().unwrap();
}
