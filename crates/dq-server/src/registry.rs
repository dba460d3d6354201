//! The databases of a node: versions, write slot, batches that wait for replication.
//!
//! ```text
//!        committed            head
//!            │                  │
//!   v1 ─ v2 ─ v3 ─── v4 ─ v5 ─ v6        versions, numbers only grow
//!                 └───────┘ └───┘
//!                 in flight  open batch
//! ```
//!
//! *Committed* is what raft has committed and this node has applied; *head* is what has executed
//! here as leader. On a follower they are the same. One connection at a time holds the write slot:
//! for a request, and while its transaction is open. The others queue, first come, first served.
//!
//! Invariants: `committed.number() <= head.number()`; a waiter exists only while somebody holds the
//! slot, or the database waits for room; a batch holds each page once, in its last state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;
use dq_raft::Payload;
use dq_raft::mutants::{Mutant, is_broken};
use dq_vfs::{Capture, Page, PageNo, Version};
use dq_wire::encode_frames_header;

use crate::conn::ConnId;

/// Transactions join a batch until it holds this many pages; a larger transaction travels alone.
const BATCH_PAGES: usize = 256;

/// Marks a FRAMES `tx_id` as a fingerprint of the base version. C dqlite writes 0 and never reads it.
pub const FINGERPRINT_TAG: u64 = 1 << 56;

/// A database and everything about it that is not on disk.
#[derive(Debug)]
pub struct Database {
    /// What raft has committed and this node has applied.
    pub committed: Version,
    /// What has executed here as leader.
    pub head: Version,
    /// Number of the last version handed to raft; 0 in an epoch that has proposed nothing yet.
    pub proposed: u64,
    /// Entries proposed and not yet applied.
    pub in_flight: usize,
    /// Bytes of the largest transaction in this epoch.
    pub largest: usize,
    /// Client connections that have it open.
    pub opens: usize,
    /// Who holds the write slot.
    pub slot: Option<ConnId>,
    /// Since when the slot's holder sits on an open transaction between requests.
    pub held_since: Option<u64>,
    /// Requests that wait for the slot, in order.
    pub waiters: VecDeque<Waiter>,
    /// Answers that wait until `committed` has reached a version.
    pub awaiting: BTreeSet<(u64, ConnId)>,
    batches: VecDeque<Batch>,
}

/// A request in the queue for the write slot.
#[derive(Debug)]
pub struct Waiter {
    /// Whose.
    pub conn: ConnId,
    /// Time spent so far waiting for others' open transactions, ms.
    pub waited_ms: u64,
    /// When it was queued.
    pub since: u64,
}

/// Transactions that will be one log entry.
#[derive(Debug)]
struct Batch {
    base: Version,
    pages: BTreeMap<PageNo, Page>,
    version: Version,
    published_bytes: usize,
    transactions: u64,
    sealed: bool,
}

/// A log entry that is ready to be proposed, and the version that it leads to.
#[derive(Debug)]
pub struct Proposal {
    /// The FRAMES command.
    pub payload: Payload,
    /// The version that it makes.
    pub version: Version,
    /// Bytes of pages that its transactions published.
    pub published_bytes: usize,
    /// How many those are.
    pub transactions: u64,
}

impl Database {
    /// A database whose only version is `version`.
    pub fn new(version: Version) -> Database {
        Database {
            committed: version.clone(),
            head: version,
            proposed: 0,
            in_flight: 0,
            largest: 0,
            opens: 0,
            slot: None,
            held_since: None,
            waiters: VecDeque::new(),
            awaiting: BTreeSet::new(),
            batches: VecDeque::new(),
        }
    }

    /// Makes what was captured the new head and adds it to the open batch.
    pub fn publish(&mut self, capture: &Capture, number: u64) -> Result<Version, BadSize> {
        if !self.head.check_size(&capture.pages, capture.page_count) {
            return Err(BadSize);
        }
        let base = self.head.clone();
        let version = base.successor(number, &capture.pages, capture.page_count);
        // A transaction that shrinks the file travels alone: joined with others, pages beyond the end
        // could come back when a later one grows it again without writing all of them.
        let alone = capture.delete_database
            || capture.pages.len() > BATCH_PAGES
            || version.page_count() < base.page_count() && !is_broken(Mutant::ShrinkInBatch);
        let joins = !alone
            && self
                .batches
                .back()
                .is_some_and(|b| !b.sealed && b.pages.len() + capture.pages.len() <= BATCH_PAGES);
        if !joins {
            if let Some(last) = self.batches.back_mut() {
                last.sealed = true;
            }
            let pages = BTreeMap::new();
            let version = version.clone();
            let batch = Batch {
                base,
                pages,
                version,
                published_bytes: 0,
                transactions: 0,
                sealed: false,
            };
            self.batches.push_back(batch);
        }
        let batch = self
            .batches
            .back_mut()
            .expect("a batch was just found or made");
        batch
            .pages
            .extend(capture.pages.iter().map(|(no, page)| (*no, page.clone())));
        batch.version = version.clone();
        batch.published_bytes += capture.pages.len() * dq_vfs::PAGE_SIZE;
        batch.transactions += 1;
        batch.sealed |= alone;
        self.head = version.clone();
        Ok(version)
    }

    /// Whether there is nothing in it, nothing on its way into it, and nobody has it open: it was deleted, or
    /// opened and never written. Then the name goes. Other nodes know nothing of what was only opened.
    pub fn is_unused(&self) -> bool {
        self.opens == 0
            && self.in_flight == 0
            && !self.has_batches()
            && self.committed.number() == self.head.number()
            && self.committed.holds_nothing()
    }

    /// Takes the batches as proposals, if nothing of this database is in flight: while an entry is
    /// under way the next ones join one batch, which is what makes many writers cheap.
    pub fn take_proposals(&mut self, name: &[u8]) -> Vec<Proposal> {
        if self.in_flight > 0 {
            return Vec::new();
        }
        self.batches
            .drain(..)
            .map(|batch| batch.into_proposal(name))
            .collect()
    }

    /// Whether anything waits to be proposed.
    pub fn has_batches(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Ends an epoch: nothing that was not committed remains, nobody holds or waits for anything.
    pub fn reset(&mut self) {
        if !is_broken(Mutant::HeadSurvives) {
            self.head = self.committed.clone();
        }
        self.proposed = 0;
        self.in_flight = 0;
        self.largest = 0;
        self.slot = None;
        self.held_since = None;
        self.waiters.clear();
        self.awaiting.clear();
        self.batches.clear();
    }

    /// Charges the waiters for the time that the slot's holder sat on an open transaction.
    pub fn settle_waits(&mut self, now: u64) {
        let Some(held) = self.held_since.take() else {
            return;
        };
        for waiter in &mut self.waiters {
            waiter.waited_ms += now.saturating_sub(held.max(waiter.since));
        }
    }

    /// When the first waiter runs out of patience. Only time spent waiting for somebody's open
    /// transaction counts, and the first in the queue has waited longest.
    pub fn busy_deadline(&self, timeout_ms: u64) -> Option<u64> {
        let held = self.held_since?;
        let first = self.waiters.front()?;
        let left = timeout_ms.saturating_sub(first.waited_ms);
        Some(held.max(first.since).saturating_add(left))
    }
}

impl Batch {
    fn into_proposal(self, name: &[u8]) -> Proposal {
        // A base of one page is what opening makes, on each node by itself: not checked.
        let tx_id = match self.base.page_count() {
            0 | 1 => 0,
            _ => FINGERPRINT_TAG | self.base.fingerprint(),
        };
        let numbers = self.pages.keys().map(|no| no.0);
        let mut chunks = Vec::with_capacity(1 + self.pages.len());
        chunks.push(Bytes::from(encode_frames_header(name, tx_id, numbers)));
        chunks.extend(self.pages.values().cloned().map(Bytes::from_owner));
        let Batch {
            version,
            published_bytes,
            transactions,
            ..
        } = self;
        Proposal {
            payload: Payload::new(chunks),
            version,
            published_bytes,
            transactions,
        }
    }
}

/// Captured pages that did not become a version: some replica would end up with another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSize;

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("replicas would disagree on the size")
    }
}
