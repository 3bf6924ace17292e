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

/// The id of a storage without a configured one: its IPv4 address. File names have no room for an IPv6 address, so
/// storages on one need configured ids.
pub(crate) fn id_from(ip: IpAddr) -> Result<StorageId, Status> {
    if ip.is_ipv6() {
        return Err(Status::EINVAL);
    }
    StorageId::from_ip(ip).map_err(|_| Status::EINVAL)
}

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
            None => id_from(at.ip()),
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
        for entry in rest {
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

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn pages_of_the_table() {
        let table: String =
            (0..5000).map(|i| format!("{} group1 10.{}.{}.1\n", 100_000 + i, i / 256, i % 256)).collect();
        let c = cluster(with_ids(&table));
        let (mut start, mut all) = (0, String::new());
        while start < 5000 {
            let (total, count, text) = c.ids_page(start, false).unwrap();
            assert!(total == 5000 && count > 0 && text.len() < IDS_PAGE + 128);
            start += count;
            all.push_str(&text);
        }
        assert_eq!(all.lines().count(), 5000);
        assert_eq!(c.ids_page(5000, false), Err(Status::EINVAL));
        let none = cluster(settings());
        assert_eq!(none.ids_page(0, true), Ok((0, 0, String::new())));
        assert_eq!(none.ids_page(0, false), Err(Status::EOPNOTSUPP));
    }

    #[test]
    fn addresses_and_ids() {
        let group = "group1".parse().unwrap();
        let c = cluster(with_ids("7 group1 10.0.0.1,8.8.8.8"));
        assert_eq!(c.addresses_of(&group, ip("8.8.8.8"), 23000).0, [ip("10.0.0.1"), ip("8.8.8.8")]);
        assert_eq!(c.addresses_of(&group, ip("9.9.9.9"), 23000).0, [ip("9.9.9.9")]);
        assert_eq!(c.group_of(ip("8.8.8.8"), 23000), Ok(group));
        assert_eq!(c.group_of(ip("8.8.8.8"), 23001), Err(Status::ENOENT));
        assert_eq!(c.id_of(&group, "8.8.8.8:23000".parse().unwrap()).unwrap().as_str(), "7");
        assert_eq!(c.id_of(&group, "8.8.8.9:23000".parse().unwrap()), Err(Status::ENOENT));
        let plain = cluster(settings());
        assert_eq!(plain.group_of(ip("8.8.8.8"), 23000), Err(Status::EOPNOTSUPP));
        assert_eq!(plain.id_of(&group, "1.2.3.4:5".parse().unwrap()).unwrap().as_str(), "1.2.3.4");
        assert_eq!(plain.id_of(&group, "[fd77::1]:5".parse().unwrap()), Err(Status::EINVAL));
    }

    #[test]
    fn status_of_a_storage() {
        let mut c = cluster(settings());
        let m = c.bring_up("10.0.0.1");
        let brief = c.status_of(&m.group, "10.0.0.1:23000".parse().unwrap()).unwrap();
        assert_eq!((brief.id, brief.port, brief.status.code()), (m.id, 23000, 7));
        assert_eq!(c.status_of(&m.group, "10.0.0.1:23001".parse().unwrap()), Err(Status::ENOENT));
        assert_eq!(c.status_of(&"g9".parse().unwrap(), "10.0.0.1:23000".parse().unwrap()), Err(Status::ENOENT));
    }
}
