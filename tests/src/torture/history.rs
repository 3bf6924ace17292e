//! What was asked of the cluster, when, and what it answered.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::tree::Random;

/// Bytes that can be made again from two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Data {
    /// Of the generator.
    pub seed: u64,
    /// In bytes.
    pub len: usize,
}

impl Data {
    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        Random(self.seed).bytes(self.len)
    }
}

/// One change of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Change {
    /// This is the whole content from now on: an upload, a file written and closed, or one renamed over it.
    Put(Data),
    /// These bytes are added at the end.
    Append(Data),
    /// These bytes are written at an offset.
    Modify(u64, Data),
    /// The size becomes this; what is added are zeros.
    Truncate(u64),
    /// The metadata becomes this; nothing removes it.
    SetMetadata(BTreeMap<String, String>),
    /// These items are added to the metadata, or replace those of the same name.
    MergeMetadata(BTreeMap<String, String>),
    /// The file gets another name, under which it has no metadata; the old name is gone.
    Regenerate,
    /// The file is removed.
    Delete,
}

impl Change {
    /// A word for tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Change::Put(_) => "put",
            Change::Append(_) => "append",
            Change::Modify(..) => "modify",
            Change::Truncate(_) => "truncate",
            Change::SetMetadata(_) => "set metadata",
            Change::MergeMetadata(_) => "merge metadata",
            Change::Regenerate => "regenerate",
            Change::Delete => "delete",
        }
    }
}

/// What is known about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    /// Acknowledged: it was made.
    Done,
    /// Refused, or never sent: it was not made.
    Failed,
    /// No answer came: it was made, will be made, or never.
    Unknown,
}

/// A change with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What was asked.
    pub change: Change,
    /// What came of it.
    pub outcome: Outcome,
}

/// One line of the history.
#[derive(Debug, Serialize)]
struct Record<'a> {
    id: usize,
    worker: usize,
    /// File ID, or path within the mount.
    file: &'a str,
    /// Milliseconds since the run began.
    begin: u128,
    end: u128,
    #[serde(flatten)]
    event: &'a Event,
    operation: &'static str,
    /// The error, or the new file ID.
    detail: &'a str,
}

/// All operations of a run: written to a file as they end, and counted.
#[derive(Debug)]
pub struct History {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: std::io::BufWriter<std::fs::File>,
    count: usize,
    tally: BTreeMap<&'static str, [usize; 3]>,
}

impl History {
    /// An empty history that is kept in `file`, a line of JSON an operation.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(file: &Path) -> std::io::Result<History> {
        let file = std::io::BufWriter::new(std::fs::File::create(file)?);
        Ok(History { began: Instant::now(), inner: Mutex::new(Inner { file, count: 0, tally: BTreeMap::new() }) })
    }

    /// Time since the run began.
    pub fn clock(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes that `operation` of `worker`, begun at `begin`, has ended now.
    ///
    /// # Panics
    /// When the history cannot be written: nothing can be concluded from the run then.
    pub fn note(
        &self,
        worker: usize,
        operation: &'static str,
        file: &str,
        event: &Event,
        begin: Duration,
        detail: &str,
    ) {
        let mut inner = self.inner.lock().expect("no panic while it was held");
        let end = self.clock().as_millis();
        let record = Record { id: inner.count, worker, file, begin: begin.as_millis(), end, event, operation, detail };
        let mut line = serde_json::to_vec(&record).expect("plain data");
        line.push(b'\n');
        inner.file.write_all(&line).expect("the history can be written");
        inner.count += 1;
        inner.tally.entry(operation).or_default()[event.outcome as usize] += 1;
    }

    /// Writes out what is buffered, and how often each operation was done, failed, or is unknown.
    ///
    /// # Panics
    /// As [`History::note`].
    pub fn tally(&self) -> BTreeMap<&'static str, [usize; 3]> {
        let mut inner = self.inner.lock().expect("no panic while it was held");
        inner.file.flush().expect("the history can be written");
        inner.tally.clone()
    }
}
