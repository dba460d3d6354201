//! What users of C dqlite were hit by, as scenarios on ours. `docs/UPSTREAM-BUGS.md` is the table.
//!
//! Each test is named after what went wrong, in words of what should have happened, and says where it
//! was reported. The nodes are real processes. Where the network has to be cut, they have networks of
//! their own, see [`compat_tests::faults`].

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use compat_tests::faults::{self, Bed};
use compat_tests::servers::{Kind, Options, Server, find_in_path_or_skip};
use dq_client::{Config, MemStore, Outcome, Pool, Role, TxMode};

const DATABASE: &str = "app";

/// How long anything may take before a test gives up; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a scenario on a thread of its own, since it ends up in another network, or says that it is
/// skipped.
fn in_networks(scenario: impl FnOnce() + Send) {
    if let Err(why) = faults::possible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    if !Kind::Ours.available_or_skip() || find_in_path_or_skip("sqlite3").is_none() {
        return;
    }
    std::thread::scope(|scope| {
        scope
            .spawn(scenario)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
}

fn bed(voters: usize, others: usize) -> Bed {
    Bed::start(voters, others, &["--roles", "off"], 1)
}

fn pool_of(addresses: &[String]) -> Pool {
    faults::connect(&faults::impatient(), addresses, DATABASE)
}

/// A cluster of voters with a table of ids.
fn bed_with_table(voters: usize, others: usize) -> (Bed, Pool) {
    let bed = bed(voters, others);
    let pool = pool_of(&bed.addresses());
    until_done(
        &pool,
        "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY)",
    );
    (bed, pool)
}

/// Tries until it is done. Only for what may be done twice.
#[track_caller]
fn until_done(pool: &Pool, sql: &str) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = pool.execute(sql, ()) {
        assert!(Instant::now() < deadline, "{sql}: {error}");
    }
}

/// Tries until it is answered.
#[track_caller]
fn ask(pool: &Pool, sql: &str) -> i64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pool.query(sql, (), |row| row.get(0)) {
            Ok(rows) => return rows[0],
            Err(error) => assert!(Instant::now() < deadline, "{sql}: {error}"),
        }
    }
}

#[track_caller]
fn leader(bed: &Bed) -> usize {
    bed.leader(PATIENCE).expect("there is a leader")
}

#[track_caller]
fn wait_for_members(bed: &Bed, want: &[u64]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = bed.cluster().members();
        if let Ok(members) = &members
            && members
                .iter()
                .map(|member| member.id)
                .eq(want.iter().copied())
        {
            return;
        }
        assert!(Instant::now() < deadline, "{members:?}, not {want:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// canonical/microk8s#5386: with one node of three powered off the others aborted transactions and
/// failed range reads until they were restarted, although they were a majority.
///
/// canonical/lxd#9891, canonical/go-dqlite#235: clients of a machine that vanished hung for minutes.
#[test]
fn one_node_of_three_without_power_stops_neither_writes_nor_reads() {
    in_networks(|| {
        let (bed, pool) = bed_with_table(3, 0);
        // A follower first: nobody has to notice.
        let follower = (leader(&bed) + 1) % 3;
        bed.cut_from_all(follower);
        for id in 0..200 {
            pool.execute("INSERT INTO t VALUES (?)", (id,))
                .expect("a majority is there");
            assert_eq!(ask(&pool, "SELECT count(*) FROM t"), id + 1);
        }
        bed.heal();
        bed.check_equal(DATABASE).expect("it catches up");
        // Then the leader, with connections open to it: these have to be given up in time.
        let old = leader(&bed);
        bed.cut_from_all(old);
        until_done(&pool, "INSERT OR REPLACE INTO t VALUES (1000)");
        for id in 1001..1200 {
            pool.execute("INSERT INTO t VALUES (?)", (id,))
                .expect("a majority is there");
        }
        assert_eq!(ask(&pool, "SELECT count(*) FROM t"), 400);
        bed.heal();
        bed.check_equal(DATABASE).expect("it catches up");
        assert_ne!(leader(&bed), old);
    });
}

/// canonical/raft#386: two leaders of one term, and stale reads; canonical/dqlite#258,
/// canonical/go-dqlite#207: a deposed leader went on answering reads.
#[test]
fn a_leader_that_was_deposed_answers_no_read_with_old_data() {
    for reads in ["quorum", "lease"] {
        in_networks(|| {
            let bed = Bed::start(3, 0, &["--roles", "off", "--reads", reads], 1);
            let pool = pool_of(&bed.addresses());
            until_done(&pool, "CREATE TABLE IF NOT EXISTS t (value INTEGER)");
            until_done(&pool, "INSERT INTO t VALUES (0)");
            for round in 1..=5 {
                let old = leader(&bed);
                // Clients that stay with the old leader whatever happens.
                let stay: Vec<Pool> = (0..4)
                    .map(|_| pool_of(&[bed.servers[old].address().to_owned()]))
                    .collect();
                let mut stay: Vec<_> = stay
                    .iter()
                    .map(|pool| pool.get().expect("it leads"))
                    .collect();
                bed.cut_from_nodes(old, true, round % 2 == 0);
                let others: Vec<String> = bed
                    .addresses()
                    .into_iter()
                    .enumerate()
                    .filter_map(|(node, address)| (node != old).then_some(address))
                    .collect();
                let pool = pool_of(&others);
                let done = AtomicI64::new(round - 1);
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    for session in &mut stay {
                        let (done, stop) = (&done, &stop);
                        scope.spawn(move || {
                            while !stop.load(Ordering::SeqCst) && !session.is_closed() {
                                let before = done.load(Ordering::SeqCst);
                                let read = session
                                    .query_row("SELECT value FROM t", (), |row| row.get::<i64>(0));
                                if let Ok(Some(value)) = read {
                                    assert!(value >= before, "{reads}: {value} after {before}");
                                }
                            }
                        });
                    }
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        until_done(&pool, &format!("UPDATE t SET value = {round}"));
                    }));
                    done.store(round, Ordering::SeqCst);
                    // A few more reads of the old leader's clients after that.
                    std::thread::sleep(Duration::from_millis(300));
                    stop.store(true, Ordering::SeqCst);
                    result.expect("the majority takes a write");
                });
                bed.heal();
                assert_eq!(
                    ask(&pool_of(&bed.addresses()), "SELECT value FROM t"),
                    round
                );
            }
        });
    }
}

/// canonical/raft#250, canonical/raft#323: a change of the members that never was committed could not
/// be taken back once a snapshot had removed, or contained, its entry: an assertion ended the node.
///
/// canonical/dqlite#5: a snapshot could not be installed while a client had a transaction open.
#[test]
fn a_change_of_members_that_failed_is_taken_back_by_a_snapshot_under_an_open_transaction() {
    in_networks(|| {
        let arguments = [
            "--roles",
            "off",
            "--snapshot-threshold",
            "20",
            "--snapshot-trailing",
            "20",
        ];
        let mut bed = Bed::start(3, 1, &arguments, 1);
        let fourth = bed.start_another();
        let pool = pool_of(&bed.addresses()[..3]);
        until_done(
            &pool,
            "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)",
        );
        let old = leader(&bed);
        let there = pool_of(&[bed.servers[old].address().to_owned()]);
        let mut session = there.get().expect("it leads");
        let mut transaction = session.begin(TxMode::Immediate).expect("it leads");
        transaction
            .execute("INSERT INTO t VALUES (-1, NULL)", ())
            .expect("not yet committed");

        bed.cut_from_nodes(old, true, true);
        // It still believes to lead, and appends the change. It cannot be told that it is done.
        let fourth = &bed.servers[fourth];
        let alone = there.cluster().timeout(Some(Duration::from_secs(2)));
        let result = alone.add(fourth.id(), fourth.address(), Role::Spare);
        assert!(result.is_err(), "nobody else has agreed");

        let others: Vec<String> = bed.addresses()[..3]
            .iter()
            .filter(|address| *address != bed.servers[old].address())
            .cloned()
            .collect();
        let pool = pool_of(&others);
        for id in 0..200 {
            until_done(
                &pool,
                &format!("INSERT OR REPLACE INTO t VALUES ({id}, randomblob(3000))"),
            );
        }
        bed.heal();
        transaction
            .commit()
            .expect_err("its leader was deposed long ago");
        wait_for_members(&bed, &[1, 2, 3]);
        // The fourth is no member and has no such database.
        bed.servers.truncate(3);
        bed.check_equal(DATABASE).expect("it catches up");
        // And what it has on disk says the same.
        bed.servers[old].kill().expect("it can be killed");
        bed.start_again(old);
        bed.check_equal(DATABASE).expect("it catches up");
        wait_for_members(&bed, &[1, 2, 3]);
        assert_eq!(ask(&pool, "SELECT count(*) FROM t WHERE id < 0"), 0);
    });
}

/// canonical/microk8s#2348, canonical/microk8s#2408, canonical/dqlite#323: a node was added, or
/// removed, while another was down, and the whole cluster went away.
#[test]
fn nodes_are_added_and_removed_while_another_is_down() {
    in_networks(|| {
        let (mut bed, pool) = bed_with_table(3, 1);
        let dead = (leader(&bed) + 1) % 3;
        bed.servers[dead].kill().expect("it can be killed");
        let fourth = bed.start_another();
        bed.add(fourth);
        pool.execute("INSERT INTO t VALUES (1)", ())
            .expect("three of four are there");
        let id = bed.servers[dead].id();
        bed.cluster().remove(id).expect("it is removed");
        pool.execute("INSERT INTO t VALUES (2)", ())
            .expect("all three are there");
        let mut left: Vec<u64> = bed.servers.iter().map(Server::id).collect();
        left.retain(|&other| other != id);
        wait_for_members(&bed, &left);
        // The new one counts: without one of the old ones it is needed.
        let old = (0..3).find(|&node| node != dead && node != leader(&bed));
        bed.servers[old.expect("one is left")]
            .kill()
            .expect("it can be killed");
        until_done(&pool, "INSERT OR REPLACE INTO t VALUES (3)");
        assert_eq!(ask(&pool, "SELECT count(*) FROM t"), 3);
    });
}

/// juju/juju#22988, canonical/microk8s#1197: a node was removed while it was off, came back later,
/// believed to be a member still, and there were two clusters.
#[test]
fn a_member_that_was_removed_while_it_was_off_comes_back_and_disturbs_nobody() {
    in_networks(|| {
        let (mut bed, pool) = bed_with_table(3, 0);
        let old = leader(&bed);
        bed.servers[old].kill().expect("it can be killed");
        until_done(&pool, "INSERT OR REPLACE INTO t VALUES (1)");
        let id = bed.servers[old].id();
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = bed.cluster().remove(id) {
            assert!(Instant::now() < deadline, "it is not removed: {error}");
        }
        let now = leader(&bed);
        bed.start_again(old);
        // It asks for votes again and again, election timeouts long; the leader stays, writes go on.
        let end = Instant::now() + Duration::from_secs(2);
        let mut count = 1;
        while Instant::now() < end {
            count += 1;
            pool.execute("INSERT INTO t VALUES (?)", (count,))
                .expect("the leader stays");
        }
        assert_eq!(leader(&bed), now);
        // It leads nobody, and knows of nobody who does: no client gets anything from it.
        let there =
            faults::impatient().connect(MemStore::new([bed.servers[old].address()]), DATABASE);
        if let Ok(there) = there {
            let rows = there.query("SELECT count(*) FROM t", (), |row| row.get::<i64>(0));
            assert_eq!(rows.expect("it was led to the leader"), [count]);
        }
        assert_eq!(ask(&pool, "SELECT count(*) FROM t"), count);
    });
}

/// juju/juju#15959, juju/juju#16129: a cluster was shrunk from three nodes to one, and the one that
/// was left had no quorum.
#[test]
fn a_cluster_that_shrinks_to_one_goes_on_alone() {
    in_networks(|| {
        let (mut bed, pool) = bed_with_table(3, 0);
        let last = leader(&bed);
        for node in (0..3).filter(|&node| node != last) {
            let id = bed.servers[node].id();
            bed.cluster().remove(id).expect("it is removed");
            bed.servers[node].kill().expect("it can be killed");
            pool.execute("INSERT INTO t VALUES (?)", (id as i64,))
                .expect("the others are there");
        }
        bed.servers[last].kill().expect("it can be killed");
        bed.start_again(last);
        until_done(&pool, "INSERT OR REPLACE INTO t VALUES (100)");
        assert_eq!(ask(&pool, "SELECT count(*) FROM t"), 3);
    });
}

/// canonical/dqlite#192, canonical/dqlite#335: all nodes went down, or the leader was killed, and those
/// that came back never found a leader.
#[test]
fn two_of_three_that_come_back_after_all_went_down_find_a_leader() {
    in_networks(|| {
        let (mut bed, pool) = bed_with_table(3, 0);
        for id in 1..=3 {
            let old = leader(&bed);
            for server in &mut bed.servers {
                server.kill().expect("it can be killed");
            }
            for node in (0..3).filter(|&node| node != old) {
                bed.start_again(node);
            }
            until_done(&pool, &format!("INSERT OR REPLACE INTO t VALUES ({id})"));
            assert_eq!(ask(&pool, "SELECT count(*) FROM t"), id);
            bed.start_again(old);
            bed.check_equal(DATABASE).expect("it catches up");
        }
    });
}

/// canonical/raft#279: two of four nodes were gone and the others tried to be elected, term after term;
/// one came back with an older term, all three had pre-votes for each other, and nobody led.
#[test]
fn a_node_that_comes_back_with_an_older_term_helps_to_elect() {
    in_networks(|| {
        let (mut bed, pool) = bed_with_table(4, 0);
        let first = leader(&bed);
        let follower = (first + 1) % 4;
        bed.servers[follower].kill().expect("it can be killed");
        pool.execute("INSERT INTO t VALUES (1)", ())
            .expect("three of four are there");
        bed.servers[first].kill().expect("it can be killed");
        // Several election timeouts, in which two of four cannot elect anybody.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(bed.leader(Duration::ZERO), None);
        bed.start_again(follower);
        until_done(&pool, "INSERT OR REPLACE INTO t VALUES (2)");
        assert_eq!(ask(&pool, "SELECT count(*) FROM t"), 2);
    });
}

/// canonical/raft#203: a transfer failed when a heartbeat came at the wrong moment;
/// canonical/raft#302: after a promotion, a transfer and the end of the old leader, no further change
/// of the members was possible; canonical/dqlite#46: a row was not the one that its writer had been
/// told, after leadership had moved.
#[test]
fn leadership_moves_under_writers_and_each_has_the_row_that_it_was_told() {
    in_networks(|| {
        let bed = bed(3, 0);
        let pool = pool_of(&bed.addresses());
        until_done(
            &pool,
            "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY AUTOINCREMENT, token INTEGER)",
        );
        let stop = AtomicBool::new(false);
        let next = AtomicI64::new(1);
        let told: Mutex<Vec<(i64, i64)>> = Mutex::new(Vec::new());
        let mut moved = 0;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (pool, stop, next, told) = (pool_of(&bed.addresses()), &stop, &next, &told);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let token = next.fetch_add(1, Ordering::SeqCst);
                        if let Ok(done) = pool.execute("INSERT INTO t (token) VALUES (?)", (token,))
                        {
                            let mut told = told.lock().expect("no writer panics");
                            told.push((done.last_insert_id, token));
                        }
                    }
                });
            }
            for _ in 0..20 {
                let Some(now) = bed.leader(PATIENCE) else {
                    break;
                };
                let to = &bed.servers[(now + 1) % 3];
                // The promotion that must not be left hanging by the transfer after it.
                let third = bed.servers[(now + 2) % 3].id();
                let cluster = bed.cluster();
                if cluster.assign(third, Role::Standby).is_ok() {
                    let deadline = Instant::now() + PATIENCE;
                    while cluster.assign(third, Role::Voter).is_err() {
                        let voter = cluster.members().is_ok_and(|members| {
                            let is =
                                |id, role| members.iter().any(|m| m.id == id && m.role == role);
                            is(third, Role::Voter)
                        });
                        if voter || Instant::now() > deadline {
                            break;
                        }
                    }
                }
                if cluster.transfer(Some(to.id())).is_ok() {
                    moved += 1;
                }
            }
            stop.store(true, Ordering::SeqCst);
        });
        assert!(moved >= 15, "only {moved} of 20 transfers were done");
        let members = bed.cluster().members().expect("somebody leads");
        assert!(members.iter().all(|member| member.role == Role::Voter));
        // One that tries again: this connection is to a node that has led at some time.
        let patient = Config::new()
            .connect(MemStore::new(bed.addresses()), DATABASE)
            .expect("somebody leads");
        let rows: Vec<(i64, i64)> = patient
            .query("SELECT id, token FROM t ORDER BY id", (), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .expect("somebody leads");
        let told = told.into_inner().expect("no writer panics");
        assert!(!told.is_empty());
        for pair in told {
            assert!(rows.binary_search(&pair).is_ok(), "{pair:?} is not there");
        }
        bed.check_equal(DATABASE).expect("they agree");
    });
}

/// canonical/microk8s#5352: connections to one node were blocked for a while, and when they were not
/// any more it stayed sluggish until it was restarted.
#[test]
fn a_node_that_was_cut_off_for_a_while_serves_as_before() {
    in_networks(|| {
        let (bed, pool) = bed_with_table(3, 0);
        let node = (leader(&bed) + 1) % 3;
        bed.cut_from_nodes(node, false, true);
        bed.wire.set(0, node + 1, cut());
        for id in 0..100 {
            until_done(&pool, &format!("INSERT OR REPLACE INTO t VALUES ({id})"));
        }
        bed.heal();
        bed.check_equal(DATABASE).expect("it catches up");
        let deadline = Instant::now() + PATIENCE;
        while leader(&bed) != node {
            assert!(Instant::now() < deadline, "it cannot lead");
            let _ = bed.cluster().transfer(Some(bed.servers[node].id()));
        }
        for id in 100..200 {
            until_done(&pool, &format!("INSERT OR REPLACE INTO t VALUES ({id})"));
        }
        assert_eq!(ask(&pool, "SELECT count(*) FROM t"), 200);
    });
}

fn cut() -> faults::wire::Rule {
    faults::wire::Rule {
        cut: true,
        ..faults::wire::Rule::default()
    }
}

/// canonical/dqlite#321: many writers at once, and some never got their turn: "context deadline
/// exceeded", "database is locked".
#[test]
fn of_many_writers_at_once_each_gets_its_turn() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let server = Server::start_single(Kind::Ours).expect("starts");
    let addresses = [server.address().to_owned()];
    let setup = pool_of(&addresses);
    setup
        .execute("CREATE TABLE t (writer INTEGER, n INTEGER)", ())
        .expect("created");
    std::thread::scope(|scope| {
        for writer in 0..100 {
            let pool = faults::impatient()
                .pool_size(1)
                .request_timeout(Some(PATIENCE))
                .connect(MemStore::new(&addresses), DATABASE)
                .expect("the settings are fine");
            scope.spawn(move || {
                for n in 0..20 {
                    pool.execute("INSERT INTO t VALUES (?, ?)", (writer, n))
                        .expect("it gets its turn, and no code 5");
                }
            });
        }
    });
    let query = "SELECT count(*) FROM (SELECT writer FROM t GROUP BY writer HAVING count(*) = 20)";
    assert_eq!(ask(&setup, query), 100);
}

/// canonical/dqlite#305: everybody waited while the WAL was written back into the database, and a
/// reader could keep that from ever being done.
#[test]
fn a_reader_that_stays_delays_no_writer_and_sees_what_it_saw() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let options = Options {
        arguments: ["--roles", "off", "--snapshot-threshold", "50"]
            .map(str::to_owned)
            .to_vec(),
        ..Options::default()
    };
    let server = Server::start(Kind::Ours, options).expect("starts");
    server.wait_leader(server.address()).expect("it leads");
    let addresses = [server.address().to_owned()];
    let (writer, reader) = (pool_of(&addresses), pool_of(&addresses));
    writer
        .execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)", ())
        .expect("created");
    let mut session = reader.get().expect("it leads");
    let mut transaction = session.begin(TxMode::Deferred).expect("it leads");
    let mut count = || {
        transaction
            .query_row("SELECT count(*) FROM t", (), |row| row.get::<i64>(0))
            .expect("its snapshot is kept")
    };
    assert_eq!(count(), Some(0));
    // A page each and more, several times what C dqlite's WAL holds before it is written back.
    for id in 0..3000 {
        writer
            .execute("INSERT INTO t VALUES (?, randomblob(3000))", (id,))
            .expect("nobody is in its way");
        if id % 500 == 0 {
            assert_eq!(count(), Some(0));
        }
    }
    assert_eq!(ask(&writer, "SELECT count(*) FROM t"), 3000);
    drop(transaction);
    assert_eq!(ask(&reader, "SELECT count(*) FROM t"), 3000);
}

/// canonical/dqlite#349: an empty text, or one of comments only, ended the server.
#[test]
fn an_empty_text_ends_nothing() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(Kind::Ours).expect("starts");
    let pool = pool_of(&[server.address().to_owned()]);
    for text in [
        "",
        " ",
        ";",
        ";;",
        "-- nothing",
        "/* nothing */",
        "/*",
        "\n",
    ] {
        // Whether it is an error is not the point.
        let _ = pool.execute(text, ());
        let _ = pool.query(text, (), |_| Ok(()));
        let mut session = pool.get().expect("it is there");
        if let Ok(mut statement) = session.prepare(text) {
            let _ = statement.execute(());
        }
    }
    assert_eq!(ask(&pool, "SELECT 7"), 7);
    assert!(server.exit_status().expect("our child").is_none());
}

/// canonical/dqlite#432: a value of 20 MB gave "disk I/O error", and the connection was of no use.
#[test]
fn a_value_of_twenty_megabytes_is_taken_and_one_too_large_is_told_so() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let server = Server::start_single(Kind::Ours).expect("starts");
    let pool = faults::impatient()
        .request_timeout(Some(PATIENCE))
        .connect(MemStore::new([server.address()]), DATABASE)
        .expect("the settings are fine");
    pool.execute("CREATE TABLE t (body BLOB)", ())
        .expect("created");
    pool.execute("INSERT INTO t VALUES (?)", (vec![7u8; 20 << 20],))
        .expect("it is taken");
    assert_eq!(ask(&pool, "SELECT length(body) FROM t"), 20 << 20);
    let error = pool
        .execute("INSERT INTO t VALUES (zeroblob(2000000000))", ())
        .expect_err("too large");
    assert_eq!(error.outcome(), Outcome::NotDone, "{error}");
    assert_ne!(error.sqlite_code(), Some(10), "{error}");
    assert_eq!(ask(&pool, "SELECT count(*) FROM t"), 1);
}

/// canonical/dqlite#377, canonical/go-dqlite#210: with more than 255 parameters rows went missing.
#[test]
fn more_than_255_parameters_all_count() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let server = Server::start_single(Kind::Ours).expect("starts");
    let pool = pool_of(&[server.address().to_owned()]);
    pool.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)", ())
        .expect("created");
    for count in [255usize, 256, 257, 1000, 32766] {
        let marks = vec!["(?)"; count].join(", ");
        let values: Vec<i64> = (0..count as i64).collect();
        pool.execute("DELETE FROM t", ()).expect("empty again");
        pool.execute(&format!("INSERT INTO t VALUES {marks}"), &values)
            .expect("written");
        assert_eq!(ask(&pool, "SELECT count(*) FROM t"), count as i64);
        let marks = vec!["?"; count].join(", ");
        let found = pool
            .query(
                &format!("SELECT id FROM t WHERE id IN ({marks})"),
                &values,
                |row| row.get::<i64>(0),
            )
            .expect("read");
        assert_eq!(found.len(), count);
    }
}

/// The table is of use only as long as its tests can be run.
#[test]
fn each_test_that_the_table_names_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("docs/UPSTREAM-BUGS.md")).expect("it is there");
    let mut sources = String::new();
    let mut places = vec![root.join("compat-tests/tests"), root.join("crates")];
    while let Some(place) = places.pop() {
        for file in std::fs::read_dir(place).expect("it is there") {
            let path = file.expect("it can be listed").path();
            if path.is_dir() {
                places.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(path).expect("it can be read");
            }
        }
    }
    let tests: std::collections::BTreeSet<&str> = sources
        .split("#[test]\n")
        .skip(1)
        .filter_map(|test| test.trim_start().strip_prefix("fn ")?.split('(').next())
        .collect();
    let names: Vec<&str> = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| text.matches('_').count() > 2)
        .collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(tests.contains(name), "there is no test {name}");
    }
}
