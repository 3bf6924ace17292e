//! Network namespaces as hosts of one Ethernet: each has one address and a cable to a bridge.
//!
//! The bridge has a namespace of its own, so nothing appears among the machine's interfaces, addresses and routes, and
//! runs at the same time cannot meet. Two kinds of damage are offered:
//!
//! - a host's cable is pulled ([`Net::pull`]): its port of the bridge goes down;
//! - frames of one host to another vanish without a trace ([`Net::cut`]), in one direction: the sender is told a hardware
//!   address that nobody has. No firewall is needed, and neither side is told of an error, as with a broken switch.
//!
//! A process enters a host with `setns(2)` after its fork ([`Host::inside`]), not through `ip netns exec`: that makes a
//! mount namespace of its own, in which a mount made elsewhere would live on after its `umount`.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

/// Where iproute2 keeps the names of namespaces.
const NAMED: &str = "/run/netns";
/// What the names of all our namespaces begin with; the process ID follows.
const PREFIX: &str = "fdfs-net-";
/// A locally administered hardware address that no interface gets.
const NOBODY: &str = "02:00:00:00:00:fe";

/// The hosts of one run; removed when dropped.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    hosts: Vec<Host>,
}

/// A network namespace with one address.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    port: String,
    addr: Ipv4Addr,
    handle: Arc<File>,
}

impl Net {
    /// Hosts with the addresses 10.77.0.1 and on. What runs that died left behind is removed first.
    ///
    /// # Errors
    /// When namespaces cannot be made here: root and iproute2 are needed.
    pub fn new(hosts: usize) -> Result<Net> {
        sweep();
        // More than one in a process: tests run beside each other.
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut net =
            Net { prefix: format!("{PREFIX}{}-{number}-", std::process::id()), hosts: Vec::with_capacity(hosts) };
        let hub = net.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "hub", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "hub", "up"])?;
        for i in 1..=hosts {
            net.add(i)?;
        }
        Ok(net)
    }

    fn add(&mut self, i: usize) -> Result<()> {
        let (hub, namespace, port) = (self.hub(), format!("{}{i}", self.prefix), format!("port{i}"));
        let addr = Ipv4Addr::new(10, 77, 0, u8::try_from(i).context("too many hosts")?);
        ip(&["netns", "add", &namespace])?;
        let handle = Arc::new(File::open(Path::new(NAMED).join(&namespace))?);
        self.hosts.push(Host { namespace: namespace.clone(), port: port.clone(), addr, handle });
        ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["-n", &hub, "link", "set", &port, "master", "hub", "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{addr}/16"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// The host with that number, from 0.
    pub fn host(&self, i: usize) -> &Host {
        &self.hosts[i]
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Pulls the cable of a host.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn pull(&self, host: usize) -> Result<()> {
        ip(&["-n", &self.hub(), "link", "set", &self.hosts[host].port, "down"])
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn plug(&self, host: usize) -> Result<()> {
        ip(&["-n", &self.hub(), "link", "set", &self.hosts[host].port, "up"])
    }

    /// From now on, what `from` sends to `to` vanishes.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        let (from, to) = (&self.hosts[from], self.hosts[to].addr.to_string());
        ip(&["-n", &from.namespace, "neighbour", "replace", &to, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"])
    }

    /// Ends [`Net::cut`].
    ///
    /// # Errors
    /// When `ip` fails, as it does when there was no cut.
    pub fn mend(&self, from: usize, to: usize) -> Result<()> {
        let (from, to) = (&self.hosts[from], self.hosts[to].addr.to_string());
        ip(&["-n", &from.namespace, "neighbour", "delete", &to, "dev", "eth0"])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = ip(&["netns", "delete", &host.namespace]);
        }
        let _ = ip(&["netns", "delete", &self.hub()]);
    }
}

impl Host {
    /// Its address.
    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// Makes `command` run in this host, end when the thread that starts it does, and not hear Ctrl-C.
    pub fn inside<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.process_group(0);
        let handle = Arc::clone(&self.handle);
        // SAFETY: between fork and exec only system calls that are allowed there are made, and nothing is
        // allocated; the closure keeps the descriptor open.
        unsafe {
            command.pre_exec(move || {
                enter(handle.as_raw_fd())?;
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            })
        }
    }

    /// Runs `work` in a thread in this host.
    ///
    /// # Errors
    /// When the host cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = self.handle.as_raw_fd();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || enter(handle).map(|()| work()));
            match thread.join() {
                Ok(done) => Ok(done?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Moves the calling thread into a network namespace.
fn enter(handle: RawFd) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    match unsafe { libc::setns(handle, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether namespaces can be made here; tries it.
pub fn possible() -> bool {
    Net::new(1).is_ok()
}

/// Removes the namespaces of processes that are gone.
fn sweep() {
    let Ok(names) = std::fs::read_dir(NAMED) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(owner).exists() {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().context("ip cannot be run; install iproute2")?;
    if !out.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn connects(net: &Net, from: usize, to: SocketAddr) -> bool {
        net.host(from).run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()).unwrap()
    }

    /// Within some seconds: a link that came up, and a neighbour that did not answer, are noticed with a delay.
    fn connects_soon(net: &Net, from: usize, to: SocketAddr) -> bool {
        (0..20).any(|_| connects(net, from, to))
    }

    #[test]
    fn hosts_meet_until_they_are_cut_off() {
        if !crate::need::netns() {
            return;
        }
        let net = Net::new(3).unwrap();
        let listen = |i: usize| {
            let listener = net.host(i).run(|| TcpListener::bind((net.host(i).addr(), 7)).unwrap()).unwrap();
            let addr = listener.local_addr().unwrap();
            (listener, addr)
        };
        let (_first, first) = listen(0);
        let (_second, second) = listen(1);
        assert!(connects(&net, 1, first) && connects(&net, 0, second) && connects(&net, 2, first));

        net.pull(0).unwrap();
        assert!(!connects(&net, 1, first) && !connects(&net, 0, second) && connects(&net, 2, second));
        net.plug(0).unwrap();
        assert!(connects_soon(&net, 1, first) && connects_soon(&net, 0, second));

        // One direction is enough to keep a connection from being made, either way; nobody else is concerned.
        net.cut(0, 1).unwrap();
        assert!(!connects(&net, 1, first) && !connects(&net, 0, second));
        assert!(connects(&net, 2, first) && connects(&net, 2, second));
        net.mend(0, 1).unwrap();
        assert!(connects_soon(&net, 1, first) && connects_soon(&net, 0, second));
    }

    #[test]
    fn one_direction_still_carries_what_a_datagram_says() {
        if !crate::need::netns() {
            return;
        }
        let net = Net::new(2).unwrap();
        let socket = |i: usize| {
            let bound = net.host(i).run(|| std::net::UdpSocket::bind((net.host(i).addr(), 9)).unwrap()).unwrap();
            bound.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            bound
        };
        let (a, b) = (socket(0), socket(1));
        let arrives = |from: &std::net::UdpSocket, to: &std::net::UdpSocket| {
            from.send_to(b"x", to.local_addr().unwrap()).unwrap();
            to.recv(&mut [0; 8]).is_ok()
        };
        assert!(arrives(&a, &b) && arrives(&b, &a));
        net.cut(0, 1).unwrap();
        assert!(!arrives(&a, &b) && arrives(&b, &a));
    }
}
