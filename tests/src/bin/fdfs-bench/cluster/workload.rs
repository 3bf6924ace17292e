//! The requests of each operation.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fdfs_protocol::header::{frame, frame_head};
use fdfs_protocol::storage::UploadHead;
use fdfs_protocol::{Command, ExtName, GroupName, Header, RemoteName};

use super::load::Workload;
use crate::random::fill;

/// Every file begins with a stamp of its own, so that no server can store two of them once.
const STAMP_LEN: u64 = 8;
/// Longest body of an upload answer: group and the longest name.
const MAX_UPLOAD_ANSWER: usize = GroupName::LEN + RemoteName::MAX_LEN;

/// The bytes behind the stamp that all files share.
pub struct SharedContent {
    size: u64,
    stamp_len: usize,
    bytes: Vec<u8>,
}

impl SharedContent {
    /// Incompressible content for files of `size` bytes.
    pub fn new(size: u64) -> Result<Arc<SharedContent>> {
        let stamp_len = size.min(STAMP_LEN) as usize;
        let len = usize::try_from(size).context("--size is too large")? - stamp_len;
        let mut bytes = vec![0; len];
        fill(&mut bytes);
        Ok(Arc::new(SharedContent { size, stamp_len, bytes }))
    }
}

/// Names of stored files, as they stand in requests and answers: group field and name.
#[derive(Default)]
pub struct Names {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, n: usize) -> Option<&[u8]> {
        let end = *self.ends.get(n)?;
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    fn len(&self) -> usize {
        self.ends.len()
    }
}

/// QUERY_STORE_WITHOUT_GROUP_ONE.
pub struct Query;

impl Workload for Query {
    fn request(&mut self, head: &mut Vec<u8>) -> bool {
        if head.is_empty() {
            frame(Command::QueryStoreWithoutGroupOne, &(), head);
        }
        true
    }

    fn answer(&mut self, body_len: u64, _body: &[u8]) -> Result<()> {
        ensure!(body_len == 40 || body_len == 70, "{body_len} bytes where a storage address was expected");
        Ok(())
    }
}

/// UPLOAD_FILE.
pub struct Upload {
    content: Arc<SharedContent>,
    store_path: Option<u8>,
    next_stamp: u64,
    /// How many files to upload at most.
    limit: u64,
    /// Names of the files stored, unless they are not recorded.
    names: Option<Names>,
}

impl Upload {
    /// Uploads of `content` to the store path `store_path`; the files of lane `lane` differ from those of all others.
    pub fn new(content: Arc<SharedContent>, store_path: Option<u8>, lane: u64, limit: u64, record: bool) -> Upload {
        Upload { content, store_path, next_stamp: lane << 40, limit, names: record.then(Names::default) }
    }

    /// The files stored, with the stamp of the first.
    pub fn into_names(self) -> Names {
        self.names.unwrap_or_default()
    }
}

impl Workload for Upload {
    fn request(&mut self, head: &mut Vec<u8>) -> bool {
        if self.limit == 0 {
            return false;
        }
        self.limit -= 1;
        let stamp_len = self.content.stamp_len;
        if head.is_empty() {
            let upload = UploadHead { store_path: self.store_path, size: self.content.size, ext: ExtName::NONE };
            frame_head(Command::UploadFile, &upload, self.content.size, head);
            head.resize(head.len() + stamp_len, 0);
        }
        let at = head.len() - stamp_len;
        head[at..].copy_from_slice(&self.next_stamp.to_le_bytes()[..stamp_len]);
        self.next_stamp += 1;
        true
    }

    fn content(&self) -> &[u8] {
        &self.content.bytes
    }

    fn wanted(&self) -> usize {
        if self.names.is_some() { MAX_UPLOAD_ANSWER } else { 0 }
    }

    fn answer(&mut self, body_len: u64, body: &[u8]) -> Result<()> {
        let plausible = (GroupName::LEN as u64 + 11..=MAX_UPLOAD_ANSWER as u64).contains(&body_len);
        ensure!(plausible, "{body_len} bytes where a file name was expected");
        if let Some(names) = &mut self.names {
            names.push(body);
        }
        Ok(())
    }
}

/// DOWNLOAD_FILE, whole files in turn.
pub struct Download {
    names: Names,
    content: Arc<SharedContent>,
    first_stamp: u64,
    verify: bool,
    next: usize,
    asked: u64,
}

impl Download {
    /// Downloads of the files that lane `lane` stored with `content`.
    pub fn new(names: Names, content: Arc<SharedContent>, lane: u64, verify: bool) -> Download {
        Download { names, content, first_stamp: lane << 40, verify, next: 0, asked: 0 }
    }

    /// The files.
    pub fn into_names(self) -> Names {
        self.names
    }
}

impl Workload for Download {
    fn request(&mut self, head: &mut Vec<u8>) -> bool {
        let Some(name) = self.names.get(self.next) else { return false };
        head.clear();
        let body_len = (16 + name.len()) as u64;
        head.extend_from_slice(&Header::request(Command::DownloadFile, body_len).encode());
        head.extend_from_slice(&[0; 16]);
        head.extend_from_slice(name);
        self.asked = self.next as u64;
        self.next = (self.next + 1) % self.names.len();
        true
    }

    fn wanted(&self) -> usize {
        if self.verify { self.content.size as usize } else { 0 }
    }

    fn answer(&mut self, body_len: u64, body: &[u8]) -> Result<()> {
        ensure!(body_len == self.content.size, "{body_len} bytes of content instead of {}", self.content.size);
        if self.verify {
            let stamp = (self.first_stamp + self.asked).to_le_bytes();
            let (got, rest) = body.split_at(self.content.stamp_len);
            ensure!(got == &stamp[..got.len()] && rest == self.content.bytes, "the content is not what was stored");
        }
        Ok(())
    }
}

/// DELETE_FILE, each file once.
pub struct Delete {
    names: Names,
    next: usize,
}

impl Delete {
    /// Deletes `names`.
    pub fn new(names: Names) -> Delete {
        Delete { names, next: 0 }
    }
}

impl Workload for Delete {
    fn request(&mut self, head: &mut Vec<u8>) -> bool {
        let Some(name) = self.names.get(self.next) else { return false };
        head.clear();
        head.extend_from_slice(&Header::request(Command::DeleteFile, name.len() as u64).encode());
        head.extend_from_slice(name);
        self.next += 1;
        true
    }

    fn answer(&mut self, body_len: u64, _body: &[u8]) -> Result<()> {
        ensure!(body_len == 0, "{body_len} bytes where nothing was expected");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdfs_protocol::HEADER_LEN;

    #[test]
    fn upload_heads_carry_sizes_and_stamps() {
        let content = SharedContent::new(20).unwrap();
        let mut upload = Upload::new(content, Some(3), 1, 2, true);
        let mut head = Vec::new();
        assert!(upload.request(&mut head));
        assert_eq!(head.len(), HEADER_LEN + 15 + 8);
        assert_eq!(head[..HEADER_LEN], [0, 0, 0, 0, 0, 0, 0, 35, 11, 0]);
        assert_eq!(head[10..19], [3, 0, 0, 0, 0, 0, 0, 0, 20]);
        assert_eq!(upload.content().len(), 12);
        let first = head.clone();
        assert!(upload.request(&mut head));
        assert_eq!(head.len(), first.len());
        assert_ne!(head, first);
        assert!(!upload.request(&mut head), "the limit was two");
    }

    #[test]
    fn tiny_files_have_what_fits_of_a_stamp() {
        for size in [0u64, 1, 8] {
            let mut upload = Upload::new(SharedContent::new(size).unwrap(), None, 0, 1, false);
            let mut head = Vec::new();
            assert!(upload.request(&mut head));
            assert_eq!(head.len() as u64, HEADER_LEN as u64 + 15 + size);
            assert_eq!(upload.content().len(), 0);
        }
    }

    #[test]
    fn downloads_go_round_and_are_compared() {
        let content = SharedContent::new(12).unwrap();
        let mut names = Names::default();
        names.push(b"group1\0\0\0\0\0\0\0\0\0\0M00/00/00/first");
        names.push(b"group1\0\0\0\0\0\0\0\0\0\0M00/00/00/second");
        let mut download = Download::new(names, content.clone(), 5, true);
        let mut head = Vec::new();
        for expected in ["first", "second", "first"] {
            assert!(download.request(&mut head));
            assert!(head.ends_with(expected.as_bytes()));
        }
        let mut body = (5u64 << 40).to_le_bytes().to_vec();
        body.extend_from_slice(&content.bytes);
        assert!(download.answer(12, &body).is_ok());
        body[11] ^= 1;
        assert!(download.answer(12, &body).is_err());
        assert!(download.answer(11, &body[..11]).is_err());
    }

    #[test]
    fn each_file_is_deleted_once() {
        let mut names = Names::default();
        names.push(b"a");
        let mut delete = Delete::new(names);
        let mut head = Vec::new();
        assert!(delete.request(&mut head));
        assert_eq!(head, [0, 0, 0, 0, 0, 0, 0, 1, 12, 0, b'a']);
        assert!(!delete.request(&mut head));
    }
}
