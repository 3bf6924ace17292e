//! Rules that need no walk: rows that must lead somewhere, and numbers that must be what they count.

use crate::boot;
use crate::error::Result;

use super::Check;

/// One rule: a query for the violations, which answers with a sentence about each, and the statements that end them.
struct Rule {
    find: &'static str,
    /// Empty: it is only reported.
    repair: &'static str,
}

/// References from row to row.
const REFERENCES: &[Rule] = &[
    Rule {
        find: "SELECT format('inode %d has an extended attribute, and does not exist', ino) FROM xattr \
               WHERE ino NOT IN (SELECT ino FROM inode)",
        repair: "DELETE FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)",
    },
    Rule {
        find: "SELECT format('inode %d has staged data, and does not exist', ino) FROM staged \
               WHERE ino NOT IN (SELECT ino FROM inode)",
        repair: "DELETE FROM staged WHERE ino NOT IN (SELECT ino FROM inode)",
    },
    Rule {
        find: "SELECT format('inode %d is a symbolic link without a target', ino) FROM inode \
               WHERE kind = 10 AND target IS NULL",
        repair: "",
    },
    Rule {
        find: "SELECT format('inode %d has content and is not a regular file', ino) FROM inode \
               WHERE content IS NOT NULL AND kind <> 8",
        repair: "UPDATE inode SET content = NULL WHERE kind <> 8",
    },
    Rule {
        // Which data the file had cannot be known any more; so it is not made up.
        find: "SELECT format('inode %d refers to content %d, which does not exist', ino, content) FROM inode \
               WHERE content IS NOT NULL AND content NOT IN (SELECT id FROM content)",
        repair: "",
    },
    Rule {
        find: "SELECT format('content %d is sealed and mutable at once', id) FROM content \
               WHERE mutable AND fingerprint IS NOT NULL",
        repair: "UPDATE content SET fingerprint = NULL WHERE mutable",
    },
    Rule {
        find: "SELECT format('file ID %s is garbage and in use by content %d', g.file_id, c.id) \
               FROM garbage g JOIN content c USING (file_id)",
        repair: "DELETE FROM garbage WHERE file_id IN (SELECT file_id FROM content)",
    },
];

/// Numbers that are the sum of something.
const COUNTS: &[Rule] = &[
    Rule {
        find: "SELECT format('inode %d has %d links, and says %d', ino, real, nlink) FROM (\
               SELECT i.ino, i.nlink, CASE WHEN o.ino IS NOT NULL THEN 0 WHEN i.kind = 4 THEN 2 + ifnull(s.count, 0) \
               ELSE ifnull(n.count, 0) END AS real FROM inode i LEFT JOIN orphan o USING (ino) \
               LEFT JOIN (SELECT ino, count(*) AS count FROM dentry GROUP BY ino) n USING (ino) \
               LEFT JOIN (SELECT d.parent AS ino, count(*) AS count FROM dentry d JOIN inode c ON c.ino = d.ino \
               WHERE c.kind = 4 GROUP BY d.parent) s USING (ino)) WHERE nlink <> real",
        repair: "UPDATE inode SET nlink = CASE WHEN ino IN (SELECT ino FROM orphan) THEN 0 WHEN kind = 4 \
                 THEN 2 + (SELECT count(*) FROM dentry d JOIN inode c ON c.ino = d.ino \
                 WHERE d.parent = inode.ino AND c.kind = 4) \
                 ELSE (SELECT count(*) FROM fsck_names n WHERE n.ino = inode.ino) END",
    },
    Rule {
        find: "SELECT format('directory %d has %d entries, and says %d', ino, real, size) FROM (\
               SELECT i.ino, i.size, ifnull(n.count, 0) AS real FROM inode i LEFT JOIN \
               (SELECT parent AS ino, count(*) AS count FROM dentry GROUP BY parent) n USING (ino) WHERE i.kind = 4) \
               WHERE size <> real",
        repair: "UPDATE inode SET size = (SELECT count(*) FROM dentry WHERE parent = inode.ino) WHERE kind = 4",
    },
    Rule {
        find: "SELECT format('inode %d has %d extended attributes, and says %d', ino, real, xattrs) FROM (\
               SELECT i.ino, i.xattrs, ifnull(x.count, 0) AS real FROM inode i LEFT JOIN \
               (SELECT ino, count(*) AS count FROM xattr GROUP BY ino) x USING (ino)) WHERE xattrs <> real",
        repair: "UPDATE inode SET xattrs = (SELECT count(*) FROM xattr x WHERE x.ino = inode.ino)",
    },
    Rule {
        find: "SELECT format('content %d (%s) has %d references, and says %d', id, file_id, real, refs) FROM (\
               SELECT c.id, c.file_id, c.refs, ifnull(r.count, 0) AS real FROM content c LEFT JOIN \
               (SELECT content AS id, count(*) AS count FROM inode WHERE content IS NOT NULL GROUP BY content) r \
               USING (id)) WHERE refs <> real AND real > 0",
        repair: "UPDATE content SET refs = r.count FROM (SELECT content AS id, count(*) AS count FROM inode \
                 WHERE content IS NOT NULL GROUP BY content) r WHERE r.id = content.id AND refs <> r.count",
    },
    Rule {
        find: "SELECT format('mutable content %d (%s) has %d references', id, file_id, refs) FROM content \
               WHERE mutable AND refs > 1",
        repair: "",
    },
];

/// What belongs to the whole.
const WHOLE: &[Rule] = &[
    Rule {
        find: "SELECT format('the next inode number is %d, but %d is in use', next_ino, used) FROM meta, (\
               SELECT max(ifnull((SELECT max(ino) FROM inode), 0), ifnull((SELECT max(cookie) FROM dentry), 0)) AS used) \
               WHERE used >= next_ino",
        repair: "UPDATE meta SET next_ino = 1 + max(ifnull((SELECT max(ino) FROM inode), 0), \
                 ifnull((SELECT max(cookie) FROM dentry), 0))",
    },
    Rule {
        find: "SELECT format('the sums are %d inodes, %d contents, %d and %d bytes, %d garbage; they say %d, %d, %d, %d, %d', \
               r.inodes, r.contents, r.logical, r.stored, r.garbage, \
               m.inodes, m.contents, m.logical_bytes, m.stored_bytes, m.garbage) \
               FROM meta m, fsck_sums r WHERE (m.inodes, m.contents, m.logical_bytes, m.stored_bytes, m.garbage) \
               <> (r.inodes, r.contents, r.logical, r.stored, r.garbage)",
        repair: "UPDATE meta SET (inodes, contents, logical_bytes, stored_bytes, garbage) = \
                 (SELECT inodes, contents, logical, stored, garbage FROM fsck_sums)",
    },
];

const VIEWS: &str = "\
    CREATE TEMP VIEW fsck_sums AS SELECT (SELECT count(*) FROM inode) AS inodes, \
    (SELECT count(*) FROM content) AS contents, (SELECT ifnull(sum(refs * size), 0) FROM content) AS logical, \
    (SELECT ifnull(sum(size), 0) FROM content) AS stored, (SELECT count(*) FROM garbage) AS garbage;\
    CREATE TEMP TABLE fsck_names AS SELECT ino FROM dentry;\
    CREATE INDEX temp.fsck_names_ino ON fsck_names(ino);";

impl Check<'_> {
    /// All rules of this module; the tree is right already.
    pub(super) fn rules(&mut self) -> Result<()> {
        self.conn.execute_batch(VIEWS)?;
        for rule in REFERENCES {
            self.apply(rule)?;
        }
        self.unreferenced_contents()?;
        for rule in COUNTS.iter().chain(WHOLE) {
            self.apply(rule)?;
        }
        self.conn.execute_batch("DROP VIEW fsck_sums; DROP TABLE fsck_names")?;
        Ok(())
    }

    fn apply(&mut self, rule: &Rule) -> Result<()> {
        let repaired = self.repair && !rule.repair.is_empty();
        let mut statement = self.conn.prepare(rule.find)?;
        let texts = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        if texts.is_empty() {
            return Ok(());
        }
        if repaired {
            self.conn.execute_batch(rule.repair)?;
        }
        for text in texts {
            self.found(text, repaired);
        }
        Ok(())
    }

    /// Contents that no inode refers to become garbage.
    fn unreferenced_contents(&mut self) -> Result<()> {
        let mut statement = self.conn.prepare(
            "SELECT id, file_id, refs FROM content \
             WHERE id NOT IN (SELECT content FROM inode WHERE content IS NOT NULL)",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for (id, file_id, refs) in rows.collect::<rusqlite::Result<Vec<(i64, String, i64)>>>()? {
            if self.repair {
                self.conn.execute("UPDATE content SET refs = 1 WHERE id = ?1", [id])?;
                boot::release(self.conn, id)?;
            }
            let text = format!("content {id} ({file_id}) has no reference, and says {refs}");
            self.found(text, self.repair);
        }
        Ok(())
    }
}
