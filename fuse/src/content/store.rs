//! The content store of a cluster: staging, reading, cache and clean-up put together over one runtime.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cache::Cache;
use super::disk::Disk;
use super::reading::Readers;
use super::remote::Remote;
use super::sizes::Sizes;
use super::sums::KnownSums;

use super::staging::{Discard, Staging};
use super::{Callback, ContentError, ContentStore, Kept, Object, Reader, Recovered, Space, Stage};

/// How old the answer of [`ContentStore::space`] may get before a new one is fetched.
const SPACE_LIFETIME: Duration = Duration::from_secs(5);

/// What a content store is made with.
#[derive(Clone)]
pub struct StoreConfig {
    /// Directory for staged and cached content. Created if missing; belongs to one mount alone.
    pub dir: PathBuf,
    /// Most bytes on disk for cached content; 0 turns the cache off.
    pub cache_size: u64,
    /// Most bytes of memory for staged content; what is beyond goes to files.
    pub staging_memory: usize,
    /// Most bytes of memory for what is read ahead.
    pub reading_memory: usize,
    /// Threads of the runtime.
    pub threads: usize,
    /// Told of stored content that nothing will refer to; `None`: it is deleted from the cluster at once.
    pub discard: Option<Discard>,
    /// At what sizes things are done differently.
    pub(crate) sizes: Sizes,
    /// The files of the cluster, if they are on this host: they are read directly then, and `fsync` reaches the disk.
    pub disk: Option<Disk>,
}

impl StoreConfig {
    /// The defaults, for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> StoreConfig {
        StoreConfig {
            dir: dir.into(),
            cache_size: 0,
            staging_memory: 32 << 20,
            reading_memory: 48 << 20,
            threads: 2,
            discard: None,
            sizes: Sizes::default(),
            disk: None,
        }
    }
}

/// A content store over a [`Remote`].
pub struct Store<R: Remote> {
    staging: Arc<Staging<R>>,
    readers: Arc<Readers<R>>,
    cache: Option<Arc<Cache>>,
    disk: Option<Disk>,
    space: Arc<Mutex<SpaceState>>,
    /// `None` once closed.
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
}

/// The last answer of the cluster.
#[derive(Default)]
struct SpaceState {
    last: Option<(Instant, Result<Space, ContentError>)>,
    asking: bool,
}

impl<R: Remote> Store<R> {
    /// Opens the store; `connect` makes the remote and runs in the runtime that will serve it.
    pub(crate) fn over(config: StoreConfig, connect: impl FnOnce() -> R) -> Result<Store<R>, ContentError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("fdfs-content")
            .enable_all()
            .build()
            .map_err(|e| ContentError::local(&config.dir, e))?;
        let remote = {
            let _inside = runtime.enter();
            Arc::new(connect())
        };
        let cache = match config.cache_size {
            0 => None,
            limit => Some(Cache::open(&config.dir.join("cache"), limit)?),
        };
        let handle = runtime.handle().clone();
        let discard = config.discard.unwrap_or_else(|| delete_at_once(&remote, &handle));
        let sums = KnownSums::open(&config.dir.join("sums"), config.sizes.part);
        let readers = Readers::new(remote, handle, config.reading_memory, config.sizes, cache.clone(), sums);
        let staging =
            Staging::open(&config.dir.join("staging"), config.staging_memory, config.sizes, readers.clone(), discard)?;
        let store = Store {
            staging,
            readers,
            cache,
            disk: config.disk,
            space: Arc::default(),
            runtime: Mutex::new(Some(runtime)),
        };
        store.refresh_space(&mut store.space.lock());
        Ok(store)
    }

    /// Asks the cluster for its space now: whether it can be reached, and why not; `None` if that is not known after
    /// `patience`.
    pub fn probe(&self, patience: Duration) -> Option<Result<Space, ContentError>> {
        let (send, receive) = std::sync::mpsc::channel();
        let remote = self.readers.remote().clone();
        self.readers.runtime().spawn(async move {
            let _ = send.send(remote.space().await);
        });
        let space = match receive.recv_timeout(patience) {
            Ok(space) => space,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Err(ContentError::Closed),
        };
        self.space.lock().last = Some((Instant::now(), space.clone()));
        Some(space)
    }

    /// Fetches the space in the background, unless that is under way.
    fn refresh_space(&self, state: &mut SpaceState) {
        if !std::mem::replace(&mut state.asking, true) {
            let (remote, space) = (self.readers.remote().clone(), self.space.clone());
            self.readers.runtime().spawn(async move {
                let answer = remote.space().await;
                let mut state = space.lock();
                state.asking = false;
                // With the cluster gone, what it last said is a better answer than none.
                if answer.is_ok() || state.last.as_ref().is_none_or(|(_, last)| last.is_err()) {
                    state.last = Some((Instant::now(), answer));
                } else if let Some((at, _)) = &mut state.last {
                    *at = Instant::now();
                }
            });
        }
    }

    /// Stops the store. Seals and removals should have ended: those under way are given a moment, then dropped.
    pub fn close(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
            if let Some(cache) = &self.cache {
                cache.close();
            }
        }
    }
}

impl<R: Remote> Drop for Store<R> {
    fn drop(&mut self) {
        self.close();
    }
}

fn delete_at_once<R: Remote>(remote: &Arc<R>, runtime: &tokio::runtime::Handle) -> Discard {
    let (remote, runtime) = (remote.clone(), runtime.clone());
    Arc::new(move |file_id| {
        let (remote, file_id) = (remote.clone(), file_id.to_owned());
        runtime.spawn(async move {
            if let Err(error) = remote.delete(&file_id).await {
                tracing::warn!(%file_id, %error, "unreferenced content not deleted");
            }
        });
    })
}

impl<R: Remote> ContentStore for Store<R> {
    fn stage(&self, base: Option<&Object>, size: u64) -> Result<Box<dyn Stage>, ContentError> {
        Ok(self.staging.stage(base, size))
    }

    fn recover(&self, kept: &Kept) -> Result<Recovered, ContentError> {
        self.staging.recover(kept)
    }

    fn apart(&self) -> Result<Vec<(u64, Kept)>, ContentError> {
        self.staging.apart()
    }

    fn adopt(&self, kept: &Kept) -> Result<Kept, ContentError> {
        self.staging.adopt(kept)
    }

    fn give_up(&self, kept: &Kept) -> Result<(), ContentError> {
        self.staging.give_up(kept)
    }

    fn sweep(&self, keep: &[Kept]) -> Result<(), ContentError> {
        self.staging.sweep(keep)
    }

    fn open(&self, object: &Object) -> Box<dyn Reader> {
        Box::new(self.readers.open(object))
    }

    fn local(&self, object: &Object) -> Option<Arc<File>> {
        self.readers.local(object)
    }

    fn remove(&self, file_id: &str, done: Callback<Result<(), ContentError>>) {
        let (readers, cache, file_id) = (self.readers.clone(), self.cache.clone(), file_id.to_owned());
        self.readers.runtime().spawn(async move {
            let removed = readers.remote().delete(&file_id).await;
            readers.sums().remove(&file_id);
            if let Some(cache) = cache {
                cache.remove(&file_id);
            }
            done(removed);
        });
    }

    fn persist(&self, file_id: &str, done: Callback<Result<bool, ContentError>>) {
        let file_id = file_id.to_owned();
        let runtime = self.readers.runtime();
        match self.disk.clone() {
            None => drop(runtime.spawn(async move { done(Ok(false)) })),
            Some(disk) => drop(runtime.spawn_blocking(move || {
                let synced = disk.persist(&file_id).map(|()| true);
                done(synced.map_err(|e| ContentError::Local { path: file_id.into(), source: Arc::new(e) }));
            })),
        }
    }

    fn space(&self) -> Result<Space, ContentError> {
        let mut state = self.space.lock();
        if state.last.as_ref().is_none_or(|(at, _)| at.elapsed() > SPACE_LIFETIME) {
            self.refresh_space(&mut state);
        }
        match &state.last {
            Some((_, answer)) => answer.clone(),
            None => Err(ContentError::Unreachable("the cluster has not said yet how much space it has".into())),
        }
    }
}
