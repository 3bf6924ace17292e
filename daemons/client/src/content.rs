//! What is sent as the content of a file: the caller's buffers, a piece of a file, or a stream.

use std::fs::File;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use tokio::io::AsyncRead;

/// Content to be stored. Its length is known before the first byte is sent: the protocol wants it first.
///
/// Buffers and files can be sent again, so an upload of them fails over to another storage at any
/// point; a stream can do so only until its first byte was taken.
#[derive(Debug)]
pub struct Content<'a> {
    pub(crate) kind: Kind<'a>,
}

pub(crate) enum Kind<'a> {
    Buffers { parts: &'a [Bytes], len: u64 },
    File { file: &'a File, range: Range<u64> },
    Reader { reader: &'a mut (dyn AsyncRead + Send + Unpin), len: u64, started: bool },
}

impl std::fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Buffers { len, .. } => write!(f, "Buffers({len} bytes)"),
            Kind::File { range, .. } => write!(f, "File({range:?})"),
            Kind::Reader { len, .. } => write!(f, "Reader({len} bytes)"),
        }
    }
}

impl<'a> Content<'a> {
    /// No content: an empty file.
    pub fn empty() -> Content<'static> {
        Content { kind: Kind::Buffers { parts: &[], len: 0 } }
    }

    /// The bytes of `parts`, one after the other; sent together with the request in one system call
    /// where the socket takes them.
    pub fn buffers(parts: &'a [Bytes]) -> Self {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        Self { kind: Kind::Buffers { parts, len } }
    }

    /// The bytes `range` of `file`, sent with `sendfile(2)`: no copy through this process.
    ///
    /// The reading happens on the thread of the runtime, in pieces: right for what is in the page
    /// cache. A file that ends before `range` does fails the operation.
    pub fn file(file: &'a File, range: Range<u64>) -> Self {
        Self { kind: Kind::File { file, range } }
    }

    /// The whole of `file`, with the size it has now.
    pub fn whole_file(file: &'a File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::file(file, 0..len))
    }

    /// The next `len` bytes of `reader`. How long the reader may take is its own affair (though
    /// storages lose patience after their network timeout).
    pub fn reader(reader: &'a mut (dyn AsyncRead + Send + Unpin), len: u64) -> Self {
        Self { kind: Kind::Reader { reader, len, started: false } }
    }

    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match &self.kind {
            Kind::Buffers { len, .. } | Kind::Reader { len, .. } => *len,
            Kind::File { range, .. } => range.end.saturating_sub(range.start),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the content can be sent more than once.
    pub(crate) fn repeatable(&self) -> bool {
        !matches!(self.kind, Kind::Reader { .. })
    }

    /// Whether the content can still be sent from its start.
    pub(crate) fn replayable(&self) -> bool {
        !matches!(self.kind, Kind::Reader { started: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert!(Content::empty().is_empty());
        let parts = [Bytes::from_static(b"ab"), Bytes::from_static(b""), Bytes::from_static(b"c")];
        assert_eq!(Content::buffers(&parts).len(), 3);
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        assert_eq!(Content::whole_file(&file).unwrap().len(), 10);
        assert_eq!(Content::file(&file, 4..6).len(), 2);
        #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not wrap around")]
        let backwards = Content::file(&file, 6..4);
        assert!(backwards.is_empty());
        let mut reader: &[u8] = b"xyz";
        assert!(Content::reader(&mut reader, 3).replayable());
    }
}
