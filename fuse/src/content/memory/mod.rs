//! A complete content store in memory, with faults and delays on request: what the tree is tested against.
//!
//! Callbacks run on one thread of the store, in order, except where a [`Gate`] holds them back. Kept data survives
//! as long as the store lives: a test "restarts" by dropping its stages and calling [`ContentStore::recover`].

mod stage;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use self::stage::{Content, to_len};
use super::extents::Extents;
use super::{
    Callback, ContentError, ContentStore, Fingerprint, Kept, Object, ReadDone, Reader, Recovered, Space, Stage, Stored,
};

/// An operation on the cluster that can be made to fail or to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// The upload in a seal.
    Upload,
    /// A read of stored content, by a reader or through a stage (also of the base ranges that a seal needs).
    Read,
    /// [`ContentStore::remove`].
    Remove,
    /// [`ContentStore::persist`].
    Persist,
    /// A change of a stage ([`Stage::write`], `truncate`, `punch`): a fault stands for a full local disk. No gates.
    Change,
    /// [`Stage::keep`]. No gates.
    Keep,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Arc<Vec<u8>>>,
    kept: HashMap<PathBuf, Content>,
    apart: Vec<(u64, Kept)>,
    faults: HashMap<Op, VecDeque<ContentError>>,
    gates: HashMap<Op, Arc<GateState>>,
    counts: HashMap<Op, u64>,
    next_id: u64,
    capacity: u64,
}

struct Shared {
    state: Mutex<State>,
    jobs: mpsc::Sender<Job>,
}

/// The store. Dropping it waits for what is under way.
pub struct MemoryStore {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store of 1 TiB.
    pub fn new() -> MemoryStore {
        let (jobs, queue) = mpsc::channel::<Job>();
        let worker = std::thread::spawn(move || {
            for job in queue {
                job();
            }
        });
        let state = State { capacity: 1 << 40, ..State::default() };
        MemoryStore { shared: Arc::new(Shared { state: Mutex::new(state), jobs }), worker: Some(worker) }
    }

    /// The next `n` operations of this kind that are not yet running fail with `error`.
    pub fn fail_next(&self, op: Op, n: usize, error: ContentError) {
        let mut state = self.shared.state.lock();
        state.faults.entry(op).or_default().extend(std::iter::repeat_n(error, n));
    }

    /// Forgets the failures asked for and not yet had.
    pub fn heal(&self) {
        self.shared.state.lock().faults.clear();
    }

    /// Holds every operation of this kind back until the gate is opened or dropped. Reads of a gated store complete
    /// on the store's thread.
    pub fn hold(&self, op: Op) -> Gate {
        let gate = Arc::new(GateState::default());
        self.shared.state.lock().gates.insert(op, gate.clone());
        Gate { op, gate, shared: self.shared.clone() }
    }

    /// How many operations of this kind were carried out or failed.
    pub fn count(&self, op: Op) -> u64 {
        self.shared.state.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// The file IDs and contents stored now.
    pub fn objects(&self) -> BTreeMap<String, Arc<Vec<u8>>> {
        self.shared.state.lock().objects.clone()
    }

    /// Puts content into the store as another client of the cluster would.
    pub fn put(&self, bytes: &[u8]) -> Stored {
        self.shared.store(Arc::new(bytes.to_vec()))
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        // The channel closes when the last stage, reader and gate are gone; a stage may outlive the store in a test,
        // so only a worker with nothing left to wait for is joined.
        if Arc::strong_count(&self.shared) == 1 {
            let (closed, _) = mpsc::channel();
            if let Some(shared) = Arc::get_mut(&mut self.shared) {
                shared.jobs = closed;
                if let Some(worker) = self.worker.take() {
                    let _ = worker.join();
                }
            }
        }
    }
}

#[derive(Default)]
struct GateState {
    waiting: Mutex<Vec<Job>>,
    arrived: Condvar,
}

/// Holds operations back while it lives. See [`MemoryStore::hold`].
pub struct Gate {
    op: Op,
    gate: Arc<GateState>,
    shared: Arc<Shared>,
}

impl Gate {
    /// Waits until at least `n` operations stand at the gate.
    pub fn wait_for(&self, n: usize) {
        let mut waiting = self.gate.waiting.lock();
        while waiting.len() < n {
            self.gate.arrived.wait(&mut waiting);
        }
    }

    /// Lets those that wait, and all later ones, pass.
    pub fn open(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.gates.get(&self.op).is_some_and(|g| Arc::ptr_eq(g, &self.gate)) {
            state.gates.remove(&self.op);
        }
        // Under the state lock, so that nothing can arrive at this gate any more.
        for job in self.gate.waiting.lock().drain(..) {
            let _ = self.shared.jobs.send(job);
        }
    }
}

impl Shared {
    /// Runs a job on the store's thread, behind the gate of its kind.
    fn submit(&self, op: Op, job: Job) {
        let state = self.state.lock();
        match state.gates.get(&op) {
            Some(gate) => {
                gate.waiting.lock().push(job);
                gate.arrived.notify_all();
            }
            None => {
                let _ = self.jobs.send(job);
            }
        }
    }

    fn gated(&self, op: Op) -> bool {
        self.state.lock().gates.contains_key(&op)
    }

    /// Counts the operation, and takes a fault if one is due.
    fn attempt(&self, op: Op) -> Result<(), ContentError> {
        let mut state = self.state.lock();
        *state.counts.entry(op).or_default() += 1;
        match state.faults.get_mut(&op).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn store(&self, bytes: Arc<Vec<u8>>) -> Stored {
        let mut state = self.state.lock();
        state.next_id += 1;
        let file_id = format!("group1/M00/00/00/memory{:020}", state.next_id);
        let (fingerprint, size) = (Fingerprint::of(&bytes), bytes.len() as u64);
        state.objects.insert(file_id.clone(), bytes);
        Stored { file_id, fingerprint, size }
    }

    fn object(&self, file_id: &str) -> Result<Arc<Vec<u8>>, ContentError> {
        let state = self.state.lock();
        state.objects.get(file_id).cloned().ok_or_else(|| ContentError::NotFound(file_id.into()))
    }

    fn load(&self, object: &Object) -> Result<Arc<Vec<u8>>, ContentError> {
        self.attempt(Op::Read)?;
        let bytes = self.object(&object.file_id)?;
        if bytes.len() as u64 != object.size || object.fingerprint.is_some_and(|f| f != Fingerprint::of(&bytes)) {
            return Err(ContentError::Corrupt(object.file_id.clone()));
        }
        Ok(bytes)
    }
}

/// The part of `bytes` that a read of `len` at `offset` gets.
fn window(bytes: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = usize::try_from(offset).map_or(bytes.len(), |o| o.min(bytes.len()));
    &bytes[start..start + len.min(bytes.len() - start)]
}

impl ContentStore for MemoryStore {
    fn stage(&self, base: Option<&Object>, size: u64) -> Result<Box<dyn Stage>, ContentError> {
        let base_size = base.map_or(0, |b| b.size);
        let content = Content {
            base: base.cloned(),
            visible: base_size.min(size),
            own: Extents::default(),
            data: vec![0; to_len(size)?],
        };
        Ok(self.shared.clone().stage(content, base_size != size, None))
    }

    fn recover(&self, kept: &Kept) -> Result<Recovered, ContentError> {
        let content = self.shared.state.lock().kept.get(&kept.path).cloned();
        let content = content.ok_or_else(|| ContentError::NotFound(kept.path.to_string_lossy().into()))?;
        let base = content.base.clone();
        Ok(Recovered { stage: self.shared.clone().stage(content, true, Some(kept.path.clone())), base })
    }

    fn apart(&self) -> Result<Vec<(u64, Kept)>, ContentError> {
        Ok(self.shared.state.lock().apart.clone())
    }

    fn adopt(&self, kept: &Kept) -> Result<Kept, ContentError> {
        Ok(kept.clone())
    }

    fn give_up(&self, kept: &Kept) -> Result<(), ContentError> {
        self.shared.state.lock().apart.retain(|(_, apart)| apart != kept);
        Ok(())
    }

    fn sweep(&self, keep: &[Kept]) -> Result<(), ContentError> {
        self.shared.state.lock().apart.clear();
        self.shared.state.lock().kept.retain(|path, _| keep.iter().any(|k| k.path == *path));
        Ok(())
    }

    fn open(&self, object: &Object) -> Box<dyn Reader> {
        Box::new(MemoryReader { shared: self.shared.clone(), object: object.clone() })
    }

    fn remove(&self, file_id: &str, done: Callback<Result<(), ContentError>>) {
        let (shared, file_id) = (self.shared.clone(), file_id.to_owned());
        let job = move || {
            let outcome = shared.attempt(Op::Remove);
            if outcome.is_ok() {
                shared.state.lock().objects.remove(&file_id);
            }
            done(outcome);
        };
        self.shared.submit(Op::Remove, Box::new(job));
    }

    fn persist(&self, file_id: &str, done: Callback<Result<bool, ContentError>>) {
        let (shared, file_id) = (self.shared.clone(), file_id.to_owned());
        let job = move || {
            done(shared.attempt(Op::Persist).and_then(|()| shared.object(&file_id)).map(|_| true));
        };
        self.shared.submit(Op::Persist, Box::new(job));
    }

    fn space(&self) -> Result<Space, ContentError> {
        let state = self.shared.state.lock();
        let used: u64 = state.objects.values().map(|o| o.len() as u64).sum();
        Ok(Space { total: state.capacity, free: state.capacity.saturating_sub(used) })
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
    object: Object,
}

impl Reader for MemoryReader {
    fn read(&self, offset: u64, len: usize, done: ReadDone) {
        let (shared, object) = (self.shared.clone(), self.object.clone());
        let job = move || match shared.load(&object) {
            Ok(bytes) => done(Ok(window(&bytes, offset, len))),
            Err(error) => done(Err(error)),
        };
        // As the real store does: in memory means at once.
        if self.shared.gated(Op::Read) { self.shared.submit(Op::Read, Box::new(job)) } else { job() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Sealed;

    fn wait<T: Send + 'static>(start: impl FnOnce(Callback<T>)) -> T {
        let (send, receive) = mpsc::channel();
        start(Box::new(move |value| send.send(value).unwrap()));
        receive.recv().unwrap()
    }

    fn seal(stage: &mut dyn Stage) -> Result<Sealed, ContentError> {
        wait(|done| stage.seal(Box::new(|_, _| false), done))
    }

    fn read(stage: &mut dyn Stage) -> Result<Vec<u8>, ContentError> {
        wait(|done| stage.read(0, 1 << 20, Box::new(move |r| done(r.map(<[u8]>::to_vec)))))
    }

    #[test]
    fn writes_over_a_base_and_seals() {
        let store = MemoryStore::new();
        let stored = store.put(b"hello world");
        let base = Object { file_id: stored.file_id.into(), size: 11, fingerprint: Some(stored.fingerprint) };
        let mut stage = store.stage(Some(&base), 11).unwrap();
        assert!(!stage.dirty());
        assert_eq!(seal(&mut *stage).unwrap(), Sealed::Unchanged);
        stage.write(0, b"J").unwrap();
        stage.truncate(13).unwrap();
        stage.punch(5..6).unwrap();
        assert_eq!(read(&mut *stage).unwrap(), b"Jello\0world\0\0");
        let Sealed::Stored(stored) = seal(&mut *stage).unwrap() else { panic!() };
        assert_eq!(store.objects()[&stored.file_id].as_slice(), b"Jello\0world\0\0");
        assert!(!stage.dirty());
        stage.truncate(0).unwrap();
        assert_eq!(seal(&mut *stage).unwrap(), Sealed::Empty);
    }

    #[test]
    fn a_failed_seal_keeps_the_data_for_the_next() {
        let store = MemoryStore::new();
        let mut stage = store.stage(None, 0).unwrap();
        stage.write(0, b"abc").unwrap();
        store.fail_next(Op::Upload, 1, ContentError::Timeout("storage".into()));
        assert!(seal(&mut *stage).is_err());
        assert!(stage.dirty());
        let kept = stage.keep().unwrap();
        drop(stage);
        store.sweep(std::slice::from_ref(&kept)).unwrap();
        let mut stage = store.recover(&kept).unwrap().stage;
        assert!(matches!(seal(&mut *stage), Ok(Sealed::Stored(_))));
        drop(stage);
        assert!(store.recover(&kept).is_err());
    }

    #[test]
    fn a_seal_takes_the_content_as_it_was_when_called() {
        let store = MemoryStore::new();
        let mut stage = store.stage(None, 0).unwrap();
        stage.write(0, b"before").unwrap();
        let gate = store.hold(Op::Upload);
        let (send, receive) = mpsc::channel();
        stage.seal(Box::new(|_, _| false), Box::new(move |r| send.send(r).unwrap()));
        gate.wait_for(1);
        stage.write(0, b"after!").unwrap();
        gate.open();
        let Ok(Sealed::Stored(stored)) = receive.recv().unwrap() else { panic!() };
        assert_eq!(store.objects()[&stored.file_id].as_slice(), b"before");
        assert!(stage.dirty());
    }
}
