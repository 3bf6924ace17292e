//! Requests about a whole file: download, removal, information, metadata.

use bytes::BufMut;

use super::{check_content, name_len};
use crate::file_id::RemoteName;
use crate::names::{GroupName, IpSize, IpText};
use crate::wire::{Cursor, Encode, WireError};

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
