//! Reading and writing of packet bodies: the cursor, the encode trait, the error.

use bytes::{Buf, BufMut};

use crate::names::TextError;
use crate::status::Status;

/// A value that can be written as (part of) a packet body.
pub trait Encode {
    /// Appends the bytes of `self`, without a frame header.
    fn encode<B: BufMut>(&self, out: &mut B);
}

/// Nothing: the body of commands and answers that carry none.
impl Encode for () {
    fn encode<B: BufMut>(&self, _out: &mut B) {}
}

/// Bytes that are a body as they stand.
impl Encode for [u8] {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self);
    }
}

/// Why bytes from the network are not the message they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The body, or a part of it, is too short, too long or not a multiple of its record.
    #[error("{what}: {got} bytes do not have the length this message must have")]
    Length {
        /// The message or field.
        what: &'static str,
        /// The length that was found.
        got: usize,
    },
    /// A number is outside the range the field allows.
    #[error("{what}: {value} is out of range")]
    Range {
        /// The field.
        what: &'static str,
        /// The number that was found.
        value: i64,
    },
    /// A text field holds what it must not hold.
    #[error("{what}: {reason}")]
    Text {
        /// The field.
        what: &'static str,
        /// What is wrong with the text.
        reason: TextError,
    },
    /// A tracker was asked about a group whose name no group can have.
    #[error("no group can have this name: {0}")]
    NoSuchGroup(TextError),
    /// An address text is longer than any address.
    #[error("{what}: {got} bytes are too long for an address")]
    AddressTooLong {
        /// The field.
        what: &'static str,
        /// The length that was found.
        got: usize,
    },
}

impl WireError {
    /// The status byte to answer a request with that gave this error.
    pub fn status(&self) -> Status {
        match self {
            WireError::NoSuchGroup(_) => Status::ENOENT,
            WireError::AddressTooLong { .. } => Status::ENAMETOOLONG,
            _ => Status::EINVAL,
        }
    }
}

/// Reads a body from front to end; every step checks what is left.
pub(crate) struct Cursor<'a> {
    what: &'static str,
    total: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(what: &'static str, body: &'a [u8]) -> Self {
        Cursor { what, total: body.len(), rest: body }
    }

    /// A cursor over a body that must have exactly `len` bytes.
    pub(crate) fn exact(what: &'static str, body: &'a [u8], len: usize) -> Result<Self, WireError> {
        let cursor = Cursor::new(what, body);
        if body.len() == len { Ok(cursor) } else { Err(cursor.bad_length()) }
    }

    pub(crate) fn bad_length(&self) -> WireError {
        WireError::Length { what: self.what, got: self.total }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.bad_length()),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    /// A byte used as yes or no: anything but zero is yes.
    pub(crate) fn flag(&mut self) -> Result<bool, WireError> {
        Ok(self.u8()? != 0)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, WireError> {
        Ok(self.take(4)?.get_i32())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(self.take(4)?.get_u32())
    }

    pub(crate) fn i64(&mut self) -> Result<i64, WireError> {
        Ok(self.take(8)?.get_i64())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(self.take(8)?.get_u64())
    }

    /// A 64-bit number that is never negative.
    pub(crate) fn size(&mut self, what: &'static str) -> Result<u64, WireError> {
        let value = self.i64()?;
        u64::try_from(value).map_err(|_| WireError::Range { what, value })
    }

    /// A 32-bit number that is never negative.
    pub(crate) fn count(&mut self, what: &'static str) -> Result<u32, WireError> {
        let value = self.i32()?;
        u32::try_from(value).map_err(|_| WireError::Range { what, value: value.into() })
    }

    /// A port in 8 bytes.
    pub(crate) fn port64(&mut self) -> Result<u16, WireError> {
        let value = self.i64()?;
        u16::try_from(value).map_err(|_| WireError::Range { what: "port", value })
    }

    /// A port in 4 bytes.
    pub(crate) fn port32(&mut self) -> Result<u16, WireError> {
        let value = self.i32()?;
        u16::try_from(value).map_err(|_| WireError::Range { what: "port", value: value.into() })
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad_length()) }
    }
}

/// Splits a body into records of `size` bytes; the body must be a whole number of them.
pub(crate) fn records<'a>(
    what: &'static str,
    body: &'a [u8],
    size: usize,
) -> Result<std::slice::ChunksExact<'a, u8>, WireError> {
    if body.len().is_multiple_of(size) {
        Ok(body.chunks_exact(size))
    } else {
        Err(WireError::Length { what, got: body.len() })
    }
}

/// A sub-slice of a text body as `str`, refusing what is not UTF-8.
pub(crate) fn utf8<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Text { what, reason: TextError::Character })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_stops_at_the_end() {
        let mut c = Cursor::new("test", &[1, 0, 0, 0, 2, 9]);
        assert_eq!(c.u8(), Ok(1));
        assert_eq!(c.i32(), Ok(2));
        assert_eq!(c.i64(), Err(WireError::Length { what: "test", got: 6 }));
        assert_eq!(c.left(), 1);
        assert!(c.end().is_err());
    }

    #[test]
    fn negative_sizes_and_ports_are_refused() {
        assert!(Cursor::new("t", &[0xff; 8]).size("s").is_err());
        assert!(Cursor::new("t", &[0xff; 4]).count("s").is_err());
        assert!(Cursor::new("t", &[0xff; 8]).port64().is_err());
        assert!(Cursor::new("t", &70000i32.to_be_bytes()).port32().is_err());
    }

    #[test]
    fn statuses_of_errors() {
        let length = WireError::Length { what: "x", got: 1 };
        assert_eq!(length.status(), Status::EINVAL);
        assert_eq!(WireError::NoSuchGroup(TextError::Empty).status(), Status::ENOENT);
        let long = WireError::AddressTooLong { what: "x", got: 99 };
        assert_eq!(long.status(), Status::ENAMETOOLONG);
        assert!(!long.to_string().is_empty() && !length.to_string().is_empty());
    }
}
