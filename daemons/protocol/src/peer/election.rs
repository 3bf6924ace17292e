//! Tracker to tracker: leader election, the leader's trunk server table, copying of system files.
//!
//! TRACKER_GET_STATUS is [`crate::tracker::TrackerStatus`]; NOTIFY_ and COMMIT_NEXT_LEADER carry
//! a [`crate::tracker::LeaderAddress`]; RESELECT, GET_SYS_FILES_START and _END carry nothing.

use bytes::BufMut;

use super::member::GroupMember;
use crate::names::Version;
use crate::stat::Connections;
use crate::wire::{Cursor, Encode, WireError, records};

/// TRACKER_JOIN_LEADER: a follower introduces itself, before its first ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinLeader {
    /// When it started, unix seconds.
    pub up_time: i64,
    /// Its version.
    pub version: Version,
    /// Its port.
    pub port: u16,
}

impl JoinLeader {
    /// Reads 24 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("join leader", body, 24)?;
        Ok(JoinLeader { up_time: c.i64()?, version: Version::decode(c.take(8)?)?, port: c.port64()? })
    }
}

impl Encode for JoinLeader {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_i64(self.up_time);
        self.version.encode(out);
        out.put_i64(self.port.into());
    }
}

/// TRACKER_PING_LEADER: a follower says that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingLeader {
    /// Its connections.
    pub connections: Connections,
}

impl PingLeader {
    /// Reads 12 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("ping", body, 12)?;
        Ok(PingLeader { connections: Connections::decode(&mut c)? })
    }
}

impl Encode for PingLeader {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.connections.encode(out);
    }
}

/// Answer of TRACKER_PING_LEADER: the trunk servers of all groups, or nothing when none changed
/// since the last ping.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrunkServerTable(
    /// Every group, by name, with its trunk server or none.
    pub Vec<GroupMember>,
);

impl TrunkServerTable {
    /// Reads 32 bytes for each group.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        records("trunk server table", body, GroupMember::LEN)?
            .map(GroupMember::decode)
            .collect::<Result<_, _>>()
            .map(TrunkServerTable)
    }
}

impl Encode for TrunkServerTable {
    fn encode<B: BufMut>(&self, out: &mut B) {
        for member in &self.0 {
            member.encode(out);
        }
    }
}

/// The files that a tracker copies from another one, by their number in TRACKER_GET_ONE_SYS_FILE.
pub const SYSTEM_FILES: [&str; 4] =
    ["storage_groups_new.dat", "storage_servers_new.dat", "storage_sync_timestamp.dat", "storage_changelog.dat"];

/// TRACKER_GET_ONE_SYS_FILE: a piece of a system file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetSystemFile {
    /// Index into [`SYSTEM_FILES`].
    pub index: u8,
    /// Where the piece begins.
    pub offset: u64,
}

impl GetSystemFile {
    /// Reads 9 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("system file query", body, 9)?;
        let index = c.u8()?;
        if usize::from(index) >= SYSTEM_FILES.len() {
            return Err(WireError::Range { what: "system file", value: index.into() });
        }
        Ok(GetSystemFile { index, offset: c.size("offset")? })
    }
}

impl Encode for GetSystemFile {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.index);
        out.put_u64(self.offset);
    }
}

/// Answer of TRACKER_GET_ONE_SYS_FILE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemFilePiece<'a> {
    /// Size of the whole file.
    pub file_size: u64,
    /// The piece, from the offset that was asked for.
    pub data: &'a [u8],
}

impl<'a> SystemFilePiece<'a> {
    /// Most bytes in one piece.
    pub const MAX_DATA: usize = 8 * 1024 - 19;

    /// Reads the size and the piece.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("system file", body);
        Ok(SystemFilePiece { file_size: c.size("file size")?, data: c.rest() })
    }
}

impl Encode for SystemFilePiece<'_> {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.file_size);
        out.put_slice(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes<M: Encode>(message: &M) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    #[test]
    fn unknown_system_files() {
        assert!(GetSystemFile::decode(&[4, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        let query = GetSystemFile { index: 3, offset: 31 };
        assert_eq!(GetSystemFile::decode(&bytes(&query)), Ok(query));
    }

    proptest! {
        #[test]
        fn survive(up_time: i64, port: u16, data in proptest::collection::vec(any::<u8>(), 0..50)) {
            let join = JoinLeader { up_time, version: "6.16.1".parse().unwrap(), port };
            prop_assert_eq!(JoinLeader::decode(&bytes(&join)), Ok(join));
            let ping = PingLeader { connections: Connections { alloc: 1, current: 2, max: 3 } };
            prop_assert_eq!(PingLeader::decode(&bytes(&ping)), Ok(ping));
            let piece = SystemFilePiece { file_size: 9, data: &data };
            let body = bytes(&piece);
            prop_assert_eq!(SystemFilePiece::decode(&body), Ok(piece));
            let table = TrunkServerTable(vec![
                GroupMember { group: "g".parse().unwrap(), id: "1".parse().unwrap() }; 2]);
            prop_assert_eq!(TrunkServerTable::decode(&bytes(&table)), Ok(table));
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = JoinLeader::decode(&body);
            let _ = PingLeader::decode(&body);
            let _ = TrunkServerTable::decode(&body);
            let _ = GetSystemFile::decode(&body);
            let _ = SystemFilePiece::decode(&body);
        }
    }
}
