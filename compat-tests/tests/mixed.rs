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

/// A leader of one kind is cut off with writes that nobody else has; one of the other kind is elected,
/// and has a majority only together with the first, who still has them. What it acknowledges then has to
/// be on the first one's disk in their place: with the successor dead nobody else has it.
fn a_tail_gives_way(leader: Kind, others: Kind) {
    in_networks(&[leader, others], || {
        let arguments: (&[&str], &[&str]) = (&["--roles", "off"], &[]);
        let mut bed = Bed::start_kinds(&[leader, others, others], 0, arguments, 1);
        // How many entries the tail has at most, and how many the successor makes before they meet.
        for (round, (tail, further)) in [(4, 0), (1, 20)].into_iter().enumerate() {
            Round { round, tail }.run(&mut bed, further);
        }
        println!("C dqlite ended by itself: {:?}", bed.c_ended);
    });
}

struct Round {
    round: usize,
    tail: usize,
}

impl Round {
    fn run(&self, bed: &mut Bed, further: usize) {
        lead(bed, 0);
        let addresses = bed.addresses();
        // An entry is of one database, and C dqlite replicates one per database at a time.
        let databases: Vec<String> = (0..self.tail)
            .map(|database| format!("tail-{database}"))
            .collect();
        let mut acknowledged: Vec<BTreeSet<String>> = Vec::new();
        for name in &databases {
            let pool = faults::connect(&faults::impatient(), &addresses, name);
            until_done(
                &pool,
                "CREATE TABLE IF NOT EXISTS t (token TEXT PRIMARY KEY)",
            );
            acknowledged.push(tokens(&pool));
        }
        self.leave_a_tail(bed, &databases);

        let successor = leader_after(bed, 0);
        let fellow = 3 - successor;
        let to_successor: Vec<Pool> = databases
            .iter()
            .map(|name| {
                faults::connect(
                    &faults::impatient(),
                    &addresses[successor..=successor],
                    name,
                )
            })
            .collect();
        for number in 0..further {
            let token = self.token("further", number);
            until_done(&to_successor[0], &insert(&token));
            acknowledged[0].insert(token);
        }

        bed.cut_from_nodes(fellow, true, true);
        bed.wire.set(1, successor + 1, Rule::default());
        bed.wire.set(successor + 1, 1, Rule::default());
        for ((number, pool), acknowledged) in (0..).zip(&to_successor).zip(&mut acknowledged) {
            let token = self.token("kept", number);
            until_done(pool, &insert(&token));
            acknowledged.insert(token);
        }

        // Its kernel has still what it sent to the fellow, and must not get rid of it.
        bed.cut_from_all(successor);
        bed.servers[successor].kill().expect("it can be killed");
        bed.wire.set(1, fellow + 1, Rule::default());
        bed.wire.set(fellow + 1, 1, Rule::default());
        leader_after(bed, successor);
        for (name, acknowledged) in databases.iter().zip(&acknowledged) {
            let pool = faults::connect(&faults::impatient(), &addresses, name);
            assert_eq!(tokens(&pool), *acknowledged, "{name}, round {}", self.round);
        }
        bed.heal();
        bed.start_again(successor);
        for name in &databases {
            bed.check_equal(name).expect("all have the same");
        }
    }

    /// Cuts node 0 off while it leads, and gives it writes, until it has at least one of them on its disk.
    fn leave_a_tail(&self, bed: &Bed, databases: &[String]) {
        let address = &bed.addresses()[..1];
        let pools: Vec<Pool> = databases
            .iter()
            .map(|name| faults::connect(&faults::impatient(), address, name))
            .collect();
        let mut connections: Vec<_> = pools
            .iter()
            .map(|pool| pool.get().expect("it leads"))
            .collect();
        bed.cut_from_nodes(0, true, true);
        std::thread::scope(|scope| {
            for (number, connection) in connections.iter_mut().enumerate() {
                let sql = insert(&self.token("lost", number));
                scope.spawn(move || {
                    connection
                        .execute(&sql, ())
                        .expect_err("no majority can have it");
                });
            }
        });
        let there = (0..self.tail)
            .filter(|&number| on_disk(bed, self.token("lost", number).as_bytes()))
            .count();
        println!("  round {}: a tail of {there}", self.round);
        assert!(there > 0, "there is no tail");
    }

    fn token(&self, what: &str, number: usize) -> String {
        format!("{what}-{number}-of-round-{}", self.round)
    }
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
