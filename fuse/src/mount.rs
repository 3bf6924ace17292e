//! Mounting and unmounting: mount(2) and umount2(2) where we may, the `fusermount3` helper where we may not.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::mountinfo::{self, DeviceId};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// The type in the mount table.
const KIND: &str = "fuse.fdfs";

/// The options of a mount that the kernel keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// Refuse changes.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// Device files work. Off unless asked for, as for every FUSE mount.
    pub dev: bool,
    /// Set-user-ID programs work. Off unless asked for, as for every FUSE mount.
    pub suid: bool,
    /// Programs cannot be run.
    pub no_exec: bool,
    /// Each write is followed by a sync.
    pub sync: bool,
    /// Each change of a directory is followed by a sync.
    pub dir_sync: bool,
}

impl Flags {
    fn bits(self) -> libc::c_ulong {
        [
            (self.read_only, libc::MS_RDONLY),
            (!self.dev, libc::MS_NODEV),
            (!self.suid, libc::MS_NOSUID),
            (self.no_exec, libc::MS_NOEXEC),
            (self.sync, libc::MS_SYNCHRONOUS),
            (self.dir_sync, libc::MS_DIRSYNC),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(0, |bits, (_, bit)| bits | bit)
    }

    fn words(self) -> Vec<&'static str> {
        let mut words = vec!["default_permissions", if self.read_only { "ro" } else { "rw" }];
        words.push(if self.dev { "dev" } else { "nodev" });
        words.push(if self.suid { "suid" } else { "nosuid" });
        words.extend(
            [(self.no_exec, "noexec"), (self.sync, "sync"), (self.dir_sync, "dirsync")]
                .iter()
                .filter_map(|(on, word)| on.then_some(*word)),
        );
        words.extend(self.allow_other.then_some("allow_other"));
        words
    }
}

/// A place to mount on, looked at.
#[derive(Debug, Clone)]
pub struct Mountpoint {
    path: PathBuf,
    mode: u32,
    replaces_dead: bool,
}

/// How long a mount that is there already may take to show that its process lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

impl Mountpoint {
    /// Checks that something can be mounted at `path`: a directory, with nothing mounted on it, and FUSE in the kernel.
    /// Mounts of ours whose process was killed are removed; nothing else is touched.
    ///
    /// No thread is left running, unless it fails.
    pub fn check(path: &Path) -> Result<Mountpoint> {
        let shown = path.display();
        let mut replaces_dead = false;
        let absolute = loop {
            let absolute = resolve(path)?;
            // A mount that does not answer would hang in stat(2): look into the table first.
            let Some(mount) = mountinfo::top(&absolute).context("cannot read the mount table")? else { break absolute };
            if is_dead(&absolute)? {
                let remove =
                    if mount.kind == KIND { unmount(&absolute, true) } else { Err(io::Error::other("not ours")) };
                remove.map_err(|error| {
                    anyhow!(
                        "the process of the file system on {shown} (type {}) has ended ({error}); \
                         remove it with: umount -l {shown} (or: fusermount3 -uz {shown})",
                        mount.kind
                    )
                })?;
                replaces_dead = true;
                continue;
            }
            if absolute != Path::new("/") && mount.kind == KIND {
                bail!("{shown} is in use: an fdfs is mounted there already; unmount it with: umount {shown}");
            }
            bail!("{shown} is in use: a file system of type {} is mounted there; choose another directory", mount.kind);
        };
        let metadata = absolute.metadata().with_context(|| format!("mountpoint {shown}"))?;
        if !metadata.is_dir() {
            bail!("mountpoint {shown} is not a directory");
        }
        if let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
            match error.kind() {
                io::ErrorKind::NotFound => bail!(
                    "{DEVICE} does not exist: load the kernel module with `modprobe fuse`; \
                     in a container, start it with --device {DEVICE} --cap-add SYS_ADMIN"
                ),
                _ => bail!("{DEVICE} cannot be opened: {error}; run as root, or make it readable and writable for you"),
            }
        }
        Ok(Mountpoint { path: absolute, mode: metadata.mode(), replaces_dead })
    }

    /// Whether a mount of ours was removed whose process had been killed.
    pub fn replaces_dead(&self) -> bool {
        self.replaces_dead
    }

    /// The absolute path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The absolute path without symbolic links. What is dead cannot be resolved itself, but its directory can.
fn resolve(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    path.canonicalize().or_else(|error| match (error.raw_os_error(), path.parent(), path.file_name()) {
        (Some(libc::ENOTCONN), Some(dir), Some(name)) => dir
            .canonicalize()
            .map(|dir| dir.join(name))
            .with_context(|| format!("mountpoint {shown} lies below a dead FUSE mount")),
        (Some(libc::ENOENT), ..) => bail!("mountpoint {shown} does not exist; create it with: mkdir -p {shown}"),
        _ => bail!("mountpoint {shown}: {error}"),
    })
}

/// Whether the process behind a FUSE mount has ended: the kernel then answers ENOTCONN by itself. Attributes may still be
/// in its cache, so that stat(2) tells nothing; statfs(2) asks the process, and so may never return if that hangs.
fn is_dead(mountpoint: &Path) -> Result<bool> {
    let path = c_string(mountpoint.as_os_str().as_bytes())?;
    let (send, receive) = mpsc::channel();
    let asking = std::thread::Builder::new().spawn(move || {
        // SAFETY: all-zero is a valid statfs; the path is NUL-terminated, and both outlive the call.
        let result = unsafe { libc::statfs(path.as_ptr(), &mut std::mem::zeroed()) };
        let dead = result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOTCONN);
        // Nobody waits any more for what comes too late.
        let _ = send.send(dead);
    })?;
    let dead = receive.recv_timeout(SIGN_OF_LIFE).is_ok_and(|dead| dead);
    if dead && asking.join().is_err() {
        bail!("statfs has failed");
    }
    Ok(dead)
}

/// A mount of ours. Dropping it unmounts, lazily if it is busy.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    device: DeviceId,
    attached: bool,
}

/// How an unmount went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone.
    Gone,
    /// Files on it are in use. It is out of the way, and ends with the last of them.
    Detached,
}

impl Mounted {
    /// Mounts on `mountpoint`; also the descriptor that requests come through. `source` is what the mount table shows.
    ///
    /// Until somebody answers requests on the descriptor, whoever touches the mount point waits.
    pub fn new(mountpoint: &Mountpoint, source: &str, flags: Flags) -> Result<(Mounted, OwnedFd)> {
        let path = &mountpoint.path;
        let device = match mount_directly(mountpoint, source, flags) {
            Ok(device) => device,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => mount_with_helper(path, source, flags)?,
            Err(error) => bail!("cannot mount on {}: {error}", path.display()),
        };
        let found = mountinfo::top(path).context("cannot read the mount table")?;
        match found {
            Some(mount) if mount.kind == KIND => {
                Ok((Mounted { path: path.clone(), device: mount.device, attached: true }, device))
            }
            _ => bail!("the mount on {} has vanished", path.display()),
        }
    }

    /// Its device number.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Whether it is still in the mount table.
    pub fn attached(&self) -> bool {
        mountinfo::read().is_ok_and(|mounts| mounts.iter().any(|mount| mount.device == self.device))
    }

    /// Unmounts, but nothing else: what somebody has mounted there after our mount went, or on top of it, stays.
    pub fn unmount(&mut self) -> Result<Unmounted> {
        self.attached = false;
        match mountinfo::top(&self.path).context("cannot read the mount table")? {
            Some(mount) if mount.device == self.device => {}
            _ if !self.attached() => return Ok(Unmounted::Gone),
            _ => bail!("something else is mounted over {}; unmount that first", self.path.display()),
        }
        match unmount(&self.path, false) {
            Ok(()) => Ok(Unmounted::Gone),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                unmount(&self.path, true).with_context(|| format!("cannot unmount {}", self.path.display()))?;
                Ok(Unmounted::Detached)
            }
            Err(error) => Err(error).with_context(|| format!("cannot unmount {}", self.path.display())),
        }
    }

    /// Lets the kernel read ahead further than it does by default (128 KiB), where we may: the cluster answers large
    /// reads best. The answer is whether it was possible.
    pub fn raise_read_ahead(&self, kib: u32) -> bool {
        std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", self.device), kib.to_string()).is_ok()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.attached
            && let Err(error) = self.unmount()
        {
            tracing::warn!("{error:#}");
        }
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn mount_directly(mountpoint: &Mountpoint, source: &str, flags: Flags) -> io::Result<OwnedFd> {
    let device: OwnedFd = OpenOptions::new().read(true).write(true).open(DEVICE)?.into();
    // SAFETY: these calls cannot fail and touch no memory.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let mut options = format!(
        "fd={},rootmode={:o},user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd(),
        mountpoint.mode & libc::S_IFMT,
    );
    if flags.allow_other {
        options.push_str(",allow_other");
    }
    let (source, kind, options) =
        (c_string(source.as_bytes())?, c_string(KIND.as_bytes())?, c_string(options.as_bytes())?);
    let target = c_string(mountpoint.path.as_os_str().as_bytes())?;
    // SAFETY: all four are NUL-terminated strings that outlive the call; the last one is what FUSE expects as data.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags.bits(), options.as_ptr().cast()) };
    if result == 0 { Ok(device) } else { Err(io::Error::last_os_error()) }
}

/// The helper mounts for us and sends the descriptor through a socket whose number it finds in its environment.
fn mount_with_helper(path: &Path, source: &str, flags: Flags) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let mut options = flags.words().join(",");
    // Commas separate options, backslashes escape them.
    let escaped: String =
        source.chars().flat_map(|c| matches!(c, ',' | '\\').then_some('\\').into_iter().chain([c])).collect();
    options.push_str(&format!(",fsname={escaped},subtype=fdfs"));
    let socket = theirs.as_raw_fd();
    let mut command = Command::new(HELPER);
    command.args(["-o", &options, "--"]).arg(path).env("_FUSE_COMMFD", socket.to_string()).stderr(Stdio::piped());
    // SAFETY: runs between fork and exec and makes one async-signal-safe call.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(socket, libc::F_SETFD, 0) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow!("mounting needs root, or the program {HELPER} (package fuse3)"),
        _ => anyhow!("cannot run {HELPER}: {error}"),
    })?;
    drop(theirs);
    let received = receive_descriptor(&ours);
    drop(ours);
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {HELPER}"))?;
    match received {
        Ok(device) if output.status.success() => Ok(device),
        _ => bail!("cannot mount on {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// Receives one descriptor with a byte of data.
fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut vector = [IoSliceMut::new(&mut byte)];
    // Room for one descriptor, aligned as the header asks.
    let mut control = [0u64; 8];
    // SAFETY: all-zero is a valid msghdr; its pointers are set to live buffers with their true lengths.
    let message = unsafe {
        let mut message: libc::msghdr = MaybeUninit::zeroed().assume_init();
        message.msg_iov = vector.as_mut_ptr().cast();
        message.msg_iovlen = vector.len();
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = std::mem::size_of_val(&control);
        while libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        message
    };
    // SAFETY: the kernel has filled in the control buffer and its length; CMSG_FIRSTHDR checks that a header fits, and a
    // header of SCM_RIGHTS that is long enough carries a descriptor that is ours now.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len >= libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize
        {
            let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
            return Ok(OwnedFd::from(File::from_raw_fd(fd)));
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the helper has sent no descriptor"))
}

fn unmount(path: &Path, lazily: bool) -> io::Result<()> {
    let target = c_string(path.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: the string is NUL-terminated and outlives the call.
    if unsafe { libc::umount2(target.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    let output = Command::new(HELPER).arg(if lazily { "-uz" } else { "-u" }).arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") { Err(io::Error::from_raw_os_error(libc::EBUSY)) } else { Err(io::Error::other(said)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_mountpoints_are_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = Mountpoint::check(&missing).unwrap_err().to_string();
        assert!(error.contains("does not exist") && error.contains("mkdir -p"), "{error}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Mountpoint::check(&file).unwrap_err().to_string().contains("is not a directory"));
        assert!(Mountpoint::check(Path::new("/proc")).unwrap_err().to_string().contains("in use"));
    }

    #[test]
    fn flags_for_the_kernel_and_for_the_helper() {
        let flags = Flags { read_only: true, allow_other: true, dev: true, ..Flags::default() };
        assert_eq!(flags.bits(), libc::MS_RDONLY | libc::MS_NOSUID);
        assert_eq!(flags.words().join(","), "default_permissions,ro,dev,nosuid,allow_other");
    }
}
