//! What storages report about themselves, and what that makes of them.

use fdfs_protocol::Status;
use fdfs_protocol::peer::SyncedTo;
use fdfs_protocol::stat::StatBlock;

use super::trackers::Moment;
use super::turn::Cause;
use super::{Cluster, Member};
use crate::directory::StorePath;
use fdfs_protocol::peer::PathSpace as Space;

/// The storage list is saved with every so many beats, the matrix of timestamps with every so many sync reports.
const SAVE_EVERY: u64 = 1000;

impl Cluster {
    /// A heart beat, with counters if any of them moved. `now` is shown; whether it was heard of lately is judged by `at`.
    ///
    /// # Errors
    /// `ENOENT`: no such member.
    pub fn beat(&mut self, member: &Member, counters: Option<&StatBlock>, now: i64, at: Moment) -> Result<(), Status> {
        let group = self.group_mut(&member.group)?;
        let storage = group.member_quietly(&member.id).ok_or(Status::ENOENT)?;
        if let Some(counters) = counters {
            let last_synced_timestamp = storage.stat.last_synced_timestamp;
            storage.stat = StatBlock { last_synced_timestamp, ..*counters };
        }
        storage.stat.last_heart_beat_time = now;
        storage.heard = Some(at);
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
    pub fn check_active(&mut self, at: Moment) -> Vec<Member> {
        let limit = Moment::from_secs(self.settings.check_active_interval.unsigned_abs());
        let mut silent = Vec::new();
        for group in self.groups.values_mut() {
            let name = group.name;
            for m in group.members_quietly().filter(|m| m.is_active()) {
                let silence = at.saturating_sub(*m.heard.get_or_insert(at));
                if silence > limit {
                    silent.push((Member { group: name, id: m.id }, silence));
                }
            }
        }
        for (member, silence) in &silent {
            if let Ok(group) = self.group_mut(&member.group) {
                group.set_offline(&member.id, Cause::Silent(*silence));
            }
        }
        self.unsaved.storages |= !silent.is_empty();
        silent.into_iter().map(|(member, _)| member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::directory::StoreServer;
    use fdfs_protocol::peer::JoinRequest;
    use fdfs_protocol::stat::StorageStatus as S;

    fn space(total_mb: u64, free_mb: u64) -> Space {
        Space { total_mb, free_mb }
    }

    #[test]
    fn who_becomes_active_by_a_sign_of_life() {
        for (status, expected) in [
            (S::Init, S::Init),
            (S::WaitSync, S::WaitSync),
            (S::Syncing, S::Syncing),
            (S::IpChanged, S::IpChanged),
            (S::Deleted, S::Deleted),
            (S::Offline, S::Active),
            (S::Online, S::Active),
            (S::Active, S::Active),
            (S::Recovery, S::Active),
        ] {
            for disk in [false, true] {
                let mut c = cluster(settings());
                let m = c.bring_up("10.0.0.1");
                c.set_status(&m, status);
                let changes = c.group(&m.group).unwrap().changes;
                if disk {
                    c.disk_usage(&m, &[space(10, 5)]).unwrap();
                } else {
                    c.beat(&m, None, NOW, AT).unwrap();
                }
                assert_eq!(c.status(&m), expected, "{status}");
                let told = c.group(&m.group).unwrap().changes != changes;
                assert_eq!(told, status != expected, "{status}: a change is told");
            }
        }
    }

    #[test]
    fn beats_keep_what_is_the_trackers_own() {
        let mut c = cluster(settings());
        let m = c.bring_up("10.0.0.1");
        c.group_mut(&m.group).unwrap().member_mut(&m.id).unwrap().stat.last_synced_timestamp = 77;
        let mut counters = StatBlock { last_synced_timestamp: 1, last_heart_beat_time: 2, ..StatBlock::default() };
        counters.upload_count.total = 5;
        c.beat(&m, Some(&counters), NOW + 9, AT).unwrap();
        let stat = c.storage(&m.group, &m.id).unwrap().stat;
        assert_eq!((stat.upload_count.total, stat.last_synced_timestamp, stat.last_heart_beat_time), (5, 77, NOW + 9));
    }

    #[test]
    fn the_list_is_saved_every_thousandth_beat_with_counters() {
        let mut c = cluster(settings());
        let m = c.bring_up("10.0.0.1");
        c.take_unsaved();
        for i in 1..=2000u32 {
            c.beat(&m, None, NOW, AT).unwrap();
            c.beat(&m, Some(&StatBlock::default()), NOW, AT).unwrap();
            assert_eq!(c.take_unsaved().storages, i.is_multiple_of(1000), "beat {i}");
        }
    }

    #[test]
    fn disk_reports() {
        let mut s = settings();
        s.rules.store_path = StorePath::MostFree;
        let mut c = cluster(s);
        let mut two_paths = request();
        two_paths.store_path_count = 3;
        c.join_from("10.0.0.1", &two_paths).unwrap();
        let m = member("10.0.0.1");
        assert_eq!(c.disk_usage(&m, &[space(10, 5)]), Err(Status::EINVAL), "three paths");
        c.disk_usage(&m, &[space(10, 5), space(20, 9), space(30, 9)]).unwrap();
        let st = c.storage(&m.group, &m.id).unwrap();
        assert_eq!((st.space, st.current_path()), (space(60, 23), 1), "sum; the first of the fullest-free");
        c.disk_usage(&m, &[space(10, 9), space(20, 9), space(30, 9)]).unwrap();
        assert_eq!(c.storage(&m.group, &m.id).unwrap().current_path(), 1, "equal ones do not move it");
    }

    #[test]
    fn space_of_the_group_is_that_of_the_fullest_writable_member() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        c.disk_usage(&a, &[space(1000, 300)]).unwrap();
        c.disk_usage(&b, &[space(2000, 200)]).unwrap();
        assert_eq!(c.group(&a.group).unwrap().space, space(2000, 200));
        c.disk_usage(&b, &[space(2000, 900)]).unwrap();
        assert_eq!(c.group(&a.group).unwrap().space, space(1000, 300));
        c.leave(session("10.0.0.1"), Some(a));
        assert_eq!(c.group(&a.group).unwrap().space, space(2000, 900), "who is down does not count");
        c.leave(session("10.0.0.2"), Some(b));
        assert_eq!(c.group(&a.group).unwrap().space, space(2000, 900), "the last known stays");
    }

    #[test]
    fn silence_makes_offline() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        let second = Moment::from_secs(1);
        c.beat(&b, None, NOW, AT + second).unwrap();
        assert_eq!(c.check_active(AT + second * 100), []);
        assert_eq!(c.check_active(AT + second * 101), [a]);
        assert_eq!((c.status(&a), c.status(&b)), (S::Offline, S::Active));
        // The next sign of life brings it back, whatever its clock and this one's say.
        c.beat(&a, None, NOW - 1_000_000, AT + second * 102).unwrap();
        assert_eq!(c.check_active(AT + second * 102), [b]);
        assert_eq!(c.status(&a), S::Active);
        // One that only reports its disks after it joined has its time too.
        c.leave(session("10.0.0.1"), Some(a));
        c.join_from("10.0.0.1", &JoinRequest { fresh: false, ..request() }).unwrap();
        c.disk_usage(&a, &[space(10, 5)]).unwrap();
        assert_eq!(c.check_active(AT + second * 1000), []);
        assert_eq!(c.check_active(AT + second * 1101), [a]);
    }

    #[test]
    fn synced_timestamps() {
        for (rule, reports, expected) in [
            (StoreServer::RoundRobin, [vec![(2, 50), (3, 40)], vec![(2, 60), (3, 0)]], [40, 60]),
            (StoreServer::First, [vec![(2, 50), (3, 40)], vec![(2, 45), (3, 0)]], [50, 50]),
            (StoreServer::ByPriority, [vec![(2, 0), (3, 0)], vec![(2, 45), (1, 90)]], [0, 45]),
        ] {
            let mut s = settings();
            s.rules.store_server = rule;
            let mut c = cluster(s);
            let a = c.bring_up("10.0.0.1");
            c.bring_up("10.0.0.2");
            c.bring_up("10.0.0.3");
            for (report, expected) in reports.iter().zip(expected) {
                let report: Vec<SyncedTo> = report
                    .iter()
                    .map(|&(n, timestamp)| SyncedTo { source: format!("10.0.0.{n}").parse().unwrap(), timestamp })
                    .collect();
                c.sync_report(&a, &report).unwrap();
                let synced = c.storage(&a.group, &a.id).unwrap().stat.last_synced_timestamp;
                assert_eq!(synced, expected, "{rule:?}");
            }
        }
    }

    #[test]
    fn only_active_sources_count() {
        let mut c = cluster(settings());
        let a = c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        c.leave(session("10.0.0.2"), Some(b));
        let report = [b.id, "10.0.0.9".parse().unwrap()].map(|source| SyncedTo { source, timestamp: 50 });
        c.sync_report(&a, &report).unwrap();
        assert_eq!(c.storage(&a.group, &a.id).unwrap().stat.last_synced_timestamp, 0);
    }
}
