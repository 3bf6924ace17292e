//! Who is who: addresses, ids, groups.

use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;

use crate::names::{GroupName, TextError, cut_at_nul};
use crate::wire::{Cursor, Encode, WireError, utf8};

/// Answer of GET_LEADER, and the request of NOTIFY_ and COMMIT_NEXT_LEADER: `ip:port`, an IPv6
/// address in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderAddress(
    /// The address of the tracker.
    pub SocketAddr,
);

impl LeaderAddress {
    /// Reads the text.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        socket_addr("leader address", body).map(LeaderAddress)
    }
}

impl Encode for LeaderAddress {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_slice(self.0.to_string().as_bytes());
    }
}

/// Longest `ip:port` text FastDFS accepts.
const MAX_HOST: usize = 52;

pub(crate) fn socket_addr(what: &'static str, text: &[u8]) -> Result<SocketAddr, WireError> {
    let text = cut_at_nul(text);
    if text.len() > MAX_HOST {
        return Err(WireError::Length { what, got: text.len() });
    }
    utf8(what, text)?.parse().map_err(|_| WireError::Text { what, reason: TextError::NotAnAddress })
}

/// Request of FETCH_STORAGE_IDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchStorageIds {
    /// Index of the first line wanted.
    pub start: u32,
    /// With storage ids off: answer nothing rather than an error.
    pub allow_empty: bool,
}

impl FetchStorageIds {
    /// Reads 5 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("storage ids query", body, 5)?;
        Ok(FetchStorageIds { start: c.count("start index")?, allow_empty: c.flag()? })
    }
}

impl Encode for FetchStorageIds {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.start);
        out.put_u8(self.allow_empty.into());
    }
}

/// Answer of FETCH_STORAGE_IDS: some lines of the table. A line is read by
/// [`crate::datafile::StorageIdLine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageIdsPage<'a> {
    /// Lines in the whole table.
    pub total: u32,
    /// Lines in this answer.
    pub count: u32,
    /// The lines, each ended by a newline.
    pub text: &'a str,
}

impl<'a> StorageIdsPage<'a> {
    /// Reads the counts and the text.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("storage ids", body);
        Ok(StorageIdsPage {
            total: c.count("total count")?,
            count: c.count("count")?,
            text: utf8("storage ids", c.rest())?,
        })
    }
}

impl Encode for StorageIdsPage<'_> {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u32(self.total);
        out.put_u32(self.count);
        out.put_slice(self.text.as_bytes());
    }
}

/// Request of GET_SERVER_ID and STORAGE_GET_STATUS: group and `ip:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerQuery {
    /// The group.
    pub group: GroupName,
    /// The storage.
    pub addr: SocketAddr,
}

impl ServerQuery {
    /// Reads a group and an address with its port.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("server query", body);
        let group = c.take(GroupName::LEN)?;
        let addr = socket_addr("server address", c.rest())?;
        Ok(ServerQuery { group: GroupName::decode_known(group)?, addr })
    }
}

impl Encode for ServerQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_slice(self.addr.to_string().as_bytes());
    }
}

/// Request of GET_GROUP_NAME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupNameQuery {
    /// The address of the storage; `None` stands for the peer's.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

impl GroupNameQuery {
    /// Reads an address text, perhaps empty, and a port.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let what = "group name query";
        let mut c = Cursor::new(what, body);
        let text_len = body.len().checked_sub(4).ok_or(c.bad_length())?;
        if text_len > 45 {
            return Err(WireError::AddressTooLong { what, got: text_len });
        }
        let text = c.take(text_len)?;
        let ip = if text.is_empty() {
            None
        } else {
            let not_an_address = WireError::Text { what, reason: TextError::NotAnAddress };
            Some(utf8(what, cut_at_nul(text))?.parse().map_err(|_| not_an_address)?)
        };
        Ok(GroupNameQuery { ip, port: c.port32()? })
    }
}

impl Encode for GroupNameQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        if let Some(ip) = self.ip {
            out.put_slice(ip.to_string().as_bytes());
        }
        out.put_i32(self.port.into());
    }
}

/// Request of GET_MY_IP, 21 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MyIpQuery {
    /// The group of the asking storage.
    pub group: GroupName,
    /// Its port.
    pub port: u16,
}

impl MyIpQuery {
    /// Reads 21 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("my ip query", body, 21)?;
        let group = GroupName::decode_known(c.take(17)?)?;
        Ok(MyIpQuery { group, port: c.port32()? })
    }
}

impl Encode for MyIpQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode17(out);
        out.put_i32(self.port.into());
    }
}

/// Answer of GET_MY_IP: the addresses of the asking storage, comma separated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MyIpAddresses(
    /// One address, or two with storage ids.
    pub Vec<IpAddr>,
);

impl MyIpAddresses {
    /// Reads the text.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let what = "my ip addresses";
        utf8(what, cut_at_nul(body))?
            .split(',')
            .map(|text| text.trim_matches(['[', ']']).parse())
            .collect::<Result<_, _>>()
            .map(MyIpAddresses)
            .map_err(|_| WireError::Text { what, reason: TextError::NotAnAddress })
    }
}

impl Encode for MyIpAddresses {
    fn encode<B: BufMut>(&self, out: &mut B) {
        for (i, ip) in self.0.iter().enumerate() {
            if i > 0 {
                out.put_u8(b',');
            }
            out.put_slice(ip.to_string().as_bytes());
        }
    }
}
