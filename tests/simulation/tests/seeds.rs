//! A few hundred seeds, and that they can be believed: a seed replays, and mistakes made on purpose are found.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use std::process::{Command, Output};

/// Seeds that every change must pass. `FDFS_SIM_SEEDS=0..2000` simulates others.
const SEEDS: &str = "0..200";

fn simulate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fdfs-sim")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn seeds_are_clean() {
    let seeds = std::env::var("FDFS_SIM_SEEDS").unwrap_or_else(|_| SEEDS.to_owned());
    let output = simulate(&["--seeds", &seeds]);
    assert!(output.status.success(), "{}", said(&output));
}

/// Every byte sent and received, every line logged, at which host and when: all in the hash that is printed.
#[test]
fn a_seed_replays_exactly() {
    for seed in ["3", "7"] {
        let (first, second) = (simulate(&["--seed", seed, "--trace"]), simulate(&["--seed", seed, "--trace"]));
        assert!(first.status.success() && first.stdout == second.stdout, "seed {seed} goes differently each time");
        assert!(said(&first).lines().count() > 1000);
    }
    let summary = |seed| said(&simulate(&["--seed", seed]));
    let hash = |text: &str| text.split("trace ").nth(1).unwrap()[..16].to_owned();
    assert_eq!(hash(&summary("3")), hash(&summary("3")));
    assert_ne!(hash(&summary("3")), hash(&summary("7")));
}

#[test]
fn a_planted_mistake_is_found() {
    // Without it these seeds are clean: `seeds_are_clean` has them.
    let output = simulate(&["--seeds", "60..120", "--plant", "early-mark"]);
    assert!(!output.status.success(), "not found: {}", said(&output));
    assert!(said(&output).contains("do not hold what they must"), "{}", said(&output));
}
