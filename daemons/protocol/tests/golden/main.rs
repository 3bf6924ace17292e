//! The recorded traffic and files of FastDFS 6.16.1, read and written again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

mod client;
mod file_ids;
mod files;
mod messages;
mod server;
mod vectors;
