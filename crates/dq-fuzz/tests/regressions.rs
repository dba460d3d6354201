//! What fuzzing has found, told step by step: the inputs that found it mean something else as soon as a
//! harness changes.

use bytes::Bytes;
use dq_fuzz::shell::{self, MEMORY_MAX, Setup, Shell, opening};
use dq_raft::{AppendEntries, EntryKind, LogEntry, Message, Payload, Stamp};
use dq_server::peers;
use dq_wire::header::{PROTOCOL_V1, response_type};
use dq_wire::request::Request;

/// A client that has opened database `d`.
fn client(shell: &mut Shell) -> u64 {
    let id = shell.connect();
    shell.send(id, &opening(b"d"));
    shell.turn();
    assert_eq!(shell.answers(id), [response_type::DB]);
    id
}

fn exec(shell: &mut Shell, id: u64, sql: &str) {
    let mut bytes = Vec::new();
    shell::exec(&mut bytes, sql.as_bytes());
    shell.send(id, &bytes);
    shell.turn();
}

#[test]
fn a_writer_that_came_to_its_turn_while_the_disk_was_full_goes_on_when_there_is_space() {
    let mut shell = Shell::start(Setup::of(0, true));
    let (first, second) = (client(&mut shell), client(&mut shell));
    exec(&mut shell, first, "CREATE TABLE t (a)");
    assert_eq!(shell.answers(first), [response_type::RESULT]);
    shell.defer_jobs = true;
    let long = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 30000) \
        INSERT INTO t SELECT n FROM c";
    exec(&mut shell, first, long);
    exec(&mut shell, second, "INSERT INTO t VALUES (1)");
    shell.disk_full(true);
    assert!(shell.run_job(), "the long one is a worker's");
    shell.turn();
    assert_eq!(shell.answers(first).len(), 1, "done or refused");
    assert_eq!(shell.answers(second), [], "it waits for space");
    shell.disk_full(false);
    shell.turn();
    while shell.run_job() {}
    shell.turn();
    assert_eq!(shell.answers(second), [response_type::RESULT]);
}

#[test]
fn a_text_of_many_statements_waits_while_much_of_it_is_not_applied() {
    let mut shell = Shell::start(Setup::of(0, true));
    let id = client(&mut shell);
    exec(&mut shell, id, "CREATE TABLE t (a)");
    shell.settle();
    assert_eq!(shell.answers(id), [response_type::RESULT]);
    shell.defer_disk = true;
    // Six megabytes, where two may be executed ahead.
    exec(
        &mut shell,
        id,
        &"INSERT INTO t VALUES (zeroblob(60000));".repeat(100),
    );
    while shell.run_job() {}
    let ahead = shell.machine.status().executed_ahead;
    assert!((2 << 20..3 << 20).contains(&ahead), "{ahead} bytes");
    assert_eq!(shell.answers(id), []);
    shell.settle();
    assert_eq!(shell.answers(id), [response_type::RESULT]);
    assert_eq!(shell.machine.status().executed_ahead, 0);
}

#[test]
fn an_entry_arrives_that_is_larger_than_what_clients_may_hold() {
    let mut shell = Shell::start(Setup::of(0, false));
    let entry = LogEntry {
        index: 1,
        term: 1,
        kind: EntryKind::Command,
        payload: Payload::from(Bytes::from(vec![0; MEMORY_MAX + (1 << 20)])),
    };
    let message = Message::AppendEntries(AppendEntries {
        term: 1,
        prev_index: 0,
        prev_term: 0,
        leader_commit: 0,
        entries: vec![entry],
        stamp: Stamp::default(),
    });
    let bytes = peers::encode(&message, 0).expect("small enough").concat();
    let id = shell.connect_peer(2);
    let mut hello = PROTOCOL_V1.to_le_bytes().to_vec();
    let address = b"2";
    Request::Connect { id: 2, address }.encode(&mut hello);
    shell.send(id, &hello);
    for part in bytes.chunks(64 << 10) {
        shell.send(id, part);
    }
    shell.settle();
    assert_eq!(shell.machine.status().last_index, 1);
}

#[test]
fn a_client_that_prepares_and_never_finalizes_fills_no_memory() {
    let mut shell = Shell::start(Setup::of(0, true));
    let (hoarder, other) = (client(&mut shell), client(&mut shell));
    let sql = format!("SELECT 1 --{}", "x".repeat(10_000));
    let mut bytes = Vec::new();
    Request::Prepare {
        schema: 0,
        db: 0,
        sql: sql.as_bytes(),
    }
    .encode(&mut bytes);
    for _ in 0..MEMORY_MAX / sql.len() + 1 {
        shell.send(hoarder, &bytes);
    }
    assert!(!shell.connections().contains(&hoarder), "it is cut off");
    exec(&mut shell, other, "CREATE TABLE t (a)");
    shell.settle();
    assert_eq!(shell.answers(other), [response_type::RESULT]);
}
