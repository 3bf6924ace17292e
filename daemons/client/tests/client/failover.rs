//! Members of a group and trackers that are down, hung, behind or damaged: what an operation gives, how long it takes,
//! and that later ones take no notice.
//!
//! The timeouts are minutes, so whoever waited for one of them would miss [`SOON`] by far, and whoever did not meets it on
//! a loaded machine too.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fdfs_client::{Client, ClientConfig, Content, Error, ExtName, FileId, Metadata, MetadataMode, ServerAddress};
use fdfs_protocol::{Command, Header, Status};

use crate::fake::{Fake, Fault, Files, Members, Reply, copy, members, storage, tracker, tracker_believing};

const TIMEOUT: Duration = Duration::from_secs(180);
/// More than any operation may take: a few times [`FAILOVER`], and what a slow machine needs.
const SOON: Duration = Duration::from_secs(20);
/// Long enough for answers on a loaded machine.
const FAILOVER: Duration = Duration::from_millis(400);

fn client(trackers: &[SocketAddr]) -> Client {
    Client::new(ClientConfig {
        connect_timeout: TIMEOUT,
        network_timeout: TIMEOUT,
        failover_after: FAILOVER,
        ..ClientConfig::new(trackers.iter().copied().map(ServerAddress::from))
    })
}

async fn soon<T>(operation: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, operation).await.expect("it takes too long")
}

fn data() -> [Bytes; 1] {
    [Bytes::from_static(b"some content")]
}

/// Three storages with files of their own. The tracker believes that the first one has the files and takes the uploads.
struct Group {
    tracker: Fake,
    members: Members,
    storages: [Fake; 3],
    files: [Files; 3],
    client: Client,
}

async fn group() -> Group {
    let files = [Files::default(), Files::default(), Files::default()];
    let storages = [storage(&files[0]).await, storage(&files[1]).await, storage(&files[2]).await];
    let members = members(&[storages[0].addr, storages[1].addr, storages[2].addr]);
    let tracker = tracker_believing(&members, |storages| storages[..1].to_vec()).await;
    let client = client(&[tracker.addr]);
    Group { tracker, members, storages, files, client }
}

impl Group {
    /// A file on the first storage, copied to the third one; what the tracker does not know.
    async fn put(&self) -> FileId {
        let id = self.client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
        self.files[2].lock().extend(copy(&self.files[0]).lock().drain());
        assert_eq!(self.storages[0].count(Command::UploadFile), 1);
        id
    }

    fn count(&self, command: Command) -> [usize; 3] {
        [0, 1, 2].map(|i| self.storages[i].count(command))
    }
}

/// An address to which connections are not made, nor refused: what a client sees of a host that is cut off.
struct CutOff {
    addr: SocketAddr,
    _listener: socket2::Socket,
    _fill: Vec<tokio::net::TcpStream>,
}

impl CutOff {
    async fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        // With its queue full, the kernel drops what asks for a connection.
        let mut fill = Vec::new();
        while let Ok(connected) = tokio::time::timeout(FAILOVER, tokio::net::TcpStream::connect(addr)).await {
            fill.push(connected.unwrap());
        }
        Self { addr, _listener: listener, _fill: fill }
    }
}

// Reads.

#[tokio::test]
async fn a_file_just_stored_is_read_elsewhere_when_its_source_is_down() {
    let group = group().await;
    let id = group.put().await;
    group.storages[0].stop().await;
    for _ in 0..3 {
        assert_eq!(soon(group.client.download_buf(&id, 0, 0)).await.unwrap(), data()[0]);
        group.client.file_info(&id, Default::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_just_stored_is_read_elsewhere_when_its_source_is_hung() {
    let group = group().await;
    let id = group.put().await;
    group.storages[0].hang();
    assert_eq!(soon(group.client.download_buf(&id, 0, 0)).await.unwrap(), data()[0]);
    for _ in 0..10 {
        let mut got = Vec::new();
        soon(group.client.download_to(&id, 0, 0, &mut got)).await.unwrap();
        assert_eq!(got, data()[0]);
    }
    group.storages[0].go_on();
    group.storages[0].close_connections().await;
    let asked = group.storages[0].count(Command::DownloadFile);
    assert!(asked <= 3, "asked once (or when the others were slow too), then avoided: {asked}");
}

#[tokio::test]
async fn not_found_is_what_every_member_says() {
    let group = group().await;
    let id = group.put().await;
    for files in &group.files {
        files.lock().clear();
    }
    let error = soon(group.client.download_buf(&id, 0, 0)).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(group.count(Command::DownloadFile), [1, 1, 1]);
    // With one of them down it is not known.
    group.storages[0].stop().await;
    let error = soon(group.client.download_buf(&id, 0, 0)).await.unwrap_err();
    assert!(!error.is_not_found(), "{error}");
}

#[tokio::test]
async fn metadata_is_read_elsewhere_when_who_takes_changes_lacks_the_file() {
    let group = group().await;
    let id = group.put().await;
    let mut metadata = Metadata::new();
    metadata.insert(b"width", b"100").unwrap();
    group.client.set_metadata(&id, &metadata, MetadataMode::Overwrite).await.unwrap();
    group.files[2].lock().extend(copy(&group.files[0]).lock().drain());
    group.storages[0].stop().await;
    group.members.lock()[0].1.rotate_left(1);
    assert_eq!(soon(group.client.get_metadata(&id)).await.unwrap(), metadata);
    assert_eq!(group.count(Command::GetMetadata)[2], 1);
    // One that has the file, and no metadata of it, knows better than the others.
    group.files[1].lock().insert(id.name, data()[0].to_vec());
    let error = soon(group.client.get_metadata(&id)).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(group.count(Command::GetMetadata)[2], 1);
}

#[tokio::test]
async fn a_slow_storage_alone_is_waited_for() {
    let files = Files::default();
    let only = storage(&files).await;
    let tracker = tracker(&members(&[only.addr])).await;
    let client = client(&[tracker.addr]);
    for command in [Command::UploadFile, Command::DownloadFile, Command::AppendFile] {
        only.fail(command, Fault::Slow(4 * FAILOVER));
    }
    let id = client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    assert_eq!(only.count(Command::UploadFile), 1, "it answers probes, so it is not given up");
    assert_eq!(client.download_buf(&id, 0, 0).await.unwrap(), data()[0]);
    let appender = client.upload_appender_buf(&data(), &ExtName::NONE).await.unwrap();
    client.hasty().append_buf(&appender, &data()).await.unwrap();
    assert_eq!(files.lock()[&appender.name].len(), 24);
}

#[tokio::test]
async fn a_download_that_stands_still_goes_on_elsewhere() {
    let group = group().await;
    let content: Vec<u8> = (0..400_000u32).map(|i| (i % 239) as u8).collect();
    let id = group.client.upload_buf(&[Bytes::from(content.clone())], &ExtName::NONE).await.unwrap();
    group.files[2].lock().extend(copy(&group.files[0]).lock().drain());
    let mut part = Header::ok(400_000).encode().to_vec();
    part.extend_from_slice(&content[..150_000]);
    for _ in 0..2 {
        group.storages[0].fail(Command::DownloadFile, Fault::Reply(Reply::Raw(part.clone())));
        let mut got = Vec::new();
        soon(group.client.download_to(&id, 0, 0, &mut got)).await.unwrap();
        assert!(got == content);
        group.client.reset();
    }
    group.storages[0].fail(Command::DownloadFile, Fault::Reply(Reply::Raw(part)));
    assert!(soon(group.client.download_buf(&id, 0, 400_000)).await.unwrap() == content);
}

#[tokio::test]
async fn a_storage_with_no_connection_left_is_passed_over() {
    let files = Files::default();
    let (a, b) = (storage(&files).await, storage(&files).await);
    let tracker = tracker(&members(&[a.addr, b.addr])).await;
    let client =
        Client::new(ClientConfig { max_connections_per_server: 1, ..client(&[tracker.addr]).config().clone() });
    let id = client.upload_buf(&[Bytes::from(vec![1; 4_000_000])], &ExtName::NONE).await.unwrap();
    let _held = client.download_from(a.addr, &id, 0, 0).await.unwrap();
    for _ in 0..2 {
        assert_eq!(soon(client.download_buf(&id, 0, 10)).await.unwrap(), [1; 10][..]);
    }
}

#[tokio::test]
async fn a_damaged_copy_is_read_elsewhere_and_not_asked_again() {
    let group = group().await;
    let id = group.put().await;
    group.files[0].lock().values_mut().for_each(|content| content[3] ^= 1);
    let good = |content: &[u8]| content == &data()[0][..];
    for _ in 0..5 {
        assert_eq!(soon(group.client.download_checked(&id, 0, 0, &good)).await.unwrap(), data()[0]);
    }
    let [damaged, _, good_one] = group.count(Command::DownloadFile);
    assert_eq!((damaged, good_one), (1, 5), "the damaged copy was asked once");
    // All are damaged: an error, never the content.
    group.files[2].lock().values_mut().for_each(|content| content[3] ^= 1);
    let error = soon(group.client.download_checked(&id, 0, 0, &good)).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_copy_that_is_cut_short_is_damaged() {
    for kept in [0, 4] {
        let group = group().await;
        let id = group.put().await;
        group.files[0].lock().values_mut().for_each(|content| content.truncate(kept));
        let mut got = [0; 8];
        for _ in 0..3 {
            let mut download = soon(group.client.download_exact(&id, 4, 8)).await.unwrap();
            download.read_exact(&mut got).await.unwrap();
            assert_eq!(got, data()[0][4..]);
            let checked = soon(group.client.download_checked(&id, 4, 8, &|bytes| bytes.len() == 8)).await.unwrap();
            assert_eq!(checked, data()[0][4..]);
        }
        assert_eq!(group.count(Command::DownloadFile)[0], 1);
    }
}

#[tokio::test]
async fn copies_are_listed_and_read_one_by_one() {
    let group = group().await;
    let id = group.put().await;
    let copies = group.client.copies(&id).await.unwrap();
    assert!(copies.unknown.is_none() && copies.idle.is_empty() && copies.away.is_empty(), "{copies:?}");
    let copies = copies.likely;
    assert_eq!(copies, [0, 1, 2].map(|i| group.storages[i].addr));
    let mut got = vec![0; 12];
    group.client.download_from(copies[2], &id, 0, 0).await.unwrap().read_exact(&mut got).await.unwrap();
    assert_eq!(got, data()[0]);
    assert!(group.client.download_from(copies[1], &id, 0, 0).await.unwrap_err().is_not_found());
    group.storages[0].hang();
    let error = soon(group.client.download_from(copies[0], &id, 0, 0)).await.unwrap_err();
    assert!(matches!(error, Error::Hung { .. }), "{error}");
}

#[tokio::test]
async fn that_members_could_not_be_looked_up_is_told_with_the_copies() {
    let group = group().await;
    let id = group.put().await;
    let fail = |command| group.tracker.fail(command, Fault::Reply(Reply::Status(Status::EBUSY)));
    fail(Command::ListStorage);
    let copies = group.client.copies(&id).await.unwrap();
    assert_eq!(copies.likely, [group.storages[0].addr]);
    assert!(copies.unknown.is_some());
    // All readers are members.
    group.client.reset();
    fail(Command::QueryFetchAll);
    let copies = group.client.copies(&id).await.unwrap();
    assert_eq!((copies.likely.len(), copies.unknown.is_none()), (3, true));
}

/// Five storages with the same files, all of which the tracker believes to have them, and a file.
async fn five() -> (Vec<Fake>, Fake, Client, FileId) {
    let files = Files::default();
    let mut storages = Vec::new();
    for _ in 0..5 {
        storages.push(storage(&files).await);
    }
    let tracker = tracker(&members(&storages.iter().map(|storage| storage.addr).collect::<Vec<_>>())).await;
    let client = client(&[tracker.addr]);
    let id = client.upload_buf(&data(), &ExtName::NONE).await.unwrap();
    client.reset();
    (storages, tracker, client, id)
}

#[tokio::test]
async fn no_more_than_three_storages_work_on_one_read() {
    let (storages, _tracker, client, id) = five().await;
    let counts = |command| storages.iter().map(|storage| storage.count(command)).collect::<Vec<_>>();
    // Their disks hang: they answer probes.
    for storage in &storages {
        storage.fail(Command::DownloadFile, Fault::Reply(Reply::Silence));
    }
    let read = tokio::spawn(async move { client.download_buf(&id, 0, 0).await });
    let probed_twice = async {
        while counts(Command::ActiveTest).iter().filter(|probes| **probes >= 2).count() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(probed_twice).await;
    assert_eq!(counts(Command::DownloadFile).iter().sum::<usize>(), 3);
    assert!(!read.is_finished());
    // One of them fails: that makes room.
    storages.iter().for_each(Fake::clear_faults);
    let asked = storages.iter().find(|storage| storage.count(Command::DownloadFile) == 1).unwrap();
    asked.close_connections().await;
    assert_eq!(soon(read).await.unwrap().unwrap(), data()[0]);
    assert_eq!(counts(Command::DownloadFile).iter().sum::<usize>(), 4);
}

#[tokio::test]
async fn storages_that_are_gone_do_not_count() {
    let (storages, _tracker, client, id) = five().await;
    storages[1..].iter().for_each(Fake::hang);
    for _ in 0..5 {
        assert_eq!(soon(client.download_buf(&id, 0, 0)).await.unwrap(), data()[0]);
    }
}

#[tokio::test]
async fn one_storage_at_a_time_computes_a_checksum() {
    let group = group().await;
    let id = group.client.upload_appender_buf(&data(), &ExtName::NONE).await.unwrap();
    for files in &group.files[1..] {
        files.lock().extend(copy(&group.files[0]).lock().drain());
    }
    for _ in 0..2 {
        group.storages[0].fail(Command::QueryFileInfo, Fault::Slow(4 * FAILOVER));
        assert_eq!(group.client.file_info(&id, Default::default()).await.unwrap().size, 12);
    }
    assert_eq!(
        group.count(Command::QueryFileInfo),
        [2, 0, 0],
        "it answers probes, so it is waited for, and not avoided"
    );
    assert!(group.storages[0].count(Command::ActiveTest) >= 2);
    group.storages[0].hang();
    assert_eq!(soon(group.client.file_info(&id, Default::default())).await.unwrap().size, 12);
    assert_eq!(group.count(Command::QueryFileInfo)[1..].iter().sum::<usize>(), 1, "it is gone: one other computes it");
}

#[tokio::test]
async fn what_a_storage_tells_half_is_asked_of_another() {
    let group = group().await;
    let id = group.put().await;
    group.storages[0].fail(Command::QueryFileInfo, Fault::Reply(Reply::Raw(Header::ok(64).encode().to_vec())));
    assert_eq!(soon(group.client.file_info(&id, Default::default())).await.unwrap().size, 12);
}

// Uploads and changes.

#[tokio::test]
async fn uploads_go_on_when_the_storage_of_the_tracker_is_hung() {
    let group = group().await;
    group.storages[0].hang();
    soon(group.client.upload_buf(&data(), &ExtName::NONE)).await.unwrap();
    for _ in 0..10 {
        soon(group.client.upload_buf(&data(), &ExtName::NONE)).await.unwrap();
    }
    group.storages[0].go_on();
    group.storages[0].close_connections().await;
    let [hung, b, c] = group.count(Command::UploadFile);
    assert!(hung <= 3, "tried once (or when the others were slow too), then avoided: {hung}");
    assert!(b + c >= 11);
}

#[tokio::test]
async fn an_upload_starts_anew_elsewhere_when_its_storage_hangs_or_dies_half_way() {
    let large = [Bytes::from(vec![7; 16 * 1024 * 1024])];
    for fault in [Fault::Hang, Fault::Early(Status::EAGAIN), Fault::Early(Status::EACCES)] {
        let group = group().await;
        group.storages[0].fail(Command::UploadFile, fault);
        let id = soon(group.client.upload_buf(&large, &ExtName::NONE)).await.unwrap();
        assert!(group.files[1..].iter().any(|files| files.lock().get(&id.name).is_some_and(|got| *got == large[0])));
    }
}

#[tokio::test]
async fn an_upload_returns_to_a_hung_storage_if_there_is_no_other() {
    let files = Files::default();
    let only = storage(&files).await;
    let tracker = tracker(&members(&[only.addr])).await;
    let client = client(&[tracker.addr]);
    only.hang();
    // It is asked, probed, given up, and asked again, each on a connection of its own.
    let wakes = async {
        while only.connections() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        only.go_on();
    };
    let data = data();
    let (stored, ()) = soon(async { tokio::join!(client.upload_buf(&data, &ExtName::NONE), wakes) }).await;
    assert!(files.lock().contains_key(&stored.unwrap().name));
    let all_seen = async {
        while only.count(Command::UploadFile) < 2 || only.count(Command::ActiveTest) < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(all_seen).await;
}

#[tokio::test]
async fn a_hasty_change_does_not_wait_for_a_storage_that_is_gone() {
    let group = group().await;
    let id = group.client.upload_appender_buf(&data(), &ExtName::NONE).await.unwrap();
    group.storages[0].hang();
    let error = soon(group.client.hasty().append_buf(&id, &data())).await.unwrap_err();
    assert!(matches!(error, Error::Hung { sent: true, .. }) && error.outcome_unknown(), "{error}");
    assert_eq!(error.to_errno(), 110);
    // Whoever cannot do it over waits for the outcome.
    let client = group.client.clone();
    let patient = tokio::spawn(async move { client.append_buf(&id, &data()).await });
    tokio::time::sleep(4 * FAILOVER).await;
    assert!(!patient.is_finished());
    group.storages[0].go_on();
    patient.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_change_that_was_not_sent_goes_where_the_tracker_says_now() {
    let group = group().await;
    let id = group.put().await;
    group.storages[0].stop().await;
    group.members.lock()[0].1.rotate_left(2);
    soon(group.client.delete(&id)).await.unwrap();
    assert_eq!(group.count(Command::DeleteFile), [0, 0, 1]);
}

#[tokio::test]
async fn a_storage_that_is_cut_off_keeps_nobody() {
    let group = group().await;
    let id = group.put().await;
    let cut_off = CutOff::new().await;
    group.members.lock()[0].1[0] = cut_off.addr;
    group.client.reset();
    assert_eq!(soon(group.client.download_buf(&id, 0, 0)).await.unwrap(), data()[0]);
    group.client.reset();
    for _ in 0..5 {
        soon(group.client.upload_buf(&data(), &ExtName::NONE)).await.unwrap();
    }
    // Not a byte of it was taken, so a change goes elsewhere as soon as the tracker names another.
    group.client.reset();
    let client = group.client.clone();
    let asked = group.tracker.count(Command::QueryUpdate);
    let change = tokio::spawn(async move { client.delete(&id).await });
    while group.tracker.count(Command::QueryUpdate) == asked {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    group.members.lock()[0].1.rotate_left(2);
    soon(change).await.unwrap().unwrap();
    assert_eq!(group.count(Command::DeleteFile), [0, 0, 1]);
}

// Trackers.

#[tokio::test]
async fn a_tracker_that_is_cut_off_is_overtaken() {
    let group = group().await;
    let cut_off = CutOff::new().await;
    let client = client(&[cut_off.addr, group.tracker.addr]);
    for _ in 0..6 {
        soon(client.list_groups()).await.unwrap();
        soon(client.upload_buf(&data(), &ExtName::NONE)).await.unwrap();
    }
}

#[tokio::test]
async fn a_hung_tracker_is_overtaken_and_then_left_alone() {
    let group = group().await;
    let hung = tracker(&group.members).await;
    hung.hang();
    let client = client(&[hung.addr, group.tracker.addr]);
    let id = soon(client.upload_buf(&data(), &ExtName::NONE)).await.unwrap();
    for _ in 0..10 {
        soon(client.list_groups()).await.unwrap();
        client.download_buf(&id, 0, 0).await.unwrap();
    }
    assert!(hung.connections() <= 10, "a request, and probes: {}", hung.connections());
}

#[tokio::test]
async fn a_dead_tracker_costs_nothing() {
    let group = group().await;
    let dead = Fake::refused().await;
    let client = client(&[dead, group.tracker.addr]);
    for _ in 0..10 {
        let id = soon(client.upload_buf(&data(), &ExtName::NONE)).await.unwrap();
        soon(client.delete(&id)).await.unwrap();
        soon(client.list_groups()).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let group = group().await;
    let id = group.put().await;
    group.storages[0].hang();
    soon(group.client.download_buf(&id, 0, 0)).await.unwrap();
    group.storages[0].go_on();
    group.storages[0].close_connections().await;
    let before = group.storages[0].count(Command::DownloadFile);
    let back = async {
        while group.storages[0].count(Command::DownloadFile) == before {
            group.client.download_buf(&id, 0, 0).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, back).await.expect("the probe finds it");
}

#[tokio::test]
async fn a_stream_goes_elsewhere_before_it_was_begun() {
    let group = group().await;
    group.storages[0].stop().await;
    let mut source: &[u8] = b"0123456789";
    let id = soon(group.client.upload(Content::reader(&mut source, 10), &ExtName::NONE)).await.unwrap();
    assert!(group.files[1..].iter().any(|files| files.lock().contains_key(&id.name)));
}
