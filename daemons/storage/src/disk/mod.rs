//! What is on the disk of a storage, and how it gets there.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dir`] | the `data/` directory of a store path and the system calls on names below it |
//! | [`incoming`] | a file that is being received and has no name yet |
//! | [`rotation`] | which of the `HH/HH` directories new files go to |
//! | [`store`] | the store paths: creation, marks, free space, choice of a path |
//! | [`init_flag`] | `.data_init_flag` and the path marks |
//! | [`binlog`] | the log of every change, which replication reads |
//! | [`history`] | what it tells after a start |
//! | [`pending`] | what is being changed, for the next start |
//! | [`durable`] | fsync before the acknowledgement, for many at once |

pub mod binlog;
pub mod dir;
pub mod durable;
pub mod history;
pub mod incoming;
pub mod init_flag;
pub mod pending;
pub mod rotation;
pub mod store;

use std::io;
use std::path::Path;

/// Replaces a small file so that a reader, or a crash, finds the old text or the new one; after this returned, also a
/// power cut leaves the new one.
///
/// # Errors
/// What writing or renaming reported, with the path in the text.
pub fn replace_file(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let tmp = std::path::PathBuf::from(name);
    let write = || {
        let mut file = std::fs::File::create(&tmp)?;
        file.write_all(text)?;
        file.sync_data()?;
        std::fs::rename(&tmp, path)?;
        sync_parent(path)
    };
    write().map_err(|e| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display())))
}

/// Puts the name of a file that was made, renamed or removed on stable storage.
///
/// # Errors
/// What the system reported.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}
