//! `fdfs_trackerd CONFIG [start|stop|restart|status]`.

use std::path::Path;
use std::process::ExitCode;

use fdfs_server::daemon::{self, Common, Daemon};
use fdfs_tracker::{Tracker, TrackerConfig};

struct Trackerd(Tracker);

impl Daemon for Trackerd {
    const NAME: &'static str = "fdfs_trackerd";
    const LOG: &'static str = "trackerd.log";
    type Config = TrackerConfig;

    fn load(path: &Path) -> anyhow::Result<(Common, TrackerConfig)> {
        let config = TrackerConfig::load(path)?;
        Ok((config.common(), config))
    }

    fn start(config: TrackerConfig) -> anyhow::Result<Trackerd> {
        permit_open_files(config.max_connections);
        Ok(Trackerd(Tracker::start(config)?))
    }

    fn stop(self) {
        self.0.stop();
    }
}

/// Open files beside the connections: data files, logs, listeners, pollers.
const OTHER_FILES: usize = 64;

/// Raises the limit of open files to what `max_connections` needs; where the system does not permit that, a warning.
fn permit_open_files(connections: usize) {
    let wanted = (connections + OTHER_FILES) as libc::rlim_t;
    // SAFETY: both calls get a pointer to a live value of the right type, which is plain data.
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
    daemon::main::<Trackerd>()
}
