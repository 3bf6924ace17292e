//! Counters of a storage, and the records of the list and monitoring commands.

mod counters;
mod health;
mod records;
mod status;

pub use counters::{Connections, Counter, StatBlock};
pub use health::{HostText, StorageHealth, TrackerHealth, VolumeStat};
pub use records::{GroupRecord, StorageRecord};
pub use status::{RwMode, StorageStatus};

#[cfg(test)]
mod tests;
