//! Writes a group of deltas into the database: the last state of each row, once.
//!
//! Invariants:
//! - Deletions come before insertions where an index is unique, and inodes go last, when nothing leads to them any more;
//!   so every constraint holds after each statement, whatever order the operations of the group had.
//! - The sums change in the same transaction as the rows they count.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use rusqlite::{Connection, params};

use crate::delta::{Delta, InodeRow, Totals};
use crate::rows::{self, to_sql};
use crate::types::*;

/// An inode and a name in it.
type Key<'a> = (Ino, &'a [u8]);

/// The deltas of a group by table, each row once.
#[derive(Default)]
struct Merged<'a> {
    /// In the order of the queue until [`Merged::settle`].
    inodes: Vec<(Ino, Option<&'a InodeRow>)>,
    dentries: Vec<(Key<'a>, Option<(Ino, u64)>)>,
    xattrs: Vec<(Key<'a>, Option<&'a [u8]>)>,
    contents: Vec<(ContentId, Option<&'a Content>)>,
    garbage: Vec<(GarbageId, Option<&'a str>)>,
    staged: BTreeMap<Ino, Option<&'a StagedRow>>,
    orphans: Vec<Ino>,
    reserved: Option<u64>,
}

/// Sorts by key and keeps the last value of each.
fn last_of_each<K: Ord + Copy, V>(rows: &mut Vec<(K, V)>) {
    rows.sort_by_key(|(key, _)| *key);
    // `dedup_by` drops its first argument, the later row, so the values are swapped before.
    rows.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
}

impl<'a> Merged<'a> {
    fn new(deltas: &'a [Delta]) -> Merged<'a> {
        let mut merged = Merged::default();
        for delta in deltas {
            match delta {
                Delta::Inode(row) => merged.inodes.push((row.attr.ino, Some(row))),
                Delta::InodeGone(ino) => merged.inodes.push((*ino, None)),
                Delta::Dentry { dir, name, to } => merged.dentries.push(((*dir, name), *to)),
                Delta::Xattr { ino, name, value } => merged.xattrs.push(((*ino, name), value.as_deref())),
                Delta::Orphan(ino) => merged.orphans.push(*ino),
                Delta::Content(content) => merged.contents.push((content.id, Some(content))),
                Delta::ContentGone(id) => merged.contents.push((*id, None)),
                Delta::Garbage(id, file_id) => merged.garbage.push((*id, Some(file_id))),
                Delta::GarbageGone(id) => merged.garbage.push((*id, None)),
                Delta::Staged(row) => _ = merged.staged.insert(row.ino, Some(row)),
                Delta::StagedGone(ino) => _ = merged.staged.insert(*ino, None),
                Delta::Reserve(next) => merged.reserved = merged.reserved.max(Some(*next)),
            }
        }
        last_of_each(&mut merged.inodes);
        last_of_each(&mut merged.dentries);
        last_of_each(&mut merged.xattrs);
        last_of_each(&mut merged.contents);
        last_of_each(&mut merged.garbage);
        merged
    }

    /// Whether an inode ends this group deleted; its attributes and other rows need not be written then.
    fn is_gone(&self, ino: Ino) -> bool {
        match self.inodes.binary_search_by_key(&ino, |(ino, _)| *ino) {
            Ok(at) => self.inodes[at].1.is_none(),
            Err(_) => false,
        }
    }
}

/// Executes a statement for each of `items`, preparing it only if there are any.
fn each<T>(
    conn: &Connection,
    sql: &str,
    items: impl Iterator<Item = T>,
    mut run: impl FnMut(&mut rusqlite::CachedStatement<'_>, T) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return Ok(());
    }
    let mut statement = conn.prepare_cached(sql)?;
    items.try_for_each(|item| run(&mut statement, item))
}

/// Writes `deltas` and `totals`; the caller has begun a transaction and commits it.
pub(crate) fn apply(conn: &Connection, deltas: &[Delta], totals: Totals) -> rusqlite::Result<()> {
    let merged = Merged::new(deltas);
    namespace(conn, &merged)?;
    contents(conn, &merged)?;
    belongings(conn, &merged)?;
    let gone = merged.inodes.iter().filter(|(_, row)| row.is_none());
    each(conn, "DELETE FROM inode WHERE ino = ?1", gone, |statement, (ino, _)| {
        statement.execute([to_sql(ino.0)]).map(drop)
    })?;
    if totals != Totals::default() {
        let mut statement = conn.prepare_cached(
            "UPDATE meta SET inodes = inodes + ?1, contents = contents + ?2, logical_bytes = logical_bytes + ?3, \
             stored_bytes = stored_bytes + ?4, garbage = garbage + ?5",
        )?;
        let Totals { inodes, contents, logical_bytes, stored_bytes, garbage } = totals;
        statement.execute([inodes, contents, logical_bytes, stored_bytes, garbage])?;
    }
    if let Some(next) = merged.reserved {
        conn.prepare_cached("UPDATE meta SET next_ino = max(next_ino, ?1)")?.execute([to_sql(next)])?;
    }
    Ok(())
}

fn namespace(conn: &Connection, merged: &Merged<'_>) -> rusqlite::Result<()> {
    let gone = merged.dentries.iter().filter(|(_, to)| to.is_none());
    each(conn, "DELETE FROM dentry WHERE parent = ?1 AND name = ?2", gone, |statement, ((dir, name), _)| {
        statement.execute(params![to_sql(dir.0), name]).map(drop)
    })?;
    let kept = merged.inodes.iter().filter_map(|(_, row)| *row);
    each(conn, rows::PUT_INODE, kept, rows::put_inode)?;
    let kept = merged.dentries.iter().filter_map(|(key, to)| to.map(|to| (key, to)));
    each(
        conn,
        "INSERT INTO dentry VALUES (?1, ?2, ?3, ?4) ON CONFLICT (parent, name) DO UPDATE SET ino = ?3, cookie = ?4",
        kept,
        |statement, ((dir, name), (ino, cookie))| {
            statement.execute(params![to_sql(dir.0), name, to_sql(ino.0), to_sql(cookie)]).map(drop)
        },
    )
}

fn contents(conn: &Connection, merged: &Merged<'_>) -> rusqlite::Result<()> {
    let gone = merged.contents.iter().filter(|(_, content)| content.is_none());
    each(conn, "DELETE FROM content WHERE id = ?1", gone, |statement, (id, _)| {
        statement.execute([to_sql(id.0)]).map(drop)
    })?;
    let kept = merged.contents.iter().filter_map(|(_, content)| *content);
    each(conn, rows::PUT_CONTENT, kept, rows::put_content)?;
    let gone = merged.garbage.iter().filter(|(_, file_id)| file_id.is_none());
    each(conn, "DELETE FROM garbage WHERE id = ?1", gone, |statement, (id, _)| {
        statement.execute([to_sql(id.0)]).map(drop)
    })?;
    let kept = merged.garbage.iter().filter_map(|(id, file_id)| file_id.map(|file_id| (id, file_id)));
    each(conn, "INSERT INTO garbage VALUES (?1, ?2)", kept, |statement, (id, file_id)| {
        statement.execute(params![to_sql(id.0), file_id]).map(drop)
    })
}

/// What hangs on inodes: extended attributes, orphan and staged rows.
fn belongings(conn: &Connection, merged: &Merged<'_>) -> rusqlite::Result<()> {
    let xattrs = || merged.xattrs.iter().filter(|((ino, _), _)| !merged.is_gone(*ino));
    let gone = xattrs().filter(|(_, value)| value.is_none());
    each(conn, "DELETE FROM xattr WHERE ino = ?1 AND name = ?2", gone, |statement, ((ino, name), _)| {
        statement.execute(params![to_sql(ino.0), name]).map(drop)
    })?;
    let kept = xattrs().filter_map(|(key, value)| value.map(|value| (key, value)));
    each(
        conn,
        "INSERT INTO xattr VALUES (?1, ?2, ?3) ON CONFLICT (ino, name) DO UPDATE SET value = ?3",
        kept,
        |statement, ((ino, name), value)| statement.execute(params![to_sql(ino.0), name, value]).map(drop),
    )?;
    let orphans = merged.orphans.iter().filter(|ino| !merged.is_gone(**ino));
    each(conn, "INSERT INTO orphan VALUES (?1) ON CONFLICT DO NOTHING", orphans, |statement, ino| {
        statement.execute([to_sql(ino.0)]).map(drop)
    })?;
    let gone = merged.staged.iter().filter(|(_, row)| row.is_none());
    each(conn, "DELETE FROM staged WHERE ino = ?1", gone, |statement, (ino, _)| {
        statement.execute([to_sql(ino.0)]).map(drop)
    })?;
    let kept = merged.staged.iter().filter_map(|(ino, row)| row.filter(|_| !merged.is_gone(*ino)));
    each(
        conn,
        "INSERT INTO staged VALUES (?1, ?2, ?3) ON CONFLICT (ino) DO UPDATE SET path = ?2, size = ?3",
        kept,
        |statement, row| {
            let path = row.path.as_os_str().as_bytes();
            statement.execute(params![to_sql(row.ino.0), path, to_sql(row.size)]).map(drop)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_of_each_row_wins() {
        let mut rows = vec![(2, 'a'), (1, 'b'), (2, 'c'), (3, 'd'), (2, 'e'), (1, 'f')];
        last_of_each(&mut rows);
        assert_eq!(rows, [(1, 'f'), (2, 'e'), (3, 'd')]);
    }
}
