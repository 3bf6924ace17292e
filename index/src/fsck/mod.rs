//! The offline check: what SQLite checks itself, and the invariants of this index, recomputed from nothing but the
//! entries and the references.
//!
//! Each rule finds violations with one query and, if asked, puts them right with a few statements. The rules run in an
//! order in which each can rely on those before it: entries lead to inodes, then everything is reachable, then counts.
//! All of it is one transaction, so a check that is interrupted has changed nothing.

mod rules;
mod tree;

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::{IndexError, Result};
use crate::lock::Lock;
use crate::schema;

/// One contradiction that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, in words.
    pub text: String,
    /// Whether it was put right.
    pub repaired: bool,
}

/// What [`fsck`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Inodes looked at.
    pub inodes: u64,
    /// Directory entries looked at.
    pub entries: u64,
    /// Contents looked at.
    pub contents: u64,
    /// What is wrong; empty if all is well.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong (any more): every finding was repaired.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired)
    }
}

impl std::fmt::Display for Report {
    /// One line for each finding, and one for the whole.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Finding { text, repaired } in &self.findings {
            writeln!(f, "{text}{}", if *repaired { " (repaired)" } else { "" })?;
        }
        let verdict = match (self.findings.len(), self.is_clean()) {
            (0, _) => "clean".to_owned(),
            (count, true) => format!("{count} found and repaired"),
            (count, false) => format!("{count} found"),
        };
        write!(f, "{} inodes, {} entries, {} contents: {verdict}", self.inodes, self.entries, self.contents)
    }
}

/// Checks the closed index at `path`, and with `repair` puts right what can be: counts are recomputed, entries that lead
/// nowhere are removed, and inodes without a way to them are put into `/lost+found`.
///
/// Fails with `Busy` while the index is open, `Newer`, `Foreign`, `NotFound` (there is no such file), or the cause. Damage
/// below the tables (`PRAGMA integrity_check`) is reported and not repaired; restore a backup then.
pub fn fsck(path: &Path, repair: bool) -> Result<Report> {
    if !path.exists() {
        return Err(IndexError::NotFound);
    }
    let _lock = Lock::take(path)?;
    let mut conn = schema::open(path)?;
    // What is to be removed may contradict anything.
    conn.pragma_update(None, "foreign_keys", false)?;
    let mut check = Check { conn: &conn, repair, findings: Vec::new() };
    check.integrity()?;
    let mut report = Report { findings: check.findings, ..Report::default() };
    if !report.findings.is_empty() {
        // What a damaged file answers to the other questions means nothing.
        return Ok(report);
    }

    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let count = |sql| tx.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
    report.inodes = count("SELECT count(*) FROM inode")?;
    report.entries = count("SELECT count(*) FROM dentry")?;
    report.contents = count("SELECT count(*) FROM content")?;
    let mut check = Check { conn: &tx, repair, findings: Vec::new() };
    check.tree()?;
    check.rules()?;
    report.findings = check.findings;
    if repair {
        tx.commit()?;
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(report)
}

/// A check in progress.
struct Check<'a> {
    conn: &'a Connection,
    repair: bool,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn integrity(&mut self) -> Result<()> {
        let mut statement = self.conn.prepare("PRAGMA integrity_check")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(0)?;
            if text != "ok" {
                self.findings.push(Finding { text: format!("database: {text}"), repaired: false });
            }
        }
        Ok(())
    }

    fn found(&mut self, text: String, repaired: bool) {
        self.findings.push(Finding { text, repaired });
    }
}
