//! `dq-bench`: C dqlite and ours, measured in turn on one machine, as a Markdown table.
//!
//! Disks and shared machines change their mind from minute to minute, so nothing is compared across
//! minutes: each round starts a fresh cluster of every kind, runs the same load on it, and stops it;
//! the kinds alternate, and the table shows medians over the rounds. Every place where the data may
//! live is measured, a disk and a memory file system; the second shows what is not the disk's doing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use compat_tests::load::{self, Plan, Report, Workload};
use compat_tests::servers::{Kind, Options as ServerOptions, Server};
use dq_client::{Cluster, Config, MemStore, Role};

/// Measures C dqlite and ours in turn and prints medians as a Markdown table.
#[derive(Parser)]
#[command(name = "dq-bench")]
struct Options {
    /// How often each kind is measured; an odd number has a middle.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that each load is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    duration: u64,
    /// What to measure.
    #[arg(
        long,
        value_name = "NAME,NAME",
        value_delimiter = ',',
        default_value = "insert,read"
    )]
    workloads: Vec<Workload>,
    /// Numbers of connections.
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "1,64"
    )]
    connections: Vec<usize>,
    /// Nodes of each cluster, all of them voters.
    #[arg(long, default_value_t = 1)]
    nodes: u64,
    /// Directory on a disk.
    #[arg(long, value_name = "DIR", default_value = "target")]
    disk: PathBuf,
    /// Directory in memory.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
    /// Write queue timeout of the servers in milliseconds; C knows it from 1.18.2 on.
    #[arg(long, value_name = "MS")]
    busy_timeout: Option<u32>,
}

/// One cell's place: where the data lives, what was done, by how many.
type Load = (&'static str, &'static str, usize);

fn main() -> ExitCode {
    let options = Options::parse();
    match bench(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dq-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> io::Result<()> {
    let kinds: Vec<Kind> = [Kind::C, Kind::Ours]
        .into_iter()
        .filter(|kind| kind.program().is_some())
        .collect();
    if kinds.is_empty() {
        return Err(io::Error::other(
            "neither c-node nor dq-server has been built",
        ));
    }
    let mut reports: BTreeMap<(Load, &'static str), Vec<Report>> = BTreeMap::new();
    let mut order = Vec::new();
    for round in 0..options.rounds.max(1) {
        for (place, dir) in [("disk", &options.disk), ("memory", &options.memory)] {
            for &workload in &options.workloads {
                for &connections in &options.connections {
                    let load = (place, workload.name(), connections);
                    if round == 0 {
                        order.push(load);
                    }
                    for &kind in &kinds {
                        eprintln!("round {}: {load:?} on {kind:?}", round + 1);
                        let report = measure(options, kind, dir, workload, connections)?;
                        reports.entry((load, name(kind))).or_default().push(report);
                    }
                }
            }
        }
    }
    print_table(options, &kinds, &order, &reports);
    Ok(())
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::C => "C",
        Kind::Ours => "ours",
    }
}

/// One load on a fresh cluster.
fn measure(
    options: &Options,
    kind: Kind,
    dir: &Path,
    workload: Workload,
    connections: usize,
) -> io::Result<Report> {
    let servers = start_cluster(options, kind, dir)?;
    let addresses = servers
        .iter()
        .map(|server| server.address().to_owned())
        .collect();
    let duration = Duration::from_secs(options.duration);
    let plan = Plan {
        prepared: true,
        dir: Some(dir.to_owned()),
        pids: servers.iter().filter_map(Server::pid).collect(),
        ..Plan::new(addresses, workload, connections, duration)
    };
    load::run(&plan).map_err(|error| {
        let logs: Vec<String> = servers.iter().map(Server::log).collect();
        io::Error::other(format!("{kind:?}: {error}\n{}", logs.join("\n")))
    })
}

fn start_cluster(options: &Options, kind: Kind, dir: &Path) -> io::Result<Vec<Server>> {
    let start = |id| {
        let settings = ServerOptions {
            id,
            parent_dir: Some(dir.to_owned()),
            busy_timeout_ms: options.busy_timeout,
            ..ServerOptions::default()
        };
        Server::start(kind, settings)
    };
    let servers: Vec<Server> = (1..=options.nodes.max(1))
        .map(start)
        .collect::<io::Result<_>>()?;
    let first = servers[0].address();
    servers[0].wait_leader(first)?;
    let cluster = Cluster::new(Config::new(), MemStore::new([first]));
    for server in &servers[1..] {
        cluster
            .add(server.id(), server.address(), Role::Voter)
            .map_err(|error| io::Error::other(format!("add node {}: {error}", server.id())))?;
    }
    Ok(servers)
}

fn print_table(
    options: &Options,
    kinds: &[Kind],
    order: &[Load],
    reports: &BTreeMap<(Load, &'static str), Vec<Report>>,
) {
    println!(
        "{} node(s), medians of {} rounds of {} s, statements prepared.\n",
        options.nodes.max(1),
        options.rounds.max(1),
        options.duration
    );
    println!(
        "| data on | workload | connections | server | operations/s | p50 ms | p99 ms | p99.9 ms \
         | CPU us/op | device bytes/op | peak RSS MiB | refused/op |"
    );
    println!("|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for load in order {
        for &kind in kinds {
            let Some(rounds) = reports.get(&(*load, name(kind))) else {
                continue;
            };
            let median = |figure: &dyn Fn(&Report) -> f64| {
                let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
                figures.sort_by(f64::total_cmp);
                figures[figures.len() / 2]
            };
            let (place, workload, connections) = load;
            println!(
                "| {place} | {workload} | {connections} | {} | {:.0} | {:.3} | {:.3} | {:.3} \
                 | {:.0} | {:.0} | {:.1} | {:.2} |",
                name(kind),
                median(&Report::rate),
                median(&|report| report.latency_ms(0.5)),
                median(&|report| report.latency_ms(0.99)),
                median(&|report| report.latency_ms(0.999)),
                median(&Report::cpu_us_per_operation),
                median(&Report::device_bytes_per_operation),
                median(&|report| report.usage.rss_peak as f64 / f64::from(1 << 20)),
                median(&Report::failures_per_operation),
            );
        }
    }
}
