//! Reading and writing through grants.

mod common;

use common::{Node, Value, execute};
use dq_vfs::{Db, Grant, Version, Write};

#[test]
fn what_one_connection_commits_another_reads_after_publication() {
    let mut node = Node::new();
    let (mut a, mut b) = (node.open(), node.open());
    node.must(&mut a, "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)");
    assert_eq!(
        node.must(&mut b, "SELECT sum(x) FROM t"),
        [[Value::Integer(3)]]
    );
    node.must(&mut b, "INSERT INTO t VALUES (4)");
    assert_eq!(
        node.must(&mut a, "SELECT sum(x) FROM t"),
        [[Value::Integer(7)]]
    );
    assert_eq!(node.log.len(), 3);
}

#[test]
fn without_a_slot_a_write_is_busy_and_asks_for_it() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    db.grant(node.read_grant());
    assert_eq!(
        execute(&mut db, "INSERT INTO t VALUES (1)", &[])
            .unwrap_err()
            .code,
        5
    );
    assert!(db.wanted_write());
    assert!(!db.wanted_write(), "told once");
    assert_eq!(execute(&mut db, "SELECT * FROM t", &[]).unwrap().len(), 0);
    assert!(!db.wanted_write());
}

#[test]
fn a_read_transaction_that_fell_behind_cannot_write() {
    let mut node = Node::new();
    let (mut a, mut b) = (node.open(), node.open());
    node.must(&mut a, "CREATE TABLE t (x)");
    node.must(&mut a, "BEGIN; SELECT * FROM t");
    node.must(&mut b, "INSERT INTO t VALUES (1)");
    let error = node.run(&mut a, "INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(
        (error.code, error.message.as_slice()),
        (517, b"database is locked".as_slice())
    );
    assert!(!a.autocommit(), "the read transaction stays open");
    assert_eq!(
        node.must(&mut a, "SELECT * FROM t").len(),
        0,
        "and keeps its snapshot"
    );
    node.must(&mut a, "ROLLBACK");
    node.must(&mut a, "INSERT INTO t VALUES (2)");
    assert_eq!(
        node.must(&mut b, "SELECT sum(x) FROM t"),
        [[Value::Integer(3)]]
    );
}

#[test]
fn a_refused_commit_rolls_back_and_keeps_its_code() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    let refuse = |node: &Node| Grant {
        pin: node.head.clone(),
        write: Write::Refuse { code: 10250 },
    };
    db.grant(refuse(&node));
    assert_eq!(
        execute(&mut db, "INSERT INTO t VALUES (1)", &[])
            .unwrap_err()
            .code,
        10250
    );
    assert!(db.autocommit());
    assert!(db.take_captures().is_empty());
    node.must(&mut db, "BEGIN; INSERT INTO t VALUES (2)");
    db.grant(refuse(&node));
    assert_eq!(execute(&mut db, "COMMIT", &[]).unwrap_err().code, 10250);
    assert!(db.autocommit());
    assert!(db.take_captures().is_empty());
    assert_eq!(node.must(&mut db, "SELECT * FROM t").len(), 0);
    node.must(&mut db, "INSERT INTO t VALUES (3)");
    assert_eq!(node.must(&mut db, "SELECT x FROM t"), [[Value::Integer(3)]]);
}

#[test]
fn a_transaction_begun_while_commits_are_refused_commits_when_they_are_not() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    let mut refuse = node.grant();
    refuse.write = Write::Refuse { code: 10250 };
    db.grant(refuse);
    execute(&mut db, "BEGIN; INSERT INTO t VALUES (1)", &[]).unwrap();
    db.release();
    node.must(&mut db, "INSERT INTO t VALUES (2); COMMIT");
    assert_eq!(
        node.must(&mut db, "SELECT sum(x) FROM t"),
        [[Value::Integer(3)]]
    );
}

#[test]
fn a_commit_without_a_slot_stays_open_for_another_try() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "CREATE TABLE t (x); BEGIN; INSERT INTO t VALUES (1)",
    );
    db.grant(node.read_grant());
    assert_eq!(execute(&mut db, "COMMIT", &[]).unwrap_err().code, 5);
    assert!(db.wanted_write() && !db.autocommit());
    node.must(&mut db, "COMMIT");
    assert_eq!(node.must(&mut db, "SELECT x FROM t"), [[Value::Integer(1)]]);
}

#[test]
fn two_commits_of_one_job_build_on_each_other() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    db.grant(node.grant());
    let sql = "INSERT INTO t VALUES (1); INSERT INTO t SELECT x + 1 FROM t; SELECT sum(x) FROM t";
    assert_eq!(execute(&mut db, sql, &[]).unwrap(), [[Value::Integer(3)]]);
    assert_eq!(node.publish(&mut db), 2);
    db.release();
    assert_eq!(
        node.must(&mut node.open(), "SELECT count(*) FROM t"),
        [[Value::Integer(2)]]
    );
}

#[test]
fn commits_that_were_not_published_never_happened() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    db.grant(node.grant());
    execute(
        &mut db,
        "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)",
        &[],
    )
    .unwrap();
    assert_eq!(db.take_captures().len(), 2);
    assert_eq!(node.must(&mut db, "SELECT * FROM t").len(), 0);
    assert_eq!(db.pinned(), None);
    node.must(&mut db, "INSERT INTO t VALUES (3)");
    assert_eq!(node.must(&mut db, "SELECT x FROM t"), [[Value::Integer(3)]]);
}

#[test]
fn names_that_sqlite_would_not_open_here_are_refused() {
    let node = Node::new();
    for name in [
        b"".as_slice(),
        b":memory:",
        b"a\0b",
        b"x-wal",
        b"x-journal",
        &[b'x'; 505],
    ] {
        let error = Db::open(&node.vfs, name, node.head.clone()).unwrap_err();
        assert_eq!(error.code, 14, "{name:?}");
        assert_eq!(error.message, b"unable to open database file");
    }
    for name in [
        b"/etc/passwd".as_slice(),
        b"../x",
        b"file:x?mode=memory",
        "é ".as_bytes(),
        &[b'x'; 504],
    ] {
        let mut node = Node::new();
        let mut db = Db::open(&node.vfs, name, node.head.clone()).unwrap();
        node.must(&mut db, "CREATE TABLE t (x)");
        assert_eq!(node.log.len(), 1);
        let listed = node.must(&mut db, "PRAGMA database_list");
        assert_eq!(
            listed[0][2],
            Value::from(std::str::from_utf8(name).unwrap())
        );
    }
}

#[test]
fn a_version_without_pages_cannot_be_opened() {
    let node = Node::new();
    let nothing = Version::from_pages(common::next_number(), []);
    assert_eq!(Db::open(&node.vfs, b"test", nothing).unwrap_err().code, 26);
}

#[test]
fn settings_are_those_of_dqlite() {
    let mut node = Node::new();
    let mut db = node.open();
    for (pragma, value) in [
        ("journal_mode", Value::from("wal")),
        ("page_size", Value::from(4096)),
        ("encoding", Value::from("UTF-8")),
        ("auto_vacuum", Value::from(0)),
        ("synchronous", Value::from(0)),
        ("foreign_keys", Value::from(1)),
        ("cache_size", Value::from(-2000)),
    ] {
        assert_eq!(
            node.must(&mut db, &format!("PRAGMA {pragma}")),
            [[value]],
            "{pragma}"
        );
    }
    assert_eq!(node.must(&mut db, "PRAGMA mmap_size").len(), 1);
}
