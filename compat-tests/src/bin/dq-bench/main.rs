//! `dq-bench`: C dqlite and ours, measured in turn on one machine.
//!
//! ```text
//!   dq-bench         load.rs    ─▶ Figures ─┬▶ Markdown   stdout, or docs/PERFORMANCE.md
//!                    size.rs    ─▶ Figures ─┼▶ CSV        docs/performance-*.csv
//!                                           └▶ SVG        docs/performance-*.svg
//!   dq-bench stall   stall.rs   ─▶ Markdown
//!   dq-bench stock   stock.rs   ─▶ Markdown
//!   dq-bench failover failover.rs ─▶ Markdown
//! ```
//!
//! Disks and shared machines change their mind from minute to minute, so nothing is compared across
//! minutes: each round starts a fresh cluster of every kind, runs the same load on it, and stops it;
//! the kinds alternate, and so does who is first. Tables show medians over the rounds; a ratio is the
//! median of the rounds' ratios, each of two runs that followed each other. Every place where the data
//! may live is measured, a disk and a memory file system; the second shows what is not the disk's doing.
//!
//! With `--update` the results go into the documentation: each table between two marker lines, which
//! name it, and everything else stays as it is. Figures of one number of nodes replace those of the same
//! number only.

mod document;
mod failover;
mod figures;
mod load;
mod nodelay;
mod plot;
mod size;
mod stall;
mod stock;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use compat_tests::load::Workload;

/// Measures C dqlite and ours in turn; medians as Markdown tables.
#[derive(Parser)]
#[command(name = "dq-bench", args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum What {
    /// Writes steadily while a large database is snapshot, and tells how long writers wait.
    Stall(stall::Options),
    /// Debian's dqlite-benchmark on Debian's library and on ours.
    Stock(stock::Options),
    /// Has the leader of three nodes go in several ways, and tells how long nobody can write.
    Failover(failover::Options),
}

/// What to compare, how long, and where the results go.
#[derive(Args)]
struct Compare {
    /// How often each kind is measured; an odd number has a middle.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that each load is measured; 3, or 1 with --quick.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Seconds before that; 0.5, or 0.3 with --quick.
    #[arg(long, value_name = "SECONDS")]
    warm_up: Option<f64>,
    /// Everything, but short: under 8 minutes for one node.
    #[arg(long)]
    quick: bool,
    /// What to measure; all of it for one node, for more what differs from one.
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    workloads: Option<Vec<Workload>>,
    /// Numbers of connections; 1,4,16,64 for one node, 1,64 for more.
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    connections: Option<Vec<usize>>,
    /// Nodes of each cluster, all of them voters: one table for each number.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1")]
    nodes: Vec<u64>,
    /// MiB of data for memory and restart times on one node; 0 leaves this table out.
    #[arg(long, value_name = "MIB", default_value_t = 200)]
    size: u64,
    /// Directory on a disk.
    #[arg(long, value_name = "DIR", default_value = "target")]
    disk: PathBuf,
    /// Directory in memory.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
    /// Only one of the two: disk or memory.
    #[arg(long, value_name = "PLACE")]
    only: Option<String>,
    /// Write queue timeout of the servers in milliseconds; C knows it from 1.18.2 on.
    #[arg(long, value_name = "MS")]
    busy_timeout: Option<u32>,
    /// For clusters, measure small loads of one connection on C with TCP_NODELAY on all sockets as well:
    /// compiles a library with `cc` that is preloaded.
    #[arg(long)]
    nodelay: bool,
    /// Put tables, CSV and plots into this directory, whose PERFORMANCE.md has the markers.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "docs")]
    update: Option<PathBuf>,
}

impl Compare {
    /// Where the data live: a name for the tables, and a directory.
    fn places(&self) -> Vec<(&'static str, &Path)> {
        [("disk", &self.disk), ("memory", &self.memory)]
            .into_iter()
            .filter(|(name, _)| self.only.as_deref().is_none_or(|only| only == *name))
            .map(|(name, dir)| (name, dir.as_path()))
            .collect()
    }
}

fn main() -> ExitCode {
    let command = Command::parse();
    let done = match &command.what {
        None => compare(&command.compare),
        Some(What::Stall(options)) => stall::run(options),
        Some(What::Stock(options)) => stock::run(options),
        Some(What::Failover(options)) => failover::run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dq-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Compare) -> io::Result<()> {
    if options.places().is_empty() {
        return Err(io::Error::other("--only is disk or memory"));
    }
    for &nodes in &options.nodes {
        let figures = load::measure(options, nodes.max(1))?;
        let text = figures.markdown(&load::caption(options, nodes.max(1)));
        println!("{text}");
        if let Some(docs) = &options.update {
            let stem = format!("performance-{}", plural(nodes.max(1)));
            std::fs::write(docs.join(format!("{stem}.csv")), figures.csv())?;
            plot::draw(&docs.join(format!("{stem}.svg")), &figures)?;
            let text = format!("{text}\n![Operations per second]({stem}.svg)\n");
            document::replace(&docs.join("PERFORMANCE.md"), &plural(nodes.max(1)), &text)?;
        }
    }
    if options.size > 0 && options.nodes.contains(&1) {
        let sizes = size::measure(options)?;
        let text = size::markdown(options.size, &sizes);
        println!("{text}");
        if let Some(docs) = &options.update {
            std::fs::write(docs.join("performance-size.csv"), size::csv(&sizes))?;
            document::replace(&docs.join("PERFORMANCE.md"), "size", &text)?;
        }
    }
    Ok(())
}

/// `1-node`, `3-nodes`: names a table and its files.
fn plural(nodes: u64) -> String {
    match nodes {
        1 => "1-node".to_owned(),
        _ => format!("{nodes}-nodes"),
    }
}
