//! Load on any dqlite server, and what it costs.
//!
//! [`run`] opens a fixed number of connections, one thread each, runs one workload on all of them
//! for a fixed time, and gives a [`Report`]: operations per second, latencies, failures by code, and
//! what the server processes used meanwhile.
//!
//! What counts: an operation that succeeded between the end of the warm-up and the end of the run.
//! Its latency is what an application sees: from its first attempt to its success, refused attempts
//! (BUSY) and the pauses between them included. Servers that queue writers and servers that refuse
//! them are thus compared by the same yardstick; how often a server refused is told separately.
//!
//! The closed loop (a connection sends its next operation when the last one is done) measures
//! capacity, not behaviour at a given rate: a stall delays one operation per connection, and the
//! upper percentiles should be read with that in mind.

pub mod process;
mod report;
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use dq_client::{Config, ErrorKind, MemStore, Pool, Result, RetryPolicy, TlsConfig};
use hdrhistogram::Histogram;

pub use report::Report;
use workload::Worker;
pub use workload::Workload;

/// Most connections that a run may open.
pub const CONNECTIONS_MAX: usize = 64;

/// Longest run.
pub const DURATION_MAX: Duration = Duration::from_secs(600);

/// What to do, for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Addresses of members of the cluster; the leader is found from them.
    pub servers: Vec<String>,
    /// Name of the database.
    pub database: String,
    /// What each connection does.
    pub workload: Workload,
    /// Number of connections, at most [`CONNECTIONS_MAX`].
    pub connections: usize,
    /// Time that is not measured.
    pub warm_up: Duration,
    /// Time that is measured, at most [`DURATION_MAX`].
    pub duration: Duration,
    /// Whether statements are prepared once per connection, or sent as text each time.
    pub prepared: bool,
    /// Pause after a refusal (BUSY), on average: each is between half of it and one and a half.
    pub busy_pause: Duration,
    /// Server processes whose use of the machine is told.
    pub pids: Vec<u32>,
    /// Where the servers keep their data: what is written to the device under it is told.
    pub dir: Option<PathBuf>,
    /// TLS, if the servers talk it.
    pub tls: Option<TlsConfig>,
}

impl Plan {
    /// A plan with the defaults: database `load`, 0.5 s of warm-up, a pause of 20 ms after BUSY
    /// (at 64 connections about where a C server, which refuses and does not queue, is fastest).
    pub fn new(
        servers: Vec<String>,
        workload: Workload,
        connections: usize,
        duration: Duration,
    ) -> Plan {
        Plan {
            servers,
            database: "load".to_owned(),
            workload,
            connections: connections.clamp(1, CONNECTIONS_MAX),
            warm_up: Duration::from_millis(500),
            duration: duration.min(DURATION_MAX),
            prepared: false,
            busy_pause: Duration::from_millis(20),
            pids: Vec::new(),
            dir: None,
            tls: None,
        }
    }
}

/// What one connection has seen.
struct Tally {
    latency_us: Histogram<u64>,
    errors: BTreeMap<i32, u64>,
}

/// Code under which failures are counted that no server has sent.
const NO_CODE: i32 = -1;

/// Carries out a plan.
///
/// # Errors
/// No leader is found, or the tables cannot be made. Failures during the run are part of the report.
pub fn run(plan: &Plan) -> Result<Report> {
    workload::prepare(&connect(plan)?, plan.workload)?;
    let before = Barrier::new(plan.connections + 1);
    let device_bytes = || plan.dir.as_deref().and_then(process::device_bytes_written);
    let (tallies, usage, device_bytes) = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.connections)
            .map(|index| {
                let before = &before;
                scope.spawn(move || {
                    // Connect first, so that all start together, whether or not they could.
                    let pool = connect(plan);
                    before.wait();
                    let from = Instant::now() + plan.warm_up;
                    drive(plan, index, &pool?, from, from + plan.duration)
                })
            })
            .collect();
        before.wait();
        thread::sleep(plan.warm_up);
        let (start, device_start) = (process::Usage::of(&plan.pids), device_bytes());
        thread::sleep(plan.duration);
        let usage = process::Usage::of(&plan.pids).since(&start);
        let device_bytes = device_bytes()
            .zip(device_start)
            .map(|(end, start)| end - start);
        let tallies: Vec<Result<Tally>> = threads
            .into_iter()
            .map(|thread| thread.join().expect("a connection's thread does not panic"))
            .collect();
        (tallies, usage, device_bytes)
    });
    let mut latency_us = histogram();
    let mut errors = BTreeMap::new();
    for tally in tallies {
        let tally = tally?;
        latency_us
            .add(tally.latency_us)
            .expect("both histograms have the same bounds");
        for (code, count) in tally.errors {
            *errors.entry(code).or_insert(0) += count;
        }
    }
    Ok(Report {
        plan: plan.clone(),
        latency_us,
        errors,
        usage,
        device_bytes,
    })
}

/// Values from 1 µs to 2 minutes, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are valid")
}

fn connect(plan: &Plan) -> Result<Pool> {
    let config = match &plan.tls {
        Some(tls) => Config::new().tls(tls.clone()),
        None => Config::new(),
    };
    config
        .pool_size(1)
        .retry(RetryPolicy::never())
        .connect(MemStore::new(plan.servers.clone()), &plan.database)
}

/// Runs operations on one connection until `end`; measures those that are done after `from`.
fn drive(plan: &Plan, index: usize, pool: &Pool, from: Instant, end: Instant) -> Result<Tally> {
    let mut tally = Tally {
        latency_us: histogram(),
        errors: BTreeMap::new(),
    };
    let mut worker = Worker::new(plan.workload, index);
    while Instant::now() < end {
        let mut session = pool.get()?;
        // Until an error ends the session, then with another one.
        let mut statements = worker.open(&mut session, plan.prepared)?;
        while Instant::now() < end {
            let start = Instant::now();
            let mut result = statements.operation(&mut worker);
            while let Err(error) = &result {
                if Instant::now() >= from {
                    *tally
                        .errors
                        .entry(error.sqlite_code().unwrap_or(NO_CODE))
                        .or_insert(0) += 1;
                }
                if error.kind() != ErrorKind::Busy || Instant::now() >= end {
                    break;
                }
                thread::sleep(worker.jittered(plan.busy_pause));
                result = statements.operation(&mut worker);
            }
            let done = Instant::now();
            if result.is_ok() && done >= from && done < end {
                let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                tally.latency_us.saturating_record(us.max(1));
            }
            if statements.is_closed() {
                break;
            }
        }
    }
    Ok(tally)
}
