use proptest::prelude::*;

use super::*;
use crate::{Encode, IpSize, RemoteName};

const APPENDER: &str = "M00/00/00/Ck0AAWsA64KEMzq0AAAAAA4Qul0837.log";

fn bytes<M: Encode>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

#[test]
fn uploads_must_fill_their_body() {
    let head = UploadHead { store_path: None, size: 14, ext: "txt".parse().unwrap() };
    let fixed = bytes(&head);
    assert_eq!(fixed.len(), UploadHead::FIXED_LEN);
    assert_eq!(UploadHead::decode(&fixed, 29), Ok(head));
    assert!(UploadHead::decode(&fixed, 28).is_err());
    assert!(UploadHead::decode(&fixed, 30).is_err());
    assert!(UploadHead::decode(&fixed, 3).is_err());
    assert!(UploadHead::decode(&fixed[..14], 29).is_err());
    let path = UploadHead { store_path: Some(254), ..head };
    assert_eq!(UploadHead::decode(&bytes(&path), 29), Ok(path));
}

#[test]
fn heads_with_names() {
    let name: RemoteName = APPENDER.parse().unwrap();
    let append = AppendHead { size: 5, name };
    let head = bytes(&append);
    assert_eq!(AppendHead::name_len(&head[..16], 65), Ok(44));
    assert_eq!(AppendHead::decode(&head, 65), Ok(append));
    assert!(AppendHead::decode(&head, 64).is_err());
    assert!(AppendHead::name_len(&head[..16], 59).is_err());
    assert!(AppendHead::name_len(&head[..7], 65).is_err());
    let modify = ModifyHead { offset: 2, size: 3, name };
    assert_eq!(ModifyHead::decode(&bytes(&modify), 24 + 44 + 3), Ok(modify));
    let truncate = Truncate { size: 10, name };
    assert_eq!(Truncate::decode(&bytes(&truncate)), Ok(truncate));
    assert!(Truncate::decode(&bytes(&truncate)[..59]).is_err());
    let again = Regenerate { name };
    assert_eq!(Regenerate::decode(&bytes(&again)), Ok(again));
    assert!(Regenerate::decode(&APPENDER.as_bytes()[..43]).is_err());
    // Long enough, but a zero byte ends the name early.
    let mut cut = APPENDER.as_bytes().to_vec();
    cut[40] = 0;
    assert!(Regenerate::decode(&cut).is_err());
    cut[40] = b'x';
    cut.extend([0; 9]);
    assert!(Regenerate::decode(&cut).is_ok());
}

#[test]
fn huge_lengths_do_not_overflow() {
    let mut head = vec![0xff; 40];
    head[0] = 0x7f;
    assert!(UploadSlaveHead::name_len(&head, u64::MAX).is_err());
    head[..8].copy_from_slice(&44u64.to_be_bytes());
    head.resize(38 + 44, b'x');
    head[8] = 0x7f;
    assert!(UploadSlaveHead::decode(&head, u64::MAX).is_err());
}

#[test]
fn checksums_are_sign_extended() {
    let info = FileInfo { size: 1, mtime: 2, crc32: 0xbf2a_0bc8, source: "10.0.0.1".parse().unwrap() };
    for size in [IpSize::V4, IpSize::V6] {
        let mut out = Vec::new();
        info.encode(size, &mut out);
        assert_eq!(out[16..24], [0xff, 0xff, 0xff, 0xff, 0xbf, 0x2a, 0x0b, 0xc8]);
        assert_eq!(FileInfo::decode(&out), Ok(info));
    }
    assert!(FileInfo::decode(&[0; 41]).is_err());
}

#[test]
fn flags() {
    for byte in 0..4 {
        assert_eq!(FileInfoFlags::from_byte(byte).to_byte(), byte);
    }
}

proptest! {
    #[test]
    fn requests_survive(
        size: u32, offset: u32, prefix in "[a-z_.-]{1,16}", ext in "[a-z.]{0,6}",
        metadata in proptest::collection::vec(any::<u8>(), 0..50), merge: bool,
        tail in "[A-Za-z0-9._-]{34,80}",
    ) {
        let name: RemoteName = format!("M01/0A/FF/{tail}").parse().unwrap();
        let (size, offset) = (size.into(), offset.into());
        let slave = UploadSlaveHead {
            size, prefix: prefix.parse().unwrap(), ext: ext.parse().unwrap(), master: name,
        };
        let head = bytes(&slave);
        let body_len = head.len() as u64 + size;
        prop_assert_eq!(UploadSlaveHead::name_len(&head[..38], body_len), Ok(name.as_bytes().len()));
        prop_assert_eq!(UploadSlaveHead::decode(&head, body_len), Ok(slave));
        let group = "group1".parse().unwrap();
        let download = Download { offset, len: size, group, name };
        prop_assert_eq!(Download::decode(&bytes(&download)), Ok(download));
        let mode = if merge { MetadataMode::Merge } else { MetadataMode::Overwrite };
        let set = SetMetadata { mode, group, name, metadata: &metadata };
        let body = bytes(&set);
        prop_assert_eq!(SetMetadata::decode(&body), Ok(set));
        let file = FileRequest { group, name };
        prop_assert_eq!(FileRequest::decode(&bytes(&file)), Ok(file));
    }

    #[test]
    fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200), body_len: u64) {
        let _ = UploadHead::decode(&body, body_len);
        let _ = UploadSlaveHead::decode(&body, body_len);
        let _ = AppendHead::decode(&body, body_len);
        let _ = ModifyHead::decode(&body, body_len);
        let _ = Truncate::decode(&body);
        let _ = Regenerate::decode(&body);
        let _ = FileRequest::decode(&body);
        let _ = Download::decode(&body);
        let _ = SetMetadata::decode(&body);
        let _ = FileInfo::decode(&body);
    }
}
