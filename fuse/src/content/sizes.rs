//! At what sizes things are done differently. Tests use small ones, to get to every case with little data.

/// See [`Sizes::default`] for the reasons.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Contents up to this size are staged in memory, and fetched as a whole.
    pub(crate) small: u64,
    /// Before this much is written in sequence, nothing is hashed or streamed ahead …
    pub(crate) ahead_from: u64,
    /// … then in steps of at least this much …
    pub(crate) ahead_step: u64,
    /// … and at most this much.
    pub(crate) ahead_most: u64,
    /// A layer up to this size is merged into the file below it under the lock of the stage.
    pub(crate) merge: u64,
    /// Length of the buffers for what is read ahead.
    pub(crate) chunk: u64,
    /// Length of the parts of large contents that have a checksum of their own.
    pub(crate) part: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            // One FUSE request, and about where the cost of a file is no longer that of its requests.
            small: 1 << 20,
            // Most files end before this, and an upload in one request is cheaper than a streamed one.
            ahead_from: 8 << 20,
            // A request for each step: enough to make its cost disappear.
            ahead_step: 4 << 20,
            // A seal waits for the step under way.
            ahead_most: 32 << 20,
            // About a millisecond of copying.
            merge: 4 << 20,
            // As the largest FUSE request, so that most reads lie within one buffer.
            chunk: 1 << 20,
            // The first read of a content waits for as much; see the first chunks of a stream.
            part: 128 << 10,
        }
    }
}
