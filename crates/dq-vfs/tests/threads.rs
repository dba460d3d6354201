//! Handles move between threads, and connections of one database run on several at once.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use common::{Node, Random, Value, execute, next_number};
use dq_vfs::{BindRef, ColumnRef, Db, Grant, Step, Version, Vfs, Write};

#[test]
fn a_connection_moves_between_threads_with_its_statements() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    let stmt = db
        .prepare(b"INSERT INTO t VALUES (?)")
        .unwrap()
        .stmt
        .unwrap();
    let mut state = (node, db, stmt);
    for i in 0..50 {
        state = thread::spawn(move || {
            let (mut node, mut db, mut stmt) = state;
            db.grant(node.grant());
            stmt.bind(1, BindRef::Integer(i)).unwrap();
            assert_eq!(stmt.step().unwrap(), Step::Done);
            stmt.reset();
            node.publish(&mut db);
            db.release();
            (node, db, stmt)
        })
        .join()
        .unwrap();
    }
    let (mut node, mut db, _stmt) = state;
    assert_eq!(
        node.must(&mut db, "SELECT sum(x) FROM t"),
        [[Value::Integer(49 * 25)]]
    );
}

#[test]
fn readers_on_many_threads_each_see_one_version() {
    let mut node = Node::new();
    let mut writer = node.open();
    node.must(
        &mut writer,
        "CREATE TABLE t (x); INSERT INTO t VALUES (0), (0), (0)",
    );
    thread::scope(|scope| {
        let mut senders = Vec::new();
        for _ in 0..4 {
            let (sender, versions) = mpsc::sync_channel::<Version>(4);
            senders.push(sender);
            let mut db = node.open();
            scope.spawn(move || {
                let mut stmt = db.prepare_reading("SELECT min(x), max(x) FROM t", &versions);
                let mut last = 0;
                for version in versions {
                    db.grant(Grant {
                        pin: version,
                        write: Write::None,
                    });
                    assert_eq!(stmt.step().unwrap(), Step::Row);
                    let ColumnRef::Integer(low) = stmt.column(0) else {
                        panic!()
                    };
                    assert_eq!(
                        stmt.column(1),
                        ColumnRef::Integer(low),
                        "all rows of one version"
                    );
                    assert!(low >= last);
                    last = low;
                    stmt.reset();
                    db.release();
                }
                assert!(last > 0);
            });
        }
        for _ in 0..500 {
            node.must(&mut writer, "UPDATE t SET x = x + 1");
            for sender in &senders {
                sender.send(node.head.clone()).unwrap();
            }
        }
    });
}

trait PrepareReading {
    fn prepare_reading(&mut self, sql: &str, versions: &mpsc::Receiver<Version>) -> dq_vfs::Stmt;
}

impl PrepareReading for Db {
    /// Prepares with the first version that arrives.
    fn prepare_reading(&mut self, sql: &str, versions: &mpsc::Receiver<Version>) -> dq_vfs::Stmt {
        self.grant(Grant {
            pin: versions.recv().unwrap(),
            write: Write::None,
        });
        self.prepare(sql.as_bytes()).unwrap().stmt.unwrap()
    }
}

#[test]
fn databases_on_many_threads_do_not_mind_each_other() {
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            thread::spawn(move || {
                let mut node = Node::new();
                let mut db = node.open();
                let mut random = Random::new(seed);
                node.must(&mut db, "CREATE TABLE t (k INTEGER PRIMARY KEY, v)");
                for _ in 0..300 {
                    let (k, size) = (random.below(100), random.below(9000));
                    node.must(
                        &mut db,
                        &format!("REPLACE INTO t VALUES ({k}, zeroblob({size}))"),
                    );
                    if random.one_in(20) {
                        node.must(&mut db, "DELETE FROM t WHERE k % 3 = 0; VACUUM");
                    }
                    if random.one_in(20) {
                        db = node.open();
                    }
                }
                node.head.quick_check(&node.vfs).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_statement_on_another_thread_than_its_connection_is_safe() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "CREATE TABLE t (x); INSERT INTO t VALUES ('some text')",
    );
    db.grant(node.read_grant());
    let mut stmt = db.prepare(b"SELECT x FROM t").unwrap().stmt.unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..2000 {
                assert_eq!(stmt.step().unwrap(), Step::Row);
                assert_eq!(stmt.column(0), ColumnRef::Text(b"some text"));
                stmt.reset();
            }
        });
        for _ in 0..200 {
            execute(&mut db, "SELECT * FROM t, sqlite_schema", &[]).unwrap();
        }
    });
}

#[test]
fn an_interrupt_from_another_thread_ends_the_statement_and_leaves_no_trace() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "PRAGMA cache_size = 5; CREATE TABLE t (x)");
    let handle = db.interrupt_handle();
    let insert = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                  SELECT i FROM n";
    let sum =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";
    for (before, sql) in [
        ("", insert),
        ("", sum),
        ("BEGIN; INSERT INTO t VALUES (1)", insert),
    ] {
        node.must(&mut db, before);
        // What runs is interrupted, not its preparation, which rolls nothing back.
        db.grant(node.grant());
        let prepared = db.prepare(sql.as_bytes()).unwrap();
        let mut stmt = prepared.stmt.unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (handle, over) = (handle.clone(), &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    handle.interrupt();
                    thread::yield_now();
                }
            });
            let error = stmt.step().unwrap_err();
            over.store(true, Ordering::Relaxed);
            assert_eq!(error.code, 9, "{sql}");
        });
        drop(stmt);
        node.publish(&mut db);
        db.release();
        assert!(db.autocommit(), "the transaction is rolled back: {sql}");
        assert_eq!(db.pinned(), None);
    }
    assert_eq!(node.log.len(), 1);
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(0)]]
    );
    node.must(&mut db, "INSERT INTO t VALUES (1)");
    assert_eq!(
        node.must(&mut db, "PRAGMA integrity_check"),
        [["ok".into()]]
    );
}

#[test]
fn a_connection_that_was_ended_runs_nothing_that_starts_later() {
    let mut node = Node::new();
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    db.interrupt_handle().end();
    for sql in [endless, "INSERT INTO t VALUES (1)", "SELECT 1"] {
        assert_eq!(node.run(&mut db, sql).unwrap_err().code, 9, "{sql}");
    }
    drop(db);
    // At a random moment around the start of the statement, and once only.
    for spins in 0..200 {
        let mut db = node.open();
        let handle = db.interrupt_handle();
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..spins * 20 {
                    std::hint::spin_loop();
                }
                handle.end();
            });
            assert_eq!(node.run(&mut db, endless).unwrap_err().code, 9);
        });
    }
    let mut db = node.open();
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(0)]]
    );
}

#[test]
fn going_over_the_budget_interrupts_with_nothing_lost() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    let insert = |n: u32| {
        format!(
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
             WHERE i < {n}) SELECT i FROM n"
        )
    };
    db.set_budget(Some(10_000));
    assert!(!db.over_budget());
    assert_eq!(node.run(&mut db, &insert(100_000)).unwrap_err().code, 9);
    assert!(db.over_budget());
    db.set_budget(Some(10_000));
    assert!(!db.over_budget());
    node.must(&mut db, &insert(20));
    assert!(!db.over_budget());
    db.set_budget(None);
    node.must(&mut db, &insert(100_000));
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(100_020)]]
    );
}

#[test]
fn several_registrations_live_side_by_side() {
    let (a, b) = (Vfs::register().unwrap(), Vfs::register().unwrap());
    let version = Version::empty(next_number());
    let mut dbs: Vec<_> = [a, b]
        .iter()
        .map(|vfs| Db::open(vfs, b"same name", version.clone()).unwrap())
        .collect();
    for db in &mut dbs {
        db.grant(Grant {
            pin: version.clone(),
            write: Write::Slot {
                head: version.number(),
            },
        });
        execute(db, "CREATE TABLE t (x)", &[]).unwrap();
        assert_eq!(db.take_captures().len(), 1);
    }
}
