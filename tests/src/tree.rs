//! Making, describing and comparing directory trees.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Everything about one name that must survive a copy or a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size; 0 for directories, whose size means nothing.
    pub size: u64,
    /// Modification time in ns.
    pub mtime: i128,
    /// Link count.
    pub nlink: u64,
    /// Target of a symbolic link.
    pub target: Option<PathBuf>,
    /// Hash of a file's content.
    pub content: Option<u64>,
}

/// Describes a tree, by path relative to `root`.
///
/// # Errors
/// When anything cannot be read.
pub fn describe(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
        let entry = Entry {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            size: if meta.is_dir() { 0 } else { meta.size() },
            mtime: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            nlink: meta.nlink(),
            target: meta.is_symlink().then(|| fs::read_link(&path)).transpose()?,
            content: meta.is_file().then(|| fs::read(&path).map(|b| hash(&b))).transpose()?,
        };
        found.insert(path.strip_prefix(root)?.to_owned(), entry);
    }
    Ok(found)
}

/// Compares two descriptions.
///
/// # Errors
/// The first differences, in words.
pub fn compare(expected: &BTreeMap<PathBuf, Entry>, found: &BTreeMap<PathBuf, Entry>) -> Result<()> {
    let mut differences = Vec::new();
    for (path, e) in expected {
        match found.get(path) {
            None => differences.push(format!("{} is missing", path.display())),
            Some(f) if f != e => differences.push(format!("{}: {e:?} became {f:?}", path.display())),
            Some(_) => {}
        }
    }
    differences.extend(found.keys().filter(|p| !expected.contains_key(*p)).map(|p| format!("{} is new", p.display())));
    if !differences.is_empty() {
        bail!("{} differences:\n{}", differences.len(), differences[..differences.len().min(10)].join("\n"));
    }
    Ok(())
}

/// Makes a tree as a source repository has it: nested directories, many small files, some larger, empty ones, equal
/// ones, symbolic links (good, dangling, long), hard links, odd modes and odd names. The same `seed` makes the same.
///
/// # Errors
/// When something cannot be made.
pub fn make(root: &Path, files: usize, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let mut dirs = vec![root.to_owned()];
    fs::create_dir_all(root)?;
    for i in 0..files {
        if i % 20 == 0 {
            let parent = dirs[random.below(dirs.len() as u64) as usize].clone();
            let dir = parent.join(format!("dir-{i}"));
            fs::create_dir(&dir)?;
            dirs.push(dir);
        }
        let dir = &dirs[random.below(dirs.len() as u64) as usize];
        let path = dir.join(match i % 50 {
            7 => format!("name with blanks and ü and \u{1F600} {i}"),
            8 => format!(".hidden{i}"),
            9 => format!("{i}-{}", "n".repeat(200)),
            _ => format!("file{i}.c"),
        });
        match i % 25 {
            3 => symlink(format!("../file{}.c", random.below(files as u64)), &path)?,
            4 => symlink("x".repeat(1 + random.below(1000) as usize), &path)?,
            5 => drop(fs::File::create(&path)?),
            6 => fs::write(&path, b"the same content in many files")?,
            _ => fs::write(&path, random.bytes(size(&mut random_size(i, seed))))?,
        }
        if i % 25 == 10 {
            fs::hard_link(&path, dir.join(format!("hard{i}")))?;
        }
        if i % 10 == 1 && !path.is_symlink() {
            let modes = [0o644, 0o755, 0o600, 0o444, 0o4755, 0o2755, 0o000, 0o1777];
            fs::set_permissions(&path, fs::Permissions::from_mode(modes[i / 10 % modes.len()]))?;
        }
    }
    Ok(())
}

fn random_size(i: usize, seed: u64) -> Random {
    Random(seed ^ (i as u64).wrapping_mul(0x9E37_79B9))
}

/// Sizes as in source trees: mostly some KiB, now and then much more.
fn size(random: &mut Random) -> usize {
    (match random.below(100) {
        0..70 => random.below(8 << 10),
        70..97 => random.below(64 << 10),
        _ => random.below(3 << 20),
    }) as usize
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    bytes.hash(&mut h);
    h.finish()
}

/// Numbers that look random and repeat with their seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next_u64() % limit }
    }

    /// That many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// Bytes that the files below a directory occupy on disk.
///
/// # Errors
/// When the directory cannot be read.
pub fn disk_usage(root: &Path) -> Result<u64> {
    let mut total = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            // Files come and go under a running storage.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            } else {
                total += meta.blocks() * 512;
            }
        }
    }
    Ok(total)
}
