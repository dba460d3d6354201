//! A node that holds much data stops, starts again and has all of it, without needing much more memory
//! than the data.
//!
//! `DQ_RESTART_MIB=1024 cargo test --release -p compat-tests --test restart -- --nocapture` is the long
//! form. Times and memory are printed; only a generous bound on the peak is asserted.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::time::Instant;

use compat_tests::servers::{Kind, Options, Server};
use dq_client::{Config, MemStore, Pool};

/// Data, in MiB, unless `DQ_RESTART_MIB` says otherwise.
const DEFAULT_MIB: u64 = 64;

/// Bytes of a row's blob.
const ROW_BYTES: i64 = 8192;

/// Rows of one INSERT.
const BATCH: i64 = 256;

/// Memory that a node may have used at most while it started, besides twice its data: the program, the
/// buffers of its threads, and the segments that it reads.
const OVERHEAD_KIB: u64 = 96 << 10;

fn pool(server: &Server) -> Pool {
    Config::new()
        .connect(MemStore::new([server.address()]), "large")
        .expect("connects")
}

/// Of all rows, in order.
fn digest(server: &Server) -> (u64, u64) {
    let mut hasher = DefaultHasher::new();
    let mut count = 0;
    pool(server)
        .query("SELECT a, b FROM t ORDER BY a", (), |row| {
            hasher.write_i64(row.get::<i64>(0)?);
            hasher.write(&row.get::<Vec<u8>>(1)?);
            count += 1;
            Ok(())
        })
        .expect("read");
    (count, hasher.finish())
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(server: &Server, name: &str) -> u64 {
    let pid = server.pid().expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.and_then(|kib| kib.parse().ok()).expect("a number")
}

fn restart(server: &mut Server, how: &str, mib: u64) {
    let before = digest(server);
    let running = memory(server, "VmRSS");
    if how == "killed" {
        server.kill().expect("killed");
    } else {
        server.stop().expect("stopped");
    }
    let start = Instant::now();
    server.start_again().expect("it starts");
    server.wait_leader(server.address()).expect("it leads");
    let took = start.elapsed();
    let (resident, peak) = (memory(server, "VmRSS"), memory(server, "VmHWM"));
    let names = fs::read_dir(server.data_dir()).expect("it is there");
    let is_snapshot = |name: &str| name.starts_with("snapshot-") && name.ends_with(".meta");
    let has_snapshot = names
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_str().is_some_and(is_snapshot));
    let from = if has_snapshot {
        "a snapshot"
    } else {
        "the log"
    };
    println!(
        "{mib} MiB from {from}, {how}: restart {:.2} s, resident {} MiB, peak {} MiB; while it ran {} MiB",
        took.as_secs_f64(),
        resident >> 10,
        peak >> 10,
        running >> 10
    );
    assert_eq!(digest(server), before, "the same rows");
    assert!(
        peak <= 2 * (mib << 10) + OVERHEAD_KIB,
        "peak {peak} KiB for {mib} MiB"
    );
}

#[test]
fn a_large_database_is_there_after_a_stop_and_after_a_kill() {
    fill_and_restart(&[]);
}

#[test]
fn so_it_is_where_a_snapshot_has_most_of_it() {
    fill_and_restart(&["--snapshot-threshold=8", "--snapshot-trailing=8"]);
}

fn fill_and_restart(arguments: &[&str]) {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let mib = std::env::var("DQ_RESTART_MIB").map_or(DEFAULT_MIB, |text| {
        text.parse().expect("DQ_RESTART_MIB is a number")
    });
    let mut options = Options::default();
    let more = arguments.iter().map(|text| (*text).to_owned());
    options.arguments.extend(more);
    let mut server = Server::start(Kind::Ours, options).expect("a node starts");
    server.wait_leader(server.address()).expect("it leads");
    let rows = i64::try_from(mib << 20).expect("not that much") / ROW_BYTES;
    {
        let pool = pool(&server);
        pool.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)", ())
            .expect("created");
        for first in (0..rows).step_by(BATCH as usize) {
            pool.execute(
                "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2)
                 INSERT INTO t SELECT i, randomblob(?3) FROM n",
                (first, rows.min(first + BATCH), ROW_BYTES),
            )
            .expect("inserted");
        }
    }
    restart(&mut server, "stopped", mib);
    restart(&mut server, "killed", mib);
}
