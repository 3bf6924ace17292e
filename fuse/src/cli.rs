//! The command line of `fdfs-mount`, and the settings it leads to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::mount::Flags;
use crate::options::{MountOptions, Size};
use crate::tree::{Atime, MAX_FILE_SIZE};

const EXAMPLES: &str = "\
Examples:
  fdfs-mount /mnt/fdfs
      Everything on this machine: starts a tracker and a storage of its own inside the process, with their data under
      the data directory, and mounts them. Ends with `umount /mnt/fdfs`.

  fdfs-mount --tracker 10.0.0.1:22122 --tracker 10.0.0.2:22122 /mnt/fdfs
  fdfs-mount -c /etc/fdfs/client.conf --group group1 /mnt/fdfs
      A FastDFS cluster. The names and attributes of the mounted tree are in the index on this machine.

  fdfs-mount --foreground --log-level debug --data-dir /tmp/fdfs /mnt/fdfs
      Stays, and logs to the terminal; Ctrl-C unmounts.

  In /etc/fstab (with a link /sbin/mount.fdfs to this program):
      fdfs           /mnt/fdfs  fdfs  data_dir=/srv/fdfs,allow_other  0 0
      10.0.0.1:22122 /mnt/fdfs  fdfs  group=group1,_netdev            0 0

Mount options (-o), besides those named like the long options above with _ for - (data_dir=DIR, tracker=HOST:PORT, …):
  ro, rw, allow_other, dev, nodev, suid, nosuid, exec, noexec, sync, dirsync, noatime, relatime, strictatime,
  fsname=NAME, and those of fstab for mount(8) (auto, user, _netdev, nofail, x-…). Permissions are always checked by the
  kernel (default_permissions). Without dev and suid, device files and set-user-ID programs in the tree do not work.

What `getfattr -n user.fdfs.file_id FILE` (also .url, .fingerprint, .refs) shows is where FILE is in the cluster: any
FastDFS client can fetch it by that file ID.";

/// Mounts a FastDFS cluster, or one of its own that it starts, as an ordinary directory.
#[derive(Debug, Parser)]
#[command(
    name = "fdfs-mount",
    version,
    about = "Mounts a FastDFS cluster, or one of its own that it starts, as an ordinary directory.",
    override_usage = "fdfs-mount [OPTIONS] [SOURCE] MOUNTPOINT",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// The directory to mount on; before it, as fstab has it, what to mount: HOST:PORT of a tracker, or any word (a
    /// label for the mount table)
    #[arg(value_name = "MOUNTPOINT", required = true, num_args = 1..=2)]
    places: Vec<PathBuf>,

    /// Where the index, the cache and the embedded cluster are [default: /var/lib/fdfs for root,
    /// else $XDG_DATA_HOME/fdfs or ~/.local/share/fdfs]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Use the cluster that this FastDFS client.conf names
    #[arg(short, long, value_name = "FILE", conflicts_with = "tracker")]
    config: Option<PathBuf>,
    /// Use the cluster of this tracker; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    tracker: Vec<String>,
    /// Store new contents in this group only, also when it is full or away; those stored elsewhere are read from there.
    /// Without it the tracker chooses the group of each [default: group_name in client.conf, if it is there]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// Stay in the foreground, log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas; see below
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Let all users in, as far as permissions allow
    #[arg(long)]
    allow_other: bool,
    /// Refuse all changes
    #[arg(long, visible_alias = "ro")]
    read_only: bool,

    /// Where written data is staged and read data cached [default: cache, beside the index]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Most bytes in the cache, such as 10G; 0 for none [default: a tenth of the free space, at most 10G; none for the
    /// embedded cluster, whose files are here anyway]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,
    /// The index: names and attributes of the mounted tree [default: index.db in the data directory; for a cluster, in
    /// a subdirectory named after its first tracker]
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// What file IDs are appended to in user.fdfs.url [default: http://HOST/ with the host of the first tracker]
    #[arg(long, value_name = "URL")]
    url_prefix: Option<String>,
    /// Largest size of a file [default: 8T]
    #[arg(long, value_name = "SIZE")]
    max_file_size: Option<Size>,

    /// Where to log [default: standard error in the foreground, else fdfs-mount.log beside the index]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// error, warn, info, debug or trace; also per module: info,fdfs_fuse=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    // What mount(8) passes to its helpers; only said to be accepted.
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    kind: Option<String>,
}

/// Which cluster to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cluster {
    /// One of our own, in this process.
    Embedded,
    /// The one that a client.conf names.
    Config(PathBuf),
    /// The one of these trackers, `HOST:PORT`.
    Trackers(Vec<String>),
}

/// Everything that was decided on the command line. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory to mount on, as given.
    pub mountpoint: PathBuf,
    /// What the mount table shows as the source.
    pub source: String,
    /// The options of the kernel's mount.
    pub flags: Flags,
    /// When reading marks the access time.
    pub atime: Atime,
    /// Where everything local is, unless said otherwise.
    pub data_dir: PathBuf,
    /// The cluster.
    pub cluster: Cluster,
    /// The group for new files, if it is fixed.
    pub group: Option<String>,
    /// The index, if said otherwise.
    pub index: Option<PathBuf>,
    /// Staging and cache, if said otherwise.
    pub cache_dir: Option<PathBuf>,
    /// Most bytes in the cache, if limited.
    pub cache_size: Option<u64>,
    /// Largest size of a file.
    pub max_file_size: u64,
    /// What file IDs are appended to in URLs, if said otherwise.
    pub url_prefix: Option<String>,
    /// Whether to stay in the foreground.
    pub foreground: bool,
    /// Where to log, if said otherwise.
    pub log_file: Option<PathBuf>,
    /// What to log.
    pub log_level: String,
}

impl Cli {
    /// Reads the arguments of this process; ends it for `--help`, `--version` and mistakes.
    pub fn read() -> Cli {
        Cli::parse()
    }

    /// Joins the options and the words after `-o` to settings; the former win.
    pub fn settings(self, environment: &Environment) -> Result<Settings> {
        let mut words = MountOptions::default();
        for list in &self.options {
            words.add(list)?;
        }
        let mut places = self.places;
        let mountpoint = places.pop().context("MOUNTPOINT is missing")?;
        let source = places.pop().map(|source| lossy(&source));
        let mut trackers = if self.tracker.is_empty() { words.trackers } else { self.tracker };
        let config = self.config.or(words.config);
        if trackers.is_empty()
            && config.is_none()
            && let Some(source) = source.as_ref().filter(|source| looks_like_tracker(source))
        {
            trackers.push(source.clone());
        }
        let absolute = |path: PathBuf| environment.directory.join(path);
        let cluster = match (config, trackers.is_empty()) {
            (Some(_), false) => bail!("both a config file and trackers are given; say which cluster with one of them"),
            (Some(config), true) => Cluster::Config(absolute(config)),
            (None, false) => {
                if let Some(wrong) = trackers.iter().find(|tracker| !looks_like_tracker(tracker)) {
                    bail!("tracker `{wrong}` is not of the form HOST:PORT (the port is 22122 by default)");
                }
                Cluster::Trackers(trackers)
            }
            (None, true) => Cluster::Embedded,
        };
        let mut flags = words.flags;
        flags.read_only |= self.read_only;
        flags.allow_other |= self.allow_other;
        let data_dir = match self.data_dir.or(words.data_dir) {
            Some(dir) => absolute(dir),
            None => environment.data_dir()?,
        };
        let group = self.group.or(words.group);
        if group.is_some() && cluster == Cluster::Embedded {
            bail!("--group is for a cluster; the embedded one has a single group");
        }
        Ok(Settings {
            mountpoint: absolute(mountpoint),
            source: words.fsname.or(source).unwrap_or_else(|| "fdfs".to_owned()),
            flags,
            atime: words.atime,
            data_dir,
            cluster,
            group,
            index: self.index.or(words.index).map(absolute),
            cache_dir: self.cache_dir.or(words.cache_dir).map(absolute),
            cache_size: self.cache_size.or(words.cache_size).map(|size| size.0),
            max_file_size: self.max_file_size.or(words.max_file_size).map_or(MAX_FILE_SIZE, |size| size.0),
            url_prefix: self.url_prefix.or(words.url_prefix),
            foreground: self.foreground || words.foreground,
            log_file: self.log_file.or(words.log_file).map(absolute),
            log_level: self.log_level.or(words.log_level).unwrap_or_else(|| "info".to_owned()),
        })
    }
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `HOST:PORT`, with a port that is a number.
fn looks_like_tracker(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// What the settings take from the surroundings.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The working directory.
    pub directory: PathBuf,
    /// Whether this is root.
    pub root: bool,
    /// `$XDG_DATA_HOME`
    pub data_home: Option<OsString>,
    /// `$HOME`
    pub home: Option<OsString>,
}

impl Environment {
    /// That of this process.
    pub fn read() -> Result<Environment> {
        Ok(Environment {
            directory: std::env::current_dir().context("the working directory does not exist")?,
            // SAFETY: cannot fail and touches no memory.
            root: unsafe { libc::geteuid() } == 0,
            data_home: std::env::var_os("XDG_DATA_HOME"),
            home: std::env::var_os("HOME"),
        })
    }

    fn data_dir(&self) -> Result<PathBuf> {
        if self.root {
            return Ok("/var/lib/fdfs".into());
        }
        let set = |value: &Option<OsString>| value.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        match (set(&self.data_home), set(&self.home)) {
            (Some(data_home), _) => Ok(data_home.join("fdfs")),
            (None, Some(home)) => Ok(home.join(".local/share/fdfs")),
            (None, None) => bail!("neither XDG_DATA_HOME nor HOME is set; say where data goes with --data-dir"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Result<Settings> {
        let environment = Environment {
            directory: "/cwd".into(),
            root: false,
            data_home: Some("/home/u/.data".into()),
            home: Some("/home/u".into()),
        };
        let cli = Cli::try_parse_from(std::iter::once("fdfs-mount").chain(arguments.iter().copied()))?;
        cli.settings(&environment)
    }

    #[test]
    fn the_shortest_command_is_an_embedded_cluster() {
        let s = settings(&["/mnt/fdfs"]).unwrap();
        assert_eq!(s.mountpoint, Path::new("/mnt/fdfs"));
        assert_eq!(s.cluster, Cluster::Embedded);
        assert_eq!(s.data_dir, Path::new("/home/u/.data/fdfs"));
        assert_eq!((s.source.as_str(), s.foreground), ("fdfs", false));
    }

    #[test]
    fn relative_paths_are_those_of_the_caller() {
        let s = settings(&["-c", "client.conf", "--index", "i.db", "mnt"]).unwrap();
        assert_eq!(s.mountpoint, Path::new("/cwd/mnt"));
        assert_eq!(s.cluster, Cluster::Config("/cwd/client.conf".into()));
        assert_eq!(s.index, Some("/cwd/i.db".into()));
    }

    #[test]
    fn the_form_of_mount_helpers() {
        let s =
            settings(&["10.0.0.1:22122", "/mnt", "-s", "-n", "-o", "ro,_netdev,group=group2", "-t", "fdfs"]).unwrap();
        assert_eq!(s.cluster, Cluster::Trackers(vec!["10.0.0.1:22122".into()]));
        assert_eq!(s.group.as_deref(), Some("group2"));
        assert!(s.flags.read_only);
        assert_eq!(s.source, "10.0.0.1:22122");
        assert_eq!(settings(&["fdfs", "/mnt", "-o", "rw"]).unwrap().cluster, Cluster::Embedded);
    }

    #[test]
    fn a_group_is_an_option_or_a_word() {
        let group = |arguments: &[&str]| settings(arguments).unwrap().group;
        assert_eq!(group(&["--tracker", "h:1", "--group", "g2", "/mnt"]).as_deref(), Some("g2"));
        assert_eq!(group(&["-c", "x", "-o", "group=g3", "/mnt"]).as_deref(), Some("g3"));
        assert_eq!(group(&["h:1", "/mnt", "--group", "g2", "-o", "group=g3"]).as_deref(), Some("g2"));
        assert_eq!(group(&["h:1", "/mnt", "-o", "group"]), None, "fstab's own word has no value");
    }

    #[test]
    fn long_options_win_over_words() {
        let s =
            settings(&["--data-dir", "/a", "-o", "data_dir=/b,cache_size=1G", "--cache-size", "2G", "/mnt"]).unwrap();
        assert_eq!(s.data_dir, Path::new("/a"));
        assert_eq!(s.cache_size, Some(2 << 30));
    }

    #[test]
    fn contradictions_and_mistakes_are_refused() {
        let usage = settings(&[]).unwrap_err().to_string();
        assert!(usage.contains("MOUNTPOINT") && !usage.contains("<SOURCE>"), "{usage}");
        assert!(settings(&["a", "b", "c"]).is_err());
        assert!(settings(&["--tracker", "nowhere", "/mnt"]).unwrap_err().to_string().contains("HOST:PORT"));
        assert!(settings(&["-o", "bogus", "/mnt"]).unwrap_err().to_string().contains("bogus"));
        assert!(settings(&["-c", "x", "-o", "tracker=h:1", "/mnt"]).is_err());
        assert!(settings(&["--group", "g", "/mnt"]).is_err());
        assert!(settings(&["-o", "group=g", "/mnt"]).unwrap_err().to_string().contains("embedded"));
        assert!(settings(&["--cache-size", "much", "/mnt"]).is_err());
    }

    #[test]
    fn help_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
