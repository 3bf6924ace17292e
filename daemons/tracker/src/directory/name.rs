//! What a file name tells a tracker: who took the upload, when, and whether the file may change.
//!
//! The tracker does not know files and does not check names. Anything of the right length is taken apart as far as it
//! decodes; what does not decode counts as zero bits, which means "an old file of nobody".

use fdfs_protocol::RemoteName;
use fdfs_protocol::file_id::{NameBlock, Source};
use fdfs_protocol::tracker::FileQuery;

/// The facts in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameFacts {
    /// Who took the upload.
    pub source: Source,
    /// When, in seconds since 1970. The field is signed: what claims to be from after 2038 is from before 1970.
    pub time: i32,
    /// Neither an appender nor a slave: content that does not change, on every member sooner or later.
    pub normal: bool,
}

impl NameFacts {
    /// Takes a remote name apart.
    pub fn of(name: &[u8]) -> NameFacts {
        let block = NameBlock::decode_lenient(name.get(FileQuery::BLOCK_OFFSET..).unwrap_or_default());
        let longest = if block.size.is_trunk() { RemoteName::TRUNK_LEN } else { RemoteName::NORMAL_LEN };
        let slave = name.len() > longest;
        NameFacts { source: block.source, time: block.timestamp as i32, normal: !slave && !block.size.is_appender() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    #[test]
    fn worked_examples() {
        let by = |a, b, c, d| Source::Ip(Ipv4Addr::new(a, b, c, d));
        for (name, source, time, normal) in [
            ("M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt", by(10, 77, 0, 1), 0x6b00_eb82, true),
            ("M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780_150x150.jpg", by(10, 77, 0, 1), 0x6b00_eb82, false),
            ("M00/00/00/Ck0AAWsA64KEMzq0AAAAAA4Qul0837.log", by(10, 77, 0, 1), 0x6b00_eb82, false),
            ("M00/00/00/oYYBAGsA64KAZ7krAAAADg4Qul0330.txt", Source::Id(100_001), 0x6b00_eb82, true),
            ("M00/00/00/Ck0AImsA64KIQcSUAAAADg4Qul0AAAAAQAAIkYAAAAm378.txt", by(10, 77, 0, 34), 0x6b00_eb82, true),
            ("M00/00/00/Ck0AImsA64KIQcSUAAAADg4Qul0AAAAAQAAIkYAAAAm378_s.png", by(10, 77, 0, 34), 0x6b00_eb82, false),
            // A slave too short to be recognised counts as its master.
            ("M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780s.c", by(10, 77, 0, 1), 0x6b00_eb82, true),
        ] {
            assert_eq!(NameFacts::of(name.as_bytes()), NameFacts { source, time, normal }, "{name}");
        }
    }

    #[test]
    fn garbage_is_an_old_file_of_nobody() {
        let facts = NameFacts::of(b"M00/00/00/!!!!!!!!!!!!!!!!!!!!!!!!!!!");
        assert_eq!(facts, NameFacts { source: Source::Ip(Ipv4Addr::UNSPECIFIED), time: 0, normal: true });
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(name in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = NameFacts::of(&name);
        }
    }
}
