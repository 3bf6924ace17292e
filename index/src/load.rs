//! Reading on a miss: a few read-only connections and the queries they run.
//!
//! Invariants:
//! - Each query is its own read transaction: it sees every commit that was finished before it began.
//! - A result is only as good as that moment. Whoever puts it into memory makes sure that what it describes was not in
//!   memory, and so could not change, from before the query until then.

use std::path::{Path, PathBuf};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OptionalExtension, params};

use crate::delta::{InodeRow, Name};
use crate::error::{IndexError, Result};
use crate::rows::{self, content_columns, from_sql, inode_columns, to_sql};
use crate::schema::{self, Role};
use crate::types::*;

/// Most queries that run at the same time.
const CONNECTIONS: usize = 4;

/// A directory entry as stored.
#[derive(Debug, Clone)]
pub(crate) struct DentryRow {
    pub cookie: u64,
    pub name: Name,
    pub ino: Ino,
}

/// A number of rows as SQLite takes it.
fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The pool of read-only connections; they are opened when first needed.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Connection>,
    opened: usize,
    closed: bool,
}

impl Readers {
    pub fn new(path: &Path) -> Readers {
        Readers { path: path.to_owned(), pool: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs `query` on a connection of the pool.
    fn with<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let conn = self.take()?;
        let result = query(&conn);
        let mut pool = self.pool.lock();
        if pool.closed {
            pool.opened -= 1;
        } else {
            pool.idle.push(conn);
        }
        drop(pool);
        // A closing thread waits for all, a reader for one.
        self.returned.notify_all();
        Ok(result?)
    }

    fn take(&self) -> Result<Connection> {
        let mut pool = self.pool.lock();
        loop {
            if pool.closed {
                return Err(IndexError::Closed);
            }
            if let Some(conn) = pool.idle.pop() {
                return Ok(conn);
            }
            if pool.opened < CONNECTIONS {
                pool.opened += 1;
                drop(pool);
                return schema::connect(&self.path, Role::Reader).inspect_err(|_| {
                    self.pool.lock().opened -= 1;
                    self.returned.notify_one();
                });
            }
            self.returned.wait(&mut pool);
        }
    }

    /// Waits for running queries and closes the connections, so that the log can be folded in.
    pub fn close(&self) {
        let mut pool = self.pool.lock();
        pool.closed = true;
        pool.opened -= pool.idle.len();
        pool.idle.clear();
        while pool.opened > 0 {
            self.returned.wait(&mut pool);
        }
        drop(pool);
        self.returned.notify_all();
    }

    pub fn inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        self.with(|conn| {
            conn.prepare_cached(concat!("SELECT ", inode_columns!(), " FROM inode i WHERE ino = ?1"))?
                .query_row([to_sql(ino.0)], |row| rows::inode(row, 0))
                .optional()
        })
    }

    pub fn dentry(&self, dir: Ino, name: &[u8]) -> Result<Option<(Ino, u64)>> {
        self.with(|conn| {
            conn.prepare_cached("SELECT ino, cookie FROM dentry WHERE parent = ?1 AND name = ?2")?
                .query_row(params![to_sql(dir.0), name], |row| Ok((Ino(from_sql(row.get(0)?)), from_sql(row.get(1)?))))
                .optional()
        })
    }

    /// Up to `limit` entries of `dir` with a cookie above `after`, in order of the cookies.
    pub fn dentries(&self, dir: Ino, after: u64, limit: usize) -> Result<Vec<DentryRow>> {
        self.with(|conn| {
            conn.prepare_cached(
                "SELECT cookie, name, ino FROM dentry WHERE parent = ?1 AND cookie > ?2 ORDER BY cookie LIMIT ?3",
            )?
            .query_map(params![to_sql(dir.0), to_sql(after), count(limit)], |row| {
                Ok(DentryRow {
                    cookie: from_sql(row.get(0)?),
                    name: row.get_ref(1)?.as_blob()?.into(),
                    ino: Ino(from_sql(row.get(2)?)),
                })
            })?
            .collect()
        })
    }

    /// A name of `ino` and the directory it is in: `dir`, or any if that is `None`, for which all entries are read.
    pub fn name_of(&self, ino: Ino, dir: Option<Ino>) -> Result<Option<(Ino, Name)>> {
        let sql = match dir {
            Some(_) => "SELECT parent, name FROM dentry WHERE ino = ?1 AND parent = ?2 LIMIT 1",
            None => "SELECT parent, name FROM dentry WHERE ino = ?1 AND ?2 IS NULL LIMIT 1",
        };
        self.with(|conn| {
            conn.prepare_cached(sql)?
                .query_row(params![to_sql(ino.0), dir.map(|dir| to_sql(dir.0))], |row| {
                    Ok((Ino(from_sql(row.get(0)?)), row.get_ref(1)?.as_blob()?.into()))
                })
                .optional()
        })
    }

    /// The inodes of the entries of `dir` with cookies from `first` to `last`.
    pub fn inodes_between(&self, dir: Ino, first: u64, last: u64) -> Result<Vec<InodeRow>> {
        self.with(|conn| {
            conn.prepare_cached(concat!(
                "SELECT ",
                inode_columns!(),
                " FROM dentry d INDEXED BY dentry_cookie CROSS JOIN inode i ON i.ino = d.ino \
                 WHERE d.parent = ?1 AND d.cookie BETWEEN ?2 AND ?3"
            ))?
            .query_map([to_sql(dir.0), to_sql(first), to_sql(last)], |row| rows::inode(row, 0))?
            .collect()
        })
    }

    pub fn xattrs(&self, ino: Ino) -> Result<Vec<(Name, Name)>> {
        self.with(|conn| {
            conn.prepare_cached("SELECT name, value FROM xattr WHERE ino = ?1")?
                .query_map([to_sql(ino.0)], |row| {
                    Ok((row.get_ref(0)?.as_blob()?.into(), row.get_ref(1)?.as_blob()?.into()))
                })?
                .collect()
        })
    }

    pub fn content(&self, id: ContentId) -> Result<Option<Content>> {
        self.with(|conn| {
            conn.prepare_cached(concat!("SELECT ", content_columns!(), " FROM content WHERE id = ?1"))?
                .query_row([to_sql(id.0)], rows::content)
                .optional()
        })
    }

    pub fn content_by_fingerprint(&self, fingerprint: &Fingerprint, size: u64) -> Result<Option<Content>> {
        self.with(|conn| {
            let sql = concat!("SELECT ", content_columns!(), " FROM content WHERE fingerprint = ?1 AND size = ?2");
            conn.prepare_cached(sql)?.query_row(params![&fingerprint.0[..], to_sql(size)], rows::content).optional()
        })
    }

    pub fn content_by_file_id(&self, file_id: &str) -> Result<Option<Content>> {
        self.with(|conn| {
            conn.prepare_cached(concat!("SELECT ", content_columns!(), " FROM content WHERE file_id = ?1"))?
                .query_row([file_id], rows::content)
                .optional()
        })
    }

    /// Up to `limit` rows of the garbage table from `first` up to and including `last`.
    pub fn garbage(&self, first: GarbageId, last: GarbageId, limit: usize) -> Result<Vec<(GarbageId, Box<str>)>> {
        self.with(|conn| {
            conn.prepare_cached("SELECT id, file_id FROM garbage WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3")?
                .query_map(params![to_sql(first.0), to_sql(last.0), count(limit)], |row| {
                    Ok((GarbageId(from_sql(row.get(0)?)), row.get_ref(1)?.as_str()?.into()))
                })?
                .collect()
        })
    }

    pub fn staged(&self) -> Result<Vec<StagedRow>> {
        self.with(|conn| {
            conn.prepare_cached("SELECT ino, path, size FROM staged ORDER BY ino")?
                .query_map([], rows::staged)?
                .collect()
        })
    }
}
