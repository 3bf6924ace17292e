//! The tables, their version, and how a database is opened.
//!
//! Invariants:
//! - `application_id` marks the file as ours; `user_version` is the number of migrations that were applied.
//! - Migrations are only ever appended. Each runs in one transaction together with its version number.
//! - A database of a newer version is refused before anything is written to it.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::{IndexError, Result};

/// `fdfs` in ASCII.
pub(crate) const APPLICATION_ID: i64 = 0x6664_6673;

/// How long a connection waits for a lock that a foreign reader (a shell, a backup) holds.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Each entry brings the schema from version `i` to `i + 1`.
pub(crate) const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// What a connection is for; decides its rights and the size of its page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one connection that writes.
    Writer,
    /// Moves the log into the database.
    Checkpointer,
    /// Reads on a cache miss.
    Reader,
}

/// Opens a connection with every setting that matters said explicitly.
pub(crate) fn connect(path: &Path, role: Role) -> Result<Connection> {
    let access = match role {
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Role::Checkpointer => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    // Each connection is used by one thread at a time, which is what NO_MUTEX asks for.
    let conn = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(64);
    let cache_kib = match role {
        Role::Writer => 16 * 1024,
        Role::Checkpointer => 512,
        Role::Reader => 4 * 1024,
    };
    conn.pragma_update(None, "cache_size", -cache_kib)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    // NORMAL keeps the log consistent without a sync per commit; the writer raises it where somebody waits.
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    if role == Role::Writer {
        // The checkpointer does it, so that no commit has to wait for it.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    }
    Ok(conn)
}

/// Opens the database for writing: creates it, or checks that it is ours and brings its schema up to date.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    // Any of the first statements may be the one that looks at the header.
    let foreign = |error| match error {
        IndexError::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            IndexError::Foreign { path: path.to_owned() }
        }
        error => error,
    };
    let mut conn = connect(path, Role::Writer).map_err(foreign)?;
    migrate(&mut conn, path, MIGRATIONS).map_err(foreign)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(IndexError::Corrupt(format!("write-ahead logging is not possible here (journal mode {mode})")));
    }
    Ok(conn)
}

/// Applies the migrations that are missing.
pub(crate) fn migrate(conn: &mut Connection, path: &Path, migrations: &[&str]) -> Result<()> {
    let application: i64 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let fresh = application == 0 && tables == 0;
    if application != APPLICATION_ID && !fresh {
        return Err(IndexError::Foreign { path: path.to_owned() });
    }
    let supported = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let found: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > supported {
        return Err(IndexError::Newer { path: path.to_owned(), found, supported });
    }
    for (version, sql) in (1i64..).zip(migrations).skip_while(|(version, _)| *version <= found) {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
        tracing::info!(version, path = %path.display(), "index schema brought up to date");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(conn: &Connection) -> i64 {
        conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn migrations_apply_once_each_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let steps = ["CREATE TABLE a(x)", "INSERT INTO a VALUES (1)", "INSERT INTO a SELECT x + 1 FROM a"];
        for upto in [1, 1, 3, 3] {
            let mut conn = connect(&path, Role::Writer).unwrap();
            migrate(&mut conn, &path, &steps[..upto]).unwrap();
            assert_eq!(version(&conn), upto as i64);
        }
        let conn = connect(&path, Role::Writer).unwrap();
        let sum: i64 = conn.query_row("SELECT sum(x) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 3);
    }

    #[test]
    fn a_failed_migration_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut conn = connect(&path, Role::Writer).unwrap();
        migrate(&mut conn, &path, &["CREATE TABLE a(x); CREATE TABLE a(y)"]).unwrap_err();
        assert_eq!(version(&conn), 0);
        migrate(&mut conn, &path, &["CREATE TABLE a(x)"]).unwrap();
        assert_eq!(version(&conn), 1);
    }

    #[test]
    fn a_newer_schema_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        drop(open(&path).unwrap());
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        drop(conn);
        match open(&path) {
            Err(IndexError::Newer { found: 99, supported, .. }) => assert_eq!(supported, MIGRATIONS.len() as i64),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "this is a letter, not a database, and long enough to have a header".repeat(9)).unwrap();
        assert!(matches!(open(&text), Err(IndexError::Foreign { .. })));
        let other = dir.path().join("other");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE bookmarks(x)").unwrap();
        assert!(matches!(open(&other), Err(IndexError::Foreign { .. })));
    }
}
