//! Uploads and changes of content.

use bytes::BufMut;

use super::{check_content, name_len};
use crate::file_id::RemoteName;
use crate::names::{ExtName, Prefix};
use crate::wire::{Cursor, Encode, WireError};

/// The store path index with which a client leaves the choice to the storage.
pub const ANY_STORE_PATH: u8 = 255;

/// The shortest name of an appender file.
const MIN_APPENDER_NAME: usize = RemoteName::NORMAL_LEN;

/// The name of an appender file, long enough even when a zero byte ends it early.
fn appender_name(bytes: &[u8]) -> Result<RemoteName, WireError> {
    let name = RemoteName::decode(bytes)?;
    match name.as_bytes().len() {
        MIN_APPENDER_NAME.. => Ok(name),
        got => Err(WireError::Length { what: "appender name", got }),
    }
}

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
        Ok(AppendHead { size, name: appender_name(c.rest())? })
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
        Ok(ModifyHead { offset, size, name: appender_name(c.rest())? })
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
        Ok(Truncate { size: c.size("new size")?, name: appender_name(c.rest())? })
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
        Ok(Regenerate { name: appender_name(body)? })
    }
}

impl Encode for Regenerate {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.name.as_bytes());
    }
}
