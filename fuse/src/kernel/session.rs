//! A FUSE session: the threads that take requests from a mounted `/dev/fuse` descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Config, SessionACL};

use super::requests::Requests;
use crate::tree::Core;

/// Threads that take requests. Each has its own descriptor, so that they do not share a lock in the kernel.
const THREADS: usize = 2;

/// Called when the session is over.
pub type Ended = Box<dyn FnOnce() + Send>;

/// A running session. It ends when the kernel closes the connection: the mount, all of it, is gone.
pub struct Session {
    thread: JoinHandle<io::Result<()>>,
}

impl Session {
    /// Answers the kernel's greeting on `device` (a `/dev/fuse` descriptor that is mounted already) and starts to serve
    /// `tree`. `allow_other`: for all users, else for the one who runs this process.
    ///
    /// fuser is given no mount of its own: its teardown may unmount what somebody else has mounted there meanwhile.
    pub fn start(tree: Arc<Core>, device: OwnedFd, allow_other: bool, ended: Ended) -> io::Result<Session> {
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
        let session = fuser::Session::from_fd(Requests::new(tree), device, config.acl, config)?;
        let thread = std::thread::Builder::new().name("fdfs-session".to_owned()).spawn(move || {
            let result = session.run();
            ended();
            result
        })?;
        Ok(Session { thread })
    }

    /// Waits for the end.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the FUSE session panicked")))
    }
}
