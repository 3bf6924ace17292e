//! DOWNLOAD_FILE.

use fdfs_protocol::Status;
use fdfs_protocol::header::Header;
use fdfs_protocol::storage::Download;
use tracing::error;

use super::{Done, Note, Refusal, Service, noted};
use crate::counters::Count;
use crate::disk::dir;
use crate::net::{Conn, SendError};

impl Service {
    pub(super) async fn download(&self, conn: &mut Conn<'_>, note: &mut Note) -> Done {
        let request = self.message(conn, Download::decode).await?;
        noted(self, note, &request.name);
        self.own_group(&request.group)?;
        let place = self.place(&request.name)?;
        let opened = place.try_on("open", |p| p.dir().open_read(&p.rel));
        self.counters.count(Count::FileOpen, 1, opened.is_ok());
        let file = opened?;
        let meta = place.try_on("look at", |_| dir::meta_of(&file))?;
        if !meta.is_file() {
            return Err(Status::EISDIR.into());
        }
        // FastDFS refuses to send an empty file and so blocks the recovery of a disk that has one; we send it.
        let empty = meta.size == 0 && request.offset == 0;
        if request.offset >= meta.size && !empty {
            return Err(Status::EINVAL.into());
        }
        let rest = meta.size - request.offset;
        let len = if request.len == 0 { rest } else { request.len.min(rest) };
        self.counters.tried(Count::DownloadBytes, len);
        let sent = conn.send_range(&Header::ok(len).encode(), &file, request.offset, len).await;
        self.counters.count(Count::FileRead, 1, sent.is_ok());
        sent.map_err(|e| match e {
            SendError::Gone => Refusal::Gone,
            SendError::Read(e) => {
                error!("cannot read {} for a download: {e}", request.name);
                Status::from(&e).into()
            }
        })?;
        self.counters.went_well(Count::DownloadBytes, len);
        Ok(())
    }
}
