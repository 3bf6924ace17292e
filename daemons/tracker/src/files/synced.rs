//! storage_sync_timestamp.dat: up to which time each member has applied the changes of each other.
//!
//! One line per member as source: `group,id,time,time,...`, the columns being the members as destinations in the order
//! of the lines. Tombstones have neither line nor column.

use std::fmt::Write;
use std::path::Path;

use fdfs_protocol::datafile::SyncTimestamps;

use crate::directory::StoreServer;
use crate::state::group::Group;

/// The text for these groups, which must be sorted by name.
pub fn render<'a>(groups: impl Iterator<Item = &'a Group>) -> String {
    let mut out = String::new();
    for group in groups {
        let living = || group.members().iter().enumerate().filter(|(_, m)| !m.is_tombstone());
        for (source, m) in living() {
            let times = living().map(|(destination, _)| group.synced_row(source)[destination]).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}", SyncTimestamps { group: group.name, id: m.id, times });
        }
    }
    out
}

/// Reads the text into the groups and computes each member's synced timestamp anew by `rule`.
///
/// The timestamps only decide where reads go, and the storages report them again: lines that do not fit the groups are
/// left out, and returned as warnings.
pub fn parse(path: &Path, text: &str, rule: StoreServer, groups: &mut [Group]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |line: usize, what: String| warnings.push(format!("{}:{line}: {what}, left out", path.display()));
    let mut rows: Vec<(usize, SyncTimestamps)> = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match line.parse::<SyncTimestamps>() {
            Ok(row) if groups.iter().any(|g| g.name == row.group) => rows.push((i + 1, row)),
            Ok(row) => warn(i + 1, format!("there is no group {}", row.group)),
            Err(e) => warn(i + 1, e.to_string()),
        }
    }
    for group in groups.iter_mut() {
        let name = group.name;
        let of_group = || rows.iter().filter(move |(_, row)| row.group == name);
        // The columns are the members in the order of the lines.
        let members: Vec<_> = group.members().iter().map(|m| (m.id, m.addresses)).collect();
        let position = |id| {
            let id = super::storages::find(&members, id)?;
            members.iter().position(|(known, _)| *known == id)
        };
        let order: Vec<Option<usize>> = of_group().map(|(_, row)| position(row.id)).collect();
        for ((line, row), source) in of_group().zip(&order) {
            let Some(source) = *source else {
                warn(*line, format!("{} is not a storage of {name}", row.id));
                continue;
            };
            for (&timestamp, destination) in row.times.iter().zip(&order) {
                if let Some(destination) = *destination {
                    group.restore_synced(source, destination, timestamp);
                }
            }
        }
        if group.members().len() > 1 {
            group.recompute_synced(rule);
        }
    }
    warnings
}
