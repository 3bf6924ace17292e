//! storage_groups_new.dat: what the groups have in common.

use std::path::Path;

use fdfs_protocol::datafile::{GroupState, GroupsFile};

use super::DataError;
use crate::state::MAX_GROUPS;
use crate::state::group::Group;

/// The text for these groups, which must be sorted by name.
pub fn render<'a>(groups: impl Iterator<Item = &'a Group>) -> String {
    let state = |g: &Group| GroupState {
        group_name: g.name,
        storage_port: g.port,
        store_path_count: g.path_count,
        subdir_count_per_path: g.subdir_count,
        current_trunk_file_id: g.trunk_file_id,
        trunk_server: g.trunk_server.unwrap_or_default(),
        last_trunk_server: g.last_trunk_server,
    };
    GroupsFile(groups.map(state).collect()).to_text()
}

/// Reads the text.
///
/// # Errors
/// What is missing or malformed, with file, key and value.
pub fn parse(path: &Path, text: &[u8]) -> Result<Vec<Group>, DataError> {
    let states = GroupsFile::parse(path, text)?.0;
    let refuse = |reason| DataError::Content { path: path.into(), reason };
    if states.len() > MAX_GROUPS {
        return Err(refuse(format!("group_count = {}: at most {MAX_GROUPS} groups", states.len())));
    }
    let mut groups: Vec<Group> = Vec::with_capacity(states.len());
    for state in states {
        if groups.iter().any(|g| g.name == state.group_name) {
            return Err(refuse(format!("group_name = {}: this group is there twice", state.group_name)));
        }
        let mut group = Group::new(state.group_name);
        group.port = state.storage_port;
        group.path_count = state.store_path_count;
        group.subdir_count = state.subdir_count_per_path;
        group.trunk_file_id = state.current_trunk_file_id;
        group.trunk_server = (!state.trunk_server.is_none()).then_some(state.trunk_server);
        group.last_trunk_server = state.last_trunk_server;
        groups.push(group);
    }
    Ok(groups)
}
