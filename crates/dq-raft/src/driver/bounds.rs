//! What a driver holds in memory, and what bounds it.
//!
//! | what | bound |
//! |---|---|
//! | bytes of the log | [`Options::log_bytes_max`](super::Options), or what is not durable and applied yet |
//! | entries of a leader's that are not durable | [`Bounds::unstored_bytes_max`], or a single message |
//! | messages that wait for the disk | [`HELD_MAX`], the oldest are lost |
//! | numbers of questions under way | [`STAMPS_MAX`], the oldest count no more |
//! | peers that are no members | [`STRANGERS`](super::receive::STRANGERS) |
//!
//! What a leader proposes is its owner's to bound. A message that is dropped is as one that the network
//! has lost: raft repeats what matters.

use super::Driver;
use crate::message::AppendEntries;
use crate::mutants::{Mutant, is_broken};

/// Messages that wait for the disk. A disk that hangs must not gather an answer per heartbeat.
pub(super) const HELD_MAX: usize = 1024;

/// Numbers of questions that an answer is recognized by.
pub(super) const STAMPS_MAX: usize = 1 << 16;

/// What an entry takes beyond its payload, bytes: so that very many empty ones count.
const ENTRY_COST: u64 = 64;

/// Bounds on memory that are for whoever runs a node to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of entries received from a leader and not durable, above which further ones are dropped: a
    /// leader goes on while one disk hangs. A single larger message is taken.
    pub unstored_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            unstored_bytes_max: 64 << 20,
        }
    }
}

/// How much there is of something that has a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of what.
    pub what: &'static str,
    /// How much there is.
    pub held: u64,
    /// How much there may be.
    pub bound: u64,
}

impl Driver {
    /// Sets bounds; before [`Driver::start`].
    pub fn with_bounds(mut self, bounds: Bounds) -> Driver {
        self.bounds = bounds;
        self
    }

    /// What is held in memory, and the bound on each. Costs a few steps per piece of disk work that
    /// is outstanding.
    pub fn usage(&self) -> [Usage; 7] {
        let store = self.raw.store();
        let largest = self.pending.iter().map(|p| p.received_bytes).max();
        let strangers = super::receive::STRANGERS + self.configuration().servers.len();
        [
            Usage {
                what: "bytes of the log",
                held: store.payload_bytes(),
                bound: store
                    .bytes_between(self.evictable() + 1, store.last())
                    .max(self.options.log_bytes_max),
            },
            Usage {
                what: "bytes of entries that are not durable",
                held: self.unstored_bytes(),
                bound: largest.unwrap_or(0).max(self.bounds.unstored_bytes_max),
            },
            Usage {
                what: "messages that wait for the disk",
                held: self.held() as u64,
                bound: HELD_MAX as u64,
            },
            Usage {
                what: "questions to peers",
                held: self.proofs.lead.stamps() as u64,
                bound: STAMPS_MAX as u64,
            },
            Usage {
                what: "peers remembered",
                held: self.addresses.len().max(self.contacts.len()) as u64,
                // Members that have gone since count as strangers.
                bound: 2 * strangers as u64,
            },
            Usage {
                what: "reads of the log",
                held: self.reads.len() as u64,
                bound: self.raw.raft.prs().iter().len() as u64,
            },
            Usage {
                what: "entries given to raft and not taken",
                held: store.staged() as u64,
                bound: 0,
            },
        ]
    }

    /// Bytes of a leader's entries whose disk work is outstanding.
    pub fn unstored_bytes(&self) -> u64 {
        self.pending.iter().map(|p| p.received_bytes).sum()
    }

    fn held(&self) -> usize {
        self.pending.iter().map(|pending| pending.held.len()).sum()
    }

    /// Whether there is no room for the entries of this message.
    pub(super) fn is_crowded_by(&self, append: &AppendEntries) -> bool {
        let unstored = self.unstored_bytes();
        let sizes = append.entries.iter().map(|e| cost(e.payload.len()));
        unstored > 0
            && !append.entries.is_empty()
            && unstored.saturating_add(sizes.sum()) > self.bounds.unstored_bytes_max
            && !is_broken(Mutant::TakeUnstored)
    }

    /// Forgets the oldest of too many messages that wait for the disk.
    pub(super) fn limit_held(&mut self) {
        let mut excess = self.held().saturating_sub(HELD_MAX);
        for pending in &mut self.pending {
            let lost = excess.min(pending.held.len());
            pending.held.drain(..lost);
            excess -= lost;
        }
    }
}

/// What an entry takes in memory while it waits.
pub(super) fn cost(payload: usize) -> u64 {
    payload as u64 + ENTRY_COST
}
