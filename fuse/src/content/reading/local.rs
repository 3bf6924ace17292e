//! Reads of content that lies in a local file.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::content::{ContentError, Object, ReadDone};

thread_local! {
    /// A buffer for the reads of this thread. Taken out while in use, so a read within a read gets another.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The longest read that uses the buffer of the thread.
const KEPT: usize = 1 << 20;

/// Reads on this thread what the page cache has, and otherwise on a thread that may wait for the disk.
pub(crate) fn read(
    runtime: &tokio::runtime::Handle,
    file: &Arc<File>,
    object: &Object,
    range: Range<u64>,
    done: ReadDone,
) {
    let len = (range.end - range.start) as usize;
    let mut buf = BUFFER.take();
    if buf.len() < len {
        buf.resize(len, 0);
    }
    if read_cached(file, &mut buf[..len], range.start) {
        done(Ok(&buf[..len]));
        if buf.len() <= KEPT {
            BUFFER.set(buf);
        }
        return;
    }
    let (file, object) = (file.clone(), object.clone());
    runtime.spawn_blocking(move || match file.read_exact_at(&mut buf[..len], range.start) {
        Ok(()) => done(Ok(&buf[..len])),
        Err(error) => done(Err(ContentError::Local {
            path: format!("cached {}", object.file_id).into(),
            source: Arc::new(error),
        })),
    });
}

/// Fills `buf` if that needs no disk.
pub(crate) fn read_cached(file: &File, buf: &mut [u8], offset: u64) -> bool {
    let Ok(mut at) = libc::off_t::try_from(offset) else { return false };
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        let part = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        // SAFETY: `part` describes `rest`, which is borrowed exclusively for the call and as long as it says; the
        // descriptor is open while `file` lives.
        let n = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, at, libc::RWF_NOWAIT) };
        match n {
            1.. => {
                done += n as usize;
                at += n as libc::off_t;
            }
            // Interrupted; everything else (also: the end of the file) is left to the waiting read to tell.
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_reports_short_files() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"hello world").unwrap();
        let file = Arc::new(File::open(dir.path().join("f")).unwrap());
        let object = Object { file_id: "group1/M00/00/00/x".into(), size: 20, fingerprint: None };
        let get = |range: Range<u64>| {
            let (send, receive) = std::sync::mpsc::channel();
            let done = move |r: Result<&[u8], ContentError>| send.send(r.map(<[u8]>::to_vec)).unwrap();
            read(runtime.handle(), &file, &object, range, Box::new(done));
            receive.recv().unwrap()
        };
        assert_eq!(get(6..11).unwrap(), b"world");
        assert!(get(6..20).is_err());
        assert_eq!(get(0..5).unwrap(), b"hello");
    }
}
