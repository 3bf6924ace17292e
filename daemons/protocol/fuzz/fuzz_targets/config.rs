//! Any bytes as a config file, which may include itself, and as every data file.
#![no_main]

use std::path::Path;
use std::time::Duration;

use fdfs_protocol::config::{Ini, ReservedSpace, TimeOfDay};
use fdfs_protocol::datafile::*;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("fuzz.conf");
    // An include gets the half of the text that is behind it: nesting ends, but may multiply.
    let mut left = data.len();
    let mut read = |_: &Path| {
        left /= 2;
        Ok(data[data.len() - left..].to_vec())
    };
    if let Ok(ini) = Ini::parse(path, data, &mut read) {
        for name in std::iter::once("").chain(ini.section_names()) {
            let section = ini.section_or_global(name);
            for entry in ini.entries() {
                let key = &entry.key;
                let _ = (section.bool(key, false), section.size(key, 0), section.number(key, 0u8, 0..=9));
                let _ = (section.duration(key, Duration::ZERO), section.duration_ms(key, Duration::ZERO));
                let _ = section.parsed(key, TimeOfDay::default());
                let _ = section.parsed(key, ReservedSpace::default());
            }
        }
    }
    let _ = InitFlag::parse(path, data);
    let _ = PathMarkFile::parse(path, data).map(|file| PathMark::decode(&file.store_path_mark));
    let _ = StorageStatFile::parse(path, data);
    let _ = SyncMark::parse(path, data);
    let _ = RecoveryFlag::parse(path, data);
    if let Ok(groups) = GroupsFile::parse(path, data) {
        assert_eq!(GroupsFile::parse(path, groups.to_text().as_bytes()).unwrap(), groups);
    }
    if let Ok(servers) = ServersFile::parse(path, data) {
        assert_eq!(ServersFile::parse(path, servers.to_text().as_bytes()).unwrap(), servers);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = StorageIdLine::parse_all(text);
        let _ = SyncTimestamps::parse_all(text);
        let _ = ChangelogLine::parse_all(text);
        let _ = text.parse::<TrunkRecord>();
    }
});
