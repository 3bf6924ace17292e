//! What clients did, and what files may contain after it.
//!
//! A file is changed by one client alone, one change after another. A change whose outcome nobody knows leaves two
//! possibilities.

use fdfs_client::{FileId, Metadata, MetadataMode};

/// Content up to this size is taken in one piece.
const WHOLE: usize = 128 * 1024;

/// A file with more possibilities is left alone: each change of which nobody knows doubles them.
const MOST: usize = 32;

/// A change of a file.
#[derive(Debug, Clone)]
pub enum Change {
    /// Bytes at its end.
    Append(Vec<u8>),
    /// Bytes at an offset.
    Modify(u64, Vec<u8>),
    /// Another size.
    Truncate(u64),
    /// The end of it.
    Delete,
    /// Its metadata.
    Describe(Metadata, MetadataMode),
}

impl Change {
    /// Whether a storage takes it in pieces.
    fn is_long(&self) -> bool {
        matches!(self, Change::Append(bytes) | Change::Modify(_, bytes) if bytes.len() > WHOLE)
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Not made.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What a file may be.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Its content; `None` if it is gone.
    pub content: Option<Vec<u8>>,
    /// Its metadata.
    pub metadata: Metadata,
}

impl State {
    /// After a change; `None` if the change cannot be made.
    fn after(&self, change: &Change) -> Option<State> {
        let mut state = self.clone();
        let content = state.content.as_mut()?;
        match change {
            Change::Append(bytes) => content.extend_from_slice(bytes),
            Change::Modify(offset, bytes) => {
                let at = usize::try_from(*offset).ok().filter(|at| *at <= content.len())?;
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Truncate(size) => content.resize(usize::try_from(*size).ok()?, 0),
            Change::Delete => return Some(State { content: None, metadata: Metadata::new() }),
            Change::Describe(metadata, MetadataMode::Overwrite) => state.metadata = metadata.clone(),
            Change::Describe(metadata, MetadataMode::Merge) => state.metadata = state.metadata.merge(metadata.clone()),
        }
        Some(state)
    }
}

/// A file that was acknowledged.
#[derive(Debug, Clone)]
pub struct File {
    /// Its ID.
    pub id: FileId,
    /// Whether it can be changed.
    pub appender: bool,
    /// Whether its deletion was tried: then it is left alone.
    pub given_up: bool,
    /// Whether it is not known what it may be: part of a change may have been made (a storage that is killed while it
    /// takes a long one leaves that), or too much is possible.
    pub torn: bool,
    /// What it may be.
    pub states: Vec<State>,
}

impl File {
    /// A file with this content.
    pub fn new(id: FileId, appender: bool, content: Vec<u8>) -> File {
        let states = vec![State { content: Some(content), metadata: Metadata::new() }];
        File { id, appender, given_up: false, torn: false, states }
    }

    /// Takes note of a change.
    ///
    /// # Errors
    /// It was acknowledged and cannot have been made.
    pub fn note(&mut self, change: &Change, outcome: Outcome) -> Result<(), String> {
        self.given_up |= matches!(change, Change::Delete);
        self.torn |= outcome == Outcome::Unknown && change.is_long();
        let after: Vec<State> = self.states.iter().filter_map(|state| state.after(change)).collect();
        match outcome {
            Outcome::Refused => {}
            Outcome::Unknown => after.into_iter().for_each(|state| {
                if !self.states.contains(&state) {
                    self.states.push(state);
                }
            }),
            Outcome::Done if after.is_empty() => return Err(format!("{}: cannot have been made: {change:?}", self.id)),
            Outcome::Done => self.states = after,
        }
        if self.states.len() > MOST {
            self.states.truncate(1);
            (self.given_up, self.torn) = (true, true);
        }
        Ok(())
    }

    /// Its smallest possible size.
    pub fn min_size(&self) -> usize {
        self.states.iter().filter_map(|state| state.content.as_ref().map(Vec::len)).min().unwrap_or(0)
    }

    /// Whether it must be there.
    pub fn must_exist(&self) -> bool {
        self.states.iter().all(|state| state.content.is_some())
    }

    /// Whether it may be this.
    pub fn may_be(&self, content: Option<&[u8]>) -> bool {
        self.states.iter().any(|state| state.content.as_deref() == content)
    }

    /// Whether it may have this metadata beside this content.
    pub fn may_have(&self, metadata: &Metadata) -> bool {
        self.states.iter().any(|state| state.metadata == *metadata)
    }
}

/// All files, and what is wrong already.
#[derive(Default)]
pub struct History {
    /// Every file that was acknowledged.
    pub files: Vec<File>,
    /// Operations that succeeded and that failed.
    pub counts: (u64, u64),
    /// What must not have happened.
    pub wrong: Vec<String>,
}
