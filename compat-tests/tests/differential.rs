//! Random requests to C dqlite and to ours: see `compat_tests::differential`.
//!
//! `DQ_SEED`, `DQ_DIFF_REQUESTS` and `DQ_DIFF_SECONDS` set the seed of the first program and when to
//! stop. `DQ_SHELL_HISTORIES` is the number of histories of 500 statements each for the shell;
//! `DQLITE_LIB` and `DQ_C_TARGET` pick another C library than Debian's 1.11.1.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use compat_tests::conformance::Target;
use compat_tests::differential::{Budget, run, shell};
use compat_tests::servers::{Kind, Options, Server, find_in_path_or_skip};

/// What an environment variable says, or else the given number.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

/// `DQ_SEED`, or 1: a run says the same of the same commit, wherever it happens.
fn first_seed() -> u64 {
    let seed = setting("DQ_SEED", 1);
    println!("the first seed is {seed}");
    seed
}

fn start(kind: Kind) -> Server {
    let shm = PathBuf::from("/dev/shm");
    let server = Server::start(
        kind,
        Options {
            parent_dir: shm.is_dir().then_some(shm),
            ..Options::default()
        },
    )
    .expect("a node starts");
    server.wait_leader(server.address()).expect("it leads");
    server
}

#[test]
fn random_requests_get_the_same_answers_from_c_dqlite_and_from_ours() {
    if !Kind::C.available_or_skip() || !Kind::Ours.available_or_skip() {
        return;
    }
    let target = std::env::var("DQ_C_TARGET").unwrap_or("c-1.11.1".to_owned());
    let budget = Budget {
        seed: first_seed(),
        requests: setting("DQ_DIFF_REQUESTS", 100_000) as usize,
        time: Duration::from_secs(setting("DQ_DIFF_SECONDS", 90)),
    };
    let (mut c, mut ours) = (start(Kind::C), start(Kind::Ours));
    let summary =
        run(&mut c, &Target(target), &mut ours, budget).unwrap_or_else(|how| panic!("{how}"));
    println!("seed {}: {summary}", budget.seed);
    assert!(summary.requests > 0, "something was compared");
    assert!(
        (summary.c_deaths + summary.c_stalls) * 5 < summary.programs.max(100),
        "C mostly lives, or little was compared: {summary}"
    );
    assert!(
        summary.failures * 3 < summary.requests,
        "most requests succeed, or little was compared: {summary}"
    );
}

#[test]
fn random_sql_does_the_same_in_our_server_and_in_the_sqlite_shell() {
    if !Kind::Ours.available_or_skip() || find_in_path_or_skip("sqlite3").is_none() {
        return;
    }
    const LENGTH: usize = 500;
    let first = first_seed();
    let histories = setting("DQ_SHELL_HISTORIES", 100);
    let limit = Duration::from_secs(setting("DQ_DIFF_SECONDS", 90));
    let start_time = Instant::now();
    let ours = start(Kind::Ours);
    let (mut run, mut refused) = (0, 0);
    while run < histories as usize && start_time.elapsed() < limit {
        let seed = first.wrapping_add(run as u64);
        refused +=
            shell::compare(ours.address(), seed, LENGTH).unwrap_or_else(|how| panic!("{how}"));
        run += 1;
    }
    let statements = run * LENGTH;
    println!("seed {first}: {statements} statements, {refused} of them refused by both");
    assert!(statements > 0, "something was compared");
    assert!(
        refused * 3 < statements,
        "most statements succeed, or little was compared: {refused} of {statements}"
    );
}
