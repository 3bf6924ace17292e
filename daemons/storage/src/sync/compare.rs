//! What other members let the loops know that push to them: questions about what they lack (SYNC_COMPARE), and what they
//! are to have instead of what they pushed here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fdfs_protocol::peer::compare::SyncCompare;
use fdfs_protocol::{RemoteName, Status, StorageId};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::account::{Account, Scope};
use crate::blocking;
use crate::disk::binlog::{Binlog, Place};

/// An account is kept so long after it was last asked for; askers come again every few seconds.
const KEEP: Duration = Duration::from_secs(20);

/// A question. Without an answer the asker comes again.
#[derive(Debug)]
pub struct Question {
    /// What the asker has.
    pub compare: SyncCompare,
    /// [`Status::OK`] when what the asker lacks is set aside for it on stable storage; [`Status::EFBIG`] when there must be
    /// more parts.
    pub answer: oneshot::Sender<Status>,
}

/// A member, to its loop.
#[derive(Debug)]
pub enum Word {
    /// It asks for what it lacks.
    Question(Question),
    /// It pushed something that was made at the same time, unix seconds, as what is here and stays; it is to have that,
    /// whoever made it.
    Owed(RemoteName, u32, oneshot::Sender<Status>),
    /// It asks whether it has all changes of a file that were made here and whose records end before this place: then
    /// [`Status::OK`]. What is set aside is tried again now.
    Has(RemoteName, Option<Place>, oneshot::Sender<Status>),
}

/// What is known for an answer.
#[derive(Debug, Clone)]
pub enum Known {
    /// The account.
    Account(Arc<Account>),
    /// The part is too large.
    TooLarge,
    /// Nothing yet: the binlog is being read.
    Not,
}

#[derive(Debug)]
struct Scan {
    /// The member that was lost, and who asks.
    about: (StorageId, StorageId),
    scope: Scope,
    known: Known,
    used: Instant,
    number: u64,
}

/// The way to the push loops, and the one account that is kept for their answers.
#[derive(Debug)]
pub struct Questions {
    loops: Mutex<HashMap<StorageId, (IpAddr, mpsc::Sender<Word>)>>,
    one: Semaphore,
    scan: Arc<Mutex<Option<Scan>>>,
    /// Scans begun.
    scans: AtomicU64,
    visits: Notify,
}

impl Default for Questions {
    fn default() -> Questions {
        Questions {
            loops: Mutex::default(),
            one: Semaphore::new(1),
            scan: Arc::default(),
            scans: AtomicU64::new(0),
            visits: Notify::new(),
        }
    }
}

impl Questions {
    /// What the binlog says, if it was read for that; otherwise begins to read it, beside everything else, as soon as
    /// nobody needs what was read before.
    pub fn known(&self, binlog: &Arc<Binlog>, about: (StorageId, StorageId), scope: Scope) -> Known {
        let mut slot = self.scan.lock();
        if let Some(scan) = &mut *slot {
            let same = (scan.scope.span, scan.scope.parts) == (scope.span, scope.parts);
            match &scan.known {
                Known::Account(account) if account.covers(scope) => {
                    scan.used = Instant::now();
                    return scan.known.clone();
                }
                Known::TooLarge if same => {
                    *slot = None;
                    return Known::TooLarge;
                }
                // The next parts.
                Known::Account(_) if same => {}
                // The asker has heard more of the loss meanwhile, and does not come again with that question.
                Known::Account(_) | Known::TooLarge if scan.about == about && scan.scope.span != scope.span => {}
                _ => return Known::Not,
            }
        }
        let number = self.scans.fetch_add(1, Ordering::Relaxed);
        *slot = Some(Scan { about, scope, known: Known::Not, used: Instant::now(), number });
        drop(slot);
        tokio::spawn(read(self.scan.clone(), binlog.clone(), scope, number));
        Known::Not
    }

    /// All parts were answered, or will be others, or what is being read says too little by now: makes room for the next
    /// account.
    pub fn forget(&self) {
        *self.scan.lock() = None;
    }

    /// The words of a member, for its loop. They end when the loop begins again.
    pub fn of(&self, member: StorageId, ip: IpAddr) -> mpsc::Receiver<Word> {
        let (sender, receiver) = mpsc::channel(1);
        let ip = ip.to_canonical();
        let mut loops = self.loops.lock();
        // A member that was there before this one has left.
        loops.retain(|_, (at, sender)| *at != ip || !sender.is_closed());
        loops.insert(member, (ip, sender));
        receiver
    }

    /// A member was heard of: loops that pause try again.
    pub fn visited(&self) {
        self.visits.notify_waiters();
    }

    /// Waits until a member is heard of.
    pub async fn visit(&self) {
        self.visits.notified().await;
    }

    /// The turn to receive a question: each may be large. `None` while another is being received or answered.
    pub fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.one.try_acquire().ok()
    }

    /// Asks; `EAGAIN` also if nobody pushes to the asker now, or stopped before it was done.
    pub async fn ask(&self, compare: SyncCompare) -> Status {
        let sender = self.of_member(&compare.sender);
        let (answer, answered) = oneshot::channel();
        tell(sender, Word::Question(Question { compare, answer }), answered).await
    }

    /// Sets a name aside for the member at this address; `OK` when that is on stable storage, `EAGAIN` as for
    /// [`ask`](Questions::ask).
    pub async fn owe(&self, ip: IpAddr, name: RemoteName, timestamp: u32) -> Status {
        let (answer, answered) = oneshot::channel();
        tell(self.at(ip), Word::Owed(name, timestamp, answer), answered).await
    }

    /// Whether a member has all changes of a file that were made here and whose records end before `before`: `OK`; `EAGAIN`
    /// as for [`ask`](Questions::ask), too.
    pub async fn has(&self, member: &StorageId, name: RemoteName, before: Option<Place>) -> Status {
        let (answer, answered) = oneshot::channel();
        tell(self.of_member(member), Word::Has(name, before, answer), answered).await
    }

    /// Whether the member at this address lacks a change of a file that was made here, as far as is known: as for
    /// [`has`](Questions::has).
    pub async fn lacks(&self, ip: IpAddr, name: RemoteName, before: Option<Place>) -> bool {
        let (answer, answered) = oneshot::channel();
        match (self.at(ip), before) {
            (None, None) => false,
            (None, Some(_)) => true,
            (to, before) => !tell(to, Word::Has(name, before, answer), answered).await.is_ok(),
        }
    }

    /// Whether a loop pushes to this member, or has stopped only now.
    pub fn pushes_to(&self, member: &StorageId) -> bool {
        self.of_member(member).is_some_and(|sender| !sender.is_closed())
    }

    fn of_member(&self, member: &StorageId) -> Option<mpsc::Sender<Word>> {
        self.loops.lock().get(member).map(|(_, sender)| sender.clone())
    }

    fn at(&self, ip: IpAddr) -> Option<mpsc::Sender<Word>> {
        let ip = ip.to_canonical();
        self.loops
            .lock()
            .values()
            .find(|(at, sender)| *at == ip && !sender.is_closed())
            .map(|(_, sender)| sender.clone())
    }
}

async fn tell(to: Option<mpsc::Sender<Word>>, word: Word, answered: oneshot::Receiver<Status>) -> Status {
    let Some(to) = to else { return Status::EAGAIN };
    match to.send(word).await {
        Ok(()) => answered.await.unwrap_or(Status::EAGAIN),
        Err(_) => Status::EAGAIN,
    }
}

/// Reads the binlog, and forgets what it says when nobody asks any more.
async fn read(slot: Arc<Mutex<Option<Scan>>>, binlog: Arc<Binlog>, scope: Scope, number: u64) {
    let known = match blocking::run(move || Account::read(&binlog, scope)).await {
        Ok(Some(account)) => Known::Account(Arc::new(account)),
        Ok(None) => Known::TooLarge,
        Err(e) => {
            warn!("cannot say what another member lacks: {e}");
            slot.lock().take_if(|scan| scan.number == number);
            return;
        }
    };
    // What took its place has a task of its own.
    match &mut *slot.lock() {
        Some(scan) if scan.number == number => (scan.known, scan.used) = (known, Instant::now()),
        _ => return,
    }
    loop {
        let until = match &*slot.lock() {
            Some(scan) if scan.number == number => scan.used + KEEP,
            _ => return,
        };
        if until <= Instant::now() {
            *slot.lock() = None;
            return;
        }
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::account::Span;

    fn question() -> SyncCompare {
        let id = |text: &str| text.parse().unwrap();
        SyncCompare { lost: id("1"), sender: id("2"), since: 0, until: 0, part: 0, parts: 1, files: Vec::new() }
    }

    #[tokio::test]
    async fn questions_reach_the_loop_of_the_asker_or_fail() {
        let questions = Questions::default();
        assert_eq!(questions.ask(question()).await, Status::EAGAIN);
        let ip: IpAddr = "10.0.0.2".parse().unwrap();
        let mut receiver = questions.of("2".parse().unwrap(), ip);
        let name: RemoteName = "M00/00/00/some-file".parse().unwrap();
        let serve = async {
            let Some(Word::Question(first)) = receiver.recv().await else { panic!("no question") };
            first.answer.send(Status::OK).unwrap();
            let Some(Word::Owed(owed, _, answer)) = receiver.recv().await else { panic!("nothing owed") };
            assert_eq!(owed, name);
            answer.send(Status::OK).unwrap();
            drop(receiver.recv().await.unwrap());
            drop(receiver);
        };
        let ask = async {
            assert_eq!(questions.ask(question()).await, Status::OK);
            assert_eq!(questions.owe("10.0.0.3".parse().unwrap(), name, 1).await, Status::EAGAIN, "a stranger");
            assert_eq!(questions.owe(ip, name, 1).await, Status::OK);
            assert_eq!(questions.ask(question()).await, Status::EAGAIN, "given up");
        };
        tokio::join!(serve, ask);
        assert_eq!(questions.ask(question()).await, Status::EAGAIN, "the loop has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_is_made_once_and_kept_while_it_is_asked_for() {
        let tmp = tempfile::tempdir().unwrap();
        let binlog = Arc::new(Binlog::open(tmp.path()).unwrap());
        let questions = Questions::default();
        let scope = |until, part| Scope { span: Span { since: 0, until }, part, parts: 2 };
        let asker = |id: &str| ("1".parse().unwrap(), id.parse().unwrap());
        let wait = async |scope| loop {
            match questions.known(&binlog, asker("2"), scope) {
                Known::Account(account) => return account,
                _ => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        };
        let first = wait(scope(1, 0)).await;
        for _ in 0..3 {
            tokio::time::sleep(KEEP / 2).await;
            assert!(Arc::ptr_eq(&first, &wait(scope(1, 1)).await), "both parts at once, and kept");
            assert!(matches!(questions.known(&binlog, asker("3"), scope(2, 0)), Known::Not), "somebody else waits");
        }
        let began = Instant::now();
        let second = wait(scope(2, 0)).await;
        assert!(!Arc::ptr_eq(&first, &second) && began.elapsed() < KEEP / 2, "the same asker need not wait");
        questions.forget();
        // What is being read when it is forgotten is not taken for what is read next.
        assert!(matches!(questions.known(&binlog, asker("2"), scope(1, 0)), Known::Not));
        questions.forget();
        binlog.append(b"0 c M00/00/00/later\n").unwrap();
        let third = wait(scope(1, 0)).await;
        assert_eq!(third.extents(0).len() + third.extents(1).len(), 1);
        assert!(began.elapsed() <= 2 * KEEP && !Arc::ptr_eq(&first, &third));
        tokio::time::sleep(2 * KEEP).await;
        assert!(questions.scan.lock().is_none());
        // What cannot be read is tried anew.
        std::fs::remove_file(binlog.file_path(0)).unwrap();
        assert!(matches!(questions.known(&binlog, asker("2"), scope(3, 0)), Known::Not));
        while questions.scan.lock().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn members_at_one_address_have_words_of_their_own() {
        let questions = Questions::default();
        let (ip, name): (IpAddr, RemoteName) = ("10.0.0.1".parse().unwrap(), "M00/00/00/some-file".parse().unwrap());
        let members: [StorageId; 2] = ["1", "2"].map(|id| id.parse().unwrap());
        let mut loops = members.map(|member| questions.of(member, ip));
        for (member, words) in members.iter().zip(&mut loops) {
            let answer = async {
                let Some(Word::Has(_, None, answer)) = words.recv().await else { panic!("no question") };
                answer.send(Status::OK).unwrap();
            };
            assert_eq!(tokio::join!(questions.has(member, name, None), answer).0, Status::OK);
        }
        let [first, second] = loops;
        drop(first);
        assert!(!questions.pushes_to(&members[0]) && questions.pushes_to(&members[1]));
        drop(second);
    }
}
