//! Runs seeds, prints those that fail and a summary, and ends with 1 if any failed.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use dq_sim::Fault;

/// Simulates clusters, one per seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Print everything that happens.
    #[arg(long)]
    verbose: bool,
    /// Run every seed twice and compare the runs.
    #[arg(long)]
    twice: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.verbose {
        dq_sim::print_log();
    }
    let mut failed = 0;
    let mut micros = 0;
    let mut compared = 0;
    let mut moments = 0;
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    for seed in arguments.first..arguments.first.saturating_add(arguments.seeds) {
        let mut report = dq_sim::run(seed, arguments.verbose);
        if arguments.twice && dq_sim::run(seed, false).hash != report.hash {
            report.failures.push("two runs differ".to_owned());
        }
        micros += report.micros;
        compared += report.compared;
        moments += report.moments;
        for (fault, count) in report.faults {
            *faults.entry(fault).or_default() += count;
        }
        if !report.failures.is_empty() {
            failed += 1;
            println!("seed {seed} failed at commit {}:", commit());
            for why in report.failures {
                println!("  {why}");
            }
        }
    }
    let kinds: Vec<String> = faults
        .iter()
        .map(|(fault, count)| format!("{fault:?} {count}"))
        .collect();
    println!(
        "seeds {}, simulated {} s, {moments} events of clients, {compared} comparisons, faults: {}; failures {failed}",
        arguments.seeds,
        micros / 1_000_000,
        kinds.join(", "),
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The commit that is running, for reports: from the environment, or asked of git.
fn commit() -> String {
    if let Ok(commit) = std::env::var("DQ_SIM_COMMIT") {
        return commit;
    }
    let git = std::process::Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}
