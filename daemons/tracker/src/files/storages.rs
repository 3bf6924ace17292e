//! storage_servers_new.dat: the members of the groups, without tombstones.

use std::net::IpAddr;
use std::path::Path;

use fdfs_protocol::datafile::{ServersFile, StorageState};
use fdfs_protocol::names::StorageId;
use fdfs_protocol::peer::PathSpace as Space;
use fdfs_protocol::stat::{RwMode, StorageStatus};

use super::DataError;
use crate::address::Addresses;
use crate::settings::Settings;
use crate::state::group::{Group, MAX_MEMBERS};
use crate::state::identity::id_from;
use crate::state::storage::Storage;

/// The text for the members of these groups, which must be sorted by name. `with_ids` when ids are configured.
pub fn render<'a>(groups: impl Iterator<Item = &'a Group>, with_ids: bool) -> String {
    let state = |g: &Group, m: &Storage| StorageState {
        id: if with_ids { m.id } else { StorageId::NONE },
        group_name: g.name,
        ip_addr: m.addresses.first().to_string(),
        status: m.status,
        version: m.version,
        join_time: m.join_time,
        storage_port: m.port,
        sync_src_server: m.sync_source.unwrap_or_default(),
        sync_until_timestamp: m.sync_until,
        total_mb: m.space.total_mb,
        free_mb: m.space.free_mb,
        changelog_offset: m.changelog_offset,
        store_path_count: m.path_count,
        subdir_count_per_path: m.subdir_count,
        upload_priority: m.upload_priority.clamp(i32::MIN.into(), i32::MAX.into()) as i32,
        stat: m.stat,
    };
    let living = |g: &'a Group| g.members().iter().filter(|m| !m.is_tombstone()).map(move |m| state(g, m));
    ServersFile(groups.flat_map(living).collect()).to_text()
}

/// Reads the text and adds the members to their groups. Whoever was up counts as down now.
///
/// # Errors
/// What is missing, malformed, or does not fit the groups, with file, key and value.
pub fn parse(path: &Path, text: &[u8], settings: &Settings, groups: &mut [Group]) -> Result<(), DataError> {
    for (i, state) in ServersFile::parse(path, text)?.0.iter().enumerate() {
        let refuse =
            |reason| DataError::Content { path: path.into(), reason: format!("[Storage{:03}] {reason}", i + 1) };
        let name = state.group_name;
        let group = groups.iter_mut().find(|g| g.name == name);
        let group =
            group.ok_or_else(|| refuse(format!("group_name = {name}: there is no such group in {}", super::GROUPS)))?;
        let mut storage = identify(state, group, settings).map_err(refuse)?;
        fill(state, &mut storage);
        if group.member(&storage.id).is_some() {
            return Err(refuse(format!("{}: this storage is there twice", storage.id)));
        }
        if !group.has_room() {
            return Err(refuse(format!("group_name = {name}: more than {MAX_MEMBERS} storages")));
        }
        group.add(storage);
    }
    for group in groups.iter_mut() {
        let (name, known) = (group.name, group.members().iter().map(|m| (m.id, m.addresses)).collect::<Vec<_>>());
        let resolve = |id: StorageId| find(&known, id);
        group.trunk_server = group.trunk_server.and_then(resolve);
        for m in group.members_mut() {
            let Some(source) = m.sync_source else { continue };
            m.sync_source = Some(resolve(source).ok_or_else(|| DataError::Content {
                path: path.into(),
                reason: format!("sync_src_server = {source} of {}: there is no such storage in {name}", m.id),
            })?);
        }
    }
    Ok(())
}

/// The id of a member that a file calls by its id, or by its address if the file is from before ids were configured.
pub fn find(members: &[(StorageId, Addresses)], id: StorageId) -> Option<StorageId> {
    let by_id = members.iter().find(|(known, _)| *known == id);
    let by_address = || {
        let ip: IpAddr = id.as_str().parse().ok()?;
        members.iter().find(|(_, addresses)| addresses.contains(ip))
    };
    by_id.or_else(by_address).map(|(known, _)| *known)
}

/// Who it is. With configured ids, addresses and mode are those of the table; a record without an id, from before ids
/// were configured, is found by its address.
fn identify(state: &StorageState, group: &Group, settings: &Settings) -> Result<Storage, String> {
    let first = state.ip_addr.split(',').next().unwrap_or_default();
    let ip: IpAddr = first.parse().map_err(|_| format!("ip_addr = {}: needs an IP address", state.ip_addr))?;
    let port = match state.storage_port {
        0 => u16::try_from(group.port).unwrap_or(0),
        port => port,
    };
    let Some(ids) = &settings.ids else {
        let id = id_from(ip).map_err(|_| format!("ip_addr = {ip}: IPv6 needs use_storage_id = true"))?;
        return Ok(Storage::new(id, Addresses::one(ip), port, RwMode::Both));
    };
    let entry = match state.id.is_none() {
        false => ids.by_id(&state.id),
        true => ids.by_address(&group.name, ip, port),
    };
    let entry = entry.filter(|e| e.group == group.name).ok_or_else(|| {
        format!("id = {}, ip_addr = {ip}: not in the table of storage ids for {}; add it there", state.id, group.name)
    })?;
    Ok(Storage::new(entry.id, entry.addresses, port, entry.rw))
}

fn fill(state: &StorageState, m: &mut Storage) {
    use StorageStatus as S;
    m.status = match state.status {
        S::Init | S::WaitSync | S::Syncing => state.status,
        _ => S::Offline,
    };
    m.version = state.version;
    m.join_time = state.join_time;
    m.sync_source = (!state.sync_src_server.is_none()).then_some(state.sync_src_server);
    m.sync_until = state.sync_until_timestamp;
    m.space = Space { total_mb: state.total_mb, free_mb: state.free_mb };
    m.changelog_offset = state.changelog_offset;
    m.path_count = state.store_path_count;
    m.subdir_count = state.subdir_count_per_path;
    m.upload_priority = state.upload_priority.into();
    m.stat = state.stat;
}
