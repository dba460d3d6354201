//! What clients did and were told, and whether one database could have said all that.
//!
//! Every event has a moment of its own, so "before" is never in doubt. An operation without an
//! answer may have happened at any moment after it began, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::registers::{self, RegisterOp};

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Still at work, or nobody knows.
    Unknown,
    /// Done.
    Done,
    /// Certainly not done.
    Never,
}

/// A token written once, in all likelihood.
#[derive(Debug, Clone)]
struct Token {
    began: u64,
    ended: u64,
    fate: Fate,
}

/// A read of a list.
#[derive(Debug, Clone)]
struct ListRead {
    began: u64,
    ended: u64,
    values: Vec<i64>,
}

/// Everything that clients did and saw.
#[derive(Debug, Default)]
pub(crate) struct History {
    moment: u64,
    /// Tokens inserted into tables without a rule against doubles.
    tokens: BTreeMap<i64, Token>,
    /// The tokens in the table at the end.
    tokens_found: Option<Vec<i64>>,
    /// Keys that an INSERT was told to be there already.
    keys_told: BTreeSet<i64>,
    /// Keys whose INSERT was answered well.
    keys_written: BTreeSet<i64>,
    /// The keys at the end.
    keys_found: Option<BTreeSet<i64>>,
    /// Appends by list and token.
    appends: BTreeMap<i64, BTreeMap<i64, Token>>,
    /// Reads by list.
    reads: BTreeMap<i64, Vec<ListRead>>,
    /// Register operations by key.
    registers: BTreeMap<i64, Vec<RegisterOp>>,
    /// What was wrong at first sight.
    wrong: Vec<String>,
    next: i64,
}

impl History {
    /// A moment after all moments before.
    pub(crate) fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A number that nobody else gets.
    pub(crate) fn unique(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// Something that no answer may be.
    pub(crate) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// A token's INSERT begins.
    pub(crate) fn token_began(&mut self, token: i64) {
        let began = self.tick();
        let fate = Fate::Unknown;
        let ended = u64::MAX;
        self.tokens.insert(token, Token { began, ended, fate });
    }

    /// What became of it.
    pub(crate) fn token_ended(&mut self, token: i64, fate: Fate) {
        let ended = self.tick();
        if let Some(token) = self.tokens.get_mut(&token) {
            token.fate = fate;
            token.ended = ended;
        }
    }

    /// A read of all tokens that began at `began` and ends now.
    pub(crate) fn tokens_read(&mut self, began: u64, found: &[i64], last: bool) {
        let mut set = BTreeSet::new();
        let mut wrong = Vec::new();
        for id in found {
            if !set.insert(*id) {
                wrong.push(format!("token {id} was inserted twice"));
            }
        }
        for (id, token) in &self.tokens {
            let there = set.contains(id);
            match token.fate {
                Fate::Done if !there && token.ended < began => {
                    wrong.push(format!("token {id} was acknowledged and is not there"));
                }
                Fate::Never if there => {
                    wrong.push(format!("token {id} was refused and is there"));
                }
                _ => {}
            }
        }
        for id in &set {
            if !self.tokens.contains_key(id) {
                wrong.push(format!("token {id} was never inserted"));
            }
        }
        self.wrong.append(&mut wrong);
        if last {
            self.tokens_found = Some(found.to_vec());
        }
    }

    /// The INSERT of a key into a table of unique keys was answered: it was there, or it is now.
    pub(crate) fn key_answered(&mut self, key: i64, was_there: bool) {
        if was_there {
            self.keys_told.insert(key);
        } else if !self.keys_written.insert(key) {
            self.wrong(format!("key {key} was inserted twice"));
        }
    }

    /// The keys at the end.
    pub(crate) fn keys_read(&mut self, found: BTreeSet<i64>) {
        self.keys_found = Some(found);
    }

    /// An append to a list begins.
    pub(crate) fn append_began(&mut self, list: i64, token: i64) {
        let began = self.tick();
        let fate = Fate::Unknown;
        let ended = u64::MAX;
        let appends = self.appends.entry(list).or_default();
        appends.insert(token, Token { began, ended, fate });
    }

    /// What became of it.
    pub(crate) fn append_ended(&mut self, list: i64, token: i64, fate: Fate) {
        let ended = self.tick();
        let token = self
            .appends
            .get_mut(&list)
            .and_then(|list| list.get_mut(&token));
        if let Some(token) = token {
            token.fate = fate;
            token.ended = ended;
        }
    }

    /// A read of a list that began at `began` and ends now.
    pub(crate) fn list_read(&mut self, list: i64, began: u64, values: Vec<i64>) {
        let ended = self.tick();
        self.reads.entry(list).or_default().push(ListRead {
            began,
            ended,
            values,
        });
    }

    /// A register operation begins; its place among those of the register.
    pub(crate) fn register_began(&mut self, key: i64, op: RegisterOp) -> usize {
        let ops = self.registers.entry(key).or_default();
        ops.push(op);
        ops.len() - 1
    }

    /// It has ended, or nobody will ever know how.
    pub(crate) fn register_ended(&mut self, key: i64, place: usize, op: RegisterOp) {
        if let Some(known) = self
            .registers
            .get_mut(&key)
            .and_then(|ops| ops.get_mut(place))
        {
            *known = op;
        }
    }

    /// Everything that is wrong.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        if let Some(found) = &self.keys_found {
            for key in self.keys_told.difference(found) {
                wrong.push(format!("key {key} was said to be there and is not"));
            }
            for key in self.keys_written.difference(found) {
                wrong.push(format!("key {key} was acknowledged and is not there"));
            }
        }
        for (list, reads) in &self.reads {
            self.check_list(*list, reads, &mut wrong);
        }
        for (key, ops) in &self.registers {
            if let Some(why) = registers::check(ops) {
                wrong.push(format!("register {key}: {why}"));
            }
        }
        wrong
    }

    /// Reads of an append-only list show its whole history: they have to be prefixes of each other,
    /// in the order of time.
    fn check_list(&self, list: i64, reads: &[ListRead], wrong: &mut Vec<String>) {
        let mut by_length: Vec<&ListRead> = reads.iter().collect();
        by_length.sort_by_key(|read| read.values.len());
        for pair in by_length.windows(2) {
            if !pair[1].values.starts_with(&pair[0].values) {
                wrong.push(format!("list {list}: two reads contradict each other"));
                return;
            }
        }
        let mut by_end: Vec<&ListRead> = reads.iter().collect();
        by_end.sort_by_key(|read| read.ended);
        let mut by_begin = by_end.clone();
        by_begin.sort_by_key(|read| read.began);
        let mut longest = 0;
        let mut ended = by_end.into_iter().peekable();
        for read in by_begin {
            while let Some(before) = ended.next_if(|before| before.ended < read.began) {
                longest = longest.max(before.values.len());
            }
            if read.values.len() < longest {
                wrong.push(format!("list {list}: a read went back in time"));
                return;
            }
        }
        let Some(appends) = self.appends.get(&list) else {
            return;
        };
        for read in reads {
            let there: BTreeSet<i64> = read.values.iter().copied().collect();
            if there.len() != read.values.len() {
                wrong.push(format!("list {list}: a token was appended twice"));
                return;
            }
            for (token, append) in appends {
                let done = append.fate == Fate::Done && append.ended < read.began;
                if done && !there.contains(token) {
                    wrong.push(format!(
                        "list {list}: {token} was acknowledged before a read that lacks it"
                    ));
                    return;
                }
                if append.fate == Fate::Never && there.contains(token) {
                    wrong.push(format!("list {list}: {token} was refused and is there"));
                    return;
                }
            }
            // What is read was begun before; and what ended before another began stands before it.
            let mut latest_begin = 0;
            for token in &read.values {
                match appends.get(token) {
                    Some(append) if append.began > read.ended => {
                        wrong.push(format!(
                            "list {list}: {token} was read before it was written"
                        ));
                        return;
                    }
                    Some(append) => {
                        let ended = match append.fate {
                            Fate::Done => append.ended,
                            _ => u64::MAX,
                        };
                        if ended < latest_begin {
                            wrong.push(format!("list {list}: {token} stands behind a later one"));
                            return;
                        }
                        latest_begin = latest_begin.max(append.began);
                    }
                    None => {
                        wrong.push(format!("list {list}: {token} was never appended"));
                        return;
                    }
                }
            }
        }
    }
}
