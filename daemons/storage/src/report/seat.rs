//! What trackers think of this storage: whether they use it, and why not. Pure.

use std::fmt;

use fdfs_protocol::StorageId;
use fdfs_protocol::stat::StorageStatus;
use tokio::time::Instant;

/// What one tracker thinks of us.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seat {
    /// It was tried at least once since the start of the process.
    pub tried: bool,
    /// It did not let us join when that was tried last.
    pub failed: bool,
    /// Our status there, as it last said.
    pub status: Option<StorageStatus>,
    /// When it said so first.
    pub since: Option<Instant>,
    /// When the question was asked that it last answered.
    pub asked: Option<Instant>,
    /// It knows our disks: before that it cannot choose us.
    pub knows_disks: bool,
    /// It could name no member that gives us the old files.
    pub no_source: bool,
}

impl Seat {
    /// A question of the time `asked` is answered; `status` if the answer tells it.
    pub fn hear(&mut self, status: Option<StorageStatus>, asked: Instant) {
        if status.is_some() && status != self.status {
            (self.status, self.since) = (status, Some(Instant::now()));
        }
        self.asked = Some(asked);
    }

    /// What this tracker is to be told that our status is, because the leader says so. Only what the leader says after
    /// this tracker said something else counts: whoever changes a status tells the leader first.
    pub fn overruled_by(&self, leader: &Seat) -> Option<StorageStatus> {
        let (here, there) = (self.status?, leader.status?);
        let agree = here == there || (here.is_available() && there.is_available());
        (!agree && leader.asked > self.since).then_some(there)
    }

    /// Whether this tracker uses us: after a beat and a disk report, unless it waits for our old files.
    pub fn is_used(&self) -> bool {
        use StorageStatus as S;
        let waits = |status| matches!(status, S::WaitSync | S::Syncing | S::Deleted | S::IpChanged | S::Recovery);
        self.knows_disks && self.status.is_some_and(|status| !waits(status))
    }
}

/// Whether trackers use this storage, and why not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// That will be known soon.
    #[default]
    Joining,
    /// Some tracker uses it.
    Used,
    /// No tracker can be reached, or lets it join.
    Unreached,
    /// No member serves that could give it the old files.
    NoSource,
    /// It waits for a member to give it the old files; with that member's status, if it does not serve.
    Waits(StorageId, Option<StorageStatus>),
    /// A member gives it the old files.
    Given(StorageId),
    /// It waits for the old files, and nobody is to give them.
    Forgotten,
    /// Trackers say so.
    Status(StorageStatus),
}

impl Standing {
    /// From what all trackers think, the leader first, and the source of old files with its status.
    pub fn of(seats: &[Seat], leader: Option<usize>, source: Option<(StorageId, Option<StorageStatus>)>) -> Standing {
        use StorageStatus as S;
        if seats.iter().any(Seat::is_used) {
            return Standing::Used;
        }
        let told = |seat: &&Seat| seat.status.is_some();
        let leader = leader.and_then(|index| seats.get(index)).filter(told);
        // That it serves goes without saying.
        let source = source.map(|(source, status)| (source, status.filter(|status| *status != S::Active)));
        let Some(seat) = leader.or_else(|| seats.iter().find(told)) else {
            let failed = seats.iter().all(|seat| seat.failed);
            return if failed { Standing::Unreached } else { Standing::Joining };
        };
        match (seat.status, source) {
            _ if seat.no_source => Standing::NoSource,
            (Some(S::WaitSync), Some((source, status))) => Standing::Waits(source, status),
            (Some(S::Syncing), Some((source, None))) => Standing::Given(source),
            (Some(S::Syncing), Some((source, status))) => Standing::Waits(source, status),
            (Some(S::WaitSync | S::Syncing), None) => Standing::Forgotten,
            (Some(status @ (S::Deleted | S::IpChanged | S::Recovery)), _) => Standing::Status(status),
            _ => Standing::Joining,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Joining => write!(f, "it is joining its group"),
            Standing::Used => write!(f, "trackers use it"),
            Standing::Unreached => write!(f, "no tracker can be reached, or lets it join"),
            Standing::NoSource => {
                write!(f, "no member of the group serves that could give it the old files; start one that has them")
            }
            Standing::Waits(source, None) => {
                write!(f, "it waits for {source} to begin with the old files")
            }
            Standing::Waits(source, Some(status)) => write!(
                f,
                "it waits for {source}, which is {status}, to give it the old files; start that one, or delete it from the group"
            ),
            Standing::Given(source) => write!(f, "{source} is giving it the old files"),
            Standing::Forgotten => write!(f, "it lacks old files, and no member is to give them; asking for one"),
            Standing::Status(status) => write!(f, "trackers say that it is {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use StorageStatus as S;

    #[test]
    fn only_what_the_leader_says_later_overrules_a_tracker() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let seat = |status, since, asked| Seat {
            status: Some(status),
            since: Some(at(since)),
            asked: Some(at(asked)),
            ..Seat::default()
        };
        // A source tells the leader first: what the leader said before is no reason to put the other back.
        let here = seat(S::Offline, 5, 9);
        assert_eq!(here.overruled_by(&seat(S::WaitSync, 1, 4)), None);
        assert_eq!(here.overruled_by(&seat(S::WaitSync, 1, 5)), None);
        assert_eq!(here.overruled_by(&seat(S::WaitSync, 1, 6)), Some(S::WaitSync));
        assert_eq!(seat(S::Syncing, 1, 2).overruled_by(&seat(S::Active, 3, 3)), Some(S::Active));
        assert_eq!(here.overruled_by(&seat(S::Offline, 6, 7)), None);
        assert_eq!(here.overruled_by(&seat(S::Active, 6, 7)), None, "both say that it has its files");
        assert_eq!(here.overruled_by(&Seat::default()), None);
        assert_eq!(Seat::default().overruled_by(&here), None);
    }

    #[test]
    fn a_status_is_as_old_as_the_first_answer_that_told_it() {
        let begin = Instant::now();
        let mut seat = Seat::default();
        seat.hear(Some(S::Syncing), begin);
        let since = seat.since;
        assert!(since.is_some());
        let later = begin + Duration::from_secs(1);
        for again in [None, Some(S::Syncing)] {
            seat.hear(again, later);
            assert_eq!((seat.status, seat.since, seat.asked), (Some(S::Syncing), since, Some(later)));
        }
        seat.hear(Some(S::Offline), later);
        assert!(seat.status == Some(S::Offline) && seat.since >= since);
    }

    #[test]
    fn what_keeps_a_storage_from_serving_is_told() {
        let a: StorageId = "10.0.0.1".parse().unwrap();
        let seat = |status| Seat { tried: true, status: Some(status), knows_disks: true, ..Seat::default() };
        let none = Seat { tried: true, failed: true, ..Seat::default() };
        let from = |status| Some((a, status));
        for (seats, leader, source, standing) in [
            (vec![Seat::default(), none], None, None, Standing::Joining),
            (vec![none, none], None, None, Standing::Unreached),
            (vec![none, seat(S::Active)], None, None, Standing::Used),
            (vec![seat(S::Syncing), seat(S::Offline)], Some(0), from(None), Standing::Used),
            (vec![Seat { knows_disks: false, ..seat(S::Online) }], None, None, Standing::Joining),
            (vec![Seat { no_source: true, knows_disks: false, ..seat(S::Init) }], None, None, Standing::NoSource),
            (vec![seat(S::WaitSync)], None, from(Some(S::Active)), Standing::Waits(a, None)),
            (vec![seat(S::Syncing)], None, from(Some(S::Active)), Standing::Given(a)),
            (vec![seat(S::Syncing)], None, from(Some(S::Offline)), Standing::Waits(a, Some(S::Offline))),
            (vec![seat(S::Syncing)], None, None, Standing::Forgotten),
            (vec![seat(S::WaitSync), seat(S::Syncing)], Some(1), from(None), Standing::Given(a)),
            (vec![seat(S::WaitSync), none], Some(1), from(None), Standing::Waits(a, None)),
            (vec![seat(S::Recovery)], None, None, Standing::Status(S::Recovery)),
        ] {
            assert_eq!(Standing::of(&seats, leader, source), standing, "{seats:?}");
        }
        let text = Standing::Waits(a, Some(S::Offline)).to_string();
        assert!(text.contains("10.0.0.1, which is OFFLINE"), "{text}");
    }
}
