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
use std::time::Duration;

use compat_tests::faults::{self, Settings};
use compat_tests::servers::{Kind, find_in_path_or_skip};

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
