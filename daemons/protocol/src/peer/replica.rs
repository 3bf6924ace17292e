//! Storage to storage: replication, links, and the list of files for a disk recovery.
//!
//! Commands that carry content decode their head only, as in [`crate::storage`]: read `FIXED_LEN`
//! bytes, then as many name bytes as `names_len` says, then the content.

use bytes::BufMut;

use crate::file_id::RemoteName;
use crate::names::{ExtName, GroupName, Prefix, StorageId};
use crate::wire::{Cursor, Encode, WireError};

/// REPORT_SERVER_ID: who pushes on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportServerId {
    /// The id of the pushing storage.
    pub id: StorageId,
}

impl ReportServerId {
    /// In the status field of the request: no two changes of one file that the sender makes have the same time, but for
    /// appends. An ACTIVE_TEST says it where the sender is not to be counted. FastDFS's storages send 0 there, and do not
    /// read it.
    pub const STRICT_TIMES: u8 = 1;

    /// Reads 16 bytes, which must name somebody.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("server id", body, StorageId::LEN)?;
        let bad = c.bad_length();
        let id = StorageId::decode(c.rest())?;
        if id.is_none() { Err(bad) } else { Ok(ReportServerId { id }) }
    }
}

impl Encode for ReportServerId {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.id.encode(out);
    }
}

/// A name length in a head: 1 to 127, so that it can be read at once.
fn name_len(c: &mut Cursor<'_>) -> Result<usize, WireError> {
    let value = c.i64()?;
    match usize::try_from(value) {
        Ok(len @ 1..=RemoteName::MAX_LEN) => Ok(len),
        _ => Err(WireError::Range { what: "name length", value }),
    }
}

/// Whether the head and `content` bytes are exactly the body.
fn check_body(head: usize, content: u64, body_len: u64) -> Result<(), WireError> {
    if body_len.checked_sub(head as u64) == Some(content) {
        Ok(())
    } else {
        let value = i64::try_from(content).unwrap_or(i64::MAX);
        Err(WireError::Range { what: "content size against the body length", value })
    }
}

/// SYNC_CREATE_FILE and SYNC_UPDATE_FILE. The content follows, unless the status byte of the
/// request header is [`crate::Status::EEXIST`]: then the receiver has the file and only logs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncFileHead {
    /// Size of the file in bytes.
    pub size: u64,
    /// When it was made at its source, unix seconds.
    pub timestamp: u32,
    /// The group.
    pub group: GroupName,
    /// The file.
    pub name: RemoteName,
}

impl SyncFileHead {
    /// In the status field of a SYNC_UPDATE_FILE: the file has a change that the receiver did not take, since it had a later
    /// one, and one of the time of that. An extension, sent only to those that say what was overtaken.
    pub const HAS_BOTH: u8 = 1;

    /// Length of the part before the name.
    pub const FIXED_LEN: usize = 36;

    /// How many bytes of name follow the fixed part.
    pub fn names_len(fixed: &[u8]) -> Result<usize, WireError> {
        name_len(&mut Cursor::new("sync file", fixed))
    }

    /// Reads fixed part and name; `with_content` says whether the content follows.
    pub fn decode(head: &[u8], body_len: u64, with_content: bool) -> Result<Self, WireError> {
        let mut c = Cursor::new("sync file", head);
        let len = name_len(&mut c)?;
        let size = c.size("file size")?;
        check_body(Self::FIXED_LEN + len, if with_content { size } else { 0 }, body_len)?;
        let timestamp = c.u32()?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let name = RemoteName::decode(c.take(len)?)?;
        c.end()?;
        Ok(SyncFileHead { size, timestamp, group, name })
    }
}

impl Encode for SyncFileHead {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.name.as_bytes().len() as u64);
        out.put_u64(self.size);
        out.put_u32(self.timestamp);
        self.group.encode(out);
        out.put_slice(self.name.as_bytes());
    }
}

/// SYNC_DELETE_FILE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncDelete {
    /// When it was removed at its source, unix seconds.
    pub timestamp: u32,
    /// The group.
    pub group: GroupName,
    /// The file.
    pub name: RemoteName,
}

impl SyncDelete {
    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("sync delete", body);
        let timestamp = c.u32()?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        Ok(SyncDelete { timestamp, group, name: RemoteName::decode(c.rest())? })
    }
}

impl Encode for SyncDelete {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.timestamp);
        self.group.encode(out);
        out.put_slice(self.name.as_bytes());
    }
}

/// SYNC_APPEND_FILE and SYNC_MODIFY_FILE; the content follows. SYNC_TRUNCATE_FILE has the same
/// layout with other meanings and no content: see [`SyncTruncate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncRangeHead {
    /// First byte.
    pub offset: u64,
    /// Length of the content in bytes.
    pub len: u64,
    /// When it was changed at its source, unix seconds.
    pub timestamp: u32,
    /// The group.
    pub group: GroupName,
    /// The appender file.
    pub name: RemoteName,
}

impl SyncRangeHead {
    /// Length of the part before the name.
    pub const FIXED_LEN: usize = 44;

    /// How many bytes of name follow the fixed part.
    pub fn names_len(fixed: &[u8]) -> Result<usize, WireError> {
        name_len(&mut Cursor::new("sync range", fixed))
    }

    /// Reads fixed part and name.
    pub fn decode(head: &[u8], body_len: u64) -> Result<Self, WireError> {
        let whole = Self::read(head)?;
        check_body(head.len(), whole.len, body_len)?;
        Ok(whole)
    }

    fn read(head: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("sync range", head);
        let name_len = name_len(&mut c)?;
        let offset = c.size("offset")?;
        let len = c.size("length")?;
        let timestamp = c.u32()?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let name = RemoteName::decode(c.take(name_len)?)?;
        c.end()?;
        Ok(SyncRangeHead { offset, len, timestamp, group, name })
    }
}

impl Encode for SyncRangeHead {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.name.as_bytes().len() as u64);
        out.put_u64(self.offset);
        out.put_u64(self.len);
        out.put_u32(self.timestamp);
        self.group.encode(out);
        out.put_slice(self.name.as_bytes());
    }
}

/// SYNC_TRUNCATE_FILE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncTruncate {
    /// The size before; the receiver applies the change only to a file of this size.
    pub old_size: u64,
    /// The size after.
    pub new_size: u64,
    /// When it was changed at its source, unix seconds.
    pub timestamp: u32,
    /// The group.
    pub group: GroupName,
    /// The appender file.
    pub name: RemoteName,
}

impl SyncTruncate {
    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let SyncRangeHead { offset, len, timestamp, group, name } = SyncRangeHead::read(body)?;
        Ok(SyncTruncate { old_size: offset, new_size: len, timestamp, group, name })
    }
}

impl Encode for SyncTruncate {
    fn encode<B: BufMut>(&self, out: &mut B) {
        let SyncTruncate { old_size, new_size, timestamp, group, name } = *self;
        SyncRangeHead { offset: old_size, len: new_size, timestamp, group, name }.encode(out);
    }
}

/// SYNC_CREATE_LINK: `name` is a link to `other`. SYNC_RENAME_FILE: `name` is the new name of
/// `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncTwoNames {
    /// When it happened at its source, unix seconds.
    pub timestamp: u32,
    /// The group.
    pub group: GroupName,
    /// The name that appears.
    pub name: RemoteName,
    /// The name it comes from.
    pub other: RemoteName,
}

impl SyncTwoNames {
    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("sync of two names", body);
        let (name, other) = (name_len(&mut c)?, name_len(&mut c)?);
        let timestamp = c.u32()?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let name = RemoteName::decode(c.take(name)?)?;
        let other = RemoteName::decode(c.take(other)?)?;
        c.end()?;
        Ok(SyncTwoNames { timestamp, group, name, other })
    }
}

impl Encode for SyncTwoNames {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.name.as_bytes().len() as u64);
        out.put_u64(self.other.as_bytes().len() as u64);
        out.put_u32(self.timestamp);
        self.group.encode(out);
        out.put_slice(self.name.as_bytes());
        out.put_slice(self.other.as_bytes());
    }
}

/// CREATE_LINK: make a link to a file of this storage; the answer is a [`crate::FileId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateLink<'a> {
    /// The group.
    pub group: GroupName,
    /// What the name of a slave link adds to its master's.
    pub prefix: Option<Prefix>,
    /// Extension of the link.
    pub ext: ExtName,
    /// The file the link is named after, if it is to be a slave.
    pub master: Option<RemoteName>,
    /// The file to link to.
    pub source: RemoteName,
    /// The signature of its content, 1 to 63 bytes.
    pub signature: &'a [u8],
}

impl<'a> CreateLink<'a> {
    /// Longest master, source and signature together.
    const MAX_VARIABLE: usize = 256;

    /// Reads the whole body.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("create link", body);
        let bad = c.bad_length();
        let master_len = c.size("master name length")?;
        let source_len = name_len(&mut c)?;
        let signature_len = c.size("signature length")?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let prefix = c.take(Prefix::LEN)?;
        let prefix = if prefix[0] == 0 { None } else { Some(Prefix::decode(prefix)?) };
        let ext = ExtName::decode(c.take(ExtName::LEN)?)?;
        if c.left() > Self::MAX_VARIABLE || !(1..64).contains(&signature_len) {
            return Err(bad);
        }
        let master = match usize::try_from(master_len) {
            Ok(0) => None,
            Ok(len) => Some(RemoteName::decode(c.take(len)?)?),
            Err(_) => return Err(bad),
        };
        let source = RemoteName::decode(c.take(source_len)?)?;
        let signature = c.take(signature_len as usize)?;
        c.end()?;
        Ok(CreateLink { group, prefix, ext, master, source, signature })
    }
}

impl Encode for CreateLink<'_> {
    fn encode<B: BufMut>(&self, out: &mut B) {
        let master = self.master.as_ref().map(RemoteName::as_bytes).unwrap_or_default();
        out.put_u64(master.len() as u64);
        out.put_u64(self.source.as_bytes().len() as u64);
        out.put_u64(self.signature.len() as u64);
        self.group.encode(out);
        match &self.prefix {
            Some(prefix) => prefix.encode(out),
            None => out.put_bytes(0, Prefix::LEN),
        }
        self.ext.encode(out);
        out.put_slice(master);
        out.put_slice(self.source.as_bytes());
        out.put_slice(self.signature);
    }
}

/// FETCH_ONE_PATH_BINLOG: the records of one store path. The answer announces
/// [`FetchPathBinlog::STREAM_LEN`] bytes, then comes the text, then 8 bytes with the length of the
/// text, then the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPathBinlog {
    /// The group.
    pub group: GroupName,
    /// Index of the store path.
    pub store_path: u8,
}

impl FetchPathBinlog {
    /// The body length that stands for "until the connection ends".
    pub const STREAM_LEN: u64 = 1 << 58;
    /// Length of the trailer behind the text.
    pub const TRAILER_LEN: usize = 8;

    /// Reads 17 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("fetch path binlog", body, 17)?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        Ok(FetchPathBinlog { group, store_path: c.u8()? })
    }
}

impl Encode for FetchPathBinlog {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_u8(self.store_path);
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
    fn garbage_behind_the_group_is_ignored() {
        let head = SyncFileHead {
            size: 3,
            timestamp: 7,
            group: "group1".parse().unwrap(),
            name: "M00/00/00/xyz".parse().unwrap(),
        };
        let mut body = bytes(&head);
        body[20 + 7..36].fill(0xbf);
        assert_eq!(SyncFileHead::names_len(&body[..36]), Ok(13));
        assert_eq!(SyncFileHead::decode(&body, 52, true), Ok(head));
        assert_eq!(SyncFileHead::decode(&body, 49, false), Ok(head));
        assert!(SyncFileHead::decode(&body, 49, true).is_err());
        assert!(SyncFileHead::decode(&body[..48], 52, true).is_err());
        assert!(ReportServerId::decode(&[0; 16]).is_err());
    }

    proptest! {
        #[test]
        fn survive(
            tail in "[a-zA-Z0-9_.-]{3,40}", size: u32, timestamp: u32, slave: bool,
            signature in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let name: RemoteName = format!("M00/00/00/{tail}").parse().unwrap();
            let group: GroupName = "group1".parse().unwrap();
            let delete = SyncDelete { timestamp, group, name };
            prop_assert_eq!(SyncDelete::decode(&bytes(&delete)), Ok(delete));
            let range = SyncRangeHead { offset: 5, len: size.into(), timestamp, group, name };
            let head = bytes(&range);
            prop_assert_eq!(SyncRangeHead::names_len(&head), Ok(name.as_bytes().len()));
            let body_len = head.len() as u64 + u64::from(size);
            prop_assert_eq!(SyncRangeHead::decode(&head, body_len), Ok(range));
            let truncate = SyncTruncate { old_size: 5, new_size: 6, timestamp, group, name };
            prop_assert_eq!(SyncTruncate::decode(&bytes(&truncate)), Ok(truncate));
            let rename = SyncTwoNames { timestamp, group, name, other: name };
            prop_assert_eq!(SyncTwoNames::decode(&bytes(&rename)), Ok(rename));
            let link = CreateLink {
                group,
                prefix: slave.then(|| "_x".parse().unwrap()),
                ext: "txt".parse().unwrap(),
                master: slave.then_some(name),
                source: name,
                signature: &signature,
            };
            let body = bytes(&link);
            prop_assert_eq!(CreateLink::decode(&body), Ok(link));
            let fetch = FetchPathBinlog { group, store_path: 1 };
            prop_assert_eq!(FetchPathBinlog::decode(&bytes(&fetch)), Ok(fetch));
        }

        #[test]
        fn any_bytes(mut body in proptest::collection::vec(any::<u8>(), 0..300), body_len: u64) {
            for _ in 0..2 {
                let _ = ReportServerId::decode(&body[..body.len().min(16)]);
                let _ = SyncFileHead::decode(&body, body_len, true);
                let _ = SyncFileHead::names_len(&body);
                let _ = SyncDelete::decode(&body);
                let _ = SyncRangeHead::decode(&body, body_len);
                let _ = SyncTruncate::decode(&body);
                let _ = SyncTwoNames::decode(&body);
                let _ = CreateLink::decode(&body);
                let _ = FetchPathBinlog::decode(&body);
                // Once more with lengths that could be true.
                for at in [0, 8, 16] {
                    if let Some(high) = body.get_mut(at..at + 7) {
                        high.fill(0);
                    }
                }
            }
        }
    }
}
