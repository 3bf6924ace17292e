//! Removes a file from a FastDFS cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use fdfs_tools::{Failure, client, file_id};

/// Remove a file from a FastDFS cluster.
#[derive(clap::Parser)]
#[command(version, after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure (2 no such file).")]
struct Args {
    /// Client configuration, such as /etc/fdfs/client.conf
    config_file: PathBuf,
    /// The file to remove
    file_id: String,
}

const WHAT: &str = "delete file fail";

async fn delete(args: Args) -> Result<(), Failure> {
    let client = client(&args.config_file)?;
    let id = file_id(WHAT, &args.file_id)?;
    client.delete(&id).await.map_err(|error| Failure::of(WHAT, &error))
}

fn main() -> ExitCode {
    fdfs_tools::run(delete)
}
