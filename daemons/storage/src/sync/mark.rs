//! The mark file of a peer: how far its push loop has come, in `<base_path>/data/sync`.
//!
//! The place is saved after the records before it are finished, so that a crash makes some of them come twice and none
//! be lost.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use fdfs_protocol::datafile::SyncMark;
use fdfs_protocol::{IpText, StorageId};
use parking_lot::Mutex;
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
        if !by_id.mark().exists()
            && old.mark().exists()
            && let Err(e) = old.move_to(&by_id)
        {
            warn!("{e}");
        }
        by_id
    }

    /// A member without a storage id has another address. What is known of it goes on under the new one, unless something
    /// is known of that already.
    ///
    /// # Errors
    /// What renaming reported, with the paths in the text.
    pub fn rename(dir: &Path, old: &StorageId, new: &StorageId, own_port: u16) -> io::Result<()> {
        let of = |id: &StorageId| PeerFiles { dir: dir.to_owned(), stem: format!("{id}_{own_port}") };
        let (old, new) = (of(old), of(new));
        if new.mark().exists() {
            return Ok(());
        }
        old.move_to(&new)
    }

    fn move_to(&self, new: &PeerFiles) -> io::Result<()> {
        // The names first: a position must not pass over what is not noted beside it.
        for (from, to) in [(self.aside(), new.aside()), (self.mark(), new.mark())] {
            if let Err(e) = std::fs::rename(&from, &to)
                && e.kind() != io::ErrorKind::NotFound
            {
                return Err(io::Error::new(
                    e.kind(),
                    format!("cannot rename {} to {}: {e}", from.display(), to.display()),
                ));
            }
        }
        Ok(())
    }

    /// The mark file.
    pub fn mark(&self) -> PathBuf {
        self.dir.join(format!("{}.mark", self.stem))
    }

    /// The names set aside.
    pub fn aside(&self) -> PathBuf {
        self.dir.join(format!("{}.aside", self.stem))
    }

    /// Moves the mark away, and says whether there was one: the peer has left the group. If it comes back it begins anew.
    pub fn retire(&self) -> bool {
        let clock::Local { date: (y, mo, d), time: (h, mi, s) } = clock::local(clock::now());
        let mark = self.mark();
        let old = self.dir.join(format!("{}.mark.{y:04}{mo:02}{d:02}{h:02}{mi:02}{s:02}", self.stem));
        let retired = std::fs::rename(&mark, &old);
        match &retired {
            Ok(()) => info!("the position of {} in the binlog is set aside: it has left the group", self.stem),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => warn!("cannot retire {}: {e}", mark.display()),
        }
        match std::fs::remove_file(self.aside()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => warn!("cannot remove {}: {e}", self.aside().display()),
            _ => {}
        }
        retired.is_ok()
    }
}

/// Steps of a trail are at least this far apart, seconds.
const STEP: i64 = 60;

/// Older steps are forgotten.
const TRAIL: i64 = 7200;

/// Where the marks of this process were at earlier times: what a member had at the time it became somebody's source.
///
/// A mark leaves no step while something is set aside for its peer.
#[derive(Debug, Default)]
pub struct Trails {
    marks: Mutex<BTreeMap<PathBuf, VecDeque<(i64, Place)>>>,
}

impl Trails {
    /// At `time` everything before `place` was pushed, and nothing set aside.
    fn step(&self, mark: &Path, time: i64, place: Place) {
        let mut marks = self.marks.lock();
        let steps = marks.entry(mark.to_owned()).or_default();
        match steps.back() {
            // What was pushed once is pushed again, for a reason, or the clock was put back.
            Some(last) if last.1 > place || last.0 > time => steps.clear(),
            Some(last) if last.0 + STEP > time => return,
            _ => {}
        }
        steps.push_back((time, place));
        while steps.get(1).is_some_and(|second| second.0 < time - TRAIL) {
            steps.pop_front();
        }
    }

    fn forget(&self, mark: &Path) {
        self.marks.lock().remove(mark);
    }

    /// A place before which everything had been pushed at `time`; `None` if none is known.
    pub fn at(&self, mark: &Path, time: i64) -> Option<Place> {
        self.marks.lock().get(mark)?.iter().rev().find(|step| step.0 <= time).map(|step| step.1)
    }
}

/// A mark and its file.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    /// What it says, as far as it is not about the position.
    pub state: SyncMark,
    saved: Option<SyncMark>,
    /// When that was saved, unix seconds.
    saved_at: i64,
    trails: Arc<Trails>,
}

impl Mark {
    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read or makes no sense; the text says what to do.
    pub fn load(path: PathBuf, trails: Arc<Trails>) -> anyhow::Result<Option<Mark>> {
        match std::fs::read(&path) {
            Ok(text) => {
                let state = SyncMark::parse(&path, &text)
                    .context("restore the file, or remove it: the whole binlog is then pushed again")?;
                let modified = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
                let since = modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok());
                let saved_at = since.map_or_else(clock::now, |s| s.as_secs().cast_signed());
                Ok(Some(Mark { path, state, saved: Some(state), saved_at, trails }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// A new one, which is not on disk yet. What an earlier one of this peer said holds no more.
    pub fn new(path: PathBuf, state: SyncMark, trails: Arc<Trails>) -> Mark {
        trails.forget(&path);
        Mark { path, state, saved: None, saved_at: 0, trails }
    }

    /// What the file says is so, and others may rely on it.
    pub fn leave_trail(&self) {
        if let Some(saved) = self.saved
            && !self.path.with_extension("aside").exists()
        {
            let place = Place { file: saved.binlog_index, offset: saved.binlog_offset };
            self.trails.step(&self.path, self.saved_at, place);
        }
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
        self.is_now(self.state);
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
        self.is_now(state);
        Ok(())
    }

    fn is_now(&mut self, state: SyncMark) {
        (self.saved, self.saved_at) = (Some(state), clock::now());
        self.leave_trail();
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

    fn load(path: PathBuf) -> anyhow::Result<Option<Mark>> {
        Mark::load(path, Arc::default())
    }

    #[test]
    fn names_are_those_of_fastdfs_and_follow_the_introduction_of_ids() {
        let tmp = tempfile::tempdir().unwrap();
        let by_ip = files(tmp.path(), false);
        assert_eq!(by_ip.mark(), tmp.path().join("10.0.0.2_23000.mark"));
        let mut mark = Mark::new(by_ip.mark(), SyncMark::default(), Arc::default());
        mark.save().unwrap();
        // Names that cannot go first keep the position back.
        std::fs::write(by_ip.aside(), "names").unwrap();
        let in_the_way = tmp.path().join("100002.aside");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(!files(tmp.path(), true).mark().exists());
        std::fs::remove_dir(&in_the_way).unwrap();
        let by_id = files(tmp.path(), true);
        assert_eq!(std::fs::read_to_string(by_id.aside()).unwrap(), "names");
        assert_eq!(by_id.mark(), tmp.path().join("100002.mark"));
        assert!(by_id.mark().exists() && !by_ip.mark().exists());
        assert!(by_id.retire() && !by_id.retire());
        assert!(load(by_id.mark()).unwrap().is_none());
        let left: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() == 1 && left[0].to_string_lossy().starts_with("100002.mark.20"), "{left:?}");
    }

    #[test]
    fn a_member_with_another_address_is_known_under_that() {
        let tmp = tempfile::tempdir().unwrap();
        let [old, new] = ["10.0.0.2", "10.0.0.3"].map(|ip| ip.parse::<StorageId>().unwrap());
        let at = |id: &StorageId, ext: &str| tmp.path().join(format!("{id}_23000.{ext}"));
        PeerFiles::rename(tmp.path(), &old, &new, 23000).unwrap();
        for ext in ["mark", "aside"] {
            std::fs::write(at(&old, ext), ext).unwrap();
        }
        PeerFiles::rename(tmp.path(), &old, &new, 23000).unwrap();
        for ext in ["mark", "aside"] {
            assert_eq!(std::fs::read_to_string(at(&new, ext)).unwrap(), ext);
            assert!(!at(&old, ext).exists());
            std::fs::write(at(&old, ext), "stale").unwrap();
        }
        // It was told twice, or came late.
        PeerFiles::rename(tmp.path(), &old, &new, 23000).unwrap();
        assert_eq!(std::fs::read_to_string(at(&new, "mark")).unwrap(), "mark");
    }

    #[test]
    fn a_trail_tells_where_a_mark_was_at_the_latest() {
        let at = |offset| Place { file: 0, offset };
        let trails = Trails::default();
        let path = Path::new("x.mark");
        assert_eq!(trails.at(path, 1000), None);
        for (time, offset) in [(1000, 10), (1001, 11), (1059, 12), (1060, 13), (1300, 14)] {
            trails.step(path, time, at(offset));
        }
        for (time, place) in
            [(999, None), (1000, Some(10)), (1059, Some(10)), (1060, Some(13)), (1299, Some(13)), (9999, Some(14))]
        {
            assert_eq!(trails.at(path, time), place.map(at), "{time}");
        }
        // Long after, one that old is still known, since nothing happened.
        trails.step(path, 1300 + TRAIL, at(15));
        assert_eq!((trails.at(path, 1299), trails.at(path, 1300)), (Some(at(13)), Some(at(14))));
        trails.step(path, 1301 + TRAIL + STEP, at(16));
        assert_eq!((trails.at(path, 1299), trails.at(path, 1300)), (None, Some(at(14))));
        // It goes on from an earlier place.
        trails.step(path, 1400 + TRAIL, at(5));
        assert_eq!((trails.at(path, 1399 + TRAIL), trails.at(path, 1400 + TRAIL)), (None, Some(at(5))));
        trails.forget(path);
        assert_eq!(trails.at(path, i64::MAX), None);
    }

    #[test]
    fn a_mark_leaves_a_trail_while_nothing_is_set_aside() {
        let tmp = tempfile::tempdir().unwrap();
        let files = files(tmp.path(), false);
        let trails = Arc::new(Trails::default());
        let mut mark = Mark::new(files.mark(), SyncMark::default(), trails.clone());
        let first = Place { file: 0, offset: 100 };
        mark.advance(Progress { place: first, scanned: 1, pushed: 1 });
        std::fs::write(files.aside(), "").unwrap();
        mark.save().unwrap();
        assert_eq!(trails.at(&files.mark(), i64::MAX), None);
        std::fs::remove_file(files.aside()).unwrap();
        mark.leave_trail();
        assert_eq!(trails.at(&files.mark(), clock::now() + 1), Some(first));
        // After a restart it is as old as the file.
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(5000);
        std::fs::File::options().write(true).open(files.mark()).unwrap().set_modified(old).unwrap();
        let trails = Arc::new(Trails::default());
        let mark = Mark::load(files.mark(), trails.clone()).unwrap().unwrap();
        assert_eq!(trails.at(&files.mark(), i64::MAX), None, "it may be outdated");
        mark.leave_trail();
        assert_eq!(trails.at(&files.mark(), clock::now() - 4000), Some(first));
        // One that is begun with has no past.
        Mark::new(files.mark(), SyncMark::default(), trails.clone());
        assert_eq!(trails.at(&files.mark(), i64::MAX), None);
    }

    #[test]
    fn what_is_saved_is_found_again() {
        let tmp = tempfile::tempdir().unwrap();
        let path = files(tmp.path(), false).mark();
        let mut mark = Mark::new(path.clone(), SyncMark { need_sync_old: true, ..SyncMark::default() }, Arc::default());
        mark.advance(Progress { place: Place { file: 1, offset: 77 }, scanned: 9, pushed: 4 });
        assert_eq!(mark.unsaved(), 4);
        mark.save().unwrap();
        assert_eq!(mark.unsaved(), 0);
        let again = load(path.clone()).unwrap().unwrap();
        assert_eq!((again.state, again.progress()), (mark.state, mark.progress()));
        std::fs::write(&path, "binlog_index=-1\n").unwrap();
        let text = format!("{:#}", load(path).unwrap_err());
        assert!(text.contains("remove it") && text.contains("10.0.0.2_23000.mark"), "{text}");
    }
}
