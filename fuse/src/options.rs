//! What can be said after `-o`: the words of mount(8) and fstab, and our own settings in that form.

use std::path::PathBuf;
use std::str::FromStr;

use crate::mount::Flags;
use crate::tree::Atime;

/// Settings given with `-o`. Later words win over earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Each is the option of that name; `--help` explains them.
pub struct MountOptions {
    pub flags: Flags,
    pub atime: Atime,
    pub foreground: bool,
    pub data_dir: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub trackers: Vec<String>,
    pub group: Option<String>,
    pub cache_dir: Option<PathBuf>,
    pub cache_size: Option<Size>,
    pub index: Option<PathBuf>,
    pub log_file: Option<PathBuf>,
    pub log_level: Option<String>,
    pub url_prefix: Option<String>,
    pub max_file_size: Option<Size>,
    pub fsname: Option<String>,
}

/// Why a word after `-o` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Nobody knows it.
    #[error("unknown mount option `{0}`; `fdfs-mount --help` lists those that are known")]
    Unknown(String),
    /// It needs a value.
    #[error("mount option `{0}` needs a value: {0}=…")]
    NoValue(String),
    /// It takes no value.
    #[error("mount option `{0}` takes no value")]
    NeedlessValue(String),
    /// The value is not what it should be.
    #[error("mount option `{name}={value}`: {reason}")]
    Bad {
        /// The option.
        name: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl MountOptions {
    /// Takes in one comma-separated list. A backslash before a comma makes it part of the value, as in fstab.
    pub fn add(&mut self, list: &str) -> Result<(), OptionError> {
        for word in split(list) {
            match word.split_once('=') {
                Some((name, value)) => self.set(name, Some(value))?,
                None => self.set(&word, None)?,
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionError> {
        if name.starts_with("x-") || name == "comment" {
            // For mount(8), systemd and people.
            return Ok(());
        }
        let Some(known) = self.switch(name) else { return self.assign(name, value) };
        match value {
            // fstab's own `group` (members of a group may mount) has none; ours has one.
            Some(_) if name == "group" => self.assign(name, value),
            Some(_) => Err(OptionError::NeedlessValue(name.to_owned())),
            None => {
                known(self);
                Ok(())
            }
        }
    }

    /// Words without a value.
    fn switch(&self, name: &str) -> Option<fn(&mut MountOptions)> {
        Some(match name {
            "ro" => |o| o.flags.read_only = true,
            "rw" => |o| o.flags.read_only = false,
            "allow_other" => |o| o.flags.allow_other = true,
            "dev" => |o| o.flags.dev = true,
            "nodev" => |o| o.flags.dev = false,
            "suid" => |o| o.flags.suid = true,
            "nosuid" => |o| o.flags.suid = false,
            "exec" => |o| o.flags.no_exec = false,
            "noexec" => |o| o.flags.no_exec = true,
            "sync" => |o| o.flags.sync = true,
            "async" => |o| o.flags.sync = false,
            "dirsync" => |o| o.flags.dir_sync = true,
            "noatime" => |o| o.atime = Atime::Never,
            "atime" | "relatime" => |o| o.atime = Atime::Relative,
            "strictatime" => |o| o.atime = Atime::Strict,
            "foreground" => |o| o.foreground = true,
            // On at all times, or of no meaning to a running mount: said in fstab, for mount(8) or the boot.
            "default_permissions"
            | "defaults"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "_netdev"
            | "nofail"
            | "nodiratime"
            | "diratime"
            | "lazytime"
            | "nolazytime"
            | "silent"
            | "loud"
            | "iversion"
            | "noiversion"
            | "mand"
            | "nomand" => |_| (),
            _ => return None,
        })
    }

    /// Words with a value.
    fn assign(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionError> {
        const ASSIGNED: [&str; 13] = [
            "data_dir",
            "config",
            "tracker",
            "group",
            "cache_dir",
            "cache_size",
            "index",
            "log_file",
            "log_level",
            "url_prefix",
            "max_file_size",
            "fsname",
            "subtype",
        ];
        if !ASSIGNED.contains(&name) {
            return Err(OptionError::Unknown(name.to_owned()));
        }
        let value = value.filter(|value| !value.is_empty()).ok_or_else(|| OptionError::NoValue(name.to_owned()))?;
        let size = || {
            value.parse::<Size>().map_err(|reason| OptionError::Bad {
                name: name.to_owned(),
                value: value.to_owned(),
                reason: reason.to_string(),
            })
        };
        match name {
            "data_dir" => self.data_dir = Some(value.into()),
            "config" => self.config = Some(value.into()),
            "tracker" => self.trackers.push(value.to_owned()),
            "group" => self.group = Some(value.to_owned()),
            "cache_dir" => self.cache_dir = Some(value.into()),
            "cache_size" => self.cache_size = Some(size()?),
            "index" => self.index = Some(value.into()),
            "log_file" => self.log_file = Some(value.into()),
            "log_level" => self.log_level = Some(value.to_owned()),
            "url_prefix" => self.url_prefix = Some(value.to_owned()),
            "max_file_size" => self.max_file_size = Some(size()?),
            "fsname" => self.fsname = Some(value.to_owned()),
            // What mount(8) says of `fuse.fdfs`; it is that anyway.
            _ => {}
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes; empty words are skipped.
fn split(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => words.push(String::new()),
            _ => {
                let plain = if character == '\\' { characters.next().unwrap_or('\\') } else { character };
                if let Some(word) = words.last_mut() {
                    word.push(plain);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A number of bytes, written as `512M`, `10G`, `1TiB` or plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a size is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a size; write bytes, or a number with K, M, G or T (powers of 1024): 512M, 10G")]
pub struct SizeError;

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(SizeError),
        };
        let number: u64 = number.parse().map_err(|_| SizeError)?;
        number.checked_mul(1 << shift).map(Size).ok_or(SizeError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(list: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        options.add(list).map(|()| options)
    }

    #[test]
    fn what_fstab_passes_is_understood() {
        let options =
            parse("rw,noatime,nodev,nosuid,_netdev,x-systemd.automount,data_dir=/srv/fdfs,allow_other").unwrap();
        assert_eq!(options.data_dir, Some("/srv/fdfs".into()));
        assert_eq!(options.atime, Atime::Never);
        assert!(options.flags.allow_other && !options.flags.read_only);
        assert_eq!(parse("").unwrap(), MountOptions::default());
        assert_eq!(parse("defaults,,group").unwrap(), MountOptions::default());
    }

    #[test]
    fn later_words_win() {
        assert!(!parse("ro,rw").unwrap().flags.read_only);
        assert!(parse("rw,ro").unwrap().flags.read_only);
    }

    #[test]
    fn trackers_add_up_and_values_may_hold_commas() {
        let options = parse(r"tracker=a:1,tracker=b:2,group=group1,log_level=info\,index=debug").unwrap();
        assert_eq!(options.trackers, ["a:1", "b:2"]);
        assert_eq!(options.group.as_deref(), Some("group1"));
        assert_eq!(options.log_level.as_deref(), Some("info,index=debug"));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("ro,alow_other"), Err(OptionError::Unknown("alow_other".into())));
        assert_eq!(parse("data_dir"), Err(OptionError::NoValue("data_dir".into())));
        assert_eq!(parse("ro=1"), Err(OptionError::NeedlessValue("ro".into())));
        let error = parse("cache_size=lots").unwrap_err().to_string();
        assert!(error.contains("cache_size=lots") && error.contains("10G"), "{error}");
        assert!(parse("nonsense=1").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!("0".parse(), Ok(Size(0)));
        assert_eq!("512M".parse(), Ok(Size(512 << 20)));
        assert_eq!("10GiB".parse(), Ok(Size(10 << 30)));
        assert_eq!("2tb".parse(), Ok(Size(2 << 40)));
        for wrong in ["", "M", "-1", "1.5G", "1X", "99999999999T"] {
            assert_eq!(wrong.parse::<Size>(), Err(SizeError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_list_is_parsed_or_refused(list in "[a-z_=,\\\\0-9:/.]{0,60}") {
            let _ = parse(&list);
        }
    }
}
