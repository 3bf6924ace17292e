//! Stores a local file as an appender file, which can be changed later, and prints its file ID.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use fdfs_client::Content;
use fdfs_tools::{Failure, client, extension, print_line};

/// Store a local file as an appender file, which can be changed later, and print its file ID.
#[derive(clap::Parser)]
#[command(version, after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure.")]
struct Args {
    /// Client configuration, such as /etc/fdfs/client.conf
    config_file: PathBuf,
    /// The file to store
    local_filename: PathBuf,
}

const WHAT: &str = "upload file fail";

async fn upload(args: Args) -> Result<(), Failure> {
    let client = client(&args.config_file)?;
    let local = |error| Failure::local(WHAT, &args.local_filename, &error);
    let file = File::open(&args.local_filename).map_err(local)?;
    let content = Content::whole_file(&file).map_err(local)?;
    let stored = client.upload_appender(content, &extension::of_path(&args.local_filename)).await;
    print_line(stored.map_err(|error| Failure::of(WHAT, &error))?)
}

fn main() -> ExitCode {
    fdfs_tools::run(upload)
}
