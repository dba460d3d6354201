//! Where logs go: to stderr for programs that ask for them in the environment, and to a function of
//! the program's.
//!
//! `LIBDQLITE_TRACE` is 1 for everything, 2 for what happens, 3 for warnings, 4 or 5 for errors, 0
//! for nothing; `LIBRAFT_TRACE` is the same for what raft says. Lines look like the original's.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

const VARIABLE: &str = "LIBDQLITE_TRACE";

const RAFT_VARIABLE: &str = "LIBRAFT_TRACE";

/// What a C program logs with: level (1 debug, 2 info, 3 warning, 4 error), where it is from, and
/// what it says.
pub(crate) type LogFn = unsafe extern "C" fn(
    arg: *mut c_void,
    level: c_int,
    target: *const c_char,
    message: *const c_char,
);

/// Everything that is logged comes here; whoever wants some of it gets it.
struct Sink {
    /// Down to which level stderr gets what raft says, and what the rest does; a [`LevelFilter`].
    raft: AtomicUsize,
    rest: AtomicUsize,
    function: RwLock<Option<Function>>,
}

/// The program's function.
#[derive(Clone, Copy)]
struct Function {
    call: LogFn,
    arg: *mut c_void,
    level: LevelFilter,
}

// SAFETY: the header says that the function is called from any thread with this argument.
unsafe impl Send for Function {}
// SAFETY: as above; it is only read.
unsafe impl Sync for Function {}

static SINK: Sink = Sink {
    raft: AtomicUsize::new(0),
    rest: AtomicUsize::new(0),
    function: RwLock::new(None),
};

/// Begins to log on stderr if the environment asks for it. Called whenever a node starts or is
/// recovered, as in the original; the first call that finds a variable counts.
pub(crate) fn begin() {
    static ONCE: OnceLock<()> = OnceLock::new();
    let level = |name: &str| std::env::var_os(name).map(|value| level_of(value.to_str()));
    let (rest, raft) = (level(VARIABLE), level(RAFT_VARIABLE));
    if rest.is_none() && raft.is_none() {
        return;
    }
    ONCE.get_or_init(|| {
        let rest = rest.unwrap_or(LevelFilter::Off);
        SINK.rest.store(rest as usize, Ordering::Relaxed);
        let raft = raft.unwrap_or(rest);
        SINK.raft.store(raft as usize, Ordering::Relaxed);
        install();
    });
}

/// Sends what is logged from a level on to a function, or to none; false if there is no such level.
/// When this returns, no call of the function before is under way.
pub(crate) fn set_function(call: Option<LogFn>, arg: *mut c_void, level: c_int) -> bool {
    let level = match (call, level) {
        (None, _) => LevelFilter::Off,
        (_, 1) => LevelFilter::Trace,
        (_, 2) => LevelFilter::Info,
        (_, 3) => LevelFilter::Warn,
        (_, 4) => LevelFilter::Error,
        _ => return false,
    };
    *SINK.lock_to_change() = call.map(|call| Function { call, arg, level });
    install();
    true
}

/// Makes the sink the process's logger, and has records made as far as somebody wants them.
fn install() {
    // It fails if it is installed already. The library has its own copy of the facade, so nobody
    // else can have installed another.
    let _ = log::set_logger(&SINK);
    let function = SINK.function().map_or(LevelFilter::Off, |f| f.level);
    let wanted = [&SINK.raft, &SINK.rest].map(|level| level.load(Ordering::Relaxed));
    let most = wanted.into_iter().max().unwrap_or(0).max(function as usize);
    let levels = [
        LevelFilter::Off,
        LevelFilter::Error,
        LevelFilter::Warn,
        LevelFilter::Info,
        LevelFilter::Debug,
        LevelFilter::Trace,
    ];
    log::set_max_level(levels[most.min(levels.len() - 1)]);
}

/// The level that a variable's value asks for. Other values ask for everything, as in the original.
fn level_of(value: Option<&str>) -> LevelFilter {
    match value {
        Some("0") => LevelFilter::Off,
        Some("2") => LevelFilter::Info,
        Some("3") => LevelFilter::Warn,
        Some("4" | "5") => LevelFilter::Error,
        _ => LevelFilter::Trace,
    }
}

impl Sink {
    fn function(&self) -> RwLockReadGuard<'_, Option<Function>> {
        // A plain value, consistent at any time.
        self.function.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_to_change(&self) -> RwLockWriteGuard<'_, Option<Function>> {
        let locked = self.function.write();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether stderr gets this.
    fn is_printed(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let level = match target.starts_with("dq_raft") || target.starts_with("raft") {
            true => &self.raft,
            false => &self.rest,
        };
        metadata.level() as usize <= level.load(Ordering::Relaxed)
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // mio reports every turn of the loop.
        !metadata.target().starts_with("mio")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if self.is_printed(record.metadata()) {
            print(record);
        }
        let function = self.function();
        if let Some(function) = *function
            && record.level() <= function.level
        {
            hand_over(function, record);
        }
    }

    fn flush(&self) {}
}

/// Calls the program's function.
fn hand_over(function: Function, record: &Record<'_>) {
    let level = match record.level() {
        Level::Error => 4,
        Level::Warn => 3,
        Level::Info => 2,
        Level::Debug | Level::Trace => 1,
    };
    let text = |text: String| {
        // A NUL would end it for C.
        CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
    };
    let target = text(record.target().to_owned());
    let message = text(record.args().to_string());
    // SAFETY: the program said that the function may be called with this argument until it is
    // replaced, which waits for the lock that is held here; the texts live during the call.
    unsafe { (function.call)(function.arg, level, target.as_ptr(), message.as_ptr()) };
}

fn print(record: &Record<'_>) {
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
    fn the_environments_numbers_are_levels() {
        assert_eq!(level_of(Some("0")), LevelFilter::Off);
        assert_eq!(level_of(Some("1")), LevelFilter::Trace);
        assert_eq!(level_of(Some("3")), LevelFilter::Warn);
        assert_eq!(level_of(Some("5")), LevelFilter::Error);
        assert_eq!(level_of(None), LevelFilter::Trace);
    }

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
