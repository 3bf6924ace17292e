//! A short run of `fdfs-torture`: a cluster under random faults keeps what it promised.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fdfs_tests::need;
use fdfs_tests::torture::fleet::Shape;
use fdfs_tests::torture::{Options, run};

/// Rounds; more by `FDFS_TORTURE_ROUNDS`.
fn rounds() -> u64 {
    std::env::var("FDFS_TORTURE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

#[test]
fn a_cluster_under_faults_keeps_what_it_promised() {
    if !need::netns() || !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        rounds: rounds(),
        time: None,
        // Another one each time: what it finds is repeated by the seed in the report.
        seed: std::process::id().into(),
        length: Duration::from_secs(8),
        shape: Shape { trackers: 2, groups: 2, members: 3 },
        clients: 4,
        mounted: 2,
        lose_disks: false,
        ack_members: None,
        dir: dir.path().to_owned(),
        keep: false,
    };
    let report = run(&options, &AtomicBool::new(false), &|line| eprintln!("{line}")).unwrap();
    eprintln!("{report}");
    if !report.violations.is_empty() {
        let kept = dir.keep();
        panic!("{} violations; all is kept in {}", report.violations.len(), kept.display());
    }
    assert!(report.rounds == options.rounds && report.files > 0 && report.convergence.len() as u64 == report.rounds);
}
