//! The config file format of FastDFS: ini with repeated keys, sections and includes.
//!
//! ```text
//! # comment
//! key = value
//! tracker_server = 10.0.0.1:22122
//! tracker_server = 10.0.0.2:22122
//! #include http.conf
//! [access-log]
//! enabled = true
//! ```
//!
//! An included file is named relative to the file that includes it, and its keys go where the
//! `#include` stands. Of a key that is asked for as one value the last one counts. The parser
//! reads files through a callback; [`Ini::load`] is the one place that touches the disk.

mod error;
mod ini;
mod value;

pub use error::ConfigError;
pub use ini::{Entry, Ini, Section};
pub use value::{ReservedSpace, TimeOfDay, ValueError, parse_bool, parse_duration, parse_size};
