//! The command line of a daemon, as FastDFS users know it:
//! `fdfs_xxxd [-N] CONFIG [start|stop|restart|status]`, with a pid file under `<base_path>/data`.
//!
//! `start` returns when the daemon serves, or with the reason why it does not: the parent waits for a byte from the
//! child. (The C original returns earlier, so that success there proves nothing.)

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

use crate::log::LogFile;

/// How long `stop` and `restart` wait for the old process to end.
const STOP_WAIT: Duration = Duration::from_secs(120);

/// What every daemon's configuration has.
#[derive(Debug, Clone)]
pub struct Common {
    /// Where `data/` and `logs/` are.
    pub base_path: PathBuf,
    /// What is logged.
    pub log_level: LevelFilter,
    /// How long rotated logs are kept; `None` for ever.
    pub log_keep: Option<Duration>,
    /// What the person who wrote the file should know: said at each start.
    pub warnings: Vec<String>,
}

/// A daemon that [`main`] can run.
pub trait Daemon: Sized {
    /// Name of the program and of its pid file, such as `fdfs_trackerd`.
    const NAME: &'static str;
    /// What it is, in a line of its `--help`.
    const ABOUT: &'static str;
    /// Name of its log file, such as `trackerd.log`.
    const LOG: &'static str;
    /// Its configuration.
    type Config;

    /// Reads and checks the configuration file.
    ///
    /// # Errors
    /// Texts name file, key, value and remedy.
    fn load(path: &Path) -> anyhow::Result<(Common, Self::Config)>;

    /// Starts to serve. Threads may be made from here on.
    ///
    /// # Errors
    /// Whatever keeps it from serving; an [`io::Error`] among the causes gives the exit code.
    fn start(config: Self::Config) -> anyhow::Result<Self>;

    /// Stops cleanly.
    fn stop(self);
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Start,
    Stop,
    Restart,
    Status,
}

const AFTER_HELP: &str = "\
`start` returns when the daemon serves, or says why it does not. SIGTERM and SIGINT stop it, SIGHUP rotates its log, \
which is below logs/ of base_path.

Exit codes: 0 done; 1 wrong usage; 2 not running; 17 already running; 22 wrong configuration; else the errno of what \
failed.";

#[derive(Parser)]
#[command(disable_version_flag = true, arg_required_else_help = true)]
struct Args {
    /// Run in the foreground
    #[arg(short = 'N', long = "no-daemon")]
    no_daemon: bool,
    /// Show the version
    #[arg(short = 'V', long)]
    version: bool,
    /// The configuration file
    #[arg(required_unless_present = "version")]
    config: Option<PathBuf>,
    /// What to do
    #[arg(value_enum, default_value = "start")]
    action: Action,
}

/// Runs a daemon's whole life from its command line.
///
/// Exit codes: 0 done; 1 wrong usage; 17 (EEXIST) already running; 2 (ENOENT) not running; 22 (EINVAL) wrong action or
/// configuration; else the errno of what failed.
pub fn main<D: Daemon>() -> ExitCode {
    match run::<D>(std::env::args_os()) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("{}: {}", D::NAME, describe(&e));
            ExitCode::from(exit_code(&e))
        }
    }
}

/// Raises the limit of open files to the `files` that `connections` need; where the system does not permit that, a
/// warning.
pub fn permit_open_files(connections: usize, files: usize) {
    let wanted = files as libc::rlim_t;
    // SAFETY: both calls get a pointer to a live value of the right type, which is plain data.
    let raised = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0
            && (limit.rlim_cur >= wanted || {
                limit.rlim_cur = wanted;
                limit.rlim_max = limit.rlim_max.max(wanted);
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
            })
    };
    if !raised {
        warn!(
            "max_connections = {connections} needs {wanted} open files, which the system does not permit (ulimit -n)"
        );
    }
}

/// The causes of an error, without those that the text before them has told already.
pub fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        _ if text.contains(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

/// A refusal with the exit code that scripts know.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Refused {
    errno: i32,
    text: String,
}

fn refuse(errno: i32, text: String) -> anyhow::Error {
    Refused { errno, text }.into()
}

fn exit_code(e: &anyhow::Error) -> u8 {
    let errno = e.chain().find_map(|c| {
        let refused = c.downcast_ref::<Refused>().map(|r| r.errno);
        refused.or_else(|| c.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error))
    });
    errno.and_then(|n| u8::try_from(n).ok()).unwrap_or(libc::EINVAL as u8)
}

fn run<D: Daemon>(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    use clap::error::ErrorKind;
    let command = Args::command().name(D::NAME).about(D::ABOUT).after_help(AFTER_HELP);
    let args = match command.try_get_matches_from(args).and_then(|found| Args::from_arg_matches(&found)) {
        Ok(args) => args,
        Err(e) => {
            let code = match e.kind() {
                ErrorKind::DisplayHelp => 0,
                ErrorKind::InvalidValue => libc::EINVAL as u8,
                _ => 1,
            };
            e.print()?;
            return Ok(code);
        }
    };
    let Some(config) = args.config.filter(|_| !args.version) else {
        println!("\n{} V{}\n", D::NAME, env!("CARGO_PKG_VERSION"));
        return Ok(0);
    };
    let (common, settings) = D::load(&config)?;
    let pid_file = PidFile { path: common.base_path.join("data").join(format!("{}.pid", D::NAME)), name: D::NAME };
    match args.action {
        Action::Status => Ok(match pid_file.running() {
            Some(pid) => {
                println!("Running, pid: {pid}");
                0
            }
            None => {
                println!("NOT running");
                libc::ENOENT as u8
            }
        }),
        Action::Stop => match pid_file.stop()? {
            true => Ok(0),
            false => Err(refuse(libc::ENOENT, format!("pid file: {} not exist!", pid_file.path.display()))),
        },
        Action::Start | Action::Restart => {
            if args.action == Action::Restart {
                pid_file.stop()?;
                println!("starting ...");
            }
            start::<D>(common, settings, &pid_file, args.no_daemon)
        }
    }
}

fn start<D: Daemon>(common: Common, settings: D::Config, pid_file: &PidFile, foreground: bool) -> anyhow::Result<u8> {
    let dir = common.base_path.join("data");
    std::fs::create_dir_all(&dir).with_context(|| {
        format!("base_path = {}: cannot make its data directory (wrong path or owner?)", common.base_path.display())
    })?;
    if let Some(pid) = pid_file.running() {
        let base = common.base_path.display();
        let text = format!(
            "base_path = {base}: process {} already running, pid: {pid}; stop that one, or choose another base_path",
            D::NAME
        );
        return Err(refuse(libc::EEXIST, text));
    }
    for warning in &common.warnings {
        eprintln!("{}: warning: {warning}", D::NAME);
    }
    if foreground {
        crate::log::install_console(common.log_level)?;
        return serve::<D>(settings, pid_file, None, || Ok(()));
    }
    let log = LogFile::open(&common.base_path.join("logs").join(D::LOG), common.log_keep)
        .with_context(|| format!("cannot write logs under {}", common.base_path.display()))?;
    match fork_with_report()? {
        Forked::Parent(answer) => wait_for_report(answer),
        Forked::Child(report) => {
            let ready = || -> anyhow::Result<()> {
                detach_stdio()?;
                (&report).write_all(&[0])?;
                Ok(())
            };
            let served = crate::log::install(log.clone(), common.log_level).and_then(|()| {
                common.warnings.iter().for_each(|warning| warn!("{warning}"));
                serve::<D>(settings, pid_file, Some(log), ready)
            });
            // The parent says why, and ends with this code; this process would only say it again.
            Ok(served.unwrap_or_else(|e| {
                let why = describe(&e);
                error!("{why}");
                let code = exit_code(&e);
                let _ = (&report).write_all(&[code]).and_then(|()| write!(&report, "{why}"));
                code
            }))
        }
    }
}

/// Starts the daemon, says that it is ready, and waits for the signal to stop.
fn serve<D: Daemon>(
    settings: D::Config,
    pid_file: &PidFile,
    log: Option<LogFile>,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<u8> {
    // Blocked before any thread exists, so that every thread inherits it and the signals are ours to wait for.
    let signals = Signals::block()?;
    let daemon = D::start(settings)?;
    let held = pid_file.write()?;
    ready()?;
    info!("{} V{} serves, pid {}", D::NAME, env!("CARGO_PKG_VERSION"), std::process::id());
    loop {
        match signals.wait()? {
            libc::SIGHUP => {
                if let Some(Err(e)) = log.as_ref().map(LogFile::rotate) {
                    warn!("cannot rotate the log: {e}");
                }
            }
            signal => {
                info!("signal {signal}: stopping");
                break;
            }
        }
    }
    daemon.stop();
    drop(held);
    info!("stopped");
    Ok(0)
}

/// The signals a daemon reacts to, blocked for the whole process and waited for in one place.
struct Signals(libc::sigset_t);

impl Signals {
    fn block() -> io::Result<Signals> {
        // SAFETY: the set is plain data initialised by `sigemptyset`; the calls write only to it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for s in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                libc::sigaddset(&mut set, s);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => Ok(Signals(set)),
                e => Err(io::Error::from_raw_os_error(e)),
            }
        }
    }

    fn wait(&self) -> io::Result<libc::c_int> {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of the right type.
        match unsafe { libc::sigwait(&self.0, &mut signal) } {
            0 => Ok(signal),
            e => Err(io::Error::from_raw_os_error(e)),
        }
    }
}

enum Forked {
    Parent(File),
    Child(File),
}

/// Forks; the child leads a new session and holds the writing end of a pipe whose reading end the parent has.
fn fork_with_report() -> io::Result<Forked> {
    let (read, write) = pipe()?;
    // SAFETY: no thread was started yet (see `Daemon::start`), so the child owns a consistent copy of everything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read);
            // SAFETY: plain system call; it cannot fail in a process that was just forked.
            unsafe { libc::setsid() };
            Ok(Forked::Child(write))
        }
        _ => Ok(Forked::Parent(read)),
    }
}

fn pipe() -> io::Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for the two descriptors, which are fresh and owned by nobody else.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(fds[0]).into(), OwnedFd::from_raw_fd(fds[1]).into()))
    }
}

/// The parent's side: a zero byte means it serves; any other is the exit code, and the rest is why.
fn wait_for_report(mut answer: File) -> anyhow::Result<u8> {
    let mut code = [0u8; 1];
    if answer.read(&mut code)? == 0 {
        bail!("the daemon ended while it was starting; see its log");
    }
    if code[0] == 0 {
        return Ok(0);
    }
    let mut why = String::new();
    let _ = answer.read_to_string(&mut why);
    Err(refuse(code[0].into(), why))
}

fn detach_stdio() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for fd in 0..3 {
        // SAFETY: `null` is open; the standard descriptors may be replaced at any time.
        if unsafe { libc::dup2(null.as_raw_fd(), fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `<base_path>/data/<name>.pid`.
#[derive(Debug)]
struct PidFile {
    path: PathBuf,
    name: &'static str,
}

/// The pid file of this process; removed when dropped.
struct Held<'a>(&'a PidFile);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0.path);
    }
}

impl PidFile {
    /// The pid of the daemon that the file names, if that process lives and is that daemon.
    fn running(&self) -> Option<libc::pid_t> {
        let pid: libc::pid_t = std::fs::read_to_string(&self.path).ok()?.trim().parse().ok()?;
        if pid <= 0 || pid == std::process::id() as libc::pid_t {
            return None;
        }
        // After a crash and a restart of the host the number may belong to something else.
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let program = cmdline.split(|b| *b == 0).next()?;
        let is_ours = Path::new(std::str::from_utf8(program).ok()?).file_name().is_some_and(|n| n == self.name);
        is_ours.then_some(pid)
    }

    /// A full disk keeps nobody from serving what is on it.
    fn write(&self) -> anyhow::Result<Held<'_>> {
        let pid = std::process::id();
        match std::fs::write(&self.path, format!("{pid}\n")) {
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                warn!("cannot write {}: {e}; `stop` and `restart` do not find pid {pid}: kill it", self.path.display());
            }
            written => written.with_context(|| format!("cannot write {}", self.path.display()))?,
        }
        Ok(Held(self))
    }

    /// Ends the running daemon and waits until it is gone; `false` when none runs.
    fn stop(&self) -> anyhow::Result<bool> {
        let Some(pid) = self.running() else { return Ok(false) };
        let process = pidfd_open(pid)?;
        // SAFETY: plain system call.
        if unsafe { libc::kill(pid, libc::SIGTERM) } != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("cannot stop pid {pid}"));
        }
        println!("waiting for pid [{pid}] exit ...");
        if !wait_for_exit(&process)? {
            return Err(refuse(
                libc::ETIMEDOUT,
                format!("pid {pid} does not end within {STOP_WAIT:?} (kill -9 it if it hangs)"),
            ));
        }
        println!("pid [{pid}] exit.");
        Ok(true)
    }
}

fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the descriptor it returns is fresh and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

fn wait_for_exit(process: &OwnedFd) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd is passed, and its length is 1.
    match unsafe { libc::poll(&mut poll, 1, STOP_WAIT.as_millis() as i32) } {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Daemon for Nothing {
        const NAME: &'static str = "nothingd";
        const ABOUT: &'static str = "Does nothing";
        const LOG: &'static str = "nothing.log";
        type Config = ();

        fn load(path: &Path) -> anyhow::Result<(Common, ())> {
            std::fs::read(path).with_context(|| path.display().to_string())?;
            let base_path = path.parent().unwrap().to_owned();
            Ok((Common { base_path, log_level: LevelFilter::INFO, log_keep: None, warnings: Vec::new() }, ()))
        }

        fn start((): ()) -> anyhow::Result<Self> {
            Ok(Nothing)
        }

        fn stop(self) {}
    }

    fn exit_of(args: &[&str]) -> u8 {
        let args = std::iter::once("nothingd").chain(args.iter().copied()).map(OsString::from);
        run::<Nothing>(args).unwrap_or_else(|e| exit_code(&e))
    }

    #[test]
    fn exit_codes_of_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("d.conf");
        std::fs::write(&conf, "").unwrap();
        let conf = conf.to_str().unwrap();
        assert_eq!(exit_of(&[]), 1);
        assert_eq!(exit_of(&["-h"]), 0);
        assert_eq!(exit_of(&["-V"]), 0);
        assert_eq!(exit_of(&[conf, "foo"]), 22);
        assert_eq!(exit_of(&[conf, "status"]), 2);
        assert_eq!(exit_of(&[conf, "stop"]), 2);
        assert_eq!(exit_of(&["/nonexistent/d.conf", "start"]), 2);
    }

    #[test]
    fn a_stale_pid_file_is_not_a_running_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = PidFile { path: dir.path().join("x.pid"), name: "nothingd" };
        assert_eq!(pid_file.running(), None);
        for stale in ["1", "-5", "garbage", "999999999", ""] {
            std::fs::write(&pid_file.path, stale).unwrap();
            assert_eq!(pid_file.running(), None, "{stale}");
        }
        assert!(!pid_file.stop().unwrap());
    }

    #[test]
    fn the_pid_file_lives_as_long_as_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = PidFile { path: dir.path().join("x.pid"), name: "nothingd" };
        let held = pid_file.write().unwrap();
        assert_eq!(std::fs::read_to_string(&pid_file.path).unwrap().trim(), std::process::id().to_string());
        drop(held);
        assert!(!pid_file.path.exists());
        std::os::unix::fs::symlink("/dev/full", &pid_file.path).unwrap();
        drop(pid_file.write().unwrap());
        std::fs::create_dir(&pid_file.path).unwrap();
        assert!(pid_file.write().is_err());
    }
}
