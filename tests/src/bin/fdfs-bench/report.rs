//! The result of a measurement, as text for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::meter::{Costs, ProcessCost};

/// Latencies of single operations in nanoseconds.
pub type Latencies = Histogram<u64>;

/// An empty histogram: 0.1 µs to 10 minutes, three significant digits.
pub fn latencies() -> Result<Latencies> {
    Ok(Histogram::new_with_bounds(100, 600_000_000_000, 3)?)
}

/// Adds one latency; what is outside the range counts as its nearest value.
pub fn record(latencies: &mut Latencies, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

/// The result of one measurement.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the operation.
    pub operation: &'static str,
    /// What was measured: address or directory, with the settings that matter.
    pub target: String,
    /// Content bytes that one operation moves.
    pub size_bytes: u64,
    /// Connections, or threads of a mount measurement.
    pub concurrency: u32,
    /// Measured wall time.
    pub seconds: f64,
    /// Operations that succeeded in that time.
    pub operations: u64,
    /// Failed operations by reason.
    pub failures: BTreeMap<String, u64>,
    /// Rate of successful operations.
    pub ops_per_second: f64,
    /// Content moved, MiB per second.
    pub mib_per_second: f64,
    /// Latency of single operations, microseconds.
    pub latency_us: Percentiles,
    /// CPU time and memory.
    pub costs: Costs,
}

/// Latency distribution in microseconds.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    /// Shortest.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Half of all operations took at most this long.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// Longest.
    pub max: f64,
}

impl From<&Latencies> for Percentiles {
    fn from(ns: &Latencies) -> Self {
        let us = |value: u64| value as f64 / 1000.0;
        Percentiles {
            min: if ns.is_empty() { 0.0 } else { us(ns.min()) },
            mean: ns.mean() / 1000.0,
            p50: us(ns.value_at_quantile(0.5)),
            p90: us(ns.value_at_quantile(0.9)),
            p99: us(ns.value_at_quantile(0.99)),
            p999: us(ns.value_at_quantile(0.999)),
            max: us(ns.max()),
        }
    }
}

/// What was measured; [`Report::new`] derives the rates.
pub struct Measured {
    /// Successful operations.
    pub operations: u64,
    /// The wall time they took together.
    pub elapsed: Duration,
    /// Failed operations by reason.
    pub failures: BTreeMap<String, u64>,
    /// Latency of each successful one.
    pub latencies: Latencies,
    /// CPU time and memory.
    pub costs: Costs,
}

impl Report {
    /// The report of `measured`.
    pub fn new(operation: &'static str, target: String, size_bytes: u64, concurrency: u32, measured: Measured) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let ops_per_second = measured.operations as f64 / seconds.max(1e-9);
        Report {
            operation,
            target,
            size_bytes,
            concurrency,
            seconds,
            operations: measured.operations,
            failures: measured.failures,
            ops_per_second,
            mib_per_second: ops_per_second * size_bytes as f64 / (1 << 20) as f64,
            latency_us: Percentiles::from(&measured.latencies),
            costs: measured.costs,
        }
    }

    /// Writes the report to standard output.
    pub fn print(&self, json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            writeln!(out)?;
        } else {
            write!(out, "{self}")?;
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.operation, self.target)?;
        write!(f, "  rate     {:.0} ops/s", self.ops_per_second)?;
        if self.size_bytes > 0 {
            write!(f, ", {:.1} MiB/s", self.mib_per_second)?;
        }
        writeln!(f, " ({} operations in {:.2} s)", self.operations, self.seconds)?;
        for (reason, count) in &self.failures {
            writeln!(f, "  FAILED   {count} operations: {reason}")?;
        }
        let l = &self.latency_us;
        writeln!(
            f,
            "  latency  mean {:.1}, 50% {:.1}, 90% {:.1}, 99% {:.1}, 99.9% {:.1}, max {:.1} µs",
            l.mean, l.p50, l.p90, l.p99, l.p999, l.max
        )?;
        for process in &self.costs.processes {
            writeln!(f, "  cpu/op   {process}")?;
        }
        writeln!(f, "  cpu/op   {:8.2} µs  whole machine", self.costs.machine_us_per_op)
    }
}

impl Display for ProcessCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:8.2} µs  {} [{}]: user {:.2}, system {:.2}; {:.0} % of a core; memory {:.1} MiB, peak {:.1}",
            self.cpu_us_per_op,
            self.name,
            self.pid,
            self.user_us_per_op,
            self.system_us_per_op,
            self.cpu_percent,
            self.rss_kib as f64 / 1024.0,
            self.peak_rss_kib as f64 / 1024.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut ns = latencies().unwrap();
        for us in 1..=1000 {
            record(&mut ns, Duration::from_micros(us));
        }
        let failures = BTreeMap::from([("No space left on device".to_owned(), 3)]);
        let measured = Measured {
            operations: 1000,
            elapsed: Duration::from_secs(2),
            failures,
            latencies: ns,
            costs: Costs::default(),
        };
        Report::new("upload", "somewhere".to_owned(), 1 << 20, 4, measured)
    }

    #[test]
    fn rates_and_percentiles() {
        let report = report();
        assert_eq!(report.ops_per_second, 500.0);
        assert_eq!(report.mib_per_second, 500.0);
        assert!((report.latency_us.p50 - 500.0).abs() < 1.0);
        assert!((report.latency_us.max - 1000.0).abs() < 1.0);
    }

    #[test]
    fn text_and_json_agree() {
        let report = report();
        let text = report.to_string();
        assert!(text.contains("500 ops/s, 500.0 MiB/s (1000 operations in 2.00 s)"), "{text}");
        assert!(text.contains("FAILED   3 operations: No space left"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["operations"], 1000);
        assert_eq!(json["failures"]["No space left on device"], 3);
    }

    #[test]
    fn an_empty_histogram_is_all_zero() {
        let percentiles = Percentiles::from(&latencies().unwrap());
        assert_eq!((percentiles.min, percentiles.max), (0.0, 0.0));
    }

    #[test]
    fn absurd_latencies_saturate() {
        let mut ns = latencies().unwrap();
        record(&mut ns, Duration::MAX);
        assert_eq!(ns.len(), 1);
    }
}
