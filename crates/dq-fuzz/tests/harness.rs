//! The harnesses with a stable compiler: what was worth keeping, then what chance brings.
//!
//! `DQ_FUZZ_SECONDS` sets how long each goes on (20 unless set), `DQ_FUZZ_SEED` where it begins. A
//! failure names the seed of the input that made it.

use std::path::Path;
use std::time::{Duration, Instant};

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a usize")
    }
}

/// What to run next: a new input, or one of the corpus with a few changes.
fn input(seed: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut random = Random(seed);
    if corpus.is_empty() || random.below(2) == 0 {
        let size = 16 << random.below(8);
        return (0..random.below(size))
            .map(|_| random.next() as u8)
            .collect();
    }
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            1 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            2 => bytes.insert(at, random.next() as u8),
            _ => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
        }
    }
    bytes
}

/// Says which input a panic belongs to.
struct Running(String);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}", self.0);
        }
    }
}

fn check(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut paths: Vec<_> = std::fs::read_dir(directory.join(target))
        .expect("there is a corpus")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    paths.sort();
    let mut corpus = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path).expect("it can be read");
        let running = Running(path.display().to_string());
        run(&bytes);
        drop(running);
        corpus.push(bytes);
    }
    assert!(!corpus.is_empty());
    let set = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let time = Duration::from_secs(set("DQ_FUZZ_SECONDS").unwrap_or(20));
    let first = set("DQ_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 32);
    let begun = Instant::now();
    let mut seed = first;
    while begun.elapsed() < time {
        let running = Running(format!("DQ_FUZZ_SEED={seed} of {target}"));
        run(&input(seed, &corpus));
        drop(running);
        seed += 1;
    }
    println!(
        "{target}: {} of the corpus, seeds {first} to {seed}",
        corpus.len()
    );
}

#[test]
fn no_session_of_clients_stops_a_node_or_fills_its_memory() {
    check("session", dq_fuzz::session::run);
}

#[test]
fn no_message_of_a_peer_makes_a_node_panic() {
    check("peer", dq_fuzz::peer::run);
}

#[test]
fn no_content_of_a_data_directory_makes_a_start_panic_or_hang() {
    check("data_dir", dq_fuzz::data_dir::run);
}
