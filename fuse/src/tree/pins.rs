//! Which stored contents are being read although nothing may refer to them any more.
//!
//! Invariant: while a [`Pin`] on a file ID lives, the collector does not delete it from the cluster. So a reader, or a
//! stage that still shows parts of its base, outlives the replacement of that content.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

/// The registry of pins.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    counts: Mutex<HashMap<Arc<str>, usize>>,
}

impl Pins {
    /// Protects `file_id` from deletion until the pin drops.
    pub(crate) fn pin(self: &Arc<Self>, file_id: &Arc<str>) -> Pin {
        *self.counts.lock().entry(file_id.clone()).or_insert(0) += 1;
        Pin { pins: self.clone(), file_id: file_id.clone() }
    }

    /// Whether somebody still reads `file_id`.
    pub(crate) fn holds(&self, file_id: &str) -> bool {
        self.counts.lock().contains_key(file_id)
    }
}

/// Keeps one file ID from being deleted. See [`Pins`].
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Arc<Pins>,
    file_id: Arc<str>,
}

impl Pin {
    /// What it protects.
    pub(crate) fn file_id(&self) -> &str {
        &self.file_id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.pins.counts.lock().entry(self.file_id.clone()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_until_the_last_one_drops() {
        let pins = Arc::new(Pins::default());
        let id: Arc<str> = "group1/M00/00/00/x".into();
        let first = pins.pin(&id);
        let second = pins.pin(&id);
        drop(first);
        assert!(pins.holds(&id));
        drop(second);
        assert!(!pins.holds(&id));
    }
}
