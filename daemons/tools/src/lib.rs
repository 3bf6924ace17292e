//! What the FastDFS command-line tools share. Each tool is a file in `bin/`.
//!
//! A tool does one thing and says how it went by its exit code: 0, or 1 for wrong usage, or the errno of the failure.
//! Results go to stdout, everything else to stderr. A failure is reported in the form that users of FastDFS know,
//! `upload file fail, error no: 2, error info: No such file or directory`, followed by a line that says more.

pub mod extension;
pub mod human;
pub mod monitor;
pub mod storage_ids;

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use fdfs_client::{Client, ClientConfig, ConfigError, Error, FileId};

/// Why a tool could not do its work.
#[derive(Debug)]
pub struct Failure {
    /// What failed, such as `upload file fail`.
    what: String,
    errno: i32,
    /// What there is to say beyond the errno.
    detail: String,
}

impl Failure {
    /// A failure of `what` with this errno.
    pub fn new(what: impl Into<String>, errno: i32, detail: impl Display) -> Self {
        Self { what: what.into(), errno, detail: detail.to_string() }
    }

    /// A failed operation of the client.
    pub fn of(what: impl Into<String>, error: &Error) -> Self {
        // FastDFS tools report a group without active storages as its tracker does.
        let errno = if matches!(error, Error::NoStorage { .. }) { libc::ENOENT } else { error.to_errno() };
        Self::new(what, errno, error)
    }

    /// A local file that cannot be used.
    pub fn local(what: impl Into<String>, file: &Path, error: &io::Error) -> Self {
        Self::new(what, error.raw_os_error().unwrap_or(libc::EIO), format!("{}: {error}", file.display()))
    }

    /// The errno as the exit code of a process; never 0.
    fn exit_code(&self) -> u8 {
        match u8::try_from(self.errno) {
            Ok(0) | Err(_) => libc::EIO as u8,
            Ok(errno) => errno,
        }
    }

    fn report(&self) {
        eprintln!("{}, error no: {}, error info: {}", self.what, self.errno, error_info(self.errno));
        eprintln!("{}", self.detail);
    }
}

/// The text of an errno.
pub fn error_info(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Runs a tool: reads its arguments, does its work, reports.
pub fn run<A, F>(work: impl FnOnce(A) -> F) -> ExitCode
where
    A: Parser,
    F: Future<Output = Result<(), Failure>>,
{
    let args = match A::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // What cannot be written here cannot be reported either.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(1) };
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(libc::EAGAIN as u8);
        }
    };
    match runtime.block_on(work(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The settings in a `client.conf`.
pub fn config(path: &Path) -> Result<ClientConfig, Failure> {
    ClientConfig::load(path).map_err(|error| {
        let errno = match &error {
            ConfigError::Read { source, .. } | ConfigError::Include { source, .. } => source.raw_os_error(),
            _ => None,
        };
        Failure::new("load config fail", errno.unwrap_or(libc::EINVAL), error)
    })
}

/// A client with the settings in a `client.conf`.
pub fn client(path: &Path) -> Result<Client, Failure> {
    config(path).map(Client::new)
}

/// Reads a file ID from the command line.
pub fn file_id(what: &str, text: &str) -> Result<FileId, Failure> {
    text.parse().map_err(|error| Failure::new(what, libc::EINVAL, format!("{text:?} is not a file ID: {error}")))
}

/// Writes a line to stdout; a reader that has gone away is not our failure to report twice.
pub fn print_line(line: impl Display) -> Result<(), Failure> {
    use std::io::Write;
    writeln!(io::stdout(), "{line}").map_err(|error| {
        Failure::new("write result fail", error.raw_os_error().unwrap_or(libc::EIO), format!("stdout: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_errnos_and_never_success() {
        assert_eq!(Failure::new("x", 2, "").exit_code(), 2);
        assert_eq!(Failure::new("x", 111, "").exit_code(), 111);
        assert_eq!(Failure::new("x", 0, "").exit_code(), 5);
        assert_eq!(Failure::new("x", 512, "").exit_code(), 5);
    }

    #[test]
    fn error_info_is_plain() {
        assert_eq!(error_info(2), "No such file or directory");
        assert_eq!(error_info(111), "Connection refused");
    }
}
