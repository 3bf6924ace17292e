//! A mounted tree as a child process.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::programs;

/// How long a mount may take to appear or to go. Generous: it only bounds a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `fdfs-mount` and its mountpoint. Dropping it kills the process and removes the mount.
#[derive(Debug)]
pub struct Mount {
    child: Child,
    point: PathBuf,
}

impl Mount {
    /// Mounts the embedded cluster kept under `data` at `point`, which is created if missing.
    ///
    /// # Errors
    /// When the program ends instead of mounting: its standard error is in the text.
    pub fn embedded(point: &Path, data: &Path) -> Result<Mount> {
        Mount::with(point, |c| c.arg("--data-dir").arg(data))
    }

    /// Mounts with the arguments that `args` adds to `fdfs-mount POINT --foreground`.
    ///
    /// # Errors
    /// As [`Mount::embedded`].
    pub fn with(point: &Path, args: impl FnOnce(&mut Command) -> &mut Command) -> Result<Mount> {
        std::fs::create_dir_all(point)?;
        let mut command = programs::command("fdfs-mount");
        args(command.arg(point).arg("--foreground")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("fdfs-mount cannot be started")?;
        let point = point.canonicalize()?;
        if let Err(e) = await_mounted(&point, true, Some(&mut child)) {
            let _ = child.kill();
            let mut text = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = stderr.read_to_string(&mut text);
            }
            let _ = child.wait();
            return Err(e.context(text));
        }
        // The pipe must not fill up; what is logged from here on goes to the test's own standard error.
        if let Some(mut stderr) = child.stderr.take() {
            std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        }
        Ok(Mount { child, point })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Process ID of the program.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Unmounts as `umount` does and waits for the program's end.
    ///
    /// # Errors
    /// When unmounting is refused, or the program ends with a failure.
    pub fn unmount(mut self) -> Result<()> {
        unmount(&self.point, 0)?;
        self.await_end()
    }

    /// Unmounts as umount(8) does: when this returns, the program may still be ending.
    ///
    /// # Errors
    /// When the unmounting fails.
    pub fn detach(&self) -> Result<()> {
        unmount(&self.point, 0)
    }

    /// Sends SIGTERM and waits for the program's end.
    ///
    /// # Errors
    /// When it ends with a failure or leaves its mount behind.
    pub fn terminate(mut self) -> Result<()> {
        // SAFETY: plain system call on a child that was not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        self.await_end()?;
        if is_mounted(&self.point)? {
            bail!("{} is still mounted after the program ended", self.point.display());
        }
        Ok(())
    }

    /// Kills the program (SIGKILL) and removes the dead mount.
    ///
    /// # Errors
    /// When the dead mount cannot be removed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        remove_dead(&self.point)
    }

    /// Kills the program (SIGKILL) and leaves the dead mount behind, until this is dropped.
    ///
    /// # Errors
    /// When the program cannot be waited for.
    pub fn abandon(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn await_end(&mut self) -> Result<()> {
        let status = wait(&mut self.child, PATIENCE)?;
        if !status.success() {
            bail!("fdfs-mount ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = remove_dead(&self.point);
    }
}

fn remove_dead(point: &Path) -> Result<()> {
    while is_mounted(point)? {
        unmount(point, libc::MNT_DETACH)?;
    }
    Ok(())
}

/// Waits for a child's end, at most `patience`.
///
/// # Errors
/// When it does not end in time.
pub fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    // SAFETY: plain system call; the descriptor is closed below.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) } as i32;
    if fd >= 0 {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let deadline = Instant::now() + patience;
        // A signal, such as Ctrl-C, ends the call early.
        while poll.revents == 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            // SAFETY: one valid pollfd, length 1.
            unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32 + 1) };
        }
        // SAFETY: the descriptor opened above is closed once.
        unsafe { libc::close(fd) };
    }
    match child.try_wait()? {
        Some(status) => Ok(status),
        None => bail!("process {} does not end within {patience:?}", child.id()),
    }
}

/// Whether something is mounted exactly there.
///
/// # Errors
/// When the mount table cannot be read.
pub fn is_mounted(point: &Path) -> Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|b| *b == b'\n').any(|l| l.split(|b| *b == b' ').nth(4) == Some(point.as_os_str().as_bytes())))
}

/// Waits until `point` is (or is no longer) a mountpoint, or `child` ended.
fn await_mounted(point: &Path, wanted: bool, mut child: Option<&mut Child>) -> Result<()> {
    let table = std::fs::File::open("/proc/self/mountinfo")?;
    let deadline = Instant::now() + PATIENCE;
    while is_mounted(point)? != wanted {
        if let Some(child) = child.as_deref_mut()
            && let Some(status) = child.try_wait()?
        {
            bail!("fdfs-mount ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("{} is not {}mounted within {PATIENCE:?}", point.display(), if wanted { "" } else { "un" });
        }
        // The kernel reports a change of the mount table as an exceptional condition.
        let mut poll = libc::pollfd { fd: table.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // SAFETY: one valid pollfd, length 1.
        unsafe { libc::poll(&mut poll, 1, 50) };
    }
    Ok(())
}

fn unmount(point: &Path, flags: i32) -> Result<()> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // SAFETY: the path is a valid C string.
        if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::ResourceBusy || Instant::now() > deadline {
            return Err(error).with_context(|| format!("umount {}", point.display()));
        }
        // A process that another test is starting has, between fork and exec, all our files open; nothing tells when
        // it lets go of them.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The extended attribute `name` of a file, as text.
///
/// # Panics
/// If there is none.
pub fn attribute(path: &Path, name: &str) -> String {
    let mut buf = [0; 256];
    let n =
        rustix::fs::getxattr(path, name, &mut buf).unwrap_or_else(|e| panic!("{} of {}: {e}", name, path.display()));
    String::from_utf8_lossy(&buf[..n]).into_owned()
}
