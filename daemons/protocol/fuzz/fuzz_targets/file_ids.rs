//! Any bytes as a file ID, a binlog record and metadata.
#![no_main]

use fdfs_protocol::binlog::Record;
use fdfs_protocol::file_id::NameBlock;
use fdfs_protocol::metadata::Metadata;
use fdfs_protocol::{FileId, RemoteName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = NameBlock::decode_lenient(data);
    if let Ok(name) = RemoteName::parse(data) {
        assert_eq!(RemoteName::parse(name.as_bytes()), Ok(name));
        assert!(!name.true_name().split('/').any(|part| matches!(part, "" | "." | "..")));
        let _ = (name.kind(), name.trunk_slot(), name.extension(), name.tail(), name.directories());
        for (prefix, ext) in [("_x", "jpg"), ("-m", ""), ("_1234567890abcde", ".tar.g")] {
            if let (Ok(prefix), Ok(ext)) = (prefix.parse(), ext.parse())
                && let Ok(slave) = name.slave(&prefix, &ext)
            {
                assert_eq!(RemoteName::parse(slave.as_bytes()), Ok(slave));
            }
        }
        if let Some(metadata) = name.metadata() {
            assert_eq!(RemoteName::parse(metadata.as_bytes()), Ok(metadata));
        }
        let moved = name.with_block(&NameBlock::decode_lenient(b""));
        assert_eq!(RemoteName::parse(moved.as_bytes()), Ok(moved));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = text.parse::<FileId>()
    {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(record) = Record::parse(data) {
        assert_eq!(Record::parse(record.to_string().as_bytes()), Ok(record));
    }
    let metadata = Metadata::parse(data);
    assert_eq!(Metadata::parse(&metadata.pack()), metadata);
});
