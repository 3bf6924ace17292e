//! The mount table of this process, `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the kernel shows it.
pub const PATH: &str = "/proc/self/mountinfo";

/// The device number of a mounted file system: it tells one mount of a place from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceId {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub device: DeviceId,
    /// Where.
    pub mountpoint: PathBuf,
    /// The file system type, `fuse.fdfs` for ours.
    pub kind: String,
}

impl FromStr for Mount {
    type Err = ();

    /// Parses a line, see proc(5): `36 35 98:0 /root /mountpoint options… - type source options`.
    fn from_str(line: &str) -> Result<Mount, ()> {
        let mut fields = line.split(' ');
        let device = fields.nth(2).ok_or(())?;
        let (major, minor) = device.split_once(':').ok_or(())?;
        let device = DeviceId { major: major.parse().map_err(drop)?, minor: minor.parse().map_err(drop)? };
        let mountpoint = unescape(fields.nth(1).ok_or(())?);
        let kind = fields.skip_while(|field| *field != "-").nth(1).ok_or(())?.to_owned();
        Ok(Mount { device, mountpoint, kind })
    }
}

/// Blanks, tabs, newlines and backslashes are written as `\040` and so on.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if bytes[at] == b'\\' => {
                let code = digits.iter().fold(0u32, |code, digit| code * 8 + u32::from(digit - b'0'));
                plain.push(code as u8);
                at += 4;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(plain).into()
}

/// All mounts, in the order they were made: of several on one place, the last is on top.
pub fn read() -> io::Result<Vec<Mount>> {
    let table = std::fs::read(PATH)?;
    // A mount point need not be UTF-8; ours is looked up by bytes that survive, others do not matter.
    let table = String::from_utf8_lossy(&table);
    Ok(table.lines().filter_map(|line| line.parse().ok()).collect())
}

/// What is on top at `mountpoint`, an absolute path without symbolic links.
pub fn top(mountpoint: &Path) -> io::Result<Option<Mount>> {
    Ok(read()?.into_iter().rfind(|mount| mount.mountpoint == mountpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_lines_with_and_without_optional_fields() {
        let mount: Mount =
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue".parse().unwrap();
        assert_eq!(mount.device, DeviceId { major: 98, minor: 0 });
        assert_eq!(mount.mountpoint, Path::new("/mnt2"));
        assert_eq!(mount.kind, "ext3");
        let mount: Mount = r"41 22 0:38 / /mnt/a\040b\134c rw - fuse.fdfs fdfs rw,user_id=0".parse().unwrap();
        assert_eq!(mount.mountpoint, Path::new(r"/mnt/a b\c"));
        assert_eq!(mount.kind, "fuse.fdfs");
        assert!("".parse::<Mount>().is_err());
        assert!("1 2 x:y / /m rw - t s o".parse::<Mount>().is_err());
        assert!("1 2 0:1 / /m rw".parse::<Mount>().is_err());
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(read().unwrap().iter().any(|mount| mount.mountpoint == Path::new("/")));
        assert_eq!(top(Path::new("/no/such/place")).unwrap(), None);
    }
}
