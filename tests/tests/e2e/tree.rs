//! A real tree goes in, and comes out again after a restart.

use std::path::Path;
use std::process::Command;

use fdfs_tests::mount::Mount;
use fdfs_tests::{need, tree};

/// Number of files; the size of a large source tree when asked for by `FDFS_TREE_FILES`.
fn files() -> usize {
    std::env::var("FDFS_TREE_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

fn run(program: &str, args: &[&Path], options: &[&str]) {
    let status = Command::new(program).args(options).args(args).status().unwrap();
    assert!(status.success(), "{program} {options:?} {args:?}: {status}");
}

#[test]
fn copied_with_cp_and_equal_after_a_restart() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, data, point) = (dir.path().join("source"), dir.path().join("data"), dir.path().join("mnt"));
    tree::make(&source, files(), 1).unwrap();
    let expected = tree::describe(&source).unwrap();

    let mount = Mount::embedded(&point, &data).unwrap();
    let copy = mount.path().join("copy");
    run("cp", &[&source, &copy], &["-a"]);
    run("diff", &[&source, &copy], &["-r", "--no-dereference"]);
    tree::compare(&expected, &tree::describe(&copy).unwrap()).unwrap();
    mount.unmount().unwrap();

    let mount = Mount::embedded(&point, &data).unwrap();
    run("diff", &[&source, &copy], &["-r", "--no-dereference"]);
    tree::compare(&expected, &tree::describe(&copy).unwrap()).unwrap();

    // Moved within, and removed, as a user would; nothing may stay behind.
    std::fs::rename(&copy, mount.path().join("moved")).unwrap();
    tree::compare(&expected, &tree::describe(&mount.path().join("moved")).unwrap()).unwrap();
    std::fs::remove_dir_all(mount.path().join("moved")).unwrap();
    assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0);
    mount.terminate().unwrap();
}
