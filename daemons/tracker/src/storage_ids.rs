//! `storage_ids.conf`: the table of storage ids, groups and addresses.
//!
//! One line per storage: `id group host[,host2][:port] [rw=MODE]`. Ids are unique decimal numbers, and no two lines
//! have an (address, port) in common; a table that breaks a rule is refused as a whole, with file and line.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use fdfs_protocol::datafile::StorageIdLine;
use fdfs_protocol::file_id::Source;
use fdfs_protocol::names::{GroupName, StorageId};
use fdfs_protocol::stat::RwMode;

use crate::address::Addresses;

/// Port of a line that names none.
const DEFAULT_PORT: u16 = 23000;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id, decimal without leading zeros.
    pub id: StorageId,
    /// The same as a number.
    pub number: u32,
    /// The group the storage belongs to.
    pub group: GroupName,
    /// One or two addresses.
    pub addresses: Addresses,
    /// The port it listens on.
    pub port: u16,
    /// What clients may do there.
    pub rw: RwMode,
}

/// As FETCH_STORAGE_IDS sends it, without the line end.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hosts = self.addresses.iter().map(|ip| ip.to_string());
        let line = StorageIdLine {
            id: self.id,
            group: self.group,
            host: hosts.next().unwrap_or_default(),
            other_host: hosts.next(),
            port: Some(self.port),
            rw: self.rw,
        };
        line.fmt(f)
    }
}

/// Why a table is refused.
#[derive(Debug, thiserror::Error)]
pub enum IdsError {
    /// The file cannot be read.
    #[error("storage_ids_filename = {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong, with the value.
        reason: String,
    },
    /// No entry at all.
    #[error("{}: no storage id in it (use_storage_id = true needs at least one)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The whole table, sorted by the text of the id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdTable {
    entries: Vec<Entry>,
}

impl IdTable {
    /// Reads a table; host names are resolved now, once.
    pub fn load(path: &Path) -> Result<IdTable, IdsError> {
        let text = std::fs::read_to_string(path).map_err(|source| IdsError::Read { path: path.into(), source })?;
        IdTable::parse(path, &text, resolve)
    }

    /// Parses a table; `resolve` turns a host name into an address.
    pub fn parse(path: &Path, text: &str, resolve: impl Fn(&str) -> Option<IpAddr>) -> Result<IdTable, IdsError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut ids: HashSet<StorageId> = HashSet::new();
        let mut endpoints: HashMap<(IpAddr, u16), StorageId> = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |reason| IdsError::Line { path: path.into(), line: i + 1, reason };
            let entry = parse_line(line, &resolve).map_err(refuse)?;
            if !ids.insert(entry.id) {
                return Err(refuse(format!("id {} is already taken by a line above", entry.id)));
            }
            for ip in entry.addresses.iter() {
                if let Some(twin) = endpoints.insert((ip, entry.port), entry.id) {
                    return Err(refuse(format!("{ip}, port {} is already the address of id {twin}", entry.port)));
                }
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(IdsError::Empty { path: path.into() });
        }
        entries.sort_by_key(|e| e.id);
        Ok(IdTable { entries })
    }

    /// All entries, sorted by the text of the id.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of an id.
    pub fn by_id(&self, id: &StorageId) -> Option<&Entry> {
        self.entries.binary_search_by(|e| e.id.cmp(id)).ok().map(|i| &self.entries[i])
    }

    /// The entry of a storage of a group that has this address and port.
    pub fn by_address(&self, group: &GroupName, ip: IpAddr, port: u16) -> Option<&Entry> {
        self.entries.iter().find(|e| e.group == *group && e.port == port && e.addresses.contains(ip))
    }

    /// The entry that has this address and port, in whatever group.
    pub fn by_endpoint(&self, ip: IpAddr, port: u16) -> Option<&Entry> {
        self.entries.iter().find(|e| e.port == port && e.addresses.contains(ip))
    }

    /// Whether any storage has an IPv6 address.
    pub fn has_ipv6(&self) -> bool {
        self.entries.iter().any(|e| e.addresses.iter().any(|ip| ip.is_ipv6()))
    }
}

fn parse_line(line: &str, resolve: &impl Fn(&str) -> Option<IpAddr>) -> Result<Entry, String> {
    // The option may be in any letter case.
    let parsed: Result<StorageIdLine, _> = match line.rsplit_once(char::is_whitespace) {
        Some((head, option)) if option.contains('=') => format!("{head} {}", option.to_ascii_lowercase()).parse(),
        _ => line.parse(),
    };
    let parsed = parsed.map_err(|e| {
        format!(
            "{e}; a line is `id group host[,host2][:port] [rw=both|read|write|none]`, the id a number from 1 to {} \
             without leading zeros",
            Source::MAX_ID
        )
    })?;
    let find = |h: &String| resolve(h).ok_or_else(|| format!("host \"{h}\" is neither an address nor a known name"));
    let first = find(&parsed.host)?;
    let addresses = match parsed.other_host.as_ref().map(find).transpose()? {
        None => Addresses::one(first),
        Some(other) => Addresses::two(first, other).ok_or_else(|| {
            format!("{first} and {other} are of the same kind; one must be an inner and one an outer address")
        })?,
    };
    Ok(Entry {
        id: parsed.id,
        number: parsed.number(),
        group: parsed.group,
        addresses,
        port: parsed.port.unwrap_or(DEFAULT_PORT),
        rw: parsed.rw,
    })
}

/// A server id as it may stand in the table and in a request.
pub fn parse_id(text: &str) -> Option<u32> {
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| (1..=Source::MAX_ID).contains(n))
}

fn resolve(host: &str) -> Option<IpAddr> {
    if let Ok(ip) = host.parse() {
        return Some(ip);
    }
    (host, 0).to_socket_addrs().ok()?.next().map(|a| a.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<IdTable, String> {
        IdTable::parse(Path::new("ids.conf"), text, |h| h.parse().ok()).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_all_forms() {
        let t = parse(
            "# comment\n\n  100002   group1  10.0.0.2\n100001\tgroup1 10.0.0.1,8.8.8.8:23001 rw=READ\n\
             9 group2 [fd77::36]:23000 rw=none\n10 group2 10.0.0.9 rw=writeonly\n",
        )
        .unwrap();
        let lines: Vec<String> = t.entries().iter().map(Entry::to_string).collect();
        assert_eq!(
            lines,
            [
                "10 group2 10.0.0.9:23000 rw=write",
                "100001 group1 10.0.0.1,8.8.8.8:23001 rw=read",
                "100002 group1 10.0.0.2:23000",
                "9 group2 [fd77::36]:23000 rw=none",
            ],
            "sorted by the text of the id"
        );
        assert!(t.has_ipv6());
        let group1 = "group1".parse().unwrap();
        assert_eq!(t.by_address(&group1, "8.8.8.8".parse().unwrap(), 23001).unwrap().number, 100001);
        assert!(t.by_address(&group1, "8.8.8.8".parse().unwrap(), 23000).is_none());
        assert_eq!(t.by_endpoint("fd77::36".parse().unwrap(), 23000).unwrap().number, 9);
        assert_eq!(t.by_id(&"100002".parse().unwrap()).unwrap().port, 23000);
        assert!(t.by_id(&"1".parse().unwrap()).is_none());
    }

    #[test]
    fn refuses_what_is_wrong_and_says_where() {
        for (text, part) in [
            ("", "no storage id"),
            ("# only comments\n", "no storage id"),
            ("100001 group1\n", "line 1"),
            ("\n0100001 group1 10.0.0.1\n", "line 2: storage id: cannot read line `0100001"),
            ("0 group1 10.0.0.1", "`0 group1 10.0.0.1`"),
            ("16777216 group1 10.0.0.1", "16777215"),
            ("1x group1 10.0.0.1", "`1x group1"),
            ("1 gr_oup 10.0.0.1", "gr_oup"),
            ("1 group1 nosuchhost", "nosuchhost"),
            ("1 group1 10.0.0.1:0", "10.0.0.1:0"),
            ("1 group1 10.0.0.1 rx=read", "rx=read"),
            ("1 group1 10.0.0.1 rw=maybe", "rw=maybe"),
            ("1 group1 10.0.0.1 rw=read more", "more"),
            ("1 group1 10.0.0.1,10.0.0.2", "same kind"),
            ("1 group1 10.0.0.1,8.8.8.8,9.9.9.9", "9.9.9.9"),
            ("1 group1 10.0.0.1\n1 group1 10.0.0.2", "line 2: id 1 is already taken"),
            (
                "1 group1 10.0.0.1\n2 group2 8.8.8.8,10.0.0.1",
                "line 2: 10.0.0.1, port 23000 is already the address of id 1",
            ),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains("ids.conf") && message.contains(part), "{text:?} -> {message}");
        }
    }
}
