//! Staged data that survives a restart: a data file, and a record that says what in it counts.
//!
//! The record names the data file, so replacing it (with `rename`) replaces both at once. It is text, one item a line,
//! and ends with a CRC32 of the lines before:
//!
//! ```text
//! fdfs-stage 1
//! data NAME LENGTH
//! size BYTES
//! base FILE_ID SIZE FINGERPRINT|- VISIBLE
//! own START END
//! end CRC32
//! ```
//!
//! Data and record are brought to stable storage before anybody refers to them. A record that the index could not take note of is
//! set apart under the number of its owner, for the next process to take up; one that cannot be used is never deleted.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Discard;
use super::files::{APART, APPENDER, DATA, KEPT, LOST, StageFile, StagingDir};
use super::image::{Base, Data, Image, Missing};
use super::prefix::discard_noted;
use crate::content::extents::Extents;
use crate::content::{ContentError, Kept, Object};

/// What holds a stage's kept data.
pub(crate) struct Record {
    path: PathBuf,
    /// The data file, which stays as long as the record is about it.
    file: Arc<StageFile>,
}

impl Record {
    /// Writes down `image`, in place of what was `previous`ly written down for its stage.
    pub(crate) fn write(dir: &StagingDir, image: &Image, previous: Option<&Record>) -> Result<Record, ContentError> {
        let image = &standalone(dir, image)?;
        let Some(file) = image.file() else { return Err(ContentError::Closed) };
        let path = previous.map_or_else(|| dir.fresh(KEPT), |r| r.path.clone());
        let tmp = dir.fresh("tmp");
        let put = || {
            file.file().sync_data()?;
            let mut record = File::create(&tmp)?;
            record.write_all(describe(image, file.path(), file.file().metadata()?.len()).as_bytes())?;
            record.sync_all()?;
            file.stay(true);
            std::fs::rename(&tmp, &path)
        };
        // Waits for the disk, possibly on a thread of the runtime.
        if let Err(error) = tokio::task::block_in_place(put) {
            let _ = std::fs::remove_file(&tmp);
            file.stay(previous.is_some_and(|r| Arc::ptr_eq(&r.file, file)));
            return Err(ContentError::local(&path, error));
        }
        if let Some(old) = previous.filter(|r| !Arc::ptr_eq(&r.file, file)) {
            old.file.stay(false);
        }
        // It is in place, and survives this process; only a power cut could still take it back.
        if let Err(error) = File::open(dir.path()).and_then(|dir| dir.sync_all()) {
            tracing::warn!(path = %path.display(), %error, "record of staged data not on stable storage");
        }
        Ok(Record { path, file: file.clone() })
    }

    /// The record's own path: what the index remembers.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the record a name that tells its owner, since nothing else does: [`apart`] finds it.
    pub(crate) fn set_apart(&mut self, owner: u64) -> Result<(), ContentError> {
        if self.path.extension().is_some_and(|ending| ending == APART) {
            return Ok(());
        }
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let path = self.path.with_file_name(format!("{owner}.{stem}.{APART}"));
        std::fs::rename(&self.path, &path).map_err(|e| ContentError::local(&path, e))?;
        self.path = path;
        Ok(())
    }

    /// Removes the record; its data goes with the last user of the file.
    pub(crate) fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
        self.file.stay(false);
    }
}

/// The same content in one file of its own, over stored content or none.
fn standalone(dir: &StagingDir, image: &Image) -> Result<Image, ContentError> {
    let mut flat = image.clone();
    match (&image.data, &image.base) {
        (Data::File(_), Base::None | Base::Object(_)) => {}
        (Data::Memory(_), Base::None | Base::Object(_)) => flat.spill(dir)?,
        (_, Base::Image(_)) => {
            // A layer over a file that is being sealed: all that is local goes into a new file.
            let file = dir.create()?;
            let mut own = Extents::default();
            (flat.base, flat.visible) = (Base::None, 0);
            let mut buf = vec![0; 1 << 18];
            let mut at = 0;
            while at < image.size {
                let window = at..image.size.min(at + buf.len() as u64);
                at = window.end;
                let part = &mut buf[..(window.end - window.start) as usize];
                part.fill(0);
                let mut missing = Vec::new();
                image.copy_local(window.clone(), part, &mut missing)?;
                if part.iter().any(|b| *b != 0) {
                    file.write(part, window.start).map_err(|(_, e)| e)?;
                }
                own.insert(window);
                for Missing { object, range } in missing {
                    flat.visible = range.end;
                    own.remove(range);
                    flat.base = Base::Object(object);
                }
            }
            (flat.data, flat.own) = (Data::File(file), Arc::new(own));
        }
    }
    Ok(flat)
}

fn describe(image: &Image, data: &Path, length: u64) -> String {
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!("fdfs-stage 1\ndata {name} {length}\nsize {}\n", image.size);
    if let Base::Object(object) = &image.base {
        let fingerprint = object.fingerprint.map_or_else(|| "-".to_owned(), |f| f.to_string());
        let _ = writeln!(text, "base {} {} {fingerprint} {}", object.file_id, object.size, image.visible);
    }
    for Range { start, end } in image.own.iter() {
        let _ = writeln!(text, "own {start} {end}");
    }
    let crc = crc32fast::hash(text.as_bytes());
    let _ = writeln!(text, "end {crc}");
    text
}

/// What a record says.
struct Described {
    data: String,
    /// Length of the data file; less is damage.
    length: u64,
    size: u64,
    base: Base,
    visible: u64,
    own: Extents,
}

/// Reads the text of a record; `None` if it is not one, whole and well-formed.
fn parse(text: &str) -> Option<Described> {
    let (body, end) = text.split_at(text.rfind("end ")?);
    let crc: u32 = end.strip_prefix("end ")?.strip_suffix('\n')?.parse().ok()?;
    let body = body.strip_prefix("fdfs-stage 1\n").filter(|_| crc == crc32fast::hash(body.as_bytes()))?;
    let mut found =
        Described { data: String::new(), length: 0, size: 0, base: Base::None, visible: 0, own: Extents::default() };
    for line in body.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["data", name, length] if !name.contains('/') && name.ends_with(DATA) => {
                (found.data, found.length) = (name.to_owned(), length.parse().ok()?);
            }
            ["size", size] => found.size = size.parse().ok()?,
            ["base", file_id, size, fingerprint, visible] => {
                let fingerprint = match fingerprint {
                    "-" => None,
                    hex => Some(hex.parse().ok()?),
                };
                let object = Object { file_id: file_id.into(), size: size.parse().ok()?, fingerprint };
                found.visible = visible.parse().ok().filter(|v| *v <= object.size)?;
                found.base = Base::Object(object);
            }
            ["own", start, end] => {
                let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
                found.own.insert(start..end);
            }
            _ => return None,
        }
    }
    let fits = !found.data.is_empty()
        && found.size <= i64::MAX as u64
        && found.visible <= found.size
        && found.own.iter().all(|r| r.end <= found.size);
    fits.then_some(found)
}

/// Brings back kept data.
///
/// # Errors
/// [`ContentError::NotFound`]: it is not there. [`ContentError::Corrupt`]: record or data are not what was written.
pub(crate) fn load(path: &Path) -> Result<(Image, Record), ContentError> {
    let not_there = |path: &Path, e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => ContentError::NotFound(path.to_string_lossy().into()),
        _ => ContentError::local(path, e),
    };
    let text = std::fs::read(path).map_err(|e| not_there(path, e))?;
    let text = String::from_utf8_lossy(&text);
    let found = parse(&text).ok_or_else(|| ContentError::Corrupt(path.to_string_lossy().into()))?;
    let data = path.with_file_name(&found.data);
    let file = OpenOptions::new().read(true).write(true).open(&data).map_err(|e| not_there(&data, e))?;
    if file.metadata().map_err(|e| ContentError::local(&data, e))?.len() < found.length {
        return Err(ContentError::Corrupt(data.to_string_lossy().into()));
    }
    let file = Arc::new(StageFile::new(file, data, true));
    let image = Image {
        data: Data::File(file.clone()),
        own: Arc::new(found.own),
        base: found.base,
        visible: found.visible,
        size: found.size,
    };
    Ok((image, Record { path: path.to_owned(), file }))
}

/// The records that were set apart, with the owners they were set apart for.
pub(crate) fn apart(dir: &Path) -> Result<Vec<(u64, Kept)>, ContentError> {
    let mut found = Vec::new();
    for path in entries(dir)? {
        let owner = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next());
        if let Some(owner) = owner.filter(|_| path.extension().is_some_and(|ending| ending == APART)) {
            match (owner.parse(), load(&path)) {
                (Ok(owner), Ok((image, _))) => found.push((owner, Kept { path, size: image.size })),
                _ => give_up(&path)?,
            }
        }
    }
    Ok(found)
}

/// Gives a record that was set apart another, ordinary name besides.
pub(crate) fn adopt(dir: &StagingDir, kept: &Kept) -> Result<Kept, ContentError> {
    let path = dir.fresh(KEPT);
    std::fs::hard_link(&kept.path, &path).map_err(|e| ContentError::local(&path, e))?;
    Ok(Kept { path, size: kept.size })
}

/// Leaves a record, and with it its data, to people: no process touches it again.
pub(crate) fn give_up(record: &Path) -> Result<(), ContentError> {
    let lost = record.with_extension(LOST);
    tracing::error!(path = %lost.display(), "staged data that belongs to no file any more is left here");
    std::fs::rename(record, &lost).map_err(|e| ContentError::local(&lost, e))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, ContentError> {
    let list = || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    list().map_err(|e| ContentError::local(dir, e))
}

/// Removes what an earlier process left in the staging directory, except what `keep` names and what was given up.
pub(crate) fn sweep(dir: &Path, keep: &[Kept], discard: &Discard) -> Result<(), ContentError> {
    let entries = entries(dir)?;
    let lost = entries.iter().filter(|path| path.extension().is_some_and(|ending| ending == LOST));
    let mut stays: Vec<PathBuf> = Vec::new();
    for record in keep.iter().map(|kept| &kept.path).chain(lost) {
        stays.push(record.clone());
        if let Some(found) = std::fs::read_to_string(record).ok().as_deref().and_then(parse) {
            stays.push(record.with_file_name(found.data));
        }
    }
    for path in entries {
        let ending = path.extension().unwrap_or_default();
        if ending == APPENDER {
            discard_noted(&path, discard);
        }
        let ours = [APPENDER, DATA, KEPT, APART, "tmp"].iter().any(|ours| ending == *ours);
        if ours && !stays.contains(&path) {
            std::fs::remove_file(&path).map_err(|e| ContentError::local(&path, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Fingerprint;
    use proptest::prelude::*;

    #[test]
    fn a_record_says_what_was_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StagingDir::open(tmp.path(), 1 << 20, 1 << 20).unwrap();
        let base = Object { file_id: "group1/M00/00/00/x".into(), size: 100, fingerprint: Some(Fingerprint([7; 32])) };
        let mut image = Image::new(&dir, Some(&base), 90);
        image.write(&dir, 80, b"hello world, this is it").unwrap();
        let record = Record::write(&dir, &image, None).unwrap();
        image.write(&dir, 0, b"more").unwrap();
        let record = Record::write(&dir, &image, Some(&record)).unwrap();
        drop(image);
        let kept = Kept { path: record.path().to_owned(), size: 103 };
        std::fs::write(tmp.path().join("1-1.appender"), "group1/M00/00/00/a").unwrap();
        std::fs::write(tmp.path().join("1-2.data"), "left").unwrap();
        let discarded = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let sink = discarded.clone();
        sweep(tmp.path(), &[kept], &(Arc::new(move |id: &str| sink.lock().push(id.to_owned())) as Discard)).unwrap();
        assert_eq!(*discarded.lock(), ["group1/M00/00/00/a"]);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 2);

        let (image, record) = load(record.path()).unwrap();
        assert_eq!((image.size, image.visible), (103, 90));
        let mut buf = [0; 103];
        let mut missing = Vec::new();
        image.copy_local(0..103, &mut buf, &mut missing).unwrap();
        assert_eq!(missing, [Missing { object: base, range: 4..80 }]);
        assert_eq!((&buf[..4], &buf[80..]), (&b"more"[..], &b"hello world, this is it"[..]));
        record.remove();
        drop(image);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_damaged_or_belongs_to_nobody_is_never_deleted() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StagingDir::open(tmp.path(), 1 << 20, 1 << 20).unwrap();
        let discard: Discard = Arc::new(|_: &str| {});
        let keep = |bytes: &[u8]| {
            let mut image = Image::new(&dir, None, 0);
            image.write(&dir, 0, bytes).unwrap();
            Record::write(&dir, &image, None).unwrap()
        };
        let cut = keep(b"whole");
        std::fs::write(cut.file.path(), "who").unwrap();
        assert!(matches!(load(cut.path()), Err(ContentError::Corrupt(_))));
        std::fs::write(cut.path(), "").unwrap();
        assert!(matches!(load(cut.path()), Err(ContentError::Corrupt(_))));

        let mut homeless = keep(b"homeless");
        homeless.set_apart(17).unwrap();
        let found = apart(tmp.path()).unwrap();
        let [(17, kept)] = &found[..] else { panic!("{found:?}") };
        let adopted = adopt(&dir, kept).unwrap();
        sweep(tmp.path(), std::slice::from_ref(&adopted), &discard).unwrap();
        assert!(apart(tmp.path()).unwrap().is_empty());
        assert_eq!(load(&adopted.path).unwrap().0.size, 8);

        give_up(&adopted.path).unwrap();
        sweep(tmp.path(), &[], &discard).unwrap();
        let lost = load(&adopted.path.with_extension(LOST)).unwrap().0;
        let mut bytes = [0; 8];
        lost.copy_local(0..8, &mut bytes, &mut Vec::new()).unwrap();
        assert_eq!(&bytes, b"homeless");
    }

    proptest! {
        #[test]
        fn damaged_records_are_refused(at in 0..200usize, byte: u8, text in ".*") {
            let tmp = tempfile::tempdir().unwrap();
            let dir = StagingDir::open(tmp.path(), 1 << 20, 1 << 20).unwrap();
            let mut image = Image::new(&dir, None, 0);
            image.write(&dir, 3, b"abc").unwrap();
            let good = describe(&image, Path::new("1-0.data"), 0);
            prop_assert!(parse(&good).is_some());
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(bad) = String::from_utf8(bytes) {
                prop_assert!(bad == good || parse(&bad).is_none());
            }
            prop_assert!(parse(&text).is_none());
            prop_assert!(parse(&good[..at]).is_none());
        }
    }
}
