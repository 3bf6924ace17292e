//! What clients ask of a tracker.
//!
//! Requests without a body (101, 106, 91, 95, 64, 75, 111) decode with [`no_body`].

mod admin;
mod cluster;
mod identity;
mod query;

pub use admin::{DeleteStorage, StorageList, StorageQuery, TrunkServerChoice};
pub use cluster::{
    StorageClusterFilter, StorageClusterStat, TrackerClusterFilter, TrackerClusterStat, TrackerStatus, VolumeFilter,
    VolumeStatReport,
};
pub use identity::{
    FetchStorageIds, GroupNameQuery, LeaderAddress, MyIpAddresses, MyIpQuery, ServerQuery, StorageIdsPage,
};
pub use query::{Endpoint, FetchAll, FetchOne, FileQuery, GroupQuery, StoreAll, StoreOne};

use crate::stat::GroupRecord;
use crate::wire::{Encode, WireError, records};

/// Checks the body of a request that has none.
pub fn no_body(body: &[u8]) -> Result<(), WireError> {
    if body.is_empty() { Ok(()) } else { Err(WireError::Length { what: "request without a body", got: body.len() }) }
}

/// Answer of LIST_ONE_GROUP (one record) and LIST_ALL_GROUPS (sorted by name).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupList(
    /// The records.
    pub Vec<GroupRecord>,
);

impl GroupList {
    /// Reads the records.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        records("group list", body, GroupRecord::LEN)?.map(GroupRecord::decode).collect::<Result<_, _>>().map(GroupList)
    }
}

impl Encode for GroupList {
    fn encode<B: bytes::BufMut>(&self, out: &mut B) {
        for record in &self.0 {
            record.encode(out);
        }
    }
}

#[cfg(test)]
mod tests;
