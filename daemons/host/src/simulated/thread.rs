//! What would be threads: tasks of the simulated host's runtime, with the interface of
//! [the system's](../system/thread.rs).
//!
//! They end when the host is killed, and are not joined: whoever drops a daemon of a simulated host does so because the
//! host is being killed, and must not wait.

use std::future::Future;
use std::io;

/// A task in place of a thread.
#[derive(Debug)]
#[must_use = "dropped, it runs on and nobody knows how it ends"]
pub struct Thread(());

/// The thread has panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread has panicked")]
pub struct Panicked;

/// Starts a task.
///
/// # Errors
/// None; as the system's.
pub fn spawn(_name: &str, main: impl Future<Output = ()> + Send + 'static) -> io::Result<Thread> {
    tokio::spawn(main);
    Ok(Thread(()))
}

impl Thread {
    /// Does not wait.
    ///
    /// # Errors
    /// None; as the system's.
    pub fn join(self) -> Result<(), Panicked> {
        Ok(())
    }
}

/// Not to be had: a simulated host never blocks.
///
/// # Errors
/// Always.
pub fn block_on<T>(_future: impl Future<Output = T>) -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Runs a job right here, in no virtual time.
///
/// # Errors
/// What the job reported.
pub async fn blocking<T: Send + 'static>(job: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    job()
}
