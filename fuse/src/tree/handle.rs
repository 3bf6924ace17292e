//! Open handles: what the numbers that the kernel holds stand for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fdfs_index::Ino;
use parking_lot::Mutex;

use super::error::{Result, TreeError};
use super::inode::OpenInode;
use super::pins::Pin;
use crate::content::Reader;

/// The number of an open handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// An open regular file.
pub(crate) struct FileHandle {
    pub(crate) inode: Arc<OpenInode>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Every write goes to the end.
    pub(crate) append: bool,
    /// Whether reading through it leaves the access time alone (`O_NOATIME`, or it was marked already).
    pub(crate) atime_settled: AtomicBool,
    /// The newest version of the inode that this handle made. 0: it has not written.
    pub(crate) wrote: AtomicU64,
    /// Reads stored content; replaced when the inode gets another content.
    pub(crate) reader: Mutex<Option<OpenReader>>,
}

/// A reader of one stored file, which cannot be deleted meanwhile.
#[derive(Clone)]
pub(crate) struct OpenReader {
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) pin: Arc<Pin>,
}

/// An open directory.
pub(crate) struct DirHandle {
    pub(crate) ino: Ino,
    /// Entries with higher cookies were made after the listing began and are not part of it.
    pub(crate) horizon: AtomicU64,
}

#[derive(Clone)]
enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

/// All open handles. Numbers are not used twice.
pub(crate) struct HandleTable {
    handles: Mutex<HashMap<u64, Handle>>,
    next: AtomicU64,
}

impl Default for HandleTable {
    fn default() -> HandleTable {
        HandleTable { handles: Mutex::default(), next: AtomicU64::new(1) }
    }
}

impl HandleTable {
    pub(crate) fn add_file(&self, handle: FileHandle) -> Fh {
        self.add(Handle::File(Arc::new(handle)))
    }

    pub(crate) fn add_dir(&self, handle: DirHandle) -> Fh {
        self.add(Handle::Dir(Arc::new(handle)))
    }

    fn add(&self, handle: Handle) -> Fh {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().insert(fh, handle);
        Fh(fh)
    }

    pub(crate) fn file(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        match self.handles.lock().get(&fh.0) {
            Some(Handle::File(handle)) => Ok(handle.clone()),
            _ => Err(TreeError::BadHandle),
        }
    }

    pub(crate) fn dir(&self, fh: Fh) -> Result<Arc<DirHandle>> {
        match self.handles.lock().get(&fh.0) {
            Some(Handle::Dir(handle)) => Ok(handle.clone()),
            _ => Err(TreeError::BadHandle),
        }
    }

    pub(crate) fn remove_file(&self, fh: Fh) -> Option<Arc<FileHandle>> {
        match self.handles.lock().remove(&fh.0) {
            Some(Handle::File(handle)) => Some(handle),
            _ => None,
        }
    }

    pub(crate) fn remove_dir(&self, fh: Fh) {
        self.handles.lock().remove(&fh.0);
    }

    /// All open files, as of now.
    pub(crate) fn files(&self) -> Vec<Fh> {
        let handles = self.handles.lock();
        handles.iter().filter(|(_, h)| matches!(h, Handle::File(_))).map(|(&fh, _)| Fh(fh)).collect()
    }
}
