//! Our own client against one node, C or ours.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use compat_tests::servers::{Kind, Options, Server};
use dq_client::{
    Cluster, Config, ErrorKind, FileStore, MemStore, NodeStore, Outcome, Pool, RetryPolicy, Role,
    TxMode, Value, ValueRef, YamlStore, params,
};

/// A node of the given kind with the client's defaults; `None` if there is none here.
fn server(kind: Kind) -> Option<Server> {
    kind.available_or_skip()
        .then(|| Server::start_single(kind).expect("starts"))
}

fn pool(server: &Server) -> Pool {
    config()
        .connect(MemStore::new([server.address()]), "test.db")
        .expect("connects")
}

fn config() -> Config {
    Config::new()
        .acquire_timeout(Duration::from_secs(20))
        .retry(RetryPolicy::attempts(30))
}

fn statements_and_values(kind: Kind) {
    let Some(server) = server(kind) else { return };
    let pool = pool(&server);
    let done = pool
        .execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, d DATETIME, b BOOLEAN)",
            (),
        )
        .expect("created");
    assert_eq!((done.last_insert_id, done.rows_affected), (0, 0));

    let values = params![7, "text", 1.5, [0u8, 255], None::<i64>, true, i64::MIN, ""];
    for (index, value) in values.iter().enumerate() {
        let done = pool
            .execute("INSERT INTO t (v) VALUES (?)", std::slice::from_ref(value))
            .expect("inserted");
        assert_eq!(
            (done.last_insert_id, done.rows_affected),
            (index as i64 + 1, 1)
        );
    }
    let got = pool
        .query("SELECT v FROM t ORDER BY id", (), |row| {
            row.get::<Value>("v")
        })
        .expect("read");
    let want = [
        Value::Integer(7),
        Value::Text("text".to_owned()),
        Value::Real(1.5),
        Value::Blob(vec![0, 255]),
        Value::Null,
        Value::Integer(1),
        Value::Integer(i64::MIN),
        Value::Text(String::new()),
    ];
    assert_eq!(got, want);

    pool.execute(
        "INSERT INTO t (id, d, b) VALUES (100, ?, ?)",
        (1_600_000_000, true),
    )
    .expect("inserted");
    pool.execute("INSERT INTO t (id, d) VALUES (101, '2020-01-02')", ())
        .expect("inserted");
    let typed = |row: &dq_client::Row<'_>| {
        assert_eq!(row.columns().len(), 2);
        Ok((row.get::<Value>(0)?, row.get_ref("b")?.value_type()))
    };
    let sql = "SELECT d, b FROM t WHERE id = ?";
    let rows = pool.query(sql, [100], typed).expect("read");
    let boolean = ValueRef::Boolean(1).value_type();
    assert_eq!(rows, [(Value::UnixTime(1_600_000_000), boolean)]);
    let dates = pool
        .query(sql, [101], |row| row.get::<Value>(0))
        .expect("read");
    assert_eq!(dates, [Value::Iso8601("2020-01-02".to_owned())]);
}

fn errors_are_sorted(kind: Kind) {
    let Some(server) = server(kind) else { return };
    let pool = pool(&server);
    pool.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)", ())
        .expect("created");
    pool.execute("INSERT INTO t VALUES (1)", ())
        .expect("inserted");

    let error = pool
        .execute("INSERT INTO t VALUES (1)", ())
        .expect_err("a duplicate");
    assert_eq!(error.kind(), ErrorKind::Constraint);
    assert_eq!(error.sqlite_code(), Some(1555));
    assert_eq!(error.message(), "UNIQUE constraint failed: t.a");
    assert_eq!(error.outcome(), Outcome::NotDone);

    let error = pool.execute("SELEC", ()).expect_err("a syntax error");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Sql, Outcome::NotDone)
    );
    let error = pool
        .execute("INSERT INTO t VALUES (2); SELEC", ())
        .expect_err("half done");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Sql, Outcome::Unknown)
    );

    let error = pool.query("SELECT a FROM t", (), |row| row.get::<String>(0));
    let error = error.expect_err("not a text");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Type, Outcome::Done)
    );
    let error = pool
        .execute("INSERT INTO t VALUES ('a\0b')", ())
        .expect_err("NUL in the text");
    assert_eq!(error.kind(), ErrorKind::Type);

    let mut connection = pool.get().expect("a connection");
    let mut insert = connection
        .prepare("INSERT INTO t VALUES (?)")
        .expect("prepared");
    let error = insert.execute(()).expect_err("no value");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Type, Outcome::NotDone)
    );
    assert_eq!(
        insert
            .execute([5])
            .expect("the statement is still good")
            .last_insert_id,
        5
    );
}

fn large_results_stream(kind: Kind) {
    let Some(server) = server(kind) else { return };
    let pool = pool(&server);
    let mut connection = pool.get().expect("a connection");
    let numbers = |count: u32| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
             SELECT i, 'row ' || i FROM n"
        )
    };
    let mut rows = connection.query(&numbers(20_000), ()).expect("rows");
    let mut expected = 0i64;
    while let Some(row) = rows.next().expect("a row") {
        expected += 1;
        assert_eq!(row.get::<i64>(0).expect("a number"), expected);
        assert_eq!(
            row.get::<String>(1).expect("a text"),
            format!("row {expected}")
        );
    }
    assert_eq!(expected, 20_000);
    drop(rows);

    // Abandoned early: the connection goes on to serve others.
    let mut rows = connection.query(&numbers(20_000), ()).expect("rows");
    assert!(rows.next().expect("a row").is_some());
    drop(rows);
    assert!(!connection.is_closed());
    let one = connection
        .query_row("SELECT 1", (), |row| row.get::<i64>(0))
        .expect("a row");
    assert_eq!(one, Some(1));

    let blob = vec![7u8; 3 << 20];
    let length = connection
        .query_row("SELECT length(?1), ?1", (&blob,), |row| {
            assert_eq!(row.get::<Vec<u8>>(1)?, blob);
            row.get::<i64>(0)
        })
        .expect("a large blob travels both ways");
    assert_eq!(length, Some(3 << 20));
}

fn transactions_commit_or_roll_back(kind: Kind) {
    let Some(server) = server(kind) else { return };
    let pool = pool(&server);
    pool.execute("CREATE TABLE t (a)", ()).expect("created");
    let count = || {
        let counts = pool.query("SELECT count(*) FROM t", (), |row| row.get::<i64>(0));
        counts.expect("counted")[0]
    };

    let mut connection = pool.get().expect("a connection");
    let mut transaction = connection.begin(TxMode::Deferred).expect("begun");
    transaction
        .execute("INSERT INTO t VALUES (1)", ())
        .expect("inserted");
    let error = transaction.begin(TxMode::Deferred).expect_err("nested");
    assert_eq!(error.kind(), ErrorKind::Sql);
    assert_eq!(count(), 0, "not visible to others before COMMIT");
    transaction.commit().expect("committed");
    assert_eq!(count(), 1);

    let mut transaction = connection.begin(TxMode::Immediate).expect("begun");
    transaction
        .execute("INSERT INTO t VALUES (2)", ())
        .expect("inserted");
    drop(transaction);
    assert_eq!(count(), 1, "dropped is rolled back");
    drop(connection);

    // A transaction opened behind the pool's back does not leak into the next use.
    let mut connection = pool.get().expect("a connection");
    connection.execute("BEGIN IMMEDIATE", ()).expect("begun");
    connection
        .execute("INSERT INTO t VALUES (3)", ())
        .expect("inserted");
    drop(connection);
    pool.execute("INSERT INTO t VALUES (4)", ())
        .expect("nothing is in the way");
    assert_eq!(count(), 2);

    let failed = pool.transaction(RetryPolicy::default(), |tx| {
        tx.execute("INSERT INTO t VALUES (5)", ())?;
        tx.execute("INSERT INTO absent VALUES (5)", ()).map(|_| ())
    });
    assert_eq!(
        failed.expect_err("no such table").outcome(),
        Outcome::NotDone
    );
    assert_eq!(count(), 2);
}

fn competing_transactions_all_succeed(kind: Kind) {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 10;
    let Some(server) = server(kind) else { return };
    let pool = pool(&server);
    pool.execute("CREATE TABLE account (balance INTEGER)", ())
        .expect("created");
    pool.execute("INSERT INTO account VALUES (0)", ())
        .expect("inserted");
    let attempts = AtomicU32::new(0);
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..ROUNDS {
                    let policy = RetryPolicy::attempts(1000);
                    pool.transaction(policy, |tx| {
                        attempts.fetch_add(1, Ordering::Relaxed);
                        let sql = "SELECT balance FROM account";
                        let balance = tx.query_row(sql, (), |row| row.get::<i64>(0))?;
                        let balance = balance.expect("there is one account");
                        tx.execute("UPDATE account SET balance = ?", [balance + 1])
                            .map(|_| ())
                    })
                    .expect("succeeds in the end");
                }
            });
        }
    });
    assert!(attempts.load(Ordering::Relaxed) >= THREADS * ROUNDS);
    let balance = pool.query("SELECT balance FROM account", (), |row| row.get::<u32>(0));
    assert_eq!(balance.expect("read"), [THREADS * ROUNDS]);
}

fn prepared_statements_are_kept(kind: Kind) {
    let Some(server) = server(kind) else { return };
    let pool = pool(&server);
    let mut connection = pool.get().expect("a connection");
    connection
        .execute("CREATE TABLE t (a, b)", ())
        .expect("created");
    for round in 0..50 {
        let mut insert = connection
            .prepare_cached("INSERT INTO t VALUES (?, ?)")
            .expect("ok");
        assert_eq!(insert.param_count(), 2);
        insert.execute((round, "x")).expect("inserted");
        drop(insert);
        // More texts than are kept, so that some are finalized.
        let sql = format!("SELECT count(*), {round} FROM t WHERE b = ?");
        let mut count = connection.prepare_cached(&sql).expect("prepared");
        let mut rows = count.query(["x"]).expect("rows");
        let row = rows.next().expect("a row").expect("one row");
        assert_eq!(row.get::<i64>(0).expect("a number"), round + 1);
    }
    // Without the cache each use prepares and finalizes; the server's ids do not run out.
    for _ in 0..200 {
        let mut statement = connection.prepare("SELECT 1").expect("prepared");
        assert!(
            statement
                .query(())
                .expect("rows")
                .next()
                .expect("a row")
                .is_some()
        );
    }
}

/// SQLite says of PRAGMA optimize that it only reads, and then it writes. (The SQLite of C dqlite is
/// often too old for this argument.)
#[test]
fn a_read_that_writes_comes_to_an_end() {
    let Some(server) = server(Kind::Ours) else {
        return;
    };
    let pool = pool(&server);
    for sql in [
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b)",
        "CREATE INDEX i ON t (b)",
        "INSERT INTO t (b) VALUES (1), (2), (3)",
        "PRAGMA optimize(0x10002)",
    ] {
        pool.execute(sql, ()).expect("executed");
    }
    let count = pool.query("SELECT stat FROM sqlite_stat1", (), |row| {
        row.get::<String>(0)
    });
    assert_eq!(count.expect("read"), ["3 1"]);
}

fn the_pool_survives_a_restart(kind: Kind) {
    let Some(mut server) = server(kind) else {
        return;
    };
    let pool = pool(&server);
    pool.execute("CREATE TABLE t (a)", ()).expect("created");
    for round in 1..=3i64 {
        if round % 2 == 0 {
            server.kill().expect("killed");
        } else {
            server.stop().expect("stopped");
        }
        server.start_again().expect("starts again");
        pool.execute("INSERT INTO t VALUES (?)", [round])
            .expect("inserted");
        let count = pool.query("SELECT count(*) FROM t", (), |row| row.get::<i64>(0));
        assert_eq!(count.expect("counted"), [round]);
    }
    server.stop().expect("stopped");
    let pool = config()
        .acquire_timeout(Duration::from_millis(300))
        .connect(MemStore::new([server.address()]), "test.db");
    let error = pool.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::NoLeader);
    assert!(error.message().contains(server.address()), "{error}");
}

fn the_cluster_is_told_and_changed(kind: Kind) {
    let Some(server) = server(kind) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("cluster.yaml");
    MemStore::new([server.address()])
        .get()
        .and_then(|members| YamlStore::new(&path).set(&members))
        .expect("written");
    let cluster = Cluster::new(config(), YamlStore::new(&path));
    let leader = cluster.leader().expect("a leader");
    assert_eq!((leader.id, leader.address.as_str()), (1, server.address()));
    let members = cluster.members().expect("members");
    assert_eq!(members.len(), 1);
    assert_eq!(
        YamlStore::new(&path).get().expect("read"),
        members,
        "the store is up to date"
    );

    cluster.set_weight(server.address(), 9).expect("set");
    let metadata = cluster.describe(server.address()).expect("described");
    assert_eq!((metadata.failure_domain, metadata.weight), (0, 9));

    cluster
        .add(2, "127.0.0.1:1", Role::Spare)
        .expect("a spare need not be reachable");
    let error = cluster
        .add(2, "127.0.0.1:2", Role::Spare)
        .expect_err("the id is in use");
    assert_eq!(error.kind(), ErrorKind::Sql);
    let members = cluster.members().expect("members");
    assert_eq!((members[1].id, members[1].role), (2, Role::Spare));
    cluster.remove(2).expect("removed");
    assert_eq!(cluster.members().expect("members").len(), 1);

    let store = FileStore::new(dir.path().join("node-store"));
    store.set(&members[..1]).expect("written");
    let pool = config().connect(store, "dumped").expect("connects");
    pool.execute("CREATE TABLE t (a)", ()).expect("created");
    let files = pool.cluster().dump("dumped").expect("dumped");
    assert_eq!(files[0].name, "dumped");
    assert_eq!(files[1].name, "dumped-wal");
    assert_eq!(&files[0].data[..15], b"SQLite format 3");
    assert_eq!(files[0].data.len() % 4096, 0);
    let again = pool
        .cluster()
        .dump_from(server.address(), "dumped")
        .expect("dumped");
    assert_eq!(files, again);
}

fn leadership_is_followed(kind: Kind) {
    if !kind.available_or_skip() {
        return;
    }
    let options = |id| Options {
        id,
        latency_ms: Some(10),
        ..Options::default()
    };
    let servers: Vec<Server> = (1..=3)
        .map(|id| Server::start(kind, options(id)).expect("starts"))
        .collect();
    let cluster = Cluster::new(config(), MemStore::new([servers[0].address()]));
    for server in &servers[1..] {
        cluster
            .add(server.id(), server.address(), Role::Voter)
            .expect("added");
    }
    assert_eq!(cluster.members().expect("members").len(), 3);

    // The store names one follower only; the rest is learnt.
    let store = MemStore::new([servers[2].address()]);
    let pool = config().connect(store, "test.db").expect("connects");
    pool.execute("CREATE TABLE t (a)", ()).expect("created");
    let mut session = pool.get().expect("a connection");
    cluster.transfer(Some(2)).expect("transferred");
    assert_eq!(cluster.leader().expect("a leader").id, 2);
    let error = session
        .execute("INSERT INTO t VALUES (1)", ())
        .expect_err("the old leader");
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::NotLeader, Outcome::NotDone)
    );
    drop(session);
    pool.execute("INSERT INTO t VALUES (2)", ())
        .expect("goes to the new leader");

    let mut servers = servers;
    servers[1].kill().expect("killed");
    let done = pool.transaction(RetryPolicy::attempts(50), |tx| {
        tx.execute("INSERT INTO t VALUES (3)", ())
    });
    assert_eq!(done.expect("a third leader was found").rows_affected, 1);
    let rows = pool.query("SELECT a FROM t ORDER BY a", (), |row| row.get::<i64>(0));
    assert_eq!(rows.expect("read"), [2, 3]);
}

/// Two tests per scenario, one for each kind of server.
macro_rules! on_both {
    ($($scenario:ident: $c:ident, $ours:ident;)*) => {$(
        #[test]
        fn $c() {
            $scenario(Kind::C);
        }

        #[test]
        fn $ours() {
            $scenario(Kind::Ours);
        }
    )*};
}

on_both! {
    statements_and_values: statements_and_values_on_c, statements_and_values_on_ours;
    errors_are_sorted: errors_are_sorted_on_c, errors_are_sorted_on_ours;
    large_results_stream: large_results_stream_on_c, large_results_stream_on_ours;
    transactions_commit_or_roll_back:
        transactions_commit_or_roll_back_on_c, transactions_commit_or_roll_back_on_ours;
    competing_transactions_all_succeed:
        competing_transactions_all_succeed_on_c, competing_transactions_all_succeed_on_ours;
    prepared_statements_are_kept:
        prepared_statements_are_kept_on_c, prepared_statements_are_kept_on_ours;
    the_pool_survives_a_restart:
        the_pool_survives_a_restart_on_c, the_pool_survives_a_restart_on_ours;
    the_cluster_is_told_and_changed:
        the_cluster_is_told_and_changed_on_c, the_cluster_is_told_and_changed_on_ours;
    leadership_is_followed: leadership_is_followed_on_c, leadership_is_followed_on_ours;
}
