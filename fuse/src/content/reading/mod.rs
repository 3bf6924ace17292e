//! Stored content being read.
//!
//! | module | job |
//! |---|---|
//! | `small` | contents fetched as a whole and verified before the first byte is given out |
//! | `stream` | readahead of larger contents read in sequence |
//! | `check` | whether they are what they should be, part by part, and the search for a copy that is |
//! | `local` | contents that lie in a local file |
//! | `buffers` | memory for what is read ahead, under one budget |
//!
//! Reads that are not in sequence are range downloads of their own, any number of them at the same time.

mod buffers;
mod check;
mod local;
mod small;
mod stream;

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

#[cfg(test)]
pub(crate) use self::check::find_good;
pub(crate) use self::local::read_cached;

use self::buffers::Buffers;
use self::small::Small;
use self::stream::Stream;
use super::cache::Cache;
use super::remote::Remote;
use super::sizes::Sizes;
use super::sums::{KnownSums, Sums};
use super::{ContentError, Fingerprint, Object, ReadDone, Reader};

/// What all readers share.
pub(crate) struct Readers<R: Remote> {
    remote: Arc<R>,
    runtime: tokio::runtime::Handle,
    buffers: Arc<Buffers>,
    cache: Option<Arc<Cache>>,
    sums: KnownSums,
    sizes: Sizes,
}

impl<R: Remote> Readers<R> {
    /// Readers that read ahead into at most `memory` bytes, and keep what was read in `cache`.
    pub(crate) fn new(
        remote: Arc<R>,
        runtime: tokio::runtime::Handle,
        memory: usize,
        sizes: Sizes,
        cache: Option<Arc<Cache>>,
        sums: KnownSums,
    ) -> Arc<Readers<R>> {
        Arc::new(Readers { remote, runtime, buffers: Buffers::new(memory, sizes.chunk as usize), cache, sums, sizes })
    }

    /// The checksums of the parts of large contents.
    pub(crate) fn sums(&self) -> &KnownSums {
        &self.sums
    }

    pub(crate) fn remote(&self) -> &Arc<R> {
        &self.remote
    }

    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    /// Opens stored content; no I/O happens yet.
    pub(crate) fn open(self: &Arc<Self>, object: &Object) -> ObjectReader<R> {
        let kind =
            if object.size <= self.sizes.small { Kind::Small(Small::default()) } else { Kind::Large(Mutex::default()) };
        ObjectReader {
            open: Arc::new(Open {
                readers: self.clone(),
                object: object.clone(),
                local: OnceLock::new(),
                damaged: OnceLock::new(),
            }),
            kind: Arc::new(kind),
        }
    }

    /// The file of the local cache with this content.
    pub(crate) fn local(&self, object: &Object) -> Option<Arc<File>> {
        self.cache.as_ref()?.get(&object.file_id, object.size)
    }
}

/// An object and the way to it.
struct Open<R: Remote> {
    readers: Arc<Readers<R>>,
    object: Object,
    /// Its file in the local cache, looked for at the first read.
    local: OnceLock<Option<Arc<File>>>,
    /// Set once the content was found damaged: no byte of it is given out any more.
    damaged: OnceLock<ContentError>,
}

impl<R: Remote> Open<R> {
    /// The checksums of the parts of the content, if they are known.
    fn sums(&self) -> Option<Arc<Sums>> {
        let stated = self.readers.remote.crc32(&self.object)?;
        self.readers.sums.get(&self.object.file_id, self.object.size, stated)
    }
}

/// One user's view of stored content.
pub(crate) struct ObjectReader<R: Remote> {
    open: Arc<Open<R>>,
    kind: Arc<Kind>,
}

impl<R: Remote> Drop for ObjectReader<R> {
    fn drop(&mut self) {
        if let Kind::Large(large) = &*self.kind
            && let Some(stream) = large.lock().stream.take()
        {
            stream.close();
        }
    }
}

enum Kind {
    Small(Small),
    Large(Mutex<Large>),
}

/// How a large content is being read.
#[derive(Default)]
struct Large {
    stream: Option<Arc<Stream>>,
    /// End of the last read.
    last: u64,
}

impl<R: Remote> Reader for ObjectReader<R> {
    fn read(&self, offset: u64, len: usize, done: ReadDone) {
        let size = self.open.object.size;
        let end = offset.saturating_add(len as u64).min(size);
        if offset >= end {
            return done(Ok(&[]));
        }
        let local = self.open.local.get_or_init(|| self.open.readers.local(&self.open.object));
        if let Some(file) = local {
            return local::read(&self.open.readers.runtime, file, &self.open.object, offset..end, done);
        }
        match &*self.kind {
            Kind::Small(small) => {
                if small.read(offset..end, done) {
                    self.load();
                }
            }
            Kind::Large(large) => self.read_large(large, offset..end, done),
        }
    }
}

impl<R: Remote> ObjectReader<R> {
    /// Fetches a small content for the reads that wait for it.
    fn load(&self) {
        let (open, kind) = (self.open.clone(), self.kind.clone());
        self.open.readers.runtime.spawn(async move {
            let loaded = small::load(&*open.readers.remote, &open.object).await;
            if let (Ok(bytes), Some(cache)) = (&loaded, &open.readers.cache) {
                cache.fill(&open.readers.runtime, &open.object.file_id, bytes.clone());
            }
            if let Kind::Small(small) = &*kind {
                small.loaded(loaded);
            }
        });
    }

    fn read_large(&self, large: &Mutex<Large>, range: Range<u64>, done: ReadDone) {
        if let Some(error) = self.open.damaged.get() {
            return done(Err(error.clone()));
        }
        let mut state = large.lock();
        let last = std::mem::replace(&mut state.last, range.end);
        let in_sequence = range.start == 0 || range.start == last;
        let stream = match &state.stream {
            Some(stream) if stream.covers(range.start) => stream.clone(),
            _ if in_sequence => {
                // From the beginning of a part, so that the first one can be checked too.
                let begin = range.start / self.open.readers.sizes.part * self.open.readers.sizes.part;
                let stream = Stream::new(begin, self.open.readers.sizes.chunk);
                if let Some(old) = state.stream.replace(stream.clone()) {
                    old.close();
                }
                let (open, produced) = (self.open.clone(), stream.clone());
                self.open.readers.runtime.spawn(async move { stream::produce(&produced, &open).await });
                stream
            }
            _ => {
                drop(state);
                return self.fetch(range, done);
            }
        };
        drop(state);
        // It may have moved on in between.
        if let Err(done) = stream.read(range.clone(), done) {
            self.fetch(range, done);
        }
    }

    /// A range download for one read.
    fn fetch(&self, range: Range<u64>, done: ReadDone) {
        let open = self.open.clone();
        self.open.readers.runtime.spawn(async move {
            match open.readers.remote.read(&open.object.file_id, range).await {
                Ok(bytes) => done(Ok(&bytes)),
                Err(error) => done(Err(check::looked_up(&open, error).await)),
            }
        });
    }

    /// Reads exactly `buf.len()` bytes, for a stage that has this content below it.
    pub(crate) async fn read_exact(&self, offset: u64, buf: &mut [u8]) -> Result<(), ContentError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let done = move |read: Result<&[u8], ContentError>| {
            let _ = send.send(read.map(<[u8]>::to_vec));
        };
        self.read(offset, buf.len(), Box::new(done));
        let bytes = receive.await.map_err(|_| ContentError::Closed)??;
        if bytes.len() != buf.len() {
            return Err(ContentError::Corrupt(self.open.object.file_id.clone()));
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

/// Whether `found` is what the object should be.
fn verify(object: &Object, stated: Option<u32>, bytes: &[u8]) -> Result<(), ContentError> {
    if bytes.len() as u64 != object.size {
        return Err(ContentError::Corrupt(object.file_id.clone()));
    }
    let good = match (object.fingerprint, stated) {
        (Some(fingerprint), _) => Fingerprint::of(bytes) == fingerprint,
        (None, Some(crc)) => crc32fast::hash(bytes) == crc,
        (None, None) => true,
    };
    if good { Ok(()) } else { Err(ContentError::Corrupt(object.file_id.clone())) }
}
