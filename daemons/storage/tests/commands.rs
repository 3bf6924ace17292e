//! Every client command, as it should go.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use common::{Fixture, noise};
use fdfs_protocol::storage::{FileInfo, MetadataMode, UploadHead};
use fdfs_protocol::{Command, ExtName};
use fdfs_storage::disk::rotation::Distribution;
use fdfs_storage::disk::store::StorePathConfig;

#[test]
fn files_of_all_sizes_come_back() {
    let f = Fixture::start();
    let mut c = f.client();
    // Around every limit: empty, one byte, the receive buffer, what is received whole, what streams, several turns.
    for size in [0, 1, 4096, 65_536, 258_047, 258_048, 258_049, 262_119, 262_144, 262_145, 1_000_000, 3 << 20] {
        let content = noise(size, size as u64);
        let name = c.upload(&content, "txt");
        assert_eq!(c.content(&name), content, "{size}");
        assert_eq!(std::fs::read(f.path(&name)).unwrap(), content);
        let block = name.block().unwrap();
        assert_eq!(block.size.size(), Some(size as u64));
        assert_eq!(block.crc32, crc32fast::hash(&content));
        assert_eq!(name.as_bytes().len(), 44);
        assert_eq!(f.changes().last(), Some(&format!("C {name}")));
        assert!(c.delete(&name).ok().is_empty());
        assert_eq!(f.changes().last(), Some(&format!("D {name}")));
    }
    assert!(f.stored().is_empty());
}

#[test]
fn ranges() {
    let f = Fixture::start();
    let mut c = f.client();
    for size in [100usize, 500_000] {
        let content = noise(size, 7);
        let name = c.upload(&content, "");
        for (offset, len) in [(0, 0), (1, 0), (0, 1), (10, 20), (size - 1, 0), (size - 1, 100), (size / 2, size)] {
            let end = if len == 0 { size } else { size.min(offset + len) };
            assert_eq!(c.download(&name, offset as u64, len as u64).ok(), content[offset..end], "{offset} {len}");
        }
        assert_eq!(c.download(&name, size as u64, 0).status, 22);
        assert!(c.is_closed());
        c = f.client();
    }
    // A difference from FastDFS, which cannot send an empty file.
    let empty = c.upload(b"", "");
    assert!(c.content(&empty).is_empty());
    assert_eq!(c.download(&empty, 1, 0).status, 22);
}

#[test]
fn two_uploads_of_the_same_content_have_different_names() {
    let f = Fixture::start();
    let mut c = f.client();
    let mut names: Vec<_> = (0..100).map(|_| c.upload(b"same", "txt")).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 100);
}

#[test]
fn store_paths_are_chosen_by_the_client_or_in_turn() {
    let second = tempfile::tempdir().unwrap();
    let readonly = tempfile::tempdir().unwrap();
    let f = Fixture::with(|c| {
        c.paths.push(StorePathConfig { path: second.path().into(), readonly: false });
        c.paths.push(StorePathConfig { path: readonly.path().into(), readonly: true });
        c.distribution = Distribution::Random;
    });
    let mut c = f.client();
    let upload = |c: &mut common::Client, store_path| {
        let head = UploadHead { store_path, size: 1, ext: ExtName::NONE };
        c.ask(Command::UploadFile, &head, b"x")
    };
    for path in [0, 1] {
        let name = upload(&mut c, Some(path)).name();
        assert_eq!(name.store_path(), path);
        assert_eq!(c.content(&name), b"x");
    }
    let turns: Vec<_> = (0..4).map(|_| upload(&mut c, None).name().store_path()).collect();
    assert!(turns.contains(&0) && turns.contains(&1) && !turns.contains(&2), "{turns:?}");
    assert_ne!(upload(&mut c, Some(2)).name().store_path(), 2);
    assert_eq!(upload(&mut c, Some(3)).status, 22);
    assert!(c.is_closed());
}

#[test]
fn slaves() {
    let f = Fixture::start();
    let mut c = f.client();
    let master = c.upload(b"master", "txt");
    for (prefix, ext, size) in [("_small", "jpg", 10), ("_b", "", 10), ("_large", "bin", 700_000), ("-m", "x", 3)] {
        let content = noise(size, 3);
        let slave = c.upload_slave(&master, prefix, ext, &content).name();
        let dot = if ext.is_empty() { String::new() } else { format!(".{ext}") };
        assert_eq!(slave.as_str(), format!("{}{prefix}{dot}", master.as_str().strip_suffix(".txt").unwrap()));
        assert_eq!(c.content(&slave), content);
        assert_eq!(f.changes().last(), Some(&format!("C {slave}")));
        assert_eq!(c.upload_slave(&master, prefix, ext, &content).status, 17);
        assert!(c.is_alive());
        assert_eq!(c.content(&slave), content);
    }
    let slave = c.upload_slave(&master, "_1", "txt", b"1").name();
    let of_slave = c.upload_slave(&slave, "_2", "txt", b"2").name();
    assert_eq!(c.content(&of_slave), b"2");
    c.delete(&master).ok();
    assert_eq!(c.content(&slave), b"1");
    assert_eq!(c.upload_slave(&master, "_3", "txt", b"3").status, 2);
    assert!(c.is_alive());
    assert_eq!(c.upload_slave(&of_slave, "-m", "", b"3").status, 22);
}

#[test]
fn appenders_grow_change_and_are_sealed() {
    let f = Fixture::start();
    let mut c = f.client();
    let name = c.upload_appender(b"hello fastdfs\n", "log");
    assert_eq!(name.block().unwrap().size.size(), None);
    let mut model = b"hello fastdfs\n".to_vec();
    assert!(c.append(&name, b"more").ok().is_empty());
    model.extend_from_slice(b"more");
    let large = noise(600_000, 1);
    c.append(&name, &large).ok();
    model.extend_from_slice(&large);
    assert_eq!(c.content(&name), model);
    c.modify(&name, 3, b"XYZ").ok();
    model[3..6].copy_from_slice(b"XYZ");
    let end = model.len() as u64;
    c.modify(&name, end, &large).ok();
    model.extend_from_slice(&large);
    c.modify(&name, end - 10, &large).ok();
    model[end as usize - 10..end as usize - 10 + large.len()].copy_from_slice(&large);
    assert_eq!(c.content(&name), model);
    c.truncate(&name, 500).ok();
    model.truncate(500);
    c.truncate(&name, 600).ok();
    model.resize(600, 0);
    assert_eq!(c.content(&name), model);
    // Nothing to do: success and an empty body.
    assert!(c.append(&name, b"").ok().is_empty());
    assert!(c.modify(&name, 5, b"").ok().is_empty());
    assert!(c.truncate(&name, 600).ok().is_empty());
    let n = large.len();
    let expected = [
        format!("C {name}"),
        format!("A {name} 14 4"),
        format!("A {name} 18 {n}"),
        format!("M {name} 3 3"),
        format!("M {name} {end} {n}"),
        format!("M {name} {} {n}", end - 10),
        format!("T {name} {} 500", end as usize + n),
        format!("T {name} 500 600"),
    ];
    assert_eq!(f.changes(), expected);
    let sealed = c.regenerate(&name).name();
    assert_eq!(f.changes().last(), Some(&format!("R {sealed} {name}")));
    let block = sealed.block().unwrap();
    assert_eq!((block.size.size(), block.crc32), (Some(600), crc32fast::hash(&model)));
    assert_eq!((sealed.directories(), sealed.tail()), (name.directories(), name.tail()));
    assert_eq!(c.content(&sealed), model);
    assert_eq!(c.regenerate(&name).status, 2);
    assert_eq!(c.append(&name, b"x").status, 2);
    assert_eq!(c.append(&sealed, b"x").status, 22);
    assert!(c.is_closed());
}

#[test]
fn sealing_knows_the_sum_of_what_was_written_in_sequence() {
    let mut f = Fixture::start();
    let mut c = f.client();
    for restart in [false, true] {
        let name = c.upload_appender(b"", "");
        let mut model = Vec::new();
        for (i, size) in [1, 5000, 300_000, 1_200_000].into_iter().enumerate() {
            let piece = noise(size, i as u64);
            c.append(&name, &piece).ok();
            model.extend_from_slice(&piece);
        }
        // After a restart the sum is not in memory and is computed from the file.
        if restart {
            f.restart();
            c = f.client();
        }
        let sealed = c.regenerate(&name).name();
        assert_eq!(sealed.block().unwrap().crc32, crc32fast::hash(&model));
    }
}

#[test]
fn metadata_as_fastdfs_keeps_it() {
    let f = Fixture::start();
    let mut c = f.client();
    let name = c.upload(b"content", "txt");
    let meta = name.metadata().unwrap();
    assert_eq!(c.metadata(&name).status, 2);
    c.set_metadata(&name, MetadataMode::Overwrite, b"width\x02100\x01author\x02bob").ok();
    assert_eq!(c.metadata(&name).ok(), b"author\x02bob\x01width\x02100");
    c.set_metadata(&name, MetadataMode::Merge, b"height\x0280\x01author\x02eve").ok();
    assert_eq!(c.metadata(&name).ok(), b"author\x02eve\x01height\x0280\x01width\x02100");
    c.set_metadata(&name, MetadataMode::Merge, b"").ok();
    c.set_metadata(&name, MetadataMode::Overwrite, b"junk\x01k\x02v").ok();
    assert_eq!(c.metadata(&name).ok(), b"k\x02v");
    assert_eq!(c.content(&meta), b"k\x02v");
    c.set_metadata(&name, MetadataMode::Overwrite, b"").ok();
    // Told to the other members again, unlike by FastDFS: they may have some that is not here.
    c.set_metadata(&name, MetadataMode::Overwrite, b"").ok();
    assert_eq!(c.metadata(&name).status, 2);
    c.set_metadata(&name, MetadataMode::Merge, b"a\x02b").ok();
    c.delete(&name).ok();
    assert_eq!(c.metadata(&name).status, 2);
    assert_eq!(c.set_metadata(&name, MetadataMode::Overwrite, b"a\x02b").status, 2);
    let ops: Vec<_> = f.changes().iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(ops, ["C", "C", "U", "U", "D", "D", "C", "D", "D"]);
    assert!(f.stored().is_empty());
}

#[test]
fn file_info() {
    let f = Fixture::start();
    let mut c = f.client();
    let info = |c: &mut common::Client, name: &_, flags| {
        let body = c.info(name, flags).ok();
        assert_eq!(body.len(), 40);
        FileInfo::decode(&body).unwrap()
    };
    let name = c.upload(b"hello fastdfs\n", "txt");
    let got = info(&mut c, &name, 0);
    assert_eq!((got.size, got.crc32, got.source.as_str()), (14, 0x0e10_ba5d, "127.0.0.1"));
    assert_eq!(got.mtime, i64::from(name.block().unwrap().timestamp));
    let slave = c.upload_slave(&name, "_small", "", b"slave").name();
    assert_eq!(info(&mut c, &slave, 0).crc32, crc32fast::hash(b"slave"));
    assert_eq!(info(&mut c, &slave, 1).crc32, 0);
    let appender = c.upload_appender(b"a", "log");
    let large = noise(1 << 20, 9);
    c.append(&appender, &large).ok();
    let all = [b"a", &large[..]].concat();
    assert_eq!(info(&mut c, &appender, 0).crc32, crc32fast::hash(&all));
    c.modify(&appender, 0, b"b").ok();
    let all = [b"b", &large[..]].concat();
    assert_eq!(info(&mut c, &appender, 0).crc32, crc32fast::hash(&all));
    assert_eq!(info(&mut c, &appender, 1).crc32, 0);
    c.delete(&name).ok();
    assert_eq!(c.info(&name, 2).status, 2);
    assert!(c.is_alive());
}

#[test]
fn requests_may_come_together_and_in_any_split() {
    use std::io::Write;
    let f = Fixture::start();
    let mut c = f.client();
    let mut bytes = Vec::new();
    for i in 0..20u8 {
        let mut body = vec![255, 0, 0, 0, 0, 0, 0, 0, 5, b't', b'x', b't', 0, 0, 0];
        body.extend_from_slice(&[i; 5]);
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 20, 11, 0]);
        bytes.extend_from_slice(&body);
    }
    c.send(&bytes);
    let names: Vec<_> = (0..20).map(|_| c.answer().name()).collect();
    for (i, name) in names.iter().enumerate() {
        assert_eq!(c.content(name), [i as u8; 5]);
    }
    for byte in &bytes[..30] {
        c.stream.write_all(&[*byte]).unwrap();
    }
    let name = c.answer().name();
    assert_eq!(c.content(&name), [0; 5]);
    // The sending side may end with the request.
    c.send(&bytes[..30]);
    c.stream.shutdown(std::net::Shutdown::Write).unwrap();
    c.answer().name();
    assert!(c.is_closed());
}

#[test]
fn fsync_before_the_answer() {
    let f = Fixture::with(|c| c.fsync = fdfs_storage::config::Fsync::Always);
    let threads: Vec<_> = (0..8)
        .map(|i| {
            let addr = f.addr();
            std::thread::spawn(move || {
                let mut c = common::Client::connect(addr);
                for size in [10, 400_000] {
                    let content = noise(size, i);
                    let name = c.upload_appender(&content, "");
                    c.append(&name, b"more").ok();
                    let name = c.regenerate(&name).name();
                    c.set_metadata(&name, MetadataMode::Overwrite, b"a\x02b").ok();
                    c.upload_slave(&name, "_s", "", b"slave").name();
                    assert_eq!(c.content(&name), [&content[..], b"more"].concat());
                    c.delete(&name).ok();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(f.stored().len(), 16);
}

#[test]
fn the_access_log_has_every_request() {
    use fdfs_storage::access_log::Precision;
    use fdfs_storage::config::AccessLogConfig;
    let mut f = Fixture::with(|c| c.access_log = Some(AccessLogConfig { precision: Precision::Micros, keep_days: 1 }));
    let mut c = f.client();
    let name = c.upload_appender(b"hello", "log");
    c.append(&name, b"more").ok();
    c.modify(&name, 0, b"J").ok();
    c.truncate(&name, 5).ok();
    let sealed = c.regenerate(&name).name();
    c.content(&sealed);
    c.info(&sealed, 0).ok();
    c.set_metadata(&sealed, MetadataMode::Overwrite, b"a\x02b").ok();
    c.metadata(&sealed).ok();
    c.delete(&sealed).ok();
    assert_eq!(c.delete(&sealed).status, 2);
    assert!(c.is_alive());
    f.storage.take().unwrap().stop();
    let text = std::fs::read_to_string(f.config.base_path.join("logs/storage_access.log")).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().ends_with("] client_ip action filename status time_used_us req_len resp_len"));
    let got: Vec<_> = lines
        .map(|l| {
            let mut words: Vec<_> = l.split(' ').skip(2).collect();
            words.remove(4);
            words.join(" ")
        })
        .collect();
    let expected = [
        format!("127.0.0.1 upload {name} 0 30 70"),
        format!("127.0.0.1 append {name} 0 74 10"),
        format!("127.0.0.1 modify {name} 0 79 10"),
        format!("127.0.0.1 truncate {name} 0 70 10"),
        format!("127.0.0.1 rename {name}=>{sealed} 0 54 70"),
        format!("127.0.0.1 download {sealed} 0 86 15"),
        format!("127.0.0.1 status {sealed} 0 70 50"),
        format!("127.0.0.1 set_metadata {sealed}-m 0 90 10"),
        format!("127.0.0.1 get_metadata {sealed} 0 70 13"),
        format!("127.0.0.1 delete {sealed} 0 70 10"),
        format!("127.0.0.1 delete {sealed} 2 70 10"),
    ];
    assert_eq!(got, expected);
}

#[test]
fn appends_of_many_clients_do_not_mix() {
    let f = Fixture::start();
    let name = f.client().upload_appender(b"", "log");
    let threads: Vec<_> = (1..=4u8)
        .map(|w| {
            let addr = f.addr();
            std::thread::spawn(move || {
                let mut c = common::Client::connect(addr);
                for size in [100, 300_000, 1000] {
                    c.append(&name, &vec![w; size]).ok();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let content = f.client().content(&name);
    assert_eq!(content.len(), 4 * 301_100);
    // Every record of the binlog is one run of one client's bytes.
    let mut end = 0;
    for line in f.changes().iter().filter(|l| l.starts_with("A ")) {
        let numbers: Vec<usize> = line.split(' ').skip(2).map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers[0], end);
        end += numbers[1];
        let run = &content[numbers[0]..end];
        assert!(run.iter().all(|b| *b == run[0]));
    }
    assert_eq!(end, content.len());
    let sealed = f.client().regenerate(&name).name();
    assert_eq!(sealed.block().unwrap().crc32, crc32fast::hash(&content));
}
