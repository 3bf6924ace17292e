//! `fdfs-sim`: a cluster of our own trackers, storages and clients in one thread and virtual time, under faults that the
//! seed chooses. `--seed S --trace` replays what `--seeds A..B` found.
//!
//! | module | what it does |
//! |---|---|
//! | [`simulation`] | one seed from beginning to verdict |
//! | [`cluster`] | the hosts: what runs on them, killing and starting them |
//! | [`faults`] | what goes wrong, and when |
//! | [`workload`] | what clients do |
//! | [`history`] | what files may contain after that |
//! | [`verdict`] | whether the members hold what they must |
//! | [`machine`] | clocks, randomness and disks of the simulated machine |
//! | [`trace`] | what two runs of a seed have in common |
//! | [`sweep`] | many seeds, a process each: nothing is left of one for the next |

mod cluster;
mod faults;
mod history;
mod machine;
mod random;
mod simulation;
mod sweep;
mod trace;
mod verdict;
mod workload;

use std::ops::Range;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use fdfs_host::planted::{self, Bug};

/// Simulates a cluster under faults.
#[derive(Parser)]
struct Args {
    /// Simulates this seed
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Prints everything that is said and sent
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Keeps what daemons have written
    #[arg(long, requires = "seed")]
    keep: bool,
    /// Simulates these seeds, `A..B`
    #[arg(long, value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// Seeds simulated at a time; as many as there are processors if not given
    #[arg(long)]
    jobs: Option<usize>,
    /// Plants a mistake in the daemons, to see that it is found
    #[arg(long, value_enum)]
    plant: Option<Plant>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Plant {
    /// What is being pushed to a member counts as pushed
    EarlyMark,
}

impl Plant {
    fn bug(self) -> Bug {
        match self {
            Plant::EarlyMark => Bug::EarlyMark,
        }
    }
}

fn seeds(text: &str) -> anyhow::Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("seeds are given as A..B")?;
    Ok(from.parse()?..to.parse()?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.seed, args.seeds) {
        (Some(seed), _) => {
            if let Some(plant) = args.plant {
                planted::plant(plant.bug());
            }
            simulation::run(seed, args.trace, args.keep)
        }
        (None, seeds) => {
            let plant = args.plant.and_then(|plant| plant.to_possible_value());
            sweep::run(seeds.unwrap_or(0..0), args.jobs, plant.as_ref().map(|plant| plant.get_name()))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("fdfs-sim: {e:#}");
            ExitCode::from(2)
        }
    }
}
