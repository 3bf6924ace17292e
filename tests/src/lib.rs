//! What the end-to-end suites share:
//!
//! - [`need`]: what a machine must have for a suite, and skipping out loud where it has not;
//! - [`programs`]: the programs under test, built once per run;
//! - [`mount`]: a mounted tree as a child process;
//! - [`cluster`]: tracker and storage as child processes;
//! - [`netns`]: network namespaces as hosts, and cuts between them;
//! - [`torture`]: a cluster under random faults, and what must hold afterwards;
//! - [`tree`]: making, describing and comparing directory trees.
//!
//! The suites themselves are in `tests/`, the programs `fdfs-bench` and `fdfs-torture` in `src/bin/`.

pub mod cluster;
pub mod mount;
pub mod need;
pub mod netns;
pub mod programs;
pub mod torture;
pub mod tree;
