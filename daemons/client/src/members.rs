//! The members of a group as places where a file may be, whatever the tracker believes about that file.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fdfs_protocol::FileId;
use fdfs_protocol::file_id::Source;
use fdfs_protocol::stat::{StorageRecord, StorageStatus};

/// The members of one group.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    /// Those that serve, as far as the tracker knows.
    serving: Arc<[SocketAddr]>,
    others: Arc<[Absent]>,
}

#[derive(Debug)]
struct Absent {
    addr: SocketAddr,
    /// The tracker knows it to be away, rather than not to serve yet.
    away: bool,
    /// The id as a number, where ids are configured.
    number: Option<u32>,
}

impl Absent {
    fn is_source(&self, source: Source) -> bool {
        match source {
            Source::Ip(ip) => self.addr.ip() == IpAddr::V4(ip),
            Source::Id(id) => self.number == Some(id),
        }
    }
}

impl Members {
    pub(crate) fn of(records: &[StorageRecord]) -> Self {
        let (mut serving, mut others) = (Vec::new(), Vec::new());
        for record in records {
            let Some(ip) = record.ip.addr() else { continue };
            let addr = SocketAddr::new(ip, record.port);
            match record.status {
                StorageStatus::Active => serving.push(addr),
                StorageStatus::Deleted | StorageStatus::IpChanged => {}
                status => {
                    let away = status == StorageStatus::Offline;
                    others.push(Absent { addr, away, number: record.id.as_str().parse().ok() });
                }
            }
        }
        Self { serving: serving.into(), others: others.into() }
    }

    /// Where to look for a file: at those that serve, and at its source even if that one does not seem to; if none
    /// serves (the tracker may just have started), at all.
    pub(crate) fn candidates(&self, id: &FileId) -> Arc<[SocketAddr]> {
        let others = self.others.iter().filter(|other| self.is_candidate(other, id));
        self.serving.iter().copied().chain(others.map(|other| other.addr)).collect()
    }

    /// The other members: who may still have what none of the candidates has as it should be. First those that do not serve
    /// yet, then those that are away.
    pub(crate) fn rest(&self, id: &FileId) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let rest = || self.others.iter().filter(|other| !self.is_candidate(other, id));
        let with = |away: bool| rest().filter(|other| other.away == away).map(|other| other.addr).collect();
        (with(false), with(true))
    }

    fn is_candidate(&self, other: &Absent, id: &FileId) -> bool {
        self.serving.is_empty() || id.name.block().is_ok_and(|block| other.is_source(block.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdfs_protocol::file_id::{NameBlock, NewName, SizeField};
    use fdfs_protocol::{ExtName, IpSize, RemoteName};

    fn record(last: u8, status: StorageStatus) -> StorageRecord {
        let id = format!("1000{last}");
        let ip = format!("10.0.0.{last}");
        StorageRecord { status, id: id.parse().unwrap(), ip: ip.parse().unwrap(), port: 23000, ..blank() }
    }

    fn blank() -> StorageRecord {
        StorageRecord::decode(&vec![0; StorageRecord::len(IpSize::V4)], IpSize::V4).unwrap()
    }

    fn file(source: Source) -> FileId {
        let block = NameBlock { source, timestamp: 1, size: SizeField::normal(1, 0), crc32: 0 };
        let name = RemoteName::generate(&NewName {
            store_path: 0,
            directories: (0, 0),
            block,
            slot: None,
            ext: &ExtName::NONE,
            random: 0,
        });
        FileId::new("g".parse().unwrap(), name)
    }

    fn lasts(members: &Members, source: Source) -> Vec<u8> {
        last(&members.candidates(&file(source)))
    }

    fn last(addrs: &[SocketAddr]) -> Vec<u8> {
        let last = |addr: &SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        addrs.iter().map(last).collect()
    }

    fn rest(members: &Members, source: Source) -> (Vec<u8>, Vec<u8>) {
        let (idle, away) = members.rest(&file(source));
        (last(&idle), last(&away))
    }

    #[test]
    fn those_that_serve_and_the_source() {
        use StorageStatus::{Active, Deleted, IpChanged, Offline, Syncing};
        let members = Members::of(&[
            record(1, Active),
            record(2, Offline),
            record(3, Syncing),
            record(4, Deleted),
            record(5, Active),
        ]);
        assert_eq!(lasts(&members, Source::Ip([10, 0, 0, 1].into())), [1, 5]);
        assert_eq!(lasts(&members, Source::Ip([10, 0, 0, 2].into())), [1, 5, 2]);
        assert_eq!(lasts(&members, Source::Id(10003)), [1, 5, 3]);
        assert_eq!(lasts(&members, Source::Id(10004)), [1, 5], "one that was removed is not asked");
        let members = Members::of(&[record(1, Offline), record(2, Syncing), record(3, IpChanged)]);
        assert_eq!(lasts(&members, Source::Ip([10, 0, 0, 9].into())), [1, 2], "nobody serves: all are asked");
    }

    #[test]
    fn every_member_that_was_not_removed_is_a_candidate_or_of_the_rest() {
        use StorageStatus::{Active, Deleted, Init, IpChanged, None, Offline, Online, Recovery, Syncing, WaitSync};
        let all = [Active, Offline, Syncing, Deleted, Init, WaitSync, IpChanged, Online, Recovery, None];
        let records: Vec<_> = (0..).zip(all).map(|(i, status)| record(i, status)).collect();
        let members = Members::of(&records);
        assert_eq!(lasts(&members, Source::Id(9)), [0]);
        assert_eq!(rest(&members, Source::Id(9)), (vec![2, 4, 5, 7, 8, 9], vec![1]));
        // The source is a candidate.
        assert_eq!(rest(&members, Source::Ip([10, 0, 0, 1].into())).1, []);
        assert_eq!(rest(&members, Source::Id(10008)).0, [2, 4, 5, 7, 9]);
        // If nobody serves, all are.
        assert_eq!(rest(&Members::of(&records[1..]), Source::Id(9)), (vec![], vec![]));
    }
}
