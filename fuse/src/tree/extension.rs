//! Which extension the file ID of a file's content gets: web servers choose the content type by it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fdfs_protocol::FileId;

use crate::content::ExtName;

/// Length of the random ending that rsync gives to the file it writes before it renames it: `.photo.jpg.Ab12Cd`.
const RSYNC_SUFFIX: usize = 6;

/// The extension of a name; none if it has none, or one that FastDFS cannot carry (longer than six characters, say).
pub(crate) fn of_name(name: &[u8]) -> ExtName {
    let path = Path::new(OsStr::from_bytes(name));
    let temporary = name.starts_with(b".") && path.extension().is_some_and(|e| e.len() == RSYNC_SUFFIX);
    let final_name = path.file_stem().map(Path::new).filter(|stem| temporary && stem.extension().is_some());
    let extension = final_name.unwrap_or(path).extension().map_or(&b""[..], OsStr::as_bytes);
    ExtName::from_ascii(extension).unwrap_or(ExtName::NONE)
}

/// The extension of a file ID: what is rewritten keeps it.
pub(crate) fn of_file_id(file_id: &str) -> ExtName {
    let id = file_id.parse::<FileId>().ok();
    id.and_then(|id| ExtName::new(id.name.extension()?).ok()).unwrap_or(ExtName::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_of_names() {
        for (name, extension) in [
            ("cat.jpg", "jpg"),
            ("archive.tar.gz", "gz"),
            ("Makefile", ""),
            (".bashrc", ""),
            ("x.toolong", ""),
            ("x.", ""),
            ("name.b\u{fc}", ""),
            (".cat.jpg.Ab12Cd", "jpg"),
            (".cat.Ab12Cd", "Ab12Cd"),
            ("cat.jpg.backup", "backup"),
        ] {
            assert_eq!(of_name(name.as_bytes()).as_str(), extension, "{name}");
        }
        assert_eq!(of_name(b"x.\xff\xfe").as_str(), "");
    }

    #[test]
    fn extensions_of_file_ids() {
        assert_eq!(of_file_id("group1/M00/00/00/Ck0AAWsA64KAdKM-AAAADg4Qul0780.txt").as_str(), "txt");
        assert_eq!(of_file_id("group1/M00/00/00/Ck0AAWsA64KAEk80AAAADg4Qul09272029").as_str(), "");
        assert_eq!(of_file_id("nonsense").as_str(), "");
    }
}
