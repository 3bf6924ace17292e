-- One row: the numbers that belong to the whole.
CREATE TABLE meta(
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    next_ino      INTEGER NOT NULL,  -- every inode number and cookie in use is below it
    syncs         INTEGER NOT NULL,  -- counts transactions made only to reach stable storage
    inodes        INTEGER NOT NULL,
    contents      INTEGER NOT NULL,
    logical_bytes INTEGER NOT NULL,  -- sum of refs * size
    stored_bytes  INTEGER NOT NULL,  -- sum of size
    garbage       INTEGER NOT NULL
);
INSERT INTO meta VALUES (1, 16, 0, 0, 0, 0, 0, 0);

-- Sizes are unsigned 64-bit numbers below 2^63; times are seconds since 1970 and nanoseconds.
CREATE TABLE inode(
    ino     INTEGER PRIMARY KEY,
    kind    INTEGER NOT NULL,        -- S_IFMT bits of st_mode >> 12
    mode    INTEGER NOT NULL,        -- 07777
    uid     INTEGER NOT NULL,
    gid     INTEGER NOT NULL,
    nlink   INTEGER NOT NULL,
    rdev    INTEGER NOT NULL,
    size    INTEGER NOT NULL,        -- of a directory: the number of its entries
    atime   INTEGER NOT NULL, atime_ns INTEGER NOT NULL,
    mtime   INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime   INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    btime   INTEGER NOT NULL, btime_ns INTEGER NOT NULL,
    parent  INTEGER,                 -- of a directory; of the root the root
    content INTEGER,                 -- of a regular file; counted in content.refs
    xattrs  INTEGER NOT NULL,        -- how many there are, so that none costs no look-up
    target  BLOB                     -- of a symbolic link
);

-- The cookie is the readdir offset. dentry.ino and inode.content carry no foreign key: each would need one more index,
-- written with every new file, only to prove what the reference counts say. fsck checks both.
CREATE TABLE dentry(
    parent INTEGER NOT NULL REFERENCES inode(ino),
    name   BLOB NOT NULL,
    ino    INTEGER NOT NULL,
    cookie INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE INDEX dentry_cookie ON dentry(parent, cookie);

CREATE TABLE xattr(
    ino   INTEGER NOT NULL REFERENCES inode(ino) ON DELETE CASCADE,
    name  BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (ino, name)
) WITHOUT ROWID;

CREATE TABLE content(
    id          INTEGER PRIMARY KEY,
    fingerprint BLOB,                -- BLAKE3-256; NULL while mutable
    size        INTEGER NOT NULL,
    file_id     TEXT NOT NULL,
    mutable     INTEGER NOT NULL,
    refs        INTEGER NOT NULL
);
CREATE UNIQUE INDEX content_fingerprint ON content(fingerprint, size) WHERE fingerprint IS NOT NULL;
CREATE UNIQUE INDEX content_file_id ON content(file_id);

-- File IDs without a reference, to be deleted from the cluster.
CREATE TABLE garbage(
    id      INTEGER PRIMARY KEY,
    file_id TEXT NOT NULL
);

-- Inodes without a name that were open; reclaimed by the last close, or by the next start.
CREATE TABLE orphan(
    ino INTEGER PRIMARY KEY REFERENCES inode(ino) ON DELETE CASCADE
);

-- Local data that is not yet in the cluster.
CREATE TABLE staged(
    ino  INTEGER PRIMARY KEY REFERENCES inode(ino) ON DELETE CASCADE,
    path BLOB NOT NULL,
    size INTEGER NOT NULL
);
