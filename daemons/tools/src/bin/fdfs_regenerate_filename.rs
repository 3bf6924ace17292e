//! Turns an appender file into a normal file and prints its new file ID.

use std::path::PathBuf;
use std::process::ExitCode;

use fdfs_tools::{Failure, client, file_id, print_line};

/// Turn an appender file into a normal file and print its new file ID.
///
/// The old ID is gone afterwards, and so is the metadata.
#[derive(clap::Parser)]
#[command(version, after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure (2 no such file).")]
struct Args {
    /// Client configuration, such as /etc/fdfs/client.conf
    config_file: PathBuf,
    /// The appender file
    appender_file_id: String,
}

async fn regenerate(args: Args) -> Result<(), Failure> {
    let client = client(&args.config_file)?;
    let what = format!("regenerate file {} fail", args.appender_file_id);
    let id = file_id(&what, &args.appender_file_id)?;
    print_line(client.regenerate(&id).await.map_err(|error| Failure::of(what, &error))?)
}

fn main() -> ExitCode {
    fdfs_tools::run(regenerate)
}
