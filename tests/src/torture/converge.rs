//! Whether the cluster has come to rest: everybody active, all members of a group with the same files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fdfs_client::{Client, GroupName};
use fdfs_protocol::stat::StorageStatus;

use super::fleet::Fleet;

/// How long after the last fault the cluster may need.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a member has under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    size: u64,
    /// Of the content; for a link, of what it points to within the store path.
    crc32: u32,
}

/// What a member has: by group-wide name, such as `M00/00/03/NAME`. Metadata is in files of its own there, whose names
/// end with `-m`.
pub type Listing = BTreeMap<String, Item>;

/// Waits until all storages are active in the eyes of all trackers and have the same files; returns what each storage
/// has, by number, and the time it took.
///
/// # Errors
/// When it takes more than [`PATIENCE`]: what is missing then.
pub fn await_rest(
    fleet: &mut Fleet,
    since: Instant,
    interrupted: &dyn Fn() -> bool,
) -> Result<(Vec<Listing>, Duration)> {
    loop {
        let missing = match restless(fleet)? {
            Ok(listings) => return Ok((listings, since.elapsed())),
            Err(missing) => missing,
        };
        if since.elapsed() > PATIENCE || interrupted() {
            bail!("no rest {:?} after the last fault:\n  {}", since.elapsed(), missing.join("\n  "));
        }
        // Replication announces itself to nobody.
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// The listings by number of the server (trackers have none), or what is not as it must be.
fn restless(fleet: &Fleet) -> Result<Result<Vec<Listing>, Vec<String>>> {
    let inactive = fleet.host(fleet.shape().client()).run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(inactive(fleet))
    })??;
    if !inactive.is_empty() {
        return Ok(Err(inactive));
    }
    let shape = fleet.shape();
    for host in [shape.client(), shape.mount()] {
        if fleet.host(host).run(has_requests_on_their_way)?? {
            return Ok(Err(vec![format!("{} has requests on their way", shape.name(host))]));
        }
    }
    let mut listings = vec![Listing::new(); shape.servers()];
    for i in shape.storages() {
        listings[i] = match list(&fleet.store_paths(i)) {
            Ok(listing) => listing,
            // What is listed and goes away meanwhile shows that there is no rest yet.
            Err(error) => return Ok(Err(vec![format!("{}: {error}", shape.name(i))])),
        };
    }
    let differences = differences(fleet, &listings);
    Ok(if differences.is_empty() { Ok(listings) } else { Err(differences) })
}

/// Whether this thread's host has closed connections whose data was not delivered yet: a request that was given up can
/// still arrive, and change a file, when the way is free again.
fn has_requests_on_their_way() -> io::Result<bool> {
    // FIN_WAIT1, LAST_ACK, CLOSING
    const CLOSED: [&str; 3] = ["04", "09", "0B"];
    let table = fs::read_to_string("/proc/thread-self/net/tcp")?;
    Ok(table.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(3);
        let closed = columns.next().is_some_and(|state| CLOSED.contains(&state));
        closed && columns.next().is_some_and(|queues| !queues.starts_with("00000000"))
    }))
}

async fn inactive(fleet: &Fleet) -> Result<Vec<String>> {
    let client = Client::new(fleet.client_config()?);
    let shape = fleet.shape();
    let mut found = Vec::new();
    for tracker in 0..shape.trackers {
        let asked = client.tracker(fleet.addr(tracker));
        for group in 1..=shape.groups {
            let group = GroupName::new(&format!("group{group}"))?;
            let members = match asked.list_storages(&group, None).await {
                Ok(members) => members,
                Err(error) => {
                    found.push(format!("{}: {error}", shape.name(tracker)));
                    continue;
                }
            };
            for i in fleet.members(&group) {
                let known = members.iter().find(|member| member.ip.addr() == Some(fleet.addr(i).ip()));
                match known.map(|member| member.status) {
                    Some(StorageStatus::Active) => {}
                    Some(status) => found.push(format!("{} is {status} at {}", shape.name(i), shape.name(tracker))),
                    None => found.push(format!("{} is not known at {}", shape.name(i), shape.name(tracker))),
                }
            }
        }
    }
    Ok(found)
}

/// Everything that the members of a group do not have in common.
fn differences(fleet: &Fleet, listings: &[Listing]) -> Vec<String> {
    let shape = fleet.shape();
    let mut found = Vec::new();
    for group in 1..=shape.groups {
        let Ok(group) = GroupName::new(&format!("group{group}")) else { continue };
        let members = fleet.members(&group);
        let all: BTreeMap<&String, ()> =
            members.iter().flat_map(|i| listings[*i].keys()).map(|name| (name, ())).collect();
        for name in all.keys() {
            let has = |i: usize| listings[i].get(*name);
            if members.iter().any(|i| has(*i) != has(members[0])) {
                let each: Vec<String> = members
                    .iter()
                    .map(|i| match has(*i) {
                        Some(item) => format!("{}: {} bytes, CRC32 {:08x}", shape.name(*i), item.size, item.crc32),
                        None => format!("{}: none", shape.name(*i)),
                    })
                    .collect();
                found.push(format!("{group}/{name} differs: {}", each.join("; ")));
            }
        }
    }
    if found.len() > 12 {
        let more = found.len() - 12;
        found.truncate(12);
        found.push(format!("and {more} more"));
    }
    found
}

/// The files under the store paths of one storage. Its temporary files begin with a dot.
fn list(store_paths: &[std::path::PathBuf]) -> io::Result<Listing> {
    let mut found = Listing::new();
    for (index, path) in store_paths.iter().enumerate() {
        let data = path.join("data");
        for high in hex_dirs(&data)? {
            for low in hex_dirs(&data.join(&high))? {
                let dir = data.join(&high).join(&low);
                for entry in fs::read_dir(&dir)? {
                    let entry = entry?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if !name.starts_with('.') {
                        found.insert(format!("M{index:02X}/{high}/{low}/{name}"), item(&entry.path(), path)?);
                    }
                }
            }
        }
    }
    Ok(found)
}

fn item(file: &Path, store_path: &Path) -> io::Result<Item> {
    let content = if fs::symlink_metadata(file)?.is_symlink() {
        let target = fs::read_link(file)?;
        let within = target.strip_prefix(store_path).unwrap_or(&target);
        within.to_string_lossy().into_owned().into_bytes()
    } else {
        fs::read(file)?
    };
    Ok(Item { size: content.len() as u64, crc32: crc32fast::hash(&content) })
}

fn hex_dirs(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase()) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Storages that still have a file of this name, though it is gone.
pub fn owners(fleet: &Fleet, listings: &[Listing], id: &fdfs_client::FileId) -> Vec<String> {
    let name = id.name.to_string();
    let members = fleet.members(&id.group).into_iter().filter(|i| listings[*i].contains_key(&name));
    members.map(|i| fleet.shape().name(i)).collect()
}
