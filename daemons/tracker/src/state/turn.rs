//! Changes of a storage's status, each with its cause: what the log tells of them.

use std::fmt;

use fdfs_protocol::names::{GroupName, StorageId};
use fdfs_protocol::stat::StorageStatus;

use super::trackers::Moment;

/// Why the status of a storage changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It joined; all it has to do is report.
    Joined,
    /// It joined, unknown here, and says where it stands.
    Claimed,
    /// It was deleted or had moved away, and joined again.
    Returned,
    /// It has none of the files of its group.
    BeganAnew,
    /// This one will push it the files from before it joined.
    WaitsFor(StorageId),
    /// There is nobody to get older files from.
    NothingToGet,
    /// Another tracker decided that it needs no source.
    NeedsNoSource,
    /// Its source has pushed it all older files.
    GotEverythingFrom(StorageId),
    /// A beat or a report of its disks came.
    Reports,
    /// Its connection ended.
    Left,
    /// No beat came for so long.
    Silent(Moment),
    /// A member or another tracker reports it so.
    Reported(StorageStatus),
    /// It says of itself that it stands so.
    SaysItself(StorageStatus),
    /// An administrator deleted it.
    Deleted,
    /// It has this address now.
    Moved(StorageId),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Joined => write!(f, "it joined"),
            Cause::Claimed => write!(f, "it says so, and is new to this tracker"),
            Cause::Returned => write!(f, "it was gone, and joined again"),
            Cause::BeganAnew => write!(f, "it has none of the files of its group, and begins anew"),
            Cause::WaitsFor(source) => write!(f, "waits for the older files from {source}"),
            Cause::NothingToGet => write!(f, "there are no older files to get"),
            Cause::NeedsNoSource => write!(f, "another tracker says that it needs no older files"),
            Cause::GotEverythingFrom(source) => write!(f, "got everything from {source}"),
            Cause::Reports => write!(f, "it reports"),
            Cause::Left => write!(f, "its connection ended"),
            Cause::Silent(time) => write!(f, "no beat for {} s", time.as_secs()),
            Cause::Reported(status) => write!(f, "reported to be {status}"),
            Cause::SaysItself(status) => write!(f, "it says that it is {status}"),
            Cause::Deleted => write!(f, "deleted by an administrator"),
            Cause::Moved(new) => write!(f, "it is {new} now"),
        }
    }
}

/// One change of the status of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Its group.
    pub group: GroupName,
    /// Which storage.
    pub id: StorageId,
    /// What it was.
    pub from: StorageStatus,
    /// What it is now.
    pub to: StorageStatus,
    /// Why.
    pub cause: Cause,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Turn { group, id, from, to, cause } = self;
        write!(f, "storage {id} of {group}: {from} -> {to}: {cause}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use fdfs_protocol::peer::{Brief, JoinRequest};
    use fdfs_protocol::stat::StorageStatus as S;

    #[test]
    fn what_the_log_tells_of_a_storage() {
        let mut c = cluster(settings());
        c.bring_up("10.0.0.1");
        c.take_turns();
        let b = member("10.0.0.2");
        let brief = |status| Brief { status, port: 23000, id: b.id, ip: "10.0.0.2".parse().unwrap() };
        c.join_from("10.0.0.2", &request()).unwrap();
        c.assign_source(&b, NOW).unwrap();
        c.report_status(&b.group, &brief(S::Syncing)).unwrap();
        c.report_status(&b.group, &brief(S::Online)).unwrap();
        for _ in 0..3 {
            c.beat(&b, None, NOW, AT).unwrap();
        }
        c.leave(session("10.0.0.2"), Some(b));
        c.join_from("10.0.0.2", &JoinRequest { fresh: false, ..request() }).unwrap();
        c.beat(&b, None, NOW, AT).unwrap();
        c.beat(&member("10.0.0.1"), None, NOW, AT + Moment::from_secs(200)).unwrap();
        c.check_active(AT + Moment::from_secs(200));
        c.delete_storage(&b.group, &b.id, NOW).unwrap();
        let told: Vec<_> = c.take_turns().iter().map(Turn::to_string).collect();
        let expected = [
            "INIT -> WAIT_SYNC: waits for the older files from 10.0.0.1",
            "WAIT_SYNC -> SYNCING: reported to be SYNCING",
            "SYNCING -> OFFLINE: got everything from 10.0.0.1",
            "OFFLINE -> ACTIVE: it reports",
            "ACTIVE -> OFFLINE: its connection ended",
            "OFFLINE -> ONLINE: it joined",
            "ONLINE -> ACTIVE: it reports",
            "ACTIVE -> OFFLINE: no beat for 200 s",
            "OFFLINE -> DELETED: deleted by an administrator",
        ];
        assert_eq!(told, expected.map(|text| format!("storage 10.0.0.2 of group1: {text}")));
        assert_eq!(c.take_turns(), []);
    }
}
