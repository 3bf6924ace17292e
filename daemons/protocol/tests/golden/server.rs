//! What servers said to each other.

use fdfs_protocol::Status;
use fdfs_protocol::peer::replica::FetchPathBinlog;

use crate::client::{blank, without_leftovers};
use crate::messages;
use crate::vectors::{Case, cases};

/// Requests that must be refused, with the status that was answered.
const REFUSED: &[&str] = &["create_link//create_link_01", "unknown_command//unknown_command_01"];

/// Answers with success that repeat their request, by accident of the recorded server.
const ECHOES: &[&str] = &["sync_rename_file//sync_rename_file_01", "sync_rename_file//sync_rename_file_04"];

/// An error whose answer repeats its request, likewise.
const ERROR_WITH_BODY: &str = "storage_report_ip_changed//storage_report_ip_changed_01";

/// A stream, not a message: see [`a_stream_of_records`].
const STREAM: &str = "fetch_one_path_binlog//fetch_one_path_binlog_01";

/// Offset of the group field in replication requests, whose sender leaves memory garbage behind
/// the name in it.
const GROUP_OFFSETS: &[(&str, usize)] = &[
    ("sync_create_file/", 20),
    ("sync_update_file/", 20),
    ("sync_append_file/", 28),
    ("sync_modify_file/", 28),
    ("sync_truncate_file/", 28),
];

fn comparable_request(case: &Case) -> Vec<u8> {
    let mut body = case.request.body.clone();
    if let Some((_, at)) = GROUP_OFFSETS.iter().find(|(file, _)| case.id.starts_with(file)) {
        blank(&mut body[*at..*at + 16]);
    }
    body
}

#[test]
fn requests() {
    let mut refused = Vec::new();
    for case in cases("server") {
        match messages::request(case.server, &case.request) {
            Ok(again) => assert_eq!(again, comparable_request(&case), "{}", case.id),
            Err(error) => {
                assert_eq!(error.status(), case.response.as_ref().unwrap().header.outcome(), "{}", case.id);
                refused.push(case.id);
            }
        }
    }
    assert_eq!(refused, REFUSED);
}

#[test]
fn answers() {
    for case in cases("server") {
        let Some(response) = &case.response else {
            assert!(case.id.starts_with("quit/"), "{} has no answer", case.id);
            continue;
        };
        if response.header.outcome() != Status::OK {
            assert_eq!(response.body.is_empty(), case.id != ERROR_WITH_BODY, "{}", case.id);
            continue;
        }
        let again = messages::response(case.server, case.request.header.cmd, case.ip_size, &response.body);
        if ECHOES.contains(&case.id.as_str()) {
            assert_eq!(response.body, case.request.body, "{}", case.id);
        } else if case.id != STREAM {
            let again = again.unwrap_or_else(|error| panic!("{}: {error}", case.id));
            assert_eq!(again, without_leftovers(&case.id, &response.body), "{}", case.id);
        }
    }
}

#[test]
fn a_stream_of_records() {
    let cases = cases("server");
    let case = cases.iter().find(|case| case.id == STREAM).unwrap();
    let response = case.response.as_ref().unwrap();
    assert_eq!(response.header.body_len, FetchPathBinlog::STREAM_LEN);
    let text_len = response.body.len() - FetchPathBinlog::TRAILER_LEN;
    let (text, trailer) = response.body.split_at(text_len);
    assert_eq!(trailer, (text_len as u64).to_be_bytes());
    for line in std::str::from_utf8(text).unwrap().lines() {
        let record = fdfs_protocol::binlog::Record::parse(line.as_bytes()).unwrap();
        assert_eq!(record.to_string(), line);
    }
}
