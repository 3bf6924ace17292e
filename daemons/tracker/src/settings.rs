//! What the state machine has to know of the configuration.

use fdfs_protocol::peer::Parameters;

use crate::directory::Rules;
use crate::storage_ids::IdTable;

/// Settings of the state machine; they do not change while the tracker runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who is chosen for what.
    pub rules: Rules,
    /// The table of storage ids, with `use_storage_id`.
    pub ids: Option<IdTable>,
    /// What storages and clients are told.
    pub parameters: Parameters,
    /// Seconds without a heart beat after which a storage does not serve any more.
    pub check_active_interval: i64,
}
