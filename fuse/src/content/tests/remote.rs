//! A cluster in memory that fails when told to.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::content::remote::{Body, Copies, Download, Remote};
use crate::content::{ContentError, ExtName, Fingerprint, Object, Space, Stored};

/// What happens to the next operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It succeeds.
    Good,
    /// It succeeds, but others run first.
    Late,
    /// It fails and has no effect.
    Refused,
    /// It has its effect, and then fails; an append has half of it.
    Lost,
    /// It succeeds; an append at a member that lacks the end of what was there.
    Behind,
    /// What is read differs in one byte.
    Damaged,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: HashMap<String, Vec<u8>>,
    pub(crate) appenders: HashMap<String, Vec<u8>>,
    /// Consumed by one operation each, then all are good.
    pub(crate) fates: VecDeque<Fate>,
    /// Contents that were stored while the store was told otherwise.
    pub(crate) lost: Vec<String>,
    pub(crate) uploads: usize,
    pub(crate) appends: usize,
    pub(crate) downloads: usize,
    /// Copies with one wrong byte, at this offset.
    pub(crate) damaged: HashMap<SocketAddr, u64>,
    /// Copies that end here.
    pub(crate) short: HashMap<SocketAddr, u64>,
    pub(crate) distrusted: Vec<SocketAddr>,
    /// Copies that are not named to readers.
    pub(crate) idle: Vec<SocketAddr>,
    /// There is a member beside the copies, which cannot be asked.
    pub(crate) one_is_away: bool,
    turn: u8,
    next: u64,
}

/// Copies of each content.
const COPIES: u8 = 3;

pub(crate) fn copy(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 23000))
}

/// Clones are the same cluster.
#[derive(Clone)]
pub(crate) struct TestRemote {
    pub(crate) state: Arc<Mutex<State>>,
    /// One permit is needed to store anything. Tests close the gate by taking them all.
    pub(crate) gate: Arc<Semaphore>,
}

pub(crate) const OPEN: u32 = 1000;

impl TestRemote {
    pub(crate) fn new() -> TestRemote {
        TestRemote { state: Arc::default(), gate: Arc::new(Semaphore::new(OPEN as usize)) }
    }

    pub(crate) fn put(&self, bytes: Vec<u8>) -> Object {
        let fingerprint = Fingerprint::of(&bytes);
        let size = bytes.len() as u64;
        let mut state = self.state.lock();
        let file_id = state.name();
        state.objects.insert(file_id.clone(), bytes);
        Object { file_id: file_id.into(), size, fingerprint: Some(fingerprint) }
    }

    pub(crate) fn object(&self, stored: &Stored) -> Vec<u8> {
        self.state.lock().objects[&stored.file_id].clone()
    }

    async fn fate(&self, storing: bool) -> Fate {
        if storing {
            drop(self.gate.acquire().await.unwrap());
        }
        let fate = self.state.lock().fates.pop_front().unwrap_or(Fate::Good);
        if fate == Fate::Late {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        fate
    }
}

impl State {
    fn name(&mut self) -> String {
        self.next += 1;
        format!("group1/M00/00/00/{}", self.next)
    }
}

fn failed() -> ContentError {
    ContentError::Unreachable("as told".into())
}

fn slice(file: &File, range: Range<u64>) -> Result<Vec<u8>, ContentError> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let read = file.read_exact_at(&mut bytes, range.start);
    read.map(|()| bytes).map_err(|e| ContentError::local("staged".as_ref(), e))
}

impl Remote for TestRemote {
    type Download = TestDownload;

    async fn upload(&self, body: Body, _: &ExtName) -> Result<String, ContentError> {
        let fate = self.fate(true).await;
        let bytes = match body {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::File(file, len) => slice(&file, 0..len)?,
        };
        let mut state = self.state.lock();
        if fate == Fate::Refused {
            return Err(failed());
        }
        state.uploads += 1;
        let name = state.name();
        state.objects.insert(name.clone(), bytes);
        if fate == Fate::Lost {
            state.lost.push(name);
            return Err(failed());
        }
        Ok(name)
    }

    async fn create_appender(&self, file: &Arc<File>, range: Range<u64>, _: &ExtName) -> Result<String, ContentError> {
        let fate = self.fate(true).await;
        if matches!(fate, Fate::Refused | Fate::Lost) {
            return Err(failed());
        }
        let bytes = slice(file, range)?;
        let mut state = self.state.lock();
        state.appends += 1;
        let name = state.name();
        state.appenders.insert(name.clone(), bytes);
        Ok(name)
    }

    async fn append(&self, appender: &str, file: &Arc<File>, range: Range<u64>) -> Result<(), ContentError> {
        let fate = self.fate(true).await;
        if fate == Fate::Refused {
            return Err(failed());
        }
        let mut bytes = slice(file, range)?;
        if fate == Fate::Lost {
            bytes.truncate(bytes.len() / 2);
        }
        let mut state = self.state.lock();
        state.appends += 1;
        let to = state.appenders.get_mut(appender).ok_or_else(|| ContentError::NotFound(appender.into()))?;
        if fate == Fate::Behind {
            to.truncate(to.len() / 2);
        }
        to.extend(bytes);
        if fate == Fate::Lost { Err(failed()) } else { Ok(()) }
    }

    async fn finish_appender(&self, appender: &str) -> Result<String, ContentError> {
        let fate = self.fate(true).await;
        if fate == Fate::Refused {
            return Err(failed());
        }
        let mut state = self.state.lock();
        let bytes = state.appenders.remove(appender).ok_or_else(|| ContentError::NotFound(appender.into()))?;
        let name = state.name();
        state.objects.insert(name.clone(), bytes);
        if fate == Fate::Lost {
            state.lost.push(name);
            return Err(failed());
        }
        Ok(name)
    }

    async fn read(&self, file_id: &str, range: Range<u64>) -> Result<Bytes, ContentError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.download(file_id, range).await?.fill(&mut bytes).await?;
        Ok(bytes.into())
    }

    async fn download(&self, file_id: &str, range: Range<u64>) -> Result<TestDownload, ContentError> {
        // Any copy that is not known to be bad, in turn.
        let copy = {
            let mut state = self.state.lock();
            state.turn = state.turn.wrapping_add(1);
            let start = state.turn;
            let copies = (0..COPIES).map(|i| copy(start.wrapping_add(i) % COPIES));
            copies.clone().find(|copy| !state.distrusted.contains(copy)).unwrap_or(copy(start % COPIES))
        };
        match self.download_from(copy, file_id, range.clone()).await {
            Err(ContentError::Corrupt(_)) => {}
            answer => return answer,
        }
        let whole = {
            let state = self.state.lock();
            (0..COPIES).map(self::copy).find(|copy| state.short.get(copy).is_none_or(|end| *end >= range.end))
        };
        self.download_from(whole.unwrap_or(copy), file_id, range).await
    }

    async fn read_checked(
        &self,
        file_id: &str,
        range: Range<u64>,
        check: &(dyn Fn(&[u8]) -> bool + Send + Sync),
    ) -> Result<Bytes, ContentError> {
        for _ in 0..COPIES {
            let bytes = self.read(file_id, range.clone()).await?;
            if check(&bytes) {
                return Ok(bytes);
            }
        }
        Err(ContentError::Corrupt(file_id.into()))
    }

    async fn copies(&self, _: &str) -> Result<Copies, ContentError> {
        let state = self.state.lock();
        let (idle, likely) = (0..COPIES).map(copy).partition(|copy| state.idle.contains(copy));
        Ok(Copies { likely, idle, unseen: state.one_is_away.then(failed) })
    }

    async fn download_from(
        &self,
        copy: SocketAddr,
        file_id: &str,
        range: Range<u64>,
    ) -> Result<TestDownload, ContentError> {
        assert!(!range.is_empty());
        let fate = self.fate(false).await;
        let mut state = self.state.lock();
        state.downloads += 1;
        let bytes = state.objects.get(file_id).ok_or_else(|| ContentError::NotFound(file_id.into()))?;
        let mut bytes = bytes[range.start as usize..range.end as usize].to_vec();
        if state.short.get(&copy).is_some_and(|end| *end < range.end) {
            return Err(ContentError::Corrupt(file_id.into()));
        }
        if let Some(at) = state.damaged.get(&copy).filter(|at| range.contains(at)) {
            bytes[(at - range.start) as usize] ^= 1;
        }
        match fate {
            Fate::Refused => return Err(failed()),
            // Breaks half-way.
            Fate::Lost => bytes.truncate(bytes.len() / 2),
            Fate::Damaged => bytes[0] ^= 1,
            Fate::Good | Fate::Late | Fate::Behind => {}
        }
        Ok(TestDownload(bytes))
    }

    fn distrust(&self, copy: SocketAddr, _: &str) {
        self.state.lock().distrusted.push(copy);
    }

    async fn delete(&self, file_id: &str) -> Result<(), ContentError> {
        if matches!(self.fate(false).await, Fate::Refused | Fate::Lost) {
            return Err(failed());
        }
        let mut state = self.state.lock();
        state.objects.remove(file_id);
        state.appenders.remove(file_id);
        Ok(())
    }

    async fn space(&self) -> Result<Space, ContentError> {
        Ok(Space { total: 1 << 30, free: 1 << 29 })
    }

    fn crc32(&self, object: &Object) -> Option<u32> {
        self.state.lock().objects.get(&*object.file_id).map(|bytes| crc32fast::hash(bytes))
    }
}

pub(crate) struct TestDownload(Vec<u8>);

impl Download for TestDownload {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<(), ContentError> {
        if self.0.len() < buf.len() {
            return Err(failed());
        }
        let rest = self.0.split_off(buf.len());
        buf.copy_from_slice(&std::mem::replace(&mut self.0, rest));
        tokio::task::yield_now().await;
        Ok(())
    }
}
