//! The FastDFS protocol as types: frames, commands, file IDs, on-disk records and config files.
//!
//! Pure: no sockets, no clock, no randomness; what varies is passed in. Every decoder accepts any
//! bytes and answers with a value or a [`WireError`], never with a panic, and allocates no more
//! than a small multiple of what it was given.
//!
//! | module | what it holds |
//! |---|---|
//! | [`header`] | the 10-byte frame header |
//! | [`command`], [`status`] | command codes; the errno values of the status byte |
//! | [`names`], [`file_id`] | checked names; file IDs, made and taken apart |
//! | [`tracker`], [`storage`] | what clients ask of a tracker and of a storage |
//! | [`peer`] | what trackers and storages ask of each other |
//! | [`stat`] | the statistics and list records |
//! | [`metadata`], [`binlog`], [`datafile`] | formats of files on disk |
//! | [`config`] | the config file format |
//!
//! Facts are those of FastDFS 6.16.1.

pub mod binlog;
pub mod command;
pub mod config;
pub mod datafile;
pub mod file_id;
pub mod header;
pub mod metadata;
pub mod names;
pub mod peer;
pub mod stat;
pub mod status;
pub mod storage;
pub mod tracker;
mod wire;

pub use command::Command;
pub use file_id::{FileId, RemoteName};
pub use header::{HEADER_LEN, Header};
pub use names::{ExtName, GroupName, IpSize, IpText, Prefix, StorageId, Version};
pub use status::Status;
pub use wire::{Encode, WireError};
