//! The kernel's side: FUSE requests translated to calls of the [tree](crate::tree), and its answers to replies.
//!
//! The only module that knows fuser's types; nothing is decided here. What cannot be answered from memory is answered
//! later, from a thread of the store or the index, so the session threads never wait for the network.
//!
//! This process is the only writer of what it mounts, so the kernel may keep entries (absent ones too), attributes and
//! pages until it drops them itself: nothing changes behind its back, and nothing has to be invalidated. But when stored
//! content turned out damaged after some of it was read, the next open makes the kernel drop the pages of that file.

mod convert;
mod replies;
mod requests;
mod session;

pub use session::{Ended, Session};
