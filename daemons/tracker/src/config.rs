//! tracker.conf.
//!
//! The file is FastDFS's own. Values that make no sense are refused with file, line, key and value; keys that have no
//! effect here are told in [`TrackerConfig::warnings`].

mod trunk;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fdfs_protocol::config::{ConfigError, Ini, ReservedSpace, Section};
use fdfs_protocol::names::{GroupName, IpSize};
use fdfs_protocol::peer::Parameters;
use fdfs_protocol::peer::parameters::IdType;
use fdfs_server::AllowHosts;
use fdfs_server::daemon::Common;

use crate::directory::{DownloadServer, Rules, StoreLookup, StorePath, StoreServer};
use crate::settings::Settings;
use crate::storage_ids::{IdTable, IdsError};

/// Keys of FastDFS that tune what works in another way here; they are read over.
const WITHOUT_MEANING: &[&str] = &[
    "accept_threads",
    "use_io_uring",
    "use_send_zc",
    "tcp_quick_ack",
    "thread_stack_size",
    "min_buff_size",
    "sync_log_buff_interval",
    "use_connection_pool",
    "connection_pool_max_idle_time",
    "keep_alive",
];

/// Port of a tracker that configures none.
const DEFAULT_PORT: u16 = 22122;

/// Most bytes of a request, header included, if nothing else is configured.
const DEFAULT_MAX_PACKAGE: u64 = 256 * 1024;

/// The limit cannot be set below what the largest ordinary message needs.
const MIN_MAX_PACKAGE: u64 = 8 * 1024;

/// A tracker's configuration.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// Where `data/` and `logs/` are.
    pub base_path: PathBuf,
    /// Addresses to listen on; empty for all.
    pub bind: Vec<IpAddr>,
    /// Port to listen on; 0 lets the kernel choose.
    pub port: u16,
    /// Threads that serve connections.
    pub work_threads: usize,
    /// Connections above this number are refused.
    pub max_connections: usize,
    /// Who may connect.
    pub allow_hosts: AllowHosts,
    /// Longest wait for a connection to another tracker.
    pub connect_timeout: Duration,
    /// How long a peer may take in the middle of a request or of reading an answer, and to send its first request;
    /// and how long another tracker may take to answer.
    pub network_timeout: Duration,
    /// Most bytes of a request, header included.
    pub max_package: usize,
    /// What the state machine has to know.
    pub settings: Settings,
    /// What is logged.
    pub log_level: String,
    /// How many days rotated logs are kept; 0 for ever.
    pub log_keep_days: u64,
    /// What the person who wrote the file should know.
    pub warnings: Vec<String>,
}

/// Why a configuration is refused; the text names file, key and value.
#[derive(Debug, thiserror::Error)]
pub enum TrackerConfigError {
    /// The file, or a value in it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The table of storage ids.
    #[error(transparent)]
    Ids(#[from] IdsError),
    /// `disabled = true`.
    #[error("{}: disabled = true: this tracker must not run (remove the key to run it)", file.display())]
    Disabled {
        /// The file.
        file: PathBuf,
    },
}

impl TrackerConfig {
    /// Reads a tracker.conf and the table of storage ids it names.
    ///
    /// # Errors
    /// [`TrackerConfigError`] for what cannot be read or makes no sense.
    pub fn load(path: &Path) -> Result<TrackerConfig, TrackerConfigError> {
        TrackerConfig::read(path, &Ini::load(path)?)
    }

    /// A tracker for use inside another program: on one address (port 0: of the kernel's choice), with everything else
    /// at its default, one thread, and a reserve of one percent.
    pub fn embedded(base_path: impl Into<PathBuf>, bind: IpAddr, port: u16) -> TrackerConfig {
        let parameters = Parameters { reserved_storage_space: ReservedSpace::Ratio(0.01), ..Parameters::default() };
        TrackerConfig {
            base_path: base_path.into(),
            bind: vec![bind],
            port,
            work_threads: 1,
            max_connections: 1024,
            allow_hosts: AllowHosts::any(),
            connect_timeout: Duration::from_secs(10),
            network_timeout: Duration::from_secs(60),
            max_package: DEFAULT_MAX_PACKAGE as usize,
            settings: Settings {
                rules: Rules {
                    store_lookup: StoreLookup::RoundRobin,
                    store_server: StoreServer::RoundRobin,
                    store_path: StorePath::RoundRobin,
                    download_server: DownloadServer::RoundRobin,
                    reserve: parameters.reserved_storage_space,
                    use_trunk: false,
                    sync_max_delay: parameters.storage_sync_file_max_delay.as_secs() as i64,
                    sync_max_time: 300,
                    ip_size: parameters.response_ip_addr_size,
                },
                ids: None,
                parameters,
                check_active_interval: 100,
            },
            log_level: "info".to_owned(),
            log_keep_days: 15,
            warnings: Vec::new(),
        }
    }

    /// What the daemon shell needs.
    pub fn common(&self) -> Common {
        let day = Duration::from_secs(86400);
        Common {
            base_path: self.base_path.clone(),
            log_level: fdfs_server::log::level(&self.log_level),
            log_keep: u32::try_from(self.log_keep_days).ok().filter(|d| *d > 0).map(|days| day * days),
            warnings: self.warnings.clone(),
        }
    }

    fn read(path: &Path, ini: &Ini) -> Result<TrackerConfig, TrackerConfigError> {
        let s = ini.global();
        if s.bool("disabled", false)? {
            return Err(TrackerConfigError::Disabled { file: path.into() });
        }
        let base_path = PathBuf::from(s.required("base_path", "name an existing directory for data/ and logs/")?);
        if let Some(entry) = s.entry("base_path").filter(|_| !base_path.is_dir()) {
            return Err(entry.error("is not a directory; make it, or correct the path").into());
        }
        let ids = storage_ids(path, &s)?;
        let parameters = parameters(&s, ids.as_ref())?;
        let rules = rules(&s, &parameters)?;
        // A key of the section counts before the same key above all sections.
        let log_keep_days = s.number("log_file_keep_days", 15, 0..=36500)?;
        let log_keep_days = ini.section("error-log").number("log_file_keep_days", log_keep_days, 0..=36500)?;
        let mut config = TrackerConfig {
            base_path,
            bind: bind(&s, ids.is_some() && parameters.id_type_in_filename == IdType::Id)?,
            port: one_of(&s, &["port", "inner_port"])
                .map_or(Ok(DEFAULT_PORT), |key| s.number(key, DEFAULT_PORT, 1..=65535))?,
            work_threads: s.number("work_threads", 4, 1..=256)?,
            max_connections: s.number("max_connections", 256, 1..=1_000_000)?,
            allow_hosts: AllowHosts::parse(s.all("allow_hosts")),
            connect_timeout: seconds(&s, "connect_timeout", 10)?,
            network_timeout: seconds(&s, "network_timeout", 60)?,
            max_package: s.size("max_buff_size", DEFAULT_MAX_PACKAGE)?.clamp(MIN_MAX_PACKAGE, 1 << 30) as usize,
            settings: Settings {
                rules,
                ids,
                parameters,
                check_active_interval: seconds(&s, "check_active_interval", 100)?.as_secs() as i64,
            },
            log_level: s.str("log_level").unwrap_or("info").to_owned(),
            log_keep_days,
            warnings: Vec::new(),
        };
        if config.settings.parameters.trunk.use_trunk_file {
            config.warnings.push(
                "use_trunk_file = true (trunk servers are chosen only where there is no doubt; \
                 else name them with fdfs_monitor set_trunk_server)"
                    .to_owned(),
            );
        }
        config.warnings.extend(ini.warnings(WITHOUT_MEANING));
        Ok(config)
    }
}

fn one_of<'k>(s: &Section<'_>, keys: &[&'k str]) -> Option<&'k str> {
    keys.iter().copied().find(|key| s.str(key).is_some_and(|v| !v.is_empty()))
}

/// A number of seconds; 0 means the default, as FastDFS reads it.
fn seconds(s: &Section<'_>, key: &str, default: u64) -> Result<Duration, ConfigError> {
    let default = Duration::from_secs(default);
    let value = s.duration(key, default)?;
    // Longer than a human life is "for ever", and keeps sums of times in range.
    let value = value.min(Duration::from_secs(1 << 31));
    Ok(if value < Duration::from_secs(1) { default } else { value })
}

fn bind(s: &Section<'_>, ipv6_possible: bool) -> Result<Vec<IpAddr>, ConfigError> {
    let mut all = Vec::new();
    for key in ["bind_addr", "inner_bind_addr", "outer_bind_addr"] {
        let Some(entry) = s.entry(key).filter(|e| !e.value.is_empty()) else { continue };
        for text in entry.value.split(',') {
            let ip: IpAddr =
                text.trim().trim_matches(['[', ']']).parse().map_err(|_| entry.error("needs an IP address, or two"))?;
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
    }
    let Some(family) = s.entry("address_family") else { return Ok(all) };
    match family.value.to_ascii_lowercase().as_str() {
        "" | "auto" | "both" => return Ok(all),
        "ipv4" if all.is_empty() => all.push(Ipv4Addr::UNSPECIFIED.into()),
        "ipv4" => all.retain(IpAddr::is_ipv4),
        "ipv6" if !ipv6_possible => {
            return Err(family.error("IPv6 needs use_storage_id = true and id_type_in_filename = id"));
        }
        "ipv6" if all.is_empty() => all.push(Ipv6Addr::UNSPECIFIED.into()),
        "ipv6" => all.retain(IpAddr::is_ipv6),
        _ => return Err(family.error("needs auto, IPv4, IPv6 or both")),
    }
    if all.is_empty() {
        return Err(family.error("none of the addresses in bind_addr is of this family"));
    }
    Ok(all)
}

fn storage_ids(path: &Path, s: &Section<'_>) -> Result<Option<IdTable>, TrackerConfigError> {
    if !s.bool("use_storage_id", false)? {
        // Names of the other keys are not unknown, they only mean nothing now.
        let _ = s.str("storage_ids_filename");
        return Ok(None);
    }
    let name = s.required("storage_ids_filename", "use_storage_id = true needs the table of storage ids")?;
    let file = path.parent().unwrap_or(Path::new("")).join(name);
    Ok(Some(IdTable::load(&file)?))
}

fn parameters(s: &Section<'_>, ids: Option<&IdTable>) -> Result<Parameters, ConfigError> {
    let id_type = s.value("id_type_in_filename", IdType::Ip, "needs ip or id", |text| {
        match text.to_ascii_lowercase().as_str() {
            "id" => Some(IdType::Id),
            "ip" => Some(IdType::Ip),
            _ => None,
        }
    })?;
    let automatic = s.str("response_ip_addr_size").is_none_or(|v| v.is_empty() || v.eq_ignore_ascii_case("auto"));
    let wide = if automatic { ids.is_some_and(IdTable::has_ipv6) } else { true };
    let store_path = s.value("store_path", 0, "needs 0 (in turn) or 2 (most free space)", |text| {
        text.parse::<u8>().ok().filter(|v| matches!(v, 0 | 2))
    })?;
    Ok(Parameters {
        use_storage_id: ids.is_some(),
        id_type_in_filename: if ids.is_some() { id_type } else { IdType::Ip },
        trust_storage_server_id: s.bool("trust_storage_server_id", true)?,
        response_ip_addr_size: if wide { IpSize::V6 } else { IpSize::V4 },
        storage_ip_changed_auto_adjust: s.bool("storage_ip_changed_auto_adjust", true)?,
        storage_sync_file_max_delay: seconds(s, "storage_sync_file_max_delay", 86400)?,
        store_path,
        reserved_storage_space: s.parsed("reserved_storage_space", ReservedSpace::default())?,
        trunk: trunk::read(s)?,
        store_slave_file_use_link: s.bool("store_slave_file_use_link", false)?,
    })
}

fn rules(s: &Section<'_>, parameters: &Parameters) -> Result<Rules, ConfigError> {
    let lookup: u8 = s.number("store_lookup", 0, 0..=2)?;
    let store_group = s.entry("store_group");
    let store_lookup = match lookup {
        0 => StoreLookup::RoundRobin,
        1 => {
            let entry = store_group.filter(|e| !e.value.is_empty());
            let entry =
                entry.ok_or_else(|| s.missing("store_group", "store_lookup = 1 needs the name of the group"))?;
            StoreLookup::Group(entry.value.parse::<GroupName>().map_err(|e| entry.error(e))?)
        }
        _ => StoreLookup::MostFree,
    };
    let store_server = match s.number("store_server", 0u8, 0..=2)? {
        // Trunk files need the uploads of a group at one storage.
        0 if parameters.trunk.use_trunk_file => StoreServer::First,
        0 => StoreServer::RoundRobin,
        1 => StoreServer::First,
        _ => StoreServer::ByPriority,
    };
    let download_server = match s.number("download_server", 0u8, 0..=1)? {
        0 => DownloadServer::RoundRobin,
        _ => DownloadServer::Source,
    };
    Ok(Rules {
        store_lookup,
        store_server,
        store_path: if parameters.store_path == 2 { StorePath::MostFree } else { StorePath::RoundRobin },
        download_server,
        reserve: parameters.reserved_storage_space,
        use_trunk: parameters.trunk.use_trunk_file,
        sync_max_delay: parameters.storage_sync_file_max_delay.as_secs() as i64,
        sync_max_time: seconds(s, "storage_sync_file_max_time", 300)?.as_secs() as i64,
        ip_size: parameters.response_ip_addr_size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a tracker.conf (and a table of ids) and loads it.
    fn load(text: &str) -> Result<TrackerConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tracker.conf");
        std::fs::write(&file, text).unwrap();
        std::fs::write(dir.path().join("ids.conf"), "100001 group1 10.0.0.1\n").unwrap();
        std::fs::write(dir.path().join("ids6.conf"), "100001 group1 [fd77::1]\n").unwrap();
        TrackerConfig::load(&file).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_those_of_an_absent_key() {
        let c = load("base_path = /tmp\n").unwrap();
        assert_eq!((c.port, c.work_threads, c.max_connections), (22122, 4, 256));
        assert_eq!((c.network_timeout, c.max_package), (Duration::from_secs(60), 262_144));
        assert!(c.bind.is_empty() && c.warnings.is_empty());
        let r = c.settings.rules;
        assert_eq!(
            (r.store_lookup, r.store_server, r.store_path, r.download_server),
            (StoreLookup::RoundRobin, StoreServer::RoundRobin, StorePath::RoundRobin, DownloadServer::RoundRobin)
        );
        assert_eq!((r.reserve, r.sync_max_delay, r.sync_max_time), (ReservedSpace::Megabytes(1024), 86400, 300));
        assert_eq!((r.ip_size, c.settings.check_active_interval), (IpSize::V4, 100));
    }

    #[test]
    fn the_parameters_text_is_the_recorded_one() {
        let text = load("base_path = /tmp\nreserved_storage_space = 1%\n").unwrap().settings.parameters.to_text();
        assert!(text.starts_with(
            "use_storage_id=0\nid_type_in_filename=ip\ntrust_storage_server_id=1\nresponse_ip_addr_size=16\n\
             storage_ip_changed_auto_adjust=1\nstorage_sync_file_max_delay=86400\nstore_path=0\n\
             reserved_storage_space=1.00%\nuse_trunk_file=0\nslot_min_size=256\nslot_max_size=8388608\n"
        ));
        assert!(text.ends_with("trunk_binlog_max_backups=0\nstore_slave_file_use_link=0\n"));
    }

    #[test]
    fn every_choice() {
        let c = load(
            "base_path=/tmp\nport=23\nbind_addr=10.0.0.1,fd77::1\nstore_lookup=1\nstore_group=g7\nstore_server=2\n\
             store_path=2\ndownload_server=1\nreserved_storage_space=20%\nnetwork_timeout=3\nconnect_timeout=2\nmax_connections=9\n\
             allow_hosts=10.0.0.0/8\nallow_hosts=127.0.0.1\n",
        )
        .unwrap();
        let r = c.settings.rules;
        assert_eq!(
            (r.store_lookup, r.store_server, r.store_path, r.download_server),
            (
                StoreLookup::Group("g7".parse().unwrap()),
                StoreServer::ByPriority,
                StorePath::MostFree,
                DownloadServer::Source
            )
        );
        assert_eq!(r.reserve, ReservedSpace::Ratio(0.2));
        assert_eq!((c.port, c.bind.len(), c.network_timeout.as_secs(), c.max_connections), (23, 2, 3, 9));
        assert_eq!(c.connect_timeout.as_secs(), 2);
        assert!(c.allow_hosts.allows("10.1.2.3".parse().unwrap()));
        assert!(!c.allow_hosts.allows("11.1.2.3".parse().unwrap()));
    }

    #[test]
    fn ids_and_address_width() {
        let ids = "base_path=/tmp\nuse_storage_id=true\nstorage_ids_filename=ids.conf\nid_type_in_filename=id\n";
        let c = load(ids).unwrap();
        assert_eq!(c.settings.parameters.id_type_in_filename, IdType::Id);
        assert_eq!((c.settings.rules.ip_size, c.settings.ids.unwrap().entries().len()), (IpSize::V4, 1));
        let v6 = load(&ids.replace("ids.conf", "ids6.conf")).unwrap();
        assert_eq!(v6.settings.rules.ip_size, IpSize::V6, "automatic: the table has an IPv6 address");
        let forced = load("base_path=/tmp\nresponse_ip_addr_size=IPv4\n").unwrap();
        assert_eq!(forced.settings.rules.ip_size, IpSize::V6, "any word but auto means the wide form");
        let off = load("base_path=/tmp\nid_type_in_filename=id\n").unwrap();
        assert_eq!(off.settings.parameters.id_type_in_filename, IdType::Ip, "without ids names carry addresses");
    }

    #[test]
    fn address_families() {
        let bind = |family: &str| load(&format!("base_path=/tmp\naddress_family={family}\n")).map(|c| c.bind);
        assert_eq!(bind("auto").unwrap(), Vec::<IpAddr>::new());
        assert_eq!(bind("IPv4").unwrap(), [IpAddr::from(Ipv4Addr::UNSPECIFIED)]);
        assert!(bind("IPv6").unwrap_err().contains("use_storage_id"));
        assert!(bind("ipx").unwrap_err().contains("address_family = ipx"));
    }

    #[test]
    fn trunk_files_fix_the_store_server() {
        let c = load("base_path=/tmp\nuse_trunk_file=true\n").unwrap();
        assert_eq!(c.settings.rules.store_server, StoreServer::First);
        assert!(c.settings.rules.use_trunk);
        assert_eq!(c.warnings.len(), 1);
    }

    #[test]
    fn errors_name_file_key_and_value() {
        for (text, parts) in [
            ("", vec!["base_path", "missing"]),
            ("base_path=/no/such\n", vec!["tracker.conf:1", "base_path = /no/such", "make it"]),
            ("base_path=/tmp\nstore_lookup=3\n", vec!["tracker.conf:2", "store_lookup = 3"]),
            ("base_path=/tmp\nstore_lookup=1\n", vec!["store_group", "store_lookup = 1"]),
            ("base_path=/tmp\nstore_lookup=1\nstore_group=a-b\n", vec!["store_group = a-b"]),
            ("base_path=/tmp\nstore_server=x\n", vec!["store_server = x"]),
            ("base_path=/tmp\nstore_path=1\n", vec!["store_path = 1"]),
            ("base_path=/tmp\nreserved_storage_space=120%\n", vec!["reserved_storage_space = 120%"]),
            ("base_path=/tmp\nport=70000\n", vec!["port = 70000"]),
            ("base_path=/tmp\nbind_addr=here\n", vec!["bind_addr = here"]),
            ("base_path=/tmp\nnetwork_timeout=soon\n", vec!["network_timeout = soon"]),
            ("base_path=/tmp\nuse_storage_id=yes\n", vec!["storage_ids_filename", "missing"]),
            ("base_path=/tmp\nuse_storage_id=1\nstorage_ids_filename=no.conf\n", vec!["no.conf"]),
            ("base_path=/tmp\nslot_max_size=100\n", vec!["slot_max_size = 100"]),
            ("disabled=true\n", vec!["tracker.conf", "disabled = true"]),
        ] {
            let message = load(text).unwrap_err();
            assert!(parts.iter().all(|p| message.contains(p)), "{text:?} -> {message}");
        }
        let gone = TrackerConfig::load(Path::new("/nonexistent/t.conf")).unwrap_err().to_string();
        assert!(gone.contains("/nonexistent/t.conf"));
    }

    #[test]
    fn log_days_of_the_section_come_first() {
        let days = |text: &str| load(&format!("base_path=/tmp\n{text}")).unwrap().log_keep_days;
        assert_eq!(days(""), 15);
        assert_eq!(days("log_file_keep_days=3\n"), 3);
        assert_eq!(days("log_file_keep_days=3\n[error-log]\nlog_file_keep_days=0\n"), 0);
        let c = load("base_path=/tmp\nlog_file_keep_days=0\n").unwrap();
        assert!(c.common().log_keep.is_none(), "0 is for ever");
    }

    #[test]
    fn keys_without_effect_are_told_with_their_line() {
        let c = load("base_path=/tmp\nuse_io_uring=true\nrun_by_user=\nhttp.server_port=80\nstor_lookup=1\n").unwrap();
        assert_eq!(c.warnings.len(), 1, "{:?}", c.warnings);
        let told = "tracker.conf:5: stor_lookup: unknown to this version, has no effect; did you mean store_lookup?";
        assert!(c.warnings[0].ends_with(told), "{:?}", c.warnings);
    }
}
