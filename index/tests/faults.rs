//! Commits that fail, disks that are full, callbacks that panic.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod harness;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use fdfs_index::*;
use harness::{new_inode, time};

fn failing_after(commits: usize) -> Options {
    let count = AtomicUsize::new(0);
    let fault: Fault = Arc::new(move |step| {
        if step == Step::BeforeCommit && count.fetch_add(1, Ordering::SeqCst) >= commits {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    });
    Options { fault: Some(fault), ..Options::default() }
}

fn touch(index: &Index, name: &str) -> Result<Attr> {
    index.create(Ino::ROOT, name.as_bytes(), &new_inode(FileKind::Regular), time(1))
}

#[test]
fn after_a_failed_commit_everything_is_read_only_and_nothing_is_half() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let index = Index::open(&path, failing_after(1)).unwrap();
    touch(&index, "kept").unwrap();
    index.commit().unwrap();

    let (send, receive) = mpsc::channel();
    let ino = touch(&index, "lost").unwrap().ino;
    let hold = index.hold(ino).unwrap();
    index.unlink(Ino::ROOT, b"kept", time(2)).unwrap();
    for stable in [false, true] {
        let send = send.clone();
        let done: Callback = Box::new(move |result| send.send(result).unwrap());
        if stable { index.on_sync(done) } else { index.on_commit(done) }
    }
    for _ in 0..2 {
        assert_eq!(receive.recv().unwrap().unwrap_err().to_errno(), libc::EIO);
    }
    assert_eq!(index.commit().unwrap_err().to_errno(), libc::EIO);
    assert_eq!(index.sync().unwrap_err().to_errno(), libc::EIO);

    let erofs = |result: Result<Attr>| assert_eq!(result.unwrap_err().to_errno(), libc::EROFS);
    erofs(touch(&index, "new"));
    erofs(index.setattr(ino, &SetAttr { mode: Some(0), ..SetAttr::default() }));
    erofs(index.unlink(Ino::ROOT, b"lost", time(3)));
    erofs(index.link(ino, Ino::ROOT, b"other", time(3)));
    erofs(index.clear_content(ino, time(3)));
    assert_eq!(index.removexattr(ino, b"user.x", time(3)).unwrap_err().to_errno(), libc::EROFS);
    assert_eq!(index.discard("group1/x").unwrap_err().to_errno(), libc::EROFS);
    // Reading goes on.
    assert_eq!(index.lookup(Ino::ROOT, b"lost").unwrap().ino, ino);
    drop(hold);
    assert_eq!(index.close().unwrap_err().to_errno(), libc::EIO);

    assert!(fsck(&path, false).unwrap().findings.is_empty());
    let index = Index::open(&path, Options::default()).unwrap();
    assert!(index.lookup(Ino::ROOT, b"kept").is_ok());
    assert!(index.lookup(Ino::ROOT, b"lost").is_err());
}

/// A small file system of its own, for root; `None` where that is not possible.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<SmallDisk<'a>> {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "fdfs-index-test"])
            .arg(path)
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then_some(SmallDisk(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let path = dir.path().join("index.db");
    let index = Index::open(&path, Options::default()).unwrap();
    let mut kept = 0;
    let error = loop {
        for number in 0..100 {
            touch(&index, &format!("a file with a name of some length, {}", kept + number)).unwrap();
        }
        match index.commit() {
            Ok(()) => kept += 100,
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_errno(), libc::ENOSPC, "{error}");
    assert_eq!(touch(&index, "more").unwrap_err().to_errno(), libc::EROFS);
    index.close().unwrap_err();
    drop(index);

    // The medicine: more room, and mount again.
    let status = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(dir.path()).status().unwrap();
    assert!(status.success());
    let index = Index::open(&path, Options::default()).unwrap();
    assert_eq!(index.getattr(Ino::ROOT).unwrap().size, kept);
    touch(&index, "more").unwrap();
    index.close().unwrap();
    assert!(fsck(&path, false).unwrap().findings.is_empty());
}

#[test]
fn a_callback_that_panics_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.db"), Options::default()).unwrap();
    index.on_commit(Box::new(|_| panic!("the caller's own fault")));
    touch(&index, "a").unwrap();
    index.commit().unwrap();
    index.sync().unwrap();
}

#[test]
fn a_closed_index_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.db"), Options::default()).unwrap();
    let ino = touch(&index, "a").unwrap().ino;
    let hold = index.hold(ino).unwrap();
    index.unlink(Ino::ROOT, b"a", time(2)).unwrap();
    index.close().unwrap();
    index.close().unwrap();
    let closed = |error: IndexError| assert!(matches!(error, IndexError::Closed), "{error}");
    closed(index.getattr(Ino::ROOT).unwrap_err());
    closed(index.lookup(Ino::ROOT, b"a").unwrap_err());
    closed(touch(&index, "b").unwrap_err());
    closed(index.commit().unwrap_err());
    closed(index.garbage(1).unwrap_err());
    let (send, receive) = mpsc::channel();
    index.on_commit(Box::new(move |result| send.send(result).unwrap()));
    closed(receive.recv().unwrap().unwrap_err());
    // Too late to reclaim; the next opening does it.
    drop(hold);
    let index = Index::open(&dir.path().join("index.db"), Options::default()).unwrap();
    assert!(matches!(index.getattr(ino), Err(IndexError::NotFound)));
    assert_eq!(index.stats().inodes, 1);
}

#[test]
fn a_second_opening_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let index = Index::open(&path, Options::default()).unwrap();
    for error in [Index::open(&path, Options::default()).unwrap_err(), fsck(&path, true).unwrap_err()] {
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert_eq!(error.to_errno(), libc::EBUSY);
    }
    drop(index);
    drop(Index::open(&path, Options::default()).unwrap());
}

#[test]
fn changes_without_a_waiter_are_committed_soon() {
    let dir = tempfile::tempdir().unwrap();
    let (send, receive) = mpsc::channel();
    let fault: Fault = Arc::new(move |step| {
        if step == Step::AfterCommit {
            let _ = send.send(());
        }
        Ok(())
    });
    let index =
        Index::open(&dir.path().join("index.db"), Options { fault: Some(fault), ..Options::default() }).unwrap();
    touch(&index, "a").unwrap();
    touch(&index, "b").unwrap();
    // One transaction for both after a while, and one that brings it to stable storage.
    receive.recv().unwrap();
    receive.recv().unwrap();
    let before = std::fs::metadata(dir.path().join("index.db-wal")).unwrap().len();
    index.sync().unwrap();
    assert_eq!(std::fs::metadata(dir.path().join("index.db-wal")).unwrap().len(), before, "nothing was left to do");
}

#[test]
fn a_writer_that_panics_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let fault: Fault = Arc::new(|step| {
        assert!(step != Step::BeforeCommit, "a mistake of the index");
        Ok(())
    });
    let index = Index::open(&path, Options { fault: Some(fault), ..Options::default() }).unwrap();
    touch(&index, "a").unwrap();
    index.commit().unwrap_err();
    index.sync().unwrap_err();
    assert_eq!(touch(&index, "b").unwrap_err().to_errno(), libc::EROFS);
    index.close().unwrap_err();
    drop(index);
    assert_eq!(Index::open(&path, Options::default()).unwrap().stats().inodes, 1);
}
