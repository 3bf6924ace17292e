//! Mistakes made on purpose, one at a time: a simulation that does not find them proves nothing.
//!
//! In ordinary builds [`is`] is the constant `false`, and what asks for it is not compiled.

/// A mistake in the daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// What is being pushed counts as pushed.
    EarlyMark,
}

/// Whether this mistake is to be made.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "simulation")]
pub use simulated::{is, plant};

#[cfg(feature = "simulation")]
mod simulated {
    use std::sync::OnceLock;

    use super::Bug;

    static PLANTED: OnceLock<Bug> = OnceLock::new();

    /// Whether this mistake is to be made.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(&bug)
    }

    /// Makes a mistake from now on; only the first call counts.
    pub fn plant(bug: Bug) {
        let _ = PLANTED.set(bug);
    }
}
