//! What the hot paths of a mounted tree cost: names and attributes from memory, listing, and the commit behind a close.

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fdfs_index::{Attr, FileKind, Fingerprint, Index, Ino, NewContent, NewInode, Options, Timestamp};

/// The index is put where the figures are wanted: `FDFS_BENCH_DIR`, else the temporary directory.
fn scratch() -> tempfile::TempDir {
    let base = std::env::var_os("FDFS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(base).expect("a scratch directory")
}

fn open(dir: &tempfile::TempDir, cache_entries: usize) -> Index {
    let options = Options { cache_entries, ..Options::default() };
    Index::open(&dir.path().join("index.db"), options).expect("an index")
}

fn inode(kind: FileKind) -> NewInode {
    NewInode { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: None }
}

fn create(index: &Index, dir: Ino, number: u64, kind: FileKind) -> Attr {
    let name = format!("file-{number:08}.dat");
    index.create(dir, name.as_bytes(), &inode(kind), Timestamp::now()).expect("a new name")
}

fn attach(index: &Index, ino: Ino, number: u64) {
    let new = NewContent {
        fingerprint: Some(Fingerprint::of(&number.to_le_bytes())),
        size: 16_384,
        file_id: format!("group1/M00/00/00/wKgBcGf{number:08x}AAABAABWkAAAAABcd1234").into(),
        mutable: false,
    };
    index.attach(ino, new, Timestamp::now()).expect("attached");
}

/// A directory with `count` files with content.
fn filled(index: &Index, count: u64) -> Ino {
    let dir = create(index, Ino::ROOT, count, FileKind::Directory).ino;
    for number in 0..count {
        let ino = create(index, dir, number, FileKind::Regular).ino;
        attach(index, ino, number);
    }
    index.commit().expect("committed");
    dir
}

fn reads(c: &mut Criterion) {
    let scratch = scratch();
    let index = open(&scratch, 200_000);
    let dir = filled(&index, 10_000);
    let names: Vec<String> = (0..10_000).map(|number| format!("file-{number:08}.dat")).collect();
    let inos: Vec<Ino> = names.iter().map(|name| index.lookup(dir, name.as_bytes()).expect("there").ino).collect();

    let mut group = c.benchmark_group("warm");
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    group.bench_function("lookup", |b| {
        b.iter(|| {
            at = (at + 7919) % names.len();
            black_box(index.lookup(dir, names[at].as_bytes()).expect("there"))
        });
    });
    group.bench_function("lookup of an absent name", |b| b.iter(|| index.lookup(dir, b"absent").is_err()));
    group.bench_function("getattr", |b| {
        b.iter(|| {
            at = (at + 7919) % inos.len();
            black_box(index.getattr(inos[at]).expect("there"))
        });
    });
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("readdir of 10k", |b| b.iter(|| list(&index, dir)));
    group.finish();
    index.close().expect("closed");

    let mut group = c.benchmark_group("cold");
    group.throughput(Throughput::Elements(10_000));
    group.sample_size(10);
    group.bench_function("readdir of 10k", |b| {
        b.iter_batched(|| open(&scratch, 200_000), |index| (list(&index, dir), index), BatchSize::PerIteration);
    });
    group.finish();
}

fn list(index: &Index, dir: Ino) -> u64 {
    let mut count = 0;
    index
        .readdir(dir, 0, &mut |_, name, attr| {
            black_box((name, attr));
            count += 1;
            true
        })
        .expect("listed");
    count
}

fn writes(c: &mut Criterion) {
    let scratch = scratch();
    let index = open(&scratch, 200_000);
    let dir = filled(&index, 1000);
    let mut number = 1_000_000;
    let mut group = c.benchmark_group("create + attach");
    group.throughput(Throughput::Elements(1));
    group.bench_function("and wait for the commit", |b| {
        b.iter(|| {
            number += 1;
            let ino = create(&index, dir, number, FileKind::Regular).ino;
            attach(&index, ino, number);
            index.commit().expect("committed");
        });
    });
    group.bench_function("and do not wait", |b| {
        b.iter(|| {
            number += 1;
            let ino = create(&index, dir, number, FileKind::Regular).ino;
            attach(&index, ino, number);
        });
    });
    group.finish();
    index.close().expect("closed");
}

criterion_group!(benches, reads, writes);
criterion_main!(benches);
