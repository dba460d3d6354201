//! What experience with SQLite's WAL code says can go wrong, each with its own test.

mod common;

use common::{Node, Value, execute, next_number};
use dq_vfs::{
    ColumnRef, Db, Grant, PENDING_BYTE_PAGE, Page, PageNo, Step, Stmt, TxnState, Version, Vfs,
    World, Write,
};

/// Prepares a statement that must be fine.
#[track_caller]
fn prepare(db: &mut Db, sql: &str) -> Stmt {
    db.prepare(sql.as_bytes()).unwrap().stmt.unwrap()
}

fn integer(rows: &[Vec<Value>]) -> i64 {
    match rows {
        [row] => match row[..] {
            [Value::Integer(value)] => value,
            _ => panic!("{rows:?}"),
        },
        _ => panic!("{rows:?}"),
    }
}

#[test]
fn pages_spilled_twice_and_savepoints_rolled_back_are_captured_in_their_last_state() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "PRAGMA cache_size = 5; CREATE TABLE t (k INTEGER PRIMARY KEY, v)",
    );
    let rows = |tag: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
             REPLACE INTO t SELECT i, printf('%s%.300c', '{tag}', 'x') FROM n;"
        )
    };
    let sql = [
        "BEGIN;",
        &rows("a"),
        &rows("b"),
        "SAVEPOINT s;",
        &rows("c"),
        "DELETE FROM t WHERE k % 2; ROLLBACK TO s;",
        &rows("d"),
        "ROLLBACK TO s; UPDATE t SET v = 'e' WHERE k > 290; COMMIT",
    ]
    .concat();
    node.must(&mut db, &sql);
    let mut other = node.open();
    let rows = node.must(
        &mut other,
        "SELECT substr(v, 1, 1), count(*) FROM t GROUP BY 1",
    );
    assert_eq!(
        rows,
        [["b".into(), 290.into()], ["e".into(), Value::from(10)]]
    );
    assert_eq!(
        node.must(&mut other, "PRAGMA integrity_check"),
        [["ok".into()]]
    );
}

#[test]
fn an_open_cursor_reads_on_while_its_connection_commits() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "CREATE TABLE t (k INTEGER PRIMARY KEY, v); CREATE TABLE log (x)",
    );
    for k in 0..200 {
        node.must(
            &mut db,
            &format!("INSERT INTO t VALUES ({k}, printf('%.200c', 'x'))"),
        );
    }
    db.grant(node.grant());
    let mut cursor = prepare(&mut db, "SELECT k, v FROM t");
    for k in 0..200 {
        assert_eq!(cursor.step().unwrap(), Step::Row);
        assert_eq!(cursor.column(0), ColumnRef::Integer(k));
        // One job per commit, and more frames than are kept over a pin.
        db.grant(node.grant());
        let sql = format!("INSERT INTO log VALUES (1); UPDATE t SET v = {k} WHERE k = 0");
        execute(&mut db, &sql, &[]).unwrap();
        assert_eq!(node.publish(&mut db), 2, "round {k}");
    }
    assert_eq!(cursor.step().unwrap(), Step::Done);
    drop(cursor);
    db.release();
    assert_eq!(db.pinned(), None);
    assert_eq!(
        node.must(&mut db, "SELECT count(*) FROM log"),
        [[Value::Integer(200)]]
    );
}

#[test]
fn the_data_version_stays_for_own_commits_and_moves_for_others() {
    let mut node = Node::new();
    let (mut a, mut b) = (node.open(), node.open());
    node.must(&mut a, "CREATE TABLE t (x)");
    let before = node.must(&mut a, "PRAGMA data_version");
    for _ in 0..5 {
        node.must(&mut a, "INSERT INTO t VALUES (1)");
        assert_eq!(node.must(&mut a, "PRAGMA data_version"), before);
    }
    node.must(&mut b, "INSERT INTO t VALUES (2)");
    assert_ne!(node.must(&mut a, "PRAGMA data_version"), before);
}

#[test]
fn more_own_commits_than_frames_are_kept_change_nothing() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    for i in 1..=200 {
        node.must(&mut db, "INSERT INTO t VALUES (1)");
        assert_eq!(integer(&node.must(&mut db, "SELECT count(*) FROM t")), i);
    }
}

#[test]
fn the_page_at_the_pending_byte_is_never_captured_and_reads_as_zeros() {
    let mut node = Node::new();
    // A database that ends just before it; what is missing in between reads as zeros.
    let end = PENDING_BYTE_PAGE.0 - 5;
    let mut page_one = *node.head.page(PageNo(1)).unwrap().bytes();
    page_one[28..32].copy_from_slice(&end.to_be_bytes());
    let pages = [
        (PageNo(1), Page::copy_from(&page_one)),
        (PageNo(end), Page::copy_from(&[])),
    ];
    node.head = node.head.successor(next_number(), &pages, end);
    let mut db = node.open();
    node.must(
        &mut db,
        "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(40000))",
    );
    assert!(node.head.page_count() > PENDING_BYTE_PAGE.0);
    assert!(node.log.iter().all(|capture| {
        capture
            .pages
            .iter()
            .all(|(page_no, _)| *page_no != PENDING_BYTE_PAGE)
    }));
    assert_eq!(
        node.head.page(PENDING_BYTE_PAGE).unwrap().bytes(),
        &[0; 4096]
    );
    assert_eq!(
        node.must(&mut node.open(), "SELECT length(x) FROM t"),
        [[Value::from(40000)]]
    );
}

#[test]
fn a_schema_that_another_connection_changed_is_seen_when_preparing() {
    let mut node = Node::new();
    let (mut a, mut b) = (node.open(), node.open());
    node.must(&mut a, "CREATE TABLE t (x)");
    node.must(&mut b, "SELECT * FROM t");
    node.must(&mut a, "ALTER TABLE t ADD COLUMN y; CREATE TABLE u (z)");
    assert_eq!(
        node.must(&mut b, "SELECT y FROM t, u"),
        Vec::<Vec<Value>>::new()
    );
}

#[test]
fn opening_and_reading_beside_a_writer_needs_no_recovery() {
    let mut node = Node::new();
    let mut writer = node.open();
    node.must(
        &mut writer,
        "CREATE TABLE t (x); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)",
    );
    let mut reader = node.open();
    reader.grant(node.read_grant());
    assert!(
        execute(&mut reader, "SELECT * FROM t", &[])
            .unwrap()
            .is_empty()
    );
    assert!(!reader.wanted_write());
}

#[test]
fn an_autocommit_write_on_an_old_pin_is_busy_and_works_on_the_head() {
    let mut node = Node::new();
    let (mut a, mut b) = (node.open(), node.open());
    node.must(&mut a, "CREATE TABLE t (x)");
    let old = node.head.clone();
    node.must(&mut a, "INSERT INTO t VALUES (1)");
    b.grant(Grant {
        pin: old,
        write: Write::Slot {
            head: node.head.number(),
        },
    });
    assert_eq!(
        execute(&mut b, "INSERT INTO t VALUES (2)", &[])
            .unwrap_err()
            .code,
        5
    );
    assert!(!b.wanted_write(), "it had the turn");
    node.must(&mut b, "INSERT INTO t VALUES (2)");
    assert_eq!(integer(&node.must(&mut a, "SELECT count(*) FROM t")), 2);
}

#[test]
fn what_would_leave_the_replicated_mode_is_not_authorized() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    for sql in [
        "PRAGMA journal_mode = DELETE",
        "PRAGMA main.journal_mode = wal",
        "PRAGMA locking_mode",
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA wal_checkpoint",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA wal_autocheckpoint = 5",
        "PRAGMA synchronous = FULL",
        "PRAGMA page_size = 4096",
        "PRAGMA busy_timeout = 1000",
        "PRAGMA busy_timeout",
        "PRAGMA read_uncommitted",
        "ATTACH 'other' AS o",
        "ATTACH ':memory:' AS o",
        "ATTACH 'file:/tmp/dq-vfs-attach?vfs=unix' AS o",
    ] {
        let error = node.run(&mut db, sql).unwrap_err();
        assert_eq!(
            (error.code, &error.message[..]),
            (23, &b"not authorized"[..]),
            "{sql}"
        );
    }
    for sql in [
        "PRAGMA journal_mode",
        "PRAGMA page_size",
        "PRAGMA synchronous",
        "PRAGMA mmap_size",
    ] {
        assert_eq!(node.must(&mut db, sql).len(), 1, "{sql}");
    }
    let error = node.run(&mut db, "SELECT load_extension('x')").unwrap_err();
    assert_eq!(
        (error.code, &error.message[..]),
        (1, &b"not authorized"[..])
    );
    node.must(&mut db, "INSERT INTO t VALUES (2)");
    assert_eq!(node.log.len(), 3);
}

#[test]
fn no_statement_creates_a_file_on_the_server() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    let path = std::env::temp_dir().join(format!("dq-vfs-never-{}", std::process::id()));
    let path = path.to_str().unwrap();
    let error = node
        .run(&mut db, &format!("VACUUM INTO '{path}'"))
        .unwrap_err();
    assert_eq!(
        (error.code, &error.message[..]),
        (23, &b"authorization denied"[..])
    );
    let error = node
        .run(&mut db, &format!("VACUUM INTO 'file:{path}?vfs=unix'"))
        .unwrap_err();
    assert_eq!(error.code, 23);
    // A name that is computed passes the authorizer, and then names nothing.
    for name in [
        format!("'{path}' || ''"),
        format!("'file:{path}?vfs=unix' || ''"),
    ] {
        assert!(node.run(&mut db, &format!("ATTACH {name} AS o")).is_err());
        assert!(node.run(&mut db, &format!("VACUUM INTO {name}")).is_err());
    }
    assert!(!std::path::Path::new(path).exists());
    node.must(
        &mut db,
        "VACUUM INTO ''; ATTACH '' AS o; CREATE TABLE o.p (x); DETACH o",
    );
    assert_eq!(node.log.len(), 2, "temporary databases are not replicated");
}

#[test]
fn temporary_tables_and_sorting_stay_in_memory_and_in_the_connection() {
    let mut node = Node::new();
    let (mut a, mut b) = (node.open(), node.open());
    node.must(&mut a, "CREATE TABLE t (x)");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)";
    let sql = format!(
        "PRAGMA temp.cache_size = 5; CREATE TEMP TABLE big (x, y); \
         {fill} INSERT INTO big SELECT i * 7919 % 20011, printf('%.500c', 'x') FROM n"
    );
    node.must(&mut a, &sql);
    let rows = node.must(
        &mut a,
        "SELECT x, length(y) FROM big ORDER BY x DESC LIMIT 1",
    );
    assert_eq!(rows[0][1], Value::Integer(500));
    assert_eq!(node.run(&mut b, "SELECT * FROM big").unwrap_err().code, 1);
    assert_eq!(node.log.len(), 1);
    assert_eq!(a.txn_state(), TxnState::None, "of the main database");
}

#[test]
fn vacuum_and_auto_vacuum_shrink_every_copy() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "PRAGMA auto_vacuum = FULL; VACUUM; CREATE TABLE t (x)",
    );
    node.must(
        &mut db,
        "INSERT INTO t VALUES (zeroblob(400000)), (zeroblob(100000))",
    );
    let large = node.head.page_count();
    node.must(&mut db, "DELETE FROM t WHERE length(x) > 200000");
    let small = node.head.page_count();
    assert!(small + 90 < large);
    node.must(&mut db, "PRAGMA auto_vacuum = NONE; VACUUM; DELETE FROM t");
    assert_eq!(
        node.head.page_count(),
        small - 1,
        "free pages stay, the pointer map is gone"
    );
    node.must(&mut db, "VACUUM");
    assert_eq!(node.head.page_count(), 2);
    let error = node.run(&mut db, "BEGIN; VACUUM").unwrap_err();
    assert_eq!(error.message, b"cannot VACUUM from within a transaction");
    node.head.quick_check(&node.vfs).unwrap();
}

#[test]
fn a_transaction_over_its_limit_is_full_and_rolled_back() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "PRAGMA cache_size = 10; CREATE TABLE t (x); INSERT INTO t VALUES (1)",
    );
    db.set_page_limit(100 * 4096);
    for sql in [
        "INSERT INTO t VALUES (zeroblob(500000))",
        "BEGIN; INSERT INTO t VALUES (zeroblob(300000)); INSERT INTO t VALUES (zeroblob(300000))",
        "BEGIN; INSERT INTO t VALUES (zeroblob(390000)); INSERT INTO t VALUES (zeroblob(30000)); COMMIT",
    ] {
        let error = node.run(&mut db, sql).unwrap_err();
        assert_eq!(
            (error.code, &error.message[..]),
            (13, &b"database or disk is full"[..])
        );
        assert!(db.autocommit(), "rolled back: {sql}");
        assert_eq!(db.txn_state(), TxnState::None);
    }
    assert_eq!(node.log.len(), 2);
    node.must(&mut db, "INSERT INTO t VALUES (zeroblob(390000))");
    assert_eq!(integer(&node.must(&mut db, "SELECT count(*) FROM t")), 2);
}

#[test]
fn statements_that_outlive_their_connection_can_only_be_dropped() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "CREATE TABLE t (x); INSERT INTO t VALUES ('text'), ('more')",
    );
    db.grant(node.grant());
    execute(&mut db, "BEGIN IMMEDIATE; INSERT INTO t VALUES (3)", &[]).unwrap();
    let mut stmt = prepare(&mut db, "SELECT x FROM t");
    assert_eq!(stmt.step().unwrap(), Step::Row);
    let interrupt = db.interrupt_handle();
    drop(db);
    assert_eq!(stmt.step().unwrap_err().code, 21);
    assert_eq!(stmt.bind(1, dq_vfs::BindRef::Null).unwrap_err().code, 21);
    assert_eq!(stmt.column(0), ColumnRef::Null);
    interrupt.interrupt();
    drop(stmt);
    interrupt.interrupt();
    assert_eq!(
        integer(&node.must(&mut node.open(), "SELECT count(*) FROM t")),
        2
    );
}

#[test]
fn readers_keep_versions_that_were_voided_under_them() {
    let mut node = Node::new();
    let mut writer = node.open();
    node.must(&mut writer, "CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    let committed = node.head.clone();
    node.must(&mut writer, "INSERT INTO t VALUES (2), (3)");
    let (mut reader, mut idle) = (node.open(), node.open());
    reader.grant(node.read_grant());
    let mut cursor = prepare(&mut reader, "SELECT x FROM t");
    assert_eq!(cursor.step().unwrap(), Step::Row);
    assert_eq!(integer(&node.must(&mut idle, "SELECT count(*) FROM t")), 3);

    node.head = committed.clone();
    let voided = reader.pinned().unwrap();
    assert!(voided > committed.number());
    for _ in 0..2 {
        assert_eq!(
            cursor.step().unwrap(),
            Step::Row,
            "the pin of the reader stays readable"
        );
    }
    assert_eq!(cursor.column(0), ColumnRef::Integer(3));
    drop(cursor);

    // Every connection goes on from the committed version, also the one whose commit was voided
    // and those whose caches hold what never was.
    for db in [&mut writer, &mut reader, &mut idle] {
        assert_eq!(integer(&node.must(db, "SELECT count(*) FROM t")), 1);
    }
    node.must(&mut idle, "INSERT INTO t VALUES (9)");
    assert!(node.head.number() > voided, "numbers are not used again");
    for db in [&mut writer, &mut reader, &mut idle] {
        assert_eq!(integer(&node.must(db, "SELECT sum(x) FROM t")), 10);
    }
}

#[test]
fn reads_of_the_committed_version_do_not_see_own_commits_above_it() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    let committed = node.head.clone();
    node.must(&mut db, "INSERT INTO t VALUES (1)");
    db.grant(Grant {
        pin: committed,
        write: Write::None,
    });
    assert!(execute(&mut db, "SELECT * FROM t", &[]).unwrap().is_empty());
    db.release();
    assert_eq!(node.must(&mut db, "SELECT * FROM t").len(), 1);
}

#[test]
fn a_transaction_on_top_of_voided_commits_cannot_pass_for_one_on_the_head() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (x)");
    db.grant(node.grant());
    execute(
        &mut db,
        "INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2)",
        &[],
    )
    .unwrap();
    assert_eq!(db.take_captures().len(), 1, "and no version is made of it");
    db.grant(node.grant());
    execute(&mut db, "COMMIT", &[]).unwrap();
    let captures = db.take_captures();
    assert_eq!(captures.len(), 1);
    assert_ne!(captures[0].base, node.head.number());
}

#[test]
fn pragma_optimize_asks_for_the_turn_to_write() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (a, b); CREATE INDEX i ON t (a)");
    node.must(&mut db, "INSERT INTO t VALUES (1, 1), (1, 2), (2, 3)");
    db.grant(node.read_grant());
    let mut stmt = prepare(&mut db, "PRAGMA optimize(0x10002)");
    assert!(stmt.readonly(), "SQLite says that it writes nothing");
    assert!(stmt.step().is_err_and(|error| error.code & 0xff == 5) || db.wanted_write());
    drop(stmt);
    node.must(&mut db, "PRAGMA optimize(0x10002)");
    assert_eq!(node.log.len(), 4, "it does");
}

#[test]
fn returning_yields_all_rows_and_commits_at_the_end() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(&mut db, "CREATE TABLE t (k INTEGER PRIMARY KEY, v)");
    db.grant(node.grant());
    let mut stmt = prepare(
        &mut db,
        "INSERT INTO t (v) VALUES ('a'), ('b') RETURNING k, v",
    );
    assert!(!stmt.readonly());
    assert_eq!(stmt.step().unwrap(), Step::Row);
    assert_eq!(stmt.column(0), ColumnRef::Integer(1));
    assert!(
        db.take_captures().is_empty(),
        "nothing is committed at the first row"
    );
    assert_eq!(stmt.step().unwrap(), Step::Row);
    assert_eq!(stmt.column(1), ColumnRef::Text(b"b"));
    assert_eq!(stmt.step().unwrap(), Step::Done);
    drop(stmt);
    assert_eq!(node.publish(&mut db), 1);
    assert_eq!((db.changes(), db.last_insert_rowid()), (2, 2));
}

#[test]
fn time_in_sql_is_the_worlds() {
    struct Fixed;
    impl World for Fixed {
        fn unix_millis(&self) -> i64 {
            981_173_106_789
        }
        fn randomness(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }
    }
    let mut node = Node::new();
    node.vfs = Vfs::register_with(Box::new(Fixed)).unwrap();
    let mut db = node.open();
    let rows = node.must(&mut db, "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')");
    assert_eq!(rows, [["2001-02-03 04:05:06.789".into()]]);
}

#[test]
fn pages_can_be_owned_by_others_and_sent_anywhere() {
    fn owned_buffer<T: AsRef<[u8]> + Send + Sync + 'static>(owner: T) -> usize {
        owner.as_ref().len()
    }
    fn movable<T: Send + 'static>() {}
    assert_eq!(owned_buffer(Page::copy_from(b"some")), 4096);
    movable::<Db>();
    movable::<Stmt>();
    movable::<Version>();
}

#[test]
fn a_damaged_database_fails_its_check() {
    let mut node = Node::new();
    let mut db = node.open();
    node.must(
        &mut db,
        "CREATE TABLE t (x UNIQUE); INSERT INTO t VALUES (zeroblob(100000)), (2)",
    );
    node.head.quick_check(&node.vfs).unwrap();
    let number = next_number();
    let zero = [(PageNo(3), Page::copy_from(&[]))];
    let damaged = node.head.successor(number, &zero, node.head.page_count());
    assert_eq!(damaged.quick_check(&node.vfs).unwrap_err().code & 0xff, 11);
    let mut page_one = *node.head.page(PageNo(1)).unwrap().bytes();
    page_one[18] = 1;
    let journal = [(PageNo(1), Page::copy_from(&page_one))];
    let other_mode = node
        .head
        .successor(number, &journal, node.head.page_count());
    assert_eq!(other_mode.quick_check(&node.vfs).unwrap_err().code, 26);
    let nothing = Version::from_pages(number, []);
    assert_eq!(nothing.quick_check(&node.vfs).unwrap_err().code, 26);
}
