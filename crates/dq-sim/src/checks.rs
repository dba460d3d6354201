//! What must hold at every moment, whoever leads and whatever breaks.
//!
//! - In a term there is at most one leader.
//! - Nodes that know an entry to be committed know the same entry.
//! - Nodes that have applied the same entries hold the same databases.
//! - What is applied never goes back in the life of a process.
//! - Whatever a node holds in memory is within its bound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dq_raft::{Driver, EntryKind, Message, RaftRole, Usage};
use dq_server::node::Machine;
use dq_vfs::{Version, Vfs};
use dq_wire::Configuration;
use dq_wire::command::Command;

use crate::rng::hash;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<u64, usize>,
    /// Term and hash of every entry that somebody knew to be committed.
    committed: BTreeMap<u64, (u64, u64)>,
    /// Hash of all databases by the index applied.
    applied: BTreeMap<u64, (u64, String)>,
    /// Terms for which somebody has stood, or that a disk held.
    stood: BTreeSet<u64>,
    /// Per node: its term, and index and term of its last entry, when its configuration was looked at.
    terms: BTreeMap<usize, [u64; 3]>,
    /// Per node: committed entries looked at, and the last index applied.
    looked: BTreeMap<usize, (u64, u64)>,
    /// How near its bound each use of memory came, in thousandths.
    pub(crate) reached: BTreeMap<&'static str, u64>,
    /// Comparisons of databases between nodes.
    pub(crate) compared: u64,
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
        for Usage { what, held, bound } in machine.usage() {
            if held > bound {
                return Err(format!("holds {held} {what}, its bound is {bound}"));
            }
            let permille = (held * 1000).checked_div(bound).unwrap_or(0);
            let most = self.reached.entry(what).or_default();
            *most = permille.max(*most);
        }
        Ok(())
    }

    /// Looks at a node after a step.
    pub(crate) fn look(&mut self, node: usize, machine: &Machine) -> Result<(), String> {
        let driver = machine.driver();
        self.look_at_term(node, driver)?;
        self.look_at_memory(machine)?;
        if let Some(epoch) = driver.epoch() {
            let leader = *self.leaders.entry(epoch.term).or_insert(node);
            if leader != node {
                return Err(format!(
                    "leads term {}, which node {} has led",
                    epoch.term,
                    leader + 1
                ));
            }
        }
        let (looked, applied) = self.looked.get(&node).copied().unwrap_or_default();
        let commit = driver.commit_index();
        for index in looked + 1..=commit {
            let Some(entry) = driver.entry(index) else {
                continue;
            };
            let bytes = entry.payload.to_bytes();
            let content = hash(entry.kind as u64, &bytes);
            if entry.kind == EntryKind::Command && !self.committed.contains_key(&index) {
                ends_with_database(index, &bytes)?;
            }
            let known = *self.committed.entry(index).or_insert((entry.term, content));
            if known != (entry.term, content) {
                return Err(format!(
                    "entry {index} is committed with term {}, elsewhere with term {}",
                    entry.term, known.0
                ));
            }
        }
        let now = driver.applied_index();
        if now < applied {
            return Err(format!("applied went back from {applied} to {now}"));
        }
        self.looked.insert(node, (commit.max(looked), now));
        if now > applied {
            let (sum, text) = summary(machine);
            if let Some((known, before)) = self.applied.get(&now) {
                self.compared += 1;
                if *known != sum {
                    return Err(format!(
                        "databases differ at index {now}: {text} instead of {before}"
                    ));
                }
            } else {
                self.applied.insert(now, (sum, text));
            }
        }
        Ok(())
    }

    /// Compares all databases byte by byte and lets SQLite look at them.
    pub(crate) fn compare_pages(machines: &[&Machine], vfs: &Arc<Vfs>) -> Result<(), String> {
        let Some(first) = machines.first() else {
            return Err("no node runs".to_owned());
        };
        let contents = |machine: &Machine| -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
            filled(machine)
                .map(|(name, version)| {
                    let pages = version.pages().map(|page| page.bytes().to_vec());
                    (name.to_vec(), pages.collect())
                })
                .collect()
        };
        let expected = contents(first);
        for machine in machines {
            if contents(machine) != expected {
                return Err("the nodes' databases differ at the end".to_owned());
            }
        }
        for (name, version) in filled(first) {
            version
                .quick_check(vfs)
                .map_err(|error| format!("database {name:?} is damaged: {error}"))?;
        }
        Ok(())
    }
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
fn filled(machine: &Machine) -> impl Iterator<Item = (&bytes::Bytes, &Version)> {
    machine
        .databases()
        .filter(|(_, version)| version.page_count() > 1)
}

fn summary(machine: &Machine) -> (u64, String) {
    let mut sum = 0;
    let mut text = String::new();
    for (name, version) in filled(machine) {
        sum = hash(sum, name);
        sum = hash(sum, &version.fingerprint().to_le_bytes());
        sum = hash(sum, &version.page_count().to_le_bytes());
        let name = String::from_utf8_lossy(name);
        let (pages, print) = (version.page_count(), version.fingerprint());
        text.push_str(&format!("{name} {pages} pages {print:x}; "));
    }
    (sum, text)
}
