//! Shows groups and storages of a FastDFS cluster, and takes administrative commands.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use fdfs_client::{Client, Error, GroupName, ServerAddress, StorageId};
use fdfs_tools::{Failure, error_info, monitor, print_line};

/// Show groups and storages of a FastDFS cluster, or change them.
#[derive(clap::Parser)]
#[command(
    version,
    disable_help_flag = true,
    after_help = "Without a command: list. Exit code: 0, 1 for wrong usage, else the errno of the failure. The tool of \
                  the original FastDFS exits with 0 when a command fails; this one does not."
)]
struct Args {
    /// Client configuration
    #[arg(default_value = "/etc/fdfs/client.conf")]
    config_file: PathBuf,
    /// Ask this one of the configured trackers
    #[arg(short = 'h', value_name = "tracker_server")]
    tracker: Option<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Show all groups, or one
    List {
        /// The group to show
        group_name: Option<String>,
    },
    /// Make all trackers forget a storage that is not active, or a group without storages
    Delete {
        /// The group
        group_name: GroupName,
        /// The storage; without it the group is deleted
        storage_id: Option<StorageId>,
    },
    /// Make a storage the trunk server of its group
    #[command(name = "set_trunk_server")]
    SetTrunkServer {
        /// The group
        group_name: GroupName,
        /// The storage; without it the tracker chooses
        storage_id: Option<StorageId>,
    },
}

const WHAT: &str = "query tracker fail";

async fn show(args: Args) -> Result<(), Failure> {
    let config = fdfs_tools::config(&args.config_file)?;
    let count = config.trackers.len();
    let (index, tried) = match &args.tracker {
        // Any number will do to spread the load; the others are for when it is away.
        None => (RandomState::new().hash_one(0) as usize % count, count),
        Some(text) => (index_of(&config.trackers, text).await?, 1),
    };
    let mut trackers = config.trackers.clone();
    trackers.rotate_left(index);
    trackers.truncate(tried);
    let client = Client::new(config);
    print_line(format_args!("tracker server count={count}, current server index={index}"))?;
    let addr = reachable(&client, &trackers).await?;
    print_line(format_args!("\ntracker server is {addr}\n"))?;
    match args.command.unwrap_or(Task::List { group_name: None }) {
        Task::List { group_name } => list(&client, addr, group_name.as_deref()).await,
        Task::Delete { group_name, storage_id } => delete(&client, &group_name, storage_id).await,
        Task::SetTrunkServer { group_name, storage_id } => set_trunk_server(&client, &group_name, storage_id).await,
    }
}

/// Which of the configured trackers is meant.
async fn index_of(trackers: &[ServerAddress], text: &str) -> Result<usize, Failure> {
    let unknown =
        || Failure::new(format!("tracker server: {text} not exists!"), libc::ENOENT, "not in the config file");
    let wanted: ServerAddress = text.parse().map_err(|error| Failure::new(WHAT, libc::EINVAL, error))?;
    let addrs = wanted.resolve().await.map_err(|error| Failure::new(WHAT, libc::ENOENT, format!("{text}: {error}")))?;
    trackers
        .iter()
        .position(|tracker| *tracker == wanted || addrs.iter().any(|addr| tracker.contains(*addr)))
        .ok_or_else(unknown)
}

/// The first address of these trackers that answers.
async fn reachable(client: &Client, trackers: &[ServerAddress]) -> Result<SocketAddr, Failure> {
    let mut last = Failure::new(WHAT, libc::EHOSTUNREACH, "no tracker has an address");
    for tracker in trackers {
        let addrs = match tracker.resolve().await {
            Ok(addrs) => addrs,
            Err(error) => {
                last = Failure::new(WHAT, libc::EHOSTUNREACH, format!("cannot resolve {tracker}: {error}"));
                continue;
            }
        };
        for addr in addrs {
            match client.tracker(addr).active_test().await {
                Ok(()) => return Ok(addr),
                Err(error) => last = Failure::of(WHAT, &error),
            }
        }
    }
    Err(last)
}

async fn list(client: &Client, addr: SocketAddr, only: Option<&str>) -> Result<(), Failure> {
    let tracker = client.tracker(addr);
    let groups = tracker.list_groups().await.map_err(|error| Failure::of(WHAT, &error))?;
    if only.is_none() {
        print_line(format_args!("group count: {}", groups.len()))?;
    }
    if let Some(only) = only
        && groups.iter().all(|group| only != group.name.as_str())
    {
        return Err(Failure::new(format!("list group {only}"), libc::ENOENT, format!("{addr} knows no such group")));
    }
    for (number, group) in groups.iter().enumerate() {
        if only.is_some_and(|only| only != group.name.as_str()) {
            continue;
        }
        let storages = tracker.list_storages(&group.name, None).await.map_err(|error| Failure::of(WHAT, &error))?;
        if only.is_none() {
            print_line(format_args!("\nGroup {}:", number + 1))?;
        }
        let text = monitor::group(group, &storages);
        print_line(text.strip_suffix('\n').unwrap_or(&text))?;
    }
    Ok(())
}

async fn delete(client: &Client, group: &GroupName, storage: Option<StorageId>) -> Result<(), Failure> {
    let what = match storage {
        Some(id) => format!("delete storage server {group}::{id}"),
        None => format!("delete group: {group}"),
    };
    let addrs = client.tracker_addrs().await.map_err(|error| Failure::of(WHAT, &error))?;
    // Each tracker keeps its own list, so each is told; the first failure is the result. But one that never heard of it
    // has nothing to delete.
    let (mut result, mut known, mut unknown) = (Ok(()), false, None);
    for addr in addrs.iter() {
        let tracker = client.tracker(*addr);
        let told = match storage {
            Some(id) => tracker.delete_storage(group, id).await,
            None => tracker.delete_group(group).await,
        };
        match told {
            Err(error) if error.to_errno() == libc::ENOENT => unknown = Some(error),
            told => (result, known) = (result.and(told), true),
        }
    }
    if let Some(error) = unknown.filter(|_| !known) {
        result = Err(error);
    }
    report(&what, result.map(|()| format!("{what} success")))
}

async fn set_trunk_server(client: &Client, group: &GroupName, storage: Option<StorageId>) -> Result<(), Failure> {
    let what = format!("set trunk server {group}::{}", storage.unwrap_or_default());
    let chosen = client.trackers().set_trunk_server(group, storage).await;
    report(&what, chosen.map(|id| format!("{what} success, new trunk server: {id}")))
}

/// Says how a command went, on stdout as the original does, and gives the exit code for it.
fn report(what: &str, result: Result<String, Error>) -> Result<(), Failure> {
    match result {
        Ok(text) => print_line(text),
        Err(error) => {
            let errno = error.to_errno();
            print_line(format_args!("{what} fail, error no: {errno}, error info: {}", error_info(errno)))?;
            Err(Failure::of(format!("{what} fail"), &error))
        }
    }
}

fn main() -> ExitCode {
    // `-h` names a tracker, but alone it has always been a call for help.
    if std::env::args_os().skip(1).eq(["-h"]) {
        use clap::CommandFactory;
        return match Args::command().print_help() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(libc::EIO as u8),
        };
    }
    fdfs_tools::run(show)
}
