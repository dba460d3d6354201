//! A node: its driver, what its disk holds, its clock, the reads that wait at it.

use bytes::Bytes;
use dq_raft::{
    DiskOp, Driver, EntryKind, Epoch, LogEntry, Options, Payload, Persist, ReadMode, ReadOptions,
    ReadTicket, Recovered,
};
use dq_wire::{Configuration, Role, Server};

/// More reads than these do not wait at one node: the oldest client gives up.
const READS_MAX: usize = 4;

/// A read that waits for its proof.
pub(super) struct Read {
    pub(super) ticket: ReadTicket,
    /// What was known to be written when it was sent.
    pub(super) at_least: u64,
}

/// A clock that shows milliseconds, at a rate of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// In thousandths of the true rate.
    pub(super) rate: u64,
    /// What it showed at time 0, microseconds.
    pub(super) offset: u64,
    /// How long it has been stopped, in its own microseconds.
    pub(super) stopped: u64,
}

impl Clock {
    pub(super) fn millis(&self, now: u64) -> u64 {
        (self.offset + now * self.rate / 1000 - self.stopped) / 1000
    }

    /// When it will show `millis`.
    pub(super) fn time_of(&self, millis: u64) -> u64 {
        if millis > u64::MAX / 1_000_000_000 {
            return u64::MAX;
        }
        let left = (millis * 1000 + self.stopped).saturating_sub(self.offset);
        (left * 1000).div_ceil(self.rate)
    }
}

/// What is durable, and what has been asked for.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) durable: Recovered,
    pub(super) queue: Vec<Persist>,
    /// The longest promise that may have been made, ms; in a file of its own.
    pub(super) bound_ms: u64,
    /// Another bound is being written.
    pub(super) storing_bound: bool,
    pub(super) busy: bool,
    /// Until then all work takes until then.
    pub(super) slow_until: u64,
}

impl Disk {
    /// The last entry on disk that no work which is still to be done removes or replaces.
    pub(super) fn certain(&self) -> u64 {
        let last = self.durable.entries.len() as u64;
        let ops = self.queue.iter().flat_map(|persist| &persist.ops);
        let touched = ops.filter_map(|op| match op {
            DiskOp::Truncate { from } => Some(*from),
            DiskOp::Append { entries } => entries.first().map(|entry| entry.index),
            DiskOp::HardState { .. } | DiskOp::InstallSnapshot { .. } | DiskOp::Prune { .. } => {
                None
            }
        });
        touched.fold(last, |certain, first| certain.min(first - 1))
    }

    /// Makes the first piece of work durable; returns its id.
    pub(super) fn complete_one(&mut self) -> Option<u64> {
        if self.queue.is_empty() {
            return None;
        }
        let persist = self.queue.remove(0);
        let state = &mut self.durable;
        for op in persist.ops {
            match op {
                DiskOp::HardState { term, vote } => (state.term, state.vote) = (term, vote),
                DiskOp::Truncate { from } => state.entries.truncate(from as usize - 1),
                DiskOp::Append { entries } => state.entries.extend(entries),
                // Nobody takes snapshots here.
                DiskOp::InstallSnapshot { .. } | DiskOp::Prune { .. } => {}
            }
        }
        Some(persist.id)
    }
}

pub(super) struct Node {
    pub(super) id: u64,
    pub(super) driver: Option<Driver>,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    /// When its driver wants to be woken, as the world counts time.
    pub(super) deadline: u64,
    /// Counts processes: what was meant for an earlier one is not for this one.
    pub(super) life: u64,
    pub(super) epoch: Option<Epoch>,
    pub(super) applied: u64,
    /// The register: the index of the last write that is applied.
    pub(super) register: u64,
    pub(super) reads: Vec<Read>,
    pub(super) paused_until: u64,
    /// A time that was read before a pause, and how many inputs of the turn are still to come. Only a
    /// node that reads the clock once a turn uses it.
    pub(super) sampled: Option<(u64, u64)>,
}

impl Node {
    pub(super) fn new(id: u64, durable: Recovered, clock: Clock) -> Node {
        Node {
            id,
            driver: None,
            disk: Disk {
                durable,
                ..Disk::default()
            },
            clock,
            deadline: u64::MAX,
            life: 0,
            epoch: None,
            applied: 0,
            register: 0,
            reads: Vec::new(),
            paused_until: 0,
            sampled: None,
        }
    }

    pub(super) fn start(
        &mut self,
        now: u64,
        mode: ReadMode,
        timeouts: (u64, u64),
        seed: u64,
    ) -> Result<(), String> {
        let options = Options {
            id: self.id,
            election_timeout_ms: timeouts.0,
            heartbeat_ms: timeouts.1,
            seed,
            log_bytes_max: 1 << 30,
        };
        let reads = ReadOptions {
            mode,
            promise_found_ms: self.disk.bound_ms,
            promise_bound_ms: self.disk.bound_ms,
        };
        let driver = Driver::new(options, self.disk.durable.clone());
        let mut driver = driver.map_err(|error| error.to_string())?.with_reads(reads);
        driver.start(self.clock.millis(now));
        self.driver = Some(driver);
        Ok(())
    }

    pub(super) fn crash(&mut self) {
        self.driver = None;
        self.deadline = u64::MAX;
        self.life += 1;
        self.epoch = None;
        self.applied = 0;
        self.register = 0;
        self.reads.clear();
        self.disk.queue.clear();
        self.disk.busy = false;
        self.disk.storing_bound = false;
        self.sampled = None;
    }

    /// A read has arrived. False if this node does not believe to lead.
    pub(super) fn ask(&mut self, now_ms: u64, at_least: u64) -> bool {
        let Some(ticket) = self.driver.as_ref().and_then(|d| d.read_ticket(now_ms)) else {
            return false;
        };
        if self.reads.len() >= READS_MAX {
            self.reads.remove(0);
        }
        self.reads.push(Read { ticket, at_least });
        true
    }
}

pub(super) fn address(id: u64) -> String {
    format!("10.0.0.{id}:9000")
}

/// What a freshly bootstrapped directory holds.
pub(super) fn bootstrapped(voters: u64, spares: u64) -> Recovered {
    let server = |id| Server {
        id,
        address: address(id),
        role: if id <= voters {
            Role::Voter
        } else {
            Role::Spare
        },
    };
    let configuration = Configuration {
        servers: (1..=voters + spares).map(server).collect(),
    };
    let mut bytes = Vec::new();
    configuration.encode(&mut bytes);
    Recovered {
        term: 1,
        entries: vec![LogEntry {
            index: 1,
            term: 1,
            kind: EntryKind::Change,
            payload: Payload::from(Bytes::from(bytes)),
        }],
        ..Recovered::default()
    }
}

/// A write's bytes: what they say does not matter.
pub(super) fn write() -> Vec<(EntryKind, Payload)> {
    let payload = Payload::from(Bytes::from_static(b"a write."));
    vec![(EntryKind::Command, payload)]
}

/// An entry that changes nothing.
pub(super) fn barrier() -> Vec<(EntryKind, Payload)> {
    let payload = Payload::from(Bytes::from_static(b"nothing."));
    vec![(EntryKind::Barrier, payload)]
}
