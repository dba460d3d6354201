//! Clusters of real processes under kills, freezes, cut and bad networks and a full disk, whose
//! clients' histories have to be linearizable.
//!
//! A longer run, or another one:
//!
//! ```text
//! DQ_FAULTS_SECONDS=3600 DQ_FAULTS_SEED=7 cargo test --release -p compat-tests --test faults \
//!     three_nodes_under_faults_are_linearizable_with_quorum_reads -- --nocapture
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use compat_tests::faults::history::{Action, History, Operation, Told};
use compat_tests::faults::{self, Bed, Settings};
use compat_tests::servers::{Kind, find_in_path_or_skip};
use dq_client::Connection;

/// One run at a time: two would take each other's processor.
static ONE: Mutex<()> = Mutex::new(());

const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

fn checker() -> Option<PathBuf> {
    let go = find_in_path_or_skip("go")?;
    Some(faults::build_checker(&go, Path::new(SCRATCH)).expect("the checker can be built"))
}

fn check(checker: &Path, history: &Path) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(checker)
        .arg(history)
        .output()
        .expect("the checker can be started");
    let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    (status.code(), text)
}

fn under_faults(nodes: usize, reads: &str, seconds: u64, seed: u64) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(why) = faults::possible() {
        // Not a failure even in CI: some machines do not permit it, whatever is installed.
        eprintln!("SKIPPED: {why}");
        return;
    }
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let (Some(checker), Some(shell), Some(_)) = (
        checker(),
        find_in_path_or_skip("dqlite"),
        find_in_path_or_skip("sqlite3"),
    ) else {
        return;
    };
    let reads = &std::env::var("DQ_FAULTS_READS").unwrap_or_else(|_| reads.to_owned());
    let seed = number("DQ_FAULTS_SEED").unwrap_or(seed);
    let seconds = number("DQ_FAULTS_SECONDS").unwrap_or(seconds);
    let history = Path::new(SCRATCH).join(format!("faults-{nodes}-{reads}-{seed}.jsonl"));
    println!("{nodes} nodes, {reads} reads, seed {seed}, {seconds} s");
    let settings = Settings {
        nodes,
        reads: reads.to_owned(),
        length: Duration::from_secs(seconds),
        seed,
        clients: 32,
        rate: number("DQ_FAULTS_RATE").unwrap_or(2500) as f64,
        shell: Some(shell),
        history: history.clone(),
    };
    // A thread of its own: it stays in the clients' network.
    let report = std::thread::scope(|scope| {
        scope
            .spawn(|| faults::run(&settings))
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let counts = report.counts;
    println!(
        "{} faults; {:.0} requests/s done, {} in all, {} refused, {} unknown; {} packets, {} dropped",
        report.faults.len(),
        counts.ok as f64 / report.lasted.as_secs_f64(),
        counts.ok,
        counts.fail,
        counts.unknown,
        report.packets.0,
        report.packets.1,
    );
    let (code, text) = check(&checker, &history);
    println!("{text}");
    assert!(
        report.violations.is_empty(),
        "seed {seed}: {:#?}",
        report.violations
    );
    assert_eq!(
        code,
        Some(0),
        "seed {seed}: {} is not linearizable",
        history.display()
    );
    assert!(!report.faults.is_empty(), "there was no fault at all");
    assert!(counts.ok > 100 * seconds, "too little was done: {counts:?}");
    let _ = std::fs::remove_file(history);
}

#[test]
fn three_nodes_under_faults_are_linearizable_with_quorum_reads() {
    under_faults(3, "quorum", 45, 1);
}

#[test]
fn three_nodes_under_faults_are_linearizable_with_lease_reads() {
    under_faults(3, "lease", 45, 2);
}

#[test]
fn five_nodes_under_faults_are_linearizable_with_quorum_reads() {
    under_faults(5, "quorum", 30, 3);
}

/// A leader is frozen, and when it goes on, cut off by then, it finds a question that was asked after its
/// successor had acknowledged a write. Without a proof of leadership the answer is old.
fn deposed_in_its_sleep(reads: &str, explained: bool) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(why) = faults::possible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let (true, Some(checker)) = (Kind::Ours.available_or_skip(), checker()) else {
        return;
    };
    let path = Path::new(SCRATCH).join(format!("deposed-{reads}.jsonl"));
    let history = History::create(&path).expect("the history can be made");
    // A thread of its own: it stays in the clients' network.
    std::thread::scope(|scope| {
        scope.spawn(|| ask_the_deposed(reads, &history));
    });
    history.finish().expect("the history can be written");
    let (code, text) = check(&checker, &path);
    assert_eq!(code, Some(i32::from(!explained)), "{reads}: {text}");
    let _ = std::fs::remove_file(path);
}

fn ask_the_deposed(reads: &str, history: &History) {
    let bed = Bed::start(3, 0, &["--roles", "off", "--reads", reads], 1);
    let leader = bed.leader(Duration::from_secs(20)).expect("one leads");
    let record = |process, action, invoked| {
        history.record(&Operation {
            process,
            action,
            key: 1,
            told: Told::Ok,
            invoked,
            returned: history.now(),
        });
    };
    let sql = "INSERT OR REPLACE INTO registers VALUES (1, ?)";
    let addresses = bed.addresses();
    let pool = faults::connect(&faults::impatient(), &addresses, "deposed");
    pool.execute("CREATE TABLE registers (id INTEGER PRIMARY KEY, value)", ())
        .expect("made");
    let invoked = history.now();
    pool.execute(sql, (1,)).expect("written");
    record(0, Action::Write(1), invoked);

    let patient = faults::impatient().request_timeout(Some(Duration::from_secs(10)));
    let one = &addresses[leader..=leader];
    let ask = |connection: &mut Connection<'_>| {
        connection.query_row("SELECT value FROM registers", (), |row| row.get::<i64>(0))
    };
    let readers = faults::connect(&patient, one, "deposed");
    let mut reader = readers.get().expect("a connection");
    assert_eq!(ask(&mut reader).expect("read"), Some(1));

    bed.cut_from_nodes(leader, true, true);
    bed.servers[leader].pause().expect("it can be frozen");
    let others: Vec<String> = (0..3)
        .filter(|&node| node != leader)
        .map(|node| addresses[node].clone())
        .collect();
    let successor = faults::connect(&faults::impatient(), &others, "deposed");
    let deadline = Instant::now() + Duration::from_secs(30);
    let written = loop {
        let invoked = history.now();
        match successor.execute(sql, (2,)) {
            Ok(_) => break invoked,
            Err(error) => assert!(Instant::now() < deadline, "no successor: {error}"),
        }
    };
    record(0, Action::Write(2), written);

    std::thread::scope(|scope| {
        let invoked = history.now();
        let answer = scope.spawn(|| ask(&mut reader));
        // Enough for the question to be there when the node wakes up; more does not matter.
        std::thread::sleep(Duration::from_millis(200));
        bed.servers[leader].resume().expect("it goes on");
        if let Ok(value) = answer.join().expect("no panic") {
            record(1, Action::Read(value), invoked);
        }
    });
}

#[test]
fn a_leader_deposed_in_its_sleep_answers_nothing_old_with_quorum_reads() {
    deposed_in_its_sleep("quorum", true);
}

#[test]
fn a_leader_deposed_in_its_sleep_answers_nothing_old_with_lease_reads() {
    deposed_in_its_sleep("lease", true);
}

/// What C dqlite does; and so this test can fail.
#[test]
fn a_leader_deposed_in_its_sleep_answers_with_old_data_if_it_need_prove_nothing() {
    deposed_in_its_sleep("leader", false);
}

#[test]
fn a_history_that_nothing_explains_is_found() {
    let Some(checker) = checker() else {
        return;
    };
    let verdict = |name: &str, lines: &[&str]| {
        let path = Path::new(SCRATCH).join(format!("history-{name}.jsonl"));
        std::fs::write(&path, lines.join("\n")).expect("it can be written");
        let verdict = check(&checker, &path);
        let _ = std::fs::remove_file(path);
        verdict
    };
    let write =
        r#"{"process":1,"kind":"write","key":"r1","value":7,"outcome":"ok","invoke":1,"return":2}"#;
    let stale = r#"{"process":2,"kind":"read","key":"r1","value":null,"outcome":"ok","invoke":3,"return":4}"#;
    let (code, text) = verdict("stale", &[write, stale]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("key r1: NOT linearizable"), "{text}");

    // The same read while the write is under way is fine; so it is when nobody knows of the write.
    let during = stale.replace(r#""invoke":3"#, r#""invoke":2"#);
    assert_eq!(verdict("during", &[write, &during]).0, Some(0));
    let unknown = write.replace("\"ok\"", "\"unknown\"");
    assert_eq!(verdict("unknown", &[&unknown, stale]).0, Some(0));

    // But once it has been seen it stays seen.
    let seen = stale.replace("null", "7");
    let later = stale.replace(":3,", ":5,").replace(":4}", ":6}");
    assert_eq!(verdict("back", &[&unknown, &seen, &later]).0, Some(1));

    // Two who both found what only one can have replaced.
    let cas = |process: u8, value: u8| {
        format!(
            r#"{{"process":{process},"kind":"cas","key":"r1","value":{value},"expected":7,"swapped":true,"outcome":"ok","invoke":3,"return":4}}"#
        )
    };
    assert_eq!(verdict("cas", &[write, &cas(1, 8)]).0, Some(0));
    assert_eq!(verdict("cas2", &[write, &cas(1, 8), &cas(2, 9)]).0, Some(1));
    // An element that was acknowledged and is gone.
    let added = write.replace("write", "add").replace(":7,", ":1,");
    let gone = stale.replace("read", "has");
    assert_eq!(verdict("gone", &[&added, &gone]).0, Some(1));

    assert_eq!(verdict("nonsense", &["{}"]).0, Some(2));
}
