//! What can go wrong, in terms a caller can act on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use fdfs_protocol::{Command, GroupName, Status};

/// What kind of server an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A tracker: knows which storages there are.
    Tracker,
    /// A storage: holds files.
    Storage,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Tracker => "tracker",
            Role::Storage => "storage",
        })
    }
}

/// A server of the cluster, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Server {
    /// What it is.
    pub role: Role,
    /// Where it is.
    pub addr: SocketAddr,
}

impl Server {
    pub(crate) fn tracker(addr: SocketAddr) -> Self {
        Self { role: Role::Tracker, addr }
    }

    pub(crate) fn storage(addr: SocketAddr) -> Self {
        Self { role: Role::Storage, addr }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.addr)
    }
}

/// Why an operation failed.
///
/// Fail-over has been tried before a caller sees one of these: the error is that of the last server
/// that failed. [`Error::to_errno`] gives the nearest errno, [`Error::outcome_unknown`] says whether a
/// change may have been made although no answer came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not exist, or (for metadata) has none. Of a reading: no storage that should have it does; of a change:
    /// the storage that takes it does not have the file.
    #[error("{}: {server} has no file {file}", verb(*.command))]
    NotFound {
        /// What was asked.
        command: Command,
        /// Who said so.
        server: Server,
        /// The file ID.
        file: Box<str>,
    },
    /// The slave file exists already.
    #[error("{}: {server} has that slave of {file} already; delete it first, or use another prefix", verb(*.command))]
    Exists {
        /// What was asked.
        command: Command,
        /// Who said so.
        server: Server,
        /// The file ID of the master.
        file: Box<str>,
    },
    /// No disk with free space above the reserve.
    #[error(
        "{}: {server} reports no space above the reserve; free disk space, add a storage, or lower \
         reserved_storage_space in tracker.conf", verb(*.command)
    )]
    NoSpace {
        /// What was asked.
        command: Command,
        /// Who said so.
        server: Server,
    },
    /// The tracker knows no such group, or no storage of it that is active now.
    #[error(
        "{}: {server} knows no active storage {}; check that a storage runs and has joined (fdfs_monitor)",
        verb(*.command), of_group(*.group)
    )]
    NoStorage {
        /// What was asked.
        command: Command,
        /// Who said so.
        server: Server,
        /// The group asked for; `None` if any would have done.
        group: Option<GroupName>,
    },
    /// The server refused with another status.
    #[error("{}: {server} answered: {status} (status {}){}", verb(*.command), .status.0, doubt(server, *.status))]
    Status {
        /// What was asked.
        command: Command,
        /// Who answered.
        server: Server,
        /// The status byte of the answer.
        status: Status,
    },
    /// No connection could be made.
    #[error("{}: cannot connect to {server}: {source}; {}", verb(*.command), remedy(.source))]
    Unreachable {
        /// What was to be asked.
        command: Command,
        /// Who could not be reached.
        server: Server,
        /// Why.
        source: io::Error,
    },
    /// The server did not go on in time.
    #[error(
        "{}: {server} did not {} within {limit:?}; it is hung, overloaded or cut off (network_timeout sets the limit){}",
        verb(*.command), if *.sent { "answer" } else { "take the request" }, unknown(*.command, *.sent)
    )]
    Timeout {
        /// What was asked.
        command: Command,
        /// Who did not answer.
        server: Server,
        /// The network timeout in force.
        limit: Duration,
        /// Whether the whole request had been sent; of a change, some of it.
        sent: bool,
    },
    /// The server stopped moving, and did not answer a probe on another connection either.
    #[error(
        "{}: {server} showed no sign of life, and answered no probe within {limit:?}; it is hung or cut off \
         (failover_after sets the limit){}", verb(*.command), unknown(*.command, *.sent)
    )]
    Hung {
        /// What was asked.
        command: Command,
        /// Who is hung.
        server: Server,
        /// How long it was silent, and then how long the probe waited.
        limit: Duration,
        /// Whether some of the request had been sent.
        sent: bool,
    },
    /// The connection broke.
    #[error("{}: the connection to {server} broke: {source}{}", verb(*.command), unknown(*.command, *.sent))]
    Disconnected {
        /// What was asked.
        command: Command,
        /// Whose connection it was.
        server: Server,
        /// How it broke.
        source: io::Error,
        /// Whether the whole request had been sent; of a change, some of it.
        sent: bool,
    },
    /// The server answered something that no FastDFS server may answer.
    #[error("{}: {server} broke the protocol: {detail}", verb(*.command))]
    Protocol {
        /// What was asked.
        command: Command,
        /// Who answered.
        server: Server,
        /// What was wrong.
        detail: String,
    },
    /// All connections allowed to the server were in use for longer than the network timeout.
    #[error(
        "{}: all {limit} connections to {server} are in use; raise max_connections_per_server, or hold fewer \
         downloads open", verb(*.command)
    )]
    Busy {
        /// What was to be asked.
        command: Command,
        /// Whose connections.
        server: Server,
        /// How many are allowed.
        limit: usize,
    },
    /// The content is not what its file ID states.
    #[error("download: the copy of {file} on {server} is damaged: it {detail}")]
    Corrupt {
        /// The file ID.
        file: Box<str>,
        /// Who sent it.
        server: Server,
        /// Size or CRC32, here and in the file ID.
        detail: String,
    },
    /// The caller's own file, reader or writer failed.
    #[error("{what}: {source}")]
    Local {
        /// What was being done with it.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The request cannot be made: an argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The name of a tracker cannot be resolved.
    #[error("cannot resolve tracker {host}: {source}; check tracker_server")]
    Resolve {
        /// The name, as configured.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// None of several trackers could be asked.
    #[error("none of the {tried} trackers could be asked; the last error: {last}")]
    NoTracker {
        /// How many were tried.
        tried: usize,
        /// The error of the last one.
        last: Box<Error>,
    },
}

impl Error {
    /// The errno nearest to this error; `EIO` where there is none.
    pub fn to_errno(&self) -> i32 {
        let status = match self {
            Error::NotFound { .. } => Status::ENOENT,
            Error::Exists { .. } => Status::EEXIST,
            Error::NoSpace { .. } => Status::ENOSPC,
            Error::NoStorage { .. } => Status::EHOSTUNREACH,
            Error::Status { status, .. } => *status,
            Error::Unreachable { source, .. } | Error::Disconnected { source, .. } => Status::from(source),
            Error::Local { source, .. } => Status::from(source),
            Error::Timeout { .. } | Error::Hung { .. } => Status::ETIMEDOUT,
            Error::Busy { .. } => Status::EAGAIN,
            Error::Invalid(_) => Status::EINVAL,
            Error::Resolve { .. } => Status::EHOSTUNREACH,
            Error::NoTracker { last, .. } => return last.to_errno(),
            Error::Protocol { .. } | Error::Corrupt { .. } => Status::EIO,
        };
        status.to_errno()
    }

    /// True if a change may have been made, whole or (of content) in part: some of the request was sent and no answer
    /// came, or the storage answered that the change has not reached as many members as its `ack_members` asks for.
    pub fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Error::Timeout { sent: true, .. }
                | Error::Hung { sent: true, .. }
                | Error::Disconnected { sent: true, .. }
                | Error::Status { status: Status::ETIMEDOUT, .. }
        )
    }

    /// True if the fault lies with one server or the way to it, so that another may do better.
    pub(crate) fn is_of_server(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. }
                | Error::Timeout { .. }
                | Error::Hung { .. }
                | Error::Disconnected { .. }
                | Error::Protocol { .. }
                | Error::Busy { .. }
                | Error::Resolve { .. }
        )
    }

    /// True if no connection could be made for want of something on this host: nothing is known of the server then. Another
    /// may do better, since there may be an idle connection to it.
    pub(crate) fn is_of_this_host(&self) -> bool {
        matches!(self, Error::Unreachable { source, .. } if lacks_room(source) || lacks_address(source))
    }

    /// The server the error is about, if it is one server.
    pub fn server(&self) -> Option<Server> {
        match self {
            Error::NotFound { server, .. }
            | Error::Exists { server, .. }
            | Error::NoSpace { server, .. }
            | Error::NoStorage { server, .. }
            | Error::Status { server, .. }
            | Error::Unreachable { server, .. }
            | Error::Timeout { server, .. }
            | Error::Hung { server, .. }
            | Error::Disconnected { server, .. }
            | Error::Protocol { server, .. }
            | Error::Busy { server, .. }
            | Error::Corrupt { server, .. } => Some(*server),
            Error::NoTracker { last, .. } => last.server(),
            Error::Local { .. } | Error::Invalid(_) | Error::Resolve { .. } => None,
        }
    }

    /// True if the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    /// The error for a status other than success. `subject` is the file ID the command is about.
    pub(crate) fn from_status(command: Command, server: Server, status: Status, subject: &str) -> Self {
        match status {
            Status::ENOENT if server.role == Role::Storage && !subject.is_empty() => {
                Error::NotFound { command, server, file: subject.into() }
            }
            Status::EEXIST if command == Command::UploadSlaveFile => {
                Error::Exists { command, server, file: subject.into() }
            }
            Status::ENOSPC => Error::NoSpace { command, server },
            _ => Error::Status { command, server, status },
        }
    }
}

/// Too many files are open here.
fn lacks_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// There is no address, or port, here to connect from.
fn lacks_address(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

/// Servers answer so to what they have never heard of.
fn doubt(server: &Server, status: Status) -> &'static str {
    match (server.role, status) {
        (Role::Tracker, Status::EINVAL) => "; is that a tracker, and not a storage?",
        _ => "",
    }
}

/// What to do about a connection that could not be made.
fn remedy(error: &io::Error) -> &'static str {
    if lacks_room(error) {
        "raise the limit of open files (ulimit -n)"
    } else if lacks_address(error) {
        "this host has no address of that kind, or all its ports for that server are in use (net.ipv4.ip_local_port_range)"
    } else {
        "check that it runs and that no firewall is between"
    }
}

/// What a command does, in a word or two for people.
pub(crate) fn verb(command: Command) -> &'static str {
    match command {
        Command::UploadFile => "upload",
        Command::UploadAppenderFile => "upload appender",
        Command::UploadSlaveFile => "upload slave",
        Command::AppendFile => "append",
        Command::ModifyFile => "modify",
        Command::TruncateFile => "truncate",
        Command::RegenerateAppenderFilename => "regenerate file ID",
        Command::DeleteFile => "delete",
        Command::SetMetadata => "set metadata",
        Command::GetMetadata => "get metadata",
        Command::DownloadFile => "download",
        Command::QueryFileInfo => "query file info",
        Command::QueryStoreWithoutGroupOne
        | Command::QueryStoreWithGroupOne
        | Command::QueryStoreWithoutGroupAll
        | Command::QueryStoreWithGroupAll => "ask where to upload",
        Command::QueryFetchOne | Command::QueryFetchAll => "ask where to read",
        Command::QueryUpdate => "ask where to change",
        Command::ListOneGroup | Command::ListAllGroups => "list groups",
        Command::ListStorage => "list storages",
        Command::DeleteStorage => "delete storage",
        Command::DeleteGroup => "delete group",
        Command::SetTrunkServer => "set trunk server",
        Command::GetLeader => "ask for the leader",
        other => other.name(),
    }
}

fn of_group(group: Option<GroupName>) -> String {
    match group {
        Some(group) => format!("of group {group}"),
        None => "of any group".to_owned(),
    }
}

/// Commands whose repetition is not the same as doing them once.
fn unknown(command: Command, sent: bool) -> &'static str {
    let changes = matches!(
        command,
        Command::AppendFile
            | Command::ModifyFile
            | Command::TruncateFile
            | Command::RegenerateAppenderFilename
            | Command::DeleteFile
            | Command::SetMetadata
    );
    if sent && changes { "; whether the change was made is not known" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server::storage("10.0.0.1:23000".parse().unwrap())
    }

    #[test]
    fn statuses_become_what_they_mean() {
        let of = |command, status| Error::from_status(command, server(), status, "group1/M00/x");
        assert!(matches!(of(Command::DeleteFile, Status::ENOENT), Error::NotFound { .. }));
        assert!(matches!(of(Command::UploadSlaveFile, Status::EEXIST), Error::Exists { .. }));
        assert!(matches!(of(Command::UploadFile, Status::ENOSPC), Error::NoSpace { .. }));
        assert!(matches!(of(Command::UploadFile, Status::EROFS), Error::Status { .. }));
        let upload = Error::from_status(Command::UploadFile, server(), Status::ENOENT, "");
        assert!(!upload.is_not_found(), "an upload that fails so is not a missing file");
    }

    #[test]
    fn a_storage_in_the_place_of_a_tracker_is_suspected() {
        let of = |server| Error::from_status(Command::ListAllGroups, server, Status::EINVAL, "").to_string();
        let addr = "10.0.0.1:23000".parse().unwrap();
        assert!(of(Server::tracker(addr)).ends_with("is that a tracker, and not a storage?"));
        assert!(!of(Server::storage(addr)).contains("is that"));
    }

    #[test]
    fn errno_is_the_one_a_file_system_would_give() {
        let missing = Error::from_status(Command::DownloadFile, server(), Status::ENOENT, "g/M00/x");
        assert_eq!(missing.to_errno(), 2);
        let refused = Error::Unreachable {
            command: Command::UploadFile,
            server: server(),
            source: io::Error::from_raw_os_error(111),
        };
        assert_eq!(refused.to_errno(), 111);
        let none = Error::NoStorage { command: Command::QueryStoreWithoutGroupOne, server: server(), group: None };
        assert_ne!(none.to_errno(), 2, "a group that is down is not a missing file");
        assert_eq!(Error::NoTracker { tried: 2, last: Box::new(refused) }.to_errno(), 111);
    }

    #[test]
    fn texts_name_server_operation_and_remedy() {
        let error = Error::Timeout {
            command: Command::AppendFile,
            server: server(),
            limit: Duration::from_secs(30),
            sent: true,
        };
        assert_eq!(
            error.to_string(),
            "append: storage 10.0.0.1:23000 did not answer within 30s; it is hung, overloaded or cut off \
             (network_timeout sets the limit); whether the change was made is not known"
        );
        assert!(error.outcome_unknown());
        let of = |status| Error::Status { command: Command::DeleteFile, server: server(), status };
        assert!(of(Status::ETIMEDOUT).outcome_unknown() && !of(Status::EBUSY).outcome_unknown());
    }

    #[test]
    fn errors_are_small() {
        assert!(std::mem::size_of::<Error>() <= 96);
    }
}
