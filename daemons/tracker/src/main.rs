//! `fdfs_trackerd CONFIG [start|stop|restart|status]`.

use std::path::Path;
use std::process::ExitCode;

use fdfs_server::daemon::{self, Common, Daemon};
use fdfs_tracker::{Tracker, TrackerConfig};

struct Trackerd(Tracker);

impl Daemon for Trackerd {
    const NAME: &'static str = "fdfs_trackerd";
    const ABOUT: &'static str = "The tracker: knows groups and storages, and tells clients which storage to ask";
    const LOG: &'static str = "trackerd.log";
    type Config = TrackerConfig;

    fn load(path: &Path) -> anyhow::Result<(Common, TrackerConfig)> {
        let config = TrackerConfig::load(path)?;
        Ok((config.common(), config))
    }

    fn start(config: TrackerConfig) -> anyhow::Result<Trackerd> {
        // Beside the connections: data files, the log, listeners, pollers.
        daemon::permit_open_files(config.max_connections, config.max_connections + 64);
        Ok(Trackerd(Tracker::start(config)?))
    }

    fn stop(self) {
        self.0.stop();
    }
}

fn main() -> ExitCode {
    daemon::main::<Trackerd>()
}
