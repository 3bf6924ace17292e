//! Settings of a client, in code or from a FastDFS `client.conf`.

use std::path::Path;
use std::time::Duration;

use fdfs_protocol::GroupName;
use fdfs_protocol::config::{ConfigError, Ini};

use crate::address::ServerAddress;

/// Keys of `client.conf` that other FastDFS clients use and that change nothing here: this client always pools its
/// connections, logs through `tracing`, and needs no table of storage ids.
const WITHOUT_EFFECT: &[&str] = &[
    "base_path",
    "log_level",
    "use_connection_pool",
    "load_fdfs_parameters_from_tracker",
    "use_storage_id",
    "storage_ids_filename",
];

/// Settings of a [`Client`](crate::Client).
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The trackers, one or more (`tracker_server`).
    pub trackers: Vec<ServerAddress>,
    /// How long making a connection may take (`connect_timeout`).
    pub connect_timeout: Duration,
    /// How long a server may take for one step: to take a request, to answer, to move the next 16 KiB of content
    /// (`network_timeout`).
    pub network_timeout: Duration,
    /// How long a server may show no sign of life before another one is asked as well, where there is another, and the
    /// silent one is looked at (`failover_after`). Nothing fails by it: without another server, or while a storage that
    /// takes an upload or computes a checksum still answers probes, the timeouts above count.
    pub failover_after: Duration,
    /// How long an unused connection is kept (`connection_pool_max_idle_time`); zero keeps none.
    pub max_idle_time: Duration,
    /// Connections to one server at a time, in use and idle (`max_connections_per_server`). When all are in use, a
    /// request waits for up to the network timeout.
    pub max_connections_per_server: usize,
    /// Upload to this group only (`group_name`); without it the tracker chooses.
    pub group: Option<GroupName>,
    /// Check the CRC32 of files downloaded whole (`verify_crc`).
    ///
    /// Off by default: the name of a slave can have the length of an ordinary name, and then the CRC32 in it is that of
    /// its master.
    pub verify_crc: bool,
    /// The most bytes that [`Client::download_buf`](crate::Client::download_buf) takes when no length is given
    /// (`max_download_buffer`).
    pub max_download_buffer: u64,
    /// What the person who wrote the file should know.
    pub warnings: Vec<String>,
}

impl ClientConfig {
    /// The defaults, with these trackers.
    pub fn new(trackers: impl IntoIterator<Item = ServerAddress>) -> Self {
        Self {
            trackers: trackers.into_iter().collect(),
            connect_timeout: Duration::from_secs(10),
            network_timeout: Duration::from_secs(30),
            failover_after: Duration::from_secs(1),
            max_idle_time: Duration::from_secs(3600),
            max_connections_per_server: 256,
            group: None,
            verify_crc: false,
            max_download_buffer: 256 * 1024 * 1024,
            warnings: Vec::new(),
        }
    }

    /// Reads a FastDFS `client.conf`.
    ///
    /// Keys that have no effect are told in [`ClientConfig::warnings`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_ini(&Ini::load(path)?)
    }

    /// Takes the settings from a file already read.
    pub fn from_ini(ini: &Ini) -> Result<Self, ConfigError> {
        let keys = ini.global();
        let mut trackers = Vec::new();
        for entry in keys.entries_of("tracker_server") {
            let address: ServerAddress = entry.value.parse().map_err(|error| entry.error(error))?;
            if !trackers.contains(&address) {
                trackers.push(address);
            }
        }
        if trackers.is_empty() {
            return Err(keys.missing("tracker_server", "write tracker_server = HOST:22122, once for each tracker"));
        }
        let default = Self::new(trackers);
        let timeout = |key, default| {
            let nonzero = |text: &str| fdfs_protocol::config::parse_duration(text).filter(|time| !time.is_zero());
            keys.value(key, default, "needs a number of seconds above 0", nonzero)
        };
        let group = |text: &str| GroupName::new(text).ok().map(Some);
        let mut config = Self {
            connect_timeout: timeout("connect_timeout", default.connect_timeout)?,
            network_timeout: timeout("network_timeout", default.network_timeout)?,
            failover_after: timeout("failover_after", default.failover_after)?,
            max_idle_time: keys.duration("connection_pool_max_idle_time", default.max_idle_time)?,
            max_connections_per_server: keys.number(
                "max_connections_per_server",
                default.max_connections_per_server,
                1..=65_536,
            )?,
            group: keys.value("group_name", default.group, "needs 1 to 16 letters and digits", group)?,
            verify_crc: keys.bool("verify_crc", default.verify_crc)?,
            max_download_buffer: keys.size("max_download_buffer", default.max_download_buffer)?,
            trackers: default.trackers,
            warnings: Vec::new(),
        };
        let first_by = keys.entry("connect_first_by");
        if let Some(entry) = first_by.filter(|e| !e.value.is_empty() && !e.value.eq_ignore_ascii_case("tracker")) {
            config.warnings.push(entry.error("is not supported; trackers are asked in turn").to_string());
        }
        config.warnings.extend(ini.warnings(WITHOUT_EFFECT));
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClientConfig, ConfigError> {
        ClientConfig::from_ini(&Ini::parse_text(Path::new("client.conf"), text.as_bytes())?)
    }

    #[test]
    fn a_file_of_fastdfs() {
        let config = read(
            "# sample\nconnect_timeout = 5\nnetwork_timeout = 60\nbase_path = /opt/fastdfs\n\
             tracker_server = 192.168.0.196:22122\ntracker_server = tracker2.example\nlog_level = info\n\
             tracker_server = 192.168.0.196:22122\n\
             connect_first_by = tracker\nuse_connection_pool = false\nconnection_pool_max_idle_time = 3600\n\
             load_fdfs_parameters_from_tracker = false\nuse_storage_id = false\n\
             storage_ids_filename = storage_ids.conf\nhttp.anti_steal.check_token = false\n",
        )
        .unwrap();
        let trackers: Vec<_> = config.trackers.iter().map(ToString::to_string).collect();
        assert_eq!(trackers, ["192.168.0.196:22122", "tracker2.example:22122"]);
        assert_eq!(config.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.network_timeout, Duration::from_secs(60));
        assert_eq!(config.group, None);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn keys_without_effect_are_told_with_their_line() {
        let config = read("tracker_server=10.0.0.1\nnetwork_timout=5\nconnect_first_by=last\n").unwrap();
        let [other, typo] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
        assert_eq!(
            typo,
            "client.conf:2: network_timout: unknown to this version, has no effect; did you mean network_timeout?"
        );
        assert!(other.starts_with("client.conf:3: connect_first_by = last"), "{other}");
    }

    #[test]
    fn defaults_are_those_of_fastdfs() {
        let config = read("tracker_server=10.0.0.1").unwrap();
        assert_eq!(config.connect_timeout, Duration::from_secs(10));
        assert_eq!(config.network_timeout, Duration::from_secs(30));
        assert_eq!(config.failover_after, Duration::from_secs(1));
        assert_eq!(config.max_idle_time, Duration::from_secs(3600));
        assert!(!config.verify_crc);
    }

    #[test]
    fn own_keys() {
        let config = read(
            "tracker_server=10.0.0.1\ngroup_name=group2\nverify_crc=yes\nmax_connections_per_server=4\n\
             max_download_buffer=1MB\nconnect_timeout=200ms\nfailover_after=2\n",
        )
        .unwrap();
        assert_eq!(config.group.unwrap().as_str(), "group2");
        assert!(config.verify_crc);
        assert_eq!(config.max_connections_per_server, 4);
        assert_eq!(config.max_download_buffer, 1024 * 1024);
        assert_eq!(config.connect_timeout, Duration::from_millis(200));
        assert_eq!(config.failover_after, Duration::from_secs(2));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, parts) in [
            ("", vec!["client.conf", "tracker_server"]),
            ("tracker_server = a b:1", vec!["client.conf:1", "tracker_server", "a b:1"]),
            ("tracker_server=h\nnetwork_timeout = soon", vec!["client.conf:2", "network_timeout", "soon"]),
            ("tracker_server=h\nconnect_timeout = 0", vec!["connect_timeout", "above 0"]),
            ("tracker_server=h\ngroup_name = no/group", vec!["group_name", "no/group"]),
            ("tracker_server=h\nmax_connections_per_server = 0", vec!["max_connections_per_server"]),
        ] {
            let error = read(text).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
        }
        let error = ClientConfig::load(Path::new("/nonexistent/client.conf")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/client.conf"), "{error}");
    }
}
