//! `allow_hosts`: which peers may connect.
//!
//! A value is `*`, a host name, an address, a network `10.0.0.0/8`, or either of the first two with lists in brackets:
//! `10.0.1.[1-15,20]`, `host[01-08,20-25].domain`. The key repeats; no value at all means everybody. Host names are
//! looked up once, at start.

use std::collections::HashSet;
use std::net::{IpAddr, ToSocketAddrs};

use ipnet::IpNet;
use tracing::warn;

/// What one pattern with brackets may expand to; a mistyped range must not fill the memory.
const MAX_EXPANSION: usize = 65_536;

/// A set of peers.
#[derive(Debug, Clone, Default)]
pub struct AllowHosts {
    /// `None` allows everybody.
    only: Option<Listed>,
}

#[derive(Debug, Clone, Default)]
struct Listed {
    addrs: HashSet<IpAddr>,
    nets: Vec<IpNet>,
}

impl AllowHosts {
    /// Everybody.
    pub fn any() -> AllowHosts {
        AllowHosts::default()
    }

    /// Reads the values of the `allow_hosts` keys. Values that cannot be understood or looked up are skipped with a
    /// warning: a typing error locks hosts out, it never lets them in. FastDFS does so with names that it cannot look up,
    /// and does not start over lists and networks that it does not understand.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> AllowHosts {
        let mut listed: Option<Listed> = None;
        for value in values {
            let value = value.trim();
            if value == "*" {
                return AllowHosts::any();
            }
            let listed = listed.get_or_insert_default();
            if let Ok(net) = value.parse::<IpNet>() {
                listed.nets.push(net.trunc());
                continue;
            }
            match expand(value) {
                Some(names) => names.iter().for_each(|n| listed.add_host(n)),
                None => warn!("allow_hosts = {value}: not understood, nobody is allowed by it"),
            }
        }
        AllowHosts { only: listed }
    }

    /// Whether this peer may connect.
    pub fn allows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        match &self.only {
            None => true,
            Some(l) => l.addrs.contains(&peer) || l.nets.iter().any(|n| n.contains(&peer)),
        }
    }
}

impl Listed {
    fn add_host(&mut self, host: &str) {
        if let Ok(ip) = host.parse::<IpAddr>() {
            self.addrs.insert(ip.to_canonical());
            return;
        }
        match (host, 0).to_socket_addrs() {
            Ok(found) => self.addrs.extend(found.map(|a| a.ip().to_canonical())),
            Err(e) => warn!("allow_hosts = {host}: {e}, skipped"),
        }
    }
}

/// Expands the bracket lists of a pattern; `None` if it is malformed or too large.
fn expand(pattern: &str) -> Option<Vec<String>> {
    let Some(open) = pattern.find('[') else { return Some(vec![pattern.to_owned()]) };
    let close = open + pattern[open..].find(']')?;
    let (head, list, tail) = (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
    let tails = expand(tail)?;
    let mut out = Vec::new();
    for item in list.split(',') {
        let item = item.trim();
        let (from, to) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (number(from)?, number(to)?);
        if first > last || out.len() + (last - first + 1) * tails.len() > MAX_EXPANSION {
            return None;
        }
        // `01-08` keeps its width.
        let width = if from.starts_with('0') { from.len() } else { 1 };
        for n in first..=last {
            out.extend(tails.iter().map(|t| format!("{head}{n:0width$}{t}")));
        }
    }
    Some(out)
}

/// A short decimal number; signs and long digit strings are not numbers here.
fn number(text: &str) -> Option<usize> {
    (text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn nothing_and_star_allow_everybody() {
        assert!(AllowHosts::parse([]).allows(ip("1.2.3.4")));
        assert!(AllowHosts::parse(["10.0.0.1", "*"]).allows(ip("1.2.3.4")));
    }

    #[test]
    fn addresses_networks_and_ranges() {
        let a = AllowHosts::parse(["10.0.1.[1-15,20]", "192.168.5.64/26", "fd00::/8", "127.0.0.1"]);
        for yes in ["10.0.1.1", "10.0.1.15", "10.0.1.20", "192.168.5.65", "fd12::1", "127.0.0.1", "::ffff:10.0.1.3"] {
            assert!(a.allows(ip(yes)), "{yes}");
        }
        for no in ["10.0.1.16", "10.0.2.1", "192.168.5.1", "fe80::1", "127.0.0.2"] {
            assert!(!a.allows(ip(no)), "{no}");
        }
    }

    #[test]
    fn names_expand_with_their_width() {
        assert_eq!(expand("host[08-10,2].lan").unwrap(), ["host08.lan", "host09.lan", "host10.lan", "host2.lan"]);
        assert_eq!(expand("a[1-2]b[3-4]").unwrap(), ["a1b3", "a1b4", "a2b3", "a2b4"]);
    }

    #[test]
    fn nonsense_allows_nobody() {
        for bad in ["10.0.0.[1-", "10.0.0.[5-1]", "10.0.0.[1-99999][1-99999]", "10.0.0.[a]", "[]"] {
            assert!(expand(bad).is_none(), "{bad}");
            assert!(!AllowHosts::parse([bad]).allows(ip("10.0.0.1")), "{bad}");
        }
    }
}
