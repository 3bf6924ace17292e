//! Requests recorded from FastDFS 6.16.1 clients, answered by this storage: same status, same length, same behaviour of
//! the connection, and the same bytes where they do not depend on the moment.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod common;

use std::path::Path;

use common::Fixture;
use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::storage::{AppendHead, FileInfo, ModifyHead, Truncate, UploadHead, UploadSlaveHead};
use fdfs_protocol::{Command, FileId, RemoteName};
use serde_json::Value;

/// Cases that are answered in another way on purpose: FastDFS repeats the request when there is nothing to do, keeps
/// leftovers behind metadata it has shortened, and cannot send an empty file.
const DIFFERENT: &[&str] = &["zero-bytes", "same-size", "after-junk", "after-long", "zero-byte-file"];

struct Case {
    name: String,
    request: Vec<u8>,
    response: Vec<u8>,
    status: u8,
    closes: bool,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// The cases of the plain cluster that were recorded whole.
fn cases(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/client").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let json: Value = serde_json::from_str(&text).unwrap();
    let whole = |c: &&Value| c["cluster"] == "main" && c.get("request_cut_from").is_none();
    json["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(whole)
        .map(|c| Case {
            name: c["name"].as_str().unwrap().to_owned(),
            request: hex(c["request_hex"].as_str().unwrap()),
            response: hex(c["response_hex"].as_str().unwrap()),
            status: c["response_status"].as_u64().unwrap() as u8,
            closes: c["server_closes_after_response"].as_bool().unwrap_or(false),
        })
        .collect()
}

/// Makes the file that the request is about as it must have been when the answer was recorded.
fn prepare(f: &Fixture, case: &Case) {
    let body = &case.request[HEADER_LEN..];
    let len = body.len() as u64;
    f.stored().iter().for_each(|old| std::fs::remove_file(old).unwrap());
    let put = |name: &RemoteName, content: &[u8]| {
        if name.store_path() != 0 {
            return;
        }
        let path = f.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let answer = case.response.get(HEADER_LEN..).unwrap_or_default();
    let missing = case.status == 2;
    let name_at = |at: usize| body.get(at..).and_then(|n| RemoteName::parse(n).ok());
    match Command::from_code(case.request[8]) {
        _ if missing => {}
        Some(Command::DeleteFile | Command::GetMetadata) => {
            if let Some(name) = name_at(16) {
                put(&name, b"content");
                if !answer.is_empty() {
                    put(&name.metadata().unwrap(), answer);
                }
            }
        }
        Some(Command::QueryFileInfo) => {
            if let Some(name) = name_at(16) {
                let size = FileInfo::decode(answer).map_or(10, |info| info.size);
                put(&name, &vec![7; size as usize]);
            }
        }
        Some(Command::SetMetadata) if body.len() > 33 => {
            let n = body[7] as usize;
            if let Ok(name) = RemoteName::parse(body.get(33..33 + n).unwrap_or_default()) {
                put(&name, b"content");
            }
        }
        Some(Command::DownloadFile) if body.len() > 32 => {
            let offset = u64::from_be_bytes(body[..8].try_into().unwrap());
            let pad = match case.status {
                0 => offset as usize,
                _ if case.name == "zero-byte-file" => 0,
                _ => 5,
            };
            if let Some(name) = name_at(32) {
                put(&name, &[&vec![0; pad], answer].concat());
            }
        }
        Some(Command::UploadSlaveFile) => {
            if let Ok(n) = UploadSlaveHead::name_len(body, len)
                && let Some(head) = body.get(..38 + n)
                && let Ok(master) = RemoteName::parse(&head[38..])
            {
                put(&master, b"master");
                if case.status == 17 {
                    let head = UploadSlaveHead::decode(head, len).unwrap();
                    put(&master.slave(&head.prefix, &head.ext).unwrap(), b"slave");
                }
            }
        }
        Some(Command::AppendFile) => {
            if AppendHead::name_len(body, len).is_ok()
                && let Ok(name) = RemoteName::parse(&body[16..16 + body[7] as usize])
            {
                put(&name, b"content");
            }
        }
        Some(Command::ModifyFile) => {
            if ModifyHead::name_len(body, len).is_ok()
                && let Ok(name) = RemoteName::parse(&body[24..24 + body[7] as usize])
            {
                let offset = u64::from_be_bytes(body[8..16].try_into().unwrap());
                put(&name, &vec![1; if case.status == 0 { offset as usize } else { 3 }]);
            }
        }
        Some(Command::TruncateFile) => {
            if let Ok(request) = Truncate::decode(body) {
                let size = if case.name == "same-size" { request.size } else { request.size + 5 };
                put(&request.name, &vec![1; size as usize]);
            }
        }
        Some(Command::RegenerateAppenderFilename) => {
            if let Some(name) = name_at(0) {
                put(&name, b"content");
            }
        }
        _ => {}
    }
}

fn replay(file: &str) -> usize {
    let cases = cases(file);
    let f = Fixture::start();
    for case in &cases {
        let what = format!("{file} {}", case.name);
        prepare(&f, case);
        let mut c = f.client();
        c.send(&case.request);
        let answer = c.answer();
        let different = DIFFERENT.contains(&case.name.as_str());
        if case.name == "zero-byte-file" {
            assert_eq!((answer.status, answer.body.len()), (0, 0), "{what}");
            continue;
        }
        assert_eq!(answer.status, case.status, "{what}");
        if case.closes {
            assert!(c.is_closed(), "{what}");
        } else if case.status != 22 {
            assert!(c.is_alive(), "{what}");
        }
        if different {
            continue;
        }
        let recorded = &case.response[HEADER_LEN..];
        assert_eq!(answer.body.len(), recorded.len(), "{what}");
        check_body(&what, case, &answer.body, recorded);
    }
    cases.len()
}

/// What does not depend on the moment must be the same.
fn check_body(what: &str, case: &Case, body: &[u8], recorded: &[u8]) {
    if case.status != 0 {
        return;
    }
    let head: [u8; HEADER_LEN] = case.request[..HEADER_LEN].try_into().unwrap();
    match Command::from_code(Header::decode(&head).unwrap().cmd) {
        Some(Command::DownloadFile | Command::GetMetadata) => assert_eq!(body, recorded, "{what}"),
        Some(Command::UploadFile | Command::UploadAppenderFile) => {
            let (ours, theirs) = (FileId::decode(body).unwrap(), FileId::decode(recorded).unwrap());
            let (a, b) = (ours.name.block().unwrap(), theirs.name.block().unwrap());
            assert_eq!((ours.group, a.crc32, a.size.size()), (theirs.group, b.crc32, b.size.size()), "{what}");
            assert_eq!(ours.name.kind(), theirs.name.kind(), "{what}");
            let body = &case.request[HEADER_LEN..];
            let ext = UploadHead::decode(&body[..15], body.len() as u64).unwrap().ext;
            assert!(ours.name.as_str().ends_with(ext.as_str()), "{what}");
        }
        Some(Command::UploadSlaveFile) => assert_eq!(body, recorded, "{what}"),
        Some(Command::RegenerateAppenderFilename) => {
            let (ours, theirs) = (FileId::decode(body).unwrap(), FileId::decode(recorded).unwrap());
            assert_eq!(ours.name.tail(), theirs.name.tail(), "{what}");
            assert_eq!(ours.name.directories(), theirs.name.directories(), "{what}");
        }
        Some(Command::QueryFileInfo) => {
            let (ours, theirs) = (FileInfo::decode(body).unwrap(), FileInfo::decode(recorded).unwrap());
            assert_eq!((ours.size, ours.source), (theirs.size, theirs.source), "{what}");
            // The content was not recorded, so only a checksum that stands in the name can be compared.
            let name = RemoteName::parse(&case.request[HEADER_LEN + 16..]).unwrap();
            if name.kind().unwrap().is_normal() || case.request[9] & 1 == 1 {
                assert_eq!(ours.crc32, theirs.crc32, "{what}");
            }
        }
        _ => {}
    }
}

#[test]
fn recorded_requests_are_answered_as_fastdfs_does() {
    let files = [
        "storage_111_active_test.json",
        "storage_11_upload_file.json",
        "storage_12_delete_file.json",
        "storage_13_set_metadata.json",
        "storage_14_download_file.json",
        "storage_15_get_metadata.json",
        "storage_21_upload_slave_file.json",
        "storage_22_query_file_info.json",
        "storage_23_upload_appender_file.json",
        "storage_24_append_file.json",
        "storage_34_modify_file.json",
        "storage_36_truncate_file.json",
        "storage_38_regenerate_appender_filename.json",
        "storage_unknown.json",
    ];
    let total: usize = files.iter().map(|f| replay(f)).sum();
    assert!(total > 90, "{total} cases");
}
