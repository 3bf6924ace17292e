//! Memory for what is read ahead.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which the budget is counted.
const UNIT: usize = 64 << 10;

/// Buffers under one budget, shared by all readers.
pub(crate) struct Buffers {
    budget: Arc<Semaphore>,
    /// Buffers of the full length, kept to spare the kernel from clearing pages again and again.
    idle: Mutex<Vec<Vec<u8>>>,
    most_idle: usize,
    /// Length of the buffers that are used again and again.
    chunk: usize,
}

/// Leave to use some memory of the budget.
pub(crate) struct Grant(Option<OwnedSemaphorePermit>);

/// Some bytes of memory, given back when dropped.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
    _grant: Grant,
}

impl Buffers {
    pub(crate) fn new(memory: usize, chunk: usize) -> Arc<Buffers> {
        let budget = Arc::new(Semaphore::new((memory / UNIT).min(Semaphore::MAX_PERMITS)));
        Arc::new(Buffers { budget, idle: Mutex::default(), most_idle: memory / chunk / 2, chunk })
    }

    /// Leave for `len` bytes, if the budget has room.
    pub(crate) fn grant(self: &Arc<Self>, len: u64) -> Option<Grant> {
        let units = u32::try_from(len.div_ceil(UNIT as u64)).ok()?;
        self.budget.clone().try_acquire_many_owned(units).ok().map(|permit| Grant(Some(permit)))
    }

    /// A buffer of `len` bytes of any value, under a grant.
    pub(crate) fn take(self: &Arc<Self>, len: usize, grant: &mut Grant) -> Buffer {
        let part = grant.0.as_mut().and_then(|permit| permit.split(len.div_ceil(UNIT)));
        let bytes = if len == self.chunk { self.idle.lock().pop() } else { None };
        Buffer { bytes: bytes.unwrap_or_else(|| vec![0; len]), home: self.clone(), _grant: Grant(part) }
    }
}

impl Grant {
    /// Leave for what somebody waits for: a read must not wait for the memory of other readers.
    pub(crate) fn forced() -> Grant {
        Grant(None)
    }
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == self.home.chunk {
            let mut idle = self.home.idle.lock();
            if idle.len() < self.home.most_idle {
                idle.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 1 << 20;

    #[test]
    fn the_budget_counts_what_is_in_use() {
        let buffers = Buffers::new(4 * CHUNK, CHUNK);
        let mut grant = buffers.grant(3 * CHUNK as u64).unwrap();
        assert!(buffers.grant(2 * CHUNK as u64).is_none());
        let a = buffers.take(CHUNK, &mut grant);
        let b = buffers.take(100, &mut grant);
        drop(grant);
        // In use: one chunk and one unit.
        assert!(buffers.grant(3 * CHUNK as u64).is_none());
        drop(b);
        let held = buffers.grant(3 * CHUNK as u64);
        assert!(held.is_some());
        drop(a);
        assert_eq!(buffers.idle.lock().len(), 1);
        assert_eq!(buffers.take(CHUNK, &mut Grant::forced()).bytes().len(), CHUNK);
    }
}
