//! Whatever the pattern of reads and whatever fails: the right bytes or an error.

use std::sync::mpsc::Receiver;

use proptest::prelude::*;

use super::remote::{Fate, TestRemote};
use super::{bytes, later, read, store};
use crate::content::{ContentError, ContentStore, Object, Reader};

#[derive(Debug, Clone)]
enum Step {
    /// The next bytes.
    Next(usize),
    At(usize, usize),
    /// Several at once, in sequence but in any order.
    Burst(usize, usize, bool),
    Fates(Vec<Fate>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        4 => Just(Fate::Good),
        3 => Just(Fate::Late),
        1 => Just(Fate::Refused),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Damaged),
    ];
    prop_oneof![
        8 => (1..700usize).prop_map(Step::Next),
        4 => (0..9000usize, 1..700usize).prop_map(|(at, len)| Step::At(at, len)),
        4 => (2..6usize, 1..300usize, any::<bool>()).prop_map(|(n, len, back)| Step::Burst(n, len, back)),
        2 => prop::collection::vec(fate, 1..4).prop_map(Step::Fates),
        1 => Just(Step::Reopen),
    ]
}

fn begin(reader: &dyn Reader, at: usize, len: usize) -> Receiver<Result<Vec<u8>, ContentError>> {
    later(|done| reader.read(at as u64, len, Box::new(move |r| done(r.map(<[u8]>::to_vec)))))
}

fn part(content: &[u8], at: usize, len: usize) -> &[u8] {
    let end = content.len().min(at + len);
    &content[at.min(end)..end]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 1000, ..ProptestConfig::default() })]

    #[test]
    fn reads_give_the_right_bytes_or_an_error(
        size in prop_oneof![1..257usize, 257..9000usize],
        cache in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let tmp = tempfile::tempdir().unwrap();
        let remote = TestRemote::new();
        let store = store(tmp.path(), &remote, if cache { 1 << 20 } else { 0 });
        let content = bytes(size, 7);
        let object = remote.put(content.clone());
        let mut reader = store.open(&object);
        let (mut at, mut damaged) = (0, false);
        for step in steps {
            let reads: Vec<_> = match step {
                Step::Next(len) => {
                    let from = at;
                    at += len;
                    vec![(from, len, begin(&*reader, from, len))]
                }
                Step::At(from, len) => vec![(from, len, begin(&*reader, from, len))],
                Step::Burst(n, len, back) => {
                    let mut places: Vec<_> = (0..n).map(|i| at + i * len).collect();
                    at += n * len;
                    if back {
                        places.reverse();
                    }
                    places.into_iter().map(|from| (from, len, begin(&*reader, from, len))).collect()
                }
                Step::Fates(fates) => {
                    damaged |= fates.contains(&Fate::Damaged);
                    remote.state.lock().fates.extend(fates);
                    continue;
                }
                Step::Reopen => {
                    reader = store.open(&object);
                    at = 0;
                    continue;
                }
            };
            for (from, len, outcome) in reads {
                match outcome.recv().unwrap() {
                    // A part of a content cannot be checked, so a damaged part goes through.
                    Ok(got) if damaged && size > 256 => prop_assert_eq!(got.len(), part(&content, from, len).len()),
                    Ok(got) => prop_assert!(got == part(&content, from, len)),
                    // A failure of the cluster, told to those who waited for it.
                    Err(_) => {}
                }
            }
        }
        // With nothing failing any more, all of it is read.
        remote.state.lock().fates.clear();
        if !damaged {
            let reader = store.open(&object);
            let mut all = Vec::new();
            while all.len() < size {
                all.extend(read(&*reader, all.len() as u64, 100).unwrap());
            }
            prop_assert!(all == content);
        }
    }
}

#[test]
fn damage_is_found_before_the_last_byte_of_a_content_is_given_out() {
    let tmp = tempfile::tempdir().unwrap();
    for size in [100, 3000] {
        let remote = TestRemote::new();
        let store = store(tmp.path(), &remote, 0);
        let object = remote.put(bytes(size, 1));
        // The CRC32 of the good content is in the name; every copy is bad.
        remote.state.lock().fates.extend([Fate::Damaged; 100]);
        let reader = store.open(&object);
        let mut at = 0;
        let error = loop {
            match read(&*reader, at, 64) {
                Ok(got) => at += got.len() as u64,
                Err(error) => break error,
            }
        };
        assert!(at < size as u64);
        assert!(matches!(error, ContentError::Corrupt(_) | ContentError::Damaged(_)));
        assert!(size <= 256 || read(&*reader, 0, 1).is_err());
    }
}

#[test]
fn one_bad_copy_of_a_small_content_is_asked_for_again() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let object = remote.put(bytes(200, 1));
    remote.state.lock().fates.push_back(Fate::Damaged);
    assert!(read(&*store.open(&object), 0, 200).unwrap() == bytes(200, 1));
}

#[test]
fn readahead_needs_few_downloads_and_is_bounded() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let content = bytes(200_000, 1);
    let object = remote.put(content.clone());
    let reader = store.open(&object);
    assert!(read(&*reader, 0, 32).unwrap() == content[..32]);
    // A short look at a large content does not fetch all of it.
    assert!(remote.state.lock().downloads <= 2);
    let mut at = 32;
    while at < content.len() {
        let got = read(&*reader, at as u64, 32).unwrap();
        assert!(got == part(&content, at, 32));
        at += got.len();
    }
    let downloads = remote.state.lock().downloads;
    assert!(downloads < 200_000 / 1024, "{downloads}");
}

#[test]
fn what_was_read_as_a_whole_is_cached() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 1 << 20);
    for size in [100, 3000] {
        let content = bytes(size, 1);
        let object = remote.put(content.clone());
        let get = || {
            let reader = store.open(&object);
            let mut all = Vec::new();
            while all.len() < size {
                all.extend(read(&*reader, all.len() as u64, 500).unwrap());
            }
            all
        };
        assert!(get() == content);
        // It is put there in the background.
        while store.local(&object).is_none() {
            std::thread::yield_now();
        }
        remote.state.lock().objects.clear();
        assert!(get() == content);
        later(|done| store.remove(&object.file_id, done)).recv().unwrap().unwrap();
        assert!(store.local(&object).is_none());
        assert!(matches!(read(&*store.open(&object), 0, 1), Err(ContentError::NotFound(_))));
    }
}

#[test]
fn a_read_that_waits_is_answered_when_its_reader_is_dropped() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let object: Object = remote.put(bytes(5000, 1));
    remote.state.lock().fates.push_back(Fate::Late);
    let reader = store.open(&object);
    let waits = begin(&*reader, 0, 100);
    drop(reader);
    assert!(waits.recv().unwrap().unwrap() == bytes(5000, 1)[..100]);
}
