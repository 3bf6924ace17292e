//! The shape of the tree: a root, entries with proper names that lead to inodes, one entry for each directory, and a way
//! from the root to everything.

use rusqlite::{OptionalExtension, params};

use crate::core::Numbers;
use crate::error::Result;
use crate::rows::{from_sql, to_sql};
use crate::types::{Ino, NAME_MAX, Timestamp};

use super::Check;

const ROOT: i64 = to_sql(Ino::ROOT.0);
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// An entry, as the rules see it.
struct Entry {
    parent: i64,
    name: Vec<u8>,
    ino: i64,
}

impl Entry {
    fn text(&self) -> String {
        format!("entry {:?} of directory {}", String::from_utf8_lossy(&self.name), self.parent)
    }
}

impl Check<'_> {
    pub(super) fn tree(&mut self) -> Result<()> {
        self.root()?;
        self.broken_entries()?;
        self.names()?;
        self.cookies()?;
        self.directory_links()?;
        self.orphans()?;
        self.unreachable()?;
        self.parents()
    }

    fn entries(&self, condition: &str) -> Result<Vec<Entry>> {
        let sql = format!("SELECT d.parent, d.name, d.ino FROM dentry d WHERE {condition} ORDER BY d.parent, d.name");
        let mut statement = self.conn.prepare(&sql)?;
        let rows =
            statement.query_map([], |row| Ok(Entry { parent: row.get(0)?, name: row.get(1)?, ino: row.get(2)? }))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn inodes(&self, sql: &str) -> Result<Vec<i64>> {
        let mut statement = self.conn.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn remove_entry(&self, entry: &Entry) -> Result<()> {
        let sql = "DELETE FROM dentry WHERE parent = ?1 AND name = ?2";
        self.conn.prepare_cached(sql)?.execute(params![entry.parent, entry.name])?;
        Ok(())
    }

    fn root(&mut self) -> Result<()> {
        let kind: Option<i64> =
            self.conn.query_row("SELECT kind FROM inode WHERE ino = ?1", [ROOT], |row| row.get(0)).optional()?;
        if kind != Some(4) {
            if self.repair {
                self.conn.execute("DELETE FROM inode WHERE ino = ?1", [ROOT])?;
                self.new_directory(ROOT, ROOT, 0o755)?;
            }
            self.found("there is no root directory".to_owned(), self.repair);
        }
        Ok(())
    }

    fn new_directory(&self, ino: i64, parent: i64, mode: u32) -> Result<()> {
        let now = Timestamp::now();
        self.conn.execute(
            "INSERT INTO inode VALUES (?1, 4, ?2, 0, 0, 2, 0, 0, ?3, ?4, ?3, ?4, ?3, ?4, ?3, ?4, ?5, NULL, 0, NULL)",
            params![ino, mode, now.secs, now.nsec, parent],
        )?;
        Ok(())
    }

    /// Entries that lead nowhere, or that are in no directory.
    fn broken_entries(&mut self) -> Result<()> {
        for entry in self.entries("NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = d.ino)")? {
            if self.repair {
                self.remove_entry(&entry)?;
            }
            self.found(format!("{} leads to inode {}, which does not exist", entry.text(), entry.ino), self.repair);
        }
        for entry in self.entries("NOT EXISTS (SELECT 1 FROM inode i WHERE i.ino = d.parent AND i.kind = 4)")? {
            if self.repair {
                self.remove_entry(&entry)?;
            }
            self.found(format!("{} is in no directory", entry.text()), self.repair);
        }
        Ok(())
    }

    fn names(&mut self) -> Result<()> {
        let bad = format!(
            "length(d.name) NOT BETWEEN 1 AND {NAME_MAX} OR instr(d.name, x'00') OR instr(d.name, x'2f') \
             OR d.name IN (x'2e', x'2e2e') OR typeof(d.name) <> 'blob'"
        );
        for entry in self.entries(&bad)? {
            if self.repair {
                // The inode behind it goes to lost+found if this was its only name.
                self.remove_entry(&entry)?;
            }
            self.found(format!("{} has no possible name", entry.text()), self.repair);
        }
        Ok(())
    }

    fn cookies(&mut self) -> Result<()> {
        let twins = "(SELECT count(*) FROM dentry e WHERE e.parent = d.parent AND e.cookie = d.cookie) > 1";
        let mut used = None;
        for entry in self.entries(twins)? {
            if self.repair {
                let cookie = self.unused_number(&mut used)?;
                let sql = "UPDATE dentry SET cookie = ?3 WHERE parent = ?1 AND name = ?2";
                self.conn.execute(sql, params![entry.parent, entry.name, cookie])?;
            }
            self.found(format!("{} has the cookie of another one", entry.text()), self.repair);
        }
        Ok(())
    }

    /// A number for an inode or a cookie; the reservation is moved on once.
    fn unused_number(&self, last: &mut Option<i64>) -> Result<i64> {
        let number = match last {
            Some(number) => *number + 1,
            None => {
                let next: i64 = self.conn.query_row(
                    "SELECT max(next_ino, 1 + ifnull((SELECT max(ino) FROM inode), 0), \
                     1 + ifnull((SELECT max(cookie) FROM dentry), 0)) FROM meta",
                    [],
                    |row| row.get(0),
                )?;
                let reserved = to_sql(Numbers::reservation(from_sql(next)));
                self.conn.execute("UPDATE meta SET next_ino = ?1", [reserved])?;
                next
            }
        };
        *last = Some(number);
        Ok(number)
    }

    /// A directory has one entry, and the root none.
    fn directory_links(&mut self) -> Result<()> {
        let extra = "(d.ino = 1 OR d.ino IN (SELECT ino FROM dentry GROUP BY ino HAVING count(*) > 1)) \
                     AND EXISTS (SELECT 1 FROM inode i WHERE i.ino = d.ino AND i.kind = 4)";
        let mut kept = std::collections::HashSet::new();
        let entries = self.entries(extra)?;
        // The entry that the directory itself agrees with is the one to keep, else the first.
        for entry in &entries {
            let sql = "SELECT parent FROM inode WHERE ino = ?1";
            let parent: Option<i64> = self.conn.query_row(sql, [entry.ino], |row| row.get(0))?;
            if entry.ino != ROOT && parent == Some(entry.parent) && kept.insert(entry.ino) {
                continue;
            }
            let agreed = |other: &Entry| other.ino == entry.ino && parent == Some(other.parent);
            if entry.ino != ROOT && !entries.iter().any(agreed) && kept.insert(entry.ino) {
                continue;
            }
            if self.repair {
                self.remove_entry(entry)?;
            }
            self.found(format!("{} is a second way to directory {}", entry.text(), entry.ino), self.repair);
        }
        Ok(())
    }

    /// Orphans have no names.
    fn orphans(&mut self) -> Result<()> {
        let sql = "SELECT ino FROM orphan WHERE ino IN (SELECT ino FROM dentry) OR ino NOT IN (SELECT ino FROM inode)";
        for ino in self.inodes(sql)? {
            if self.repair {
                self.conn.execute("DELETE FROM orphan WHERE ino = ?1", [ino])?;
            }
            self.found(format!("inode {ino} is listed as an orphan, and is none"), self.repair);
        }
        Ok(())
    }

    /// What no way from the root leads to. Of each such part of the tree the top goes to lost+found; a part that is a
    /// ring has no top, so one of its entries is taken out first.
    fn unreachable(&mut self) -> Result<()> {
        self.conn.execute_batch("CREATE TEMP TABLE fsck_reached(ino INTEGER PRIMARY KEY)")?;
        let mut last = None;
        let mut lost_and_found = None;
        loop {
            self.conn.execute_batch(
                "DELETE FROM fsck_reached; \
                 INSERT INTO fsck_reached WITH RECURSIVE reached(ino) AS (SELECT 1 UNION \
                 SELECT d.ino FROM reached r CROSS JOIN dentry d ON d.parent = r.ino) SELECT ino FROM reached",
            )?;
            const LOST: &str = "SELECT ino FROM inode WHERE ino NOT IN (SELECT ino FROM fsck_reached) \
                                AND ino NOT IN (SELECT ino FROM orphan)";
            let lost = self.inodes(LOST)?;
            if lost.is_empty() {
                break;
            }
            let tops = self.inodes(&format!("{LOST} AND ino NOT IN (SELECT ino FROM dentry)"))?;
            if !self.repair {
                for ino in lost {
                    self.found(format!("inode {ino} cannot be reached from the root"), false);
                }
                break;
            }
            let tops = match (tops.is_empty(), lost.first()) {
                (true, Some(first)) => {
                    self.conn.execute("DELETE FROM dentry WHERE ino = ?1", [first])?;
                    vec![*first]
                }
                _ => tops,
            };
            let dir = match lost_and_found {
                Some(dir) => dir,
                None => *lost_and_found.insert(self.lost_and_found(&mut last)?),
            };
            for ino in tops {
                let cookie = self.unused_number(&mut last)?;
                let name = format!("#{ino}").into_bytes();
                self.conn
                    .prepare_cached("INSERT OR REPLACE INTO dentry VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![dir, name, ino, cookie])?;
                self.found(format!("inode {ino} could not be reached from the root; it is in /lost+found now"), true);
            }
        }
        self.conn.execute_batch("DROP TABLE fsck_reached")?;
        Ok(())
    }

    /// The directory for what was found, made if it is not there.
    fn lost_and_found(&self, last: &mut Option<i64>) -> Result<i64> {
        let sql =
            "SELECT d.ino FROM dentry d JOIN inode i USING (ino) WHERE d.parent = 1 AND d.name = ?1 AND i.kind = 4";
        let there: Option<i64> = self.conn.query_row(sql, [LOST_AND_FOUND], |row| row.get(0)).optional()?;
        if let Some(ino) = there {
            return Ok(ino);
        }
        let ino = self.unused_number(last)?;
        self.new_directory(ino, ROOT, 0o700)?;
        // Something else of that name would lose its way, and be found in the next round.
        let sql = "INSERT OR REPLACE INTO dentry VALUES (1, ?1, ?2, ?2)";
        self.conn.execute(sql, params![LOST_AND_FOUND, ino])?;
        Ok(ino)
    }

    /// Directories know their parent, and nothing else has one.
    fn parents(&mut self) -> Result<()> {
        let sql = "SELECT i.ino FROM inode i LEFT JOIN (SELECT ino, min(parent) AS parent FROM dentry GROUP BY ino) d \
                   USING (ino) WHERE i.kind = 4 AND i.ino NOT IN (SELECT ino FROM orphan) \
                   AND i.parent IS NOT CASE i.ino WHEN 1 THEN 1 ELSE d.parent END \
                   OR i.kind <> 4 AND i.parent IS NOT NULL";
        let wrong = self.inodes(sql)?;
        if self.repair && !wrong.is_empty() {
            self.conn.execute_batch(
                "UPDATE inode SET parent = NULL WHERE kind <> 4; UPDATE inode SET parent = 1 WHERE ino = 1; \
                 UPDATE inode SET parent = d.parent FROM dentry d WHERE d.ino = inode.ino AND kind = 4 \
                 AND inode.parent IS NOT d.parent",
            )?;
        }
        for ino in wrong {
            self.found(format!("inode {ino} names the wrong parent"), self.repair);
        }
        Ok(())
    }
}
