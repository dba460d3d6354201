//! A node joins a cluster that has data: nobody is disturbed, and nobody needs memory for it.
//!
//! `DQ_JOIN_MIB` is the amount of data, 128 unless set. What it took is printed: run with
//! `--nocapture` to see it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use compat_tests::servers::{Kind, Options, Server};
use dq_client::{Cluster, Config, MemStore, Pool, Role};

/// Peak of the process's memory so far, MiB.
fn peak_mib(server: &Server) -> u64 {
    let pid = server.pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .expect("Linux says it like this")
        / 1024
}

/// Starts to count the peak anew.
fn reset_peak(server: &Server) {
    let pid = server.pid().expect("it runs");
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our own child");
}

fn pool(servers: &[Server]) -> Pool {
    Config::new()
        .request_timeout(Some(Duration::from_secs(60)))
        .connect(MemStore::new(servers.iter().map(Server::address)), "db")
        .expect("the settings are fine")
}

/// Waits until the beginning of the log is gone, which takes a snapshot: who joins then needs one.
fn wait_until_cut(server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let begins_log = |name: &str| name.starts_with("0000000000000001-");
    loop {
        let names: Vec<String> = std::fs::read_dir(server.data_dir())
            .expect("the directory is there")
            .map(|entry| entry.expect("it can be read").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        if !names.iter().any(|name| begins_log(name))
            && names.iter().any(|name| name.starts_with("snapshot-"))
        {
            return;
        }
        assert!(Instant::now() < deadline, "the log is not cut: {names:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn elections(servers: &[Server]) -> usize {
    let led = |server: &Server| server.log().matches(": leader of term").count();
    servers.iter().map(led).sum()
}

#[test]
fn nodes_that_join_a_cluster_with_data_disturb_nobody() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mib: u64 = std::env::var("DQ_JOIN_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(128);
    let arguments = [
        "--roles",
        "off",
        "--snapshot-threshold",
        "64",
        "--snapshot-trailing",
        "64",
    ];
    let options = |id| Options {
        id,
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let mut servers = vec![Server::start(Kind::Ours, options(1)).expect("the server starts")];
    servers[0]
        .wait_leader(servers[0].address())
        .expect("it leads");
    let filler = pool(&servers);
    filler
        .execute("CREATE TABLE big (id INTEGER PRIMARY KEY, body BLOB)", ())
        .expect("created");
    filler
        .execute("CREATE TABLE small (id INTEGER PRIMARY KEY)", ())
        .expect("created");
    for _ in 0..mib {
        filler
            .execute("INSERT INTO big (body) VALUES (randomblob(1048576))", ())
            .expect("written");
    }
    let filled_peak = peak_mib(&servers[0]);
    // More entries than the log keeps behind a snapshot, so that it does not go back to the beginning.
    for _ in 0..200 {
        filler
            .execute("INSERT INTO small DEFAULT VALUES", ())
            .expect("written");
    }
    wait_until_cut(&servers[0]);

    let stop = AtomicBool::new(false);
    let slowest = Mutex::new((Duration::ZERO, 0u64));
    let mut joined = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (pool, stop, slowest) = (pool(&servers), &stop, &slowest);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    pool.execute("INSERT INTO small DEFAULT VALUES", ())
                        .expect("nobody is disturbed");
                    let took = begin.elapsed();
                    let mut slowest = slowest.lock().expect("no writer panicked");
                    slowest.0 = slowest.0.max(took);
                    slowest.1 += 1;
                    drop(slowest);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        reset_peak(&servers[0]);
        for id in 2..=3 {
            let server = Server::start(Kind::Ours, options(id)).expect("the server starts");
            let cluster = Cluster::new(
                Config::new().request_timeout(Some(Duration::from_secs(600))),
                MemStore::new([servers[0].address()]),
            );
            let begin = Instant::now();
            let added = cluster.add(server.id(), server.address(), Role::Voter);
            if let Err(error) = added {
                panic!(
                    "node {id} does not join: {error}\n{}\n{}",
                    servers[0].log(),
                    server.log()
                );
            }
            joined.push((begin.elapsed(), peak_mib(&server)));
            servers.push(server);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (slowest, writes) = *slowest.lock().expect("no writer panicked");
    let leader_peak = peak_mib(&servers[0]);
    println!(
        "{mib} MiB: joined in {joined:?} (time, peak MiB); leader's peak {filled_peak} MiB when \
         filled, {leader_peak} MiB meanwhile; {writes} writes meanwhile, the slowest {slowest:?}"
    );
    for server in &servers[1..] {
        assert!(
            server.log().contains("arrived"),
            "it got a snapshot: {}",
            server.log()
        );
    }
    assert!(writes > 0, "writers went on");
    assert_eq!(elections(&servers), 1, "{}", servers[0].log());
    // Besides the data there are SQLite's and the log's caches, and the snapshot's buffers.
    let allowed = mib + mib / 4 + 96;
    for (_, peak) in &joined {
        assert!(*peak < allowed, "a joiner needed {peak} MiB");
    }
    assert!(leader_peak < allowed, "the leader needed {leader_peak} MiB");
    let counted: Vec<i64> = pool(&servers[1..])
        .query("SELECT count(*) FROM big", (), |row| row.get(0))
        .expect("it can be read");
    assert_eq!(counted, [mib as i64]);
}
