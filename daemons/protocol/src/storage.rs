//! What clients ask of a storage.
//!
//! Commands that carry file content decode their head only: the caller reads `FIXED_LEN` bytes,
//! then as many name bytes as `name_len` says, then streams the content. `body_len` is the length
//! from the frame header, against which every head is checked.
//!
//! Whether the group is the storage's own, whether it has the store path, and whether the file
//! exists is for the storage to check.

use bytes::BufMut;

use crate::file_id::RemoteName;
use crate::names::{ExtName, GroupName, IpSize, IpText, Prefix};
use crate::wire::{Cursor, Encode, WireError};

/// The store path index with which a client leaves the choice to the storage.
pub const ANY_STORE_PATH: u8 = 255;

/// The shortest name of an appender file.
const MIN_APPENDER_NAME: usize = RemoteName::NORMAL_LEN;

/// Head of UPLOAD_FILE and UPLOAD_APPENDER_FILE; the content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadHead {
    /// Where to store; `None` leaves it to the storage.
    pub store_path: Option<u8>,
    /// Length of the content in bytes.
    pub size: u64,
    /// Extension of the new name.
    pub ext: ExtName,
}

impl UploadHead {
    /// Length of the head in bytes.
    pub const FIXED_LEN: usize = 15;

    /// Reads 15 bytes; the content must be exactly the rest of the body.
    pub fn decode(fixed: &[u8], body_len: u64) -> Result<Self, WireError> {
        let mut c = Cursor::exact("upload", fixed, Self::FIXED_LEN)?;
        let store_path = c.u8()?;
        let size = c.size("file size")?;
        check_content(size, Self::FIXED_LEN, body_len)?;
        Ok(UploadHead {
            store_path: (store_path != ANY_STORE_PATH).then_some(store_path),
            size,
            ext: ExtName::decode(c.rest())?,
        })
    }
}

impl Encode for UploadHead {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.store_path.unwrap_or(ANY_STORE_PATH));
        out.put_u64(self.size);
        self.ext.encode(out);
    }
}

/// The content announced in a head must be exactly what the body has left.
fn check_content(size: u64, head: usize, body_len: u64) -> Result<(), WireError> {
    if body_len.checked_sub(head as u64) == Some(size) {
        Ok(())
    } else {
        let value = i64::try_from(size).unwrap_or(i64::MAX);
        Err(WireError::Range { what: "content size against the body length", value })
    }
}

/// A name length in the fixed part of a head, within `min..=127` and within the body.
fn name_len(fixed: &[u8], min: usize, head: usize, body_len: u64) -> Result<usize, WireError> {
    let value = Cursor::new("name length", fixed).i64()?;
    let bad = WireError::Range { what: "name length", value };
    let len = usize::try_from(value).map_err(|_| bad)?;
    let fits = (min..=RemoteName::MAX_LEN).contains(&len) && (head + len) as u64 <= body_len;
    if fits { Ok(len) } else { Err(bad) }
}

macro_rules! head_with_name {
    ($name:ident, $fixed:literal, $min:expr) => {
        impl $name {
            /// Length of the part before the name.
            pub const FIXED_LEN: usize = $fixed;

            /// How many bytes of name follow the fixed part.
            pub fn name_len(fixed: &[u8], body_len: u64) -> Result<usize, WireError> {
                name_len(fixed, $min, Self::FIXED_LEN, body_len)
            }
        }
    };
}

/// Head of UPLOAD_SLAVE_FILE; the content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadSlaveHead {
    /// Length of the content in bytes.
    pub size: u64,
    /// What the slave's name adds.
    pub prefix: Prefix,
    /// Extension of the new name; empty for none.
    pub ext: ExtName,
    /// The file the slave is named after.
    pub master: RemoteName,
}

head_with_name!(UploadSlaveHead, 38, RemoteName::MIN_LEN);

impl UploadSlaveHead {
    /// Reads fixed part and name.
    pub fn decode(head: &[u8], body_len: u64) -> Result<Self, WireError> {
        let len = Self::name_len(head, body_len)?;
        let mut c = Cursor::exact("slave upload", head, Self::FIXED_LEN + len)?;
        c.i64()?;
        let size = c.size("file size")?;
        check_content(size, Self::FIXED_LEN + len, body_len)?;
        Ok(UploadSlaveHead {
            size,
            prefix: Prefix::decode(c.take(Prefix::LEN)?)?,
            ext: ExtName::decode(c.take(ExtName::LEN)?)?,
            master: RemoteName::decode(c.rest())?,
        })
    }
}

impl Encode for UploadSlaveHead {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.master.as_bytes().len() as u64);
        out.put_u64(self.size);
        self.prefix.encode(out);
        self.ext.encode(out);
        out.put_slice(self.master.as_bytes());
    }
}

/// Head of APPEND_FILE; the content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendHead {
    /// Length of the content in bytes.
    pub size: u64,
    /// The appender file.
    pub name: RemoteName,
}

head_with_name!(AppendHead, 16, MIN_APPENDER_NAME);

impl AppendHead {
    /// Reads fixed part and name.
    pub fn decode(head: &[u8], body_len: u64) -> Result<Self, WireError> {
        let len = Self::name_len(head, body_len)?;
        let mut c = Cursor::exact("append", head, Self::FIXED_LEN + len)?;
        c.i64()?;
        let size = c.size("content size")?;
        check_content(size, Self::FIXED_LEN + len, body_len)?;
        Ok(AppendHead { size, name: RemoteName::decode(c.rest())? })
    }
}

impl Encode for AppendHead {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.name.as_bytes().len() as u64);
        out.put_u64(self.size);
        out.put_slice(self.name.as_bytes());
    }
}

/// Head of MODIFY_FILE; the content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModifyHead {
    /// Where to write; at most the size of the file.
    pub offset: u64,
    /// Length of the content in bytes.
    pub size: u64,
    /// The appender file.
    pub name: RemoteName,
}

head_with_name!(ModifyHead, 24, MIN_APPENDER_NAME);

impl ModifyHead {
    /// Reads fixed part and name.
    pub fn decode(head: &[u8], body_len: u64) -> Result<Self, WireError> {
        let len = Self::name_len(head, body_len)?;
        let mut c = Cursor::exact("modify", head, Self::FIXED_LEN + len)?;
        c.i64()?;
        let offset = c.size("offset")?;
        let size = c.size("content size")?;
        check_content(size, Self::FIXED_LEN + len, body_len)?;
        Ok(ModifyHead { offset, size, name: RemoteName::decode(c.rest())? })
    }
}

impl Encode for ModifyHead {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.name.as_bytes().len() as u64);
        out.put_u64(self.offset);
        out.put_u64(self.size);
        out.put_slice(self.name.as_bytes());
    }
}

/// TRUNCATE_FILE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate {
    /// The new size; a larger one extends the file with zero bytes.
    pub size: u64,
    /// The appender file.
    pub name: RemoteName,
}

head_with_name!(Truncate, 16, MIN_APPENDER_NAME);

impl Truncate {
    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let len = Self::name_len(body, body.len() as u64)?;
        let mut c = Cursor::exact("truncate", body, Self::FIXED_LEN + len)?;
        c.i64()?;
        Ok(Truncate { size: c.size("new size")?, name: RemoteName::decode(c.rest())? })
    }
}

impl Encode for Truncate {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.name.as_bytes().len() as u64);
        out.put_u64(self.size);
        out.put_slice(self.name.as_bytes());
    }
}

/// REGENERATE_APPENDER_FILENAME: the whole body is the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regenerate {
    /// The appender file that becomes a normal one.
    pub name: RemoteName,
}

impl Regenerate {
    /// Reads 44 to 127 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        if body.len() < MIN_APPENDER_NAME {
            return Err(WireError::Length { what: "appender name", got: body.len() });
        }
        Ok(Regenerate { name: RemoteName::decode(body)? })
    }
}

impl Encode for Regenerate {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.name.as_bytes());
    }
}

/// Requests that are a group and a name: DELETE_FILE, GET_METADATA, QUERY_FILE_INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRequest {
    /// The group.
    pub group: GroupName,
    /// The file.
    pub name: RemoteName,
}

impl FileRequest {
    /// Longest body.
    pub const MAX_LEN: usize = GroupName::LEN + RemoteName::MAX_LEN;

    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("file request", body);
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        Ok(FileRequest { group, name: RemoteName::decode(c.rest())? })
    }
}

impl Encode for FileRequest {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_slice(self.name.as_bytes());
    }
}

/// DOWNLOAD_FILE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// The first byte wanted.
    pub offset: u64,
    /// How many bytes at most; 0 for all to the end.
    pub len: u64,
    /// The group.
    pub group: GroupName,
    /// The file.
    pub name: RemoteName,
}

impl Download {
    /// Longest body.
    pub const MAX_LEN: usize = 16 + FileRequest::MAX_LEN;

    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("download", body);
        let offset = c.size("offset")?;
        let len = c.size("length")?;
        let FileRequest { group, name } = FileRequest::decode(c.rest())?;
        Ok(Download { offset, len, group, name })
    }
}

impl Encode for Download {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.offset);
        out.put_u64(self.len);
        FileRequest { group: self.group, name: self.name }.encode(out);
    }
}

/// What SET_METADATA does with what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetadataMode {
    /// Replaces it.
    Overwrite,
    /// Adds to it, replacing items of the same name.
    Merge,
}

impl MetadataMode {
    const fn code(self) -> u8 {
        match self {
            MetadataMode::Overwrite => b'O',
            MetadataMode::Merge => b'M',
        }
    }
}

/// SET_METADATA. The metadata is packed text, read with [`crate::metadata`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetMetadata<'a> {
    /// What to do with what is there.
    pub mode: MetadataMode,
    /// The group.
    pub group: GroupName,
    /// The file.
    pub name: RemoteName,
    /// The metadata as it stands in the request.
    pub metadata: &'a [u8],
}

impl<'a> SetMetadata<'a> {
    /// Length of the part before the name.
    pub const FIXED_LEN: usize = 33;

    /// Reads the whole body.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let len = name_len(body, 1, Self::FIXED_LEN, body.len() as u64)?;
        let mut c = Cursor::new("set metadata", body);
        c.i64()?;
        let metadata_len = c.size("metadata length")?;
        check_content(metadata_len, Self::FIXED_LEN + len, body.len() as u64)?;
        let mode = match c.u8()? {
            b'O' => MetadataMode::Overwrite,
            b'M' => MetadataMode::Merge,
            other => return Err(WireError::Range { what: "metadata mode", value: other.into() }),
        };
        Ok(SetMetadata {
            mode,
            group: GroupName::decode(c.take(GroupName::LEN)?)?,
            name: RemoteName::decode(c.take(len)?)?,
            metadata: c.rest(),
        })
    }
}

impl Encode for SetMetadata<'_> {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u64(self.name.as_bytes().len() as u64);
        out.put_u64(self.metadata.len() as u64);
        out.put_u8(self.mode.code());
        self.group.encode(out);
        out.put_slice(self.name.as_bytes());
        out.put_slice(self.metadata);
    }
}

/// The flags of QUERY_FILE_INFO, in the status byte of its request header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileInfoFlags {
    /// Do not compute the checksum of a file whose name does not tell it.
    pub no_crc: bool,
    /// Do not log a file that is not there.
    pub silent: bool,
}

impl FileInfoFlags {
    /// Reads the status byte.
    pub fn from_byte(byte: u8) -> Self {
        FileInfoFlags { no_crc: byte & 1 != 0, silent: byte & 2 != 0 }
    }

    /// The status byte.
    pub fn to_byte(self) -> u8 {
        u8::from(self.no_crc) | u8::from(self.silent) << 1
    }
}

/// Answer of QUERY_FILE_INFO, 40 or 70 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// Size in bytes.
    pub size: u64,
    /// Modification time, unix seconds.
    pub mtime: i64,
    /// CRC-32 of the content; 0 if it was not to be computed.
    pub crc32: u32,
    /// The storage the file was uploaded to, or none if its id is not known.
    pub source: IpText,
}

impl FileInfo {
    /// Shortest name QUERY_FILE_INFO answers for.
    pub const MIN_NAME: usize = 37;

    /// Reads either size.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("file info", body);
        let size =
            [IpSize::V4, IpSize::V6].into_iter().find(|size| body.len() == 24 + size.field()).ok_or(c.bad_length())?;
        Ok(FileInfo {
            size: c.size("file size")?,
            mtime: c.i64()?,
            // Sent sign-extended to 64 bits; some servers may not, so the high half is ignored.
            crc32: c.u64()? as u32,
            source: IpText::decode(c.take(size.field())?)?,
        })
    }

    /// Writes the answer.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        out.put_u64(self.size);
        out.put_i64(self.mtime);
        out.put_i64(i64::from(self.crc32 as i32));
        self.source.encode(size.field(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const APPENDER: &str = "M00/00/00/Ck0AAWsA64KEMzq0AAAAAA4Qul0837.log";

    fn bytes<M: Encode>(message: &M) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    #[test]
    fn uploads_must_fill_their_body() {
        let head = UploadHead { store_path: None, size: 14, ext: "txt".parse().unwrap() };
        let fixed = bytes(&head);
        assert_eq!(fixed.len(), UploadHead::FIXED_LEN);
        assert_eq!(UploadHead::decode(&fixed, 29), Ok(head));
        assert!(UploadHead::decode(&fixed, 28).is_err());
        assert!(UploadHead::decode(&fixed, 30).is_err());
        assert!(UploadHead::decode(&fixed, 3).is_err());
        assert!(UploadHead::decode(&fixed[..14], 29).is_err());
        let path = UploadHead { store_path: Some(254), ..head };
        assert_eq!(UploadHead::decode(&bytes(&path), 29), Ok(path));
    }

    #[test]
    fn heads_with_names() {
        let name: RemoteName = APPENDER.parse().unwrap();
        let append = AppendHead { size: 5, name };
        let head = bytes(&append);
        assert_eq!(AppendHead::name_len(&head[..16], 65), Ok(44));
        assert_eq!(AppendHead::decode(&head, 65), Ok(append));
        assert!(AppendHead::decode(&head, 64).is_err());
        assert!(AppendHead::name_len(&head[..16], 59).is_err());
        assert!(AppendHead::name_len(&head[..7], 65).is_err());
        let modify = ModifyHead { offset: 2, size: 3, name };
        assert_eq!(ModifyHead::decode(&bytes(&modify), 24 + 44 + 3), Ok(modify));
        let truncate = Truncate { size: 10, name };
        assert_eq!(Truncate::decode(&bytes(&truncate)), Ok(truncate));
        assert!(Truncate::decode(&bytes(&truncate)[..59]).is_err());
        let again = Regenerate { name };
        assert_eq!(Regenerate::decode(&bytes(&again)), Ok(again));
        assert!(Regenerate::decode(&APPENDER.as_bytes()[..43]).is_err());
    }

    #[test]
    fn huge_lengths_do_not_overflow() {
        let mut head = vec![0xff; 40];
        head[0] = 0x7f;
        assert!(UploadSlaveHead::name_len(&head, u64::MAX).is_err());
        head[..8].copy_from_slice(&44u64.to_be_bytes());
        head.resize(38 + 44, b'x');
        head[8] = 0x7f;
        assert!(UploadSlaveHead::decode(&head, u64::MAX).is_err());
    }

    #[test]
    fn checksums_are_sign_extended() {
        let info = FileInfo { size: 1, mtime: 2, crc32: 0xbf2a_0bc8, source: "10.0.0.1".parse().unwrap() };
        for size in [IpSize::V4, IpSize::V6] {
            let mut out = Vec::new();
            info.encode(size, &mut out);
            assert_eq!(out[16..24], [0xff, 0xff, 0xff, 0xff, 0xbf, 0x2a, 0x0b, 0xc8]);
            assert_eq!(FileInfo::decode(&out), Ok(info));
        }
        assert!(FileInfo::decode(&[0; 41]).is_err());
    }

    #[test]
    fn flags() {
        for byte in 0..4 {
            assert_eq!(FileInfoFlags::from_byte(byte).to_byte(), byte);
        }
    }

    proptest! {
        #[test]
        fn requests_survive(
            size: u32, offset: u32, prefix in "[a-z_.-]{1,16}", ext in "[a-z.]{0,6}",
            metadata in proptest::collection::vec(any::<u8>(), 0..50), merge: bool,
            tail in "[A-Za-z0-9._-]{34,80}",
        ) {
            let name: RemoteName = format!("M01/0A/FF/{tail}").parse().unwrap();
            let (size, offset) = (size.into(), offset.into());
            let slave = UploadSlaveHead {
                size, prefix: prefix.parse().unwrap(), ext: ext.parse().unwrap(), master: name,
            };
            let head = bytes(&slave);
            let body_len = head.len() as u64 + size;
            prop_assert_eq!(UploadSlaveHead::name_len(&head[..38], body_len), Ok(name.as_bytes().len()));
            prop_assert_eq!(UploadSlaveHead::decode(&head, body_len), Ok(slave));
            let group = "group1".parse().unwrap();
            let download = Download { offset, len: size, group, name };
            prop_assert_eq!(Download::decode(&bytes(&download)), Ok(download));
            let mode = if merge { MetadataMode::Merge } else { MetadataMode::Overwrite };
            let set = SetMetadata { mode, group, name, metadata: &metadata };
            let body = bytes(&set);
            prop_assert_eq!(SetMetadata::decode(&body), Ok(set));
            let file = FileRequest { group, name };
            prop_assert_eq!(FileRequest::decode(&bytes(&file)), Ok(file));
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200), body_len: u64) {
            let _ = UploadHead::decode(&body, body_len);
            let _ = UploadSlaveHead::decode(&body, body_len);
            let _ = AppendHead::decode(&body, body_len);
            let _ = ModifyHead::decode(&body, body_len);
            let _ = Truncate::decode(&body);
            let _ = Regenerate::decode(&body);
            let _ = FileRequest::decode(&body);
            let _ = Download::decode(&body);
            let _ = SetMetadata::decode(&body);
            let _ = FileInfo::decode(&body);
        }
    }
}
