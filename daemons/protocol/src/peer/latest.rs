//! SYNC_LATEST: whether another member has a later change of a file than the one that is asked to change it.
//!
//! An extension: FastDFS's storages answer EINVAL. A member that was away may be asked for a change before it has got what
//! others took meanwhile. The answer is empty. `OK`: there is nothing later, and whoever answered asks in its turn before it
//! changes the file again. `EAGAIN`: there is, or something of it is still to be pushed; or the file is being changed there.

use bytes::BufMut;

use crate::file_id::RemoteName;
use crate::wire::{Cursor, Encode, WireError};

/// SYNC_LATEST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncLatest {
    /// When the file was changed last where it is to be changed, unix seconds.
    pub changed: i64,
    /// Its size there in bytes.
    pub size: u64,
    /// The file.
    pub name: RemoteName,
}

impl SyncLatest {
    const FIXED_LEN: usize = 8 + 8;

    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("sync latest", body);
        let (changed, size) = (c.i64()?, c.u64()?);
        Ok(SyncLatest { changed, size, name: RemoteName::decode(c.rest())? })
    }

    /// Length of the body in bytes.
    pub fn encoded_len(&self) -> usize {
        Self::FIXED_LEN + self.name.as_bytes().len()
    }

    /// Whether a file that was changed last at `changed`, unix seconds, and is `size` bytes long is later than this one. Of
    /// changes with one time only appends differ, and of these the later ones make the file longer.
    pub fn is_before(&self, changed: i64, size: u64) -> bool {
        (changed, size) > (self.changed, self.size)
    }
}

impl Encode for SyncLatest {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_i64(self.changed);
        out.put_u64(self.size);
        out.put_slice(self.name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question() -> SyncLatest {
        SyncLatest { changed: 1_900_000_000, size: 300, name: "M00/00/00/some-file".parse().unwrap() }
    }

    #[test]
    fn is_fixed_fields_and_the_name() {
        let mut body = Vec::new();
        question().encode(&mut body);
        assert_eq!(body.len(), question().encoded_len());
        assert_eq!(body[..16], [0, 0, 0, 0, 0x71, 0x3f, 0xb3, 0, 0, 0, 0, 0, 0, 0, 1, 0x2c]);
        assert_eq!(&body[16..], b"M00/00/00/some-file");
        assert_eq!(SyncLatest::decode(&body).unwrap(), question());
        for cut in 0..=16 {
            assert!(SyncLatest::decode(&body[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn later_is_what_changed_later_or_was_appended_to_in_the_same_second() {
        let before = |changed, size| question().is_before(changed, size);
        assert!(before(1_900_000_001, 0) && before(1_900_000_000, 301));
        assert!(!before(1_900_000_000, 300) && !before(1_900_000_000, 299) && !before(1_899_999_999, 999));
    }

    proptest! {
        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SyncLatest::decode(&body);
        }
    }
}
