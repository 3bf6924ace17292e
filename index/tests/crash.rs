//! What is there after a crash is the state after some operation, not older than the last one that was acknowledged.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod harness;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use fdfs_index::{Index, Options, fsck};
use harness::model::Model;
use harness::{Op, Pair, Picture, Random, assert_same, picture_of};
use proptest::prelude::*;

/// Opens what a crash left at `path` and finds it among the states from `acknowledged` on.
fn recover(path: &Path, states: &[Model], acknowledged: usize) {
    let report = fsck(path, false).unwrap();
    assert!(report.findings.is_empty(), "{report}");
    let index = Index::open(path, Options::default()).unwrap();
    let real = picture_of(&index);
    index.close().unwrap();
    let expected: Vec<Picture> = states[acknowledged..]
        .iter()
        .map(|model| {
            let mut model = model.clone();
            model.restart();
            model.picture()
        })
        .collect();
    if !expected.contains(&real) {
        // The nearest by far is the last; the difference to it explains most.
        assert_same(&real, expected.last().unwrap());
    }
    let report = fsck(path, false).unwrap();
    assert!(report.findings.is_empty(), "after recovery: {report}");
}

/// A crash image: the database as it is, then the log. Nothing moves the log into the database here, because it stays
/// far below the size that makes a checkpoint due; so a copy of the log, torn or not, is what a kill would leave.
fn image(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    let wal = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        name
    };
    std::fs::copy(wal(from), wal(to)).unwrap();
}

/// Runs `ops`, commits after the numbers in `commits`, and takes an image after `kill` of them, with no wait in between.
fn crash(ops: &[Op], commits: &[usize], kill: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let mut pair = Pair::open(&path, Options::default());
    pair.index.commit().unwrap();
    let mut states = vec![pair.model.clone()];
    let mut acknowledged = 0;
    for (number, op) in ops.iter().enumerate().take(kill) {
        // The index decides about deletions from the cluster by itself; they are not in the model's hands here.
        if op.0[0] % 32 != 30 {
            pair.run(op);
        }
        states.push(pair.model.clone());
        if commits.contains(&number) {
            pair.index.commit().unwrap();
            acknowledged = states.len() - 1;
        }
    }
    let copy = dir.path().join("copy.db");
    image(&path, &copy);
    recover(&copy, &states, acknowledged);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_a_state_not_older_than_the_last_commit(
        ops in prop::collection::vec(any::<[u8; 6]>().prop_map(Op), 1..150),
        commits in prop::collection::vec(0usize..150, 0..12),
        kill in 1usize..150,
    ) {
        crash(&ops, &commits, kill);
    }
}

const CHILD: &str = "FDFS_INDEX_CRASH_CHILD";

/// The operations of the child, which the parent can do again.
fn child_ops(seed: u64) -> impl Iterator<Item = Op> {
    let mut random = Random(seed);
    std::iter::from_fn(move || Some(random.op())).filter(|op| op.0[0] % 32 != 30)
}

/// Not a test by itself: the process that [`killed_at_any_moment`] kills.
#[test]
fn child() {
    let Ok(argument) = std::env::var(CHILD) else { return };
    let (seed, path) = argument.split_once(' ').unwrap();
    let seed: u64 = seed.parse().unwrap();
    let mut pair = Pair::open(Path::new(path), Options::default());
    let mut random = Random(seed + 1);
    for (number, op) in child_ops(seed).enumerate() {
        pair.run(&op);
        if random.next().is_multiple_of(4) {
            pair.index.commit().unwrap();
            println!("acknowledged {}", number + 1);
        }
        if number > 100_000 {
            return;
        }
    }
}

#[test]
fn killed_at_any_moment() {
    for seed in 1..=8u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(CHILD, format!("{seed} {}", path.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The kill comes after some acknowledgements, in the middle of whatever follows.
        let enough = 5 + 17 * seed as usize;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        let mut count = 0;
        while let Some(Ok(line)) = lines.next() {
            if let Some(number) = line.split("acknowledged ").nth(1) {
                acknowledged = number.parse().unwrap();
                count += 1;
            }
            if count == enough {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= enough, "the child ended by itself");

        // The same operations on a fresh index give the same numbers, and so the states to compare with. What was done
        // between the last acknowledgement and the kill is not known, but it is not much.
        let other = dir.path().join("again.db");
        let mut pair = Pair::open(&other, Options::default());
        let mut states = vec![pair.model.clone()];
        for op in child_ops(seed).take(acknowledged + 300) {
            pair.run(&op);
            states.push(pair.model.clone());
        }
        recover(&path, &states, acknowledged);
    }
}
