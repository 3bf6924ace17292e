use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::super::block::{SizeField, Source};
use super::*;

const NORMAL: &str = "M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt";

fn name(text: &str) -> RemoteName {
    text.parse().unwrap()
}

fn ext(text: &str) -> ExtName {
    text.parse().unwrap()
}

#[test]
fn parts_of_a_name() {
    let n = name("M0a/1B/FF/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt");
    assert_eq!(n.store_path(), 10);
    assert_eq!(n.directories(), (0x1b, 0xff));
    assert_eq!(n.true_name(), "1B/FF/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt");
    assert_eq!(n.file_part(), "Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt");
    assert_eq!(n.tail(), "780.txt");
    assert_eq!(n.extension(), Some("txt"));
    assert_eq!(n.kind(), Ok(Kind::Normal));
    assert_eq!(n.trunk_slot(), None);
    assert_eq!(n.as_ref(), n.as_str());
}

#[test]
fn old_names_have_no_store_path() {
    let n = name("00/0A/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt");
    assert_eq!((n.store_path(), n.directories()), (0, (0, 10)));
    assert_eq!(n.true_name(), n.as_str());
    assert!(n.block().is_ok());
}

#[test]
fn names_that_are_refused() {
    for (text, error) in [
        ("M00/00/00/", NameError::TooShort),
        ("M0/00/00/0xyz", NameError::StorePath),
        ("MG0/00/00/xyz", NameError::StorePath),
        ("M00/0a/00/xyz", NameError::Directory),
        ("M00/00/00", NameError::TooShort),
        ("M00/00-00/xyz", NameError::Directory),
        ("../../../etc/passwd", NameError::Directory),
        ("/etc/passwd-and-more", NameError::Directory),
        ("M00/00/00/../../x", NameError::FilePart),
        ("M00/00/00/..", NameError::FilePart),
        ("M00/00/00/.", NameError::FilePart),
        ("M00/00/00/a/b", NameError::FilePart),
        ("M00/00/00/a b", NameError::Character),
        ("M00/00/00/a\nb", NameError::Character),
        ("M00/00/00/\u{e9}x", NameError::Character),
    ] {
        assert_eq!(text.parse::<RemoteName>(), Err(error), "{text:?}");
    }
    let long = format!("M00/00/00/{}", "x".repeat(118));
    assert_eq!(long.parse::<RemoteName>(), Err(NameError::TooLong));
    assert_eq!(name(&long[..127]).as_str().len(), 127);
    assert!(RemoteName::decode(b"M00/00/00/a/b").is_err());
    assert!(RemoteName::decode(b"M00").is_err());
}

#[test]
fn a_zero_byte_ends_a_name() {
    assert_eq!(RemoteName::parse(b"M00/00/00/xyz\0\0\xff"), Ok(name("M00/00/00/xyz")));
    assert_eq!(RemoteName::parse(b"M00/00/00/\0yz"), Err(NameError::TooShort));
}

#[test]
fn slaves() {
    let master = name(NORMAL);
    let slave = |m: &RemoteName, p: &str, e: &str| m.slave(&p.parse().unwrap(), &ext(e));
    assert_eq!(
        slave(&master, "_150x150", "jpg").unwrap().as_str(),
        "M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780_150x150.jpg"
    );
    assert_eq!(slave(&master, "_small", "").unwrap().as_str(), "M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780_small");
    assert!(slave(&master, "_x", ".png").unwrap().as_str().ends_with("780_x.png"));
    let plain = name("M00/00/01/Ck0AAWsA64KAen97AAAADg4Qul01783567");
    assert!(slave(&plain, "_x", "png").unwrap().as_str().ends_with("l01783567_x.png"));
    assert_eq!(slave(&master, "-m", ""), Err(NameError::Slave));
    assert!(slave(&master, "-m", "x").is_ok());
    assert_eq!(slave(&name("M00/00/00/short.txt"), "_x", ""), Err(NameError::Slave));
    let mut long = master;
    while let Ok(next) = slave(&long, "_123456789012345", "") {
        long = next;
    }
    assert_eq!(slave(&long, "_123456789012345", ""), Err(NameError::TooLong));
    // Not longer than 44: nobody can tell that it is a slave.
    let hidden = slave(&master, "s", "c").unwrap();
    assert_eq!((hidden.as_str().len(), hidden.kind()), (43, Ok(Kind::Normal)));
}

#[test]
fn names_that_are_given_once() {
    let once = |name: &str| name.parse::<RemoteName>().unwrap().is_given_once();
    assert!(once("M00/00/00/CgkBAmsHuNiAIHFTAAALuEN41Mg901.txt"));
    assert!(once("M00/00/00/CgkBAmsHuNiAIHFTAAALuEN41Mg9016283"));
    assert!(once("M00/07/05/CgkBAmsHusKEaDWvAAAAAHEOZ44987.txt"), "an appender");
    assert!(!once("M00/04/0A/CgkBAmsHudCAX0PdAACMnIjsm68339_615"), "a slave as short as its master");
    assert!(!once("M00/03/06/CgkBAmsHuc-Aecm4AAAK9Wi_-8k650_28"), "a shorter one");
    assert!(!once("M00/00/00/CgkBAmsHuNiAIHFTAAALuEN41Mg901_big.jpg"));
    assert!(!once("M00/07/05/CgkBAmsHusKEaDWvAAAAAHEOZ44987_s.txt"), "a slave of an appender");
    assert!(!once("M00/00/00/CgkBAmsHuNiAIHFTAAALuEN41Mg901.txt-m"));
    assert!(!once("M00/00/00/short"));
}

#[test]
fn metadata_names() {
    let n = name(NORMAL);
    let m = n.metadata().unwrap();
    assert_eq!(m.as_str(), format!("{NORMAL}-m"));
    assert!(m.is_metadata() && !n.is_metadata());
    let long = name(&format!("M00/00/00/{}", "x".repeat(117)));
    assert_eq!(long.metadata(), None);
}

#[test]
fn generated_names() {
    let block = NameBlock {
        source: Source::Ip(Ipv4Addr::new(10, 77, 0, 1)),
        timestamp: 1_795_222_402,
        size: SizeField::normal(14, 0x74_a33e),
        crc32: 0x0e10_ba5d,
    };
    let mut new = NewName { store_path: 0, directories: (0, 0), block, slot: None, ext: &ext("txt"), random: 87 };
    assert_eq!(RemoteName::generate(&new), name(NORMAL));
    new.store_path = 255;
    new.directories = (0xab, 0x0c);
    let none = ext("");
    new.ext = &none;
    new.random = u32::MAX;
    let n = RemoteName::generate(&new);
    assert!(n.as_str().starts_with("MFF/AB/0C/Ck0A"));
    assert!(n.tail().bytes().all(|b| b.is_ascii_digit()));
    assert_eq!(n.extension(), None);
    let slot = TrunkSlot { file: 1, offset: 8774, size: 38 };
    new.slot = Some(slot);
    new.block.size = SizeField::trunk(14, 1);
    let n = RemoteName::generate(&new);
    assert_eq!((n.kind(), n.trunk_slot()), (Ok(Kind::Trunk), Some(slot)));
    assert!(Kind::Trunk.is_normal() && !Kind::Slave.is_normal());
}

#[test]
fn a_regenerated_name_keeps_its_place() {
    let old = name("M00/1A/02/Ck0AAWsA64KEMzq0AAAAAA4Qul0837.log");
    assert_eq!(old.kind(), Ok(Kind::Appender));
    let block = NameBlock::decode(b"Ck0AAWsA64GAM1T1AAAAE_scEWY").unwrap();
    let new = old.with_block(&block);
    assert_eq!(new.as_str(), "M00/1A/02/Ck0AAWsA64GAM1T1AAAAE_scEWY837.log");
    assert_eq!(new.kind(), Ok(Kind::Normal));
}

#[test]
fn names_without_a_block() {
    let n = name("M00/00/00/000001");
    assert_eq!(n.kind(), Err(NameError::Block));
    assert_eq!(n.trunk_slot(), None);
    // Its last seven characters would reach beyond the file part.
    assert_eq!(n.tail(), "000001");
    assert_eq!(format!("{n:?}"), "RemoteName(M00/00/00/000001)");
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..140)) {
        let _ = RemoteName::parse(&bytes);
    }

    #[test]
    fn whatever_parses_stays_in_its_directory(text in "(M[0-9a-fA-F]{2}/)?[0-9A-F]{2}/[0-9A-F]{2}/[ -~]{1,117}") {
        if let Ok(n) = text.parse::<RemoteName>() {
            prop_assert_eq!(n.as_str(), &text);
            prop_assert_eq!(n.true_name().split('/').count(), 3);
            prop_assert!(!n.true_name().split('/').any(|p| p == ".." || p == "."));
            let _ = (n.kind(), n.block(), n.trunk_slot(), n.extension(), n.metadata());
            let (high, low) = n.directories();
            prop_assert_eq!(&n.true_name()[..6], &format!("{high:02X}/{low:02X}/"));
            let block = NameBlock::decode_lenient(b"");
            let moved = n.with_block(&block);
            prop_assert_eq!(moved.block(), Ok(block));
            prop_assert_eq!(RemoteName::parse(moved.as_bytes()), Ok(moved));
        }
    }

    #[test]
    fn generated_names_parse(
        store_path: u8, high: u8, low: u8, ip: u32, timestamp: u32, size: u64, crc32: u32,
        random: u32, ext in "[a-zA-Z0-9_.-]{0,6}",
    ) {
        let ext: ExtName = ext.parse().unwrap();
        let source = Source::from_bytes(ip.to_be_bytes());
        let block = NameBlock { source, timestamp, size: SizeField::normal(size, random), crc32 };
        let new = NewName {
            store_path, directories: (high, low), block, slot: None, ext: &ext, random,
        };
        let n = RemoteName::generate(&new);
        prop_assert_eq!(RemoteName::parse(n.as_bytes()), Ok(n));
        prop_assert_eq!(n.as_str().len(), RemoteName::NORMAL_LEN);
        prop_assert_eq!(n.store_path(), store_path);
        prop_assert_eq!(n.directories(), (high, low));
        prop_assert_eq!(n.block(), Ok(block));
    }
}
