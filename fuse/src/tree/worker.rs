//! Background work as named threads that can be asked how they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How a background worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its name, which is also that of its thread.
    pub name: &'static str,
    /// Items it has dealt with.
    pub done: u64,
    /// Items that failed, each attempt counted.
    pub failed: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// What a worker and its owner share.
pub(crate) struct Control {
    name: &'static str,
    state: Mutex<Wake>,
    changed: Condvar,
    done: AtomicU64,
    failed: AtomicU64,
    last_error: Mutex<Option<String>>,
}

#[derive(Default)]
struct Wake {
    stop: bool,
    woken: bool,
}

impl Control {
    /// Makes the worker look for work.
    pub(crate) fn wake(&self) {
        self.state.lock().woken = true;
        self.changed.notify_one();
    }

    /// Waits until woken or for as long as given (`None`: until woken). False: it is time to end.
    pub(crate) fn wait(&self, most: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        let woken = |state: &mut Wake| !state.stop && !state.woken;
        match most {
            Some(most) => drop(self.changed.wait_while_for(&mut state, woken, most)),
            None => self.changed.wait_while(&mut state, woken),
        }
        state.woken = false;
        !state.stop
    }

    /// Whether it is time to end.
    pub(crate) fn stopping(&self) -> bool {
        self.state.lock().stop
    }

    pub(crate) fn count_done(&self, n: usize) {
        self.done.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Notes a failure, and logs it when it is another than the last: an outage is one line, not one per attempt.
    pub(crate) fn count_failed(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_error.lock();
        if last.as_ref() != Some(&error) {
            tracing::warn!(worker = self.name, "{error}");
            *last = Some(error);
        }
    }
}

/// A running worker. It must be [stopped](Worker::stop).
pub(crate) struct Worker {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `run` on a thread of that name.
    pub(crate) fn start(name: &'static str, run: impl FnOnce(Arc<Control>) + Send + 'static) -> Worker {
        let control = Arc::new(Control {
            name,
            state: Mutex::default(),
            changed: Condvar::new(),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_error: Mutex::new(None),
        });
        let theirs = control.clone();
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(theirs));
        if let Err(error) = &spawned {
            control.count_failed(format!("cannot start: {error}"));
        }
        Worker { control, thread: spawned.ok() }
    }

    pub(crate) fn status(&self) -> WorkerStatus {
        WorkerStatus {
            name: self.control.name,
            done: self.control.done.load(Ordering::Relaxed),
            failed: self.control.failed.load(Ordering::Relaxed),
            last_error: self.control.last_error.lock().clone(),
        }
    }

    /// Ends it, after what it is doing at the moment.
    pub(crate) fn stop(mut self) {
        self.signal_and_join();
    }

    fn signal_and_join(&mut self) {
        self.control.state.lock().stop = true;
        self.control.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(worker = self.control.name, "ended by a panic");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.signal_and_join();
    }
}
