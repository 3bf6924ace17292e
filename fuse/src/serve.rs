//! A tree on its mount point, from the mount to the unmount.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::daemon::Starting;
use crate::kernel::Session;
use crate::mount::{Flags, Mounted, Mountpoint, Unmounted};
use crate::signals::{Event, Events, Latch, Signals};
use crate::tree::Tree;

/// How long files may stay in use after a signal has ended the mount; then they are cut off.
const GRACE: Duration = Duration::from_secs(10);

/// How long an unmount from outside takes to end the session, unless files are in use.
const SOON: Duration = Duration::from_secs(1);

/// How far the kernel reads ahead of a sequential reader.
const READ_AHEAD_KIB: u32 = 4096;

/// Mounts `tree`, reports through `starting` when it answers, and serves it until it is unmounted or a signal arrives.
///
/// Afterwards nothing is mounted, and what was written is stored, as far as the cluster allows; the rest is kept for the
/// next mount.
pub fn serve(
    tree: Tree,
    mountpoint: &Mountpoint,
    source: &str,
    flags: Flags,
    signals: Signals,
    starting: Starting,
) -> Result<()> {
    let served = run(&tree, mountpoint, source, flags, signals, starting);
    // In every case: data may have been recovered, and some may have been written.
    let left = tree.close().context("cannot close the index in order")?;
    if left > 0 {
        tracing::error!("{left} files could not be stored; their data is kept here and stored by the next mount");
    }
    served
}

fn run(
    tree: &Tree,
    mountpoint: &Mountpoint,
    source: &str,
    flags: Flags,
    signals: Signals,
    starting: Starting,
) -> Result<()> {
    let ended = Latch::new().context("cannot make an event descriptor")?;
    let mut events = Events::new(signals, ended.clone()).context("cannot watch the mount table")?;
    let shown = mountpoint.path().display();
    let (mut mounted, device) = Mounted::new(mountpoint, source, flags)?;
    let session = Session::start((*tree).clone(), device, flags.allow_other, Box::new(move || ended.set()))
        .context("the kernel's FUSE does not answer as expected")?;
    // Through the kernel and back: from here on the mount answers.
    std::fs::metadata(mountpoint.path()).with_context(|| format!("the mount on {shown} does not answer"))?;
    if !mounted.raise_read_ahead(READ_AHEAD_KIB) {
        tracing::info!("the kernel's read-ahead stays at its default: sequential reads will be slower");
    }
    tracing::info!("mounted on {shown}");
    starting.ready().context("cannot let go of the terminal")?;

    // After a signal: when those who still use the mount are cut off.
    let mut deadline: Option<Instant> = None;
    // After the mount has left the table without our doing: when that is worth a word. Mostly the end follows at once.
    let mut notice: Option<Instant> = None;
    let mut noticed = false;
    loop {
        let until = deadline.into_iter().chain(notice).min();
        match events.next(until).context("cannot wait for events")? {
            Event::Ended => {
                let result = session.join();
                tracing::info!("{shown} is unmounted");
                return result.context("the FUSE session has failed");
            }
            Event::Signal(_) if deadline.is_some() => {
                tracing::warn!("second signal: files in use are cut off");
                return Ok(());
            }
            Event::Signal(signal) => {
                tracing::info!("signal {signal}: unmounting {shown}");
                deadline = Some(Instant::now() + GRACE);
                match mounted.unmount() {
                    Ok(Unmounted::Gone) => {}
                    Ok(Unmounted::Detached) => {
                        tracing::warn!("{shown} is busy: detached; files in use are cut off in {} s", GRACE.as_secs());
                    }
                    Err(error) => tracing::error!("{error:#}"),
                }
            }
            Event::Mounts if deadline.is_none() && !noticed && !mounted.attached() => {
                noticed = true;
                notice = Some(Instant::now() + SOON);
            }
            Event::Mounts => {}
            Event::Timeout if deadline.is_none_or(|deadline| deadline > Instant::now()) => {
                notice = None;
                tracing::info!("{shown} was detached while in use; it is served until the last open file is closed");
            }
            Event::Timeout => {
                tracing::warn!("files on {shown} are still in use: they are cut off");
                return Ok(());
            }
        }
    }
}
