//! Directories that are not this node's to use, or not whole: a start says which file is the reason and
//! what to do, changes nothing and ends with a status that is not 0, as `dq-server check` said before.
//! What looks like that and is not, starts.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use compat_tests::directory::{self, Files, check_as, files, restore, without_lock};
use compat_tests::servers::{DEADLINE, Kind, Options, Server, free_address};
use dq_client::{Cluster, Config, MemStore, Pool, Role};

const ROWS: i64 = 300;

fn pool(server: &Server) -> Pool {
    Config::new()
        .connect(MemStore::new([server.address()]), "directories")
        .expect("connects")
}

fn count(server: &Server) -> i64 {
    let counts = pool(server).query("SELECT count(*) FROM t", (), |row| row.get(0));
    counts.expect("read")[0]
}

fn fill(server: &Server) {
    let pool = pool(server);
    pool.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", ())
        .expect("created");
    for a in 0..ROWS {
        pool.execute("INSERT INTO t VALUES (?, hex(randomblob(400)))", (a,))
            .expect("inserted");
    }
}

/// A start on a server's directory with another id and address, which has to end by itself.
fn start_as(server: &Server, id: u64, address: &str) -> (Output, String) {
    let program = Kind::Ours.program().expect("it was there");
    let mut child = Command::new(program)
        .args([
            "run",
            "--id",
            &id.to_string(),
            "--address",
            address,
            "--dir",
        ])
        .arg(server.data_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().expect("it can be asked").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("it can be killed");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("it has ended");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, log)
}

/// A start as this node is refused, as `check` says, with these words, and changes nothing.
fn is_refused_as(server: &Server, id: u64, address: &str, words: &[&str]) {
    let dir = server.data_dir();
    let before = without_lock(files(&dir));
    let (starts, text) = check_as(&dir, Some((id, address)));
    assert!(!starts, "{text}");
    let (output, log) = start_as(server, id, address);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let last = log.lines().last().expect("it says something");
    for word in words {
        assert!(text.contains(word), "check says {word:?}: {text}");
        assert!(last.contains(word), "the last line says {word:?}: {log}");
    }
    assert!(last.contains(&*dir.to_string_lossy()), "{last}");
    assert!(without_lock(files(&dir)) == before, "nothing was changed");
}

#[test]
fn another_nodes_directory_is_refused_and_left_alone() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(Kind::Ours).expect("starts");
    fill(&server);
    server.stop().expect("stops");
    let other = free_address().expect("a port");
    let member = format!("node 1 at {}", server.address());
    let words = ["dq-node: ", "directory of node 1", &member, "give node 5"];
    is_refused_as(&server, 5, &other, &words);
    is_refused_as(&server, 5, server.address(), &words);
    let (starts, text) = check_as(&server.data_dir(), Some((1, server.address())));
    assert!(starts && text.contains(&member), "{text}");
    server.start_again().expect("node 1 starts");
    assert_eq!(count(&server), ROWS);
    // After a crash there would be something to repair, which is not done either.
    server.kill().expect("killed");
    is_refused_as(&server, 5, &other, &words);
    // Whoever knows better says so.
    fs::write(server.data_dir().join("dq-node"), "5").expect("written");
    assert!(check_as(&server.data_dir(), Some((5, &other))).0);
}

#[test]
fn so_is_another_nodes_directory_of_c() {
    if !Kind::Ours.available_or_skip() || !Kind::C.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(Kind::C).expect("starts");
    fill(&server);
    server.kill().expect("killed");
    server.change_kind(Kind::Ours).expect("it is down");
    // C leaves no id behind, but nobody else has this address.
    let words = ["dq-node: ", "another node", "node 1 at ", "write 5 into"];
    is_refused_as(&server, 5, server.address(), &words);
    server.start_again().expect("node 1 starts");
    server.wait_leader(server.address()).expect("leads");
    assert_eq!(count(&server), ROWS);
}

#[test]
fn a_node_that_was_removed_from_its_cluster_starts_all_the_same() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mut servers: Vec<Server> = (1..=2)
        .map(|id| {
            let latency_ms = Some(20);
            let options = Options {
                id,
                latency_ms,
                ..Options::default()
            };
            Server::start(Kind::Ours, options).expect("starts")
        })
        .collect();
    servers[0].wait_leader(servers[0].address()).expect("leads");
    let cluster = Cluster::new(Config::new(), MemStore::new([servers[0].address()]));
    cluster
        .add(2, servers[1].address(), Role::Voter)
        .expect("joins");
    fill(&servers[0]);
    cluster.remove(2).expect("leaves");
    let removed = &mut servers[1];
    removed.kill().expect("killed");
    removed.start_again().expect("it starts");
    removed.stop().expect("it stops");
    // Directories from before there was such a file say it by their log.
    fs::remove_file(removed.data_dir().join("dq-node")).expect("removed");
    removed.start_again().expect("it starts");
}

#[test]
fn a_directory_in_use_is_refused_and_its_node_goes_on() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let server = Server::start_single(Kind::Ours).expect("starts");
    fill(&server);
    let process = format!("process {}", server.pid().expect("it runs"));
    let other = free_address().expect("a port");
    let before = without_lock(files(&server.data_dir()));
    for id in [1, 5] {
        let (output, log) = start_as(&server, id, &other);
        assert_eq!(output.status.code(), Some(1), "{log}");
        let last = log.lines().last().expect("it says something");
        let lock = server.data_dir().join("dqlite-lock");
        for word in [&*lock.to_string_lossy(), &process, "stop that node"] {
            assert!(last.contains(word), "the last line says {word:?}: {log}");
        }
    }
    assert!(without_lock(files(&server.data_dir())) == before);
    let (_, text) = directory::check(&server);
    let locked = format!("dqlite-lock: locked by {process}");
    assert!(text.contains(&locked), "{text}");
    assert_eq!(count(&server), ROWS);
}

/// A server whose directory has two snapshots, and a log that begins after the first entries; it is
/// down.
fn with_snapshots(arguments: &[&str]) -> Option<(Server, Files)> {
    if !Kind::Ours.available_or_skip() {
        return None;
    }
    let more = ["--snapshot-threshold=50", "--snapshot-trailing=50"];
    let arguments = ["--roles", "off"].iter().chain(&more).chain(arguments);
    let options = Options {
        arguments: arguments.map(|text| (*text).to_owned()).collect(),
        ..Options::default()
    };
    let mut server = Server::start(Kind::Ours, options).expect("starts");
    server.wait_leader(server.address()).expect("leads");
    fill(&server);
    server.stop().expect("stops");
    let content = files(&server.data_dir());
    Some((server, content))
}

fn snapshots(content: &Files) -> Vec<String> {
    let is_snapshot = |name: &&String| name.starts_with("snapshot-") && !name.ends_with(".meta");
    let mut names: Vec<String> = content.keys().filter(is_snapshot).cloned().collect();
    let index = |name: &String| {
        name.split('-')
            .nth(2)
            .map(|i| i.parse::<u64>().expect("index"))
    };
    names.sort_by_key(index);
    names
}

#[test]
fn damaged_and_missing_snapshot_files_are_named_and_nothing_is_changed() {
    let Some((mut server, content)) = with_snapshots(&[]) else {
        return;
    };
    let dir = server.data_dir();
    let names = snapshots(&content);
    let [older @ .., newest] = &names[..] else {
        panic!("there is none");
    };
    assert!(!older.is_empty(), "older ones are kept: {names:?}");
    let meta = |name: &String| format!("{name}.meta");
    let older: Vec<String> = older.iter().flat_map(|o| [o.clone(), meta(o)]).collect();
    let and_older = |more: &[String]| [&older[..], more].concat();
    assert!(!content.contains_key("0000000000000001-0000000000000001"));

    type Harm<'a> = Box<dyn Fn(&mut Files) + 'a>;
    let flip = |name: String, at: usize| -> Harm<'_> {
        Box::new(move |files| files.get_mut(&name).expect("it is there")[at] ^= 0x10)
    };
    let cut = |name: String, to: usize| -> Harm<'_> {
        Box::new(move |files| files.get_mut(&name).expect("it is there").truncate(to))
    };
    let lose = |lost: Vec<String>| -> Harm<'_> {
        Box::new(move |files| files.retain(|name, _| !lost.contains(name)))
    };
    let size = content[newest].len();
    let all = and_older(&[newest.clone(), meta(newest)]);
    let harms: Vec<(&str, Harm<'_>, String)> = vec![
        (
            "a bit of the data",
            flip(newest.clone(), size / 2),
            newest.clone(),
        ),
        (
            "a bit of their checksum",
            flip(newest.clone(), size - 1),
            newest.clone(),
        ),
        (
            "half of the data",
            cut(newest.clone(), size / 2),
            newest.clone(),
        ),
        (
            "no data in the file",
            cut(newest.clone(), 0),
            newest.clone(),
        ),
        ("a bit of the members", flip(meta(newest), 40), meta(newest)),
        ("half of the members", cut(meta(newest), 30), meta(newest)),
        (
            "all snapshots",
            lose(all),
            "is a snapshot missing?".to_owned(),
        ),
        (
            "members of the newest, and all of the older",
            lose(and_older(&[meta(newest)])),
            format!("lost a file: {newest} is alone"),
        ),
        (
            "data of the newest, and all of the older",
            lose(and_older(std::slice::from_ref(newest))),
            format!("lost a file: {} is alone", meta(newest)),
        ),
    ];
    for (what, harm, says) in harms {
        let mut harmed = content.clone();
        harm(&mut harmed);
        restore(&dir, &harmed);
        println!("{what}");
        let refusal = directory::is_refused(&mut server, &says);
        assert!(refusal.contains("needs a backup"), "{what}: {refusal}");
        assert!(refusal.contains("nothing was changed"), "{what}: {refusal}");
    }
    // The older one is there for followers; what is wrong with it keeps nobody from starting.
    for lost in [&older[..1], &older[1..2], &older[..]] {
        let mut harmed = content.clone();
        lose(lost.to_vec())(&mut harmed);
        restore(&dir, &harmed);
        assert!(directory::check(&server).0);
        server.start_again().expect("it starts");
        server.wait_leader(server.address()).expect("leads");
        assert_eq!(count(&server), ROWS);
        server.stop().expect("stops");
    }
}
