//! Clusters of real processes under kills, freezes, cut and bad networks and a full disk, whose
//! clients' histories have to be linearizable.
//!
//! A longer run, or another one:
//!
//! ```text
//! DQ_FAULTS_SECONDS=3600 DQ_FAULTS_SEED=7 cargo test --release -p compat-tests --test faults \
//!     three_nodes_under_faults_are_linearizable_with_quorum_reads -- --nocapture
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use compat_tests::faults::checked::{SCRATCH, check, checker, in_networks, under_faults};
use compat_tests::faults::history::{Action, History, Operation, Told};
use compat_tests::faults::{self, Bed};
use compat_tests::servers::Kind;
use dq_client::Connection;

fn of_ours(nodes: usize, reads: &str, seconds: u64, seed: u64) {
    under_faults(&vec![Kind::Ours; nodes], false, reads, seconds, seed);
}

#[test]
fn three_nodes_under_faults_are_linearizable_with_quorum_reads() {
    of_ours(3, "quorum", 45, 1);
}

#[test]
fn three_nodes_under_faults_are_linearizable_with_lease_reads() {
    of_ours(3, "lease", 45, 2);
}

#[test]
fn five_nodes_under_faults_are_linearizable_with_quorum_reads() {
    of_ours(5, "quorum", 30, 3);
}

/// A leader is frozen, and when it goes on, cut off by then, it finds a question that was asked after its
/// successor had acknowledged a write. Without a proof of leadership the answer is old.
fn deposed_in_its_sleep(reads: &str, explained: bool) {
    let Some(checker) = checker() else {
        return;
    };
    let path = Path::new(SCRATCH).join(format!("deposed-{reads}.jsonl"));
    let history = History::create(&path).expect("the history can be made");
    if !in_networks(&[Kind::Ours], || ask_the_deposed(reads, &history)) {
        return;
    }
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
            old: false,
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
    // What may be of any earlier moment must have been there at one.
    let older = stale
        .replace("null", "7")
        .replace("\"outcome\"", "\"old\":true,\"outcome\"");
    let again = write
        .replace(":7,", ":8,")
        .replace(":1,\"r", ":3,\"r")
        .replace(":2}", ":4}");
    let late = |line: &str| line.replace(":3,", ":5,").replace(":4}", ":6}");
    let of_seven = late(&older);
    assert_eq!(verdict("old", &[write, &again, &of_seven]).0, Some(0));
    let proven = of_seven.replace("\"old\":true,", "");
    assert_eq!(verdict("proven", &[write, &again, &proven]).0, Some(1));
    let never = of_seven.replace(":7,", ":9,");
    assert_eq!(verdict("never", &[write, &again, &never]).0, Some(1));
    // What was seen has happened, so it stays.
    let seen_early = older.replace(":3,", ":2,");
    assert_eq!(verdict("early", &[&unknown, &seen_early]).0, Some(0));
    let gone = verdict("gone-again", &[&unknown, &seen_early, &later]);
    assert_eq!(gone.0, Some(1), "{}", gone.1);
    let written = write.replace("\"outcome\"", "\"old\":true,\"outcome\"");
    assert_eq!(verdict("written", &[&written]).0, Some(2));

    // An element that was acknowledged and is gone.
    let added = write.replace("write", "add").replace(":7,", ":1,");
    let gone = stale.replace("read", "has");
    assert_eq!(verdict("gone", &[&added, &gone]).0, Some(1));

    assert_eq!(verdict("nonsense", &["{}"]).0, Some(2));
}
