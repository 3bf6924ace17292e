//! Storage to trunk server: slots in trunk files.
//!
//! TRUNK_SYNC_BINLOG carries lines of [`crate::datafile::TrunkRecord`]; TRUNK_GET_BINLOG_SIZE is
//! answered with a [`BinlogSize`]; the other trunk commands carry nothing.

use bytes::BufMut;

use crate::names::GroupName;
use crate::wire::{Cursor, Encode, WireError};

/// A slot of a trunk file, 15 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotInfo {
    /// Index of the store path.
    pub store_path: u8,
    /// The two directories of the trunk file.
    pub directories: (u8, u8),
    /// Number of the trunk file.
    pub file: u32,
    /// Offset of the slot in bytes.
    pub offset: u32,
    /// Size of the slot in bytes, header included.
    pub size: u32,
}

impl SlotInfo {
    /// Length in bytes.
    pub const LEN: usize = 15;

    /// Reads 15 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("trunk slot", body, Self::LEN)?;
        Ok(SlotInfo {
            store_path: c.u8()?,
            directories: (c.u8()?, c.u8()?),
            file: c.count("trunk file id")?,
            offset: c.count("slot offset")?,
            size: c.count("slot size")?,
        })
    }
}

impl Encode for SlotInfo {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.store_path);
        out.put_u8(self.directories.0);
        out.put_u8(self.directories.1);
        out.put_u32(self.file);
        out.put_u32(self.offset);
        out.put_u32(self.size);
    }
}

/// TRUNK_ALLOC_SPACE; answered with a [`SlotInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocSpace {
    /// The group.
    pub group: GroupName,
    /// Bytes needed, slot header included.
    pub size: u32,
    /// Index of the store path.
    pub store_path: u8,
}

impl AllocSpace {
    /// Reads 21 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("trunk alloc", body, 21)?;
        let group = GroupName::decode(c.take(16)?)?;
        Ok(AllocSpace { group, size: c.count("slot size")?, store_path: c.u8()? })
    }
}

impl Encode for AllocSpace {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_u32(self.size);
        out.put_u8(self.store_path);
    }
}

/// TRUNK_ALLOC_CONFIRM (whose header carries the status of the upload) and TRUNK_FREE_SPACE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRequest {
    /// The group.
    pub group: GroupName,
    /// The slot.
    pub slot: SlotInfo,
}

impl SlotRequest {
    /// Reads 31 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("trunk slot request", body, 16 + SlotInfo::LEN)?;
        Ok(SlotRequest { group: GroupName::decode(c.take(16)?)?, slot: SlotInfo::decode(c.rest())? })
    }
}

impl Encode for SlotRequest {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        self.slot.encode(out);
    }
}

/// Answer of TRUNK_GET_BINLOG_SIZE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BinlogSize(
    /// Size of the trunk binlog in bytes.
    pub u64,
);

impl BinlogSize {
    /// Reads 8 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        Cursor::exact("trunk binlog size", body, 8)?.size("trunk binlog size").map(BinlogSize)
    }
}

impl Encode for BinlogSize {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes(body: [u8; 31]) {
            if let Ok(slot) = SlotInfo::decode(&body[..15]) {
                let mut out = Vec::new();
                slot.encode(&mut out);
                prop_assert_eq!(&out, &body[..15]);
                let group = "group1".parse().unwrap();
                let request = SlotRequest { group, slot };
                out.clear();
                request.encode(&mut out);
                prop_assert_eq!(SlotRequest::decode(&out), Ok(request));
                let alloc = AllocSpace { group, size: slot.size, store_path: slot.store_path };
                out.clear();
                alloc.encode(&mut out);
                prop_assert_eq!(AllocSpace::decode(&out), Ok(alloc));
            }
            let _ = SlotRequest::decode(&body);
            let _ = AllocSpace::decode(&body[..21]);
            let _ = BinlogSize::decode(&body[..8]);
        }
    }
}
