//! Catching up: a tracker that knows nothing, or was away for long, copies the data files of another one before the first
//! storage joins (FastDFS 6.16).
//!
//! The trackers to ask are those the joining storage lists. While somebody may know more than this tracker and cannot be
//! asked, storages are refused with EAGAIN, and come again: a tracker that goes on with too little knowledge would tell
//! the group something wrong. Only one that has files of its own goes on with them when all others have been gone for
//! a while: the cluster would stand still until the last of them is back. What is received is bounded, and parsed before it replaces anything.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fdfs_protocol::peer::JoinRequest;
use fdfs_protocol::peer::election::{GetSystemFile, SystemFilePiece};
use fdfs_protocol::tracker::TrackerStatus;
use fdfs_protocol::{Command, Status, WireError};
use fdfs_server::link::{Dial, Link, LinkError};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{Shared, moment, now};
use crate::address::Addresses;
use crate::files;
use crate::state::election::standing::{Standing, copy_source};
use crate::state::join::{listed, reached};
use crate::state::trackers::Moment;
use crate::state::{Caller, Cluster};

/// Whoever was away for longer than this asks whether another knows more.
const AWAY: i64 = 2 * TrackerStatus::TIME_STEP as i64;
/// Longest wait for another tracker to say how it stands; shorter where `network_timeout` is.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// No data file is larger. The longest a cluster of the largest size makes are some 30 MB; the changelog grows by one
/// short line for each storage that is removed.
const MAX_FILE: usize = 64 << 20;

/// A tracker that could not be reached for this long does not keep one that has files of its own from going on.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// Since when others could not be reached.
type Unreached = HashMap<Vec<SocketAddr>, Moment>;

/// What has to be done before a storage may join.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// This tracker was away for long, and has not compared itself with the others yet.
    stale: AtomicBool,
    /// The others were asked.
    asked: AtomicBool,
    /// One at a time. Holds since when the others that were asked last could not be reached.
    turn: Mutex<Unreached>,
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no other tracker says how it stands ({0})")]
    NobodyAnswers(String),
    #[error("copying from tracker {0}: {1}")]
    Link(String, LinkError),
    #[error("copying from tracker {0}: {1}")]
    Content(String, String),
    #[error("cannot save what was copied: {0}")]
    Save(Status),
    #[error("it takes longer than network_timeout")]
    TooLong,
}

impl CatchUp {
    /// For a tracker that started at `up_time` and was last known to live at `last_check`.
    pub(super) fn new(up_time: i64, last_check: Option<i64>) -> CatchUp {
        let stale = last_check.is_some_and(|t| up_time - t > AWAY);
        CatchUp { stale: AtomicBool::new(stale), asked: AtomicBool::new(false), turn: Mutex::default() }
    }

    /// Whether this tracker was away for long, and nobody has told it yet what it missed. Until then its files are as old
    /// as they were, and so is the time at which it was last alive.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Whether a storage that joins has to wait for [`CatchUp::run`].
    pub(super) fn is_due(&self, cluster: &Cluster) -> bool {
        self.is_stale() || (!self.asked.load(Ordering::Acquire) && cluster.groups().next().is_none())
    }

    /// Does what is due, asking the trackers that this storage lists; takes no longer than `network_timeout`, for which
    /// the storage waits. A third of it is for its turn and a third for the answers: whose turn it is learns who cannot be
    /// reached, however many others wait.
    ///
    /// # Errors
    /// `EAGAIN`: it has to be tried again with the next join. The reason is logged.
    pub(super) async fn run(&self, shared: &Shared, caller: &Caller, request: &JoinRequest) -> Result<(), Status> {
        let done = tokio::time::timeout(shared.network_timeout, self.in_turn(shared, caller, request)).await;
        done.unwrap_or(Err(Failure::TooLong)).map_err(|e| {
            warn!(
                "storage {} must join later: this tracker {} and cannot learn from the others: {e} (start the other \
                 trackers, or take those that are gone for good out of tracker_server of every storage)",
                caller.peer,
                if self.is_stale() { "was away for long" } else { "knows no group" },
            );
            Status::EAGAIN
        })
    }

    async fn in_turn(&self, shared: &Shared, caller: &Caller, request: &JoinRequest) -> Result<(), Failure> {
        let third = shared.network_timeout / 3;
        let mut unreached = tokio::time::timeout(third, self.turn.lock()).await.map_err(|_| Failure::TooLong)?;
        let others = {
            let cluster = shared.cluster.lock();
            if !self.is_due(&cluster) {
                return Ok(());
            }
            match cluster.trackers.others_in(&listed(request), reached(caller, request)) {
                Some(others) => others,
                // It will be refused: a list without this tracker is no reason to ask anybody.
                None => return Ok(()),
            }
        };
        self.ask_and_copy(shared, &others, &mut unreached).await?;
        self.asked.store(true, Ordering::Release);
        self.stale.store(false, Ordering::Release);
        shared.wishes.note_alive();
        Ok(())
    }

    async fn ask_and_copy(
        &self,
        shared: &Shared,
        others: &[(Addresses, u16)],
        unreached: &mut Unreached,
    ) -> Result<(), Failure> {
        let others: Vec<Vec<SocketAddr>> =
            others.iter().map(|(ips, port)| ips.iter().map(|ip| SocketAddr::new(ip, *port)).collect()).collect();
        let answers = ask_all(shared, &others, STATUS_LIMIT.min(shared.network_timeout / 3)).await;
        let all_gone = all_gone(unreached, moment(), &others, &answers);
        let (mine, has_groups) = {
            let cluster = shared.cluster.lock();
            let (running_time, restart_interval) = cluster.trackers.running_times(now());
            let status = TrackerStatus { leader: false, running_time, restart_interval };
            (self.is_stale().then(|| Standing::from(status)), cluster.groups().next().is_some())
        };
        let source = copy_source(mine, &answers);
        if source.is_err() && has_groups && all_gone {
            let names: Vec<_> = others.iter().map(|to| name(to)).collect();
            warn!(
                "this tracker was away for long, and for {GONE_AFTER:?} none of {} could say what it missed: it goes on with \
                 what it knows itself",
                names.join(", ")
            );
            return Ok(());
        }
        let from = source.map_err(|_| {
            let refusals = others.iter().zip(&answers).filter_map(|(to, a)| Some((to, a.as_ref().err()?)));
            let texts: Vec<_> = refusals.map(|(to, e)| format!("{}: {e}", name(to))).collect();
            Failure::NobodyAnswers(texts.join(", "))
        })?;
        let Some(from) = from else { return Ok(()) };
        let from = &others[from];
        let texts = copy(from, shared.dialling.to(from)).await.map_err(|e| Failure::Link(name(from), e))?;
        let settings = shared.cluster.lock().settings().clone();
        let loaded = files::parse(&texts, &settings).map_err(|e| Failure::Content(name(from), e.to_string()))?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let groups = loaded.groups.len();
        shared.change(|cluster| cluster.restore(loaded.groups, loaded.changelog));
        super::connection::Saved(shared.wishes.replace_and_wait()).await.map_err(Failure::Save)?;
        info!("the state of {groups} groups is that of tracker {} now", name(from));
        Ok(())
    }
}

/// Takes what those that were asked at this moment answered; true if for [`GONE_AFTER`] none of them could be reached, but
/// for some that know nothing.
fn all_gone(
    unreached: &mut Unreached,
    now: Moment,
    others: &[Vec<SocketAddr>],
    answers: &[Result<TrackerStatus, Status>],
) -> bool {
    unreached.retain(|tracker, _| others.contains(tracker));
    let mut all = true;
    for (tracker, answer) in others.iter().zip(answers) {
        match answer {
            Err(Status::ENOENT) => {}
            Err(status) if is_unreached(*status) => {
                let since = *unreached.entry(tracker.clone()).or_insert(now);
                all &= now.saturating_sub(since) >= GONE_AFTER;
            }
            _ => {
                unreached.remove(tracker);
                all = false;
            }
        }
    }
    all
}

/// Whether nobody answered at all.
fn is_unreached(status: Status) -> bool {
    let codes = [libc::ECONNREFUSED, libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH];
    codes.iter().any(|code| status.0 == *code as u8)
}

fn name(addresses: &[SocketAddr]) -> String {
    addresses.first().map_or_else(String::new, ToString::to_string)
}

/// Asks all at once how they stand, and waits no longer than `limit`; the answers are in their order.
async fn ask_all(shared: &Shared, others: &[Vec<SocketAddr>], limit: Duration) -> Vec<Result<TrackerStatus, Status>> {
    let mut answers = vec![Err(Status::ETIMEDOUT); others.len()];
    let mut tasks = JoinSet::new();
    for (i, to) in others.iter().cloned().enumerate() {
        let dial = shared.dialling.to(&to);
        tasks.spawn(async move {
            let ask = async {
                let mut link = Link::connect(to, dial).await?;
                link.ask_for(Command::TrackerGetStatus, &(), TrackerStatus::decode).await
            };
            (i, tokio::time::timeout(limit, ask).await)
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((i, Ok(answer))) = done {
            answers[i] = answer.map_err(|e| status_of(&e));
        }
    }
    answers
}

fn status_of(e: &LinkError) -> Status {
    match e {
        LinkError::Status(status, _) => *status,
        LinkError::Io(e) => Status::from(e),
        LinkError::Malformed(..) => Status::EINVAL,
    }
}

/// Copies the data files of a tracker.
async fn copy(from: &[SocketAddr], dial: Dial) -> Result<[Vec<u8>; 4], LinkError> {
    let mut link = Link::connect(from.iter().copied(), dial).await?;
    link.ask(Command::TrackerGetSysFilesStart, &()).await?;
    let mut texts: [Vec<u8>; 4] = Default::default();
    for (index, text) in texts.iter_mut().enumerate() {
        loop {
            let query = GetSystemFile { index: index as u8, offset: text.len() as u64 };
            let body = link.ask(Command::TrackerGetOneSysFile, &query).await?;
            match take(text, &body) {
                Ok(true) => break,
                Ok(false) => {}
                Err(e) => return Err(LinkError::Malformed(e, Command::TrackerGetOneSysFile)),
            }
        }
    }
    link.ask(Command::TrackerGetSysFilesEnd, &()).await?;
    link.quit().await;
    Ok(texts)
}

/// Adds a piece to what is there; true when the file is complete.
fn take(text: &mut Vec<u8>, body: &[u8]) -> Result<bool, String> {
    let piece = SystemFilePiece::decode(body).map_err(|e: WireError| e.to_string())?;
    let size = usize::try_from(piece.file_size).ok().filter(|size| *size <= MAX_FILE);
    let size = size.ok_or_else(|| format!("a file of {} bytes (at most {MAX_FILE})", piece.file_size))?;
    let rest = size.checked_sub(text.len()).ok_or_else(|| format!("the file has shrunk to {size} bytes"))?;
    if piece.data.len() > rest || (piece.data.is_empty() && rest > 0) {
        return Err(format!("{} bytes where {rest} are left", piece.data.len()));
    }
    text.extend_from_slice(piece.data);
    Ok(text.len() == size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(file_size: u64, data: &[u8]) -> Vec<u8> {
        [&file_size.to_be_bytes()[..], data].concat()
    }

    #[test]
    fn pieces_make_a_file() {
        let mut text = Vec::new();
        assert_eq!(take(&mut text, &piece(5, b"abc")), Ok(false));
        assert_eq!(take(&mut text, &piece(5, b"de")), Ok(true));
        assert_eq!(text, b"abcde");
        assert_eq!(take(&mut Vec::new(), &piece(0, b"")), Ok(true), "an empty file");
        let mut growing = b"abc".to_vec();
        assert_eq!(take(&mut growing, &piece(7, b"defg")), Ok(true), "it has grown between two pieces");
    }

    #[test]
    fn pieces_that_make_no_sense() {
        for (have, body) in [
            (0, piece(5, b"")),
            (0, piece(3, b"abcd")),
            (4, piece(3, b"")),
            (2, piece(3, b"cd")),
            (0, piece(u64::MAX, b"x")),
            (0, piece(MAX_FILE as u64 + 1, b"x")),
            (0, vec![0; 7]),
            (0, Vec::new()),
        ] {
            let mut text = vec![b'a'; have];
            assert!(take(&mut text, &body).is_err(), "{have}, {body:?}");
            assert_eq!(text.len(), have);
        }
    }

    #[test]
    fn who_is_gone() {
        let second = Duration::from_secs(1);
        let others: Vec<Vec<SocketAddr>> = ["10.0.0.2:1", "10.0.0.3:1"].map(|a| vec![a.parse().unwrap()]).into();
        let refused = Err(Status(libc::ECONNREFUSED as u8));
        let (silent, nothing) = (Err(Status::ETIMEDOUT), Err(Status::ENOENT));
        let mut unreached = Unreached::new();
        let mut gone = |at, answers: [_; 2]| all_gone(&mut unreached, at, &others, &answers);
        assert!(!gone(second, [refused, silent]));
        assert!(!gone(GONE_AFTER, [refused, refused]), "not long enough");
        assert!(!gone(GONE_AFTER + second, [silent, Err(Status::EBUSY)]), "one is there");
        assert!(!gone(GONE_AFTER * 2, [refused, silent]), "and was there a moment ago");
        assert!(gone(GONE_AFTER * 3, [refused, silent]));
        assert!(gone(GONE_AFTER * 3, [refused, nothing]), "who knows nothing has nothing to tell");
        // What one storage does not list is forgotten.
        assert!(all_gone(&mut unreached, GONE_AFTER * 3, &others[..1], &[refused]));
        assert!(!all_gone(&mut unreached, GONE_AFTER * 3, &others, &[refused, silent]));
    }

    #[test]
    fn who_has_to_catch_up() {
        let stale = |up, last| CatchUp::new(up, last).is_stale();
        assert!(!stale(10_000, None) && !stale(10_000, Some(9_400)) && stale(10_000, Some(9_399)));
        assert!(!stale(10_000, Some(20_000)), "a clock that was wrong");
    }
}
