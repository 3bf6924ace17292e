//! What trackers and storages say to each other.
//!
//! | module | between |
//! |---|---|
//! | [`member`] | the description of one storage that many messages share |
//! | [`join`], [`report`] | storage to tracker |
//! | [`parameters`] | the settings a tracker hands out |
//! | [`replica`], [`trunk`], [`compare`], [`latest`] | storage to storage |
//! | [`election`] | tracker to tracker |

pub mod compare;
pub mod election;
pub mod join;
pub mod latest;
pub mod member;
pub mod parameters;
pub mod replica;
pub mod report;
pub mod trunk;

pub use join::{JoinReply, JoinRequest};
pub use member::{Brief, GroupMember, MemberChanges};
pub use parameters::Parameters;
pub use report::{
    Beat, ChangeStatus, ChangelogRequest, DiskUsage, IpChanged, PathSpace, ReplicaChange, ReportStatus, SyncNotify,
    SyncReport, SyncSource, SyncedTo, TrunkFileId, TrunkFreeSpace,
};
