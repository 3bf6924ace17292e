//! What one thread does with its files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};

use crate::args::MountOp;
use crate::random::fill;
use crate::report::{Latencies, latencies, record};

/// Bytes at the start of every block that differ from those of all other blocks.
const STAMP: usize = 16;

/// The files of one thread.
pub struct Worker {
    /// Where they are.
    pub directory: PathBuf,
    /// Number of the first file among those of all threads.
    pub first: u64,
    /// How many there are.
    pub count: u64,
    /// Bytes in each.
    pub size: u64,
    /// Bytes per read or write call.
    pub block: usize,
    /// Whether a file is synced before it is closed.
    pub fsync: bool,
}

/// The block that is written, and the one that is read into.
pub struct Blocks {
    bytes: Vec<u8>,
}

impl Blocks {
    /// A block of `len` incompressible bytes.
    pub fn new(len: usize) -> Blocks {
        let mut bytes = vec![0; len];
        fill(&mut bytes);
        Blocks { bytes }
    }

    /// The first `len` bytes, made different from any other block of this run and of others.
    fn stamped(&mut self, len: usize, file: u64, block: u64) -> &[u8] {
        let mut stamp = [0; STAMP];
        stamp[..8].copy_from_slice(&file.to_le_bytes());
        stamp[8..].copy_from_slice(&(block ^ u64::from(std::process::id()) << 32).to_le_bytes());
        let stamped = len.min(STAMP);
        self.bytes[..stamped].copy_from_slice(&stamp[..stamped]);
        &self.bytes[..len]
    }
}

impl Worker {
    /// Performs `op` on every file.
    pub fn run(&self, op: MountOp, blocks: &mut Blocks) -> Result<Latencies> {
        match op {
            MountOp::Create => self.create(blocks, self.fsync),
            MountOp::Read => self.each(|path, _| read_whole(path, self.size, blocks)),
            MountOp::Stat => self.each(|path, _| {
                let len = fs::metadata(path)?.len();
                if len == self.size { Ok(()) } else { Err(io::Error::other(format!("it has {len} bytes"))) }
            }),
            MountOp::WriteLarge => self.write_large(blocks),
            MountOp::ReadLarge => self.read_large(blocks),
        }
    }

    /// Creates, writes and closes every file.
    pub fn create(&self, blocks: &mut Blocks, fsync: bool) -> Result<Latencies> {
        self.each(|path, n| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
            let mut left = self.size;
            let mut block = 0;
            while left > 0 {
                let len = left.min(self.block as u64);
                file.write_all(blocks.stamped(len as usize, n, block))?;
                left -= len;
                block += 1;
            }
            if fsync {
                file.sync_all()?;
            }
            close(file)
        })
    }

    /// Writes every file; one operation is one block, the last one of a file includes the fsync.
    fn write_large(&self, blocks: &mut Blocks) -> Result<Latencies> {
        let mut spent = latencies()?;
        self.paths().try_for_each(|(n, path)| {
            let mut write = || -> io::Result<()> {
                let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
                let whole = self.size.div_ceil(self.block as u64);
                for block in 0..whole {
                    let len = (self.size - block * self.block as u64).min(self.block as u64) as usize;
                    let bytes = blocks.stamped(len, n, block);
                    let start = Instant::now();
                    file.write_all(bytes)?;
                    if self.fsync && block + 1 == whole {
                        file.sync_all()?;
                    }
                    record(&mut spent, start.elapsed());
                }
                close(file)
            };
            write().with_context(|| path.display().to_string())
        })?;
        Ok(spent)
    }

    /// Reads every file; one operation is one block.
    fn read_large(&self, blocks: &mut Blocks) -> Result<Latencies> {
        let mut spent = latencies()?;
        self.paths().try_for_each(|(_, path)| {
            let mut read = || -> io::Result<()> {
                let mut file = File::open(&path)?;
                let mut left = self.size;
                while left > 0 {
                    let len = left.min(self.block as u64) as usize;
                    let start = Instant::now();
                    file.read_exact(&mut blocks.bytes[..len])?;
                    record(&mut spent, start.elapsed());
                    left -= len as u64;
                }
                Ok(())
            };
            read().with_context(|| path.display().to_string())
        })?;
        Ok(spent)
    }

    /// Calls `operation` with the path and number of every file, one operation each.
    fn each(&self, mut operation: impl FnMut(&PathBuf, u64) -> io::Result<()>) -> Result<Latencies> {
        let mut spent = latencies()?;
        for (n, path) in self.paths() {
            let start = Instant::now();
            operation(&path, n).with_context(|| path.display().to_string())?;
            record(&mut spent, start.elapsed());
        }
        Ok(spent)
    }

    /// Number and path of every file.
    fn paths(&self) -> impl Iterator<Item = (u64, PathBuf)> {
        (self.first..self.first + self.count).map(|n| (n, self.directory.join(format!("f{n}"))))
    }

    /// Checks that an earlier run left these files.
    pub fn check_left(&self) -> Result<()> {
        let directory = self.directory.display();
        let left = fs::read_dir(&self.directory)
            .with_context(|| format!("{directory}: nothing to reuse; run with --keep first"))?
            .count() as u64;
        ensure!(left == self.count, "{directory} holds {left} files where {} are needed to reuse it", self.count);
        for (_, path) in self.paths() {
            let len = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
            ensure!(len == self.size, "{} has {len} bytes instead of {}", path.display(), self.size);
        }
        Ok(())
    }

    /// Asks the kernel to forget the content of the files.
    pub fn forget(&self) -> Result<()> {
        self.paths().try_for_each(|(_, path)| {
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            fadvise(&file, 0, None, Advice::DontNeed).with_context(|| path.display().to_string())
        })
    }
}

/// Opens, reads and closes a file that must have `size` bytes.
fn read_whole(path: &PathBuf, size: u64, blocks: &mut Blocks) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut left = size;
    while left > 0 {
        match file.read(&mut blocks.bytes)? {
            0 => return Err(io::Error::other(format!("it ends {left} bytes early"))),
            n => left = left.saturating_sub(n as u64),
        }
    }
    close(file)
}

/// Closes a file and reports what a mere drop would swallow: many file systems store the content at close.
fn close(file: File) -> io::Result<()> {
    // SAFETY: `into_raw_fd` gave up the descriptor, which is valid and belongs to nobody else; it is not used again.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
