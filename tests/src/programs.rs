//! The programs under test.
//!
//! A test binary of one package is not given the programs of the others, so they are built here, once per run, with
//! the profile and into the target directory of the test binary itself: usually a no-op.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of a program of this workspace, such as `fdfs-mount`, or of [`CLOCK`].
///
/// # Panics
/// When the programs do not build.
pub fn path(program: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let path = DIR.get_or_init(build).join(program);
    assert!(path.exists(), "{} is not built: is it a program of this workspace?", path.display());
    path
}

/// The library that gives a process a wall clock of its own.
pub const CLOCK: &str = "libfdfs_test_clock.so";

/// A command that runs a program of this workspace.
pub fn command(program: &str) -> Command {
    Command::new(path(program))
}

fn build() -> PathBuf {
    // <target>/<profile>/deps/<test binary>
    let exe = std::env::current_exe().expect("a running program has a path");
    let mut dir = exe.parent().expect("in a directory");
    if dir.ends_with("deps") {
        dir = dir.parent().expect("deps is in the profile's directory");
    }
    let profile = match dir.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let target = dir.parent().expect("the profile is in the target directory");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--bins", "--lib", "--profile", profile])
        .args([
            "-p",
            "fdfs-fuse",
            "-p",
            "fdfs-tracker",
            "-p",
            "fdfs-storage",
            "-p",
            "fdfs-tools",
            "-p",
            "fdfs-test-clock",
        ])
        .arg("--manifest-path")
        .arg(manifest)
        .env("CARGO_TARGET_DIR", target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the programs under test do not build");
    dir.to_owned()
}
