//! What a client does: one operation after another, on files of its own.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use fdfs_client::{Bytes, Client, Error, ExtName, Metadata, MetadataMode};
use tracing::debug;

use crate::history::{Change, File, History, Outcome};
use crate::machine;
use crate::random::Random;

/// No operation takes longer, whatever goes wrong.
const LONGEST: Duration = Duration::from_secs(90);

/// What the clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Wait until the cluster is up.
    Wait,
    /// Work.
    Work,
    /// Finish what was begun.
    Rest,
    /// Read what is to be read.
    Read,
}

/// What the clients share with the simulation.
pub struct Work {
    /// What they are to do.
    pub phase: Cell<Phase>,
    /// Clients that are not done.
    pub busy: Cell<usize>,
    /// What they did.
    pub history: RefCell<History>,
    /// Files to be read at the end, and from which storage.
    pub reads: RefCell<Vec<(usize, SocketAddr)>>,
}

impl Work {
    /// For so many clients.
    pub fn new(clients: usize) -> Work {
        Work {
            phase: Cell::new(Phase::Wait),
            busy: Cell::new(clients),
            history: RefCell::default(),
            reads: RefCell::default(),
        }
    }
}

/// Works as long as the phase says so.
pub async fn run(work: Rc<Work>, client: Client, mut random: Random) {
    while work.phase.get() == Phase::Wait {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut mine: Vec<usize> = Vec::new();
    let pause = random.within(100..1500);
    while work.phase.get() == Phase::Work {
        let began = machine::now();
        step(&work, &client, &mut random, &mut mine).await;
        let took = machine::now().saturating_sub(began);
        if took > LONGEST {
            work.history.borrow_mut().wrong.push(format!("an operation took {took:?}"));
        }
        tokio::time::sleep(random.millis(0..pause)).await;
    }
    work.busy.set(work.busy.get() - 1);
    while work.phase.get() == Phase::Rest {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    loop {
        // Whichever client comes first.
        let Some((index, from)) = work.reads.borrow_mut().pop() else { return };
        work.busy.set(work.busy.get() + 1);
        read_from(&work, &client, index, from).await;
        work.busy.set(work.busy.get() - 1);
    }
}

async fn step(work: &Work, client: &Client, random: &mut Random, mine: &mut Vec<usize>) {
    let alive = |appender: bool| -> Vec<usize> {
        let history = work.history.borrow();
        let fits = |i: &&usize| !history.files[**i].given_up && (!appender || history.files[**i].appender);
        mine.iter().filter(fits).copied().collect()
    };
    let what = random.within(0..20);
    let of = match what {
        0..6 => None,
        6..12 => random.pick(&alive(true)).copied(),
        _ => random.pick(&alive(false)).copied(),
    };
    let Some(index) = of else { return upload(work, client, random, mine).await };
    let min = work.history.borrow().files[index].min_size() as u64;
    let change = match what {
        6..9 => Change::Append(content(random)),
        9 | 10 => Change::Modify(random.within(0..min + 1), content(random)),
        11 => Change::Truncate(random.within(0..min + 100)),
        12..14 => Change::Delete,
        14..16 => {
            let mode = if random.one_in(2) { MetadataMode::Overwrite } else { MetadataMode::Merge };
            Change::Describe(metadata(random), mode)
        }
        _ => return read(work, client, index).await,
    };
    self::change(work, client, index, change).await;
}

/// Mostly small; some that are sent without being copied, some that come in several pieces.
fn content(random: &mut Random) -> Vec<u8> {
    let len = match random.within(0..20) {
        0 => 0,
        1..17 => random.within(1..2000),
        17 | 18 => random.within(33_000..50_000),
        _ => random.within(260_000..300_000),
    };
    random.bytes(len as usize)
}

fn metadata(random: &mut Random) -> Metadata {
    let mut metadata = Metadata::new();
    for _ in 0..random.within(0..4) {
        let name = format!("name{}", random.within(0..5));
        let value = format!("value{}", random.within(0..1000));
        // Neither is too long.
        let _ = metadata.insert(name.as_bytes(), value.as_bytes());
    }
    metadata
}

async fn upload(work: &Work, client: &Client, random: &mut Random, mine: &mut Vec<usize>) {
    let appender = random.one_in(2);
    let content = content(random);
    let data = [Bytes::from(content.clone())];
    let ext = ExtName::NONE;
    let uploaded = match appender {
        true => client.upload_appender_buf(&data, &ext).await,
        false => client.upload_buf(&data, &ext).await,
    };
    debug!("upload of {} bytes: {}", content.len(), told(&uploaded));
    let mut history = work.history.borrow_mut();
    count(&mut history, uploaded.is_ok());
    if let Ok(id) = uploaded {
        mine.push(history.files.len());
        history.files.push(File::new(id, appender, content));
    }
}

async fn change(work: &Work, client: &Client, index: usize, change: Change) {
    let id = work.history.borrow().files[index].id;
    let done = match &change {
        Change::Append(bytes) => client.append_buf(&id, &[Bytes::from(bytes.clone())]).await,
        Change::Modify(offset, bytes) => client.modify_buf(&id, *offset, &[Bytes::from(bytes.clone())]).await,
        Change::Truncate(size) => client.truncate(&id, *size).await,
        Change::Delete => client.delete(&id).await,
        Change::Describe(metadata, mode) => client.set_metadata(&id, metadata, *mode).await,
    };
    debug!("{} of {id}: {}", name(&change), told(&done));
    let outcome = match &done {
        Ok(()) => Outcome::Done,
        // With ack_members: the members that have it so far were too few, and not every change can be taken back.
        Err(e) if e.outcome_unknown() || e.to_errno() == libc::ETIMEDOUT => Outcome::Unknown,
        Err(_) => Outcome::Refused,
    };
    let mut history = work.history.borrow_mut();
    count(&mut history, done.is_ok());
    if let Err(wrong) = history.files[index].note(&change, outcome) {
        history.wrong.push(wrong);
    }
}

/// A file that cannot be changed is read as it was written, or not at all.
async fn read(work: &Work, client: &Client, index: usize) {
    let (id, appender) = {
        let file = &work.history.borrow().files[index];
        (file.id, file.appender)
    };
    let read = client.download_buf(&id, 0, 0).await;
    debug!("download of {id}: {}", told(&read));
    let mut history = work.history.borrow_mut();
    count(&mut history, read.is_ok());
    if let Ok(content) = read
        && !appender
        && !history.files[index].may_be(Some(&content))
    {
        history.wrong.push(format!("{id} was read with other bytes than were written"));
    }
}

/// Nothing is wrong any more: a member that has a file gives it.
async fn read_from(work: &Work, client: &Client, index: usize, from: SocketAddr) {
    let id = work.history.borrow().files[index].id;
    let mut content = Vec::new();
    let read = async { client.download_from(from, &id, 0, 0).await?.copy_to(&mut content).await };
    let read = read.await;
    let mut history = work.history.borrow_mut();
    if let Err(e) = read {
        history.wrong.push(format!("{id} cannot be read from {from}: {e}"));
    } else if !history.files[index].may_be(Some(&content)) {
        history.wrong.push(format!("{id} is read from {from} with other bytes than were written"));
    }
}

fn count(history: &mut History, ok: bool) {
    if ok { history.counts.0 += 1 } else { history.counts.1 += 1 }
}

fn name(change: &Change) -> String {
    match change {
        Change::Append(bytes) => format!("append of {} bytes", bytes.len()),
        Change::Modify(offset, bytes) => format!("modification of {} bytes at {offset}", bytes.len()),
        Change::Truncate(size) => format!("truncation to {size} bytes"),
        Change::Delete => "deletion".to_owned(),
        Change::Describe(metadata, mode) => format!("metadata ({} pairs, {mode:?})", metadata.len()),
    }
}

fn told<T>(result: &Result<T, Error>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(e) => format!("{e}"),
    }
}
