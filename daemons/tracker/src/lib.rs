//! The FastDFS tracker: knows groups and storages, and answers where to upload and download.
//!
//! ```no_run
//! use fdfs_tracker::{Tracker, TrackerConfig};
//!
//! let config = TrackerConfig::load("/etc/fdfs/tracker.conf".as_ref())?;
//! let tracker = Tracker::start(config)?;
//! println!("serving on {}", tracker.addr());
//! tracker.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`config`], [`settings`], [`storage_ids`] | tracker.conf and storage_ids.conf |
//! | [`state`] | the cluster: a pure state machine driven by the storages' messages |
//! | [`directory`] | the picture of it that queries read without a lock, and the choice of group, storage and path |
//! | [`files`] | FastDFS's data files |
//! | [`address`] | machines with one or two addresses |
//! | `service` | the shell: connections, requests, saving, time |

pub mod address;
pub mod config;
pub mod directory;
pub mod files;
mod service;
pub mod settings;
pub mod state;
pub mod storage_ids;

pub use config::{TrackerConfig, TrackerConfigError};
pub use service::{Tracker, TrackerError};
