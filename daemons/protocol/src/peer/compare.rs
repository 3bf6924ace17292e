//! SYNC_COMPARE: what a storage knows of the files that a lost member may have given to some members only.
//!
//! An extension: FastDFS's storages answer EINVAL. A member that loses its disks has pushed its latest changes to some of
//! the others and not to the rest, and nobody pushes those again. So the others tell each other what their binlogs say
//! of these files, and whoever is behind gets them. The answer is empty: `EAGAIN` asks for another try later.

use bytes::BufMut;

use crate::file_id::RemoteName;
use crate::names::StorageId;
use crate::wire::{Cursor, Encode, WireError};

/// How much a binlog says of a file. The greater has everything that the smaller has, unless one of them got it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The file was removed, and its name is never given again: nothing comes after that, whatever the clocks say.
    pub gone: bool,
    /// Time of the last change, unix seconds.
    pub last: u32,
    /// Changes that differ, but for files that came whole.
    pub distinct: u16,
    /// All records, those of pushes that came twice included.
    pub records: u16,
    /// With the last change an appender came whole, or its name ended and nothing tells of its beginning: which changes
    /// came before is not told.
    pub whole: bool,
}

impl Extent {
    /// Whether this one's file may have something that the other's lacks.
    pub fn may_have_more_than(&self, other: &Extent) -> bool {
        if self.gone && other.gone {
            return false;
        }
        let level = (self.gone, self.last) == (other.gone, other.last);
        self > other || (level && (self.whole || other.whole))
    }
}

/// SYNC_COMPARE. The whole message is sent in parts, each about the names that fall into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncCompare {
    /// The member that lost its disks.
    pub lost: StorageId,
    /// Who sends this, and gets what it lacks.
    pub sender: StorageId,
    /// Records from this time on count, unix seconds.
    pub since: i64,
    /// Records up to this time count, unix seconds: what comes later is pushed by who made it.
    pub until: i64,
    /// Number of this part, from 0.
    pub part: u32,
    /// How many parts there are, at least 1.
    pub parts: u32,
    /// The files, in the order of their names.
    pub files: Vec<(RemoteName, Extent)>,
}

impl SyncCompare {
    /// The longest body that is sent or taken, in bytes.
    pub const MAX_LEN: usize = 32 * 1024 * 1024;

    const FIXED_LEN: usize = 2 * StorageId::LEN + 8 + 8 + 4 + 4;

    /// Which part of `parts` a name falls into.
    pub fn part_of(name: &RemoteName, parts: u32) -> u32 {
        crc32fast::hash(name.as_bytes()) % parts.max(1)
    }

    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("sync compare", body);
        let lost = StorageId::decode(c.take(StorageId::LEN)?)?;
        let sender = StorageId::decode(c.take(StorageId::LEN)?)?;
        let (since, until) = (c.i64()?, c.i64()?);
        let (part, parts) = (c.u32()?, c.u32()?);
        if part >= parts || lost.is_none() || sender.is_none() {
            return Err(WireError::Range { what: "part", value: part.into() });
        }
        let mut files = Vec::with_capacity(c.left() / 64);
        while c.left() > 0 {
            let len = usize::from(c.u8()?);
            let name = RemoteName::decode(c.take(len)?)?;
            let flags = c.u8()?;
            let last = c.u32()?;
            let counts = c.u32()?;
            files.push((
                name,
                Extent {
                    gone: flags & 1 > 0,
                    last,
                    distinct: (counts >> 16) as u16,
                    records: counts as u16,
                    whole: flags & 2 > 0,
                },
            ));
        }
        Ok(SyncCompare { lost, sender, since, until, part, parts, files })
    }

    /// Length of the body in bytes.
    pub fn encoded_len(&self) -> usize {
        Self::FIXED_LEN + self.files.iter().map(|(name, _)| 1 + name.as_bytes().len() + 9).sum::<usize>()
    }
}

impl Encode for SyncCompare {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.lost.encode(out);
        self.sender.encode(out);
        out.put_i64(self.since);
        out.put_i64(self.until);
        out.put_u32(self.part);
        out.put_u32(self.parts);
        for (name, extent) in &self.files {
            let name = name.as_bytes();
            out.put_u8(name.len() as u8);
            out.put_slice(name);
            out.put_u8(u8::from(extent.gone) | u8::from(extent.whole) << 1);
            out.put_u32(extent.last);
            out.put_u32(u32::from(extent.distinct) << 16 | u32::from(extent.records));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(n: u32) -> RemoteName {
        format!("M00/00/00/file{n:06}").parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let message = SyncCompare {
            lost: "10.0.0.1".parse().unwrap(),
            sender: "10.0.0.2".parse().unwrap(),
            since: -60,
            until: 60,
            part: 1,
            parts: 2,
            files: (0..3)
                .map(|n| (name(n), Extent { gone: n == 1, last: n, distinct: 2, records: 0xFFFF, whole: n == 2 }))
                .collect(),
        };
        let mut body = Vec::new();
        message.encode(&mut body);
        assert_eq!(body.len(), message.encoded_len());
        assert_eq!(SyncCompare::decode(&body).unwrap(), message);
        for cut in 0..body.len() {
            // Between two files it is a shorter message; the length of a body is the header's to tell.
            let shorter = SyncCompare::decode(&body[..cut]);
            assert!(shorter.is_err() || shorter.unwrap().files.len() < 3);
        }
        body[3 * 16 + 8 + 3] = 2;
        assert!(SyncCompare::decode(&body).is_err(), "part 2 of 2");
    }

    #[test]
    fn every_name_falls_into_one_part() {
        let hit = (0..1000).map(|n| SyncCompare::part_of(&name(n), 7)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(hit, (0..7).collect());
        assert_eq!(SyncCompare::part_of(&name(1), 0), 0);
    }

    #[test]
    fn the_later_and_then_the_longer_is_ahead() {
        let extent = |last, distinct, records| Extent { gone: false, last, distinct, records, whole: false };
        assert!(Extent { gone: true, ..extent(4, 1, 1) } > extent(5, 2, 2));
        assert!(extent(5, 1, 1) > extent(4, 9, 9));
        assert!(extent(5, 2, 2) > extent(5, 1, 3));
        assert!(extent(5, 1, 2) > extent(5, 1, 1));
        let whole = Extent { whole: true, ..extent(5, 2, 3) };
        let more = |a: Extent, b: Extent| (a.may_have_more_than(&b), b.may_have_more_than(&a));
        assert_eq!(more(whole, extent(5, 2, 4)), (true, true), "nobody knows");
        assert_eq!(more(whole, extent(5, 3, 3)), (true, true));
        assert_eq!(more(whole, extent(4, 3, 3)), (true, false));
        assert_eq!(more(extent(5, 2, 4), extent(5, 2, 3)), (true, false));
        assert_eq!(more(Extent { gone: true, ..whole }, whole), (true, false));
        assert_eq!(more(Extent { gone: true, ..whole }, Extent { gone: true, ..whole }), (false, false));
    }

    proptest! {
        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SyncCompare::decode(&body);
        }
    }
}
