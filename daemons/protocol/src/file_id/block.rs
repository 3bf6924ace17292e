//! What the base64 parts of a name say: the 20-byte block and the trunk slot.

use std::net::Ipv4Addr;

use base64::Engine;
use base64::alphabet::Alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::name::NameError;

/// `A-Z a-z 0-9 - _`, without padding.
const ALPHABET: Alphabet = match Alphabet::new("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
    Ok(alphabet) => alphabet,
    Err(_) => panic!("the alphabet has 64 different characters"),
};

/// The base64 of names. Trailing bits are not looked at, as FastDFS does not.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

const BLOCK_BYTES: usize = 20;
const SLOT_BYTES: usize = 12;

/// Where a file was uploaded first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The storage with this address.
    Ip(Ipv4Addr),
    /// The storage with this id, 1 to [`Source::MAX_ID`].
    Id(u32),
}

impl Source {
    /// The largest id that can be told from an address.
    pub const MAX_ID: u32 = 0x00ff_ffff;

    /// The source for a storage id number, if it can stand in a name.
    pub fn id(id: u32) -> Option<Source> {
        (1..=Source::MAX_ID).contains(&id).then_some(Source::Id(id))
    }

    /// The four bytes in the block: an address in network order, an id little-endian.
    pub fn to_bytes(self) -> [u8; 4] {
        match self {
            Source::Ip(ip) => ip.octets(),
            Source::Id(id) => id.to_le_bytes(),
        }
    }

    /// Reads the four bytes. An address that ends in `.0` looks like an id; FastDFS has the same
    /// blind spot.
    pub fn from_bytes(bytes: [u8; 4]) -> Source {
        let value = u32::from_le_bytes(bytes);
        Source::id(value).unwrap_or(Source::Ip(Ipv4Addr::from(bytes)))
    }
}

/// The size field of a block: a size, or flags and random bits beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SizeField(
    /// The 64 bits as they stand in the name.
    pub u64,
);

impl SizeField {
    const RANDOM_FLAG: u64 = 1 << 63;
    const TRUNK_FLAG: u64 = 1 << 59;
    const APPENDER_FLAG: u64 = 1 << 58;
    const RANDOM_MASK: u32 = 0x007f_ffff;

    fn with_random(random: u32) -> u64 {
        Self::RANDOM_FLAG | (u64::from(random & Self::RANDOM_MASK) << 32)
    }

    /// The field of a normal file. 23 bits of `random` keep names of equal files apart; a file of
    /// 4 GiB or more has no room for them.
    pub fn normal(size: u64, random: u32) -> SizeField {
        match u32::try_from(size) {
            Ok(size) => SizeField(Self::with_random(random) | u64::from(size)),
            Err(_) => SizeField(size),
        }
    }

    /// The field of an appender file, which does not tell a size.
    pub fn appender(random: u32) -> SizeField {
        SizeField(Self::with_random(random) | Self::APPENDER_FLAG)
    }

    /// The field of a file inside a trunk file.
    pub fn trunk(size: u32, random: u32) -> SizeField {
        SizeField(Self::with_random(random) | Self::TRUNK_FLAG | u64::from(size))
    }

    /// Whether the flag of appender files is set.
    pub fn is_appender(self) -> bool {
        self.0 & Self::APPENDER_FLAG != 0
    }

    /// Whether the flag of trunk files is set.
    pub fn is_trunk(self) -> bool {
        self.0 & Self::TRUNK_FLAG != 0
    }

    /// The size of the file in bytes; `None` for an appender. Of a slave it is the master's.
    pub fn size(self) -> Option<u64> {
        if self.is_appender() {
            None
        } else if self.0 & (Self::RANDOM_FLAG | Self::TRUNK_FLAG) != 0 {
            Some(self.0 & 0xffff_ffff)
        } else {
            Some(self.0)
        }
    }
}

/// The 20 bytes in every name, as 27 base64 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NameBlock {
    /// The storage the file was uploaded to.
    pub source: Source,
    /// Creation time, unix seconds.
    pub timestamp: u32,
    /// Size and flags.
    pub size: SizeField,
    /// CRC-32 of the content at creation.
    pub crc32: u32,
}

impl NameBlock {
    /// Length as text.
    pub const TEXT_LEN: usize = 27;

    /// The characters that stand in the name.
    pub fn encode(&self) -> [u8; Self::TEXT_LEN] {
        let mut bytes = [0; BLOCK_BYTES];
        bytes[..4].copy_from_slice(&self.source.to_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.size.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.crc32.to_be_bytes());
        base64_text(&bytes)
    }

    /// Reads exactly 27 characters.
    pub fn decode(text: &[u8]) -> Result<NameBlock, NameError> {
        base64_bytes::<BLOCK_BYTES>(text).map(NameBlock::from_bytes).ok_or(NameError::Block)
    }

    /// Reads as much as there is, as a tracker must: what cannot be read counts as zero bytes.
    pub fn decode_lenient(text: &[u8]) -> NameBlock {
        let readable = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let mut padded = [b'A'; Self::TEXT_LEN];
        for (slot, b) in padded.iter_mut().zip(text.iter().take_while(|b| readable(b))) {
            *slot = *b;
        }
        let bytes = base64_bytes::<BLOCK_BYTES>(&padded).unwrap_or_default();
        NameBlock::from_bytes(bytes)
    }

    fn from_bytes(bytes: [u8; BLOCK_BYTES]) -> NameBlock {
        let [s0, s1, s2, s3, t0, t1, t2, t3, z0, z1, z2, z3, z4, z5, z6, z7, c0, c1, c2, c3] = bytes;
        NameBlock {
            source: Source::from_bytes([s0, s1, s2, s3]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            size: SizeField(u64::from_be_bytes([z0, z1, z2, z3, z4, z5, z6, z7])),
            crc32: u32::from_be_bytes([c0, c1, c2, c3]),
        }
    }
}

/// Where in a trunk file a small file lies: 12 bytes, as 16 base64 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrunkSlot {
    /// Number of the trunk file.
    pub file: u32,
    /// Offset of the slot in bytes; the content begins [`TrunkSlot::HEADER_LEN`] later.
    pub offset: u32,
    /// Size of the slot in bytes, header included.
    pub size: u32,
}

impl TrunkSlot {
    /// Length as text.
    pub const TEXT_LEN: usize = 16;
    /// Length of the header at the start of a slot.
    pub const HEADER_LEN: u64 = 24;

    /// The characters that stand in the name.
    pub fn encode(&self) -> [u8; Self::TEXT_LEN] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..4].copy_from_slice(&self.file.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..].copy_from_slice(&self.size.to_be_bytes());
        base64_text(&bytes)
    }

    /// Reads exactly 16 characters.
    pub fn decode(text: &[u8]) -> Result<TrunkSlot, NameError> {
        let bytes = base64_bytes::<SLOT_BYTES>(text).ok_or(NameError::Block)?;
        let [f0, f1, f2, f3, o0, o1, o2, o3, s0, s1, s2, s3] = bytes;
        Ok(TrunkSlot {
            file: u32::from_be_bytes([f0, f1, f2, f3]),
            offset: u32::from_be_bytes([o0, o1, o2, o3]),
            size: u32::from_be_bytes([s0, s1, s2, s3]),
        })
    }
}

/// `bytes` as exactly `T` characters; the callers' lengths fit each other.
fn base64_text<const T: usize>(bytes: &[u8]) -> [u8; T] {
    debug_assert_eq!(bytes.len().div_ceil(3) * 4 - (3 - bytes.len() % 3) % 3, T);
    let mut text = [b'A'; T];
    // Fails only when the characters do not fit, and they do.
    let _ = BASE64.encode_slice(bytes, &mut text);
    text
}

/// `N` bytes from as many characters as `N` bytes need, neither more nor less.
fn base64_bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    // The decoder wants room for whole groups of four characters.
    let mut buffer = [0u8; 24];
    match BASE64.decode_slice(text, &mut buffer) {
        Ok(n) if n == N => buffer[..N].try_into().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn worked_block() {
        let block = NameBlock::decode(b"Ck0AAWsA64KAdKM-AAAADg4Qul0").unwrap();
        assert_eq!(block.source, Source::Ip(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!(block.timestamp, 1_795_222_402);
        assert_eq!(block.size, SizeField::normal(14, 0x74a33e));
        assert_eq!(block.crc32, 0x0e10_ba5d);
        assert_eq!(&block.encode(), b"Ck0AAWsA64KAdKM-AAAADg4Qul0");
    }

    #[test]
    fn sizes() {
        assert_eq!(SizeField::normal(4_294_967_297, 7), SizeField(4_294_967_297));
        assert_eq!(SizeField(4_294_967_297).size(), Some(4_294_967_297));
        assert_eq!(SizeField::normal(0xffff_ffff, 1).size(), Some(0xffff_ffff));
        assert_eq!(SizeField::appender(u32::MAX).0, 0x847f_ffff_0000_0000);
        assert_eq!(SizeField::appender(0).size(), None);
        assert!(SizeField::trunk(5, 0).is_trunk());
        assert_eq!(SizeField::trunk(5, 0).size(), Some(5));
    }

    #[test]
    fn ids_are_little_endian() {
        assert_eq!(Source::Id(100_001).to_bytes(), [0xa1, 0x86, 1, 0]);
        assert_eq!(Source::from_bytes([0xa1, 0x86, 1, 0]), Source::Id(100_001));
        assert_eq!(Source::from_bytes([0; 4]), Source::Ip(Ipv4Addr::UNSPECIFIED));
        assert_eq!(Source::id(0), None);
        assert_eq!(Source::id(1 << 24), None);
    }

    #[test]
    fn garbage_reads_as_far_as_it_goes() {
        let whole = NameBlock::decode(b"Ck0AAWsA64KAdKM-AAAADg4Qul0").unwrap();
        assert_eq!(NameBlock::decode_lenient(b"Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt"), whole);
        let part = NameBlock::decode_lenient(b"Ck0AAWsA64!!");
        assert_eq!((part.source, part.crc32), (whole.source, 0));
        assert_eq!(NameBlock::decode_lenient(b"").timestamp, 0);
        assert!(NameBlock::decode(b"Ck0AAWsA64!!").is_err());
    }

    proptest! {
        #[test]
        fn blocks_survive(bytes: [u8; 20]) {
            let block = NameBlock::from_bytes(bytes);
            prop_assert_eq!(NameBlock::decode(&block.encode()), Ok(block));
            prop_assert_eq!(NameBlock::decode_lenient(&block.encode()), block);
        }

        #[test]
        fn slots_survive(file: u32, offset: u32, size: u32) {
            let slot = TrunkSlot { file, offset, size };
            prop_assert_eq!(TrunkSlot::decode(&slot.encode()), Ok(slot));
        }

        #[test]
        fn any_text(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = NameBlock::decode_lenient(&text);
            let _ = TrunkSlot::decode(&text);
            if let Ok(block) = NameBlock::decode(&text) {
                prop_assert_eq!(NameBlock::decode(&block.encode()), Ok(block));
            }
        }
    }
}
