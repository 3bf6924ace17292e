//! `cargo test --workspace` runs the simulation too: it is a build of its own, since its sockets and threads would be
//! everybody's, and optimised, since it computes.
#![cfg(not(feature = "simulation"))]

use std::path::Path;
use std::process::Command;

#[test]
fn the_simulation_holds_what_it_must() {
    // <target>/<profile>/deps/<test binary>
    let exe = std::env::current_exe().expect("a running program has a path");
    let target = exe.ancestors().nth(3).expect("three directories above it");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["test", "--release", "--features", "simulation", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the simulation does not build, or a seed failed: see above");
}
