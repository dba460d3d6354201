//! The clock of the real world.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds that never go back and that go on while the machine is suspended, which a lease
/// must notice; Rust's `Instant` stops then.
pub fn now_ms() -> u64 {
    now_micros() / 1000
}

/// The same in microseconds.
pub fn now_micros() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC))
        .expect("Linux has a monotonic clock");
    let seconds = u64::try_from(time.tv_sec()).expect("time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec()).expect("nanoseconds are not negative");
    seconds * 1_000_000 + nanos / 1000
}

/// Nanoseconds since 1970, for names of files.
pub fn wall_nanos() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A number that differs from start to start and from node to node.
pub fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(wall_nanos())
}
