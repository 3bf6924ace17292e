//! Names, inodes and listings, one rule at a time.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod harness;

use std::collections::BTreeSet;

use fdfs_index::*;
use harness::{new_inode, time};
use rusqlite::Connection;

fn open(dir: &tempfile::TempDir, cache_entries: usize) -> Index {
    Index::open(&dir.path().join("index.db"), Options { cache_entries, ..Options::default() }).unwrap()
}

fn fresh() -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir, 200_000);
    (dir, index)
}

fn mkdir(index: &Index, dir: Ino, name: &str) -> Ino {
    index.create(dir, name.as_bytes(), &new_inode(FileKind::Directory), time(1)).unwrap().ino
}

fn touch(index: &Index, dir: Ino, name: &str) -> Ino {
    index.create(dir, name.as_bytes(), &new_inode(FileKind::Regular), time(1)).unwrap().ino
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    result.unwrap_err().to_errno()
}

fn list(index: &Index, dir: Ino, after: u64, limit: usize) -> Vec<(u64, String)> {
    let mut entries = Vec::new();
    index
        .readdir(dir, after, &mut |cookie, name, _| {
            entries.push((cookie, String::from_utf8(name.to_vec()).unwrap()));
            entries.len() < limit
        })
        .unwrap();
    entries
}

#[test]
fn names_have_limits() {
    let (_dir, index) = fresh();
    let longest = [b'x'; NAME_MAX];
    let too_long = [b'x'; NAME_MAX + 1];
    index.create(Ino::ROOT, &longest, &new_inode(FileKind::Regular), time(1)).unwrap();
    index.lookup(Ino::ROOT, &longest).unwrap();
    let regular = new_inode(FileKind::Regular);
    assert_eq!(errno(index.create(Ino::ROOT, &too_long, &regular, time(1))), libc::ENAMETOOLONG);
    assert_eq!(errno(index.lookup(Ino::ROOT, &too_long)), libc::ENAMETOOLONG);
    assert_eq!(errno(index.unlink(Ino::ROOT, &too_long, time(1))), libc::ENAMETOOLONG);
    let rename = index.rename(Ino::ROOT, &longest, Ino::ROOT, &too_long, RenameMode::Replace, time(1));
    assert_eq!(errno(rename), libc::ENAMETOOLONG);
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert_eq!(errno(index.create(Ino::ROOT, name, &regular, time(1))), libc::EINVAL);
    }
}

#[test]
fn paths_are_found_with_and_without_a_hint() {
    let (_dir, index) = fresh();
    let (a, b) = (mkdir(&index, Ino::ROOT, "a"), mkdir(&index, Ino::ROOT, "b"));
    let deep = mkdir(&index, a, "deep");
    let file = touch(&index, deep, "file");
    index.commit().unwrap();
    let path = |ino, dir| index.path(ino, dir).unwrap().map(|path| path.to_str().unwrap().to_owned());
    for hint in [None, Some(deep), Some(a), Some(Ino::ROOT), Some(Ino(999))] {
        assert_eq!(path(file, hint).as_deref(), Some("a/deep/file"), "{hint:?}");
    }
    index.rename(a, b"deep", b, b"moved", RenameMode::Replace, time(2)).unwrap();
    index.commit().unwrap();
    assert_eq!(path(file, Some(deep)).as_deref(), Some("b/moved/file"));
    assert_eq!(path(a, None).as_deref(), Some("a"));
    index.unlink(deep, b"file", time(3)).unwrap();
    index.commit().unwrap();
    assert_eq!((path(file, Some(deep)), path(Ino(999), None), path(Ino::ROOT, None)), (None, None, None));
}

#[test]
fn targets_belong_to_symbolic_links() {
    let (_dir, index) = fresh();
    let symlink = |target: Option<Vec<u8>>| NewInode { target, ..new_inode(FileKind::Symlink) };
    let create = |new: &NewInode| index.create(Ino::ROOT, b"link", new, time(1));
    assert_eq!(errno(create(&symlink(None))), libc::EINVAL);
    assert_eq!(errno(create(&symlink(Some(Vec::new())))), libc::EINVAL);
    assert_eq!(errno(create(&symlink(Some(vec![b'x'; TARGET_MAX + 1])))), libc::ENAMETOOLONG);
    assert_eq!(errno(create(&NewInode { target: Some(b"x".to_vec()), ..new_inode(FileKind::Fifo) })), libc::EINVAL);
    let attr = create(&symlink(Some(vec![b'x'; TARGET_MAX]))).unwrap();
    assert_eq!(attr.size, TARGET_MAX as u64);
    assert_eq!(index.readlink(attr.ino).unwrap().len(), TARGET_MAX);
    assert_eq!(errno(index.readlink(Ino::ROOT)), libc::EINVAL);
    assert_eq!(errno(index.parent(attr.ino)), libc::ENOTDIR);
}

#[test]
fn nothing_can_be_made_in_a_removed_directory() {
    let (_dir, index) = fresh();
    let gone = mkdir(&index, Ino::ROOT, "gone");
    let file = touch(&index, Ino::ROOT, "file");
    let hold = index.hold(gone).unwrap();
    assert_eq!(index.rmdir(Ino::ROOT, b"gone", time(2)).unwrap().nlink, 0);
    assert_eq!(index.getattr(gone).unwrap().nlink, 0);
    assert_eq!(errno(index.create(gone, b"x", &new_inode(FileKind::Regular), time(3))), libc::ENOENT);
    assert_eq!(errno(index.link(file, gone, b"x", time(3))), libc::ENOENT);
    assert_eq!(errno(index.rename(Ino::ROOT, b"file", gone, b"x", RenameMode::Replace, time(3))), libc::ENOENT);
    assert_eq!(errno(index.lookup(gone, b"x")), libc::ENOENT);
    assert!(list(&index, gone, 0, 9).is_empty());
    drop(hold);
    assert_eq!(errno(index.getattr(gone)), libc::ENOENT);
    assert_eq!(errno(index.hold(gone)), libc::ENOENT);
    assert_eq!(errno(index.readdir(gone, 0, &mut |_, _, _| true)), libc::ENOENT);
}

#[test]
fn a_directory_cannot_go_below_itself() {
    let (_dir, index) = fresh();
    let a = mkdir(&index, Ino::ROOT, "a");
    let b = mkdir(&index, a, "b");
    let c = mkdir(&index, b, "c");
    mkdir(&index, Ino::ROOT, "other");
    for below in [a, b, c] {
        let rename = index.rename(Ino::ROOT, b"a", below, b"new", RenameMode::Replace, time(2));
        assert!(matches!(rename, Err(IndexError::CrossesItself)));
    }
    let swap =
        |dir, name: &[u8], dir2, name2: &[u8]| index.rename(dir, name, dir2, name2, RenameMode::Exchange, time(2));
    assert_eq!(errno(swap(Ino::ROOT, b"a", b, b"c")), libc::EINVAL);
    assert_eq!(errno(swap(b, b"c", Ino::ROOT, b"a")), libc::EINVAL);
    // What does not cross is fine, and the parents follow.
    swap(b, b"c", Ino::ROOT, b"other").unwrap();
    assert_eq!(index.parent(c).unwrap(), Ino::ROOT);
    assert_eq!(index.getattr(b).unwrap().nlink, 3);
    let upwards = index.rename(a, b"b", Ino::ROOT, b"a", RenameMode::Replace, time(3));
    assert_eq!(errno(upwards), libc::ENOTEMPTY);
}

#[test]
fn link_counts_end_somewhere() {
    let (dir, index) = fresh();
    let full = mkdir(&index, Ino::ROOT, "full");
    mkdir(&index, Ino::ROOT, "moving");
    touch(&index, Ino::ROOT, "plain");
    let file = touch(&index, Ino::ROOT, "file");
    index.close().unwrap();
    let conn = Connection::open(dir.path().join("index.db")).unwrap();
    let set = "UPDATE inode SET nlink = ?1 WHERE ino IN (?2, ?3)";
    conn.execute(set, (LINK_MAX, full.0 as i64, file.0 as i64)).unwrap();
    drop(conn);
    let index = open(&dir, 200_000);
    assert_eq!(errno(index.create(full, b"x", &new_inode(FileKind::Directory), time(1))), libc::EMLINK);
    assert_eq!(errno(index.link(file, Ino::ROOT, b"x", time(1))), libc::EMLINK);
    let rename = |mode| index.rename(Ino::ROOT, b"moving", full, b"x", mode, time(1));
    assert_eq!(errno(rename(RenameMode::Replace)), libc::EMLINK);
    touch(&index, full, "x");
    assert_eq!(errno(rename(RenameMode::Exchange)), libc::EMLINK);
    index.rename(Ino::ROOT, b"plain", full, b"x", RenameMode::Exchange, time(1)).unwrap();
}

#[test]
fn sizes_fit_into_an_off_t() {
    let (_dir, index) = fresh();
    let file = touch(&index, Ino::ROOT, "file");
    let set = |size| index.setattr(file, &SetAttr { size: Some(size), ..SetAttr::default() });
    assert_eq!(set(i64::MAX as u64).unwrap().size, i64::MAX as u64);
    assert_eq!(errno(set(1 << 63)), libc::EINVAL);
    assert_eq!(index.setattr(file, &SetAttr::default()).unwrap().size, i64::MAX as u64);
}

#[test]
fn attributes_survive_to_the_last_bit() {
    let (dir, index) = fresh();
    let file = touch(&index, Ino::ROOT, "file");
    let early = Timestamp { secs: -(1 << 40), nsec: 999_999_999 };
    let late = Timestamp { secs: 1 << 60, nsec: 1 };
    let set = SetAttr {
        mode: Some(0o7777),
        uid: Some(u32::MAX - 1),
        gid: Some(u32::MAX - 2),
        size: Some(3),
        atime: Some(early),
        mtime: Some(late),
        ctime: Some(early),
    };
    let attr = index.setattr(file, &set).unwrap();
    assert_eq!((attr.mode, attr.uid, attr.atime, attr.mtime), (0o7777, u32::MAX - 1, early, late));
    index.close().unwrap();
    assert_eq!(open(&dir, 200_000).getattr(file).unwrap(), attr);
}

#[test]
fn inode_numbers_are_never_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Ino::ROOT;
    for _ in 0..5 {
        let index = open(&dir, 200_000);
        let file = touch(&index, Ino::ROOT, "file");
        assert!(file > last);
        last = file;
        index.unlink(Ino::ROOT, b"file", time(1)).unwrap();
    }
}

/// The cookie contract on a directory of 3000 entries, in memory or not.
fn listing(cache_entries: usize) {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir, 200_000);
    let big = mkdir(&index, Ino::ROOT, "big");
    for number in 0..3000 {
        touch(&index, big, &format!("{number:04}"));
    }
    index.close().unwrap();
    let index = open(&dir, cache_entries);
    // Not committed and not in the database: a removal, a rename, a replacement, new ones.
    index.unlink(big, b"0500", time(2)).unwrap();
    index.rename(big, b"1000", big, b"renamed", RenameMode::Replace, time(2)).unwrap();
    index.rename(big, b"0001", big, b"2999", RenameMode::Replace, time(2)).unwrap();
    touch(&index, big, "new");
    touch(&index, Ino::ROOT, "elsewhere");
    index.rename(Ino::ROOT, b"elsewhere", big, b"moved in", RenameMode::Replace, time(2)).unwrap();

    let mut expected: BTreeSet<String> = (0..3000).map(|number| format!("{number:04}")).collect();
    for gone in ["0500", "1000", "0001"] {
        expected.remove(gone);
    }
    expected.extend(["renamed", "new", "moved in"].map(String::from));
    for limit in [1000, 128, 127, 7000] {
        let mut seen = Vec::new();
        let mut after = 0;
        loop {
            let part = list(&index, big, after, limit);
            let Some((last, _)) = part.last() else { break };
            assert!(part.is_sorted_by(|(a, _), (b, _)| a < b) && part[0].0 > after);
            after = *last;
            seen.extend(part.into_iter().map(|(_, name)| name));
        }
        assert_eq!(seen.len(), expected.len());
        assert_eq!(BTreeSet::from_iter(seen), expected);
    }

    // While somebody lists, entries come and go; those that stay are seen once.
    let horizon = index.horizon();
    let mut seen = Vec::new();
    let mut after = 0;
    let mut round = 0;
    while let Some((last, _)) = list(&index, big, after, 100).last().cloned() {
        seen.extend(list(&index, big, after, 100).into_iter().filter(|(cookie, _)| *cookie <= horizon));
        after = last;
        round += 1;
        touch(&index, big, &format!("late {round}"));
        index.unlink(big, format!("{:04}", 2 + round).as_bytes(), time(3)).unwrap();
        if after > horizon {
            break;
        }
    }
    let names: BTreeSet<&String> = seen.iter().map(|(_, name)| name).collect();
    assert_eq!(names.len(), seen.len(), "nothing twice");
    let removed: BTreeSet<String> = (3..=2 + round).map(|number| format!("{number:04}")).collect();
    assert!(expected.iter().filter(|name| !removed.contains(*name)).all(|name| names.contains(name)));
    assert!(!names.iter().any(|name| name.starts_with("late")), "the horizon ends the listing");

    for number in (0..3000).step_by(7) {
        let name = format!("{number:04}");
        let there = index.lookup(big, name.as_bytes()).is_ok();
        assert_eq!(there, expected.contains(&name) && !removed.contains(&name), "{name}");
    }
    index.close().unwrap();
    let report = fsck(&dir.path().join("index.db"), false).unwrap();
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn listing_a_large_directory() {
    listing(200_000);
}

#[test]
fn listing_a_large_directory_that_does_not_fit() {
    listing(100);
}

#[test]
fn a_directory_loaded_bit_by_bit_becomes_known_as_a_whole() {
    let (dir, index) = fresh();
    let some = mkdir(&index, Ino::ROOT, "some");
    for number in 0..100 {
        touch(&index, some, &number.to_string());
    }
    index.close().unwrap();
    let index = open(&dir, 200_000);
    for number in 0..100 {
        index.lookup(some, number.to_string().as_bytes()).unwrap();
        assert_eq!(errno(index.lookup(some, format!("no {number}").as_bytes())), libc::ENOENT);
    }
    assert_eq!(errno(index.create(some, b"50", &new_inode(FileKind::Regular), time(1))), libc::EEXIST);
}

#[test]
fn extended_attributes_have_limits_and_a_change_time() {
    let (dir, index) = fresh();
    let file = touch(&index, Ino::ROOT, "file");
    let set = |name: &[u8], value: &[u8]| index.setxattr(file, name, value, XattrMode::Any, time(9));
    assert_eq!(errno(set(&[b'x'; NAME_MAX + 1], b"")), libc::ENAMETOOLONG);
    assert_eq!(errno(set(b"", b"")), libc::EINVAL);
    assert_eq!(errno(set(b"user.big", &vec![0; XATTR_VALUE_MAX + 1])), libc::E2BIG);
    set(b"user.big", &vec![7; XATTR_VALUE_MAX]).unwrap();
    set(b"user.empty", b"").unwrap();
    assert_eq!(index.getattr(file).unwrap().ctime, time(9));
    let mut number = 0;
    let full = loop {
        match set(format!("user.{number:0>250}").as_bytes(), b"x") {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.to_errno(), libc::ENOSPC);
    let names = index.listxattr(file).unwrap();
    assert!(names.is_sorted() && names.iter().map(|name| name.len() + 1).sum::<usize>() <= XATTR_LIST_MAX);
    index.removexattr(file, b"user.empty", time(10)).unwrap();
    assert_eq!(errno(index.removexattr(file, b"user.empty", time(10))), libc::ENODATA);
    index.close().unwrap();
    let index = open(&dir, 200_000);
    assert_eq!(
        index.listxattr(file).unwrap(),
        names.into_iter().filter(|name| **name != *b"user.empty").collect::<Vec<_>>()
    );
    assert_eq!(index.getxattr(file, b"user.big").unwrap().len(), XATTR_VALUE_MAX);
    assert_eq!(errno(index.getxattr(Ino::ROOT, b"user.none")), libc::ENODATA);
    assert_eq!(errno(index.getxattr(Ino(4), b"user.none")), libc::ENOENT);
}

#[test]
fn clocks_before_1970_are_rounded_down() {
    use std::time::{Duration, UNIX_EPOCH};
    let half = UNIX_EPOCH - Duration::from_millis(1500);
    assert_eq!(Timestamp::from(half), Timestamp { secs: -2, nsec: 500_000_000 });
    assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(3)), Timestamp { secs: -3, nsec: 0 });
    assert!(Timestamp::now() > Timestamp { secs: 1_600_000_000, nsec: 0 });
}
