//! Addresses of trackers as configurations write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The port of a tracker when none is given.
pub const DEFAULT_TRACKER_PORT: u16 = 22122;
/// The port of a storage when none is given.
pub const DEFAULT_STORAGE_PORT: u16 = 23000;

/// The address of a server: one host or several that are the same server, and a port.
///
/// Forms of FastDFS 6.16 (`tracker_server`): `10.0.0.1:22122`, `tracker.example:22122`, `10.0.0.1`,
/// `[fd00::1]:22122`, and `10.0.0.1,192.168.1.1:22122` for a server with two addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    hosts: Vec<String>,
    port: u16,
}

/// Why a text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the address of a server: {reason}; write HOST:PORT, or [IPV6]:PORT")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl ServerAddress {
    /// Reads an address that may lack its port.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let trimmed = text.trim();
        if trimmed.parse::<IpAddr>().is_ok() {
            return Ok(Self { hosts: vec![trimmed.to_owned()], port: default_port });
        }
        let (hosts, port) = match trimmed.rsplit_once(':') {
            // A colon inside brackets does not begin a port.
            Some((hosts, port)) if !port.contains(']') => {
                let port = port.trim().parse::<u16>().ok().filter(|&port| port != 0);
                (hosts, port.ok_or_else(|| error("the port is not a number from 1 to 65535"))?)
            }
            _ => (trimmed, default_port),
        };
        let hosts = hosts.split(',').map(str::trim).map(|host| {
            let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
            let plain = inner.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            if inner.is_empty() {
                Err(error("there is no host"))
            } else if plain || inner.parse::<IpAddr>().is_ok() {
                Ok(inner.to_owned())
            } else {
                Err(error("the host is neither a name nor an address"))
            }
        });
        Ok(Self { hosts: hosts.collect::<Result<_, _>>()?, port })
    }

    /// The socket addresses, if all hosts are written as addresses.
    pub fn literal(&self) -> Option<Vec<SocketAddr>> {
        self.hosts.iter().map(|host| Some(SocketAddr::new(host.parse().ok()?, self.port))).collect()
    }

    /// Whether one of the hosts is `addr`, as written.
    pub fn contains(&self, addr: SocketAddr) -> bool {
        self.port == addr.port() && self.hosts.iter().any(|host| host.parse() == Ok(addr.ip()))
    }

    /// The hosts and the port.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&str, u16)> {
        self.hosts.iter().map(|host| (host.as_str(), self.port))
    }

    /// The socket addresses, asking the name service for hosts that are names.
    pub async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        let mut addrs = Vec::new();
        for (host, port) in self.hosts() {
            addrs.extend(tokio::net::lookup_host((host, port)).await?);
        }
        Ok(addrs)
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    /// Reads the address of a tracker.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, DEFAULT_TRACKER_PORT)
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(addr: SocketAddr) -> Self {
        Self { hosts: vec![addr.ip().to_string()], port: addr.port() }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, host) in self.hosts.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if host.contains(':') {
                write!(f, "{comma}[{host}]")?;
            } else {
                write!(f, "{comma}{host}")?;
            }
        }
        write!(f, ":{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, shown) in [
            ("10.0.0.1:22123", "10.0.0.1:22123"),
            ("10.0.0.1", "10.0.0.1:22122"),
            (" tracker-1.example ", "tracker-1.example:22122"),
            ("[fd00::1]:5", "[fd00::1]:5"),
            ("fd00::1", "[fd00::1]:22122"),
            ("[fd00::1]", "[fd00::1]:22122"),
            ("10.0.0.1,192.168.0.1:22122", "10.0.0.1,192.168.0.1:22122"),
            ("10.0.0.1, [fd00::1]:7", "10.0.0.1,[fd00::1]:7"),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
    }

    #[test]
    fn not_addresses() {
        for text in ["", ":22122", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "a b:1", "a,:1", "host:x", "a/b"] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert!(error.to_string().contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn literals() {
        let two: ServerAddress = "10.0.0.1,10.0.0.2:1".parse().unwrap();
        assert_eq!(two.literal().unwrap().len(), 2);
        assert!(two.contains("10.0.0.2:1".parse().unwrap()));
        assert!(!two.contains("10.0.0.2:2".parse().unwrap()));
        assert_eq!("localhost:1".parse::<ServerAddress>().unwrap().literal(), None);
        let addr: SocketAddr = "[fd00::1]:9".parse().unwrap();
        assert_eq!(ServerAddress::from(addr).literal(), Some(vec![addr]));
    }
}
