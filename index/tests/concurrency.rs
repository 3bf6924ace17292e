//! Many threads at once: nothing deadlocks, nothing is lost, and what is left is consistent.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use fdfs_index::*;
use harness::{NAMES, Random, fingerprint, new_inode, time};

/// Random operations on a few directories that all threads share.
fn stir(index: &Index, dirs: &[Ino], seed: u64, steps: usize, files: &AtomicU64) {
    let mut random = Random(seed);
    let mut holds = Vec::new();
    for step in 0..steps {
        let [code, a, b, c, d, _] = random.op().0;
        let (dir, dir2) = (dirs[a as usize % dirs.len()], dirs[b as usize % dirs.len()]);
        let (name, name2) = (NAMES[c as usize % 6], NAMES[d as usize % 6]);
        let now = time(step);
        let kind = if a % 4 == 0 { FileKind::Directory } else { FileKind::Regular };
        let outcome = match code % 16 {
            0..=2 => index.create(dir, name, &new_inode(kind), now).map(drop),
            3..=5 => index.unlink(dir, name, now).map(drop),
            6 => index.rmdir(dir, name, now).map(drop),
            7 | 8 => index.rename(dir, name, dir2, name2, RenameMode::Replace, now).map(drop),
            9 => index.rename(dir, name, dir2, name2, RenameMode::Exchange, now).map(drop),
            // The shared directories themselves move about.
            10 => index.rename(Ino::ROOT, name, dir, name2, RenameMode::Replace, now).map(drop),
            11 => index.lookup(dir, name).and_then(|attr| {
                let hold = index.hold(attr.ino)?;
                let file_id = format!("group1/{}", files.fetch_add(1, Ordering::Relaxed)).into();
                let new = NewContent { fingerprint: Some(fingerprint(d % 8)), size: 5, file_id, mutable: false };
                holds.push(hold);
                index.attach(attr.ino, new, now).map(drop)
            }),
            12 => index.lookup(dir, name).and_then(|attr| index.link(attr.ino, dir2, name2, now)).map(drop),
            13 => index.readdir(dir, 0, &mut |_, _, attr| attr.nlink < 100),
            14 => {
                holds.truncate(usize::from(a % 4));
                index.garbage(4).and_then(|rows| {
                    let done: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
                    index.garbage_done(&done)
                })
            }
            _ => index.commit(),
        };
        if let Err(error) = outcome {
            assert!(
                !matches!(error, IndexError::Sqlite(_) | IndexError::Corrupt(_) | IndexError::ReadOnly),
                "step {step}: {error}"
            );
        }
    }
}

fn many_threads(cache_entries: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let index = Arc::new(Index::open(&path, Options { cache_entries, ..Options::default() }).unwrap());
    let mut dirs = vec![Ino::ROOT];
    for name in &NAMES[..4] {
        let parent = *dirs.last().unwrap();
        dirs.push(index.create(parent, name, &new_inode(FileKind::Directory), time(0)).unwrap().ino);
        dirs.push(
            index.create(Ino::ROOT, &[name, &b"2"[..]].concat(), &new_inode(FileKind::Directory), time(0)).unwrap().ino,
        );
    }
    let files = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 1..=8 {
            let (index, dirs, files) = (&index, &dirs, &files);
            scope.spawn(move || stir(index, dirs, seed * 0x9e37_79b9, 1500, files));
        }
    });
    index.close().unwrap();
    let report = fsck(&path, false).unwrap();
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn many_threads_with_memory() {
    many_threads(200_000);
}

#[test]
fn many_threads_without_memory() {
    many_threads(0);
}

#[test]
fn a_name_that_is_replaced_is_always_there() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.db"), Options { cache_entries: 0, ..Options::default() }).unwrap();
    let other = index.create(Ino::ROOT, b"other", &new_inode(FileKind::Directory), time(0)).unwrap().ino;
    index.create(Ino::ROOT, b"config", &new_inode(FileKind::Regular), time(0)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for step in 0..2000 {
                // As an editor saves: a new file moved over the old one, from here and from elsewhere.
                let from = if step % 2 == 0 { Ino::ROOT } else { other };
                index.create(from, b"config.new", &new_inode(FileKind::Regular), time(step)).unwrap();
                index.rename(from, b"config.new", Ino::ROOT, b"config", RenameMode::Replace, time(step)).unwrap();
                if step % 64 == 0 {
                    index.commit().unwrap();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    index.lookup(Ino::ROOT, b"config").unwrap();
                    let mut seen = 0;
                    let mut count = |_: u64, name: &[u8], _: &Attr| {
                        seen += u32::from(name == b"config");
                        true
                    };
                    index.readdir(Ino::ROOT, 0, &mut count).unwrap();
                    assert!(seen <= 1);
                }
            });
        }
    });
}

#[test]
fn one_of_two_equal_uploads_wins_and_the_other_is_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.db"), Options::default()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let index = &index;
            scope.spawn(move || {
                for round in 0..100u8 {
                    let name = format!("{thread}-{round}");
                    let ino =
                        index.create(Ino::ROOT, name.as_bytes(), &new_inode(FileKind::Regular), time(1)).unwrap().ino;
                    let print = fingerprint(round);
                    if index.reuse(ino, &print, 5, time(2)).unwrap().is_none() {
                        let file_id = format!("group1/{name}").into();
                        let new = NewContent { fingerprint: Some(print), size: 5, file_id, mutable: false };
                        index.attach(ino, new, time(2)).unwrap();
                    }
                }
            });
        }
    });
    let stats = index.stats();
    assert_eq!((stats.contents, stats.logical_bytes, stats.stored_bytes), (100, 2000, 500));
    index.sync().unwrap();
    for (_, file_id) in index.garbage(1000).unwrap() {
        let mut used = false;
        index
            .readdir(Ino::ROOT, 0, &mut |_, _, attr| {
                used |= index.content(attr.ino).unwrap().is_some_and(|content| content.file_id == file_id);
                true
            })
            .unwrap();
        assert!(!used, "{file_id} is garbage and in use");
    }
}
