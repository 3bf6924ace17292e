//! Contents small enough to be fetched as a whole: verified before any byte of them is given out.

use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use super::check::find_good;
use super::verify;
use crate::content::remote::Remote;
use crate::content::{ContentError, Object, ReadDone};

/// A small content, in memory from its first read until all of it has been read once.
#[derive(Default)]
pub(crate) struct Small(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Absent,
    Loading(Vec<(Range<u64>, ReadDone)>),
    Loaded {
        bytes: Bytes,
        /// Bytes given out. When it reaches the size, the kernel has them all and the memory is freed.
        given: u64,
    },
}

impl Small {
    /// Reads a range within the content. `true`: the caller has to load the content now.
    pub(crate) fn read(&self, range: Range<u64>, done: ReadDone) -> bool {
        let mut state = self.0.lock();
        let bytes = match &mut *state {
            State::Absent => {
                *state = State::Loading(vec![(range, done)]);
                return true;
            }
            State::Loading(waiting) => {
                waiting.push((range, done));
                return false;
            }
            State::Loaded { bytes, given } => {
                let bytes = bytes.clone();
                *given += range.end - range.start;
                if *given >= bytes.len() as u64 {
                    *state = State::Absent;
                }
                bytes
            }
        };
        drop(state);
        done(Ok(&bytes[range.start as usize..range.end as usize]));
        false
    }

    /// The content has come, or has not.
    pub(crate) fn loaded(&self, loaded: Result<Bytes, ContentError>) {
        let mut state = self.0.lock();
        let State::Loading(waiting) = std::mem::take(&mut *state) else { return };
        if let Ok(bytes) = &loaded {
            let given = waiting.iter().map(|(r, _)| r.end - r.start).sum();
            if given < bytes.len() as u64 {
                *state = State::Loaded { bytes: bytes.clone(), given };
            }
        }
        drop(state);
        for (range, done) in waiting {
            match &loaded {
                Ok(bytes) => done(Ok(&bytes[range.start as usize..range.end as usize])),
                Err(error) => done(Err(error.clone())),
            }
        }
    }
}

/// Fetches a content, from the first storage that has it as it should be.
pub(crate) async fn load<R: Remote>(remote: &R, object: &Object) -> Result<Bytes, ContentError> {
    let stated = remote.crc32(object);
    let check = |bytes: &[u8]| {
        let good = verify(object, stated, bytes).is_ok();
        if !good {
            tracing::warn!(file_id = %object.file_id, "content arrived damaged; another storage is asked");
        }
        good
    };
    match remote.read_checked(&object.file_id, 0..object.size, &check).await {
        // One of those that answered has it otherwise; whether all do, all have to say.
        Err(ContentError::Corrupt(_)) => {
            let is_good = |bytes: &[u8]| verify(object, stated, bytes).is_ok();
            Ok(find_good(remote, &object.file_id, 0..object.size, is_good).await?.into())
        }
        loaded => loaded,
    }
}
