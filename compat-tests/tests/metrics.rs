//! Metrics, as a scraper sees them: text that parses, numbers that move as they should, and clients of
//! whatever manners, who harm nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use compat_tests::servers::{DEADLINE, Kind, Options, Server, free_address};
use dq_client::{Cluster, Config, MemStore, Pool, Role};

/// A server, and where its metrics are.
fn start(id: u64) -> Option<(Server, String)> {
    if !Kind::Ours.available_or_skip() {
        return None;
    }
    let metrics = free_address().expect("a port");
    let arguments = ["--roles", "off", "--metrics", &metrics];
    let options = Options {
        id,
        latency_ms: Some(20),
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let server = Server::start(Kind::Ours, options).expect("starts");
    Some((server, metrics))
}

/// Sends a request; all that comes back until the other side closes.
fn send(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    stream.write_all(request).expect("sent");
    let mut answer = Vec::new();
    // Whoever is refused in the middle of what it says may find the connection reset.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

fn get(address: &str, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n");
    let answer = send(address, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let length = format!("Content-Length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}");
    (head.to_owned(), body.to_owned())
}

/// All samples by name and labels; what is not well-formed is a failure.
fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (head, body) = get(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let (mut families, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let mut family = String::new();
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!help.is_empty() && !families.contains_key(name), "{line}");
                family = name.to_owned();
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(name, family, "right behind its help");
                assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
                families.insert(family.clone(), kind.to_owned());
            }
            _ => {
                let (key, value) = line.rsplit_once(' ').expect("a name and a value");
                let value: f64 = value.parse().expect("a number");
                let name = key.split('{').next().expect("a name");
                let labels = &key[name.len()..];
                assert!(labels.is_empty() || labels.starts_with('{') && labels.ends_with('}'));
                let of = match families[&family].as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|part| name.strip_suffix(part))
                        .expect("part of a histogram"),
                    _ => name,
                };
                assert_eq!(of, family, "below its own head");
                assert!(
                    samples.insert(key.to_owned(), value).is_none(),
                    "twice: {line}"
                );
            }
        }
    }
    for (name, kind) in &families {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
    }
    samples
}

/// Scrapes until that is so.
fn wait(address: &str, what: &str, holds: impl Fn(&BTreeMap<String, f64>) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let samples = scrape(address);
        if holds(&samples) {
            return;
        }
        assert!(Instant::now() < deadline, "not {what}: {samples:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_numbers_of_a_node_move_with_what_it_does() {
    let Some((server, metrics)) = start(1) else {
        return;
    };
    server.wait_leader(server.address()).expect("leads");
    let pool = Pool::connect(MemStore::new([server.address()]), "db").expect("connects");
    pool.execute("CREATE TABLE t (a UNIQUE)", ())
        .expect("created");
    let before = scrape(&metrics);
    for a in 0..3 {
        pool.execute("INSERT INTO t VALUES (?)", (a,))
            .expect("inserted");
    }
    let twice = pool.execute("INSERT INTO t VALUES (1)", ());
    assert!(twice.is_err());
    let counts: Vec<i64> = pool
        .query("SELECT a FROM t", (), |row| row.get(0))
        .expect("read");
    assert_eq!(counts.len(), 3);
    // What is told may be a little old.
    let asked = |samples: &BTreeMap<String, f64>| samples["dq_requests_total{type=\"query_sql\"}"];
    wait(&metrics, "counted", |samples| {
        asked(samples) > asked(&before)
    });
    let after = scrape(&metrics);

    let moved = |name: &str| after[name] - before.get(name).copied().unwrap_or(0.0);
    for (name, by) in [
        ("dq_transactions_total", 3.0),
        ("dq_requests_total{type=\"exec_sql\"}", 4.0),
        ("dq_requests_total{type=\"query_sql\"}", 1.0),
        ("dq_failures_total{code=\"2067\"}", 1.0),
        ("dq_request_seconds_count{type=\"exec\"}", 4.0),
        ("dq_request_seconds_bucket{type=\"exec\",le=\"+Inf\"}", 4.0),
        ("dq_request_seconds_count{type=\"query\"}", 1.0),
        ("dq_last_index", 3.0),
        ("dq_applied_index", 3.0),
        ("dq_leaderships_total", 0.0),
        ("dq_term", 0.0),
    ] {
        assert_eq!(moved(name), by, "{name}");
    }
    assert!(moved("dq_request_seconds_sum{type=\"exec\"}") > 0.0);
    assert!((1.0..=3.0).contains(&moved("dq_log_write_seconds_count")));
    assert!(moved("dq_log_written_bytes_total") > 3.0 * 4096.0);
    assert!(moved("dq_loop_turn_seconds_count") > 0.0);
    for (name, level) in [
        ("dq_leading", 1.0),
        ("dq_leader_id", 1.0),
        ("dq_databases", 1.0),
        ("dq_sessions", 1.0),
        ("dq_waiting{for=\"write\"}", 0.0),
        ("dq_waiting{for=\"commit\"}", 0.0),
        ("dq_disk_full", 0.0),
    ] {
        assert_eq!(after[name], level, "{name}");
    }
    for name in [
        "dq_memory_bytes{part=\"pages\"}",
        "dq_memory_bytes{part=\"log\"}",
        "dq_disk_bytes{part=\"log\"}",
        "dq_disk_free_bytes",
        "dq_connections",
        "dq_database_bytes",
    ] {
        assert!(after[name] > 0.0, "{name}");
    }
    let member = format!(
        "dq_member{{id=\"1\",address=\"{}\",role=\"voter\"}}",
        server.address()
    );
    assert_eq!(after[&member], 1.0);
    // What docs/OPERATING.md lists, and nothing else.
    let documented = include_str!("../../docs/OPERATING.md");
    let documented: BTreeSet<&str> = documented
        .split('`')
        .filter(|word| word.starts_with("dq_") && !word.contains([':', '=']))
        .map(|word| word.split('{').next().expect("a name"))
        .collect();
    let (_, body) = get(&metrics, "/metrics");
    let told = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let told: BTreeSet<&str> = told.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(told, documented);
}

#[test]
fn a_leader_tells_how_far_members_lag_and_an_election_shows() {
    let Some(nodes) = (1..=3).map(start).collect::<Option<Vec<_>>>() else {
        return;
    };
    let (mut servers, metrics): (Vec<Server>, Vec<String>) = nodes.into_iter().unzip();
    servers[0].wait_leader(servers[0].address()).expect("leads");
    let cluster = Cluster::new(Config::new(), MemStore::new([servers[0].address()]));
    for server in &servers[1..] {
        let added = cluster.add(server.id(), server.address(), Role::Voter);
        added.expect("it becomes a voter");
    }
    let pool = Pool::connect(MemStore::new([servers[0].address()]), "db").expect("connects");
    pool.execute("CREATE TABLE t (a)", ()).expect("created");
    let lag = |id: u64| format!("dq_member_lag_entries{{id=\"{id}\"}}");
    wait(&metrics[0], "caught up", |s| {
        s[&lag(2)] == 0.0 && s[&lag(3)] == 0.0
    });
    servers[1].pause().expect("frozen");
    for _ in 0..5 {
        pool.execute("INSERT INTO t VALUES (1)", ())
            .expect("the other one has it");
    }
    wait(&metrics[0], "lagging", |s| {
        s[&lag(2)] >= 5.0 && s[&lag(3)] == 0.0
    });
    servers[1].resume().expect("thawed");
    wait(&metrics[0], "caught up", |s| s[&lag(2)] == 0.0);
    let follower = scrape(&metrics[1]);
    assert_eq!(
        (follower["dq_leading"], follower["dq_leader_id"]),
        (0.0, 1.0)
    );
    assert!(!follower.contains_key(&lag(3)), "only the leader knows");
    let term = follower["dq_term"];

    servers[0].kill().expect("killed");
    let survivors = || [scrape(&metrics[1]), scrape(&metrics[2])];
    let deadline = Instant::now() + DEADLINE;
    let after = loop {
        let after = survivors();
        if after.iter().any(|samples| samples["dq_leading"] == 1.0) {
            break after;
        }
        assert!(Instant::now() < deadline, "nobody leads: {after:#?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    for samples in after {
        if samples["dq_leading"] == 1.0 {
            assert!(samples["dq_term"] > term);
            assert!(samples["dq_leaderships_total"] >= 1.0);
            assert!(
                samples["dq_leader_changes_total"] >= 2.0,
                "the first one, and itself"
            );
        }
    }
}

#[test]
fn slow_and_hostile_scrapers_keep_nobody_out() {
    let Some((server, metrics)) = start(1) else {
        return;
    };
    server.wait_leader(server.address()).expect("leads");
    let pool = Pool::connect(MemStore::new([server.address()]), "db").expect("connects");
    pool.execute("CREATE TABLE t (a)", ()).expect("created");

    let (head, _) = get(&metrics, "/metrics?x=1");
    assert!(head.contains(" 200 "), "{head}");
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"\r\n\r\n", "405"),
        (b"\xff\x00\xfe\r\n\r\n", "405"),
        (b"GET /metrics HTTP/1.0\n\n", "200"),
    ] {
        let answer = send(&metrics, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    let endless = send(&metrics, &vec![b'x'; 1 << 20]);
    assert!(endless.is_empty() || endless.contains(" 431 "), "{endless}");

    // Many that say nothing, or begin and say no more, or ask and do not read.
    let mut silent: Vec<TcpStream> = Vec::new();
    for round in 0..20 {
        for begins in [&b""[..], b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n"] {
            let mut stream = TcpStream::connect(&metrics).expect("it listens");
            // The oldest may be gone already.
            let _ = stream.write_all(begins);
            silent.push(stream);
        }
        assert_eq!(scrape(&metrics)["dq_leading"], 1.0);
        let inserted = pool.execute("INSERT INTO t VALUES (?)", (round,));
        inserted.expect("the node goes on");
    }
    // Those that came first had to go.
    let mut first = &silent[0];
    first.set_read_timeout(Some(DEADLINE)).expect("set");
    let gone = first.read(&mut [0]);
    assert!(
        matches!(gone, Ok(0)) || gone.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock)
    );
}
