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
//!
//! ```
//! use fdfs_protocol::storage::UploadHead;
//! use fdfs_protocol::{Command, FileId, HEADER_LEN, header};
//!
//! // A request: frame header and head; the five bytes of content follow on the wire.
//! let head = UploadHead { store_path: None, size: 5, ext: "txt".parse()? };
//! let mut out = Vec::new();
//! header::frame_head(Command::UploadFile, &head, head.size, &mut out);
//! assert_eq!(out.len(), HEADER_LEN + UploadHead::FIXED_LEN);
//!
//! // The name in an answer tells where the file came from, when, and how large it is.
//! let id: FileId = "group1/M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt".parse()?;
//! assert_eq!(id.name.block()?.size.size(), Some(14));
//! assert_eq!(id.name.true_name(), "00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
