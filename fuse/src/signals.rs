//! Waiting for the end: a signal, or the session's own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::mountinfo;

/// Signals as a descriptor. Made before any thread is started, so that every thread has them blocked.
pub struct Signals {
    descriptor: File,
}

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGQUIT; SIGHUP too in the foreground, where it means that the terminal is gone.
    pub fn take(foreground: bool) -> io::Result<Signals> {
        // SAFETY: the set is initialised by sigemptyset before it is used; signalfd returns a descriptor that is ours.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
                libc::sigaddset(&mut set, signal);
            }
            if foreground {
                libc::sigaddset(&mut set, libc::SIGHUP);
            } else {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let descriptor = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Signals { descriptor: File::from_raw_fd(descriptor) })
        }
    }

    /// The number of a signal that has arrived.
    fn arrived(&mut self) -> Option<u32> {
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        self.descriptor.read_exact(&mut record).ok()?;
        Some(u32::from_ne_bytes([record[0], record[1], record[2], record[3]]))
    }
}

/// A latch that poll(2) can wait for: set once, from any thread.
#[derive(Clone)]
pub struct Latch(Arc<OwnedFd>);

impl Latch {
    /// One that is not set.
    pub fn new() -> io::Result<Latch> {
        // SAFETY: returns a descriptor that is ours, or an error.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        Ok(Latch(Arc::new(unsafe { OwnedFd::from_raw_fd(descriptor) })))
    }

    /// Sets it.
    pub fn set(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes the eight bytes that an eventfd takes. It cannot fail short of 2^64 calls.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// This signal has arrived.
    Signal(u32),
    /// The session has ended.
    Ended,
    /// The mount table has changed.
    Mounts,
    /// Nothing, for as long as the caller was willing to wait.
    Timeout,
}

/// Waits for the next event.
pub struct Events {
    signals: Signals,
    ended: Latch,
    mounts: File,
}

impl Events {
    /// Of these sources.
    pub fn new(signals: Signals, ended: Latch) -> io::Result<Events> {
        Ok(Events { signals, ended, mounts: File::open(mountinfo::PATH)? })
    }

    /// Waits for the next event, until `deadline` if there is one.
    pub fn next(&mut self, deadline: Option<Instant>) -> io::Result<Event> {
        loop {
            let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
            let mut entries = [
                entry(self.ended.0.as_raw_fd(), libc::POLLIN),
                entry(self.signals.descriptor.as_raw_fd(), libc::POLLIN),
                entry(self.mounts.as_raw_fd(), libc::POLLPRI),
            ];
            let timeout = deadline.map_or(-1, |deadline| {
                let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
            });
            // SAFETY: the array is valid for the call, with its true length.
            let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout) };
            if ready < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            if entries[0].revents != 0 {
                return Ok(Event::Ended);
            }
            if entries[1].revents != 0
                && let Some(signal) = self.signals.arrived()
            {
                return Ok(Event::Signal(signal));
            }
            // A change shows as an error condition, together with POLLPRI.
            if entries[2].revents != 0 {
                return Ok(Event::Mounts);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(Event::Timeout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_wakes_from_another_thread() {
        let latch = Latch::new().unwrap();
        let mut entries = [libc::pollfd { fd: latch.0.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // SAFETY: one valid entry.
        assert_eq!(unsafe { libc::poll(entries.as_mut_ptr(), 1, 0) }, 0);
        let theirs = latch.clone();
        std::thread::spawn(move || theirs.set()).join().unwrap();
        // SAFETY: one valid entry.
        assert_eq!(unsafe { libc::poll(entries.as_mut_ptr(), 1, -1) }, 1);
    }
}
