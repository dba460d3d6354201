//! Runs seeds, prints those that fail and a summary, and ends with 1 if any failed.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

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
    /// Break a rule, by its name, or each in turn ("all"): stop at the first failure.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
    /// Begin with a seed that nobody has run: the time.
    #[arg(long)]
    fresh: bool,
    /// Processes that share the seeds.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Begin no seed after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Run every so many-th seed only.
    #[arg(long, default_value_t = 1, hide = true)]
    stride: usize,
    /// Print counts for the process that started this one.
    #[arg(long, hide = true)]
    part: bool,
    /// Run every seed twice and compare the runs.
    #[arg(long)]
    twice: bool,
    /// Proofs of leadership only: drivers without databases, thousands of short runs a second.
    #[arg(long)]
    proofs: bool,
}

/// What became of a range of seeds.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    failed: u64,
    micros: u64,
    compared: u64,
    moments: u64,
    faults: BTreeMap<String, u64>,
    /// What faults hit.
    sites: BTreeMap<String, u64>,
    /// Seeds, by what took how many hundredths of the time that it may take.
    shares: BTreeMap<(String, u64), u64>,
    /// Of each, the largest share in thousandths, and the seed that had it.
    largest: BTreeMap<String, (u64, u64)>,
    /// Microseconds simulated of clusters of three nodes, and of processor time that they took.
    three: (u64, u64),
    /// Seeds in which a use of memory came within a tenth of its bound.
    reached: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.verbose {
        dq_sim::print_log();
    }
    #[cfg(feature = "mutants")]
    if let Some(name) = &arguments.mutant {
        return break_rules(name, &arguments);
    }
    if arguments.fresh {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        arguments.first = now.map_or(1, |now| now.as_micros() as u64);
        println!("seeds from {} on", arguments.first);
    }
    let began = Instant::now();
    if arguments.proofs {
        return prove(&arguments, began);
    }
    let total = match arguments.jobs {
        0 | 1 => run_seeds(&arguments, began),
        _ => run_jobs(&arguments),
    };
    if arguments.part {
        println!("{}", total.to_line());
        return ExitCode::SUCCESS;
    }
    let list = |counts: &BTreeMap<String, u64>| {
        let counts = counts.iter().map(|(what, count)| format!("{what} {count}"));
        counts.collect::<Vec<_>>().join(", ")
    };
    println!(
        "seeds in which memory came within a tenth of its bound: {}",
        list(&total.reached).replace('-', " ")
    );
    println!("what faults hit: {}", list(&total.sites).replace('-', " "));
    let seconds = total.micros / 1_000_000;
    println!(
        "time taken, in hundredths of the bound, at 50/99/100 % of the seeds: {}",
        total.quantiles()
    );
    println!(
        "seeds {}, simulated {seconds} s in {} s, {} events of clients, {} comparisons, faults: {}; three nodes {} times real time per core; failures {}",
        total.seeds,
        began.elapsed().as_secs(),
        total.moments,
        total.compared,
        list(&total.faults),
        total.three.0 / total.three.1.max(1),
        total.failed,
    );
    if total.failed == 0 && total.seeds > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs seeds in which only proofs of leadership matter.
fn prove(arguments: &Arguments, began: Instant) -> ExitCode {
    use dq_sim::proofs::{Range, many, run};

    if arguments.verbose {
        let last = arguments.first.saturating_add(arguments.seeds);
        for seed in arguments.first..last {
            println!("seed {seed}: {:?}", run(seed, true).failures);
        }
    }
    let total = many(Range {
        first: arguments.first,
        seeds: arguments.seeds,
        seconds: arguments.seconds,
        jobs: arguments.jobs,
    });
    for report in &total.failed {
        println!("seed {} failed at commit {}:", report.seed, commit());
        for why in &report.failures {
            println!("  {why}");
        }
    }
    let (counts, seconds) = (total.counts, began.elapsed().as_secs_f64());
    println!(
        "proofs: seeds {}, simulated {} s in {seconds:.0} s, {} elections, {} changes, {} faults, \
         {} writes, {} reads ({} a second), {} of them asked of a deposed leader; failures {}",
        total.seeds,
        counts.micros / 1_000_000,
        counts.elections,
        counts.changes,
        counts.faults,
        counts.writes,
        counts.reads,
        (counts.reads as f64 / seconds) as u64,
        counts.tempted,
        total.failed.len(),
    );
    if total.failed.is_empty() && counts.reads > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the seeds one after the other, in this process.
fn run_seeds(arguments: &Arguments, began: Instant) -> Total {
    let mut total = Total::default();
    let last = arguments.first.saturating_add(arguments.seeds);
    for seed in (arguments.first..last).step_by(arguments.stride.max(1)) {
        if arguments
            .seconds
            .is_some_and(|most| began.elapsed().as_secs() >= most)
        {
            break;
        }
        let before = processor_micros();
        let mut report = dq_sim::run(seed, arguments.verbose);
        if report.nodes == 3 {
            total.three.0 += report.micros;
            total.three.1 += processor_micros() - before;
        }
        for (what, permille) in &report.shares {
            let what = what.replace(' ', "-");
            total.note_largest(&what, (*permille, seed));
            let key = (what, permille.div_ceil(10));
            *total.shares.entry(key).or_default() += 1;
        }
        if arguments.twice && dq_sim::run(seed, false).hash != report.hash {
            report.failures.push("two runs differ".to_owned());
        }
        total.seeds += 1;
        total.micros += report.micros;
        total.compared += report.compared;
        total.moments += report.moments;
        for (fault, count) in report.faults {
            *total.faults.entry(format!("{fault:?}")).or_default() += count;
        }
        for (site, count) in report.sites {
            *total.sites.entry(site).or_default() += count;
        }
        for (what, permille) in report.reached {
            *total.reached.entry(what.replace(' ', "-")).or_default() += u64::from(permille > 900);
        }
        if !report.failures.is_empty() {
            total.failed += 1;
            println!("seed {seed} failed at commit {}:", commit());
            for why in report.failures {
                println!("  {why}");
            }
        }
    }
    total
}

/// Runs the seeds in several processes: SQLite has one generator of random numbers in each.
fn run_jobs(arguments: &Arguments) -> Total {
    let mut children = Vec::new();
    for job in 0..arguments.jobs {
        let first = arguments.first.saturating_add(job);
        let mut command =
            std::env::current_exe().map_or_else(|_| Command::new("dq-sim"), Command::new);
        command
            .args(["--part", "--first", &first.to_string()])
            .args(["--seeds", &arguments.seeds.saturating_sub(job).to_string()])
            .args(["--stride", &arguments.jobs.to_string()])
            .stdout(Stdio::piped());
        if let Some(seconds) = arguments.seconds {
            command.args(["--seconds", &seconds.to_string()]);
        }
        if arguments.twice {
            command.arg("--twice");
        }
        children.push(command.spawn());
    }
    let mut total = Total::default();
    for child in children {
        let output = child.and_then(std::process::Child::wait_with_output);
        let text = output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        let text = text.trim_end();
        let (failures, line) = text.rsplit_once('\n').unwrap_or(("", text));
        if !failures.is_empty() {
            println!("{failures}");
        }
        if !total.add_line(line) {
            println!("a process ended early: {line}");
            total.failed += 1;
        }
    }
    total
}

impl Total {
    fn note_largest(&mut self, what: &str, share: (u64, u64)) {
        let largest = self.largest.entry(what.to_owned()).or_default();
        *largest = share.max(*largest);
    }

    /// Of everything that was timed: the share of its bound that half of the seeds stayed within, 99 in a
    /// hundred, and all, and the seed that came closest.
    fn quantiles(&self) -> String {
        let mut texts = Vec::new();
        let mut names: Vec<&String> = self.shares.keys().map(|(what, _)| what).collect();
        names.dedup();
        for name in names {
            let of_name = || self.shares.iter().filter(|((what, _), _)| what == name);
            let all: u64 = of_name().map(|(_, count)| count).sum();
            let at = |percent: u64| {
                let mut seen = 0;
                let mut reached = of_name().map(|((_, share), count)| {
                    seen += count;
                    (*share, seen)
                });
                reached.find(|(_, seen)| seen * 100 >= all * percent)
            };
            let shares = [50, 99, 100].map(|percent| at(percent).map_or(0, |(share, _)| share));
            let [half, most, worst] = shares;
            let seed = self.largest.get(name).map_or(0, |(_, seed)| *seed);
            let name = name.replace('-', " ");
            texts.push(format!("{name} {half}/{most}/{worst} (seed {seed})"));
        }
        texts.join(", ")
    }

    /// For the process that started this one.
    fn to_line(&self) -> String {
        let Total {
            seeds,
            failed,
            micros,
            compared,
            moments,
            faults,
            sites,
            shares,
            largest,
            three,
            reached,
        } = self;
        let mut line = format!(
            "total {seeds} {failed} {micros} {compared} {moments} {} {}",
            three.0, three.1
        );
        for (fault, count) in faults {
            line.push_str(&format!(" {fault}={count}"));
        }
        for (what, count) in reached {
            line.push_str(&format!(" {what}:{count}"));
        }
        for (site, count) in sites {
            line.push_str(&format!(" {site}@{count}"));
        }
        for ((what, percent), count) in shares {
            line.push_str(&format!(" {what}/{percent}/{count}"));
        }
        for (what, (permille, seed)) in largest {
            line.push_str(&format!(" {what}^{permille}^{seed}"));
        }
        line
    }

    /// Adds what another process has counted; false if the line says nothing of the kind.
    fn add_line(&mut self, line: &str) -> bool {
        let mut words = line.split(' ');
        if words.next() != Some("total") {
            return false;
        }
        let counts = [
            &mut self.seeds,
            &mut self.failed,
            &mut self.micros,
            &mut self.compared,
            &mut self.moments,
            &mut self.three.0,
            &mut self.three.1,
        ];
        for count in counts {
            let Some(more) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
                return false;
            };
            *count += more;
        }
        for word in words {
            if let Some((fault, count)) = word.split_once('=') {
                *self.faults.entry(fault.to_owned()).or_default() +=
                    count.parse::<u64>().unwrap_or(0);
            } else if let [what, percent, count] = word.split('/').collect::<Vec<_>>()[..] {
                let key = (what.to_owned(), percent.parse().unwrap_or(u64::MAX));
                *self.shares.entry(key).or_default() += count.parse::<u64>().unwrap_or(0);
            } else if let [what, permille, seed] = word.split('^').collect::<Vec<_>>()[..] {
                let share = (permille.parse().unwrap_or(0), seed.parse().unwrap_or(0));
                self.note_largest(what, share);
            } else if let Some((site, count)) = word.split_once('@') {
                *self.sites.entry(site.to_owned()).or_default() +=
                    count.parse::<u64>().unwrap_or(0);
            } else if let Some((what, count)) = word.split_once(':') {
                *self.reached.entry(what.to_owned()).or_default() +=
                    count.parse::<u64>().unwrap_or(0);
            }
        }
        true
    }
}

/// Runs seeds with a broken rule until one fails.
#[cfg(feature = "mutants")]
fn break_rules(name: &str, arguments: &Arguments) -> ExitCode {
    use dq_sim::mutants::{Mutant, break_rule};

    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    for mutant in Mutant::ALL {
        if name != "all" && format!("{mutant:?}") != name {
            continue;
        }
        break_rule(Some(mutant));
        let seeds = arguments.first..arguments.first.saturating_add(arguments.seeds);
        let run = |seed| {
            if arguments.proofs {
                dq_sim::proofs::run(seed, arguments.verbose).failures
            } else {
                dq_sim::run(seed, arguments.verbose).failures
            }
        };
        let found = seeds
            .map(|seed| (seed, run(seed)))
            .find(|(_, failures)| !failures.is_empty());
        match found {
            Some((seed, failures)) => {
                let after = seed - arguments.first + 1;
                println!("{mutant:?}: found after {after}: {}", failures[0]);
            }
            None => {
                missed += 1;
                println!("{mutant:?}: not found in {} seeds", arguments.seeds);
            }
        }
    }
    break_rule(None);
    if missed == 0 {
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
    let git = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// Processor time of this thread, microseconds: what other programs do does not count.
fn processor_micros() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    let micros = time.map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000);
    u64::try_from(micros).unwrap_or(0)
}
