//! An asynchronous client of FastDFS clusters.
//!
//! ```no_run
//! use fdfs_client::{Bytes, Client, ClientConfig, ExtName};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(ClientConfig::new(["10.0.0.1:22122".parse()?]));
//!
//! let id = client.upload_buf(&[Bytes::from_static(b"hello\n")], &ExtName::new("txt")?).await?;
//! println!("{id}"); // group1/M00/00/00/Ck0AAW....txt
//! let content = client.download_buf(&id, 0, 0).await?;
//! assert_eq!(&content[..], b"hello\n");
//! client.delete(&id).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Nothing hangs.** Making a connection is bounded by [`connect_timeout`](ClientConfig::connect_timeout), every step of
//!   a request by [`network_timeout`](ClientConfig::network_timeout), the number of servers tried by a small constant.
//! - **Nobody waits for a server that is gone while there is another.** A tracker or storage that is silent for
//!   [`failover_after`](ClientConfig::failover_after) is overtaken by the next one for reads and questions. For uploads, for
//!   a checksum that takes the reading of a whole file, and when three storages are at work on one read, it is probed, and
//!   left if it does not answer that. With nobody else to ask, the timeouts above count.
//! - **Dead servers are avoided** until a small probe of their own is answered: after 1 s, then longer, at most 30 s apart.
//! - **Uploads** fail over to other storages and groups; **reads** to the other members of
//!   the group, also in the middle of a download. "Not found" means that every member that could have the file said so.
//! - **Changes** (append, modify, delete, …) are never made twice. If a connection breaks after some of the request was
//!   sent, the error says that the outcome is not known ([`Error::outcome_unknown`]).
//! - **Lengths from the network** are checked before memory is reserved; a server cannot make the client allocate more than was
//!   asked for.
//!
//! # What it costs
//!
//! Connections are kept and checked before use. What trackers answer is kept for 5 s, so an upload or a download on a warm
//! client is one request to a storage. A small upload is one vectored write and one read; content in files is sent with
//! `sendfile(2)`; downloads are received straight into the caller's buffers.
//!
//! # Where things are
//!
//! | module | what it decides |
//! |---|---|
//! | `client`, `config`, `address`, `error` | what the caller sees |
//! | `upload`, `change`, `read`, `download` | the operations, and where each fails over to |
//! | `trackers`, `resolve` | questions to trackers, and where they are |
//! | `exchange` | one request to one server; what may be repeated |
//! | `race` | the same request to several servers, when the first is silent |
//! | `watch` | whether a silent server is slow or gone |
//! | `pool`, `connection`, `content` | connections, and moving bytes |
//! | `routes`, `members`, `avoid`, `patience` | pure state: cached answers, who may have a file, servers to avoid, time left |

mod address;
mod avoid;
mod change;
mod client;
mod config;
mod connection;
mod content;
mod download;
mod error;
mod exchange;
mod members;
mod patience;
mod pool;
mod race;
mod read;
mod resolve;
mod routes;
mod trackers;
mod upload;
mod watch;

pub use address::{AddressError, DEFAULT_STORAGE_PORT, DEFAULT_TRACKER_PORT, ServerAddress};
pub use client::Client;
pub use config::ClientConfig;
pub use content::Content;
pub use download::Download;
pub use error::{Error, Role, Server};
pub use read::Copies;
pub use routes::StoreTarget;
pub use trackers::Tracker;

pub use bytes::Bytes;
pub use fdfs_protocol::config::ConfigError;
pub use fdfs_protocol::metadata::Metadata;
pub use fdfs_protocol::storage::{FileInfo, FileInfoFlags, MetadataMode};
pub use fdfs_protocol::{ExtName, FileId, GroupName, Prefix, StorageId};
