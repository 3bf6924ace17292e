//! Reading the own binlog, record by record, up to its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fdfs_protocol::binlog::{Record, RecordError};

use crate::blocking;
use crate::disk::binlog::{Binlog, Place};

/// Bytes read at once.
pub(super) const CHUNK: u64 = 256 * 1024;
/// What was written a moment ago is in memory; more than this may come from the disk, on another thread.
const RECENT: u64 = 64 * 1024;
/// A piece of a file without a line end that is longer than this is no line.
pub(super) const MAX_LINE: usize = 4096;

/// A line of the binlog.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are records, and none is kept")]
pub enum Line {
    /// A record.
    Record(Record),
    /// What is no record: some servers write such lines.
    Malformed(RecordError, String),
}

/// A reading position in the binlog.
#[derive(Debug)]
pub struct Reader {
    binlog: Arc<Binlog>,
    /// Where the next line begins.
    at: Place,
    file: Option<(u32, Arc<File>)>,
    chunk: Vec<u8>,
    /// What of `chunk` has been given out.
    used: usize,
}

impl Reader {
    /// Begins at `at`.
    pub fn new(binlog: Arc<Binlog>, at: Place) -> Reader {
        Reader { binlog, at, file: None, chunk: Vec::new(), used: 0 }
    }

    /// Where the next line begins, or will.
    pub fn place(&self) -> Place {
        self.at
    }

    /// The next line and where it ends; `None` at the end of the binlog.
    ///
    /// # Errors
    /// What reading reported, with the path in the text.
    pub async fn next(&mut self) -> io::Result<Option<(Line, Place)>> {
        loop {
            let left = &self.chunk[self.used..];
            let whole = left.iter().position(|&b| b == b'\n').map(|end| end + 1);
            // A line that is too long is given out in pieces, as malformed.
            if let Some(len) = whole.or((left.len() >= MAX_LINE).then_some(left.len())) {
                return Ok(Some(self.take(len)));
            }
            let end = self.binlog.place();
            let read_to = self.at.offset + left.len() as u64;
            if self.at >= end && self.at.file >= end.file {
                return Ok(None);
            }
            let file = self.open(self.at.file)?;
            let limit = if self.at.file == end.file { end.offset } else { file.metadata()?.len() };
            if read_to < limit {
                self.fill(file, read_to, (limit - read_to).min(CHUNK)).await?;
            } else if self.at.file == end.file {
                return Ok(None);
            } else if !self.chunk[self.used..].is_empty() {
                // The file was left with an incomplete line.
                return Ok(Some(self.take(self.chunk.len() - self.used)));
            } else {
                self.at = Place { file: self.at.file + 1, offset: 0 };
                self.file = None;
            }
        }
    }

    fn take(&mut self, len: usize) -> (Line, Place) {
        let bytes = &self.chunk[self.used..self.used + len];
        let line = match Record::parse(bytes) {
            Ok(record) => Line::Record(record),
            Err(e) => Line::Malformed(e, String::from_utf8_lossy(bytes).trim_end().to_owned()),
        };
        self.used += len;
        self.at.offset += len as u64;
        (line, self.at)
    }

    fn open(&mut self, number: u32) -> io::Result<Arc<File>> {
        if let Some((open, file)) = &self.file
            && *open == number
        {
            return Ok(file.clone());
        }
        let file = Arc::new(open(&self.binlog, number)?);
        self.file = Some((number, file.clone()));
        Ok(file)
    }

    async fn fill(&mut self, file: Arc<File>, from: u64, len: u64) -> io::Result<()> {
        self.chunk.drain(..self.used);
        self.used = 0;
        let read = move || {
            let mut buf = vec![0; len as usize];
            file.read_exact_at(&mut buf, from).map(|()| buf)
        };
        let read = if len <= RECENT { read() } else { blocking::run(read).await };
        let path = self.binlog.file_path(self.at.file);
        let bytes = read.map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display())))?;
        self.chunk.extend_from_slice(&bytes);
        Ok(())
    }
}

/// Opens a file of the binlog.
pub(super) fn open(binlog: &Binlog, number: u32) -> io::Result<File> {
    let path = binlog.file_path(number);
    File::open(&path).map_err(|e| {
        let packed = path.with_extension(format!("{number:03}.gz"));
        let remedy = match e.kind() {
            io::ErrorKind::NotFound if packed.exists() => format!(" (unpack it: gunzip {})", packed.display()),
            _ => String::new(),
        };
        io::Error::new(e.kind(), format!("cannot open {}: {e}{remedy}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(i: u32) -> String {
        format!("{i} C M00/00/00/file{i:06}\n")
    }

    async fn times(reader: &mut Reader) -> Vec<u32> {
        let mut found = Vec::new();
        while let Some((line, _)) = reader.next().await.unwrap() {
            match line {
                Line::Record(record) => found.push(record.timestamp),
                Line::Malformed(..) => found.push(0),
            }
        }
        found
    }

    #[tokio::test]
    async fn lines_come_in_order_over_files_and_places_resume() {
        let tmp = tempfile::tempdir().unwrap();
        let binlog = Arc::new(Binlog::open_with(tmp.path(), 5000).unwrap());
        let mut reader = Reader::new(binlog.clone(), Place { file: 0, offset: 0 });
        assert!(reader.next().await.unwrap().is_none());
        for i in 1..=1000 {
            binlog.append(line(i).as_bytes()).unwrap();
        }
        let mut places = Vec::new();
        for i in 1..=1000 {
            let (line, end) = reader.next().await.unwrap().unwrap();
            assert!(matches!(line, Line::Record(r) if r.timestamp == i));
            places.push(end);
        }
        assert!(reader.next().await.unwrap().is_none());
        assert!(places.last().unwrap().file > 3);
        let mut middle = Reader::new(binlog.clone(), places[499]);
        assert_eq!(times(&mut middle).await, (501..=1000).collect::<Vec<_>>());
        // What comes later wakes those who wait.
        let waiting = tokio::spawn({
            let (binlog, at) = (binlog.clone(), reader.place());
            async move { binlog.beyond(at).await }
        });
        tokio::task::yield_now().await;
        binlog.append(line(1001).as_bytes()).unwrap();
        waiting.await.unwrap();
        assert_eq!(times(&mut reader).await, [1001]);
    }

    #[tokio::test]
    async fn what_is_no_record_is_given_out_and_passed() {
        let tmp = tempfile::tempdir().unwrap();
        let binlog = Arc::new(Binlog::open(tmp.path()).unwrap());
        binlog.append(b"1795220915 l \n").unwrap();
        binlog.append(&[b'x'; 3 * MAX_LINE]).unwrap();
        binlog.append(b"\n").unwrap();
        binlog.append(line(7).as_bytes()).unwrap();
        let mut reader = Reader::new(binlog, Place { file: 0, offset: 0 });
        let found = times(&mut reader).await;
        assert_eq!((found.first(), found.last()), (Some(&0), Some(&7)));
        assert!(found[..found.len() - 1].iter().all(|&t| t == 0));
    }

    #[tokio::test]
    async fn a_compressed_file_is_named_with_the_remedy() {
        let tmp = tempfile::tempdir().unwrap();
        let binlog = Arc::new(Binlog::open_with(tmp.path(), 10).unwrap());
        binlog.append(line(1).as_bytes()).unwrap();
        std::fs::rename(binlog.file_path(0), tmp.path().join("sync/binlog.000.gz")).unwrap();
        let e = Reader::new(binlog, Place { file: 0, offset: 0 }).next().await.unwrap_err().to_string();
        assert!(e.contains("gunzip"), "{e}");
    }
}
