//! Tracker and storage as child processes on this machine, on ports that were free.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::programs;

/// How long a daemon may take to serve. Generous: it only bounds a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// One tracker and one storage under a directory.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    tracker: Daemon,
    storage: Daemon,
}

/// A daemon in the foreground; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    program: &'static str,
    conf: PathBuf,
    addr: SocketAddr,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that was not started yet; `addr` is where `conf` has it listen.
    pub fn new(program: &'static str, conf: PathBuf, addr: SocketAddr) -> Daemon {
        Daemon { program, conf, addr, child: None }
    }

    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends instead, or does not accept in time.
    pub fn start(&mut self) -> Result<()> {
        let mut child = programs::command(self.program).arg("-N").arg(&self.conf).stdin(Stdio::null()).spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}", self.program);
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                bail!("{} does not accept connections within {PATIENCE:?}", self.program);
            }
            // Nothing tells when another process begins to listen.
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        Ok(())
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
    }

    /// Stops it (SIGTERM) and waits for its end.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
    }

    fn signal(&mut self, signal: i32) {
        if let Some(mut child) = self.child.take() {
            // SAFETY: plain system call on a child that was not waited for yet.
            unsafe { libc::kill(child.id() as i32, signal) };
            let _ = child.wait();
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Process ID while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Cluster {
    /// Makes the configuration under `dir` and starts both daemons; returns when an upload succeeds.
    ///
    /// # Errors
    /// When a daemon does not start, or the storage does not become active.
    pub fn start(dir: &Path) -> Result<Cluster> {
        let (tracker_addr, storage_addr) = (free_addr()?, free_addr()?);
        for d in ["tracker", "storage", "client"] {
            std::fs::create_dir_all(dir.join(d))?;
        }
        let tracker_conf = dir.join("tracker.conf");
        std::fs::write(
            &tracker_conf,
            format!(
                "bind_addr = 127.0.0.1\nport = {}\nbase_path = {}\nreserved_storage_space = 0.1%\n",
                tracker_addr.port(),
                dir.join("tracker").display()
            ),
        )?;
        let storage_conf = dir.join("storage.conf");
        std::fs::write(
            &storage_conf,
            format!(
                "bind_addr = 127.0.0.1\nport = {}\ngroup_name = group1\nbase_path = {base}\nstore_path_count = 1\n\
                 store_path0 = {base}\nsubdir_count_per_path = 4\ntracker_server = {tracker_addr}\n\
                 thread_stack_size = 512KB\nheart_beat_interval = 1\n",
                storage_addr.port(),
                base = dir.join("storage").display()
            ),
        )?;
        std::fs::write(
            dir.join("client.conf"),
            format!(
                "tracker_server = {tracker_addr}\nbase_path = {}\nconnect_timeout = 2\nnetwork_timeout = 5\n",
                dir.join("client").display()
            ),
        )?;
        let mut cluster = Cluster {
            dir: dir.to_owned(),
            tracker: Daemon::new("fdfs_trackerd", tracker_conf, tracker_addr),
            storage: Daemon::new("fdfs_storaged", storage_conf, storage_addr),
        };
        cluster.tracker.start()?;
        cluster.storage.start()?;
        cluster.await_usable()?;
        Ok(cluster)
    }

    /// Waits until an upload succeeds.
    ///
    /// # Errors
    /// When none does in time; the last failure is in the text.
    pub fn await_usable(&self) -> Result<()> {
        let probe = self.dir.join("probe");
        std::fs::File::create(&probe)?.write_all(b"probe")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let out = programs::command("fdfs_upload_file").arg(self.client_conf()).arg(&probe).output()?;
            if out.status.success() {
                let id = String::from_utf8(out.stdout)?;
                programs::command("fdfs_delete_file").arg(self.client_conf()).arg(id.trim()).status()?;
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no upload succeeds within {PATIENCE:?}: {}", String::from_utf8_lossy(&out.stderr));
            }
            // The storage becomes active with its next beat; nothing announces it to a bystander.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The tracker.
    pub fn tracker(&mut self) -> &mut Daemon {
        &mut self.tracker
    }

    /// The storage.
    pub fn storage(&mut self) -> &mut Daemon {
        &mut self.storage
    }

    /// A client configuration for this cluster.
    pub fn client_conf(&self) -> PathBuf {
        self.dir.join("client.conf")
    }

    /// The storage's directory of files.
    pub fn stored_files(&self) -> PathBuf {
        self.dir.join("storage/data")
    }
}

/// An address on which nothing listens at this moment.
///
/// # Errors
/// When no port is free.
pub fn free_addr() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?)
}
