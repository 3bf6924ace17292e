//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures a FastDFS server or a mounted directory.
///
/// Exit code: 0 when every operation succeeded, 1 when some failed, 2 when the measurement could not be made.
#[derive(Debug, Parser)]
#[command(name = "fdfs-bench", version)]
pub struct Cli {
    /// What to put under load.
    #[command(subcommand)]
    pub target: Target,
}

/// What to put under load.
#[derive(Debug, Subcommand)]
pub enum Target {
    /// A tracker or storage, by address: one outstanding request per connection.
    Cluster(ClusterArgs),
    /// A directory of any file system, mounted or local.
    Mount(MountArgs),
}

/// How the result is shown.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Report CPU time per operation and memory of this process; repeatable.
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
}

/// Arguments of `fdfs-bench cluster`.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// The operation to measure.
    #[arg(long, value_enum)]
    pub op: ClusterOp,
    /// Tracker to query, or to ask for storages.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "storage")]
    pub tracker: Option<String>,
    /// Storage to load; without it each connection goes to the storage that the tracker names.
    #[arg(long, value_name = "HOST:PORT")]
    pub storage: Option<String>,
    /// Content of each file.
    #[arg(long, default_value = "4K", value_name = "BYTES")]
    pub size: ByteSize,
    /// Connections, each with one request at a time.
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Threads that drive the connections.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Measured time, in seconds or like 500ms, 5s, 2m.
    #[arg(long, default_value = "5s", value_parser = parse_duration, conflicts_with = "count")]
    pub duration: Duration,
    /// Measure this many operations instead of a time. For delete: how many files to make and delete [default: 10000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Load before the measurement begins; delete has none.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// For download: how many files to spread the requests over.
    #[arg(long, default_value = "256", value_parser = clap::value_parser!(u64).range(1..))]
    pub files: u64,
    /// For download: compare every byte received; costs CPU time of the load generator.
    #[arg(long)]
    pub verify: bool,
    /// Leave the uploaded files in the cluster.
    #[arg(long)]
    pub keep: bool,
    /// How the result is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Operations on a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClusterOp {
    /// Store new files of --size.
    Upload,
    /// Fetch whole files of --size, uploaded before the measurement.
    Download,
    /// Ask the tracker where to store (QUERY_STORE_WITHOUT_GROUP_ONE).
    Query,
    /// Delete files uploaded before the measurement.
    Delete,
}

impl ClusterOp {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            ClusterOp::Upload => "upload",
            ClusterOp::Download => "download",
            ClusterOp::Query => "query",
            ClusterOp::Delete => "delete",
        }
    }
}

/// Arguments of `fdfs-bench mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// The directory to work in; everything happens in a new directory `fdfs-bench` inside it.
    #[arg(long)]
    pub dir: PathBuf,
    /// The operation to measure.
    #[arg(long, value_enum)]
    pub op: MountOp,
    /// Content of each file [default: 16K, for the large operations 1G].
    #[arg(long, value_name = "BYTES")]
    pub size: Option<ByteSize>,
    /// Number of files [default: 10000, for the large operations one per thread].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Threads, each with a directory of its own.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Bytes per read or write call of the large operations.
    #[arg(long, default_value = "1M", value_name = "BYTES")]
    pub block: ByteSize,
    /// fsync each file before it is closed, inside the measured time.
    #[arg(long)]
    pub fsync: bool,
    /// For read and stat: drop the kernel's caches first, instead of touching everything once.
    /// A cache inside the file system's own process is not dropped: mount again between --keep and --reuse for that.
    #[arg(long)]
    pub cold: bool,
    /// Leave the files for a later run with --reuse.
    #[arg(long)]
    pub keep: bool,
    /// Read or stat the files that an earlier run with --keep, the same size, count and threads left.
    #[arg(long)]
    pub reuse: bool,
    /// How the result is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Operations on a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MountOp {
    /// Create, write and close small files.
    Create,
    /// Open, read and close small files.
    Read,
    /// Look at the attributes of small files.
    Stat,
    /// Write large files in sequence.
    WriteLarge,
    /// Read large files in sequence.
    ReadLarge,
}

impl MountOp {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            MountOp::Create => "create",
            MountOp::Read => "read",
            MountOp::Stat => "stat",
            MountOp::WriteLarge => "write-large",
            MountOp::ReadLarge => "read-large",
        }
    }

    /// Whether one operation is one block of a large file, not one file.
    pub fn is_large(self) -> bool {
        matches!(self, MountOp::WriteLarge | MountOp::ReadLarge)
    }
}

/// A number of bytes, written like `4096`, `4K`, `64KiB`, `1M`, `1G` (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(format!("unknown unit {unit:?}; use B, K, M, G or T")),
        };
        let number: u64 = number.parse().map_err(|_| "a number like 4096, 4K or 1M is needed".to_owned())?;
        number.checked_mul(1 << shift).map(ByteSize).ok_or_else(|| "too large".to_owned())
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("unknown unit {unit:?}; use ms, s or m")),
    };
    let number: f64 = number.parse().map_err(|_| "a time like 5s or 500ms is needed".to_owned())?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert_eq!("4K".parse(), Ok(ByteSize(4096)));
        assert_eq!("64KiB".parse(), Ok(ByteSize(65536)));
        assert_eq!("1 MB".parse(), Ok(ByteSize(1 << 20)));
        assert!("".parse::<ByteSize>().is_err());
        assert!("K".parse::<ByteSize>().is_err());
        assert!("4X".parse::<ByteSize>().is_err());
        assert!("99999999999T".parse::<ByteSize>().is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("x").is_err());
        assert!(parse_duration("5h").is_err());
    }
}
