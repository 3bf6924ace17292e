//! Fetches a file, or a range of it, from a FastDFS cluster.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fdfs_client::Download;
use fdfs_tools::{Failure, client, file_id};

/// Fetch a file, or a range of it, from a FastDFS cluster.
///
/// A regular local file gets its name only when everything has come: a failure leaves what was there before.
#[derive(clap::Parser)]
#[command(
    version,
    after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure (2 no such file). The tool of the \
                  original FastDFS exits with 0 even when it fails; this one does not."
)]
struct Args {
    /// Client configuration, such as /etc/fdfs/client.conf
    config_file: PathBuf,
    /// The file to fetch
    file_id: String,
    /// Where to write it [default: the last part of the file ID]
    local_filename: Option<PathBuf>,
    /// The first byte to fetch
    #[arg(default_value_t = 0, hide_default_value = true)]
    download_offset: u64,
    /// How many bytes to fetch; 0 for all to the end
    #[arg(default_value_t = 0, hide_default_value = true)]
    download_bytes: u64,
}

const WHAT: &str = "download file fail";

async fn fetch(args: Args) -> Result<(), Failure> {
    let client = client(&args.config_file)?;
    let id = file_id(WHAT, &args.file_id)?;
    let target = args.local_filename.unwrap_or_else(|| PathBuf::from(id.name.file_part()));
    let download = client.download(&id, args.download_offset, args.download_bytes).await;
    let download = download.map_err(|error| Failure::of(WHAT, &error))?;

    let local = |error| Failure::local(WHAT, &target, &error);
    match fs::metadata(&target) {
        // A pipe or a device is written to as it is.
        Ok(there) if !there.is_file() => {
            let mut file = OpenOptions::new().write(true).open(&target).map_err(local)?;
            write(download, &mut file, &target).await
        }
        Ok(there) => {
            // Through a symbolic link, the file it leads to is replaced, not the link.
            let real = fs::canonicalize(&target).map_err(local)?;
            replace(download, &real, Some(there.permissions())).await
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => replace(download, &target, None).await,
        Err(error) => Err(local(error)),
    }
}

/// Writes to a temporary file beside `target`, then gives it the name.
async fn replace(download: Download, target: &Path, permissions: Option<fs::Permissions>) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let local = |error| Failure::local(WHAT, target, &error);
    let directory = match target.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    // The permissions any new file gets here, rather than those of a secret.
    let mut temporary = builder
        .prefix(".fdfs_download.")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(local)?;
    write(download, temporary.as_file_mut(), target).await?;
    if let Some(permissions) = permissions {
        temporary.as_file().set_permissions(permissions).map_err(local)?;
    }
    temporary.persist(target).map_err(|error| local(error.error))?;
    Ok(())
}

async fn write(mut download: Download, file: &mut File, target: &Path) -> Result<(), Failure> {
    let mut buffer = vec![0; usize::try_from(download.len()).unwrap_or(usize::MAX).clamp(1, 1024 * 1024)];
    while download.remaining() > 0 {
        let n = download.chunk(&mut buffer).await.map_err(|error| Failure::of(WHAT, &error))?;
        file.write_all(&buffer[..n]).map_err(|error| Failure::local(WHAT, target, &error))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    fdfs_tools::run(fetch)
}
