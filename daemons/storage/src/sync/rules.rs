//! Which records go to a peer, and what its answers mean. Pure.

use fdfs_protocol::binlog::{Change, Origin, Record};
use fdfs_protocol::datafile::SyncMark;
use fdfs_protocol::stat::StorageStatus;
use fdfs_protocol::{Command, RemoteName, Status};

/// Whether a record of the own binlog is pushed to the peer that `mark` belongs to.
///
/// What clients did here always is. What other members pushed here they push to the peer themselves, except for what
/// is older than the peer: that is old data, and comes from this storage if it is the peer's source. Changes of a range
/// are never old data: the whole file as it is now comes with the record of its creation.
pub fn is_wanted(record: &Record, mark: &SyncMark) -> bool {
    let ranged = matches!(record.change, Change::Append { .. } | Change::Modify { .. } | Change::Truncate { .. });
    match record.origin {
        Origin::Client => true,
        Origin::Replica => is_old_data(mark) && !ranged && i64::from(record.timestamp) <= mark.until_timestamp,
    }
}

/// Whether old data is being pushed: it was asked for, and its end was not reached.
pub fn is_old_data(mark: &SyncMark) -> bool {
    mark.need_sync_old && !mark.sync_old_done
}

/// The names a record is about: records that share one are pushed in their order.
pub fn names(record: &Record) -> [Option<RemoteName>; 2] {
    let other = match record.change {
        Change::Rename { old } => Some(old),
        Change::Link { source } => source,
        _ => None,
    };
    [Some(record.name), other]
}

/// What a push loop does about its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until its status changes.
    Wait,
    /// Push.
    Push,
    /// The peer has left the group: the loop ends.
    End,
}

/// What to do about a peer of this status, `None` if it is not known (any more). `old_data`: this storage is to push old
/// data; a storage that is not the source of a new member has nothing for it before it serves.
pub fn step(status: Option<StorageStatus>, old_data: bool) -> Step {
    use StorageStatus as S;
    match status {
        None | Some(S::Deleted | S::IpChanged | S::None) => Step::End,
        Some(S::Active) => Step::Push,
        Some(S::WaitSync | S::Syncing) if old_data => Step::Push,
        Some(S::WaitSync | S::Syncing | S::Init | S::Offline | S::Online | S::Recovery) => Step::Wait,
    }
}

/// A peer's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: Status,
    /// It says that what was pushed was overtaken there. FastDFS's storages never do.
    pub overtaken: bool,
}

/// What follows from a peer's answer to a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The peer has the change.
    Done,
    /// The peer has something later instead: there is nothing to push, but it does not have the change.
    PassedOver,
    /// It lacks what the change is based on: the whole file is pushed, in place of what it may have.
    Update,
    /// It does not have the file: the whole file is pushed.
    Create,
    /// It has another size than the file had before it was truncated. If that is the size after it, the peer had the
    /// change already; else it lacks something, and the whole file is pushed.
    Compare,
    /// It cannot take the change.
    Refused(Status),
}

/// Judges the answer to a SYNC command. Statuses that mean "you come late" are as good as success, unless the peer says
/// that it is not for having the change.
pub fn judge(command: Command, answer: Answer) -> Verdict {
    match judge_status(command, answer.status) {
        Verdict::Done if answer.overtaken => Verdict::PassedOver,
        verdict => verdict,
    }
}

fn judge_status(command: Command, status: Status) -> Verdict {
    use Command as C;
    use Verdict as V;
    match (command, status) {
        (_, Status::OK) => V::Done,
        (C::SyncCreateFile | C::SyncUpdateFile, Status::EEXIST) => V::Done,
        (C::SyncDeleteFile | C::SyncCreateLink, Status::ENOENT) => V::Done,
        (C::SyncAppendFile | C::SyncModifyFile | C::SyncRenameFile, Status::EEXIST) => V::Done,
        (C::SyncAppendFile | C::SyncModifyFile | C::SyncTruncateFile, Status::ENOENT) => V::Update,
        (C::SyncTruncateFile, Status::EEXIST) => V::Compare,
        (C::SyncRenameFile, Status::ENOENT) => V::Create,
        (_, status) => V::Refused(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "M00/00/00/Ck4AAWsA5LaEYVcFAAAAALBg714379.txt";

    fn record(line: &str) -> Record {
        Record::parse(line.replace('%', NAME).as_bytes()).unwrap()
    }

    #[test]
    fn own_changes_always_go_and_others_only_as_old_data() {
        let none = SyncMark::default();
        let old = SyncMark { need_sync_old: true, until_timestamp: 100, ..none };
        let done = SyncMark { sync_old_done: true, ..old };
        let upper = ["C %", "A % 1 2", "M % 1 2", "T % 1 2", "D %", "U %", "L % %", "R % %"];
        for text in upper {
            let client = record(&format!("500 {text}"));
            assert!([none, old, done].iter().all(|mark| is_wanted(&client, mark)), "{text}");
            let lower = format!("{}{}", text[..1].to_lowercase(), &text[1..]);
            let (early, late) = (record(&format!("100 {lower}")), record(&format!("101 {lower}")));
            let whole = !"amt".contains(&lower[..1]);
            assert_eq!(is_wanted(&early, &old), whole, "{lower}");
            assert!(!is_wanted(&late, &old) && !is_wanted(&early, &none) && !is_wanted(&early, &done), "{lower}");
        }
    }

    #[test]
    fn every_status_has_its_step() {
        use StorageStatus as S;
        for (status, source, other) in [
            (Some(S::Init), Step::Wait, Step::Wait),
            (Some(S::WaitSync), Step::Push, Step::Wait),
            (Some(S::Syncing), Step::Push, Step::Wait),
            (Some(S::IpChanged), Step::End, Step::End),
            (Some(S::Deleted), Step::End, Step::End),
            (Some(S::Offline), Step::Wait, Step::Wait),
            (Some(S::Online), Step::Wait, Step::Wait),
            (Some(S::Active), Step::Push, Step::Push),
            (Some(S::Recovery), Step::Wait, Step::Wait),
            (Some(S::None), Step::End, Step::End),
            (None, Step::End, Step::End),
        ] {
            assert_eq!((step(status, true), step(status, false)), (source, other), "{status:?}");
        }
    }

    #[test]
    fn answers() {
        use Command as C;
        let pushes = [
            C::SyncCreateFile,
            C::SyncUpdateFile,
            C::SyncDeleteFile,
            C::SyncAppendFile,
            C::SyncModifyFile,
            C::SyncTruncateFile,
            C::SyncCreateLink,
            C::SyncRenameFile,
        ];
        let refused = |status| Verdict::Refused(status);
        let exists = [
            Verdict::Done,
            Verdict::Done,
            refused(Status::EEXIST),
            Verdict::Done,
            Verdict::Done,
            Verdict::Compare,
            refused(Status::EEXIST),
            Verdict::Done,
        ];
        let missing = [
            refused(Status::ENOENT),
            refused(Status::ENOENT),
            Verdict::Done,
            Verdict::Update,
            Verdict::Update,
            Verdict::Update,
            Verdict::Done,
            Verdict::Create,
        ];
        let plain = |command, status| judge(command, Answer { status, overtaken: false });
        for (i, command) in pushes.into_iter().enumerate() {
            assert_eq!(plain(command, Status::OK), Verdict::Done);
            assert_eq!(plain(command, Status::EEXIST), exists[i], "{command}");
            assert_eq!(plain(command, Status::ENOENT), missing[i], "{command}");
            assert_eq!(plain(command, Status::ENOSPC), refused(Status::ENOSPC));
            for status in [Status::EEXIST, Status::ENOENT] {
                let expected = match plain(command, status) {
                    Verdict::Done => Verdict::PassedOver,
                    other => other,
                };
                assert_eq!(judge(command, Answer { status, overtaken: true }), expected, "{command}");
            }
        }
    }

    #[test]
    fn records_of_two_names_have_both() {
        assert_eq!(names(&record("1 C %")), [Some(NAME.parse().unwrap()), None]);
        let rename = record(&format!("1 R % {}", NAME.replace("txt", "jpg")));
        assert_eq!(names(&rename)[1].unwrap().as_str(), NAME.replace("txt", "jpg"));
    }
}
