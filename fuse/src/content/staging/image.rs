//! The bytes of one staged content at one moment, and how changes apply to them.
//!
//! Invariants:
//! - Bytes in `own` are in the data; bytes outside it come from the base below `visible`, and are zeros above.
//! - `own` lies within the size; so does `visible`.
//! - Bytes of a data file outside `own`, and those of a buffer, are zeros, or those of the base where it shows.
//! - An image that is shared (being sealed) is never changed below its size: a buffer is copied first, over a file a
//!   new layer is laid.

use std::ops::Range;
use std::sync::Arc;

use super::files::{Buffer, StageFile, StagingDir};
use crate::content::extents::Extents;
use crate::content::{ContentError, Object};

/// The largest content: what a file offset can express.
const MAX_SIZE: u64 = i64::MAX as u64;

#[derive(Clone)]
pub(crate) enum Data {
    Memory(Arc<Buffer>),
    File(Arc<StageFile>),
}

/// What shows where nothing was written.
#[derive(Clone)]
pub(crate) enum Base {
    None,
    /// Stored content.
    Object(Object),
    /// An image that is being sealed.
    Image(Arc<Image>),
}

/// See the module. Cheap to clone: a clone is the content as it was.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) data: Data,
    pub(crate) own: Arc<Extents>,
    pub(crate) base: Base,
    /// How much of the beginning of the base shows.
    pub(crate) visible: u64,
    pub(crate) size: u64,
}

/// A range that has to come from stored content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) object: Object,
    pub(crate) range: Range<u64>,
}

impl Image {
    pub(crate) fn new(dir: &StagingDir, base: Option<&Object>, size: u64) -> Image {
        Image {
            data: Data::Memory(Arc::new(dir.buffer())),
            own: Arc::default(),
            base: base.map_or(Base::None, |b| Base::Object(b.clone())),
            visible: base.map_or(0, |b| b.size.min(size)),
            size,
        }
    }

    /// An empty layer over this image: what is written to it does not change this one.
    pub(crate) fn layer(self, dir: &StagingDir) -> Result<Image, ContentError> {
        let size = self.size;
        Ok(Image {
            data: Data::File(dir.create()?),
            own: Arc::default(),
            visible: size,
            size,
            base: Base::Image(Arc::new(self)),
        })
    }

    pub(crate) fn file(&self) -> Option<&Arc<StageFile>> {
        match &self.data {
            Data::File(file) => Some(file),
            Data::Memory(_) => None,
        }
    }

    pub(crate) fn in_file(&self, file: &Arc<StageFile>) -> bool {
        self.file().is_some_and(|f| Arc::ptr_eq(f, file))
    }

    /// Ranges that come from the base.
    pub(crate) fn gaps(&self) -> Vec<Range<u64>> {
        self.own.gaps(0..self.visible)
    }

    pub(crate) fn write(&mut self, dir: &StagingDir, offset: u64, data: &[u8]) -> Result<(), ContentError> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_SIZE).ok_or_else(too_large)?;
        if data.is_empty() {
            return Ok(());
        }
        if let Data::Memory(buffer) = &mut self.data {
            if end <= dir.small && put(Arc::make_mut(buffer), offset as usize, data) {
                self.wrote(offset..end);
                return Ok(());
            }
            self.spill(dir)?;
        }
        if let Data::File(file) = &self.data
            && let Err((written, error)) = file.write(data, offset)
        {
            // What was written and lies within the content is part of it now; what lies beyond is none of it, and
            // goes, so that a later extension reads zeros.
            let end = (offset + written).min(self.size);
            if offset < end {
                Arc::make_mut(&mut self.own).insert(offset..end);
            }
            if offset + written > self.size {
                file.cut(self.size)?;
            }
            return Err(error);
        }
        self.wrote(offset..end);
        Ok(())
    }

    fn wrote(&mut self, range: Range<u64>) {
        self.size = self.size.max(range.end);
        Arc::make_mut(&mut self.own).insert(range);
    }

    pub(crate) fn truncate(&mut self, size: u64) -> Result<(), ContentError> {
        if size > MAX_SIZE {
            return Err(too_large());
        }
        if size < self.size {
            match &mut self.data {
                Data::Memory(buffer) if (size as usize) < buffer.bytes().len() => {
                    Arc::make_mut(buffer).cut(size as usize);
                }
                Data::Memory(_) => {}
                Data::File(file) => file.cut(size)?,
            }
            Arc::make_mut(&mut self.own).cut(size);
            self.visible = self.visible.min(size);
        }
        self.size = size;
        Ok(())
    }

    /// Makes a range within the size read as zeros.
    pub(crate) fn punch(&mut self, dir: &StagingDir, range: Range<u64>) -> Result<(), ContentError> {
        if let Data::Memory(buffer) = &mut self.data {
            // Zeros over the base have to be written; beyond it, nothing is zeros.
            let end = range.end.min(self.visible);
            let fits = end <= range.start || (end <= dir.small && Arc::make_mut(buffer).grow(end as usize));
            if fits {
                let have = buffer.bytes().len() as u64;
                if range.start < have {
                    Arc::make_mut(buffer).bytes_mut()[range.start as usize..range.end.min(have) as usize].fill(0);
                }
            } else {
                self.spill(dir)?;
            }
        }
        if let Data::File(file) = &self.data {
            file.zero(range.clone())?;
        }
        let own = Arc::make_mut(&mut self.own);
        own.insert(range.start..range.end.min(self.visible));
        own.remove(range.start.max(self.visible)..range.end);
        Ok(())
    }

    /// Moves the data from memory into a file.
    pub(crate) fn spill(&mut self, dir: &StagingDir) -> Result<(), ContentError> {
        if let Data::Memory(buffer) = &self.data {
            let file = dir.create()?;
            file.write(buffer.bytes(), 0).map_err(|(_, e)| e)?;
            self.data = Data::File(file);
        }
        Ok(())
    }

    /// The bytes of a range, if all are in memory side by side.
    pub(crate) fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        let Data::Memory(buffer) = &self.data else { return None };
        let below = range.start.min(self.visible)..range.end.min(self.visible);
        if range.end <= buffer.bytes().len() as u64 && self.own.gaps(below).is_empty() {
            // Zeros outside `own` are in the buffer, too.
            return Some(&buffer.bytes()[range.start as usize..range.end as usize]);
        }
        None
    }

    /// Copies a range within the size into `buf`, as far as it is local, and notes what is not. `buf` is all zeros.
    pub(crate) fn copy_local(
        &self,
        range: Range<u64>,
        buf: &mut [u8],
        missing: &mut Vec<Missing>,
    ) -> Result<(), ContentError> {
        for own in self.own.within(range.clone()) {
            let part = &mut buf[(own.start - range.start) as usize..(own.end - range.start) as usize];
            match &self.data {
                Data::Memory(buffer) => part.copy_from_slice(&buffer.bytes()[own.start as usize..own.end as usize]),
                Data::File(file) => file.read(part, own.start)?,
            }
        }
        let below = range.start.min(self.visible)..range.end.min(self.visible);
        for gap in self.own.gaps(below) {
            match &self.base {
                Base::None => {}
                Base::Object(object) => missing.push(Missing { object: object.clone(), range: gap }),
                Base::Image(image) => {
                    let part = &mut buf[(gap.start - range.start) as usize..(gap.end - range.start) as usize];
                    image.copy_local(gap, part, missing)?;
                }
            }
        }
        Ok(())
    }

    /// Whether both keep their bytes in the same place.
    pub(crate) fn same_data(&self, other: &Image) -> bool {
        match (&self.data, &other.data) {
            (Data::File(a), Data::File(b)) => Arc::ptr_eq(a, b),
            (Data::Memory(a), Data::Memory(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Copies what shows of the base from `whole`, which has all of it, into the data.
    pub(crate) fn fill(&mut self, whole: &Image) -> Result<(), ContentError> {
        for gap in self.gaps() {
            // Small: the image is in memory, or was until a moment ago.
            let mut bytes = vec![0; (gap.end - gap.start) as usize];
            whole.copy_local(gap.clone(), &mut bytes, &mut Vec::new())?;
            match &mut self.data {
                Data::File(file) => file.write(&bytes, gap.start).map_err(|(_, e)| e)?,
                Data::Memory(buffer) => {
                    let buffer = Arc::make_mut(buffer);
                    buffer.extend(gap.end as usize);
                    buffer.bytes_mut()[gap.start as usize..gap.end as usize].copy_from_slice(&bytes);
                }
            }
        }
        Ok(())
    }

    /// What showed of the base is in the data now.
    pub(crate) fn adopt_gaps(&mut self) {
        for gap in self.gaps() {
            Arc::make_mut(&mut self.own).insert(gap);
        }
        (self.base, self.visible) = (Base::None, 0);
    }

    /// Takes what `above`, a layer over this image, changed into this image itself, and leaves the content of `above`.
    pub(crate) fn absorb(&mut self, dir: &StagingDir, above: &Image) -> Result<(), ContentError> {
        self.truncate(above.visible)?;
        self.truncate(above.size)?;
        let mut buf = vec![0; 1 << 18];
        for own in above.own.iter() {
            let mut at = own.start;
            while at < own.end {
                let n = (own.end - at).min(buf.len() as u64);
                let part = &mut buf[..n as usize];
                match &above.data {
                    Data::Memory(b) => part.copy_from_slice(&b.bytes()[at as usize..(at + n) as usize]),
                    Data::File(file) => file.read(part, at)?,
                }
                self.write(dir, at, part)?;
                at += n;
            }
        }
        Ok(())
    }
}

/// Puts `data` into a buffer, if the budget has room for it.
fn put(buffer: &mut Buffer, offset: usize, data: &[u8]) -> bool {
    let have = buffer.bytes().len();
    if offset == have {
        return buffer.append(data);
    }
    let end = offset + data.len();
    if !buffer.grow(end) {
        return false;
    }
    buffer.bytes_mut()[offset..end].copy_from_slice(data);
    true
}

fn too_large() -> ContentError {
    ContentError::Refused { errno: libc::EFBIG, detail: "the file would be larger than 2^63-1 bytes".into() }
}
