//! The tree against a reference model: random operations through several handles, with failing uploads and a failing
//! local disk, over restarts. Names, attributes and contents must be the model's after every step that shows them, times
//! must survive a restart, and the store must hold exactly what is referred to.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod compare;
mod harness;
mod model;

use harness::{Harness, Op};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = u8> {
    0..4u8
}

fn pick() -> impl Strategy<Value = usize> {
    0..64usize
}

fn op() -> impl Strategy<Value = Op> {
    let offset = 0..5000u64;
    prop_oneof![
        6 => (pick(), name(), any::<bool>()).prop_map(|(d, n, append)| Op::Create(d, n, append)),
        2 => (pick(), name()).prop_map(|(d, n)| Op::Mkdir(d, n)),
        1 => (pick(), name()).prop_map(|(d, n)| Op::Symlink(d, n)),
        1 => (pick(), name()).prop_map(|(d, n)| Op::Fifo(d, n)),
        3 => (pick(), name()).prop_map(|(d, n)| Op::Unlink(d, n)),
        2 => (pick(), name()).prop_map(|(d, n)| Op::Rmdir(d, n)),
        4 => (pick(), name(), pick(), name(), 0..3u8).prop_map(|(d, n, e, m, how)| Op::Rename(d, n, e, m, how)),
        2 => (pick(), pick(), name()).prop_map(|(f, d, n)| Op::Link(f, d, n)),
        6 => (pick(), 0..6u8).prop_map(|(f, flags)| Op::Open(f, flags)),
        8 => (pick(), any::<bool>()).prop_map(|(h, flush)| Op::Close(h, flush)),
        12 => (pick(), offset.clone(), 1..3000usize, any::<u8>()).prop_map(|(h, o, l, s)| Op::Write(h, o, l, s)),
        6 => (pick(), offset.clone(), 0..6000usize).prop_map(|(h, o, l)| Op::Read(h, o, l)),
        3 => (pick(), offset.clone()).prop_map(|(f, s)| Op::Truncate(f, s)),
        3 => (pick(), offset.clone()).prop_map(|(h, s)| Op::Ftruncate(h, s)),
        2 => (pick(), offset.clone(), 1..3000u64, 0..4u8).prop_map(|(h, o, l, k)| Op::Fallocate(h, o, l, k)),
        4 => (pick(), offset.clone(), pick(), offset, 1..6000u64).prop_map(|(h, o, g, p, l)| Op::Copy(h, o, g, p, l)),
        4 => (pick(), pick()).prop_map(|(h, g)| Op::CopyWhole(h, g)),
        4 => (pick(), pick(), 1..3000u64).prop_map(|(h, g, l)| Op::CopyInPieces(h, g, l)),
        2 => (pick(), 0..0o7777u32).prop_map(|(f, m)| Op::Chmod(f, m)),
        2 => (pick(), name(), any::<u8>()).prop_map(|(f, n, v)| Op::Setxattr(f, n, v)),
        1 => (pick(), name()).prop_map(|(f, n)| Op::Removexattr(f, n)),
        3 => pick().prop_map(Op::Flush),
        2 => pick().prop_map(Op::Fsync),
        3 => (0..3usize).prop_map(Op::FailUploads),
        1 => Just(Op::FailChange),
        1 => Just(Op::Collect),
        2 => Just(Op::Compare),
        1 => any::<bool>().prop_map(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut harness = Harness::new();
        for op in &ops {
            harness.apply(op);
        }
        harness.finish();
    }
}
