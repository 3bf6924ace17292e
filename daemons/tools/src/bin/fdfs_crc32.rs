//! Prints the CRC32 of a local file as FastDFS computes it.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use fdfs_tools::{Failure, print_line};

/// Print the CRC32 of a local file, in hex, as it stands in a file ID.
#[derive(clap::Parser)]
#[command(version, after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure.")]
struct Args {
    /// The file to read
    filename: PathBuf,
}

async fn print_crc(args: Args) -> Result<(), Failure> {
    let local = |error| Failure::local("compute crc32 fail", &args.filename, &error);
    let mut file = File::open(&args.filename).map_err(local)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 512 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(local(error)),
        }
    }
    print_line(format_args!("{:x}", hasher.finalize()))
}

fn main() -> ExitCode {
    fdfs_tools::run(print_crc)
}
