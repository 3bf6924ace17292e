//! The servers of a run: real processes, each on a host of its own, each storage on a disk of its own.
//!
//! A storage's base path and store paths are on one small tmpfs: that it is full, or lost, touches nothing else.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fdfs_client::{ClientConfig, GroupName};

use crate::mount;
use crate::netns::{Host, Net};
use crate::programs;

/// Size of a storage's disk.
const DISK: u64 = 256 << 20;
/// How long a server that was asked to end may take.
const LEAVE: Duration = Duration::from_secs(20);
const TRACKER_PORT: u16 = 22122;
const STORAGE_PORT: u16 = 23000;

/// How many servers there are.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Trackers.
    pub trackers: usize,
    /// Groups.
    pub groups: usize,
    /// Storages in each group.
    pub members: usize,
}

impl Shape {
    /// Servers together. They are the first hosts of the network: trackers, then the storages group by group.
    pub fn servers(&self) -> usize {
        self.trackers + self.groups * self.members
    }

    /// The host of the program that uses the client library.
    pub fn client(&self) -> usize {
        self.servers()
    }

    /// The host of the mount.
    pub fn mount(&self) -> usize {
        self.servers() + 1
    }

    /// The servers that are storages.
    pub fn storages(&self) -> std::ops::Range<usize> {
        self.trackers..self.servers()
    }

    /// What a host is called.
    pub fn name(&self, host: usize) -> String {
        if host < self.trackers {
            format!("tracker{}", host + 1)
        } else if host < self.servers() {
            let i = host - self.trackers;
            format!("group{}-{}", i / self.members + 1, i % self.members + 1)
        } else if host == self.client() {
            "client".to_owned()
        } else {
            "mount".to_owned()
        }
    }
}

/// Trackers and storages, and the network between them. Dropping it ends and removes them.
#[derive(Debug)]
pub struct Fleet {
    shape: Shape,
    servers: Vec<Server>,
    // After the processes in it.
    net: Net,
    dir: PathBuf,
}

#[derive(Debug)]
struct Server {
    name: String,
    program: &'static str,
    conf: PathBuf,
    log: PathBuf,
    /// How far the server's wall clock is ahead.
    clock: PathBuf,
    disk: Option<Disk>,
    child: Option<Child>,
}

impl Fleet {
    /// Writes the configurations under `dir`, and starts everything. The storages may still be joining.
    ///
    /// `ack_members` is written into `storage.conf` where it is given.
    ///
    /// # Errors
    /// When a namespace, a disk or a process cannot be made.
    pub fn start(dir: &Path, shape: Shape, ack_members: Option<u32>) -> Result<Fleet> {
        sweep_disks(dir.parent().unwrap_or(dir));
        let net = Net::new(shape.servers() + 2)?;
        let mut fleet = Fleet { shape, servers: Vec::new(), net, dir: dir.to_owned() };
        let trackers: String = (0..shape.trackers).map(|i| format!("tracker_server = {}\n", fleet.addr(i))).collect();
        fs::create_dir_all(dir.join("client"))?;
        fs::write(
            fleet.client_conf(),
            format!(
                "{trackers}base_path = {}\nconnect_timeout = 2\nnetwork_timeout = 5\n",
                dir.join("client").display()
            ),
        )?;
        for i in 0..shape.servers() {
            let name = shape.name(i);
            let home = dir.join(&name);
            let conf = home.join("server.conf");
            let ip = fleet.net.host(i).addr();
            let (program, disk, text) = if i < shape.trackers {
                fs::create_dir_all(home.join("base"))?;
                let text = format!(
                    "bind_addr = {ip}\nport = {TRACKER_PORT}\nbase_path = {}\nreserved_storage_space = 0.1%\n\
                     store_lookup = 0\ncheck_active_interval = 5\nconnect_timeout = 2\nnetwork_timeout = 10\n",
                    home.join("base").display()
                );
                ("fdfs_trackerd", None, text)
            } else {
                let disk = Disk::make(&home.join("disk"))?;
                let at = disk.path.display();
                let mut text = format!(
                    "bind_addr = {ip}\nport = {STORAGE_PORT}\ngroup_name = {}\nbase_path = {at}/base\n\
                     store_path_count = 2\nstore_path0 = {at}/p0\nstore_path1 = {at}/p1\nsubdir_count_per_path = 4\n\
                     thread_stack_size = 512KB\nheart_beat_interval = 1\nstat_report_interval = 2\n\
                     connect_timeout = 2\nnetwork_timeout = 10\n{trackers}",
                    fleet.group(i),
                );
                if let Some(members) = ack_members {
                    text.push_str(&format!("ack_members = {members}\nack_timeout = 4\n"));
                }
                ("fdfs_storaged", Some(disk), text)
            };
            fs::write(&conf, text)?;
            let (log, clock) = (home.join("log"), home.join("clock"));
            fleet.servers.push(Server { log, clock, name, program, conf, disk, child: None });
            fleet.set_clock(i, 0)?;
            fleet.run(i)?;
        }
        Ok(fleet)
    }

    /// How many servers there are.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// A host.
    pub fn host(&self, i: usize) -> &Host {
        self.net.host(i)
    }

    /// Where a server listens.
    pub fn addr(&self, i: usize) -> SocketAddr {
        let port = if i < self.shape.trackers { TRACKER_PORT } else { STORAGE_PORT };
        (self.net.host(i).addr(), port).into()
    }

    /// The group that a storage belongs to.
    pub fn group(&self, storage: usize) -> String {
        format!("group{}", (storage - self.shape.trackers) / self.shape.members + 1)
    }

    /// The storages of a group.
    pub fn members(&self, group: &GroupName) -> Vec<usize> {
        self.shape.storages().filter(|i| self.group(*i) == group.as_str()).collect()
    }

    /// The store paths of a storage.
    pub fn store_paths(&self, storage: usize) -> Vec<PathBuf> {
        let disk = self.servers[storage].disk.as_ref();
        disk.map(|disk| vec![disk.path.join("p0"), disk.path.join("p1")]).unwrap_or_default()
    }

    /// The first file of a storage's binlog; no run fills it.
    fn binlog(&self, storage: usize) -> PathBuf {
        self.dir.join(self.shape.name(storage)).join("disk/base/data/sync/binlog.000")
    }

    /// A client configuration for this cluster.
    pub fn client_conf(&self) -> PathBuf {
        self.dir.join("client.conf")
    }

    /// The same as settings.
    ///
    /// # Errors
    /// When the file is not there any more.
    pub fn client_config(&self) -> Result<ClientConfig> {
        Ok(ClientConfig::load(&self.client_conf())?)
    }

    /// Starts a server that does not run.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn run(&mut self, i: usize) -> Result<()> {
        let server = &mut self.servers[i];
        if server.child.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&server.log)?;
        let mut command = programs::command(server.program);
        command.arg("-N").arg(&server.conf).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env("LD_PRELOAD", programs::path(programs::CLOCK)).env("FDFS_TEST_CLOCK", &server.clock);
        let child = self.net.host(i).inside(&mut command).spawn();
        server.child = Some(child.with_context(|| format!("{} cannot be started", server.name))?);
        Ok(())
    }

    /// Sends a signal to a server, if it runs.
    pub fn signal(&self, i: usize, signal: i32) {
        if let Some(child) = &self.servers[i].child {
            // SAFETY: plain system call on a child that was not waited for yet.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
    }

    /// Kills a server with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self, i: usize) -> Result<()> {
        self.signal(i, libc::SIGKILL);
        if let Some(mut child) = self.servers[i].child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Waits for the end of a server that was sent SIGTERM.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn await_end(&mut self, i: usize) -> Result<()> {
        let server = &mut self.servers[i];
        let Some(mut child) = server.child.take() else { return Ok(()) };
        let ended = mount::wait(&mut child, LEAVE);
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let status = ended.with_context(|| format!("{} was sent SIGTERM", server.name))?;
        if !status.success() {
            bail!("{} was sent SIGTERM and ended with {status}", server.name);
        }
        Ok(())
    }

    /// The servers that ended although nobody asked them to, in words.
    pub fn casualties(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for server in &mut self.servers {
            if let Some(child) = &mut server.child
                && let Ok(Some(status)) = child.try_wait()
            {
                server.child = None;
                found.push(format!("{} ended by itself with {status}; see {}", server.name, server.log.display()));
            }
        }
        found
    }

    /// Takes all free space of a storage's disk.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn fill_disk(&self, i: usize) -> Result<()> {
        self.servers[i].disk.as_ref().map_or(Ok(()), Disk::fill)
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn free_disk(&self, i: usize) -> Result<()> {
        self.servers[i].disk.as_ref().map_or(Ok(()), |disk| disk.resize(DISK))
    }

    /// Removes everything from the disk of a storage that does not run.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn lose_disk(&self, i: usize) -> Result<()> {
        let Some(disk) = &self.servers[i].disk else { return Ok(()) };
        let records = self.records(i)?;
        fs::write(lost_records(disk), [&records[..], b"\n"].concat())?;
        disk.wipe()
    }

    /// The binlog of a storage, and before it those that it lost.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn records(&self, i: usize) -> io::Result<Vec<u8>> {
        let mut records = Vec::new();
        let lost = self.servers[i].disk.as_ref().map(lost_records);
        for path in lost.into_iter().chain([self.binlog(i)]) {
            match fs::read(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => records.extend(other?),
            }
        }
        Ok(records)
    }

    /// Sets the wall clock of a server that many seconds ahead of the machine's.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn set_clock(&self, i: usize, ahead: i64) -> Result<()> {
        // In one write, into the file that the server has mapped.
        let clock = File::options().create(true).truncate(false).write(true).open(&self.servers[i].clock)?;
        Ok(clock.write_all_at(&ahead.to_ne_bytes(), 0)?)
    }

    /// Copies what is on the disks beside them, to outlive this process.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn keep_disks(&self) -> Result<()> {
        for server in &self.servers {
            if let Some(disk) = &server.disk {
                let to = disk.path.with_extension("kept");
                let status = std::process::Command::new("cp").arg("-a").arg(&disk.path).arg(&to).status()?;
                if !status.success() {
                    bail!("cp -a {} {}: {status}", disk.path.display(), to.display());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for i in 0..self.servers.len() {
            let _ = self.kill(i);
        }
    }
}

/// Where the binlogs are that were on a disk when it was lost.
fn lost_records(disk: &Disk) -> PathBuf {
    disk.path.with_extension("lost")
}

/// A tmpfs; unmounted when dropped.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn make(path: &Path) -> Result<Disk> {
        fs::create_dir_all(path)?;
        mount_tmpfs(path, DISK, 0)?;
        let disk = Disk { path: path.to_owned() };
        disk.furnish()?;
        Ok(disk)
    }

    fn furnish(&self) -> Result<()> {
        for dir in ["base", "p0", "p1"] {
            fs::create_dir_all(self.path.join(dir))?;
        }
        Ok(())
    }

    /// Shrinks it to what is used: as a file that takes the rest would, without taking memory.
    fn fill(&self) -> Result<()> {
        // What is used grows meanwhile, and the kernel then refuses.
        let mut refused = None;
        for _ in 0..100 {
            let stat = rustix::fs::statvfs(&self.path)?;
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            match self.resize(used.max(stat.f_frsize)) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| anyhow::anyhow!("cannot fill {}", self.path.display())))
    }

    fn resize(&self, size: u64) -> Result<()> {
        mount_tmpfs(&self.path, size, libc::MS_REMOUNT)
    }

    fn wipe(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path)? {
            fs::remove_dir_all(entry?.path())?;
        }
        self.furnish()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.path);
    }
}

fn mount_tmpfs(path: &Path, size: u64, flags: libc::c_ulong) -> Result<()> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    let options = CString::new(format!("size={size}"))?;
    // SAFETY: all strings are valid and end with NUL.
    match unsafe {
        libc::mount(c"fdfs-disk".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast())
    } {
        0 => Ok(()),
        _ => {
            Err(std::io::Error::last_os_error()).with_context(|| format!("tmpfs of {size} bytes at {}", path.display()))
        }
    }
}

fn detach(path: &Path) {
    if let Ok(path) = CString::new(path.as_os_str().as_bytes()) {
        // SAFETY: the path is a valid C string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// What directories of runs are called: this, and the process ID.
pub const RUN: &str = "fdfs-torture-";

/// Unmounts what runs that died have left mounted under `dir`.
fn sweep_disks(dir: &Path) {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return };
    for point in table.lines().filter_map(|line| line.split(' ').nth(4)) {
        let Ok(below) = Path::new(point).strip_prefix(dir) else { continue };
        let Some(run) = below.components().next().and_then(|first| first.as_os_str().to_str()) else { continue };
        let Some(owner) = run.strip_prefix(RUN).and_then(|rest| rest.split('-').next()) else { continue };
        if !owner.is_empty() && !Path::new("/proc").join(owner).exists() {
            detach(Path::new(point));
        }
    }
}
