//! The binlog: one line for every change, in `<base_path>/data/sync/binlog.NNN`.
//!
//! Replication reads it, so: a change that was acknowledged is in it, whole lines only, in the order of the changes to
//! each file. A line is one `write(2)`, made before the acknowledgement; what was written survives the death of this
//! process. One writer at a time: the kernel lets only one append to a file anyway, and a line that a full disk cut short
//! must be gone before the next.
//!
//! At [`ROTATE_AT`] bytes a new file begins and the index file gets its number, under the same lock: a reader that has
//! gone on to the next file must not miss a line that is still on its way into the old one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{replace_file, sync_parent};

/// A file is complete at this size (FastDFS: 1 GiB).
pub const ROTATE_AT: u64 = 1 << 30;

/// Room that is taken for lines of changes which cannot be taken back, and the least of it before such a change: a line
/// for each of those that are made at one time.
const ROOM: u64 = 64 * 1024;
const LEAST_ROOM: u64 = 16 * 1024;

/// How far back from the end of a file an incomplete line is looked for.
const TAIL: u64 = 64 * 1024;

/// The writing end of the binlog.
#[derive(Debug)]
pub struct Binlog {
    dir: PathBuf,
    rotate_at: u64,
    open: Mutex<Open>,
    grown: Notify,
}

#[derive(Debug)]
struct Open {
    file: File,
    number: u32,
    /// Bytes in it.
    size: u64,
    /// Up to here the file system has given it room.
    room: u64,
    /// Whether it may end with a piece of a line.
    torn: bool,
    /// Lines of changes that happened and could not be recorded yet.
    owed: Vec<u8>,
}

impl Open {
    fn new((file, size): (File, u64), number: u32) -> Open {
        Open { file, number, size, room: size, torn: false, owed: Vec::new() }
    }

    /// Writes whole lines, or nothing.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.mend()?;
        // Now and then, as long as there is some to be had.
        let _ = self.make_room();
        let written = loop {
            match (&self.file).write(lines) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        }?;
        if written < lines.len() {
            // Before anybody else writes: a line behind a piece of one would be part of it.
            self.torn = true;
            self.mend()?;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.size += written as u64;
        Ok(())
    }

    /// Cuts what a full disk let through.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.size)?;
            self.room = self.size;
            self.torn = false;
        }
        Ok(())
    }

    /// Takes room behind the end, unless there is enough; where the file system cannot do that, it has to go without.
    fn make_room(&mut self) -> io::Result<()> {
        if self.room >= self.size + ROOM / 2 {
            return Ok(());
        }
        // SAFETY: a plain call on an open descriptor.
        let made =
            unsafe { libc::fallocate(self.file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, self.size as i64, ROOM as i64) };
        let refused = if made == 0 { None } else { Some(io::Error::last_os_error()) };
        match refused {
            None => self.room = self.size + ROOM,
            Some(e) if !matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EINTR)) => {
                self.room = u64::MAX;
            }
            Some(e) if self.room < self.size + LEAST_ROOM => return Err(e),
            Some(_) => {}
        }
        Ok(())
    }

    fn pay(&mut self) -> io::Result<()> {
        let owed = std::mem::take(&mut self.owed);
        if let Err(e) = self.write(&owed) {
            self.owed = owed;
            return Err(e);
        }
        Ok(())
    }
}

/// A place in the binlog: everything before it has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the file.
    pub file: u32,
    /// Bytes in it.
    pub offset: u64,
}

impl Binlog {
    /// Opens the binlog in `<data>/sync`, making it if there is none. A line that a power cut left incomplete is
    /// removed: it was never acknowledged.
    ///
    /// # Errors
    /// What the system reported, with the path in the text.
    pub fn open(data: &Path) -> io::Result<Binlog> {
        Binlog::open_with(data, ROTATE_AT)
    }

    pub(crate) fn open_with(data: &Path, rotate_at: u64) -> io::Result<Binlog> {
        let dir = data.join("sync");
        std::fs::create_dir_all(&dir)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot make {}: {e}", dir.display())))?;
        sync_parent(&dir)?;
        let known = read_index(&dir)?;
        // After a power cut the index may be behind. Lines in a file it does not tell of yet count as any other.
        let first = known.unwrap_or(0);
        let number = (first..).find(|number| !has_lines(&dir, number + 1)).unwrap_or(first);
        if number != first {
            warn!("binlog: {} is behind: going on with file {number:03}", index_path(&dir).display());
        }
        let open = Open::new(open_file(&dir, number)?, number);
        if known != Some(number) {
            write_index(&dir, number)?;
        }
        Ok(Binlog { dir, rotate_at, open: Mutex::new(open), grown: Notify::new() })
    }

    /// Appends one line, which ends with a newline. When this returns the line survives the death of the process.
    ///
    /// # Errors
    /// What the system reported, such as a full disk; the line is then not in the file.
    pub fn append(&self, line: &[u8]) -> io::Result<()> {
        self.append_announced(line, false, |_| ())
    }

    /// [`append`](Binlog::append) with something to do before anybody can read the line, told the place where the line
    /// ends. `done`: the change cannot be taken back, so that after an error the line is owed, and written before any
    /// other as long as this process lives. Ask [`ready`](Binlog::ready) before making such a change.
    ///
    /// # Errors
    /// As [`append`](Binlog::append).
    pub fn append_announced<T>(&self, line: &[u8], done: bool, announce: impl FnOnce(Place) -> T) -> io::Result<T> {
        let appended = self.write(line, done, announce)?;
        self.grown.notify_waiters();
        Ok(appended)
    }

    /// Appends the line of a change that another storage pushed here. Push loops have nothing to do for it, so they are not
    /// woken; `done` as in [`append_announced`](Binlog::append_announced).
    ///
    /// # Errors
    /// As [`append`](Binlog::append).
    pub fn append_pushed(&self, line: &[u8], done: bool) -> io::Result<()> {
        self.write(line, done, |_| ())
    }

    fn write<T>(&self, line: &[u8], done: bool, announce: impl FnOnce(Place) -> T) -> io::Result<T> {
        let mut open = self.open.lock();
        let written = self.pay(&mut open).and_then(|()| {
            let announced = announce(Place { file: open.number, offset: open.size + line.len() as u64 });
            open.write(line)?;
            Ok(announced)
        });
        match &written {
            Ok(_) if open.size >= self.rotate_at => self.rotate(&mut open),
            Ok(_) => {}
            Err(_) if done => open.owed.extend_from_slice(line),
            Err(_) => {}
        }
        written
    }

    /// Writes what is owed, which somebody may have to push.
    fn pay(&self, open: &mut Open) -> io::Result<()> {
        if open.owed.is_empty() {
            return Ok(());
        }
        open.pay()?;
        self.grown.notify_waiters();
        Ok(())
    }

    /// Whether a line can be written: none is owed, and a full disk has room for it.
    ///
    /// # Errors
    /// What the system reported when a line that is owed was tried again, or room was asked for.
    pub fn ready(&self) -> io::Result<()> {
        let mut open = self.open.lock();
        self.pay(&mut open)?;
        open.make_room()
    }

    /// Puts everything appended so far on stable storage.
    ///
    /// # Errors
    /// What the system reported.
    pub fn sync(&self) -> io::Result<()> {
        // The descriptor is cloned so that no writer waits behind the disk; a rotation syncs the file it leaves.
        let file = self.open.lock().file.try_clone()?;
        file.sync_data()
    }

    /// The end of the binlog.
    pub fn place(&self) -> Place {
        let open = self.open.lock();
        Place { file: open.number, offset: open.size }
    }

    /// The directory it is in; the positions of its readers are kept beside it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one of its files.
    pub fn file_path(&self, number: u32) -> PathBuf {
        file_path(&self.dir, number)
    }

    /// Waits until the end is beyond `place`. Lines that were only [pushed](Binlog::append_pushed) here end no wait that
    /// has begun: they are found at the next look.
    pub async fn beyond(&self, place: Place) {
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            // Before the look at the end: what is written after it wakes us.
            grown.as_mut().enable();
            if self.place() > place {
                return;
            }
            grown.await;
        }
    }

    /// Goes on to the next file. A failure leaves the present one in use: a longer file is no harm.
    fn rotate(&self, open: &mut Open) {
        let next = open.number + 1;
        let begin = || {
            open.file.sync_data()?;
            // Somebody put it there since the start; FastDFS removes it, we keep it aside.
            let path = file_path(&self.dir, next);
            if path.exists() {
                std::fs::rename(&path, path.with_extension(format!("{next:03}.old")))?;
            }
            let opened = open_file(&self.dir, next)?;
            // Last: readers go where the index says, and so must the lines.
            write_index(&self.dir, next)?;
            Ok::<_, io::Error>(opened)
        };
        match begin() {
            Ok(opened) => {
                info!("binlog: going on with file {next:03}");
                *open = Open::new(opened, next);
            }
            Err(e) => {
                error!("cannot begin the next binlog file in {}: {e}; going on with the old one", self.dir.display())
            }
        }
    }
}

fn file_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("binlog.{number:03}"))
}

fn has_lines(dir: &Path, number: u32) -> bool {
    std::fs::metadata(file_path(dir, number)).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
}

fn open_file(dir: &Path, number: u32) -> io::Result<(File, u64)> {
    let path = file_path(dir, number);
    let open = || {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        // It may have been made just now. What is written into a file without a name is lost with the power.
        sync_parent(&path)?;
        let size = cut_incomplete_line(&mut file)?;
        Ok((file, size))
    };
    open().map_err(|e: io::Error| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display())))
}

/// Makes the file end with a newline by cutting what follows the last one; gives the size after that.
fn cut_incomplete_line(file: &mut File) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    let from = size.saturating_sub(TAIL);
    let mut tail = vec![0; (size - from) as usize];
    file.read_exact_at(&mut tail, from)?;
    let whole = match tail.iter().rposition(|&b| b == b'\n') {
        Some(newline) => from + newline as u64 + 1,
        None if from == 0 => 0,
        None => return Err(io::Error::new(io::ErrorKind::InvalidData, "no line end in its last 64 KiB")),
    };
    if whole < size {
        warn!("binlog: removing an incomplete last line of {} bytes", size - whole);
        file.set_len(whole)?;
    }
    Ok(whole)
}

fn index_path(dir: &Path) -> PathBuf {
    dir.join("binlog_index.dat")
}

/// Text after `key=` of a file of such lines.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.split_once('=').filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim()))
}

fn read_index(dir: &Path) -> io::Result<Option<u32>> {
    let path = index_path(dir);
    let mut text = String::new();
    match File::open(&path) {
        Ok(mut file) => file.read_to_string(&mut text)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()))),
    };
    let number = value(&text, "current_write").and_then(|v| v.parse().ok());
    number.map(Some).ok_or_else(|| {
        let text = format!(
            "{}: no current_write=<number>; restore the file, or remove it to begin with binlog.000",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

fn write_index(dir: &Path, number: u32) -> io::Result<()> {
    // How far old files are compressed is kept: it is not ours to change.
    let old = std::fs::read_to_string(index_path(dir)).unwrap_or_default();
    let compressed = value(&old, "current_compress").and_then(|v| v.parse::<u32>().ok()).unwrap_or(0);
    replace_file(&index_path(dir), format!("current_write={number}\ncurrent_compress={compressed}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn text(dir: &Path, number: u32) -> String {
        std::fs::read_to_string(file_path(&dir.join("sync"), number)).unwrap()
    }

    #[test]
    fn lines_survive_and_go_on() {
        let tmp = tempfile::tempdir().unwrap();
        Binlog::open(tmp.path()).unwrap().append(b"1 C M00/00/00/a\n").unwrap();
        let log = Binlog::open(tmp.path()).unwrap();
        log.append(b"2 D M00/00/00/a\n").unwrap();
        log.sync().unwrap();
        assert_eq!(text(tmp.path(), 0), "1 C M00/00/00/a\n2 D M00/00/00/a\n");
        assert_eq!(log.place(), Place { file: 0, offset: 32 });
        let index = std::fs::read_to_string(tmp.path().join("sync/binlog_index.dat")).unwrap();
        assert_eq!(index, "current_write=0\ncurrent_compress=0\n");
    }

    #[test]
    fn an_incomplete_last_line_is_cut() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("sync")).unwrap();
        std::fs::write(tmp.path().join("sync/binlog.000"), "1 C M00/00/00/a\n2 C M00/0").unwrap();
        Binlog::open(tmp.path()).unwrap().append(b"3 C M00/00/00/b\n").unwrap();
        assert_eq!(text(tmp.path(), 0), "1 C M00/00/00/a\n3 C M00/00/00/b\n");
    }

    #[test]
    fn a_piece_of_a_line_is_gone_before_the_next_and_what_is_owed_comes_first() {
        let tmp = tempfile::tempdir().unwrap();
        let log = Binlog::open(tmp.path()).unwrap();
        log.append(b"1 C M00/00/00/a\n").unwrap();
        // As a full disk leaves it.
        let appending = {
            let mut open = log.open.lock();
            (&open.file).write_all(b"2 C M00/").unwrap();
            open.torn = true;
            std::mem::replace(&mut open.file, File::open(file_path(&tmp.path().join("sync"), 0)).unwrap())
        };
        assert!(log.append(b"3 C M00/00/00/b\n").is_err());
        assert!(log.append_announced(b"4 D M00/00/00/a\n", true, |_| ()).is_err());
        assert!(log.ready().is_err());
        log.open.lock().file = appending;
        log.append(b"5 C M00/00/00/c\n").unwrap();
        log.ready().unwrap();
        assert_eq!(text(tmp.path(), 0), "1 C M00/00/00/a\n4 D M00/00/00/a\n5 C M00/00/00/c\n");
        assert_eq!(log.place().offset, 48);
    }

    #[tokio::test]
    async fn loops_wake_for_own_changes_only() {
        use std::future::{Future, poll_fn};
        use std::task::Poll;
        let tmp = tempfile::tempdir().unwrap();
        let log = Binlog::open(tmp.path()).unwrap();
        let mut waiting = Box::pin(log.beyond(log.place()));
        let mut woken = async || poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_ready())).await;
        assert!(!woken().await);
        log.append_pushed(b"1 c M00/00/00/a\n", false).unwrap();
        assert!(!woken().await, "nobody has to push it");
        log.append(b"2 C M00/00/00/b\n").unwrap();
        assert!(woken().await);
        drop(waiting);
        log.beyond(Place { file: 0, offset: 0 }).await;
    }

    #[test]
    fn rotation_loses_no_line() {
        let tmp = tempfile::tempdir().unwrap();
        let log = Arc::new(Binlog::open_with(tmp.path(), 1000).unwrap());
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let log = log.clone();
                std::thread::spawn(move || {
                    for i in 0..200 {
                        log.append(format!("{i} C M00/00/00/{t}\n").as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        let last = log.place().file;
        assert!(last > 3, "{last}");
        let all: String = (0..=last).map(|n| text(tmp.path(), n)).collect();
        for t in 0..4 {
            let suffix = format!("/{t}");
            let mine: Vec<u32> = all
                .lines()
                .filter(|l| l.ends_with(&suffix))
                .map(|l| l.split(' ').next().unwrap().parse().unwrap())
                .collect();
            assert_eq!(mine, (0..200).collect::<Vec<_>>());
        }
        assert_eq!(Binlog::open_with(tmp.path(), 1000).unwrap().place().file, last);
    }

    #[test]
    fn an_index_that_a_power_cut_left_behind_loses_no_line() {
        let tmp = tempfile::tempdir().unwrap();
        let index = tmp.path().join("sync/binlog_index.dat");
        let log = Binlog::open_with(tmp.path(), 10).unwrap();
        log.append(b"1 C M00/00/00/a\n").unwrap();
        let behind = "current_write=0\ncurrent_compress=0\n";
        for left in [Some(behind), None] {
            drop(Binlog::open_with(tmp.path(), 1000).unwrap().append(b"2 C M00/00/00/b\n"));
            match left {
                Some(text) => std::fs::write(&index, text).unwrap(),
                None => std::fs::remove_file(&index).unwrap(),
            }
            let log = Binlog::open_with(tmp.path(), 1000).unwrap();
            assert_eq!(log.place().file, 1);
            log.append(b"3 C M00/00/00/c\n").unwrap();
            assert!(text(tmp.path(), 1).ends_with("2 C M00/00/00/b\n3 C M00/00/00/c\n"));
            assert!(std::fs::read_to_string(&index).unwrap().starts_with("current_write=1\n"));
        }
        // Made, but never written to: the lines are where the index says.
        std::fs::write(tmp.path().join("sync/binlog.002"), "").unwrap();
        assert_eq!(Binlog::open(tmp.path()).unwrap().place().file, 1);
    }

    #[test]
    fn a_broken_index_is_an_error_with_a_remedy() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("sync")).unwrap();
        std::fs::write(tmp.path().join("sync/binlog_index.dat"), "nonsense").unwrap();
        let e = Binlog::open(tmp.path()).unwrap_err().to_string();
        assert!(e.contains("binlog_index.dat") && e.contains("remove it"), "{e}");
    }

    #[test]
    fn the_compression_position_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("sync")).unwrap();
        std::fs::write(tmp.path().join("sync/binlog_index.dat"), "current_write=7\ncurrent_compress=5\n").unwrap();
        let log = Binlog::open_with(tmp.path(), 10).unwrap();
        log.append(b"1 C M00/00/00/a\n").unwrap();
        assert_eq!(log.place().file, 8);
        let index = std::fs::read_to_string(tmp.path().join("sync/binlog_index.dat")).unwrap();
        assert_eq!(index, "current_write=8\ncurrent_compress=5\n");
    }
}
