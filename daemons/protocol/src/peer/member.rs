//! One storage in the eyes of a tracker, and how a tracker tells what changed.

use bytes::BufMut;

use crate::names::{GroupName, IpText, StorageId};
use crate::stat::StorageStatus;
use crate::wire::{Cursor, Encode, WireError, records};

/// A storage (or the leader tracker) in 67 bytes. All zero stands for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brief {
    /// Its status.
    pub status: StorageStatus,
    /// Its port.
    pub port: u16,
    /// Its id; of the leader tracker the first 15 bytes of its address.
    pub id: StorageId,
    /// Its address.
    pub ip: IpText,
}

impl Brief {
    /// Length in bytes.
    pub const LEN: usize = 67;

    /// Reads 67 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("storage brief", body, Self::LEN)?;
        Ok(Brief {
            status: StorageStatus::decode(c.u8()?)?,
            port: c.port32()?,
            id: StorageId::decode(c.take(16)?)?,
            ip: IpText::decode(c.take(46)?)?,
        })
    }

    /// Whether this stands for nobody.
    pub fn is_none(&self) -> bool {
        self.id.is_none()
    }

    /// The brief of a leader tracker.
    pub fn leader(ip: IpText, port: u16) -> Brief {
        let text = ip.as_str().as_bytes();
        let id = StorageId::from_ascii(&text[..text.len().min(15)]).unwrap_or_default();
        Brief { status: StorageStatus::Init, port, id, ip }
    }
}

impl Encode for Brief {
    fn encode<B: BufMut>(&self, out: &mut B) {
        out.put_u8(self.status.code());
        out.put_i32(self.port.into());
        self.id.encode(out);
        self.ip.encode(46, out);
    }
}

/// A storage by group and id: STORAGE_SYNC_SRC_REQ, and an entry of the trunk server table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMember {
    /// The group.
    pub group: GroupName,
    /// The storage, or none.
    pub id: StorageId,
}

impl GroupMember {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Reads 32 bytes.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut c = Cursor::exact("group member", body, Self::LEN)?;
        Ok(GroupMember { group: GroupName::decode_known(c.take(16)?)?, id: StorageId::decode(c.take(16)?)? })
    }
}

impl Encode for GroupMember {
    fn encode<B: BufMut>(&self, out: &mut B) {
        self.group.encode(out);
        self.id.encode(out);
    }
}

/// Answer of STORAGE_BEAT, STORAGE_REPORT_DISK_USAGE and STORAGE_SYNC_REPORT: what the storage
/// has not been told yet. Only the leader tracker tells anything; the others answer the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberChanges {
    /// The leader tracker, if it changed; [`Brief::is_none`] when there is none.
    pub leader: Option<Brief>,
    /// The trunk server, if it changed; likewise.
    pub trunk_server: Option<Brief>,
    /// All storages of the group, by ascending id, if any changed.
    pub members: Option<Vec<Brief>>,
}

impl MemberChanges {
    const LEADER: u8 = 1;
    const TRUNK_SERVER: u8 = 2;
    const MEMBERS: u8 = 4;

    /// Reads the answer; an empty body is no change.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() {
            return Ok(MemberChanges::default());
        }
        let mut c = Cursor::new("member changes", body);
        let flags = c.u8()?;
        let bad = c.bad_length();
        let mut briefs = records("member changes", c.rest(), Brief::LEN)?.map(Brief::decode);
        let mut one = |flag: u8| (flags & flag != 0).then(|| briefs.next().unwrap_or(Err(bad))).transpose();
        let leader = one(Self::LEADER)?;
        let trunk_server = one(Self::TRUNK_SERVER)?;
        let rest = briefs.collect::<Result<Vec<_>, _>>()?;
        let members = match flags & Self::MEMBERS != 0 {
            true => Some(rest),
            false if rest.is_empty() => None,
            false => return Err(bad),
        };
        Ok(MemberChanges { leader, trunk_server, members })
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.trunk_server.is_none() && self.members.is_none()
    }
}

impl Encode for MemberChanges {
    fn encode<B: BufMut>(&self, out: &mut B) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.put_u8(
            flag(self.leader.is_some(), Self::LEADER)
                | flag(self.trunk_server.is_some(), Self::TRUNK_SERVER)
                | flag(self.members.is_some(), Self::MEMBERS),
        );
        let members = self.members.iter().flatten();
        for brief in self.leader.iter().chain(&self.trunk_server).chain(members) {
            brief.encode(out);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn brief() -> impl Strategy<Value = Brief> {
        (0u8..8, any::<u16>(), "[0-9]{0,15}", any::<Option<std::net::IpAddr>>()).prop_map(|(status, port, id, ip)| {
            Brief {
                status: StorageStatus::from_code(status).unwrap(),
                port,
                id: id.parse().unwrap(),
                ip: ip.map(IpText::from).unwrap_or_default(),
            }
        })
    }

    #[test]
    fn changes_need_their_briefs() {
        assert_eq!(MemberChanges::decode(&[]), Ok(MemberChanges::default()));
        assert_eq!(MemberChanges::decode(&[0]), Ok(MemberChanges::default()));
        assert!(MemberChanges::decode(&[1]).is_err());
        assert!(MemberChanges::decode(&[0; 68]).is_err());
        let mut body = vec![4];
        assert_eq!(MemberChanges::decode(&body).unwrap().members, Some(vec![]));
        body.extend([0; 67]);
        assert!(!MemberChanges::decode(&body).unwrap().is_empty());
        body[0] = 3;
        assert!(MemberChanges::decode(&body).is_err());
    }

    #[test]
    fn leaders() {
        let leader = Brief::leader("fd77::1234:5678:9abc".parse().unwrap(), 22122);
        assert_eq!(leader.id.as_str(), "fd77::1234:5678");
        assert!(!leader.is_none() && Brief::default().is_none());
    }

    proptest! {
        #[test]
        fn changes_survive(
            leader in proptest::option::of(brief()),
            trunk_server in proptest::option::of(brief()),
            members in proptest::option::of(proptest::collection::vec(brief(), 0..5)),
        ) {
            let changes = MemberChanges { leader, trunk_server, members };
            let mut out = Vec::new();
            changes.encode(&mut out);
            prop_assert_eq!(MemberChanges::decode(&out), Ok(changes));
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = MemberChanges::decode(&body);
            let _ = Brief::decode(&body[..body.len().min(67)]);
            let _ = GroupMember::decode(&body[..body.len().min(32)]);
        }
    }
}
