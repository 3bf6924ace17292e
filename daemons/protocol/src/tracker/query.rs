//! Where to upload, where to read, where to change.

use bytes::BufMut;

use crate::names::{GroupName, IpSize, IpText};
use crate::wire::{Cursor, Encode, WireError};

/// Address and port of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub ip: IpText,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The address to connect to, unless the field was empty.
    pub fn socket_addr(&self) -> Option<std::net::SocketAddr> {
        self.ip.addr().map(|ip| std::net::SocketAddr::new(ip, self.port))
    }

    const fn len(size: IpSize) -> usize {
        size.answer() + 8
    }

    fn decode(c: &mut Cursor<'_>, size: IpSize) -> Result<Endpoint, WireError> {
        let ip = IpText::decode(c.take(size.answer())?)?;
        Ok(Endpoint { ip, port: c.port64()? })
    }

    fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        self.ip.encode(size.answer(), out);
        out.put_i64(self.port.into());
    }
}

impl From<std::net::SocketAddr> for Endpoint {
    fn from(addr: std::net::SocketAddr) -> Endpoint {
        Endpoint { ip: addr.ip().into(), port: addr.port() }
    }
}

/// Whether `len` bytes are a head of `head` bytes and a whole number of servers, and with which
/// ip size. The smaller size is tried first, as FastDFS clients do.
fn server_list_size(what: &'static str, len: usize, head: usize) -> Result<IpSize, WireError> {
    [IpSize::V4, IpSize::V6]
        .into_iter()
        .find(|&size| len > head && (len - head).is_multiple_of(Endpoint::len(size)))
        .ok_or(WireError::Length { what, got: len })
}

/// Requests that name a group: QUERY_STORE_WITH_GROUP_ONE and _ALL, LIST_ONE_GROUP, DELETE_GROUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupQuery {
    /// The group.
    pub group: GroupName,
}

impl GroupQuery {
    /// Reads exactly 16 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("group query", body, GroupName::LEN)?;
        Ok(GroupQuery { group: GroupName::decode_known(c.rest())? })
    }
}

impl Encode for GroupQuery {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
    }
}

/// Requests that name a file: QUERY_FETCH_ONE, QUERY_FETCH_ALL, QUERY_UPDATE.
///
/// The tracker knows no files, so the name is any bytes; [`crate::file_id::NameBlock::decode_lenient`]
/// reads what it tells from its offset [`FileQuery::BLOCK_OFFSET`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileQuery<'a> {
    /// The group.
    pub group: GroupName,
    /// The name, 22 to 127 bytes.
    pub name: &'a [u8],
}

impl<'a> FileQuery<'a> {
    /// Where in the name its base64 part begins.
    pub const BLOCK_OFFSET: usize = 10;
    /// The shortest name a tracker answers for.
    pub const MIN_NAME: usize = 22;
    /// The longest.
    pub const MAX_NAME: usize = 127;

    /// Reads group and name.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("file query", body);
        let group = c.take(GroupName::LEN)?;
        if !(Self::MIN_NAME..=Self::MAX_NAME).contains(&c.left()) {
            return Err(c.bad_length());
        }
        let name = c.rest();
        Ok(FileQuery { group: GroupName::decode_known(group)?, name })
    }
}

impl Encode for FileQuery<'_> {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        out.put_slice(self.name);
    }
}

/// Answer of QUERY_STORE_*_ONE: upload there. 40 or 70 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOne {
    /// The group.
    pub group: GroupName,
    /// The storage.
    pub server: Endpoint,
    /// Index of the store path to put into the upload request.
    pub store_path: u8,
}

impl StoreOne {
    /// Reads either size.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("store answer", body);
        let size = one_server_size(&c, 1)?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let server = Endpoint::decode(&mut c, size)?;
        Ok(StoreOne { group, server, store_path: c.u8()? })
    }

    /// Writes the answer.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        self.group.encode(out);
        self.server.encode(size, out);
        out.put_u8(self.store_path);
    }
}

/// Answer of QUERY_STORE_*_ALL: upload to any of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAll {
    /// The group.
    pub group: GroupName,
    /// The storages, by ascending id.
    pub servers: Vec<Endpoint>,
    /// Index of the store path, for whichever is taken.
    pub store_path: u8,
}

impl StoreAll {
    /// Reads either size.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let what = "store list";
        let size = server_list_size(what, body.len(), GroupName::LEN + 1)?;
        let mut c = Cursor::new(what, body);
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let mut servers = Vec::with_capacity(c.left() / Endpoint::len(size));
        while c.left() > 1 {
            servers.push(Endpoint::decode(&mut c, size)?);
        }
        Ok(StoreAll { group, servers, store_path: c.u8()? })
    }

    /// Writes the answer.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        self.group.encode(out);
        for server in &self.servers {
            server.encode(size, out);
        }
        out.put_u8(self.store_path);
    }
}

/// Answer of QUERY_FETCH_ONE and QUERY_UPDATE: 39 or 69 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchOne {
    /// The group.
    pub group: GroupName,
    /// The storage.
    pub server: Endpoint,
}

impl FetchOne {
    /// Reads either size.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::new("fetch answer", body);
        let size = one_server_size(&c, 0)?;
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        Ok(FetchOne { group, server: Endpoint::decode(&mut c, size)? })
    }

    /// Writes the answer.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        self.group.encode(out);
        self.server.encode(size, out);
    }
}

/// Answer of QUERY_FETCH_ALL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchAll {
    /// The group.
    pub group: GroupName,
    /// The storages that have the file.
    pub servers: Vec<Endpoint>,
}

impl FetchAll {
    /// Reads either size.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let what = "fetch list";
        let size = server_list_size(what, body.len(), GroupName::LEN)?;
        let mut c = Cursor::new(what, body);
        let group = GroupName::decode(c.take(GroupName::LEN)?)?;
        let mut servers = Vec::with_capacity(c.left() / Endpoint::len(size));
        while c.left() > 0 {
            servers.push(Endpoint::decode(&mut c, size)?);
        }
        Ok(FetchAll { group, servers })
    }

    /// Writes the answer.
    pub fn encode<B: BufMut>(&self, size: IpSize, out: &mut B) {
        self.group.encode(out);
        for server in &self.servers {
            server.encode(size, out);
        }
    }
}

fn one_server_size(c: &Cursor<'_>, tail: usize) -> Result<IpSize, WireError> {
    let fits = |&size: &IpSize| c.left() == GroupName::LEN + Endpoint::len(size) + tail;
    [IpSize::V4, IpSize::V6].into_iter().find(fits).ok_or(c.bad_length())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        (any::<std::net::Ipv4Addr>(), any::<u16>())
            .prop_map(|(ip, port)| Endpoint { ip: std::net::IpAddr::V4(ip).into(), port })
    }

    #[test]
    fn both_sizes_of_one_server() {
        let group = "group1".parse().unwrap();
        let addr: std::net::SocketAddr = "10.0.0.1:23000".parse().unwrap();
        let answer = StoreOne { group, server: addr.into(), store_path: 3 };
        for (size, len) in [(IpSize::V4, 40), (IpSize::V6, 70)] {
            let mut out = Vec::new();
            answer.encode(size, &mut out);
            assert_eq!(out.len(), len);
            assert_eq!(StoreOne::decode(&out), Ok(answer));
            assert!(StoreOne::decode(&out[..len - 1]).is_err());
        }
        assert_eq!(answer.server.socket_addr(), Some(addr));
        assert_eq!(Endpoint { ip: IpText::NONE, port: 1 }.socket_addr(), None);
    }

    #[test]
    fn an_impossible_group_is_one_that_does_not_exist() {
        let error = GroupQuery::decode(&[0; 16]).unwrap_err();
        assert_eq!(error.status(), crate::Status::ENOENT);
        assert_eq!(GroupQuery::decode(&[b'a'; 15]).unwrap_err().status(), crate::Status::EINVAL);
    }

    #[test]
    fn length_comes_before_the_group() {
        let error = FileQuery::decode(&[0; 37]).unwrap_err();
        assert_eq!(error.status(), crate::Status::EINVAL);
        assert_eq!(FileQuery::decode(&[0; 38]).unwrap_err().status(), crate::Status::ENOENT);
        assert!(FileQuery::decode(&[b'x'; 144]).is_err());
        assert!(FileQuery::decode(&[b'x'; 143]).is_ok());
    }

    proptest! {
        #[test]
        fn lists_survive(
            servers in proptest::collection::vec(endpoint(), 1..22), store_path: u8, v6: bool,
        ) {
            let size = if v6 { IpSize::V6 } else { IpSize::V4 };
            let group: GroupName = "g".parse().unwrap();
            let store = StoreAll { group, servers: servers.clone(), store_path };
            let mut out = Vec::new();
            store.encode(size, &mut out);
            prop_assert_eq!(StoreAll::decode(&out), Ok(store));
            let fetch = FetchAll { group, servers };
            out.clear();
            fetch.encode(size, &mut out);
            prop_assert_eq!(FetchAll::decode(&out), Ok(fetch));
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = GroupQuery::decode(&body);
            let _ = FileQuery::decode(&body);
            let _ = StoreOne::decode(&body);
            let _ = StoreAll::decode(&body);
            let _ = FetchOne::decode(&body);
            let _ = FetchAll::decode(&body);
        }
    }
}
