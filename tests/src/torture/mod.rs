//! A cluster of real processes under random faults and load, and what must hold when all is well again:
//!
//! - every server is active within a minute, none has ended by itself;
//! - the members of a group have the same files, byte for byte, metadata included;
//! - every file is what its acknowledged changes make it, given out by the cluster and by each member; one without an
//!   answer may have been made or not;
//! - what was deleted stays away.
//!
//! Steps of the clock are not among the faults: no namespace has a wall clock of its own, and the storages take theirs
//! from the clock that the kernel stamps files with, so that it cannot be bent for one process without bending the times of its files as well.
//!
//! | module | what it does |
//! |---|---|
//! | [`fleet`] | processes, disks, hosts |
//! | [`faults`] | what goes wrong, when |
//! | [`load`] | clients and mounts at work |
//! | [`history`] | what they asked for, and what was answered |
//! | [`converge`] | waiting for rest, comparing members |
//! | [`check`] | what a file may be; pure |
//! | [`disputes`] | files that two members took changes of |
//! | [`report`] | the figures |

pub mod check;
pub mod converge;
pub mod disputes;
pub mod faults;
pub mod fleet;
pub mod history;
pub mod load;
pub mod report;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdfs_client::{Client, ClientConfig};

use crate::mount::Mount;
use crate::netns::Host;
use crate::tree::Random;
use fleet::{Fleet, RUN, Shape};
use history::History;
use load::{ClientLoad, MountLoad, check_members};
use report::Report;

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds of faults, at most.
    pub rounds: u64,
    /// No new round is begun after that.
    pub time: Option<Duration>,
    /// Of the first round; each next has the next number.
    pub seed: u64,
    /// How long a round's faults and load last.
    pub length: Duration,
    /// How many servers.
    pub shape: Shape,
    /// Programs with the client library.
    pub clients: usize,
    /// Programs in a mounted tree; 0 for no mount.
    pub mounted: usize,
    /// In each round a storage loses its disk.
    pub lose_disks: bool,
    /// `ack_members` of the storages, if it is to be set.
    pub ack_members: Option<u32>,
    /// Where the directory of the run is made.
    pub dir: PathBuf,
    /// Keep it also when all is well.
    pub keep: bool,
}

/// Runs the rounds until one has a violation; `stop` ends it early. `say` is told what happens, line by line.
///
/// # Errors
/// When something is wrong with this machine or the harness, not with what is tested.
pub fn run(options: &Options, stop: &AtomicBool, say: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = options.dir.join(format!("{RUN}{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let mut report = Report::new(dir.clone());
    let ended = Run::start(options, &dir).and_then(|mut run| {
        let rounds = run.rounds(options, stop, say, &mut report);
        report.operations = run.history.tally();
        if options.keep || !report.violations.is_empty() {
            run.fleet.keep_disks()?;
        }
        run.end(&mut report);
        rounds
    });
    if ended.is_ok() && report.violations.is_empty() && !options.keep {
        std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    ended.with_context(|| format!("logs are in {}", dir.display()))?;
    Ok(report)
}

struct Run {
    mount: Option<Mount>,
    fleet: Fleet,
    history: History,
    clients: Vec<ClientLoad>,
    mounted: Vec<MountLoad>,
}

impl Run {
    fn start(options: &Options, dir: &Path) -> Result<Run> {
        let shape = options.shape;
        let mut fleet = Fleet::start(dir, shape, options.ack_members)?;
        converge::await_rest(&mut fleet, Instant::now(), &|| false).context("the cluster does not come up")?;
        let mut random = Random(options.seed);
        let clients = (0..options.clients).map(|i| ClientLoad::new(i, random.next_u64())).collect();
        let mut mount = None;
        if options.mounted > 0 {
            let (host, conf) = (fleet.host(shape.mount()).clone(), fleet.client_conf());
            let home = dir.join("mount");
            std::fs::create_dir_all(&home)?;
            mount = Some(Mount::with(&dir.join("mnt"), |command| {
                command.arg("-c").arg(conf).arg("--data-dir").arg(home.join("data"));
                host.inside(command.arg("--log-file").arg(home.join("log")))
            })?);
        }
        let mut mounted = Vec::new();
        for i in 0..options.mounted {
            let root = mount.as_ref().map(Mount::path).unwrap_or(dir);
            mounted.push(MountLoad::new(options.clients + i, random.next_u64(), root)?);
        }
        let history = History::create(&dir.join("history.jsonl"))?;
        Ok(Run { mount, fleet, history, clients, mounted })
    }

    fn rounds(
        &mut self,
        options: &Options,
        stop: &AtomicBool,
        say: &(dyn Fn(&str) + Sync),
        report: &mut Report,
    ) -> Result<()> {
        let began = Instant::now();
        for round in 0..options.rounds {
            if stop.load(Ordering::Relaxed) || options.time.is_some_and(|time| began.elapsed() > time) {
                break;
            }
            let seed = options.seed.wrapping_add(round);
            say(&format!("round {}, seed {seed}", round + 1));
            let mut violations = Vec::new();
            let marks = disputes::mark(&self.fleet)?;
            let mut random = Random(seed);
            let plan = faults::plan(&mut random, &options.shape, options.length, options.lose_disks);
            self.strain(options, &plan, stop, say, report, &mut violations)?;
            let parted = faults::part_members(&plan, &options.shape, options.ack_members.unwrap_or(1));
            self.verify(&marks, parted, stop, say, report, &mut violations)?;
            if stop.load(Ordering::Relaxed) {
                // Not checked to its end.
                break;
            }
            report.rounds += 1;
            if !violations.is_empty() {
                report.failed_seed = Some(seed);
                report.violations = violations;
                break;
            }
        }
        Ok(())
    }

    /// Load and faults together, until both have ended.
    fn strain(
        &mut self,
        options: &Options,
        plan: &[faults::Planned],
        stop: &AtomicBool,
        say: &(dyn Fn(&str) + Sync),
        report: &mut Report,
        violations: &mut Vec<String>,
    ) -> Result<()> {
        for planned in plan {
            *report.faults.entry(planned.fault.kind()).or_default() += 1;
        }
        let (host, config) = (self.fleet.host(options.shape.client()).clone(), self.fleet.client_config()?);
        let (history, fleet) = (&self.history, &mut self.fleet);
        let (clients, mounted) = (&mut self.clients, &mut self.mounted);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let over = &over;
            let clients = scope.spawn(move || use_clients(&host, config, clients, history, over));
            for worker in mounted {
                scope.spawn(move || worker.work(history, over));
            }
            let began = Instant::now();
            let inflicted = faults::inflict(fleet, plan, stop, violations, |text| {
                say(&format!("  {:5.1} s  {text}", began.elapsed().as_secs_f32()));
            });
            while inflicted.is_ok() && began.elapsed() < options.length && !stop.load(Ordering::Relaxed) {
                // The rest of the round is load without faults.
                std::thread::sleep(Duration::from_millis(20));
            }
            over.store(true, Ordering::Relaxed);
            let used = clients.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            inflicted.and(used)
        })
    }

    /// Waits for rest, and looks at every file. `parted`: members of a group may not have been able to ask each other.
    fn verify(
        &mut self,
        marks: &disputes::Marks,
        parted: bool,
        stop: &AtomicBool,
        say: &(dyn Fn(&str) + Sync),
        report: &mut Report,
        violations: &mut Vec<String>,
    ) -> Result<()> {
        let rest = converge::await_rest(&mut self.fleet, Instant::now(), &|| stop.load(Ordering::Relaxed));
        violations.extend(self.fleet.casualties());
        let listings = match rest {
            Ok((listings, took)) => {
                say(&format!("  at rest after {:.1} s", took.as_secs_f32()));
                report.convergence.push(took);
                listings
            }
            Err(_) if stop.load(Ordering::Relaxed) => return Ok(()),
            Err(error) => {
                violations.push(format!("{error:#}"));
                vec![converge::Listing::new(); self.fleet.shape().servers()]
            }
        };
        let read: Vec<_> = self.mounted.iter_mut().flat_map(|worker| worker.check(violations)).collect();
        let (fleet, clients) = (&self.fleet, &mut self.clients);
        let mut disputed = disputes::since(fleet, marks)?;
        report.disputed += disputed.len();
        if !parted {
            report.joined += disputed.len();
            disputes::of_metadata(&mut disputed);
            report.joined -= disputed.len();
        }
        let checked = fleet.host(fleet.shape().client()).run(|| {
            block_on(async {
                let client = Client::new(fleet.client_config()?);
                let mut checked = 0;
                for worker in clients {
                    checked += worker.check(&client, fleet, &listings, &disputed, violations).await?;
                }
                for (path, content) in &read {
                    match check_members(&client, fleet, path, content).await {
                        Ok(stored) => checked += usize::from(stored),
                        Err(complaint) => violations.push(complaint),
                    }
                }
                Ok(checked)
            })
        })??;
        say(&format!("  {checked} files checked, {} violations", violations.len()));
        report.files += checked;
        Ok(())
    }

    /// Ends everything in order.
    fn end(self, report: &mut Report) {
        if let Some(Err(error)) = self.mount.map(Mount::unmount) {
            report.violations.push(format!("the mount does not end well: {error:#}"));
        }
    }
}

fn use_clients(
    host: &Host,
    config: ClientConfig,
    workers: &mut [ClientLoad],
    history: &History,
    over: &AtomicBool,
) -> Result<()> {
    host.run(|| {
        block_on(async {
            // One for all, as in a program with many tasks.
            let client = Client::new(config);
            let work = workers.iter_mut().map(|worker| worker.work(&client, history, over));
            join_all(work.collect()).await
        })
    })?
}

/// Drives all futures in one task; the first error counts.
async fn join_all<F: Future<Output = Result<()>>>(futures: Vec<F>) -> Result<()> {
    let mut left: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut result = Ok(());
    std::future::poll_fn(|context| {
        left.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(ended) => {
                if result.is_ok() {
                    result = ended;
                }
                false
            }
        });
        if left.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    result
}

/// Runs a future to its end on this thread, with sockets in this thread's namespace.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
