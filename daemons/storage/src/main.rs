//! `fdfs_storaged`: the storage daemon.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use fdfs_server::daemon::{self, Common, Daemon};
use fdfs_storage::{Storage, StorageConfig};

struct Storaged(Storage);

impl Daemon for Storaged {
    const NAME: &'static str = "fdfs_storaged";
    const ABOUT: &'static str = "The storage: keeps the files of a group, and pushes them to the other members of it";
    const LOG: &'static str = "storaged.log";
    type Config = StorageConfig;

    fn load(path: &Path) -> anyhow::Result<(Common, StorageConfig)> {
        let config = StorageConfig::load(path)?;
        let common = Common {
            base_path: config.base_path.clone(),
            log_level: fdfs_server::log::level(&config.log_level),
            log_keep: (config.log_keep_days > 0).then(|| Duration::from_secs(u64::from(config.log_keep_days) * 86_400)),
            warnings: config.warnings.clone(),
        };
        Ok((common, config))
    }

    fn start(config: StorageConfig) -> anyhow::Result<Storaged> {
        // Every connection has its socket and may have a file.
        daemon::permit_open_files(config.max_connections, 2 * config.max_connections + 256);
        Storage::start(config).map(Storaged)
    }

    fn stop(self) {
        self.0.stop();
    }
}

fn main() -> ExitCode {
    daemon::main::<Storaged>()
}
