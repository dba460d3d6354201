//! raft-rs logs through `slog`, everything else here through `log`: a bridge.

use std::fmt::{self, Write};

use slog::{Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record, Serializer, o};

const TARGET: &str = "dq_raft::raft_rs";

/// A logger for raft-rs. What raft-rs calls information is detail to an operator, so everything
/// below a warning comes out a level lower.
pub(super) fn logger() -> Logger {
    Logger::root(Bridge, o!())
}

struct Bridge;

impl Drain for Bridge {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> Result<(), Never> {
        let level = match record.level() {
            Level::Critical | Level::Error => log::Level::Error,
            Level::Warning => log::Level::Warn,
            Level::Info => log::Level::Debug,
            Level::Debug | Level::Trace => log::Level::Trace,
        };
        if log::log_enabled!(target: TARGET, level) {
            let mut line = Line(record.msg().to_string());
            // Writing to a String does not fail.
            let _ = record.kv().serialize(record, &mut line);
            let _ = context.serialize(record, &mut line);
            log::log!(target: TARGET, level, "{}", line.0);
        }
        Ok(())
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, ", {key}: {value}")?;
        Ok(())
    }
}
