//! The status byte: zero or a Linux errno value.

use std::fmt;
use std::io;

/// The outcome of a request as it travels in a response header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(
    /// Zero, or a Linux errno value.
    pub u8,
);

macro_rules! statuses {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl Status {
            $(#[doc = concat!("`", stringify!($name), "`: ", $text, ".")]
            pub const $name: Status = Status($code);)*

            /// The symbolic name, for the values the protocol uses.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    0 => Some("OK"),
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            fn text(self) -> Option<&'static str> {
                match self.0 {
                    0 => Some("success"),
                    $($code => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file, group or storage";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "too long";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "resource temporarily unavailable";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "resource busy";
    EEXIST = 17, "already exists";
    EXDEV = 18, "different file systems";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in the system";
    EMFILE = 24, "too many open files";
    ETXTBSY = 26, "file in use";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left";
    ESPIPE = 29, "illegal seek";
    EROFS = 30, "read-only file system";
    EMLINK = 31, "too many links";
    EPIPE = 32, "broken pipe";
    EDOM = 33, "out of domain";
    ENAMETOOLONG = 36, "name too long";
    ENOSYS = 38, "function not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many levels of links";
    ENODATA = 61, "no data available";
    ENONET = 64, "storage is not active";
    EOVERFLOW = 75, "value too large";
    EOPNOTSUPP = 95, "not supported by this server or its settings";
    EADDRINUSE = 98, "address in use";
    EADDRNOTAVAIL = 99, "address not available";
    ENETUNREACH = 101, "network unreachable";
    ECONNABORTED = 103, "connection aborted";
    ECONNRESET = 104, "connection reset by peer";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "timed out";
    ECONNREFUSED = 111, "connection refused";
    EHOSTUNREACH = 113, "no route to host";
    EALREADY = 114, "already done";
    EINPROGRESS = 115, "in progress";
    ESTALE = 116, "stale file handle";
    EDQUOT = 122, "quota exceeded";
    ECANCELED = 125, "canceled";
}

impl Status {
    /// Success.
    pub const OK: Status = Status(0);

    /// Whether this is success.
    pub fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// The errno value, zero for success.
    pub fn to_errno(self) -> i32 {
        i32::from(self.0)
    }

    /// The status that carries an errno value; a value that does not fit into the byte is `EIO`.
    pub fn from_errno(errno: i32) -> Status {
        match u8::try_from(errno) {
            Ok(value) => Status(value),
            Err(_) => Status::EIO,
        }
    }
}

impl From<&io::Error> for Status {
    /// The errno of the operating system where there is one, else the nearest for the kind.
    fn from(error: &io::Error) -> Status {
        if let Some(errno) = error.raw_os_error()
            && errno > 0
        {
            return Status::from_errno(errno);
        }
        match error.kind() {
            io::ErrorKind::NotFound => Status::ENOENT,
            io::ErrorKind::PermissionDenied => Status::EACCES,
            io::ErrorKind::AlreadyExists => Status::EEXIST,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Status::EINVAL,
            io::ErrorKind::TimedOut => Status::ETIMEDOUT,
            io::ErrorKind::ConnectionRefused => Status::ECONNREFUSED,
            io::ErrorKind::ConnectionReset => Status::ECONNRESET,
            io::ErrorKind::ConnectionAborted => Status::ECONNABORTED,
            io::ErrorKind::NotConnected => Status::ENOTCONN,
            io::ErrorKind::BrokenPipe => Status::EPIPE,
            io::ErrorKind::WouldBlock => Status::EAGAIN,
            io::ErrorKind::StorageFull => Status::ENOSPC,
            io::ErrorKind::QuotaExceeded => Status::EDQUOT,
            io::ErrorKind::OutOfMemory => Status::ENOMEM,
            io::ErrorKind::Interrupted => Status::EINTR,
            io::ErrorKind::Unsupported => Status::EOPNOTSUPP,
            io::ErrorKind::IsADirectory => Status::EISDIR,
            io::ErrorKind::NotADirectory => Status::ENOTDIR,
            io::ErrorKind::ReadOnlyFilesystem => Status::EROFS,
            _ => Status::EIO,
        }
    }
}

impl From<io::Error> for Status {
    fn from(error: io::Error) -> Status {
        Status::from(&error)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(text),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "Status({name})"),
            None => write!(f, "Status({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_keep_their_number() {
        assert_eq!(Status::from(io::Error::from_raw_os_error(28)), Status::ENOSPC);
        assert_eq!(Status::from(io::Error::from(io::ErrorKind::NotFound)), Status::ENOENT);
        assert_eq!(Status::from(io::Error::other("x")), Status::EIO);
        assert_eq!(Status::from_errno(5000), Status::EIO);
        assert_eq!(Status::from_errno(-1), Status::EIO);
    }

    #[test]
    fn kinds_without_a_number() {
        use io::ErrorKind as Kind;
        for (kind, status) in [
            (Kind::PermissionDenied, Status::EACCES),
            (Kind::AlreadyExists, Status::EEXIST),
            (Kind::InvalidData, Status::EINVAL),
            (Kind::TimedOut, Status::ETIMEDOUT),
            (Kind::ConnectionRefused, Status::ECONNREFUSED),
            (Kind::ConnectionReset, Status::ECONNRESET),
            (Kind::StorageFull, Status::ENOSPC),
            (Kind::UnexpectedEof, Status::EIO),
        ] {
            assert_eq!(Status::from(io::Error::from(kind)), status);
        }
    }

    #[test]
    fn shown_for_people() {
        assert_eq!(Status::OK.to_string(), "success");
        assert_eq!(Status::ENOSPC.to_string(), "no space left");
        assert_eq!(Status(200).to_string(), "error 200");
        assert_eq!(format!("{:?} {:?}", Status::EIO, Status(200)), "Status(EIO) Status(200)");
        assert!(Status::OK.is_ok() && !Status::EIO.is_ok());
        assert_eq!(Status::EIO.to_errno(), 5);
    }
}
