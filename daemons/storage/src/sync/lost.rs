//! Members that have lost their disks.
//!
//! What such a member had pushed to some of the group only is pushed by nobody any more. So every member tells every
//! other what it has of the files that are in question, and gets what it lacks ([`account`](super::account)). That
//! somebody was lost is noted in a file, `<id>.lost` beside the mark files, until all members have been asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fdfs_protocol::peer::compare::SyncCompare;
use fdfs_protocol::{Status, StorageId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::account::{Account, Scope, Span, parts};
use super::lane::Lane;
use super::peer::Trouble;
use super::rules::{Step, step};
use crate::blocking;
use crate::clock;
use crate::disk::replace_file;
use crate::report::members::Member;
use crate::report::session::Cluster;

/// Lanes carry changes in any order within this time, and clocks of writers differ a little.
const SLACK: i64 = 60;

/// No clock that is heard of is ahead or behind by more.
const CLOCKS: i64 = 86_400;

/// The last time that a record can have.
const END_OF_TIME: i64 = u32::MAX as i64;

/// More parts than there are names.
const MOST_PARTS: u32 = 1 << 30;

/// Pause before a member that could not be asked is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// The notes of lost members.
#[derive(Debug)]
pub struct Lost {
    dir: PathBuf,
    noted: Notify,
    /// Held while a note is read and written.
    writing: Arc<Mutex<()>>,
    /// What all members have been asked for, since this process began. Changed under `writing`.
    settled: Arc<Mutex<BTreeMap<StorageId, Span>>>,
    /// The latest end of a life of each member that was heard of.
    ends: Mutex<BTreeMap<StorageId, i64>>,
}

impl Lost {
    /// Notes in the directory of the mark files.
    pub fn new(dir: &Path) -> Lost {
        Lost {
            dir: dir.to_owned(),
            noted: Notify::new(),
            writing: Arc::default(),
            settled: Arc::default(),
            ends: Mutex::default(),
        }
    }

    /// Notes that `id` lost its disks, and that what it pushed in this time may be missing somewhere. A span that others were
    /// asked for already becomes another one: they have to be asked again, and to look again.
    ///
    /// # Errors
    /// What writing reported, with the path in the text.
    pub async fn note(&self, id: StorageId, span: Span) -> io::Result<()> {
        let path = self.path(&id);
        let writing = self.writing.clone();
        let settled = self.settled.clone();
        blocking::run(move || {
            let _one = writing.lock();
            let (noted, settled) = (read(&path), settled.lock().get(&id).copied());
            let Span { since, mut until } = joined(noted.unwrap_or(span), span);
            for asked in [noted, settled].into_iter().flatten().filter(|asked| asked.since == since) {
                if asked.until == until {
                    until += 1;
                }
            }
            replace_file(&path, format!("since={since}\nuntil={until}\n").as_bytes())
        })
        .await?;
        self.noted.notify_one();
        Ok(())
    }

    /// What is noted of a member, or was before it was settled.
    ///
    /// # Errors
    /// What reading reported.
    async fn known(&self, id: StorageId) -> io::Result<Option<Span>> {
        let path = self.path(&id);
        let noted = blocking::run(move || Ok(read(&path))).await?;
        Ok(noted.or_else(|| self.settled.lock().get(&id).copied()))
    }

    /// Hears when a life of a member ended; true if that is later than was heard so far: another one, or the same by another
    /// clock.
    fn hear_of_end(&self, id: StorageId, until: i64) -> bool {
        let mut ends = self.ends.lock();
        let known = ends.entry(id).or_insert(i64::MIN);
        let later = until > *known;
        *known = until.max(*known);
        later
    }

    fn path(&self, id: &StorageId) -> PathBuf {
        self.dir.join(format!("{id}.lost"))
    }

    /// The members noted, and the time in question.
    async fn all(&self) -> io::Result<Vec<(StorageId, Span)>> {
        let dir = self.dir.clone();
        blocking::run(move || {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&dir)? {
                let path = entry?.path();
                let id = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".lost"));
                let Some(id) = id.and_then(|id| id.parse().ok()) else { continue };
                // A note that makes no sense, of a full disk perhaps, is one all the same.
                found.push((id, read(&path).unwrap_or(Span { since: 0, until: END_OF_TIME })));
            }
            found.sort_unstable();
            Ok(found)
        })
        .await
    }

    async fn settle(&self, id: StorageId, span: Span) -> io::Result<()> {
        let path = self.path(&id);
        let (writing, settled) = (self.writing.clone(), self.settled.clone());
        let settle = move || {
            let _one = writing.lock();
            // Before the note goes, which counts as long as it is there.
            settled.lock().insert(id, span);
            // It may have been lost again meanwhile.
            match read(&path).is_none_or(|noted| noted == span) {
                true => std::fs::remove_file(path),
                false => Ok(()),
            }
        };
        blocking::run(settle).await
    }
}

fn read(path: &Path) -> Option<Span> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = |key| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
    let time = |key| value(key).map(|time: i64| time.clamp(-END_OF_TIME, 2 * END_OF_TIME));
    Some(Span { since: time("since")?, until: time("until")? })
}

/// When a member made what may not have come here, as far as is known: from what came last, or since there is this storage,
/// until now, if its clock was not ahead.
fn in_question(last: Option<RangeInclusive<i64>>, birth: i64, now: i64) -> Span {
    match last {
        Some(last) => Span { since: last.start() - SLACK, until: now.max(*last.end()) + SLACK },
        None => Span { since: birth - CLOCKS, until: now + CLOCKS },
    }
}

/// Whether another member's word on a loss adds to what is known of it: another loss, or that it may have made more that did
/// not come.
fn is_news(known: Option<Span>, told: Span) -> bool {
    known.is_none_or(|known| known.until < told.until - SLACK || known.since - told.since > SLACK / 2)
}

/// Both spans, and what is between them.
fn joined(a: Span, b: Span) -> Span {
    Span { since: a.since.min(b.since), until: a.until.max(b.until) }
}

impl Cluster {
    /// A member lost its disks, or left: notes it, and takes nothing more that it sent before.
    ///
    /// # Errors
    /// As [`Lost::note`].
    pub async fn member_lost(&self, id: StorageId) -> io::Result<()> {
        self.end_life(&id);
        let span = self.in_question(&id, clock::now());
        self.service.lost.hear_of_end(id, span.until);
        self.note_lost(id, span).await
    }

    fn in_question(&self, id: &StorageId, now: i64) -> Span {
        let synced = &self.service.synced;
        in_question(synced.last(id), synced.birth(), now)
    }

    async fn note_lost(&self, id: StorageId, span: Span) -> io::Result<()> {
        // What was read before for the answers does not tell of what came since, and will not come again.
        self.service.questions.forget();
        self.service.lost.note(id, span).await?;
        self.service.synced.asked_for(&id);
        Ok(())
    }

    fn end_life(&self, id: &StorageId) {
        let member = self.members.borrow().get(id).and_then(|member| member.ip.addr());
        // Without storage ids, that is the address.
        if let Some(ip) = member.or_else(|| id.as_str().parse().ok()) {
            self.service.lives.end(ip);
        }
    }

    /// Another member says that one was lost, perhaps this storage itself, which may not have seen it: it was away, or it
    /// was over before the next beat. And it may know more of what the lost one made when.
    ///
    /// # Errors
    /// As [`Lost::note`].
    pub async fn hear_of_lost(&self, compare: &SyncCompare) -> io::Result<()> {
        let id = compare.lost;
        let own = id == self.identity.id;
        if !own && self.members.borrow().get(&id).is_none() {
            return Ok(());
        }
        let known = self.service.lost.known(id).await?;
        let now = clock::now();
        let seen = self.in_question(&id, now);
        // Who lost everything asks for everything, and so says nothing of when it was lost.
        let told = match compare.sender == id {
            true if known.is_some() => return Ok(()),
            true => seen,
            false => {
                let since = if own { known.unwrap_or(seen).since } else { compare.since.clamp(0, now) };
                Span { since, until: compare.until.clamp(0, now + CLOCKS) }
            }
        };
        // Perhaps it was lost again, within the time that clocks may differ: whoever asks gets all that comes until now.
        if self.service.lost.hear_of_end(id, told.until) {
            self.end_life(&id);
            self.service.questions.forget();
        }
        if !is_news(known, told) {
            return Ok(());
        }
        // The end is the word of who saw the loss, as it is: every member's own would be news to all others again.
        let span = joined(told, known.unwrap_or(Span { until: told.until, ..seen }));
        self.note_lost(id, span).await
    }
}

/// Asks the members, whenever one was lost; never returns.
pub async fn attend(cluster: Arc<Cluster>) {
    let mut members = cluster.members.subscribe();
    let mut answered: HashSet<About> = HashSet::new();
    let mut asking = Asking::default();
    let lost = &cluster.service.lost;
    loop {
        let noted = lost.all().await.unwrap_or_else(|e| {
            warn!("cannot look for notes of lost members: {e}");
            Vec::new()
        });
        answered.retain(|(id, span, _)| noted.contains(&(*id, *span)));
        asking.progress.retain(|(id, span, _), _| noted.contains(&(*id, *span)));
        let (mut failed, mut again) = (false, false);
        for (id, span) in &noted {
            // What its source is about to push, nobody else need, whoever was lost.
            if !cluster.service.active.get() {
                failed = true;
                break;
            }
            // Just started, this storage knows no member yet, not even itself.
            let (nobody, others): (bool, Vec<(StorageId, Member)>) = {
                let members = members.borrow_and_update();
                let present = members.iter().filter(|(_, m)| step(Some(m.status), true) != Step::End);
                let others = present.map(|(id, m)| (*id, *m)).filter(|(id, _)| *id != cluster.identity.id);
                (members.iter().next().is_none(), others.collect())
            };
            let mut open = 0;
            for (other, member) in others {
                if answered.contains(&(*id, *span, other)) {
                    continue;
                }
                open += 1;
                if step(Some(member.status), false) != Step::Push {
                    continue;
                }
                match asking.ask(&cluster, (*id, *span, other), &member).await {
                    Ok(()) => {
                        open -= 1;
                        answered.insert((*id, *span, other));
                    }
                    Err(e) => {
                        failed = true;
                        again |= matches!(e, Trouble::Refused(_, Status::EAGAIN));
                        debug!("{other} cannot be asked for what {id} may have given only to it: {e}");
                    }
                }
            }
            if open == 0 && !nobody {
                info!("all members were asked for what {id} may have given only to them");
                if let Err(e) = lost.settle(*id, *span).await {
                    warn!("cannot remove the note that {id} was lost: {e}");
                }
            }
        }
        if !again {
            asking.account = None;
        }
        tokio::select! {
            () = lost.noted.notified() => {}
            changed = members.changed(), if !noted.is_empty() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep(AGAIN), if failed => {}
        }
    }
}

/// A question: who was lost when, and who is asked.
type About = (StorageId, Span, StorageId);

/// How far members have been asked: they may want to be asked again for a part, while their own account is made.
#[derive(Debug, Default)]
struct Asking {
    /// The number of parts, and the next of them.
    progress: HashMap<About, (u32, u32)>,
    /// The newest.
    account: Option<Account>,
}

impl Asking {
    /// Tells a member what is here; it sets aside for us what we lack. After an error it goes on where it was.
    async fn ask(&mut self, cluster: &Cluster, about: About, member: &Member) -> Result<(), Trouble> {
        let (lost, span, _) = about;
        let ip: IpAddr = member.ip.addr().ok_or(Trouble::NoAddress)?;
        let addr = SocketAddr::new(ip, member.port);
        let connect = async || {
            let connected = Lane::connect(cluster.service.clone(), addr, cluster.dial).await;
            connected.map_err(|e| Trouble::Connect(addr, e))
        };
        // Nothing is read for a member that is not there.
        let mut lane = connect().await?;
        // Who lost everything asks for everything, also what was made while a clock was ahead; and of each loss with another
        // span, so that nobody answers with what was read for the one before.
        let everything = Span { since: 0, until: END_OF_TIME.saturating_add(span.until) };
        let span = if lost == cluster.identity.id { everything } else { span };
        let (mut count, mut next) = match self.progress.get(&about) {
            Some(known) => *known,
            None => {
                let binlog = cluster.service.binlog.clone();
                (blocking::run(move || parts(&binlog, span)).await?, 0)
            }
        };
        while next < count {
            self.progress.insert(about, (count, next));
            let scope = Scope { span, part: next, parts: count };
            if !self.account.as_ref().is_some_and(|account| account.covers(scope)) {
                self.account = None;
                let binlog = cluster.service.binlog.clone();
                self.account = blocking::run(move || Account::read(&binlog, scope)).await?;
                // That took long, and nobody keeps connections for ever.
                lane = connect().await?;
            }
            let Some(account) = &self.account else {
                (count, next) = divide(count);
                continue;
            };
            let (Span { since, until }, Scope { part, parts, .. }) = (span, scope);
            let files = account.extents(part);
            let compare = SyncCompare { lost, sender: cluster.identity.id, since, until, part, parts, files };
            match lane.compare(&compare).await.map_err(|_| Trouble::Broken(addr))? {
                Status::OK => next += 1,
                // One of FastDFS's own: it pushes nothing of others, whatever it is asked.
                Status::EINVAL => return Ok(()),
                Status::EFBIG if count < MOST_PARTS => (count, next) = divide(count),
                status => return Err(Trouble::Refused(addr, status)),
            }
        }
        Ok(())
    }
}

/// Begins anew with smaller parts.
fn divide(count: u32) -> (u32, u32) {
    (count.saturating_mul(4), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_question() {
        let now = 1_000_000;
        let span = |since, until| Span { since: since - SLACK, until: until + SLACK };
        let birth = now - 100_000;
        let question = |last| in_question(last, birth, now);
        assert_eq!(question(None), Span { since: birth - CLOCKS, until: now + CLOCKS });
        assert_eq!(question(Some(now - 5..=now - 3)), span(now - 5, now));
        assert_eq!(question(Some(now - 5..=now + 3)), span(now - 5, now + 3), "its clock was ahead");
    }

    #[test]
    fn news_of_a_loss() {
        let span = |since, until| Span { since, until };
        let known = Some(span(100, 1000));
        assert!(is_news(None, span(100, 1000)));
        assert!(!is_news(known, span(100, 1000)));
        assert!(!is_news(known, span(100 - SLACK / 2, 1000 + SLACK)), "members differ a little");
        assert!(is_news(known, span(99 - SLACK / 2, 1000)), "it may have made more");
        assert!(is_news(known, span(100, 1001 + SLACK)), "again");
        assert!(is_news(known, span(0, 0)));
        let lost = Lost::new(Path::new(""));
        let id = "10.0.0.2".parse().unwrap();
        let later = [1000, 1000, 900, 1001].map(|until| lost.hear_of_end(id, until));
        assert_eq!(later, [true, false, false, true]);
        assert_eq!(joined(span(1, 5), span(3, 9)), span(1, 9));
    }

    #[tokio::test]
    async fn a_loss_that_was_noted_while_another_was_settled_stays_noted() {
        let tmp = tempfile::tempdir().unwrap();
        let lost = Lost::new(tmp.path());
        let id = "10.0.0.2".parse().unwrap();
        let (first, both) = (Span { since: 10, until: 20 }, Span { since: 10, until: 40 });
        lost.note(id, first).await.unwrap();
        lost.note(id, Span { since: 30, until: 40 }).await.unwrap();
        lost.settle(id, first).await.unwrap();
        assert_eq!(lost.all().await.unwrap(), [(id, both)]);
        lost.settle(id, both).await.unwrap();
        assert_eq!(lost.all().await.unwrap(), []);
        assert_eq!(lost.known(id).await.unwrap(), Some(both));
        // Lost again, while nobody knows when what it made was made: it is another question each time.
        let asked = |until| [(id, Span { until, ..both })];
        lost.note(id, both).await.unwrap();
        assert_eq!(lost.all().await.unwrap(), asked(41));
        lost.note(id, both).await.unwrap();
        assert_eq!(lost.all().await.unwrap(), asked(42));
        lost.settle(id, Span { until: 42, ..both }).await.unwrap();
        lost.note(id, Span { until: 42, ..both }).await.unwrap();
        assert_eq!(lost.all().await.unwrap(), asked(43));
        lost.settle(id, Span { until: 43, ..both }).await.unwrap();
        let later = Span { since: 30, until: 90 };
        lost.note(id, later).await.unwrap();
        assert_eq!(lost.known(id).await.unwrap(), Some(later));
    }
}
