//! Ten thousand connections that do nothing: what each costs is printed and bounded, another one is served
//! as if they were not there, and when they are gone nothing of them remains.

use std::net::Ipv4Addr;

use compat_tests::hostile::{Vitals, Wire, exec, query, serves};
use compat_tests::servers::{Kind, Server, skip};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const CONNECTIONS: usize = 10_000;

/// Below this it would say nothing.
const FEWEST: usize = 2_000;

/// Files of the test and of the server besides connections.
const OTHER_FILES: usize = 200;

/// What the server may take for a connection that has sent nothing, bytes.
const SILENT_BYTES: u64 = 2 << 10;

/// For one that has opened a database.
const OPENED_BYTES: u64 = 96 << 10;

/// For one that has read and written.
const USED_BYTES: u64 = 160 << 10;

/// What an allocator may keep.
const SLACK: u64 = 48 << 20;

/// How many of them work at the same time.
const WORKING: usize = 16;

const RESULT: u8 = 6;
const ROWS: u8 = 7;

/// Lets this process, and the servers that it starts, open as many files as it may.
fn raise_file_limit() -> usize {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("has a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("may be raised");
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Memory for each of them, in bytes, beyond what there was before; it is served, and has no thread more.
fn each(server: &Server, before: Vitals, what: &str, count: usize, most: u64) {
    serves(server).expect("another one is served");
    let now = Vitals::of(server).expect("runs");
    assert!(now.files >= count, "{now:?}");
    assert_eq!(now.threads, before.threads);
    let each = now.rss.saturating_sub(before.rss) / count as u64;
    println!("{count} connections {what}: {each} bytes each");
    assert!(each <= most, "{what}: {each} bytes each");
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_delay_nobody() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let count = CONNECTIONS.min(raise_file_limit().saturating_sub(OTHER_FILES));
    if count < FEWEST {
        return skip("too few files may be open here");
    }
    let server = Server::start_single(Kind::Ours).expect("starts");
    serves(&server).expect("serves");
    let before = Vitals::of(&server).expect("runs");

    let mut idle: Vec<Wire> = (0..count)
        .map(|number| {
            let source = Ipv4Addr::new(127, 0, 0, 2 + (number / 5_000) as u8);
            Wire::connect_from(&server, source).expect("connects")
        })
        .collect();
    each(
        &server,
        before,
        "that have sent nothing",
        count,
        SILENT_BYTES,
    );

    for wire in &mut idle {
        wire.shake_hands().expect("opens");
    }
    each(
        &server,
        before,
        "that have a database open",
        count,
        OPENED_BYTES,
    );

    // A few of them at a time: their writes share the disk's syncs.
    std::thread::scope(|scope| {
        for (part, wires) in idle.chunks_mut(count.div_ceil(WORKING)).enumerate() {
            let server = &server;
            scope.spawn(move || {
                for (number, wire) in wires.iter_mut().enumerate() {
                    let mut expect = |request: &[u8], kind| match wire.ask(request) {
                        Ok(answer) => assert_eq!(answer.kind, kind, "{answer:?}"),
                        Err(error) => panic!(
                            "connection {number} of part {part}: {error}; the server's log:\n{}",
                            server.log()
                        ),
                    };
                    let sql = format!("INSERT INTO alive VALUES ({number})");
                    expect(&exec(sql.as_bytes()), RESULT);
                    expect(&query(b"SELECT max(n) FROM alive"), ROWS);
                    expect(&exec(b"DELETE FROM alive"), RESULT);
                }
            });
        }
    });
    each(
        &server,
        before,
        "that have read and written",
        count,
        USED_BYTES,
    );

    drop(idle);
    before.returns(&server, SLACK).expect("nothing remains");
}
