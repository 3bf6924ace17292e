//! An appender that one of FastDFS's storages has cut, fetched whole.
//!
//! FastDFS does not push what goes beyond the end that a file has by then, also where a part of it is within, and goes on
//! with the cut. No answer to that makes it push the file; but it gives it to anybody who asks, as it is now. What it pushes
//! of the file later comes on top.

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use crc32fast::Hasher;
use fdfs_protocol::binlog::Change;
use fdfs_protocol::header::{self, HEADER_LEN};
use fdfs_protocol::peer::replica::SyncTruncate;
use fdfs_protocol::storage::Download;
use fdfs_protocol::{Command, RemoteName, Status};
use fdfs_server::link::connect;
use tokio::time::timeout;
use tracing::warn;

use super::Origins;
use super::range::date;
use crate::counters::Count;
use crate::disk::dir::{Meta, RelPath};
use crate::names::{Held, Sum};
use crate::net::{Conn, Gone};
use crate::serve::record::Line;
use crate::serve::{Place, Refusal, Service};

/// Longest rest of a file that is fetched although the file had the right size before the cut: something may have been
/// written into it all the same, but mostly was not.
const SUSPECTED: u64 = 16 * 1024 * 1024;

/// Whether a file may lack something of what a cut has left of it.
pub(super) fn may_lack(request: &SyncTruncate, here: &Meta) -> bool {
    let SyncTruncate { old_size: old, new_size: new, .. } = *request;
    // Of a file without bytes all is known.
    new > 0 && here.is_file() && (here.size != old || (new < old && new <= SUSPECTED))
}

/// Longest file that is fetched: the pusher waits for it, and with it all that it has for this storage.
const LONGEST: u64 = 256 * 1024 * 1024;

/// Why a file was not fetched.
struct Failure(String);

impl From<Gone> for Failure {
    fn from(_: Gone) -> Failure {
        Failure("the connection broke".to_owned())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Gone => Gone.into(),
            Refusal::Status(status) | Refusal::Overtaken(status) => status.into(),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure(format!("it cannot be kept here: {status}"))
    }
}

impl Service {
    /// Makes a file what it is at the member that cut it, within `patience`; false, and nothing is changed, if that cannot
    /// be done. FastDFS's storages would repeat for ever what is refused here.
    ///
    /// The name is held meanwhile. The member can answer all the same: a download waits for nobody who changes a file.
    pub(super) async fn fetch_cut(
        &self,
        conn: &Conn<'_>,
        request: &SyncTruncate,
        (line, origin): (&Line, Origins<'_>),
        (place, old): (&Place<'_>, &Meta),
        held: &mut Held<'_>,
        patience: Duration,
    ) -> Result<bool, Refusal> {
        let name = &request.name;
        let update = origin.line(Change::Update, name)?;
        let member = SocketAddr::new(conn.peer().ip(), self.membership()?.port);
        let replace = async || {
            let mut incoming = self.begin_push(place)?;
            let fetched = timeout(patience, self.fetch(member, name, incoming.file())).await;
            let sum = match fetched {
                Ok(fetched) => fetched?,
                Err(_) => return Err(Failure(format!("it takes longer than {:.1} s", patience.as_secs_f32()))),
            };
            self.not_lost(conn, name)?;
            date(place, incoming.file(), old, request.timestamp)?;
            self.can_record()?;
            let base = RelPath::new(place.rel.split().1).ok_or(Status::EINVAL)?;
            place.try_on("replace", |_| incoming.replace(&base))?;
            Ok((sum, incoming.into_file()))
        };
        let (sum, file) = match replace().await {
            Ok(fetched) => fetched,
            Err(Failure(why)) => {
                warn!(
                    "{name}: was cut from {} to {} bytes at {member}, and had {} here; it cannot be fetched from there \
                     ({why}), and may stay different here until it is changed there again",
                    request.old_size, request.new_size, old.size
                );
                return Ok(false);
            }
        };
        let size = sum.size;
        held.set_sum(Some(sum));
        // The cut too, so that it is known when it is pushed again.
        self.record_push(line, true)?;
        self.taken.add(line.as_bytes());
        self.record_push(&update, true)?;
        place.path.took(size.saturating_sub(old.size));
        self.settle(place.index, Some(file), self.dir_to_settle(place)?).await?;
        self.counters.went_well(Count::SyncInBytes, size);
        self.has(origin);
        Ok(true)
    }

    async fn fetch(&self, member: SocketAddr, name: &RemoteName, file: &File) -> Result<Sum, Failure> {
        let connected = connect([member], self.settings.dial).await;
        let (mut stream, _) = connected.map_err(|e| Failure(e.to_string()))?;
        let mut conn = Conn::new(&mut stream, member, self.settings.timeout);
        let mut request = Vec::with_capacity(HEADER_LEN + Download::MAX_LEN);
        let download = Download { offset: 0, len: 0, group: self.settings.group, name: *name };
        header::frame(Command::DownloadFile, &download, &mut request);
        conn.send(&request).await?;
        let answer = conn.request(false).await?;
        match answer.outcome() {
            _ if answer.cmd != Command::Response.code() => return Err(Gone.into()),
            Status::OK if answer.body_len > LONGEST => {
                return Err(Failure(format!("its {} bytes would take too long", answer.body_len)));
            }
            Status::OK => {}
            status => return Err(Failure(format!("it answers: {status}"))),
        }
        let size = answer.body_len;
        self.counters.tried(Count::SyncInBytes, size);
        let mut hasher = Hasher::new();
        self.receive_into(&mut conn, file, 0, size, &mut hasher).await?;
        Ok(Sum { hasher, size })
    }
}
