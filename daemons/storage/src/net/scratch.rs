//! Receive buffers, shared by all connections of a thread.
//!
//! A connection that waits holds no buffer, or what little it has received; so memory follows the requests being
//! worked on and not the connections being open.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};

/// Size of a buffer. Fits into the second-level cache, so that content is still there when it is summed and written.
pub const SIZE: usize = 256 * 1024;

/// Buffers a thread keeps for the next request.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// A borrowed buffer of [`SIZE`] bytes; goes back when it is dropped.
pub struct Scratch(Option<Box<[u8]>>);

impl Scratch {
    /// Takes a buffer of this thread, or makes one.
    pub fn take() -> Scratch {
        LENT.set(LENT.get() + 1);
        let free = FREE.with_borrow_mut(Vec::pop);
        Scratch(Some(free.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())))
    }

    /// Buffers of this thread in use now.
    pub fn lent() -> usize {
        LENT.get()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // At the end of a thread its locals may be gone already; the buffer is then simply freed.
        let _ = LENT.try_with(|lent| lent.set(lent.get().saturating_sub(1)));
        if let Some(buf) = self.0.take() {
            let _ = FREE.try_with(|free| {
                if let Ok(mut free) = free.try_borrow_mut()
                    && free.len() < KEPT
                {
                    free.push(buf);
                }
            });
        }
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let a = Scratch::take();
        let address = a.as_ptr();
        assert_eq!((a.len(), Scratch::lent()), (SIZE, 1));
        drop(a);
        assert_eq!(Scratch::take().as_ptr(), address);
        assert_eq!(Scratch::lent(), 0);
        let many: Vec<_> = (0..2 * KEPT).map(|_| Scratch::take()).collect();
        drop(many);
        assert!(FREE.with_borrow(Vec::len) <= KEPT);
    }
}
