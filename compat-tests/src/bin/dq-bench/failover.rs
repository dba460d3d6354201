//! Three nodes whose leader goes: how long nobody can write, and what three nodes use that have nothing
//! to do.
//!
//! One client writes rows one after the other, and asks anew whenever it is refused. A gap lasts from the
//! last row that was acknowledged before the leader went to the first one after. The leader goes in three
//! ways: it is asked to hand over (TRANSFER), it is told to stop (SIGTERM), it is killed (SIGKILL); after
//! each the node that went is started again, and the next way waits until all is as before.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use compat_tests::servers::{Server, probe_leader};
use dq_client::{Cluster, Config, MemStore, Pool, RetryPolicy};

use crate::document;
use crate::figures::{median, short};
use crate::load::{Setup, Variant, start_cluster, variants};

/// How often, with which timeouts, and where.
#[derive(Args)]
pub(crate) struct Options {
    /// How often each kind is measured; an odd number has a middle.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Network latency settings in milliseconds, from which timeouts follow; 0 for the default of each
    /// kind.
    #[arg(
        long,
        value_name = "MS,MS",
        value_delimiter = ',',
        default_value = "0,20"
    )]
    latency: Vec<u32>,
    /// Seconds of doing nothing.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    idle: u64,
    /// Where the data live.
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
    /// Put the table into this directory's PERFORMANCE.md.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "docs")]
    update: Option<PathBuf>,
}

/// Longest wait for a leader, and for a row.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks, and between two attempts to write.
const LOOK: Duration = Duration::from_millis(1);

/// Rows that are written before the leader goes, and after.
const ROWS_AROUND: usize = 50;

/// What one cluster has shown.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// Processor time of the three in ms per second.
    idle_ms: f64,
    transfer_ms: f64,
    stop_ms: f64,
    kill_ms: f64,
}

type Column = fn(&Round) -> f64;

const COLUMNS: [Column; 4] = [
    |round| round.idle_ms,
    |round| round.transfer_ms,
    |round| round.stop_ms,
    |round| round.kill_ms,
];

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let variants = variants()?;
    let rounds = options.rounds.max(1);
    let mut text = format!(
        "3 nodes, one client that writes; medians (lowest–highest) of {rounds} rounds.\n\n\
         | latency setting | server | idle: CPU ms per s, all three | hand-over: ms without writes | stop \
         (SIGTERM) | kill -9 |\n\
         |---|---|---:|---:|---:|---:|\n"
    );
    for &latency in &options.latency {
        let latency = (latency > 0).then_some(latency);
        let mut seen: Vec<Vec<Round>> = vec![Vec::new(); variants.len()];
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..variants.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let variant = variants[index];
                let one = measure(options, variant, latency)?;
                eprintln!("round {}, {}: {one:?}", round + 1, variant.name);
                seen[index].push(one);
            }
        }
        let setting = latency.map_or("default".to_owned(), |ms| format!("{ms} ms"));
        for (variant, rounds) in variants.iter().zip(&seen) {
            text += &row(&setting, variant.name, rounds);
        }
    }
    println!("{text}");
    match &options.update {
        Some(docs) => document::replace(&docs.join("PERFORMANCE.md"), "failover", &text),
        None => Ok(()),
    }
}

fn row(setting: &str, name: &str, rounds: &[Round]) -> String {
    let mut text = format!("| {setting} | {name}");
    for column in COLUMNS {
        let mut figures: Vec<f64> = rounds.iter().map(column).collect();
        figures.sort_by(f64::total_cmp);
        let (Some(low), Some(high)) = (figures.first(), figures.last()) else {
            continue;
        };
        let (low, high) = (short(*low), short(*high));
        text += &format!(" | {} ({low}–{high})", short(median(figures)));
    }
    text + " |\n"
}

fn measure(options: &Options, variant: Variant, latency_ms: Option<u32>) -> io::Result<Round> {
    let setup = Setup {
        latency_ms,
        ..Setup::default()
    };
    let mut servers = start_cluster(&setup, variant, 3, &options.dir)?;
    settle(&servers)?;
    let pool = writer(&servers)?;
    pool.execute(
        "CREATE TABLE rows_written (id INTEGER PRIMARY KEY, at INTEGER)",
        (),
    )
    .map_err(io::Error::other)?;
    let idle_ms = idle(&servers, options.idle.max(1));
    let transfer_ms = gap(&pool, || {
        let at = settle(&servers)?;
        let cluster = Cluster::new(
            Config::new(),
            MemStore::new(servers.iter().map(Server::address)),
        );
        let to = servers[(at + 1) % servers.len()].id();
        cluster.transfer(Some(to)).map_err(io::Error::other)
    })?;
    let at = settle(&servers)?;
    let stop_ms = gap(&pool, || servers[at].stop())?;
    servers[at].start_again()?;
    let at = settle(&servers)?;
    let kill_ms = gap(&pool, || servers[at].kill())?;
    Ok(Round {
        idle_ms,
        transfer_ms,
        stop_ms,
        kill_ms,
    })
}

fn writer(servers: &[Server]) -> io::Result<Pool> {
    Config::new()
        .retry(RetryPolicy::never())
        .request_timeout(Some(PATIENCE))
        .connect(
            MemStore::new(servers.iter().map(Server::address)),
            "failover",
        )
        .map_err(io::Error::other)
}

/// Waits until all nodes that answer name the same leader, twice in a row a while apart; says which.
fn settle(servers: &[Server]) -> io::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let mut since: Option<(usize, Instant)> = None;
    while Instant::now() < deadline {
        let named: Vec<String> = servers
            .iter()
            .map(|server| probe_leader(server.address()).unwrap_or_default())
            .collect();
        let leader = servers.iter().position(|s| s.address() == named[0]);
        match (leader, since) {
            (Some(leader), before) if named.iter().all(|name| *name == named[0]) => match before {
                Some((same, at)) if same == leader => {
                    if at.elapsed() > Duration::from_secs(1) {
                        return Ok(leader);
                    }
                }
                _ => since = Some((leader, Instant::now())),
            },
            _ => since = None,
        }
        thread::sleep(20 * LOOK);
    }
    Err(io::Error::other("the nodes do not agree on a leader"))
}

/// Processor time in ms per second of all servers, with nothing to do.
fn idle(servers: &[Server], seconds: u64) -> f64 {
    let pids: Vec<u32> = servers.iter().filter_map(Server::pid).collect();
    let used = || pids.iter().map(|&pid| run_ns(pid)).sum::<u64>();
    let (begin, start) = (used(), Instant::now());
    thread::sleep(Duration::from_secs(seconds));
    let ns = used().saturating_sub(begin);
    ns as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Processor time of all threads of a process, in ns: ticks of a hundredth of a second are too coarse for
/// one that does nothing.
fn run_ns(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(of).sum()
}

/// Milliseconds without an acknowledged row around what happens.
fn gap(pool: &Pool, happens: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let stop = AtomicBool::new(false);
    let rows = Mutex::new(Vec::new());
    let count = || {
        rows.lock()
            .map_or(0, |rows: std::sync::MutexGuard<'_, Vec<Instant>>| {
                rows.len()
            })
    };
    let wait = |rows: usize| {
        let deadline = Instant::now() + PATIENCE;
        while count() < rows {
            if Instant::now() > deadline {
                return Err(io::Error::other("rows are not acknowledged"));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    };
    let went = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let row = "INSERT INTO rows_written (at) VALUES (1)";
                match pool.execute(row, ()) {
                    Ok(_) => {
                        if let Ok(mut rows) = rows.lock() {
                            rows.push(Instant::now());
                        }
                    }
                    // Nothing to spin on while nobody leads.
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        let went = wait(ROWS_AROUND).and_then(|()| {
            let went = Instant::now();
            happens()?;
            // What is acknowledged while it happens may still be from before.
            wait(count() + ROWS_AROUND)?;
            Ok(went)
        });
        stop.store(true, Ordering::Relaxed);
        went
    })?;
    let rows = rows.into_inner().unwrap_or_default();
    Ok(longest(&rows, went).as_secs_f64() * 1000.0)
}

/// The longest time between two rows of which the second came after `went`.
fn longest(rows: &[Instant], went: Instant) -> Duration {
    let pairs = rows.windows(2).filter(|pair| pair[1] > went);
    let gaps = pairs.map(|pair| pair[1].duration_since(pair[0]));
    gaps.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_after_the_leader_went() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rows: Vec<Instant> = [0, 900, 910, 920, 1320, 1330].map(at).to_vec();
        assert_eq!(longest(&rows, at(915)), Duration::from_millis(400));
        assert_eq!(longest(&rows, at(1325)), Duration::from_millis(10));
        assert_eq!(longest(&rows[..1], at(0)), Duration::ZERO);
    }

    #[test]
    fn a_row_has_the_median_and_both_ends_of_each_figure() {
        let rounds = [3.0, 1.0, 2.0].map(|kill_ms| Round {
            kill_ms,
            ..Round::default()
        });
        let text = row("20 ms", "dq", &rounds);
        assert!(text.ends_with("| 2.0 (1.0–3.0) |\n"), "{text}");
        assert_eq!(text.matches('|').count(), 7, "{text}");
    }
}
