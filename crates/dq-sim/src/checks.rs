//! What must hold at every moment, whoever leads and whatever breaks.
//!
//! - In a term there is at most one leader.
//! - Nodes that know an entry to be committed know the same entry.
//! - Nodes that have applied the same entries hold the same databases.
//! - What is applied never goes back in the life of a process.
//! - Whatever a node holds in memory is within its bound.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use dq_raft::{Driver, EntryKind, LogEntry, Message, RaftRole, Usage};
use dq_server::node::Machine;
use dq_vfs::{Version, Vfs};
use dq_wire::Configuration;
use dq_wire::command::Command;
use xxhash_rust::xxh3::Xxh3;

use crate::c_node::CProcess;

/// How often the same empty append may go to the same follower within [`CHATTER`]: heartbeats are rarer,
/// and little else repeats itself.
const REPEATS_MAX: u64 = 40;
/// Microseconds.
const CHATTER: u64 = 50_000;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<u64, usize>,
    /// Term and hash of every entry that somebody knew to be committed.
    committed: BTreeMap<u64, (u64, u64)>,
    /// All databases by the index applied.
    applied: BTreeMap<u64, Summary>,
    /// Terms for which somebody has stood, or that a disk held.
    stood: BTreeSet<u64>,
    /// Per node: its term, and index and term of its last entry, when its configuration was looked at.
    terms: BTreeMap<usize, [u64; 3]>,
    /// What leaders say to followers.
    chatter: BTreeMap<(usize, u64), Chatter>,
    /// Per node: committed entries looked at, and the last index applied.
    looked: BTreeMap<usize, (u64, u64)>,
    /// How near its bound each use of memory came, in thousandths.
    pub(crate) reached: Vec<(&'static str, u64)>,
    /// Comparisons of databases between nodes.
    pub(crate) compared: u64,
}

/// The same empty append, from a leader to a follower.
#[derive(Debug, Default)]
struct Chatter {
    since: u64,
    last: u64,
    /// At so many moments. What had to wait for a disk leaves all at once.
    moments: u64,
    said: [u64; 4],
}

impl Checks {
    /// A node begins a new life, and is looked at afresh.
    pub(crate) fn started(&mut self, node: usize, driver: &Driver) {
        self.looked.remove(&node);
        self.stood.insert(driver.term());
    }

    /// A message has left: a candidate stands for its term.
    pub(crate) fn sent(&mut self, message: &Message) {
        if let Message::RequestVote(vote) = message
            && !vote.pre_vote
        {
            self.stood.insert(vote.term);
        }
    }

    /// Whether a leader says the same to a follower over and over.
    pub(crate) fn repeats(
        &mut self,
        node: usize,
        to: u64,
        now: u64,
        message: &Message,
    ) -> Result<(), String> {
        let Message::AppendEntries(append) = message else {
            return Ok(());
        };
        let (prev, commit, seq) = (append.prev_index, append.leader_commit, append.stamp.seq);
        let said = [append.term, prev, commit, seq.into()];
        let chatter = self.chatter.entry((node, to)).or_default();
        let is_new = chatter.said != said || !append.entries.is_empty();
        if is_new || now >= chatter.since + CHATTER {
            *chatter = Chatter {
                since: now,
                last: 0,
                moments: 0,
                said,
            };
        }
        if now > chatter.last {
            (chatter.last, chatter.moments) = (now, chatter.moments + 1);
        }
        match chatter.moments > REPEATS_MAX {
            true => Err(format!("says to {to} over and over: {message:?}")),
            false => Ok(()),
        }
    }

    /// Whether the term is one for which somebody has stood, and the configuration in effect the last
    /// one of the log.
    fn look_at_term(&mut self, node: usize, driver: &Driver) -> Result<(), String> {
        let term = driver.term();
        if matches!(driver.role(), RaftRole::Candidate | RaftRole::Leader) {
            self.stood.insert(term);
        }
        let last = driver.last_index();
        let now = [term, last, driver.term_at(last).unwrap_or(0)];
        if let Some(before) = self.terms.insert(node, now)
            && before[0] == now[0]
            && before[1] <= now[1]
            && before[2] == now[2]
        {
            return Ok(());
        }
        if !self.stood.contains(&term) {
            return Err(format!("is in term {term}, for which nobody has stood"));
        }
        let log = (1..=driver.last_index()).rev();
        let change = log
            .map_while(|index| driver.entry(index))
            .find(|entry| entry.kind == EntryKind::Change);
        if let Some(change) = change
            && Configuration::decode(&change.payload.to_bytes()).as_ref()
                != Ok(driver.configuration())
        {
            return Err(format!(
                "goes by {:?}, entry {} says something else",
                driver.configuration(),
                change.index
            ));
        }
        Ok(())
    }

    /// Whether everything that a node holds is within its bound.
    fn look_at_memory(&mut self, machine: &Machine) -> Result<(), String> {
        let mut at = 0;
        let mut beyond = None;
        machine.usage(|Usage { what, held, bound }| {
            if held > bound {
                beyond.get_or_insert((what, held, bound));
            }
            let permille = |held: u64| (held * 1000).checked_div(bound).unwrap_or(0);
            match self.reached.get_mut(at) {
                // What is held is nothing or little nearly always, and dividing takes long.
                Some((_, most)) if held * 1000 <= bound.saturating_mul(*most) => {}
                Some((_, most)) => *most = permille(held).max(*most),
                None => self.reached.push((what, permille(held))),
            }
            at += 1;
        });
        match beyond {
            Some((what, held, bound)) => Err(format!("holds {held} {what}, its bound is {bound}")),
            None => Ok(()),
        }
    }

    /// Looks at a node after a step.
    pub(crate) fn look(&mut self, node: usize, machine: &Machine) -> Result<(), String> {
        let driver = machine.driver();
        self.look_at_term(node, driver)?;
        self.look_at_memory(machine)?;
        if let Some(epoch) = driver.epoch() {
            self.leads(node, epoch.term)?;
        }
        let (commit, applied) = (driver.commit_index(), driver.applied_index());
        self.look_at_entries(node, commit, |index| driver.entry(index))?;
        self.look_at_databases(node, applied, || machine.databases())
    }

    /// A node of C dqlite begins a new life.
    pub(crate) fn c_started(&mut self, node: usize, term: u64) {
        self.looked.remove(&node);
        self.stood.insert(term);
    }

    /// Looks at a node of C dqlite after a step.
    pub(crate) fn c_look(&mut self, node: usize, process: &CProcess) -> Result<(), String> {
        let c = &process.node;
        if c.role == RaftRole::Leader {
            // Alone it asks nobody.
            self.stood.insert(c.term);
            self.leads(node, c.term)?;
        }
        if !self.stood.contains(&c.term) {
            return Err(format!("is in term {}, for which nobody has stood", c.term));
        }
        self.look_at_entries(node, c.commit(), |index| c.entry(index).cloned())?;
        self.look_at_databases(node, c.applied(), || process.databases.iter())
    }

    /// Who has led a term, if anybody has been seen to.
    pub(crate) fn leader(&self, term: u64) -> Option<usize> {
        self.leaders.get(&term).copied()
    }

    fn leads(&mut self, node: usize, term: u64) -> Result<(), String> {
        match *self.leaders.entry(term).or_insert(node) {
            leader if leader == node => Ok(()),
            leader => Err(format!(
                "leads term {term}, which node {} has led",
                leader + 1
            )),
        }
    }

    /// Whether what it knows to be committed is what the others know.
    fn look_at_entries(
        &mut self,
        node: usize,
        commit: u64,
        entry: impl Fn(u64) -> Option<LogEntry>,
    ) -> Result<(), String> {
        let (looked, _) = self.looked.entry(node).or_default();
        let from = *looked + 1;
        *looked = commit.max(*looked);
        for index in from..=commit {
            let Some(entry) = entry(index) else {
                continue;
            };
            let content = content(&entry);
            if entry.kind == EntryKind::Command && !self.committed.contains_key(&index) {
                ends_with_database(index, &entry.payload.to_bytes())?;
            }
            let known = *self.committed.entry(index).or_insert((entry.term, content));
            if known != (entry.term, content) {
                return Err(format!(
                    "entry {index} is committed with term {}, elsewhere with term {}",
                    entry.term, known.0
                ));
            }
        }
        Ok(())
    }

    /// Whether its databases are those of whoever has applied as much.
    fn look_at_databases<'a, D: Iterator<Item = (&'a Bytes, &'a Version)>>(
        &mut self,
        node: usize,
        now: u64,
        databases: impl FnOnce() -> D,
    ) -> Result<(), String> {
        let (_, applied) = self.looked.entry(node).or_default();
        let before = std::mem::replace(applied, now);
        if now < before {
            return Err(format!("applied went back from {before} to {now}"));
        }
        if now > before {
            let found = summary(databases());
            let known = self.applied.entry(now);
            self.compared += u64::from(matches!(known, Entry::Occupied(_)));
            let known = known.or_insert_with(|| found.clone());
            if *known != found {
                return Err(format!(
                    "databases differ at index {now}: {} instead of {}",
                    text(&found),
                    text(known)
                ));
            }
        }
        Ok(())
    }

    /// Compares all databases byte by byte and lets SQLite look at them.
    pub(crate) fn compare_pages(
        nodes: &[Vec<(&Bytes, &Version)>],
        vfs: &Arc<Vfs>,
    ) -> Result<(), String> {
        let Some(first) = nodes.first() else {
            return Err("no node runs".to_owned());
        };
        let contents = |node: &[(&Bytes, &Version)]| -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
            filled(node.iter().copied())
                .map(|(name, version)| {
                    let pages = version.pages().map(|page| page.bytes().to_vec());
                    (name.to_vec(), pages.collect())
                })
                .collect()
        };
        let expected = contents(first);
        for node in nodes {
            if contents(node) != expected {
                return Err("the nodes' databases differ at the end".to_owned());
            }
        }
        for (name, version) in filled(first.iter().copied()) {
            version
                .quick_check(vfs)
                .map_err(|error| format!("database {name:?} is damaged: {error}"))?;
        }
        Ok(())
    }
}

/// A hash of an entry's content.
fn content(entry: &LogEntry) -> u64 {
    let mut hash = Xxh3::with_seed(entry.kind as u64);
    for chunk in entry.payload.chunks() {
        hash.update(chunk);
    }
    hash.digest()
}

/// Whether an entry holds no page beyond the end of the database that it leads to: followers of some
/// kinds would keep it.
fn ends_with_database(index: u64, bytes: &[u8]) -> Result<(), String> {
    let Ok(Command::Frames(frames)) = Command::decode(bytes) else {
        return Ok(());
    };
    let size = frames.pages().find(|(number, _)| *number == 1);
    let size = size.and_then(|(_, page)| page.get(28..32)?.try_into().ok());
    let size = size.map_or(0, u32::from_be_bytes);
    match frames.pages().map(|(number, _)| number).max() {
        Some(last) if size > 0 && last > size => Err(format!(
            "entry {index} has page {last}, its database ends at {size}"
        )),
        _ => Ok(()),
    }
}

/// The databases that hold anything: an empty one comes and goes by being opened.
fn filled<'a>(
    databases: impl Iterator<Item = (&'a Bytes, &'a Version)>,
) -> impl Iterator<Item = (&'a Bytes, &'a Version)> {
    databases.filter(|(_, version)| version.page_count() > 1)
}

/// Databases by name, each as its number of pages and their fingerprint.
type Summary = Vec<(Bytes, (u32, u64))>;

fn summary<'a>(databases: impl Iterator<Item = (&'a Bytes, &'a Version)>) -> Summary {
    let summary = filled(databases)
        .map(|(name, version)| (name.clone(), (version.page_count(), version.fingerprint())));
    summary.collect()
}

fn text(summary: &Summary) -> String {
    let texts = summary.iter().map(|(name, (pages, print))| {
        let name = String::from_utf8_lossy(name);
        format!("{name} {pages} pages {print:x}; ")
    });
    texts.collect()
}
