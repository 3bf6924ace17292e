//! Changes that clients are making, so that a killed process leaves none of them half made for good.
//!
//! Between a change on disk and its binlog line there is a moment. Who is killed in it has, say, a file that no record
//! tells of: the other members would never get it, nor hear that it is gone. So the name of what is being changed is in
//! a file from before the change until after its record; the page cache keeps it when the process dies. What is found
//! there at the next start was never acknowledged: a new file without a record is removed, and of another it is recorded
//! what it is now. A file that has part of what another member pushed gets its time back, since what it has counts for
//! less than what is pushed then.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fdfs_protocol::RemoteName;
use parking_lot::Mutex;
use tracing::warn;

/// Changes at one time that are noted; what more there is goes without.
const SLOTS: usize = 1024;
/// Bytes of a slot: a kind, a length, the name, and a time (unix seconds, big-endian).
const SLOT: usize = TIME + 4;
const TIME: usize = 2 + RemoteName::MAX_LEN;

/// What is being done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is made.
    Create,
    /// It is changed, renamed or removed.
    Change {
        /// Its time before, unix seconds; 0 if it was not there.
        mtime: u32,
    },
    /// A part of it is written that another member pushes, which does so again if the process dies.
    Push {
        /// Its time before, unix seconds.
        mtime: u32,
    },
}

/// The file of the names.
#[derive(Debug)]
pub struct Pending {
    file: File,
    /// Slots nobody uses, the one used last on top.
    free: Mutex<Vec<usize>>,
}

/// A name that is noted. Dropping it, once the change has its record or was taken back, forgets it.
#[derive(Debug)]
#[must_use = "the change is noted as long as this lives"]
pub struct Noted<'a> {
    pending: &'a Pending,
    slot: Option<usize>,
}

impl Pending {
    /// Opens the file in `<data>`, with what an earlier process has left in it.
    ///
    /// # Errors
    /// What the system reported, with the path in the text.
    pub fn open(data: &Path) -> io::Result<(Pending, Vec<(Kind, RemoteName)>)> {
        let path = data.join(".pending.dat");
        let open = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            let mut bytes = vec![0; SLOTS * SLOT];
            let mut found = 0;
            while found < bytes.len() {
                match file.read_at(&mut bytes[found..], found as u64)? {
                    0 => break,
                    n => found += n,
                }
            }
            let left = bytes.chunks_exact(SLOT).filter_map(parse).collect();
            // Its room is taken once, so that a full disk is no matter later. It stays as it is until all is settled.
            file.write_all_at(&bytes, 0)?;
            Ok((Pending { file, free: Mutex::new((0..SLOTS).rev().collect()) }, left))
        };
        open().map_err(|e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// Everything an earlier process left is settled.
    ///
    /// # Errors
    /// What the system reported.
    pub fn settled(&self) -> io::Result<()> {
        self.file.write_all_at(&vec![0; SLOTS * SLOT], 0)
    }

    /// Notes that `name` is being changed.
    pub fn note(&self, kind: Kind, name: &RemoteName) -> Noted<'_> {
        let slot = self.free.lock().pop();
        if let Some(slot) = slot {
            let name = name.as_bytes();
            let mut bytes = [0; SLOT];
            bytes[0] = match kind {
                Kind::Create => b'C',
                Kind::Change { .. } => b'U',
                Kind::Push { .. } => b'P',
            };
            if let Kind::Change { mtime } | Kind::Push { mtime } = kind {
                bytes[TIME..].copy_from_slice(&mtime.to_be_bytes());
            }
            bytes[1] = name.len() as u8;
            bytes[2..2 + name.len()].copy_from_slice(name);
            self.write(slot, &bytes);
        }
        Noted { pending: self, slot }
    }

    fn write(&self, slot: usize, bytes: &[u8]) {
        // A change that is not noted is a change all the same: a full disk must not keep anybody from removing files.
        if let Err(e) = self.file.write_all_at(bytes, (slot * SLOT) as u64) {
            warn!("cannot note what is being changed: {e}");
        }
    }
}

impl Noted<'_> {
    /// The change is made and its record is not: that stays noted for the next start.
    pub fn stay(mut self) {
        self.slot = None;
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.pending.write(slot, &[0, 0]);
            self.pending.free.lock().push(slot);
        }
    }
}

fn parse(slot: &[u8]) -> Option<(Kind, RemoteName)> {
    let mtime = u32::from_be_bytes(slot.get(TIME..)?.try_into().ok()?);
    let kind = match slot[0] {
        b'C' => Kind::Create,
        b'U' => Kind::Change { mtime },
        b'P' => Kind::Push { mtime },
        _ => return None,
    };
    let name = slot.get(2..2 + usize::from(slot[1]))?;
    Some((kind, RemoteName::parse(name).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> RemoteName {
        format!("M00/00/00/file{n:06}").parse().unwrap()
    }

    #[test]
    fn what_was_being_changed_is_found_again_and_what_was_done_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        let (pending, left) = Pending::open(tmp.path()).unwrap();
        assert!(left.is_empty());
        let made = pending.note(Kind::Create, &name(1));
        drop(pending.note(Kind::Change { mtime: 0 }, &name(2)));
        let changed = pending.note(Kind::Change { mtime: 1_700_000_000 }, &name(3));
        let pushed = pending.note(Kind::Push { mtime: 1_800_000_000 }, &name(4));
        let (again, left) = Pending::open(tmp.path()).unwrap();
        assert_eq!(
            left,
            [
                (Kind::Create, name(1)),
                (Kind::Change { mtime: 1_700_000_000 }, name(3)),
                (Kind::Push { mtime: 1_800_000_000 }, name(4))
            ]
        );
        assert_eq!(Pending::open(tmp.path()).unwrap().1.len(), 3, "until it is settled");
        again.settled().unwrap();
        assert!(Pending::open(tmp.path()).unwrap().1.is_empty());
        drop((made, changed, pushed));
    }

    #[test]
    fn more_changes_than_slots_are_no_error_and_slots_come_back() {
        let tmp = tempfile::tempdir().unwrap();
        let (pending, _) = Pending::open(tmp.path()).unwrap();
        let noted: Vec<_> = (0..SLOTS + 5).map(|n| pending.note(Kind::Change { mtime: 0 }, &name(n))).collect();
        assert_eq!(Pending::open(tmp.path()).unwrap().1.len(), SLOTS);
        drop(noted);
        assert_eq!(pending.free.lock().len(), SLOTS);
    }

    #[test]
    fn nonsense_is_passed_over() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join(".pending.dat"), [b"C\xff../../etc/passwd".to_vec(), vec![7; 500]].concat())
            .unwrap();
        assert!(Pending::open(tmp.path()).unwrap().1.is_empty());
    }
}
