//! Reading: which storage to ask, and which one next.
//!
//! A file that never changes is read from any storage that has it, in turn; a changeable one from its source. A storage
//! that fails, or does not have what it should, is passed over for the next; one that is silent for
//! [`failover_after`](crate::ClientConfig::failover_after) is overtaken by the next. No more than [`AT_ONCE`] work on one
//! read: when as many are silent, they are probed, and only one that turns out to be gone makes room for the next. A CRC32
//! that takes the reading of a whole file is computed by one storage at a time. When those that the tracker names are
//! exhausted, all members of the group are asked: the tracker knows of a replica only with delay that it has a file,
//! and may not know yet that a storage is down. "Not found" is only reported when every one of them could be asked and
//! none had it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fdfs_protocol::header::{frame, frame_flags};
use fdfs_protocol::storage::{FileInfo, FileInfoFlags, FileRequest};
use fdfs_protocol::{Command, FileId, Status, WireError};

use crate::client::{Client, Shared};
use crate::content::Content;
use crate::error::{Error, Server};
use crate::exchange::{Repeat, Request, SLOW};
use crate::members::Members;
use crate::patience::Pulse;
use crate::race::{Attempt, Event, Race};
use crate::routes::is_fixed;
use fdfs_protocol::metadata::Metadata;

/// Storages tried for one read: as many as a group can have.
const TRIES: usize = 32;
/// Storages that work on one read at a time; those that turned out to be gone do not count, nor does the one whose download
/// stands still in the middle. So two stuck ones cost no more than delays, and a group that is slow as a whole gets no more
/// than three times its load.
pub(crate) const AT_ONCE: usize = 3;

/// Where copies of a file may be. Every member of its group is in one of the lists, but for those that were removed from it.
#[derive(Debug)]
pub struct Copies {
    /// The storages to ask, the likely ones first.
    pub likely: Vec<SocketAddr>,
    /// Members that the tracker does not name to readers yet, to be asked before it is said that nobody has the file.
    pub idle: Vec<SocketAddr>,
    /// Members that are away, as far as is known: they need not be asked, but may have the file all the same.
    pub away: Vec<SocketAddr>,
    /// Why there may be still other members.
    pub unknown: Option<Error>,
}

impl Client {
    /// Size, time, CRC32 and source of a file, as a storage knows them. The CRC32 of an appender or a slave is computed
    /// by the storage from the whole content, unless `flags` say no; that may take 20 times the network timeout.
    pub async fn file_info(&self, id: &FileId, flags: FileInfoFlags) -> Result<FileInfo, Error> {
        self.shared.file_info(id, flags).await
    }

    /// The metadata of a file. Having none is [`Error::NotFound`], as for a file that does not exist: storages do not
    /// tell the two apart.
    ///
    /// It is what the storage knows that takes the changes; others are asked if it cannot be, or does not have the file
    /// (yet).
    pub async fn get_metadata(&self, id: &FileId) -> Result<Metadata, Error> {
        let message = FileRequest { group: id.group, name: id.name };
        let mut head = Vec::with_capacity(160);
        frame(Command::GetMetadata, &message, &mut head);
        let request = Request::new(Command::GetMetadata, &head, Repeat::Harmless).about(id);
        // Metadata changes, so the storage that takes the changes is the one to ask; replicas when it is down.
        let decode = |body: &[u8]| Ok(Metadata::parse(body));
        let told = match self.shared.change(id, request, &mut Content::empty(), true).await {
            Ok(answer) => self.shared.finish(answer, decode).await,
            Err(error) => Err(error),
        };
        match told {
            // A storage that has the file knows that there is no metadata.
            Err(Error::NotFound { server, .. }) if self.shared.has(server, id).await => told,
            Err(error) if error.is_of_server() || error.is_not_found() => {
                self.shared.read_answer(id, request, decode).await
            }
            told => told,
        }
    }

    /// Where copies of the file may be.
    ///
    /// # Errors
    /// If nothing of that can be found out.
    pub async fn copies(&self, id: &FileId) -> Result<Copies, Error> {
        let shared = &self.shared;
        let (readers, members) = (shared.look_up(LookUp::Readers, id).await, shared.members(id).await);
        let mut copies = Copies { likely: Vec::new(), idle: Vec::new(), away: Vec::new(), unknown: None };
        match (&readers, members) {
            (_, Ok(members)) => {
                copies.likely.extend(members.candidates(id).iter());
                (copies.idle, copies.away) = members.rest(id);
            }
            (Ok(_), Err(error)) => copies.unknown = Some(error),
            (Err(_), Err(error)) => return Err(error),
        }
        copies.likely.splice(..0, readers.iter().flat_map(|readers| readers.iter().copied()));
        let mut seen = std::collections::HashSet::new();
        for list in [&mut copies.likely, &mut copies.idle, &mut copies.away] {
            list.retain(|copy| seen.insert(*copy));
        }
        shared.look_after(copies.idle.iter().copied().map(Server::storage));
        let health = shared.health.lock();
        copies.likely.sort_by_key(|copy| !health.usable(*copy));
        copies.away.extend(copies.idle.extract_if(.., |copy| !health.usable(*copy)));
        Ok(copies)
    }

    /// The copy of the file on the storage at `addr` is damaged: for a while, it is read only if there is no other.
    pub fn distrust(&self, id: &FileId, addr: SocketAddr) {
        self.shared.routes.lock().distrust(id, addr, Instant::now());
    }

    /// Whether the storage at `addr` answers at all.
    pub async fn storage_active_test(&self, addr: SocketAddr) -> Result<(), Error> {
        let mut head = Vec::new();
        frame(Command::ActiveTest, &(), &mut head);
        let request = Request::new(Command::ActiveTest, &head, Repeat::Harmless);
        self.shared.exchange(Server::storage(addr), request, &mut Content::empty()).await?.finish_empty(&self.shared);
        Ok(())
    }
}

impl Shared {
    pub(crate) async fn file_info(&self, id: &FileId, flags: FileInfoFlags) -> Result<FileInfo, Error> {
        let head = info_head(id, flags);
        // The name of a file that never changes tells its CRC32.
        let slowness = if flags.no_crc || is_fixed(id) { 1 } else { SLOW };
        let request = Request { slowness, ..Request::new(Command::QueryFileInfo, &head, Repeat::Harmless).about(id) };
        self.read_answer(id, request, FileInfo::decode).await
    }

    /// Whether `storage` says that it has the file.
    async fn has(&self, storage: Server, id: &FileId) -> bool {
        let head = info_head(id, FileInfoFlags { no_crc: true, silent: true });
        let request = Request::new(Command::QueryFileInfo, &head, Repeat::Harmless).about(id);
        match self.exchange(storage, request, &mut Content::empty()).await {
            Ok(answer) => self.finish(answer, FileInfo::decode).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Sends a request to the storages that have the file until one does it; one at a time if it is a slow one.
    async fn read_answer<T: Send>(
        &self,
        id: &FileId,
        request: Request<'_>,
        decode: impl Fn(&[u8]) -> Result<T, WireError> + Sync,
    ) -> Result<T, Error> {
        let (pulse, decode) = (Pulse::default(), &decode);
        let request = Request { pulse: Some(&pulse), ..request };
        let attempt = |storage| -> Attempt<'_, _> {
            Box::pin(async move {
                let answer = self.exchange(Server::storage(storage), request, &mut Content::empty()).await?;
                self.finish(answer, decode).await
            })
        };
        let at_once = if request.slowness > 1 { 1 } else { AT_ONCE };
        self.read(id, &pulse, at_once, &mut Vec::new(), attempt).await
    }

    /// Makes attempts at the storages that have the file until one succeeds, no more than `at_once` at a time but for those
    /// at storages that are gone. Storages in `tried` are left out; those asked are added. `pulse` is that of the attempts.
    pub(crate) async fn read<'a, T: Send>(
        &'a self,
        id: &'a FileId,
        pulse: &Pulse,
        at_once: usize,
        tried: &mut Vec<SocketAddr>,
        attempt: impl Fn(SocketAddr) -> Attempt<'a, Result<T, Error>>,
    ) -> Result<T, Error> {
        let known = self.routes.lock().readers(id, Instant::now());
        let mut search = Search::new();
        if let Some(known) = &known {
            self.enlist(&mut search, id, known);
        }
        let mut race = Race::new(pulse);
        let mut probes = 0;
        // Not found is the weakest finding: any other failure leaves open whether the file exists.
        let (mut missing, mut failure, mut unknown) = (None, None, None);
        loop {
            let has_room = race.working().count() < at_once;
            match if has_room { search.next(tried) } else { None } {
                Some(Next::Ask(storage)) => {
                    tried.push(storage);
                    let attempt = attempt(storage);
                    race.start(Some(storage), async move { Outcome::Answered(storage, attempt.await) });
                }
                Some(Next::LookUp(what)) => {
                    race.start(None, async move { Outcome::Found(self.look_up(what, id).await) });
                }
                None if !race.is_on() && !search.looking => break,
                None => {}
            }
            let patience = (search.has_more() && probes == 0).then_some(self.config.failover_after);
            let (outcome, overtaken) = match race.next(patience).await {
                Event::Ended { outcome, overtaken } => (outcome, overtaken),
                Event::Stalled => {
                    let working: Vec<_> = race.working().collect();
                    if working.len() >= at_once {
                        probes = working.len();
                        for storage in working {
                            let (server, pulse) = (Server::storage(storage), pulse.clone());
                            let probe = async move { Outcome::Probed(storage, self.is_gone(server, &pulse).await) };
                            race.start(None, probe);
                        }
                    }
                    continue;
                }
            };
            match outcome {
                Outcome::Probed(storage, is_gone) => {
                    probes -= 1;
                    if is_gone {
                        tracing::debug!(%storage, %id, "silent, and answers no probe");
                        self.left_behind(storage);
                        race.is_gone(storage);
                    }
                }
                Outcome::Found(Ok(storages)) => {
                    search.looking = false;
                    self.enlist(&mut search, id, &storages);
                }
                Outcome::Found(Err(error)) => {
                    search.looking = false;
                    // Whoever cannot be asked the one thing cannot be asked the other.
                    if !matches!(error, Error::NoStorage { .. } | Error::Status { .. }) {
                        search.lookups.clear();
                    }
                    unknown.get_or_insert(error);
                }
                Outcome::Answered(_, Ok(done)) => {
                    for slow in overtaken {
                        tracing::debug!(storage = %slow, %id, "another storage was faster by far");
                        self.left_behind(slow);
                    }
                    return Ok(done);
                }
                Outcome::Answered(_, Err(error @ Error::NotFound { .. })) => {
                    self.routes.lock().forget_file(id);
                    missing = Some(error);
                }
                Outcome::Answered(storage, Err(error)) if error.is_of_server() || of_one_copy(&error) => {
                    tracing::debug!(%storage, %error, "read failed, looking for another storage");
                    let mut routes = self.routes.lock();
                    match error {
                        Error::Corrupt { .. } => routes.distrust(id, storage, Instant::now()),
                        Error::Busy { .. } => {}
                        _ => routes.forget_storage(storage),
                    }
                    drop(routes);
                    failure = Some(error);
                }
                Outcome::Answered(_, Err(error)) => return Err(error),
            }
        }
        let none = || Error::Invalid(format!("no other storage has {id}"));
        Err(failure.or(unknown).or(missing).unwrap_or_else(none))
    }

    /// A storage was silent for too long.
    pub(crate) fn left_behind(&self, storage: SocketAddr) {
        self.health.lock().failed(storage, Instant::now());
        self.routes.lock().forget_storage(storage);
    }

    async fn look_up(&self, what: LookUp, id: &FileId) -> Result<Arc<[SocketAddr]>, Error> {
        match what {
            LookUp::Readers => {
                let readers = self.ask_readers(id).await?;
                self.routes.lock().learn_readers(id, &readers, Instant::now());
                Ok(readers)
            }
            LookUp::Members => Ok(self.members(id).await?.candidates(id)),
        }
    }

    async fn members(&self, id: &FileId) -> Result<Members, Error> {
        let known = self.routes.lock().members(id, Instant::now());
        if let Some(members) = known {
            return Ok(members);
        }
        let members = self.ask_members(&id.group).await?;
        self.routes.lock().learn_members(id, members.clone(), Instant::now());
        Ok(members)
    }

    /// Adds storages to a search, in the order to try them.
    fn enlist(&self, search: &mut Search, id: &FileId, storages: &[SocketAddr]) {
        self.look_after(storages.iter().copied().map(Server::storage));
        let now = Instant::now();
        let (health, routes) = (self.health.lock(), self.routes.lock());
        for storage in health.order(storages, self.turn()) {
            if health.usable(storage) && !routes.distrusted(id, storage, now) {
                search.usable.push_back(storage);
            } else {
                search.avoided.push_back(storage);
            }
        }
    }
}

enum Outcome<T> {
    Answered(SocketAddr, Result<T, Error>),
    Found(Result<Arc<[SocketAddr]>, Error>),
    /// Whether it is gone.
    Probed(SocketAddr, bool),
}

/// Where more storages come from, the most likely first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookUp {
    /// The tracker knows them to have the file.
    Readers,
    /// They are of the group.
    Members,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Ask(SocketAddr),
    LookUp(LookUp),
}

/// Storages still to be asked. Those that failed lately are the last resort: before, others are looked for.
#[derive(Debug)]
struct Search {
    usable: VecDeque<SocketAddr>,
    avoided: VecDeque<SocketAddr>,
    lookups: VecDeque<LookUp>,
    looking: bool,
}

impl Search {
    fn new() -> Self {
        Self {
            usable: VecDeque::new(),
            avoided: VecDeque::new(),
            lookups: [LookUp::Readers, LookUp::Members].into(),
            looking: false,
        }
    }

    fn has_more(&self) -> bool {
        !self.usable.is_empty() || (!self.looking && (!self.lookups.is_empty() || !self.avoided.is_empty()))
    }

    fn next(&mut self, tried: &[SocketAddr]) -> Option<Next> {
        if tried.len() >= TRIES {
            (self.usable, self.avoided, self.lookups) = Default::default();
        }
        while let Some(storage) = self.usable.pop_front() {
            if !tried.contains(&storage) {
                return Some(Next::Ask(storage));
            }
        }
        if self.looking {
            return None;
        }
        if let Some(what) = self.lookups.pop_front() {
            self.looking = true;
            return Some(Next::LookUp(what));
        }
        while let Some(storage) = self.avoided.pop_front() {
            if !tried.contains(&storage) {
                return Some(Next::Ask(storage));
            }
        }
        None
    }
}

/// A request for what a storage knows of a file.
fn info_head(id: &FileId, flags: FileInfoFlags) -> Vec<u8> {
    let mut head = Vec::with_capacity(160);
    frame_flags(Command::QueryFileInfo, flags.to_byte(), &FileRequest { group: id.group, name: id.name }, &mut head);
    head
}

/// Damage, and statuses that speak of one storage's disk rather than of the request.
fn of_one_copy(error: &Error) -> bool {
    match error {
        Error::Corrupt { .. } => true,
        Error::Status { status, .. } => *status != Status::EINVAL && *status != Status::EISDIR,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 23000))
    }

    #[test]
    fn the_avoided_are_asked_when_nobody_else_can_be_found() {
        let mut search = Search::new();
        search.usable.extend([storage(1), storage(2)]);
        search.avoided.extend([storage(3), storage(2)]);
        let mut tried = vec![storage(1)];
        let mut order = Vec::new();
        while let Some(next) = search.next(&tried) {
            match &next {
                Next::Ask(storage) => tried.push(*storage),
                Next::LookUp(_) => {
                    assert!(search.looking && search.next(&tried).is_none(), "one look at a time");
                    search.looking = false;
                }
            }
            order.push(next);
        }
        let expected = [
            Next::Ask(storage(2)),
            Next::LookUp(LookUp::Readers),
            Next::LookUp(LookUp::Members),
            Next::Ask(storage(3)),
        ];
        assert_eq!(order, expected);
        assert!(!search.has_more());
    }
}
