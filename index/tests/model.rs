//! Random sequences of operations: the index does what the model does, before and after it is opened again, and with a
//! working set so small that everything is evicted all the time.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod harness;

use fdfs_index::{Index, Options, fsck};
use harness::{Op, Pair, assert_same, picture_of};
use proptest::prelude::*;

fn ops(length: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(any::<[u8; 6]>().prop_map(Op), 1..length)
}

fn check(ops: &[Op], cache_entries: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let options = Options { cache_entries, ..Options::default() };
    let mut pair = Pair::open(&path, options.clone());
    for (number, op) in ops.iter().enumerate() {
        pair.run(op);
        if cache_entries == 0 && number % 8 == 0 {
            // Only what is committed can be evicted.
            pair.index.commit().unwrap();
        }
    }
    pair.compare();
    let Pair { index, mut model, holds, .. } = pair;
    index.close().unwrap();
    drop(holds);

    let report = fsck(&path, false).unwrap();
    assert!(report.findings.is_empty(), "{report}");
    model.restart();
    let index = Index::open(&path, options).unwrap();
    assert_same(&picture_of(&index), &model.picture());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn like_the_model(ops in ops(200)) {
        check(&ops, 200_000);
    }

    #[test]
    fn like_the_model_without_memory(ops in ops(200)) {
        check(&ops, 0);
    }
}
