//! What the binlog tells of the past: after a start.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use fdfs_protocol::RemoteName;
use fdfs_protocol::binlog::Record;

use super::binlog::Binlog;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// The last records, oldest first: those in about `bytes` bytes, of two files if the last is short. What is no record is
/// passed over.
///
/// # Errors
/// What the system reported, with the path in the text.
pub fn last_records(binlog: &Binlog, bytes: u64) -> io::Result<Vec<Record>> {
    let end = binlog.place();
    let mut text = read_end(&binlog.file_path(end.file), bytes)?;
    if let Some(before) = end.file.checked_sub(1).filter(|_| (text.len() as u64) < bytes) {
        let older = read_end(&binlog.file_path(before), bytes - text.len() as u64)?;
        text.splice(..0, older);
    }
    Ok(records(&text).collect())
}

/// What the binlog knows of some names.
#[derive(Debug, Default)]
pub struct Known {
    /// The last record of each that has one.
    pub last: HashMap<RemoteName, Record>,
    /// All of the binlog was looked at where there was need: what has no record here has none.
    pub complete: bool,
}

/// The last record of each of these names, however old. It takes seconds for each file of the binlog that is complete.
///
/// # Errors
/// What the system reported, with the path in the text; a file that is gone, or packed, is no error.
pub fn last_of(binlog: &Binlog, mut names: Vec<RemoteName>) -> io::Result<Known> {
    let mut known = Known { complete: true, ..Known::default() };
    for number in (0..=binlog.place().file).rev() {
        if names.is_empty() {
            break;
        }
        let path = binlog.file_path(number);
        let scanned = File::open(&path).and_then(|file| {
            scan(file, |record| {
                if names.contains(&record.name) {
                    known.last.insert(record.name, record);
                }
            })
        });
        match scanned {
            Err(e) if e.kind() == io::ErrorKind::NotFound => known.complete = false,
            other => other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?,
        }
        names.retain(|name| !known.last.contains_key(name));
    }
    Ok(known)
}

/// All records of a file, in their order.
fn scan(mut file: File, mut each: impl FnMut(Record)) -> io::Result<()> {
    let mut text = vec![0; CHUNK];
    let mut kept = 0;
    loop {
        let read = match file.read(&mut text[kept..]) {
            Ok(0) => return Ok(()),
            Ok(read) => kept + read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let whole = text[..read].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        records(&text[..whole]).for_each(&mut each);
        text.copy_within(whole..read, 0);
        kept = read - whole;
        if kept == text.len() {
            // No record is that long.
            kept = 0;
        }
    }
}

fn records(text: &[u8]) -> impl Iterator<Item = Record> {
    text.split(|&b| b == b'\n').filter_map(|line| Record::parse(line).ok())
}

/// The lines in the last `bytes` bytes of a file; of one that is gone, or packed, none.
fn read_end(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(bytes);
        let mut text = vec![0; (file.metadata()?.len() - from) as usize];
        file.read_exact_at(&mut text, from)?;
        // The first line of a part is none.
        let whole = if from == 0 { 0 } else { text.iter().position(|&b| b == b'\n').map_or(text.len(), |end| end + 1) };
        text.drain(..whole);
        Ok(text)
    };
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> RemoteName {
        format!("M00/00/00/file{n:06}").parse().unwrap()
    }

    fn line(n: u32) -> String {
        format!("{} C {}\n", 1000 + n, name(n % 500))
    }

    #[test]
    fn the_last_records_reach_into_the_file_before() {
        let tmp = tempfile::tempdir().unwrap();
        let log = Binlog::open_with(tmp.path(), 1000).unwrap();
        let all: String = (0..150).map(line).collect();
        (0..150).for_each(|n| log.append(line(n).as_bytes()).unwrap());
        assert!(log.place().file > 3);
        // They begin with a whole line.
        let records = last_records(&log, 1500).unwrap();
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        assert!(all.ends_with(&text) && (1000..=1500).contains(&text.len()), "{}", text.len());
    }

    #[test]
    fn the_last_record_of_a_name_is_found_in_any_file() {
        let tmp = tempfile::tempdir().unwrap();
        let log = Binlog::open_with(tmp.path(), 3 << 20).unwrap();
        log.append(format!("{}\n1 D {}\n{}", line(499), name(499), "nonsense".repeat(CHUNK / 4)).as_bytes()).unwrap();
        log.append(b"\n").unwrap();
        let many: String = (0..100_000).map(|n| line(n % 499)).collect();
        log.append(many.as_bytes()).unwrap();
        log.append(format!("7 D {}\n", name(3)).as_bytes()).unwrap();
        assert_eq!(log.place().file, 1);
        let known = last_of(&log, vec![name(3), name(4), name(499), name(500)]).unwrap();
        let last = |n: u32| known.last.get(&name(n)).map(Record::to_string);
        assert_eq!(last(3), Some(format!("7 D {}", name(3))));
        assert_eq!(last(4), Some(format!("1004 C {}", name(4))));
        assert_eq!(last(499), Some(format!("1 D {}", name(499))));
        assert!(last(500).is_none() && known.complete);
        std::fs::remove_file(log.file_path(0)).unwrap();
        assert!(!last_of(&log, vec![name(499)]).unwrap().complete);
        assert!(last_of(&log, vec![name(3)]).unwrap().complete, "no need to look further");
    }
}
