//! Whether some tracker uses this storage, and waiting for it.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A flag that can be waited for.
#[derive(Debug, Default)]
pub struct Active {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Active {
    /// Says how it is now.
    pub fn set(&self, active: bool) {
        *self.flag.lock() = active;
        self.changed.notify_all();
    }

    /// How it is now.
    pub fn get(&self) -> bool {
        *self.flag.lock()
    }

    /// Blocks until it is so; false if that takes longer than `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut flag = self.flag.lock();
        while !*flag {
            if self.changed.wait_until(&mut flag, deadline).timed_out() {
                return *flag;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn waiting_ends_when_it_is_set() {
        let active = Arc::new(Active::default());
        assert!(!active.wait(Duration::ZERO));
        let other = active.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        active.set(true);
        assert!(waiter.join().unwrap() && active.get());
    }
}
