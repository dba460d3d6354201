//! Promises not to vote (`--reads lease`) outlive the process that gave them: in a file, and in the lock
//! of a directory whose node was stopped. A node that is alone promises nothing and waits for nothing.
//!
//! That something does not happen too early is all that is said of time here.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use compat_tests::servers::{DEADLINE, Kind, Options, Server, probe_leader};
use dq_client::{Cluster, Config, MemStore, Pool, Role};

/// Three heartbeats of 1.5 times the latency.
const LATENCY_MS: u32 = 400;
const PROMISE: Duration = Duration::from_millis(1800);

fn node(id: u64) -> Server {
    let mut options = Options {
        id,
        latency_ms: Some(LATENCY_MS),
        ..Options::default()
    };
    options.arguments.push("--reads=lease".to_owned());
    Server::start(Kind::Ours, options).expect("starts")
}

/// Three voters; the first leads.
fn cluster() -> Option<(Vec<Server>, Cluster<'static>)> {
    Kind::Ours.available_or_skip().then(|| {
        let servers: Vec<Server> = (1..=3).map(node).collect();
        servers[0].wait_leader(servers[0].address()).expect("leads");
        let addresses: Vec<&str> = servers.iter().map(Server::address).collect();
        let cluster = Cluster::new(Config::new(), MemStore::new(addresses));
        for server in &servers[1..] {
            let added = cluster.add(server.id(), server.address(), Role::Voter);
            added.expect("becomes a voter");
        }
        (servers, cluster)
    })
}

fn pool(server: &Server) -> Pool {
    Config::new()
        .connect(MemStore::new([server.address()]), "promises")
        .expect("connects")
}

fn promise_file(server: &Server) -> PathBuf {
    server.data_dir().join("dq-promise")
}

fn promised(server: &Server) -> Option<String> {
    fs::read_to_string(promise_file(server)).ok()
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "timeout waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_promises(followers: &[Server]) {
    for follower in followers {
        wait("its longest promise is in a file", || {
            promised(follower).is_some_and(|text| text == format!("{0} {0}\n", PROMISE.as_millis()))
        });
    }
}

#[test]
fn a_restart_with_a_shorter_timeout_keeps_the_promises_of_the_process_before() {
    let Some((mut servers, _)) = cluster() else {
        return;
    };
    wait_for_promises(&servers[1..]);
    assert_eq!(
        promised(&servers[0]),
        None,
        "who led alone has promised nothing"
    );
    for server in &mut servers {
        server.kill().expect("killed");
    }
    let followers = &mut servers[1..];
    let mut started = Instant::now();
    for follower in followers.iter_mut() {
        // Their election timeout is 75 ms then.
        follower.set_latency_ms(Some(5));
        // The second one may start late, and is asked last: neither votes before its time.
        started = Instant::now();
        follower.start_again().expect("starts");
    }
    let mut leader = String::new();
    wait("one of them leads", || {
        leader = probe_leader(followers[0].address()).unwrap_or_default();
        !leader.is_empty()
    });
    let waited = started.elapsed();
    assert!(waited >= PROMISE, "{leader} led after {waited:?}");
    // What this timeout needs is less, and that is what the next start waits for.
    for follower in followers.iter() {
        wait("the bound is lowered", || {
            promised(follower).as_deref() != Some("1800\n")
        });
    }
}

#[test]
fn a_stop_keeps_the_directory_locked_while_a_promise_lasts() {
    let Some((mut servers, _)) = cluster() else {
        return;
    };
    wait_for_promises(&servers[1..]);
    let pool = pool(&servers[0]);
    pool.execute("CREATE TABLE t (a)", ()).expect("created");
    let follower = &mut servers[1];
    let said = |log: &str| -> Option<u64> {
        let (_, rest) = log.rsplit_once("the directory stays locked for ")?;
        rest.split_once(" ms")?.0.parse().ok()
    };
    // A leader that is slow at that moment lets the promise run out, and then there is none.
    for _ in 0..10 {
        pool.execute("INSERT INTO t VALUES (1)", ())
            .expect("inserted");
        let asked = Instant::now();
        let before = follower.log().len();
        follower.stop().expect("stops");
        let took = asked.elapsed();
        if let Some(ms) = said(&follower.log()[before..]) {
            assert!(took >= Duration::from_millis(ms), "{took:?}, not {ms} ms");
            return;
        }
        follower.start_again().expect("starts");
    }
    panic!("no stop came during a promise:\n{}", follower.log());
}

#[test]
fn a_node_that_is_alone_promises_nothing_and_forgets_what_it_had_promised() {
    let Some((mut servers, cluster)) = cluster() else {
        return;
    };
    wait_for_promises(&servers[1..]);
    let remaining = servers.remove(1);
    cluster.transfer(Some(remaining.id())).expect("leads now");
    for other in &servers {
        let removed = || cluster.remove(other.id()).is_ok();
        wait("the other is removed", removed);
    }
    remaining.wait_leader(remaining.address()).expect("leads");
    wait("its promises are nobody's", || {
        promised(&remaining).is_none()
    });
    let pool = pool(&remaining);
    pool.execute("CREATE TABLE t (a)", ()).expect("created");

    let mut alone = node(1);
    for _ in 0..2 {
        alone.wait_leader(alone.address()).expect("leads");
        assert_eq!(promised(&alone), None);
        alone.kill().expect("killed");
        alone.start_again().expect("starts");
    }
}
