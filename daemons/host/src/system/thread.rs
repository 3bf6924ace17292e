//! Threads of the operating system.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};

/// A thread that runs one future, on a runtime of its own.
#[derive(Debug)]
#[must_use = "dropped, it runs on and nobody knows how it ends"]
pub struct Thread(std::thread::JoinHandle<()>);

/// The thread has panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread has panicked")]
pub struct Panicked;

/// Starts a thread.
///
/// # Errors
/// When no thread or runtime can be made.
pub fn spawn(name: &str, main: impl Future<Output = ()> + Send + 'static) -> io::Result<Thread> {
    let runtime = runtime()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(main)).map(Thread)
}

impl Thread {
    /// Waits for its end.
    ///
    /// # Errors
    /// [`Panicked`] if it did not end by itself.
    pub fn join(self) -> Result<(), Panicked> {
        self.0.join().map_err(|_| Panicked)
    }
}

/// Waits for a future on this thread, which must be on no runtime.
///
/// # Errors
/// When no runtime can be made.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    Ok(runtime()?.block_on(future))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs a job that may block on another thread.
///
/// # Errors
/// What the job reported, or that it panicked.
pub async fn blocking<T: Send + 'static>(job: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(job).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
