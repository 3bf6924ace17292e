//! What the tree promises, one test per promise: over the store in memory, with its faults and gates.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, mpsc};

use fdfs_fuse::content::memory::{MemoryStore, Op};
use fdfs_fuse::content::{ContentError, ContentStore};
use fdfs_fuse::tree::{Access, Allocate, Caller, Changes, Done, Fh, Options, Result, Seek, Tree, Written};
use fdfs_index::{Attr, Index, Ino, RenameMode, XattrMode};

const CALLER: Caller = Caller { uid: 1000, gid: 1000 };
const READ_WRITE: Access =
    Access { read: true, write: true, append: false, truncate: false, no_atime: false, kill_suid: false };
const READ: Access = Access { write: false, ..READ_WRITE };

struct Fixture {
    directory: tempfile::TempDir,
    store: Arc<MemoryStore>,
    index: Arc<Index>,
    tree: Tree,
}

fn wait<T: Send + 'static>(start: impl FnOnce(Done<T>)) -> Result<T> {
    begin(start).recv().unwrap()
}

fn begin<T: Send + 'static>(start: impl FnOnce(Done<T>)) -> mpsc::Receiver<Result<T>> {
    let (send, receive) = mpsc::channel();
    start(Box::new(move |result| drop(send.send(result))));
    receive
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(Options::default())
    }

    fn with(options: Options) -> Fixture {
        Fixture::open(tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()), options)
    }

    fn open(directory: tempfile::TempDir, store: Arc<MemoryStore>, options: Options) -> Fixture {
        let index = Arc::new(Index::open(&directory.path().join("index.db"), fdfs_index::Options::default()).unwrap());
        let content: Arc<dyn ContentStore> = store.clone();
        let tree = Tree::open(index.clone(), content, options).unwrap();
        Fixture { directory, store, index, tree }
    }

    /// Ends the tree and starts it again; also how many files it could not store.
    fn restart(self, options: Options) -> (Fixture, usize) {
        let failed = self.tree.close().unwrap();
        self.index.close().unwrap();
        (Fixture::open(self.directory, self.store, options), failed)
    }

    fn create(&self, name: &str) -> (Attr, Fh) {
        let (attr, opened) = self.tree.create(Ino::ROOT, name.as_bytes(), 0o644, CALLER, READ_WRITE).unwrap();
        (attr, opened.fh)
    }

    fn write(&self, fh: Fh, offset: u64, bytes: &[u8]) {
        assert_eq!(self.tree.write(fh, offset, bytes, Written::default()).unwrap(), bytes.len());
    }

    fn flush(&self, fh: Fh) -> Result<()> {
        wait(|done| self.tree.flush(fh, done))
    }

    fn close(&self, fh: Fh) -> Result<()> {
        let result = self.flush(fh);
        self.tree.release(fh);
        result
    }

    /// A file of this content, closed.
    fn file(&self, name: &str, bytes: &[u8]) -> Ino {
        let (attr, fh) = self.create(name);
        self.write(fh, 0, bytes);
        self.close(fh).unwrap();
        attr.ino
    }

    fn read_handle(&self, fh: Fh) -> Result<Vec<u8>> {
        wait(|done| self.tree.read(fh, 0, 1 << 20, move |result: Result<&[u8]>| done(result.map(<[u8]>::to_vec))))
    }

    fn read(&self, ino: Ino) -> Vec<u8> {
        let fh = self.tree.open(ino, READ).unwrap().fh;
        let bytes = self.read_handle(fh).unwrap();
        self.tree.release(fh);
        bytes
    }

    fn setattr(&self, ino: Ino, changes: Changes) -> Result<Attr> {
        wait(|done| self.tree.setattr(ino, changes, done))
    }

    fn file_id(&self, ino: Ino) -> String {
        self.tree.getxattr(ino, b"user.fdfs.file_id", |value| String::from_utf8(value.to_vec()).unwrap()).unwrap()
    }

    /// Waits until nothing is stored that a name does not lead to. What a seal or a read has held ends a moment after its
    /// answer, and with it the last reference.
    fn collected(&self, names: u64) {
        let left = || (self.index.stats().inodes - 1, self.index.stats().garbage);
        while left() != (names, 0) {
            self.index.sync().unwrap();
            std::thread::yield_now();
        }
    }
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    result.unwrap_err().to_errno()
}

#[test]
fn close_stores_and_a_clean_close_does_nothing() {
    let f = Fixture::new();
    let (attr, fh) = f.create("a");
    f.write(fh, 0, b"hello");
    assert!(f.store.objects().is_empty());
    f.flush(fh).unwrap();
    assert_eq!(f.store.objects()[&f.file_id(attr.ino)].as_slice(), b"hello");
    f.flush(fh).unwrap();
    f.close(fh).unwrap();
    assert_eq!(f.store.count(Op::Upload), 1);
}

#[test]
fn equal_contents_are_stored_once_and_go_with_the_last_name() {
    let f = Fixture::new();
    let (a, b) = (f.file("a", b"same"), f.file("b", b"same"));
    assert_eq!(f.file_id(a), f.file_id(b));
    assert_eq!(f.store.count(Op::Upload), 1);
    f.tree.unlink(Ino::ROOT, b"a").unwrap();
    f.collected(1);
    assert_eq!(f.read(b), b"same");
    f.tree.unlink(Ino::ROOT, b"b").unwrap();
    f.collected(0);
    assert!(f.store.objects().is_empty());
}

#[test]
fn a_failed_upload_fails_the_close_and_keeps_the_data() {
    let f = Fixture::new();
    let (attr, fh) = f.create("a");
    f.write(fh, 0, b"precious");
    f.store.fail_next(Op::Upload, 2, ContentError::Timeout("down".into()));
    assert_eq!(errno(f.flush(fh)), libc::ETIMEDOUT);
    assert_eq!(errno(wait(|done| f.tree.fsync(fh, done))), libc::ETIMEDOUT);
    assert_eq!(f.read(attr.ino), b"precious");
    assert_eq!(f.tree.getattr(attr.ino).unwrap().size, 8);
    f.close(fh).unwrap();
    assert_eq!(f.store.objects()[&f.file_id(attr.ino)].as_slice(), b"precious");
}

#[test]
fn data_that_could_not_be_stored_survives_restarts() {
    let f = Fixture::new();
    let ino = f.file("a", b"old");
    let fh = f.tree.open(ino, READ_WRITE).unwrap().fh;
    f.write(fh, 3, b" and new");
    f.store.fail_next(Op::Upload, 1000, ContentError::NoSpace("full".into()));
    assert_eq!(errno(f.close(fh)), libc::ENOSPC);
    let before = f.tree.getattr(ino).unwrap();
    // Nor can it be stored at the end, nor by the next mount.
    let (f, failed) = f.restart(Options::default());
    assert_eq!(failed, 1);
    let (f, failed) = f.restart(Options::default());
    assert_eq!(failed, 1);
    assert_eq!(f.read(ino), b"old and new");
    let after = f.tree.getattr(ino).unwrap();
    assert_eq!((after.size, after.mtime, after.ctime), (11, before.mtime, before.ctime));
    f.store.heal();
    let (f, failed) = f.restart(Options::default());
    assert_eq!(failed, 0);
    assert_eq!(f.read(ino), b"old and new");
}

#[test]
fn the_answer_of_close_waits_for_the_storage_and_later_writes_are_not_in_it() {
    let f = Fixture::new();
    let (attr, fh) = f.create("a");
    f.write(fh, 0, b"first");
    let gate = f.store.hold(Op::Upload);
    let first = begin(|done| f.tree.flush(fh, done));
    gate.wait_for(1);
    // The file can be used meanwhile.
    f.write(fh, 0, b"other");
    assert_eq!(f.read(attr.ino), b"other");
    let second = begin(|done| f.tree.flush(fh, done));
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    gate.open();
    first.recv().unwrap().unwrap();
    second.recv().unwrap().unwrap();
    assert_eq!(f.store.objects()[&f.file_id(attr.ino)].as_slice(), b"other");
    assert_eq!(f.store.count(Op::Upload), 2);
}

#[test]
fn all_who_close_during_one_upload_share_it() {
    let f = Fixture::new();
    let (_, fh) = f.create("a");
    f.write(fh, 0, b"x");
    let gate = f.store.hold(Op::Upload);
    let answers: Vec<_> = (0..3).map(|_| begin(|done| f.tree.flush(fh, done))).collect();
    gate.open();
    answers.iter().for_each(|answer| answer.recv().unwrap().unwrap());
    assert_eq!(f.store.count(Op::Upload), 1);
}

#[test]
fn truncating_at_open_replaces_the_content_only_when_stored() {
    let f = Fixture::new();
    let ino = f.file("a", b"before");
    let old = f.file_id(ino);
    let fh = f.tree.open(ino, Access { truncate: true, ..READ_WRITE }).unwrap().fh;
    assert_eq!(f.tree.getattr(ino).unwrap().size, 0);
    assert_eq!(f.file_id(ino), old);
    f.write(fh, 0, b"after");
    f.close(fh).unwrap();
    assert_ne!(f.file_id(ino), old);
    let fh = f.tree.open(ino, Access { truncate: true, ..READ_WRITE }).unwrap().fh;
    f.close(fh).unwrap();
    assert_eq!(f.index.content(ino).unwrap(), None);
}

#[test]
fn truncating_by_path_is_stored_at_once() {
    let f = Fixture::new();
    let ino = f.file("a", b"0123456789");
    let attr = f.setattr(ino, Changes { size: Some(4), ..Changes::default() }).unwrap();
    assert_eq!(attr.size, 4);
    assert_eq!(f.store.objects()[&f.file_id(ino)].as_slice(), b"0123");
    f.setattr(ino, Changes { size: Some(0), ..Changes::default() }).unwrap();
    assert_eq!(f.index.content(ino).unwrap(), None);
}

#[test]
fn an_unlinked_file_works_while_open_and_is_never_stored() {
    let f = Fixture::new();
    let (attr, fh) = f.create("a");
    f.write(fh, 0, b"scratch");
    f.tree.unlink(Ino::ROOT, b"a").unwrap();
    f.write(fh, 7, b"!");
    f.flush(fh).unwrap();
    wait(|done| f.tree.fsync(fh, done)).unwrap();
    assert_eq!(f.read_handle(fh).unwrap(), b"scratch!");
    assert_eq!(f.tree.getattr(attr.ino).unwrap().nlink, 0);
    f.tree.release(fh);
    assert_eq!(f.store.count(Op::Upload), 0);
    assert_eq!(errno(f.tree.getattr(attr.ino)), libc::ENOENT);
}

#[test]
fn content_that_is_read_outlives_its_replacement() {
    let f = Fixture::new();
    let ino = f.file("a", b"old");
    let reader = f.tree.open(ino, READ).unwrap().fh;
    let gate = f.store.hold(Op::Read);
    let read = |done: Done<Vec<u8>>| {
        f.tree.read(reader, 0, 10, move |result: Result<&[u8]>| done(result.map(<[u8]>::to_vec)));
    };
    let reading = begin(read);
    gate.wait_for(1);
    let writer = f.tree.open(ino, Access { truncate: true, ..READ_WRITE }).unwrap().fh;
    f.write(writer, 0, b"new");
    f.close(writer).unwrap();
    f.index.sync().unwrap();
    gate.open();
    assert_eq!(reading.recv().unwrap().unwrap(), b"old");
    assert_eq!(wait(read).unwrap(), b"new");
}

#[test]
fn a_copy_of_a_whole_file_is_a_reference() {
    let f = Fixture::new();
    let source = f.file("a", b"0123456789");
    let from = f.tree.open(source, READ).unwrap().fh;
    let copy = |name: &str, pieces: &[u64]| {
        let (attr, fh) = f.create(name);
        let mut at = 0;
        for piece in pieces {
            at += wait(|done| f.tree.copy_range((from, at), (fh, at), *piece, false, done)).unwrap();
            assert_eq!(f.tree.getattr(attr.ino).unwrap().size, at);
        }
        f.close(fh).unwrap();
        attr.ino
    };
    let whole = copy("whole", &[1 << 30]);
    let pieces = copy("pieces", &[3, 4, 1 << 30]);
    assert_eq!(f.file_id(whole), f.file_id(source));
    assert_eq!(f.file_id(pieces), f.file_id(source));
    assert_eq!(f.store.count(Op::Upload), 1);
    let part = copy("part", &[3, 4]);
    assert_eq!(f.read(part), b"0123456");
    assert_eq!(f.store.count(Op::Upload), 2);
    let refs = f.tree.getxattr(source, b"user.fdfs.refs", <[u8]>::to_vec).unwrap();
    assert_eq!(refs, b"3");
}

#[test]
fn the_source_of_a_copy_may_go_before_the_copy_is_stored() {
    let f = Fixture::new();
    let source = f.file("a", b"0123456789");
    let from = f.tree.open(source, READ).unwrap().fh;
    let (attr, to) = f.create("b");
    assert_eq!(wait(|done| f.tree.copy_range((from, 0), (to, 0), 4, false, done)).unwrap(), 4);
    f.tree.release(from);
    f.tree.unlink(Ino::ROOT, b"a").unwrap();
    f.index.sync().unwrap();
    f.close(to).unwrap();
    assert_eq!(f.read(attr.ino), b"0123");
}

#[test]
fn ranges() {
    let f = Fixture::new();
    let (attr, fh) = f.create("a");
    f.write(fh, 0, b"0123456789");
    f.tree.fallocate(fh, 8, 4, Allocate::Extend, false).unwrap();
    f.tree.fallocate(fh, 2, 3, Allocate::PunchHole, false).unwrap();
    f.tree.fallocate(fh, 11, 5, Allocate::ZeroRange { keep_size: false }, false).unwrap();
    f.tree.fallocate(fh, 100, 5, Allocate::KeepSize, false).unwrap();
    assert_eq!(f.read_handle(fh).unwrap(), b"01\0\0\x0056789\0\0\0\0\0\0");
    assert_eq!(f.tree.lseek(attr.ino, 3, Seek::Data).unwrap(), 3);
    assert_eq!(f.tree.lseek(attr.ino, 3, Seek::Hole).unwrap(), 16);
    assert_eq!(errno(f.tree.lseek(attr.ino, 16, Seek::Data)), libc::ENXIO);
    assert_eq!(errno(f.tree.fallocate(fh, u64::MAX, 2, Allocate::Extend, false)), libc::EFBIG);
}

#[test]
fn sizes_have_a_limit() {
    let f = Fixture::with(Options { max_file_size: 10, ..Options::default() });
    let (attr, fh) = f.create("a");
    assert_eq!(f.tree.write(fh, 8, b"1234", Written::default()).unwrap(), 2);
    assert_eq!(errno(f.tree.write(fh, 10, b"1", Written::default())), libc::EFBIG);
    assert_eq!(errno(f.setattr(attr.ino, Changes { size: Some(11), ..Changes::default() })), libc::EFBIG);
}

#[test]
fn growth_beyond_the_cluster_is_refused_at_once() {
    let f = Fixture::new();
    let ino = f.file("a", b"x");
    assert_eq!(errno(f.setattr(ino, Changes { size: Some(2 << 40), ..Changes::default() })), libc::ENOSPC);
}

#[test]
fn changes_take_privileges_away() {
    let f = Fixture::new();
    let (attr, fh) = f.create("a");
    let (ino, mode) = (attr.ino, |f: &Fixture| f.tree.getattr(attr.ino).unwrap().mode);
    let suid = Changes { mode: Some(0o6755), ..Changes::default() };
    f.setattr(ino, suid).unwrap();
    f.write(fh, 0, b"by root");
    assert_eq!(mode(&f), 0o6755);
    f.tree.setxattr(ino, b"security.capability", b"all", XattrMode::Any).unwrap();
    f.tree.write(fh, 0, b"by a user", Written { kill_suid: true, ..Written::default() }).unwrap();
    assert_eq!(mode(&f), 0o755);
    assert_eq!(errno(f.tree.getxattr(ino, b"security.capability", |_| ())), libc::ENODATA);
    f.setattr(ino, suid).unwrap();
    f.setattr(ino, Changes { uid: Some(5), ..Changes::default() }).unwrap();
    assert_eq!(mode(&f), 0o755);
    f.setattr(ino, suid).unwrap();
    f.setattr(ino, Changes { size: Some(1), kill_suid: true, ..Changes::default() }).unwrap();
    assert_eq!(mode(&f), 0o755);
}

#[test]
fn a_directory_with_set_group_id_passes_its_group_on() {
    let f = Fixture::new();
    let dir = f.tree.mkdir(Ino::ROOT, b"d", 0o755, CALLER).unwrap().ino;
    f.setattr(dir, Changes { mode: Some(0o2755), gid: Some(7), ..Changes::default() }).unwrap();
    let file = f.tree.create(dir, b"f", 0o644, CALLER, READ_WRITE).unwrap().0;
    assert_eq!((file.gid, file.mode), (7, 0o644));
    let sub = f.tree.mkdir(dir, b"s", 0o755, CALLER).unwrap();
    assert_eq!((sub.gid, sub.mode), (7, 0o2755));
}

#[test]
fn times_are_those_of_the_writes() {
    let f = Fixture::new();
    let (attr, fh) = f.create("a");
    f.write(fh, 0, b"x");
    let written = f.tree.getattr(attr.ino).unwrap();
    f.close(fh).unwrap();
    let closed = f.tree.getattr(attr.ino).unwrap();
    assert_eq!((written.mtime, written.ctime), (closed.mtime, closed.ctime));
    // As cp -p does it: set between the write and the close.
    let fh = f.tree.open(attr.ino, READ_WRITE).unwrap().fh;
    f.write(fh, 0, b"y");
    let old = fdfs_index::Timestamp { secs: 1, nsec: 2 };
    f.setattr(attr.ino, Changes { mtime: Some(fdfs_fuse::tree::SetTime::To(old)), ..Changes::default() }).unwrap();
    f.close(fh).unwrap();
    assert_eq!(f.tree.getattr(attr.ino).unwrap().mtime, old);
}

#[test]
fn reading_marks_the_access_time_once_it_is_stale() {
    let f = Fixture::new();
    let ino = f.file("a", b"x");
    let before = f.tree.getattr(ino).unwrap().atime;
    f.read(ino);
    let marked = f.tree.getattr(ino).unwrap().atime;
    assert!(marked > before);
    f.read(ino);
    assert_eq!(f.tree.getattr(ino).unwrap().atime, marked);
}

#[test]
fn attributes_of_the_content_can_be_read_but_not_set() {
    let f = Fixture::with(Options { url_prefix: Some("http://h/".into()), ..Options::default() });
    let ino = f.file("a", b"x");
    let url = f.tree.getxattr(ino, b"user.fdfs.url", <[u8]>::to_vec).unwrap();
    assert_eq!(url, format!("http://h/{}", f.file_id(ino)).into_bytes());
    let fingerprint = f.tree.getxattr(ino, b"user.fdfs.fingerprint", <[u8]>::to_vec).unwrap();
    assert_eq!(fingerprint, fdfs_index::Fingerprint::of(b"x").to_string().into_bytes());
    f.tree.setxattr(ino, b"user.mine", b"1", XattrMode::Create).unwrap();
    let names = f.tree.listxattr(ino).unwrap();
    assert_eq!(names, b"user.mine\0");
    assert_eq!(errno(f.tree.setxattr(ino, b"user.fdfs.refs", b"9", XattrMode::Any)), libc::EOPNOTSUPP);
    assert_eq!(errno(f.tree.setxattr(ino, b"system.posix_acl_access", b"", XattrMode::Any)), libc::EOPNOTSUPP);
    let empty = f.create("b").0.ino;
    assert!(f.tree.listxattr(empty).unwrap().is_empty());
    assert_eq!(errno(f.tree.getxattr(empty, b"user.fdfs.file_id", |_| ())), libc::ENODATA);
}

#[test]
fn a_listing_ends_although_its_reader_renames_what_it_sees() {
    let f = Fixture::new();
    for n in 0..5 {
        f.create(&format!("f{n}"));
    }
    let fh = f.tree.opendir(Ino::ROOT).unwrap();
    let (mut offset, mut seen) = (0, 0);
    loop {
        let mut name = None;
        f.tree
            .readdir(fh, offset, &mut |entry| {
                if name.is_some() {
                    return false;
                }
                name = Some(entry.name.to_vec());
                offset = entry.offset;
                true
            })
            .unwrap();
        let Some(name) = name else { break };
        seen += 1;
        if !name.starts_with(b".") {
            let new = [&name[..], b"x"].concat();
            f.tree.rename(Ino::ROOT, &name, Ino::ROOT, &new, RenameMode::Replace).unwrap();
        }
    }
    assert_eq!(seen, 7);
}

#[test]
fn a_read_only_mount_refuses_changes_and_shows_the_rest() {
    let f = Fixture::new();
    let ino = f.file("a", b"x");
    let (f, _) = f.restart(Options { read_only: true, ..Options::default() });
    assert_eq!(f.read(ino), b"x");
    assert_eq!(errno(f.tree.open(ino, READ_WRITE).map(|_| ())), libc::EROFS);
    assert_eq!(errno(f.tree.unlink(Ino::ROOT, b"a")), libc::EROFS);
    assert_eq!(errno(f.tree.mkdir(Ino::ROOT, b"d", 0o755, CALLER)), libc::EROFS);
    assert_eq!(errno(f.setattr(ino, Changes { mode: Some(0), ..Changes::default() })), libc::EROFS);
}

#[test]
fn handles_do_what_they_were_opened_for() {
    let f = Fixture::new();
    let ino = f.file("a", b"x");
    let reader = f.tree.open(ino, READ).unwrap().fh;
    assert_eq!(errno(f.tree.write(reader, 0, b"y", Written::default())), libc::EBADF);
    let writer = f.tree.open(ino, Access { read: false, ..READ_WRITE }).unwrap().fh;
    assert_eq!(errno(f.read_handle(writer)), libc::EBADF);
    f.tree.release(reader);
    assert_eq!(errno(f.read_handle(reader)), libc::EBADF);
    assert_eq!(errno(f.flush(Fh(999))), libc::EBADF);
}

#[test]
fn content_that_the_cluster_has_lost_is_stored_again_and_brings_all_its_names_back() {
    let f = Fixture::new();
    let (a, b) = (f.file("a", b"precious"), f.file("b", b"precious"));
    let reader = f.tree.open(b, READ).unwrap().fh;
    assert_eq!(f.read_handle(reader).unwrap(), b"precious");
    // Somebody deletes it behind the tree's back.
    let gone = f.file_id(a);
    let (send, receive) = mpsc::channel();
    f.store.remove(&gone, Box::new(move |removed| send.send(removed).unwrap()));
    receive.recv().unwrap().unwrap();
    assert_eq!(errno(f.read_handle(reader)), libc::EIO);
    let (copy, to) = f.create("copy");
    let copied = wait(|done| f.tree.copy_range((reader, 0), (to, 0), 8, false, done));
    assert_eq!(errno(copied), libc::EIO, "there is nothing to refer to");
    f.close(to).unwrap();

    let c = f.file("c", b"precious");
    assert_eq!(f.store.count(Op::Upload), 2);
    assert_ne!(f.file_id(c), gone);
    assert_eq!([a, b, c].map(|ino| f.read(ino)), [b"precious"; 3]);
    assert_eq!(f.read_handle(reader).unwrap(), b"precious", "also for who had it open");
    assert_eq!(f.read(copy.ino), b"");
    f.tree.release(reader);
    f.collected(4);
    assert_eq!(f.store.objects().len(), 1);
}

#[test]
fn who_finds_content_lost_through_a_stage_keeps_others_from_taking_it() {
    let f = Fixture::new();
    let remove = |id: String| wait(|done| f.store.remove(&id, Box::new(|removed| done(removed.map_err(Into::into)))));
    for (number, reads) in [(0, true), (1, false)] {
        let bytes = [b"precious".as_slice(), &[number]].concat();
        let a = f.file(&format!("a{number}"), &bytes);
        remove(f.file_id(a)).unwrap();
        let fh = f.tree.open(a, READ_WRITE).unwrap().fh;
        f.write(fh, 20, b"more");
        // What is missing is needed for a read, and to store the whole.
        let failed = if reads { f.read_handle(fh).map(drop) } else { f.flush(fh) };
        assert_eq!(errno(failed), libc::EIO);
        let c = f.file(&format!("c{number}"), &bytes);
        assert_eq!(f.read(c), bytes);
        f.tree.release(fh);
    }
}

#[test]
fn after_damage_was_found_the_next_open_starts_afresh() {
    let f = Fixture::new();
    let ino = f.file("a", b"x");
    f.store.fail_next(Op::Read, 1, ContentError::Corrupt("as told".into()));
    let first = f.tree.open(ino, READ).unwrap();
    assert!(!first.doubtful);
    assert_eq!(errno(f.read_handle(first.fh)), libc::EIO);
    let second = f.tree.open(ino, READ).unwrap();
    assert!(second.doubtful, "what the kernel has of it may be wrong");
    assert_eq!(f.read_handle(second.fh).unwrap(), b"x");
    assert!(!f.tree.open(ino, READ).unwrap().doubtful);
}

#[test]
fn appending_goes_to_the_end_whoever_moved_it() {
    let f = Fixture::new();
    let (attr, plain) = f.create("a");
    let append = f.tree.open(attr.ino, Access { append: true, ..READ_WRITE }).unwrap().fh;
    f.write(plain, 0, b"12345");
    f.write(append, 0, b"67");
    f.tree.write(append, 1, b"x", Written { from_page_cache: true, ..Written::default() }).unwrap();
    assert_eq!(f.read(attr.ino), b"1x34567");
}

#[test]
fn a_removed_inode_lives_until_it_is_forgotten() {
    let f = Fixture::with(Options { forgotten: true, ..Options::default() });
    let (old, new) = (f.file("a", b"old"), f.file("b", b"new"));
    let dir = f.tree.mkdir(Ino::ROOT, b"d", 0o755, CALLER).unwrap().ino;
    f.tree.rename(Ino::ROOT, b"b", Ino::ROOT, b"a", RenameMode::Replace).unwrap();
    f.tree.rmdir(Ino::ROOT, b"d").unwrap();
    // Who had looked it up before the rename opens it now.
    assert_eq!(f.read(old), b"old");
    assert_eq!(f.tree.getattr(old).unwrap().nlink, 0);
    assert_eq!(f.tree.getattr(dir).unwrap().nlink, 0);
    for ino in [old, dir, new] {
        f.tree.forget(ino);
    }
    assert_eq!(errno(f.tree.getattr(old)), libc::ENOENT);
    assert_eq!(errno(f.tree.getattr(dir)), libc::ENOENT);
    assert_eq!(f.read(new), b"new");
}

#[test]
fn what_a_failed_index_cannot_note_is_stored_by_the_next_mount() {
    let f = Fixture::new();
    let ino = f.file("a", b"before");
    // With a row already: what is set apart later is newer.
    f.store.fail_next(Op::Upload, 100, ContentError::Closed);
    let fh = f.tree.open(ino, READ_WRITE).unwrap().fh;
    f.write(fh, 0, b"during");
    assert!(f.close(fh).is_err());
    let Fixture { directory, store, index, tree } = f;
    assert_eq!(tree.close().unwrap(), 1);
    index.close().unwrap();

    let path = directory.path().join("index.db");
    let fault: fdfs_index::Fault = Arc::new(|step| match step {
        fdfs_index::Step::BeforeCommit => Err(std::io::Error::from_raw_os_error(libc::ENOSPC)),
        _ => Ok(()),
    });
    let options = fdfs_index::Options { fault: Some(fault), ..fdfs_index::Options::default() };
    let index = Arc::new(Index::open(&path, options).unwrap());
    let content: Arc<dyn ContentStore> = store.clone();
    // The attempt to store what was kept waits, so that it is not what makes the index fail.
    let gate = store.hold(Op::Upload);
    let tree = Tree::open(index.clone(), content, Options::default()).unwrap();
    gate.wait_for(1);
    let f = Fixture { directory, store, index, tree };
    let fh = f.tree.open(ino, READ_WRITE).unwrap().fh;
    f.write(fh, 0, b"after!");
    let flushed = begin(|done| f.tree.flush(fh, done));
    gate.open();
    assert!(flushed.recv().unwrap().is_err());
    // The index has given up; nothing more is uploaded for it.
    let uploads = f.store.count(Op::Upload);
    f.write(fh, 0, b"AFTER!");
    assert_eq!(errno(f.close(fh)), libc::EROFS);
    assert_eq!(f.store.count(Op::Upload), uploads);

    let Fixture { directory, store, index, tree } = f;
    assert!(tree.close().is_err());
    // Not dropped: what the store answers last may still hold it for a moment.
    assert!(index.close().is_err());
    store.heal();
    let f = Fixture::open(directory, store, Options::default());
    assert_eq!(f.read(ino), b"AFTER!");
    let (f, failed) = f.restart(Options::default());
    assert_eq!((f.read(ino), failed), (b"AFTER!".to_vec(), 0));
}
