//! Programs that use the client library.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, bail};
use fdfs_client::{Bytes, Client, Error, ExtName, FileId, Metadata, MetadataMode, Prefix};

use super::super::check::{State, Violation, difference};
use super::super::converge::{Listing, owners};
use super::super::fleet::Fleet;
use super::super::history::{Change, Data, History, Outcome};
use super::{Known, data, over};
use crate::tree::Random;

/// Files a worker keeps; beyond, it deletes.
const MOST_FILES: usize = 25;
/// A longer modification may be made in part when it fails; these are made whole or not at all, but for a full disk, which
/// refuses them beforehand as a rule.
const MOST_MODIFIED: u64 = 32 << 10;
const SLAVE: &str = "upload slave";

/// One program that uses the client library, and its files.
#[derive(Debug)]
pub struct ClientLoad {
    worker: usize,
    random: Random,
    files: Vec<Owned>,
    /// Deleted, and seen to be gone: it stays so.
    gone: Vec<FileId>,
}

#[derive(Debug)]
struct Owned {
    id: FileId,
    appender: bool,
    known: Known,
    /// As far as the owner can tell.
    size: u64,
    /// The owner knows that it has removed it.
    deleted: bool,
}

fn outcome<T>(answer: &Result<T, Error>) -> (Outcome, String) {
    match answer {
        Ok(_) => (Outcome::Done, String::new()),
        Err(e) if e.outcome_unknown() || matches!(e, Error::Protocol { .. }) => (Outcome::Unknown, e.to_string()),
        Err(e) => (Outcome::Failed, e.to_string()),
    }
}

impl ClientLoad {
    /// A program without files.
    pub fn new(worker: usize, seed: u64) -> ClientLoad {
        ClientLoad { worker, random: Random(seed), files: Vec::new(), gone: Vec::new() }
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// None of the cluster's: these are noted.
    pub async fn work(&mut self, client: &Client, history: &History, stop: &AtomicBool) -> Result<()> {
        while !over(stop) {
            let open: Vec<usize> =
                (0..self.files.len()).filter(|i| !self.files[*i].deleted && self.files[*i].known.open()).collect();
            let pick = self.random.below(open.len() as u64) as usize;
            let full = open.len() > MOST_FILES;
            match (self.random.below(100), open.get(pick)) {
                (0..40, Some(i)) if full => self.change(client, history, *i, Change::Delete).await,
                (0..12, _) => self.upload(client, history, true).await?,
                (12..35, _) | (_, None) => self.upload(client, history, false).await?,
                (35..40, Some(i)) => self.slave(client, history, *i).await?,
                (40..45, Some(i)) => self.change(client, history, *i, Change::Delete).await,
                (_, Some(i)) => {
                    let change = self.choose(*i);
                    self.change(client, history, *i, change).await;
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, i: usize) -> Change {
        let (random, file) = (&mut self.random, &self.files[i]);
        if !file.appender || random.below(4) == 0 {
            let items = (0..random.below(4))
                .map(|_| (format!("key{}", random.below(6)), format!("{:x}", random.next_u64())))
                .collect::<BTreeMap<_, _>>();
            return if random.below(2) == 0 { Change::SetMetadata(items) } else { Change::MergeMetadata(items) };
        }
        match random.below(20) {
            0..9 => Change::Append(data(random)),
            9..15 => {
                let at = random.below(file.size + 1);
                Change::Modify(at, Data { seed: random.next_u64(), len: 1 + random.below(MOST_MODIFIED) as usize })
            }
            15..18 => Change::Truncate(random.below(file.size + file.size / 4 + 1)),
            _ => Change::Regenerate,
        }
    }

    async fn upload(&mut self, client: &Client, history: &History, appender: bool) -> Result<()> {
        let (data, ext) = (data(&mut self.random), ExtName::new(["txt", "jpg", ""][self.random.below(3) as usize])?);
        let begin = history.clock();
        let content = [Bytes::from(data.bytes())];
        let answer = match appender {
            true => client.upload_appender_buf(&content, &ext).await,
            false => client.upload_buf(&content, &ext).await,
        };
        let operation = if appender { "upload appender" } else { "upload" };
        self.own(history, operation, data, begin, answer, appender);
        Ok(())
    }

    async fn slave(&mut self, client: &Client, history: &History, i: usize) -> Result<()> {
        let master = self.files[i].id;
        let data = data(&mut self.random);
        let prefix = Prefix::new(&format!("_{:x}", self.random.below(1 << 24)))?;
        let content = Bytes::from(data.bytes());
        let begin = history.clock();
        let parts = [content];
        let answer =
            client.upload_slave(&master, &prefix, &ExtName::new("txt")?, fdfs_client::Content::buffers(&parts)).await;
        self.own(history, SLAVE, data, begin, answer, false);
        Ok(())
    }

    /// Notes an upload. One without an answer may have left a file that nobody knows the name of.
    fn own(
        &mut self,
        history: &History,
        operation: &'static str,
        data: Data,
        begin: Duration,
        answer: Result<FileId, Error>,
        appender: bool,
    ) {
        let (outcome, detail) = outcome(&answer);
        let mut known = Known::default();
        let event = known.push(Change::Put(data), outcome);
        let name = answer.as_ref().map_or_else(|_| "?".to_owned(), ToString::to_string);
        history.note(self.worker, operation, &name, event, begin, &detail);
        if let Ok(id) = answer {
            self.files.push(Owned { id, appender, known, size: data.len as u64, deleted: false });
        }
    }

    async fn change(&mut self, client: &Client, history: &History, i: usize, change: Change) {
        let file = &mut self.files[i];
        let (id, begin) = (file.id, history.clock());
        let mut new = None;
        let answer = match &change {
            Change::Put(_) => return,
            Change::Append(data) => client.append_buf(&id, &[Bytes::from(data.bytes())]).await,
            Change::Modify(at, data) => client.modify_buf(&id, *at, &[Bytes::from(data.bytes())]).await,
            Change::Truncate(size) => client.truncate(&id, *size).await,
            Change::SetMetadata(items) => client.set_metadata(&id, &packed(items), MetadataMode::Overwrite).await,
            Change::MergeMetadata(items) => client.set_metadata(&id, &packed(items), MetadataMode::Merge).await,
            Change::Regenerate => client.regenerate(&id).await.map(|id| new = Some(id)),
            Change::Delete => client.delete(&id).await,
        };
        let (outcome, mut detail) = outcome(&answer);
        if let Some(new) = new {
            detail = new.to_string();
            (file.id, file.appender) = (new, false);
        }
        if outcome != Outcome::Failed {
            match &change {
                Change::Append(data) => file.size += data.len as u64,
                Change::Modify(at, data) => file.size = file.size.max(at + data.len as u64),
                Change::Truncate(size) => file.size = *size,
                Change::Delete | Change::Regenerate if outcome == Outcome::Unknown => file.deleted = true,
                Change::Delete => file.deleted = true,
                _ => {}
            }
        }
        let operation = change.kind();
        let event = file.known.push(change, outcome);
        history.note(self.worker, operation, &id.to_string(), event, begin, &detail);
    }

    /// Compares the files with what the cluster, and each member of their group, gives out. What is wrong goes to
    /// `violations`; of files that are `disputed` only what the members do not have in common.
    ///
    /// # Errors
    /// None of the cluster's.
    pub async fn check(
        &mut self,
        client: &Client,
        fleet: &Fleet,
        listings: &[Listing],
        disputed: &BTreeSet<String>,
        violations: &mut Vec<String>,
    ) -> Result<usize> {
        // Those of this round are compared below; the listings are older.
        for id in &self.gone {
            let owners = owners(fleet, listings, id);
            if !owners.is_empty() {
                violations.push(format!("{id}: resurrected: deleted, and there on {}", owners.join(", ")));
            }
        }
        let mut checked = 0;
        for mut file in std::mem::take(&mut self.files) {
            let found = match observe(client, &file.id).await {
                Ok(found) => found,
                Err(error) => {
                    violations.push(format!("{} cannot be read: {error:#}", file.id));
                    continue;
                }
            };
            checked += 1;
            if let Err(complaint) = members_agree(client, fleet, &file.id, found.content.as_deref()).await {
                violations.push(complaint);
            }
            file.size = found.content.as_ref().map_or(0, |content| content.len() as u64);
            let there = found.content.is_some();
            let name = file.id.to_string();
            let excused = |violation: &Violation| match violation {
                Violation::WrongMetadata(_) => disputed.contains(&format!("{name}-m")),
                Violation::WrongContent(_) | Violation::Impossible(_) => disputed.contains(&name),
                Violation::Lost | Violation::Resurrected => false,
            };
            if let Err(violation) = file.known.settle(found)
                && !excused(&violation)
            {
                violations.push(format!("{}: {violation}", file.id));
            }
            file.deleted = false;
            if there {
                self.files.push(file);
            } else {
                self.gone.push(file.id);
            }
        }
        Ok(checked)
    }
}

/// The file as the cluster gives it out.
async fn observe(client: &Client, id: &FileId) -> Result<State> {
    let content = match client.download_buf(id, 0, 0).await {
        Ok(content) => Some(Arc::new(content.to_vec())),
        Err(error) if error.is_not_found() => None,
        Err(error) => bail!("{error}"),
    };
    let metadata = match client.get_metadata(id).await {
        Ok(metadata) => metadata.iter().map(|(k, v)| (text(k), text(v))).collect(),
        Err(error) if error.is_not_found() => BTreeMap::new(),
        Err(error) => bail!("metadata: {error}"),
    };
    Ok(State { content, metadata })
}

/// Compares what each member of the group gives out with what the cluster does.
///
/// # Errors
/// Who differs, in words.
pub async fn members_agree(
    client: &Client,
    fleet: &Fleet,
    id: &FileId,
    wanted: Option<&Vec<u8>>,
) -> Result<(), String> {
    for i in fleet.members(&id.group) {
        let at = fleet.shape().name(i);
        let mut found = Vec::new();
        let answer = match client.download_from(fleet.addr(i), id, 0, 0).await {
            Ok(download) => download.copy_to(&mut found).await,
            Err(error) => Err(error),
        };
        match (answer, wanted) {
            (Ok(_), Some(wanted)) if found == *wanted => {}
            (Ok(_), Some(wanted)) => return Err(format!("{id} on {at}: {}", difference(wanted, &found))),
            (Ok(_), None) => return Err(format!("{id} on {at}: {} bytes, where there is no file", found.len())),
            (Err(error), None) if error.is_not_found() => {}
            (Err(error), _) => return Err(format!("{id} on {at}: {error}")),
        }
    }
    Ok(())
}

fn packed(items: &BTreeMap<String, String>) -> Metadata {
    let mut metadata = Metadata::new();
    for (name, value) in items {
        // Hexadecimal digits, and shorter than any limit.
        metadata.insert(name.as_bytes(), value.as_bytes()).expect("a valid item");
    }
    metadata
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
