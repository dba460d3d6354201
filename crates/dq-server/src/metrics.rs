//! What a node counts, and how that is told: as values, and as text in Prometheus' format.
//!
//! Counting is adding to plain numbers that one thread owns; nobody else is waited for. Who wants to know
//! asks the event loop for a copy, which is as much work as a small request. Durations are measured with
//! what the shell passes in: nothing here asks for the time.

use std::collections::BTreeMap;

use dq_wire::Role;
use dq_wire::header::request_type;

use crate::node::Status;

mod text;

/// Upper bounds of a histogram's buckets, microseconds; the last one has none.
pub const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// Failure codes that are counted apart; those of SQLite and dqlite are fewer.
const CODES_MAX: usize = 256;

/// Request types have numbers below this.
const REQUEST_TYPES: usize = 20;

/// How often things took how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// How many fell into each bucket, the one without a bound last.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All durations together, microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// One more.
    pub fn record(&mut self, micros: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(micros);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What a node counts from its start on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Requests of clients, by the number of their type.
    pub requests: [u64; REQUEST_TYPES],
    /// Failures that clients were told, by code.
    pub failures: BTreeMap<u64, u64>,
    /// PREPARE requests, from when they were whole to their answer.
    pub prepare: Histogram,
    /// EXEC and EXEC_SQL, the same: with what they wait for, other writers, the disk and the network.
    pub exec: Histogram,
    /// QUERY and QUERY_SQL, to their last row: also with what their clients take to read the rows.
    pub query: Histogram,
    /// Transactions of clients that were committed here, as leader.
    pub transactions: u64,
    /// How often this node has become leader.
    pub leaderships: u64,
    /// How often this node has heard of a leader that was not the last one.
    pub leader_changes: u64,
    /// Snapshots that were written.
    pub snapshots_written: u64,
    /// Snapshots that could not be written.
    pub snapshots_failed: u64,
    /// Snapshots of leaders that have replaced the databases here.
    pub snapshots_installed: u64,
    /// Snapshots that were sent to followers.
    pub snapshots_sent: u64,
}

impl Counters {
    pub(crate) fn request(&mut self, kind: u8) {
        if let Some(count) = self.requests.get_mut(usize::from(kind)) {
            *count += 1;
        }
    }

    pub(crate) fn failure(&mut self, code: u64) {
        if self.failures.len() < CODES_MAX || self.failures.contains_key(&code) {
            *self.failures.entry(code).or_default() += 1;
        }
    }

    /// A request of this type, whole at this time, is answered now.
    pub(crate) fn answered(&mut self, (kind, since): (u8, u64), now: u64) {
        let micros = now.saturating_sub(since);
        match kind {
            request_type::PREPARE => self.prepare.record(micros),
            request_type::EXEC | request_type::EXEC_SQL => self.exec.record(micros),
            request_type::QUERY | request_type::QUERY_SQL => self.query.record(micros),
            _ => {}
        }
    }
}

/// A member of the cluster, and what a leader knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberMetrics {
    /// Its id.
    pub id: u64,
    /// Its address, as configured.
    pub address: String,
    /// Its role.
    pub role: Role,
    /// Entries that it is not known to have; while this node leads.
    pub lag: Option<u64>,
    /// Milliseconds since it was heard of; while this node leads.
    pub silent_ms: Option<u64>,
}

/// How a node's parts are now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Levels {
    /// The members of the newest configuration.
    pub members: Vec<MemberMetrics>,
    /// Databases.
    pub databases: usize,
    /// Their size.
    pub database_bytes: u64,
    /// Clients that have one open.
    pub sessions: usize,
    /// Writers that wait for another one, or for room.
    pub writers_waiting: usize,
    /// Answers that wait for their transaction to be committed.
    pub commits_waiting: usize,
    /// Bytes of the log in memory.
    pub log_memory: u64,
    /// Bytes of clients' requests in memory.
    pub request_memory: usize,
    /// Bytes of answers in memory.
    pub answer_memory: usize,
    /// Bytes of other nodes' messages in memory.
    pub peer_memory: usize,
    /// What prepared statements take, about.
    pub statement_memory: usize,
    /// Bytes of transactions that are executed and not applied.
    pub uncommitted_memory: usize,
    /// Bytes of entries from a leader that are not durable yet.
    pub unstored_memory: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Writes are refused because the disk is full.
    pub disk_full: bool,
}

/// What the threads around the node count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShellMetrics {
    /// Making a batch of the log durable: write and fdatasync.
    pub log_write: Histogram,
    /// Bytes of entries given to the log.
    pub log_bytes: u64,
    /// Batches given to the log and not yet durable.
    pub log_queue: u64,
    /// Long statements that wait for a thread.
    pub sql_queue: usize,
    /// Turns of the event loop, without their waiting for something to do.
    pub turn: Histogram,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once, as there were too many.
    pub refused: u64,
}

/// What a data directory takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskMetrics {
    /// Bytes of the log's segments, what is set aside for more included.
    pub log: u64,
    /// Bytes of snapshots.
    pub snapshots: u64,
    /// Bytes of everything else.
    pub other: u64,
    /// Bytes that the file system has left.
    pub free: u64,
}

/// What is known of a running node at one moment. As text it is in Prometheus' format.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// The node's id.
    pub id: u64,
    /// The address that it tells others.
    pub address: String,
    /// How it is.
    pub status: Status,
    /// What it has counted.
    pub counters: Counters,
    /// How its parts are.
    pub levels: Levels,
    /// What the threads around it have counted.
    pub shell: ShellMetrics,
    /// What its directory takes; `None` if it cannot be read.
    pub disk: Option<DiskMetrics>,
    /// Bytes of all nodes' pages in this process.
    pub page_memory: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for micros in [0, 100, 101, 5_000_000, 5_000_001, u64::MAX] {
            histogram.record(micros);
        }
        assert_eq!(histogram.counts[..2], [2, 1]);
        assert_eq!(histogram.counts[13..], [1, 2]);
        assert_eq!((histogram.count(), histogram.sum_us), (6, u64::MAX));
    }

    #[test]
    fn failures_are_counted_by_a_bounded_number_of_codes() {
        let mut counters = Counters::default();
        for code in (0..1000).chain([5]) {
            counters.failure(code);
        }
        assert_eq!(counters.failures.len(), CODES_MAX);
        assert_eq!(counters.failures[&5], 2);
        counters.request(request_type::EXEC);
        counters.request(255);
        assert_eq!(counters.requests.iter().sum::<u64>(), 1);
    }
}
