//! `fdfs-mount`: see [`fdfs_fuse::cli`].

use std::fs::OpenOptions;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use fdfs_client::ClientConfig;
use fdfs_fuse::backend::{self, Backend, Places};
use fdfs_fuse::cli::{Cli, Environment, Settings};
use fdfs_fuse::daemon::{self, Side, Starting};
use fdfs_fuse::mount::Mountpoint;
use fdfs_fuse::serve::serve;
use fdfs_fuse::signals::Signals;
use fdfs_fuse::tree::{self, Tree};
use fdfs_server::daemon::describe;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

fn main() -> ExitCode {
    match start(Cli::read()) {
        Ok(code) => code,
        Err(error) => {
            // To the terminal: a process in the background has let go of it, and then this goes nowhere.
            eprintln!("fdfs-mount: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode> {
    let settings = cli.settings(&Environment::read()?)?;
    // Mistakes that can be found without doing anything are found before the fork.
    let mountpoint = Mountpoint::check(&settings.mountpoint)?;
    // EnvFilter takes a word it does not know for the name of a module.
    let mut words = settings.log_level.split(',').filter(|word| !word.contains('='));
    if let Some(word) = words.find(|word| word.trim().parse::<LevelFilter>().is_err()) {
        bail!("log level `{word}` is unknown; try error, warn, info, debug or trace");
    }
    let filter = EnvFilter::try_new(&settings.log_level).map_err(|error| {
        anyhow!("log level `{}`: {error}; try error, warn, info, debug or trace", settings.log_level)
    })?;
    let starting = if settings.foreground {
        Starting::in_foreground()
    } else {
        match daemon::detach().context("cannot go to the background")? {
            Side::Parent(code) => return Ok(code),
            Side::Child(starting) => starting,
        }
    };
    run(&settings, &mountpoint, filter, starting)?;
    Ok(ExitCode::SUCCESS)
}

/// The whole life of the mount. Threads are started in here, not before.
fn run(settings: &Settings, mountpoint: &Mountpoint, filter: EnvFilter, starting: Starting) -> Result<()> {
    let client = backend::client_config(settings)?;
    let places = Places::make(settings, client.as_ref())?;
    let notices = Notices { in_file: start_log(settings, &places.home, filter)? };
    if mountpoint.replaces_dead() {
        notices.warn("an fdfs-mount was killed here and has left a dead mount, which is removed");
    }
    for warning in client.iter().flat_map(|client| &client.warnings) {
        notices.warn(warning);
    }
    let worked = work(settings, mountpoint, &places, client, &notices, starting);
    if let Err(error) = &worked
        && notices.in_file
    {
        tracing::error!("{}", describe(error));
    }
    worked
}

fn work(
    settings: &Settings,
    mountpoint: &Mountpoint,
    places: &Places,
    client: Option<ClientConfig>,
    notices: &Notices,
    starting: Starting,
) -> Result<()> {
    raise_file_limit();
    let signals = Signals::take(settings.foreground).context("cannot take over signals")?;
    let backend = Backend::start(settings, places, client)?;
    if let Some(warning) = backend.probe() {
        notices.warn(&warning);
    }
    let options = tree::Options {
        read_only: settings.flags.read_only,
        atime: settings.atime,
        max_file_size: settings.max_file_size,
        forgotten: true,
        url_prefix: Some(settings.url_prefix.clone().unwrap_or_else(|| backend.url_prefix.clone())),
    };
    let tree = Tree::open(backend.index.clone(), Arc::clone(&backend.store) as _, options)
        .context("cannot take up the data that an earlier mount could not store")?;
    let served = serve(tree, mountpoint, &settings.source, settings.flags, signals, starting);
    let stopped = backend.stop();
    served.and(stopped)
}

/// What is to be known at the start: said on the terminal, and in the log where that is another place.
struct Notices {
    in_file: bool,
}

impl Notices {
    fn warn(&self, text: &str) {
        eprintln!("fdfs-mount: warning: {text}");
        if self.in_file {
            tracing::warn!("{text}");
        }
    }
}

/// Whether the log goes to a file.
fn start_log(settings: &Settings, home: &Path, filter: EnvFilter) -> Result<bool> {
    let path = match (&settings.log_file, settings.foreground) {
        (Some(path), _) => Some(path.clone()),
        (None, true) => None,
        (None, false) => Some(home.join("fdfs-mount.log")),
    };
    let in_file = path.is_some();
    let writer = match path {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file =
                OpenOptions::new().create(true).append(true).open(&path).with_context(|| {
                    format!("cannot write the log {}; choose another with --log-file", path.display())
                })?;
            BoxMakeWriter::new(Mutex::new(file))
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer).init();
    Ok(in_file)
}

/// As many open files as we may have: connections, staged data and the embedded daemons need some.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for both calls. That it fails changes nothing.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
