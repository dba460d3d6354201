//! What the client makes of servers that fail in ways that real ones do at bad moments.

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dq_client::{
    Config, ErrorKind, MemStore, Member, NodeStore, Outcome, Pool, Result, RetryPolicy, Role,
};
use dq_wire::{Request, Response, RowsEnd};

use fake::{Action, FakeServer, failure, response, rows};

const NOT_LEADER: u64 = 10250;
const LEADERSHIP_LOST: u64 = 10506;

/// Short pauses, and no refreshing of the store: the fake servers know no members.
fn config() -> Config {
    Config::new()
        .backoff(Duration::from_millis(1), Duration::from_millis(5))
        .acquire_timeout(Duration::from_secs(5))
}

fn pool(server: &FakeServer) -> Pool {
    config()
        .connect(Fixed(vec![server.address.clone()]), "db")
        .expect("connects")
}

/// A store that never changes.
struct Fixed(Vec<String>);

impl NodeStore for Fixed {
    fn get(&self) -> Result<Vec<Member>> {
        let member = |address: &String| Member {
            id: 0,
            address: address.clone(),
            role: Role::Voter,
        };
        Ok(self.0.iter().map(member).collect())
    }

    fn set(&self, _: &[Member]) -> Result<()> {
        Ok(())
    }
}

/// Does something special at the first statement, and says yes to the others.
fn once(special: impl Fn() -> Action + Send + 'static) -> FakeServer {
    let mut done = false;
    FakeServer::start(move |request| {
        let statement = matches!(request, Request::ExecSql { .. } | Request::QuerySql { .. });
        let first = statement && !done;
        done |= statement;
        first.then(&special)
    })
}

#[test]
fn a_write_that_is_lost_after_it_was_sent_is_not_sent_again() {
    for special in [|| Action::Close, || Action::SendAndClose(vec![1, 2, 3])] {
        let server = once(special);
        let error = pool(&server)
            .execute("INSERT", ())
            .expect_err("the connection is lost");
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::Io, Outcome::Unknown)
        );
        assert_eq!(server.statements(), ["INSERT"]);
    }
    let server = once(|| Action::Send(failure(LEADERSHIP_LOST, "leadership lost")));
    let error = pool(&server)
        .execute("INSERT", ())
        .expect_err("leadership is lost");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::LeadershipLost, Outcome::Unknown)
    );
    assert_eq!(server.statements(), ["INSERT"]);
}

#[test]
fn an_idempotent_write_is_sent_again() {
    let server = once(|| Action::Close);
    let store = Fixed(vec![server.address.clone()]);
    let pool = config()
        .retry(RetryPolicy::default().idempotent())
        .connect(store, "db");
    pool.expect("connects")
        .execute("INSERT", ())
        .expect("the second time");
    assert_eq!(server.statements(), ["INSERT", "INSERT"]);
}

#[test]
fn a_lost_select_is_sent_again_and_a_lost_returning_is_not() {
    let server = once(|| Action::Close);
    let got = pool(&server).query("SELECT n", (), |row| row.get::<i64>(0));
    assert_eq!(got.expect("the second time"), [1]);
    let server = once(|| Action::Close);
    let got = pool(&server).query("INSERT RETURNING n", (), |row| row.get::<i64>(0));
    assert_eq!(got.expect_err("lost").outcome(), Outcome::Unknown);
    assert_eq!(server.statements().len(), 1);
}

#[test]
fn what_was_refused_is_tried_again() {
    for (code, message) in [
        (NOT_LEADER, "not leader"),
        (5, "locked"),
        (12, "no database opened"),
    ] {
        let server = once(move || Action::Send(failure(code, message)));
        pool(&server)
            .execute("INSERT", ())
            .expect("the second time");
        assert_eq!(server.statements(), ["INSERT", "INSERT"], "{code}");
    }
}

#[test]
fn a_refused_script_is_not_tried_again() {
    // Its first statement may have been carried out before the second was refused.
    let server = once(|| Action::Send(failure(5, "database is locked")));
    let error = pool(&server)
        .execute("INSERT; INSERT", ())
        .expect_err("refused");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Busy, Outcome::Unknown)
    );
    assert_eq!(server.statements().len(), 1);
}

#[test]
fn a_transaction_is_tried_again_before_its_commit_and_not_after() {
    for (at, code, tries) in [
        ("BEGIN IMMEDIATE", 5, 2),
        ("INSERT", 517, 2),
        ("INSERT", 10506, 2),
        ("COMMIT", 10506, 1),
    ] {
        let mut failed = false;
        let server = FakeServer::start(move |request| match request {
            Request::ExecSql { sql, .. } if *sql == at.as_bytes() && !failed => {
                failed = true;
                Some(Action::Send(failure(code, "failed once")))
            }
            _ => None,
        });
        let mut runs = 0;
        let result = pool(&server).transaction(RetryPolicy::default(), |tx| {
            runs += 1;
            tx.execute("INSERT", ())
        });
        assert_eq!(result.is_ok(), tries == 2, "{at} {code}: {result:?}");
        let begun = server
            .statements()
            .iter()
            .filter(|sql| *sql == "BEGIN IMMEDIATE")
            .count();
        assert_eq!(begun, tries, "{at} {code}");
        let committed = server
            .statements()
            .iter()
            .filter(|sql| *sql == "COMMIT")
            .count();
        assert_eq!(committed, 1, "{at} {code}");
    }
}

#[test]
fn after_an_automatic_rollback_nothing_runs_outside_of_the_transaction() {
    const FULL: u64 = 13;
    let server = FakeServer::start(|request| match request {
        Request::ExecSql { sql: b"fill", .. } => {
            Some(Action::Send(failure(FULL, "database or disk is full")))
        }
        _ => None,
    });
    let pool = pool(&server);
    let mut connection = pool.get().expect("a connection");
    let mut transaction = connection
        .begin(dq_client::TxMode::Deferred)
        .expect("begun");
    transaction.execute("fill", ()).expect_err("full");
    let error = transaction
        .execute("more", ())
        .expect_err("the transaction is gone");
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(server.statements(), ["BEGIN", "fill"]);
}

#[test]
fn a_leader_under_another_name_is_dialled_by_the_name_that_it_reports() {
    let leader = FakeServer::start(|_| None);
    let by_name = leader.address.replace("127.0.0.1", "localhost");
    let pool = config()
        .connect(Fixed(vec![by_name]), "db")
        .expect("connects");
    assert_eq!(pool.get().expect("a connection").address(), leader.address);
}

#[test]
fn the_leader_is_found_behind_dead_and_ignorant_members() {
    let leader = FakeServer::start(|_| None);
    let address = leader.address.clone();
    let follower = FakeServer::start(move |request| {
        let answer = Response::Server {
            id: 1,
            address: address.as_bytes(),
        };
        matches!(request, Request::Leader).then(|| Action::Send(response(&answer)))
    });
    let ignorant = FakeServer::start(|request| {
        let answer = Response::Server {
            id: 0,
            address: b"",
        };
        matches!(request, Request::Leader).then(|| Action::Send(response(&answer)))
    });
    let dead = FakeServer::start(|_| Some(Action::Close));
    let addresses = vec![dead.address, ignorant.address, follower.address];
    for probes in [1, 10] {
        let store = Fixed(addresses.clone());
        let pool = config()
            .probes(probes)
            .connect(store, "db")
            .expect("connects");
        assert_eq!(pool.get().expect("a connection").address(), leader.address);
    }
}

#[test]
fn without_a_leader_the_error_says_what_each_member_said() {
    let ignorant = FakeServer::start(|request| {
        let answer = Response::Server {
            id: 0,
            address: b"",
        };
        matches!(request, Request::Leader).then(|| Action::Send(response(&answer)))
    });
    let dead = FakeServer::start(|_| Some(Action::Close));
    let store = Fixed(vec![ignorant.address.clone(), dead.address.clone()]);
    let error = config()
        .acquire_timeout(Duration::from_millis(500))
        .connect(store, "db")
        .expect_err("nobody leads");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::NoLeader, Outcome::NotDone)
    );
    assert!(
        error
            .message()
            .contains(&format!("{}: knows no leader", ignorant.address)),
        "{error}"
    );
    assert!(error.message().contains(&dead.address), "{error}");

    let error = config()
        .acquire_timeout(Duration::ZERO)
        .connect(MemStore::default(), "db");
    assert_eq!(error.expect_err("no members").kind(), ErrorKind::NoLeader);
}

#[test]
fn a_full_pool_is_a_timeout_and_a_returned_connection_ends_the_wait() {
    let server = FakeServer::start(|_| None);
    let store = Fixed(vec![server.address.clone()]);
    let pool = config()
        .pool_size(1)
        .acquire_timeout(Duration::from_millis(20));
    let pool = pool.connect(store, "db").expect("connects");
    let held = pool.get().expect("the only one");
    let error = pool.get().expect_err("none is left");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Timeout, Outcome::NotDone)
    );
    drop(held);
    pool.get().expect("it is back");
}

#[test]
fn a_server_that_hangs_is_a_timeout_with_an_unknown_outcome() {
    let server = once(|| Action::Hang);
    let store = Fixed(vec![server.address.clone()]);
    let pool = config()
        .request_timeout(Some(Duration::from_millis(50)))
        .connect(store, "db");
    let pool = pool.expect("connects");
    let start = Instant::now();
    let error = pool.execute("INSERT", ()).expect_err("no answer");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Timeout, Outcome::Unknown)
    );
    assert!(start.elapsed() < Duration::from_secs(4));
    pool.execute("INSERT", ()).expect("another connection");
}

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    for nonsense in [
        response(&Response::Empty),
        vec![0xff; 64],
        vec![0; 64],
        rows(&[1], RowsEnd::Done),
        [&[2, 0, 0, 0, 6, 0, 0, 0][..], &[0; 8]].concat(),
    ] {
        let server = once(move || Action::SendAndClose(nonsense.clone()));
        let pool = pool(&server);
        let error = pool
            .execute("INSERT", ())
            .expect_err("no answer to EXEC_SQL");
        assert!(
            matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Io),
            "{error:?}"
        );
        assert_eq!(error.outcome(), Outcome::Unknown);
        pool.execute("INSERT", ()).expect("another connection");
    }
}

#[test]
fn a_query_may_fail_after_its_first_rows() {
    let server = once(|| {
        let bytes = [rows(&[1, 2], RowsEnd::Part), failure(1, "integer overflow")].concat();
        Action::Send(bytes)
    });
    let pool = pool(&server);
    let mut connection = pool.get().expect("a connection");
    let mut got = connection.query("SELECT n", ()).expect("rows");
    for want in [1, 2] {
        let row = got.next().expect("no failure yet").expect("a row");
        assert_eq!(row.get::<i64>("n").expect("a number"), want);
    }
    assert_eq!(
        got.next().expect_err("the failure").message(),
        "integer overflow"
    );
    assert!(got.next().expect("ended").is_none());
    drop(got);
    connection
        .execute("INSERT", ())
        .expect("the connection is still good");
}

#[test]
fn an_interrupted_query_ends_with_an_error_and_the_connection_goes_on() {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&interrupted);
    let server = FakeServer::start(move |request| match request {
        Request::QuerySql {
            sql: b"endless", ..
        } => Some(Action::Send(rows(&[1], RowsEnd::Part))),
        Request::Interrupt { .. } => {
            seen.store(true, Ordering::SeqCst);
            None
        }
        _ => None,
    });
    let pool = pool(&server);
    let mut connection = pool.get().expect("a connection");
    let handle = connection.interrupt_handle();
    handle.interrupt().expect("nothing to do");
    let mut got = connection.query("endless", ()).expect("rows");
    assert!(got.next().expect("a row").is_some());
    assert!(
        !interrupted.load(Ordering::SeqCst),
        "an idle session is not interrupted"
    );
    handle.interrupt().expect("sent");
    handle.interrupt().expect("once is enough");
    let error = got.next().expect_err("interrupted");
    assert_eq!(error.sqlite_code(), Some(9));
    drop(got);
    assert!(interrupted.load(Ordering::SeqCst));
    let one = connection
        .query_row("SELECT n", (), |row| row.get::<i64>(0))
        .expect("works");
    assert_eq!(one, Some(1));
}

#[test]
fn an_abandoned_result_without_end_costs_the_connection_only() {
    let server = FakeServer::start(|request| match request {
        // As C servers do: all rows first, then the answer to the INTERRUPT.
        Request::QuerySql { sql: b"huge", .. } => {
            Some(Action::Send(rows(&[7; 4096], RowsEnd::Part).repeat(100)))
        }
        _ => None,
    });
    let pool = pool(&server);
    let mut connection = pool.get().expect("a connection");
    let mut got = connection.query("huge", ()).expect("rows");
    assert!(got.next().expect("a row").is_some());
    drop(got);
    assert!(connection.is_closed());
    drop(connection);
    pool.execute("INSERT", ()).expect("another connection");
}

#[test]
fn a_connection_that_the_server_closed_while_idle_is_not_used() {
    let server = FakeServer::start(|request| match request {
        Request::ExecSql {
            sql: b"last words", ..
        } => Some(Action::SendAndClose(response(&Response::Result {
            last_insert_id: 1,
            rows_affected: 1,
        }))),
        _ => None,
    });
    let pool = pool(&server);
    pool.execute("last words", ()).expect("answered");
    // The close may take a moment to arrive; until then the connection looks well.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match pool.execute("INSERT", ()) {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}
