//! Clients that hold on to old versions, and what becomes of them.
//!
//! A statement in mid-stream, an open transaction, a dump that is not read: each keeps the version alive
//! that it began with, and so every page that was replaced since. Together they may keep as much as
//! [`Settings::old_pages_max`] says; above it the oldest of them that keeps anything is ended, until it
//! is less.
//!
//! Counting exactly means to compare the page tables of neighbouring versions, which takes time in
//! proportion to what differs. So it is not done each time: what is kept grows by no more than what is
//! replaced, which each version knows, and until that could be too much nothing is counted.
//!
//! Versions that are in flight or wait to be replicated are not old, and snapshots that are being
//! written are not readers: neither is counted.
//!
//! [`Settings::old_pages_max`]: crate::config::Settings::old_pages_max

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use dq_raft::mutants::{Mutant, is_broken};
use dq_vfs::{PAGE_SIZE, Version};

use super::{Machine, Output};
use crate::conn::{ConnId, Phase};
use crate::error::OUTDATED;

/// Who holds on to which version.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// By number of the version, and so by age.
    pins: BTreeMap<(u64, ConnId), Pin>,
    numbers: BTreeMap<ConnId, u64>,
    /// Pages replaced since the last count.
    replaced: u64,
    /// Pages that were found at the last count.
    counted: u64,
}

#[derive(Debug)]
struct Pin {
    database: Bytes,
    version: Version,
}

impl Readers {
    /// This connection holds on to this version, and no other one.
    pub(super) fn hold(&mut self, id: ConnId, database: &Bytes, version: Version) {
        let number = version.number();
        if self.numbers.get(&id) == Some(&number) {
            return;
        }
        self.let_go(id);
        self.numbers.insert(id, number);
        let pin = Pin {
            database: database.clone(),
            version,
        };
        self.pins.insert((number, id), pin);
    }

    /// It holds on to none.
    pub(super) fn let_go(&mut self, id: ConnId) {
        if let Some(number) = self.numbers.remove(&id) {
            self.pins.remove(&(number, id));
        }
        if self.pins.is_empty() {
            self.replaced = 0;
            self.counted = 0;
        }
    }

    /// Whether it holds on to one.
    pub(super) fn has(&self, id: ConnId) -> bool {
        self.numbers.contains_key(&id)
    }

    /// A database has moved on to `newer`.
    pub(super) fn moved(&mut self, older: &Version, newer: &Version) {
        if !self.pins.is_empty() {
            self.replaced += newer.replaced_since(older);
        }
    }

    /// The most that may be held now, in pages.
    pub(super) fn at_most(&self) -> u64 {
        self.counted + self.replaced
    }

    /// Whether it has to be counted, for this limit. Each count costs up to as many steps as there are
    /// pages, so a part of the limit has to be replaced in between.
    fn is_due(&self, limit: u64) -> bool {
        self.at_most() > limit && self.replaced > limit / 16 && !is_broken(Mutant::KeepReaders)
    }

    /// Counts: the pages that are in versions held here and in none that is newer, and who is the
    /// oldest that has any.
    fn count<'a>(&mut self, committed: impl Fn(&Bytes) -> Option<&'a Version>) -> Option<ConnId> {
        let mut newer: BTreeMap<&Bytes, &Version> = BTreeMap::new();
        let mut oldest = None;
        self.counted = 0;
        self.replaced = 0;
        for ((number, id), pin) in self.pins.iter().rev() {
            let Some(current) = committed(&pin.database) else {
                continue;
            };
            if *number >= current.number() {
                continue;
            }
            let next = newer.insert(&pin.database, &pin.version);
            let pages = pin.version.pages_not_in(next.unwrap_or(current));
            self.counted += pages;
            // With several on the same version the last one to go frees it, and all are as old.
            if pages > 0 || oldest.is_some_and(|(other, _)| other == *number) {
                oldest = Some((*number, *id));
            }
        }
        oldest.map(|(_, id)| id)
    }
}

impl Machine {
    /// Looks at what a connection holds on to, after a statement has ended or stopped.
    pub(super) fn track(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return self.readers.let_go(id);
        };
        if let Some((name, version)) = &conn.dumped {
            return self.readers.hold(id, name, version.clone());
        }
        let Some(session) = &mut conn.session else {
            return self.readers.let_go(id);
        };
        let Some(handle) = &mut session.handle else {
            return; // a job has it
        };
        handle.db().release();
        match handle.db().pinned_version() {
            Some(version) => self.readers.hold(id, &session.database, version),
            None => self.readers.let_go(id),
        }
    }

    /// Ends the oldest readers while all of them hold on to too much.
    pub(super) fn bound_readers(&mut self, out: &mut VecDeque<Output>) {
        let limit = (self.settings.old_pages_max / PAGE_SIZE) as u64;
        if !self.readers.is_due(limit) {
            return;
        }
        loop {
            let databases = &self.databases;
            let committed = |name: &Bytes| databases.get(name).map(|database| &database.committed);
            let oldest = self.readers.count(committed);
            if self.readers.counted <= limit {
                return;
            }
            let Some(id) = oldest else { return };
            log::warn!(
                "node {}: connection {id} is the oldest of those that read, and they hold on to {} MiB \
                 of what was replaced meanwhile: it is ended",
                self.settings.id,
                (self.readers.counted * PAGE_SIZE as u64) >> 20
            );
            self.end_reader(id, out);
            // Also if a job still has it: it is on its way.
            self.readers.let_go(id);
        }
    }

    /// Takes its version from a connection. Its statement fails, or its next request does.
    fn end_reader(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.dumped.is_some() {
            // A dump has no place for a failure.
            out.push_back(Output::Cut(id));
            return self.closed(id, out);
        }
        let Some(session) = &mut conn.session else {
            return;
        };
        let name = session.database.clone();
        match conn.request.as_ref().map(|request| &request.phase) {
            Some(Phase::Running) if session.handle.is_none() => {
                session.outdated = true;
                session.interrupt.interrupt();
                // An interrupt does nothing to a statement that still waits for a worker.
                self.look_again(id, self.now);
            }
            // Its answer is made already, and its transaction goes.
            None | Some(Phase::Held { last: true, .. }) => {
                session.outdated = true;
                self.roll_back(id);
            }
            Some(_) => {
                if let Some(database) = self.databases.get_mut(&name) {
                    database.waiters.retain(|waiter| waiter.conn != id);
                }
                self.free_slot(id, &name, false, out);
                self.end_outdated(id, out);
            }
        }
    }

    /// Fails the request at work, and ends the transaction that it was in.
    pub(super) fn end_outdated(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        if let Some(session) = self.conns.get_mut(&id).and_then(|c| c.session.as_mut()) {
            session.outdated = false;
        }
        self.cancel_request(id);
        self.roll_back(id);
        self.finish_refused(id, &OUTDATED, out);
    }

    fn roll_back(&mut self, id: ConnId) {
        if let Some(session) = self.conns.get_mut(&id).and_then(|c| c.session.as_mut()) {
            session.proven = false;
            if let Some(handle) = &mut session.handle {
                handle.db().rollback();
            }
        }
        self.track(id);
    }
}

#[cfg(test)]
mod tests {
    use dq_vfs::{Page, PageNo};

    use super::*;

    fn pages(range: std::ops::Range<u32>, fill: u8) -> Vec<(PageNo, Page)> {
        let page = |no| (PageNo(no), Page::copy_from(&[fill; PAGE_SIZE]));
        range.map(page).collect()
    }

    fn name() -> Bytes {
        Bytes::from_static(b"db")
    }

    #[test]
    fn only_what_newer_versions_lack_counts_and_each_page_once() {
        let first = Version::from_pages(1, pages(1..101, 1).into_iter().map(|(_, page)| page));
        let second = first.successor(2, &pages(1..11, 2), 100);
        let third = second.successor(3, &pages(6..21, 3), 100);
        let mut readers = Readers::default();
        readers.moved(&first, &second);
        assert_eq!(readers.at_most(), 0, "nobody reads");
        readers.hold(7, &name(), first.clone());
        readers.hold(8, &name(), first.clone());
        readers.hold(9, &name(), second.clone());
        readers.moved(&first, &second);
        readers.moved(&second, &third);
        assert_eq!(readers.at_most(), 25);
        assert!(readers.is_due(24) && !readers.is_due(25));
        let committed = |_: &Bytes| Some(&third);
        assert_eq!(readers.count(committed), Some(7), "the oldest");
        assert_eq!(readers.counted, 10 + 15);
        readers.let_go(7);
        assert_eq!(readers.count(committed), Some(8));
        assert_eq!(readers.counted, 10 + 15);
        readers.let_go(8);
        assert_eq!(readers.count(committed), Some(9));
        assert_eq!(readers.counted, 15);
        readers.let_go(9);
        assert_eq!((readers.count(committed), readers.at_most()), (None, 0));
    }

    #[test]
    fn who_holds_nothing_that_is_gone_elsewhere_is_not_the_oldest() {
        let quiet = Version::from_pages(1, pages(1..101, 1).into_iter().map(|(_, page)| page));
        let busy = quiet.clone().with_number(2);
        let newer = busy.successor(3, &pages(1..51, 2), 100);
        let mut readers = Readers::default();
        readers.hold(1, &Bytes::from_static(b"quiet"), quiet.clone());
        readers.hold(2, &name(), busy);
        let committed = |database: &Bytes| match database == "quiet" {
            true => Some(&quiet),
            false => Some(&newer),
        };
        assert_eq!(readers.count(committed), Some(2));
        assert_eq!(readers.counted, 50);
    }

    #[test]
    fn pages_that_are_replaced_again_and_again_count_once() {
        let mut current =
            Version::from_pages(1, pages(1..101, 1).into_iter().map(|(_, page)| page));
        let mut readers = Readers::default();
        readers.hold(1, &name(), current.clone());
        for number in 2..200 {
            let next = current.successor(number, &pages(1..5, number as u8), 100);
            readers.moved(&current, &next);
            current = next;
            if readers.is_due(20) {
                readers.count(|_| Some(&current));
                assert_eq!(readers.counted, 4);
            }
        }
        assert!(readers.at_most() <= 21 + 4);
    }
}
