//! The log lines of the nodes, with virtual time, for readable traces.

use std::sync::atomic::{AtomicU64, Ordering};

static TIME: AtomicU64 = AtomicU64::new(0);

/// Virtual time of what follows, microseconds.
pub(crate) fn set_time(micros: u64) {
    TIME.store(micros, Ordering::Relaxed);
}

struct Printer;

impl log::Log for Printer {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let time = TIME.load(Ordering::Relaxed) as f64 / 1e6;
        println!("{time:>12.6} [{}] {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// Prints the nodes' log lines from now on.
pub fn print_log() {
    static PRINTER: Printer = Printer;
    if log::set_logger(&PRINTER).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}
