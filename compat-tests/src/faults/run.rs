//! A run: a cluster of processes, clients, faults, and what must hold afterwards.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::bed::{Bed, CUT, LATENCY_MS, PATIENCE};
use super::history::{Counts, History, Told};
use super::load::{self, DATABASE, Load, MONEY};
use super::namespace::Namespace;
use super::plan::{Fault, Step, Target, plan};
use super::seen::Seen;
use super::wire::Rule;
use crate::differential::rng::Rng;
use crate::servers::Kind;

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kinds of the nodes, all of them voters; at least 3.
    pub nodes: Vec<Kind>,
    /// Whether after each fault, or during it, one of them is replaced by one of the other kind, in the
    /// same directory; all of them in turn, and then again.
    pub replacing: bool,
    /// How those of ours prove that they may answer reads: `quorum`, `lease`.
    pub reads: String,
    /// How long the faults go on.
    pub length: Duration,
    /// How many times as fast they follow each other.
    pub pace: u32,
    /// What faults and requests follow from.
    pub seed: u64,
    /// Clients of ours.
    pub clients: usize,
    /// Requests per second that they try to make together.
    pub rate: f64,
    /// The stock shell, if it is to be one of the clients.
    pub shell: Option<PathBuf>,
    /// Where the history is written.
    pub history: PathBuf,
}

/// What a run gave.
#[derive(Debug)]
pub struct Report {
    /// What must not be; empty is good.
    pub violations: Vec<String>,
    /// The operations.
    pub counts: Counts,
    /// How long clients made requests.
    pub lasted: Duration,
    /// Faults that happened.
    pub faults: Vec<Step>,
    /// Nodes that were replaced by one of the other kind.
    pub replaced: usize,
    /// How nodes of C dqlite have ended by themselves.
    pub c_ended: Vec<String>,
    /// Answers of C dqlite that were old.
    pub stale: u64,
    /// Packets carried and dropped between nodes and clients.
    pub packets: (u64, u64),
}

/// Whether a run is possible here; if not, why.
///
/// # Errors
/// Not root, or no namespaces, or no TUN devices, or no `ip`.
pub fn possible() -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(io::Error::other("network namespaces need root"));
    }
    Namespace::new(0).map(drop)
}

/// Runs faults and load, heals everything, and checks.
///
/// The calling thread ends up in the clients' namespace.
///
/// # Panics
/// When the cluster cannot be set up, or does not come back after the faults.
pub fn run(settings: &Settings) -> Report {
    let mut rng = Rng::new(settings.seed ^ 0x5eed);
    let arguments = [
        "--roles",
        "off",
        "--reads",
        &settings.reads,
        // Often, so that nodes that come back find the log cut off and need a snapshot.
        "--snapshot-threshold",
        "256",
        "--snapshot-trailing",
        "256",
    ];
    let c_arguments = ["--snapshot-threshold", "256", "--snapshot-trailing", "256"];
    let arguments = (&arguments[..], &c_arguments[..]);
    let mut bed = Bed::start_kinds(&settings.nodes, 0, arguments, LATENCY_MS, rng.word());
    let addresses = bed.addresses();
    load::set_up(&load::pool(&addresses)).expect("the tables can be made");
    let load = Load {
        history: History::create(&settings.history).expect("the history can be made"),
        stop: AtomicBool::new(false),
        proves: addresses
            .iter()
            .zip(&settings.nodes)
            .map(|(address, kind)| (address.clone(), AtomicBool::new(*kind == Kind::Ours)))
            .collect(),
        addresses,
        rate: settings.rate / settings.clients as f64,
        next: AtomicI64::new(1),
        lately: Mutex::new(Vec::new()),
        transfers_seen: AtomicI64::new(0),
        transfers_done: AtomicI64::new(0),
    };
    let start = Instant::now();
    let mut faults = Vec::new();
    let mut replaced = 0;
    let seen = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for process in 0..settings.clients {
            let (load, seed) = (&load, rng.word());
            threads.push(scope.spawn(move || load.client(process, seed)));
        }
        if let Some(program) = &settings.shell {
            let (load, seed) = (&load, rng.word());
            threads.push(scope.spawn(move || load.shell(settings.clients, program, seed)));
        }
        // The clients have to be stopped in any case, or this waits for them for ever.
        let stop = StopOnDrop(&load.stop);
        for step in plan(
            settings.seed,
            settings.nodes.len(),
            settings.length,
            settings.pace,
        ) {
            std::thread::sleep(step.quiet);
            bed.revive();
            let (cleanly, sooner) = (rng.percent(50), rng.percent(50));
            let mut replace = |bed: &mut Bed| {
                let node = replaced % bed.servers.len();
                let address = bed.servers[node].address().to_owned();
                load.set_kind(&address, None);
                bed.replace(node, cleanly);
                load.set_kind(&address, Some(bed.servers[node].kind()));
                println!(
                    "           node {} is {:?}",
                    node + 1,
                    bed.servers[node].kind()
                );
                replaced += 1;
            };
            let during = settings.replacing && step.fault.lets_nodes_start() && sooner;
            let after = settings.replacing && !during;
            if inflict(&mut bed, &step, start.elapsed(), |bed| {
                if during {
                    replace(bed);
                }
            }) {
                faults.push(step);
            }
            bed.revive();
            if after {
                replace(&mut bed);
            }
        }
        wait_for_writes(&mut bed);
        drop(stop);
        let mut all = Seen::default();
        for thread in threads {
            let mut seen = thread.join().expect("no client panics");
            all.elements.append(&mut seen.elements);
            all.transfers_unknown += seen.transfers_unknown;
            all.stale += seen.stale;
            all.violations.append(&mut seen.violations);
        }
        all
    });
    let lasted = start.elapsed();

    let mut violations = seen.violations;
    check_content(&load.addresses, &seen.elements, &mut violations);
    let done = load.transfers_done.load(Ordering::SeqCst);
    check_transfers(
        &load.addresses,
        done..=done + seen.transfers_unknown,
        &mut violations,
    );
    bed.revive();
    violations.extend(bed.check_equal(DATABASE).err());
    check_logs(&mut bed, &mut violations);
    let ends = bed.c_ended.iter().filter(|end| !is_its_own(end));
    violations.extend(ends.map(|end| format!("C dqlite ended: {end}")));
    Report {
        violations,
        counts: load.history.finish().expect("the history can be written"),
        lasted,
        faults,
        replaced,
        c_ended: bed.c_ended,
        stale: seen.stale,
        packets: bed.wire.counts(),
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes a fault happen, waits, and makes it good again. False if it cannot be had here.
fn inflict(bed: &mut Bed, step: &Step, at: Duration, meanwhile: impl FnOnce(&mut Bed)) -> bool {
    let count = bed.servers.len();
    let leader = bed.leader(Duration::from_secs(5)).unwrap_or(0);
    let number = |target| match target {
        Target::Leader => leader,
        Target::Follower(after) => (leader + after) % count,
    };
    println!(
        "  {:6.1} s  node {} leads; {step}",
        at.as_secs_f64(),
        leader + 1
    );
    match step.fault {
        Fault::Kill(target) => {
            bed.servers[number(target)]
                .kill()
                .expect("it can be killed");
        }
        Fault::KillAll => {
            for server in &mut bed.servers {
                server.kill().expect("it can be killed");
            }
        }
        Fault::Freeze(target) => bed.servers[number(target)]
            .pause()
            .expect("it can be frozen"),
        Fault::DiskFull => {
            // The last one's. C dqlite does not promise to survive it.
            if bed.servers[count - 1].kind() == Kind::C || !bed.fill_disk() {
                return false;
            }
        }
        Fault::CutFromNodes(target) => bed.cut_from_nodes(number(target), true, true),
        Fault::CutFromAll(target) => bed.cut_from_all(number(target)),
        Fault::Mute(target) => bed.cut_from_nodes(number(target), true, false),
        Fault::Deaf(target) => bed.cut_from_nodes(number(target), false, true),
        Fault::Split(with) => {
            let side = |node: usize| (node + count - leader) % count <= with;
            for a in 0..count {
                for b in (0..count).filter(|&b| side(a) != side(b)) {
                    bed.wire.set(a + 1, b + 1, CUT);
                }
            }
        }
        Fault::CutPair => {
            let (a, b) = ((leader + 1) % count, (leader + 2) % count);
            bed.wire.set(a + 1, b + 1, CUT);
            bed.wire.set(b + 1, a + 1, CUT);
        }
        Fault::Slow {
            delay_ms,
            jitter_ms,
        } => bed.wire.set_all(Rule {
            delay_us: delay_ms * 1000,
            jitter_us: jitter_ms * 1000,
            ..Rule::default()
        }),
        Fault::Lossy(loss_percent) => bed.wire.set_all(Rule {
            loss_percent,
            ..Rule::default()
        }),
    }
    let end = Instant::now() + step.lasting;
    meanwhile(bed);
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    match step.fault {
        Fault::Kill(target) => bed.start_again(number(target)),
        Fault::KillAll => (0..count).for_each(|node| bed.start_again(node)),
        Fault::Freeze(target) => bed.servers[number(target)].resume().expect("it goes on"),
        Fault::DiskFull => bed.empty_disk(),
        _ => bed.heal(),
    }
    true
}

/// Whether C dqlite may end like that without being led to by what ours has sent or left on disk: by an
/// assertion, as its users report them, or at a stop that takes too long. Not by an error of memory,
/// and not by refusing to start.
fn is_its_own(end: &str) -> bool {
    end.contains("Assertion") || end.contains("did not stop")
}

/// No process of ours may have ended on its own.
fn check_logs(bed: &mut Bed, violations: &mut Vec<String>) {
    bed.revive();
    for server in &mut bed.servers {
        let ended = server.exit_status().expect("it is our child");
        let log = server.log();
        if ended.is_some() || log.contains("panicked") {
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            violations.push(format!("node {} ended: {ended:?} {tail:#?}", server.id()));
        }
    }
}

/// Waits until the cluster takes writes again.
fn wait_for_writes(bed: &mut Bed) {
    let deadline = Instant::now() + PATIENCE;
    let pool = load::pool(&bed.addresses());
    while let Err(error) = pool.execute("CREATE TABLE IF NOT EXISTS healed (id)", ()) {
        assert!(
            Instant::now() < deadline,
            "no writes although all is well: {error}"
        );
        bed.revive();
    }
}

/// As many transfers were counted as were acknowledged, and perhaps those of which nobody knows; each once.
fn check_transfers(
    addresses: &[String],
    possible: RangeInclusive<i64>,
    violations: &mut Vec<String>,
) {
    let count = query(addresses, "SELECT count FROM transfers");
    if !matches!(count[..], [count] if possible.contains(&count)) {
        violations.push(format!("{count:?} transfers, not {possible:?}"));
    }
}

/// Asks until there is an answer.
fn query(addresses: &[String], sql: &str) -> Vec<i64> {
    let pool = load::pool(addresses);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pool.query(sql, (), |row| row.get(0)) {
            Ok(rows) => return rows,
            Err(error) => assert!(Instant::now() < deadline, "{sql}: {error}"),
        }
    }
}

/// What was acknowledged is there, what was refused is not, and the bank has its money.
fn check_content(addresses: &[String], elements: &[(i64, Told)], violations: &mut Vec<String>) {
    let there: BTreeSet<i64> = query(addresses, "SELECT id FROM elements")
        .into_iter()
        .collect();
    let wrong = |told: Told, want: bool| -> Vec<i64> {
        let of_kind = elements.iter().filter(|(_, t)| *t == told);
        of_kind
            .map(|(element, _)| *element)
            .filter(|element| there.contains(element) != want)
            .collect()
    };
    let lost = wrong(Told::Ok, true);
    if !lost.is_empty() {
        violations.push(format!("acknowledged and lost: {lost:?}"));
    }
    let undead = wrong(Told::Fail, false);
    if !undead.is_empty() {
        violations.push(format!("refused, but there: {undead:?}"));
    }
    let sum = query(addresses, "SELECT sum(balance) FROM accounts");
    if sum != [MONEY] {
        violations.push(format!("in the end the bank has {sum:?}"));
    }
}

/// Builds the checker for linearizability, with the Go program `go`; it comes to lie in `directory`.
///
/// # Errors
/// It cannot be built; the compiler's words.
pub fn build_checker(go: &Path, directory: &Path) -> io::Result<PathBuf> {
    let program = directory.join("linearize");
    let output = Command::new(go)
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .env("GOFLAGS", "-mod=readonly")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/go/linearize"))
        .output()?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        return Err(io::Error::other(
            String::from_utf8_lossy(&text).into_owned(),
        ));
    }
    Ok(program)
}
