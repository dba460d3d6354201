//! Clusters of real processes: members come and go, leaders die, nothing acknowledged is lost.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use compat_tests::servers::{Kind, Options, Server, find_in_path_or_skip, probe_leader};
use dq_client::{Cluster, Config, MemStore, Outcome, Pool, Role};

/// How long anything here may take before the test gives up; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(kinds: &[Kind]) -> Vec<Server> {
    let servers: Vec<Server> = (1..)
        .zip(kinds)
        .map(|(id, kind)| {
            let options = Options {
                id,
                latency_ms: Some(20),
                ..Options::default()
            };
            Server::start(*kind, options).expect("the server starts")
        })
        .collect();
    servers[0]
        .wait_leader(servers[0].address())
        .expect("the first one leads");
    let cluster = cluster(&servers);
    for server in &servers[1..] {
        cluster
            .add(server.id(), server.address(), Role::Voter)
            .expect("it becomes a voter");
    }
    servers
}

fn store(servers: &[Server]) -> MemStore {
    MemStore::new(servers.iter().map(Server::address))
}

fn cluster(servers: &[Server]) -> Cluster<'static> {
    Cluster::new(Config::new(), store(servers))
}

fn pool(servers: &[Server]) -> Pool {
    Config::new()
        .request_timeout(Some(Duration::from_secs(10)))
        .connect(store(servers), "cluster")
        .expect("the settings are fine")
}

/// Writes a row, again and again until it is certain that it was written, or that it may have been.
fn write(pool: &Pool, token: i64, acked: &mut BTreeSet<i64>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pool.execute("INSERT INTO t VALUES (?)", (token,)) {
            Ok(_) => {
                acked.insert(token);
                return;
            }
            Err(error) if error.outcome() == Outcome::Unknown => return,
            Err(error) => assert!(Instant::now() < deadline, "cannot write: {error}"),
        }
    }
}

fn tokens(pool: &Pool) -> BTreeSet<i64> {
    pool.query("SELECT token FROM t", (), |row| row.get(0))
        .expect("it can be read")
        .into_iter()
        .collect()
}

fn leader_of(servers: &[Server]) -> usize {
    let leader = cluster(servers).leader().expect("there is a leader");
    servers
        .iter()
        .position(|server| server.address() == leader.address)
        .expect("it is one of ours")
}

/// Writes, kills the leader, writes on, starts it again, round after round; nothing acknowledged may
/// be missing, and in the end all nodes of ours have the same pages.
fn leaders_die(kinds: &[Kind], rounds: usize) {
    if !kinds.iter().all(|kind| kind.available_or_skip()) {
        return;
    }
    let mut servers = start(kinds);
    let pool = pool(&servers);
    pool.execute("CREATE TABLE t (token INTEGER PRIMARY KEY)", ())
        .expect("created");
    let mut acked = BTreeSet::new();
    let mut token = 0;
    for round in 0..rounds {
        for _ in 0..50 {
            token += 1;
            write(&pool, token, &mut acked);
        }
        let leader = leader_of(&servers);
        servers[leader].kill().expect("it can be killed");
        for _ in 0..50 {
            token += 1;
            write(&pool, token, &mut acked);
        }
        servers[leader]
            .start_again()
            .expect("it starts after a crash");
        let lost: Vec<_> = acked.difference(&tokens(&pool)).copied().collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
    }
    let members = cluster(&servers).members().expect("they can be listed");
    assert!(
        members.iter().all(|member| member.role == Role::Voter),
        "{members:?}"
    );
    // C dqlite 1.11.1 dumps what it has checkpointed, and a WAL: not comparable byte by byte.
    servers.retain(|server| server.kind() == Kind::Ours);
    wait_equal(&servers);
}

#[test]
fn three_nodes_survive_the_death_of_each_leader_and_lose_nothing() {
    leaders_die(&[Kind::Ours; 3], 4);
}

#[test]
fn five_nodes_survive_the_death_of_each_leader_and_lose_nothing() {
    leaders_die(&[Kind::Ours; 5], 2);
}

#[test]
fn nodes_of_both_kinds_form_one_cluster_whoever_leads() {
    leaders_die(&[Kind::Ours, Kind::C, Kind::C], 3);
    leaders_die(&[Kind::C, Kind::Ours, Kind::Ours], 3);
}

/// Waits until the members have these roles.
/// A client that is told of no leader looks again much later than a hand-over takes.
#[test]
fn who_asks_during_a_hand_over_is_told_who_leads_next() {
    const ENOUGH: Duration = Duration::from_millis(200);
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let servers = start(&[Kind::Ours; 3]);
    for _ in 0..10 {
        let before = leader_of(&servers);
        let after = &servers[(before + 1) % servers.len()];
        let (asked, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                let mut named = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let since = Instant::now();
                    let name = probe_leader(servers[before].address()).expect("it answers");
                    asked.store(true, Ordering::SeqCst);
                    named.push((name, since.elapsed()));
                }
                named
            });
            while !asked.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let moved = cluster(&servers).transfer(Some(after.id()));
            stop.store(true, Ordering::SeqCst);
            let named = asker.join().expect("it does not panic");
            moved.expect("leadership can be moved");
            for (name, took) in named {
                assert!(
                    !name.is_empty() || took >= ENOUGH,
                    "told of no leader after {took:?}"
                );
            }
        });
        after.wait_leader(after.address()).expect("it leads");
    }
}

fn wait_roles(cluster: &Cluster<'_>, want: &[(u64, Role)]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now: Vec<(u64, Role)> = match cluster.members() {
            Ok(members) => members
                .iter()
                .map(|member| (member.id, member.role))
                .collect(),
            Err(_) => Vec::new(),
        };
        if now == want {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "roles stay {now:?}, not {want:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn nodes_that_join_get_roles_and_a_dead_voter_is_replaced() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let options = |id, arguments: &[&str]| Options {
        id,
        latency_ms: Some(20),
        arguments: arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect(),
        ..Options::default()
    };
    let mut servers = vec![Server::start(Kind::Ours, options(1, &[])).expect("the server starts")];
    let first = servers[0].address().to_owned();
    servers[0].wait_leader(&first).expect("it leads");
    for id in 2..=4 {
        let options = options(id, &["--join", &first]);
        servers.push(Server::start(Kind::Ours, options).expect("the server starts"));
        // One after the other, so that the roles do not depend on who was faster.
        let deadline = Instant::now() + PATIENCE;
        let cluster = cluster(&servers);
        while cluster.members().map_or(0, |members| members.len()) < servers.len() {
            assert!(
                Instant::now() < deadline,
                "node {id} does not join: {}",
                servers[0].log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let cluster = cluster(&servers);
    let (voter, standby) = (Role::Voter, Role::Standby);
    wait_roles(
        &cluster,
        &[(1, voter), (2, voter), (3, voter), (4, standby)],
    );

    servers[2].kill().expect("it can be killed");
    wait_roles(
        &cluster,
        &[(1, voter), (2, voter), (3, Role::Spare), (4, voter)],
    );

    // A clean stop of the leader hands over, and the cluster goes on.
    servers[0].stop().expect("it stops");
    let pool = pool(&servers);
    pool.execute("CREATE TABLE t (token INTEGER PRIMARY KEY)", ())
        .expect("somebody else leads");
}

#[test]
fn members_that_lag_too_far_get_a_snapshot() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let options = |id| Options {
        id,
        latency_ms: Some(20),
        arguments: [
            "--roles",
            "off",
            "--snapshot-threshold",
            "20",
            "--snapshot-trailing",
            "20",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Options::default()
    };
    let mut servers: Vec<Server> = (1..=3)
        .map(|id| Server::start(Kind::Ours, options(id)).expect("the server starts"))
        .collect();
    servers[0]
        .wait_leader(servers[0].address())
        .expect("it leads");
    let pool = pool(&servers);
    pool.execute("CREATE TABLE t (token INTEGER PRIMARY KEY, body BLOB)", ())
        .expect("created");
    let fill = |from: i64| {
        for token in from..from + 120 {
            pool.execute("INSERT INTO t VALUES (?, randomblob(3000))", (token,))
                .expect("written");
        }
    };
    // The log no longer reaches back to where these two are.
    fill(0);
    let cluster = cluster(&servers);
    for server in &servers[1..] {
        cluster
            .add(server.id(), server.address(), Role::Voter)
            .expect("it becomes a voter");
    }
    // Nor to where this one was when it died.
    servers[2].kill().expect("it can be killed");
    fill(1000);
    servers[2].start_again().expect("it starts after a crash");
    wait_equal(&servers);
    // What they have been given is on their disks too.
    for server in &mut servers {
        server.kill().expect("it can be killed");
    }
    for server in &mut servers {
        server.start_again().expect("it starts after a crash");
    }
    wait_equal(&servers);
    let count: Vec<i64> = pool
        .query("SELECT count(*) FROM t", (), |row| row.get(0))
        .expect("it can be read");
    assert_eq!(count, [240]);
}

#[test]
fn a_member_that_was_away_gets_what_it_missed_from_the_leaders_disk() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let arguments = ["--roles", "off", "--log-memory-kib", "256"];
    let options = |id| Options {
        id,
        latency_ms: Some(20),
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let mut servers: Vec<Server> = (1..=3)
        .map(|id| Server::start(Kind::Ours, options(id)).expect("the server starts"))
        .collect();
    servers[0]
        .wait_leader(servers[0].address())
        .expect("it leads");
    let cluster = cluster(&servers);
    for server in &servers[1..] {
        cluster
            .add(server.id(), server.address(), Role::Voter)
            .expect("it becomes a voter");
    }
    let pool = pool(&servers);
    pool.execute("CREATE TABLE t (token INTEGER PRIMARY KEY, body BLOB)", ())
        .expect("created");
    let away = (leader_of(&servers) + 1) % 3;
    servers[away].kill().expect("it can be killed");
    // 40 MiB, of which the leader keeps a quarter of one in memory, and no snapshot is due.
    for token in 0..400 {
        pool.execute("INSERT INTO t VALUES (?, randomblob(100000))", (token,))
            .expect("written");
    }
    servers[away]
        .start_again()
        .expect("it starts after a crash");
    wait_equal(&servers);
    for server in &servers {
        let log = server.log();
        assert!(!log.contains("arrived"), "a snapshot was sent: {log}");
        assert!(!log.contains("cannot be read"), "{log}");
    }
}

/// Waits until all these nodes have the same pages.
fn wait_equal(servers: &[Server]) {
    let deadline = Instant::now() + PATIENCE;
    let cluster = cluster(servers);
    loop {
        let dumps: Vec<_> = servers
            .iter()
            // A node that has just been started may not have come to the database yet.
            .map(|server| cluster.dump_from(server.address(), "cluster").ok())
            .map(|files| files.map(|files| files[0].data.clone()))
            .collect();
        if dumps[0].is_some() && dumps.iter().all(|dump| *dump == dumps[0]) {
            return;
        }
        assert!(Instant::now() < deadline, "the nodes do not agree");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs writers beside `act`, and then checks that nothing that they were told is missing.
fn under_writers(servers: &mut Vec<Server>, act: impl FnOnce(&mut Vec<Server>)) {
    const WRITERS: i64 = 4;
    let stop = AtomicBool::new(false);
    let setup = pool(servers);
    setup
        .execute("CREATE TABLE t (token INTEGER PRIMARY KEY)", ())
        .expect("created");
    let acked = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (pool, stop) = (pool(servers), &stop);
                scope.spawn(move || {
                    let mut acked = BTreeSet::new();
                    let mut token = writer;
                    while !stop.load(Ordering::Relaxed) {
                        token += WRITERS;
                        write(&pool, token, &mut acked);
                    }
                    acked
                })
            })
            .collect();
        // And the stock shell, a process for each row, so that none of it is left from before.
        let shell = find_in_path_or_skip("dqlite").map(|shell| {
            let addresses: Vec<&str> = servers.iter().map(Server::address).collect();
            let (addresses, stop) = (addresses.join(","), &stop);
            scope.spawn(move || {
                let mut acked = BTreeSet::new();
                let mut token = -1;
                while !stop.load(Ordering::Relaxed) {
                    let insert = format!("INSERT INTO t VALUES ({token})");
                    // It gives up by itself after some seconds without a leader.
                    let output = Command::new(&shell)
                        .args(["-s", &addresses, "cluster", &insert])
                        .output()
                        .expect("the shell can be started");
                    if output.status.success() {
                        acked.insert(token);
                    }
                    token -= 1;
                }
                acked
            })
        });
        act(servers);
        stop.store(true, Ordering::Relaxed);
        let mut acked = BTreeSet::new();
        for writer in writers.into_iter().chain(shell) {
            acked.append(&mut writer.join().expect("no writer panicked"));
        }
        acked
    });
    assert!(!acked.is_empty());
    let lost: Vec<_> = acked.difference(&tokens(&pool(servers))).copied().collect();
    assert!(lost.is_empty(), "lost {lost:?}");
}

#[test]
fn a_cluster_grows_to_seven_and_shrinks_to_one_under_writers() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut servers = start(&[Kind::Ours]);
    for id in 2..=7 {
        let options = Options {
            id,
            latency_ms: Some(20),
            ..Options::default()
        };
        servers.push(Server::start(Kind::Ours, options).expect("the server starts"));
    }
    under_writers(&mut servers, |servers| {
        let cluster = cluster(servers);
        for server in &servers[1..] {
            cluster
                .add(server.id(), server.address(), Role::Voter)
                .expect("it becomes a voter");
        }
        // The first ones go, so that leaders are among them.
        for server in &servers[..6] {
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = cluster.remove(server.id()) {
                let gone = cluster
                    .members()
                    .is_ok_and(|m| m.iter().all(|m| m.id != server.id()));
                if gone {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "cannot remove {}: {error}",
                    server.id()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    let members = cluster(&servers).members().expect("they can be listed");
    assert_eq!(
        members.iter().map(|member| member.id).collect::<Vec<_>>(),
        [7]
    );
}

#[test]
fn leaders_and_followers_that_stop_for_a_while_cost_nothing_that_was_acknowledged() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut servers = start(&[Kind::Ours; 3]);
    under_writers(&mut servers, |servers| {
        for round in 0..4 {
            let leader = leader_of(servers);
            let victim = if round % 2 == 0 {
                leader
            } else {
                (leader + 1) % 3
            };
            servers[victim].pause().expect("it can be paused");
            // Well beyond the election timeout of 300 ms.
            std::thread::sleep(Duration::from_millis(1500));
            servers[victim].resume().expect("it goes on");
        }
    });
    wait_equal(&servers);
}
