//! fsync before the acknowledgement (`fsync_before_ack = always`), shared by all who wait at the same time.
//!
//! One thread takes everything that has been queued, puts it on stable storage in one go, and answers. What arrives
//! meanwhile is the next batch: the more connections wait, the more each flush of the disk does. Files, the directory
//! entries and the binlog records of a batch are all stable before its first answer.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::binlog::Binlog;
use super::dir::{self, Dir};

/// From this many waiting files of one store path on, one `syncfs` costs less than one flush for each.
const SYNCFS_AT: usize = 8;

/// What one change has touched.
#[derive(Debug)]
pub struct Touched {
    /// Index of the store path.
    pub path: usize,
    /// The file that was written, if any.
    pub file: Option<File>,
    /// The directory whose entries changed, if any.
    pub dir: Option<Arc<OwnedFd>>,
}

struct Job {
    touched: Touched,
    done: oneshot::Sender<io::Result<()>>,
}

/// The thread that makes changes durable.
#[derive(Debug)]
pub struct Syncer {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Syncer {
    /// Starts the thread for these store paths.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(paths: Vec<Arc<Dir>>, binlog: Arc<Binlog>) -> io::Result<Syncer> {
        let (queue, jobs) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("storage-sync".into()).spawn(move || run(&jobs, &paths, &binlog))?;
        Ok(Syncer { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// Returns when the change, and every binlog line written before this call, is on stable storage.
    ///
    /// # Errors
    /// What the system reported; the change may or may not be stable then.
    pub async fn sync(&self, touched: Touched) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let sent = match &*self.queue.lock() {
            Some(queue) => queue.send(Job { touched, done }).is_ok(),
            None => false,
        };
        let stopped = || io::Error::other("the storage is stopping");
        if !sent {
            return Err(stopped());
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Ends the thread after what is queued.
    pub fn stop(&self) {
        drop(self.queue.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(jobs: &mpsc::Receiver<Job>, paths: &[Arc<Dir>], binlog: &Binlog) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        batch.extend(jobs.try_iter());
        let results = flush(&batch, paths, binlog);
        for (job, result) in batch.into_iter().zip(results) {
            let _ = job.done.send(result);
        }
    }
}

/// The result for each job of a batch.
fn flush(batch: &[Job], paths: &[Arc<Dir>], binlog: &Binlog) -> Vec<io::Result<()>> {
    let mut count = vec![0usize; paths.len()];
    for job in batch {
        if let Some(n) = count.get_mut(job.touched.path) {
            *n += 1;
        }
    }
    let whole: Vec<Option<Result<(), i32>>> = paths
        .iter()
        .zip(&count)
        .map(|(dir, &n)| (n >= SYNCFS_AT).then(|| dir.sync_fs().map_err(|e| errno(&e))))
        .collect();
    let mut dirs: HashMap<i32, Result<(), i32>> = HashMap::new();
    let one = |touched: &Touched, dirs: &mut HashMap<i32, Result<(), i32>>| -> Result<(), i32> {
        if let Some(Some(result)) = whole.get(touched.path) {
            return *result;
        }
        if let Some(file) = &touched.file {
            file.sync_data().map_err(|e| errno(&e))?;
        }
        if let Some(dir) = &touched.dir {
            let sync = || dir::sync_dir(dir.as_fd()).map_err(|e| errno(&e));
            return *dirs.entry(dir.as_raw_fd()).or_insert_with(sync);
        }
        Ok(())
    };
    let done: Vec<Result<(), i32>> = batch.iter().map(|job| one(&job.touched, &mut dirs)).collect();
    let log = binlog.sync().map_err(|e| errno(&e));
    done.into_iter().map(|d| d.and(log).map_err(io::Error::from_raw_os_error)).collect()
}

fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::dir::RelPath;

    #[test]
    fn many_wait_and_all_are_answered() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open(tmp.path()).unwrap());
        let log = Arc::new(Binlog::open(tmp.path()).unwrap());
        let syncer = Arc::new(Syncer::start(vec![dir.clone()], log).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for i in 0..50 {
                let (syncer, dir) = (syncer.clone(), dir.clone());
                tasks.spawn(async move {
                    let file = dir.create_new(&RelPath::new(format!("f{i}").as_bytes()).unwrap()).unwrap();
                    syncer.sync(Touched { path: 0, file: Some(file), dir: None }).await
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap().unwrap();
            }
            let leaf = Arc::new(OwnedFd::from(File::open(tmp.path()).unwrap()));
            syncer.sync(Touched { path: 0, file: None, dir: Some(leaf) }).await.unwrap();
            syncer.stop();
            assert!(syncer.sync(Touched { path: 0, file: None, dir: None }).await.is_err());
        });
    }
}
