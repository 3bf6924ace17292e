//! Remote names: what follows the group in a file ID.

use std::fmt;
use std::str::FromStr;

use super::block::{NameBlock, TrunkSlot};
use crate::names::{ExtName, Prefix, TextError, cut_at_nul};
use crate::wire::WireError;

/// Why bytes are not the name of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Shorter than any name can be.
    #[error("the name is shorter than {min} bytes", min = RemoteName::MIN_LEN)]
    TooShort,
    /// Longer than servers accept.
    #[error("the name is longer than {max} bytes", max = RemoteName::MAX_LEN)]
    TooLong,
    /// `Mxx/` is malformed.
    #[error("the name does not begin with a store path such as M00/")]
    StorePath,
    /// Not `HH/HH/file` with upper-case hex digits.
    #[error("the name does not have the form HH/HH/FILE below its store path")]
    Directory,
    /// The last part contains a slash, or is `.` or `..`.
    #[error("the file part of the name is not one plain file name")]
    FilePart,
    /// Something that is neither printable ASCII nor allowed in a name.
    #[error("the name has a character that is not allowed")]
    Character,
    /// The base64 part cannot be read.
    #[error("the name does not carry the base64 block of a file name")]
    Block,
    /// A slave of this master cannot be named.
    #[error("no slave can be named after this file with this prefix and extension")]
    Slave,
}

/// What kind of file a name tells, by the rules FastDFS clients and servers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file that never changes.
    Normal,
    /// A file that can be appended to, modified and truncated. A slave of one counts as one.
    Appender,
    /// A file named after another one.
    Slave,
    /// A normal file that lies inside a trunk file.
    Trunk,
}

impl Kind {
    /// Whether size and checksum stand in the name: normal and trunk files.
    pub fn is_normal(self) -> bool {
        matches!(self, Kind::Normal | Kind::Trunk)
    }
}

/// The parts of the name of a new file.
#[derive(Debug, Clone, Copy)]
pub struct NewName<'a> {
    /// Index of the store path.
    pub store_path: u8,
    /// The two directories.
    pub directories: (u8, u8),
    /// Source, time, size and checksum.
    pub block: NameBlock,
    /// The slot, for a file inside a trunk file (its block must have the trunk flag).
    pub slot: Option<TrunkSlot>,
    /// The extension, empty for none.
    pub ext: &'a ExtName,
    /// Random bits for the pad digits of the last seven characters.
    pub random: u32,
}

/// A checked remote name such as `M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt`, stored inline.
///
/// What holds for every value: 11 to 127 bytes of printable ASCII without spaces; an optional
/// `Mxx/`, then `HH/HH/` and one plain file name. Such a name cannot climb out of a store path
/// and can stand in a binlog line. Names from before FastDFS 1.12 have no `Mxx/` and belong to
/// store path 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteName {
    // Zero behind the name, so that the derived order is that of the text.
    bytes: [u8; Self::MAX_LEN],
    len: u8,
}

impl RemoteName {
    /// The shortest name a server accepts.
    pub const MIN_LEN: usize = 11;
    /// The longest name that works everywhere.
    pub const MAX_LEN: usize = 127;
    /// Length of a normal or appender name.
    pub const NORMAL_LEN: usize = 44;
    /// Length of the name of a file in a trunk file.
    pub const TRUNK_LEN: usize = 60;
    /// Length of `Mxx/`.
    const STORE_PATH_LEN: usize = 4;
    /// Length of `HH/HH/`.
    const DIRECTORIES_LEN: usize = 6;
    /// Length of the pad digits and the extension.
    const TAIL_LEN: usize = 7;
    /// The suffix of metadata files.
    const METADATA_SUFFIX: &'static str = "-m";

    /// Checks a name from the network or a file; what follows a zero byte is cut off.
    pub fn parse(name: &[u8]) -> Result<RemoteName, NameError> {
        let name = cut_at_nul(name);
        if name.len() < Self::MIN_LEN {
            return Err(NameError::TooShort);
        }
        if name.len() > Self::MAX_LEN {
            return Err(NameError::TooLong);
        }
        if !name.iter().all(u8::is_ascii_graphic) {
            return Err(NameError::Character);
        }
        let below = if name[0] == b'M' {
            let well_formed = name[1].is_ascii_hexdigit() && name[2].is_ascii_hexdigit() && name[3] == b'/';
            if !well_formed {
                return Err(NameError::StorePath);
            }
            &name[Self::STORE_PATH_LEN..]
        } else {
            name
        };
        check_below_store_path(below)?;
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..name.len()].copy_from_slice(name);
        Ok(RemoteName { bytes, len: name.len() as u8 })
    }

    /// [`RemoteName::parse`] for a field of a message.
    pub fn decode(name: &[u8]) -> Result<RemoteName, WireError> {
        RemoteName::parse(name).map_err(|error| match error {
            NameError::TooShort | NameError::TooLong => WireError::Length { what: "file name", got: name.len() },
            _ => WireError::Text { what: "file name", reason: TextError::Character },
        })
    }

    /// Names a new file.
    pub fn generate(new: &NewName<'_>) -> RemoteName {
        let mut b = Builder::new();
        b.push(b"M");
        b.push_hex(new.store_path);
        b.push(b"/");
        b.push_hex(new.directories.0);
        b.push(b"/");
        b.push_hex(new.directories.1);
        b.push(b"/");
        b.push(&new.block.encode());
        if let Some(slot) = &new.slot {
            b.push(&slot.encode());
        }
        b.push(&tail(new.ext, new.random));
        b.name
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        // Only printable ASCII gets in.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The name as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Index of the store path; whether the storage has so many is for it to check.
    pub fn store_path(&self) -> u8 {
        if self.has_store_path() { hex_pair(self.bytes[1], self.bytes[2]) } else { 0 }
    }

    /// The path below `<store path>/data/`: `HH/HH/file`.
    pub fn true_name(&self) -> &str {
        &self.as_str()[self.below()..]
    }

    /// The two directories.
    pub fn directories(&self) -> (u8, u8) {
        let d = &self.bytes[self.below()..];
        (hex_pair(d[0], d[1]), hex_pair(d[3], d[4]))
    }

    /// The last part of the path.
    pub fn file_part(&self) -> &str {
        &self.as_str()[self.below() + Self::DIRECTORIES_LEN..]
    }

    /// Source, time, size field and checksum. Of a slave these are its master's.
    pub fn block(&self) -> Result<NameBlock, NameError> {
        let text = self.file_part().as_bytes();
        NameBlock::decode(text.get(..NameBlock::TEXT_LEN).ok_or(NameError::Block)?)
    }

    /// The kind of file; an error for names that carry no block.
    pub fn kind(&self) -> Result<Kind, NameError> {
        let size = self.block()?.size;
        Ok(kind_of(size.is_appender(), size.is_trunk(), usize::from(self.len)))
    }

    /// Where a file inside a trunk file lies; `None` for all other kinds.
    pub fn trunk_slot(&self) -> Option<TrunkSlot> {
        if self.kind() != Ok(Kind::Trunk) {
            return None;
        }
        let start = NameBlock::TEXT_LEN;
        let text = self.file_part().as_bytes().get(start..start + TrunkSlot::TEXT_LEN)?;
        TrunkSlot::decode(text).ok()
    }

    /// Whether this can only be the metadata file of another file.
    pub fn is_metadata(&self) -> bool {
        self.as_str().ends_with(Self::METADATA_SUFFIX)
    }

    /// Whether no other file ever gets this name: it was made for one upload. Slaves, metadata and links can be made anew
    /// under a name that was used. (A slave whose prefix consists of digits may look like an upload.)
    pub fn is_given_once(&self) -> bool {
        let Ok(kind) = self.kind() else { return false };
        let slot = if kind == Kind::Trunk { TrunkSlot::TEXT_LEN } else { 0 };
        let Some(tail) = self.file_part().get(NameBlock::TEXT_LEN + slot..) else { return false };
        let number = tail.split('.').next().unwrap_or(tail);
        tail.len() == Self::TAIL_LEN && number.bytes().all(|b| b.is_ascii_digit())
    }

    /// The name of this file's metadata file; `None` when that would be too long.
    pub fn metadata(&self) -> Option<RemoteName> {
        let mut b = Builder { name: *self };
        b.try_push(Self::METADATA_SUFFIX.as_bytes()).then_some(b.name)
    }

    /// The extension, without its dot, as FastDFS finds it: after the first dot of the last seven
    /// characters.
    pub fn extension(&self) -> Option<&str> {
        self.extension_dot().map(|dot| &self.as_str()[dot + 1..])
    }

    /// The last seven characters of the file part: pad digits, dot, extension.
    pub fn tail(&self) -> &str {
        let file = self.file_part();
        &file[file.len().saturating_sub(Self::TAIL_LEN)..]
    }

    /// The same place with another block: what an appender is called once it is a normal file.
    /// Directories and the last seven characters stay.
    pub fn with_block(&self, block: &NameBlock) -> RemoteName {
        let mut b = Builder::new();
        b.push(&self.as_bytes()[..self.below() + Self::DIRECTORIES_LEN]);
        b.push(&block.encode());
        b.push(self.tail().as_bytes());
        b.name
    }

    /// Names a slave of this file.
    pub fn slave(&self, prefix: &Prefix, ext: &ExtName) -> Result<RemoteName, NameError> {
        // That would be the master's metadata file.
        if ext.is_empty() && prefix.as_str() == Self::METADATA_SUFFIX {
            return Err(NameError::Slave);
        }
        // FastDFS wants a directory, the block and one character more of a master.
        if self.true_name().len() < Self::DIRECTORIES_LEN + NameBlock::TEXT_LEN + 1 {
            return Err(NameError::Slave);
        }
        let base = self.extension_dot().unwrap_or(usize::from(self.len));
        let mut b = Builder::new();
        let mut fits = b.try_push(&self.as_bytes()[..base]) && b.try_push(prefix.as_bytes());
        if !ext.is_empty() {
            let dot: &[u8] = if ext.as_str().starts_with('.') { b"" } else { b"." };
            fits = fits && b.try_push(dot) && b.try_push(ext.as_bytes());
        }
        if fits { Ok(b.name) } else { Err(NameError::TooLong) }
    }

    fn has_store_path(&self) -> bool {
        self.bytes[0] == b'M'
    }

    /// Offset of the directories.
    fn below(&self) -> usize {
        if self.has_store_path() { Self::STORE_PATH_LEN } else { 0 }
    }

    /// Offset of the dot before the extension.
    fn extension_dot(&self) -> Option<usize> {
        let tail = self.tail();
        tail.find('.').map(|at| usize::from(self.len) - tail.len() + at)
    }
}

/// The rules by which clients and servers tell kinds apart, in their order.
fn kind_of(appender: bool, trunk: bool, len: usize) -> Kind {
    if appender {
        Kind::Appender
    } else if len > RemoteName::TRUNK_LEN || (len > RemoteName::NORMAL_LEN && !trunk) {
        Kind::Slave
    } else if len == RemoteName::TRUNK_LEN {
        Kind::Trunk
    } else {
        Kind::Normal
    }
}

fn check_below_store_path(below: &[u8]) -> Result<(), NameError> {
    let upper_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let Some((directories, file)) = below.split_at_checked(RemoteName::DIRECTORIES_LEN) else {
        return Err(NameError::Directory);
    };
    let well_formed = upper_hex(directories[0])
        && upper_hex(directories[1])
        && directories[2] == b'/'
        && upper_hex(directories[3])
        && upper_hex(directories[4])
        && directories[5] == b'/';
    if !well_formed {
        return Err(NameError::Directory);
    }
    if file.is_empty() || file == b"." || file == b".." || file.contains(&b'/') {
        return Err(NameError::FilePart);
    }
    Ok(())
}

/// Seven characters: pad digits, a dot and the extension, or seven digits.
fn tail(ext: &ExtName, random: u32) -> [u8; RemoteName::TAIL_LEN] {
    let mut tail = [0; RemoteName::TAIL_LEN];
    let ext = ext.as_bytes();
    let digits = match ext.len() {
        0 => RemoteName::TAIL_LEN,
        n => RemoteName::TAIL_LEN - 1 - n,
    };
    let mut rest = random;
    for digit in &mut tail[..digits] {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    if !ext.is_empty() {
        tail[digits] = b'.';
        tail[digits + 1..].copy_from_slice(ext);
    }
    tail
}

fn hex_pair(high: u8, low: u8) -> u8 {
    let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
    digit(high) << 4 | digit(low)
}

/// Puts a name together from parts that keep its rules.
struct Builder {
    name: RemoteName,
}

impl Builder {
    fn new() -> Builder {
        Builder { name: RemoteName { bytes: [0; RemoteName::MAX_LEN], len: 0 } }
    }

    /// Appends; says whether it fitted.
    fn try_push(&mut self, part: &[u8]) -> bool {
        let start = usize::from(self.name.len);
        let Some(room) = self.name.bytes.get_mut(start..start + part.len()) else {
            return false;
        };
        room.copy_from_slice(part);
        self.name.len += part.len() as u8;
        true
    }

    /// Appends a part of a name that is far from the limit (60 bytes at most).
    fn push(&mut self, part: &[u8]) {
        let fitted = self.try_push(part);
        debug_assert!(fitted);
    }

    fn push_hex(&mut self, value: u8) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        self.push(&[DIGITS[usize::from(value >> 4)], DIGITS[usize::from(value & 15)]]);
    }
}

impl FromStr for RemoteName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        RemoteName::parse(text.as_bytes())
    }
}

impl AsRef<str> for RemoteName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for RemoteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RemoteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteName({self})")
    }
}

#[cfg(test)]
mod tests;
