//! The log file of a daemon: `<base_path>/logs/<name>.log`.
//!
//! Rotated at local midnight and on SIGHUP: the current file gets the time appended to its name
//! (`trackerd.log.20261121_000000`), and rotated files older than the kept days are removed.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A log file that can be rotated while it is written.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: PathBuf,
    keep: Option<Duration>,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Unix time of the next rotation.
    until: i64,
}

impl LogFile {
    /// Opens (creates, appends to) the file; its directory is created. `keep` is how long rotated files stay,
    /// `None` for ever.
    ///
    /// # Errors
    /// What opening the file or making its directory reported.
    pub fn open(path: &Path, keep: Option<Duration>) -> io::Result<LogFile> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let open = Open { file: append(path)?, until: next_midnight(now()) };
        Ok(LogFile { path: path.to_owned(), keep, open: Arc::new(Mutex::new(open)) })
    }

    /// Moves the current file aside and begins a new one. If it was moved by another (logrotate), only that.
    ///
    /// # Errors
    /// When renaming or opening failed; logging then goes on into the old file.
    pub fn rotate(&self) -> io::Result<()> {
        self.rotate_locked(&mut self.open.lock())
    }

    fn rotate_locked(&self, open: &mut Open) -> io::Result<()> {
        // Whatever happens below, the next try is tomorrow and not at the next line.
        open.until = next_midnight(now());
        let stamp = stamp(now());
        let aside = PathBuf::from(format!("{}.{stamp}", self.path.display()));
        match std::fs::rename(&self.path, aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        open.file = append(&self.path)?;
        self.remove_old();
        Ok(())
    }

    fn remove_old(&self) {
        let (Some(keep), Some(dir), Some(name)) = (self.keep, self.path.parent(), self.path.file_name()) else {
            return;
        };
        let prefix = format!("{}.", name.to_string_lossy());
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let rotated = entry.file_name().to_string_lossy().strip_prefix(&prefix).is_some_and(is_stamp);
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if rotated && age.is_some_and(|a| a > keep) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Writes one formatted event at a time.
pub struct Line<'a>(&'a LogFile);

impl Write for Line<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut open = self.0.open.lock();
        if now() >= open.until
            && let Err(e) = self.0.rotate_locked(&mut open)
        {
            let _ = writeln!(open.file, "cannot rotate {}: {e}", self.0.path.display());
        }
        open.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// The level that a FastDFS `log_level` word means (`emerg`, `alert`, `crit`, `error`, `warn`, `notice`, `info`,
/// `debug`); unknown words mean `info`.
pub fn level(word: &str) -> LevelFilter {
    match word.trim().to_ascii_lowercase().as_str() {
        "emerg" | "alert" | "crit" | "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "debug" => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    }
}

/// Sends the events of this process to a log file; to be called once, by a program's `main`.
///
/// # Errors
/// When a subscriber was installed before.
pub fn install(file: LogFile, level: LevelFilter) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(file)
        .with_max_level(level)
        .with_ansi(false)
        .try_init()
        .map_err(|e| anyhow::anyhow!(e))
}

/// Sends the events of this process to standard error; for a daemon in the foreground.
///
/// # Errors
/// When a subscriber was installed before.
pub fn install_console(level: LevelFilter) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(level)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|e| anyhow::anyhow!(e))
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn local(t: i64) -> libc::tm {
    // SAFETY: `tm` is plain data for which all-zero is valid; `localtime_r` writes only to it.
    unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&t, &mut tm);
        tm
    }
}

fn next_midnight(t: i64) -> i64 {
    let tm = local(t);
    t + 86_400 - i64::from(tm.tm_hour) * 3600 - i64::from(tm.tm_min) * 60 - i64::from(tm.tm_sec)
}

fn stamp(t: i64) -> String {
    let tm = local(t);
    let (y, mo) = (tm.tm_year + 1900, tm.tm_mon + 1);
    format!("{y:04}{mo:02}{:02}_{:02}{:02}{:02}", tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec)
}

fn is_stamp(s: &str) -> bool {
    s.len() == 15 && s.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'_' } else { b.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_and_removes_old_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/d.log");
        let log = LogFile::open(&path, Some(Duration::from_secs(3600))).unwrap();
        log.make_writer().write_all(b"one\n").unwrap();
        let beside = |name: &str, age: u64| {
            let path = path.with_file_name(name);
            let file = File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            path
        };
        let others = [beside("d.log.keepme", 7200), beside("d.log.20200101_000000", 0)];
        let old = beside("d.log.20200102_000000", 7200);
        log.rotate().unwrap();
        log.make_writer().write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert!(others.iter().all(|other| other.exists()) && !old.exists());
        assert_eq!(rotated(&path), [String::new(), "one\n".to_owned()]);
    }

    /// What files that were moved aside hold, sorted.
    fn rotated(path: &Path) -> Vec<String> {
        let files = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let files = files
            .filter(|file| file.to_str().unwrap().strip_prefix(&format!("{}.", path.display())).is_some_and(is_stamp));
        let mut texts: Vec<_> = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
        texts.sort();
        texts
    }

    #[test]
    fn a_file_that_another_moved_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.log");
        let log = LogFile::open(&path, None).unwrap();
        log.make_writer().write_all(b"one\n").unwrap();
        let moved = dir.path().join("d.log.1");
        std::fs::rename(&path, &moved).unwrap();
        log.rotate().unwrap();
        log.make_writer().write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_write_after_midnight_rotates_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.log");
        let log = LogFile::open(&path, None).unwrap();
        log.make_writer().write_all(b"yesterday\n").unwrap();
        log.open.lock().until = 0;
        log.make_writer().write_all(b"today\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "today\n");
        assert_eq!(rotated(&path), ["yesterday\n"]);
    }

    #[test]
    fn midnight_is_within_a_day() {
        for t in [0, 1_795_222_402, now()] {
            let next = next_midnight(t);
            assert!(next > t && next <= t + 90_000, "{t} -> {next}");
        }
        assert!(is_stamp(&stamp(now())));
        assert!(!is_stamp("20261121-000000"));
    }
}
