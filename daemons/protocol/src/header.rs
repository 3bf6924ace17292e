//! The frame header: every message, in both directions, is these 10 bytes and a body.

use crate::command::Command;
use crate::status::Status;
use crate::wire::{Encode, WireError};

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 10;

/// What goes before every body (FastDFS 6.16 protocol: i64 length, u8 command, u8 status).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the body that follows; at most `i64::MAX`.
    pub body_len: u64,
    /// The command code; 100 in every response (and see [`overtaken`](Header::overtaken)).
    pub cmd: u8,
    /// Response: the outcome. Request: zero, or flags for the few commands that have some.
    pub status: u8,
}

impl Header {
    /// The header of a request without flags.
    pub fn request(cmd: Command, body_len: u64) -> Header {
        Header { body_len, cmd: cmd.code(), status: 0 }
    }

    /// The header of a successful response.
    pub fn ok(body_len: u64) -> Header {
        Header { body_len, cmd: Command::Response.code(), status: 0 }
    }

    /// A whole response that reports `status`; such a response never has a body.
    pub fn failure(status: Status) -> Header {
        Header { body_len: 0, cmd: Command::Response.code(), status: status.0 }
    }

    /// A whole response to a push that says: what it brings was overtaken here, and is passed over. To storages that only
    /// look at the status it is done.
    pub fn overtaken(status: Status) -> Header {
        Header { body_len: 0, cmd: Command::Overtaken.code(), status: status.0 }
    }

    /// The bytes on the wire. A length above `i64::MAX` cannot be sent and is cut to that.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let length = self.body_len.min(i64::MAX as u64);
        out[..8].copy_from_slice(&length.to_be_bytes());
        out[8] = self.cmd;
        out[9] = self.status;
        out
    }

    /// Reads a header; a negative length is an error, after which the stream cannot be kept in step.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Header, WireError> {
        let [l0, l1, l2, l3, l4, l5, l6, l7, cmd, status] = *bytes;
        let length = i64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let body_len = u64::try_from(length).map_err(|_| WireError::Range { what: "body length", value: length })?;
        Ok(Header { body_len, cmd, status })
    }

    /// The status of a response.
    pub fn outcome(&self) -> Status {
        Status(self.status)
    }
}

/// Appends a whole request: header and body.
pub fn frame<M: Encode + ?Sized>(cmd: Command, message: &M, out: &mut Vec<u8>) {
    frame_with(cmd.code(), 0, message, out);
}

/// Appends a whole request whose status byte carries flags.
pub fn frame_flags<M: Encode + ?Sized>(cmd: Command, flags: u8, message: &M, out: &mut Vec<u8>) {
    frame_with(cmd.code(), flags, message, out);
}

/// Appends the head of a request whose content follows separately: the length in the frame header
/// counts `message` and `content_len` bytes more.
pub fn frame_head<M: Encode + ?Sized>(cmd: Command, message: &M, content_len: u64, out: &mut Vec<u8>) {
    frame_head_flags(cmd, 0, message, content_len, out);
}

/// [`frame_head`] of a request whose status byte carries flags.
pub fn frame_head_flags<M: Encode + ?Sized>(cmd: Command, flags: u8, message: &M, content_len: u64, out: &mut Vec<u8>) {
    let start = out.len();
    frame_with(cmd.code(), flags, message, out);
    let head_len = (out.len() - start - HEADER_LEN) as u64;
    let header = Header { status: flags, ..Header::request(cmd, head_len.saturating_add(content_len)) };
    out[start..start + HEADER_LEN].copy_from_slice(&header.encode());
}

/// Appends a whole successful response: header and body.
pub fn response<M: Encode + ?Sized>(message: &M, out: &mut Vec<u8>) {
    frame_with(Command::Response.code(), 0, message, out);
}

/// Appends a successful response whose body is written by `body`, for messages whose layout
/// depends on more than themselves (the ip size).
pub fn response_with(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&Header::ok(0).encode());
    body(out);
    let header = Header::ok((out.len() - start - HEADER_LEN) as u64);
    out[start..start + HEADER_LEN].copy_from_slice(&header.encode());
}

fn frame_with<M: Encode + ?Sized>(cmd: u8, status: u8, message: &M, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    message.encode(out);
    let header = Header { body_len: (out.len() - start - HEADER_LEN) as u64, cmd, status };
    out[start..start + HEADER_LEN].copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_count_their_body() {
        let mut out = vec![7];
        frame(Command::DeleteFile, b"abc".as_slice(), &mut out);
        assert_eq!(out, [7, 0, 0, 0, 0, 0, 0, 0, 3, 12, 0, b'a', b'b', b'c']);
        out.clear();
        frame_head(Command::UploadFile, b"abc".as_slice(), 100, &mut out);
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 103, 11, 0, b'a', b'b', b'c']);
        out.clear();
        frame_head_flags(Command::UploadFile, 5, b"abc".as_slice(), 100, &mut out);
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 103, 11, 5, b'a', b'b', b'c']);
        out.clear();
        frame_flags(Command::QueryFileInfo, 3, &(), &mut out);
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 0, 22, 3]);
        out.clear();
        response_with(&mut out, |out| out.extend_from_slice(b"xy"));
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 2, 100, 0, b'x', b'y']);
        out.clear();
        response(&(), &mut out);
        assert_eq!(out, Header::ok(0).encode());
    }

    #[test]
    fn a_failure_has_no_body() {
        assert_eq!(Header::failure(Status::ENOENT).encode(), [0, 0, 0, 0, 0, 0, 0, 0, 100, 2]);
        assert_eq!(Header::failure(Status::ENOENT).outcome(), Status::ENOENT);
        assert_eq!(Header::overtaken(Status::EEXIST).encode(), [0, 0, 0, 0, 0, 0, 0, 0, 201, 17]);
    }

    proptest! {
        #[test]
        fn any_ten_bytes(bytes: [u8; 10]) {
            match Header::decode(&bytes) {
                Ok(header) => prop_assert_eq!(header.encode(), bytes),
                Err(_) => prop_assert!(bytes[0] >= 0x80),
            }
        }
    }
}
