//! Whether large contents are what they should be, and where else to get them.
//!
//! With [checksums of its parts](crate::content::sums), a part is given out after it was checked; one that is damaged
//! is fetched from another storage. Without them, a content read from its beginning is checked before its last bytes
//! are given out; if it is damaged, they are learned from a storage that has it whole and undamaged.

use std::ops::Range;
use std::sync::Arc;

use crc32fast::Hasher;

use super::Open;
use super::buffers::Buffer;
use crate::content::remote::{Download, Remote};
use crate::content::sums::{Summing, Sums};
use crate::content::{ContentError, Fingerprint};

/// Contents are looked through in pieces of this many bytes.
const PIECE: u64 = 256 << 10;

/// A stream being checked. Bytes go in in order, and come out when they are known to be right or cannot be known.
pub(crate) struct Checked {
    /// The CRC32 that the file ID states.
    stated: Option<u32>,
    known: Option<Arc<Sums>>,
    /// Made on the way, where none are known.
    making: Option<Summing>,
    /// The part that is being checked, as far as it has come.
    part: Hasher,
    /// Where it begins.
    start: u64,
    /// The end of what has come.
    end: u64,
    /// What has come and is not known to be right.
    held: Vec<(u64, Buffer)>,
}

impl Checked {
    /// For a stream that begins at `begin`, which is the [beginning of a part](Checked::begin).
    pub(crate) fn new<R: Remote>(open: &Open<R>, begin: u64) -> Checked {
        let stated = open.readers.remote.crc32(&open.object);
        let known = open.sums().filter(|sums| sums.part(begin).start == begin);
        let makes = known.is_none() && begin == 0 && stated.is_some();
        let making = makes.then(|| open.readers.sums.summing());
        Checked { stated, known, making, part: Hasher::new(), start: begin, end: begin, held: Vec::new() }
    }

    /// Where to go on to, so that what is asked for as far as `end` can be checked.
    pub(crate) fn whole_parts(&self, end: u64, size: u64) -> u64 {
        match &self.known {
            Some(sums) if end < size => {
                let part = sums.part(end);
                if part.start == end { end } else { part.end }
            }
            _ => end,
        }
    }

    /// Takes what has come at `start`; gives what may be given out.
    pub(crate) async fn add<R: Remote>(
        &mut self,
        open: &Open<R>,
        start: u64,
        buffer: Buffer,
    ) -> Result<Vec<(u64, Buffer)>, ContentError> {
        self.end = start + buffer.bytes().len() as u64;
        self.held.push((start, buffer));
        if let Some(making) = &mut self.making {
            let (_, last) = self.held.last().ok_or(ContentError::Closed)?;
            making.update(last.bytes());
            if self.end < open.object.size {
                return Ok(std::mem::take(&mut self.held));
            }
            self.judge(open, start).await?;
            return Ok(std::mem::take(&mut self.held));
        }
        let Some(sums) = self.known.clone() else { return Ok(std::mem::take(&mut self.held)) };
        let mut at = start;
        while at < self.end {
            let part = sums.part(at);
            let now = at..part.end.min(self.end);
            self.part.update(slice(&self.held, &now));
            at = now.end;
            if at == part.end {
                if !sums.states(part.start, std::mem::take(&mut self.part).finalize()) {
                    self.replace(open, &sums, part.clone()).await?;
                }
                self.start = part.end;
            }
        }
        let right = self.held.iter().take_while(|(at, buffer)| at + buffer.bytes().len() as u64 <= self.start).count();
        Ok(self.held.drain(..right).collect())
    }

    /// All has come, and the checksums of its parts were made on the way: whether they are right. What came before
    /// `last` has been given out.
    async fn judge<R: Remote>(&mut self, open: &Open<R>, last: u64) -> Result<(), ContentError> {
        let (Some(made), Some(stated)) = (self.making.take().map(Summing::finish), self.stated) else { return Ok(()) };
        let file_id = &open.object.file_id;
        if made.whole() == stated {
            open.readers.sums.keep(file_id, made);
            return Ok(());
        }
        tracing::warn!(%file_id, "content arrived damaged; looking for an undamaged copy");
        let right = learn(open, stated).await?;
        if !right.agrees(&made, last) {
            // What was given out cannot be taken back; whoever reads again gets what is right.
            return Err(ContentError::Corrupt(file_id.clone()));
        }
        let mut at = last;
        while at < open.object.size {
            let part = right.part(at);
            self.replace(open, &right, part.clone()).await?;
            at = part.end;
        }
        Ok(())
    }

    /// Puts an undamaged part in the place of what has come.
    async fn replace<R: Remote>(&mut self, open: &Open<R>, sums: &Sums, part: Range<u64>) -> Result<(), ContentError> {
        let bytes = undamaged(open, sums, part.clone()).await?;
        for (start, buffer) in &mut self.held {
            let end = *start + buffer.bytes().len() as u64;
            let common = part.start.max(*start)..part.end.min(end);
            if common.start < common.end {
                let from = &bytes[(common.start - part.start) as usize..(common.end - part.start) as usize];
                buffer.bytes_mut()[(common.start - *start) as usize..(common.end - *start) as usize]
                    .copy_from_slice(from);
            }
        }
        Ok(())
    }
}

/// The bytes of a range that lies in the last buffer.
fn slice<'a>(held: &'a [(u64, Buffer)], range: &Range<u64>) -> &'a [u8] {
    match held.last() {
        Some((start, buffer)) => &buffer.bytes()[(range.start - start) as usize..(range.end - start) as usize],
        None => &[],
    }
}

/// A part as it should be, from whichever storage has it so.
async fn undamaged<R: Remote>(open: &Open<R>, sums: &Sums, part: Range<u64>) -> Result<Vec<u8>, ContentError> {
    find_good(&*open.readers.remote, &open.object.file_id, part.clone(), |bytes| sums.fits(part.start, bytes)).await
}

/// A range as it should be, from whichever storage has it so. Those that have it otherwise are not read from for a while. That
/// it is damaged wherever it is, every member of the group has to say.
pub(crate) async fn find_good<R: Remote>(
    remote: &R,
    file_id: &Arc<str>,
    range: Range<u64>,
    is_good: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, ContentError> {
    let copies = remote.copies(file_id).await?;
    let likely = copies.likely.len();
    let (mut good, mut bad, mut unseen) = (None, false, copies.unseen);
    for (nth, copy) in copies.likely.into_iter().chain(copies.idle).enumerate() {
        if good.is_some() && (bad || nth >= likely) {
            break;
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let fetched = async { remote.download_from(copy, file_id, range.clone()).await?.fill(&mut bytes).await };
        match fetched.await {
            Ok(()) if is_good(&bytes) => drop(good.get_or_insert(bytes)),
            Ok(()) | Err(ContentError::Corrupt(_)) => {
                tracing::error!(%copy, %file_id, ?range, "this copy is damaged");
                remote.distrust(copy, file_id);
                bad = true;
            }
            Err(error) => unseen = not_seen(unseen, copy, file_id, error),
        }
    }
    good.ok_or_else(|| none_is_good(file_id, bad, unseen))
}

/// What is to be said when those that were asked for a part had less than it should be: that the content is lost, if not one
/// copy is as long as it was.
pub(crate) async fn looked_up<R: Remote>(open: &Open<R>, error: ContentError) -> ContentError {
    let (size, file_id) = (open.object.size, &open.object.file_id);
    if !matches!(error, ContentError::Corrupt(_)) {
        return error;
    }
    match find_good(&*open.readers.remote, file_id, size - 1..size, |_| true).await {
        Err(lost) if lost.is_loss() => lost,
        _ => error,
    }
}

/// A copy could not be looked at; one that is not there need not be.
fn not_seen(
    before: Option<ContentError>,
    copy: std::net::SocketAddr,
    file_id: &str,
    error: ContentError,
) -> Option<ContentError> {
    tracing::debug!(%copy, %file_id, %error, "copy not read");
    before.or(Some(error).filter(|error| !matches!(error, ContentError::NotFound(_))))
}

/// What is said when no good copy was found: that there is none, only if all were looked at.
fn none_is_good(file_id: &Arc<str>, bad: bool, unseen: Option<ContentError>) -> ContentError {
    match unseen {
        Some(error) => error,
        None if bad => {
            tracing::error!(%file_id, "content is damaged on every replica");
            ContentError::Damaged(file_id.clone())
        }
        None => ContentError::NotFound(file_id.clone()),
    }
}

/// Looks for a storage that has the content as it should be, and learns the checksums of its parts.
async fn learn<R: Remote>(open: &Open<R>, stated: u32) -> Result<Arc<Sums>, ContentError> {
    let (remote, file_id) = (&open.readers.remote, &open.object.file_id);
    let copies = remote.copies(file_id).await?;
    let (mut bad, mut unseen) = (false, copies.unseen);
    for copy in copies.likely.into_iter().chain(copies.idle) {
        match sums_of(open, copy, stated).await {
            Ok(Some(sums)) => return Ok(open.readers.sums.keep(file_id, sums)),
            Ok(None) | Err(ContentError::Corrupt(_)) => {
                tracing::error!(%copy, %file_id, "this copy is damaged");
                remote.distrust(copy, file_id);
                bad = true;
            }
            Err(error) => unseen = not_seen(unseen, copy, file_id, error),
        }
    }
    Err(none_is_good(file_id, bad, unseen))
}

/// The checksums of the parts of one copy; `None`: it is not what it should be.
async fn sums_of<R: Remote>(
    open: &Open<R>,
    copy: std::net::SocketAddr,
    stated: u32,
) -> Result<Option<Sums>, ContentError> {
    let object = &open.object;
    let mut download = open.readers.remote.download_from(copy, &object.file_id, 0..object.size).await?;
    let (mut making, mut hasher) = (open.readers.sums.summing(), blake3::Hasher::new());
    let mut piece = vec![0; PIECE.min(object.size) as usize];
    let mut left = object.size;
    while left > 0 {
        let now = &mut piece[..PIECE.min(left) as usize];
        download.fill(now).await?;
        making.update(now);
        hasher.update(now);
        left -= now.len() as u64;
    }
    let sums = making.finish();
    let found = Fingerprint::from(hasher.finalize());
    let good = sums.whole() == stated && object.fingerprint.is_none_or(|fingerprint| fingerprint == found);
    Ok(good.then_some(sums))
}
