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

/// Why a file was not fetched.
enum Failure {
    /// The member did not give it.
    There(String),
    /// It could not be kept here.
    Here(Status),
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Failure {
        Failure::There("the connection broke".to_owned())
    }
}

impl Service {
    /// Makes a file what it is at the member that cut it, within `patience`; false, and nothing is changed, if that does not
    /// give it in time.
    ///
    /// The name is held meanwhile. The member can answer all the same: a download waits for nobody who changes a file.
    pub(super) async fn fetch_cut(
        &self,
        pusher: SocketAddr,
        request: &SyncTruncate,
        origin: Origins<'_>,
        (place, old): (&Place<'_>, &Meta),
        held: &mut Held<'_>,
        patience: Duration,
    ) -> Result<bool, Refusal> {
        let name = &request.name;
        let line = origin.line(Change::Update, name)?;
        let mut incoming = self.begin_push(place)?;
        let member = SocketAddr::new(pusher.ip(), self.membership()?.port);
        let fetched = match timeout(patience, self.fetch(member, name, incoming.file())).await {
            Ok(fetched) => fetched,
            Err(_) => Err(Failure::There(format!("it takes longer than {:.1} s", patience.as_secs_f32()))),
        };
        let sum = match fetched {
            Ok(sum) => sum,
            Err(Failure::Here(status)) => return Err(status.into()),
            Err(Failure::There(why)) => {
                warn!(
                    "{name}: was cut from {} to {} bytes at {member}, and had {} here; it cannot be fetched from there \
                     ({why}), and may stay different here until it is changed there again",
                    request.old_size, request.new_size, old.size
                );
                return Ok(false);
            }
        };
        date(place, incoming.file(), old, request.timestamp)?;
        self.can_record()?;
        let base = RelPath::new(place.rel.split().1).ok_or(Status::EINVAL)?;
        place.try_on("replace", |_| incoming.replace(&base))?;
        let size = sum.size;
        held.set_sum(Some(sum));
        self.record_push(&line, true)?;
        place.path.took(size.saturating_sub(old.size));
        self.settle(place.index, Some(incoming.into_file()), self.dir_to_settle(place)?).await?;
        self.counters.went_well(Count::SyncInBytes, size);
        Ok(true)
    }

    async fn fetch(&self, member: SocketAddr, name: &RemoteName, file: &File) -> Result<Sum, Failure> {
        let connected = connect([member], self.settings.dial).await;
        let (mut stream, _) = connected.map_err(|e| Failure::There(e.to_string()))?;
        let mut conn = Conn::new(&mut stream, member, self.settings.timeout);
        let mut request = Vec::with_capacity(HEADER_LEN + Download::MAX_LEN);
        let download = Download { offset: 0, len: 0, group: self.settings.group, name: *name };
        header::frame(Command::DownloadFile, &download, &mut request);
        conn.send(&request).await?;
        let answer = conn.request(false).await?;
        match answer.outcome() {
            _ if answer.cmd != Command::Response.code() => return Err(Gone.into()),
            Status::OK => {}
            status => return Err(Failure::There(format!("it answers: {status}"))),
        }
        let size = answer.body_len;
        self.counters.tried(Count::SyncInBytes, size);
        let mut hasher = Hasher::new();
        match self.receive_into(&mut conn, file, 0, size, &mut hasher).await {
            Ok(()) => Ok(Sum { hasher, size }),
            Err(Refusal::Gone) => Err(Gone.into()),
            Err(Refusal::Status(status) | Refusal::Overtaken(status)) => Err(Failure::Here(status)),
        }
    }
}
