//! Large contents of which some copies are damaged: never a wrong byte, and no error while one copy is good.

use proptest::prelude::*;

use super::remote::{TestRemote, copy};
use super::{begin_seal, bytes, read, store};
use crate::content::reading::find_good;
use crate::content::{ContentError, ContentStore, Object, Sealed, Store};

/// Stores content through a stage, so that the checksums of its parts are known.
fn stored(store: &Store<TestRemote>, content: &[u8]) -> Object {
    let mut stage = store.stage(None, 0).unwrap();
    stage.write(0, content).unwrap();
    match begin_seal(&mut *stage).recv().unwrap().unwrap() {
        Sealed::Stored(stored) => {
            Object { file_id: stored.file_id.into(), size: stored.size, fingerprint: Some(stored.fingerprint) }
        }
        other => panic!("{other:?}"),
    }
}

/// Reads from `at` to the end, `step` bytes at a time.
fn read_on(store: &Store<TestRemote>, object: &Object, at: usize, step: usize) -> Result<Vec<u8>, ContentError> {
    let reader = store.open(object);
    let mut got = Vec::new();
    while ((at + got.len()) as u64) < object.size {
        got.extend(read(&*reader, (at + got.len()) as u64, step)?);
    }
    Ok(got)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn with_known_parts_a_damaged_copy_is_never_seen(
        size in 257..9000usize,
        step in 1..700usize,
        wrong in prop::collection::vec((0..3u8, 0..9000u64), 0..4),
        restarted in any::<bool>(),
        cache in any::<bool>(),
    ) {
        let tmp = tempfile::tempdir().unwrap();
        let remote = TestRemote::new();
        let cache = if cache { 1 << 20 } else { 0 };
        let mut store = store(tmp.path(), &remote, cache);
        let content = bytes(size, 3);
        let object = stored(&store, &content);
        if restarted {
            store = super::store(tmp.path(), &remote, cache);
        }
        remote.state.lock().damaged.extend(wrong.iter().map(|&(number, at)| (copy(number), at % size as u64)));
        let damaged = remote.state.lock().damaged.clone();
        // A part is lost only if all copies of it are damaged.
        let part = |at: &u64| at / 96;
        let lost = damaged.len() == 3 && damaged.values().all(|at| part(at) == part(&damaged[&copy(0)]));
        for _ in 0..2 {
            match read_on(&store, &object, 0, step) {
                Ok(got) => prop_assert!(got == content && !lost),
                Err(error) => prop_assert!(lost && matches!(error, ContentError::Corrupt(_) | ContentError::Damaged(_)), "{error}"),
            }
        }
    }
}

#[test]
fn a_copy_found_damaged_is_told_to_the_cluster() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let content = bytes(5000, 1);
    let object = stored(&store, &content);
    for at in (0..5000).step_by(96) {
        remote.state.lock().damaged.insert(copy(1), at);
        assert!(read_on(&store, &object, 0, 500).unwrap() == content);
    }
    let distrusted = remote.state.lock().distrusted.clone();
    assert!(!distrusted.is_empty() && distrusted.iter().all(|bad| *bad == copy(1)), "{distrusted:?}");
}

#[test]
fn without_known_parts_they_are_learned_from_a_good_copy() {
    for (at, seen) in [(10, true), (2500, true), (4999, false)] {
        let tmp = tempfile::tempdir().unwrap();
        let remote = TestRemote::new();
        let store = store(tmp.path(), &remote, 0);
        let content = bytes(5000, 1);
        let object = remote.put(content.clone());
        for number in [0, 1] {
            remote.state.lock().damaged.insert(copy(number), at);
        }
        match read_on(&store, &object, 0, 200) {
            Ok(got) => assert!(got == content),
            // Damaged bytes may have been given out before it was known: that reader gets an error.
            Err(error) => {
                assert!(seen && matches!(error, ContentError::Corrupt(_) | ContentError::Damaged(_)), "{error}")
            }
        }
        for from in [0, 1234] {
            assert!(read_on(&store, &object, from, 200).unwrap() == content[from..], "damage at {at}");
        }
    }
}

#[test]
fn a_good_content_read_once_is_known_in_parts() {
    let tmp = tempfile::tempdir().unwrap();
    let remote = TestRemote::new();
    let store = store(tmp.path(), &remote, 0);
    let content = bytes(5000, 1);
    let object = remote.put(content.clone());
    assert!(read_on(&store, &object, 0, 200).unwrap() == content);
    remote.state.lock().damaged.insert(copy(0), 100);
    for _ in 0..3 {
        assert!(read_on(&store, &object, 0, 200).unwrap() == content);
    }
    // Removed, so are the checksums.
    super::later(|done| store.remove(&object.file_id, done)).recv().unwrap().unwrap();
    assert_eq!(std::fs::read_dir(tmp.path().join("sums")).unwrap().count(), 0);
}

#[test]
fn what_is_cut_short_wherever_it_is_is_lost() {
    for size in [200, 5000] {
        let tmp = tempfile::tempdir().unwrap();
        let remote = TestRemote::new();
        let store = store(tmp.path(), &remote, 0);
        let object = remote.put(bytes(size, 1));
        remote.state.lock().short.extend([(copy(0), 0), (copy(1), size as u64 - 1)]);
        assert!(read_on(&store, &object, 0, 200).unwrap() == bytes(size, 1));
        remote.state.lock().short.insert(copy(2), size as u64 / 2);
        let error = read_on(&store, &object, 0, 200).unwrap_err();
        assert!(matches!(error, ContentError::Damaged(_)) && error.is_loss(), "{error}");
        // Also out of sequence.
        let error = read(&*store.open(&object), size as u64 - 10, 10).unwrap_err();
        assert!(error.is_loss(), "{error}");
    }
}

#[test]
fn what_a_member_that_is_away_may_have_is_not_lost() {
    for size in [200, 5000] {
        let tmp = tempfile::tempdir().unwrap();
        let remote = TestRemote::new();
        let store = store(tmp.path(), &remote, 0);
        let object = remote.put(bytes(size, 1));
        remote.state.lock().short.extend((0..3).map(|number| (copy(number), size as u64 / 2)));
        remote.state.lock().one_is_away = true;
        // In sequence, and out of it.
        let errors = || {
            [
                read_on(&store, &object, 0, 200).unwrap_err(),
                read(&*store.open(&object), size as u64 - 10, 10).unwrap_err(),
            ]
        };
        errors().iter().for_each(|error| assert!(!error.is_loss(), "{error}"));
        remote.state.lock().one_is_away = false;
        errors().iter().for_each(|error| assert!(error.is_loss(), "{error}"));
    }
}

#[tokio::test]
async fn members_that_do_not_serve_yet_are_asked_when_no_other_copy_is_good() {
    let remote = TestRemote::new();
    let content = bytes(300, 1);
    let object = remote.put(content.clone());
    remote.state.lock().idle.push(copy(2));
    let find = || find_good(&remote, &object.file_id, 0..300, |bytes| bytes == content);
    assert!(find().await.unwrap() == content);
    assert_eq!(remote.state.lock().downloads, 2, "there was no need to ask");
    remote.state.lock().short.extend([(copy(0), 100), (copy(1), 100)]);
    assert!(find().await.unwrap() == content);
    remote.state.lock().short.insert(copy(2), 100);
    let error = find().await.unwrap_err();
    assert!(matches!(error, ContentError::Damaged(_)), "{error}");
}
