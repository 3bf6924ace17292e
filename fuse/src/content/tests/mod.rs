//! The store against a model of it, over a cluster that fails.

mod damage;
mod members;
mod reading;
mod remote;
mod staging;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use self::remote::TestRemote;
use super::sizes::Sizes;
use super::{Callback, ContentError, Reader, Sealed, Stage, Store, StoreConfig};

/// Sizes at which every case comes up with a few kilobytes.
const SIZES: Sizes =
    Sizes { small: 256, ahead_from: 1024, ahead_step: 256, ahead_most: 1024, merge: 128, chunk: 256, part: 96 };

fn store(dir: &Path, remote: &TestRemote, cache_size: u64) -> Store<TestRemote> {
    let discarded = remote.clone();
    let config = StoreConfig {
        sizes: SIZES,
        cache_size,
        staging_memory: 2000,
        reading_memory: 256 << 10,
        discard: Some(Arc::new(move |id| {
            let mut state = discarded.state.lock();
            state.appenders.remove(id);
            state.objects.remove(id);
        })),
        ..StoreConfig::new(dir)
    };
    Store::over(config, || remote.clone()).unwrap()
}

fn later<T: Send + 'static>(start: impl FnOnce(Callback<T>)) -> Receiver<T> {
    let (send, receive) = channel();
    start(Box::new(move |value| {
        let _ = send.send(value);
    }));
    receive
}

fn begin_seal(stage: &mut dyn Stage) -> Receiver<Result<Sealed, ContentError>> {
    later(|done| stage.seal(Box::new(|_, _| false), done))
}

fn read_stage(stage: &mut dyn Stage, offset: u64, len: usize) -> Result<Vec<u8>, ContentError> {
    later(|done| stage.read(offset, len, Box::new(move |r| done(r.map(<[u8]>::to_vec))))).recv().unwrap()
}

fn read(reader: &dyn Reader, offset: u64, len: usize) -> Result<Vec<u8>, ContentError> {
    later(|done| reader.read(offset, len, Box::new(move |r| done(r.map(<[u8]>::to_vec))))).recv().unwrap()
}

/// Bytes that differ from place to place.
fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2654435761).to_be_bytes()[0] ^ seed | 1).collect()
}
