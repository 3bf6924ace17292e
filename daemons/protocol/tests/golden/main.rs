//! The recorded traffic and files of FastDFS 6.16.1, read and written again.

mod client;
mod file_ids;
mod files;
mod messages;
mod server;
mod vectors;
