//! What is done once, before anybody else sees the index: the root, the orphans of the last run, the numbers to go on with.
//!
//! Its cost grows with what the last run left open, not with the size of the index.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::core::Numbers;
use crate::delta::{InodeRow, Totals};
use crate::error::Result;
use crate::rows::{self, from_sql, to_sql};
use crate::types::*;

/// Where a freshly opened index goes on.
#[derive(Debug)]
pub(crate) struct Start {
    pub totals: Totals,
    /// The first free inode number.
    pub next: u64,
    /// Numbers below this are reserved.
    pub reserved: u64,
    pub next_content: ContentId,
    /// The last row of the garbage table.
    pub last_garbage: GarbageId,
}

/// Brings the database into the state in which an index starts, on stable storage.
pub(crate) fn boot(conn: &mut Connection) -> Result<Start> {
    // Garbage is handed out from here on, so nothing of the last run may still be lost to a power cut.
    conn.pragma_update(None, "synchronous", "FULL")?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let next = tx.query_row("SELECT next_ino FROM meta", [], |row| row.get(0)).map(from_sql)?;
    let reserved = Numbers::reservation(next);
    tx.execute("UPDATE meta SET next_ino = ?1, syncs = syncs + 1", [to_sql(reserved)])?;
    create_root(&tx)?;
    reclaim_orphans(&tx)?;
    let totals =
        tx.query_row("SELECT inodes, contents, logical_bytes, stored_bytes, garbage FROM meta", [], |row| {
            Ok(Totals {
                inodes: row.get(0)?,
                contents: row.get(1)?,
                logical_bytes: row.get(2)?,
                stored_bytes: row.get(3)?,
                garbage: row.get(4)?,
            })
        })?;
    let last = |sql| tx.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).map(|id| id.map_or(0, from_sql));
    let next_content = ContentId(last("SELECT max(id) FROM content")? + 1);
    let last_garbage = GarbageId(last("SELECT max(id) FROM garbage")?);
    tx.commit()?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(Start { totals, next, reserved, next_content, last_garbage })
}

fn create_root(conn: &Connection) -> Result<()> {
    let there = conn.query_row("SELECT 1 FROM inode WHERE ino = ?1", [to_sql(Ino::ROOT.0)], |_| Ok(())).optional()?;
    if there.is_some() {
        return Ok(());
    }
    let now = Timestamp::now();
    // SAFETY: these calls read two numbers of this process and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let attr = Attr {
        ino: Ino::ROOT,
        kind: FileKind::Directory,
        mode: 0o755,
        uid,
        gid,
        nlink: 2,
        rdev: 0,
        size: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        content: None,
    };
    let root = InodeRow { attr, parent: Some(Ino::ROOT), target: None, xattrs: 0 };
    rows::put_inode(&mut conn.prepare_cached(rows::PUT_INODE)?, &root)?;
    conn.execute("UPDATE meta SET inodes = inodes + 1", [])?;
    Ok(())
}

/// Removes the inodes without names that were open when the last run ended, and releases their contents.
fn reclaim_orphans(conn: &Connection) -> Result<()> {
    let mut orphans = conn.prepare("SELECT ino, content FROM orphan JOIN inode USING (ino)")?;
    let orphans = orphans.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let orphans: Vec<(i64, Option<i64>)> = orphans.collect::<rusqlite::Result<_>>()?;
    for (ino, content) in &orphans {
        if let Some(id) = content {
            release(conn, *id)?;
        }
        conn.prepare_cached("DELETE FROM inode WHERE ino = ?1")?.execute([ino])?;
        conn.prepare_cached("UPDATE meta SET inodes = inodes - 1")?.execute([])?;
    }
    if !orphans.is_empty() {
        tracing::info!(count = orphans.len(), "reclaimed files that were unlinked but open");
    }
    Ok(())
}

/// Takes one reference from a content; with the last one its file ID becomes garbage.
pub(crate) fn release(conn: &Connection, id: i64) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("UPDATE content SET refs = refs - 1 WHERE id = ?1 RETURNING refs, size")?;
    let Some((refs, size)) =
        statement.query_row([id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?
    else {
        return Ok(());
    };
    let died = i64::from(refs <= 0);
    if died == 1 {
        conn.prepare_cached("INSERT INTO garbage (file_id) SELECT file_id FROM content WHERE id = ?1")?
            .execute([id])?;
        conn.prepare_cached("DELETE FROM content WHERE id = ?1")?.execute([id])?;
    }
    conn.prepare_cached(
        "UPDATE meta SET logical_bytes = logical_bytes - ?1, stored_bytes = stored_bytes - ?2, \
         contents = contents - ?3, garbage = garbage + ?3",
    )?
    .execute(params![size, size * died, died])?;
    Ok(())
}
