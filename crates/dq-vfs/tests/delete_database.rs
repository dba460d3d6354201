//! `PRAGMA delete_database`, as in dqlite since 1.18.3.

mod common;

use common::{Node, Value, execute};
use dq_vfs::{PageNo, Write};

const DELETE: &str = "BEGIN IMMEDIATE; PRAGMA delete_database; COMMIT";

fn filled() -> (Node, dq_vfs::Db) {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(50000))",
    );
    node.must(
        &mut db,
        "PRAGMA user_version = 7; PRAGMA application_id = 8",
    );
    (node, db)
}

#[test]
fn in_a_transaction_of_its_own_it_leaves_an_empty_database_for_all() {
    let (mut node, mut db) = filled();
    let mut other = node.open();
    node.must(&mut other, "SELECT count(*) FROM t");
    node.must(&mut db, DELETE);
    let capture = node.log.last().unwrap();
    assert!(capture.delete_database);
    assert_eq!((capture.pages.len(), capture.page_count), (1, 1));
    assert!(node.head.is_empty_database());
    let page = node.head.page(PageNo(1)).unwrap().bytes();
    assert_eq!(page[28..32], [0; 4], "the size field marks the deletion");
    assert_eq!(page[100..108], [0x0d, 0, 0, 0, 0, 0x10, 0, 0]);
    for db in [&mut db, &mut other] {
        assert_eq!(
            node.must(db, "SELECT count(*) FROM sqlite_schema"),
            [[Value::Integer(0)]]
        );
        assert_eq!(node.run(db, "SELECT * FROM t").unwrap_err().code, 1);
        assert_eq!(node.must(db, "PRAGMA user_version"), [[Value::Integer(0)]]);
        assert_eq!(node.must(db, "PRAGMA integrity_check"), [["ok".into()]]);
    }
}

#[test]
fn the_next_write_makes_it_a_database_again() {
    let (mut node, mut db) = filled();
    let mut other = node.open();
    node.must(&mut db, DELETE);
    node.must(&mut other, "CREATE TABLE u (y); INSERT INTO u VALUES (5)");
    assert!(!node.head.is_empty_database());
    assert_eq!(node.must(&mut db, "SELECT y FROM u"), [[Value::Integer(5)]]);
    node.must(&mut db, "INSERT INTO u VALUES (6)");
    assert_eq!(
        node.must(&mut other, "SELECT sum(y) FROM u"),
        [[Value::Integer(11)]]
    );
    node.head.quick_check(&node.vfs).unwrap();
}

#[test]
fn statements_of_the_same_job_find_the_empty_database() {
    let (mut node, mut db) = filled();
    let sql = format!("{DELETE}; CREATE TABLE u (y); INSERT INTO u VALUES (1); SELECT * FROM u");
    assert_eq!(node.must(&mut db, &sql), [[Value::Integer(1)]]);
    assert_eq!(
        node.must(&mut node.open(), "SELECT name FROM sqlite_schema"),
        [["u".into()]]
    );
    node.must(&mut db, "INSERT INTO u VALUES (2)");
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM u"),
        [[Value::Integer(2)]]
    );
}

#[test]
fn outside_of_a_write_transaction_it_is_an_error() {
    let (mut node, mut db) = filled();
    let text = b"PRAGMA delete_database must be run in a write transaction. \
                 Use BEGIN IMMEDIATE to start one.";
    for sql in ["PRAGMA delete_database", "BEGIN; PRAGMA delete_database"] {
        let error = node.run(&mut db, sql).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_slice()),
            (1, text.as_slice()),
            "{sql}"
        );
    }
    node.must(&mut db, "ROLLBACK; PRAGMA delete_database = 1");
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(1)]]
    );
}

#[test]
fn with_other_changes_it_is_ignored_and_they_are_kept() {
    let (mut node, mut db) = filled();
    node.must(
        &mut db,
        "BEGIN IMMEDIATE; PRAGMA delete_database; INSERT INTO t VALUES (2); COMMIT",
    );
    node.must(
        &mut db,
        "BEGIN; INSERT INTO t VALUES (3); PRAGMA delete_database; COMMIT",
    );
    assert!(node.log.iter().all(|capture| !capture.delete_database));
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(3)]]
    );
}

#[test]
fn with_changes_that_were_spilled_it_is_an_error() {
    let (mut node, mut db) = filled();
    let sql = "PRAGMA cache_size = 5; BEGIN; INSERT INTO t VALUES (zeroblob(500000)); \
               PRAGMA delete_database";
    let error = node.run(&mut db, sql).unwrap_err();
    let text = b"PRAGMA delete_database must be the only statement run in the transaction.";
    assert_eq!((error.code, error.message.as_slice()), (1, text.as_slice()));
    node.must(&mut db, "COMMIT");
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(2)]]
    );
}

#[test]
fn a_rollback_takes_it_back() {
    let (mut node, mut db) = filled();
    let commits = node.log.len();
    node.must(&mut db, "BEGIN IMMEDIATE; PRAGMA delete_database; ROLLBACK");
    db.grant(node.grant());
    execute(&mut db, "BEGIN IMMEDIATE; PRAGMA delete_database", &[]).unwrap();
    db.rollback();
    assert_eq!(node.publish(&mut db), 0);
    assert_eq!(node.log.len(), commits);
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(1)]]
    );
}

#[test]
fn a_refused_commit_deletes_nothing() {
    let (mut node, mut db) = filled();
    for write in [Write::Refuse { code: 10250 }, Write::None] {
        node.must(&mut db, "BEGIN IMMEDIATE; PRAGMA delete_database");
        let mut grant = node.grant();
        grant.write = write;
        db.grant(grant);
        assert!(execute(&mut db, "COMMIT", &[]).is_err(), "{write:?}");
        assert!(db.take_captures().is_empty());
        assert!(db.autocommit());
    }
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM t"),
        [[Value::Integer(1)]]
    );
}

#[test]
fn a_reader_in_a_transaction_keeps_what_was_there() {
    let (mut node, mut db) = filled();
    let mut reader = node.open();
    node.must(&mut reader, "BEGIN; SELECT * FROM t");
    node.must(&mut db, DELETE);
    assert_eq!(
        node.must(&mut reader, "SELECT length(x) FROM t"),
        [[Value::Integer(50000)]]
    );
    node.must(&mut reader, "COMMIT");
    assert!(node.run(&mut reader, "SELECT * FROM t").is_err());
}

#[test]
fn a_cursor_of_the_same_connection_reads_on_but_cannot_write() {
    let (mut node, mut db) = filled();
    node.must(&mut db, "INSERT INTO t VALUES (1), (2)");
    db.grant(node.grant());
    let mut cursor = db
        .prepare(b"SELECT length(x) FROM t")
        .unwrap()
        .stmt
        .unwrap();
    assert_eq!(cursor.step().unwrap(), dq_vfs::Step::Row);
    execute(&mut db, DELETE, &[]).unwrap();
    assert_eq!(node.publish(&mut db), 1);
    assert_eq!(cursor.step().unwrap(), dq_vfs::Step::Row);
    let error = execute(&mut db, "INSERT INTO t VALUES (3)", &[]).unwrap_err();
    assert_eq!(error.code & 0xff, 5);
    drop(cursor);
    assert_eq!(
        node.must(&mut db, "PRAGMA page_count"),
        [[Value::Integer(1)]]
    );
}
