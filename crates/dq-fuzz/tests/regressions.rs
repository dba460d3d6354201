//! What fuzzing has found, told step by step: the inputs that found it mean something else as soon as a
//! harness changes.

use dq_fuzz::shell::{Setup, Shell};
use dq_wire::ParamsBuf;
use dq_wire::header::{PROTOCOL_V1, response_type};
use dq_wire::request::Request;

/// A client that has opened database `d`.
fn client(shell: &mut Shell) -> u64 {
    let id = shell.connect();
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    Request::Open {
        name: b"d",
        flags: 0,
        vfs: b"",
    }
    .encode(&mut bytes);
    shell.send(id, &bytes);
    shell.turn();
    assert_eq!(shell.answers(id), [response_type::DB]);
    id
}

fn exec(shell: &mut Shell, id: u64, sql: &str) {
    let mut bytes = Vec::new();
    Request::ExecSql {
        db: 0,
        sql: sql.as_bytes(),
        params: ParamsBuf::default().as_params(),
    }
    .encode(&mut bytes);
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
