//! Content being written: where it lies until the cluster has it, and how it gets there.
//!
//! | module | job |
//! |---|---|
//! | `files` | buffers under a budget, files of the staging directory |
//! | `image` | the bytes of one content at one moment, and changes to them |
//! | `stage` | one staged content: changes, reads, the queue of seals |
//! | `work` | the background task of a stage: hashing and streaming ahead, sealing |
//! | `prefix` | the fingerprint and the appender of what was written in sequence |
//! | `kept` | staged data that survives a restart |

mod files;
mod image;
mod kept;
mod prefix;
mod stage;
mod work;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use self::files::StagingDir;
use self::image::{Base, Image};
use super::reading::Readers;
use super::remote::Remote;
use super::sizes::Sizes;
use super::{ContentError, Kept, Object, Recovered, Stage};

/// Told the file ID of stored content that nothing will ever refer to, such as an abandoned appender. It must not
/// block; it runs on any thread, possibly under the lock of a stage.
pub type Discard = Arc<dyn Fn(&str) + Send + Sync>;

/// What all stages share.
pub(crate) struct Staging<R: Remote> {
    dir: StagingDir,
    remote: Arc<R>,
    readers: Arc<Readers<R>>,
    runtime: tokio::runtime::Handle,
    discard: Discard,
    sizes: Sizes,
}

impl<R: Remote> Staging<R> {
    /// Stages in `dir` (created if missing), with `memory` bytes for small contents.
    pub(crate) fn open(
        dir: &Path,
        memory: usize,
        sizes: Sizes,
        readers: Arc<Readers<R>>,
        discard: Discard,
    ) -> Result<Arc<Staging<R>>, ContentError> {
        let dir = StagingDir::open(dir, memory, sizes.small)?;
        let (remote, runtime) = (readers.remote().clone(), readers.runtime().clone());
        Ok(Arc::new(Staging { dir, remote, readers, runtime, discard, sizes }))
    }

    /// See [`ContentStore::stage`](super::ContentStore::stage).
    pub(crate) fn stage(self: &Arc<Self>, base: Option<&Object>, size: u64) -> Box<dyn Stage> {
        let unchanged = base.map_or(0, |b| b.size) == size;
        stage::begin(self.clone(), Image::new(&self.dir, base, size), unchanged, None)
    }

    /// See [`ContentStore::recover`](super::ContentStore::recover).
    pub(crate) fn recover(self: &Arc<Self>, kept: &Kept) -> Result<Recovered, ContentError> {
        let (image, record) = kept::load(&kept.path)?;
        let base = match &image.base {
            Base::Object(object) => Some(object.clone()),
            Base::None | Base::Image(_) => None,
        };
        Ok(Recovered { stage: stage::begin(self.clone(), image, false, Some(record)), base })
    }

    /// See [`ContentStore::apart`](super::ContentStore::apart).
    pub(crate) fn apart(&self) -> Result<Vec<(u64, Kept)>, ContentError> {
        kept::apart(self.dir.path())
    }

    /// See [`ContentStore::adopt`](super::ContentStore::adopt).
    pub(crate) fn adopt(&self, kept: &Kept) -> Result<Kept, ContentError> {
        kept::adopt(&self.dir, kept)
    }

    /// See [`ContentStore::give_up`](super::ContentStore::give_up).
    pub(crate) fn give_up(&self, kept: &Kept) -> Result<(), ContentError> {
        kept::give_up(&kept.path)
    }

    /// See [`ContentStore::sweep`](super::ContentStore::sweep).
    pub(crate) fn sweep(&self, keep: &[Kept]) -> Result<(), ContentError> {
        kept::sweep(self.dir.path(), keep, &self.discard)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}
