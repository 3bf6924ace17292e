//! Load on a FastDFS cluster: finds the storages, prepares files, measures, cleans up.

mod lane;
mod load;
mod locate;
mod workload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdfs_protocol::Status;

use crate::args::{ClusterArgs, ClusterOp};
use crate::meter::Meter;
use crate::report::{Measured, Report};
use lane::Lane;
use load::{Edge, Plan, Until, Workload};
use locate::{Home, homes};
use workload::{Delete, Download, Query, SharedContent, Upload};

/// Files that a delete measurement makes when no count is given.
const DELETE_COUNT: u64 = 10_000;

/// Measures `args.op` and returns the report.
pub fn run(args: &ClusterArgs) -> Result<Report> {
    match args.op {
        ClusterOp::Query => query(args),
        ClusterOp::Upload => upload(args),
        ClusterOp::Download => download(args),
        ClusterOp::Delete => delete(args),
    }
}

fn query(args: &ClusterArgs) -> Result<Report> {
    let tracker = args.tracker.as_deref().context("--op query needs --tracker")?;
    let address = locate::resolve(tracker)?;
    let mut lanes = (0..args.connections).map(|_| Lane::connect(address, Query)).collect::<Result<Vec<_>>>()?;
    measure(args, &mut lanes, measured_plan(args), 0, format!("tracker {address}"))
}

fn upload(args: &ClusterArgs) -> Result<Report> {
    let homes = homes(args)?;
    let content = SharedContent::new(args.size.0)?;
    let mut lanes = upload_lanes(args, &homes, &content, None, !args.keep)?;
    let report = measure(args, &mut lanes, measured_plan(args), args.size.0, contents(args, &homes))?;
    remove(args, lanes, Upload::into_names)?;
    Ok(report)
}

fn download(args: &ClusterArgs) -> Result<Report> {
    ensure!(args.size.0 > 0, "--size must be at least 1: FastDFS refuses to download empty files");
    let homes = homes(args)?;
    let content = SharedContent::new(args.size.0)?;
    let lanes = stored(args, &homes, &content, args.files)?;
    let mut lanes: Vec<_> = (0u64..)
        .zip(lanes)
        .map(|(n, lane)| lane.with(|stored| Download::new(stored.into_names(), content.clone(), n, args.verify)))
        .collect();
    let report = measure(args, &mut lanes, measured_plan(args), args.size.0, contents(args, &homes))?;
    remove(args, lanes, Download::into_names)?;
    Ok(report)
}

fn delete(args: &ClusterArgs) -> Result<Report> {
    let homes = homes(args)?;
    let content = SharedContent::new(args.size.0)?;
    let lanes = stored(args, &homes, &content, args.count.unwrap_or(DELETE_COUNT))?;
    let mut lanes: Vec<_> =
        lanes.into_iter().map(|lane| lane.with(|stored| Delete::new(stored.into_names()))).collect();
    let plan = Plan { threads: args.threads as usize, warmup: Duration::ZERO, until: Until::Exhausted };
    measure(args, &mut lanes, plan, 0, contents(args, &homes))
}

/// The plan that the command line asks for.
fn measured_plan(args: &ClusterArgs) -> Plan {
    let until = args.count.map_or(Until::Elapsed(args.duration), Until::Count);
    Plan { threads: args.threads as usize, warmup: args.warmup, until }
}

/// Runs `lanes` with the meters on and makes the report.
fn measure<W: Workload>(
    args: &ClusterArgs,
    lanes: &mut [Lane<W>],
    plan: Plan,
    size: u64,
    target: String,
) -> Result<Report> {
    let meter = Meter::new(&args.output.pids)?;
    let (mut before, mut after) = (meter.read()?, meter.read()?);
    let outcome = load::run(lanes, plan, |edge| {
        match edge {
            Edge::Begin => before = meter.read()?,
            Edge::End => after = meter.read()?,
        }
        Ok(())
    })?;
    let failures: BTreeMap<String, u64> =
        outcome.failures.iter().map(|(&status, &count)| (Status(status).to_string(), count)).collect();
    let costs = meter.costs(&before, &after, outcome.operations, outcome.elapsed)?;
    let target = format!("{target}, {} connections, {} threads", lanes.len(), plan.threads);
    let measured = Measured {
        operations: outcome.operations,
        elapsed: outcome.elapsed,
        failures,
        latencies: outcome.latencies,
        costs,
    };
    Ok(Report::new(args.op.name(), target, size, args.connections, measured))
}

/// One lane per connection, which uploads at most `limit` files, or without end.
fn upload_lanes(
    args: &ClusterArgs,
    homes: &[Home],
    content: &Arc<SharedContent>,
    limit: Option<u64>,
    record: bool,
) -> Result<Vec<Lane<Upload>>> {
    let connections = u64::from(args.connections);
    (0..connections)
        .zip(homes)
        .map(|(n, home)| {
            let share = limit.map_or(u64::MAX, |limit| limit / connections + u64::from(n < limit % connections));
            Lane::connect(home.address, Upload::new(content.clone(), home.store_path, n, share, record))
        })
        .collect()
}

/// Lanes that have stored `count` files together.
fn stored(args: &ClusterArgs, homes: &[Home], content: &Arc<SharedContent>, count: u64) -> Result<Vec<Lane<Upload>>> {
    // Each connection reads its own files.
    let count = count.max(u64::from(args.connections));
    let mut lanes = upload_lanes(args, homes, content, Some(count), true)?;
    prepare(args, &mut lanes, "preparing files")?;
    Ok(lanes)
}

/// Deletes what the lanes have stored, unless it shall stay.
fn remove<W: Workload>(args: &ClusterArgs, lanes: Vec<Lane<W>>, names: impl Fn(W) -> workload::Names) -> Result<()> {
    if args.keep {
        return Ok(());
    }
    let mut lanes: Vec<_> = lanes.into_iter().map(|lane| lane.with(|stored| Delete::new(names(stored)))).collect();
    prepare(args, &mut lanes, "deleting the files of the measurement")
}

/// Runs `lanes` until they have nothing left to do, unmeasured.
fn prepare<W: Workload>(args: &ClusterArgs, lanes: &mut [Lane<W>], what: &str) -> Result<()> {
    let plan = Plan { threads: args.threads as usize, warmup: Duration::ZERO, until: Until::Exhausted };
    load::run(lanes, plan, |_| Ok(())).with_context(|| what.to_owned())?.must_succeed(what)
}

/// The files and storages of a measurement.
fn contents(args: &ClusterArgs, homes: &[Home]) -> String {
    let mut addresses: Vec<SocketAddr> = homes.iter().map(|home| home.address).collect();
    addresses.sort();
    addresses.dedup();
    let list = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ");
    format!("files of {} bytes, storage {list}", args.size.0)
}
