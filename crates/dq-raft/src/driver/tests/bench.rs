//! One driver with its effects at hand, and messages to feed it.

use dq_wire::{Configuration, EntryKind};

use super::network::*;
use crate::driver::{Driver, Effect, RaftRole, ReadOptions};
use crate::message::*;
use crate::types::{LogEntry, Persist, Recovered, SnapshotMeta};

/// A driver with its effects at hand.
pub(super) struct Bench {
    pub(super) driver: Driver,
    pub(super) now: u64,
    pub(super) sent: Vec<(u64, Message)>,
    pub(super) persists: Vec<Persist>,
    pub(super) applied: Vec<LogEntry>,
    pub(super) others: Vec<Effect>,
}

impl Bench {
    pub(super) fn new(recovered: Recovered) -> Bench {
        Bench::of(Driver::new(options(1), recovered).expect("valid"))
    }

    /// Starts the driver.
    pub(super) fn of(driver: Driver) -> Bench {
        let mut bench = Bench {
            driver,
            now: 1000,
            sent: Vec::new(),
            persists: Vec::new(),
            applied: Vec::new(),
            others: Vec::new(),
        };
        bench.driver.start(bench.now);
        bench.take();
        bench
    }

    /// Node 1 of three voters, with a CHANGE at 1 and commands of these terms after it.
    pub(super) fn of_three(terms: &[u64]) -> Bench {
        Bench::new(log(&voters(3), terms))
    }

    /// The same, with reads in some mode.
    pub(super) fn of_three_with(reads: ReadOptions, terms: &[u64]) -> Bench {
        let driver = Driver::new(options(1), log(&voters(3), terms)).expect("valid");
        Bench::of(driver.with_reads(reads))
    }

    /// The same as leader of the next term, with the votes of 2, everything durable.
    pub(super) fn leader_of_three(terms: &[u64]) -> Bench {
        let mut bench = Bench::of_three(terms);
        bench.elect();
        bench
    }

    pub(super) fn take(&mut self) {
        let mut effects = Vec::new();
        self.driver.ready(&mut effects);
        for effect in effects {
            match effect {
                Effect::Send { to, message, .. } => self.sent.push((to, message)),
                Effect::Persist(persist) => self.persists.push(persist),
                Effect::Apply(entry) => self.applied.push(entry),
                other => self.others.push(other),
            }
        }
    }

    pub(super) fn receive(&mut self, from: u64, message: Message) {
        let result = self.driver.receive(self.now, &peer(from), message);
        assert_eq!(result, Ok(()));
        self.take();
    }

    pub(super) fn refused(&mut self, from: u64, message: Message) -> bool {
        let result = self.driver.receive(self.now, &peer(from), message);
        self.take();
        result.is_err()
    }

    /// Lets so many ms pass, in small steps.
    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.now += 5;
            self.driver.tick(self.now);
        }
        self.take();
    }

    pub(super) fn durable(&mut self) {
        if let Some(last) = self.persists.last() {
            self.driver.durable(last.id);
            self.take();
        }
    }

    pub(super) fn sent(&mut self) -> Vec<(u64, Message)> {
        std::mem::take(&mut self.sent)
    }

    pub(super) fn appends_to(&mut self, to: u64) -> Vec<AppendEntries> {
        let only = |(at, message)| match message {
            Message::AppendEntries(append) if at == to => Some(append),
            _ => None,
        };
        self.sent().into_iter().filter_map(only).collect()
    }

    pub(super) fn results(&mut self) -> Vec<AppendEntriesResult> {
        let only = |(_, message)| match message {
            Message::AppendEntriesResult(result) => Some(result),
            _ => None,
        };
        self.sent().into_iter().filter_map(only).collect()
    }

    pub(super) fn until_pre_candidate(&mut self) {
        for _ in 0..200 {
            if self.driver.role() == RaftRole::PreCandidate {
                return;
            }
            self.pass(5);
        }
        panic!("an election timeout has passed");
    }

    pub(super) fn elect(&mut self) {
        self.until_pre_candidate();
        let term = self.driver.term() + 1;
        self.receive(2, vote(term, true, true));
        self.durable();
        self.receive(2, vote(term, true, false));
        self.durable();
        assert_eq!(self.driver.role(), RaftRole::Leader);
    }

    pub(super) fn propose(&mut self, number: u64) -> u64 {
        let entries = vec![(EntryKind::Command, command(number))];
        let index = self.driver.propose(self.now, entries).expect("leads");
        self.take();
        index
    }

    /// A result of our term.
    pub(super) fn acknowledge(&mut self, from: u64, last_index: u64) {
        self.receive(from, ok(self.driver.term(), last_index));
    }

    /// A result of our term from a node of our kind.
    pub(super) fn echo(&mut self, from: u64, last_index: u64, seq: u32, promise_ms: u32) {
        let echo = Some(Echo { seq, promise_ms });
        let term = self.driver.term();
        let result = AppendEntriesResult {
            term,
            rejected: 0,
            last_index,
            echo,
        };
        self.receive(from, Message::AppendEntriesResult(result));
    }

    pub(super) fn matched(&self, id: u64) -> u64 {
        let progress = self.driver.progress();
        progress
            .iter()
            .find(|peer| peer.id == id)
            .expect("in the tracker")
            .match_index
    }
}

pub(super) fn log(configuration: &Configuration, terms: &[u64]) -> Recovered {
    let mut recovered = bootstrapped(configuration);
    for (&term, index) in terms.iter().zip(2..) {
        recovered
            .entries
            .push(entry(index, term, EntryKind::Command, command(index)));
    }
    recovered.term = terms.last().copied().unwrap_or(1);
    recovered
}

pub(super) fn vote(term: u64, granted: bool, pre_vote: bool) -> Message {
    let pre_vote = Some(pre_vote);
    Message::RequestVoteResult(RequestVoteResult {
        term,
        granted,
        pre_vote,
        own_term: false,
    })
}

pub(super) fn ok(term: u64, last_index: u64) -> Message {
    Message::AppendEntriesResult(AppendEntriesResult {
        term,
        rejected: 0,
        last_index,
        echo: None,
    })
}

pub(super) fn rejected(term: u64, rejected: u64, last_index: u64) -> Message {
    Message::AppendEntriesResult(AppendEntriesResult {
        term,
        rejected,
        last_index,
        echo: None,
    })
}

pub(super) fn append(term: u64, prev: (u64, u64), commit: u64, terms: &[u64]) -> Message {
    let entries = terms.iter().zip(prev.0 + 1..);
    Message::AppendEntries(AppendEntries {
        term,
        prev_index: prev.0,
        prev_term: prev.1,
        leader_commit: commit,
        entries: entries
            .map(|(&term, index)| entry(index, term, EntryKind::Command, command(index)))
            .collect(),
        stamp: Stamp::default(),
    })
}

pub(super) fn ask(term: u64, last: (u64, u64), pre_vote: bool, disrupt_leader: bool) -> Message {
    Message::RequestVote(RequestVote {
        term,
        candidate: 2,
        last_index: last.0,
        last_term: last.1,
        disrupt_leader,
        pre_vote,
    })
}

pub(super) fn snapshot(index: u64, term: u64, configuration: &Configuration) -> SnapshotMeta {
    SnapshotMeta {
        index,
        term,
        timestamp: 5,
        configuration: configuration.clone(),
        configuration_index: 1,
    }
}
