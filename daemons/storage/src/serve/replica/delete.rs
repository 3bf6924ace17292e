//! SYNC_DELETE_FILE.

use fdfs_protocol::binlog::Change;
use fdfs_protocol::peer::replica::SyncDelete;
use fdfs_protocol::{RemoteName, Status};
use tracing::debug;

use super::{Origins, THEIR_CLOCK};
use crate::net::Conn;
use crate::serve::{Done, Pusher, Service};

impl Service {
    pub(super) async fn take_delete(&self, conn: &mut Conn<'_>, pusher: Option<&Pusher>) -> Done {
        let request = self.message(conn, SyncDelete::decode).await?;
        self.own_group(&request.group)?;
        let place = self.place(&request.name)?;
        let origin = Origins::new(&request.name, request.timestamp, pusher);
        let line = origin.line(Change::Delete, &request.name)?;
        let mut held = self.hold_for_push(conn, &request.name).await?;
        held.set_sum(None);
        let meta = match place.try_on("look at", |p| p.dir().meta(&p.rel, false)) {
            Err(Status::ENOENT) => {
                // Its creation may still come, also after a restart.
                if self.deleted.add(&request.name, request.timestamp) {
                    self.record_push(&line, true)?;
                    self.lose_metadata(&request.name, origin)?;
                }
                return self.had(conn, origin, &place, Status::ENOENT).await;
            }
            other => other?,
        };
        if !meta.is_file() && !meta.is_link() {
            return Err(Status::EINVAL.into());
        }
        // Our members never remove a file at an earlier time than it has, nor at the same. FastDFS's may: each of their
        // threads learns of a new second a little later or earlier, and clocks differ. What they remove so soon after it was
        // made at another clock stays here: better than to lose what was made anew. (A link has its own time.)
        let removed = i64::from(request.timestamp) + if origin.is_strict() { -1 } else { THEIR_CLOCK };
        if !request.name.is_given_once() && meta.is_file() && meta.mtime > removed {
            debug!("{}: was made anew after it was removed elsewhere", request.name);
            if origin.is_strict() && meta.mtime == i64::from(request.timestamp) {
                return self.kept(conn, origin, &request.name, Status::ENOENT).await;
            }
            return self.overtaken(conn, origin, Status::ENOENT).await;
        }
        self.can_record()?;
        self.deleted.add(&request.name, request.timestamp);
        self.unlink(&place, meta.size).await?;
        self.record_push(&line, true)?;
        self.lose_metadata(&request.name, origin)?;
        self.settle(place.index, None, self.dir_to_settle(&place)?).await?;
        self.has(origin);
        Ok(())
    }

    /// Removes the metadata of a file that is gone for good: who removed the file may not have had it yet, and tells
    /// nobody to remove it then.
    pub(super) fn lose_metadata(&self, name: &RemoteName, origin: Origins<'_>) -> Result<(), Status> {
        let Some(metadata) = name.metadata().filter(|_| name.is_given_once()) else { return Ok(()) };
        let (Ok(place), Ok(line)) = (self.place(&metadata), origin.line(Change::Delete, &metadata)) else {
            return Ok(());
        };
        match place.try_on("remove", |p| p.dir().unlink(&p.rel)) {
            Ok(()) => self.record_push(&line, true),
            Err(Status::ENOENT) => Ok(()),
            Err(status) => Err(status),
        }
    }
}
