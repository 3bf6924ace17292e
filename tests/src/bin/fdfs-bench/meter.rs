//! CPU time and memory of processes, read from `/proc` before and after a measurement.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    user: Duration,
    system: Duration,
}

/// Resources that one process spent during a measurement.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessCost {
    /// Process id.
    pub pid: u32,
    /// Command name as the kernel knows it.
    pub name: String,
    /// User time per operation, in microseconds.
    pub user_us_per_op: f64,
    /// System time per operation, in microseconds.
    pub system_us_per_op: f64,
    /// User and system time per operation, in microseconds.
    pub cpu_us_per_op: f64,
    /// Share of one core, in percent.
    pub cpu_percent: f64,
    /// Resident memory after the measurement, in KiB.
    pub rss_kib: u64,
    /// Largest resident memory since the process started, in KiB.
    pub peak_rss_kib: u64,
}

/// What the whole machine and the watched processes spent between two moments.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Costs {
    /// The watched processes, in the order they were named, then this one.
    pub processes: Vec<ProcessCost>,
    /// Time that all cores were busy, kernel threads and interrupts included, per operation in microseconds.
    pub machine_us_per_op: f64,
}

/// Reads counters of a set of processes, of this one, and of the machine.
pub struct Meter {
    pids: Vec<u32>,
    /// Nanoseconds of one kernel clock tick.
    tick: u64,
}

/// Counters at one moment.
pub struct Reading {
    processes: Vec<Usage>,
    machine: Duration,
}

impl Meter {
    /// A meter for `pids` and this process; fails when one of them does not exist.
    pub fn new(pids: &[u32]) -> Result<Meter> {
        let mut pids = pids.to_vec();
        pids.push(std::process::id());
        let meter = Meter { pids, tick: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1) };
        meter.read()?;
        Ok(meter)
    }

    /// The counters now.
    pub fn read(&self) -> Result<Reading> {
        let processes = self.pids.iter().map(|&pid| self.usage(pid)).collect::<Result<_>>()?;
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
        Ok(Reading { processes, machine: self.time(parse_busy_ticks(&stat)?) })
    }

    /// What was spent between two readings, divided among `operations` that took `elapsed` in all.
    pub fn costs(&self, before: &Reading, after: &Reading, operations: u64, elapsed: Duration) -> Result<Costs> {
        let per_op = |time: Duration| time.as_secs_f64() * 1e6 / operations.max(1) as f64;
        let mut processes = Vec::with_capacity(self.pids.len());
        for ((&pid, before), after) in self.pids.iter().zip(&before.processes).zip(&after.processes) {
            let user = after.user.saturating_sub(before.user);
            let system = after.system.saturating_sub(before.system);
            let status = read_proc(pid, "status")?;
            processes.push(ProcessCost {
                pid,
                name: read_proc(pid, "comm")?.trim_end().to_owned(),
                user_us_per_op: per_op(user),
                system_us_per_op: per_op(system),
                cpu_us_per_op: per_op(user + system),
                cpu_percent: (user + system).as_secs_f64() * 100.0 / elapsed.as_secs_f64().max(1e-9),
                rss_kib: status_kib(&status, "VmRSS:"),
                peak_rss_kib: status_kib(&status, "VmHWM:"),
            });
        }
        Ok(Costs { processes, machine_us_per_op: per_op(after.machine.saturating_sub(before.machine)) })
    }

    fn usage(&self, pid: u32) -> Result<Usage> {
        let (user, system) = parse_stat(&read_proc(pid, "stat")?)?;
        Ok(Usage { user: self.time(user), system: self.time(system) })
    }

    fn time(&self, ticks: u64) -> Duration {
        Duration::from_nanos(self.tick.saturating_mul(ticks))
    }
}

fn read_proc(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("{path} cannot be read; does process {pid} run?"))
}

/// User and system ticks of `/proc/PID/stat`. The command name may hold spaces and brackets.
fn parse_stat(stat: &str) -> Result<(u64, u64)> {
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, rest)) => rest.split_ascii_whitespace().collect(),
        None => bail!("/proc/PID/stat has no command name: {stat:?}"),
    };
    // Field 3 of proc_pid_stat(5) comes first here; utime is field 14, stime 15.
    let field = |n: usize| -> Result<u64> {
        fields.get(n - 3).and_then(|text| text.parse().ok()).with_context(|| format!("/proc/PID/stat: bad field {n}"))
    };
    Ok((field(14)?, field(15)?))
}

/// Busy ticks of all cores: user, nice, system, irq, softirq and steal of the first line of `/proc/stat`.
fn parse_busy_ticks(stat: &str) -> Result<u64> {
    let line = stat.lines().next().unwrap_or_default();
    let values: Vec<u64> = line.split_ascii_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = values[..] else {
        bail!("/proc/stat: unexpected first line {line:?}");
    };
    Ok([user, nice, system, irq, softirq, steal].iter().fold(0, |sum, ticks| sum.saturating_add(*ticks)))
}

/// A `VmXXX:  n kB` line of `/proc/PID/status`; zero when absent, as for kernel threads.
fn status_kib(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_ascii_whitespace().next()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_nasty_command_name() {
        let stat = "42 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 111 222 0 0 20 0 1 0";
        assert_eq!(parse_stat(stat).unwrap(), (111, 222));
        assert!(parse_stat("42 a S").is_err());
        assert!(parse_stat("42 (a) S 1").is_err());
    }

    #[test]
    fn busy_leaves_out_idle_and_iowait() {
        assert_eq!(parse_busy_ticks("cpu  1 2 3 400 500 6 7 8 9 10\ncpu0 ...").unwrap(), 1 + 2 + 3 + 6 + 7 + 8);
        assert!(parse_busy_ticks("intr 1 2").is_err());
    }

    #[test]
    fn memory_lines() {
        let status = "Name:\tx\nVmHWM:\t  1234 kB\nVmRSS:\t 99 kB\n";
        assert_eq!(status_kib(status, "VmHWM:"), 1234);
        assert_eq!(status_kib(status, "VmSwap:"), 0);
    }

    #[test]
    fn this_process_is_always_metered() {
        let meter = Meter::new(&[]).unwrap();
        let reading = meter.read().unwrap();
        let costs = meter.costs(&reading, &meter.read().unwrap(), 1, Duration::from_secs(1)).unwrap();
        assert_eq!(costs.processes.len(), 1);
        assert!(costs.processes[0].rss_kib > 0);
        assert!(Meter::new(&[u32::MAX]).is_err());
    }
}
