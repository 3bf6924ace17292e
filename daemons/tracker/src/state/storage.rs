//! One storage as the tracker knows it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fdfs_protocol::names::{IpText, StorageId, Version};
use fdfs_protocol::peer::Brief;
use fdfs_protocol::stat::{RwMode, StatBlock, StorageStatus};

use super::trackers::Moment;
use crate::address::Addresses;
use crate::directory::MemberFacts;
use crate::storage_ids::parse_id;
use fdfs_protocol::peer::PathSpace as Space;

/// Identifies a connection for as long as the tracker runs.
pub type Session = u64;

/// A storage: identity, what it told about itself, and where it stands in the group's replication.
#[derive(Debug)]
pub struct Storage {
    /// Its id: a configured number, else the text of its address.
    pub id: StorageId,
    /// One or two addresses.
    pub addresses: Addresses,
    /// The port it serves.
    pub port: u16,
    /// The version it runs.
    pub version: Version,
    /// What clients may do there.
    pub rw: RwMode,
    /// Where it stands.
    pub status: StorageStatus,
    /// Number of its store paths.
    pub path_count: u32,
    /// Directories per level below each path.
    pub subdir_count: u32,
    /// Smaller is preferred, with `store_server` 2.
    pub upload_priority: i64,
    /// When its data directory joined for the first time.
    pub join_time: i64,
    /// When its process started; 0 while it is not connected.
    pub up_time: i64,
    /// Who pushes it the data from before it joined.
    pub sync_source: Option<StorageId>,
    /// Up to which time that data reaches.
    pub sync_until: i64,
    /// Sum over its paths, as last reported.
    pub space: Space,
    /// Per path, as reported since this tracker started.
    pub paths: Vec<Space>,
    /// How far it has read the changelog.
    pub changelog_offset: u64,
    /// Its counters, with the tracker's own last heart beat and synced timestamp.
    pub stat: StatBlock,
    /// When it beat last, or was found without a beat since it joined; the time of day is in `stat`.
    pub heard: Option<Moment>,
    /// The change counter of the group it was last told about.
    pub seen_changes: u32,
    /// The same for changes of the trunk server.
    pub seen_trunk_changes: u32,
    /// The connection it joined on last; the end of another one means nothing.
    pub session: Option<Session>,
    /// The store path whose turn it is, shared with the picture queries read.
    pub write_path: Arc<AtomicUsize>,
}

impl Storage {
    /// A storage of which only the identity is known.
    pub fn new(id: StorageId, addresses: Addresses, port: u16, rw: RwMode) -> Storage {
        Storage {
            id,
            addresses,
            port,
            version: Version::NONE,
            rw,
            status: StorageStatus::Init,
            path_count: 0,
            subdir_count: 0,
            upload_priority: 0,
            join_time: 0,
            up_time: 0,
            sync_source: None,
            sync_until: 0,
            space: Space::default(),
            paths: Vec::new(),
            changelog_offset: 0,
            stat: StatBlock::default(),
            heard: None,
            seen_changes: 0,
            seen_trunk_changes: 0,
            session: None,
            write_path: Arc::default(),
        }
    }

    /// Whether it serves anybody.
    pub fn is_active(&self) -> bool {
        self.status == StorageStatus::Active
    }

    /// Whether reads may go there now.
    pub fn is_readable(&self) -> bool {
        self.is_active() && self.rw.can_read()
    }

    /// Whether writes may go there now.
    pub fn is_writable(&self) -> bool {
        self.is_active() && self.rw.can_write()
    }

    /// Deleted, or moved to another address: kept as a record that it is gone.
    pub fn is_tombstone(&self) -> bool {
        matches!(self.status, StorageStatus::Deleted | StorageStatus::IpChanged)
    }

    /// Forgets everything but the identity, as a deletion does.
    pub fn clear(&mut self) {
        let kept = Storage::new(self.id, self.addresses, self.port, self.rw);
        *self = Storage {
            version: self.version,
            join_time: self.join_time,
            up_time: self.up_time,
            status: self.status,
            session: self.session,
            ..kept
        };
    }

    /// The entry of a member list for a peer of this address.
    pub fn brief(&self, peer: IpAddr) -> Brief {
        Brief { status: self.status, port: self.port, id: self.id, ip: IpText::from(self.addresses.for_peer(peer)) }
    }

    /// The path whose turn it is.
    pub fn current_path(&self) -> usize {
        self.write_path.load(Ordering::Relaxed)
    }

    /// What queries need to know of it.
    pub fn facts(&self) -> MemberFacts<'_> {
        MemberFacts {
            id: self.id,
            number: parse_id(self.id.as_str()),
            addresses: self.addresses,
            port: self.port,
            upload_priority: self.upload_priority,
            paths: &self.paths,
            last_synced: self.stat.last_synced_timestamp,
            readable: self.is_readable(),
            writable: self.is_writable(),
            write_path: &self.write_path,
        }
    }
}
