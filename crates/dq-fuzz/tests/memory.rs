//! Bounds on memory, each brought to where it holds. After every step of a node the harness compares all that
//! it holds with the bounds (`Machine::usage`), so most of these say only what fills it.

use std::thread;

use dq_fuzz::shell::{self, MEMORY_MAX, Setup, Shell, opening};
use dq_raft::{AppendEntries, EntryKind, LogEntry, Message, Stamp};
use dq_server::exec::{self, Outcome};
use dq_wire::BARRIER_PAYLOAD;
use dq_wire::header::response_type;

/// A client that has opened a database.
fn client_of(shell: &mut Shell, database: &str) -> u64 {
    let id = shell.connect();
    shell.send(id, &opening(database.as_bytes()));
    shell.turn();
    assert_eq!(shell.answers(id), [response_type::DB]);
    id
}

fn client(shell: &mut Shell) -> u64 {
    client_of(shell, "d")
}

fn exec(shell: &mut Shell, id: u64, sql: &str) {
    let mut bytes = Vec::new();
    shell::exec(&mut bytes, sql.as_bytes());
    shell.send(id, &bytes);
    shell.turn();
}

fn query(shell: &mut Shell, id: u64, sql: &str) {
    let mut bytes = Vec::new();
    shell::query(&mut bytes, sql.as_bytes());
    shell.send(id, &bytes);
    shell.turn();
}

fn databases(shell: &Shell) -> Vec<String> {
    let names = shell.machine.databases().map(|(name, _)| name);
    names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// A message of a leader of this term, with one entry behind all others.
fn barriers(shell: &Shell, term: u64, behind: u64, count: u64) -> Message {
    let entries = (behind + 1..=behind + count).map(|index| LogEntry {
        index,
        term,
        kind: EntryKind::Barrier,
        payload: bytes::Bytes::from_static(&BARRIER_PAYLOAD).into(),
    });
    Message::AppendEntries(AppendEntries {
        term,
        prev_index: behind,
        prev_term: shell.machine.driver().term_at(behind).expect("it is there"),
        leader_commit: behind + count,
        entries: entries.collect(),
        stamp: Stamp::default(),
    })
}

#[test]
fn names_that_are_opened_and_never_written_are_forgotten_with_their_connections() {
    let mut shell = Shell::start(Setup::of(0, true));
    let writer = client_of(&mut shell, "written");
    exec(&mut shell, writer, "CREATE TABLE t (a)");
    shell.close(writer);
    for number in 0..100 {
        let id = client_of(&mut shell, &format!("name {number}"));
        query(&mut shell, id, "SELECT * FROM sqlite_schema");
        exec(&mut shell, id, "BEGIN; CREATE TABLE t (a); ROLLBACK");
        assert_eq!(databases(&shell).len(), 2);
        shell.close(id);
    }
    assert_eq!(databases(&shell), ["written"]);
    // Nor do they outlast the leadership in which they were opened.
    let _reader = client_of(&mut shell, "read");
    assert_eq!(databases(&shell), ["read", "written"]);
    let last = shell.machine.status().last_index;
    let message = barriers(&shell, 9, last, 1);
    shell.say(2, &message);
    assert!(!shell.machine.status().leading);
    assert_eq!(databases(&shell), ["written"]);
}

#[test]
fn a_database_stays_whose_deletion_was_not_committed() {
    let mut shell = Shell::start(Setup::of(0, true));
    let id = client(&mut shell);
    exec(&mut shell, id, "CREATE TABLE t (a)");
    shell.settle();
    let before = shell.machine.status().last_index;
    shell.answers(id);
    shell.defer_disk = true;
    exec(
        &mut shell,
        id,
        "BEGIN IMMEDIATE; PRAGMA delete_database; COMMIT",
    );
    assert_eq!(shell.machine.status().last_index, before + 1);
    let message = barriers(&shell, 9, before, 1);
    shell.say(2, &message);
    shell.settle();
    assert_eq!(shell.machine.status().applied_index, before + 1);
    assert_eq!(databases(&shell), ["d"]);
    shell.pass(10_000);
    shell.settle();
    assert!(shell.machine.status().leading, "the only voter leads again");
    let id = client(&mut shell);
    shell.close(id);
    assert_eq!(databases(&shell), ["d"]);
    let id = client(&mut shell);
    exec(&mut shell, id, "INSERT INTO t VALUES (1)");
    shell.settle();
    assert_eq!(shell.answers(id), [response_type::RESULT]);
}

#[test]
fn a_client_that_reads_no_answers_is_asked_no_more() {
    let mut shell = Shell::start(Setup::of(0, true));
    let id = client(&mut shell);
    shell.read(id, false);
    for _ in 0..1000 {
        query(&mut shell, id, "SELECT zeroblob(4000)");
    }
    let answered = shell.answers(id).len();
    assert!((2..100).contains(&answered), "{answered} are answered");
    assert!(shell.machine.status().client_memory < MEMORY_MAX / 2);
    shell.read(id, true);
    let more = shell.answers(id).len();
    assert!(more > answered, "it goes on when the client reads");
}

#[test]
fn of_many_clients_that_read_no_answers_those_with_most_are_cut() {
    let mut shell = Shell::start(Setup::of(0, true));
    let other = client(&mut shell);
    let hoarders: Vec<u64> = (0..40).map(|_| client(&mut shell)).collect();
    for id in &hoarders {
        shell.read(*id, false);
        query(&mut shell, *id, "SELECT zeroblob(100000)");
    }
    let left = shell.connections();
    let left = hoarders.iter().filter(|id| left.contains(id)).count();
    assert!((1..40).contains(&left), "{left} are left");
    query(&mut shell, other, "SELECT 1");
    assert_eq!(shell.answers(other), [response_type::ROWS]);
}

#[test]
fn a_reader_that_holds_too_much_is_interrupted_also_if_it_begins_to_run_later() {
    let mut shell = Shell::start(Setup::of(0, true));
    let (reader, writer) = (client(&mut shell), client(&mut shell));
    exec(
        &mut shell,
        writer,
        "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(1500000))",
    );
    for _ in 0..3 {
        exec(
            &mut shell,
            writer,
            "INSERT INTO t VALUES (randomblob(1500000))",
        );
    }
    shell.defer_jobs = true;
    // Far longer than the test may take.
    let long = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200000000) \
        SELECT count(*) FROM c, (SELECT a FROM t LIMIT 1)";
    query(&mut shell, reader, long);
    let (id, mut job) = loop {
        let (id, job) = shell.take_job().expect("it takes more than one piece");
        if !job.inline {
            break (id, job);
        }
        shell.job_is_back(id, exec::run(*job));
    };
    assert_eq!(id, reader);
    shell.defer_jobs = false;
    for row in 1..=4 {
        let sql = format!("UPDATE t SET a = randomblob(1500000) WHERE rowid = {row}");
        exec(&mut shell, writer, &sql);
    }
    assert_eq!(shell.answers(writer), [response_type::RESULT; 8]);
    // Told already, which a statement that has not begun does not hear.
    job.inline = false;
    let worker = thread::spawn(move || exec::run(*job));
    while !worker.is_finished() {
        shell.pass(500);
        thread::yield_now();
    }
    let finished = worker.join().expect("no panic");
    let interrupted = matches!(&finished.outcome, Outcome::Failed { code: 9, .. });
    assert!(interrupted, "{:?}", finished.outcome);
    shell.job_is_back(id, finished);
    assert_eq!(shell.answers(reader), [response_type::FAILURE]);
}

#[test]
fn entries_that_hold_next_to_nothing_lead_to_a_snapshot_as_well() {
    let mut shell = Shell::start(Setup::of(8, true));
    let id = client(&mut shell);
    exec(
        &mut shell,
        id,
        "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(2000000))",
    );
    shell.settle();
    // Half as much as the database, at what an entry takes at least.
    for _ in 0..16 {
        let last = shell.machine.status().last_index;
        let message = barriers(&shell, 9, last, 1000);
        shell.say(2, &message);
        shell.settle();
    }
    let last = shell.machine.status().last_index;
    assert!(last > 16_000);
    let in_memory = last - shell.machine.driver().log_begins_after();
    assert!(in_memory < 15_000, "{in_memory} of {last}");
}
