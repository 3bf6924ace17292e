//! Who is who: ids, addresses, group names.

use std::net::{IpAddr, SocketAddr};

use fdfs_protocol::Status;
use fdfs_protocol::names::{GroupName, IpText, StorageId};
use fdfs_protocol::peer::Brief;
use fdfs_protocol::stat::RwMode;
use fdfs_protocol::tracker::MyIpAddresses;

use super::Cluster;
use super::storage::Storage;
use crate::address::Addresses;
use crate::storage_ids::{Entry, IdTable};

/// Longest text of one answer to FETCH_STORAGE_IDS; a client asks again from where it ended.
const IDS_PAGE: usize = 60 * 1024;

impl Cluster {
    fn ids(&self) -> Result<&IdTable, Status> {
        self.settings.ids.as_ref().ok_or(Status::EOPNOTSUPP)
    }

    /// A new record for a storage: with configured ids its addresses and mode come from the table.
    ///
    /// # Errors
    /// `ENOENT`: the table does not have the id. `EINVAL`: the id belongs to another group.
    pub(super) fn identify(&self, group: &GroupName, id: &StorageId, ip: IpAddr, port: u16) -> Result<Storage, Status> {
        let Some(ids) = &self.settings.ids else {
            return Ok(Storage::new(*id, Addresses::one(ip), port, RwMode::Both));
        };
        let entry = ids.by_id(id).ok_or(Status::ENOENT)?;
        if entry.group != *group {
            return Err(Status::EINVAL);
        }
        Ok(Storage::new(*id, entry.addresses, port, entry.rw))
    }

    /// GET_MY_IP: the addresses of whoever asks.
    pub fn addresses_of(&self, group: &GroupName, peer: IpAddr, port: u16) -> MyIpAddresses {
        let ids = self.settings.ids.as_ref();
        let entry = ids.and_then(|ids| ids.by_address(group, peer, port));
        MyIpAddresses(entry.map_or_else(|| vec![peer], |e| e.addresses.iter().collect()))
    }

    /// GET_GROUP_NAME: the group of the storage at an address.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: there is no table of ids. `ENOENT`: the table does not have the address.
    pub fn group_of(&self, ip: IpAddr, port: u16) -> Result<GroupName, Status> {
        self.ids()?.by_endpoint(ip, port).map(|e| e.group).ok_or(Status::ENOENT)
    }

    /// GET_SERVER_ID: the id of the storage at an address; without configured ids the address itself, known or not.
    ///
    /// # Errors
    /// `ENOENT`: the table does not have the address. `EINVAL`: an IPv6 address without configured ids.
    pub fn id_of(&self, group: &GroupName, at: SocketAddr) -> Result<StorageId, Status> {
        match &self.settings.ids {
            Some(ids) => ids.by_address(group, at.ip(), at.port()).map(|e| e.id).ok_or(Status::ENOENT),
            None => StorageId::from_ip(at.ip()).map_err(|_| Status::EINVAL),
        }
    }

    /// STORAGE_GET_STATUS: how the storage at an address stands.
    ///
    /// # Errors
    /// `ENOENT`: no such group or storage.
    pub fn status_of(&self, group: &GroupName, at: SocketAddr) -> Result<Brief, Status> {
        let group = self.group(group)?;
        let by_address = |m: &&Storage| m.port == at.port() && m.addresses.contains(at.ip());
        let storage = group.members().iter().find(by_address).ok_or(Status::ENOENT)?;
        Ok(Brief { ip: IpText::from(storage.addresses.first()), ..storage.brief(at.ip()) })
    }

    /// FETCH_STORAGE_IDS: total number of lines, lines in the text, and the text, from line `start` on.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: there is no table, and an empty one is not wanted. `EINVAL`: the table ends before `start`.
    pub fn ids_page(&self, start: usize, allow_empty: bool) -> Result<(usize, usize, String), Status> {
        let entries: &[Entry] = match self.ids() {
            Ok(ids) => ids.entries(),
            Err(_) if allow_empty => return Ok((0, 0, String::new())),
            Err(e) => return Err(e),
        };
        let rest = entries.get(start..).filter(|r| !r.is_empty()).ok_or(Status::EINVAL)?;
        let (mut text, mut count) = (String::new(), 0);
        for entry in rest.iter().take_while(|_| true) {
            if text.len() > IDS_PAGE {
                break;
            }
            text.push_str(&entry.to_string());
            text.push('\n');
            count += 1;
        }
        Ok((entries.len(), count, text))
    }
}
