//! The mark file of a peer: how far its push loop has come, in `<base_path>/data/sync`.
//!
//! The place is saved after the records before it are finished, so that a crash makes some of them come twice and none
//! be lost.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fdfs_protocol::datafile::SyncMark;
use fdfs_protocol::{IpText, StorageId};
use tracing::{info, warn};

use super::window::Progress;
use crate::blocking;
use crate::clock;
use crate::disk::binlog::Place;
use crate::disk::replace_file;

/// The files about one peer.
#[derive(Debug, Clone)]
pub struct PeerFiles {
    dir: PathBuf,
    stem: String,
}

impl PeerFiles {
    /// With storage ids the files are called after the peer's id, else after its address and the own port.
    pub fn new(dir: &Path, id: &StorageId, ip: &IpText, own_port: u16, use_ids: bool) -> PeerFiles {
        let by_ip = format!("{ip}_{own_port}");
        let files = |stem: String| PeerFiles { dir: dir.to_owned(), stem };
        if !use_ids {
            return files(by_ip);
        }
        let (by_id, old) = (files(id.to_string()), files(by_ip));
        // Ids were introduced after these storages had met.
        if !by_id.mark().exists() && old.mark().exists() {
            for (from, to) in [(old.mark(), by_id.mark()), (old.aside(), by_id.aside())] {
                if from.exists()
                    && let Err(e) = std::fs::rename(&from, &to)
                {
                    warn!("cannot rename {} to {}: {e}", from.display(), to.display());
                }
            }
        }
        by_id
    }

    /// The mark file.
    pub fn mark(&self) -> PathBuf {
        self.dir.join(format!("{}.mark", self.stem))
    }

    /// The names set aside.
    pub fn aside(&self) -> PathBuf {
        self.dir.join(format!("{}.aside", self.stem))
    }

    /// Moves the mark away: the peer has left the group. If it comes back it begins anew.
    pub fn retire(&self) {
        let clock::Local { date: (y, mo, d), time: (h, mi, s) } = clock::local(clock::now());
        let mark = self.mark();
        let old = self.dir.join(format!("{}.mark.{y:04}{mo:02}{d:02}{h:02}{mi:02}{s:02}", self.stem));
        let retired = [std::fs::rename(&mark, &old), std::fs::remove_file(self.aside())];
        for result in retired {
            match result {
                Err(e) if e.kind() != io::ErrorKind::NotFound => warn!("cannot retire {}: {e}", mark.display()),
                _ => {}
            }
        }
        info!("the position of {} in the binlog is set aside: it has left the group", self.stem);
    }
}

/// A mark and its file.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    /// What it says, as far as it is not about the position.
    pub state: SyncMark,
    saved: Option<SyncMark>,
}

impl Mark {
    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read or makes no sense; the text says what to do.
    pub fn load(path: PathBuf) -> anyhow::Result<Option<Mark>> {
        match std::fs::read(&path) {
            Ok(text) => {
                let state = SyncMark::parse(&path, &text)
                    .context("restore the file, or remove it: the whole binlog is then pushed again")?;
                Ok(Some(Mark { path, state, saved: Some(state) }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// A new one, which is not on disk yet.
    pub fn new(path: PathBuf, state: SyncMark) -> Mark {
        Mark { path, state, saved: None }
    }

    /// Where to go on.
    pub fn progress(&self) -> Progress {
        let m = &self.state;
        let place = Place { file: m.binlog_index, offset: m.binlog_offset };
        Progress { place, scanned: m.scan_row_count, pushed: m.sync_row_count }
    }

    /// Takes over how far the loop has come.
    pub fn advance(&mut self, progress: Progress) {
        self.state.binlog_index = progress.place.file;
        self.state.binlog_offset = progress.place.offset;
        self.state.scan_row_count = progress.scanned;
        self.state.sync_row_count = progress.pushed;
    }

    /// Records pushed since it was saved.
    pub fn unsaved(&self) -> u64 {
        self.state.sync_row_count - self.saved.map_or(0, |s| s.sync_row_count.min(self.state.sync_row_count))
    }

    /// Writes the file if it would say something new.
    ///
    /// # Errors
    /// What writing reported, with the path in the text.
    pub fn save(&mut self) -> io::Result<()> {
        if self.is_saved() {
            return Ok(());
        }
        replace_file(&self.path, self.state.to_text().as_bytes())?;
        self.saved = Some(self.state);
        Ok(())
    }

    /// [`save`](Mark::save) on another thread.
    ///
    /// # Errors
    /// As [`save`](Mark::save).
    pub async fn save_later(&mut self) -> io::Result<()> {
        if self.is_saved() {
            return Ok(());
        }
        let (path, state) = (self.path.clone(), self.state);
        blocking::run(move || replace_file(&path, state.to_text().as_bytes())).await?;
        self.saved = Some(state);
        Ok(())
    }

    /// Whether the file says the same.
    pub fn is_saved(&self) -> bool {
        self.saved == Some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, use_ids: bool) -> PeerFiles {
        PeerFiles::new(dir, &"100002".parse().unwrap(), &"10.0.0.2".parse().unwrap(), 23000, use_ids)
    }

    #[test]
    fn names_are_those_of_fastdfs_and_follow_the_introduction_of_ids() {
        let tmp = tempfile::tempdir().unwrap();
        let by_ip = files(tmp.path(), false);
        assert_eq!(by_ip.mark(), tmp.path().join("10.0.0.2_23000.mark"));
        let mut mark = Mark::new(by_ip.mark(), SyncMark::default());
        mark.save().unwrap();
        let by_id = files(tmp.path(), true);
        assert_eq!(by_id.mark(), tmp.path().join("100002.mark"));
        assert!(by_id.mark().exists() && !by_ip.mark().exists());
        by_id.retire();
        assert!(Mark::load(by_id.mark()).unwrap().is_none());
        let left: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() == 1 && left[0].to_string_lossy().starts_with("100002.mark.20"), "{left:?}");
    }

    #[test]
    fn what_is_saved_is_found_again() {
        let tmp = tempfile::tempdir().unwrap();
        let path = files(tmp.path(), false).mark();
        let mut mark = Mark::new(path.clone(), SyncMark { need_sync_old: true, ..SyncMark::default() });
        mark.advance(Progress { place: Place { file: 1, offset: 77 }, scanned: 9, pushed: 4 });
        assert_eq!(mark.unsaved(), 4);
        mark.save().unwrap();
        assert_eq!(mark.unsaved(), 0);
        let again = Mark::load(path.clone()).unwrap().unwrap();
        assert_eq!((again.state, again.progress()), (mark.state, mark.progress()));
        std::fs::write(&path, "binlog_index=-1\n").unwrap();
        let text = format!("{:#}", Mark::load(path).unwrap_err());
        assert!(text.contains("remove it") && text.contains("10.0.0.2_23000.mark"), "{text}");
    }
}
