//! Checked names: short texts in fixed fields, stored inline.
//!
//! Every type here is `Copy`, holds its text without an allocation, and can only be built from
//! text that the field allows. Encoding pads with zero bytes; decoding cuts at the first zero
//! byte, since senders leave leftovers behind it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use bytes::BufMut;

use crate::wire::WireError;

/// Why a text cannot be a name of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// There is no text, and the field needs one.
    #[error("the text is empty")]
    Empty,
    /// The text does not fit into the field.
    #[error("the text is longer than {0} bytes")]
    TooLong(usize),
    /// A character is not allowed there.
    #[error("the text has a character that is not allowed")]
    Character,
    /// The text is not an IP address.
    #[error("the text is not an IP address")]
    NotAnAddress,
}

/// Printable ASCII of at most `N` bytes, stored inline and zero padded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const N: usize> {
    // The order of the fields makes the derived order that of the text: bytes behind the text
    // are zero, and the text has none.
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const EMPTY: Text<N> = Text { bytes: [0; N], len: 0 };

    /// Checks `text`: printable ASCII, at most `N` bytes.
    pub fn new(text: &str) -> Result<Self, TextError> {
        Self::from_ascii(text.as_bytes())
    }

    /// The same from bytes.
    pub fn from_ascii(text: &[u8]) -> Result<Self, TextError> {
        const { assert!(N <= 255) };
        if text.len() > N {
            return Err(TextError::TooLong(N));
        }
        if !text.iter().all(|b| (b' '..=b'~').contains(b)) {
            return Err(TextError::Character);
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text);
        Ok(Text { bytes, len: text.len() as u8 })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // The constructor admits ASCII only, so this cannot fail; the empty text stands in for
        // the impossible rather than a panic.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The whole field, zero padded.
    pub fn field(&self) -> &[u8; N] {
        &self.bytes
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The part of a field before its first zero byte.
pub(crate) fn cut_at_nul(field: &[u8]) -> &[u8] {
    match field.iter().position(|&b| b == 0) {
        Some(end) => &field[..end],
        None => field,
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $size:literal, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text<$size>);

        impl $name {
            /// Width of the field in bytes.
            pub const LEN: usize = $size;

            /// Checks `text`.
            pub fn new(text: &str) -> Result<Self, TextError> {
                Self::from_ascii(text.as_bytes())
            }

            /// Checks text given as bytes.
            pub fn from_ascii(text: &[u8]) -> Result<Self, TextError> {
                let check: fn(&[u8]) -> Result<(), TextError> = $check;
                check(text)?;
                Text::from_ascii(text).map($name)
            }

            /// Reads a field, up to its first zero byte.
            pub fn decode(field: &[u8]) -> Result<Self, WireError> {
                Self::from_ascii(cut_at_nul(field))
                    .map_err(|reason| WireError::Text { what: $what, reason })
            }

            /// Writes the field, zero padded.
            pub fn encode<B: BufMut>(&self, out: &mut B) {
                out.put_slice(self.0.field());
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The text as bytes, without padding.
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $name {
            type Err = TextError;
            fn from_str(text: &str) -> Result<Self, TextError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type! {
    /// The name of a group: 1 to 16 ASCII letters and digits.
    GroupName, 16, "group name", |text| {
        if text.is_empty() { Err(TextError::Empty) }
        else if text.iter().all(u8::is_ascii_alphanumeric) { Ok(()) }
        else { Err(TextError::Character) }
    }
}

name_type! {
    /// The extension of a file without its dot: up to 6 letters, digits, `-`, `_` or `.`; may be
    /// empty.
    ExtName, 6, "extension", |text| name_characters(text)
}

name_type! {
    /// What a slave file's name adds to its master's: 1 to 16 letters, digits, `-`, `_` or `.`.
    Prefix, 16, "prefix", |text| {
        if text.is_empty() { Err(TextError::Empty) } else { name_characters(text) }
    }
}

name_type! {
    /// The id of a storage: a number, or the text of its address; at most 15 bytes, without
    /// spaces or commas. Where the protocol says "no storage" the id is [`StorageId::NONE`].
    StorageId, 16, "storage id", |text| {
        if text.len() > 15 { Err(TextError::TooLong(15)) }
        // It is a column of space and comma separated files.
        else if text.iter().any(|b| matches!(b, b' ' | b',' | b'/' )) { Err(TextError::Character) }
        else { Ok(()) }
    }
}

name_type! {
    /// The version a server reports, such as `6.16.1`: at most 8 printable characters, may be
    /// empty.
    Version, 8, "version", |_| Ok(())
}

fn name_characters(text: &[u8]) -> Result<(), TextError> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.iter().all(allowed) { Ok(()) } else { Err(TextError::Character) }
}

impl GroupName {
    /// Reads a group field of a request to a tracker: a name that no group can have is a group
    /// that does not exist, not a malformed request.
    pub(crate) fn decode_known(field: &[u8]) -> Result<Self, WireError> {
        Self::from_ascii(cut_at_nul(field)).map_err(WireError::NoSuchGroup)
    }

    /// Writes the 17-byte form that list records and join requests use.
    pub(crate) fn encode17<B: BufMut>(&self, out: &mut B) {
        self.encode(out);
        out.put_u8(0);
    }
}

impl ExtName {
    /// No extension.
    pub const NONE: ExtName = ExtName(Text::EMPTY);

    /// Whether there is no extension.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl StorageId {
    /// The empty id: no storage.
    pub const NONE: StorageId = StorageId(Text::EMPTY);

    /// Whether this is [`StorageId::NONE`].
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The id that FastDFS gives to a storage without configured ids: its IPv4 address. An IPv6
    /// address does not fit; such clusters need configured ids.
    pub fn from_ip(ip: IpAddr) -> Result<StorageId, TextError> {
        StorageId::new(IpText::from(ip).as_str())
    }
}

impl Default for StorageId {
    fn default() -> Self {
        StorageId::NONE
    }
}

impl Version {
    /// No version known.
    pub const NONE: Version = Version(Text::EMPTY);
}

impl Default for Version {
    fn default() -> Self {
        Version::NONE
    }
}

/// How wide address fields are: the tracker setting `response_ip_addr_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IpSize {
    /// 16 bytes, 15 in query answers: what all clients understand.
    #[default]
    V4,
    /// 46 bytes, 45 in query answers.
    V6,
}

impl IpSize {
    /// Width in structures: 16 or 46.
    pub const fn field(self) -> usize {
        match self {
            IpSize::V4 => 16,
            IpSize::V6 => 46,
        }
    }

    /// Width in query answers: 15 or 45.
    pub const fn answer(self) -> usize {
        self.field() - 1
    }
}

/// An IP address as text, or nothing; what the protocol's address fields hold.
///
/// Kept as text so that answers are built by copying; [`IpText::addr`] gives the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IpText(Text<45>);

impl IpText {
    /// No address.
    pub const NONE: IpText = IpText(Text::EMPTY);

    /// Checks `text`: empty, or an IPv4 or IPv6 address without brackets.
    pub fn new(text: &str) -> Result<IpText, TextError> {
        if !text.is_empty() && text.parse::<IpAddr>().is_err() {
            return Err(TextError::NotAnAddress);
        }
        Text::new(text).map(IpText)
    }

    /// The address, unless there is none.
    pub fn addr(&self) -> Option<IpAddr> {
        self.as_str().parse().ok()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether there is no address.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a field, up to its first zero byte.
    pub fn decode(field: &[u8]) -> Result<IpText, WireError> {
        let bad = |reason| WireError::Text { what: "ip address", reason };
        let text = std::str::from_utf8(cut_at_nul(field)).map_err(|_| bad(TextError::Character))?;
        IpText::new(text).map_err(bad)
    }

    /// Writes a field of `width` bytes, zero padded. An address that is longer than the field is
    /// cut, as an IPv6 address in a 16-byte field would be.
    pub fn encode<B: BufMut>(&self, width: usize, out: &mut B) {
        let text = self.0.as_bytes();
        let shown = text.len().min(width);
        out.put_slice(&text[..shown]);
        out.put_bytes(0, width - shown);
    }
}

impl From<IpAddr> for IpText {
    fn from(ip: IpAddr) -> IpText {
        use std::io::Write;
        let mut buffer = [0u8; 45];
        let mut rest = &mut buffer[..];
        // No address is longer than 45 bytes as text.
        if write!(rest, "{ip}").is_err() {
            return IpText::NONE;
        }
        let len = 45 - rest.len();
        Text::from_ascii(&buffer[..len]).map(IpText).unwrap_or_default()
    }
}

impl FromStr for IpText {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::new(text)
    }
}

impl fmt::Display for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups() {
        assert_eq!(GroupName::new("group1").unwrap().as_str(), "group1");
        assert_eq!(GroupName::new(""), Err(TextError::Empty));
        assert_eq!(GroupName::new("group 1"), Err(TextError::Character));
        assert_eq!(GroupName::new("a1234567890123456"), Err(TextError::TooLong(16)));
        let full = GroupName::decode(b"a123456789012345").unwrap();
        assert_eq!(full.as_str().len(), 16);
        assert_eq!(GroupName::decode(b"g1\0garbage\xff").unwrap().as_str(), "g1");
        assert_eq!(GroupName::decode_known(&[0; 16]), Err(WireError::NoSuchGroup(TextError::Empty)));
    }

    #[test]
    fn order_is_that_of_the_text() {
        let mut ids: Vec<StorageId> = ["b", "10.0.0.2", "a10", "10.0.0.10", "a1"].map(|s| s.parse().unwrap()).into();
        ids.sort();
        let texts: Vec<&str> = ids.iter().map(StorageId::as_str).collect();
        assert_eq!(texts, ["10.0.0.10", "10.0.0.2", "a1", "a10", "b"]);
    }

    #[test]
    fn extensions_and_prefixes() {
        assert!(ExtName::new("").unwrap().is_empty());
        assert!(ExtName::new("tar.gz").is_ok());
        assert!(ExtName::new("a/b").is_err());
        assert!(Prefix::new("").is_err());
        assert!(Prefix::new("_150x150").is_ok());
        assert_eq!(StorageId::new("1234567890123456"), Err(TextError::TooLong(15)));
        assert!(StorageId::new("a b").is_err());
        assert!(StorageId::NONE.is_none());
    }

    #[test]
    fn addresses() {
        let ip: IpAddr = "fd77::36".parse().unwrap();
        let text = IpText::from(ip);
        assert_eq!((text.as_str(), text.addr()), ("fd77::36", Some(ip)));
        let mut out = Vec::new();
        text.encode(15, &mut out);
        assert_eq!(out, b"fd77::36\0\0\0\0\0\0\0");
        assert!(IpText::decode(&[0; 16]).unwrap().is_none());
        assert!(IpText::decode(b"10.0.0.256\0").is_err());
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255";
        assert_eq!(IpText::new(longest).unwrap().as_str(), longest);
        assert!(StorageId::from_ip("10.0.0.1".parse().unwrap()).is_ok());
        assert!(StorageId::from_ip("2001:db8:1111::2222".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn decode_any_field(field in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(name) = GroupName::decode(&field) {
                let mut out = Vec::new();
                name.encode(&mut out);
                prop_assert_eq!(out.len(), 16);
                prop_assert_eq!(GroupName::decode(&out), Ok(name));
            }
            if let Ok(ip) = IpText::decode(&field) {
                let mut out = Vec::new();
                ip.encode(46, &mut out);
                prop_assert_eq!(IpText::decode(&out), Ok(ip));
            }
            let _ = (StorageId::decode(&field), ExtName::decode(&field), Prefix::decode(&field));
        }

        #[test]
        fn any_address_is_text(ip: IpAddr) {
            prop_assert_eq!(IpText::from(ip).addr(), Some(ip));
        }
    }
}
