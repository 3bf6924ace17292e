//! Readahead: a task fetches what will be read next, as far ahead as the reader has shown to need.
//!
//! It asks for ranges that fit into the memory granted to it and receives each without pause, so a reader that stops
//! half-way leaves no connection waiting. The window grows with what has been read.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Open;
use super::buffers::{Buffer, Grant};
use super::check::{Checked, looked_up};
use crate::content::remote::{Download, Remote};
use crate::content::{ContentError, ReadDone};

/// In chunks: how far ahead is read at most. At first it is one.
const LAST_WINDOW: u64 = 16;

/// In chunks: bytes this far behind the furthest read are dropped, read or not. Requests overtake each other by less.
const BEHIND: u64 = 4;

/// The first chunks are shorter by this factor, so that the first read waits only for what it asked for.
const SHORTER: u64 = 8;

/// What has been read ahead and what is waited for.
pub(crate) struct Stream {
    state: Mutex<State>,
    /// Length of a chunk, except the first ones.
    chunk: u64,
    /// Tells the task that somebody reads on, or that the stream was closed.
    moved: Notify,
}

struct State {
    /// Side by side, in order; the last ends at `end`.
    chunks: VecDeque<Arc<Chunk>>,
    /// Where the first chunk that is still here began.
    start: u64,
    end: u64,
    /// Where the stream began.
    begin: u64,
    /// As [`Stream::chunk`].
    chunk: u64,
    /// The furthest that was asked for.
    wanted: u64,
    waiting: Vec<(Range<u64>, ReadDone)>,
    /// Set when nothing more will come.
    over: bool,
    /// Set when nobody will read from it any more: only what is waited for still comes.
    closing: bool,
}

struct Chunk {
    start: u64,
    buffer: Buffer,
    /// Bytes not yet given out.
    left: AtomicU64,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.buffer.bytes().len() as u64
    }

    /// The part of the chunk that lies in `range`.
    fn part(&self, range: &Range<u64>) -> &[u8] {
        let part = range.start.max(self.start)..range.end.min(self.end());
        &self.buffer.bytes()[(part.start - self.start) as usize..(part.end - self.start) as usize]
    }
}

impl Stream {
    /// A stream that begins at `start`. It needs [`produce`] to run.
    pub(crate) fn new(start: u64, chunk: u64) -> Arc<Stream> {
        let state = State {
            chunks: VecDeque::new(),
            start,
            end: start,
            begin: start,
            chunk,
            wanted: start,
            waiting: Vec::new(),
            over: false,
            closing: false,
        };
        Arc::new(Stream { state: Mutex::new(state), chunk, moved: Notify::new() })
    }

    /// Whether a read at `offset` is answered by this stream, now or soon.
    pub(crate) fn covers(&self, offset: u64) -> bool {
        self.state.lock().covers(offset)
    }

    /// Answers a read, at once or when its bytes come. Gives `done` back if the stream does not cover it.
    pub(crate) fn read(&self, range: Range<u64>, done: ReadDone) -> Result<(), ReadDone> {
        let mut state = self.state.lock();
        // One that is being closed ends without looking who has come since.
        if state.closing || !state.covers(range.start) || (state.over && range.end > state.end) {
            return Err(done);
        }
        if range.end > state.wanted {
            state.wanted = range.end;
            self.moved.notify_one();
        }
        if range.end > state.end {
            state.waiting.push((range, done));
            return Ok(());
        }
        let chunks = state.find(&range);
        state.given(&chunks, &range);
        drop(state);
        give(&chunks, &range, done);
        Ok(())
    }

    /// Ends the stream: nobody will read from it any more. Reads that wait are still answered.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.moved.notify_one();
    }

    /// Waits until there is room to read on from `at`, and says how far. `None`: closed.
    async fn room(&self, open: &Open<impl Remote>, checked: &Checked, at: u64) -> Option<(u64, Grant)> {
        loop {
            {
                let state = self.state.lock();
                if state.closing && state.waiting.is_empty() {
                    return None;
                }
                let (size, window) = (open.object.size, state.window());
                // Ranges end on chunk boundaries, unless that leaves out what is waited for.
                let limit = ((state.wanted + window) / self.chunk * self.chunk).max(state.wanted).min(size);
                let limit = checked.whole_parts(limit, size);
                let waited = state.waiting.iter().map(|(r, _)| r.end).max().unwrap_or(0);
                let waited = checked.whole_parts(waited, size);
                let enough = limit == size || limit.saturating_sub(at) >= window / 2;
                if limit > at && (enough || waited > at) {
                    if let Some(grant) = open.readers.buffers.grant(limit - at) {
                        return Some((limit, grant));
                    }
                    if waited > at {
                        return Some((waited, Grant::forced()));
                    }
                }
            }
            self.moved.notified().await;
        }
    }

    /// Adds what has come, and answers those who waited for it. `false`: nobody wants more.
    fn push(&self, start: u64, buffer: Buffer) -> bool {
        let mut state = self.state.lock();
        let left = (buffer.bytes().len() as u64).into();
        let chunk = Arc::new(Chunk { start, buffer, left });
        state.end = chunk.end();
        state.chunks.push_back(chunk);
        let end = state.end;
        let ready: Vec<_> = state.waiting.extract_if(.., |(range, _)| range.end <= end).collect();
        // First all are found, then chunks are let go: two reads may want the same bytes.
        let answers: Vec<_> = ready.into_iter().map(|(range, done)| (state.find(&range), range, done)).collect();
        for (chunks, range, _) in &answers {
            state.given(chunks, range);
        }
        let go_on = !state.closing || !state.waiting.is_empty();
        drop(state);
        for (chunks, range, done) in answers {
            give(&chunks, &range, done);
        }
        go_on
    }

    /// Nothing more will come.
    fn fail(&self, error: &ContentError) {
        let mut state = self.state.lock();
        state.over = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for (_, done) in waiting {
            done(Err(error.clone()));
        }
    }
}

impl State {
    /// How far ahead it pays to be: as far as the reader has come already.
    fn window(&self) -> u64 {
        (self.wanted - self.begin).clamp(self.chunk, LAST_WINDOW * self.chunk)
    }

    fn covers(&self, offset: u64) -> bool {
        let ahead = if self.over { 0 } else { self.window() };
        self.start <= offset && offset < self.end.max(self.wanted) + ahead && !(self.over && offset >= self.end)
    }

    /// The chunks that hold a range, all of which has come.
    fn find(&self, range: &Range<u64>) -> Vec<Arc<Chunk>> {
        let first = self.chunks.partition_point(|c| c.end() <= range.start);
        self.chunks.iter().skip(first).take_while(|c| c.start < range.end).cloned().collect()
    }

    /// Notes that a range is given out, and drops chunks that nobody will ask for again.
    fn given(&mut self, chunks: &[Arc<Chunk>], range: &Range<u64>) {
        for chunk in chunks {
            let part = chunk.part(range).len() as u64;
            // Changed under the lock of the state only.
            chunk.left.store(chunk.left.load(Relaxed).saturating_sub(part), Relaxed);
        }
        while let Some(chunk) = self.chunks.front() {
            let old = chunk.end() + BEHIND * self.chunk <= self.wanted;
            let waited = self.waiting.iter().any(|(r, _)| r.start < chunk.end());
            if (chunk.left.load(Relaxed) > 0 && !old) || waited {
                break;
            }
            self.start = chunk.end();
            self.chunks.pop_front();
        }
    }
}

/// Answers a read from the chunks that hold it.
fn give(chunks: &[Arc<Chunk>], range: &Range<u64>, done: ReadDone) {
    match chunks {
        [chunk] => done(Ok(chunk.part(range))),
        several => {
            let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
            several.iter().for_each(|c| bytes.extend_from_slice(c.part(range)));
            done(Ok(&bytes));
        }
    }
}

/// Fetches for a stream until the end of the content, an error, or the end of its reader. What it gives out has been
/// [checked](super::check), as far as it can be.
pub(crate) async fn produce<R: Remote>(stream: &Stream, open: &Open<R>) {
    if let Err(error) = fetch_all(stream, open).await {
        let error = looked_up(open, error).await;
        if matches!(error, ContentError::Corrupt(_) | ContentError::Damaged(_)) {
            let _ = open.damaged.set(error.clone());
        }
        stream.fail(&error);
    }
}

async fn fetch_all<R: Remote>(stream: &Stream, open: &Open<R>) -> Result<(), ContentError> {
    let (size, file_id) = (open.object.size, &open.object.file_id);
    let begin = stream.state.lock().start;
    let mut checked = Checked::new(open, begin);
    let mut filling = open.readers.cache.as_ref().filter(|_| begin == 0).and_then(|c| c.begin(file_id, size));
    let mut at = begin;
    while at < size {
        let Some((end, mut grant)) = stream.room(open, &checked, at).await else { return Ok(()) };
        let mut download = open.readers.remote.download(file_id, at..end).await?;
        while at < end {
            let boundary = (at / stream.chunk + 1) * stream.chunk;
            let len = (at - begin).max(stream.chunk / SHORTER).min(boundary.min(end) - at);
            let mut buffer = open.readers.buffers.take(len as usize, &mut grant);
            download.fill(buffer.bytes_mut()).await?;
            for (start, buffer) in checked.add(open, at, buffer).await? {
                filling = filling.and_then(|f| f.write(buffer.bytes()));
                if !stream.push(start, buffer) {
                    return Ok(());
                }
            }
            at += len;
        }
    }
    if let Some(filled) = filling {
        filled.commit(open.object.fingerprint.as_ref());
    }
    Ok(())
}
