//! The extension that a file gets from its local name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fdfs_protocol::ExtName;

/// The extension for the local file `path`, as FastDFS tools choose it: what follows the last dot, or the last two
/// parts if together they fit (`tar.gz`). None if it is too long or has characters that extensions cannot have.
pub fn of_path(path: &Path) -> ExtName {
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let Some(last) = name.iter().rposition(|&b| b == b'.') else { return ExtName::NONE };
    let single = &name[last + 1..];
    if single.len() > ExtName::LEN {
        return ExtName::NONE;
    }
    let double = name[..last]
        .iter()
        .rposition(|&b| b == b'.')
        // A dot at the very start makes a hidden file, not an extension.
        .filter(|&dot| dot > 0 && name.len() - dot - 1 <= ExtName::LEN)
        .map(|dot| &name[dot + 1..]);
    ExtName::from_ascii(double.unwrap_or(single)).or_else(|_| ExtName::from_ascii(single)).unwrap_or(ExtName::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions() {
        for (path, ext) in [
            ("a.txt", "txt"),
            ("/tmp/dir.d/plain", ""),
            ("/tmp/a.b/photo.jpeg", "jpeg"),
            ("x.tar.gz", "tar.gz"),
            ("x.tar.bz2", "bz2"),
            ("1.2.3", "2.3"),
            ("name.toolongext", ""),
            ("name.sixsix", "sixsix"),
            (".hidden", "hidden"),
            (".a.gz", "gz"),
            ("end.", ""),
            ("odd.t~t", ""),
            ("odd.~.txt", "txt"),
            ("a.b/", "b"),
            ("..", ""),
        ] {
            assert_eq!(of_path(Path::new(path)).as_str(), ext, "{path}");
        }
    }
}
