//! What a suite needs from the machine.
//!
//! A suite that cannot run here says so on standard error and ends as passed, unless `FDFS_TESTS_REQUIRE` names what
//! is missing (`fuse`, `netns`): CI sets it, so that nothing is skipped there unseen.

use std::path::Path;

/// Whether file systems can be mounted here: root and `/dev/fuse`.
///
/// # Panics
/// When they cannot and `FDFS_TESTS_REQUIRE` contains `fuse`.
pub fn fuse() -> bool {
    // SAFETY: a plain system call without arguments.
    let root = unsafe { libc::geteuid() } == 0;
    available("fuse", root && Path::new("/dev/fuse").exists(), "root and /dev/fuse")
}

/// Whether network namespaces can be made here: root, and `ip` of iproute2.
///
/// # Panics
/// When they cannot and `FDFS_TESTS_REQUIRE` contains `netns`.
pub fn netns() -> bool {
    available("netns", crate::netns::possible(), "root, network namespaces, or the ip command of iproute2")
}

fn available(name: &str, present: bool, what: &str) -> bool {
    let required = std::env::var("FDFS_TESTS_REQUIRE").is_ok_and(|r| r.split(',').any(|r| r == name));
    assert!(present || !required, "FDFS_TESTS_REQUIRE={name}, but this machine lacks {what}");
    if !present {
        eprintln!("SKIPPED: needs {what}");
    }
    present
}
