//! An appender file under random changes equals a vector of bytes, and its binlog replays to the same bytes' sizes.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use common::{Fixture, noise};
use fdfs_protocol::binlog::{Change, Record};
use fdfs_protocol::storage::FileInfo;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Append(usize),
    /// Where, in percent of the size; how much.
    Modify(usize, usize),
    /// To this percent of the size.
    Truncate(usize),
    Info,
    /// A range, both in percent of the size.
    Read(usize, usize),
    Restart,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..2000, 1 => 250_000usize..270_000, 1 => 400_000usize..1_200_000]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => size().prop_map(Op::Append),
        2 => (0usize..=100, size()).prop_map(|(at, len)| Op::Modify(at, len)),
        1 => (0usize..150).prop_map(Op::Truncate),
        1 => Just(Op::Info),
        2 => (0usize..=100, 0usize..=100).prop_map(|(at, len)| Op::Read(at, len)),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_appender_is_a_vector(first in size(), ops in proptest::collection::vec(op(), 1..12)) {
        let mut f = Fixture::start();
        let mut c = f.client();
        let mut model = noise(first, 0);
        let name = c.upload_appender(&model, "bin");
        for (i, op) in ops.iter().enumerate() {
            let seed = i as u64 + 1;
            match *op {
                Op::Append(len) => {
                    let piece = noise(len, seed);
                    c.append(&name, &piece).ok();
                    model.extend_from_slice(&piece);
                }
                Op::Modify(at, len) => {
                    let (at, piece) = (model.len() * at / 100, noise(len, seed));
                    c.modify(&name, at as u64, &piece).ok();
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].copy_from_slice(&piece);
                }
                Op::Truncate(to) => {
                    let to = model.len() * to / 100;
                    c.truncate(&name, to as u64).ok();
                    model.resize(to, 0);
                }
                Op::Info => {
                    let info = FileInfo::decode(&c.info(&name, 0).ok()).unwrap();
                    prop_assert_eq!((info.size, info.crc32), (model.len() as u64, crc32fast::hash(&model)));
                }
                Op::Read(at, len) => {
                    let (at, len) = (model.len() * at / 100, model.len() * len / 100);
                    let end = if len == 0 { model.len() } else { model.len().min(at + len) };
                    if at < model.len() {
                        prop_assert_eq!(c.download(&name, at as u64, len as u64).ok(), &model[at..end]);
                    }
                }
                Op::Restart => {
                    f.restart();
                    c = f.client();
                }
            }
        }
        let sealed = c.regenerate(&name).name();
        let block = sealed.block().unwrap();
        prop_assert_eq!((block.size.size(), block.crc32), (Some(model.len() as u64), crc32fast::hash(&model)));
        if !model.is_empty() {
            prop_assert_eq!(&c.content(&sealed), &model);
        }
        let mut size = first as u64;
        for line in f.binlog().lines() {
            match Record::parse(line.as_bytes()).unwrap().change {
                Change::Append { offset, len } => {
                    prop_assert_eq!(offset, size);
                    size += len;
                }
                Change::Modify { offset, len } => size = size.max(offset + len),
                Change::Truncate { old, new } => {
                    prop_assert_eq!(old, size);
                    size = new;
                }
                _ => {}
            }
        }
        prop_assert_eq!(size, model.len() as u64);
    }
}
