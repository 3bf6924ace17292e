//! A cluster whose files lie on this host: they can be read, and brought to stable storage, without a storage between.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::ContentError;
use super::reading::read_cached;
use super::remote::Download;

type Locate = dyn Fn(&str) -> Option<PathBuf> + Send + Sync;

/// Finds the files of a cluster on this host by their file IDs.
#[derive(Clone)]
pub struct Disk {
    locate: Arc<Locate>,
}

impl Disk {
    /// With a function that says where the file of a file ID is, or would be; `None` if it cannot be here.
    pub fn new(locate: impl Fn(&str) -> Option<PathBuf> + Send + Sync + 'static) -> Disk {
        Disk { locate: Arc::new(locate) }
    }

    /// Brings a file, and its name, to stable storage. Blocks until the disk has it.
    pub fn persist(&self, file_id: &str) -> io::Result<()> {
        let path = (self.locate)(file_id).ok_or(io::ErrorKind::NotFound)?;
        File::open(&path)?.sync_all()?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// Begins to read a range of a file, if the file is here and as long as that.
    pub(crate) fn read(&self, file_id: &str, range: Range<u64>) -> Option<LocalRange> {
        let file = File::open((self.locate)(file_id)?).ok()?;
        let metadata = file.metadata().ok()?;
        (metadata.is_file() && metadata.len() >= range.end).then_some(LocalRange { file, range })
    }
}

/// A range of a file of this host, being read in sequence.
pub struct LocalRange {
    file: File,
    range: Range<u64>,
}

impl Download for LocalRange {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<(), ContentError> {
        if !read_cached(&self.file, buf, self.range.start) {
            // Not in memory: the disk begins with all of the range, while another thread takes over what else is to do.
            self.advise();
            tokio::task::block_in_place(|| self.file.read_exact_at(buf, self.range.start))
                .map_err(|e| ContentError::Local { path: "the storage's own file".into(), source: Arc::new(e) })?;
        }
        self.range.start += buf.len() as u64;
        Ok(())
    }
}

impl LocalRange {
    fn advise(&self) {
        let (Ok(start), Ok(len)) =
            (libc::off_t::try_from(self.range.start), libc::off_t::try_from(self.range.end - self.range.start))
        else {
            return;
        };
        // SAFETY: the descriptor is open while `self.file` lives; the call takes no pointers. It is advice: its result
        // changes nothing.
        unsafe { libc::posix_fadvise(self.file.as_raw_fd(), start, len, libc::POSIX_FADV_WILLNEED) };
    }
}
