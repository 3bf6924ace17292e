//! Small per-thread things: a number for sharding, and random bits for names.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    // The standard library seeds its hasher from the system's randomness, for each thread anew.
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
}

/// A small number that is this thread's own; threads that live at the same time mostly have different ones modulo
/// the number of cores.
pub fn number() -> usize {
    NUMBER.with(|n| *n)
}

/// 64 bits that are different each time (SplitMix64): names must not collide, nothing is kept secret by them.
pub fn random() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(next);
        let mut z = next;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ() {
        let mut seen: Vec<u64> = (0..1000).map(|_| random()).collect();
        seen.extend(std::thread::spawn(|| (0..1000).map(|_| random()).collect::<Vec<_>>()).join().unwrap());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2000);
    }
}
