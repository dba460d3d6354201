//! Metrics as text, in Prometheus' format (version 0.0.4 of it, which everybody reads).

use std::fmt;

use dq_wire::header::request_type;

use super::{BOUNDS_US, Histogram, MemberMetrics, Metrics};

/// The kinds of request that clients send, as labels.
const KINDS: [(u8, &str); 18] = [
    (request_type::LEADER, "leader"),
    (request_type::CLIENT, "client"),
    (request_type::OPEN, "open"),
    (request_type::PREPARE, "prepare"),
    (request_type::EXEC, "exec"),
    (request_type::QUERY, "query"),
    (request_type::FINALIZE, "finalize"),
    (request_type::EXEC_SQL, "exec_sql"),
    (request_type::QUERY_SQL, "query_sql"),
    (request_type::INTERRUPT, "interrupt"),
    (request_type::ADD, "add"),
    (request_type::ASSIGN, "assign"),
    (request_type::REMOVE, "remove"),
    (request_type::DUMP, "dump"),
    (request_type::CLUSTER, "cluster"),
    (request_type::TRANSFER, "transfer"),
    (request_type::DESCRIBE, "describe"),
    (request_type::WEIGHT, "weight"),
];

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Metrics {
            status,
            counters,
            levels,
            shell,
            ..
        } = self;
        let mut out = Text(f);
        let (id, address) = (self.id, Label(&self.address));
        let version = env!("CARGO_PKG_VERSION");
        out.family("dq_info", "gauge", "The node.")?;
        out.labelled(
            "dq_info",
            &format!("id=\"{id}\",address=\"{address}\",version=\"{version}\""),
            1,
        )?;

        let leader = status.leader.as_ref().map_or(0, |(id, _)| *id);
        out.gauge(
            "dq_leading",
            "1 if this node leads and serves.",
            status.leading,
        )?;
        out.gauge(
            "dq_leader_id",
            "Id of the leader, 0 if none is known.",
            leader,
        )?;
        out.gauge("dq_term", "Current term.", status.term)?;
        out.counter(
            "dq_leaderships_total",
            "Elections won by this node.",
            counters.leaderships,
        )?;
        out.counter(
            "dq_leader_changes_total",
            "Other leaders than the last one.",
            counters.leader_changes,
        )?;
        out.gauge("dq_last_index", "Last entry of the log.", status.last_index)?;
        out.gauge(
            "dq_commit_index",
            "Last entry known to be committed.",
            status.commit_index,
        )?;
        out.gauge(
            "dq_applied_index",
            "Last entry applied here.",
            status.applied_index,
        )?;
        self.members(&mut out)?;

        out.counter(
            "dq_transactions_total",
            "Transactions committed as leader.",
            counters.transactions,
        )?;
        out.family("dq_requests_total", "counter", "Requests of clients.")?;
        for (kind, name) in KINDS {
            let count = counters.requests[usize::from(kind)];
            out.labelled("dq_requests_total", &format!("type=\"{name}\""), count)?;
        }
        out.family(
            "dq_failures_total",
            "counter",
            "Failures that clients were told.",
        )?;
        for (code, count) in &counters.failures {
            out.labelled("dq_failures_total", &format!("code=\"{code}\""), count)?;
        }
        out.family(
            "dq_request_seconds",
            "histogram",
            "From a whole request to its answer.",
        )?;
        for (label, histogram) in [
            ("type=\"prepare\"", &counters.prepare),
            ("type=\"exec\"", &counters.exec),
            ("type=\"query\"", &counters.query),
        ] {
            out.histogram("dq_request_seconds", label, histogram)?;
        }
        out.family(
            "dq_log_write_seconds",
            "histogram",
            "Making a batch of the log durable.",
        )?;
        out.histogram("dq_log_write_seconds", "", &shell.log_write)?;
        out.counter(
            "dq_log_written_bytes_total",
            "Bytes of entries given to the log.",
            shell.log_bytes,
        )?;
        out.family(
            "dq_loop_turn_seconds",
            "histogram",
            "Turns of the event loop.",
        )?;
        out.histogram("dq_loop_turn_seconds", "", &shell.turn)?;

        out.family(
            "dq_snapshots_total",
            "counter",
            "Snapshots, by what became of them.",
        )?;
        for (what, count) in [
            ("written", counters.snapshots_written),
            ("failed", counters.snapshots_failed),
            ("installed", counters.snapshots_installed),
            ("sent", counters.snapshots_sent),
        ] {
            out.labelled("dq_snapshots_total", &format!("what=\"{what}\""), count)?;
        }
        out.gauge(
            "dq_snapshot_index",
            "Last entry in the newest snapshot.",
            levels.snapshot_index,
        )?;

        out.gauge(
            "dq_connections",
            "Open connections, of clients and nodes.",
            status.connections,
        )?;
        out.counter(
            "dq_connections_accepted_total",
            "Connections accepted.",
            shell.accepted,
        )?;
        out.counter(
            "dq_connections_refused_total",
            "Connections closed as there were too many.",
            shell.refused,
        )?;
        out.gauge(
            "dq_sessions",
            "Clients with an open database.",
            levels.sessions,
        )?;
        out.gauge("dq_databases", "Databases.", levels.databases)?;
        out.gauge(
            "dq_database_bytes",
            "Size of all databases.",
            levels.database_bytes,
        )?;
        out.family("dq_waiting", "gauge", "What waits, by what for.")?;
        for (what, count) in [
            ("write", levels.writers_waiting as u64),
            ("commit", levels.commits_waiting as u64),
            ("thread", shell.sql_queue as u64),
            ("disk", shell.log_queue),
        ] {
            out.labelled("dq_waiting", &format!("for=\"{what}\""), count)?;
        }
        out.family("dq_memory_bytes", "gauge", "Memory, by what it is for.")?;
        for (what, bytes) in [
            ("pages", self.page_memory as u64),
            ("old_pages", status.old_pages),
            ("log", levels.log_memory),
            ("requests", levels.request_memory as u64),
            ("answers", levels.answer_memory as u64),
            ("peers", levels.peer_memory as u64),
            ("statements", levels.statement_memory as u64),
            ("uncommitted", levels.uncommitted_memory as u64),
            ("unstored", levels.unstored_memory),
        ] {
            out.labelled("dq_memory_bytes", &format!("part=\"{what}\""), bytes)?;
        }
        if let Some(disk) = &self.disk {
            out.family(
                "dq_disk_bytes",
                "gauge",
                "The data directory, by what it holds.",
            )?;
            for (what, bytes) in [
                ("log", disk.log),
                ("snapshots", disk.snapshots),
                ("other", disk.other),
            ] {
                out.labelled("dq_disk_bytes", &format!("part=\"{what}\""), bytes)?;
            }
            out.gauge(
                "dq_disk_free_bytes",
                "What the file system has left.",
                disk.free,
            )?;
        }
        out.gauge(
            "dq_disk_full",
            "1 if writes are refused for lack of space.",
            levels.disk_full,
        )
    }
}

impl Metrics {
    fn members(&self, out: &mut Text<'_, '_>) -> fmt::Result {
        let members = &self.levels.members;
        out.family("dq_member", "gauge", "A member of the cluster.")?;
        for member in members {
            let MemberMetrics {
                id, address, role, ..
            } = member;
            let address = Label(address);
            let labels = format!("id=\"{id}\",address=\"{address}\",role=\"{role}\"");
            out.labelled("dq_member", &labels, 1)?;
        }
        out.family(
            "dq_member_lag_entries",
            "gauge",
            "Entries that a member lacks; told by the leader.",
        )?;
        for member in members {
            if let Some(lag) = member.lag {
                out.labelled(
                    "dq_member_lag_entries",
                    &format!("id=\"{}\"", member.id),
                    lag,
                )?;
            }
        }
        let help = "Since a member was heard of; told by the leader.";
        out.family("dq_member_silent_seconds", "gauge", help)?;
        for member in members {
            if let Some(ms) = member.silent_ms {
                let labels = format!("id=\"{}\"", member.id);
                out.labelled("dq_member_silent_seconds", &labels, Seconds(ms * 1000))?;
            }
        }
        Ok(())
    }
}

/// Text in the making.
struct Text<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Text<'_, '_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn labelled(&mut self, name: &str, labels: &str, value: impl fmt::Display) -> fmt::Result {
        writeln!(self.0, "{name}{{{labels}}} {value}")
    }

    fn gauge<V: Value>(&mut self, name: &str, help: &str, value: V) -> fmt::Result {
        self.family(name, "gauge", help)?;
        writeln!(self.0, "{name} {}", value.number())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, "counter", help)?;
        writeln!(self.0, "{name} {value}")
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) -> fmt::Result {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        for (bound, count) in BOUNDS_US.iter().zip(&histogram.counts) {
            sum += count;
            let bound = Seconds(*bound);
            writeln!(
                self.0,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {sum}"
            )?;
        }
        let (all, total) = (histogram.count(), Seconds(histogram.sum_us));
        writeln!(self.0, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {all}")?;
        match labels {
            "" => writeln!(self.0, "{name}_sum {total}\n{name}_count {all}"),
            _ => writeln!(
                self.0,
                "{name}_sum{{{labels}}} {total}\n{name}_count{{{labels}}} {all}"
            ),
        }
    }
}

/// What a gauge can show.
trait Value {
    fn number(self) -> u64;
}

impl Value for u64 {
    fn number(self) -> u64 {
        self
    }
}

impl Value for usize {
    fn number(self) -> u64 {
        self as u64
    }
}

impl Value for bool {
    fn number(self) -> u64 {
        self.into()
    }
}

/// Microseconds, as seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        match micros {
            0 => write!(f, "{seconds}"),
            _ => write!(
                f,
                "{seconds}.{}",
                format!("{micros:06}").trim_end_matches('0')
            ),
        }
    }
}

/// A label's value.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Label(text) = self;
        f.write_str(
            &text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_are_written_as_the_format_wants_them() {
        for (micros, text) in [
            (0, "0"),
            (100, "0.0001"),
            (2_500_000, "2.5"),
            (7_000_000, "7"),
        ] {
            assert_eq!(Seconds(micros).to_string(), text);
        }
        assert_eq!(Label("a\"b\\c\nd").to_string(), "a\\\"b\\\\c\\nd");
    }
}
