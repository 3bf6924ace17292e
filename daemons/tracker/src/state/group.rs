//! One group: its members, what they have in common, and how far each has applied the others' changes.

use std::sync::Arc;

use fdfs_protocol::names::{GroupName, StorageId};
use fdfs_protocol::peer::SyncedTo;
use fdfs_protocol::stat::StorageStatus;

use super::storage::Storage;
use super::turn::{Cause, Turn};
use crate::directory::{GroupCursors, GroupView, Rules, StoreServer};
use fdfs_protocol::peer::PathSpace as Space;

/// Most members a group may have; the protocol's lists end there.
pub const MAX_MEMBERS: usize = 32;

/// The port of a group whose members listen on different ones.
pub const MIXED_PORTS: i32 = -1;

/// A group of storages that hold the same files.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// The port of its members; 0 before the first, [`MIXED_PORTS`] when they differ.
    pub port: i32,
    /// Store paths each member must have; 0 before the first.
    pub path_count: u32,
    /// Directories per level below each path; 0 before the first.
    pub subdir_count: u32,
    /// In the order they joined, tombstones included.
    members: Vec<Storage>,
    /// `synced[source][destination]`: up to which time of the source the destination has applied its changes.
    synced: Vec<Vec<i64>>,
    /// Space of the writable member that has least.
    pub space: Space,
    /// Who hands out slots in trunk files.
    pub trunk_server: Option<StorageId>,
    /// Who did before.
    pub last_trunk_server: StorageId,
    /// Highest trunk file id in use.
    pub trunk_file_id: u32,
    /// Free space inside trunk files.
    pub trunk_free_mb: u64,
    /// Moves with every change of the member list.
    pub changes: u32,
    /// Moves with every change of the trunk server.
    pub trunk_changes: u32,
    /// Round-robin positions, shared with the picture queries read.
    pub cursors: Arc<GroupCursors>,
    /// What became of its members since somebody asked.
    turns: Vec<Turn>,
    /// The picture of this group, unless something changed since it was made.
    view: Option<Arc<GroupView>>,
}

impl Group {
    /// A group without members.
    pub fn new(name: GroupName) -> Group {
        Group {
            name,
            port: 0,
            path_count: 0,
            subdir_count: 0,
            members: Vec::new(),
            synced: Vec::new(),
            space: Space::default(),
            trunk_server: None,
            last_trunk_server: StorageId::NONE,
            trunk_file_id: 0,
            trunk_free_mb: 0,
            changes: 0,
            trunk_changes: 0,
            cursors: Arc::default(),
            turns: Vec::new(),
            view: None,
        }
    }

    /// All members in the order they joined.
    pub fn members(&self) -> &[Storage] {
        &self.members
    }

    /// All members sorted by the text of their ids.
    pub fn by_id(&self) -> impl Iterator<Item = &Storage> {
        let mut order: Vec<&Storage> = self.members.iter().collect();
        order.sort_by_key(|m| m.id);
        order.into_iter()
    }

    /// The member of this id.
    pub fn member(&self, id: &StorageId) -> Option<&Storage> {
        self.members.iter().find(|m| m.id == *id)
    }

    /// The member of this id, to change it. What queries see of the group is made anew afterwards.
    pub fn member_mut(&mut self, id: &StorageId) -> Option<&mut Storage> {
        self.view = None;
        self.members.iter_mut().find(|m| m.id == *id)
    }

    /// The member of this id, to change what queries do not see.
    pub fn member_quietly(&mut self, id: &StorageId) -> Option<&mut Storage> {
        self.members.iter_mut().find(|m| m.id == *id)
    }

    /// Every member, to change what queries do not see.
    pub fn members_quietly(&mut self) -> impl Iterator<Item = &mut Storage> {
        self.members.iter_mut()
    }

    /// Every member, to change them.
    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Storage> {
        self.view = None;
        self.members.iter_mut()
    }

    /// Members that take writes.
    pub fn writable(&self) -> impl Iterator<Item = &Storage> {
        self.members.iter().filter(|m| m.is_writable())
    }

    /// Members that can be read from.
    pub fn readable(&self) -> impl Iterator<Item = &Storage> {
        self.members.iter().filter(|m| m.is_readable())
    }

    /// Whether one more member fits.
    pub fn has_room(&self) -> bool {
        self.members.len() < MAX_MEMBERS
    }

    /// Adds a member; the caller has checked that its id is new and that there is room.
    pub fn add(&mut self, storage: Storage) {
        self.members.push(storage);
        for row in &mut self.synced {
            row.push(0);
        }
        self.synced.push(vec![0; self.members.len()]);
        self.note_change();
    }

    /// The list of members, or something in it, is no longer what the members were told.
    pub fn note_change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
        self.view = None;
    }

    /// Something queries depend on changed that members need not be told.
    pub fn note_report(&mut self) {
        self.view = None;
    }

    fn index(&self, id: &StorageId) -> Option<usize> {
        self.members.iter().position(|m| m.id == *id)
    }

    /// The timestamps of one source, in member order.
    pub fn synced_row(&self, source: usize) -> &[i64] {
        &self.synced[source]
    }

    /// Sets what a data file said: up to which time of `source` the `destination` was, both as positions in member
    /// order. False if there are no such members.
    pub fn restore_synced(&mut self, source: usize, destination: usize, timestamp: i64) -> bool {
        match self.synced.get_mut(source).and_then(|row| row.get_mut(destination)) {
            Some(cell) => {
                *cell = timestamp;
                true
            }
            None => false,
        }
    }

    /// Computes every member's synced timestamp from the whole matrix, as after loading it.
    pub fn recompute_synced(&mut self, rule: StoreServer) {
        self.view = None;
        for to in 0..self.members.len() {
            let from = (0..self.members.len()).filter(|&from| from != to).map(|from| self.synced[from][to]);
            let value = synced_of(rule, from.filter(|&t| t > 0));
            self.members[to].stat.last_synced_timestamp = value.unwrap_or(0);
        }
    }

    /// Takes a member's report of how far it has applied the others' changes; only active sources count.
    ///
    /// With round-robin writes a member has what all sources have reached (the minimum); else there is one source at a
    /// time, and the maximum is right.
    pub fn record_synced(&mut self, reporter: &StorageId, report: &[SyncedTo], rule: StoreServer) {
        let Some(to) = self.index(reporter) else { return };
        let mut counted = Vec::with_capacity(report.len());
        for &SyncedTo { source, timestamp } in report {
            let timestamp = i64::from(timestamp);
            let Some(from) = self.index(&source).filter(|&from| from != to) else { continue };
            if timestamp > 0 && self.members[from].is_active() {
                self.synced[from][to] = timestamp;
                counted.push(timestamp);
            }
        }
        let stat = &mut self.members[to].stat;
        let old = (rule != StoreServer::RoundRobin).then_some(stat.last_synced_timestamp);
        let value = synced_of(rule, counted.into_iter().chain(old));
        if let Some(value) = value.filter(|v| *v != stat.last_synced_timestamp) {
            stat.last_synced_timestamp = value;
            self.view = None;
        }
    }

    /// Space of the group: that of the writable member with least free space, of those that have reported.
    pub fn recompute_space(&mut self) {
        let reported = |m: &&Storage| m.space.total_mb > 0;
        let least = self.writable().filter(reported).map(|m| m.space).min_by_key(|s| s.free_mb);
        // A group that only serves reads shows its readers' space; one that serves nothing keeps what it had.
        let shown = least.or_else(|| self.readable().filter(reported).map(|m| m.space).min_by_key(|s| s.free_mb));
        if let Some(space) = shown {
            self.space = space;
        }
        self.view = None;
    }

    /// The status of a member changes: the only way to do that. What the other members have to be told of calls for
    /// [`Group::note_change`] as well. One that is gone is nobody's source, and has none: when it returns it is given
    /// another, or the same up to a later time.
    pub fn turn(&mut self, id: &StorageId, to: StorageStatus, cause: Cause) {
        let group = self.name;
        let Some(member) = self.member_mut(id) else { return };
        let from = std::mem::replace(&mut member.status, to);
        let is_gone = member.is_tombstone();
        if from != to {
            self.turns.push(Turn { group, id: *id, from, to, cause });
        }
        if is_gone {
            for m in self.members_mut().filter(|m| m.id == *id || m.sync_source == Some(*id)) {
                m.sync_source = None;
            }
        }
    }

    /// What became of the members since the last call.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.turns)
    }

    /// A member showed that it lives: it serves from now on, unless it still waits for old data or is gone.
    pub fn activate(&mut self, id: &StorageId) {
        let Some(m) = self.member(id) else { return };
        match m.status {
            StorageStatus::Offline | StorageStatus::Online | StorageStatus::Recovery => {
                self.turn(id, StorageStatus::Active, Cause::Reports);
                self.recompute_space();
                self.note_change();
            }
            _ => {}
        }
    }

    /// A member stopped serving; the others are told, and it will be told everything when it comes back.
    pub fn set_offline(&mut self, id: &StorageId, cause: Cause) {
        self.turn(id, StorageStatus::Offline, cause);
        let Some(m) = self.member_mut(id) else { return };
        m.seen_changes = 0;
        m.seen_trunk_changes = 0;
        self.recompute_space();
        self.note_change();
    }

    /// Makes `server` the trunk server.
    pub fn set_trunk_server(&mut self, server: Option<StorageId>) {
        if self.trunk_server == server {
            return;
        }
        self.trunk_server = server;
        if let Some(id) = server {
            self.last_trunk_server = id;
        }
        self.trunk_changes = self.trunk_changes.wrapping_add(1);
    }

    /// Whether the picture made last is still true.
    pub fn has_view(&self) -> bool {
        self.view.is_some()
    }

    /// The picture of this group.
    pub fn view(&mut self, rules: &Rules) -> Arc<GroupView> {
        if let Some(view) = &self.view {
            return view.clone();
        }
        let mut active: Vec<&Storage> = self.members.iter().filter(|m| m.is_active()).collect();
        active.sort_by_key(|m| m.id);
        let view = Arc::new(GroupView::new(
            self.name,
            self.space,
            self.trunk_free_mb,
            self.path_count as usize,
            active.into_iter().map(Storage::facts),
            self.cursors.clone(),
            rules,
        ));
        self.view = Some(view.clone());
        view
    }

    /// Gives a record a new id; whoever had it as source keeps it as source.
    pub fn rename(&mut self, from: &StorageId, to: StorageId) {
        for m in self.members_mut() {
            if m.sync_source == Some(*from) {
                m.sync_source = Some(to);
            }
            if m.id == *from {
                m.id = to;
            }
        }
    }
}

fn synced_of(rule: StoreServer, values: impl Iterator<Item = i64>) -> Option<i64> {
    match rule {
        StoreServer::RoundRobin => values.min(),
        StoreServer::First | StoreServer::ByPriority => values.max(),
    }
}
