//! One seed: the cluster starts, clients work while things go wrong, everything is mended, and the members must come to
//! hold the same.

use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use tracing::info;
use turmoil::{Builder, Sim};

use crate::cluster::{Cluster, TICK};
use crate::faults::Faults;
use crate::random::Random;
use crate::workload::{self, Phase, Work};
use crate::{machine, trace, verdict};

/// Real seconds after which a simulation is taken for hanging, and is killed.
const ALARM: u32 = 120;

/// No simulation needs as many bytes of memory.
const MEMORY: u64 = 4 << 30;

/// Virtual time for the cluster to be ready, for the last operations to end, and for the members to agree.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(120);
const AGREE: Duration = Duration::from_secs(240);

/// They must still agree after this.
const STAY: Duration = Duration::from_secs(8);

/// Two trackers must not act together, if they have been able to talk to each other for this long.
const TOGETHER: Duration = Duration::from_secs(20);

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Simulates a seed, and prints how it went; false if it failed. `print`: and everything that is said; `keep`: what the
/// daemons have written stays.
pub fn run(seed: u64, print: bool, keep: bool) -> anyhow::Result<bool> {
    let memory = Path::new("/dev/shm");
    let parent = std::env::var_os("FDFS_SIM_DIR").map(Into::into);
    let parent = parent.unwrap_or_else(|| if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() });
    let dir = tempfile::Builder::new().prefix("fdfs-sim").tempdir_in(parent).context("cannot make a directory")?;
    // Names of files are the same each time.
    std::env::set_current_dir(dir.path()).context("cannot go to the directory")?;
    // SAFETY: plain calls; the limit outlives its own.
    unsafe {
        libc::alarm(ALARM);
        libc::setrlimit(libc::RLIMIT_AS, &libc::rlimit { rlim_cur: MEMORY, rlim_max: MEMORY });
    }
    std::panic::set_hook(Box::new(|panic| {
        PANICS.lock().unwrap_or_else(|e| e.into_inner()).push(panic.to_string());
    }));
    // A thread whose hash seeds were not drawn yet.
    let simulated = std::thread::spawn(move || {
        machine::start(seed);
        trace::install(print);
        let result = simulate(seed);
        (result, trace::hash(), machine::now())
    });
    let Ok((result, hash, took)) = simulated.join() else {
        bail!("seed {seed}: {}", PANICS.lock().unwrap_or_else(|e| e.into_inner()).join("\n"))
    };
    if keep {
        println!("kept: {}", dir.keep().display());
    }
    let verdict = result.as_ref().map_or_else(|e| format!("FAILED: {e:#}"), Clone::clone);
    println!("seed {seed}: {:.1} s, trace {hash:016x}: {verdict}", took.as_secs_f64());
    Ok(result.is_ok())
}

struct Simulation<'a> {
    sim: Sim<'a>,
    cluster: Rc<Cluster>,
    faults: Faults,
    work: Rc<Work>,
    hosts: Vec<String>,
}

fn simulate(seed: u64) -> anyhow::Result<String> {
    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    builder
        .rng_seed(random.next())
        .enable_random_order()
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(40))
        .tcp_capacity(4096);
    let mut sim = builder.build();
    let cluster = Rc::new(Cluster::new(&mut sim, &mut random)?);
    let clients: Vec<String> = (0..random.within(1..4)).map(|i| format!("c{i}")).collect();
    let work = Rc::new(Work::new(clients.len()));
    for name in &clients {
        let (cluster, work, random) = (cluster.clone(), work.clone(), random.fork());
        sim.host(name.as_str(), move || {
            let (work, client) = (work.clone(), cluster.client());
            async move {
                workload::run(work, client, random).await;
                std::future::pending().await
            }
        });
    }
    let hosts = cluster.names().into_iter().chain(clients.iter().cloned()).collect();
    let none = Faults::plan(&cluster, &clients, &mut random, Duration::ZERO, Duration::ZERO);
    let mut simulation = Simulation { sim, cluster, faults: none, work, hosts };
    simulation.until("the cluster is ready", START, |s| s.cluster.is_ready())?;

    let begin = simulation.sim.elapsed();
    let end = begin + random.millis(10_000..30_000);
    simulation.faults = Faults::plan(&simulation.cluster, &clients, &mut random, begin, end);
    info!("clients begin");
    simulation.work.phase.set(Phase::Work);
    simulation.until("the work is done", END, |s| s.sim.elapsed() >= end)?;
    simulation.faults.heal(&mut simulation.sim, &simulation.hosts, end);
    simulation.work.phase.set(Phase::Rest);
    simulation.until("every operation has ended", END, |s| s.work.busy.get() == 0)?;
    simulation.until("all storages are in use again, and a tracker leads", END, |s| s.cluster.is_ready())?;
    simulation.agree()?;
    simulation.ask_to_read()?;
    simulation.until("everything is read", END, |s| s.work.reads.borrow().is_empty() && s.work.busy.get() == 0)?;
    let at = simulation.sim.elapsed();
    simulation.until("time goes on", STAY * 2, |s| s.sim.elapsed() >= at + STAY)?;
    simulation.must_agree()?;
    simulation.summary()
}

impl Simulation<'_> {
    /// Goes on until something is so.
    fn until(&mut self, what: &str, patience: Duration, is: impl Fn(&Simulation<'_>) -> bool) -> anyhow::Result<()> {
        let deadline = self.sim.elapsed() + patience;
        while !is(self) {
            if self.sim.elapsed() > deadline {
                bail!("within {patience:?} it did not come to this: {what}");
            }
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<()> {
        let now = self.sim.elapsed();
        self.faults.advance(&mut self.sim, &self.cluster, now);
        self.sim.step().map_err(|e| anyhow::anyhow!("a host failed: {e}"))?;
        machine::advance(self.sim.elapsed());
        if let Some(panic) = PANICS.lock().unwrap_or_else(|e| e.into_inner()).first() {
            bail!("{panic}");
        }
        let acting = self.cluster.acting();
        if acting.len() > 1 && self.faults.trackers_together_since(now.saturating_sub(TOGETHER)) {
            bail!("trackers act together: {acting:?}");
        }
        match self.work.history.borrow().wrong.first() {
            Some(wrong) => bail!("{wrong}"),
            None => Ok(()),
        }
    }

    /// Goes on until the members hold what they must.
    fn agree(&mut self) -> anyhow::Result<()> {
        let deadline = self.sim.elapsed() + AGREE;
        loop {
            let again = self.sim.elapsed() + Duration::from_secs(1);
            self.until("time goes on", AGREE, |s| s.sim.elapsed() >= again)?;
            let complaints = verdict::complaints(&self.cluster, &self.work.history.borrow())?;
            if complaints.is_empty() {
                info!("the members agree");
                return Ok(());
            }
            if self.sim.elapsed() > deadline {
                bail!("the members do not hold what they must:\n  {}", complaints.join("\n  "));
            }
        }
    }

    /// Every file that must be there is to be read from every member.
    fn ask_to_read(&self) -> anyhow::Result<()> {
        let history = self.work.history.borrow();
        let unpredictable = verdict::unpredictable(&self.cluster, &history)?;
        let mut reads = self.work.reads.borrow_mut();
        for (index, file) in history.files.iter().enumerate() {
            if file.must_exist() && !unpredictable.contains(&file.id.name.to_string()) {
                let members = self.cluster.storages.iter().filter(|s| s.group == file.id.group);
                reads.extend(members.map(|member| (index, member.addr)));
            }
        }
        self.work.phase.set(Phase::Read);
        Ok(())
    }

    fn must_agree(&self) -> anyhow::Result<()> {
        let complaints = verdict::complaints(&self.cluster, &self.work.history.borrow())?;
        if !complaints.is_empty() {
            bail!("the members did not go on holding what they must:\n  {}", complaints.join("\n  "));
        }
        Ok(())
    }

    fn summary(&self) -> anyhow::Result<String> {
        let history = self.work.history.borrow();
        let (done, failed) = history.counts;
        let there = history.files.iter().filter(|file| file.must_exist()).count();
        let unpredictable = verdict::unpredictable(&self.cluster, &history)?.len();
        Ok(format!(
            "{done} operations done, {failed} failed; {there} files, {unpredictable} of them with contents not judged"
        ))
    }
}
