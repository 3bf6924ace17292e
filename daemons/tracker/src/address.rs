//! Addresses of storages and trackers: one, or two of different kinds.
//!
//! A machine may be known by an inner and an outer address. Each client is told the one that fits its own kind of
//! address (FastDFS 6.16; kinds are the private IPv4 blocks and "everything else").

use std::fmt;
use std::net::IpAddr;

/// The kinds of address that matter when one of two must be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 10.0.0.0/8.
    Private10,
    /// 172.16.0.0/12.
    Private172,
    /// 192.168.0.0/16.
    Private192,
    /// Everything else, IPv6 included.
    Outer,
}

impl Kind {
    /// The kind of an address.
    pub fn of(ip: IpAddr) -> Kind {
        match ip {
            IpAddr::V4(v4) => match v4.octets() {
                [10, ..] => Kind::Private10,
                [172, b, ..] if (16..32).contains(&b) => Kind::Private172,
                [192, 168, ..] => Kind::Private192,
                _ => Kind::Outer,
            },
            IpAddr::V6(_) => Kind::Outer,
        }
    }
}

/// One or two addresses of a machine; of two, the inner one comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    first: IpAddr,
    second: Option<IpAddr>,
}

impl Addresses {
    /// A machine with one address.
    pub fn one(ip: IpAddr) -> Addresses {
        Addresses { first: ip, second: None }
    }

    /// A machine with two addresses; they must be of different kinds, and the inner one is put first.
    pub fn two(a: IpAddr, b: IpAddr) -> Option<Addresses> {
        if Kind::of(a) == Kind::of(b) {
            return None;
        }
        let (first, second) = if Kind::of(a) == Kind::Outer { (b, a) } else { (a, b) };
        Some(Addresses { first, second: Some(second) })
    }

    /// The first (inner) address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// All addresses, the inner one first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        std::iter::once(self.first).chain(self.second)
    }

    /// Whether `ip` is one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first == ip || self.second == Some(ip)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Addresses) -> bool {
        other.iter().any(|ip| self.contains(ip))
    }

    /// The address to tell a peer: the one of the peer's own kind, else the first.
    pub fn for_peer(&self, peer: IpAddr) -> IpAddr {
        match self.second {
            Some(second) if Kind::of(second) == Kind::of(peer) => second,
            _ => self.first,
        }
    }

    /// Adds an address if there is room and it is new.
    pub fn extend(&mut self, ip: IpAddr) {
        if self.second.is_none() && self.first != ip {
            self.second = Some(ip);
        }
    }
}

/// `a` or `a,b`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if let Some(second) = self.second {
            write!(f, ",{second}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn kinds() {
        for (text, kind) in [
            ("10.0.0.1", Kind::Private10),
            ("11.0.0.1", Kind::Outer),
            ("172.15.0.1", Kind::Outer),
            ("172.16.0.1", Kind::Private172),
            ("172.31.255.255", Kind::Private172),
            ("172.32.0.1", Kind::Outer),
            ("192.168.3.4", Kind::Private192),
            ("192.169.3.4", Kind::Outer),
            ("fd77::36", Kind::Outer),
        ] {
            assert_eq!(Kind::of(ip(text)), kind, "{text}");
        }
    }

    #[test]
    fn two_addresses_inner_first_and_chosen_by_kind() {
        let a = Addresses::two(ip("8.8.8.8"), ip("10.0.0.1")).unwrap();
        assert_eq!(a.to_string(), "10.0.0.1,8.8.8.8");
        assert_eq!(a.for_peer(ip("10.9.9.9")), ip("10.0.0.1"));
        assert_eq!(a.for_peer(ip("9.9.9.9")), ip("8.8.8.8"));
        assert_eq!(a.for_peer(ip("192.168.0.1")), ip("10.0.0.1"), "no match: the first");
        assert!(Addresses::two(ip("10.0.0.1"), ip("10.0.0.2")).is_none(), "same kind");
        let b = Addresses::two(ip("192.168.0.1"), ip("10.0.0.1")).unwrap();
        assert_eq!(b.first(), ip("192.168.0.1"), "two inner ones keep their order");
    }
}
