//! How trackers compare.

use std::cmp::Reverse;
use std::net::SocketAddr;

use fdfs_protocol::Status;
use fdfs_protocol::tracker::TrackerStatus;

/// What a tracker says of itself, ordered: who leads is greater than who does not, then who runs longer, then who was
/// away for a shorter time before (FastDFS 6.16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    leads: bool,
    running: u64,
    away: Reverse<u64>,
}

impl From<TrackerStatus> for Standing {
    fn from(status: TrackerStatus) -> Standing {
        Standing { leads: status.leader, running: status.running_time, away: Reverse(status.restart_interval) }
    }
}

impl Standing {
    /// Standing and address of a candidate: of equals the greater text of the address wins, then the greater port.
    pub fn at(self, at: SocketAddr) -> (Standing, String, u16) {
        (self, at.ip().to_string(), at.port())
    }
}

/// From which tracker to copy the data files, by what each answered to TRACKER_GET_STATUS. `mine` is my own standing if
/// I have files, though old ones.
///
/// # Errors
/// `EAGAIN`: nobody told anything, and not everybody said that there is nothing to tell (`ENOENT`).
pub fn copy_source(mine: Option<Standing>, answers: &[Result<TrackerStatus, Status>]) -> Result<Option<usize>, Status> {
    let told = answers.iter().enumerate().filter_map(|(i, a)| Some((Standing::from(*a.as_ref().ok()?), i)));
    match told.max() {
        Some((best, from)) => Ok(mine.is_none_or(|mine| mine < best).then_some(from)),
        None if answers.iter().all(|a| *a == Err(Status::ENOENT)) => Ok(None),
        None => Err(Status::EAGAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(leader: bool, running_time: u64, restart_interval: u64) -> TrackerStatus {
        TrackerStatus { leader, running_time, restart_interval }
    }

    #[test]
    fn all_orderings() {
        // Every combination of each field being smaller, equal, greater; an earlier field decides over later ones.
        let signs = [std::cmp::Ordering::Less, std::cmp::Ordering::Equal, std::cmp::Ordering::Greater];
        let pick = |o: std::cmp::Ordering, low: u64, high: u64| match o {
            std::cmp::Ordering::Less => (low, high),
            std::cmp::Ordering::Equal => (low, low),
            std::cmp::Ordering::Greater => (high, low),
        };
        let ip = |n: u64| if n == 0 { "10.0.0.10" } else { "10.0.0.9" };
        for leads in signs {
            for running in signs {
                for away in signs {
                    for address in signs {
                        for port in signs {
                            let (l, r, a, i, p) = (
                                pick(leads, 0, 1),
                                pick(running, 0, 300),
                                // A shorter absence is greater.
                                pick(away, 600, 300),
                                // As texts, 9 is greater than 10.
                                pick(address, 0, 1),
                                pick(port, 1, 2),
                            );
                            let make = |l, r, a, i, p: u64| {
                                let at = SocketAddr::new(ip(i).parse().unwrap(), p as u16);
                                Standing::from(status(l == 1, r, a)).at(at)
                            };
                            let (one, other) = (make(l.0, r.0, a.0, i.0, p.0), make(l.1, r.1, a.1, i.1, p.1));
                            let expected = leads.then(running).then(away).then(address).then(port);
                            assert_eq!(one.cmp(&other), expected, "{one:?} and {other:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn who_is_copied() {
        let (leader, old, young) = (status(true, 0, 0), status(false, 900, 300), status(false, 300, 0));
        let none = Err(Status::ENOENT);
        let down = Err(Status::ETIMEDOUT);
        let all = [Ok(young), down, Ok(leader), Ok(old), none];
        assert_eq!(copy_source(None, &all), Ok(Some(2)));
        assert_eq!(copy_source(None, &[Ok(young), Ok(old)]), Ok(Some(1)));
        assert_eq!(copy_source(None, &[none, none]), Ok(None), "nobody has anything");
        assert_eq!(copy_source(None, &[]), Ok(None));
        assert_eq!(copy_source(None, &[none, down]), Err(Status::EAGAIN), "who is down may have something");
        let mine = Some(Standing::from(status(false, 0, 900)));
        assert_eq!(copy_source(mine, &[Ok(status(false, 0, 1200))]), Ok(None), "I am better");
        assert_eq!(copy_source(mine, &[Ok(status(false, 0, 900))]), Ok(None), "no worse");
        assert_eq!(copy_source(mine, &[Ok(status(false, 0, 600))]), Ok(Some(0)));
        assert_eq!(copy_source(mine, &[Ok(status(false, 0, 1200)), Ok(status(true, 0, 1200))]), Ok(Some(1)));
    }
}
