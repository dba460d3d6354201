//! What was acknowledged is there after a crash, and whole; and a directory can be handed from one
//! kind of node to the other.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use compat_tests::servers::{Kind, Server};
use dq_client::{Config, MemStore, Outcome, Pool, RetryPolicy};

const WRITERS: i64 = 6;
const KILLS: usize = 8;

fn pool(server: &Server) -> Pool {
    Config::new()
        .retry(RetryPolicy::never())
        .request_timeout(Some(Duration::from_secs(10)))
        .connect(MemStore::new([server.address()]), "durable")
        .expect("the settings are fine")
}

/// Inserts pairs, each in a transaction of its own, and notes those that were acknowledged, and those
/// of which nobody can know.
fn write(pool: &Pool, writer: i64, until: &AtomicBool, acked: &Mutex<BTreeSet<i64>>) {
    let mut token = writer;
    while !until.load(Ordering::Relaxed) {
        token += WRITERS;
        let done = pool.transaction(RetryPolicy::never(), |tx| {
            tx.execute("INSERT INTO left_half VALUES (?)", (token,))?;
            tx.execute("INSERT INTO right_half VALUES (?)", (token,))?;
            Ok(())
        });
        match done {
            Ok(()) => {
                acked.lock().expect("no writer panicked").insert(token);
            }
            Err(error) if error.outcome() == Outcome::Done => panic!("{error}"),
            // While the server is down there is nothing to do; do not spin on it.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed_under_load() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(Kind::Ours).expect("the server starts");
    let setup = pool(&server);
    setup
        .execute("CREATE TABLE left_half (token INTEGER PRIMARY KEY)", ())
        .expect("created");
    setup
        .execute("CREATE TABLE right_half (token INTEGER PRIMARY KEY)", ())
        .expect("created");
    let acked = Mutex::new(BTreeSet::new());
    for round in 0..KILLS {
        let stop = AtomicBool::new(false);
        let before = acked.lock().expect("no writer panicked").len();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (pool, stop, acked) = (pool(&server), &stop, &acked);
                let first = writer + (round as i64 + 1) * 10_000_000 * WRITERS;
                scope.spawn(move || write(&pool, first, stop, acked));
            }
            // Let each round make some progress, however slow the machine is.
            while acked.lock().expect("no writer panicked").len() < before + 50 {
                std::thread::sleep(Duration::from_millis(2));
            }
            server.kill().expect("it can be killed");
            stop.store(true, Ordering::Relaxed);
        });
        server.start_again().expect("it starts after a crash");
        let check = pool(&server);
        let left: BTreeSet<i64> = tokens(&check, "left_half");
        let right: BTreeSet<i64> = tokens(&check, "right_half");
        assert_eq!(left, right, "round {round}: half a transaction");
        let acked = acked.lock().expect("no writer panicked");
        let lost: Vec<_> = acked.difference(&left).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        let sound: Vec<String> = check
            .query("PRAGMA integrity_check", (), |row| row.get(0))
            .expect("it can be checked");
        assert_eq!(sound, ["ok"]);
    }
}

fn tokens(pool: &Pool, table: &str) -> BTreeSet<i64> {
    pool.query(&format!("SELECT token FROM {table}"), (), |row| row.get(0))
        .expect("the table can be read")
        .into_iter()
        .collect()
}

/// Everything in the database, in a form that two kinds of server agree on.
fn content(pool: &Pool) -> Vec<(i64, i64, String)> {
    pool.query(
        "SELECT id, length(body), name FROM item ORDER BY id",
        (),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
    .expect("the table can be read")
}

fn write_items(pool: &Pool, from: i64, count: i64) {
    for id in from..from + count {
        let name = format!("item {id}");
        pool.execute(
            "INSERT INTO item VALUES (?, ?, zeroblob(?))",
            (id, name.as_str(), id * 37 % 9000),
        )
        .expect("inserted");
    }
    pool.execute("DELETE FROM item WHERE id % 7 = 3", ())
        .expect("deleted");
}

/// Writes with one kind, crashes or stops it, reads and writes with the other, and back again.
fn exchange(first: Kind, second: Kind, writes: i64) {
    if !(first.available_or_skip() && second.available_or_skip()) {
        return;
    }
    let mut server = Server::start_single(first).expect("the server starts");
    let setup = pool(&server);
    setup
        .execute(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, body BLOB)",
            (),
        )
        .expect("created");
    let mut next = 1;
    for (round, kind) in [second, first, second].into_iter().enumerate() {
        let before = {
            let pool = pool(&server);
            write_items(&pool, next, writes);
            next += writes;
            content(&pool)
        };
        assert!(!before.is_empty());
        if round == 1 {
            server.stop().expect("it stops");
        } else {
            server.kill().expect("it can be killed");
        }
        server.change_kind(kind).expect("it does not run");
        server
            .start_again()
            .unwrap_or_else(|error| panic!("{kind:?}: {error}\n{}", server.log()));
        server.wait_leader(server.address()).expect("it leads");
        let pool = pool(&server);
        assert_eq!(
            content(&pool),
            before,
            "round {round}: {kind:?} reads what was written"
        );
        let sound: Vec<String> = pool
            .query("PRAGMA integrity_check", (), |row| row.get(0))
            .expect("it can be checked");
        assert_eq!(sound, ["ok"]);
    }
}

#[test]
fn a_directory_of_ours_opens_in_c_and_back() {
    exchange(Kind::Ours, Kind::C, 60);
}

#[test]
fn a_directory_of_c_opens_in_ours_and_back() {
    exchange(Kind::C, Kind::Ours, 60);
}

/// More than the 1024 entries after which both kinds take a snapshot.
#[test]
fn directories_with_snapshots_are_exchanged_too() {
    exchange(Kind::Ours, Kind::C, 1100);
    exchange(Kind::C, Kind::Ours, 1100);
}
