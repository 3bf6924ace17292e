use super::*;
use crate::config::TrackerConfig;
use crate::storage_ids::IdTable;
use fdfs_protocol::stat::StorageStatus;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/files").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn settings(ids: Option<&str>) -> Settings {
    let mut settings = TrackerConfig::embedded("/nonexistent", [127, 0, 0, 1].into(), 0).settings;
    settings.ids = ids.map(|t| IdTable::parse(Path::new("ids"), t, |h| h.parse().ok()).unwrap());
    settings
}

/// A data directory with these files.
fn directory(files: &[(&str, &[u8])]) -> (tempfile::TempDir, DataDir) {
    let base = tempfile::tempdir().unwrap();
    let data = DataDir::open(base.path()).unwrap();
    for (name, text) in files {
        std::fs::write(base.path().join("data").join(name), text).unwrap();
    }
    (base, data)
}

/// Everything but the status lines, which loading changes on purpose.
fn without_status(text: &str) -> String {
    text.lines().filter(|l| !l.starts_with("\tstatus=")).collect::<Vec<_>>().join("\n")
}

#[test]
fn recorded_files_survive_unchanged() {
    let files: Vec<(&str, Vec<u8>)> =
        [GROUPS, STORAGES, SYNCED, CHANGELOG].into_iter().map(|name| (name, golden(name))).collect();
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, t)| (*n, t.as_slice())).collect();
    let (_base, data) = directory(&borrowed);
    let loaded = data.load(&settings(None)).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let text = |name: &str| String::from_utf8(golden(name)).unwrap();
    assert_eq!(groups::render(loaded.groups.iter()), text(GROUPS));
    assert_eq!(synced::render(loaded.groups.iter()), text(SYNCED));
    assert_eq!(loaded.changelog, golden(CHANGELOG));
    let status: Vec<StorageStatus> = loaded.groups[0].members().iter().map(|m| m.status).collect();
    assert_eq!(status, [StorageStatus::Offline, StorageStatus::Offline, StorageStatus::WaitSync]);
    // With the matrix the synced timestamps are computed anew; without it they are those of the file.
    let (_base, data) = directory(&[(GROUPS, &golden(GROUPS)), (STORAGES, &golden(STORAGES))]);
    let loaded = data.load(&settings(None)).unwrap();
    assert_eq!(without_status(&storages::render(loaded.groups.iter(), false)), without_status(&text(STORAGES)));
}

#[test]
fn recorded_files_with_ids_and_trunk() {
    let table = "100001 group1 10.78.0.1:23100\n100002 group1 10.78.0.2:23100 rw=read\n";
    let (_base, data) = directory(&[
        (GROUPS, &golden("storage_groups_new.trunk.dat")),
        (STORAGES, &golden("storage_servers_new.id.dat")),
        (STATUS, &golden("tracker_status")),
    ]);
    let loaded = data.load(&settings(Some(table))).unwrap();
    assert_eq!(groups::render(loaded.groups.iter()).as_bytes(), golden("storage_groups_new.trunk.dat"));
    let text = storages::render(loaded.groups.iter(), true);
    let recorded = String::from_utf8(golden("storage_servers_new.id.dat")).unwrap();
    assert_eq!(without_status(&text), without_status(&recorded));
    assert_eq!(loaded.last_check, Some(1_795_221_000));
    let modes: Vec<bool> = loaded.groups[0].members().iter().map(|m| m.rw.can_write()).collect();
    assert_eq!(modes, [true, false], "the mode is the table's");
}

#[test]
fn records_from_before_ids_are_found_by_address() {
    let table = "9 group1 10.78.0.1\n8 group1 10.78.0.2\n7 group1 10.78.0.3\n";
    let files = [(GROUPS, golden(GROUPS)), (STORAGES, golden(STORAGES)), (SYNCED, golden(SYNCED))];
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, t)| (*n, t.as_slice())).collect();
    let (_base, data) = directory(&borrowed);
    let loaded = data.load(&settings(Some(table))).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let sources: Vec<_> = loaded.groups[0]
        .members()
        .iter()
        .map(|m| (m.id.to_string(), m.sync_source.unwrap_or_default().to_string()))
        .collect();
    assert_eq!(sources, [("9", ""), ("8", "9"), ("7", "9")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(synced::render(loaded.groups.iter()), "group1,9,0,1795220670,0\ngroup1,8,0,0,0\ngroup1,7,0,0,0\n");
    let error = data.load(&settings(Some("9 group1 10.78.0.1\n"))).unwrap_err().to_string();
    assert!(error.contains("10.78.0.2") && error.contains("table of storage ids"), "{error}");
}

#[test]
fn an_empty_directory_is_an_empty_cluster() {
    let (_base, data) = directory(&[]);
    let loaded = data.load(&settings(None)).unwrap();
    assert!(loaded.groups.is_empty() && loaded.changelog.is_empty() && loaded.last_check.is_none());
}

#[test]
fn wrong_files_are_named() {
    let groups = golden(GROUPS);
    let storages = String::from_utf8(golden(STORAGES)).unwrap();
    let cases: [(&str, String, &[&str]); 7] = [
        (STORAGES, storages.replace("group_name=group1", "group_name=group2"), &["group2", GROUPS]),
        (STORAGES, storages.replace("status=7", "status=x"), &["status = x"]),
        (STORAGES, storages.replace("total_mb=258019", "total_mb=-1"), &["total_mb = -1"]),
        (STORAGES, storages.replace("sync_src_server=10.78.0.1", "sync_src_server=10.9.9.9"), &["10.9.9.9"]),
        (STORAGES, storages.replace("ip_addr=10.78.0.2", "ip_addr=10.78.0.1"), &["twice"]),
        (STORAGES, storages.replace("storage_count=3", ""), &["storage_count"]),
        (GROUPS, "[Global]\ngroup_count=1\n[Group001]\ngroup_name=a-b\n".to_owned(), &["group_name = a-b"]),
    ];
    for (file, text, parts) in cases {
        let (_base, data) = directory(&[(GROUPS, &groups), (file, text.as_bytes())]);
        let error = data.load(&settings(None)).unwrap_err().to_string();
        assert!(error.contains(file) && parts.iter().all(|p| error.contains(p)), "{error}");
    }
    let (_base, data) = directory(&[("storage_groups.dat", b"group1,23000\n")]);
    assert!(data.load(&settings(None)).unwrap_err().to_string().contains("before version 3"));
}

#[test]
fn timestamps_are_matched_by_name() {
    let groups = golden(GROUPS);
    let storages = golden(STORAGES);
    let shuffled = "group1,10.78.0.3,0,0,5\ngroup1,10.78.0.9,1,2,3\ngroup1,10.78.0.1,7,4,0\ngroup9,10.0.0.1,1\nx\n";
    let (_base, data) = directory(&[(GROUPS, &groups), (STORAGES, &storages), (SYNCED, shuffled.as_bytes())]);
    let loaded = data.load(&settings(None)).unwrap();
    assert_eq!(loaded.warnings.len(), 3, "{:?}", loaded.warnings);
    let g = &loaded.groups[0];
    assert_eq!(g.synced_row(2), [5, 0, 0], "from 3 to 1");
    assert_eq!(g.synced_row(0), [0, 0, 7], "from 1 to 3");
    assert_eq!(g.members()[2].stat.last_synced_timestamp, 7, "computed from the matrix");
}

#[test]
fn one_tracker_per_directory() {
    let (base, data) = directory(&[]);
    let error = DataDir::open(base.path()).unwrap_err();
    assert!(matches!(error, DataError::Taken { .. }) && error.to_string().contains("another tracker"));
    drop(data);
    DataDir::open(base.path()).unwrap();
}

#[test]
fn directories_that_cannot_be_written() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = DataDir::open(&file).unwrap_err().to_string();
    assert!(error.contains("base_path") && error.contains("file"), "{error}");
}

#[test]
fn the_changelog_only_grows_and_forgets_torn_tails() {
    let (base, data) = directory(&[(CHANGELOG, b"1 g a 4 \n2 g b 4 \n3 g")]);
    let path = base.path().join("data").join(CHANGELOG);
    let mut text = data.load(&settings(None)).unwrap().changelog;
    assert_eq!(text, b"1 g a 4 \n2 g b 4 \n");
    let saved = text.len() as u64;
    text.extend_from_slice(b"4 g c 4 \n");
    data.extend_changelog(saved, &text).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), text);
    data.extend_changelog(saved, &text).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), text, "once more is the same");
}

#[test]
fn replacing_is_atomic_and_leaves_nothing_behind() {
    let (base, data) = directory(&[(GROUPS, b"old")]);
    data.replace(GROUPS, b"new").unwrap();
    let dir = base.path().join("data");
    assert_eq!(std::fs::read(dir.join(GROUPS)).unwrap(), b"new");
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [LOCK, GROUPS]);
}
