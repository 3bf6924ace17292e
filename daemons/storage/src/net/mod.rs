//! One connection: bytes in, bytes out, bounded memory.

pub mod conn;
pub mod scratch;
pub mod send;

pub use conn::{Conn, Gone};
pub use send::SendError;
