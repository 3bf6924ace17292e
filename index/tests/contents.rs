//! Contents, references, garbage, orphans and staged data, one rule at a time.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod harness;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use fdfs_index::*;
use harness::{fingerprint, new_inode, time};

fn fresh() -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir);
    (dir, index)
}

fn open(dir: &tempfile::TempDir) -> Index {
    Index::open(&dir.path().join("index.db"), Options::default()).unwrap()
}

fn touch(index: &Index, name: &str) -> Ino {
    index.create(Ino::ROOT, name.as_bytes(), &new_inode(FileKind::Regular), time(1)).unwrap().ino
}

fn sealed(number: u8, file_id: &str) -> NewContent {
    NewContent { fingerprint: Some(fingerprint(number)), size: 10, file_id: file_id.into(), mutable: false }
}

fn mutable(size: u64, file_id: &str) -> NewContent {
    NewContent { fingerprint: None, size, file_id: file_id.into(), mutable: true }
}

/// All garbage there is to hand out now.
fn garbage(index: &Index) -> Vec<(GarbageId, Arc<str>)> {
    index.sync().unwrap();
    index.garbage(1000).unwrap()
}

fn names(rows: &[(GarbageId, Arc<str>)]) -> Vec<&str> {
    rows.iter().map(|(_, file_id)| &**file_id).collect()
}

#[test]
fn ten_names_of_one_content() {
    let (_dir, index) = fresh();
    let first = touch(&index, "0");
    assert!(index.reuse(first, &fingerprint(1), 10, time(2)).unwrap().is_none());
    index.attach(first, sealed(1, "group1/a"), time(2)).unwrap();
    for number in 1..10 {
        let ino = touch(&index, &number.to_string());
        let attr = index.reuse(ino, &fingerprint(1), 10, time(3)).unwrap().unwrap();
        assert_eq!((attr.size, attr.mtime, attr.ctime), (10, time(3), time(3)));
        assert!(index.reuse(ino, &fingerprint(1), 11, time(3)).unwrap().is_none(), "the size belongs to it");
    }
    let content = index.content(first).unwrap().unwrap();
    assert_eq!((content.refs, &*content.file_id), (10, "group1/a"));
    assert_eq!(index.stats(), IndexStats { inodes: 11, contents: 1, logical_bytes: 100, stored_bytes: 10, garbage: 0 });
    for number in 0..9 {
        index.unlink(Ino::ROOT, number.to_string().as_bytes(), time(4)).unwrap();
        assert!(garbage(&index).is_empty());
    }
    index.unlink(Ino::ROOT, b"9", time(4)).unwrap();
    assert_eq!(names(&garbage(&index)), ["group1/a"]);
}

#[test]
fn the_second_of_two_equal_uploads_is_garbage() {
    let (_dir, index) = fresh();
    let (a, b) = (touch(&index, "a"), touch(&index, "b"));
    index.attach(a, sealed(1, "group1/a"), time(2)).unwrap();
    index.attach(b, sealed(1, "group1/b"), time(2)).unwrap();
    assert_eq!(&*index.content(b).unwrap().unwrap().file_id, "group1/a");
    assert_eq!(names(&garbage(&index)), ["group1/b"]);
    // Said again, it changes nothing.
    index.attach(a, sealed(1, "group1/a"), time(3)).unwrap();
    assert_eq!(index.content(a).unwrap().unwrap().refs, 2);
}

#[test]
fn a_file_id_stands_for_one_content() {
    let (_dir, index) = fresh();
    let (a, b) = (touch(&index, "a"), touch(&index, "b"));
    index.attach(a, sealed(1, "group1/a"), time(2)).unwrap();
    assert!(matches!(index.attach(b, sealed(2, "group1/a"), time(2)), Err(IndexError::Invalid(_))));
    assert!(matches!(index.attach(b, mutable(10, "group1/a"), time(2)), Err(IndexError::Invalid(_))));
    assert_eq!(index.content(b).unwrap(), None);
    // Adopted without a fingerprint, it is the same one.
    index.attach(b, NewContent { fingerprint: None, ..sealed(1, "group1/a") }, time(2)).unwrap();
    assert_eq!(index.content(a).unwrap().unwrap().refs, 2);
    assert!(matches!(index.discard("group1/a"), Err(IndexError::Invalid(_))));
}

#[test]
fn lost_content_is_offered_to_nobody_and_comes_back_for_all_with_another_file_id() {
    let (dir, index) = fresh();
    let [a, b, c] = ["a", "b", "c"].map(|name| touch(&index, name));
    index.attach(a, sealed(1, "group1/a"), time(2)).unwrap();
    index.reuse(b, &fingerprint(1), 10, time(2)).unwrap().unwrap();
    let id = index.content(a).unwrap().unwrap().id;
    assert!(!index.content_lost(a, "group1/older").unwrap(), "of a file ID that it had before");
    assert!(!index.content_lost(c, "group1/a").unwrap(), "it has none");
    assert!(index.content_lost(a, "group1/a").unwrap());
    assert!(!index.content_lost(b, "group1/a").unwrap(), "once is enough");
    assert_eq!(index.reuse(c, &fingerprint(1), 10, time(3)).unwrap(), None);
    assert_eq!(index.clone_content(a, c, id, time(3)).unwrap(), None);
    assert_eq!(index.content(c).unwrap(), None);
    index.close().unwrap();
    let index = open(&dir);
    assert_eq!(index.reuse(c, &fingerprint(1), 10, time(3)).unwrap(), None, "also after another start");

    index.attach(c, sealed(1, "group1/c"), time(4)).unwrap();
    for ino in [a, b, c] {
        let content = index.content(ino).unwrap().unwrap();
        assert_eq!((content.id, &*content.file_id, content.refs), (id, "group1/c", 3));
    }
    assert_eq!(names(&garbage(&index)), ["group1/a"]);
    assert_eq!(index.stats(), IndexStats { inodes: 4, contents: 1, logical_bytes: 30, stored_bytes: 10, garbage: 1 });
    assert!(!index.content_lost(a, "group1/a").unwrap(), "a late word of the old one");
    let d = touch(&index, "d");
    assert!(index.reuse(d, &fingerprint(1), 10, time(5)).unwrap().is_some());
    index.close().unwrap();
    let index = open(&dir);
    assert_eq!(&*index.content(a).unwrap().unwrap().file_id, "group1/c");
}

#[test]
fn lost_content_takes_over_the_file_id_of_what_is_sealed() {
    let (_dir, index) = fresh();
    let [a, b] = ["a", "b"].map(|name| touch(&index, name));
    index.attach(a, sealed(1, "group1/a"), time(2)).unwrap();
    index.content_lost(a, "group1/a").unwrap();
    index.attach(b, mutable(10, "group1/b"), time(3)).unwrap();
    index.attach(b, sealed(1, "group1/b"), time(4)).unwrap();
    assert_eq!([a, b].map(|ino| index.content(ino).unwrap().unwrap().file_id.to_string()), ["group1/b"; 2]);
    assert_eq!(names(&garbage(&index)), ["group1/a"]);
    assert!(matches!(index.discard("group1/b"), Err(IndexError::Invalid(_))), "it is referred to");
}

#[test]
fn mutable_content_changes_in_place_and_is_sealed() {
    let (_dir, index) = fresh();
    let (a, b) = (touch(&index, "a"), touch(&index, "b"));
    index.attach(a, mutable(5, "group1/appender"), time(2)).unwrap();
    let id = index.content(a).unwrap().unwrap().id;
    let attr = index.attach(a, mutable(50, "group1/appender"), time(3)).unwrap();
    assert_eq!((attr.size, attr.content), (50, Some(id)));
    assert_eq!(index.stats().stored_bytes, 50);
    assert!(matches!(index.clone_content(a, b, id, time(4)), Err(IndexError::Invalid(_))));
    // Sealed under the same name, then it can be shared.
    index.attach(a, sealed(1, "group1/appender"), time(5)).unwrap();
    let content = index.content(a).unwrap().unwrap();
    assert_eq!((content.id, content.mutable, content.size), (id, false, 10));
    assert_eq!(index.clone_content(a, b, id, time(6)).unwrap().unwrap().content, Some(id));
    assert!(index.reuse(touch(&index, "c"), &fingerprint(1), 10, time(6)).unwrap().is_some());

    // Sealed, it may turn out to be known already.
    let d = touch(&index, "d");
    index.attach(d, mutable(10, "group1/other"), time(7)).unwrap();
    assert_eq!(index.attach(d, sealed(1, "group1/other"), time(8)).unwrap().content, Some(id));
    assert_eq!(names(&garbage(&index)), ["group1/other"]);
    assert_eq!(index.stats().stored_bytes, 10);
}

#[test]
fn the_change_time_never_goes_back() {
    let (_dir, index) = fresh();
    let file = touch(&index, "file");
    let attr = index.attach(file, sealed(1, "group1/a"), time(0)).unwrap();
    assert_eq!((attr.mtime, attr.ctime), (time(0), time(1)));
}

#[test]
fn only_regular_files_have_content() {
    let (_dir, index) = fresh();
    let fifo = index.create(Ino::ROOT, b"fifo", &new_inode(FileKind::Fifo), time(1)).unwrap().ino;
    assert_eq!(index.attach(fifo, sealed(1, "x"), time(1)).unwrap_err().to_errno(), libc::EINVAL);
    assert_eq!(index.clear_content(Ino::ROOT, time(1)).unwrap_err().to_errno(), libc::EISDIR);
    assert_eq!(index.content(Ino::ROOT).unwrap(), None);
    let file = touch(&index, "file");
    let huge = NewContent { size: 1 << 63, ..sealed(1, "x") };
    assert_eq!(index.attach(file, huge, time(1)).unwrap_err().to_errno(), libc::EINVAL);
}

#[test]
fn a_copy_is_a_reference_to_the_content_that_was_meant() {
    let (_dir, index) = fresh();
    let (a, b, empty) = (touch(&index, "a"), touch(&index, "b"), touch(&index, "empty"));
    index.attach(a, sealed(1, "group1/a"), time(2)).unwrap();
    let id = index.content(a).unwrap().unwrap().id;
    assert_eq!(index.clone_content(a, b, id, time(3)).unwrap().unwrap().size, 10);
    assert_eq!(index.clone_content(a, a, id, time(3)).unwrap().unwrap().size, 10);
    assert_eq!(index.content(a).unwrap().unwrap().refs, 2);
    assert_eq!(index.clone_content(empty, b, id, time(4)).unwrap(), None);
    assert_eq!(index.getattr(b).unwrap().size, 10);
    index.clear_content(b, time(4)).unwrap();
    assert_eq!(index.clear_content(a, time(4)).unwrap().content, None);
    assert_eq!(names(&garbage(&index)), ["group1/a"]);
}

#[test]
fn an_open_file_lives_on_without_a_name() {
    let (_dir, index) = fresh();
    let file = touch(&index, "file");
    index.attach(file, sealed(1, "group1/a"), time(2)).unwrap();
    let first = index.hold(file).unwrap();
    let second = index.hold(file).unwrap();
    assert_eq!(first.ino(), file);
    assert_eq!(index.unlink(Ino::ROOT, b"file", time(3)).unwrap().nlink, 0);
    assert_eq!(index.link(file, Ino::ROOT, b"back", time(3)).unwrap_err().to_errno(), libc::ENOENT);
    // It can still be written.
    index.attach(file, sealed(2, "group1/b"), time(4)).unwrap();
    drop(first);
    assert_eq!(&*index.content(file).unwrap().unwrap().file_id, "group1/b");
    assert_eq!(names(&garbage(&index)), ["group1/a"]);
    drop(second);
    assert_eq!(index.getattr(file).unwrap_err().to_errno(), libc::ENOENT);
    assert_eq!(index.attach(file, sealed(3, "group1/c"), time(5)).unwrap_err().to_errno(), libc::ENOENT);
    assert_eq!(names(&garbage(&index)), ["group1/b"]);
    assert_eq!(index.stats(), IndexStats { inodes: 1, garbage: 2, ..IndexStats::default() });
}

#[test]
fn what_was_open_at_a_crash_is_reclaimed_by_the_next_start() {
    let (dir, index) = fresh();
    for name in ["alone", "shared", "other", "empty"] {
        let ino = touch(&index, name);
        match name {
            "alone" => _ = index.attach(ino, sealed(1, "group1/alone"), time(2)).unwrap(),
            "empty" => {}
            _ => _ = index.attach(ino, sealed(2, &format!("group1/{name}")), time(2)).unwrap(),
        }
    }
    let hold = |name: &[u8]| index.hold(index.lookup(Ino::ROOT, name).unwrap().ino).unwrap();
    let holds = [hold(b"alone"), hold(b"shared"), hold(b"empty")];
    for name in [&b"alone"[..], b"shared", b"empty"] {
        index.unlink(Ino::ROOT, name, time(3)).unwrap();
    }
    index.close().unwrap();
    drop(holds);
    let index = open(&dir);
    assert_eq!(index.stats(), IndexStats { inodes: 2, contents: 1, logical_bytes: 10, stored_bytes: 10, garbage: 2 });
    let mut garbage = names(&garbage(&index)).into_iter().map(String::from).collect::<Vec<_>>();
    garbage.sort();
    assert_eq!(garbage, ["group1/alone", "group1/other"]);
    let other = index.lookup(Ino::ROOT, b"other").unwrap().ino;
    assert_eq!(index.content(other).unwrap().unwrap().refs, 1);
}

#[test]
fn garbage_is_handed_out_once_and_only_from_stable_storage() {
    let (dir, index) = fresh();
    let (send, receive) = mpsc::channel();
    index.garbage_notify(Box::new(move || _ = send.send(())));
    index.discard("group1/a").unwrap();
    // Committed is not enough: a power cut could still take it back.
    index.commit().unwrap();
    let early = index.garbage(10).unwrap();
    // The writer syncs by itself within a second; that is when it calls, and not before.
    receive.recv().unwrap();
    let rows = if early.is_empty() { index.garbage(10).unwrap() } else { early };
    assert_eq!(names(&rows), ["group1/a"]);
    let id = rows[0].0;
    assert!(index.garbage(10).unwrap().is_empty());

    index.discard("group1/b").unwrap();
    index.sync().unwrap();
    index.garbage_failed(&[id, id]);
    assert_eq!(names(&index.garbage(1).unwrap()), ["group1/a"]);
    assert_eq!(names(&index.garbage(10).unwrap()), ["group1/b"]);
    index.garbage_done(&[id, id, GarbageId(999)]).unwrap();
    index.garbage_failed(&[id]);
    assert!(index.garbage(10).unwrap().is_empty());
    assert_eq!(index.stats().garbage, 1);
    index.close().unwrap();
    // What was not done comes again.
    let index = open(&dir);
    assert_eq!(names(&index.garbage(10).unwrap()), ["group1/b"]);
}

#[test]
fn a_file_id_that_is_adopted_again_is_not_deleted() {
    let (_dir, index) = fresh();
    index.discard("group1/a").unwrap();
    index.discard("group1/b").unwrap();
    let file = touch(&index, "file");
    index.attach(file, sealed(1, "group1/a"), time(2)).unwrap();
    assert_eq!(names(&garbage(&index)), ["group1/b"]);
    assert_eq!(index.stats().garbage, 1);
}

#[test]
fn staged_data_is_remembered_as_long_as_its_inode() {
    let (dir, index) = fresh();
    let (a, b, c) = (touch(&index, "a"), touch(&index, "b"), touch(&index, "c"));
    let row = |ino, size| StagedRow { ino, path: PathBuf::from(format!("staging/{ino}")), size };
    for ino in [a, b, c] {
        index.stage_put(row(ino, 5)).unwrap();
    }
    index.stage_put(row(a, 6)).unwrap();
    index.stage_remove(b).unwrap();
    index.unlink(Ino::ROOT, b"c", time(2)).unwrap();
    assert_eq!(index.staged().unwrap(), [row(a, 6)]);
    assert_eq!(index.stage_put(row(c, 5)).unwrap_err().to_errno(), libc::ENOENT);
    assert_eq!(index.stage_put(row(Ino::ROOT, 5)).unwrap_err().to_errno(), libc::EISDIR);
    index.close().unwrap();
    assert_eq!(open(&dir).staged().unwrap(), [row(a, 6)]);
}

#[test]
fn many_contents_pass_through_a_small_memory() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { cache_entries: 64, ..Options::default() };
    let index = Index::open(&dir.path().join("index.db"), options).unwrap();
    for number in 0..2000u32 {
        let ino = touch(&index, &number.to_string());
        let print = Fingerprint::of(&(number % 700).to_le_bytes());
        if index.reuse(ino, &print, 3, time(2)).unwrap().is_none() {
            let file_id = format!("group1/{number}").into();
            index
                .attach(ino, NewContent { fingerprint: Some(print), size: 3, file_id, mutable: false }, time(2))
                .unwrap();
        }
        if number % 100 == 0 {
            index.commit().unwrap();
        }
    }
    assert_eq!(index.stats().contents, 700);
    for number in 0..2000u32 {
        index.unlink(Ino::ROOT, number.to_string().as_bytes(), time(3)).unwrap();
    }
    assert_eq!(index.stats(), IndexStats { inodes: 1, garbage: 700, ..IndexStats::default() });
    index.close().unwrap();
    assert!(fsck(&dir.path().join("index.db"), false).unwrap().findings.is_empty());
}

#[test]
fn a_log_that_grows_is_moved_into_the_database() {
    let (dir, index) = fresh();
    let ino = touch(&index, "file");
    let wal = || std::fs::metadata(dir.path().join("index.db-wal")).unwrap().len();
    let value = vec![1; XATTR_VALUE_MAX];
    // Each commit writes 17 pages; without checkpoints this would be 140 MiB of log.
    for number in 0..2000u32 {
        let name = format!("user.{}", number % 50);
        index.setxattr(ino, name.as_bytes(), &value, XattrMode::Any, time(2)).unwrap();
        index.commit().unwrap();
    }
    assert!(wal() < 100 << 20, "{}", wal());
    index.close().unwrap();
    assert!(!dir.path().join("index.db-wal").exists());
    assert!(fsck(&dir.path().join("index.db"), false).unwrap().findings.is_empty());
}

#[test]
fn fingerprints_have_a_text_form() {
    let print = fingerprint(1);
    let text = print.to_string();
    assert_eq!(text.len(), 64);
    assert_eq!(text.parse::<Fingerprint>().unwrap(), print);
    assert_eq!(format!("{print:?}"), text);
    assert!("xyz".parse::<Fingerprint>().is_err());
    assert_eq!(Fingerprint::from(blake3::hash(&[1])), print);
}

#[test]
fn content_times_and_the_end_of_staged_data_come_together() {
    let (dir, index) = fresh();
    let a = touch(&index, "a");
    let row = StagedRow { ino: a, path: "/staging/1".into(), size: 10 };
    for (number, unstage) in [(1, false), (2, true)] {
        index.stage_put(row.clone()).unwrap();
        let along = Along { mtime: time(5), ctime: Some(time(7)), unstage };
        let attr = index.attach(a, sealed(number, &format!("group1/{number}")), along).unwrap();
        assert_eq!((attr.mtime, attr.ctime), (time(5), time(7)));
        assert_eq!(index.staged().unwrap().is_empty(), unstage);
    }
    index.close().unwrap();
    drop(dir);
}
