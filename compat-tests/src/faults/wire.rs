//! The wire between namespaces: a thread that carries packets, or does not.
//!
//! ```text
//!   namespace 0 (clients)   1     2     3 (nodes)
//!        │ TUN              │     │     │
//!        └──────────┬───────┴─────┴─────┘
//!             poll, read a packet, look at its destination
//!             rule of (from, to): cut? lost? how much later?
//!             write it there now, or when it is due
//! ```
//!
//! Each direction of each pair has a rule of its own, so that a cut can be of one direction only. The
//! packets of the hosts' TCP are all that it sees: what is lost they send again, as on a real network.
//! Doing this here, not with the kernel's packet filter and its delaying queue, works on kernels that
//! were built without them, and repeats its choices with a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::namespace::MTU;
use crate::differential::rng::Rng;

/// Packets that may be under way at once: beyond it they are lost, as at a full queue of a router.
const UNDER_WAY_MAX: usize = 20_000;

/// What happens to packets in one direction between two namespaces. `Default` is a good network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    /// Nothing gets through.
    pub cut: bool,
    /// So many of a hundred packets get lost.
    pub loss_percent: usize,
    /// How much later they arrive, at least.
    pub delay_us: u64,
    /// And how much more it may be, evenly distributed; so they overtake each other.
    pub jitter_us: u64,
}

#[derive(Debug)]
struct Shared {
    rules: Mutex<Vec<Vec<Rule>>>,
    stop: AtomicBool,
    carried: AtomicU64,
    dropped: AtomicU64,
}

/// A wire that carries packets until it is dropped.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Connects these devices, that of namespace 0 first.
    pub fn new(devices: Vec<File>, seed: u64) -> Wire {
        let count = devices.len();
        let shared = Arc::new(Shared {
            rules: Mutex::new(vec![vec![Rule::default(); count]; count]),
            stop: AtomicBool::new(false),
            carried: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || carry(&devices, &theirs, Rng::new(seed)));
        Wire {
            shared,
            thread: Some(thread),
        }
    }

    /// Sets the rule for packets from one namespace to another.
    ///
    /// # Panics
    /// If there is no such namespace.
    pub fn set(&self, from: usize, to: usize, rule: Rule) {
        self.rules()[from][to] = rule;
    }

    /// Sets the same rule everywhere.
    pub fn set_all(&self, rule: Rule) {
        for row in self.rules().iter_mut() {
            row.fill(rule);
        }
    }

    /// Packets that were carried and packets that were not, until now.
    pub fn counts(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.shared.carried), of(&self.shared.dropped))
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Vec<Rule>>> {
        lock(&self.shared)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Vec<Vec<Rule>>> {
    // Rules are plain values, whole at any time.
    shared.rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ordered by due time, then by arrival.
type UnderWay = BinaryHeap<Reverse<(Instant, u64, usize, Vec<u8>)>>;

fn carry(devices: &[File], shared: &Shared, mut rng: Rng) {
    let mut under_way = UnderWay::new();
    let mut arrivals = 0u64;
    let mut buffer = vec![0; MTU + 100];
    while !shared.stop.load(Ordering::Relaxed) {
        wait(devices, &under_way);
        for (from, mut device) in devices.iter().enumerate() {
            // A batch, so that one busy node does not keep the others waiting.
            for _ in 0..64 {
                let length = match device.read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        eprintln!("the wire of namespace {from}: {error}");
                        break;
                    }
                };
                let packet = &buffer[..length];
                let Some(to) = destination(packet).filter(|&to| to < devices.len()) else {
                    continue;
                };
                let rule = lock(shared)[from][to];
                if rule.cut || rng.percent(rule.loss_percent) || under_way.len() > UNDER_WAY_MAX {
                    shared.dropped.fetch_add(1, Ordering::Relaxed);
                } else if rule.delay_us == 0 {
                    deliver(&devices[to], packet, shared);
                } else {
                    let jitter = rng.below(rule.jitter_us as usize + 1) as u64;
                    let due = Instant::now() + Duration::from_micros(rule.delay_us + jitter);
                    arrivals += 1;
                    under_way.push(Reverse((due, arrivals, to, packet.to_vec())));
                }
            }
        }
        while let Some(Reverse((due, ..))) = under_way.peek() {
            if *due > Instant::now() {
                break;
            }
            if let Some(Reverse((_, _, to, packet))) = under_way.pop() {
                deliver(&devices[to], &packet, shared);
            }
        }
    }
}

/// Until a packet comes, or one is due, or it is time to look at whether to stop.
fn wait(devices: &[File], under_way: &UnderWay) {
    let mut fds: Vec<PollFd<'_>> = devices
        .iter()
        .map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN))
        .collect();
    let ms = match under_way.peek() {
        None => 50,
        Some(Reverse((due, ..))) => {
            // Rounded up, so that it does not turn over and over in the last millisecond.
            let left = due.saturating_duration_since(Instant::now());
            u16::try_from(left.as_micros().div_ceil(1000)).map_or(50, |ms| ms.min(50))
        }
    };
    // An error is a signal or a lack of memory: look again in any case.
    let _ = poll(&mut fds, PollTimeout::from(ms));
}

/// The number of the namespace that an IPv4 packet is for.
fn destination(packet: &[u8]) -> Option<usize> {
    let is_v4 = packet.first()? >> 4 == 4;
    match packet.get(16..20)? {
        &[10, 77, 0, last] if is_v4 && last > 0 => Some(usize::from(last) - 1),
        _ => None,
    }
}

fn deliver(mut device: &File, packet: &[u8], shared: &Shared) {
    // A refused packet is a lost one.
    let counter = match device.write(packet) {
        Ok(_) => &shared.carried,
        Err(_) => &shared.dropped,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}
