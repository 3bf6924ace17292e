//! What has been done ahead with the beginning of a staged file, while the application was still writing it.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Discard;
use super::files::{APPENDER, StageFile};
use crate::content::remote::Remote;
use crate::content::sums::{KnownSums, Summing, Sums};
use crate::content::{ContentError, ExtName, Fingerprint, Object};

/// Files are read for hashing in pieces that stay in the cache of a core.
const PIECE: usize = 256 << 10;

/// The most that one append request carries: a limit to what a broken connection costs.
const MOST_PER_REQUEST: u64 = 256 << 20;

/// The first bytes of a staged file, hashed and perhaps streamed. True only while those bytes stay as they are; its
/// owner drops it (with [`abandon`](Prefix::abandon)) when they change.
#[derive(Default)]
pub(crate) struct Prefix {
    hasher: Option<Box<Hashing>>,
    hashed: u64,
    appender: Option<Appender>,
}

/// What is computed of the bytes as they go by.
struct Hashing {
    fingerprint: blake3::Hasher,
    sums: Summing,
}

/// An appender in the cluster that holds the first `sent` bytes.
struct Appender {
    file_id: String,
    sent: u64,
    note: Note,
}

impl Prefix {
    /// Hashes `file` as far as `end`.
    pub(crate) async fn hash(
        &mut self,
        file: &Arc<StageFile>,
        end: u64,
        known: &KnownSums,
    ) -> Result<(), ContentError> {
        if self.hashed >= end && self.hasher.is_some() {
            return Ok(());
        }
        let begin = || Box::new(Hashing { fingerprint: blake3::Hasher::new(), sums: known.summing() });
        let mut hasher = self.hasher.take().unwrap_or_else(begin);
        let (file, range) = (file.clone(), std::mem::replace(&mut self.hashed, 0)..end);
        let hashed = tokio::task::spawn_blocking(move || {
            let mut buf = vec![0; PIECE.min((range.end - range.start) as usize)];
            let mut at = range.start;
            while at < range.end {
                let part = buf.len().min((range.end - at) as usize);
                file.read(&mut buf[..part], at)?;
                hasher.fingerprint.update(&buf[..part]);
                hasher.sums.update(&buf[..part]);
                at += part as u64;
            }
            Ok::<_, ContentError>(hasher)
        });
        self.hasher = Some(hashed.await.map_err(|_| ContentError::Closed)??);
        self.hashed = end;
        Ok(())
    }

    /// The fingerprint of what has been hashed.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.hasher.as_ref().map_or_else(|| Fingerprint::of(&[]), |h| Fingerprint::from(h.fingerprint.finalize()))
    }

    /// The checksums of what has been hashed.
    pub(crate) fn sums(&self) -> Option<Sums> {
        self.hasher.as_ref().map(|h| h.sums.clone().finish())
    }

    /// Whether there is an appender to stream to.
    pub(crate) fn streaming(&self) -> bool {
        self.appender.is_some()
    }

    /// Sends `file` to the appender as far as `end`, creating it first.
    ///
    /// Hashing and streaming can go on at the same time: split the prefix with [`both`](Prefix::both).
    async fn stream<R: Remote>(
        appender: &mut Option<Appender>,
        remote: &R,
        file: &Arc<StageFile>,
        end: u64,
        extension: &ExtName,
    ) -> Result<(), ContentError> {
        let source: &Arc<File> = file.file();
        if appender.is_none() {
            let sent = end.min(MOST_PER_REQUEST);
            let file_id = remote.create_appender(source, 0..sent, extension).await?;
            let note = Note::write(file.path(), &file_id);
            *appender = Some(Appender { file_id, sent, note });
        }
        while let Some(to) = appender.as_mut().filter(|a| a.sent < end) {
            let range: Range<u64> = to.sent..end.min(to.sent + MOST_PER_REQUEST);
            remote.append(&to.file_id, source, range.clone()).await?;
            to.sent = range.end;
        }
        Ok(())
    }

    /// Hashes and streams `file` as far as `end`, side by side. Gives the result of each.
    pub(crate) async fn both<R: Remote>(
        &mut self,
        remote: &R,
        file: &Arc<StageFile>,
        end: u64,
        extension: &ExtName,
        known: &KnownSums,
    ) -> (Result<(), ContentError>, Result<(), ContentError>) {
        let mut appender = self.appender.take();
        let outcome =
            tokio::join!(self.hash(file, end, known), Self::stream(&mut appender, remote, file, end, extension));
        self.appender = appender;
        outcome
    }

    /// Makes the appender, to which the whole content was sent, an ordinary file; its file ID.
    ///
    /// Its parts may have gone to different members of the group, and the last of them may have lacked an earlier part: so
    /// the file is refused if its ID states another size or CRC32 than what was sent has.
    pub(crate) async fn finish<R: Remote>(
        &mut self,
        remote: &R,
        discard: &Discard,
    ) -> Option<Result<String, ContentError>> {
        let appender = self.appender.take()?;
        match remote.finish_appender(&appender.file_id).await {
            Ok(file_id) => {
                appender.note.remove();
                let object = Object { file_id: file_id.into(), size: appender.sent, fingerprint: None };
                if remote.crc32(&object) == self.sums().map(|sums| sums.whole()) {
                    return Some(Ok(object.file_id.to_string()));
                }
                discard(&object.file_id);
                Some(Err(ContentError::Corrupt(format!("{}: not what was sent", object.file_id).into())))
            }
            Err(error) => {
                appender.abandon(discard);
                Some(Err(error))
            }
        }
    }

    /// Deletes the appender, if there is one, before it returns: whoever stores what is there already sees at once that
    /// it takes no room. What cannot be deleted now is discarded like any other. The hash stays.
    pub(crate) async fn withdraw<R: Remote>(&mut self, remote: &R, discard: &Discard) {
        let Some(appender) = self.appender.take() else { return };
        match remote.delete(&appender.file_id).await {
            Ok(()) => appender.note.remove(),
            Err(_) => appender.abandon(discard),
        }
    }

    /// Gives the appender up, if there is one. The hash stays.
    pub(crate) fn abandon(&mut self, discard: &Discard) {
        if let Some(appender) = self.appender.take() {
            appender.abandon(discard);
        }
    }
}

impl Appender {
    fn abandon(self, discard: &Discard) {
        discard(&self.file_id);
        self.note.remove();
    }
}

/// A file that names an appender in use, so that it is not left in the cluster when this process is killed.
struct Note(PathBuf);

impl Note {
    /// Writes the note. A failure costs at most unreferenced data in the cluster, so it is only logged.
    fn write(data: &Path, file_id: &str) -> Note {
        let path = data.with_extension(APPENDER);
        if let Err(error) = std::fs::write(&path, file_id) {
            tracing::warn!(path = %path.display(), %error, "appender not noted");
        }
        Note(path)
    }

    fn remove(self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Discards the appender that a note of an earlier process names.
pub(crate) fn discard_noted(note: &Path, discard: &Discard) {
    if let Ok(file_id) = std::fs::read_to_string(note)
        && !file_id.is_empty()
    {
        discard(&file_id);
    }
}
