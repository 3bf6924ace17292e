//! The background task of a stage. One runs at a time; it seals in order, and works ahead while there is nothing to seal.

use std::sync::Arc;

use bytes::Bytes;

use super::files::{Buffer, StageFile};
use super::image::{Base, Data, Image, Missing};
use super::prefix::Prefix;
use super::stage::{Core, Next, Request};
use crate::content::remote::{Body, Remote};
use crate::content::{ContentError, Fingerprint, Known, Sealed, Stored};

/// Pieces in which stored content is fetched into a staging file.
const FETCH: u64 = 1 << 20;

/// Lets the stage start another task if this one ends by a panic (of a callback, say).
struct Running<'a, R: Remote>(&'a Core<R>);

impl<R: Remote> Drop for Running<'_, R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state.lock().working = false;
        }
    }
}

/// Does what there is to do for a stage, then ends.
pub(crate) async fn run<R: Remote>(core: Arc<Core<R>>) {
    let _running = Running(&core);
    loop {
        let next = core.state.lock().next(&core.staging.sizes);
        match next {
            Next::Rest => return,
            Next::Ahead { file, end, first, mut prefix, epoch } => {
                ahead(&core, &file, end, first, &mut prefix).await;
                if !give_back(&core, prefix, epoch) {
                    return;
                }
            }
            Next::Seal { request, clean, mut prefix, epoch } => {
                let Request { mut image, version, known, done } = request;
                let outcome =
                    if clean { Ok(Sealed::Unchanged) } else { seal(&core, &mut image, &mut prefix, known).await };
                settle(&core, &image, version, outcome.is_ok());
                let last = !give_back(&core, prefix, epoch);
                done(outcome);
                if last {
                    return;
                }
            }
        }
    }
}

/// Puts the prefix back into the stage. `false`: the stage was dropped and nothing waits, so the task can end.
fn give_back<R: Remote>(core: &Arc<Core<R>>, mut prefix: Prefix, epoch: Option<u64>) -> bool {
    let state = &mut *core.state.lock();
    if epoch == Some(state.ahead.epoch) {
        state.ahead.prefix = prefix;
    } else {
        prefix.abandon(&core.staging.discard);
    }
    // Only the stage itself adds work, and it is gone when this is the last reference.
    Arc::strong_count(core) > 1 || !state.last_seal()
}

/// Hashes and streams the beginning of a file that is being written.
///
/// If streaming fails, the content is uploaded as a whole when it is sealed.
async fn ahead<R: Remote>(core: &Core<R>, file: &Arc<StageFile>, end: u64, first: bool, prefix: &mut Prefix) {
    if !first && !prefix.streaming() {
        // A failure to read the staging file will come up again when it is sealed.
        let _ = prefix.hash(file, end, core.staging.readers.sums()).await;
        return;
    }
    let sums = core.staging.readers.sums();
    let (_, streamed) = prefix.both(&*core.staging.remote, file, end, &core.extension(), sums).await;
    if let Err(error) = streamed {
        tracing::info!(%error, "streaming given up; the file will be uploaded when it is closed");
        prefix.abandon(&core.staging.discard);
    }
}

/// Brings an image into the cluster. It is whole afterwards: nothing of it comes from a base any more.
async fn seal<R: Remote>(
    core: &Core<R>,
    image: &mut Image,
    prefix: &mut Prefix,
    known: Known,
) -> Result<Sealed, ContentError> {
    if image.size == 0 {
        return Ok(Sealed::Empty);
    }
    complete(core, image).await?;
    match &image.data {
        Data::Memory(buffer) => seal_buffer(core, buffer, known).await,
        Data::File(file) => seal_file(core, file, image.size, prefix, known).await,
    }
}

async fn seal_buffer<R: Remote>(core: &Core<R>, buffer: &Arc<Buffer>, known: Known) -> Result<Sealed, ContentError> {
    let (fingerprint, size) = (Fingerprint::of(buffer.bytes()), buffer.bytes().len() as u64);
    if known(&fingerprint, size) {
        return Ok(Sealed::Known { fingerprint, size });
    }
    let body = Body::Memory(Bytes::from_owner(Sent(buffer.clone())));
    let file_id = core.staging.remote.upload(body, &core.extension()).await?;
    Ok(Sealed::Stored(Stored { file_id, fingerprint, size }))
}

/// A staged buffer as the content of a request.
struct Sent(Arc<Buffer>);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

async fn seal_file<R: Remote>(
    core: &Core<R>,
    file: &Arc<StageFile>,
    size: u64,
    prefix: &mut Prefix,
    known: Known,
) -> Result<Sealed, ContentError> {
    let staging = &core.staging;
    let sums = staging.readers.sums();
    if prefix.streaming() {
        let (hashed, streamed) = prefix.both(&*staging.remote, file, size, &core.extension(), sums).await;
        if let Err(error) = streamed {
            prefix.abandon(&staging.discard);
            // Another attempt would double the time that a close takes with the cluster gone.
            if matches!(error, ContentError::Timeout(_)) {
                return Err(error);
            }
        }
        hashed?;
    } else {
        prefix.hash(file, size, sums).await?;
    }
    let fingerprint = prefix.fingerprint();
    if known(&fingerprint, size) {
        prefix.withdraw(&*staging.remote, &staging.discard).await;
        return Ok(Sealed::Known { fingerprint, size });
    }
    let file_id = match prefix.finish(&*staging.remote, &staging.discard).await {
        Some(Ok(file_id)) => file_id,
        Some(Err(error @ ContentError::Timeout(_))) => return Err(error),
        Some(Err(_)) | None => staging.remote.upload(Body::File(file.file().clone(), size), &core.extension()).await?,
    };
    if size > staging.sizes.small
        && let Some(made) = prefix.sums()
    {
        sums.keep(&file_id, made);
    }
    Ok(Sealed::Stored(Stored { file_id, fingerprint, size }))
}

/// Fetches what an image lacks, and gives its data the full length.
async fn complete<R: Remote>(core: &Core<R>, image: &mut Image) -> Result<(), ContentError> {
    let size = image.size;
    if let Data::Memory(buffer) = &image.data {
        if image.gaps().is_empty() && buffer.bytes().len() as u64 == size {
            return Ok(());
        }
        let mut whole = core.staging.dir.buffer();
        if size <= core.staging.sizes.small && whole.grow(size as usize) {
            let mut missing = Vec::new();
            image.copy_local(0..size, whole.bytes_mut(), &mut missing)?;
            for Missing { object, range } in missing {
                let part = &mut whole.bytes_mut()[range.start as usize..range.end as usize];
                core.fetch(&object, range.start, part).await?;
            }
            image.data = Data::Memory(Arc::new(whole));
            Arc::make_mut(&mut image.own).insert(0..size);
            (image.base, image.visible) = (Base::None, 0);
            return Ok(());
        }
        image.spill(&core.staging.dir)?;
    }
    let Some(file) = image.file().cloned() else { return Ok(()) };
    let mut buf = Vec::new();
    for gap in image.gaps() {
        let mut at = gap.start;
        while at < gap.end {
            let part = at..gap.end.min(at + FETCH);
            buf.clear();
            buf.resize((part.end - part.start) as usize, 0);
            let mut missing = Vec::new();
            tokio::task::block_in_place(|| image.copy_local(part.clone(), &mut buf, &mut missing))?;
            for lacking in missing {
                let place = (lacking.range.start - part.start) as usize..(lacking.range.end - part.start) as usize;
                core.fetch(&lacking.object, lacking.range.start, &mut buf[place]).await?;
            }
            tokio::task::block_in_place(|| file.write(&buf, part.start)).map_err(|(_, e)| e)?;
            at = part.end;
        }
        Arc::make_mut(&mut image.own).insert(gap);
    }
    (image.base, image.visible) = (Base::None, 0);
    // Under the lock of the stage: a write behind this image goes to the same file, and must not be cut off by a length
    // that was decided before it.
    let _writers = core.state.lock();
    if file.file().metadata().map_err(|e| file.error(e))?.len() < size {
        file.set_len(size)?;
    }
    Ok(())
}

/// Takes the end of a seal into the stage: it no longer depends on what was below the sealed image, for after a
/// success the old stored content may be deleted, and layers must not pile up after failures.
fn settle<R: Remote>(core: &Core<R>, sealed: &Image, version: u64, ok: bool) {
    let state = &mut *core.state.lock();
    if ok {
        state.clean = Some(version);
    }
    let whole = matches!(sealed.base, Base::None) && sealed.size > 0;
    if whole {
        for image in state.images() {
            if let Err(error) = rest_on(image, sealed) {
                // It still rests on what it rested on: right, if only for as long as that is there.
                tracing::warn!(%error, "staged content not completed");
            }
        }
        // What was kept may rest on stored content that is released now.
        if ok && let Err(error) = state.keep_again(&core.staging) {
            tracing::warn!(%error, "kept content not renewed");
        }
    }
    if !state.last_seal() {
        return;
    }
    if let Base::Image(below) = &state.image.base
        && (!ok || state.image.own.len() <= core.staging.sizes.merge)
    {
        let mut merged = Image::clone(below);
        match merged.absorb(&core.staging.dir, &state.image) {
            Ok(()) => state.image = merged,
            Err(error) => tracing::warn!(%error, "staged layer not merged"),
        }
    }
}

/// Lets `image` take what it lacks from `sealed`, an earlier state of the same content that is now whole.
fn rest_on(image: &mut Image, sealed: &Image) -> Result<(), ContentError> {
    match &image.base {
        Base::None => {}
        // The same file or buffer: what was missing has been put into it.
        _ if image.same_data(sealed) => image.adopt_gaps(),
        Base::Image(below) => {
            let mut inner = Image::clone(below);
            rest_on(&mut inner, sealed)?;
            image.base = Base::Image(Arc::new(inner));
        }
        // The sealed image moved to a file, and this one did not: it becomes a layer over it.
        Base::Object(_) if sealed.file().is_some() && image.file().is_none() => {
            image.base = Base::Image(Arc::new(sealed.clone()));
        }
        Base::Object(_) => {
            image.fill(sealed)?;
            image.adopt_gaps();
        }
    }
    Ok(())
}
