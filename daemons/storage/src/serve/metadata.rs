//! SET_METADATA and GET_METADATA: the `-m` file beside a file.

use std::io::{self, Read};

use fdfs_protocol::binlog::Change;
use fdfs_protocol::header::{self, Header};
use fdfs_protocol::metadata::Metadata;
use fdfs_protocol::storage::{MetadataMode, SetMetadata};
use fdfs_protocol::{RemoteName, Status};

use super::{Done, Note, Place, Service, noted};
use crate::clock;
use crate::clock::seconds;
use crate::disk::pending::Kind;
use crate::names::Held;
use crate::net::Conn;
use crate::net::scratch::SIZE;

impl Service {
    pub(super) async fn set_metadata(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let body = self.whole(conn).await?;
        if body.len() <= SetMetadata::FIXED_LEN {
            return Err(Status::EINVAL.into());
        }
        let request = SetMetadata::decode(body)?;
        let (mode, group, name) = (request.mode, request.group, request.name);
        let given = Metadata::parse(request.metadata);
        let len = body.len();
        conn.consume(len);
        let metadata = name.metadata().ok_or(Status::EINVAL)?;
        noted(self, note, &metadata);
        self.own_group(&group)?;
        self.can_keep()?;
        let base = self.place(&name)?;
        let there = || base.try_on("look at", |p| p.dir().meta(&p.rel, true));
        there()?;
        // Two merges at once must not lose one.
        let place = self.place(&metadata)?;
        let is_new = mode == MetadataMode::Overwrite && place.dir().meta(&place.rel, false).is_err();
        let mut held = match is_new {
            true => self.names.hold(&metadata, self.settings.timeout).await?,
            false => self.hold_latest(&metadata).await?,
        };
        // The file may have been removed meanwhile, and no other member takes metadata of it then.
        there()?;
        match mode {
            MetadataMode::Overwrite => self.store_metadata(&place, &metadata, &given, &mut held).await?,
            MetadataMode::Merge if given.is_empty() => {}
            MetadataMode::Merge => {
                let stored = read(&place)?.map(|text| Metadata::parse(&text)).unwrap_or_default();
                self.store_metadata(&place, &metadata, &stored.merge(given), &mut held).await?;
            }
        }
        Ok(conn.send(&Header::ok(0).encode()).await?)
    }

    async fn store_metadata(
        &self,
        place: &Place<'_>,
        name: &RemoteName,
        metadata: &Metadata,
        held: &mut Held<'_>,
    ) -> Result<(), Status> {
        let known = place.dir().meta(&place.rel, false).ok();
        let now = clock::now();
        // Members go by the times: a change that is made after another comes after it, whatever the clock here says.
        let time = match &known {
            Some(meta) => meta.time_of_next(now),
            None => self.deleted.time_of_creation(name, now),
        };
        self.can_record()?;
        let mtime = known.as_ref().map_or(0, |meta| seconds(meta.mtime));
        let noted = self.pending.note(Kind::Change { mtime }, name);
        let (change, file) = if metadata.is_empty() {
            match place.try_on("remove", |p| p.dir().unlink(&p.rel)) {
                // Another member may have some that has not come here yet.
                Ok(()) | Err(Status::ENOENT) => {}
                Err(status) => return Err(status),
            }
            self.deleted.add(name, seconds(time));
            (Change::Delete, None)
        } else {
            let file = place.try_on("write", |p| p.dir().replace(&p.rel, &metadata.pack()))?;
            place.date(&file, time);
            self.deleted.forget(name);
            (if known.is_some() { Change::Update } else { Change::Create }, Some(file))
        };
        let recorded = self.record_noted(time, change, name, noted)?;
        held.set_recorded_before(self.binlog.place());
        self.keep(recorded, place.index, file, self.dir_to_settle(place)?).await
    }

    pub(super) async fn get_metadata(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let request = self.file_request(conn).await?;
        noted(self, note, &request.name);
        self.own_group(&request.group)?;
        let base = self.place(&request.name)?;
        let meta = base.try_on("look at", |p| p.dir().meta(&p.rel, true))?;
        if !meta.is_file() {
            return Err(Status::EISDIR.into());
        }
        let metadata = request.name.metadata().ok_or(Status::ENOENT)?;
        let stored = read(&self.place(&metadata)?)?.ok_or(Status::ENOENT)?;
        let mut out = Vec::with_capacity(stored.len() + header::HEADER_LEN);
        header::response(&stored[..], &mut out);
        Ok(conn.send(&out).await?)
    }
}

/// The packed metadata, if there is any.
fn read(place: &Place<'_>) -> Result<Option<Vec<u8>>, Status> {
    let read = |p: &Place<'_>| -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        // More than a request can carry was not written by a request.
        p.dir().open_read(&p.rel)?.take(SIZE as u64).read_to_end(&mut text)?;
        Ok(text)
    };
    match place.try_on("read", read) {
        Ok(text) => Ok(Some(text)),
        Err(Status::ENOENT) => Ok(None),
        Err(status) => Err(status),
    }
}
