//! The harnesses with a stable compiler: what was worth keeping, then what chance brings.
//!
//! `DQ_FUZZ_SECONDS` sets how long chance goes on (60 unless set), `DQ_FUZZ_SEED` where it begins,
//! `DQ_FUZZ_TARGET` with which target alone. A failure names the seed of the input that made it.

use std::time::{Duration, Instant};

use dq_fuzz::random::Random;
use dq_fuzz::reached::Reached;
use dq_fuzz::{corpus, data_dir, decoders, peer, session};

/// Harnesses of whole nodes, and what their corpora have to reach.
type Node = (&'static str, fn(&[u8]) -> Reached, &'static [&'static str]);

const NODES: [Node; 3] = [
    ("session", session::run, session::REACHES),
    ("peer", peer::run, peer::REACHES),
    ("data_dir", data_dir::run, data_dir::REACHES),
];

/// Changed inputs that each decoder is given.
const CHANGED: u64 = 5000;

/// Says which input a panic belongs to.
struct Running(String);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}", self.0);
        }
    }
}

fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let kept = corpus::read(target).expect("it can be read");
    assert!(!kept.is_empty(), "{target} has no corpus");
    kept
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    kept(target).into_iter().map(|(_, input)| input).collect()
}

fn replay(target: &str) {
    let (_, run, wanted) = NODES
        .iter()
        .find(|node| node.0 == target)
        .expect("it is one");
    let mut reached = Reached::default();
    for (name, input) in kept(target) {
        let running = Running(name);
        reached.add(&run(&input));
        drop(running);
    }
    println!("{target} has reached\n{reached}");
    let missing = reached.missing(wanted);
    assert!(missing.is_empty(), "{target} does not reach {missing:?}");
}

#[test]
fn what_once_stopped_a_node_or_filled_its_memory_does_so_no_more() {
    replay("session");
}

#[test]
fn what_peers_once_made_a_node_panic_with_does_so_no_more() {
    replay("peer");
}

#[test]
fn what_a_start_once_failed_on_it_opens_or_refuses() {
    replay("data_dir");
}

#[test]
fn decoders_take_what_was_kept_and_what_is_a_little_different() {
    let set = std::env::var("DQ_FUZZ_SEED").ok();
    let seed: u64 = set.and_then(|set| set.parse().ok()).unwrap_or_else(fresh);
    for (target, check) in decoders::ALL {
        for (name, input) in kept(target) {
            let running = Running(name);
            check(&input);
            drop(running);
        }
        let corpus = inputs(target);
        for seed in seed..seed + CHANGED {
            let running = Running(format!("DQ_FUZZ_SEED={seed} of {target}"));
            check(&Random(seed).input(&corpus));
            drop(running);
        }
    }
}

#[test]
fn chance_makes_no_node_panic_hang_or_forget() {
    let set = |name: &str| std::env::var(name).ok();
    let number = |name: &str| set(name)?.parse::<u64>().ok();
    let time = Duration::from_secs(number("DQ_FUZZ_SECONDS").unwrap_or(60));
    let first = number("DQ_FUZZ_SEED").unwrap_or_else(fresh);
    let chosen = set("DQ_FUZZ_TARGET");
    std::thread::scope(|scope| {
        for (target, run, _) in NODES {
            if chosen.as_ref().is_none_or(|chosen| chosen == target) {
                scope.spawn(move || chance(target, run, first, time));
            }
        }
    });
}

/// A seed that nobody has tried.
fn fresh() -> u64 {
    u64::from(std::process::id()) << 32
}

fn chance(target: &str, run: fn(&[u8]) -> Reached, first: u64, time: Duration) {
    let corpus = inputs(target);
    let begun = Instant::now();
    let mut seed = first;
    while begun.elapsed() < time {
        let running = Running(format!("DQ_FUZZ_SEED={seed} DQ_FUZZ_TARGET={target}"));
        run(&Random(seed).input(&corpus));
        drop(running);
        seed += 1;
    }
    println!("{target}: seeds {first} to {seed}");
}
