//! The product as its users meet it: real processes, real mounts, real kills.
//!
//! One binary for all suites: they share the harness, and linking once is quicker than many times.
//! Run alone: `cargo test -p fdfs-tests --test e2e`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod cluster;
mod crash;
mod dedup;
mod faults;
mod interop;
mod posix;
mod start;
mod torture;
mod tree;
