//! The state of a storage, and what clients may do with it.

use crate::wire::WireError;

/// State of a storage in its group; the numeric order means something to FastDFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum StorageStatus {
    /// Known, has not asked for a source of old data.
    #[default]
    Init = 0,
    /// Waits for its source to begin.
    WaitSync = 1,
    /// Gets old data.
    Syncing = 2,
    /// Left behind under an old address.
    IpChanged = 3,
    /// Removed by an administrator.
    Deleted = 4,
    /// Not serving.
    Offline = 5,
    /// Connected, first beat awaited.
    Online = 6,
    /// Serving.
    Active = 7,
    /// Rebuilding a disk.
    Recovery = 9,
    /// No status; used inside a storage only.
    None = 99,
}

impl StorageStatus {
    /// The code on the wire and in files.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The status with this code.
    pub fn from_code(code: u8) -> Option<StorageStatus> {
        use StorageStatus as S;
        [
            S::Init,
            S::WaitSync,
            S::Syncing,
            S::IpChanged,
            S::Deleted,
            S::Offline,
            S::Online,
            S::Active,
            S::Recovery,
            S::None,
        ]
        .into_iter()
        .find(|s| s.code() == code)
    }

    /// The name FastDFS users know.
    pub const fn name(self) -> &'static str {
        match self {
            StorageStatus::Init => "INIT",
            StorageStatus::WaitSync => "WAIT_SYNC",
            StorageStatus::Syncing => "SYNCING",
            StorageStatus::IpChanged => "IP_CHANGED",
            StorageStatus::Deleted => "DELETED",
            StorageStatus::Offline => "OFFLINE",
            StorageStatus::Online => "ONLINE",
            StorageStatus::Active => "ACTIVE",
            StorageStatus::Recovery => "RECOVERY",
            StorageStatus::None => "NONE",
        }
    }

    /// Whether the server is merely up or down: OFFLINE, ONLINE or ACTIVE.
    pub const fn is_available(self) -> bool {
        matches!(self, StorageStatus::Offline | StorageStatus::Online | StorageStatus::Active)
    }

    pub(crate) fn decode(code: u8) -> Result<StorageStatus, WireError> {
        let bad = WireError::Range { what: "storage status", value: code.into() };
        StorageStatus::from_code(code).ok_or(bad)
    }
}

impl std::fmt::Display for StorageStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What clients may do with a storage (`rw=` in the storage ids file).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RwMode {
    /// Only replication.
    None,
    /// Downloads.
    Read,
    /// Uploads and changes.
    Write,
    /// Everything.
    #[default]
    Both,
}

impl RwMode {
    /// The code on the wire: bit 4 read, bit 2 write.
    pub const fn code(self) -> u8 {
        match self {
            RwMode::None => 0,
            RwMode::Write => 2,
            RwMode::Read => 4,
            RwMode::Both => 6,
        }
    }

    /// Whether clients may read.
    pub const fn can_read(self) -> bool {
        matches!(self, RwMode::Read | RwMode::Both)
    }

    /// Whether clients may write.
    pub const fn can_write(self) -> bool {
        matches!(self, RwMode::Write | RwMode::Both)
    }

    pub(crate) fn decode(code: u8) -> Result<RwMode, WireError> {
        [RwMode::None, RwMode::Read, RwMode::Write, RwMode::Both]
            .into_iter()
            .find(|mode| mode.code() == code)
            .ok_or(WireError::Range { what: "rw mode", value: code.into() })
    }
}
