//! What storages report about themselves, and what that makes of them.

use fdfs_protocol::Status;
use fdfs_protocol::peer::SyncedTo;
use fdfs_protocol::stat::StatBlock;

use super::{Cluster, Member};
use crate::directory::StorePath;
use fdfs_protocol::peer::PathSpace as Space;

/// The storage list is saved with every so many beats, the matrix of timestamps with every so many sync reports.
const SAVE_EVERY: u64 = 1000;

impl Cluster {
    /// A heart beat, with counters if any of them moved.
    ///
    /// # Errors
    /// `ENOENT`: no such member.
    pub fn beat(&mut self, member: &Member, counters: Option<&StatBlock>, now: i64) -> Result<(), Status> {
        let group = self.group_mut(&member.group)?;
        let storage = group.member_quietly(&member.id).ok_or(Status::ENOENT)?;
        if let Some(counters) = counters {
            let last_synced_timestamp = storage.stat.last_synced_timestamp;
            storage.stat = StatBlock { last_synced_timestamp, ..*counters };
        }
        storage.stat.last_heart_beat_time = now;
        group.activate(&member.id);
        if counters.is_some() {
            self.beats += 1;
            self.unsaved.storages |= self.beats.is_multiple_of(SAVE_EVERY);
        }
        Ok(())
    }

    /// Space on every store path, in the order of the paths.
    ///
    /// # Errors
    /// `EINVAL`: not as many paths as the group has. `ENOENT`: no such member.
    pub fn disk_usage(&mut self, member: &Member, paths: &[Space]) -> Result<(), Status> {
        let rule = self.rules().store_path;
        let group = self.group_mut(&member.group)?;
        if paths.len() != group.path_count as usize {
            return Err(Status::EINVAL);
        }
        let storage = group.member_mut(&member.id).ok_or(Status::ENOENT)?;
        storage.paths.clear();
        storage.paths.extend_from_slice(paths);
        storage.space = paths.iter().fold(Space::default(), |sum, p| Space {
            total_mb: sum.total_mb.saturating_add(p.total_mb),
            free_mb: sum.free_mb.saturating_add(p.free_mb),
        });
        if rule == StorePath::MostFree {
            let current = storage.current_path().min(paths.len().saturating_sub(1));
            let most = paths.iter().enumerate().fold(
                current,
                |best, (i, p)| {
                    if p.free_mb > paths[best].free_mb { i } else { best }
                },
            );
            storage.write_path.store(most, std::sync::atomic::Ordering::Relaxed);
        }
        group.activate(&member.id);
        group.recompute_space();
        Ok(())
    }

    /// Up to which time of each source the member has applied its changes.
    ///
    /// # Errors
    /// `ENOENT`: no such group.
    pub fn sync_report(&mut self, member: &Member, report: &[SyncedTo]) -> Result<(), Status> {
        let rule = self.rules().store_server;
        self.group_mut(&member.group)?.record_synced(&member.id, report, rule);
        self.sync_reports += 1;
        self.unsaved.synced |= self.sync_reports.is_multiple_of(SAVE_EVERY);
        Ok(())
    }

    /// Whoever serves but has not been heard of for `check_active_interval` seconds does not serve any more. Returns
    /// who that is.
    pub fn check_active(&mut self, now: i64) -> Vec<Member> {
        let limit = self.settings.check_active_interval;
        let mut silent = Vec::new();
        for group in self.groups.values() {
            for m in group.members().iter().filter(|m| m.is_active()) {
                if now - m.stat.last_heart_beat_time > limit {
                    silent.push(Member { group: group.name, id: m.id });
                }
            }
        }
        for member in &silent {
            if let Ok(group) = self.group_mut(&member.group) {
                group.set_offline(&member.id);
            }
        }
        self.unsaved.storages |= !silent.is_empty();
        silent
    }
}
