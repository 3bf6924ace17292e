//! Staged data that survives a restart: a data file, and a record that says what in it counts.
//!
//! The record names the data file, so replacing it (with `rename`) replaces both at once. It is text, one item a line,
//! and ends with a CRC32 of the lines before:
//!
//! ```text
//! fdfs-stage 1
//! data NAME
//! size BYTES
//! base FILE_ID SIZE FINGERPRINT|- VISIBLE
//! own START END
//! end CRC32
//! ```

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Discard;
use super::files::{APPENDER, DATA, KEPT, StageFile, StagingDir};
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
        let put = std::fs::write(&tmp, describe(image, file.path())).and_then(|()| {
            file.stay(true);
            std::fs::rename(&tmp, &path)
        });
        if let Err(error) = put {
            let _ = std::fs::remove_file(&tmp);
            file.stay(previous.is_some_and(|r| Arc::ptr_eq(&r.file, file)));
            return Err(ContentError::local(&path, error));
        }
        if let Some(old) = previous.filter(|r| !Arc::ptr_eq(&r.file, file)) {
            old.file.stay(false);
        }
        Ok(Record { path, file: file.clone() })
    }

    /// The record's own path: what the index remembers.
    pub(crate) fn path(&self) -> &Path {
        &self.path
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

fn describe(image: &Image, data: &Path) -> String {
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!("fdfs-stage 1\ndata {name}\nsize {}\n", image.size);
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
    let mut found = Described { data: String::new(), size: 0, base: Base::None, visible: 0, own: Extents::default() };
    for line in body.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["data", name] if !name.contains('/') && name.ends_with(DATA) => found.data = name.to_owned(),
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
pub(crate) fn load(path: &Path) -> Result<(Image, Record), ContentError> {
    let not_there = |path: &Path, e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => ContentError::NotFound(path.to_string_lossy().into()),
        _ => ContentError::local(path, e),
    };
    let text = std::fs::read_to_string(path).map_err(|e| not_there(path, e))?;
    let found = parse(&text).ok_or_else(|| ContentError::Corrupt(path.to_string_lossy().into()))?;
    let data = path.with_file_name(&found.data);
    let file = OpenOptions::new().read(true).write(true).open(&data).map_err(|e| not_there(&data, e))?;
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

/// Removes what an earlier process left in the staging directory, except what `keep` names.
pub(crate) fn sweep(dir: &Path, keep: &[Kept], discard: &Discard) -> Result<(), ContentError> {
    let mut stays: Vec<PathBuf> = Vec::new();
    for kept in keep {
        stays.push(kept.path.clone());
        // A record that cannot be read keeps its data by staying itself: `recover` reports it.
        if let Some(found) = std::fs::read_to_string(&kept.path).ok().as_deref().and_then(parse) {
            stays.push(kept.path.with_file_name(found.data));
        }
    }
    let error = |e| ContentError::local(dir, e);
    for entry in std::fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let ending = path.extension().unwrap_or_default();
        if ending == APPENDER {
            discard_noted(&path, discard);
        }
        let ours = ending == APPENDER || ending == DATA || ending == KEPT || ending == "tmp";
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

    proptest! {
        #[test]
        fn damaged_records_are_refused(at in 0..200usize, byte: u8, text in ".*") {
            let tmp = tempfile::tempdir().unwrap();
            let dir = StagingDir::open(tmp.path(), 1 << 20, 1 << 20).unwrap();
            let mut image = Image::new(&dir, None, 0);
            image.write(&dir, 3, b"abc").unwrap();
            let good = describe(&image, Path::new("1-0.data"));
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
