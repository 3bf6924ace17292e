//! File IDs of live servers, with what is known about each file.

use fdfs_protocol::FileId;
use fdfs_protocol::file_id::{Kind, NameBlock, NewName, RemoteName, Source};
use fdfs_protocol::names::{ExtName, Prefix};
use serde_json::Value;

use crate::vectors::golden;

fn load() -> Vec<(FileId, Value)> {
    let text = std::fs::read(golden().join("file_ids.json")).unwrap();
    let list: Vec<Value> = serde_json::from_slice(&text).unwrap();
    assert_eq!(list.len(), 26);
    list.into_iter().map(|value| (value["file_id"].as_str().unwrap().parse().unwrap(), value)).collect()
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Normal | Kind::Trunk => "normal",
        Kind::Appender => "appender",
        Kind::Slave => "slave",
    }
}

#[test]
fn taken_apart() {
    for (id, value) in load() {
        let how = &value["how"];
        assert_eq!(id.to_string(), value["file_id"].as_str().unwrap());
        let expect = &value["expect"];
        let block = id.name.block().unwrap();
        let kind = id.name.kind().unwrap();
        assert_eq!(kind_name(kind), expect["type"].as_str().unwrap(), "{how}");
        assert_eq!(u64::from(block.timestamp), expect["timestamp"].as_u64().unwrap(), "{how}");
        assert_eq!(u64::from(block.crc32), expect["crc32"].as_u64().unwrap(), "{how}");
        assert_eq!(format!("{:016x}", block.size.0), expect["size_field_hex"].as_str().unwrap(), "{how}");
        assert_eq!(u64::from(id.name.store_path()), expect["store_path_index"].as_u64().unwrap(), "{how}");
        assert_eq!(id.name.as_str().len() as u64, expect["length"].as_u64().unwrap(), "{how}");
        let (source_type, source) = match block.source {
            Source::Ip(ip) => ("ip", ip.to_string()),
            Source::Id(server) => ("id", server.to_string()),
        };
        assert_eq!(source, expect["source"].as_str().map_or_else(|| expect["source"].to_string(), str::to_owned));
        assert!(expect["source_type"].as_str().unwrap().contains(source_type), "{how}");
        if kind.is_normal()
            && let Some(size) = expect["file_size"].as_u64()
        {
            assert_eq!(block.size.size(), Some(size), "{how}");
        }
        assert_eq!(kind == Kind::Trunk, block.size.is_trunk() && kind != Kind::Slave, "{how}");
    }
}

#[test]
fn trunk_slots() {
    let slots: Vec<(u32, u32, u32)> = load()
        .iter()
        .filter_map(|(id, _)| id.name.trunk_slot())
        .map(|slot| (slot.file, slot.offset, slot.size))
        .collect();
    assert_eq!(slots, [(1, 8774, 38), (1, 8950, 38), (1, 8988, 24), (1, 9012, 5024)]);
}

/// Every name that no slave rule made is made again from its parts.
#[test]
fn put_together() {
    let mut made = 0;
    for (id, value) in load() {
        let name = id.name;
        let block = name.block().unwrap();
        assert_eq!(NameBlock::decode(&block.encode()), Ok(block));
        if name.kind() == Ok(Kind::Slave)
            || ![RemoteName::NORMAL_LEN, RemoteName::TRUNK_LEN].contains(&name.as_str().len())
        {
            continue;
        }
        let ext: ExtName = name.extension().unwrap_or("").parse().unwrap();
        let digits: String = name.tail().chars().take_while(char::is_ascii_digit).collect();
        // The pad digits are taken from the lowest digit on.
        let random = digits.chars().rev().collect::<String>().parse().unwrap_or(0);
        let new = NewName {
            store_path: name.store_path(),
            directories: name.directories(),
            block,
            slot: name.trunk_slot(),
            ext: &ext,
            random,
        };
        assert_eq!(RemoteName::generate(&new), name, "{}", value["how"]);
        made += 1;
    }
    assert_eq!(made, 20);
}

#[test]
fn slaves() {
    let ids = load();
    let find = |how: &str| ids.iter().find(|(_, v)| v["how"].as_str().unwrap().starts_with(how)).unwrap().0.name;
    let slave = |master: RemoteName, prefix: &str, ext: &str| {
        master.slave(&prefix.parse::<Prefix>().unwrap(), &ext.parse().unwrap()).unwrap()
    };
    let master = find("upload 14 bytes, ext txt");
    assert_eq!(slave(master, "_150x150", "jpg"), find("slave of row 1, prefix _150x150"));
    assert_eq!(slave(master, "_small", ""), find("slave of row 1, prefix _small"));
    assert_eq!(slave(master, "s", "c"), find("slave of row 1, prefix s, ext c"));
    assert_eq!(slave(find("trunk file, 14 bytes, ext txt"), "_s", "png"), find("slave of a trunk file"));
}
