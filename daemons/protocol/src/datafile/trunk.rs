//! The trunk binlog, its snapshot, and the header of a slot in a trunk file.

use std::fmt;
use std::str::FromStr;

use super::LineError;

/// What a line of the trunk binlog says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrunkOp {
    /// A: the slot became free.
    Add,
    /// D: the slot left the free ones.
    Remove,
}

/// A line of the trunk binlog: `<ts> <A|D> <path> <high> <low> <file> <offset> <size>`. The
/// snapshot has the same lines; in its old form time and letter are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrunkRecord {
    /// Unix seconds.
    pub timestamp: u32,
    /// What happened.
    pub op: TrunkOp,
    /// Index of the store path.
    pub store_path: u8,
    /// The two directories.
    pub directories: (u8, u8),
    /// Number of the trunk file.
    pub file: u32,
    /// Offset of the slot, bytes.
    pub offset: u32,
    /// Size of the slot, bytes.
    pub size: u32,
}

impl FromStr for TrunkRecord {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        parse(line).ok_or_else(|| LineError::new("trunk record", line))
    }
}

fn parse(line: &str) -> Option<TrunkRecord> {
    let words: Vec<&str> = line.split_ascii_whitespace().take(9).collect();
    let (timestamp, op, slot) = match words.as_slice() {
        [time, "A", slot @ ..] => (time.parse().ok()?, TrunkOp::Add, slot),
        [time, "D", slot @ ..] => (time.parse().ok()?, TrunkOp::Remove, slot),
        slot => (0, TrunkOp::Add, slot),
    };
    let [path, high, low, file, offset, size] = slot else { return None };
    Some(TrunkRecord {
        timestamp,
        op,
        store_path: path.parse().ok()?,
        directories: (high.parse().ok()?, low.parse().ok()?),
        file: file.parse().ok()?,
        offset: offset.parse().ok()?,
        size: size.parse().ok()?,
    })
}

impl fmt::Display for TrunkRecord {
    /// The line without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            TrunkOp::Add => 'A',
            TrunkOp::Remove => 'D',
        };
        let (high, low) = self.directories;
        let TrunkRecord { timestamp, store_path, file, offset, size, .. } = self;
        write!(f, "{timestamp} {op} {store_path} {high} {low} {file} {offset} {size}")
    }
}

/// What a slot of a trunk file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// Nothing.
    Free,
    /// A file.
    File,
    /// A link; the content is the logical name it points to.
    Link,
}

/// The 24 bytes at the start of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotHeader {
    /// What the slot holds.
    pub kind: SlotKind,
    /// Size of the slot, this header included.
    pub alloc_size: u32,
    /// Size of the content.
    pub file_size: u32,
    /// Checksum of the content.
    pub crc32: u32,
    /// Time of the content, unix seconds.
    pub mtime: u32,
    /// The last seven characters of the file's name.
    pub tail: [u8; 7],
}

impl SlotHeader {
    /// Length in bytes.
    pub const LEN: usize = 24;

    /// Reads 24 bytes; `None` when the kind is not one there is.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Option<SlotHeader> {
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = match bytes[0] {
            0 => SlotKind::Free,
            b'F' => SlotKind::File,
            b'L' => SlotKind::Link,
            _ => return None,
        };
        let mut tail = [0; 7];
        tail.copy_from_slice(&bytes[17..]);
        Some(SlotHeader {
            kind,
            alloc_size: number(1),
            file_size: number(5),
            crc32: number(9),
            mtime: number(13),
            tail,
        })
    }

    /// The bytes on disk.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = match self.kind {
            SlotKind::Free => 0,
            SlotKind::File => b'F',
            SlotKind::Link => b'L',
        };
        out[1..5].copy_from_slice(&self.alloc_size.to_be_bytes());
        out[5..9].copy_from_slice(&self.file_size.to_be_bytes());
        out[9..13].copy_from_slice(&self.crc32.to_be_bytes());
        out[13..17].copy_from_slice(&self.mtime.to_be_bytes());
        out[17..].copy_from_slice(&self.tail);
        out
    }

    /// Whether nothing has been written there: kind and sizes do not count.
    pub fn is_unused(&self) -> bool {
        self.crc32 == 0 && self.mtime == 0 && self.tail == [0; 7]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn old_snapshots_have_six_columns() {
        let record: TrunkRecord = "0 1 2 3 400 500".parse().unwrap();
        assert_eq!(record.to_string(), "0 A 0 1 2 3 400 500");
        for bad in ["", "1 X 0 0 0 1 2 3", "1 A 0 0 0 1 2", "1 A 0 0 0 1 2 3 4", "1 A 0 0 0 1 2 x"] {
            assert!(bad.parse::<TrunkRecord>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn headers_survive(bytes: [u8; 24]) {
            match SlotHeader::decode(&bytes) {
                Some(header) => prop_assert_eq!(header.encode(), bytes),
                None => prop_assert!(![0, b'F', b'L'].contains(&bytes[0])),
            }
        }

        #[test]
        fn any_line(line in "[0-9AD ]{0,60}") {
            if let Ok(record) = line.parse::<TrunkRecord>() {
                prop_assert_eq!(record.to_string().parse(), Ok(record));
            }
        }
    }
}
