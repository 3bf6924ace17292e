//! The namespace of a mounted tree, its contents and their fingerprints, in SQLite.

mod error;
mod fsck;
mod hold;
mod index;
mod types;

pub use error::{IndexError, Result};
pub use fsck::{Finding, Report, fsck};
pub use hold::Hold;
pub use index::{Callback, Index, Options};
pub use types::*;
