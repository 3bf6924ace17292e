//! Writes a local file at the end of an appender file.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use fdfs_client::Content;
use fdfs_tools::{Failure, client, file_id};

/// Write a local file at the end of an appender file.
#[derive(clap::Parser)]
#[command(
    version,
    after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure (2 no such file, 22 not an appender)."
)]
struct Args {
    /// Client configuration, such as /etc/fdfs/client.conf
    config_file: PathBuf,
    /// The appender file to write to
    appender_file_id: String,
    /// The file to read
    local_filename: PathBuf,
}

const WHAT: &str = "append file fail";

async fn append(args: Args) -> Result<(), Failure> {
    let client = client(&args.config_file)?;
    let id = file_id(WHAT, &args.appender_file_id)?;
    let local = |error| Failure::local(WHAT, &args.local_filename, &error);
    let file = File::open(&args.local_filename).map_err(local)?;
    let content = Content::whole_file(&file).map_err(local)?;
    client.append(&id, content).await.map_err(|error| Failure::of(WHAT, &error))
}

fn main() -> ExitCode {
    fdfs_tools::run(append)
}
