//! The FastDFS storage: keeps files on disk and serves them to clients.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | `storage.conf` |
//! | [`storage`] | a running storage: start, stop, the jobs beside serving |
//! | [`serve`] | the client commands |
//! | [`net`] | a client's connection and its buffers |
//! | [`disk`] | directories, files, binlog, marks |
//! | [`deleted`] | files that were removed, so that nothing late brings them back |
//! | [`names`] | who changes which file; running checksums |
//! | [`sync`] | pushing what changes here to the other storages |
//! | [`acks`] | changes that wait until other members have them |
//! | [`synced`] | how far the changes of other storages have been applied |
//! | [`report`] | what trackers are told |
//! | [`counters`], [`access_log`] | what was done |
//!
//! # Where work is done
//! Each serving thread has a runtime of its own and keeps its connections for their whole life (see [`fdfs_server`]).
//! Short calls on files (create, write up to one buffer, read what is in the page cache, unlink) are made right there:
//! handing them to another thread costs more than they do. Whatever may take long goes in pieces with turns for others in
//! between (content of any size), or to a blocking thread (reads that miss the page cache, checksums of large files,
//! removal of large files). Nothing on this path takes a lock that is held across a wait.
//!
//! # What an acknowledgement means
//! The file is complete under its name and its binlog record is written: both survive the death of this process. With
//! `fsync_before_ack = always` both are on stable storage; with `ack_members = N` so many members of the group have it.

pub mod access_log;
pub mod acks;
pub mod active;
mod blocking;
pub mod clock;
pub mod config;
pub mod counters;
pub mod deleted;
pub mod disk;
pub mod names;
pub mod net;
pub mod report;
pub mod serve;
pub mod silent;
pub mod storage;
pub mod sync;
pub mod synced;
pub mod taken;
pub mod thread;

pub use config::StorageConfig;
pub use storage::Storage;
