//! File IDs: `group1/M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt`.
//!
//! A file ID is a group and a [`RemoteName`]; on the wire the two always travel apart. The name
//! carries a [`NameBlock`]: where the file came from, when, how large it is and its checksum.

mod block;
mod name;

use std::fmt;
use std::str::FromStr;

use bytes::BufMut;

pub(crate) use block::BASE64;
pub use block::{NameBlock, SizeField, Source, TrunkSlot};
pub use name::{Kind, NameError, NewName, RemoteName};

use crate::names::{GroupName, TextError};
use crate::wire::{Cursor, Encode, WireError};

/// The name of a stored file in a cluster: group and remote name. Stored inline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// The group that holds the file.
    pub group: GroupName,
    /// The name within the group.
    pub name: RemoteName,
}

/// Why a text is not a file ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileIdError {
    /// There is no `/` between a group and a name.
    #[error("a file ID looks like group1/M00/00/00/NAME")]
    NoGroup,
    /// The part before the first `/` is no group name.
    #[error("bad group name: {0}")]
    Group(TextError),
    /// The rest is no remote name.
    #[error("bad file name: {0}")]
    Name(#[from] NameError),
}

impl FileId {
    /// The id from its two parts.
    pub fn new(group: GroupName, name: RemoteName) -> FileId {
        FileId { group, name }
    }

    /// Reads the body of an upload answer: group, then the name to the end.
    pub fn decode(body: &[u8]) -> Result<FileId, WireError> {
        let mut c = Cursor::new("file id", body);
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let name = RemoteName::decode(c.rest())?;
        Ok(FileId { group, name })
    }
}

impl Encode for FileId {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_slice(self.name.as_bytes());
    }
}

impl FromStr for FileId {
    type Err = FileIdError;

    fn from_str(text: &str) -> Result<Self, FileIdError> {
        // Some clients keep the slash that a URL path has in front.
        let text = text.strip_prefix('/').unwrap_or(text);
        let (group, name) = text.split_once('/').ok_or(FileIdError::NoGroup)?;
        let group = GroupName::new(group).map_err(FileIdError::Group)?;
        // On the wire a name is cut at a zero byte; a text that has one is a mistake.
        if name.contains('\0') {
            return Err(FileIdError::Name(NameError::Character));
        }
        Ok(FileId { group, name: name.parse()? })
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.name)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_and_wire() {
        let text = "group1/M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt";
        let id: FileId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("{id:?}"), format!("FileId({text})"));
        assert_eq!(format!("/{text}").parse(), Ok(id));
        let mut body = Vec::new();
        id.encode(&mut body);
        assert_eq!(body.len(), 60);
        assert_eq!(FileId::decode(&body), Ok(id));
        assert_eq!(FileId::new(id.group, id.name), id);
    }

    #[test]
    fn not_file_ids() {
        assert_eq!("group1".parse::<FileId>(), Err(FileIdError::NoGroup));
        assert!(matches!("a b/M00/00/00/x".parse::<FileId>(), Err(FileIdError::Group(_))));
        assert!(matches!("g/M00/00/00/../x".parse::<FileId>(), Err(FileIdError::Name(_))));
        assert!(matches!("g/M00/00/00/xyz\0".parse::<FileId>(), Err(FileIdError::Name(_))));
        assert!(FileId::decode(b"short").is_err());
    }

    proptest! {
        #[test]
        fn any_text(text in "\\PC{0,80}") {
            if let Ok(id) = text.parse::<FileId>() {
                prop_assert_eq!(id.to_string().parse(), Ok(id));
            }
        }

        #[test]
        fn any_body(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(id) = FileId::decode(&body) {
                let mut out = Vec::new();
                id.encode(&mut out);
                prop_assert_eq!(FileId::decode(&out), Ok(id));
            }
        }
    }
}
