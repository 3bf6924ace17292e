use fdfs_index::*;
#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let index = Index::open(&path, Options::default()).unwrap();
    let now = Timestamp::now();
    let d = NewInode { kind: FileKind::Directory, mode: 0o755, uid: 0, gid: 0, rdev: 0, target: None };
    let f = NewInode { kind: FileKind::Regular, ..d.clone() };
    let a = index.create(Ino::ROOT, b"a", &d, now).unwrap();
    let b = index.create(a.ino, b"b", &f, now).unwrap();
    index
        .attach(
            b.ino,
            NewContent { fingerprint: Some(Fingerprint::of(b"hi")), size: 2, file_id: "g/1".into(), mutable: false },
            now,
        )
        .unwrap();
    index.commit().unwrap();
    assert_eq!(index.lookup(a.ino, b"b").unwrap().size, 2);
    index.rename(a.ino, b"b", Ino::ROOT, b"c", RenameMode::Replace, now).unwrap();
    index.sync().unwrap();
    index.close().unwrap();
    let index = Index::open(&path, Options::default()).unwrap();
    let c = index.lookup(Ino::ROOT, b"c").unwrap();
    assert_eq!(c.size, 2);
    println!("{:?} {:?}", index.content(c.ino).unwrap(), index.stats());
    let mut n = vec![];
    index
        .readdir(Ino::ROOT, 0, &mut |_, name, _| {
            n.push(name.to_vec());
            true
        })
        .unwrap();
    println!("{n:?}");
    index.unlink(Ino::ROOT, b"c", now).unwrap();
    index.sync().unwrap();
    println!("{:?} {:?}", index.garbage(10), index.stats());
}
