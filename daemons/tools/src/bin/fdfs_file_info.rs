//! Shows what is known about a file: from its ID, or from a storage where the ID does not tell.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use fdfs_client::{FileId, FileInfoFlags};
use fdfs_protocol::RemoteName;
use fdfs_protocol::file_id::{Kind, Source};
use fdfs_tools::{Failure, client, file_id, human, print_line, storage_ids};

/// Show source, time, size and CRC32 of a file.
///
/// For a normal file all of that stands in its ID: no server is asked, and a deleted file is shown as well. Appender and
/// slave files are asked from a storage, and so are files whose source is a storage id that the configuration gives no
/// table for.
#[derive(clap::Parser)]
#[command(
    version,
    after_help = "Exit code: 0, 1 for wrong usage, else the errno of the failure (2 no such file). The tool of the \
                  original FastDFS exits with 0 even when it fails; this one does not."
)]
struct Args {
    /// Do not have the storage log an error when the file does not exist
    #[arg(short)]
    silent: bool,
    /// Do not have the CRC32 of an appender or slave file computed
    #[arg(short)]
    no_crc: bool,
    /// Client configuration, such as /etc/fdfs/client.conf
    config_file: PathBuf,
    /// The file
    file_id: String,
}

const WHAT: &str = "query file info fail";

/// What is printed.
struct Info {
    from_server: bool,
    kind: &'static str,
    source_id: u32,
    source_ip: Option<IpAddr>,
    timestamp: i64,
    size: u64,
    crc32: u32,
}

async fn show(args: Args) -> Result<(), Failure> {
    let client = client(&args.config_file)?;
    let id = file_id(WHAT, &args.file_id)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::new(WHAT, libc::EINVAL, format!("{id}: {error}"));
    if id.name.as_str().len() < RemoteName::NORMAL_LEN {
        return Err(wrong(&"the name is shorter than that of any file"));
    }
    let block = id.name.block().map_err(|error| wrong(&error))?;
    let kind = id.name.kind().map_err(|error| wrong(&error))?;
    let flags = FileInfoFlags { no_crc: args.no_crc, silent: args.silent };
    let (source_id, source_ip) = match block.source {
        Source::Ip(ip) => (0, Some(ip.into())),
        Source::Id(source) => (source, storage_ids::address_of(source, &args.config_file, &client).await?),
    };
    let info = match (block.size.size(), source_ip) {
        (Some(size), Some(_)) if kind.is_normal() => {
            let timestamp = block.timestamp.into();
            Info { from_server: false, kind: name_of(kind), source_id, source_ip, timestamp, size, crc32: block.crc32 }
        }
        _ => ask(&client, &id, source_id, kind, flags).await?,
    };
    print(&info, args.no_crc)
}

async fn ask(
    client: &fdfs_client::Client,
    id: &FileId,
    source_id: u32,
    kind: Kind,
    flags: FileInfoFlags,
) -> Result<Info, Failure> {
    let told = client.file_info(id, flags).await.map_err(|error| Failure::of(WHAT, &error))?;
    Ok(Info {
        from_server: true,
        kind: name_of(kind),
        source_id,
        source_ip: told.source.addr(),
        timestamp: told.mtime,
        size: told.size,
        crc32: told.crc32,
    })
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Normal | Kind::Trunk => "normal",
        Kind::Appender => "appender",
        Kind::Slave => "slave",
    }
}

fn print(info: &Info, no_crc: bool) -> Result<(), Failure> {
    let ip = info.source_ip.map(|ip| ip.to_string()).unwrap_or_default();
    let crc = if no_crc && info.crc32 == 0 {
        String::new()
    } else {
        // Shown signed, as FastDFS always did.
        format!("file crc32: {} (0x{:08x})\n", info.crc32 as i32, info.crc32)
    };
    print_line(format_args!(
        "GET FROM SERVER: {}\n\nfile type: {}\nsource storage id: {}\nsource ip address: {ip}\n\
         file create timestamp: {}\nfile size: {}\n{crc}",
        info.from_server,
        info.kind,
        info.source_id,
        human::local_time(info.timestamp),
        info.size,
    ))
}

fn main() -> ExitCode {
    fdfs_tools::run(show)
}
