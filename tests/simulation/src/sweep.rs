//! Many seeds, each in a process of its own: counters of libraries and of ours begin anew, and one that hangs or aborts
//! is one that fails.

use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context;

/// Simulates all seeds; false if one fails. Prints what failed and a summary.
pub fn run(seeds: Range<u64>, jobs: Option<usize>, plant: Option<&str>) -> anyhow::Result<bool> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let jobs = jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(());
            }
            let mut command = Command::new(&program);
            command.args(["--seed", &seed.to_string()]).stdin(Stdio::null());
            if let Some(plant) = plant {
                command.args(["--plant", plant]);
            }
            let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stdout);
                let complained = String::from_utf8_lossy(&output.stderr);
                println!("{}{}seed {seed}: {}", said, complained, output.status);
                failed.lock().unwrap_or_else(|e| e.into_inner()).push(seed);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(_) => anyhow::bail!("a worker panicked"),
        })
    })?;
    let mut failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
    failed.sort_unstable();
    let count = seeds.end.saturating_sub(seeds.start);
    println!("{count} seeds in {:.1} s, {} failed {failed:?}", began.elapsed().as_secs_f64(), failed.len());
    Ok(failed.is_empty())
}
