use std::collections::HashMap;

use proptest::prelude::*;

use super::super::{ReservedSpace, TimeOfDay};
use super::*;

fn parse(text: &str) -> Ini {
    Ini::parse_text(Path::new("/etc/fdfs/test.conf"), text.as_bytes()).unwrap()
}

fn with_files(main: &str, files: &[(&str, &str)]) -> Result<Ini, ConfigError> {
    let files: HashMap<&Path, &str> = files.iter().map(|(name, text)| (Path::new(*name), *text)).collect();
    let mut read = |path: &Path| match files.get(path) {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    Ini::parse(Path::new("/etc/fdfs/main.conf"), main.as_bytes(), &mut read)
}

#[test]
fn values_of_all_kinds() {
    let ini = parse(
        "\u{feff}# comment\n\n port=22122\r\nuse_trunk_file = yes\nbuff_size = 256KB\n\
         network_timeout=60\nsync_wait_msec=10\ntime=02:30\nreserved_storage_space = 20%\n\
         base_path =  /var/lib/fdfs \nempty =\n",
    );
    let g = ini.global();
    assert_eq!(g.number("port", 1u16, 1..=65535).unwrap(), 22122);
    assert!(g.bool("use_trunk_file", false).unwrap());
    assert_eq!(g.size("buff_size", 0).unwrap(), 262_144);
    assert_eq!(g.duration("network_timeout", Duration::ZERO).unwrap().as_secs(), 60);
    assert_eq!(g.duration_ms("sync_wait_msec", Duration::ZERO).unwrap().as_millis(), 10);
    assert_eq!(g.parsed("time", TimeOfDay::default()).unwrap().to_string(), "02:30");
    let reserved = g.parsed("reserved_storage_space", ReservedSpace::default()).unwrap();
    assert_eq!(reserved, ReservedSpace::Ratio(0.2));
    assert_eq!(g.str("base_path"), Some("/var/lib/fdfs"));
    assert_eq!(g.str("empty"), Some(""));
    // An empty value is the default, as an absent one.
    assert!(g.bool("empty", true).unwrap() && g.bool("absent", true).unwrap());
    assert_eq!(g.duration_ms("absent", Duration::MAX).unwrap(), Duration::MAX);
    assert_eq!(ini.path(), Path::new("/etc/fdfs/test.conf"));
}

#[test]
fn repeated_keys_and_sections() {
    let ini = parse(
        "tracker_server = a:1\ntracker_server=b:2\n[access-log]\nenabled=true\n\
         [ error-log ]\nenabled=false\n[access-log]\nmore=1\n",
    );
    let trackers: Vec<&str> = ini.global().all("tracker_server").collect();
    assert_eq!(trackers, ["a:1", "b:2"]);
    assert_eq!(ini.global().str("tracker_server"), Some("b:2"));
    assert_eq!(ini.global().str("enabled"), None);
    assert!(ini.section("access-log").bool("enabled", false).unwrap());
    assert!(!ini.section("error-log").bool("enabled", true).unwrap());
    assert_eq!(ini.section("access-log").str("more"), Some("1"));
    assert_eq!(ini.section_names(), ["access-log", "error-log"]);
    assert_eq!(ini.entries().len(), 5);
}

#[test]
fn sections_that_fall_back() {
    let ini = parse("keep = 1\nrotate = 2\n[error-log]\nrotate = 3\n");
    let log = ini.section_or_global("error-log");
    assert_eq!((log.str("keep"), log.str("rotate")), (Some("1"), Some("3")));
    assert_eq!(ini.section("error-log").str("keep"), None);
}

#[test]
fn errors_name_file_line_key_and_value() {
    let ini = parse("\nport = http\n");
    let error = ini.global().number("port", 1u16, 1..=65535).unwrap_err().to_string();
    assert_eq!(error, "/etc/fdfs/test.conf:2: port = http: needs a number from 1 to 65535");
    let error = ini.global().parsed("port", TimeOfDay::default()).unwrap_err().to_string();
    assert!(error.contains("needs a time of day"), "{error}");
    let error = ini.global().required("base_path", "name a directory").unwrap_err().to_string();
    assert_eq!(error, "/etc/fdfs/test.conf: base_path is missing; name a directory");
    assert_eq!(ini.global().required("port", "").unwrap(), "http");
    let bad = Ini::parse_text(Path::new("x"), b"[section\n").unwrap_err().to_string();
    assert_eq!(bad, "x:1: `[section` is not a section header such as [access-log]");
    assert!(Ini::parse_text(Path::new("x"), b"[ ]\n").is_err());
}

#[test]
fn includes_are_relative_to_the_including_file() {
    let ini = with_files(
        "a = 1\n#include sub/one.conf\nd = 4\n#include /abs.conf\n",
        &[
            ("/etc/fdfs/sub/one.conf", "b = 2\n#include \"two.conf\"\n[s]\nx=1\n"),
            ("/etc/fdfs/sub/two.conf", "c = 3\n"),
            ("/abs.conf", "e = 5\n"),
        ],
    )
    .unwrap();
    let keys: Vec<&str> = ini.entries().iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c", "x", "d", "e"]);
    // The section of an included file ends with it.
    assert_eq!(ini.global().str("d"), Some("4"));
    assert_eq!(&*ini.global().entry("c").unwrap().file, Path::new("/etc/fdfs/sub/two.conf"));
}

#[test]
fn broken_includes() {
    let error = with_files("\n#include gone.conf\n", &[]).unwrap_err().to_string();
    assert!(error.starts_with("/etc/fdfs/main.conf:2: cannot read included file /etc/fdfs/gone.conf"), "{error}");
    let circle = [("/etc/fdfs/main.conf", "#include main.conf\n")];
    let error = with_files("#include main.conf\n", &circle).unwrap_err();
    assert!(matches!(error, ConfigError::TooDeep { .. }), "{error}");
    // Comments that only look like includes.
    assert!(with_files("#includes x\n#include\n# include x\n", &[]).is_ok());
    assert!(Ini::parse_text(Path::new("x"), b"#include y\n").is_err());
}

#[test]
fn includes_that_multiply_are_bounded() {
    let twice = "#include main.conf\n#include main.conf\nx = 1\n";
    let error = with_files(twice, &[("/etc/fdfs/main.conf", twice)]).unwrap_err();
    assert!(matches!(error, ConfigError::TooDeep { .. } | ConfigError::TooLarge { .. }));
    let many = "x = 1\n".repeat(MAX_ENTRIES + 1);
    let error = with_files(&many, &[]).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
}

#[test]
fn nothing_is_silently_ignored() {
    let ini = parse(
        "port = 1\nport = 2\nmystery = 3\njust words\n= 5\nstor_path=/x\n[log]\nenabeld = 1\nprot = 4\n\
         quiet = 1\nempty =\nhttp.server_port = 80\nstore_path1 = /y\n",
    );
    assert_eq!(ini.global().str("port"), Some("2"));
    assert_eq!((ini.global().str("store_path"), ini.global().str("store_path0")), (None, None));
    assert_eq!(ini.section("log").str("enabled"), None);
    let file = "/etc/fdfs/test.conf";
    let wanted = [
        format!("{file}:3: mystery: unknown to this version, has no effect"),
        format!("{file}:6: stor_path: unknown to this version, has no effect; did you mean store_path?"),
        format!("{file}:8: enabeld: unknown to this version, has no effect; did you mean enabled?"),
        format!("{file}:9: prot: unknown to this version, has no effect; did you mean port?"),
        format!("{file}:13: store_path1: unknown to this version, has no effect"),
        format!("{file}:4: `just words`: neither a key with a value nor a comment, has no effect"),
        format!("{file}:5: `= 5`: neither a key with a value nor a comment, has no effect"),
    ];
    assert_eq!(ini.warnings(&["quiet"]), wanted);
}

#[test]
fn files_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.conf");
    let error = Ini::load(&path).unwrap_err().to_string();
    assert!(error.contains("a.conf"), "{error}");
    std::fs::write(&path, b"a = \xff1\n#include b.conf\n").unwrap();
    std::fs::write(dir.path().join("b.conf"), "b = 2\n").unwrap();
    let ini = Ini::load(&path).unwrap();
    assert_eq!(ini.global().str("b"), Some("2"));
    assert!(ini.global().str("a").unwrap().ends_with('1'));
}

proptest! {
    #[test]
    fn any_text(text in "(\\PC|[\\n=#\\[\\] ]|#include x\n){0,100}") {
        let mut read = |_: &Path| Ok(b"x = 1\n[y]\nz = 2\n".to_vec());
        let _ = Ini::parse(Path::new("a"), text.as_bytes(), &mut read);
    }

    #[test]
    fn pairs_survive(pairs in proptest::collection::vec(("[a-z_]{1,10}", "[!-~]{0,20}"), 0..20)) {
        let text: String = pairs.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        let ini = parse(&text);
        let read: Vec<(String, String)> =
            ini.entries().iter().map(|e| (e.key.clone(), e.value.clone())).collect();
        prop_assert_eq!(read, pairs);
    }
}
