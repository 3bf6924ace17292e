//! What clients ask of a storage.
//!
//! Commands that carry file content decode their head only: the caller reads `FIXED_LEN` bytes,
//! then as many name bytes as `name_len` says, then streams the content. `body_len` is the length
//! from the frame header, against which every head is checked.
//!
//! Whether the group is the storage's own, whether it has the store path, and whether the file
//! exists is for the storage to check.

mod change;
mod read;

pub use change::{ANY_STORE_PATH, AppendHead, ModifyHead, Regenerate, Truncate, UploadHead, UploadSlaveHead};
pub use read::{Download, FileInfo, FileInfoFlags, FileRequest, MetadataMode, SetMetadata};

use crate::file_id::RemoteName;
use crate::wire::{Cursor, WireError};

/// The content announced in a head must be exactly what the body has left.
fn check_content(size: u64, head: usize, body_len: u64) -> Result<(), WireError> {
    if body_len.checked_sub(head as u64) == Some(size) {
        Ok(())
    } else {
        let value = i64::try_from(size).unwrap_or(i64::MAX);
        Err(WireError::Range { what: "content size against the body length", value })
    }
}

/// A name length in the fixed part of a head, within `min..=127` and within the body.
fn name_len(fixed: &[u8], min: usize, head: usize, body_len: u64) -> Result<usize, WireError> {
    let value = Cursor::new("name length", fixed).i64()?;
    let bad = WireError::Range { what: "name length", value };
    let len = usize::try_from(value).map_err(|_| bad)?;
    let fits = (min..=RemoteName::MAX_LEN).contains(&len) && (head + len) as u64 <= body_len;
    if fits { Ok(len) } else { Err(bad) }
}

#[cfg(test)]
mod tests;
