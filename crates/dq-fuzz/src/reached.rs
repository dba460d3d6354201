//! What an input has made a node do. A fuzzer that stays at the surface is of no use, and nothing else
//! would tell: so the corpus has to reach what a harness is for, which `tests/harness.rs` checks.

use std::collections::BTreeMap;

/// Names of what has happened, and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached(BTreeMap<&'static str, u64>);

impl Reached {
    /// Something has happened.
    pub fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Adds what another input has reached.
    pub fn add(&mut self, other: &Reached) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Those of these that have never happened.
    pub fn missing<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        let missing = |what: &&&str| !self.0.contains_key(**what);
        wanted.iter().filter(missing).copied().collect()
    }
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, count) in &self.0 {
            writeln!(f, "  {count:9} {what}")?;
        }
        Ok(())
    }
}
