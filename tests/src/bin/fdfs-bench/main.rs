//! `fdfs-bench`: load on a FastDFS server, given by its address, or on any mounted directory.
//!
//! It measures rate, throughput, latency, and the CPU time of each named process per operation, so that two
//! servers or two file systems can be compared in one run. It works against every FastDFS server and every
//! directory, and shares no code with the servers but the message layouts.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`cluster`] | upload, download, query and delete over the network |
//! | [`mount`] | create, read, stat, large writes and reads in a directory |
//! | [`meter`] | CPU time and memory of processes |
//! | [`random`] | incompressible content |
//! | [`report`] | the result, as text and JSON |

mod args;
mod cluster;
mod meter;
mod mount;
mod random;
mod report;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Target};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.target {
        Target::Cluster(args) => cluster::run(args),
        Target::Mount(args) => mount::run(args),
    };
    let output = match &cli.target {
        Target::Cluster(args) => &args.output,
        Target::Mount(args) => &args.output,
    };
    match outcome.and_then(|report| {
        report.print(output.json)?;
        Ok(report.failures.is_empty())
    }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fdfs-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
