//! The loads: which there are, and one run of one.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use compat_tests::load::{self, Plan, Report, Workload};
use compat_tests::servers::{Kind, Options as ServerOptions, Server};
use dq_client::{Cluster, Config, MemStore, Role};

use crate::figures::{Figures, Load, Table};
use crate::{Compare, nodelay};

/// What is measured: a library and how it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Its name in tables.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Arguments of our program beyond the usual ones.
    arguments: &'static [&'static str],
}

const C: Variant = Variant {
    name: "C",
    kind: Kind::C,
    arguments: &[],
};
const OURS: Variant = Variant {
    name: "dq",
    kind: Kind::Ours,
    arguments: &[],
};
const OURS_LEASE: Variant = Variant {
    name: "dq lease",
    kind: Kind::Ours,
    arguments: &["--reads", "lease"],
};

/// Its sockets get TCP_NODELAY from a preloaded library.
const C_NODELAY: Variant = Variant {
    name: "C nodelay",
    kind: Kind::C,
    arguments: &[],
};

/// Writers wait for others' open transactions, which C 1.11.1 cannot be told to do.
const OURS_QUEUE: Variant = Variant {
    name: "dq queue",
    kind: Kind::Ours,
    arguments: &["--busy-timeout-ms", "5000"],
};

/// Those of the two servers that are there to be measured.
pub(crate) fn variants() -> io::Result<Vec<Variant>> {
    let found: Vec<Variant> = [C, OURS]
        .into_iter()
        .filter(|variant| variant.kind.program().is_some())
        .collect();
    match found.is_empty() {
        true => Err(io::Error::other(
            "neither c-node nor dq-server has been built",
        )),
        false => Ok(found),
    }
}

/// All loads of clusters of one size, in rounds.
pub(crate) fn measure(options: &Compare, nodes: u64) -> io::Result<Table> {
    let both = variants()?;
    let library = match options.nodelay && nodes > 1 && both.contains(&C) {
        true => Some(nodelay::build(&options.disk)?),
        false => None,
    };
    let mut table = Table::default();
    for round in 0..options.rounds.max(1) {
        for (place, dir) in options.places() {
            for workload in workloads(options, nodes) {
                let mut these = both.clone();
                let more = match workload {
                    // One voter needs no proof that it leads, however it is asked to prove it.
                    Workload::Read if nodes > 1 => Some(OURS_LEASE),
                    Workload::BatchTx if options.busy_timeout.is_none() => Some(OURS_QUEUE),
                    _ => None,
                };
                these.extend(more.filter(|_| both.contains(&OURS)));
                if round % 2 == 1 {
                    these.reverse();
                }
                for connections in connections(options, nodes) {
                    let load = Load {
                        place,
                        workload: workload.name(),
                        connections,
                    };
                    let writes = matches!(workload, Workload::Insert | Workload::Insert1k);
                    let nodelay = library.as_ref().filter(|_| writes && connections == 1);
                    let also = nodelay.map(|_| C_NODELAY);
                    for variant in these.iter().copied().chain(also) {
                        let library = nodelay.filter(|_| variant == C_NODELAY);
                        let setup = Setup {
                            busy_timeout_ms: options.busy_timeout,
                            environment: library.map_or(Vec::new(), |l| nodelay::environment(l)),
                            ..Setup::default()
                        };
                        let load_of = (workload, connections);
                        let report = run(options, variant, nodes, dir, load_of, &setup)?;
                        eprintln!("round {}, {}: {place}, {report}", round + 1, variant.name);
                        table.add(load, variant.name, Figures::from(&report));
                    }
                }
            }
        }
    }
    Ok(table)
}

/// How the table came about.
pub(crate) fn caption(options: &Compare, nodes: u64) -> String {
    format!(
        "{nodes} node{}, medians of {} rounds of {} s, in milliseconds where it is a time.",
        if nodes == 1 { "" } else { "s" },
        options.rounds.max(1),
        duration(options).as_secs_f64(),
    )
}

fn workloads(options: &Compare, nodes: u64) -> Vec<Workload> {
    match (&options.workloads, nodes) {
        (Some(chosen), _) => chosen.clone(),
        (None, 1) => Workload::ALL.to_vec(),
        (None, _) => vec![Workload::Insert, Workload::Insert1k, Workload::Read],
    }
}

fn connections(options: &Compare, nodes: u64) -> Vec<usize> {
    match (&options.connections, nodes) {
        (Some(chosen), _) => chosen.clone(),
        (None, 1) => vec![1, 4, 16, 64],
        (None, _) => vec![1, 64],
    }
}

fn duration(options: &Compare) -> Duration {
    seconds(options.duration, options.quick, 1.0, 3.0)
}

fn seconds(chosen: Option<f64>, quick: bool, short: f64, long: f64) -> Duration {
    let seconds = chosen.unwrap_or(if quick { short } else { long });
    Duration::try_from_secs_f64(seconds).unwrap_or(load::DURATION_MAX)
}

/// One load on a fresh cluster.
fn run(
    options: &Compare,
    variant: Variant,
    nodes: u64,
    dir: &Path,
    (workload, connections): (Workload, usize),
    setup: &Setup,
) -> io::Result<Report> {
    let servers = start_cluster(setup, variant, nodes, dir)?;
    let addresses = servers
        .iter()
        .map(|server| server.address().to_owned())
        .collect();
    let plan = Plan {
        prepared: true,
        warm_up: seconds(options.warm_up, options.quick, 0.3, 0.5),
        dir: Some(dir.to_owned()),
        pids: servers.iter().filter_map(Server::pid).collect(),
        ..Plan::new(addresses, workload, connections, duration(options))
    };
    load::run(&plan).map_err(|error| {
        let logs: Vec<String> = servers.iter().map(Server::log).collect();
        io::Error::other(format!("{}: {error}\n{}", variant.name, logs.join("\n")))
    })
}

/// How the servers of a cluster are set up, beyond what kind they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    pub(crate) busy_timeout_ms: Option<u32>,
    pub(crate) latency_ms: Option<u32>,
    /// Environment variables of the processes.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// A cluster of voters that has a leader.
pub(crate) fn start_cluster(
    setup: &Setup,
    variant: Variant,
    nodes: u64,
    dir: &Path,
) -> io::Result<Vec<Server>> {
    let start = |id| {
        let mut settings = ServerOptions {
            id,
            parent_dir: Some(dir.to_owned()),
            busy_timeout_ms: setup.busy_timeout_ms,
            latency_ms: setup.latency_ms,
            environment: setup.environment.clone(),
            ..ServerOptions::default()
        };
        let more = variant.arguments.iter().map(|text| (*text).to_owned());
        settings.arguments.extend(more);
        Server::start(variant.kind, settings)
    };
    let servers: Vec<Server> = (1..=nodes).map(start).collect::<io::Result<_>>()?;
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
