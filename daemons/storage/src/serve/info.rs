//! QUERY_FILE_INFO.

use fdfs_protocol::file_id::{Kind, Source};
use fdfs_protocol::header;
use fdfs_protocol::storage::{FileInfo, FileInfoFlags};
use fdfs_protocol::{IpText, RemoteName, Status};
use tracing::debug;

use super::seal::checksum;
use super::{Done, Note, Service, noted};
use crate::counters::Count;
use crate::disk::dir;
use crate::net::Conn;

/// Whether the name has the flag of appender files; slaves of appenders have it too.
pub(crate) fn is_appender(name: &RemoteName) -> bool {
    name.kind() == Ok(Kind::Appender)
}

/// Whether the name tells size and checksum of the file itself: that of a slave tells its master's, and metadata and
/// appenders have none.
pub(crate) fn has_sum(name: &RemoteName) -> bool {
    name.is_given_once() && name.kind().is_ok_and(Kind::is_normal)
}

impl Service {
    pub(super) async fn query_file_info(&self, conn: &mut Conn<'_>, flags: u8, note: &mut Note) -> Done {
        let flags = FileInfoFlags::from_byte(flags);
        let request = self.file_request(conn).await?;
        let name = request.name;
        noted(self, note, &name);
        self.own_group(&request.group)?;
        let place = self.place(&name)?;
        let found = place.try_on("look at", |p| p.dir().meta(&p.rel, true));
        if found == Err(Status::ENOENT) && !flags.silent {
            debug!("asked about {name}, which is not here");
        }
        let mut meta = found?;
        if !meta.is_file() || name.as_bytes().len() < FileInfo::MIN_NAME {
            return Err(Status::EINVAL.into());
        }
        let membership = self.membership()?;
        let block = name.block().map_err(|_| Status::EINVAL)?;
        let told = name.kind().is_ok_and(Kind::is_normal);
        let crc32 = match (told, flags.no_crc) {
            (true, _) => block.crc32,
            (false, true) => 0,
            (false, false) => {
                // Nobody who is changing the file is waited for: what is told is true of one moment.
                match self.names.sum(&name, meta.size) {
                    Some(sum) => sum.hasher.finalize(),
                    None => {
                        let opened = place.try_on("open", |p| p.dir().open_read(&p.rel));
                        self.counters.count(Count::FileOpen, 1, opened.is_ok());
                        let file = opened?;
                        meta = place.try_on("look at", |_| dir::meta_of(&file))?;
                        // Members that push ask silently, and give the connection up when they wait too long.
                        match flags.silent {
                            true => self.checksum_soon(self.settings.patience(), file, meta.size).await?,
                            false => checksum(file, meta.size, self.settings.timeout).await?,
                        }
                    }
                }
            }
        };
        let source = match block.source {
            Source::Ip(ip) => IpText::from(std::net::IpAddr::V4(ip)),
            Source::Id(id) => membership.ids.get(&id).copied().unwrap_or_default(),
        };
        let info = FileInfo { size: meta.size, mtime: meta.mtime, crc32, source };
        let mut out = Vec::with_capacity(80);
        header::response_with(&mut out, |out| info.encode(membership.ip_size, out));
        Ok(conn.send(&out).await?)
    }
}
