//! The text files that servers keep their state in: read and written as text, nothing else.
//!
//! Every type reads the text of its file with `parse` (whose path argument only serves the
//! errors) and writes it with `to_text`, byte for byte as FastDFS 6.16 does. Keys that are not
//! known are passed over.

mod ids;
mod storage;
mod sync;
mod tracker;
mod trunk;

use std::path::Path;

pub use ids::{StorageHost, StorageIdLine};
pub use storage::{InitFlag, PathMark, PathMarkFile, StorageStatFile};
pub use sync::{BinlogIndex, BinlogOffset, RecoveryFlag, SyncMark};
pub use tracker::{ChangelogLine, GroupState, GroupsFile, ServersFile, StorageState, SyncTimestamps, TrackerRunFile};
pub use trunk::{SlotHeader, SlotKind, TrunkOp, TrunkRecord};

use crate::config::{ConfigError, Section};

/// A line of a data file cannot be read. The text names the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: cannot read line `{line}`")]
pub struct LineError {
    what: &'static str,
    line: String,
}

impl LineError {
    fn new(what: &'static str, line: &str) -> LineError {
        // Enough of a damaged file to recognise it by.
        LineError { what, line: line.chars().take(120).collect() }
    }
}

/// A number of a data file, which must be there.
fn required_number<T: std::str::FromStr>(section: &Section<'_>, key: &str) -> Result<T, ConfigError> {
    let text = section.required(key, "the file is damaged")?;
    text.parse().map_err(|_| bad_number(section, key))
}

/// A number of a data file that older versions did not write.
fn optional_number<T: std::str::FromStr + Default>(section: &Section<'_>, key: &str) -> Result<T, ConfigError> {
    section.value(key, T::default(), "needs a number", |text| text.parse().ok())
}

/// A name of a data file, perhaps empty.
fn optional_name<T>(section: &Section<'_>, key: &str) -> Result<T, ConfigError>
where
    T: std::str::FromStr + Default,
    T::Err: std::fmt::Display,
{
    section.parsed(key, T::default())
}

/// A name of a data file, which must be there.
fn required_name<T>(section: &Section<'_>, key: &str) -> Result<T, ConfigError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text = section.required(key, "the file is damaged")?;
    text.parse().map_err(|error: T::Err| match section.entry(key) {
        Some(entry) => entry.error(error),
        None => section.missing(key, "the file is damaged"),
    })
}

fn bad_number(section: &Section<'_>, key: &str) -> ConfigError {
    match section.entry(key) {
        Some(entry) => entry.error("needs a number"),
        None => section.missing(key, "the file is damaged"),
    }
}

fn ini(path: &Path, text: &[u8]) -> Result<crate::config::Ini, ConfigError> {
    crate::config::Ini::parse_text(path, text)
}

/// `0` or `1`, as data files write yes and no.
fn flag(value: bool) -> u8 {
    value.into()
}
