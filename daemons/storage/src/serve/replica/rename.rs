//! SYNC_RENAME_FILE: an appender has its last name, or is given its first one back.

use fdfs_protocol::binlog::Change;
use fdfs_protocol::{RemoteName, Status};
use tokio::time::Instant;
use tracing::debug;

use super::Origins;
use crate::disk::dir;
use crate::names::Held;
use crate::net::Conn;
use crate::serve::info::has_sum;
use crate::serve::{Done, Place, Pusher, Service, canonical};

impl Service {
    pub(super) async fn take_rename(&self, conn: &mut Conn<'_>, pusher: Option<&Pusher>) -> Done {
        let request = self.two_names(conn).await?;
        let (new, old) = (self.place(&request.name)?, self.place(&request.other)?);
        if new.index != old.index || request.name.true_name() == request.other.true_name() {
            return Err(Status::EINVAL.into());
        }
        let origin = Origins::new(&request.name, request.timestamp, pusher);
        let line = origin.line(Change::Rename { old: canonical(&request.other)? }, &request.name)?;
        let began = Instant::now();
        let mut held = self.hold_for_push(conn, &request.other).await?;
        self.can_record()?;
        if self.deleted.is_late_rename(&request.name, request.timestamp) {
            return self.lose_renamed(conn, origin, &old, &request.other, &mut held).await;
        }
        // Nothing more of its old name is to come.
        if let Some(source) = origin.source() {
            source.ends(&request.other);
        }
        // Also if the file is not here under its old name: that may still come, and is late then.
        let unheard = self.deleted.rename(&request.other, &request.name, request.timestamp);
        self.lose_metadata(&request.other, origin)?;
        let renamed = match self.is_another(&old, &held, &request.name, began).await {
            // What takes too long to look at comes whole.
            Ok(true) | Err(Status::EAGAIN) => Err(Status::ENOENT),
            Ok(false) => new.try_on("rename a file to", |p| p.dir().rename_new(&old.rel, &p.rel)),
            Err(status) => Err(status),
        };
        match renamed {
            Ok(()) => {}
            Err(status @ (Status::ENOENT | Status::EEXIST)) => {
                held.set_sum(None);
                if let Ok(meta) = old.dir().meta(&old.rel, false) {
                    debug!("{}: what is here has not become {}", request.other, request.name);
                    let line = origin.line(Change::Delete, &request.other)?;
                    self.unlink(&old, meta.size).await?;
                    self.record_push(&line, true)?;
                } else if unheard {
                    // Who has the old name hears it from here, if its source is lost.
                    self.record_push(&line, true)?;
                }
                // What is there under the name of an appender may be anything; others tell what it is.
                return match status == Status::EEXIST && has_sum(&request.name) {
                    true => self.had(conn, origin, &new, status).await,
                    false => Err(Status::ENOENT.into()),
                };
            }
            Err(status) => {
                // It is still what it was.
                self.deleted.forget(&request.other);
                return Err(status.into());
            }
        }
        held.set_sum(None);
        self.record_push(&line, true)?;
        self.settle(new.index, None, self.dir_to_settle(&new)?).await?;
        self.has(origin);
        Ok(())
    }

    /// Whether the appender file `old` does not have the size and checksum that its new name tells. FastDFS passes over
    /// changes of a file that has got its new name before they were pushed, and pushes just that name.
    async fn is_another(
        &self,
        old: &Place<'_>,
        held: &Held<'_>,
        new: &RemoteName,
        began: Instant,
    ) -> Result<bool, Status> {
        let Some(told) = new.block().ok().filter(|_| has_sum(new)) else { return Ok(false) };
        let file = old.try_on("open", |p| p.dir().open_read(&p.rel))?;
        let meta = old.try_on("look at", |_| dir::meta_of(&file))?;
        if !meta.is_file() {
            return Ok(false);
        }
        if told.size.size() != Some(meta.size) {
            return Ok(true);
        }
        let patience = self.settings.patience().saturating_sub(began.elapsed());
        Ok(self.checksum_held(held, patience, file, meta.size).await? != told.crc32)
    }

    /// A file that was removed under its new name before that name came here: it goes under the old one.
    async fn lose_renamed(
        &self,
        conn: &mut Conn<'_>,
        origin: Origins<'_>,
        old: &Place<'_>,
        name: &RemoteName,
        held: &mut Held<'_>,
    ) -> Done {
        let line = origin.line(Change::Delete, name)?;
        held.set_sum(None);
        self.lose_metadata(name, origin)?;
        if self.deleted.add(name, origin.timestamp) | old.dir().meta(&old.rel, false).is_ok() {
            match old.try_on("remove", |p| p.dir().unlink(&p.rel)) {
                Ok(()) | Err(Status::ENOENT) => self.record_push(&line, true)?,
                Err(status) => return Err(status.into()),
            }
        }
        self.overtaken(conn, origin, Status::EEXIST).await
    }
}
