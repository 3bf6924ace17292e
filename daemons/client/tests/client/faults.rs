//! Every operation, against servers that fail.

use std::net::SocketAddr;
use std::time::Duration;

use crate::fake::{Fake, Fault, Files, Members, Reply, group, members, storage, tracker};
use bytes::Bytes;
use fdfs_client::{Client, ClientConfig, Content, Error, ExtName, FileId, Metadata, MetadataMode, ServerAddress};
use fdfs_protocol::{Command, HEADER_LEN, Header, Status};

/// Long enough for a loaded machine, for operations that are to succeed.
const LONG: Duration = Duration::from_secs(30);
/// For operations that are to run into it; long enough for the answers that are to come.
const SHORT: Duration = Duration::from_secs(1);

fn config(trackers: &[SocketAddr]) -> ClientConfig {
    ClientConfig {
        connect_timeout: LONG,
        network_timeout: LONG,
        ..ClientConfig::new(trackers.iter().copied().map(ServerAddress::from))
    }
}

/// Two storages with the same files, a tracker that takes them in turn, and a client.
struct Pair {
    tracker: Fake,
    members: Members,
    a: Fake,
    b: Fake,
    files: Files,
    client: Client,
}

async fn pair_with(change: impl FnOnce(&mut ClientConfig)) -> Pair {
    let files = Files::default();
    let (a, b) = (storage(&files).await, storage(&files).await);
    let members = members(&[a.addr, b.addr]);
    let tracker = tracker(&members).await;
    let mut config = config(&[tracker.addr]);
    change(&mut config);
    Pair { tracker, members, a, b, files, client: Client::new(config) }
}

async fn pair() -> Pair {
    pair_with(|_| {}).await
}

fn data() -> [Bytes; 1] {
    [Bytes::from_static(b"some content")]
}

impl Pair {
    /// A file that no earlier request of the client tells anything about.
    async fn put(&self) -> FileId {
        let id = Client::new(config(&[self.tracker.addr])).upload_buf(&data(), &ExtName::NONE).await.unwrap();
        self.client.reset();
        id
    }

    fn both(&self, command: Command, fault: Fault) {
        self.a.fail(command, fault.clone());
        self.b.fail(command, fault);
    }

    fn clear_faults(&self) {
        self.a.clear_faults();
        self.b.clear_faults();
    }

    fn count(&self, command: Command) -> (usize, usize) {
        (self.a.count(command), self.b.count(command))
    }
}

// Uploads.

#[tokio::test]
async fn an_upload_fails_over_whatever_is_wrong_with_the_storage() {
    let wrong_command = Header { body_len: 0, cmd: 11, status: 0 };
    for fault in [
        Fault::Reply(Reply::Close),
        Fault::Reply(Reply::Status(Status::ENOSPC)),
        Fault::Reply(Reply::Status(Status::EIO)),
        Fault::Reply(Reply::Status(Status::EROFS)),
        Fault::Reply(Reply::Status(Status::ENOENT)),
        Fault::Reply(Reply::RawThenClose(vec![0; 4])),
        Fault::Reply(Reply::Raw(vec![0xff; HEADER_LEN])),
        Fault::Reply(Reply::Raw(wrong_command.encode().to_vec())),
        Fault::Reply(Reply::Body(b"no file id".to_vec())),
        Fault::Reply(Reply::Raw(Header::ok(u64::MAX / 2).encode().to_vec())),
        Fault::Reply(Reply::cut_off(60, b"group1")),
        Fault::Early(Status::ENOSPC),
    ] {
        let pair = pair().await;
        pair.a.fail(Command::UploadFile, fault.clone());
        let id = pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
        assert!(pair.files.lock().contains_key(&id.name), "{fault:?}");
        assert_eq!(pair.b.count(Command::UploadFile), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_fails_over_from_a_storage_that_is_down() {
    let pair = pair().await;
    pair.a.stop().await;
    for _ in 0..10 {
        pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    }
    assert_eq!(pair.b.count(Command::UploadFile), 10);
}

#[tokio::test]
async fn an_upload_fails_over_from_a_storage_that_hangs() {
    let pair = pair_with(|config| config.network_timeout = SHORT).await;
    pair.a.fail(Command::UploadFile, Fault::Reply(Reply::Silence));
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    assert_eq!(pair.count(Command::UploadFile), (1, 1));
}

#[tokio::test]
async fn an_upload_fails_over_to_another_group() {
    let pair = pair().await;
    let files = Files::default();
    let other = storage(&files).await;
    pair.members.lock().push(("group2".parse().unwrap(), vec![other.addr]));
    pair.both(Command::UploadFile, Fault::Reply(Reply::Status(Status::ENOSPC)));
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    assert_eq!(pair.count(Command::UploadFile), (1, 1));
    assert_eq!(other.count(Command::UploadFile), 1);

    // Not if a group was asked for.
    let mut config = config(&[pair.tracker.addr]);
    config.group = Some(group());
    pair.both(Command::UploadFile, Fault::Reply(Reply::Status(Status::ENOSPC)));
    let error = Client::new(config).upload_buf(&data(), &ExtName::NONE).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(error.to_errno(), 28);
    assert_eq!(other.count(Command::UploadFile), 1);
}

#[tokio::test]
async fn an_upload_that_is_refused_as_wrong_is_not_sent_around() {
    let pair = pair().await;
    pair.both(Command::UploadFile, Fault::Reply(Reply::Status(Status::EINVAL)));
    pair.both(Command::UploadFile, Fault::Reply(Reply::Status(Status::EINVAL)));
    let error = pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap_err();
    assert_eq!(error.to_errno(), 22);
    let (a, b) = pair.count(Command::UploadFile);
    assert_eq!(a + b, 1);
}

#[tokio::test]
async fn a_store_path_that_is_gone_is_asked_for_again() {
    let pair = pair().await;
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.both(Command::UploadFile, Fault::Reply(Reply::Status(Status::EINVAL)));
    let asked = pair.tracker.count(Command::QueryStoreWithoutGroupOne);
    // The answer in hand may be out of date, so the tracker is asked once more; then it is the request that is wrong.
    let first = pair.client.upload_buf(&data(), &ExtName::NONE).await;
    assert!(pair.tracker.count(Command::QueryStoreWithoutGroupOne) > asked);
    if let Err(error) = first {
        assert_eq!(error.to_errno(), 22);
    }
}

#[tokio::test]
async fn all_storages_down_is_an_error_that_names_one() {
    let pair = pair().await;
    pair.a.stop().await;
    pair.b.stop().await;
    let error = pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Unreachable { .. }), "{text}");
    assert_eq!(error.to_errno(), 111);
    assert!(text.contains("127.0.0.1:") && text.contains("upload"), "{text}");
}

#[tokio::test]
async fn a_large_upload_learns_why_it_was_refused() {
    let pair = pair().await;
    pair.both(Command::UploadFile, Fault::Early(Status::ENOSPC));
    let large = [Bytes::from(vec![0; 32 * 1024 * 1024])];
    let error = pair.client.upload_buf(&large, &ExtName::NONE).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. } | Error::Disconnected { .. }), "{error}");
}

#[tokio::test]
async fn a_stream_is_not_sent_twice() {
    let pair = pair().await;
    pair.both(Command::UploadFile, Fault::Reply(Reply::Close));
    let error = pair.client.upload_reader(&b"0123456789"[..], 10, &ExtName::NONE).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    let (a, b) = pair.count(Command::UploadFile);
    assert_eq!(a + b, 1);
    // Before its first byte was taken it goes elsewhere.
    let pair = self::pair().await;
    pair.a.stop().await;
    for _ in 0..4 {
        let id = pair.client.upload_reader(&b"0123456789"[..], 10, &ExtName::NONE).await.unwrap();
        assert_eq!(pair.files.lock()[&id.name], b"0123456789");
        pair.client.reset();
    }
}

// Reused connections.

#[tokio::test]
async fn after_a_restart_of_the_servers_nothing_fails() {
    let pair = pair().await;
    let id = pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    for _ in 0..5 {
        pair.tracker.close_connections().await;
        pair.a.close_connections().await;
        pair.b.close_connections().await;
        assert_eq!(pair.client.download_buf(&id, 0, 0).await.unwrap(), data()[0]);
        pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
        pair.client.list_groups().await.unwrap();
    }
    // A change has one try, so it takes none of the connections that were closed.
    for _ in 0..5 {
        pair.a.close_connections().await;
        pair.b.close_connections().await;
        pair.client.set_metadata(&id, &Metadata::default(), MetadataMode::Overwrite).await.unwrap();
    }
}

#[tokio::test]
async fn a_harmless_request_is_repeated_when_a_used_connection_ends_before_the_answer() {
    let pair = pair().await;
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.both(Command::UploadFile, Fault::Reply(Reply::Close));
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    assert_eq!(pair.count(Command::UploadFile), (3, 3), "each storage saw its request again, none was given up");
}

#[tokio::test]
async fn a_change_is_never_sent_twice() {
    let pair = pair().await;
    let id = pair.client.upload_appender_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.both(Command::AppendFile, Fault::Reply(Reply::Close));
    let error = pair.client.append_buf(&id, &data()).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert!(error.to_string().contains("not known"), "{error}");
    let (a, b) = pair.count(Command::AppendFile);
    assert_eq!(a + b, 1);
    pair.client.append_buf(&id, &data()).await.unwrap_or_else(|error| assert!(error.outcome_unknown()));
}

#[tokio::test]
async fn nor_is_one_of_which_a_part_was_taken() {
    let pair = pair().await;
    let id = pair.client.upload_appender_buf(&data(), &ExtName::NONE).await.unwrap();
    // More than the kernel's buffers hold.
    let large = [Bytes::from(vec![1; 64 << 20])];
    pair.both(Command::AppendFile, Fault::Cut);
    let error = pair.client.append_buf(&id, &large).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }) && error.outcome_unknown(), "{error}");
    assert_eq!(pair.count(Command::AppendFile), (0, 0));
    assert_eq!(pair.files.lock()[&id.name], data()[0]);
}

#[tokio::test]
async fn a_change_goes_elsewhere_when_it_cannot_have_been_made() {
    let pair = pair().await;
    let id = pair.put().await;
    // The tracker names the first storage; it is down; then the tracker notices.
    pair.a.stop().await;
    let error = pair.client.delete(&id).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    pair.members.lock()[0].1.remove(0);
    pair.client.delete(&id).await.unwrap();
    assert_eq!(pair.b.count(Command::DeleteFile), 1);
}

#[tokio::test]
async fn timeouts_are_reported_as_such() {
    let pair = pair_with(|config| config.network_timeout = SHORT).await;
    let id = pair.put().await;
    pair.a.fail(Command::DeleteFile, Fault::Reply(Reply::Silence));
    let error = pair.client.delete(&id).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
    assert_eq!(error.to_errno(), 110);
    assert!(error.outcome_unknown());
}

#[tokio::test]
async fn a_peer_that_stops_reading_runs_into_the_timeout() {
    let pair = pair_with(|config| config.network_timeout = SHORT).await;
    // A listener that accepts in the kernel and never reads.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let large = [Bytes::from(vec![0; 64 * 1024 * 1024])];
    let addr = deaf.local_addr().unwrap();
    let error = pair.client.upload_to(addr, None, Content::buffers(&large), &ExtName::NONE).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { sent: false, .. }), "{error}");
}

#[tokio::test]
async fn connections_in_use_are_bounded() {
    let pair = pair_with(|config| {
        config.network_timeout = SHORT;
        config.max_connections_per_server = 1;
    })
    .await;
    pair.members.lock()[0].1.remove(1);
    let large = [Bytes::from(vec![1; 1_000_000])];
    let id = pair.client.upload_buf(&large, &ExtName::NONE).await.unwrap();
    let held = pair.client.download(&id, 0, 0).await.unwrap();
    let error = pair.client.download_buf(&id, 0, 0).await.unwrap_err();
    assert!(matches!(error, Error::Busy { limit: 1, .. }), "{error}");
    drop(held);
    pair.client.download_buf(&id, 0, 0).await.unwrap();
}

// Trackers.

#[tokio::test]
async fn a_dead_tracker_is_passed_over_and_then_avoided() {
    let pair = pair().await;
    let dead = Fake::refused().await;
    let client = Client::new(config(&[dead, pair.tracker.addr]));
    for _ in 0..10 {
        client.list_groups().await.unwrap();
    }
    let silent = Fake::start(|_| Reply::Silence).await;
    let mut config = config(&[silent.addr, pair.tracker.addr]);
    config.network_timeout = SHORT;
    let client = Client::new(config);
    for _ in 0..4 {
        client.list_groups().await.unwrap();
    }
    assert!(silent.received().len() <= 3, "a tracker that hangs is not asked again and again");
}

#[tokio::test]
async fn no_tracker_at_all() {
    let (first, second) = (Fake::refused().await, Fake::refused().await);
    let error = Client::new(config(&[first, second])).list_groups().await.unwrap_err();
    assert!(matches!(&error, Error::NoTracker { tried: 2, .. }), "{error}");
    assert_eq!(error.to_errno(), 111);
    let error = Client::new(config(&[first])).upload_buf(&data(), &ExtName::NONE).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    let error = Client::new(config(&[])).list_groups().await.unwrap_err();
    assert!(error.to_string().contains("tracker_server"), "{error}");
    let nowhere = ClientConfig::new(["does-not-exist.invalid:22122".parse().unwrap()]);
    let error = Client::new(nowhere).list_groups().await.unwrap_err();
    assert!(error.to_string().contains("does-not-exist.invalid"), "{error}");
}

#[tokio::test]
async fn a_tracker_that_knows_no_storage_does_not_have_the_last_word() {
    let pair = pair().await;
    let fresh = tracker(&members(&[])).await;
    let client = Client::new(config(&[fresh.addr, pair.tracker.addr]));
    for _ in 0..4 {
        client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
        client.reset();
    }
    let error = Client::new(config(&[fresh.addr])).upload_buf(&data(), &ExtName::NONE).await.unwrap_err();
    assert!(matches!(error, Error::NoStorage { .. }), "{error}");
    assert!(!error.is_not_found());
}

#[tokio::test]
async fn cached_answers_bridge_a_while_without_tracker() {
    let pair = pair().await;
    let id = pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.tracker.stop().await;
    pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.client.download_buf(&id, 0, 0).await.unwrap();
    pair.client.delete(&id).await.unwrap();
}

#[tokio::test]
async fn nonsense_from_a_tracker_is_an_error() {
    for reply in [
        Reply::Body(vec![1; 39]),
        Reply::Body(vec![0; 40]),
        Reply::Raw(Header::ok(1 << 40).encode().to_vec()),
        Reply::Raw(vec![0x80, 0, 0, 0, 0, 0, 0, 0, 100, 0]),
        Reply::Body(Vec::new()),
    ] {
        let liar = Fake::start(move |_| reply.clone()).await;
        let error = Client::new(config(&[liar.addr])).upload_buf(&data(), &ExtName::NONE).await.unwrap_err();
        assert!(matches!(&error, Error::Protocol { .. } | Error::Invalid(_)), "{error}");
    }
}

// Reads.

#[tokio::test]
async fn a_read_fails_over_whatever_is_wrong_with_the_storage() {
    for fault in [
        Fault::Reply(Reply::Close),
        Fault::Reply(Reply::Status(Status::EIO)),
        Fault::Reply(Reply::Status(Status::ENOENT)),
        Fault::Reply(Reply::cut_off(12, b"some")),
        Fault::Reply(Reply::Raw(vec![0xff; HEADER_LEN])),
    ] {
        let pair = pair().await;
        let id = pair.put().await;
        pair.a.fail(Command::DownloadFile, fault.clone());
        pair.a.fail(Command::QueryFileInfo, fault.clone());
        for _ in 0..2 {
            assert_eq!(pair.client.download_buf(&id, 0, 0).await.unwrap(), data()[0], "{fault:?}");
        }
        let (a, b) = pair.count(Command::DownloadFile);
        assert!(a >= 1 && b >= 1, "{fault:?}");
    }
}

#[tokio::test]
async fn reads_use_all_storages_that_have_the_file() {
    let pair = pair().await;
    let id = pair.put().await;
    for _ in 0..10 {
        pair.client.download_buf(&id, 0, 0).await.unwrap();
    }
    assert_eq!(pair.count(Command::DownloadFile), (5, 5));
    assert_eq!(pair.tracker.count(Command::QueryFetchAll), 1);
}

#[tokio::test]
async fn not_found_needs_every_storage_to_say_so() {
    let pair = pair().await;
    let id = pair.put().await;
    pair.files.lock().clear();
    assert!(pair.client.download_buf(&id, 0, 0).await.unwrap_err().is_not_found());
    assert_eq!(pair.count(Command::DownloadFile), (1, 1));
    // One of them cannot be asked, so whether the file exists is open.
    pair.a.stop().await;
    pair.client.reset();
    let error = pair.client.download_buf(&id, 0, 0).await.unwrap_err();
    assert!(!error.is_not_found(), "{error}");
}

#[tokio::test]
async fn a_download_goes_on_elsewhere_in_the_middle() {
    let pair = pair().await;
    let content: Vec<u8> = (0..400_000u32).map(|i| (i % 239) as u8).collect();
    let id = pair.client.upload_buf(&[Bytes::from(content.clone())], &ExtName::NONE).await.unwrap();
    pair.client.reset();
    pair.both(Command::DownloadFile, Fault::Reply(Reply::cut_off(400_000, &content[..150_000])));
    // The second storage fails too, on what the first one left over; the first one then has tried already.
    let mut download = pair.client.download(&id, 0, 0).await.unwrap();
    let mut buffer = vec![0; 400_000];
    let error = download.read_exact(&mut buffer).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");

    for fault in [Reply::cut_off(400_000, &content[..150_000]), Reply::cut_off(400_000, b"")] {
        pair.client.reset();
        pair.a.fail(Command::DownloadFile, Fault::Reply(fault.clone()));
        for _ in 0..2 {
            let mut got = Vec::new();
            pair.client.download_to(&id, 0, 0, &mut got).await.unwrap();
            assert!(got == content);
        }
        pair.client.reset();
        pair.a.fail(Command::DownloadFile, Fault::Reply(fault));
        for _ in 0..2 {
            assert!(pair.client.download_buf(&id, 0, 400_000).await.unwrap() == content);
        }
    }
}

#[tokio::test]
async fn a_changeable_file_is_not_pieced_together() {
    let pair = pair().await;
    let id = pair.client.upload_appender_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.both(Command::DownloadFile, Fault::Reply(Reply::cut_off(12, b"some")));
    let mut download = pair.client.download(&id, 0, 0).await.unwrap();
    assert!(download.read_exact(&mut [0; 12]).await.is_err());
}

#[tokio::test]
async fn lengths_from_the_network_are_not_believed() {
    let pair = pair_with(|config| config.max_download_buffer = 1000).await;
    let id = pair.put().await;
    // More than was asked for.
    pair.a.fail(Command::DownloadFile, Fault::Reply(Reply::Body(vec![0; 11])));
    for _ in 0..2 {
        assert_eq!(pair.client.download_buf(&id, 0, 10).await.unwrap(), data()[0][..10]);
    }
    pair.client.reset();
    pair.both(Command::DownloadFile, Fault::Reply(Reply::Body(vec![0; 11])));
    let error = pair.client.download_buf(&id, 0, 10).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    // More than is accepted without being asked for.
    pair.client.reset();
    pair.clear_faults();
    pair.both(Command::DownloadFile, Fault::Reply(Reply::Raw(Header::ok(1 << 50).encode().to_vec())));
    let error = pair.client.download_buf(&id, 0, 0).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(error.to_string().contains("max_download_buffer"), "{error}");
    // Announced and never sent: what is reserved meanwhile is what has come.
    pair.client.reset();
    pair.clear_faults();
    pair.both(Command::DownloadFile, Fault::Reply(Reply::cut_off(1 << 40, b"x")));
    let error = pair.client.download_buf(&id, 0, 1 << 40).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    pair.client.reset();
    pair.both(Command::GetMetadata, Fault::Reply(Reply::Raw(Header::ok(1 << 40).encode().to_vec())));
    let error = pair.client.get_metadata(&id).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_with_more_than_was_announced_ends_the_connection() {
    let pair = pair().await;
    let id = pair.put().await;
    let mut bytes = Header::ok(12).encode().to_vec();
    bytes.extend_from_slice(b"some contentAND MORE");
    pair.both(Command::DownloadFile, Fault::Reply(Reply::Raw(bytes)));
    for _ in 0..6 {
        assert_eq!(pair.client.download_buf(&id, 0, 0).await.unwrap(), data()[0]);
    }
}

#[tokio::test]
async fn damaged_content_is_read_elsewhere_and_reported_if_all_is_damaged() {
    let pair = pair_with(|config| config.verify_crc = true).await;
    let id = pair.put().await;
    let damaged = Fault::Reply(Reply::Body(b"SOME content".to_vec()));
    for _ in 0..2 {
        pair.a.fail(Command::DownloadFile, damaged.clone());
        for _ in 0..2 {
            assert_eq!(pair.client.download_buf(&id, 0, 0).await.unwrap(), data()[0]);
        }
    }
    pair.client.reset();
    pair.both(Command::DownloadFile, damaged.clone());
    let error = pair.client.download_buf(&id, 0, 0).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(error.to_errno(), 5);
    // As a stream it can only be said at the end.
    pair.client.reset();
    pair.clear_faults();
    pair.both(Command::DownloadFile, damaged);
    let error = pair.client.download_to(&id, 0, 0, &mut Vec::new()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    // A part cannot be checked.
    pair.clear_faults();
    assert_eq!(pair.client.download_buf(&id, 0, 4).await.unwrap(), &b"some"[..]);
}

#[tokio::test]
async fn a_tracker_without_an_idea_leaves_the_error_of_the_storage() {
    let pair = pair().await;
    let id = pair.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    pair.members.lock().clear();
    pair.a.stop().await;
    pair.b.stop().await;
    let error = pair.client.download_buf(&id, 0, 0).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_stalled_download_runs_into_the_timeout() {
    let pair = pair_with(|config| config.network_timeout = SHORT).await;
    let id = pair.put().await;
    let mut started = Header::ok(12).encode().to_vec();
    started.extend_from_slice(b"some");
    pair.both(Command::DownloadFile, Fault::Reply(Reply::Raw(started.clone())));
    let error = pair.client.download_buf(&id, 0, 0).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    pair.client.reset();
    pair.a.fail(Command::DownloadFile, Fault::Reply(Reply::Raw(started)));
    for _ in 0..2 {
        assert_eq!(pair.client.download_buf(&id, 0, 0).await.unwrap(), data()[0]);
    }
}

#[tokio::test]
async fn refusals_of_many_questions_at_once_are_not_taken_for_later_answers() {
    let members = members(&[]);
    let tracker = tracker(&members).await;
    let client = Client::new(config(&[tracker.addr]));
    for _ in 0..10 {
        let error = client.upload_buf(&data(), &ExtName::NONE).await.unwrap_err();
        assert!(matches!(error, Error::NoStorage { .. }), "{error}");
        assert_eq!(client.list_groups().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_copy_cut_short_is_damaged() {
    let pair = pair_with(|config| config.verify_crc = true).await;
    let id = pair.put().await;
    let short = Fault::Reply(Reply::Body(b"some".to_vec()));
    pair.a.fail(Command::DownloadFile, short.clone());
    for _ in 0..2 {
        assert_eq!(pair.client.download_buf(&id, 0, 0).await.unwrap(), data()[0]);
    }
    pair.a.fail(Command::DownloadFile, short.clone());
    for _ in 0..2 {
        assert_eq!(pair.client.download(&id, 0, 0).await.unwrap().len(), 12);
    }
    pair.client.reset();
    pair.both(Command::DownloadFile, short);
    let error = pair.client.download(&id, 0, 0).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("has 4 bytes, the file ID says 12"), "{error}");
}
