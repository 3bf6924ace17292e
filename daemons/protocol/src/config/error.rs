//! What is wrong with a config file, for the person who wrote it.

use std::io;
use std::path::PathBuf;

/// A config file cannot be used. The text names file, line, key and value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read config file {file}: {source}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An included file cannot be read.
    #[error("{at}:{line}: cannot read included file {file}: {source}",
        at = .at.display(), file = .file.display())]
    Include {
        /// The file with the `#include`.
        at: PathBuf,
        /// The line of the `#include`.
        line: usize,
        /// The file that cannot be read.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files include each other too deeply.
    #[error("{at}:{line}: files include each other more than {limit} levels deep; \
        is there a circle?", at = .at.display())]
    TooDeep {
        /// The file with the `#include`.
        at: PathBuf,
        /// Its line.
        line: usize,
        /// The limit.
        limit: usize,
    },
    /// All files together are too large.
    #[error("{at}:{line}: the config and the files it includes have more than {limit} entries",
        at = .at.display())]
    TooLarge {
        /// The file.
        at: PathBuf,
        /// The line.
        line: usize,
        /// The limit.
        limit: usize,
    },
    /// A section header is not closed or has no name.
    #[error("{file}:{line}: `{text}` is not a section header such as [access-log]",
        file = .file.display())]
    Section {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// A value is not what its key needs.
    #[error("{file}:{line}: {key} = {value}: {expected}", file = .file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What the key needs.
        expected: String,
    },
    /// A key that must be there is not.
    #[error("{file}: {key} is missing; {hint}", file = .file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What to write.
        hint: String,
    },
}
