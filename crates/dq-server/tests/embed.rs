//! A node inside a program: started, used and stopped through the library.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use dq_client::{Cluster, Config, MemStore, Pool, Role};
use dq_server::{BindAddr, Node, StartError};

fn use_it(node: &Node) {
    let store = MemStore::new([node.address()]);
    let pool = Pool::connect(store, "embedded").expect("the settings are fine");
    pool.execute("CREATE TABLE IF NOT EXISTS t (x)", ())
        .expect("created");
    pool.execute("INSERT INTO t VALUES (1)", ())
        .expect("inserted");
    let count: Vec<i64> = pool
        .query("SELECT count(*) FROM t", (), |row| row.get(0))
        .expect("read");
    assert!(count[0] >= 1);
}

#[test]
fn a_node_listens_on_ipv4_ipv6_host_names_and_abstract_sockets() {
    let abstract_name = format!("@dq-embed-{}", std::process::id());
    for address in ["127.0.0.1:0", "[::1]:0", "localhost:0", &abstract_name] {
        let dir = tempfile::tempdir().expect("a directory");
        // Clients are told this address, so it has to be the real one: find a free port first.
        let address = match BindAddr::parse(address).expect("an address") {
            BindAddr::Tcp(addr) => {
                let listener = std::net::TcpListener::bind(addr).expect("it can be bound");
                let port = listener.local_addr().expect("it is bound").port();
                address.replace(":0", &format!(":{port}"))
            }
            _ => address.to_owned(),
        };
        let node = Node::builder(1, &address, dir.path())
            .start()
            .expect("it starts");
        assert_eq!(node.address(), address);
        assert!(
            node.status().expect("it answers").leading,
            "a sole voter leads at once"
        );
        use_it(&node);
        node.stop().expect("it stops");
        // Everything is free again, and what was written is there.
        let node = Node::builder(1, &address, dir.path())
            .start()
            .expect("it starts again");
        use_it(&node);
    }
}

/// A free address.
fn address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    address.to_string()
}

#[test]
fn a_leader_whose_snapshot_has_decayed_takes_another_for_who_needs_one() {
    let dirs = [1, 2].map(|_| tempfile::tempdir().expect("a directory"));
    let leader = Node::builder(1, address(), dirs[0].path())
        .snapshots(20, 20)
        .start()
        .expect("it starts");
    let pool =
        Pool::connect(MemStore::new([leader.address()]), "d").expect("the settings are fine");
    pool.execute("CREATE TABLE t (x)", ()).expect("created");
    let snapshots = || {
        let files = std::fs::read_dir(dirs[0].path()).expect("it is there");
        let names = files.map(|file| file.expect("readable").path());
        let is_snapshot = |name: &String| name.contains("/snapshot-") && !name.ends_with(".meta");
        let names = names.map(|path| path.to_string_lossy().into_owned());
        names.filter(is_snapshot).collect::<Vec<_>>()
    };
    let metrics = || leader.metrics().expect("it runs");
    let written = || metrics().counters.snapshots_written;
    while written() < 3 {
        pool.execute("INSERT INTO t VALUES (randomblob(1000))", ())
            .expect("inserted");
    }
    // The newest gets its name only now, and the oldest goes.
    let newest = format!("-{}-", metrics().levels.snapshot_index);
    while !snapshots().iter().any(|name| name.contains(&newest)) {
        std::thread::yield_now();
    }
    let before = written();
    for file in snapshots() {
        let Ok(file) = OpenOptions::new().write(true).open(file) else {
            continue;
        };
        let middle = file.metadata().expect("readable").len() / 2;
        file.write_all_at(&[0; 512], middle).expect("written");
    }
    let follower = Node::builder(2, address(), dirs[1].path())
        .bootstrap(false)
        .start()
        .expect("it starts");
    let cluster = Cluster::new(Config::default(), MemStore::new([leader.address()]));
    // Done when it has caught up, for which it needs a snapshot: the log does not reach that far back.
    cluster
        .add(2, follower.address(), Role::Voter)
        .expect("it catches up");
    assert!(written() > before);
    let installed = follower.metrics().expect("it runs").counters;
    assert!(installed.snapshots_installed > 0);
    drop(pool);
    follower.stop().expect("it stops");
    drop(leader);
}

#[test]
fn a_directory_in_use_or_missing_and_bad_settings_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::builder(1, "127.0.0.1:0", dir.path())
        .start()
        .expect("it starts");
    let error = Node::builder(1, "127.0.0.1:0", dir.path())
        .start()
        .expect_err("it is in use");
    assert!(matches!(error, StartError::Directory(_)), "{error}");
    assert!(error.to_string().contains("lock"), "{error}");
    drop(node);

    let missing = dir.path().join("missing");
    let error = Node::builder(1, "127.0.0.1:0", &missing)
        .start()
        .expect_err("it is missing");
    assert!(error.to_string().contains("does not exist"), "{error}");

    let error = Node::builder(0, "127.0.0.1:0", dir.path())
        .start()
        .expect_err("id 0");
    assert!(matches!(error, StartError::Config(_)), "{error}");
    let error = Node::builder(1, "127.0.0.1:0", dir.path())
        .snapshots(10, 5)
        .start();
    assert!(matches!(error, Err(StartError::Config(_))));
}

#[test]
fn metrics_are_had_as_values_as_text_and_over_http() {
    use std::io::{Read, Write};

    let dir = tempfile::tempdir().expect("a directory");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = free.local_addr().expect("it is bound").to_string();
    drop(free);
    let node = Node::builder(1, &address, dir.path())
        .metrics(([127, 0, 0, 1], 0).into())
        .start()
        .expect("it starts");
    use_it(&node);
    let metrics = node.metrics().expect("it answers");
    assert_eq!(metrics.counters.transactions, 2);
    assert_eq!(metrics.counters.exec.count(), 2);
    assert_eq!(metrics.counters.leaderships, 1);
    assert_eq!(metrics.levels.members[0].address, address);
    assert!(metrics.disk.is_some_and(|disk| disk.log > 0));
    let line = "\ndq_transactions_total 2\n";
    assert!(metrics.to_string().contains(line));

    let served = node.metrics_addr().expect("it serves them");
    let mut stream = std::net::TcpStream::connect(served).expect("it listens");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.contains(line), "{text}");
    node.stop().expect("it stops");
    assert!(std::net::TcpStream::connect(served).is_err());
}
