//! The access log: one line for every client request, in `<base_path>/logs/storage_access.log`.
//!
//! `[time] client_ip action filename status time_used req_len resp_len`, with the time the request began, lengths that
//! include the frame headers, and `-` where no file name is known. Lines gather in memory and are written once a second.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::warn;

use crate::clock::{Local, local};

/// Lines held in memory before they are written without waiting for the second to end.
const FULL: usize = 64 * 1024;

/// Unit of the time used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// `time_used_ms`
    #[default]
    Millis,
    /// `time_used_us`
    Micros,
}

/// The log, while it is enabled.
#[derive(Debug)]
pub struct AccessLog {
    path: PathBuf,
    precision: Precision,
    keep_days: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    day: (i32, i32, i32),
    text: String,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The client.
    pub peer: IpAddr,
    /// `upload`, `download`, ...
    pub action: &'a str,
    /// The remote name; empty if it was not known.
    pub name: &'a str,
    /// Status of the answer.
    pub status: u8,
    /// When the request began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Bytes of the request, header included.
    pub request: u64,
    /// Bytes of the answer, header included.
    pub response: u64,
}

impl AccessLog {
    /// Opens `<base_path>/logs/storage_access.log`; rotated files are kept for `keep_days`, 0 for ever.
    ///
    /// # Errors
    /// What the system reported, with the path in the text.
    pub fn open(base_path: &Path, precision: Precision, keep_days: u32) -> io::Result<AccessLog> {
        let path = base_path.join("logs").join("storage_access.log");
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file =
            append(&path).map_err(|e| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display())))?;
        let inner = Inner { file, day: local(now()).date, text: String::new() };
        Ok(AccessLog { path, precision, keep_days, inner: Mutex::new(inner) })
    }

    /// Adds a line.
    pub fn add(&self, entry: &Entry<'_>) {
        let mut inner = self.inner.lock();
        let text = &mut inner.text;
        stamp(text, entry.began);
        let took = match self.precision {
            Precision::Millis => entry.took.as_millis(),
            Precision::Micros => entry.took.as_micros(),
        };
        let name = if entry.name.is_empty() { "-" } else { entry.name };
        let Entry { peer, action, status, request, response, .. } = entry;
        let _ = writeln!(text, " {peer} {action} {name} {status} {took} {request} {response}");
        if inner.text.len() >= FULL {
            self.write_out(&mut inner);
        }
    }

    /// Writes what has gathered; begins a new file after midnight.
    pub fn flush(&self) {
        let mut inner = self.inner.lock();
        let today = local(now()).date;
        if today != inner.day {
            self.write_out(&mut inner);
            inner.day = today;
            if let Err(e) = self.rotate_locked(&mut inner) {
                warn!("cannot rotate {}: {e}", self.path.display());
            }
        }
        self.write_out(&mut inner);
    }

    /// Begins a new file; the old one gets the time appended to its name.
    ///
    /// # Errors
    /// What the system reported; the old file stays in use then.
    pub fn rotate(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        self.write_out(&mut inner);
        self.rotate_locked(&mut inner)
    }

    fn rotate_locked(&self, inner: &mut Inner) -> io::Result<()> {
        let Local { date, time } = local(now());
        let aside = format!(
            "{}.{:04}{:02}{:02}_{:02}{:02}{:02}",
            self.path.display(),
            date.0,
            date.1,
            date.2,
            time.0,
            time.1,
            time.2
        );
        std::fs::rename(&self.path, aside)?;
        inner.file = append(&self.path)?;
        self.remove_old();
        Ok(())
    }

    fn remove_old(&self) {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let prefix = format!("{}.2", name.to_string_lossy());
        let keep = Duration::from_secs(u64::from(self.keep_days) * 86_400);
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten().filter(|_| self.keep_days > 0) {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if entry.file_name().to_string_lossy().starts_with(&prefix) && age.is_some_and(|a| a > keep) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Locked across the write: a full buffer must not grow while it is written.
    fn write_out(&self, inner: &mut Inner) {
        if inner.text.is_empty() {
            return;
        }
        let mut text = std::mem::take(&mut inner.text);
        let empty = inner.file.metadata().is_ok_and(|m| m.len() == 0);
        let header = if empty { self.header() } else { String::new() };
        let written = inner.file.write_all(header.as_bytes()).and_then(|()| inner.file.write_all(text.as_bytes()));
        if let Err(e) = written {
            warn!("cannot write {}: {e}", self.path.display());
        }
        text.clear();
        inner.text = text;
    }

    fn header(&self) -> String {
        let mut line = String::new();
        stamp(&mut line, SystemTime::now());
        let unit = match self.precision {
            Precision::Millis => "ms",
            Precision::Micros => "us",
        };
        line + &format!(" client_ip action filename status time_used_{unit} req_len resp_len\n")
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn stamp(out: &mut String, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let Local { date, time } = local(since.as_secs() as i64);
    let _ = write!(
        out,
        "[{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}]",
        date.0,
        date.1,
        date.2,
        time.0,
        time.1,
        time.2,
        since.subsec_millis()
    );
}

fn now() -> i64 {
    crate::clock::now()
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry<'_> {
        Entry {
            peer: IpAddr::from([10, 78, 0, 1]),
            action: "upload",
            name,
            status: 0,
            began: UNIX_EPOCH + Duration::from_millis(1_795_220_659_098),
            took: Duration::from_micros(1500),
            request: 39,
            response: 70,
        }
    }

    #[test]
    fn lines_look_as_users_know_them() {
        let tmp = tempfile::tempdir().unwrap();
        let log = AccessLog::open(tmp.path(), Precision::Micros, 15).unwrap();
        log.add(&entry("M00/00/00/Ck4AAWsA5LOAZBK3AAAADsOqI6Y334.txt"));
        log.add(&entry(""));
        log.flush();
        let text = std::fs::read_to_string(tmp.path().join("logs/storage_access.log")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].ends_with("] client_ip action filename status time_used_us req_len resp_len"), "{}", lines[0]);
        assert!(
            lines[1].ends_with("19.098] 10.78.0.1 upload M00/00/00/Ck4AAWsA5LOAZBK3AAAADsOqI6Y334.txt 0 1500 39 70"),
            "{}",
            lines[1]
        );
        assert!(lines[2].ends_with(" 10.78.0.1 upload - 0 1500 39 70"));
    }

    #[test]
    fn rotation_begins_with_a_header() {
        let tmp = tempfile::tempdir().unwrap();
        let log = AccessLog::open(tmp.path(), Precision::Millis, 15).unwrap();
        log.add(&entry("a"));
        log.rotate().unwrap();
        log.add(&entry("b"));
        drop(log);
        let text = std::fs::read_to_string(tmp.path().join("logs/storage_access.log")).unwrap();
        assert!(text.lines().next().unwrap().contains("time_used_ms") && text.contains(" b 0 1 "), "{text}");
        assert_eq!(std::fs::read_dir(tmp.path().join("logs")).unwrap().count(), 2);
    }
}
