//! Lines of `storage_ids.conf`, which are also the answer of FETCH_STORAGE_IDS.

use std::fmt;
use std::str::FromStr;

use super::LineError;
use crate::names::{GroupName, StorageId};
use crate::stat::RwMode;

/// Host of a storage: a name to be resolved, or an address.
pub type StorageHost = String;

/// One storage: `id group host[,host2][:port] [rw=both|read|write|none]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageIdLine {
    /// Its id, the decimal text of 1 to 16777215.
    pub id: StorageId,
    /// Its group.
    pub group: GroupName,
    /// Its host.
    pub host: StorageHost,
    /// Another address of the same storage.
    pub other_host: Option<StorageHost>,
    /// Its port, if the line gives one.
    pub port: Option<u16>,
    /// What clients may do there.
    pub rw: RwMode,
}

impl StorageIdLine {
    /// Reads the lines of a table; empty lines and comments are passed over.
    pub fn parse_all(text: &str) -> Result<Vec<StorageIdLine>, LineError> {
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::parse).collect()
    }

    /// The id as a number.
    pub fn number(&self) -> u32 {
        self.id.as_str().parse().unwrap_or_default()
    }
}

impl FromStr for StorageIdLine {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        parse(line).ok_or_else(|| LineError::new("storage id", line))
    }
}

fn parse(line: &str) -> Option<StorageIdLine> {
    let mut words = line.split_whitespace();
    let (id, group, address) = (words.next()?, words.next()?, words.next()?);
    let number: u32 = id.parse().ok()?;
    let plain = !id.starts_with(['0', '+']);
    if !plain || number > crate::file_id::Source::MAX_ID {
        return None;
    }
    let mut rw = RwMode::Both;
    for option in words {
        rw = rw_mode(option.strip_prefix("rw=")?)?;
    }
    let (hosts, port) = split_port(address)?;
    let mut hosts = hosts.split(',').map(|host| host.trim_matches(['[', ']']));
    let host = hosts.next().filter(|host| !host.is_empty())?;
    let other_host = hosts.next();
    if hosts.next().is_some() || other_host.is_some_and(str::is_empty) {
        return None;
    }
    Some(StorageIdLine {
        id: id.parse().ok()?,
        group: group.parse().ok()?,
        host: host.to_owned(),
        other_host: other_host.map(str::to_owned),
        port,
        rw,
    })
}

/// Splits a port off; the colons of an IPv6 address are inside brackets or alone.
fn split_port(address: &str) -> Option<(&str, Option<u16>)> {
    if address.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((address, None));
    }
    match address.rsplit_once(':') {
        Some((_, inside)) if inside.contains(']') => Some((address, None)),
        Some((hosts, port)) => Some((hosts, Some(port.parse().ok().filter(|port| *port > 0)?))),
        None => Some((address, None)),
    }
}

fn rw_mode(text: &str) -> Option<RwMode> {
    match text {
        "both" | "all" => Some(RwMode::Both),
        "read" | "readonly" => Some(RwMode::Read),
        "write" | "writeonly" => Some(RwMode::Write),
        "none" => Some(RwMode::None),
        _ => None,
    }
}

impl fmt::Display for StorageIdLine {
    /// The line without a newline, as FETCH_STORAGE_IDS gives it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.id, self.group)?;
        let v6 = |host: &str| host.contains(':');
        let other = self.other_host.as_deref();
        let brackets = v6(&self.host) || other.is_some_and(v6);
        f.write_str(if brackets { "[" } else { "" })?;
        f.write_str(&self.host)?;
        if let Some(other) = other {
            write!(f, ",{other}")?;
        }
        f.write_str(if brackets { "]" } else { "" })?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.rw {
            RwMode::Both => Ok(()),
            RwMode::Read => f.write_str(" rw=read"),
            RwMode::Write => f.write_str(" rw=write"),
            RwMode::None => f.write_str(" rw=none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines() {
        for text in [
            "100001 group1 10.0.0.1",
            "100001 group1 10.0.0.1:23000",
            "100001 group1 10.0.0.1,192.168.0.1:23000 rw=read",
            "200001 group1 [fd77::36]:23000",
            "200001 group1 [fd77::36] rw=none",
            "1 g storage-a.example rw=write",
        ] {
            let line: StorageIdLine = text.parse().unwrap();
            assert_eq!(line.to_string(), text);
        }
        let line: StorageIdLine = "7  g \t fd77::36   rw=all".parse().unwrap();
        assert_eq!((line.number(), line.host.as_str(), line.rw), (7, "fd77::36", RwMode::Both));
    }

    #[test]
    fn bad_lines() {
        for text in [
            "",
            "1",
            "1 g",
            "0 g h",
            "01 g h",
            "+1 g h",
            "16777216 g h",
            "x g h",
            "1 g-1 h",
            "1 g h:0",
            "1 g h:x",
            "1 g ,h",
            "1 g a,b,c",
            "1 g a,",
            "1 g h rw=maybe",
            "1 g h more",
        ] {
            assert!(text.parse::<StorageIdLine>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn tables() {
        let table = "# id group host\n\n1 g a\n 2 g b\n";
        assert_eq!(StorageIdLine::parse_all(table).unwrap().len(), 2);
        let error = StorageIdLine::parse_all("1 g a\nnonsense\n").unwrap_err().to_string();
        assert_eq!(error, "storage id: cannot read line `nonsense`");
    }

    proptest! {
        #[test]
        fn any_line(text in "([0-9]{1,8} [a-z0-9]{1,17} )?\\PC{0,40}") {
            if let Ok(line) = text.parse::<StorageIdLine>() {
                prop_assert_eq!(line.to_string().parse(), Ok(line));
            }
        }
    }
}
