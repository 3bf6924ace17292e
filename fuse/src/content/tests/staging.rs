//! Staged content must be what a vector of bytes would be, and seals must store what it was, whatever fails.

use std::sync::mpsc::Receiver;

use proptest::prelude::*;

use super::remote::{Fate, OPEN, TestRemote};
use super::{begin_seal, bytes, later, read_stage, store};
use crate::content::{ContentError, ContentStore, Fingerprint, Sealed};

#[derive(Debug, Clone)]
enum Step {
    Write {
        offset: usize,
        len: usize,
        seed: u8,
    },
    Append {
        len: usize,
        seed: u8,
    },
    Truncate(usize),
    Punch {
        offset: usize,
        len: usize,
    },
    Read {
        offset: usize,
        len: usize,
    },
    Seal,
    /// Waits for all seals.
    Settle,
    /// Nothing can be stored until the next `Open`.
    Close,
    Open,
    /// Survives a restart.
    Restart,
    Fates(Vec<Fate>),
}

const MOST: usize = 6000;

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        3 => Just(Fate::Good),
        2 => Just(Fate::Late),
        2 => Just(Fate::Refused),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Behind),
    ];
    prop_oneof![
        6 => (0..MOST, 1..600usize, any::<u8>()).prop_map(|(offset, len, seed)| Step::Write { offset, len, seed }),
        10 => (1..900usize, any::<u8>()).prop_map(|(len, seed)| Step::Append { len, seed }),
        2 => (0..MOST).prop_map(Step::Truncate),
        1 => Just(Step::Truncate(0)),
        2 => (0..MOST, 1..2000usize).prop_map(|(offset, len)| Step::Punch { offset, len }),
        4 => (0..MOST, 1..2000usize).prop_map(|(offset, len)| Step::Read { offset, len }),
        5 => Just(Step::Seal),
        2 => Just(Step::Settle),
        2 => Just(Step::Close),
        2 => Just(Step::Open),
        1 => Just(Step::Restart),
        3 => prop::collection::vec(fate, 1..5).prop_map(Step::Fates),
    ]
}

/// Seals under way, each with the content it was asked to seal.
type Seals = Vec<(Vec<u8>, Receiver<Result<Sealed, ContentError>>)>;

/// What the cluster has of the content.
struct Held {
    content: Vec<u8>,
    file_id: String,
}

/// Checks how the seals ended, and does what the index does after each.
fn settle(remote: &TestRemote, seals: &mut Seals, held: &mut Held) -> Result<(), TestCaseError> {
    for (content, outcome) in seals.drain(..) {
        match outcome.recv().unwrap() {
            Ok(Sealed::Stored(s)) => {
                prop_assert_eq!(s.size, content.len() as u64);
                prop_assert_eq!(s.fingerprint, Fingerprint::of(&content));
                prop_assert!(remote.object(&s) == content);
                // What was there before is released now, and may be gone at any moment.
                remote.state.lock().objects.remove(&std::mem::replace(&mut held.file_id, s.file_id));
            }
            Ok(Sealed::Empty) => prop_assert!(content.is_empty()),
            Ok(Sealed::Unchanged) => prop_assert!(content == held.content),
            Ok(Sealed::Known { .. }) => prop_assert!(false, "nothing is known here"),
            Err(_) => continue,
        }
        held.content = content;
    }
    Ok(())
}

fn run(base: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let mut store_ = store(tmp.path(), &remote, 0);
    let mut model = bytes(base, 3);
    let object = (base > 0).then(|| remote.put(model.clone()));
    let file_id = object.as_ref().map(|o| o.file_id.to_string()).unwrap_or_default();
    let mut held = Held { content: model.clone(), file_id };
    let mut stage = store_.stage(object.as_ref(), base as u64).unwrap();
    let mut seals = Seals::new();
    let mut closed = None;
    for step in steps {
        match step {
            Step::Write { offset, len, seed } => {
                let data = bytes(len, seed);
                stage.write(offset as u64, &data).unwrap();
                model.resize(model.len().max(offset + len), 0);
                model[offset..offset + len].copy_from_slice(&data);
            }
            Step::Append { len, seed } => {
                let data = bytes(len, seed);
                stage.write(model.len() as u64, &data).unwrap();
                model.extend(data);
            }
            Step::Truncate(size) => {
                stage.truncate(size as u64).unwrap();
                model.resize(size, 0);
            }
            Step::Punch { offset, len } => {
                stage.punch(offset as u64..(offset + len) as u64).unwrap();
                let end = model.len().min(offset + len);
                if offset < end {
                    model[offset..end].fill(0);
                }
            }
            Step::Read { offset, len } => {
                let end = model.len().min(offset + len);
                let expected = &model[offset.min(end)..end];
                let got = read_stage(&mut *stage, offset as u64, len);
                let got = got.or_else(|_| {
                    // A fault, or a base that a seal has just replaced.
                    closed = None;
                    remote.state.lock().fates.clear();
                    settle(&remote, &mut seals, &mut held).unwrap();
                    read_stage(&mut *stage, offset as u64, len)
                });
                prop_assert!(got.unwrap() == expected);
            }
            Step::Seal => seals.push((model.clone(), begin_seal(&mut *stage))),
            Step::Settle => {
                closed = None;
                settle(&remote, &mut seals, &mut held)?;
            }
            Step::Close => {
                if closed.is_none() {
                    closed = remote.gate.clone().try_acquire_many_owned(OPEN).ok();
                }
            }
            Step::Open => closed = None,
            Step::Restart => {
                let kept = stage.keep().unwrap();
                prop_assert_eq!(kept.size, model.len() as u64);
                closed = None;
                let dirty = stage.dirty();
                settle(&remote, &mut seals, &mut held)?;
                let saved = !stage.dirty();
                drop(stage);
                store_.close();
                store_ = store(tmp.path(), &remote, 0);
                store_.sweep(std::slice::from_ref(&kept)).unwrap();
                stage = if saved {
                    // The cluster has it all; here, nothing of it is left.
                    prop_assert!(store_.recover(&kept).is_err() || !dirty);
                    let object = (!model.is_empty()).then(|| remote.put(model.clone()));
                    let file_id = object.as_ref().map(|o| o.file_id.to_string()).unwrap_or_default();
                    held = Held { content: model.clone(), file_id };
                    store_.stage(object.as_ref(), model.len() as u64).unwrap()
                } else {
                    store_.recover(&kept).unwrap().stage
                };
            }
            Step::Fates(fates) => remote.state.lock().fates.extend(fates),
        }
        prop_assert_eq!(stage.size(), model.len() as u64);
    }
    drop(closed);
    remote.state.lock().fates.clear();
    settle(&remote, &mut seals, &mut held)?;
    // Whatever failed before, the next seal succeeds.
    seals.push((model.clone(), begin_seal(&mut *stage)));
    let last = &seals[0].1;
    let outcome = last.recv().unwrap();
    prop_assert!(outcome.is_ok(), "{:?}", outcome);
    seals[0].1 = later(|done| done(outcome));
    settle(&remote, &mut seals, &mut held)?;
    prop_assert!(held.content == model);
    prop_assert!(!stage.dirty());
    prop_assert!(read_stage(&mut *stage, 0, model.len() + 1).unwrap() == model);
    drop(stage);
    store_.close();
    // No local file is left, and nothing in the cluster that nobody knows of.
    let left: Vec<_> = std::fs::read_dir(tmp.path().join("staging")).unwrap().map(|e| e.unwrap().file_name()).collect();
    prop_assert!(left.is_empty(), "{:?}", left);
    prop_assert!(remote.state.lock().appenders.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn equals_a_vector_of_bytes(base in prop_oneof![Just(0), 1..256usize, 257..4000usize], steps in prop::collection::vec(step(), 1..30)) {
        run(base, steps)?;
    }
}

#[test]
fn a_file_written_in_sequence_is_streamed_and_not_uploaded() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let content = bytes(20_000, 1);
    let mut stage = store.stage(None, 0).unwrap();
    for (i, part) in content.chunks(100).enumerate() {
        stage.write(i as u64 * 100, part).unwrap();
        while i == 100 && remote.state.lock().appends == 0 {
            std::thread::yield_now();
        }
    }
    let Ok(Sealed::Stored(stored)) = begin_seal(&mut *stage).recv().unwrap() else { panic!() };
    assert!(remote.object(&stored) == content);
    let state = remote.state.lock();
    assert_eq!((state.uploads, state.appenders.len()), (0, 0));
    assert!(state.appends > 0);
}

#[test]
fn what_nobody_referred_to_is_stored_again() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    for len in [100, 20_000] {
        let content = bytes(len, 2);
        let mut stage = store.stage(None, 0).unwrap();
        stage.write(0, &content).unwrap();
        assert!(matches!(begin_seal(&mut *stage).recv().unwrap(), Ok(Sealed::Stored(_))));
        assert!(matches!(begin_seal(&mut *stage).recv().unwrap(), Ok(Sealed::Unchanged)));
        stage.unsealed();
        assert!(stage.dirty());
        let Ok(Sealed::Stored(stored)) = begin_seal(&mut *stage).recv().unwrap() else { panic!() };
        assert!(remote.object(&stored) == content);
    }
}

#[test]
fn known_content_is_not_uploaded() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    for len in [10, 500, 5000] {
        let content = bytes(len, 1);
        let mut stage = store.stage(None, 0).unwrap();
        stage.write(0, &content).unwrap();
        let sealed = later(|done| stage.seal(Box::new(|_, _| true), done)).recv().unwrap().unwrap();
        assert_eq!(sealed, Sealed::Known { fingerprint: Fingerprint::of(&content), size: len as u64 });
    }
    let state = remote.state.lock();
    assert_eq!((state.objects.len(), state.appenders.len()), (0, 0));
}

#[test]
fn a_rewrite_of_what_was_streamed_gives_the_appender_up() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let mut content = bytes(3000, 1);
    let mut stage = store.stage(None, 0).unwrap();
    stage.write(0, &content[..1500]).unwrap();
    stage.write(1500, &content[1500..]).unwrap();
    while remote.state.lock().appends == 0 {
        std::thread::yield_now();
    }
    stage.write(10, b"header").unwrap();
    content[10..16].copy_from_slice(b"header");
    let Ok(Sealed::Stored(stored)) = begin_seal(&mut *stage).recv().unwrap() else { panic!() };
    assert!(remote.object(&stored) == content);
    assert!(remote.state.lock().appenders.is_empty());
}

#[test]
fn what_went_to_a_member_that_lacks_an_earlier_part_is_uploaded_anew() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let content = bytes(3000, 1);
    remote.state.lock().fates.extend([Fate::Good, Fate::Behind]);
    let mut stage = store.stage(None, 0).unwrap();
    stage.write(0, &content[..1500]).unwrap();
    while remote.state.lock().appends == 0 {
        std::thread::yield_now();
    }
    stage.write(1500, &content[1500..]).unwrap();
    let Ok(Sealed::Stored(stored)) = begin_seal(&mut *stage).recv().unwrap() else { panic!() };
    assert!(remote.object(&stored) == content);
    let state = remote.state.lock();
    assert!(state.fates.is_empty(), "it was streamed");
    assert_eq!((state.uploads, state.objects.len()), (1, 1), "what is wrong is removed");
}

#[test]
fn a_killed_process_leaves_no_appender_behind() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    {
        let store = store(tmp.path(), &remote, 0);
        std::fs::write(tmp.path().join("staging/1-1.appender"), "group1/M00/00/00/left").unwrap();
        std::fs::write(tmp.path().join("staging/1-1.data"), "left").unwrap();
        remote.state.lock().appenders.insert("group1/M00/00/00/left".into(), vec![1]);
        store.sweep(&[]).unwrap();
    }
    assert!(remote.state.lock().appenders.is_empty());
    assert_eq!(std::fs::read_dir(tmp.path().join("staging")).unwrap().count(), 0);
}
