//! The settings of a storage, from FastDFS's `storage.conf` or from code.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use fdfs_protocol::config::{ConfigError, Ini, Section, TimeOfDay};
use fdfs_protocol::peer::join::TrackerAddress;
use fdfs_protocol::{GroupName, StorageId};
use fdfs_server::{AllowHosts, Dial};

use crate::access_log::Precision;
use crate::disk::rotation::Distribution;
use crate::disk::store::StorePathConfig;
use crate::sync::hours::Hours;

/// Keys of FastDFS that tune what works in another way here; they are read over.
const WITHOUT_MEANING: &[&str] = &[
    "accept_threads",
    "use_io_uring",
    "use_send_zc",
    "tcp_quick_ack",
    "thread_stack_size",
    "disk_rw_separated",
    "disk_reader_threads",
    "disk_writer_threads",
    "fsync_after_written_bytes",
    "sync_binlog_buff_interval",
    "sync_log_buff_interval",
    "sync_wait_msec",
    "file_sync_skip_invalid_record",
    "use_connection_pool",
    "connection_pool_max_idle_time",
    "if_alias_prefix",
    "keep_alive",
    "response_ip_addr_size",
];

/// Changes pushed to another member at a time where nothing is said: enough to hide the round trips of small files.
const SYNC_THREADS: usize = 8;

/// Where nothing is said, changes are pushed until the day ends.
const LAST_MINUTE: TimeOfDay = TimeOfDay { hour: 23, minute: 59 };

/// Members a group can have.
const MAX_MEMBERS: usize = 32;

/// How long a change waits for other members where nothing is said: clients wait longer.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// When an upload or change is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// When the operating system has it: it survives the death of the process, not of the host. As FastDFS.
    #[default]
    Never,
    /// When content, directory entry and binlog record are on stable storage.
    Always,
}

/// Settings of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// Unit of the time used.
    pub precision: Precision,
    /// Days rotated files are kept, 0 for ever.
    pub keep_days: u32,
}

/// The settings of a storage.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// Where `data/` and `logs/` are.
    pub base_path: PathBuf,
    /// The group; `None` asks a tracker, which knows it when storage ids are in use.
    pub group: Option<GroupName>,
    /// Addresses to listen on; empty for all.
    pub bind: Vec<IpAddr>,
    /// Connect to trackers and other storages from the first of `bind`.
    pub client_bind: bool,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Threads that serve clients.
    pub workers: usize,
    /// Most connections at once.
    pub max_connections: usize,
    /// Who may connect.
    pub allow: AllowHosts,
    /// Longest wait for a connection to a tracker.
    pub connect_timeout: Duration,
    /// Longest wait inside a request.
    pub network_timeout: Duration,
    /// Time between beats.
    pub heart_beat_interval: Duration,
    /// Time between reports of disk space.
    pub stat_report_interval: Duration,
    /// Time between savings of the counters.
    pub stat_save_interval: Duration,
    /// Longest request without file content, in bytes.
    pub buff_size: usize,
    /// The store paths; the order must not change.
    pub paths: Vec<StorePathConfig>,
    /// Directories per level.
    pub subdirs: u32,
    /// The trackers; empty for a storage on its own.
    pub trackers: Vec<TrackerAddress>,
    /// How files are spread over the directories.
    pub distribution: Distribution,
    /// The smaller, the earlier it is chosen (with `store_server = 2`).
    pub upload_priority: i64,
    /// The own id in the table of storage ids; `None` finds it by the address.
    pub server_id: Option<StorageId>,
    /// Refuse store paths that belong to another storage.
    pub check_store_path_mark: bool,
    /// The access log, if wanted.
    pub access_log: Option<AccessLogConfig>,
    /// When changes are acknowledged.
    pub fsync: Fsync,
    /// Members of the group that have a change before it is acknowledged, this one included; 1 as FastDFS.
    pub ack_members: usize,
    /// How long such a change waits for the other members before it is refused.
    pub ack_timeout: Duration,
    /// Changes pushed to another member at a time.
    pub sync_threads: usize,
    /// Pause between changes pushed to another member.
    pub sync_interval: Duration,
    /// When changes are pushed; `None` for always.
    pub sync_hours: Option<Hours>,
    /// Changes pushed before the position is saved.
    pub write_mark_every: u64,
    /// What is logged, as FastDFS's word.
    pub log_level: String,
    /// Days rotated logs are kept, 0 for ever.
    pub log_keep_days: u32,
    /// What the person who wrote the file should know.
    pub warnings: Vec<String>,
}

impl StorageConfig {
    /// Settings for a storage inside another program: on loopback, on a port of the system's choice, with one store
    /// path, which is `base_path`.
    ///
    /// The directories are 32 x 32, so that the first start is quick; a `storage.conf` that serves the same
    /// `base_path` later needs `subdir_count_per_path = 32`.
    pub fn embedded(base_path: &Path, tracker: SocketAddr, group: GroupName) -> StorageConfig {
        let mut config = StorageConfig::standalone(base_path, group);
        config.trackers = vec![TrackerAddress { ip: tracker.ip(), other: None, port: tracker.port() }];
        config
    }

    /// As [`StorageConfig::embedded`], but without a tracker: nobody is told about it, and it calls itself by the
    /// address it listens on.
    pub fn standalone(base_path: &Path, group: GroupName) -> StorageConfig {
        StorageConfig {
            base_path: base_path.to_owned(),
            group: Some(group),
            bind: vec![Ipv4Addr::LOCALHOST.into()],
            client_bind: true,
            port: 0,
            workers: default_workers(),
            max_connections: 1024,
            allow: AllowHosts::any(),
            connect_timeout: Duration::from_secs(5),
            network_timeout: Duration::from_secs(60),
            heart_beat_interval: Duration::from_secs(10),
            stat_report_interval: Duration::from_secs(10),
            stat_save_interval: Duration::from_secs(60),
            buff_size: 256 * 1024,
            paths: vec![StorePathConfig { path: base_path.to_owned(), readonly: false }],
            subdirs: 32,
            trackers: Vec::new(),
            distribution: Distribution::Rotate(100),
            upload_priority: 10,
            server_id: None,
            check_store_path_mark: true,
            access_log: None,
            fsync: Fsync::Never,
            ack_members: 1,
            ack_timeout: ACK_TIMEOUT,
            sync_threads: SYNC_THREADS,
            sync_interval: Duration::ZERO,
            sync_hours: None,
            write_mark_every: 500,
            log_level: "info".into(),
            log_keep_days: 15,
            warnings: Vec::new(),
        }
    }

    /// How to connect to trackers and other storages.
    pub fn dial(&self) -> Dial {
        let from = self.bind.first().copied().filter(|_| self.client_bind);
        Dial { from, connect: self.connect_timeout, answer: self.network_timeout }
    }

    /// What an acknowledged change has got to, in words for the log.
    pub fn promise(&self) -> String {
        let kept = match self.fsync {
            Fsync::Never => "in memory at least (fsync_before_ack = never)",
            Fsync::Always => "on disk (fsync_before_ack = always)",
        };
        match self.ack_members {
            1 => format!("a change is acknowledged when this storage has it (ack_members = 1), {kept}"),
            n => format!(
                "a change is acknowledged when {n} members have it (ack_members = {n}), {kept}, \
                 and refused after ack_timeout = {} s",
                self.ack_timeout.as_secs()
            ),
        }
    }

    /// Reads a `storage.conf`.
    ///
    /// # Errors
    /// Texts name file, line, key, value and what is needed.
    pub fn load(path: &Path) -> anyhow::Result<StorageConfig> {
        StorageConfig::from_ini(&Ini::load(path)?)
    }

    /// Takes the settings from a parsed file.
    ///
    /// # Errors
    /// As [`StorageConfig::load`].
    pub fn from_ini(ini: &Ini) -> anyhow::Result<StorageConfig> {
        let s = ini.global();
        if s.bool("disabled", false)? {
            let refused = std::io::Error::from_raw_os_error(libc::ECANCELED);
            let text = format!("{}: disabled = true: remove the line to start this storage", ini.path().display());
            return Err(anyhow::Error::new(refused).context(text));
        }
        let base_path = PathBuf::from(s.required("base_path", "name the directory for data and logs")?);
        if !base_path.is_dir() {
            let entry = s.entry("base_path").context("base_path")?;
            anyhow::bail!(entry.error("is not a directory; make it, or correct the path"));
        }
        let group =
            s.value("group_name", None, "needs 1 to 16 letters and digits", |t| GroupName::new(t).ok().map(Some))?;
        let secs = |key: &str, default: u64, min: u64| -> Result<Duration, ConfigError> {
            let duration = s.duration(key, Duration::from_secs(default))?;
            match s.entry(key) {
                Some(entry) if duration < Duration::from_secs(min) => {
                    Err(entry.error(format!("needs at least {min} s")))
                }
                _ => Ok(duration),
            }
        };
        let config = StorageConfig {
            group,
            bind: addresses(&s, "bind_addr")?,
            client_bind: s.bool("client_bind", true)?,
            port: s.number("port", 23000, 1..=u16::MAX)?,
            workers: s.number("work_threads", default_workers(), 1..=256)?,
            max_connections: s.number("max_connections", 256, 1..=1_000_000)?,
            allow: AllowHosts::parse(s.all("allow_hosts")),
            connect_timeout: secs("connect_timeout", 10, 1)?,
            network_timeout: secs("network_timeout", 30, 1)?,
            heart_beat_interval: secs("heart_beat_interval", 30, 1)?,
            stat_report_interval: secs("stat_report_interval", 300, 1)?,
            stat_save_interval: secs("sync_stat_file_interval", 60, 1)?,
            buff_size: buff_size(&s)?,
            paths: store_paths(&s, &base_path)?,
            subdirs: s.number("subdir_count_per_path", 256, 1..=256)?,
            trackers: trackers(&s)?,
            distribution: distribution(&s)?,
            upload_priority: s.number("upload_priority", 10, i64::MIN..=i64::MAX)?,
            server_id: s.value("server_id", None, "needs an id of the storage ids table", |t| {
                StorageId::new(t).ok().map(Some)
            })?,
            check_store_path_mark: s.bool("check_store_path_mark", true)?,
            access_log: access_log(ini)?,
            fsync: s.value("fsync_before_ack", Fsync::Never, "needs never or always", |t| match t {
                "never" => Some(Fsync::Never),
                "always" => Some(Fsync::Always),
                _ => None,
            })?,
            ack_members: s.number("ack_members", 1, 1..=MAX_MEMBERS)?,
            ack_timeout: secs("ack_timeout", ACK_TIMEOUT.as_secs(), 1)?,
            sync_threads: sync_threads(&s)?,
            sync_interval: Duration::from_millis(s.number("sync_interval", 0, 0..=3_600_000)?),
            sync_hours: sync_hours(&s)?,
            write_mark_every: s.number("write_mark_file_freq", 500, 1..=1_000_000)?,
            log_level: s.str("log_level").unwrap_or("info").to_owned(),
            log_keep_days: keep_days(ini, "error-log")?,
            warnings: Vec::new(),
            base_path,
        };
        if s.bool("check_file_duplicate", false)? {
            let entry = s.entry("check_file_duplicate").context("check_file_duplicate")?;
            anyhow::bail!(entry.error("is not supported by this version; set it to 0"));
        }
        if config.sync_hours.is_some() && config.ack_members > 1 {
            let entry = s.entry("ack_members").context("ack_members")?;
            anyhow::bail!(entry.error("needs changes to be pushed all day; remove sync_start_time and sync_end_time"));
        }
        Ok(StorageConfig { warnings: ini.warnings(WITHOUT_MEANING), ..config })
    }
}

fn sync_threads(s: &Section<'_>) -> Result<usize, ConfigError> {
    let most =
        s.value("sync_max_threads", SYNC_THREADS, "needs auto or a number from 1 to 256", |text| match text {
            "auto" => Some(SYNC_THREADS),
            number => number.parse().ok().filter(|n| (1..=256).contains(n)),
        })?;
    Ok(most.max(s.number("sync_min_threads", 1, 1..=256)?))
}

fn sync_hours(s: &Section<'_>) -> Result<Option<Hours>, ConfigError> {
    let time = |key, default| s.value(key, default, "needs a time of day such as 02:00", |text| text.parse().ok());
    Ok(Hours::new(time("sync_start_time", TimeOfDay::default())?, time("sync_end_time", LAST_MINUTE)?))
}

fn default_workers() -> usize {
    // Workers wait for the disk now and then: more than there are cores, as FastDFS has by default.
    std::thread::available_parallelism().map_or(4, |n| n.get().max(4))
}

fn addresses(s: &Section<'_>, key: &str) -> Result<Vec<IpAddr>, ConfigError> {
    s.value(key, Vec::new(), "needs an IP address, or two with a comma between", |text| {
        text.split(',').map(|ip| ip.trim().trim_matches(['[', ']']).parse().ok()).collect()
    })
}

fn buff_size(s: &Section<'_>) -> Result<usize, ConfigError> {
    const MIN: u64 = 64 * 1024 + 10;
    let size = s.size("buff_size", 256 * 1024)?;
    match s.entry("buff_size") {
        Some(entry) if !(MIN..=1 << 30).contains(&size) => {
            Err(entry.error("needs a size from 65546 bytes to 1GB, such as 256KB"))
        }
        _ => Ok(size as usize),
    }
}

fn store_paths(s: &Section<'_>, base_path: &Path) -> Result<Vec<StorePathConfig>, ConfigError> {
    let count = s.number("store_path_count", 1, 1..=256)?;
    (0..count)
        .map(|i| {
            let key = format!("store_path{i}");
            let path = match s.str(&key) {
                Some(path) if !path.is_empty() => PathBuf::from(path),
                _ if i == 0 => base_path.to_owned(),
                _ => return Err(s.missing(&key, "name the directory, or lower store_path_count")),
            };
            if !path.is_dir()
                && let Some(entry) = s.entry(&key)
            {
                return Err(entry.error("is not a directory; make it, or correct the path"));
            }
            Ok(StorePathConfig { path, readonly: s.bool(&format!("store_path{i}_readonly"), false)? })
        })
        .collect()
}

fn trackers(s: &Section<'_>) -> Result<Vec<TrackerAddress>, ConfigError> {
    let mut found = Vec::new();
    for entry in s.entries_of("tracker_server") {
        let address =
            resolve(&entry.value).ok_or_else(|| entry.error("needs host:port of a tracker that can be resolved"))?;
        if !found.contains(&address) {
            found.push(address);
        }
    }
    match found.len() {
        0 => Err(s.missing("tracker_server", "write one line tracker_server = host:22122 for each tracker")),
        n if n > 16 => Err(s.missing("tracker_server", "at most 16 trackers can be given")),
        _ => Ok(found),
    }
}

/// `host:port`, `a,b:port` or `[v6]:port`, with host names looked up.
fn resolve(text: &str) -> Option<TrackerAddress> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (hosts, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let look_up = |host: &str| (host.trim(), port).to_socket_addrs().ok()?.map(|a| a.ip()).min();
    match hosts.split_once(',') {
        None => Some(TrackerAddress { ip: look_up(hosts)?, other: None, port }),
        Some((a, b)) => Some(TrackerAddress { ip: look_up(a)?, other: Some(look_up(b)?), port }),
    }
}

fn distribution(s: &Section<'_>) -> Result<Distribution, ConfigError> {
    let count = s.number("file_distribute_rotate_count", 100, 1..=u32::MAX)?;
    let mode = s.number("file_distribute_path_mode", 0, 0..=1)?;
    Ok(if mode == 0 { Distribution::Rotate(count) } else { Distribution::Random })
}

fn access_log(ini: &Ini) -> Result<Option<AccessLogConfig>, ConfigError> {
    let s = ini.section("access-log");
    let precision = s.value("time_precision", Precision::Millis, "needs millisecond or microsecond", |t| match t {
        "ms" | "millisecond" => Some(Precision::Millis),
        "us" | "microsecond" => Some(Precision::Micros),
        _ => None,
    })?;
    let keep_days = keep_days(ini, "access-log")?;
    // Before FastDFS 6.14 the switch was a global key.
    let enabled = s.bool("enabled", ini.global().bool("use_access_log", false)?)?;
    Ok(enabled.then_some(AccessLogConfig { precision, keep_days }))
}

fn keep_days(ini: &Ini, section: &str) -> Result<u32, ConfigError> {
    let all = ini.global().number("log_file_keep_days", 15, 0..=u32::MAX)?;
    ini.section(section).number("log_file_keep_days", all, 0..=u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<StorageConfig> {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("storage.conf");
        let base = tmp.path().display();
        std::fs::write(&path, format!("base_path={base}\ntracker_server=127.0.0.1:22122\n{text}")).unwrap();
        StorageConfig::load(&path)
    }

    #[test]
    fn defaults_are_those_of_fastdfs() {
        let c = load("group_name=group1").unwrap();
        assert_eq!((c.port, c.subdirs, c.max_connections, c.buff_size), (23000, 256, 256, 256 * 1024));
        assert_eq!(c.paths, [StorePathConfig { path: c.base_path.clone(), readonly: false }]);
        assert_eq!((c.distribution, c.fsync, c.access_log), (Distribution::Rotate(100), Fsync::Never, None));
        assert_eq!(c.ack_members, 1);
        assert!(c.promise().contains("ack_members = 1") && c.promise().contains("never"), "{}", c.promise());
        assert_eq!(c.heart_beat_interval, Duration::from_secs(30));
        assert_eq!(c.trackers.len(), 1);
        assert!(c.warnings.is_empty(), "{:?}", c.warnings);
    }

    #[test]
    fn everything_is_read() {
        let c = load(
            "group_name=g\nport=24000\nbind_addr=127.0.0.1\nbuff_size=512KB\ntracker_server=localhost:1\n\
             fsync_before_ack=always\nack_members=2\nack_timeout=3s\nsync_interval=5\nfile_distribute_path_mode=1\nserver_id=100001\nallow_hosts=10.0.0.1\n\
             store_path0_readonly=true\n[access-log]\nenabled=true\ntime_precision=us\nlog_file_keep_days=3\n",
        )
        .unwrap();
        assert_eq!((c.port, c.buff_size, c.fsync), (24000, 512 * 1024, Fsync::Always));
        assert_eq!((c.ack_members, c.ack_timeout), (2, Duration::from_secs(3)));
        let told = ["ack_members = 2", "ack_timeout = 3 s", "fsync_before_ack = always"];
        assert!(told.iter().all(|part| c.promise().contains(part)), "{}", c.promise());
        assert_eq!((c.sync_interval, c.sync_hours), (Duration::from_millis(5), None));
        assert!(load("sync_start_time=22:00\nsync_end_time=05:00").unwrap().sync_hours.is_some());
        assert_eq!(c.access_log, Some(AccessLogConfig { precision: Precision::Micros, keep_days: 3 }));
        assert_eq!((c.trackers.len(), c.distribution), (2, Distribution::Random));
        assert!(c.paths[0].readonly && !c.allow.allows("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn errors_name_key_value_and_remedy() {
        for (text, wanted) in [
            ("group_name=a b", ["group_name = a b", "letters and digits"]),
            ("port=0", ["port = 0", "1 to 65535"]),
            ("buff_size=1KB", ["buff_size = 1KB", "256KB"]),
            ("store_path_count=2", ["store_path1", "lower store_path_count"]),
            ("store_path0=/no/such", ["store_path0 = /no/such", "make it"]),
            ("fsync_before_ack=maybe", ["fsync_before_ack = maybe", "never or always"]),
            ("sync_end_time=25:00", ["sync_end_time = 25:00", "02:00"]),
            ("sync_end_time=05:00\nack_members=2", ["ack_members = 2", "all day"]),
            ("ack_members=0", ["ack_members = 0", "1 to 32"]),
            ("check_file_duplicate=1", ["check_file_duplicate = 1", "set it to 0"]),
            ("tracker_server=nonsense", ["tracker_server = nonsense", "host:port"]),
            ("disabled=true", ["disabled = true", "remove the line"]),
            ("heart_beat_interval=0", ["heart_beat_interval = 0", "at least 1"]),
        ] {
            let e = load(text).unwrap_err().to_string();
            assert!(wanted.iter().all(|w| e.contains(w)), "{text}: {e}");
        }
        let e = StorageConfig::load(Path::new("/no/such/storage.conf")).unwrap_err().to_string();
        assert!(e.contains("/no/such/storage.conf"), "{e}");
    }

    #[test]
    fn keys_without_effect_are_told_with_their_line() {
        let c = load("compress_binlog=1\nack_member=2\ndisk_rw_separated=true\n").unwrap();
        let told = [
            ":3: compress_binlog: unknown",
            ":4: ack_member: unknown to this version, has no effect; did you mean ack_members?",
        ];
        assert_eq!(c.warnings.len(), told.len(), "{:?}", c.warnings);
        assert!(c.warnings.iter().zip(told).all(|(warning, told)| warning.contains(told)), "{:?}", c.warnings);
    }
}
