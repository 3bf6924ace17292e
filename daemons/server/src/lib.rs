//! What the two FastDFS daemons share, and nothing of what they do:
//!
//! - [`link`]: ask another daemon;
//! - [`listen`]: bind, accept, spread connections over worker threads, stop cleanly;
//! - [`allow`]: the `allow_hosts` rules;
//! - [`daemon`]: the `fdfs_xxxd CONFIG [start|stop|restart|status]` command line, pid file and signals;
//! - [`log`]: the log file under `<base_path>/logs`, with rotation;
//! - [`rest`]: wait for the rest of a message.
//!
//! What is asked and answered is not known here: a [`Handler`] gets a connected socket and serves it to its end.

pub mod allow;
pub mod daemon;
pub mod link;
pub mod listen;
pub mod log;
pub mod rest;

pub use allow::AllowHosts;
pub use link::{Dial, Link, LinkError};
pub use listen::{ConnectionCounts, Handler, Listen, Server, StartError};
pub use rest::rest;
