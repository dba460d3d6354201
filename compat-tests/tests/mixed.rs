//! Clusters of C dqlite and ours under the faults of `tests/faults.rs`, and what those who replace one by
//! the other count on.
//!
//! `DQ_FAULTS_SECONDS`, `DQ_FAULTS_SEED` and the others are as there:
//!
//! ```text
//! DQ_FAULTS_SECONDS=3600 DQ_FAULTS_SEED=7 cargo test --release -p compat-tests --test mixed under_faults -- --nocapture
//! ```

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use compat_tests::directory;
use compat_tests::faults::checked::{in_networks, under_faults};
use compat_tests::faults::wire::Rule;
use compat_tests::faults::{self, Bed};
use compat_tests::servers::{Kind, Options, Server};
use dq_client::{Cluster, Config, MemStore, Pool, Role};
use dq_wire::raft_rpc::{Message, MessageKind, Preamble};

const C: Kind = Kind::C;
const OURS: Kind = Kind::Ours;

/// How long anything may take before a test gives up; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn one_node_of_c_and_two_of_ours_lose_nothing_under_faults() {
    under_faults(&[C, OURS, OURS], false, "quorum", 5, 11);
}

#[test]
fn two_nodes_of_c_and_one_of_ours_lose_nothing_under_faults() {
    under_faults(&[C, C, OURS], false, "quorum", 5, 12);
}

#[test]
fn all_nodes_are_replaced_by_the_other_kind_and_back_and_lose_nothing_under_faults() {
    under_faults(&[C, C, C], true, "quorum", 12, 13);
}

/// A leader of one kind is cut off with writes that nobody else has. One of the other kind is elected, and the
/// third node is cut off; so there is a majority only with the first one, which comes back from a crash with
/// what it had, in the places of what the successor wants to have acknowledged just then. What is
/// acknowledged has to be on the first one's disk instead: with the successor dead nobody else has it.
fn a_tail_gives_way(leader: Kind, others: Kind) {
    in_networks(&[leader, others], || {
        let arguments: (&[&str], &[&str]) = (&["--roles", "off"], &[]);
        // An election timeout that is longer than it takes to find a peer again.
        let mut bed = Bed::start_kinds(&[leader, others, others], 0, arguments, 100, 1);
        give_way(&mut bed);
        println!("C dqlite ended by itself: {:?}", bed.c_ended);
    });
}

/// An entry is of one database, and a database has one under way at a time.
const DATABASES: usize = 2;
/// Who read from a leader that has such entries: each question adds one, which C dqlite wants to be applied
/// before it answers. So the tail becomes longer than what the successor has at first.
const READERS: usize = 12;

fn give_way(bed: &mut Bed) {
    lead(bed, 0);
    let addresses = bed.addresses();
    let databases: Vec<String> = (0..DATABASES)
        .map(|database| format!("tail-{database}"))
        .collect();
    for name in &databases {
        let pool = faults::connect(&faults::impatient(), &addresses, name);
        until_done(
            &pool,
            "CREATE TABLE IF NOT EXISTS t (token TEXT PRIMARY KEY)",
        );
        until_done(&pool, &insert("before"));
    }
    leave_a_tail(bed, &databases);

    let successor = leader_after(bed, 0);
    let fellow = 3 - successor;
    bed.cut_from_nodes(fellow, true, true);
    connect_nodes(bed, 0, successor);
    std::thread::scope(|scope| {
        for name in &databases {
            let address = &addresses[successor..=successor];
            scope.spawn(move || {
                let pool = faults::connect(&faults::impatient(), address, name);
                until_done(&pool, &insert("kept"));
            });
        }
        // It does not matter whether they are there already; mostly they are.
        bed.start_again(0);
    });

    // Its kernel has still what it sent to the fellow, and must not get rid of it.
    bed.cut_from_all(successor);
    bed.servers[successor].kill().expect("it can be killed");
    connect_nodes(bed, 0, fellow);
    leader_after(bed, successor);
    for name in &databases {
        let pool = faults::connect(&faults::impatient(), &addresses, name);
        let acknowledged = ["before", "kept"].map(str::to_owned);
        assert_eq!(tokens(&pool), BTreeSet::from(acknowledged), "{name}");
    }
    bed.heal();
    bed.start_again(successor);
    for name in &databases {
        bed.check_equal(name).expect("all have the same");
    }
}

/// Makes the network between two nodes good again.
fn connect_nodes(bed: &Bed, a: usize, b: usize) {
    bed.wire.set(a + 1, b + 1, Rule::default());
    bed.wire.set(b + 1, a + 1, Rule::default());
}

/// Cuts node 0 off while it leads, gives it writes, and kills it when it has at least one of them on its disk.
fn leave_a_tail(bed: &mut Bed, databases: &[String]) {
    let address = &bed.addresses()[..1];
    let pools: Vec<Pool> = databases
        .iter()
        .map(|name| {
            let config = faults::impatient().pool_size(1 + READERS);
            faults::connect(&config, address, name)
        })
        .collect();
    let connect = |count: usize| -> Vec<_> {
        let all = pools
            .iter()
            .flat_map(|pool| (0..count).map(move |_| pool.get()));
        all.map(|connection| connection.expect("it leads"))
            .collect()
    };
    let (mut writers, mut readers) = (connect(1), connect(READERS));
    bed.cut_from_nodes(0, true, true);
    std::thread::scope(|scope| {
        for (number, writer) in writers.iter_mut().enumerate() {
            let sql = insert(&format!("lost-{number}"));
            scope.spawn(move || {
                writer
                    .execute(&sql, ())
                    .expect_err("no majority can have it");
            });
        }
        for reader in &mut readers {
            // What was there before may be answered.
            scope.spawn(|| {
                let _ = reader.query_row("SELECT count(*) FROM t", (), |_| Ok(()));
            });
        }
    });
    drop((writers, readers));
    bed.servers[0].kill().expect("it can be killed");
    let there = (0..DATABASES)
        .filter(|&number| on_disk(bed, format!("lost-{number}").as_bytes()))
        .count();
    println!("  {there} writes in the tail");
    assert!(there > 0, "there is no tail");
}

fn insert(token: &str) -> String {
    format!("INSERT OR REPLACE INTO t VALUES ('{token}')")
}

fn tokens(pool: &Pool) -> BTreeSet<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pool.query("SELECT token FROM t", (), |row| row.get(0)) {
            Ok(tokens) => return tokens.into_iter().collect(),
            Err(error) => assert!(Instant::now() < deadline, "it cannot be read: {error}"),
        }
    }
}

/// Whether node 0 has written these bytes down.
fn on_disk(bed: &Bed, bytes: &[u8]) -> bool {
    let files = directory::files(&bed.servers[0].data_dir());
    files
        .values()
        .any(|file| file.windows(bytes.len()).any(|window| window == bytes))
}

/// The next leader after this one, which most nodes may take for it a little longer.
fn leader_after(bed: &Bed, old: usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bed.leader(PATIENCE).expect("two of three elect one") {
            leader if leader != old => return leader,
            _ => assert!(Instant::now() < deadline, "nobody comes after it"),
        }
    }
}

/// Makes a node the leader.
fn lead(bed: &Bed, node: usize) {
    let deadline = Instant::now() + PATIENCE;
    while bed.leader(PATIENCE) != Some(node) {
        assert!(Instant::now() < deadline, "node {node} does not lead");
        // It may fail because another is elected meanwhile; then the next one does it.
        let _ = bed.cluster().transfer(Some(bed.servers[node].id()));
    }
}

/// Tries until it is done. Only for what may be done twice.
#[track_caller]
fn until_done(pool: &Pool, sql: &str) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = pool.execute(sql, ()) {
        assert!(Instant::now() < deadline, "{sql}: {error}");
    }
}

#[test]
fn unacknowledged_writes_of_a_leader_of_c_vanish_and_nothing_else_does() {
    a_tail_gives_way(C, OURS);
}

#[test]
fn unacknowledged_writes_of_a_leader_of_ours_vanish_and_nothing_else_does() {
    a_tail_gives_way(OURS, C);
}

/// C dqlite 1.11.1 ends if it gets a message of a kind that only ours understand: whoever takes the place of a
/// node of ours gets none, as long as nothing shows that it is one as well.
#[test]
fn who_comes_in_place_of_a_node_of_ours_gets_nothing_that_only_ours_understand() {
    if !OURS.available_or_skip() {
        return;
    }
    let mut servers: Vec<Server> = (1..=3)
        .map(|id| {
            let options = Options {
                id,
                latency_ms: Some(20),
                ..Options::default()
            };
            Server::start(OURS, options).expect("the server starts")
        })
        .collect();
    let first = servers[0].address().to_owned();
    servers[0].wait_leader(&first).expect("the first one leads");
    let cluster = Cluster::new(Config::new(), MemStore::new([&first]));
    for server in &servers[1..] {
        cluster
            .add(server.id(), server.address(), Role::Voter)
            .expect("it becomes a voter");
    }
    let pool = faults::connect(&faults::impatient(), &[first], "kinds");
    until_done(&pool, "CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Reads are what the leader asks its followers for.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = pool.query("SELECT id FROM t", (), |row| row.get::<i64>(0));
            }
        });
        servers[2].kill().expect("it can be killed");
        let place = TcpListener::bind(servers[2].address()).expect("the address is free");
        // Only the leader sends without being asked.
        let (stream, _) = place.accept().expect("the leader comes back");
        let numbers = numbers_of_appends(stream, 20);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(numbers.expect("it sends appends"), [0; 20]);
    });
}

/// The numbers in the first messages with entries or without that arrive on a stream to a node.
fn numbers_of_appends(mut stream: TcpStream, count: usize) -> io::Result<Vec<u32>> {
    // The protocol, and CONNECT, whose header begins with its size in words.
    let mut start = [0; 16];
    stream.read_exact(&mut start)?;
    let words = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
    let mut take = |size: u64| {
        let mut bytes = Vec::new();
        let taken = (&mut stream).take(size).read_to_end(&mut bytes)?;
        match taken as u64 == size {
            true => Ok(bytes),
            false => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    };
    take(u64::from(words) * 8)?;
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let preamble = take(Preamble::SIZE as u64)?;
        let preamble = Preamble::decode(&preamble).map_err(io::Error::other)?;
        let header = take(u64::from(preamble.header_size))?;
        let message = Message::decode(preamble.kind, &header).map_err(io::Error::other)?;
        take(message.payload_size())?;
        if preamble.kind == MessageKind::AppendEntries {
            numbers.push(preamble.seq);
        }
    }
    Ok(numbers)
}
