//! Logs on stderr for programs that ask for them in the environment.
//!
//! `LIBDQLITE_TRACE` is 1 for everything, 2 for what happens, 3 for warnings, 4 or 5 for errors, 0
//! for nothing. Lines look like the original's.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{LevelFilter, Log, Metadata, Record};

const VARIABLE: &str = "LIBDQLITE_TRACE";

struct Stderr;

/// Begins to log if the environment asks for it. Called whenever a node starts or is recovered, as
/// in the original; the first call that finds the variable counts.
pub(crate) fn begin() {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return;
    };
    let level = match value.to_str() {
        Some("0") => LevelFilter::Off,
        Some("2") => LevelFilter::Info,
        Some("3") => LevelFilter::Warn,
        Some("4" | "5") => LevelFilter::Error,
        _ => LevelFilter::Trace,
    };
    // It fails only if it is installed already.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // mio reports every turn of the loop.
        !metadata.target().starts_with("mio")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let line = format!(
            "LIBDQLITE[{}] {}.{:09} {} {:<5} {} {}:{} {}\n",
            std::process::id(),
            utc(now.as_secs()),
            now.subsec_nanos(),
            nix::unistd::gettid(),
            record.level(),
            record.target(),
            record.file().unwrap_or("?"),
            record.line().unwrap_or(0),
            record.args(),
        );
        // There is nobody to tell that logging failed.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Seconds since 1970 as a date and time.
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end; 719468 days lie between year 0 of
    // that kind and 1970, 146097 in 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(utc(951_868_800), "2000-03-01T00:00:00");
        assert_eq!(utc(1_700_000_000), "2023-11-14T22:13:20");
        assert_eq!(utc(4_102_444_800), "2100-01-01T00:00:00");
    }
}
