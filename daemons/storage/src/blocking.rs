//! Work that may wait for a disk for long, on threads that may wait.

use std::io;

use tokio::sync::Semaphore;

/// Jobs at one time, in the whole process: more do not make disks faster, and each may need a thread.
const JOBS: usize = 64;

static PERMITS: Semaphore = Semaphore::const_new(JOBS);

/// Runs `job` on another thread, when it is its turn.
///
/// # Errors
/// What the job reported.
pub async fn run<T: Send + 'static>(job: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // Nobody closes the semaphore; if somebody did, running without a permit is better than not running.
    let _permit = PERMITS.acquire().await.ok();
    fdfs_host::thread::blocking(job).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_and_errors_come_back() {
        assert_eq!(run(|| Ok(7)).await.unwrap(), 7);
        assert_eq!(
            run(|| Err::<(), _>(io::ErrorKind::NotFound.into())).await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(run::<()>(|| panic!("as a broken job would")).await.is_err());
    }
}
