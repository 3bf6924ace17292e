//! DELETE_FILE.

use std::io;

use fdfs_protocol::binlog::Change;
use fdfs_protocol::header::Header;
use fdfs_protocol::storage::FileRequest;
use fdfs_protocol::{RemoteName, Status};
use tracing::error;

use super::record::Recorded;
use super::{Done, Note, Place, Refusal, Service, noted};
use crate::blocking;
use crate::clock;
use crate::clock::seconds;
use crate::counters::Count;
use crate::disk::dir::Meta;
use crate::disk::pending::Kind;
use crate::net::Conn;

/// Giving back the blocks of a file larger than this takes so long that another thread does it.
const INLINE: u64 = 64 * 1024 * 1024;

impl Service {
    /// Also says what was counted: a file or a link.
    pub(super) async fn delete(&self, conn: &mut Conn<'_>, note: &mut Note) -> (Count, Done) {
        let mut what = Count::Delete;
        let done = self.delete_file(conn, note, &mut what).await;
        (what, done)
    }

    async fn delete_file(&self, conn: &mut Conn<'_>, note: &mut Note, what: &mut Count) -> Done {
        let request = self.file_request(conn).await?;
        noted(self, note, &request.name);
        self.own_group(&request.group)?;
        self.can_keep()?;
        let name = request.name;
        let place = self.place(&name)?;
        // Whoever appends to the file, or brings it from another member, finishes first: its record comes before ours, and
        // it puts nothing in the place of what is gone.
        let mut held = self.names.hold(&name, self.settings.timeout).await?;
        held.set_sum(None);
        let meta = place.try_on("look at", |p| p.dir().meta(&p.rel, false))?;
        if meta.is_link() {
            *what = Count::DeleteLink;
        } else if !meta.is_file() {
            return Err(Status::EINVAL.into());
        }
        self.can_record()?;
        let time = removal_of(&name, &meta);
        let noted = self.pending.note(Kind::Change { mtime: seconds(meta.mtime) }, &name);
        self.unlink_for_good(&place, &name, seconds(time), meta.size).await?;
        let recorded = match self.record_done(time, Change::Delete, &name) {
            Ok(recorded) => recorded,
            Err(status) => {
                noted.stay();
                return Err(status.into());
            }
        };
        // Still noted: it goes with its file, at the next start if this process dies now.
        let metadata = self.delete_metadata(&name)?;
        drop(noted);
        // Another member may be removing it, too, and waits for this one to have that.
        drop(held);
        self.keep(recorded, place.index, None, self.dir_to_settle(&place)?).await?;
        metadata.kept().await?;
        Ok(conn.send(&Header::ok(0).encode()).await?)
    }

    /// Its name is known before it is gone, so that nobody brings it back in between; and stays known if another client
    /// was faster.
    async fn unlink_for_good(&self, place: &Place<'_>, name: &RemoteName, time: u32, size: u64) -> Result<(), Refusal> {
        self.deleted.add(name, time);
        let unlinked = self.unlink(place, size).await;
        if unlinked.is_err_and(|refusal| refusal != Refusal::Status(Status::ENOENT)) {
            self.deleted.forget(name);
        }
        unlinked
    }

    pub(super) async fn unlink(&self, place: &Place<'_>, size: u64) -> Result<(), Refusal> {
        if size <= INLINE {
            return Ok(place.try_on("remove", |p| p.dir().unlink(&p.rel))?);
        }
        let (dir, rel) = (place.path.dir.clone(), place.rel);
        let unlinked = blocking::run(move || dir.unlink(&rel)).await;
        Ok(place.try_on("remove", |_| unlinked)?)
    }

    /// Removes the metadata of a file that was removed; most files have none.
    pub(super) fn delete_metadata(&self, name: &RemoteName) -> Result<Recorded, Status> {
        let Some(metadata) = name.metadata() else { return Ok(Recorded::default()) };
        // A name that cannot be recorded has never been given to metadata.
        let Ok(place) = self.place(&metadata) else { return Ok(Recorded::default()) };
        let removed = place.dir().meta(&place.rel, false).and_then(|meta| {
            let noted = self.pending.note(Kind::Change { mtime: seconds(meta.mtime) }, &metadata);
            place.dir().unlink(&place.rel)?;
            Ok((removal_of(&metadata, &meta), noted))
        });
        match removed {
            Ok((time, noted)) => {
                self.deleted.add(&metadata, seconds(time));
                self.record_noted(time, Change::Delete, &metadata, noted)
            }
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    error!("cannot remove {metadata}: {e}");
                }
                Ok(Recorded::default())
            }
        }
    }

    /// Reads a body that is a group and a name.
    pub(super) async fn file_request(&self, conn: &mut Conn<'_>) -> Result<FileRequest, Refusal> {
        self.message(conn, FileRequest::decode).await
    }
}

/// The time of the removal of a file that is there. Where the name can be given again, it is after the file was made,
/// whatever the clock says.
fn removal_of(name: &RemoteName, meta: &Meta) -> i64 {
    let now = clock::now();
    if name.is_given_once() { now } else { meta.time_of_next(now) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StorageConfig;
    use fdfs_protocol::GroupName;

    #[tokio::test]
    async fn a_removal_stays_known_when_another_client_was_faster() {
        let tmp = tempfile::tempdir().unwrap();
        let group = GroupName::new("group1").unwrap();
        let config = StorageConfig { subdirs: 1, ..StorageConfig::standalone(tmp.path(), group) };
        let (service, _init) = crate::storage::open(&config, group).unwrap();
        let name: RemoteName = "M00/00/00/Ck0ABmsHvW6AJhDDAAIzYN_CIyA451.dat".parse().unwrap();
        let place = service.place(&name).unwrap();
        // Both have seen the file.
        std::fs::write(place.dir().full(&place.rel), "content").unwrap();
        service.unlink_for_good(&place, &name, 10, 7).await.unwrap();
        let second = service.unlink_for_good(&place, &name, 10, 7).await;
        assert_eq!(second, Err(Refusal::Status(Status::ENOENT)));
        assert!(service.deleted.is_late(&name, 5));
        // One that could not be removed is not known as removed.
        service.deleted.forget(&name);
        std::fs::create_dir(place.dir().full(&place.rel)).unwrap();
        assert!(service.unlink_for_good(&place, &name, 10, 7).await.is_err());
        assert!(!service.deleted.is_late(&name, 5));
    }
}
