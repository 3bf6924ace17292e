//! What the index should do, in the simplest form: maps, no concurrency, counts by counting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fdfs_index::*;

use super::{Picture, describe_model};

type Answer = Result<Option<Attr>, i32>;

#[derive(Debug, Clone)]
pub struct Node {
    pub attr: Attr,
    pub parent: Ino,
    pub entries: BTreeMap<Vec<u8>, Ino>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub content: Option<NewContent>,
    pub holds: u32,
}

#[derive(Debug, Clone)]
pub struct Model {
    nodes: BTreeMap<Ino, Node>,
    pub garbage: BTreeSet<String>,
}

impl Model {
    pub fn new(root: Attr) -> Model {
        let mut model = Model { nodes: BTreeMap::new(), garbage: BTreeSet::new() };
        model.add(root, Ino::ROOT);
        model
    }

    fn add(&mut self, attr: Attr, parent: Ino) {
        let (entries, xattrs) = (BTreeMap::new(), BTreeMap::new());
        self.nodes.insert(attr.ino, Node { attr, parent, entries, xattrs, content: None, holds: 0 });
    }

    pub fn pick(&self, number: u8) -> Ino {
        *self.nodes.keys().nth(usize::from(number) % self.nodes.len()).unwrap()
    }

    /// Mostly a directory, sometimes something else.
    pub fn pick_dir(&self, number: u8) -> Ino {
        if number > 250 {
            return self.pick(number);
        }
        let dirs: Vec<Ino> = self
            .nodes
            .values()
            .filter(|node| node.attr.kind == FileKind::Directory)
            .map(|node| node.attr.ino)
            .collect();
        dirs[usize::from(number) % dirs.len()]
    }

    fn at(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).unwrap()
    }

    /// Fails as a change of the entries of `dir` does.
    fn check_dir(&self, dir: Ino) -> Result<(), i32> {
        let attr = &self.nodes[&dir].attr;
        match attr.kind {
            FileKind::Directory if attr.nlink == 0 => Err(libc::ENOENT),
            FileKind::Directory => Ok(()),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn find(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.nodes[&dir].entries.get(name).copied()
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.nodes[&ino].attr.kind == FileKind::Directory
    }

    /// Sets link counts and sizes of directories by counting, and the times of `dir`.
    fn entries_changed(&mut self, dir: Ino, now: Timestamp) {
        let children: Vec<Ino> = self.nodes[&dir].entries.values().copied().collect();
        let subdirs = children.iter().filter(|child| self.is_dir(**child)).count();
        let attr = &mut self.at(dir).attr;
        attr.nlink = 2 + subdirs as u32;
        attr.size = children.len() as u64;
        attr.mtime = now;
        attr.ctime = now;
    }

    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Answer {
        if !self.is_dir(dir) {
            return Err(libc::ENOTDIR);
        }
        self.find(dir, name).map(|ino| Some(self.nodes[&ino].attr)).ok_or(libc::ENOENT)
    }

    /// `real` is what the index created, for its number.
    pub fn create(&mut self, dir: Ino, name: &[u8], kind: FileKind, real: Option<Attr>, now: Timestamp) -> Answer {
        self.check_dir(dir)?;
        if self.find(dir, name).is_some() {
            return Err(libc::EEXIST);
        }
        let Some(Attr { ino, .. }) = real else { return Ok(None) };
        let attr = Attr {
            ino,
            kind,
            mode: 0o640,
            uid: 5,
            gid: 6,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            rdev: if kind == FileKind::CharDevice { 259 } else { 0 },
            size: if kind == FileKind::Symlink { 14 } else { 0 },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            content: None,
        };
        assert!(!self.nodes.contains_key(&ino), "{ino} is used again");
        self.add(attr, dir);
        self.at(dir).entries.insert(name.to_vec(), ino);
        self.entries_changed(dir, now);
        Ok(Some(attr))
    }

    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8], now: Timestamp) -> Answer {
        if self.is_dir(ino) {
            return Err(libc::EPERM);
        }
        if self.nodes[&ino].attr.nlink == 0 {
            return Err(libc::ENOENT);
        }
        self.check_dir(dir)?;
        if self.find(dir, name).is_some() {
            return Err(libc::EEXIST);
        }
        self.at(dir).entries.insert(name.to_vec(), ino);
        self.entries_changed(dir, now);
        let attr = &mut self.at(ino).attr;
        attr.nlink += 1;
        attr.ctime = now;
        Ok(Some(*attr))
    }

    pub fn remove(&mut self, dir: Ino, name: &[u8], rmdir: bool, now: Timestamp) -> Answer {
        let Some(ino) = self.lookup(dir, name)?.map(|attr| attr.ino) else { return Ok(None) };
        match (self.is_dir(ino), rmdir) {
            (true, false) => return Err(libc::EISDIR),
            (false, true) => return Err(libc::ENOTDIR),
            (true, true) if !self.nodes[&ino].entries.is_empty() => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        self.at(dir).entries.remove(name);
        self.entries_changed(dir, now);
        Ok(Some(self.lose_name(ino, now)))
    }

    fn lose_name(&mut self, ino: Ino, now: Timestamp) -> Attr {
        let is_dir = self.is_dir(ino);
        let attr = &mut self.at(ino).attr;
        attr.nlink = if is_dir { 0 } else { attr.nlink - 1 };
        attr.ctime = now;
        let attr = *attr;
        self.reap(ino);
        attr
    }

    /// An inode without names and holds is gone.
    fn reap(&mut self, ino: Ino) {
        let node = &self.nodes[&ino];
        if node.attr.nlink == 0 && node.holds == 0 {
            let content = self.nodes.remove(&ino).and_then(|node| node.content);
            self.released(content);
        }
    }

    fn refs(&self, content: &NewContent) -> u64 {
        self.nodes.values().filter(|node| node.content.as_ref() == Some(content)).count() as u64
    }

    fn released(&mut self, content: Option<NewContent>) {
        if let Some(content) = content.filter(|content| self.refs(content) == 0) {
            self.garbage.insert(content.file_id.to_string());
        }
    }

    pub fn hold(&mut self, ino: Ino) {
        self.at(ino).holds += 1;
    }

    pub fn release(&mut self, ino: Ino) {
        self.at(ino).holds -= 1;
        self.reap(ino);
    }

    /// All holds end, as they do with the process.
    pub fn restart(&mut self) {
        let held: Vec<Ino> = self.nodes.values().filter(|node| node.holds > 0).map(|node| node.attr.ino).collect();
        for ino in held {
            self.at(ino).holds = 0;
            self.reap(ino);
        }
    }

    fn is_below(&self, mut ino: Ino, top: Ino) -> bool {
        while ino != top {
            if ino == Ino::ROOT {
                return false;
            }
            ino = self.nodes[&ino].parent;
        }
        true
    }

    pub fn rename(
        &mut self,
        dir: Ino,
        name: &[u8],
        dir2: Ino,
        name2: &[u8],
        mode: RenameMode,
        now: Timestamp,
    ) -> Answer {
        let Some(source) = self.lookup(dir, name)?.map(|attr| attr.ino) else { return Ok(None) };
        if !self.is_dir(dir2) {
            return Err(libc::ENOTDIR);
        }
        let target = self.find(dir2, name2);
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        let exchange = mode == RenameMode::Exchange;
        let moves = |ino| self.is_dir(ino) && dir != dir2;
        if moves(source) && self.is_dir(dir2) && self.alive_below(dir2, source)
            || exchange && target.is_some_and(|ino| moves(ino) && self.is_below(dir, ino))
        {
            return Err(libc::EINVAL);
        }
        self.check_dir(dir2)?;
        if target == Some(source) {
            return Ok(None);
        }
        if let (Some(target), true) = (target, exchange) {
            self.at(dir).entries.insert(name.to_vec(), target);
            self.at(dir2).entries.insert(name2.to_vec(), source);
            self.at(source).parent = dir2;
            self.at(target).parent = dir;
            self.at(source).attr.ctime = now;
            self.at(target).attr.ctime = now;
            self.entries_changed(dir, now);
            self.entries_changed(dir2, now);
            return Ok(Some(self.nodes[&target].attr));
        }
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.nodes[&target].entries.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.at(dir).entries.remove(name);
        self.at(dir2).entries.insert(name2.to_vec(), source);
        self.at(source).parent = dir2;
        self.at(source).attr.ctime = now;
        self.entries_changed(dir, now);
        self.entries_changed(dir2, now);
        Ok(target.map(|target| self.lose_name(target, now)))
    }

    /// `is_below`, for a directory that may have been removed.
    fn alive_below(&self, mut ino: Ino, top: Ino) -> bool {
        while ino != top {
            match self.nodes.get(&ino) {
                Some(node) if ino != Ino::ROOT => ino = node.parent,
                _ => return false,
            }
        }
        true
    }

    pub fn setattr(&mut self, ino: Ino, set: &SetAttr) -> Answer {
        if set.size.is_some() && self.is_dir(ino) {
            return Err(libc::EISDIR);
        }
        let attr = &mut self.at(ino).attr;
        attr.mode = set.mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.size = set.size.unwrap_or(attr.size);
        attr.ctime = set.ctime.unwrap_or(attr.ctime);
        Ok(Some(*attr))
    }

    pub fn setxattr(&mut self, ino: Ino, name: &[u8], value: Vec<u8>, mode: XattrMode, now: Timestamp) -> Answer {
        let node = self.at(ino);
        match (mode, node.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(libc::EEXIST),
            (XattrMode::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), value);
        node.attr.ctime = now;
        Ok(None)
    }

    pub fn removexattr(&mut self, ino: Ino, name: &[u8], now: Timestamp) -> Answer {
        let node = self.at(ino);
        node.xattrs.remove(name).ok_or(libc::ENODATA)?;
        node.attr.ctime = now;
        Ok(None)
    }

    fn check_regular(&self, ino: Ino) -> Result<(), i32> {
        match self.nodes[&ino].attr.kind {
            FileKind::Regular => Ok(()),
            FileKind::Directory => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    fn refer(&mut self, ino: Ino, content: Option<NewContent>, size: u64, now: Timestamp) -> Answer {
        let node = self.at(ino);
        node.attr.size = size;
        node.attr.mtime = now;
        node.attr.ctime = now;
        let attr = node.attr;
        let in_place =
            node.content.as_ref().map(|content| &content.file_id) == content.as_ref().map(|new| &new.file_id);
        let former = std::mem::replace(&mut node.content, content);
        if !in_place {
            self.released(former);
        }
        Ok(Some(attr))
    }

    fn known(&self, print: Fingerprint, size: u64) -> Option<NewContent> {
        let mut contents = self.nodes.values().filter_map(|node| node.content.as_ref());
        contents.find(|content| content.fingerprint == Some(print) && content.size == size).cloned()
    }

    pub fn attach(&mut self, ino: Ino, new: NewContent, now: Timestamp) -> Answer {
        self.check_regular(ino)?;
        let size = new.size;
        match new.fingerprint.and_then(|print| self.known(print, size)) {
            Some(known) => {
                let own = self.nodes[&ino].content.as_ref().is_some_and(|content| content.file_id == new.file_id);
                if !own {
                    self.garbage.insert(new.file_id.to_string());
                }
                self.refer(ino, Some(known), size, now)
            }
            None => self.refer(ino, Some(new), size, now),
        }
    }

    /// What was stored as `lost` is stored as `found` now, for all who refer to it.
    pub fn restore(&mut self, lost: &str, found: &Arc<str>) {
        let contents = self.nodes.values_mut().filter_map(|node| node.content.as_mut());
        contents.filter(|content| *content.file_id == *lost).for_each(|content| content.file_id = found.clone());
        self.garbage.insert(lost.to_owned());
    }

    /// Lets `ino` refer to this content, whoever else does.
    pub fn refer_to(&mut self, ino: Ino, content: NewContent, now: Timestamp) -> Answer {
        let size = content.size;
        self.refer(ino, Some(content), size, now)
    }

    pub fn reuse(&mut self, ino: Ino, print: Fingerprint, size: u64, now: Timestamp) -> Answer {
        self.check_regular(ino)?;
        match self.known(print, size) {
            Some(known) => self.refer(ino, Some(known), size, now),
            None => Ok(None),
        }
    }

    pub fn clone_content(&mut self, from: Ino, to: Ino, now: Timestamp) -> Answer {
        self.check_regular(from)?;
        self.check_regular(to)?;
        let source = &self.nodes[&from];
        let (content, size) = (source.content.clone(), source.attr.size);
        if from != to && content.as_ref().is_some_and(|content| content.mutable) {
            return Err(libc::EINVAL);
        }
        self.refer(to, content, size, now)
    }

    pub fn clear_content(&mut self, ino: Ino, now: Timestamp) -> Answer {
        self.check_regular(ino)?;
        self.refer(ino, None, 0, now)
    }

    pub fn picture(&self) -> Picture {
        let mut picture = Picture { garbage: self.garbage.clone(), ..Picture::default() };
        self.visit(Ino::ROOT, Vec::new(), &mut picture);
        let contents: BTreeMap<_, _> =
            self.nodes.values().filter_map(|node| node.content.as_ref()).map(|new| (&new.file_id, new.size)).collect();
        picture.stats = IndexStats {
            inodes: self.nodes.len() as u64,
            contents: contents.len() as u64,
            logical_bytes: self.nodes.values().filter_map(|node| node.content.as_ref()).map(|new| new.size).sum(),
            stored_bytes: contents.values().sum(),
            garbage: self.garbage.len() as u64,
        };
        picture
    }

    fn visit(&self, ino: Ino, path: Vec<u8>, picture: &mut Picture) {
        let node = &self.nodes[&ino];
        let refs = node.content.as_ref().map_or(0, |content| self.refs(content));
        picture.entries.insert(path.clone(), describe_model(node, refs));
        for (name, child) in &node.entries {
            self.visit(*child, [&path[..], b"/", name].concat(), picture);
        }
    }
}
