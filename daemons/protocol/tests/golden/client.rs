//! What clients and servers said to each other: every request and every answer, decoded and
//! encoded again, gives the recorded bytes. The tables name each exception and its reason.

use std::collections::BTreeSet;

use fdfs_protocol::Status;

use crate::messages;
use crate::vectors::{Case, cases};

/// Requests whose bytes are one of several spellings of the same message.
const OTHER_SPELLING: &[(&str, &str)] = &[
    ("storage_11_upload_file/main/ext-garbage-after-nul", "bytes behind the zero byte of a field mean nothing"),
    ("tracker_92_list_storage/main/by-storage-id-padded", "the id may be padded, we send it unpadded"),
];

/// Requests that the decoders must refuse, with the status that was answered: all of them, and
/// no others.
const REFUSED: &[&str] = &[
    "storage_111_active_test/main/nonempty-body",
    "storage_11_upload_file/main/ext-with-slash",
    "storage_11_upload_file/main/short-body",
    "storage_11_upload_file/main/size-negative",
    "storage_11_upload_file/main/size-too-big",
    "storage_12_delete_file/main/bad-path",
    "storage_12_delete_file/main/no-name",
    "storage_13_set_metadata/main/bad-flag",
    "storage_13_set_metadata/main/bad-meta-length",
    "storage_14_download_file/main/lower-hex-dir",
    "storage_14_download_file/main/name-too-short",
    "storage_14_download_file/main/negative-length",
    "storage_14_download_file/main/negative-offset",
    "storage_14_download_file/main/no-name",
    "storage_14_download_file/main/path-traversal",
    "storage_14_download_file/main/short-body",
    "storage_21_upload_slave_file/main/bad-prefix",
    "storage_21_upload_slave_file/main/bad-size",
    "storage_21_upload_slave_file/main/empty-prefix",
    "storage_22_query_file_info/main/no-name",
    "storage_24_append_file/main/bad-size",
    "storage_24_append_file/main/short-body",
    "storage_24_append_file/main/short-name",
    "storage_34_modify_file/main/negative-offset",
    "storage_36_truncate_file/main/negative",
    "storage_38_regenerate_appender_filename/main/short-name",
    "storage_unknown/main/tracker-command-to-storage",
    "storage_unknown/main/unknown-200",
    "tracker_101_query_store_without_group_one/main/nonempty-body",
    "tracker_102_query_fetch_one/main/name-128-bytes",
    "tracker_102_query_fetch_one/main/name-21-bytes",
    "tracker_103_query_update/main/name-128-bytes",
    "tracker_103_query_update/main/name-21-bytes",
    "tracker_104_query_store_with_group_one/main/empty-group",
    "tracker_104_query_store_with_group_one/main/short-body",
    "tracker_105_query_fetch_all/main/name-128-bytes",
    "tracker_105_query_fetch_all/main/name-21-bytes",
    "tracker_108_delete_group/main/short-body",
    "tracker_111_active_test/main/nonempty-body",
    "tracker_60_get_my_ip/main/short-body",
    "tracker_64_get_status/main/nonempty-body",
    "tracker_69_fetch_storage_ids/id/short-body",
    "tracker_69_fetch_storage_ids/main/short-body",
    "tracker_70_get_storage_id/id/no-port",
    "tracker_70_get_storage_id/main/no-port",
    "tracker_71_get_storage_status/id/no-port",
    "tracker_71_get_storage_status/main/no-port",
    "tracker_75_parameter_req/main/nonempty-body",
    "tracker_90_list_one_group/main/short-body",
    "tracker_91_list_all_groups/main/nonempty-body",
    "tracker_92_list_storage/main/id-of-16-bytes",
    "tracker_92_list_storage/main/short-body",
    "tracker_93_delete_storage/main/id-of-16-bytes",
    "tracker_93_delete_storage/main/no-id",
    "tracker_95_get_leader/main/nonempty-body",
    "tracker_96_tracker_cluster_stat/main/short-body",
    "tracker_97_storage_cluster_stat/main/short-body",
    "tracker_98_storage_volumn_stat/main/short-body",
    "tracker_unknown/main/storage-command-to-tracker",
    "tracker_unknown/main/unknown-0",
    "tracker_unknown/main/unknown-200",
];

/// Commands of storages that the tracker refused with EACCES because the sender had not joined;
/// it did not look at the body.
const NOT_JOINED: &str = "tracker_storage_only_commands/";

/// Answers that are accidents of the recorded server, which a new one must not repeat.
const ACCIDENTS: &[(&str, &str)] = &[
    ("storage_15_get_metadata/main/after-long", "cut metadata is stored with the leftovers of what was cut"),
    ("storage_24_append_file/*/zero-bytes", "the answer repeats the request"),
    ("storage_34_modify_file/*/zero-bytes", "the answer repeats the request"),
    ("storage_36_truncate_file/*/same-size", "the answer repeats the request"),
];

/// Answers whose text fields have leftovers of older packets behind the zero byte: compared with
/// these blanked. File; head and record length; offset and width of each text.
type TextFields = (&'static str, usize, usize, &'static [(usize, usize)]);
pub const LEFTOVERS: &[TextFields] = &[
    ("tracker_96_tracker_cluster_stat/", 1, 90, &[(0, 52), (66, 8)]),
    ("tracker_97_storage_cluster_stat/", 6, 106, &[(0, 16), (16, 52), (82, 8)]),
    ("tracker_98_storage_volumn_stat/", 5, 59, &[(0, 17)]),
    ("tracker_cluster_stat/", 1, 90, &[(0, 52), (66, 8)]),
    ("storage_cluster_stat/", 6, 106, &[(0, 16), (16, 52), (82, 8)]),
    ("volume_stat/", 5, 59, &[(0, 17)]),
];

/// The recorded body with the leftovers behind texts blanked.
pub fn without_leftovers(id: &str, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    if let Some((_, head, record, texts)) = LEFTOVERS.iter().find(|(file, ..)| id.starts_with(file)) {
        for record in body[*head..].chunks_exact_mut(*record) {
            for &(offset, width) in *texts {
                blank(&mut record[offset..offset + width]);
            }
        }
    }
    body
}

/// Zeroes what stands behind the first zero byte.
pub fn blank(field: &mut [u8]) {
    if let Some(end) = field.iter().position(|&b| b == 0) {
        field[end..].fill(0);
    }
}

fn accident(case: &Case) -> bool {
    let (file, name) = (case.id.split('/').next(), case.id.rsplit('/').next());
    ACCIDENTS.iter().any(|(pattern, _)| {
        let exact = *pattern == case.id;
        exact || pattern.contains("/*/") && (pattern.split('/').next(), pattern.rsplit('/').next()) == (file, name)
    })
}

#[test]
fn requests() {
    let mut refused = BTreeSet::new();
    for case in cases("client").iter().filter(|case| !case.id.starts_with(NOT_JOINED)) {
        match messages::request(case.server, &case.request) {
            Ok(again) if OTHER_SPELLING.iter().any(|(id, _)| *id == case.id) => {
                assert_ne!(again, case.request.body, "{}: needs no exception", case.id);
            }
            Ok(again) => {
                assert_eq!(again, case.request.body, "{}", case.id);
                let body_len = case.request.header.body_len as usize;
                assert!(case.request_cut || body_len == again.len(), "{}", case.id);
            }
            Err(error) => {
                let answered = case.response.as_ref().unwrap().header.outcome();
                assert_eq!(error.status(), answered, "{}: {error}", case.id);
                refused.insert(case.id.as_str().to_owned());
            }
        }
    }
    let expected: BTreeSet<String> = REFUSED.iter().map(|id| id.to_string()).collect();
    assert_eq!(refused, expected);
}

#[test]
fn answers() {
    let mut successes = 0;
    for case in cases("client") {
        let Some(response) = &case.response else {
            assert!(case.id.starts_with("tracker_82_quit/"), "{} has no answer", case.id);
            continue;
        };
        assert_eq!(response.header.body_len, response.body.len() as u64, "{}", case.id);
        assert_eq!(response.header.cmd, 100, "{}", case.id);
        if response.header.outcome() != Status::OK {
            assert!(response.body.is_empty(), "{}: errors have no body", case.id);
            continue;
        }
        successes += 1;
        let again = messages::response(case.server, case.request.header.cmd, case.ip_size, &response.body);
        if accident(&case) {
            assert_ne!(again.as_deref(), Ok(response.body.as_slice()), "{}: needs no exception", case.id);
            continue;
        }
        let again = again.unwrap_or_else(|error| panic!("{}: {error}", case.id));
        assert_eq!(again, without_leftovers(&case.id, &response.body), "{}", case.id);
    }
    assert!(successes > 400, "only {successes} answers");
}
