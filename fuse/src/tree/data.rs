//! Opening, reading, writing and releasing regular files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fdfs_index::{Attr, FileKind, Ino, NewInode, Timestamp};
use parking_lot::Mutex;

use super::error::{Result, TreeError};
use super::extension;
use super::handle::{Fh, FileHandle, OpenReader};
use super::inode::{Body, OpenInode, State, object};
use super::names::Caller;
use super::{Atime, Core};
use crate::content::ContentError;

/// The attribute that Linux keeps file capabilities in; they are lost with every change of the content.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end (`O_APPEND`).
    pub append: bool,
    /// The content is cut to nothing (`O_TRUNC`).
    pub truncate: bool,
    /// Reading leaves the access time alone (`O_NOATIME`).
    pub no_atime: bool,
    /// Cutting takes set-user-ID and set-group-ID away: the caller is not privileged to keep them.
    pub kill_suid: bool,
}

/// An opened file.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// The handle, to be [released](Core::release).
    pub fh: Fh,
    /// Whether a flush of this handle can have anything to do.
    pub flushes: bool,
    /// Whether what was read before may have been wrong, so that none of it is to be used again.
    pub doubtful: bool,
}

/// How a write came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// The kernel writes back pages that a process has changed in its memory: the offset counts even with `O_APPEND`, and
    /// the handle is any that may write.
    pub from_page_cache: bool,
    /// The writer is not privileged to keep set-user-ID and set-group-ID.
    pub kill_suid: bool,
}

impl Core {
    /// Opens a regular file.
    pub fn open(self: &Arc<Self>, ino: Ino, access: Access) -> Result<Opened> {
        if access.write || access.truncate {
            self.writable()?;
        }
        let attr = self.index.getattr(ino)?;
        match attr.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(TreeError::IsDirectory),
            _ => return Err(TreeError::Invalid("only regular files are opened here")),
        }
        let opened = self.open_known(ino, access, None)?;
        if access.truncate {
            let handle = self.handles.file(opened.fh)?;
            let mut state = handle.inode.lock();
            if let Err(error) = self.cut(&handle, &mut state, access.kill_suid) {
                drop(state);
                self.release(opened.fh);
                return Err(error);
            }
        }
        Ok(opened)
    }

    /// Creates a regular file and opens it.
    pub fn create(&self, dir: Ino, name: &[u8], mode: u32, caller: Caller, access: Access) -> Result<(Attr, Opened)> {
        self.writable()?;
        let (uid, gid, mode) = self.ownership(dir, FileKind::Regular, mode, caller)?;
        let new = NewInode { kind: FileKind::Regular, mode, uid, gid, rdev: 0, target: None };
        let attr = self.index.create(dir, name, &new, Timestamp::now())?;
        let opened = self.open_known(attr.ino, access, Some((dir, name)))?;
        Ok((attr, opened))
    }

    /// Opens a regular file; `new` is the entry it was just created with.
    fn open_known(&self, ino: Ino, access: Access, new: Option<(Ino, &[u8])>) -> Result<Opened> {
        let inode = self.open.enter(&self.index, ino)?;
        if access.write || new.is_some() {
            let mut state = inode.lock();
            state.writers += usize::from(access.write);
            if let Some((dir, name)) = new {
                let _ = inode.dir.set(dir);
                state.without_capability = true;
                state.extension = extension::of_name(name);
                // Its creation: closing a file that was never written waits for that.
                state.queued += 1;
            }
        }
        let atime_settled = access.no_atime || self.options.read_only || self.options.atime == Atime::Never;
        let fh = self.handles.add_file(FileHandle {
            inode,
            readable: access.read,
            writable: access.write,
            append: access.append,
            atime_settled: AtomicBool::new(atime_settled),
            wrote: AtomicU64::new(0),
            reader: Mutex::new(None),
        });
        Ok(Opened { fh, flushes: access.write || access.truncate, doubtful: self.doubtful.lock().remove(&ino) })
    }

    fn cut(&self, handle: &FileHandle, state: &mut State, kill_suid: bool) -> Result<()> {
        let ino = handle.inode.ino;
        let now = Timestamp::now();
        self.drop_privileges(ino, state, kill_suid, now)?;
        let size = state.size().map_or_else(|| self.index.getattr(ino).map(|attr| attr.size), Ok)?;
        if size == 0 {
            return self.touch(ino, state, now);
        }
        self.stage_nothing(ino, state)?;
        handle.wrote.store(state.changed(now), Ordering::Relaxed);
        Ok(())
    }

    /// Closes a handle for good. What it wrote and no flush has stored is stored in the background.
    pub fn release(self: &Arc<Self>, fh: Fh) {
        let Some(handle) = self.handles.remove_file(fh) else { return };
        let inode = &handle.inode;
        self.open.leave(inode);
        let mut state = inode.lock();
        state.writers -= usize::from(handle.writable);
        let mut settled = Vec::new();
        let mut retired = None;
        self.abandon_if_lost(inode, &mut state);
        if !state.dirty() {
            retired = self.retire_clean(&mut state);
        } else if state.writers == 0 && !state.seals.failing() && !self.doomed(inode.ino) {
            settled = self.store_now(inode, &mut state, None);
        }
        drop(state);
        self.drop_retired(retired);
        self.settle(inode, settled);
        self.open.forget_idle(inode);
    }

    /// Reads up to `len` bytes at `offset`; fewer at the end of the file. `done` is called once, possibly before this
    /// returns, and then perhaps under the lock of the inode: it must not call the tree.
    pub fn read<F>(&self, fh: Fh, offset: u64, len: usize, done: F)
    where
        F: for<'a> FnOnce(Result<&'a [u8]>) + Send + 'static,
    {
        match self.handles.file(fh) {
            Ok(handle) if handle.readable => self.read_through(&handle, offset, len, done),
            _ => done(Err(TreeError::BadHandle)),
        }
    }

    pub(crate) fn read_through<F>(&self, handle: &FileHandle, offset: u64, len: usize, done: F)
    where
        F: for<'a> FnOnce(Result<&'a [u8]>) + Send + 'static,
    {
        let mut state = handle.inode.lock();
        let suspect = self.suspect(handle.inode.ino);
        if let Body::Staged(staged) = &mut state.body {
            let base = staged.base.clone();
            let done = move |result: std::result::Result<&[u8], ContentError>| {
                if let (Err(error), Some(base)) = (&result, &base) {
                    suspect(base.file_id(), error);
                }
                done(result.map_err(TreeError::from));
                drop(base);
            };
            staged.stage.read(offset, len, Box::new(done));
            drop(state);
            return self.mark_read(handle);
        }
        let reader = self.reader(handle, &state, offset, len);
        drop(state);
        match reader {
            Ok(Some((OpenReader { reader, pin }, len))) => {
                self.mark_read(handle);
                let done = move |result: std::result::Result<&[u8], ContentError>| {
                    if let Err(error) = &result {
                        suspect(pin.file_id(), error);
                    }
                    done(result.map_err(TreeError::from));
                    drop(pin);
                };
                reader.read(offset, len, Box::new(done));
            }
            Ok(None) => {
                self.mark_read(handle);
                done(Ok(&[]));
            }
            Err(error) => done(Err(error)),
        }
    }

    /// What is made of a failure to read the inode's content: the kernel's pages of it may be wrong, or all copies are lost.
    pub(crate) fn suspect(&self, ino: Ino) -> impl FnOnce(&str, &ContentError) + Send + 'static {
        let (doubtful, index) = (self.doubtful.clone(), self.index.clone());
        move |file_id, error| {
            if let ContentError::Corrupt(_) | ContentError::Damaged(_) = error {
                doubtful.lock().insert(ino);
            }
            if error.is_loss() && index.content_lost(ino, file_id).is_ok_and(|news| news) {
                tracing::error!(ino = ino.0, "{error}; storing the same content again brings it back");
            }
        }
    }

    /// What reads the stored content of the inode through this handle, and how much may be read; `None`: nothing is there.
    fn reader(
        &self,
        handle: &FileHandle,
        state: &State,
        offset: u64,
        len: usize,
    ) -> Result<Option<(OpenReader, usize)>> {
        let (content, size) = match &state.body {
            Body::Copying { source, covered, .. } => (source.clone(), *covered),
            Body::Index | Body::Staged(_) => match self.index.content(handle.inode.ino)? {
                Some(content) => {
                    let size = content.size;
                    (content, size)
                }
                None => return Ok(None),
            },
        };
        let len = usize::try_from(size.saturating_sub(offset)).map_or(len, |left| len.min(left));
        if len == 0 {
            return Ok(None);
        }
        // Under the lock of the inode: the content cannot be replaced, and so not collected, before it is pinned. (One
        // that is lost can, when another file brings it back in this moment; then the next read finds it.)
        let mut open = handle.reader.lock();
        if let Some(known) = &*open
            && *known.pin.file_id() == *content.file_id
        {
            return Ok(Some((known.clone(), len)));
        }
        let pin = Arc::new(self.pins.pin(&content.file_id));
        let reader = OpenReader { reader: Arc::from(self.store.open(&object(&content))), pin };
        *open = Some(reader.clone());
        Ok(Some((reader, len)))
    }

    /// Writes `data` at `offset` (at the end, with `O_APPEND`); the answer is the number of bytes written, which is less
    /// only where the file reaches its largest size.
    pub fn write(&self, fh: Fh, offset: u64, data: &[u8], how: Written) -> Result<usize> {
        let handle = self.handles.file(fh)?;
        if !handle.writable {
            return Err(TreeError::BadHandle);
        }
        let mut state = handle.inode.lock();
        let written = self.write_locked(&handle.inode, &mut state, handle.append, offset, data, how)?;
        if written > 0 && !how.from_page_cache {
            handle.wrote.store(state.version, Ordering::Relaxed);
        }
        Ok(written)
    }

    /// The write itself, under the lock of the inode.
    pub(crate) fn write_locked(
        &self,
        inode: &OpenInode,
        state: &mut State,
        append: bool,
        offset: u64,
        data: &[u8],
        how: Written,
    ) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let now = Timestamp::now();
        self.drop_privileges(inode.ino, state, how.kill_suid, now)?;
        let limit = self.options.max_file_size;
        let staged = self.staged(inode.ino, state)?;
        let offset = if append && !how.from_page_cache { staged.stage.size() } else { offset };
        let room = limit.saturating_sub(offset);
        if room == 0 {
            return Err(TreeError::TooLarge { limit });
        }
        let data = &data[..usize::try_from(room).map_or(data.len(), |room| data.len().min(room))];
        staged.stage.write(offset, data)?;
        let version = state.changed(now);
        if how.from_page_cache {
            state.mapped = version;
        }
        Ok(data.len())
    }
}
