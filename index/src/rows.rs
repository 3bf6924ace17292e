//! Rows of the tables as values, and back. The only place that knows the order of the columns.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rusqlite::types::Type;
use rusqlite::{CachedStatement, Row, params};

use crate::delta::InodeRow;
use crate::types::*;

/// The columns that [`inode`] reads, for a table named `i`.
macro_rules! inode_columns {
    () => {
        "i.ino, i.kind, i.mode, i.uid, i.gid, i.nlink, i.rdev, i.size, \
         i.atime, i.atime_ns, i.mtime, i.mtime_ns, i.ctime, i.ctime_ns, i.btime, i.btime_ns, \
         i.parent, i.content, i.xattrs, i.target"
    };
}

/// The columns that [`content`] reads.
macro_rules! content_columns {
    () => {
        "id, fingerprint, size, file_id, mutable, refs, lost"
    };
}

pub(crate) use {content_columns, inode_columns};

pub(crate) const PUT_INODE: &str = "\
    INSERT INTO inode VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20) \
    ON CONFLICT (ino) DO UPDATE SET mode = ?3, uid = ?4, gid = ?5, nlink = ?6, rdev = ?7, size = ?8, \
    atime = ?9, atime_ns = ?10, mtime = ?11, mtime_ns = ?12, ctime = ?13, ctime_ns = ?14, btime = ?15, btime_ns = ?16, \
    parent = ?17, content = ?18, xattrs = ?19";

pub(crate) const PUT_CONTENT: &str = "\
    INSERT INTO content VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
    ON CONFLICT (id) DO UPDATE SET fingerprint = ?2, size = ?3, file_id = ?4, mutable = ?5, refs = ?6, lost = ?7";

/// SQLite's integers are signed; numbers and sizes keep their bits.
pub(crate) const fn to_sql(number: u64) -> i64 {
    number.cast_signed()
}

pub(crate) const fn from_sql(number: i64) -> u64 {
    number.cast_unsigned()
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(from_sql)
}

/// Reads what [`inode_columns`] names, from column `at` on.
pub(crate) fn inode(row: &Row<'_>, at: usize) -> rusqlite::Result<InodeRow> {
    let time = |column: usize| -> rusqlite::Result<Timestamp> {
        Ok(Timestamp { secs: row.get(at + column)?, nsec: row.get(at + column + 1)? })
    };
    let code: u32 = row.get(at + 1)?;
    let kind =
        FileKind::from_code(code).ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(at + 1, i64::from(code)))?;
    Ok(InodeRow {
        attr: Attr {
            ino: Ino(number(row, at)?),
            kind,
            mode: row.get(at + 2)?,
            uid: row.get(at + 3)?,
            gid: row.get(at + 4)?,
            nlink: row.get(at + 5)?,
            rdev: row.get(at + 6)?,
            size: number(row, at + 7)?,
            atime: time(8)?,
            mtime: time(10)?,
            ctime: time(12)?,
            btime: time(14)?,
            content: row.get::<_, Option<i64>>(at + 17)?.map(|id| ContentId(from_sql(id))),
        },
        parent: row.get::<_, Option<i64>>(at + 16)?.map(|ino| Ino(from_sql(ino))),
        xattrs: row.get(at + 18)?,
        target: row.get_ref(at + 19)?.as_bytes_or_null()?.map(Into::into),
    })
}

pub(crate) fn put_inode(statement: &mut CachedStatement<'_>, row: &InodeRow) -> rusqlite::Result<()> {
    let a = &row.attr;
    statement.execute(params![
        to_sql(a.ino.0),
        a.kind.to_code(),
        a.mode,
        a.uid,
        a.gid,
        a.nlink,
        a.rdev,
        to_sql(a.size),
        a.atime.secs,
        a.atime.nsec,
        a.mtime.secs,
        a.mtime.nsec,
        a.ctime.secs,
        a.ctime.nsec,
        a.btime.secs,
        a.btime.nsec,
        row.parent.map(|ino| to_sql(ino.0)),
        a.content.map(|id| to_sql(id.0)),
        row.xattrs,
        row.target.as_deref(),
    ])?;
    Ok(())
}

/// Reads what [`content_columns`] names.
pub(crate) fn content(row: &Row<'_>) -> rusqlite::Result<Content> {
    let fingerprint = match row.get_ref(1)?.as_blob_or_null()? {
        None => None,
        Some(bytes) => Some(Fingerprint(bytes.try_into().map_err(|_| {
            rusqlite::Error::FromSqlConversionFailure(1, Type::Blob, "a fingerprint has 32 bytes".into())
        })?)),
    };
    Ok(Content {
        id: ContentId(number(row, 0)?),
        fingerprint,
        size: number(row, 2)?,
        file_id: row.get_ref(3)?.as_str()?.into(),
        mutable: row.get(4)?,
        refs: number(row, 5)?,
        lost: row.get(6)?,
    })
}

pub(crate) fn put_content(statement: &mut CachedStatement<'_>, content: &Content) -> rusqlite::Result<()> {
    statement.execute(params![
        to_sql(content.id.0),
        content.fingerprint.as_ref().map(|fingerprint| &fingerprint.0[..]),
        to_sql(content.size),
        &*content.file_id,
        content.mutable,
        to_sql(content.refs),
        content.lost,
    ])?;
    Ok(())
}

/// Reads `ino, path, size`.
pub(crate) fn staged(row: &Row<'_>) -> rusqlite::Result<StagedRow> {
    Ok(StagedRow {
        ino: Ino(number(row, 0)?),
        path: PathBuf::from(OsStr::from_bytes(row.get_ref(1)?.as_bytes()?)),
        size: number(row, 2)?,
    })
}
