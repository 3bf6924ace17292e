//! One staged content: changes to it, reads of it, and the queue of its seals.
//!
//! The lock of a stage is held for local page-cache work only, never across the network.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::Staging;
use super::image::{Image, Missing};
use super::kept::Record;
use super::prefix::Prefix;
use super::work;
use crate::content::reading::ObjectReader;
use crate::content::remote::Remote;
use crate::content::sizes::Sizes;
use crate::content::{Callback, ContentError, ExtName, Kept, Known, Object, ReadDone, Sealed, Stage};

pub(crate) struct Core<R: Remote> {
    pub(crate) staging: Arc<Staging<R>>,
    pub(crate) state: Mutex<State>,
    /// Reader of the stored content below, opened when it is first needed.
    base: OnceLock<ObjectReader<R>>,
}

pub(crate) struct State {
    pub(crate) image: Image,
    /// Counts changes.
    version: u64,
    /// The version that the cluster has, or that the stage began with.
    pub(crate) clean: Option<u64>,
    /// Seals asked for and not begun.
    queue: VecDeque<Request>,
    /// The image being sealed.
    active: Option<Image>,
    /// Whether the background task runs.
    pub(crate) working: bool,
    pub(crate) ahead: Ahead,
    kept: Option<Record>,
    extension: ExtName,
}

/// What is being done ahead of the seal.
#[derive(Default)]
pub(crate) struct Ahead {
    /// Counts the times that bytes below `claimed` changed: work of an older epoch is void.
    pub(crate) epoch: u64,
    /// Bytes below have been, or are being, hashed or streamed.
    claimed: u64,
    /// Content that is not written in sequence is left alone until it is sealed.
    off: bool,
    /// At home while the background task does not have it.
    pub(crate) prefix: Prefix,
}

/// A seal that was asked for.
pub(crate) struct Request {
    pub(crate) image: Image,
    pub(crate) version: u64,
    pub(crate) known: Known,
    pub(crate) done: Callback<Result<Sealed, ContentError>>,
}

/// What the background task does next. `epoch` is that of the prefix; `None` if it is not one of the current file.
pub(crate) enum Next {
    /// Seals. `clean`: there is nothing to do for this version any more.
    Seal { request: Request, clean: bool, prefix: Prefix, epoch: Option<u64> },
    /// Hashes and streams the beginning of the file as far as `end`.
    Ahead { file: Arc<super::files::StageFile>, end: u64, first: bool, prefix: Prefix, epoch: Option<u64> },
    /// Nothing.
    Rest,
}

impl State {
    /// Prepares for a change of bytes at and beyond `from`.
    fn before_change<R: Remote>(&mut self, staging: &Staging<R>, from: u64) -> Result<(), ContentError> {
        // An image being sealed stays as it is; a buffer is copied by the image itself.
        if let Some(file) = self.image.file() {
            let sealing = self.active.iter().chain(self.queue.iter().map(|r| &r.image));
            if sealing.filter(|i| i.in_file(file)).any(|i| from < i.size) {
                self.image = self.image.clone().layer(&staging.dir)?;
                self.void_ahead(staging);
                return Ok(());
            }
        }
        if from < self.ahead.claimed {
            self.void_ahead(staging);
        }
        Ok(())
    }

    /// The beginning of the content has changed: what was done ahead with it is void.
    fn void_ahead<R: Remote>(&mut self, staging: &Staging<R>) {
        let ahead = &mut self.ahead;
        ahead.epoch += 1;
        ahead.claimed = 0;
        ahead.off = true;
        std::mem::take(&mut ahead.prefix).abandon(&staging.discard);
    }

    /// Whether there is work for the background task.
    fn has_work(&self, sizes: &Sizes) -> bool {
        !self.queue.is_empty() || self.ahead_to(sizes).is_some()
    }

    /// How far the beginning of the file can be worked on ahead.
    fn ahead_to(&self, sizes: &Sizes) -> Option<u64> {
        let ahead = &self.ahead;
        if ahead.off || self.image.file().is_none() || self.clean == Some(self.version) {
            return None;
        }
        let ready = self.image.own.prefix();
        let least = if ahead.claimed == 0 { sizes.ahead_from } else { sizes.ahead_step };
        // Whole steps, so that requests begin and end on page boundaries.
        let count = ready.saturating_sub(ahead.claimed) / sizes.ahead_step * sizes.ahead_step;
        (count >= least).then(|| ahead.claimed + count.min(sizes.ahead_most))
    }

    /// Takes the next piece of work, and with it the prefix.
    pub(crate) fn next(&mut self, sizes: &Sizes) -> Next {
        self.active = None;
        let now = Some(self.ahead.epoch);
        if let Some(request) = self.queue.pop_front() {
            let clean = self.clean == Some(request.version);
            // The prefix is that of the current file; another file has none.
            let (mut prefix, mut epoch) = (Prefix::default(), None);
            if let Some(file) = request.image.file()
                && self.image.in_file(file)
            {
                (prefix, epoch) = (std::mem::take(&mut self.ahead.prefix), now);
                self.ahead.claimed = self.ahead.claimed.max(request.image.size);
            }
            self.active = Some(request.image.clone());
            return Next::Seal { request, clean, prefix, epoch };
        }
        if let (Some(end), Some(file)) = (self.ahead_to(sizes), self.image.file()) {
            let (file, first) = (file.clone(), self.ahead.claimed == 0);
            self.ahead.claimed = end;
            return Next::Ahead { file, end, first, prefix: std::mem::take(&mut self.ahead.prefix), epoch: now };
        }
        self.working = false;
        Next::Rest
    }

    /// Nothing is queued behind the seal under way.
    pub(crate) fn last_seal(&self) -> bool {
        self.queue.is_empty()
    }

    /// Writes down again what was kept, if it is still needed.
    pub(crate) fn keep_again<R: Remote>(&mut self, staging: &Staging<R>) -> Result<(), ContentError> {
        if self.clean != Some(self.version)
            && let Some(record) = &self.kept
        {
            self.kept = Some(Record::write(&staging.dir, &self.image, Some(record))?);
        }
        Ok(())
    }

    /// The current image and those waiting to be sealed.
    pub(crate) fn images(&mut self) -> impl Iterator<Item = &mut Image> {
        std::iter::once(&mut self.image).chain(self.queue.iter_mut().map(|r| &mut r.image))
    }
}

impl<R: Remote> Core<R> {
    /// Starts the background task if there is work and it does not run.
    fn kick(self: &Arc<Self>, state: &mut State) {
        if !state.working && state.has_work(&self.staging.sizes) {
            state.working = true;
            self.staging.spawn(work::run(self.clone()));
        }
    }

    /// The extension that what is stored from now on gets.
    pub(crate) fn extension(&self) -> ExtName {
        self.state.lock().extension
    }

    /// Fetches a part of the stored content below.
    pub(crate) async fn fetch(&self, object: &Object, offset: u64, buf: &mut [u8]) -> Result<(), ContentError> {
        // A stage has one base for all its life, so one reader serves every part of it.
        let reader = self.base.get_or_init(|| self.staging.readers.open(object));
        reader.read_exact(offset, buf).await
    }
}

impl<R: Remote> Drop for Core<R> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        std::mem::take(&mut state.ahead.prefix).abandon(&self.staging.discard);
        if state.clean == Some(state.version)
            && let Some(record) = state.kept.take()
        {
            record.remove();
        }
    }
}

/// Begins a stage with this content.
pub(crate) fn begin<R: Remote>(
    staging: Arc<Staging<R>>,
    image: Image,
    clean: bool,
    kept: Option<Record>,
) -> Box<dyn Stage> {
    let state = State {
        image,
        version: 0,
        clean: clean.then_some(0),
        queue: VecDeque::new(),
        active: None,
        working: false,
        ahead: Ahead::default(),
        kept,
        extension: ExtName::NONE,
    };
    Box::new(ClusterStage(Arc::new(Core { staging, state: Mutex::new(state), base: OnceLock::new() })))
}

struct ClusterStage<R: Remote>(Arc<Core<R>>);

impl<R: Remote> Stage for ClusterStage<R> {
    fn size(&self) -> u64 {
        self.0.state.lock().image.size
    }

    fn set_extension(&mut self, extension: ExtName) {
        self.0.state.lock().extension = extension;
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), ContentError> {
        if data.is_empty() {
            return Ok(());
        }
        let state = &mut *self.0.state.lock();
        state.before_change(&self.0.staging, offset)?;
        // Also after an error: part of it may have been written.
        state.version += 1;
        state.image.write(&self.0.staging.dir, offset, data)?;
        self.0.kick(state);
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> Result<(), ContentError> {
        let state = &mut *self.0.state.lock();
        if size == state.image.size {
            return Ok(());
        }
        if size == 0 {
            state.void_ahead(&self.0.staging);
            state.ahead.off = false;
            state.image = Image::new(&self.0.staging.dir, None, 0);
        } else {
            if size < state.image.size {
                state.before_change(&self.0.staging, size)?;
            }
            state.image.truncate(size)?;
        }
        state.version += 1;
        Ok(())
    }

    fn punch(&mut self, range: Range<u64>) -> Result<(), ContentError> {
        let state = &mut *self.0.state.lock();
        let range = range.start..range.end.min(state.image.size);
        if range.is_empty() {
            return Ok(());
        }
        state.before_change(&self.0.staging, range.start)?;
        state.version += 1;
        state.image.punch(&self.0.staging.dir, range)
    }

    fn read(&mut self, offset: u64, len: usize, done: ReadDone) {
        let state = self.0.state.lock();
        let size = state.image.size;
        let range = offset.min(size)..offset.saturating_add(len as u64).min(size);
        if let Some(bytes) = state.image.slice(range.clone()) {
            return done(Ok(bytes));
        }
        let mut buf = vec![0; (range.end - range.start) as usize];
        let mut missing = Vec::new();
        let copied = state.image.copy_local(range.clone(), &mut buf, &mut missing);
        drop(state);
        match copied {
            Err(error) => done(Err(error)),
            Ok(()) if missing.is_empty() => done(Ok(&buf)),
            Ok(()) => {
                let core = self.0.clone();
                self.0.staging.spawn(async move {
                    for Missing { object, range: part } in missing {
                        let at = (part.start - range.start) as usize..(part.end - range.start) as usize;
                        if let Err(error) = core.fetch(&object, part.start, &mut buf[at]).await {
                            return done(Err(error));
                        }
                    }
                    done(Ok(&buf));
                });
            }
        }
    }

    fn unsealed(&mut self) {
        self.0.state.lock().clean = None;
    }

    fn dirty(&self) -> bool {
        let state = self.0.state.lock();
        state.clean != Some(state.version)
    }

    fn seal(&mut self, known: Known, done: Callback<Result<Sealed, ContentError>>) {
        let state = &mut *self.0.state.lock();
        let (image, version) = (state.image.clone(), state.version);
        state.queue.push_back(Request { image, version, known, done });
        self.0.kick(state);
    }

    fn keep(&mut self) -> Result<Kept, ContentError> {
        let state = &mut *self.0.state.lock();
        let record = Record::write(&self.0.staging.dir, &state.image, state.kept.as_ref())?;
        let kept = Kept { path: record.path().to_owned(), size: state.image.size };
        state.kept = Some(record);
        Ok(kept)
    }

    fn set_apart(&mut self, owner: u64) -> Result<(), ContentError> {
        self.0.state.lock().kept.as_mut().map_or(Ok(()), |record| record.set_apart(owner))
    }

    fn discard(self: Box<Self>) {
        if let Some(record) = self.0.state.lock().kept.take() {
            record.remove();
        }
    }
}
