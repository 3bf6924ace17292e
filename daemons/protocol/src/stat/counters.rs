//! The counters of a storage.

use bytes::BufMut;

use crate::wire::{Cursor, Encode, WireError};

/// How often something was tried and how often it succeeded; or bytes, likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Tries.
    pub total: u64,
    /// Successes.
    pub success: u64,
}

/// Network connections of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Connection slots allocated.
    pub alloc: u32,
    /// Connections now.
    pub current: u32,
    /// Most connections at one time.
    pub max: u32,
}

impl Connections {
    pub(crate) fn decode(c: &mut Cursor<'_>) -> Result<Self, WireError> {
        Ok(Connections { alloc: c.u32()?, current: c.u32()?, max: c.u32()? })
    }
}

impl Encode for Connections {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.alloc);
        out.put_u32(self.current);
        out.put_u32(self.max);
    }
}

macro_rules! stat_block {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// The counters of a storage: 348 bytes in its beats and in the list of storages.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct StatBlock {
            /// Network connections.
            pub connections: Connections,
            $($(#[$doc])* pub $name: Counter,)*
            /// When a client last changed something there, unix seconds.
            pub last_source_update: i64,
            /// When another storage last changed something there.
            pub last_sync_update: i64,
            /// Changes up to this time have arrived there; kept by the tracker.
            pub last_synced_timestamp: i64,
            /// When the tracker last heard from it; kept by the tracker.
            pub last_heart_beat_time: i64,
        }

        impl StatBlock {
            /// The counters with the names they have in files, in wire order.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, Counter)> + use<> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            /// The counter with this name.
            pub fn counter_mut(&mut self, name: &str) -> Option<&mut Counter> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }

            pub(super) fn decode_from(c: &mut Cursor<'_>) -> Result<Self, WireError> {
                Ok(StatBlock {
                    connections: Connections::decode(c)?,
                    $($name: Counter { total: c.u64()?, success: c.u64()? },)*
                    last_source_update: c.i64()?,
                    last_sync_update: c.i64()?,
                    last_synced_timestamp: c.i64()?,
                    last_heart_beat_time: c.i64()?,
                })
            }
        }
    };
}

stat_block! {
    /// Uploads.
    upload_count;
    /// Appends.
    append_count;
    /// Modifications.
    modify_count;
    /// Truncations.
    truncate_count;
    /// Changes of metadata.
    set_meta_count;
    /// Removals.
    delete_count;
    /// Downloads.
    download_count;
    /// Reads of metadata.
    get_meta_count;
    /// Links made.
    create_link_count;
    /// Links removed.
    delete_link_count;
    /// Bytes uploaded.
    upload_bytes;
    /// Bytes appended.
    append_bytes;
    /// Bytes modified.
    modify_bytes;
    /// Bytes downloaded.
    download_bytes;
    /// Bytes that other storages sent.
    sync_in_bytes;
    /// Bytes sent to other storages.
    sync_out_bytes;
    /// Files opened.
    file_open_count;
    /// Reads of files.
    file_read_count;
    /// Writes of files.
    file_write_count;
}

impl StatBlock {
    /// Length in bytes.
    pub const LEN: usize = 12 + 42 * 8;

    /// Reads 348 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        StatBlock::decode_from(&mut Cursor::exact("stat block", body, Self::LEN)?)
    }
}

impl Encode for StatBlock {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.connections.encode(out);
        for (_, counter) in self.counters() {
            out.put_u64(counter.total);
            out.put_u64(counter.success);
        }
        out.put_i64(self.last_source_update);
        out.put_i64(self.last_sync_update);
        out.put_i64(self.last_synced_timestamp);
        out.put_i64(self.last_heart_beat_time);
    }
}
