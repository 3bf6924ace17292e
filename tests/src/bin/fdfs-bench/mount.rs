//! Load on a directory: small files and large files, through ordinary system calls.
//!
//! Every thread works in a directory of its own, on files whose content differs, so that a file system that stores
//! equal content once gains nothing. The files are made before a read or stat measurement and removed afterwards.

mod files;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::args::{MountArgs, MountOp};
use crate::meter::{Meter, Reading};
use crate::report::{Latencies, Measured, Report, latencies};
use files::{Blocks, Worker};

/// Size of each small file, unless given.
const SMALL_SIZE: u64 = 16 << 10;
/// Number of small files, unless given.
const SMALL_COUNT: u64 = 10_000;
/// Size of each large file, unless given.
const LARGE_SIZE: u64 = 1 << 30;

/// Measures `args.op` and returns the report.
pub fn run(args: &MountArgs) -> Result<Report> {
    let root = args.dir.join("fdfs-bench");
    let workers = workers(args, &root)?;
    make_directories(args, &root, &workers)?;
    let outcome = measure(args, &root, &workers);
    if !args.keep {
        let removed = fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()));
        // The first error counts.
        return outcome.and_then(|report| removed.map(|()| report));
    }
    outcome
}

/// Divides the files among the threads.
fn workers(args: &MountArgs, root: &Path) -> Result<Vec<Worker>> {
    let large = args.op.is_large();
    let size = args.size.map_or(if large { LARGE_SIZE } else { SMALL_SIZE }, |size| size.0);
    let threads = u64::from(args.threads);
    let count = args.count.unwrap_or(if large { threads } else { SMALL_COUNT });
    let block = usize::try_from(args.block.0).context("--block is too large")?;
    ensure!(block > 0, "--block must be at least 1");
    ensure!(count >= threads, "--count {count} leaves some of the {threads} threads without a file");
    let block = if large { block } else { usize::try_from(size).context("--size is too large")?.max(1) };
    let worker = |n: u64| Worker {
        directory: root.join(format!("t{n}")),
        first: (0..n).map(|n| count / threads + u64::from(n < count % threads)).sum(),
        count: count / threads + u64::from(n < count % threads),
        size,
        block,
        fsync: args.fsync,
    };
    Ok((0..threads).map(worker).collect())
}

/// Makes the directories, or checks that an earlier run left them.
fn make_directories(args: &MountArgs, root: &Path, workers: &[Worker]) -> Result<()> {
    if args.reuse {
        if matches!(args.op, MountOp::Create | MountOp::WriteLarge) {
            bail!("--reuse is for operations that read");
        }
        for worker in workers {
            worker.check_left()?;
        }
        return Ok(());
    }
    let make = |path: &PathBuf| fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()));
    if root.exists() {
        bail!("{} exists: remove it, or use it with --reuse", root.display());
    }
    make(&root.to_owned())?;
    workers.iter().try_for_each(|worker| make(&worker.directory))
}

/// Prepares, measures and reports.
fn measure(args: &MountArgs, root: &Path, workers: &[Worker]) -> Result<Report> {
    let reads = matches!(args.op, MountOp::Read | MountOp::Stat | MountOp::ReadLarge);
    if reads {
        if !args.reuse {
            in_parallel(workers, |worker, blocks| worker.create(blocks, false))?;
        }
        if args.cold {
            drop_caches(workers)?;
        } else {
            in_parallel(workers, |worker, blocks| worker.run(args.op, blocks))?;
        }
    }
    let meter = Meter::new(&args.output.pids)?;
    let before = meter.read()?;
    let spent = in_parallel(workers, |worker, blocks| worker.run(args.op, blocks))?;
    let after = meter.read()?;
    report(args, root, workers, &meter, (&before, &after), spent)
}

/// What the threads of one phase did together.
struct Spent {
    latencies: Latencies,
    elapsed: Duration,
}

/// Runs `work` on a thread for each worker, all at the same time.
fn in_parallel(workers: &[Worker], work: impl Fn(&Worker, &mut Blocks) -> Result<Latencies> + Sync) -> Result<Spent> {
    let ready = Barrier::new(workers.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter()
            .map(|worker| {
                scope.spawn(|| {
                    let mut blocks = Blocks::new(worker.block);
                    ready.wait();
                    // Taken by the thread that works: on a busy machine any other one may wake up much later.
                    let start = Instant::now();
                    let latencies = work(worker, &mut blocks)?;
                    Ok::<_, anyhow::Error>((latencies, start, Instant::now()))
                })
            })
            .collect();
        let mut all = latencies()?;
        let mut span: Option<(Instant, Instant)> = None;
        for thread in threads {
            let (one, start, end) = match thread.join() {
                Ok(done) => done?,
                Err(_) => bail!("a thread of the measurement died"),
            };
            all.add(&one)?;
            span = Some(span.map_or((start, end), |(first, last)| (first.min(start), last.max(end))));
        }
        let elapsed = span.map_or(Duration::ZERO, |(first, last)| last - first);
        Ok(Spent { latencies: all, elapsed })
    })
}

fn report(
    args: &MountArgs,
    root: &Path,
    workers: &[Worker],
    meter: &Meter,
    (before, after): (&Reading, &Reading),
    spent: Spent,
) -> Result<Report> {
    let operations = spent.latencies.len();
    let costs = meter.costs(before, after, operations, spent.elapsed)?;
    let (size, files) = (workers[0].size, workers.iter().map(|worker| worker.count).sum::<u64>());
    // The last block of a large file may be a part: the mean is what gives the right throughput.
    let moved = if args.op == MountOp::Stat { 0 } else { files * size / operations.max(1) };
    let flag = |on: bool, text: &'static str| if on { text } else { "" };
    let target = format!(
        "{files} files of {size} bytes in {}, {} threads{}{}",
        root.display(),
        args.threads,
        flag(args.fsync, ", fsync"),
        flag(args.cold, ", cold")
    );
    let failures = BTreeMap::new();
    let measured = Measured { operations, elapsed: spent.elapsed, failures, latencies: spent.latencies, costs };
    Ok(Report::new(args.op.name(), target, moved, args.threads, measured))
}

/// Drops what the kernel has cached: everything as root, otherwise the content of the files.
fn drop_caches(workers: &[Worker]) -> Result<()> {
    rustix::fs::sync();
    match fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => Ok(()),
        Err(_) => workers.iter().try_for_each(Worker::forget),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Target};
    use clap::Parser;

    fn bench(dir: &Path, rest: &[&str]) -> Result<Report> {
        let dir = dir.to_str().unwrap();
        let cli = Cli::parse_from([&["fdfs-bench", "mount", "--dir", dir], rest].concat());
        match cli.target {
            Target::Mount(args) => run(&args),
            Target::Cluster(_) => unreachable!("mount was asked for"),
        }
    }

    #[test]
    fn every_operation_runs_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        for op in ["create", "read", "stat"] {
            let args = ["--op", op, "--size", "1000", "--count", "11", "--threads", "2", "--fsync"];
            let report = bench(dir.path(), &args).unwrap();
            assert_eq!((report.operation, report.operations), (op, 11));
            // Two threads cannot have spent more time in operations than twice the time that passed.
            assert!(report.latency_us.mean * 11.0 <= report.seconds * 2e6 * 1.01, "{report}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        for op in ["write-large", "read-large"] {
            let report = bench(dir.path(), &["--op", op, "--size", "100K", "--block", "16K"]).unwrap();
            assert_eq!((report.operation, report.operations), (op, 7), "six whole blocks and a part");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn files_can_be_kept_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["--size", "64", "--count", "4"];
        bench(dir.path(), &[&["--op", "create", "--keep"], &files[..]].concat()).unwrap();
        assert!(bench(dir.path(), &[&["--op", "create"], &files[..]].concat()).is_err(), "the directory is taken");
        let read = bench(dir.path(), &[&["--op", "read", "--reuse", "--keep"], &files[..]].concat()).unwrap();
        assert_eq!(read.operations, 4);
        let other = ["--op", "read", "--reuse", "--keep", "--size", "64", "--count", "5"];
        assert!(bench(dir.path(), &other).is_err(), "another number of files");
        bench(dir.path(), &[&["--op", "stat", "--reuse"], &files[..]].concat()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = bench(Path::new("/nonexistent"), &["--op", "create"]).err().unwrap();
        assert!(format!("{error:#}").contains("/nonexistent/fdfs-bench"), "{error:#}");
    }
}
