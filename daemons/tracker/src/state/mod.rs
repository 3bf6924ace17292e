//! The cluster as this tracker knows it: a pure state machine.
//!
//! Every method takes what a message said, who said it and what time it is, changes the state, and returns what to
//! answer. Nothing here touches a socket, a clock or a file; what has to be saved is collected in
//! [`Cluster::take_unsaved`], what queries should see in [`Cluster::publish`].
//!
//! | module | what it decides |
//! |---|---|
//! | [`join`] | who a joining storage is, and whether it may join |
//! | [`report`] | heart beats, disk reports, sync reports; who serves and who does not |
//! | [`source`] | who pushes old data to a new member |
//! | [`merge`] | what other members and trackers say about a storage |
//! | [`removal`] | deletion, change of address |
//! | [`turn`] | why the status of a storage changed |
//! | [`changes`] | what a member must be told with the next answer |
//! | [`identity`] | ids, addresses and group names |
//! | [`trunk`] | trunk servers |
//! | [`own`] | which addresses are this tracker's own |
//! | [`trackers`] | the other trackers and who leads |
//! | [`election`] | what to ask and tell the others so that one leads |
//! | [`statistics`] | the lists and statistics |
//!
//! Facts are those of FastDFS 6.16.

pub mod changes;
pub mod election;
pub mod group;
pub mod identity;
pub mod join;
pub mod merge;
pub mod own;
pub mod removal;
pub mod report;
pub mod source;
pub mod statistics;
pub mod storage;
pub mod trackers;
pub mod trunk;
pub mod turn;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use fdfs_protocol::Status;
use fdfs_protocol::names::{GroupName, StorageId};

use crate::directory::{Directory, Rules};
use crate::settings::Settings;
use group::Group;
use storage::{Session, Storage};
use trackers::{Moment, Trackers};
use turn::{Cause, Turn};

/// A tracker that copies the data files and asks for nothing for so long hangs.
const COPIER_HANGS: Moment = Moment::from_secs(60);
/// Nobody is given them again so soon: making them takes a while in which nothing else is done.
const COPY_PAUSE: Moment = Moment::from_secs(1);

/// Most groups a cluster may have.
pub const MAX_GROUPS: usize = 512;

/// Who sends a message.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Its address.
    pub peer: IpAddr,
    /// The address it reached this tracker under.
    pub local: IpAddr,
    /// Its connection.
    pub session: Session,
}

/// A storage that joined on a connection: group and id.
pub type Member = fdfs_protocol::peer::GroupMember;

/// Which data files no longer hold what the state says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsaved {
    /// storage_groups_new.dat
    pub groups: bool,
    /// storage_servers_new.dat
    pub storages: bool,
    /// storage_sync_timestamp.dat
    pub synced: bool,
    /// storage_changelog.dat
    pub changelog: bool,
}

impl Unsaved {
    /// All files.
    pub const ALL: Unsaved = Unsaved { groups: true, storages: true, synced: true, changelog: true };

    /// Whether there is anything to save.
    pub fn any(self) -> bool {
        self != Unsaved::default()
    }

    /// What either of the two names.
    pub fn with(self, other: Unsaved) -> Unsaved {
        Unsaved {
            groups: self.groups || other.groups,
            storages: self.storages || other.storages,
            synced: self.synced || other.synced,
            changelog: self.changelog || other.changelog,
        }
    }
}

/// Groups, storages, trackers.
#[derive(Debug)]
pub struct Cluster {
    settings: Arc<Settings>,
    groups: BTreeMap<GroupName, Group>,
    /// The trackers, and who leads.
    pub trackers: Trackers,
    /// All lines of the changelog.
    changelog: Vec<u8>,
    beats: u64,
    sync_reports: u64,
    group_cursor: Arc<AtomicUsize>,
    /// Whether groups came or went since the last picture.
    regrouped: bool,
    unsaved: Unsaved,
    copier: Option<Copier>,
    /// To whom the data files were given last, and when.
    copied: Option<(IpAddr, Moment)>,
}

/// The contents of the data files.
pub type DataFiles = [Vec<u8>; 4];

/// A tracker that copies the data files.
#[derive(Debug)]
struct Copier {
    session: Session,
    /// When it asked for something last.
    asked: Moment,
    /// As they were when it began.
    files: Arc<DataFiles>,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(settings: Arc<Settings>, trackers: Trackers) -> Cluster {
        Cluster {
            settings,
            groups: BTreeMap::new(),
            trackers,
            changelog: Vec::new(),
            beats: 0,
            sync_reports: 0,
            group_cursor: Arc::default(),
            regrouped: true,
            unsaved: Unsaved::default(),
            copier: None,
            copied: None,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn rules(&self) -> &Rules {
        &self.settings.rules
    }

    /// All groups, sorted by name.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The changelog as it should stand in its file.
    pub fn changelog(&self) -> &[u8] {
        &self.changelog
    }

    /// Puts back what a data file held: a group, and the whole changelog.
    pub fn restore(&mut self, groups: Vec<Group>, changelog: Vec<u8>) {
        self.groups = groups.into_iter().map(|g| (g.name, g)).collect();
        self.changelog = changelog;
        self.regrouped = true;
    }

    /// A group that must exist.
    pub fn group(&self, name: &GroupName) -> Result<&Group, Status> {
        self.groups.get(name).ok_or(Status::ENOENT)
    }

    fn group_mut(&mut self, name: &GroupName) -> Result<&mut Group, Status> {
        self.groups.get_mut(name).ok_or(Status::ENOENT)
    }

    /// A storage that must exist.
    pub fn storage(&self, group: &GroupName, id: &StorageId) -> Result<&Storage, Status> {
        self.group(group)?.member(id).ok_or(Status::ENOENT)
    }

    /// Which files must be saved; nothing is left to save afterwards.
    pub fn take_unsaved(&mut self) -> Unsaved {
        std::mem::take(&mut self.unsaved)
    }

    /// Whose status changed since the last call, and why.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        self.groups.values_mut().flat_map(Group::take_turns).collect()
    }

    /// The picture for queries, if it differs from the one published last.
    pub fn publish(&mut self) -> Option<Directory> {
        if !std::mem::take(&mut self.regrouped) && self.groups.values().all(Group::has_view) {
            return None;
        }
        let rules = self.settings.rules;
        let views = self.groups.values_mut().map(|g| g.view(&rules)).collect();
        Some(Directory::new(rules, views, self.group_cursor.clone()))
    }

    /// Whether `member` joined on this connection, and on no other since.
    pub fn is_joined(&self, member: &Member, session: Session) -> bool {
        self.storage(&member.group, &member.id).is_ok_and(|m| m.session == Some(session))
    }

    /// A tracker begins to copy the data files, as they are made now; one at a time may. One that hangs does not keep
    /// others from it for ever. What is made for it is kept no longer than it has its turn.
    ///
    /// # Errors
    /// `ENOENT`: there is nothing to copy. `EBUSY`: a connection copies, or the same peer began a moment ago.
    pub fn begin_copy(
        &mut self,
        caller: &Caller,
        at: Moment,
        make: impl FnOnce(&Cluster) -> DataFiles,
    ) -> Result<(), Status> {
        if self.groups.is_empty() {
            return Err(Status::ENOENT);
        }
        self.end_hanging_copy(at);
        let again = |(peer, begun): (IpAddr, Moment)| peer == caller.peer && at.saturating_sub(begun) < COPY_PAUSE;
        if self.copier.is_some() || self.copied.is_some_and(again) {
            return Err(Status::EBUSY);
        }
        self.copier = Some(Copier { session: caller.session, asked: at, files: Arc::new(make(self)) });
        self.copied = Some((caller.peer, at));
        Ok(())
    }

    /// A tracker goes on copying these files.
    ///
    /// # Errors
    /// `EACCES`: it has not begun, or took so long that it lost its turn.
    pub fn go_on_copying(&mut self, session: Session, at: Moment) -> Result<Arc<DataFiles>, Status> {
        let copier = self.copier.as_mut().filter(|copier| copier.session == session).ok_or(Status::EACCES)?;
        copier.asked = at;
        Ok(copier.files.clone())
    }

    /// A tracker is done with copying.
    pub fn end_copy(&mut self, session: Session) {
        self.copier.take_if(|copier| copier.session == session);
    }

    /// A tracker that hangs loses its turn; to be called now and then.
    pub fn end_hanging_copy(&mut self, at: Moment) {
        self.copier.take_if(|copier| at.saturating_sub(copier.asked) >= COPIER_HANGS);
    }

    /// A connection ended. If a storage had joined on it, and on no other since, that storage is down.
    pub fn leave(&mut self, session: Session, member: Option<Member>) {
        self.end_copy(session);
        let Some(member) = member else { return };
        let Ok(group) = self.group_mut(&member.group) else { return };
        let Some(storage) = group.member_mut(&member.id) else { return };
        if storage.session != Some(session) {
            return;
        }
        storage.session = None;
        storage.up_time = 0;
        use fdfs_protocol::stat::StorageStatus as S;
        if matches!(storage.status, S::Offline | S::Online | S::Active) {
            group.set_offline(&member.id, Cause::Left);
            self.unsaved.storages = true;
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use fdfs_protocol::stat::StorageStatus as S;

    #[test]
    fn the_end_of_a_connection() {
        for status in
            [S::Init, S::WaitSync, S::Syncing, S::IpChanged, S::Deleted, S::Offline, S::Online, S::Active, S::Recovery]
        {
            let mut c = cluster(settings());
            let m = c.bring_up("10.0.0.1");
            c.set_status(&m, status);
            c.leave(session("10.0.0.1"), Some(m));
            let expected = if matches!(status, S::Online | S::Active) { S::Offline } else { status };
            assert_eq!(c.status(&m), expected, "{status}");
            assert_eq!(c.storage(&m.group, &m.id).unwrap().up_time, 0);
        }
    }

    #[test]
    fn the_end_of_an_older_connection_means_nothing() {
        let mut c = cluster(settings());
        let m = c.bring_up("10.0.0.1");
        c.join(&caller("10.0.0.1", 99), &fdfs_protocol::peer::JoinRequest { fresh: false, ..request() }).unwrap();
        assert!(c.is_joined(&m, 99) && !c.is_joined(&m, session("10.0.0.1")));
        c.leave(session("10.0.0.1"), Some(m));
        assert_eq!(c.status(&m), S::Active);
        c.leave(99, Some(m));
        assert_eq!(c.status(&m), S::Offline);
        c.leave(99, None);
    }

    #[test]
    fn queries_see_a_change_when_it_is_published() {
        let mut c = cluster(settings());
        assert!(c.publish().is_some(), "the first picture, of nothing");
        assert!(c.publish().is_none());
        let m = c.bring_up("10.0.0.1");
        let d = c.publish().unwrap();
        assert_eq!(d.choose_upload(None, false).unwrap().member.id, m.id);
        c.beat(&m, None, NOW + 1, AT).unwrap();
        assert!(c.publish().is_none(), "a beat that changes nothing makes no new picture");
        c.leave(session("10.0.0.1"), Some(m));
        assert_eq!(c.publish().unwrap().choose_upload(None, false).unwrap_err(), Status::ENOENT);
    }

    #[test]
    fn cursors_survive_changes() {
        let mut c = cluster(settings());
        c.bring_up("10.0.0.1");
        let b = c.bring_up("10.0.0.2");
        let d = c.publish().unwrap();
        assert_eq!(d.choose_upload(None, false).unwrap().member.id.as_str(), "10.0.0.1");
        c.disk_usage(&b, &[fdfs_protocol::peer::PathSpace { total_mb: 1000, free_mb: 400 }]).unwrap();
        let d = c.publish().unwrap();
        assert_eq!(d.choose_upload(None, false).unwrap().member.id.as_str(), "10.0.0.2");
    }

    #[test]
    fn one_copier_at_a_time() {
        let mut c = cluster(settings());
        let begin = |c: &mut Cluster, session: u64, at| {
            c.begin_copy(&caller(&format!("10.0.1.{session}"), session), at, |_| [(); 4].map(|()| vec![session as u8]))
        };
        assert_eq!(begin(&mut c, 1, AT), Err(Status::ENOENT));
        c.bring_up("10.0.0.1");
        let begun = (begin(&mut c, 1, AT), begin(&mut c, 1, AT + COPY_PAUSE), begin(&mut c, 2, AT));
        assert_eq!(begun, (Ok(()), Err(Status::EBUSY), Err(Status::EBUSY)));
        c.end_copy(2);
        assert_eq!(begin(&mut c, 2, AT), Err(Status::EBUSY));
        c.leave(1, None);
        assert_eq!(begin(&mut c, 2, AT), Ok(()));
        // One that goes on keeps its turn, and what it copies; one that hangs loses both.
        let files = c.go_on_copying(2, AT + COPIER_HANGS).unwrap();
        assert_eq!(files[3], [2]);
        assert_eq!(begin(&mut c, 3, AT + COPIER_HANGS), Err(Status::EBUSY));
        assert_eq!(begin(&mut c, 3, AT + COPIER_HANGS * 2), Ok(()));
        assert_eq!(c.go_on_copying(2, AT + COPIER_HANGS * 2), Err(Status::EACCES));
        assert_eq!(Arc::strong_count(&files), 1);
        let files = c.go_on_copying(3, AT + COPIER_HANGS * 2).unwrap();
        c.end_hanging_copy(AT + COPIER_HANGS * 3);
        assert_eq!(Arc::strong_count(&files), 1, "though nobody else wants to copy");
    }

    #[test]
    fn one_peer_does_not_copy_all_the_time() {
        let mut c = cluster(settings());
        c.bring_up("10.0.0.1");
        let mut made = 0;
        for (peer, session, at, expected) in [
            ("10.0.1.1", 1, AT, Ok(())),
            ("10.0.1.1", 1, AT, Err(Status::EBUSY)),
            ("10.0.1.1", 2, AT, Err(Status::EBUSY)),
            ("10.0.1.2", 3, AT, Ok(())),
            ("10.0.1.2", 3, AT + COPY_PAUSE, Ok(())),
        ] {
            let begun = c.begin_copy(&caller(peer, session), at, |_| {
                made += 1;
                DataFiles::default()
            });
            assert_eq!(begun, expected);
            c.end_copy(session);
        }
        assert_eq!(made, 3);
    }
}
