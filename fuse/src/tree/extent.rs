//! Ranges of files (`fallocate`, `lseek`) and the space of the whole (`statfs`).

use std::sync::atomic::Ordering;

use fdfs_index::{FileKind, Ino, SetAttr, Timestamp};

use super::Core;
use super::error::{Result, TreeError};
use super::handle::Fh;

/// What `fallocate` does with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Makes sure that the file reaches to the end of the range.
    Extend,
    /// Reserves space without changing the size; nothing to do here beyond looking whether there is space.
    KeepSize,
    /// Zeros what is inside the file; the size stays.
    PunchHole,
    /// Zeros the range and makes the file reach to its end, or not.
    ZeroRange {
        /// Whether the size stays.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// The answer to `statfs`, in units of [`Statistics::BLOCK`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// All blocks.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Inodes in use.
    pub files: u64,
    /// Inodes that can still be made.
    pub files_free: u64,
}

impl Statistics {
    /// Size of a block in bytes.
    pub const BLOCK: u32 = 4096;
}

impl Core {
    /// Changes the space of a range of an open file.
    pub fn fallocate(&self, fh: Fh, offset: u64, len: u64, what: Allocate, kill_suid: bool) -> Result<()> {
        self.writable()?;
        let handle = self.handles.file(fh)?;
        if !handle.writable {
            return Err(TreeError::BadHandle);
        }
        let limit = self.options.max_file_size;
        if len == 0 {
            return Err(TreeError::Invalid("a range of no length"));
        }
        let end = offset.checked_add(len).filter(|&end| end <= limit).ok_or(TreeError::TooLarge { limit })?;
        let ino = handle.inode.ino;
        let mut state = handle.inode.lock();
        let size = state.size().map_or_else(|| self.index.getattr(ino).map(|attr| attr.size), Ok)?;
        let grown = match what {
            Allocate::Extend | Allocate::ZeroRange { keep_size: false } => end.max(size),
            Allocate::KeepSize | Allocate::PunchHole | Allocate::ZeroRange { keep_size: true } => size,
        };
        self.check_growth(size, if what == Allocate::KeepSize { end.max(size) } else { grown })?;
        let zeroed = match what {
            Allocate::Extend | Allocate::KeepSize => 0..0,
            Allocate::PunchHole | Allocate::ZeroRange { .. } => offset.min(size)..end.min(size),
        };
        let now = Timestamp::now();
        if grown == size && zeroed.is_empty() {
            self.index.setattr(ino, &SetAttr { ctime: Some(now), ..SetAttr::default() })?;
            return Ok(());
        }
        self.drop_privileges(ino, &mut state, kill_suid, now)?;
        let stage = &mut self.staged(ino, &mut state)?.stage;
        if !zeroed.is_empty() {
            stage.punch(zeroed)?;
        }
        if grown > size {
            stage.truncate(grown)?;
        }
        handle.wrote.store(state.changed(now), Ordering::Relaxed);
        Ok(())
    }

    /// The next data or hole at or behind `offset`. A stored file has no holes but the one behind its end.
    pub fn lseek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        let attr = self.getattr(ino)?;
        if attr.kind != FileKind::Regular {
            return Err(TreeError::Invalid("only regular files have data and holes"));
        }
        if offset >= attr.size {
            return Err(TreeError::BeyondEnd);
        }
        Ok(match what {
            Seek::Data => offset,
            Seek::Hole => attr.size,
        })
    }

    /// How full it is. Answered from memory; with the cluster unknown, as an empty file system without room.
    pub fn statfs(&self) -> Statistics {
        let space = self.store.space().unwrap_or_default();
        let block = u64::from(Statistics::BLOCK);
        let files = self.index.stats().inodes;
        // `df` and others compute in signed numbers.
        const MOST_FILES: u64 = 1 << 40;
        Statistics {
            blocks: (space.total / block).min(i64::MAX as u64 / block),
            free: (space.free / block).min(i64::MAX as u64 / block),
            files,
            files_free: MOST_FILES.saturating_sub(files),
        }
    }
}
