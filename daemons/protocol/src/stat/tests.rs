use proptest::prelude::*;

use super::*;
use crate::{Encode, IpSize};

#[test]
fn lengths() {
    assert_eq!(StatBlock::LEN, 348);
    assert_eq!(GroupRecord::LEN, 113);
    assert_eq!(StorageRecord::len(IpSize::V4), 487);
    assert_eq!(StorageRecord::len(IpSize::V6), 517);
}

#[test]
fn statuses() {
    assert_eq!(StorageStatus::from_code(7), Some(StorageStatus::Active));
    assert_eq!(StorageStatus::from_code(8), None);
    assert_eq!(StorageStatus::Recovery.to_string(), "RECOVERY");
    assert!(StorageStatus::Online.is_available() && !StorageStatus::Init.is_available());
    assert!(StorageStatus::WaitSync < StorageStatus::Offline);
    for code in 0..=99 {
        if let Some(status) = StorageStatus::from_code(code) {
            assert_eq!(status.code(), code);
            assert!(!status.name().is_empty());
        }
    }
    assert!(RwMode::Read.can_read() && !RwMode::Read.can_write());
    assert!(RwMode::decode(1).is_err());
}

#[test]
fn counters_by_name() {
    let mut stat = StatBlock::default();
    stat.counter_mut("file_write_count").unwrap().success = 3;
    assert_eq!(stat.file_write_count.success, 3);
    assert_eq!(stat.counters().count(), 19);
    assert!(stat.counter_mut("nothing").is_none());
    let mut out = Vec::new();
    stat.encode(&mut out);
    assert_eq!(&out[308..316], 3u64.to_be_bytes());
}

proptest! {
    #[test]
    fn records_survive(bytes in proptest::collection::vec(any::<u8>(), 517)) {
        // Text fields are set to what they may hold, the rest is arbitrary.
        let stat = StatBlock::decode(&bytes[..348]).unwrap();
        let mut out = Vec::new();
        stat.encode(&mut out);
        prop_assert_eq!(&out[..], &bytes[..348]);
        let mut record = bytes.clone();
        (record[0], record[1]) = (7, 6);
        record[2..90].fill(0);
        record[2] = b'1';
        for at in (104..168).step_by(8) {
            record[at] &= 0x7f;
        }
        record[160..166].fill(0);
        record[516] &= 1;
        let decoded = StorageRecord::decode(&record, IpSize::V6).unwrap();
        out.clear();
        decoded.encode(IpSize::V6, &mut out);
        prop_assert_eq!(out, record);
    }

    #[test]
    fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..520)) {
        let _ = StatBlock::decode(&body);
        let _ = StorageRecord::decode(&body, IpSize::V4);
        for len in [GroupRecord::LEN, TrackerHealth::LEN, StorageHealth::LEN, VolumeStat::LEN] {
            let part = &body[..body.len().min(len)];
            let _ = GroupRecord::decode(part);
            let _ = TrackerHealth::decode(part);
            let _ = StorageHealth::decode(part);
            let _ = VolumeStat::decode(part);
        }
    }
}
