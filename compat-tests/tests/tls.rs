//! Nodes and clients that talk TLS: a cluster lives as it does without, whoever is not vouched for does not
//! get in, and nobody who tries harms those who are.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use compat_tests::servers::{Kind, Options, Server, find_in_path_or_skip};
use compat_tests::tls::{Authority, Files, Flaw};
use dq_client::{Cluster, Config, MemStore, Pool, Role};
use dq_wire::header::{Header, PROTOCOL_V1};
use dq_wire::{Request, Response};
use tempfile::TempDir;

/// How long something that has to happen may take.
const DEADLINE: Duration = Duration::from_secs(60);

fn config(files: &Files) -> Config {
    Config::new()
        .tls(files.config())
        .acquire_timeout(DEADLINE)
        .request_timeout(Some(DEADLINE))
}

fn pool<'s>(files: &Files, servers: impl IntoIterator<Item = &'s Server>) -> Pool {
    let store = MemStore::new(servers.into_iter().map(Server::address));
    config(files).connect(store, "db").expect("connects")
}

/// Node 1, which leads.
fn single(files: &Files) -> Server {
    let options = Options {
        tls: Some(files.clone()),
        ..Options::default()
    };
    let server = Server::start(Kind::Ours, options).expect("the server starts");
    server.wait_leader(server.address()).expect("it leads");
    server
}

/// How many vote, as this very node knows it.
fn voters(files: &Files, server: &Server) -> io::Result<usize> {
    let mut stream = files.connect(server.address())?;
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    Request::Cluster { format: 1 }.encode(&mut bytes);
    stream.write_all(&bytes)?;
    let mut head = [0; Header::SIZE];
    stream.read_exact(&mut head)?;
    let header = Header::decode(&head).map_err(io::Error::other)?;
    let size = header.checked_body_size(4096).map_err(io::Error::other)?;
    let mut body = vec![0; size];
    stream.read_exact(&mut body)?;
    match Response::decode(&header, &body).map_err(io::Error::other)? {
        Response::Servers { list } => Ok(list
            .iter()
            .filter(|server| server.role == Role::Voter)
            .count()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "timeout: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(files: &Files, server: &Server) {
    let pool = pool(files, [server]);
    let one = pool.query("SELECT 1", (), |row| row.get::<i64>(0));
    assert_eq!(one.expect("served"), [1]);
}

/// What a client with these settings is told.
fn refusal(config: Config, server: &Server) -> String {
    let cluster = Cluster::new(config, MemStore::new([server.address()]));
    let error = cluster
        .describe(server.address())
        .expect_err("it is not let in");
    error.to_string()
}

#[test]
fn a_cluster_with_tls_survives_its_leader_and_gives_a_joiner_a_snapshot() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let authority = Authority::new();
    let files = |name: &str| authority.issue(&dir.path().join(name), &["127.0.0.1"], Flaw::None);
    let client = files("client");
    let node = |id: u64, join: Option<&Server>| {
        let mut arguments: Vec<String> =
            ["--snapshot-threshold", "16", "--snapshot-trailing", "16"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(
            join.iter()
                .flat_map(|first| ["--join".to_owned(), first.address().to_owned()]),
        );
        let options = Options {
            id,
            latency_ms: Some(20),
            arguments,
            tls: Some(files(&format!("node{id}"))),
            ..Options::default()
        };
        Server::start(Kind::Ours, options).expect("the server starts")
    };
    let mut servers = vec![node(1, None)];
    let filler = pool(&client, &servers);
    filler
        .execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)", ())
        .expect("created");
    for _ in 0..40 {
        filler
            .execute("INSERT INTO t (body) VALUES (randomblob(100000))", ())
            .expect("written");
    }
    // More than TLS takes at once, in either direction.
    let large = vec![0x5a_u8; 3 << 20];
    filler
        .execute("INSERT INTO t (body) VALUES (?)", (large.clone(),))
        .expect("written");
    let bodies = filler.query("SELECT body FROM t ORDER BY id", (), |row| {
        row.get::<Vec<u8>>(0)
    });
    let bodies = bodies.expect("read");
    assert_eq!(bodies.len(), 41);
    assert!(bodies.last() == Some(&large), "it came back as it went");
    // They lack the beginning of the log, which is gone.
    servers.push(node(2, Some(&servers[0])));
    servers.push(node(3, Some(&servers[0])));
    // Each of them has to know it: who only has it in the log goes by what was before.
    wait_for("three nodes vote", || {
        servers
            .iter()
            .all(|server| voters(&client, server).is_ok_and(|count| count == 3))
    });
    for server in &servers[1..] {
        let log = server.log();
        assert!(log.contains("snapshot"), "none was received: {log}");
    }

    let first = pool(&client, &servers);
    let leader = first.cluster().leader().expect("somebody leads");
    let index = servers
        .iter()
        .position(|server| server.address() == leader.address)
        .expect("one of ours");
    servers[index].kill().expect("killed");
    wait_for("another leads and takes writes", || {
        first
            .execute("INSERT INTO t (body) VALUES (zeroblob(1))", ())
            .is_ok()
    });
    let count = first.query("SELECT count(*) FROM t", (), |row| row.get::<i64>(0));
    assert!(count.expect("read") >= vec![42], "nothing is lost");
    servers[index].start_again().expect("it comes back");
    wait_for("it is a follower", || {
        servers[index]
            .probe_leader()
            .is_ok_and(|leader| !leader.is_empty() && leader != servers[index].address())
    });
}

fn raw(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    stream
}

/// Reads until the server ends it, in whichever way.
fn ends(mut stream: TcpStream) {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn a_handshake_that_is_not_ended_makes_room_for_others_and_is_not_waited_for_for_ever() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let files = Authority::new().issue(dir.path(), &["127.0.0.1"], Flaw::None);
    // Of 128 files 64 are for connections, so that 32 handshakes may be under way.
    let options = Options {
        tls: Some(files.clone()),
        open_files_max: Some(128),
        ..Options::default()
    };
    let server = Server::start(Kind::Ours, options).expect("the server starts");
    let half: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = raw(&server);
            stream.write_all(&[22, 3, 1, 2, 0, 1]).expect("sent");
            stream
        })
        .collect();
    is_alive(&files, &server);
    half.into_iter().for_each(ends);
    let log = server.log();
    assert!(log.contains("too many handshakes"), "{log}");
}

#[test]
fn whoever_is_not_vouched_for_is_told_and_does_not_get_in() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let (ours, other) = (Authority::new(), Authority::new());
    let good = ours.issue(&path("good"), &["127.0.0.1"], Flaw::None);
    let server = single(&good);

    let told = refusal(Config::new(), &server);
    assert!(told.contains("with TLS only"), "{told}");

    let foreign = other.issue(&path("foreign"), &["127.0.0.1"], Flaw::None);
    let told = refusal(Config::new().tls(foreign.config()), &server);
    assert!(told.contains("none of the known authorities"), "{told}");

    // These believe the server; it is the server that does not believe them.
    let believing = |mut files: Files| {
        files.ca.clone_from(&good.ca);
        Config::new().tls(files.config())
    };
    let told = refusal(believing(foreign), &server);
    assert!(told.contains("does not believe our certificate"), "{told}");
    let expired = ours.issue(&path("expired"), &["127.0.0.1"], Flaw::Expired);
    let told = refusal(believing(expired.clone()), &server);
    assert!(told.contains("finds our certificate expired"), "{told}");
    let servers_only = ours.issue(&path("servers"), &["127.0.0.1"], Flaw::ServersOnly);
    let told = refusal(believing(servers_only.clone()), &server);
    assert!(told.contains("does not believe our certificate"), "{told}");

    // The server's certificate is for another host, and not for the name in the client's own either.
    let elsewhere = ours.issue(&path("elsewhere"), &["node.example"], Flaw::None);
    let misplaced = single(&elsewhere);
    let told = refusal(Config::new().tls(good.config()), &misplaced);
    assert!(told.contains("for another name"), "{told}");
    // But those who share a certificate need no names of hosts.
    is_alive(&elsewhere, &misplaced);

    let plain = Server::start_single(Kind::Ours).expect("starts");
    let told = refusal(Config::new().tls(good.config()), &plain);
    assert!(told.contains("does the other side talk TLS?"), "{told}");

    is_alive(&good, &server);
    let log = server.log();
    assert!(
        log.contains("is refused: a connection without TLS"),
        "{log}"
    );

    for flawed in [expired, servers_only] {
        let options = Options {
            tls: Some(flawed),
            ..Options::default()
        };
        let error = Server::start(Kind::Ours, options).expect_err("such a node is of no use");
        let error = error.to_string();
        assert!(error.contains("do not vouch for it"), "{error}");
    }
}

#[test]
fn certificates_are_replaced_while_it_runs_and_broken_ones_are_not_taken() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let (old, new) = (Authority::new(), Authority::new());
    let names = ["127.0.0.1"];
    let server_dir = dir.path().join("server");
    let files = old.issue(&server_dir, &names, Flaw::None);
    let old_client = old.issue(&dir.path().join("old"), &names, Flaw::None);
    let new_client = new.issue(&dir.path().join("new"), &names, Flaw::None);
    let server = single(&files);
    let before = pool(&old_client, [&server]);
    before
        .execute("CREATE TABLE t (id INTEGER PRIMARY KEY)", ())
        .expect("created");

    let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).expect("written");
    let complains = |what: &str| {
        wait_for(what, || {
            is_alive(&old_client, &server);
            server.log().contains(what)
        });
    };
    let good_key = std::fs::read(&files.key).expect("read");
    write(&files.key, b"");
    complains("holds no private key");
    write(&files.key, &std::fs::read(&new_client.key).expect("read"));
    complains("the key is not that of the certificate");
    write(&files.key, &good_key);
    let foreign = std::fs::read(&new_client.ca).expect("read");
    let good_ca = std::fs::read(&files.ca).expect("read");
    write(&files.ca, &foreign);
    complains("do not vouch for it");
    assert!(!server.log().contains("read again"));
    write(&files.ca, &good_ca);

    let moved = new.issue(&server_dir, &names, Flaw::None);
    assert_eq!(moved.cert, files.cert);
    wait_for("clients of the new authority get in", || {
        new_client.connect(server.address()).is_ok()
    });
    is_alive(&new_client, &server);
    assert!(server.log().contains("read again"));
    let told = refusal(config(&old_client), &server);
    assert!(told.contains("none of the known authorities"), "{told}");
    // Who was let in stays.
    before
        .execute("INSERT INTO t DEFAULT VALUES", ())
        .expect("still served");
}

#[test]
fn one_certificate_that_signs_itself_is_enough_for_all_while_it_is_valid() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let files = Files::self_signed(&dir.path().join("one"), "cluster", Flaw::None);
    let server = single(&files);
    is_alive(&files, &server);
    if let Some(shell) = find_in_path_or_skip("dqlite") {
        let output = Command::new(shell)
            .arg("--cert")
            .arg(&files.cert)
            .arg("--key")
            .arg(&files.key)
            .args(["-s", server.address(), "db", "SELECT 6 * 7"])
            .output()
            .expect("the shell runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42");
    }
    // Of the same name, but another one.
    let other = Files::self_signed(&dir.path().join("other"), "cluster", Flaw::None);
    let believing = Files {
        ca: files.ca.clone(),
        ..other
    };
    let told = refusal(config(&believing), &server);
    assert!(told.contains("does not believe our certificate"), "{told}");
    let expired = Files::self_signed(&dir.path().join("expired"), "cluster", Flaw::Expired);
    let error = expired.config().check_node().expect_err("it is over");
    assert!(error.to_string().contains("not valid now"), "{error}");
}

#[test]
fn hostile_connections_harm_nobody() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let files = Authority::new().issue(dir.path(), &["127.0.0.1"], Flaw::None);
    let server = single(&files);
    // Garbage: from the first byte, behind a record's head, and a record of nothing but zeros.
    for garbage in [
        &[0x55; 4096][..],
        &[22, 3, 1, 0x40, 0, 0xff, 0xff, 0xff, 0xff],
        &[22, 3, 3, 0, 0, 22, 3, 3, 0, 0, 22, 3, 3, 0, 0],
        &[21, 3, 3, 0, 2, 2, 40],
    ] {
        let mut stream = raw(&server);
        stream.write_all(garbage).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut down");
        ends(stream);
    }
    is_alive(&files, &server);

    // What is let in and then sends records that were never encrypted.
    let secured = files.connect(server.address()).expect("connects");
    (&secured.stream)
        .write_all(
            &[23, 3, 3, 0, 32]
                .into_iter()
                .chain([7; 32])
                .collect::<Vec<u8>>(),
        )
        .expect("sent");
    ends(secured.stream);

    // A record that is cut off, and the end.
    let secured = files.connect(server.address()).expect("connects");
    (&secured.stream)
        .write_all(&[23, 3, 3, 0x40, 0, 1, 2, 3])
        .expect("sent");
    secured.stream.shutdown(Shutdown::Write).expect("shut down");
    ends(secured.stream);

    // Keys that change without end.
    let secured = files.connect(server.address()).expect("connects");
    let (mut stream, mut connection) = (secured.stream, secured.session.into_inner());
    let flood = (0..100_000).try_for_each(|_| {
        connection
            .refresh_traffic_keys()
            .map_err(io::Error::other)?;
        while connection.wants_write() {
            connection.write_tls(&mut stream)?;
        }
        Ok::<(), io::Error>(())
    });
    assert!(flood.is_err(), "a server that has enough of it hangs up");
    is_alive(&files, &server);
}
