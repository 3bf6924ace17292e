//! A reference model of the index, random operations on both, and a picture of the state to compare.
#![allow(dead_code)] // each test program uses its part
#![allow(clippy::unwrap_used)] // a panic is how a test fails

pub mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fdfs_index::*;
use model::{Model, Node};

pub const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"\xff\xfe", b"long name with spaces", b"z"];
pub const XATTRS: [&[u8]; 3] = [b"user.one", b"user.two", b"security.capability"];

/// One operation, in terms of small numbers that select among what is there.
#[derive(Debug, Clone)]
pub struct Op(pub [u8; 6]);

/// What is compared: everything a user can see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picture {
    pub entries: BTreeMap<Vec<u8>, String>,
    pub garbage: BTreeSet<String>,
    pub stats: IndexStats,
}

pub fn time(secs: usize) -> Timestamp {
    Timestamp { secs: secs as i64, nsec: 7 }
}

pub fn new_inode(kind: FileKind) -> NewInode {
    let target = (kind == FileKind::Symlink).then(|| b"somewhere/else".to_vec());
    NewInode { kind, mode: 0o100_640, uid: 5, gid: 6, rdev: u32::from(kind == FileKind::CharDevice) * 259, target }
}

pub fn fingerprint(number: u8) -> Fingerprint {
    Fingerprint::of(&[number])
}

/// An index and its model, side by side.
pub struct Pair {
    pub index: Index,
    pub model: Model,
    pub holds: Vec<Hold>,
    pub step: usize,
}

impl Pair {
    pub fn open(path: &Path, options: Options) -> Pair {
        let index = Index::open(path, options).unwrap();
        let root =
            index.setattr(Ino::ROOT, &SetAttr { mtime: Some(time(0)), ctime: Some(time(0)), ..SetAttr::default() });
        Pair { index, model: Model::new(root.unwrap()), holds: Vec::new(), step: 0 }
    }

    /// Does `op` on both and compares the answers. Returns what the index said.
    pub fn run(&mut self, op: &Op) {
        self.step += 1;
        let now = time(self.step);
        let [code, a, b, c, d, e] = op.0;
        let (index, model) = (&self.index, &mut self.model);
        let (dir, dir2) = (model.pick_dir(a), model.pick_dir(c));
        let (name, name2) = (NAMES[b as usize % 6], NAMES[d as usize % 6]);
        let (ino, ino2) = (model.pick(a), model.pick(c));
        let print = fingerprint(d % 4);
        let xattr = XATTRS[b as usize % 3];
        let step = self.step;
        let (real, expected) = match code % 32 {
            0..=5 => {
                use FileKind::*;
                let kind = [Directory, Regular, Regular, Directory, Symlink, Fifo, Socket, CharDevice][e as usize % 8];
                let real = index.create(dir, name, &new_inode(kind), now);
                (real.clone().map(Some), model.create(dir, name, kind, real.ok(), now))
            }
            6 | 7 => (index.link(ino, dir2, name2, now).map(Some), model.link(ino, dir2, name2, now)),
            8..=10 => (index.unlink(dir, name, now).map(Some), model.remove(dir, name, false, now)),
            11 => (index.rmdir(dir, name, now).map(Some), model.remove(dir, name, true, now)),
            12..=16 => {
                use RenameMode::*;
                let mode = [Replace, Replace, Replace, NoReplace, Exchange][e as usize % 5];
                let real = index.rename(dir, name, dir2, name2, mode, now);
                (real, model.rename(dir, name, dir2, name2, mode, now))
            }
            17 => {
                let set = SetAttr {
                    mode: (b & 1 > 0).then_some(u32::from(d)),
                    uid: (b & 2 > 0).then_some(9),
                    size: (b & 4 > 0).then_some(u64::from(d)),
                    ctime: Some(now),
                    ..SetAttr::default()
                };
                (index.setattr(ino, &set).map(Some), model.setattr(ino, &set))
            }
            18 | 19 => {
                let mode = [XattrMode::Any, XattrMode::Create, XattrMode::Replace][e as usize % 3];
                let value = vec![d; usize::from(c)];
                let real = index.setxattr(ino, xattr, &value, mode, now).map(|()| None);
                (real, model.setxattr(ino, xattr, value, mode, now))
            }
            20 => (index.removexattr(ino, xattr, now).map(|()| None), model.removexattr(ino, xattr, now)),
            21..=23 => {
                let mutable = e % 4 == 0;
                let new = NewContent {
                    fingerprint: (!mutable).then_some(print),
                    size: u64::from(d % 4) * 10,
                    file_id: format!("group1/{step}").into(),
                    mutable,
                };
                (index.attach(ino, new.clone(), now).map(Some), model.attach(ino, new, now))
            }
            24 => {
                // The mutable content changes in place, or is sealed under its name.
                let file_id = index.content(ino).ok().flatten().filter(|content| content.mutable);
                let Some(content) = file_id else { return };
                let mutable = e % 2 == 0;
                let new = NewContent {
                    fingerprint: (!mutable).then_some(print),
                    size: u64::from(d % 4) * 10,
                    file_id: content.file_id,
                    mutable,
                };
                (index.attach(ino, new.clone(), now).map(Some), model.attach(ino, new, now))
            }
            25 => (
                index.reuse(ino, &print, u64::from(d % 4) * 10, now),
                model.reuse(ino, print, u64::from(d % 4) * 10, now),
            ),
            26 => match index.content(ino) {
                Ok(Some(content)) => {
                    (index.clone_content(ino, ino2, content.id, now), model.clone_content(ino, ino2, now))
                }
                _ => return,
            },
            27 => (index.clear_content(ino, now).map(Some), model.clear_content(ino, now)),
            28 => {
                if let Ok(hold) = index.hold(ino) {
                    model.hold(ino);
                    self.holds.push(hold);
                }
                return;
            }
            29 => {
                if !self.holds.is_empty() {
                    let hold = self.holds.swap_remove(usize::from(a) % self.holds.len());
                    let ino = hold.ino();
                    drop(hold);
                    model.release(ino);
                }
                return;
            }
            30 => {
                // Some garbage is deleted from the cluster, some could not be.
                index.sync().unwrap();
                let rows = index.garbage(3).unwrap();
                let (done, failed) = rows.split_at(rows.len().min(usize::from(a % 3)));
                let numbers = |rows: &[(GarbageId, _)]| rows.iter().map(|(id, _)| *id).collect::<Vec<_>>();
                index.garbage_failed(&numbers(failed));
                index.garbage_done(&numbers(done)).unwrap();
                for (_, file_id) in done {
                    assert!(model.garbage.remove(&**file_id), "{file_id} is no garbage");
                }
                return;
            }
            31 if e % 2 == 0 => {
                // The cluster has lost the content of one file, and gets it again with another.
                let (Ok(Some(lost)), Ok(own)) = (index.content(ino), index.content(ino2)) else { return };
                let regular = index.getattr(ino2).is_ok_and(|attr| attr.kind == FileKind::Regular);
                let Some(print) = lost.fingerprint.filter(|_| regular) else { return };
                assert!(!index.content_lost(ino, "group1/another").unwrap());
                assert!(index.content_lost(ino, &lost.file_id).unwrap());
                assert!(!index.content_lost(ino, &lost.file_id).unwrap(), "told before");
                assert_eq!(index.reuse(ino2, &print, lost.size, now).unwrap(), None);
                let file_id = match own.filter(|own| own.mutable) {
                    Some(own) => own.file_id,
                    None => format!("group1/{step}").into(),
                };
                let new = NewContent { fingerprint: Some(print), size: lost.size, file_id, mutable: false };
                model.restore(&lost.file_id, &new.file_id);
                (index.attach(ino2, new.clone(), now).map(Some), model.refer_to(ino2, new, now))
            }
            _ => (index.lookup(dir, name).map(Some), model.lookup(dir, name)),
        };
        let real = real.map_err(|error| error.to_errno());
        // The number of a content is the index's own affair.
        let blind = |attr: Option<Attr>| attr.map(|attr| Attr { content: None, ..attr });
        assert_eq!(real.map(blind), expected.map(blind), "step {step}: {op:?}");
    }

    /// Compares everything.
    pub fn compare(&self) {
        assert_same(&picture_of(&self.index), &self.model.picture());
    }
}

/// Compares two pictures, and shows only what differs.
pub fn assert_same(real: &Picture, expected: &Picture) {
    let mut paths: BTreeSet<_> = real.entries.keys().chain(expected.entries.keys()).collect();
    paths.retain(|path| real.entries.get(*path) != expected.entries.get(*path));
    let paths: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let of = |picture: &Picture| picture.entries.get(path).cloned().unwrap_or_default();
            format!("{}:\n  is   {}\n  want {}\n", String::from_utf8_lossy(path), of(real), of(expected))
        })
        .collect();
    let garbage: Vec<_> = real.garbage.symmetric_difference(&expected.garbage).collect();
    assert!(
        real == expected,
        "{}garbage {garbage:?}\n  is   {:?}\n  want {:?}",
        paths.concat(),
        real.stats,
        expected.stats
    );
}

/// Everything to be seen in an open index. Takes all garbage.
pub fn picture_of(index: &Index) -> Picture {
    index.sync().unwrap();
    let mut picture = Picture { stats: index.stats(), ..Picture::default() };
    visit(index, Ino::ROOT, Vec::new(), &mut picture);
    let mut taken = Vec::new();
    loop {
        let rows = index.garbage(5).unwrap();
        if rows.is_empty() {
            break;
        }
        for (id, file_id) in rows {
            assert!(picture.garbage.insert(file_id.to_string()), "{file_id} is garbage twice");
            taken.push(id);
        }
    }
    index.garbage_failed(&taken);
    picture
}

fn visit(index: &Index, dir: Ino, path: Vec<u8>, picture: &mut Picture) {
    let attr = index.getattr(dir).unwrap();
    picture.entries.insert(path.clone(), describe(index, attr));
    let mut children = Vec::new();
    let mut last = FIRST_COOKIE - 1;
    index
        .readdir(dir, 0, &mut |cookie, name, attr| {
            assert!(cookie > last && cookie <= index.horizon(), "cookies grow");
            last = cookie;
            children.push((name.to_vec(), *attr));
            true
        })
        .unwrap();
    assert_eq!(attr.size, children.len() as u64);
    for (name, attr) in children {
        assert_eq!(index.lookup(dir, &name).unwrap(), attr);
        let path = [&path[..], b"/", &name].concat();
        if attr.kind == FileKind::Directory {
            assert_eq!(index.parent(attr.ino).unwrap(), dir);
            visit(index, attr.ino, path, picture);
        } else {
            picture.entries.insert(path, describe(index, attr));
        }
    }
}

fn describe(index: &Index, attr: Attr) -> String {
    let xattrs: Vec<_> = index
        .listxattr(attr.ino)
        .unwrap()
        .into_iter()
        .map(|name| (name.to_vec(), index.getxattr(attr.ino, &name).unwrap().to_vec()))
        .collect();
    let target = (attr.kind == FileKind::Symlink).then(|| index.readlink(attr.ino).unwrap().to_vec());
    let content = index.content(attr.ino).unwrap();
    assert_eq!(content.as_ref().map(|content| content.id), attr.content);
    let content = content.map(|content| (content.file_id, content.size, content.mutable, content.refs));
    format!("{:?} {xattrs:?} {target:?} {content:?}", Attr { content: None, atime: time(0), btime: time(0), ..attr })
}

/// The same words for the model.
pub fn describe_model(node: &Node, refs: u64) -> String {
    let xattrs: Vec<_> = node.xattrs.iter().collect();
    let target = (node.attr.kind == FileKind::Symlink).then(|| b"somewhere/else".to_vec());
    let content = node.content.as_ref().map(|content| (&content.file_id, content.size, content.mutable, refs));
    let attr = Attr { content: None, atime: time(0), btime: time(0), ..node.attr };
    format!("{attr:?} {xattrs:?} {target:?} {content:?}")
}

/// Random operations for tests that cannot use proptest.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn op(&mut self) -> Op {
        let bytes = self.next().to_le_bytes();
        Op([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }
}
