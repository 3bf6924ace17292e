//! A tree and its model, side by side.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use fdfs_fuse::content::memory::{self, MemoryStore};
use fdfs_fuse::content::{ContentError, ContentStore};
use fdfs_fuse::tree::{Access, Allocate, Caller, Changes, Done, Fh, Options, Result, Tree, Written};
use fdfs_index::{Attr, FileKind, Index, Ino, RenameMode, XattrMode};

use crate::model::{Body, Id, Model, Outcome, ROOT, Refused, Replace};

const CALLER: Caller = Caller { uid: 1000, gid: 1000 };

/// Files, directories and handles are picked by a number modulo how many there are.
#[derive(Debug, Clone)]
pub enum Op {
    Create(usize, u8, bool),
    Mkdir(usize, u8),
    Symlink(usize, u8),
    Fifo(usize, u8),
    Unlink(usize, u8),
    Rmdir(usize, u8),
    Rename(usize, u8, usize, u8, u8),
    Link(usize, usize, u8),
    Open(usize, u8),
    Close(usize, bool),
    Write(usize, u64, usize, u8),
    Read(usize, u64, usize),
    Truncate(usize, u64),
    Ftruncate(usize, u64),
    Fallocate(usize, u64, u64, u8),
    Copy(usize, u64, usize, u64, u64),
    CopyWhole(usize, usize),
    CopyInPieces(usize, usize, u64),
    Chmod(usize, u32),
    Setxattr(usize, u8, u8),
    Removexattr(usize, u8),
    Flush(usize),
    Fsync(usize),
    FailUploads(usize),
    FailChange,
    Collect,
    Compare,
    Restart(bool),
}

pub struct Open {
    pub fh: Fh,
    pub id: Id,
    pub access: Access,
}

pub struct Harness {
    directory: tempfile::TempDir,
    store: Arc<MemoryStore>,
    index: Arc<Index>,
    tree: Option<Tree>,
    pub model: Model,
    pub inos: Vec<Ino>,
    pub handles: Vec<Open>,
}

fn wait<T: Send + 'static>(start: impl FnOnce(Done<T>)) -> Result<T> {
    let (send, receive) = mpsc::channel();
    start(Box::new(move |result| send.send(result).unwrap()));
    receive.recv().expect("every operation is answered")
}

fn file_name(name: u8) -> String {
    ["a", "b", "c", "d"][usize::from(name)].to_owned()
}

fn agree<T, U>(what: &str, real: &Result<T>, model: &Outcome<U>) {
    let error = real.as_ref().err();
    assert_eq!(real.is_ok(), model.is_ok(), "{what}: {error:?}");
}

impl Harness {
    pub fn new() -> Harness {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        let (index, tree) = Harness::start(&directory, &store);
        let model = Model::new();
        Harness { directory, store, index, tree: Some(tree), model, inos: vec![Ino::ROOT], handles: Vec::new() }
    }

    fn start(directory: &tempfile::TempDir, store: &Arc<MemoryStore>) -> (Arc<Index>, Tree) {
        let index = Arc::new(Index::open(&directory.path().join("index.db"), fdfs_index::Options::default()).unwrap());
        let store: Arc<dyn ContentStore> = store.clone();
        let tree = Tree::open(index.clone(), store, Options::default()).unwrap();
        (index, tree)
    }

    pub fn tree(&self) -> &Tree {
        self.tree.as_ref().unwrap()
    }

    fn pick(&self, n: usize, wanted: impl Fn(&Model, Id) -> bool) -> Option<Id> {
        let found: Vec<Id> =
            (0..self.model.nodes.len()).filter(|&id| self.model.alive(id) && wanted(&self.model, id)).collect();
        if found.is_empty() { None } else { Some(found[n % found.len()]) }
    }

    fn dir(&self, n: usize) -> Id {
        self.pick(n, Model::is_dir).unwrap()
    }

    fn handle(&self, n: usize) -> Option<usize> {
        if self.handles.is_empty() { None } else { Some(n % self.handles.len()) }
    }

    fn made(&mut self, what: &str, real: Result<Attr>, model: Outcome<Id>) {
        agree(what, &real, &model);
        if let (Ok(attr), Ok(id)) = (real, model) {
            assert_eq!(id, self.inos.len());
            self.inos.push(attr.ino);
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::Create(dir, name, append) => self.create(dir, name, append),
            Op::Mkdir(dir, name) => {
                let (dir, name) = (self.dir(dir), file_name(name));
                let real = self.tree().mkdir(self.inos[dir], name.as_bytes(), 0o755, CALLER);
                let body = Body::Dir { entries: BTreeMap::new(), parent: dir };
                // A directory passes set-group-ID on.
                let model = self.model.create(dir, &name, body, 0o755 | self.model.nodes[dir].mode & 0o2000);
                self.made("mkdir", real, model);
            }
            Op::Symlink(dir, name) => {
                let (dir, name) = (self.dir(dir), file_name(name));
                let real = self.tree().symlink(self.inos[dir], name.as_bytes(), b"../target", CALLER);
                let model = self.model.create(dir, &name, Body::Symlink("../target".into()), 0o777);
                self.made("symlink", real, model);
            }
            Op::Fifo(dir, name) => {
                let (dir, name) = (self.dir(dir), file_name(name));
                let real = self.tree().mknod(self.inos[dir], name.as_bytes(), FileKind::Fifo, 0o600, 0, CALLER);
                let model = self.model.create(dir, &name, Body::Fifo, 0o600);
                self.made("mknod", real, model);
            }
            Op::Unlink(dir, name) => {
                let (dir, name) = (self.dir(dir), file_name(name));
                let real = self.tree().unlink(self.inos[dir], name.as_bytes());
                agree("unlink", &real, &self.model.unlink(dir, &name));
            }
            Op::Rmdir(dir, name) => {
                let (dir, name) = (self.dir(dir), file_name(name));
                let real = self.tree().rmdir(self.inos[dir], name.as_bytes());
                agree("rmdir", &real, &self.model.rmdir(dir, &name));
            }
            Op::Rename(dir, name, to, new, how) => {
                let (dir, name, to, new) = (self.dir(dir), file_name(name), self.dir(to), file_name(new));
                let (mode, replace) = [
                    (RenameMode::Replace, Replace::Yes),
                    (RenameMode::NoReplace, Replace::No),
                    (RenameMode::Exchange, Replace::Exchange),
                ][usize::from(how)];
                let (from_ino, to_ino) = (self.inos[dir], self.inos[to]);
                let real = self.tree().rename(from_ino, name.as_bytes(), to_ino, new.as_bytes(), mode);
                agree("rename", &real, &self.model.rename(dir, &name, to, &new, replace));
            }
            Op::Link(file, dir, name) => {
                let (Some(file), dir, name) = (self.pick(file, |_, _| true), self.dir(dir), file_name(name)) else {
                    return;
                };
                let real = self.tree().link(self.inos[file], self.inos[dir], name.as_bytes());
                agree("link", &real, &self.model.link(file, dir, &name));
            }
            Op::Open(file, flags) => self.open(file, flags),
            Op::Close(handle, flush) => {
                let Some(at) = self.handle(handle) else { return };
                let open = self.handles.swap_remove(at);
                if flush {
                    // Whether the upload worked is the fault's business; the data must be there either way.
                    let _ = wait(|done| self.tree().flush(open.fh, done));
                }
                self.tree().release(open.fh);
            }
            Op::Write(handle, offset, len, seed) => self.write(handle, offset, len, seed),
            Op::Read(handle, offset, len) => {
                let Some(at) = self.handle(handle) else { return };
                let (fh, id, access) = (self.handles[at].fh, self.handles[at].id, self.handles[at].access);
                let real = self.read(fh, offset, len);
                if access.read {
                    assert_eq!(real.unwrap(), window(self.model.data(id), offset, len), "read {len} at {offset}");
                } else {
                    assert!(real.is_err());
                }
            }
            Op::Truncate(file, size) => {
                let Some(id) = self.pick(file, Model::is_file) else { return };
                self.resize(id, None, size);
            }
            Op::Ftruncate(handle, size) => {
                let Some(at) = self.handle(handle) else { return };
                let (fh, id, access) = (self.handles[at].fh, self.handles[at].id, self.handles[at].access);
                if access.write {
                    self.resize(id, Some(fh), size);
                }
            }
            Op::Fallocate(handle, offset, len, kind) => self.fallocate(handle, offset, len, kind),
            Op::Copy(from, offset, to, target, len) => self.copy(from, offset, to, target, len),
            Op::CopyWhole(from, to) => self.copy(from, 0, to, 0, u64::from(u32::MAX)),
            Op::CopyInPieces(from, to, piece) => {
                let Some(at) = self.handle(from) else { return };
                let id = self.handles[at].id;
                let size = self.model.data(id).len() as u64;
                let mut offset = 0;
                while offset <= size {
                    self.copy(from, offset, to, offset, piece);
                    offset += piece;
                }
            }
            Op::Chmod(file, mode) => {
                let Some(id) = self.pick(file, |_, _| true) else { return };
                let changes = Changes { mode: Some(mode), ..Changes::default() };
                wait(|done| self.tree().setattr(self.inos[id], changes, done)).unwrap();
                self.model.nodes[id].mode = mode;
            }
            Op::Setxattr(file, name, value) => {
                let Some(id) = self.pick(file, |_, _| true) else { return };
                let name = format!("user.{}", file_name(name));
                self.tree().setxattr(self.inos[id], name.as_bytes(), &[value], XattrMode::Any).unwrap();
                self.model.nodes[id].xattrs.insert(name, vec![value]);
            }
            Op::Removexattr(file, name) => {
                let Some(id) = self.pick(file, |_, _| true) else { return };
                let name = format!("user.{}", file_name(name));
                let real = self.tree().removexattr(self.inos[id], name.as_bytes());
                agree("removexattr", &real, &self.model.nodes[id].xattrs.remove(&name).ok_or(Refused));
            }
            Op::Flush(handle) => {
                let Some(at) = self.handle(handle) else { return };
                let _ = wait(|done| self.tree().flush(self.handles[at].fh, done));
            }
            Op::Fsync(handle) => {
                let Some(at) = self.handle(handle) else { return };
                let _ = wait(|done| self.tree().fsync(self.handles[at].fh, done));
            }
            Op::FailUploads(n) => {
                self.store.fail_next(memory::Op::Upload, n, ContentError::Timeout("by order".into()));
            }
            Op::FailChange => {
                self.store.fail_next(memory::Op::Change, 1, ContentError::NoSpace("by order".into()));
            }
            Op::Collect => {
                self.index.sync().unwrap();
            }
            Op::Compare => self.compare(),
            Op::Restart(faulty) => self.restart(faulty),
        }
    }

    fn create(&mut self, dir: usize, name: u8, append: bool) {
        let (dir, name) = (self.dir(dir), file_name(name));
        let access = Access { read: true, write: true, append, ..Access::default() };
        let real = self.tree().create(self.inos[dir], name.as_bytes(), 0o644, CALLER, access);
        let model = self.model.create(dir, &name, Body::File(Vec::new()), 0o644);
        agree("create", &real, &model);
        if let (Ok((attr, opened)), Ok(id)) = (real, model) {
            assert_eq!(id, self.inos.len());
            self.inos.push(attr.ino);
            self.handles.push(Open { fh: opened.fh, id, access });
        }
    }

    fn open(&mut self, file: usize, flags: u8) {
        let Some(id) = self.pick(file, Model::is_file) else { return };
        let access = Access {
            read: flags != 1,
            write: flags > 0,
            append: flags == 3,
            truncate: flags == 4,
            no_atime: flags == 5,
            kill_suid: false,
        };
        let opened = self.tree().open(self.inos[id], access);
        match opened {
            Ok(opened) => {
                if access.truncate {
                    self.model.data(id).clear();
                }
                self.handles.push(Open { fh: opened.fh, id, access });
            }
            Err(error) => panic!("open: {error}"),
        }
    }

    fn write(&mut self, handle: usize, offset: u64, len: usize, seed: u8) {
        let Some(at) = self.handle(handle) else { return };
        let (fh, id, access) = (self.handles[at].fh, self.handles[at].id, self.handles[at].access);
        let bytes: Vec<u8> = (0..len).map(|i| seed.wrapping_add((i / 7) as u8)).collect();
        let real = self.tree().write(fh, offset, &bytes, Written::default());
        if !access.write {
            assert!(real.is_err());
            return;
        }
        match real {
            Ok(written) => {
                assert_eq!(written, len);
                let data = self.model.data(id);
                let offset = if access.append { data.len() } else { offset as usize };
                if data.len() < offset + len {
                    data.resize(offset + len, 0);
                }
                data[offset..offset + len].copy_from_slice(&bytes);
            }
            Err(error) => assert_eq!(error.to_errno(), libc::ENOSPC, "only the fault may fail a write: {error}"),
        }
    }

    fn resize(&mut self, id: Id, fh: Option<Fh>, size: u64) {
        let changes = Changes { size: Some(size), fh, ..Changes::default() };
        match wait(|done| self.tree().setattr(self.inos[id], changes, done)) {
            Ok(attr) => assert_eq!(attr.size, size),
            Err(error) if error.to_errno() == libc::ENOSPC => return,
            // The upload failed, the content is changed nevertheless.
            Err(error) => assert_eq!(error.to_errno(), libc::ETIMEDOUT, "{error}"),
        }
        self.model.data(id).resize(size as usize, 0);
    }

    fn fallocate(&mut self, handle: usize, offset: u64, len: u64, kind: u8) {
        let Some(at) = self.handle(handle) else { return };
        let (fh, id, access) = (self.handles[at].fh, self.handles[at].id, self.handles[at].access);
        if !access.write {
            return;
        }
        let what = match kind {
            0 => Allocate::Extend,
            1 => Allocate::KeepSize,
            2 => Allocate::PunchHole,
            _ => Allocate::ZeroRange { keep_size: true },
        };
        match self.tree().fallocate(fh, offset, len, what, false) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.to_errno(), libc::ENOSPC, "{error}");
                return;
            }
        }
        let data = self.model.data(id);
        let (start, end) = ((offset as usize).min(data.len()), ((offset + len) as usize).min(data.len()));
        match kind {
            0 => data.resize(data.len().max((offset + len) as usize), 0),
            1 => {}
            _ => data[start..end].fill(0),
        }
    }

    fn copy(&mut self, from: usize, offset: u64, to: usize, target: u64, len: u64) {
        let (Some(from), Some(to)) = (self.handle(from), self.handle(to)) else { return };
        let (source, dest) = (&self.handles[from], &self.handles[to]);
        if !source.access.read || !dest.access.write {
            return;
        }
        let (source_id, dest_id, source_fh, dest_fh) = (source.id, dest.id, source.fh, dest.fh);
        if source_id == dest_id {
            return;
        }
        let real = wait(|done| self.tree().copy_range((source_fh, offset), (dest_fh, target), len, false, done));
        let copied = match real {
            Ok(copied) => copied as usize,
            Err(error) => return assert_eq!(error.to_errno(), libc::ENOSPC, "{error}"),
        };
        let bytes = window(self.model.data(source_id), offset, copied);
        assert_eq!(bytes.len(), copied, "copied beyond the end of the source");
        let left = self.model.data(source_id).len().saturating_sub(offset as usize);
        assert!(copied > 0 || left == 0 || len == 0, "nothing copied of {left}");
        if copied > 0 {
            let data = self.model.data(dest_id);
            let target = target as usize;
            if data.len() < target + copied {
                data.resize(target + copied, 0);
            }
            data[target..target + copied].copy_from_slice(&bytes);
        }
    }

    pub fn read(&self, fh: Fh, offset: u64, len: usize) -> Result<Vec<u8>> {
        wait(|done| {
            self.tree().read(fh, offset, len, move |result: Result<&[u8]>| done(result.map(<[u8]>::to_vec)));
        })
    }

    fn attributes(&self) -> Vec<Attr> {
        let alive = (0..self.model.nodes.len()).filter(|&id| self.model.alive(id));
        alive.map(|id| self.tree().getattr(self.inos[id]).unwrap()).collect()
    }

    /// Ends the tree and starts it again over the same index and store; with `faulty`, while uploads fail.
    fn restart(&mut self, faulty: bool) {
        let fail = || self.store.fail_next(memory::Op::Upload, 1000, ContentError::Timeout("down".into()));
        if faulty {
            fail();
        } else {
            self.store.heal();
        }
        self.handles.drain(..).for_each(|open| self.tree.as_ref().unwrap().release(open.fh));
        let before = self.attributes();
        let tree = self.tree.take().unwrap();
        let left = tree.close().unwrap();
        assert!(faulty || left == 0, "{left} files not stored");
        self.index.close().unwrap();
        (self.index, self.tree) = {
            let (index, tree) = Harness::start(&self.directory, &self.store);
            (index, Some(tree))
        };
        let after = self.attributes();
        self.store.heal();
        for (before, after) in before.iter().zip(&after) {
            let plain = |attr: &Attr| Attr { content: None, ..*attr };
            assert_eq!(plain(before), plain(after), "attributes over a restart");
        }
        self.compare();
    }

    /// The end: all that is stored is referred to, once everything is stored and collected.
    pub fn finish(mut self) {
        self.compare();
        self.restart(false);
        // Recovered data is stored in the background; closing waits for it.
        let referred: std::collections::BTreeSet<String> = {
            let tree = self.tree.take().unwrap();
            assert_eq!(tree.close().unwrap(), 0);
            let alive = (0..self.model.nodes.len()).filter(|&id| self.model.alive(id));
            alive.filter_map(|id| self.index.content(self.inos[id]).unwrap()).map(|c| c.file_id.to_string()).collect()
        };
        loop {
            self.index.sync().unwrap();
            let garbage = self.index.garbage(1000).unwrap();
            if garbage.is_empty() {
                break;
            }
            for (id, file_id) in garbage {
                assert!(!referred.contains(&*file_id), "{file_id} is referred to and garbage");
                let (send, receive) = mpsc::channel();
                self.store.remove(&file_id, Box::new(move |result| send.send(result).unwrap()));
                receive.recv().unwrap().unwrap();
                self.index.garbage_done(&[id]).unwrap();
            }
        }
        let stored: std::collections::BTreeSet<String> = self.store.objects().into_keys().collect();
        assert_eq!(stored, referred);
        assert!(self.model.alive(ROOT));
        self.index.close().unwrap();
    }
}

fn window(data: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let start = (offset as usize).min(data.len());
    data[start..data.len().min(start.saturating_add(len))].to_vec()
}
