//! The namespace of a mounted tree, its contents and their fingerprints, in SQLite.
//!
//! An [`Index`] is a POSIX tree without file data: inodes, names, extended attributes, and for each regular file which
//! stored content (one file ID of the cluster) it refers to. It knows nothing of FUSE or of the network.
//!
//! ```no_run
//! use fdfs_index::{FileKind, Index, Ino, NewInode, Options, Timestamp};
//!
//! let index = Index::open("/var/lib/fdfs/index.db".as_ref(), Options::default())?;
//! let new = NewInode { kind: FileKind::Directory, mode: 0o755, uid: 0, gid: 0, rdev: 0, target: None };
//! index.create(Ino::ROOT, b"music", &new, Timestamp::now())?;
//! index.sync()?; // on stable storage
//! index.close()?;
//! # Ok::<(), fdfs_index::IndexError>(())
//! ```
//!
//! # How it works
//!
//! Memory is the truth while the index is open. [`table`] holds the inodes in use, each with what is known of its entries
//! ([`dir`]), [`contents`] the contents; what is missing is read from SQLite ([`load`]) and what is not needed any more is
//! evicted, so that neither memory nor start-up grows with the index. An operation ([`namespace`], [`rename`], [`listing`],
//! [`xattr`], [`content`], [`garbage`]) locks the inodes it changes, checks, changes them and queues the new rows
//! ([`delta`]); one thread commits the queue in groups, in order ([`writer`], [`apply`]), and another moves the log into
//! the database ([`checkpoint`]). [`boot`] opens, [`lock`] keeps a second process out, [`fsck()`] checks.
//!
//! # What holds after a crash
//!
//! Every operation is one transaction and transactions are committed in the order of the operations: what is there after a
//! crash is the state after some operation, none older than the last [`Index::commit`] (kill of the process) or
//! [`Index::sync`] (power cut) that returned. Unsynced commits are at most a second old.

mod apply;
mod boot;
mod checkpoint;
mod content;
mod contents;
mod core;
mod delta;
mod dir;
mod error;
mod fsck;
mod garbage;
mod hold;
mod index;
mod listing;
mod load;
mod lock;
mod namespace;
mod node;
mod path;
mod rename;
mod rows;
mod schema;
mod table;
mod types;
mod writer;
mod xattr;

pub use error::{IndexError, Result};
pub use fsck::{Finding, Report, fsck};
pub use hold::Hold;
pub use index::{Callback, Index, Options};
#[doc(hidden)]
pub use index::{Fault, Step};
pub use types::*;
