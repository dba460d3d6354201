//! What fuzzing has found, told step by step: the inputs that found it mean something else as soon as a
//! harness changes.

use dq_fuzz::shell::{self, Setup, Shell, opening};
use dq_wire::header::response_type;

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
