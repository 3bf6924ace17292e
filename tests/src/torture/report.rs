//! The figures of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What a run has shown.
#[derive(Debug, Clone)]
pub struct Report {
    /// Rounds that were carried out.
    pub rounds: u64,
    /// By operation: how often done, failed, unknown.
    pub operations: BTreeMap<&'static str, [usize; 3]>,
    /// By kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// From the end of the faults and the load of a round until all members were active and equal.
    pub convergence: Vec<Duration>,
    /// Files compared, of all rounds.
    pub files: usize,
    /// Of these, how often one was changed at two members in one round, so that only its being equal there was checked.
    pub disputed: usize,
    /// How many of these were checked in full all the same, since the two could ask each other.
    pub joined: usize,
    /// What is not as it must be. None, hopefully.
    pub violations: Vec<String>,
    /// The seed of the round with the violations.
    pub failed_seed: Option<u64>,
    /// Logs, configurations, history; the contents of the disks in `*/disk.kept`.
    pub dir: PathBuf,
}

impl Report {
    pub(super) fn new(dir: PathBuf) -> Report {
        Report {
            rounds: 0,
            operations: BTreeMap::new(),
            faults: BTreeMap::new(),
            convergence: Vec::new(),
            files: 0,
            disputed: 0,
            joined: 0,
            violations: Vec::new(),
            failed_seed: None,
            dir,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rounds      {}", self.rounds)?;
        let Report { files, disputed, joined, .. } = self;
        writeln!(
            f,
            "files       {files} compared, {disputed} changed at two members, of which {joined} judged in full"
        )?;
        let mut times = self.convergence.clone();
        times.sort();
        if let (Some(median), Some(most)) = (times.get(times.len() / 2), times.last()) {
            writeln!(
                f,
                "at rest     after {:.1} s (median), {:.1} s (most)",
                median.as_secs_f32(),
                most.as_secs_f32()
            )?;
        }
        writeln!(f, "faults      {}", self.faults.values().sum::<usize>())?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {kind:<20}{count:>8}")?;
        }
        writeln!(f, "operations  {:<18}{:>8}{:>8}{:>8}", "", "done", "failed", "unknown")?;
        for (kind, [done, failed, unknown]) in &self.operations {
            writeln!(f, "  {kind:<28}{done:>8}{failed:>8}{unknown:>8}")?;
        }
        write!(f, "violations  {}", self.violations.len())?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        if let Some(seed) = self.failed_seed {
            write!(
                f,
                "\nthe faults of that round are repeated by --seed {seed}; logs and data are in {}",
                self.dir.display()
            )?;
        }
        Ok(())
    }
}
