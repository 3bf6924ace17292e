//! SYNC_LATEST: whether another member has a later change of a file than the one that is asked to change it.
//!
//! An extension: FastDFS's storages answer EINVAL. A member that was away may be asked for a change before it has got what
//! others took meanwhile. `OK`: there is nothing later, and whoever answered asks in its turn before it changes the file again;
//! the answer is empty, or a time, since the same is there with that. `EAGAIN`: there is something later, or
//! something of it is still to be pushed; or the file is being changed there.

use bytes::BufMut;

use crate::file_id::RemoteName;
use crate::names::StorageId;
use crate::wire::{Cursor, Encode, WireError};

/// SYNC_LATEST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncLatest {
    /// Who is to change the file.
    pub asker: StorageId,
    /// When the file was changed last there, unix seconds; 0: it is not there, and was not removed as far as is known.
    pub changed: i64,
    /// Its size there in bytes.
    pub size: u64,
    /// The checksum of its content there. Whoever asks for the first time does without.
    pub crc32: Option<u32>,
    /// The file.
    pub name: RemoteName,
}

impl SyncLatest {
    const FIXED_LEN: usize = StorageId::LEN + 8 + 8 + 1 + 4;

    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("sync latest", body);
        let asker = StorageId::decode(c.take(StorageId::LEN)?)?;
        let (changed, size) = (c.i64()?, c.u64()?);
        let (is_told, crc32) = (c.u8()? != 0, c.u32()?);
        Ok(SyncLatest { asker, changed, size, crc32: is_told.then_some(crc32), name: RemoteName::decode(c.rest())? })
    }

    /// Reads the answer: when the same content was changed last at who answers, or metadata removed that is at neither, unix
    /// seconds, if that is later.
    pub fn decode_answer(body: &[u8]) -> Result<Option<i64>, WireError> {
        let mut c = Cursor::new("answer to sync latest", body);
        if body.is_empty() { Ok(None) } else { c.i64().map(Some) }
    }

    /// The answer of who has the same with a later time.
    pub fn answer(changed: i64) -> [u8; 8] {
        changed.to_be_bytes()
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
        self.asker.encode(out);
        out.put_i64(self.changed);
        out.put_u64(self.size);
        out.put_u8(self.crc32.is_some().into());
        out.put_u32(self.crc32.unwrap_or(0));
        out.put_slice(self.name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question() -> SyncLatest {
        SyncLatest {
            asker: "10.0.0.2".parse().unwrap(),
            changed: 1_900_000_000,
            size: 300,
            crc32: Some(0x0102_0304),
            name: "M00/00/00/some-file".parse().unwrap(),
        }
    }

    #[test]
    fn is_fixed_fields_and_the_name() {
        let mut body = Vec::new();
        question().encode(&mut body);
        assert_eq!(body.len(), question().encoded_len());
        assert_eq!(body[..16], *b"10.0.0.2\0\0\0\0\0\0\0\0");
        assert_eq!(body[16..32], [0, 0, 0, 0, 0x71, 0x3f, 0xb3, 0, 0, 0, 0, 0, 0, 0, 1, 0x2c]);
        assert_eq!(body[32..37], [1, 1, 2, 3, 4]);
        assert_eq!(&body[37..], b"M00/00/00/some-file");
        assert_eq!(SyncLatest::decode(&body).unwrap(), question());
        for cut in 0..=37 {
            assert!(SyncLatest::decode(&body[..cut]).is_err(), "{cut}");
        }
        let first = SyncLatest { crc32: None, ..question() };
        body.clear();
        first.encode(&mut body);
        assert_eq!(body[32..37], [0; 5]);
        assert_eq!(SyncLatest::decode(&body).unwrap(), first);
    }

    #[test]
    fn the_answer_is_empty_or_a_time() {
        let answer = SyncLatest::answer(1_900_000_000);
        assert_eq!(answer, [0, 0, 0, 0, 0x71, 0x3f, 0xb3, 0]);
        assert_eq!(SyncLatest::decode_answer(&answer).unwrap(), Some(1_900_000_000));
        assert_eq!(SyncLatest::decode_answer(b"").unwrap(), None);
        assert!(SyncLatest::decode_answer(&answer[..7]).is_err());
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
