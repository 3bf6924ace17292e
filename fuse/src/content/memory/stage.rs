//! A staged content in memory, and its seals.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Op, Shared, window};
use crate::content::extents::Extents;
use crate::content::{Callback, ContentError, Fingerprint, Kept, Known, Object, ReadDone, Sealed, Stage};

/// What a stage holds: its own bytes over those of a stored object.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) base: Option<Object>,
    /// How much of the beginning of the base still shows.
    pub(super) visible: u64,
    /// Ranges that do not come from the base.
    pub(super) own: Extents,
    /// As long as the content; zeros where the base shows.
    pub(super) data: Vec<u8>,
}

impl Content {
    /// The whole content, with what is needed of the base.
    fn whole(mut self, shared: &Shared) -> Result<Vec<u8>, ContentError> {
        let gaps = self.own.gaps(0..self.visible);
        if let (false, Some(base)) = (gaps.is_empty(), &self.base) {
            let bytes = shared.load(base)?;
            for gap in gaps {
                let gap = gap.start as usize..gap.end as usize;
                self.data[gap.clone()].copy_from_slice(&bytes[gap]);
            }
        }
        Ok(self.data)
    }

    /// Takes what shows of the base from an earlier state of the same content, sealed meanwhile: the base may be deleted.
    fn rest_on(&mut self, sealed: &[u8]) {
        for gap in self.own.gaps(0..self.visible) {
            let gap = gap.start as usize..gap.end as usize;
            self.data[gap.clone()].copy_from_slice(&sealed[gap]);
        }
        (self.base, self.visible) = (None, 0);
    }
}

type SealRequest = (Content, u64, Known, Callback<Result<Sealed, ContentError>>);

struct StageState {
    content: Content,
    /// Counts changes.
    version: u64,
    /// The version that is stored.
    clean: Option<u64>,
    /// Seals not yet begun; one is under way while `sealing`.
    queue: VecDeque<SealRequest>,
    sealing: bool,
    kept: Option<PathBuf>,
}

struct MemoryStage {
    shared: Arc<Shared>,
    state: Arc<Mutex<StageState>>,
}

impl Shared {
    pub(super) fn stage(self: Arc<Self>, content: Content, dirty: bool, kept: Option<PathBuf>) -> Box<dyn Stage> {
        let state = StageState {
            content,
            version: 0,
            clean: (!dirty).then_some(0),
            queue: VecDeque::new(),
            sealing: false,
            kept,
        };
        Box::new(MemoryStage { shared: self, state: Arc::new(Mutex::new(state)) })
    }
}

impl StageState {
    fn rest_on(&mut self, shared: &Shared, sealed: &[u8]) {
        self.content.rest_on(sealed);
        self.queue.iter_mut().for_each(|(content, ..)| content.rest_on(sealed));
        // What was kept may be older than what was sealed.
        if let Some(path) = &self.kept
            && let Some(kept) = shared.state.lock().kept.get_mut(path)
        {
            *kept = self.content.clone();
        }
    }
}

/// Carries out the seals of one stage, one after the other.
fn seal_next(shared: Arc<Shared>, state: Arc<Mutex<StageState>>) {
    let (content, version, known, done, clean) = {
        let mut s = state.lock();
        let Some((content, version, known, done)) = s.queue.pop_front() else {
            s.sealing = false;
            return;
        };
        (content, version, known, done, s.clean == Some(version))
    };
    let job = {
        let (shared, state) = (shared.clone(), state.clone());
        move || {
            let outcome = if clean { Ok((Sealed::Unchanged, Vec::new())) } else { seal_one(&shared, content, known) };
            let outcome = outcome.map(|(sealed, bytes)| {
                let mut state = state.lock();
                state.clean = Some(version);
                if !clean {
                    state.rest_on(&shared, &bytes);
                }
                sealed
            });
            done(outcome);
            seal_next(shared, state);
        }
    };
    shared.submit(Op::Upload, Box::new(job));
}

/// Also the bytes that were sealed.
fn seal_one(shared: &Shared, content: Content, known: Known) -> Result<(Sealed, Vec<u8>), ContentError> {
    if content.data.is_empty() {
        return Ok((Sealed::Empty, Vec::new()));
    }
    let bytes = content.whole(shared)?;
    let (fingerprint, size) = (Fingerprint::of(&bytes), bytes.len() as u64);
    if known(&fingerprint, size) {
        return Ok((Sealed::Known { fingerprint, size }, bytes));
    }
    shared.attempt(Op::Upload)?;
    let bytes = Arc::new(bytes);
    let stored = shared.store(bytes.clone());
    Ok((Sealed::Stored(stored), bytes.to_vec()))
}

/// A length of content as a length of memory.
pub(super) fn to_len(size: u64) -> Result<usize, ContentError> {
    // Far more than a test needs, and far less than would exhaust the machine.
    const MOST: u64 = 1 << 32;
    if size > MOST {
        return Err(ContentError::Refused { errno: libc::EFBIG, detail: format!("{size} bytes in memory").into() });
    }
    Ok(size as usize)
}

impl MemoryStage {
    /// Begins a change of the local data, unless a fault is due.
    fn change(&mut self, f: impl FnOnce(&mut Content) -> Result<(), ContentError>) -> Result<(), ContentError> {
        self.shared.attempt(Op::Change)?;
        let mut state = self.state.lock();
        f(&mut state.content)?;
        state.version += 1;
        Ok(())
    }
}

impl Stage for MemoryStage {
    fn size(&self) -> u64 {
        self.state.lock().content.data.len() as u64
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), ContentError> {
        if data.is_empty() {
            return Ok(());
        }
        self.change(|c| {
            let end = to_len(offset.saturating_add(data.len() as u64))?;
            if c.data.len() < end {
                c.data.resize(end, 0);
            }
            c.data[offset as usize..end].copy_from_slice(data);
            c.own.insert(offset..end as u64);
            Ok(())
        })
    }

    fn truncate(&mut self, size: u64) -> Result<(), ContentError> {
        if size == self.size() {
            return Ok(());
        }
        self.change(|c| {
            c.data.resize(to_len(size)?, 0);
            c.own.cut(size);
            c.visible = c.visible.min(size);
            Ok(())
        })
    }

    fn punch(&mut self, range: Range<u64>) -> Result<(), ContentError> {
        let range = range.start..range.end.min(self.size());
        if range.is_empty() {
            return Ok(());
        }
        self.change(|c| {
            c.data[range.start as usize..range.end as usize].fill(0);
            c.own.insert(range);
            Ok(())
        })
    }

    fn read(&mut self, offset: u64, len: usize, done: ReadDone) {
        let state = self.state.lock();
        let size = state.content.data.len() as u64;
        let asked = offset.min(size)..offset.saturating_add(len as u64).min(size);
        let below = asked.start.min(state.content.visible)..asked.end.min(state.content.visible);
        if state.content.own.gaps(below).is_empty() {
            return done(Ok(window(&state.content.data, offset, len)));
        }
        let (content, shared) = (state.content.clone(), self.shared.clone());
        drop(state);
        let job = move || match content.whole(&shared) {
            Ok(bytes) => done(Ok(window(&bytes, offset, len))),
            Err(error) => done(Err(error)),
        };
        self.shared.submit(Op::Read, Box::new(job));
    }

    fn unsealed(&mut self) {
        self.state.lock().clean = None;
    }

    fn dirty(&self) -> bool {
        let state = self.state.lock();
        state.clean != Some(state.version)
    }

    fn seal(&mut self, known: Known, done: Callback<Result<Sealed, ContentError>>) {
        let mut state = self.state.lock();
        let request = (state.content.clone(), state.version, known, done);
        state.queue.push_back(request);
        if !std::mem::replace(&mut state.sealing, true) {
            drop(state);
            seal_next(self.shared.clone(), self.state.clone());
        }
    }

    fn keep(&mut self) -> Result<Kept, ContentError> {
        self.shared.attempt(Op::Keep)?;
        let mut state = self.state.lock();
        let mut store = self.shared.state.lock();
        let path = state.kept.get_or_insert_with(|| {
            store.next_id += 1;
            PathBuf::from(format!("/staging/{}", store.next_id))
        });
        let path = path.clone();
        store.kept.insert(path.clone(), state.content.clone());
        Ok(Kept { path, size: state.content.data.len() as u64 })
    }

    fn set_apart(&mut self, owner: u64) -> Result<(), ContentError> {
        let mut state = self.state.lock();
        let Some(path) = state.kept.take() else { return Ok(()) };
        let mut store = self.shared.state.lock();
        // As on a disk: it is not where it was any more.
        let apart = path.with_extension("apart");
        if let Some(content) = store.kept.remove(&path) {
            store.kept.insert(apart.clone(), content);
        }
        let kept = Kept { path: apart.clone(), size: state.content.data.len() as u64 };
        store.apart.retain(|(_, before)| before.path != apart);
        store.apart.push((owner, kept));
        state.kept = Some(apart);
        Ok(())
    }

    fn discard(self: Box<Self>) {
        if let Some(path) = self.state.lock().kept.take() {
            self.shared.state.lock().kept.remove(&path);
        }
    }
}

impl Drop for MemoryStage {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        // Stored meanwhile: what was kept is no longer needed.
        if state.clean == Some(state.version)
            && let Some(path) = state.kept.take()
        {
            self.shared.state.lock().kept.remove(&path);
        }
    }
}
