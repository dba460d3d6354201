//! A cluster has lost its majority for good: what is left goes on with other members, whichever kind of
//! node has written the directory, and whichever goes on with it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use compat_tests::directory::{self, files, without_lock};
use compat_tests::servers::{Kind, Options, Server};
use dq_client::{Cluster, Config, MemStore, NodeStore, Pool, Role, YamlStore};

const ROWS: i64 = 20;

fn start(kind: Kind, id: u64) -> Server {
    let options = Options {
        id,
        latency_ms: Some(20),
        ..Options::default()
    };
    Server::start(kind, options).expect("the server starts")
}

fn cluster(server: &Server) -> Cluster<'static> {
    Cluster::new(Config::new(), MemStore::new([server.address()]))
}

fn pool(server: &Server) -> Pool {
    Pool::connect(MemStore::new([server.address()]), "kept").expect("it leads")
}

/// Three voters that have each row.
fn three(kind: Kind) -> Vec<Server> {
    let servers: Vec<Server> = (1..=3).map(|id| start(kind, id)).collect();
    servers[0].wait_leader(servers[0].address()).expect("leads");
    let pool = pool(&servers[0]);
    pool.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)", ())
        .expect("created");
    for server in &servers[1..] {
        let added = cluster(&servers[0]).add(server.id(), server.address(), Role::Voter);
        added.expect("it becomes a voter");
    }
    for a in 0..ROWS {
        pool.execute("INSERT INTO t VALUES (?)", (a,))
            .expect("inserted");
    }
    servers
}

fn rows(server: &Server) -> i64 {
    let counts = pool(server).query("SELECT count(*) FROM t", (), |row| row.get(0));
    counts.expect("read")[0]
}

/// Runs `dq-server recover`; whether it succeeded, and what it said.
fn recover(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let arguments = [&["recover"], arguments].concat();
    let Output {
        status,
        stdout,
        stderr,
    } = directory::run(&arguments, dir);
    let text = [stdout, stderr].concat();
    (
        status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// As [`recover`], and it is refused with this word, and changes nothing.
fn is_refused(dir: &Path, arguments: &[&str], word: &str) {
    let before = without_lock(files(dir));
    let (done, text) = recover(dir, arguments);
    assert!(!done && text.contains(word), "it says {word:?}: {text}");
    assert!(without_lock(files(dir)) == before, "nothing was changed");
}

/// Term and index of the last entry, as `check` says them.
fn last_entry(server: &Server) -> (u64, u64) {
    let text = directory::check(server).1;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("last entry: term "));
    let (term, index) = line
        .and_then(|line| line.split_once(", index "))
        .expect("it says so");
    (term.parse().expect("term"), index.parse().expect("index"))
}

fn majority_is_lost(before: Kind, after: Kind) {
    if !before.available_or_skip() || !after.available_or_skip() {
        return;
    }
    let mut servers = three(before);
    for server in &mut servers {
        server.kill().expect("killed");
    }
    // A follower may lack what the others acknowledged; of the two that have most one is chosen here.
    let (_, best) = (0..3)
        .map(|at| (last_entry(&servers[at]), at))
        .max()
        .expect("three");
    let mut survivor = servers.swap_remove(best);
    drop(servers);
    let dir = survivor.data_dir();
    let member = format!("--member={}={}", survivor.id(), survivor.address());

    let (_, index) = last_entry(&survivor);
    let untouched = without_lock(files(&dir));
    let (done, text) = recover(&dir, &["--dry-run", &member]);
    assert!(done && text.contains(&format!("index {index}")), "{text}");
    assert!(
        without_lock(files(&dir)) == untouched,
        "a dry run changes nothing"
    );
    let (done, text) = recover(&dir, &[&member]);
    assert!(done, "{text}");
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("was: "))
            .count(),
        3
    );
    assert_eq!(last_entry(&survivor).1, index + 1);

    survivor.change_kind(after).expect("it is down");
    survivor.start_again().expect("it starts");
    survivor
        .wait_leader(survivor.address())
        .expect("it leads alone");
    assert_eq!(rows(&survivor), ROWS, "what was acknowledged is there");
    // A cluster like any other: it takes members, and goes on without those it began with.
    let more: Vec<Server> = (4..=5).map(|id| start(after, id)).collect();
    for server in &more {
        let added = cluster(&survivor).add(server.id(), server.address(), Role::Voter);
        added.expect("it becomes a voter");
    }
    let inserted = pool(&survivor).execute("INSERT INTO t VALUES (1000)", ());
    inserted.expect("a majority of the new members has it");
    survivor.kill().expect("killed");
    let store = MemStore::new(more.iter().map(Server::address));
    let pool = Pool::connect(store, "kept").expect("one of them leads");
    let counts: Vec<i64> = pool
        .query("SELECT count(*) FROM t", (), |row| row.get(0))
        .expect("read");
    assert_eq!(counts, [ROWS + 1]);
}

#[test]
fn a_survivor_of_a_lost_majority_goes_on_and_takes_new_members() {
    majority_is_lost(Kind::Ours, Kind::Ours);
}

#[test]
fn so_does_one_whose_directory_c_has_written() {
    majority_is_lost(Kind::C, Kind::Ours);
}

#[test]
fn c_goes_on_with_a_directory_that_was_recovered_by_ours() {
    majority_is_lost(Kind::Ours, Kind::C);
}

#[test]
fn two_survivors_go_on_with_copies_of_the_directory_that_has_more() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut servers = three(Kind::Ours);
    for server in &mut servers {
        server.kill().expect("killed");
    }
    let rank = |at: &usize| last_entry(&servers[*at]);
    let best = (0..2).max_by_key(rank).expect("two");
    let dir = servers[best].data_dir();
    let file = tempfile::tempdir().expect("a directory");
    let yaml = file.path().join("cluster.yaml");
    let member = |server: &Server| dq_client::Member {
        id: server.id(),
        address: server.address().to_owned(),
        role: Role::Voter,
    };
    let members: Vec<_> = servers[..2].iter().map(member).collect();
    YamlStore::new(&yaml).set(&members).expect("written");
    let (done, text) = recover(&dir, &["--members", &yaml.to_string_lossy()]);
    assert!(done, "{text}");
    directory::restore(&servers[1 - best].data_dir(), &files(&dir));
    for server in &mut servers[..2] {
        server.start_again().expect("it starts");
    }
    let store = MemStore::new(servers[..2].iter().map(Server::address));
    let pool = Pool::connect(store, "kept").expect("one of them leads");
    pool.execute("INSERT INTO t VALUES (1000)", ())
        .expect("both have it");
    let counts: Vec<i64> = pool
        .query("SELECT count(*) FROM t", (), |row| row.get(0))
        .expect("read");
    assert_eq!(counts, [ROWS + 1]);
}

#[test]
fn what_recovery_would_make_worse_is_refused() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(Kind::Ours).expect("starts");
    let dir = server.data_dir();
    let member = format!("--member=1={}", server.address());
    let process = format!("process {}", server.pid().expect("it runs"));
    let (done, text) = recover(&dir, &[&member]);
    assert!(!done && text.contains(&process), "{text}");
    pool(&server)
        .execute("CREATE TABLE t (a)", ())
        .expect("created");
    server.stop().expect("stops");

    is_refused(
        &dir,
        &["--member=7=127.0.0.1:1"],
        "node 1, which is not among",
    );
    is_refused(&dir, &[&format!("{member}=spare")], "no member is a voter");
    is_refused(&dir, &[&member, &member], "the same id or address");
    is_refused(&dir, &["--members", "/no/such/file"], "no members");
    is_refused(&dir, &[], "--member");

    let empty = tempfile::tempdir().expect("a directory");
    is_refused(empty.path(), &[&member], "never been used");
    let (done, text) = recover(&empty.path().join("missing"), &[&member]);
    assert!(!done && text.contains("does not exist"), "{text}");

    let content = files(&dir);
    let segment = content
        .keys()
        .find(|name| name.starts_with("000"))
        .expect("one");
    let mut harmed = content[segment].clone();
    let middle = harmed.len() / 2;
    harmed[middle] ^= 1;
    fs::write(dir.join(segment), harmed).expect("written");
    is_refused(&dir, &[&member], segment);
}

#[test]
fn a_directory_whose_newest_snapshot_is_damaged_is_refused_too() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let arguments = [
        "--roles=off",
        "--snapshot-threshold=4",
        "--snapshot-trailing=4",
    ];
    let options = Options {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let mut server = Server::start(Kind::Ours, options).expect("starts");
    server.wait_leader(server.address()).expect("leads");
    let pool = pool(&server);
    pool.execute("CREATE TABLE t (a)", ()).expect("created");
    for a in 0..10 {
        let inserted = pool.execute("INSERT INTO t VALUES (?)", (a,));
        inserted.expect("inserted");
    }
    drop(pool);
    server.stop().expect("stops");
    let dir = server.data_dir();
    let content = files(&dir);
    let index = |name: &&String| name.split('-').nth(2).and_then(|n| n.parse::<u64>().ok());
    let newest = content
        .keys()
        .filter(|name| name.starts_with("snapshot-") && !name.ends_with(".meta"))
        .max_by_key(index)
        .expect("there is one");
    let mut harmed = content[newest].clone();
    let middle = harmed.len() / 2;
    harmed[middle] ^= 1;
    fs::write(dir.join(newest), harmed).expect("written");
    let member = format!("--member=1={}", server.address());
    is_refused(&dir, &[&member], newest);
    fs::write(dir.join(newest), &content[newest]).expect("written");
    let (done, text) = recover(&dir, &[&member]);
    assert!(done, "{text}");
}

/// The same as C dqlite's own tool does: `.reconfigure` of the stock shell, on the same directory.
#[test]
fn the_stock_shell_says_the_same_members_of_what_was_recovered() {
    let Some(shell) = compat_tests::servers::find_in_path_or_skip("dqlite") else {
        return;
    };
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(Kind::Ours).expect("starts");
    pool(&server)
        .execute("CREATE TABLE t (a)", ())
        .expect("created");
    server.stop().expect("stops");
    let member = format!("--member=1={}", server.address());
    let (done, text) = recover(
        &server.data_dir(),
        &[&member, "--member=9=127.0.0.1:9=spare"],
    );
    assert!(done, "{text}");
    server.start_again().expect("it starts");
    server.wait_leader(server.address()).expect("it leads");
    let output = Command::new(shell)
        .args(["-s", server.address(), "kept", ".cluster"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("127.0.0.1:9|spare"), "{text}");
}
