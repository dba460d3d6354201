//! Debian's `dqlite-benchmark` as it is, on Debian's library and on ours in turn.
//!
//! It is a Go program with nodes and clients in one process, so this measures the C library as its users
//! have it, go-dqlite's share included. It counts what each worker did and how long each took; shown are
//! the medians over the rounds, by the number of operations.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::Args;
use compat_tests::servers::{find_in_path, free_address};

use crate::document;
use crate::figures::{median, short};

/// What to run, and how often.
#[derive(Args)]
pub(crate) struct Options {
    /// How often each library is measured; an odd number has a middle.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each run.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    duration: u32,
    /// Numbers of workers.
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "1,16"
    )]
    workers: Vec<u32>,
    /// Numbers of nodes.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,3")]
    nodes: Vec<usize>,
    /// Where the data live.
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
    /// Put the table into this directory's PERFORMANCE.md.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "docs")]
    update: Option<PathBuf>,
}

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    nodes: usize,
    workload: &'static str,
    workers: u32,
}

/// What it reports of one kind of operation, over all workers.
#[derive(Debug, Clone, Copy, Default)]
struct Report {
    done: f64,
    failed: f64,
    avg_ms: f64,
    max_ms: f64,
}

/// The reports of a load's rounds: of C and of ours, which were taken one after the other.
type Rounds = BTreeMap<(Load, String), Vec<[Report; 2]>>;

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let program = find_in_path("dqlite-benchmark")
        .ok_or_else(|| io::Error::other("dqlite-benchmark is not installed (package go-dqlite)"))?;
    let ours = options.dir.join("bench-capi");
    let built = Command::new("scripts/build-capi").arg(&ours).status()?;
    if !built.success() {
        return Err(io::Error::other("scripts/build-capi failed"));
    }
    let ours = ours.canonicalize()?.join("lib");
    let libraries = [None, Some(ours.as_path())];

    let mut rounds = Rounds::new();
    for round in 0..options.rounds.max(1) {
        for load in loads(options) {
            let mut pair: [BTreeMap<String, Report>; 2] = Default::default();
            // Who is first alternates.
            for which in [round % 2, 1 - round % 2] {
                pair[which] = measure(options, &program, libraries[which], load)?;
                eprintln!("{load:?} {}: {:?}", ["C", "dq"][which], pair[which]);
            }
            let [c, mut dq] = pair;
            for (operation, report) in c {
                let other = dq.remove(&operation).unwrap_or_default();
                let of_load = rounds.entry((load, operation)).or_default();
                of_load.push([report, other]);
            }
        }
    }
    let text = markdown(options, &rounds);
    println!("{text}");
    match &options.update {
        Some(docs) => document::replace(&docs.join("PERFORMANCE.md"), "stock", &text),
        None => Ok(()),
    }
}

fn loads(options: &Options) -> Vec<Load> {
    let mut loads = Vec::new();
    for &nodes in &options.nodes {
        for workload in ["kvwrite", "kvreadwrite"] {
            for &workers in &options.workers {
                loads.push(Load {
                    nodes: nodes.max(1),
                    workload,
                    workers,
                });
            }
        }
    }
    loads
}

/// A node that only takes part: killed in the end.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        // Nothing of it is wanted any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(
    options: &Options,
    program: &Path,
    library: Option<&Path>,
    load: Load,
) -> io::Result<BTreeMap<String, Report>> {
    let scratch = tempfile::Builder::new()
        .prefix("stock")
        .tempdir_in(&options.dir)?;
    let addresses = (0..load.nodes)
        .map(|_| free_address())
        .collect::<io::Result<Vec<_>>>()?;
    let node = |address: &String| {
        let mut command = Command::new(program);
        match library {
            Some(dir) => command.env("LD_LIBRARY_PATH", dir),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
        command.args(["--db", address, "--dir"]).arg(scratch.path());
        command.stdout(Stdio::null());
        command
    };
    let mut first = node(&addresses[0]);
    let first = first
        .args(["--driver", "--cluster", &addresses.join(",")])
        .args(["--duration", &options.duration.to_string()])
        .args(["--workers", &load.workers.to_string()])
        .args(["--workload", load.workload])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut members = Vec::new();
    for address in &addresses[1..] {
        let joining = node(address)
            .args(["--join", &addresses[0]])
            .stderr(Stdio::null())
            .spawn()?;
        members.push(Member(joining));
    }
    let output = first.wait_with_output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("dqlite-benchmark: {text}")));
    }
    read_reports(&scratch.path().join(&addresses[0]).join("results"))
}

/// Reads the files of all workers, `WORKER-OPERATION-TIME`.
fn read_reports(dir: &Path) -> io::Result<BTreeMap<String, Report>> {
    let mut reports: BTreeMap<String, Report> = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let operation = name.split('-').nth(1).unwrap_or_default().to_owned();
        let of_worker = parse(&fs::read_to_string(entry.path())?)
            .ok_or_else(|| io::Error::other(format!("{name} cannot be read")))?;
        let sum = reports.entry(operation).or_default();
        let done = sum.done + of_worker.done;
        if of_worker.done > 0.0 {
            sum.avg_ms = (sum.avg_ms * sum.done + of_worker.avg_ms * of_worker.done) / done;
        }
        sum.done = done;
        sum.failed += of_worker.failed;
        sum.max_ms = sum.max_ms.max(of_worker.max_ms);
    }
    Ok(reports)
}

/// The lines at the head of a file, before the single measurements.
fn parse(text: &str) -> Option<Report> {
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<f64>().ok()
    };
    Some(Report {
        done: figure("n ")?,
        failed: figure("n_err ")?,
        // Of no measurement there is no average.
        avg_ms: figure("avg [ms] ").filter(|avg| avg.is_finite())?,
        max_ms: figure("max [ms] ")?,
    })
}

fn markdown(options: &Options, rounds: &Rounds) -> String {
    let mut text = format!(
        "`dqlite-benchmark`, medians of {} rounds of {} s, data on disk; times in milliseconds.\n\n\
         | nodes | workload | workers | operation | C: n | failed | avg | max \
         | dq: n | failed | avg | max | ratio of n (rounds) |\n\
         |---:|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
        options.rounds.max(1),
        options.duration
    );
    for ((load, operation), pairs) in rounds {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "| {} | {} | {} | {operation} |",
            load.nodes, load.workload, load.workers
        );
        for which in 0..2 {
            let middle = |figure: fn(&Report) -> f64| {
                median(pairs.iter().map(|pair| figure(&pair[which])).collect())
            };
            let _ = write!(
                text,
                " {} | {} | {} | {} |",
                middle(|r| r.done),
                middle(|r| r.failed),
                short(middle(|r| r.avg_ms)),
                short(middle(|r| r.max_ms)),
            );
        }
        let mut ratios: Vec<f64> = pairs
            .iter()
            .map(|[c, dq]| dq.done / c.done.max(1.0))
            .collect();
        ratios.sort_by(f64::total_cmp);
        let end = |ratio: Option<&f64>| short(ratio.copied().unwrap_or_default());
        let _ = writeln!(
            text,
            " {} ({}–{}) |",
            short(median(ratios.clone())),
            end(ratios.first()),
            end(ratios.last())
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_of_all_workers_are_added_up() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "0-exec-1",
                "n 10\nn_err 1\navg [ms] 2.0\nmax [ms] 5.5\nmin [ms] 0.1\n1 2.0\n",
            ),
            (
                "1-exec-1",
                "n 30\nn_err 0\navg [ms] 4.0\nmax [ms] 4.5\nmin [ms] 0.1\n",
            ),
            (
                "0-query-1",
                "n 1\nn_err 0\navg [ms] 1.0\nmax [ms] 1.0\nmin [ms] 1.0\n",
            ),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let reports = read_reports(dir.path()).unwrap();
        assert_eq!(reports.len(), 2);
        let exec = reports["exec"];
        assert_eq!((exec.done, exec.failed), (40.0, 1.0));
        assert_eq!((exec.avg_ms, exec.max_ms), (3.5, 5.5));
        fs::write(dir.path().join("2-exec-1"), "n what\n").unwrap();
        assert!(read_reports(dir.path()).is_err());
    }
}
