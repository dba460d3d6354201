//! Clusters of real processes: members come and go, leaders die, nothing acknowledged is lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use compat_tests::servers::{Kind, Options, Server};
use dq_client::{Cluster, Config, MemStore, Outcome, Pool, Role};

/// How long anything here may take before the test gives up; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(kind: Kind, count: u64) -> Vec<Server> {
    let servers: Vec<Server> = (1..=count)
        .map(|id| {
            let options = Options {
                id,
                latency_ms: Some(20),
                ..Options::default()
            };
            Server::start(kind, options).expect("the server starts")
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

#[test]
fn three_nodes_survive_the_death_of_each_leader_and_lose_nothing() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut servers = start(Kind::Ours, 3);
    let pool = pool(&servers);
    pool.execute("CREATE TABLE t (token INTEGER PRIMARY KEY)", ())
        .expect("created");
    let mut acked = BTreeSet::new();
    let mut token = 0;
    for round in 0..4 {
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
    // Every node has the same pages, as soon as it has applied the same entries.
    let deadline = Instant::now() + PATIENCE;
    let cluster = cluster(&servers);
    loop {
        let dumps: Vec<_> = servers
            .iter()
            // A node that has just been started may not have come to the database yet.
            .map(|server| cluster.dump_from(server.address(), "cluster").ok())
            .map(|files| files.map(|files| files[0].data.clone()))
            .collect();
        if dumps[0].is_some() && dumps.iter().all(|dump| *dump == dumps[0]) {
            break;
        }
        assert!(Instant::now() < deadline, "the nodes do not agree");
        std::thread::sleep(Duration::from_millis(50));
    }
}
