//! A file that is being received: it gets its name when it is complete, and leaves nothing behind otherwise.
//!
//! Where the file system can, the file has no name at all until then, so that not even a crash leaves a piece of it.
//! Elsewhere it has a temporary name in the directory it will stay in.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::dir::{self, RelPath};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file without its final name. Dropping it removes it.
#[derive(Debug)]
pub struct Incoming {
    file: File,
    place: Place,
}

/// Where the file will be, and its temporary name there, if it needs one. Dropping this removes that name.
#[derive(Debug)]
struct Place {
    dir: Arc<OwnedFd>,
    tmp: Option<RelPath>,
}

impl Incoming {
    /// Begins a file in `dir`.
    ///
    /// # Errors
    /// What the system reported.
    pub fn begin(dir: &Arc<OwnedFd>) -> io::Result<Incoming> {
        match dir::create_unnamed_at(dir.as_fd()) {
            Ok(file) => Ok(Incoming { file, place: Place { dir: dir.clone(), tmp: None } }),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
                Incoming::begin_named(dir)
            }
            Err(e) => Err(e),
        }
    }

    fn begin_named(dir: &Arc<OwnedFd>) -> io::Result<Incoming> {
        loop {
            let tmp = temporary()?;
            match dir::create_new_at(dir.as_fd(), &tmp) {
                Ok(file) => return Ok(Incoming { file, place: Place { dir: dir.clone(), tmp: Some(tmp) } }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The file, for writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file itself, once it has its name.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Gives the file its name in its directory. On an error the file stays unnamed and another name may be tried.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken; what else the system reported.
    pub fn publish(&mut self, name: &RelPath) -> io::Result<()> {
        let dir = self.place.dir.as_fd();
        match &self.place.tmp {
            None => self.link(name),
            Some(tmp) => {
                // A hard link fails when the name is taken, unlike a rename.
                dir::hard_link_at(dir, tmp, name)?;
                let _ = dir::unlink_at(dir, tmp);
                self.place.tmp = None;
                Ok(())
            }
        }
    }
}

impl Incoming {
    /// [`publish`](Incoming::publish), in place of what has the name now: readers find the old file or this one.
    ///
    /// # Errors
    /// What the system reported; the old file stays then.
    pub fn replace(&mut self, name: &RelPath) -> io::Result<()> {
        let tmp = match self.place.tmp {
            Some(tmp) => tmp,
            None => {
                let tmp = loop {
                    let tmp = temporary()?;
                    match self.link(&tmp) {
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                        other => break other.map(|()| tmp),
                    }
                }?;
                self.place.tmp = Some(tmp);
                tmp
            }
        };
        dir::rename_at(self.place.dir.as_fd(), &tmp, name)?;
        self.place.tmp = None;
        Ok(())
    }

    fn link(&self, name: &RelPath) -> io::Result<()> {
        dir::link_unnamed_at(&self.file, self.place.dir.as_fd(), name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => io::Error::new(
                io::ErrorKind::Unsupported,
                "cannot name a received file: /proc is not mounted, and this kernel needs it",
            ),
            _ => e,
        })
    }
}

/// A name no other file of this process has; one that exists was left behind by an earlier process with this id.
fn temporary() -> io::Result<RelPath> {
    let name = format!(".up{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    RelPath::new(name.as_bytes()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(tmp) = &self.tmp {
            let _ = dir::unlink_at(self.dir.as_fd(), tmp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn rel(s: &str) -> RelPath {
        RelPath::new(s.as_bytes()).unwrap()
    }

    fn both(check: impl Fn(fn(&Arc<OwnedFd>) -> io::Result<Incoming>)) {
        check(Incoming::begin);
        check(Incoming::begin_named);
    }

    #[test]
    fn published_or_nothing() {
        both(|begin| {
            let tmp = tempfile::tempdir().unwrap();
            let dir = Arc::new(OwnedFd::from(File::open(tmp.path()).unwrap()));
            let mut a = begin(&dir).unwrap();
            a.file().write_all(b"content").unwrap();
            a.publish(&rel("done")).unwrap();
            drop(a);
            let mut b = begin(&dir).unwrap();
            assert_eq!(b.publish(&rel("done")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
            drop(b);
            drop(begin(&dir).unwrap());
            let mut c = begin(&dir).unwrap();
            c.file().write_all(b"other").unwrap();
            assert!(c.replace(&rel("no/such")).is_err());
            c.replace(&rel("done")).unwrap();
            drop(c);
            let names: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["done"]);
            assert_eq!(std::fs::read(tmp.path().join("done")).unwrap(), b"other");
        });
    }
}
