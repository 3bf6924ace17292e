//! What a tree should look like: the plainest file system that can be.

use std::collections::BTreeMap;

/// The number of a node of the model.
pub type Id = usize;

pub const ROOT: Id = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Dir { entries: BTreeMap<String, Id>, parent: Id },
    File(Vec<u8>),
    Symlink(String),
    Fifo,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub body: Body,
    pub mode: u32,
    /// Names; for a directory 2 and its subdirectories. 0: removed, perhaps still open.
    pub nlink: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct Model {
    pub nodes: Vec<Node>,
}

/// The operation must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

pub type Outcome<T> = Result<T, Refused>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    Yes,
    No,
    Exchange,
}

impl Model {
    pub fn new() -> Model {
        let body = Body::Dir { entries: BTreeMap::new(), parent: ROOT };
        Model { nodes: vec![Node { body, mode: 0o755, nlink: 2, xattrs: BTreeMap::new() }] }
    }

    pub fn is_dir(&self, id: Id) -> bool {
        matches!(self.nodes[id].body, Body::Dir { .. })
    }

    pub fn is_file(&self, id: Id) -> bool {
        matches!(self.nodes[id].body, Body::File(_))
    }

    pub fn alive(&self, id: Id) -> bool {
        self.nodes[id].nlink > 0
    }

    pub fn entries(&self, dir: Id) -> &BTreeMap<String, Id> {
        match &self.nodes[dir].body {
            Body::Dir { entries, .. } => entries,
            _ => panic!("not a directory"),
        }
    }

    fn entries_mut(&mut self, dir: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.nodes[dir].body {
            Body::Dir { entries, .. } => entries,
            _ => panic!("not a directory"),
        }
    }

    pub fn data(&mut self, id: Id) -> &mut Vec<u8> {
        match &mut self.nodes[id].body {
            Body::File(data) => data,
            _ => panic!("not a file"),
        }
    }

    pub fn lookup(&self, dir: Id, name: &str) -> Outcome<Id> {
        self.entries(dir).get(name).copied().ok_or(Refused)
    }

    pub fn create(&mut self, dir: Id, name: &str, body: Body, mode: u32) -> Outcome<Id> {
        if !self.alive(dir) || self.lookup(dir, name).is_ok() {
            return Err(Refused);
        }
        let is_dir = matches!(body, Body::Dir { .. });
        self.nodes.push(Node { body, mode, nlink: if is_dir { 2 } else { 1 }, xattrs: BTreeMap::new() });
        let id = self.nodes.len() - 1;
        if is_dir {
            self.nodes[dir].nlink += 1;
        }
        self.entries_mut(dir).insert(name.to_owned(), id);
        Ok(id)
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &str) -> Outcome<()> {
        if !self.alive(dir) || !self.alive(id) || self.is_dir(id) || self.lookup(dir, name).is_ok() {
            return Err(Refused);
        }
        self.nodes[id].nlink += 1;
        self.entries_mut(dir).insert(name.to_owned(), id);
        Ok(())
    }

    pub fn unlink(&mut self, dir: Id, name: &str) -> Outcome<()> {
        let id = self.lookup(dir, name)?;
        if self.is_dir(id) {
            return Err(Refused);
        }
        self.nodes[id].nlink -= 1;
        self.entries_mut(dir).remove(name);
        Ok(())
    }

    pub fn rmdir(&mut self, dir: Id, name: &str) -> Outcome<()> {
        let id = self.lookup(dir, name)?;
        if !self.is_dir(id) || !self.entries(id).is_empty() {
            return Err(Refused);
        }
        self.nodes[id].nlink = 0;
        self.nodes[dir].nlink -= 1;
        self.entries_mut(dir).remove(name);
        Ok(())
    }

    /// Whether `id` is `top` or somewhere below it.
    fn below(&self, mut id: Id, top: Id) -> bool {
        loop {
            if id == top {
                return true;
            }
            match self.nodes[id].body {
                Body::Dir { parent, .. } if id != ROOT => id = parent,
                _ => return false,
            }
        }
    }

    fn put(&mut self, dir: Id, name: &str, id: Id) {
        if self.is_dir(id) {
            let Body::Dir { parent, .. } = &mut self.nodes[id].body else { unreachable!() };
            let old = std::mem::replace(parent, dir);
            self.nodes[old].nlink -= 1;
            self.nodes[dir].nlink += 1;
        }
        self.entries_mut(dir).insert(name.to_owned(), id);
    }

    pub fn rename(&mut self, dir: Id, name: &str, new_dir: Id, new_name: &str, how: Replace) -> Outcome<()> {
        let moved = self.lookup(dir, name)?;
        let target = self.lookup(new_dir, new_name).ok();
        if !self.alive(new_dir) || (self.is_dir(moved) && self.below(new_dir, moved)) {
            return Err(Refused);
        }
        match (how, target) {
            (Replace::No, Some(_)) | (Replace::Exchange, None) => return Err(Refused),
            (Replace::Exchange, Some(target)) => {
                if self.is_dir(target) && self.below(dir, target) {
                    return Err(Refused);
                }
                self.put(new_dir, new_name, moved);
                self.put(dir, name, target);
                return Ok(());
            }
            (Replace::Yes, Some(target)) if target == moved => return Ok(()),
            (Replace::Yes, Some(target)) => {
                if self.is_dir(target) != self.is_dir(moved) {
                    return Err(Refused);
                }
                if self.is_dir(target) { self.rmdir(new_dir, new_name)? } else { self.unlink(new_dir, new_name)? }
            }
            (_, None) => {}
        }
        self.entries_mut(dir).remove(name);
        self.put(new_dir, new_name, moved);
        Ok(())
    }
}
