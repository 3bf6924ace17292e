//! STORAGE_JOIN: how a storage introduces itself to a tracker.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use bytes::BufMut;

use crate::names::{GroupName, IpText, StorageId, TextError, Version};
use crate::stat::StorageStatus;
use crate::wire::{Cursor, Encode, WireError, utf8};

/// One tracker in the list of a joining storage: one or two addresses and a port, as
/// `ip:port`, `ip,ip:port` or `[ip6]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrackerAddress {
    /// The first address.
    pub ip: IpAddr,
    /// Another address of the same tracker.
    pub other: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl TrackerAddress {
    /// Where it can be reached, the first address first.
    pub fn addrs(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let port = self.port;
        std::iter::once(self.ip).chain(self.other).map(move |ip| SocketAddr::new(ip, port))
    }
}

impl FromStr for TrackerAddress {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let bad = TextError::NotAnAddress;
        let (hosts, port) = text.rsplit_once(':').ok_or(bad)?;
        let port = port.parse().map_err(|_| bad)?;
        // `[a,b]:port` and `[a],[b]:port` are both read.
        let ip = |text: &str| text.trim_matches(['[', ']']).parse().map_err(|_| bad);
        let (first, other) = match hosts.split_once(',') {
            Some((first, other)) => (first, Some(ip(other)?)),
            None => (hosts, None),
        };
        Ok(TrackerAddress { ip: ip(first)?, other, port })
    }
}

impl fmt::Display for TrackerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = self.ip.is_ipv6() || self.other.is_some_and(|ip| ip.is_ipv6());
        f.write_str(if v6 { "[" } else { "" })?;
        write!(f, "{}", self.ip)?;
        if let Some(other) = self.other {
            write!(f, ",{other}")?;
        }
        write!(f, "{}:{}", if v6 { "]" } else { "" }, self.port)
    }
}

/// Body of STORAGE_JOIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// The group it belongs to.
    pub group: GroupName,
    /// Its port.
    pub port: u16,
    /// Its store paths, 1 to 256.
    pub store_path_count: u16,
    /// Directories per level, 1 to 256.
    pub subdir_count_per_path: u16,
    /// The smaller, the earlier it is chosen.
    pub upload_priority: i64,
    /// When this data directory first joined, unix seconds.
    pub join_time: i64,
    /// When the process started, unix seconds.
    pub up_time: i64,
    /// Its version.
    pub version: Version,
    /// It has never got old data: a fresh server.
    pub fresh: bool,
    /// Its own status as a tracker last told it; `None` when it does not know.
    pub status: Option<StorageStatus>,
    /// Its id, when storage ids are in use.
    pub id: StorageId,
    /// The address under which it reached this tracker.
    pub tracker_ip: IpText,
    /// All trackers it knows, 1 to 16.
    pub trackers: Vec<TrackerAddress>,
}

impl JoinRequest {
    /// Length of the part before the tracker list.
    pub const FIXED_LEN: usize = 145;
    /// Most trackers there can be.
    pub const MAX_TRACKERS: usize = 16;
    /// Most store paths, and most directories per level.
    pub const MAX_PATHS: u16 = 256;
    const MAX_TRACKER_LINE: usize = 100;

    /// Reads the whole body.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("join", body);
        let group = GroupName::decode(c.take(17)?)?;
        let port = ranged(c.i64()?, "storage port", 1..=u16::MAX)?;
        let store_path_count = ranged(c.i64()?, "store path count", 1..=Self::MAX_PATHS)?;
        let subdir_count_per_path = ranged(c.i64()?, "subdir count", 1..=Self::MAX_PATHS)?;
        let upload_priority = c.i64()?;
        let join_time = c.i64()?;
        let up_time = c.i64()?;
        let version = Version::decode(c.take(8)?)?;
        let fresh = c.flag()?;
        // A signed byte: negative is "unknown".
        let status = match c.u8()? {
            code if code >= 0x80 => None,
            code => Some(StorageStatus::decode(code)?),
        };
        let id = StorageId::decode(c.take(16)?)?;
        let tracker_ip = IpText::decode(c.take(46)?)?;
        let count = ranged(c.i64()?, "tracker count", 1..=Self::MAX_TRACKERS as u16)?;
        let trackers = tracker_list(&mut c, count.into())?;
        Ok(JoinRequest {
            group,
            port,
            store_path_count,
            subdir_count_per_path,
            upload_priority,
            join_time,
            up_time,
            version,
            fresh,
            status,
            id,
            tracker_ip,
            trackers,
        })
    }
}

fn ranged(value: i64, what: &'static str, range: std::ops::RangeInclusive<u16>) -> Result<u16, WireError> {
    u16::try_from(value).ok().filter(|value| range.contains(value)).ok_or(WireError::Range { what, value })
}

fn tracker_list(c: &mut Cursor<'_>, count: usize) -> Result<Vec<TrackerAddress>, WireError> {
    let what = "tracker list";
    let bad_length = WireError::Length { what, got: c.left() };
    if c.left() > count * JoinRequest::MAX_TRACKER_LINE {
        return Err(bad_length);
    }
    let text = utf8(what, c.rest())?;
    // Some senders count the terminating zero byte as text.
    let text = text.trim_end_matches('\0');
    let lines = text.strip_suffix('\n').ok_or(bad_length)?;
    let trackers = lines
        .split('\n')
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| WireError::Text { what, reason })?;
    if trackers.len() == count { Ok(trackers) } else { Err(bad_length) }
}

impl Encode for JoinRequest {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode17(out);
        out.put_i64(self.port.into());
        out.put_i64(self.store_path_count.into());
        out.put_i64(self.subdir_count_per_path.into());
        out.put_i64(self.upload_priority);
        out.put_i64(self.join_time);
        out.put_i64(self.up_time);
        self.version.encode(out);
        out.put_u8(self.fresh.into());
        out.put_u8(self.status.map_or(0xff, StorageStatus::code));
        self.id.encode(out);
        self.tracker_ip.encode(46, out);
        out.put_u64(self.trackers.len() as u64);
        for tracker in &self.trackers {
            out.put_slice(format!("{tracker}\n").as_bytes());
        }
    }
}

/// Answer of STORAGE_JOIN, 17 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinReply {
    /// The status the storage has there now.
    pub status: StorageStatus,
    /// The storage it gets old data from, or none.
    pub source: StorageId,
}

impl JoinReply {
    /// Reads 17 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("join reply", body, 17)?;
        Ok(JoinReply { status: StorageStatus::decode(c.u8()?)?, source: StorageId::decode(c.take(16)?)? })
    }
}

impl Encode for JoinReply {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.status.code());
        self.source.encode(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tracker_addresses() {
        for text in ["10.0.0.1:22122", "10.0.0.1,192.168.1.1:80", "[fd77::36]:22122"] {
            assert_eq!(text.parse::<TrackerAddress>().unwrap().to_string(), text);
        }
        let pair: TrackerAddress = "[10.0.0.1,fd77::36]:1".parse().unwrap();
        assert_eq!(pair.to_string().parse(), Ok(pair));
        for text in ["", "10.0.0.1", "10.0.0.1:", "host:1", "10.0.0.1:70000"] {
            assert!(text.parse::<TrackerAddress>().is_err(), "{text}");
        }
    }

    fn join() -> impl Strategy<Value = JoinRequest> {
        let tracker = (any::<IpAddr>(), any::<Option<IpAddr>>(), any::<u16>())
            .prop_map(|(ip, other, port)| TrackerAddress { ip, other, port });
        (
            (1..=u16::MAX, 1u16..=256, 1u16..=256, any::<i64>(), any::<i64>(), any::<i64>()),
            (any::<bool>(), proptest::option::of(0u8..8), "[0-9]{0,15}"),
            proptest::collection::vec(tracker, 1..=16),
        )
            .prop_map(|((port, paths, subdirs, prio, join, up), (fresh, status, id), trackers)| JoinRequest {
                group: "group1".parse().unwrap(),
                port,
                store_path_count: paths,
                subdir_count_per_path: subdirs,
                upload_priority: prio,
                join_time: join,
                up_time: up,
                version: "6.16.1".parse().unwrap(),
                fresh,
                status: status.and_then(StorageStatus::from_code),
                id: id.parse().unwrap(),
                tracker_ip: IpText::NONE,
                trackers,
            })
    }

    proptest! {
        #[test]
        fn joins_survive(join in join(), at in 0usize..145, byte: u8) {
            let mut out = Vec::new();
            join.encode(&mut out);
            prop_assert_eq!(JoinRequest::decode(&out), Ok(join));
            prop_assert!(JoinRequest::decode(&out[..out.len() - 1]).is_err());
            out[at] = byte;
            let _ = JoinRequest::decode(&out);
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = JoinRequest::decode(&body);
            let _ = JoinReply::decode(&body[..body.len().min(17)]);
        }
    }
}
