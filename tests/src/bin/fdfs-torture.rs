//! `fdfs-torture`: a cluster under random faults; see [`fdfs_tests::torture`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use fdfs_tests::torture::fleet::Shape;
use fdfs_tests::torture::{Options, run};

const MORE: &str = "\
Every round draws its faults from its seed: hosts and pairs of hosts cut off from each other, also in one direction only;
servers killed, stopped for a while, restarted; full disks; with --lose-disks, emptied ones. Meanwhile programs with the
client library and programs in a mounted tree make, change and remove files. Then everything is healed, and within 60 s
all storages must be active and the members of each group equal, and every file must be what the acknowledged operations
have made it.

The first round with a violation is the last: its logs, the history of all operations (history.jsonl) and the contents of the
disks (*/disk.kept) are kept, and the seed that repeats its faults is printed.

Needs root and iproute2; it touches no network of this machine. Exit status: 0 without violations, 1 with, 2 when it
could not be done.

Examples:
  fdfs-torture --minutes 10
  fdfs-torture --seed 17 --rounds 1 --keep
  fdfs-torture --rounds 20 --lose-disks --ack-members 2";

/// Random faults on a real cluster under load, and a check of everything it promised.
#[derive(Debug, Parser)]
#[command(name = "fdfs-torture", version, after_help = MORE)]
struct Cli {
    /// Rounds of faults [default: 5, or as many as --minutes allow]
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Begin no round after so many minutes
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// Seed of the first round; the next has the next number [default: the process ID]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Seconds of faults and load in a round
    #[arg(long, value_name = "SECONDS", default_value_t = 12, value_parser = clap::value_parser!(u64).range(2..=600))]
    length: u64,
    /// In each round, a storage is killed and loses its disk
    #[arg(long, requires = "ack_members")]
    lose_disks: bool,
    /// ack_members of the storages: how many have a change when it is acknowledged
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    ack_members: Option<u32>,
    /// Trackers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    trackers: u32,
    /// Groups
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    groups: u32,
    /// Storages in each group
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=8))]
    members: u32,
    /// Programs with the client library
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// Have programs in a mounted tree as well (the default)
    #[arg(long, overrides_with = "no_mount")]
    mount: bool,
    /// No mount
    #[arg(long)]
    no_mount: bool,
    /// Where the directory of the run is made [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep logs and data also when all is well
    #[arg(long)]
    keep: bool,
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but store into an atomic.
        unsafe { libc::signal(signal, stop as *const () as libc::sighandler_t) };
    }
    let options = Options {
        rounds: cli.rounds.unwrap_or(if cli.minutes.is_some() { u64::MAX } else { 5 }),
        time: cli.minutes.map(|minutes| Duration::from_secs(minutes * 60)),
        seed: cli.seed.unwrap_or_else(|| std::process::id().into()),
        length: Duration::from_secs(cli.length),
        shape: Shape { trackers: cli.trackers as usize, groups: cli.groups as usize, members: cli.members as usize },
        clients: cli.clients as usize,
        mounted: if cli.no_mount { 0 } else { 2 },
        lose_disks: cli.lose_disks,
        ack_members: cli.ack_members,
        dir: cli.dir.unwrap_or_else(std::env::temp_dir),
        keep: cli.keep,
    };
    match run(&options, &STOP, &|line| eprintln!("{line}")) {
        Ok(report) => {
            println!("{report}");
            if options.keep {
                println!("kept: {}", report.dir.display());
            }
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("fdfs-torture: {error:#}");
            ExitCode::from(2)
        }
    }
}
