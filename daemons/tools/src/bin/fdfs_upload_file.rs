//! Stores a local file in a FastDFS cluster and prints its file ID.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use fdfs_client::{Content, DEFAULT_STORAGE_PORT, ServerAddress};
use fdfs_tools::{Failure, client, extension, print_line};

/// Store a local file in a FastDFS cluster and print its file ID.
#[derive(clap::Parser)]
#[command(
    version,
    after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure (2 no such file, 28 no space, \
                  111 no tracker answers)."
)]
struct Args {
    /// Client configuration, such as /etc/fdfs/client.conf
    config_file: PathBuf,
    /// The file to store
    local_filename: PathBuf,
    /// Store on this storage (HOST:PORT) without asking a tracker
    storage: Option<String>,
    /// Store path on that storage; -1 lets it choose
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=254))]
    store_path_index: Option<i32>,
}

const WHAT: &str = "upload file fail";

async fn upload(args: Args) -> Result<(), Failure> {
    let client = client(&args.config_file)?;
    let local = |error| Failure::local(WHAT, &args.local_filename, &error);
    let file = File::open(&args.local_filename).map_err(local)?;
    let metadata = file.metadata().map_err(local)?;
    if !metadata.is_file() {
        let detail = format!("{} is not a regular file", args.local_filename.display());
        return Err(Failure::new(WHAT, libc::EINVAL, detail));
    }
    let content = Content::file(&file, 0..metadata.len());
    let ext = extension::of_path(&args.local_filename);
    let stored = match &args.storage {
        None => client.upload(content, &ext).await,
        Some(storage) => {
            let wrong = |error: &dyn std::fmt::Display| Failure::new(WHAT, libc::EINVAL, error);
            let address = ServerAddress::parse(storage, DEFAULT_STORAGE_PORT).map_err(|error| wrong(&error))?;
            let addrs =
                address.resolve().await.map_err(|error| wrong(&format!("cannot resolve {address}: {error}")))?;
            let Some(addr) = addrs.first() else { return Err(wrong(&format!("{address} has no address"))) };
            let path = args.store_path_index.and_then(|index| u8::try_from(index).ok());
            client.upload_to(*addr, path, content, &ext).await
        }
    };
    print_line(stored.map_err(|error| Failure::of(WHAT, &error))?)
}

fn main() -> ExitCode {
    fdfs_tools::run(upload)
}
