//! One client's connection: bytes in, bytes out, bounded memory.

pub mod conn;
pub mod scratch;

pub use conn::{Conn, Gone};
