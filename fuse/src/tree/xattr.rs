//! Extended attributes: those of the index, and those that the tree makes up.
//!
//! `user.fdfs.file_id`, `.url`, `.fingerprint` and `.refs` tell where the content of a regular file is. They describe
//! the stored content, not changes that are still being written; files without stored content do not have them.

use fdfs_index::{Content, IndexError, Ino, Timestamp, XattrMode};

use super::Core;
use super::data::CAPABILITY;
use super::error::{Result, TreeError};

/// What the names of the made-up attributes begin with.
const PREFIX: &[u8] = b"user.fdfs.";

/// Attributes of the system are not kept: access control lists would have to be enforced, not only stored.
fn storable(name: &[u8]) -> Result<()> {
    if name.starts_with(b"system.") {
        return Err(TreeError::Unsupported("attributes of the system, such as access control lists"));
    }
    if name.starts_with(PREFIX) {
        return Err(TreeError::Unsupported("user.fdfs attributes tell where the content is, they cannot be set"));
    }
    Ok(())
}

impl Core {
    /// The value of an extended attribute, handed to `take`.
    pub fn getxattr<T>(&self, ino: Ino, name: &[u8], take: impl FnOnce(&[u8]) -> T) -> Result<T> {
        if name == CAPABILITY && self.open.get(ino).is_some_and(|inode| inode.lock().without_capability) {
            return Err(IndexError::NoAttribute.into());
        }
        if name.starts_with(PREFIX) {
            let content = self.index.content(ino)?;
            let value = content.and_then(|content| self.made_up(name, &content)).ok_or(IndexError::NoAttribute)?;
            return Ok(take(value.as_bytes()));
        }
        storable(name)?;
        Ok(take(&self.index.getxattr(ino, name)?))
    }

    fn made_up(&self, name: &[u8], content: &Content) -> Option<String> {
        match name {
            b"user.fdfs.file_id" => Some(content.file_id.to_string()),
            b"user.fdfs.url" => self.options.url_prefix.as_ref().map(|prefix| format!("{prefix}{}", content.file_id)),
            b"user.fdfs.fingerprint" => content.fingerprint.map(|fingerprint| fingerprint.to_string()),
            b"user.fdfs.refs" => Some(content.refs.to_string()),
            _ => None,
        }
    }

    /// The names of the extended attributes, each followed by a NUL. Those made up here are not among them: they are for
    /// who asks by name, and must not be copied with the file.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        let mut add = |name: &[u8]| {
            list.extend_from_slice(name);
            list.push(0);
        };
        for name in self.index.listxattr(ino)? {
            add(&name);
        }
        Ok(list)
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.writable()?;
        storable(name)?;
        // Held across the change, so that no write takes the attribute for absent afterwards.
        let inode = if name == CAPABILITY { self.open.get(ino) } else { None };
        let state = inode.as_ref().map(|inode| inode.lock());
        self.index.setxattr(ino, name, value, mode, Timestamp::now())?;
        if let Some(mut state) = state {
            state.without_capability = false;
        }
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        storable(name)?;
        Ok(self.index.removexattr(ino, name, Timestamp::now())?)
    }
}
