//! What must hold at every moment, whoever leads and whatever breaks.
//!
//! - In a term there is at most one leader.
//! - Nodes that know an entry to be committed know the same entry.
//! - Nodes that have applied the same entries hold the same databases.
//! - What is applied never goes back in the life of a process.

use std::collections::BTreeMap;
use std::sync::Arc;

use dq_server::node::Machine;
use dq_vfs::{Version, Vfs};

use crate::rng::hash;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<u64, usize>,
    /// Term and hash of every entry that somebody knew to be committed.
    committed: BTreeMap<u64, (u64, u64)>,
    /// Hash of all databases by the index applied.
    applied: BTreeMap<u64, (u64, String)>,
    /// Per node: committed entries looked at, and the last index applied.
    looked: BTreeMap<usize, (u64, u64)>,
    /// Comparisons of databases between nodes.
    pub(crate) compared: u64,
}

impl Checks {
    /// A node begins a new life, and is looked at afresh.
    pub(crate) fn started(&mut self, node: usize) {
        self.looked.remove(&node);
    }

    /// Looks at a node after a step.
    pub(crate) fn look(&mut self, node: usize, machine: &Machine) -> Result<(), String> {
        let driver = machine.driver();
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
            let content = hash(entry.kind as u64, &entry.payload.to_bytes());
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
