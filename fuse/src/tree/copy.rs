//! `copy_file_range`: a whole file becomes a second reference to its content; anything else is copied through the stage.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fdfs_index::{Along, Content, Ino, Timestamp};
use parking_lot::Mutex;

use super::Core;
use super::data::Written;
use super::error::{Done, Result, TreeError};
use super::handle::{Fh, FileHandle};
use super::inode::{Body, State};
use super::pins::Pin;

/// Most bytes of a real copy in one call; the caller asks again for the rest.
const PIECE: usize = 4 << 20;

impl Core {
    /// Copies up to `len` bytes from one open file into another; the answer is the number of bytes copied, 0 at the end
    /// of the source.
    ///
    /// A copy into an empty file, from the start of a file whose content is stored, moves no data: it is noted how far
    /// it went, and when it reaches the end of the source the file gets a reference to the same content. The kernel
    /// splits large copies, so this may take several calls.
    pub fn copy_range(self: &Arc<Self>, from: (Fh, u64), to: (Fh, u64), len: u64, kill_suid: bool, done: Done<u64>) {
        let handles = self.writable().and_then(|()| {
            let (source, target) = (self.handles.file(from.0)?, self.handles.file(to.0)?);
            if source.readable && target.writable { Ok((source, target)) } else { Err(TreeError::BadHandle) }
        });
        let (source, target) = match handles {
            Ok(handles) => handles,
            Err(error) => return done(Err(error)),
        };
        if from.1 == to.1 && len > 0 && !Arc::ptr_eq(&source.inode, &target.inode) {
            match self.copy_by_reference(&source, &target, from.1, len, kill_suid) {
                Ok(None) => {}
                Ok(Some(copied)) => return done(Ok(copied)),
                Err(error) => return done(Err(error)),
            }
        }
        self.copy_bytes(&source, from.1, target, to.1, len, kill_suid, done);
    }

    /// `None`: it cannot be done this way.
    fn copy_by_reference(
        &self,
        source: &FileHandle,
        target: &FileHandle,
        offset: u64,
        len: u64,
        kill_suid: bool,
    ) -> Result<Option<u64>> {
        let Some((content, pin)) = self.stored_content(source)? else { return Ok(None) };
        if offset >= content.size {
            return Ok(None);
        }
        let mut state = target.inode.lock();
        if !self.continues_copy(target, &state, &content, offset)? {
            return Ok(None);
        }
        let now = Timestamp::now();
        self.drop_privileges(target.inode.ino, &mut state, kill_suid, now)?;
        let copied = len.min(content.size - offset);
        let covered = offset + copied;
        if covered == content.size {
            let (from, to) = (source.inode.ino, target.inode.ino);
            let unstage = matches!(&state.body, Body::Staged(staged) if staged.kept);
            let along = Along { unstage, ..now.into() };
            if self.index.clone_content(from, to, content.id, along)?.is_none() {
                // It has been replaced in this moment.
                return Ok(None);
            }
            // What was staged (an empty file, or the copy so far) is replaced as a whole.
            self.replace_body(to, &mut state, Body::Index);
            state.seals.forgive();
            let version = state.changed(now);
            state.attached = version;
            state.times = None;
            state.queued += 1;
            handle_wrote(target, version);
        } else {
            state.body = Body::Copying { source: content, covered, _pin: pin };
            let version = state.changed(now);
            handle_wrote(target, version);
        }
        Ok(Some(copied))
    }

    /// The content of an open file, if all of it is stored and can be shared.
    fn stored_content(&self, handle: &FileHandle) -> Result<Option<(Content, Pin)>> {
        let state = handle.inode.lock();
        if !Core::clean(&state) {
            return Ok(None);
        }
        Ok(self.pinned_content(handle.inode.ino)?.filter(|(content, _)| !content.mutable))
    }

    /// The content that the index has of an inode, and what keeps it from being deleted.
    pub(crate) fn pinned_content(&self, ino: Ino) -> Result<Option<(Content, Pin)>> {
        loop {
            let Some(content) = self.index.content(ino)? else { return Ok(None) };
            let pin = self.pins.pin(&content.file_id);
            // Still referred to after the pin was set: nobody has begun to delete it.
            if self.index.content(ino)?.is_some_and(|now| now.file_id == content.file_id) {
                return Ok(Some((content, pin)));
            }
        }
    }

    /// Whether a piece at `offset` begins or continues a copy of this content. A seal under way would attach older
    /// content afterwards, so it excludes the short cut.
    fn continues_copy(&self, target: &FileHandle, state: &State, content: &Content, offset: u64) -> Result<bool> {
        if state.seals.running() {
            return Ok(false);
        }
        Ok(match &state.body {
            Body::Copying { source, covered, .. } => source.id == content.id && *covered == offset,
            Body::Staged(staged) => offset == 0 && staged.stage.size() == 0,
            Body::Index => offset == 0 && self.index.getattr(target.inode.ino)?.size == 0,
        })
    }

    #[allow(clippy::too_many_arguments)] // Source and target as they come from the system call.
    fn copy_bytes(
        self: &Arc<Self>,
        source: &Arc<FileHandle>,
        offset: u64,
        target: Arc<FileHandle>,
        to: u64,
        len: u64,
        kill_suid: bool,
        done: Done<u64>,
    ) {
        let core = self.clone();
        let write = move |data: Result<Vec<u8>>| {
            let written = data.and_then(|data| {
                let mut state = target.inode.lock();
                let how = Written { kill_suid, ..Written::default() };
                let written = core.write_locked(&target.inode, &mut state, false, to, &data, how)?;
                if written > 0 {
                    handle_wrote(&target, state.version);
                }
                Ok(written as u64)
            });
            done(written);
        };
        let len = usize::try_from(len).map_or(PIECE, |len| len.min(PIECE));
        self.read_aside(source, offset, len, write);
    }

    /// Reads bytes for `then`, which runs without any lock: a read may complete under the lock of its inode.
    fn read_aside<F>(&self, source: &FileHandle, offset: u64, len: usize, then: F)
    where
        F: FnOnce(Result<Vec<u8>>) + Send + 'static,
    {
        /// Who comes second, the end of the call or the data, goes on.
        enum Meeting<F> {
            Reading(F),
            Returned(F),
            Arrived(F, Result<Vec<u8>>),
            Over,
        }
        let meeting = Arc::new(Mutex::new(Meeting::Reading(then)));
        let theirs = meeting.clone();
        self.read_through(source, offset, len, move |result: Result<&[u8]>| {
            let data = result.map(<[u8]>::to_vec);
            let mut meeting = theirs.lock();
            match std::mem::replace(&mut *meeting, Meeting::Over) {
                Meeting::Reading(then) => *meeting = Meeting::Arrived(then, data),
                Meeting::Returned(then) => {
                    drop(meeting);
                    then(data);
                }
                Meeting::Arrived(..) | Meeting::Over => {}
            }
        });
        let mut met = meeting.lock();
        match std::mem::replace(&mut *met, Meeting::Over) {
            Meeting::Reading(then) => *met = Meeting::Returned(then),
            Meeting::Arrived(then, data) => {
                drop(met);
                then(data);
            }
            Meeting::Returned(_) | Meeting::Over => {}
        }
    }
}

fn handle_wrote(handle: &FileHandle, version: u64) {
    handle.wrote.store(version, Ordering::Relaxed);
}
