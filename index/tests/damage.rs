//! fsck finds every kind of damage, puts right what can be, and what it leaves can be opened and is clean.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod harness;

use std::path::{Path, PathBuf};

use fdfs_index::*;
use harness::{fingerprint, new_inode, time};
use rusqlite::Connection;

/// An index with a bit of everything: `/dir/sub/file`, `/dir/link` (a second name), `/twin` (shares the content),
/// `/symlink`, attributes, garbage, staged data.
fn build(dir: &Path) -> PathBuf {
    let path = dir.join("index.db");
    let index = Index::open(&path, Options::default()).unwrap();
    let create = |dir, name: &[u8], kind| index.create(dir, name, &new_inode(kind), time(1)).unwrap().ino;
    let top = create(Ino::ROOT, b"dir", FileKind::Directory);
    let sub = create(top, b"sub", FileKind::Directory);
    let file = create(sub, b"file", FileKind::Regular);
    index.link(file, top, b"link", time(2)).unwrap();
    let twin = create(Ino::ROOT, b"twin", FileKind::Regular);
    create(Ino::ROOT, b"symlink", FileKind::Symlink);
    let new = NewContent { fingerprint: Some(fingerprint(1)), size: 10, file_id: "group1/one".into(), mutable: false };
    index.attach(file, new, time(3)).unwrap();
    index.reuse(twin, &fingerprint(1), 10, time(3)).unwrap().unwrap();
    index.setxattr(twin, b"user.x", b"value", XattrMode::Any, time(4)).unwrap();
    index.stage_put(StagedRow { ino: twin, path: "staging/5".into(), size: 7 }).unwrap();
    index.discard("group1/never").unwrap();
    index.close().unwrap();
    path
}

fn damage(path: &Path, sql: &str) {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    conn.execute_batch(sql).unwrap();
}

const DIR: &str = "(SELECT ino FROM dentry WHERE parent = 1 AND name = CAST('dir' AS BLOB))";
const SUB: &str = "(SELECT ino FROM dentry WHERE name = CAST('sub' AS BLOB))";
const FILE: &str = "(SELECT ino FROM dentry WHERE name = CAST('file' AS BLOB))";
const TWIN: &str = "(SELECT ino FROM dentry WHERE name = CAST('twin' AS BLOB))";

#[test]
fn a_whole_index_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let path = build(dir.path());
    let report = fsck(&path, true).unwrap();
    assert_eq!(report.to_string(), "6 inodes, 6 entries, 1 contents: clean");
    assert!(matches!(fsck(&dir.path().join("none"), false), Err(IndexError::NotFound)));
}

#[test]
fn every_kind_of_damage_is_found_and_repaired() {
    let cases = [
        ("links, and says 7", format!("UPDATE inode SET nlink = 7 WHERE ino = {FILE}")),
        ("links, and says 9", format!("UPDATE inode SET nlink = 9 WHERE ino = {DIR}")),
        ("references, and says 5", "UPDATE content SET refs = 5".to_owned()),
        ("entries, and says 3", format!("UPDATE inode SET size = 3 WHERE ino = {SUB}")),
        ("extended attributes, and says 0", format!("UPDATE inode SET xattrs = 0 WHERE ino = {TWIN}")),
        ("has no reference, and says 2", "UPDATE inode SET content = NULL".to_owned()),
        (
            "has no reference, and says 1",
            "INSERT INTO content VALUES (77, zeroblob(32), 3, 'group1/lost', 0, 1, 0)".to_owned(),
        ),
        ("names the wrong parent", format!("UPDATE inode SET parent = 1 WHERE ino = {SUB}")),
        ("names the wrong parent", format!("UPDATE inode SET parent = 1 WHERE ino = {FILE}")),
        ("could not be reached", format!("DELETE FROM dentry WHERE ino = {FILE}")),
        ("could not be reached", "DELETE FROM dentry WHERE name = CAST('dir' AS BLOB)".to_owned()),
        // A ring: /dir/sub holds dir, and nothing else does.
        ("could not be reached", format!("UPDATE dentry SET parent = {SUB} WHERE name = CAST('dir' AS BLOB)")),
        ("leads to inode 999, which does not exist", "INSERT INTO dentry VALUES (1, x'61', 999, 20)".to_owned()),
        ("is in no directory", "INSERT INTO dentry SELECT 999, x'61', ino, 20 FROM dentry LIMIT 1".to_owned()),
        ("is in no directory", format!("UPDATE dentry SET parent = {TWIN} WHERE name = CAST('link' AS BLOB)")),
        ("has no possible name", "UPDATE dentry SET name = x'612f62' WHERE name = CAST('link' AS BLOB)".to_owned()),
        ("has no possible name", "UPDATE dentry SET name = x'2e2e' WHERE name = CAST('link' AS BLOB)".to_owned()),
        ("has the cookie of another one", "UPDATE dentry SET cookie = 16 WHERE parent = 1".to_owned()),
        ("is a second way to directory", format!("INSERT INTO dentry VALUES (1, x'61', {SUB}, 99)")),
        ("is a second way to directory", format!("INSERT INTO dentry VALUES ({SUB}, x'61', 1, 99)")),
        ("is listed as an orphan, and is none", format!("INSERT INTO orphan VALUES ({FILE})")),
        ("is listed as an orphan, and is none", "INSERT INTO orphan VALUES (999)".to_owned()),
        ("has an extended attribute, and does not exist", "INSERT INTO xattr VALUES (999, x'61', x'61')".to_owned()),
        ("has staged data, and does not exist", "INSERT INTO staged VALUES (999, x'61', 1)".to_owned()),
        ("has content and is not a regular file", format!("UPDATE inode SET content = 1 WHERE ino = {SUB}")),
        ("is garbage and in use", "INSERT INTO garbage VALUES (50, 'group1/one')".to_owned()),
        (
            "sealed and mutable at once",
            "UPDATE content SET mutable = 1; DELETE FROM dentry WHERE parent = 1 AND name = CAST('twin' AS BLOB)"
                .to_owned(),
        ),
        ("the next inode number is 16", "UPDATE meta SET next_ino = 16".to_owned()),
        ("the sums are", "UPDATE meta SET inodes = 1, garbage = 9".to_owned()),
        ("there is no root directory", "DELETE FROM inode WHERE ino = 1".to_owned()),
    ];
    for (text, sql) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = build(dir.path());
        damage(&path, &sql);
        let found = fsck(&path, false).unwrap();
        let words = text.replace("could not be", "cannot be");
        assert!(found.findings.iter().any(|finding| finding.text.contains(&words)), "{sql}: {found}");
        assert!(!found.is_clean());
        assert_eq!(fsck(&path, false).unwrap(), found, "looking changes nothing");

        let repaired = fsck(&path, true).unwrap();
        assert!(repaired.findings.iter().any(|finding| finding.text.contains(text)), "{sql}: {repaired}");
        if sql.contains("mutable = 1") {
            // Which of the two should get the only reference cannot be known.
            continue;
        }
        assert!(repaired.is_clean(), "{sql}: {repaired}");
        let after = fsck(&path, true).unwrap();
        assert!(after.findings.is_empty(), "{sql}: {after}");
        let index = Index::open(&path, Options::default()).unwrap();
        index.create(Ino::ROOT, b"new", &new_inode(FileKind::Regular), time(5)).unwrap();
        index.close().unwrap();
        assert!(fsck(&path, false).unwrap().findings.is_empty(), "{sql}");
    }
}

#[test]
fn what_was_lost_is_in_lost_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = build(dir.path());
    damage(&path, "DELETE FROM dentry WHERE name = CAST('dir' AS BLOB)");
    fsck(&path, true).unwrap();
    // Twice: what is there already is used.
    damage(&path, "DELETE FROM dentry WHERE name = CAST('twin' AS BLOB)");
    fsck(&path, true).unwrap();
    let index = Index::open(&path, Options::default()).unwrap();
    let found = index.lookup(Ino::ROOT, b"lost+found").unwrap();
    assert_eq!((found.nlink, found.size, found.mode), (3, 2, 0o700));
    let mut names = Vec::new();
    index
        .readdir(found.ino, 0, &mut |_, name, attr| {
            names.push((String::from_utf8_lossy(name).into_owned(), attr.kind));
            true
        })
        .unwrap();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0].1, FileKind::Directory);
    let top = index.lookup(found.ino, names[0].0.as_bytes()).unwrap().ino;
    assert_eq!(index.parent(top).unwrap(), found.ino);
    let sub = index.lookup(top, b"sub").unwrap().ino;
    assert_eq!(index.lookup(sub, b"file").unwrap().size, 10);
}

#[test]
fn what_cannot_be_known_is_not_made_up() {
    for (text, sql) in [
        ("refers to content 1, which does not exist", "DELETE FROM content"),
        ("is a symbolic link without a target", "UPDATE inode SET target = NULL"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = build(dir.path());
        damage(&path, sql);
        let report = fsck(&path, true).unwrap();
        assert!(report.findings.iter().any(|finding| finding.text.contains(text) && !finding.repaired), "{report}");
        assert!(!report.is_clean());
    }
}

#[test]
fn damage_below_the_tables_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = build(dir.path());
    let conn = Connection::open(&path).unwrap();
    let root: u64 = conn
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'dentry_cookie'", [], |row| row.get::<_, u32>(0))
        .unwrap()
        .into();
    drop(conn);
    let mut bytes = std::fs::read(&path).unwrap();
    let page = (root as usize - 1) * 4096;
    bytes[page + 8..page + 4096].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let report = fsck(&path, true).unwrap();
    assert!(!report.is_clean());
    assert!(report.findings.iter().all(|finding| finding.text.starts_with("database: ")), "{report}");
}

#[test]
fn damage_met_in_use_is_an_error_and_not_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = build(dir.path());
    damage(&path, "INSERT INTO dentry VALUES (1, x'61', 999, 20); UPDATE inode SET size = 4 WHERE ino = 1");
    damage(&path, &format!("UPDATE inode SET content = 88 WHERE ino = {TWIN}"));
    damage(&path, &format!("UPDATE inode SET kind = 15 WHERE ino = {DIR}"));
    let index = Index::open(&path, Options::default()).unwrap();
    assert!(matches!(index.lookup(Ino::ROOT, b"a"), Err(IndexError::Corrupt(_))));
    let twin = index.lookup(Ino::ROOT, b"twin").unwrap().ino;
    assert!(matches!(index.content(twin), Err(IndexError::Corrupt(_))));
    assert!(index.unlink(Ino::ROOT, b"twin", time(9)).is_err());
    assert!(matches!(index.lookup(Ino::ROOT, b"dir"), Err(IndexError::Sqlite(_))));
}
