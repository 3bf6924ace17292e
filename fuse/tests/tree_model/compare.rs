//! What can be seen of a tree, against its model.

use std::collections::BTreeMap;

use fdfs_fuse::tree::Access;
use fdfs_index::{FileKind, Ino};

use crate::harness::Harness;
use crate::model::{Body, Id};

impl Harness {
    /// Every name, attribute and content that can be reached by a path, and every open file.
    pub fn compare(&self) {
        for (id, node) in self.model.nodes.iter().enumerate().filter(|(id, _)| self.model.alive(*id)) {
            let ino = self.inos[id];
            let attr = self.tree().getattr(ino).unwrap();
            assert_eq!((attr.mode, attr.nlink), (node.mode, node.nlink), "mode and links of {ino}");
            match &node.body {
                Body::Dir { entries, .. } => self.compare_dir(ino, entries),
                Body::File(data) => {
                    assert_eq!(attr.size, data.len() as u64, "size of {ino}");
                    let access = Access { read: true, no_atime: true, ..Access::default() };
                    let fh = self.tree().open(ino, access).unwrap().fh;
                    let bytes = self.read(fh, 0, 1 << 20).unwrap();
                    assert!(bytes == *data, "content of {ino}");
                    self.tree().release(fh);
                }
                Body::Symlink(target) => assert_eq!(&*self.tree().readlink(ino).unwrap(), target.as_bytes()),
                Body::Fifo => assert_eq!(attr.kind, FileKind::Fifo),
            }
            let names = self.tree().listxattr(ino).unwrap();
            let names = names.split(|b| *b == 0).filter(|n| !n.is_empty() && !n.starts_with(b"user.fdfs."));
            let found: BTreeMap<String, Vec<u8>> = names
                .map(|name| {
                    let value = self.tree().getxattr(ino, name, <[u8]>::to_vec).unwrap();
                    (String::from_utf8(name.to_vec()).unwrap(), value)
                })
                .collect();
            assert_eq!(found, node.xattrs, "attributes of {ino}");
        }
        for open in self.handles.iter().filter(|open| open.access.read) {
            let Body::File(data) = &self.model.nodes[open.id].body else { panic!() };
            assert!(self.read(open.fh, 0, 1 << 20).unwrap() == *data, "content of an open file");
        }
    }

    fn compare_dir(&self, ino: Ino, entries: &BTreeMap<String, Id>) {
        let fh = self.tree().opendir(ino).unwrap();
        let mut found = BTreeMap::new();
        let mut offset = 0;
        // In small steps, as with a small buffer.
        loop {
            let mut taken = 0;
            self.tree()
                .readdir(fh, offset, &mut |entry| {
                    if taken == 2 {
                        return false;
                    }
                    taken += 1;
                    offset = entry.offset;
                    let name = String::from_utf8(entry.name.to_vec()).unwrap();
                    assert!(found.insert(name, entry.attr.ino).is_none(), "listed twice");
                    true
                })
                .unwrap();
            if taken == 0 {
                break;
            }
        }
        self.tree().releasedir(fh);
        assert_eq!(found.remove("."), Some(ino));
        assert!(found.remove("..").is_some());
        let wanted: BTreeMap<String, Ino> = entries.iter().map(|(name, id)| (name.clone(), self.inos[*id])).collect();
        assert_eq!(found, wanted);
    }
}
