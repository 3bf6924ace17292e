//! Going to the background, in the right order: the process forks before it has threads, and its parent stays until the
//! mount answers or has failed, so that the shell sees one or the other.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::ExitCode;

/// What the parent reads when all is well.
const READY: &[u8] = b"ready";

/// Which side of the fork this is.
pub enum Side {
    /// The one that was started by the user: it ends with this code.
    Parent(ExitCode),
    /// The one that goes on.
    Child(Starting),
}

/// A start that has not been reported yet. Dropped without a report, it counts as failed.
pub struct Starting {
    /// To the parent; `None` in the foreground.
    report: Option<File>,
}

impl Starting {
    /// A start in the foreground: nobody waits for a report.
    pub fn in_foreground() -> Starting {
        Starting { report: None }
    }

    /// The mount answers: the parent ends well, and this process lets go of the terminal.
    pub fn ready(mut self) -> io::Result<()> {
        let Some(mut report) = self.report.take() else { return Ok(()) };
        report.write_all(READY)?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        for standard in 0..=2 {
            // SAFETY: both descriptors are open; dup2 touches no memory.
            if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Forks. Must be called before any thread is started.
pub fn detach() -> io::Result<Side> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors; they are owned by nobody else.
    let (mut reader, writer) = unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    };
    // SAFETY: there is one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            // SAFETY: no memory is touched. It fails only for a group leader, which a fresh child is not.
            unsafe { libc::setsid() };
            std::env::set_current_dir("/")?;
            Ok(Side::Child(Starting { report: Some(writer) }))
        }
        child => {
            drop(writer);
            let mut report = Vec::new();
            reader.read_to_end(&mut report)?;
            // Of a failure, the child has written to our standard error what there is to say.
            Ok(Side::Parent(if report == READY { ExitCode::SUCCESS } else { reap(child) }))
        }
    }
}

/// Waits for the child that did not get ready; says what its own message cannot.
fn reap(child: libc::pid_t) -> ExitCode {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    if waited == child && libc::WIFSIGNALED(status) {
        eprintln!("fdfs-mount: ended by signal {} before the mount was ready", libc::WTERMSIG(status));
    }
    ExitCode::FAILURE
}
