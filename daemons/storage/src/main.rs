//! `fdfs_storaged`: the storage daemon.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use fdfs_server::daemon::{self, Common, Daemon};
use fdfs_storage::{Storage, StorageConfig};

struct Storaged(Storage);

impl Daemon for Storaged {
    const NAME: &'static str = "fdfs_storaged";
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
        allow_open_files(config.max_connections);
        Storage::start(config).map(Storaged)
    }

    fn stop(self) {
        self.0.stop();
    }
}

/// Raises the limit of open files so that every connection can have its socket and a file; what the system does not
/// permit is said, and the limit is then met when it is met.
fn allow_open_files(connections: usize) {
    let wanted = 2 * connections as libc::rlim_t + 256;
    // SAFETY: the structure is plain data; the calls read and write nothing else.
    let raised = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0
            && (limit.rlim_cur >= wanted || {
                limit.rlim_cur = wanted;
                limit.rlim_max = limit.rlim_max.max(wanted);
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
            })
    };
    if !raised {
        tracing::warn!(
            "max_connections = {connections} needs {wanted} open files, which the system does not permit (ulimit -n)"
        );
    }
}

fn main() -> ExitCode {
    daemon::main::<Storaged>()
}
