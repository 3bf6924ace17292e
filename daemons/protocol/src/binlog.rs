//! Records of the replication binlog: one line for every change on a storage.
//!
//! `<unix seconds> <letter> <name>[ <extra>]`. An upper-case letter is a change that a client made
//! there, a lower-case one a change that another storage pushed.

use std::fmt;

use crate::file_id::{NameError, RemoteName};

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A client, on this storage: to be pushed to the other storages.
    Client,
    /// Another storage pushed it here.
    Replica,
}

/// What was done to the file of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// C: the whole file was created.
    Create,
    /// A: bytes were added at the end.
    Append {
        /// The size before.
        offset: u64,
        /// Bytes added.
        len: u64,
    },
    /// M: bytes were written.
    Modify {
        /// The first one.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// T: the size was changed.
    Truncate {
        /// The size before.
        old: u64,
        /// The size after.
        new: u64,
    },
    /// D: the file is gone.
    Delete,
    /// U: the whole file was replaced (metadata files).
    Update,
    /// L: the name is a link.
    Link {
        /// What it links to; records of some servers do not tell.
        source: Option<RemoteName>,
    },
    /// R: an appender became a normal file; the record's name is the new one.
    Rename {
        /// The name it had.
        old: RemoteName,
    },
}

impl Change {
    const fn letter(&self) -> u8 {
        match self {
            Change::Create => b'C',
            Change::Append { .. } => b'A',
            Change::Modify { .. } => b'M',
            Change::Truncate { .. } => b'T',
            Change::Delete => b'D',
            Change::Update => b'U',
            Change::Link { .. } => b'L',
            Change::Rename { .. } => b'R',
        }
    }
}

/// One line of a binlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it happened at its source, unix seconds. Not monotonic within a file.
    pub timestamp: u32,
    /// Who made the change.
    pub origin: Origin,
    /// The change.
    pub change: Change,
    /// The file.
    pub name: RemoteName,
}

/// Why a line is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There are not three columns.
    #[error("the line does not have a time, a letter and a name")]
    Columns,
    /// The line is longer than FastDFS reads.
    #[error("the line is longer than {max} bytes", max = Record::MAX_LINE)]
    TooLong,
    /// The time is not a number.
    #[error("the time is not a number")]
    Timestamp,
    /// The letter is not an operation.
    #[error("the letter is not an operation")]
    Letter,
    /// A name is malformed.
    #[error("bad file name: {0}")]
    Name(#[from] NameError),
    /// What follows the name does not fit the operation.
    #[error("what follows the name does not fit the operation")]
    Extra,
}

impl Record {
    /// The longest line, newline included, that FastDFS reads.
    pub const MAX_LINE: usize = 255;

    /// Reads a line, with or without its newline.
    pub fn parse(line: &[u8]) -> Result<Record, RecordError> {
        if line.len() > Self::MAX_LINE {
            return Err(RecordError::TooLong);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut columns = line.splitn(3, |&b| b == b' ');
        let (Some(time), Some(letter), Some(rest)) = (columns.next(), columns.next(), columns.next()) else {
            return Err(RecordError::Columns);
        };
        let timestamp = number(time).ok_or(RecordError::Timestamp)?;
        let &[letter] = letter else { return Err(RecordError::Letter) };
        let origin = if letter.is_ascii_uppercase() { Origin::Client } else { Origin::Replica };
        let mut words = rest.split(|&b| b == b' ');
        let name = record_name(words.next().unwrap_or_default())?;
        let change = match letter.to_ascii_uppercase() {
            b'C' => Change::Create,
            b'D' => Change::Delete,
            b'U' => Change::Update,
            b'A' => {
                let (offset, len) = two_numbers(&mut words)?;
                Change::Append { offset, len }
            }
            b'M' => {
                let (offset, len) = two_numbers(&mut words)?;
                Change::Modify { offset, len }
            }
            b'T' => {
                let (old, new) = two_numbers(&mut words)?;
                Change::Truncate { old, new }
            }
            b'L' => Change::Link { source: words.next().map(record_name).transpose()? },
            b'R' => Change::Rename { old: record_name(words.next().ok_or(RecordError::Extra)?)? },
            _ => return Err(RecordError::Letter),
        };
        if words.next().is_some() {
            return Err(RecordError::Extra);
        }
        Ok(Record { timestamp, origin, change, name })
    }

    /// Appends the line, with its newline. A link or rename of two names near the longest makes a
    /// line above [`Record::MAX_LINE`] that nobody reads; whoever makes such names must look at
    /// the length of the line first.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        // Writing to a Vec cannot fail.
        let _ = writeln!(out, "{self}");
    }
}

/// A name in a record: always with its store path.
fn record_name(text: &[u8]) -> Result<RemoteName, NameError> {
    let name = RemoteName::parse(text)?;
    let whole = name.as_bytes().len() == text.len();
    if !text.starts_with(b"M") {
        Err(NameError::StorePath)
    } else if whole {
        Ok(name)
    } else {
        Err(NameError::Character)
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    // Digits only: `from_str` would take a sign too.
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn two_numbers<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Result<(u64, u64), RecordError> {
    let mut one = || words.next().and_then(number).ok_or(RecordError::Extra);
    Ok((one()?, one()?))
}

impl fmt::Display for Record {
    /// The line without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.origin {
            Origin::Client => self.change.letter(),
            Origin::Replica => self.change.letter().to_ascii_lowercase(),
        };
        write!(f, "{} {} {}", self.timestamp, letter as char, self.name)?;
        match &self.change {
            Change::Append { offset: a, len: b }
            | Change::Modify { offset: a, len: b }
            | Change::Truncate { old: a, new: b } => write!(f, " {a} {b}"),
            Change::Link { source: Some(other) } | Change::Rename { old: other } => {
                write!(f, " {other}")
            }
            Change::Create | Change::Delete | Change::Update | Change::Link { source: None } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "M00/00/00/Ck4AAWsA5LaEYVcFAAAAALBg714379.txt";

    #[test]
    fn all_operations() {
        for line in [
            format!("1795220659 C {NAME}"),
            format!("1795220659 c {NAME}-m"),
            format!("1795220665 A {NAME} 14 9"),
            format!("1795220665 m {NAME} 2 3"),
            format!("1795220665 T {NAME} 23 10"),
            format!("1795220662 d {NAME}"),
            format!("1795220659 U {NAME}-m"),
            format!("1795220915 L {NAME} {NAME}"),
            format!("1795220915 L {NAME}"),
            format!("1795220670 r {NAME} {NAME}"),
        ] {
            let record = Record::parse(line.as_bytes()).unwrap();
            assert_eq!(record.to_string(), line);
            let mut out = Vec::new();
            record.write(&mut out);
            assert_eq!(out, format!("{line}\n").as_bytes());
            assert_eq!(Record::parse(&out), Ok(record));
        }
    }

    #[test]
    fn malformed_lines() {
        let parse = |line: String| Record::parse(line.as_bytes());
        // What a FastDFS receiver of a link writes.
        assert_eq!(parse("1795220915 l ".into()), Err(RecordError::Name(NameError::TooShort)));
        assert_eq!(parse("1795220915 l".into()), Err(RecordError::Columns));
        assert_eq!(parse(format!("now C {NAME}")), Err(RecordError::Timestamp));
        assert_eq!(parse(format!("-1 C {NAME}")), Err(RecordError::Timestamp));
        assert_eq!(parse(format!("1 X {NAME}")), Err(RecordError::Letter));
        assert_eq!(parse(format!("1 CC {NAME}")), Err(RecordError::Letter));
        assert_eq!(parse(format!("1 A {NAME} 1")), Err(RecordError::Extra));
        assert_eq!(parse(format!("1 A {NAME} 1 2 3")), Err(RecordError::Extra));
        assert_eq!(parse(format!("1 C {NAME} x")), Err(RecordError::Extra));
        assert_eq!(parse(format!("1 R {NAME}")), Err(RecordError::Extra));
        assert_eq!(parse(format!("1 C {NAME}\0")), Err(RecordError::Name(NameError::Character)));
        assert_eq!(parse("1 C 00/00/Ck4AAWsA5LaEYVcF".into()), Err(RecordError::Name(NameError::StorePath)));
        assert_eq!(parse(format!("1 C {}", "x".repeat(260))), Err(RecordError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Record::parse(&line);
        }

        #[test]
        fn whatever_parses_survives(line in "[0-9]{1,11} [CcAaMmTtDdUuLlRrX] M00/0[0-9a]/00/[!-~]{1,20}( [0-9]{1,20}){0,3}") {
            if let Ok(record) = Record::parse(line.as_bytes()) {
                prop_assert_eq!(Record::parse(record.to_string().as_bytes()), Ok(record));
            }
        }
    }
}
