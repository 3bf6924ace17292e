//! The storages of a group, and their administration.

use bytes::BufMut;

use crate::names::{GroupName, IpSize, StorageId};
use crate::stat::StorageRecord;
use crate::wire::{Cursor, Encode, WireError};

/// Request of LIST_STORAGE and SET_TRUNK_SERVER: a group and perhaps one storage of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageQuery {
    /// The group.
    pub group: GroupName,
    /// The storage, or [`StorageId::NONE`].
    pub id: StorageId,
}

impl StorageQuery {
    /// Reads a group and 0 to 15 bytes of id.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (group, id) = group_and_id(body)?;
        Ok(StorageQuery { group: GroupName::decode_known(group)?, id: StorageId::decode(id)? })
    }
}

impl Encode for StorageQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_slice(self.id.as_bytes());
    }
}

/// Request of DELETE_STORAGE: the id is mandatory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteStorage {
    /// The group.
    pub group: GroupName,
    /// The storage.
    pub id: StorageId,
}

impl DeleteStorage {
    /// Reads a group and 1 to 15 bytes of id.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (group, id) = group_and_id(body)?;
        let id = StorageId::decode(id)?;
        if id.is_none() {
            return Err(WireError::Length { what: "delete storage", got: body.len() });
        }
        Ok(DeleteStorage { group: GroupName::decode_known(group)?, id })
    }
}

impl Encode for DeleteStorage {
    fn encode<B: BufMut>(&self, out: &mut B) {
        StorageQuery { group: self.group, id: self.id }.encode(out);
    }
}

fn group_and_id(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let mut c = Cursor::new("group and storage", body);
    let group = c.take(GroupName::LEN)?;
    if c.left() >= StorageId::LEN {
        return Err(c.bad_length());
    }
    Ok((group, c.rest()))
}

/// Answer of LIST_STORAGE, sorted by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageList(
    /// The records.
    pub Vec<StorageRecord>,
);

impl StorageList {
    /// Reads either size; the smaller is tried first, as FastDFS clients do.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let size = [IpSize::V4, IpSize::V6]
            .into_iter()
            .find(|&size| body.len().is_multiple_of(StorageRecord::len(size)))
            .ok_or(WireError::Length { what: "storage list", got: body.len() })?;
        body.chunks_exact(StorageRecord::len(size))
            .map(|record| StorageRecord::decode(record, size))
            .collect::<Result<_, _>>()
            .map(StorageList)
    }

    /// Writes the records.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        for record in &self.0 {
            record.encode(size, out);
        }
    }
}

/// Answer of SET_TRUNK_SERVER: the id of the trunk server, with a zero byte behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrunkServerChoice {
    /// The trunk server.
    pub id: StorageId,
}

impl TrunkServerChoice {
    /// Reads the id.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        Ok(TrunkServerChoice { id: StorageId::decode(body)? })
    }
}

impl Encode for TrunkServerChoice {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.id.as_bytes());
        out.put_u8(0);
    }
}
