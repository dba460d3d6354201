//! What a client has seen, and what of it must not be.

use super::history::Told;
use super::load::MONEY;

/// What one client has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The elements that it added, and what it was told.
    pub(crate) elements: Vec<(i64, Told)>,
    /// Its transfers of which nobody knows.
    pub(crate) transfers_unknown: i64,
    /// Answers that were old, from nodes that may give such.
    pub(crate) stale: u64,
    /// What must not be.
    pub(crate) violations: Vec<String>,
}

impl Seen {
    pub(super) fn missing(&mut self, element: i64, from: &str, old: bool) {
        if old {
            self.stale += 1;
        } else {
            self.violations.push(format!(
                "{from}: element {element} was acknowledged, not found"
            ));
        }
    }

    pub(super) fn behind(&mut self, count: i64, known: i64, from: &str, old: bool) {
        if old {
            self.stale += 1;
        } else {
            self.violations.push(format!(
                "{from}: {count} transfers, and {known} were known before"
            ));
        }
    }

    pub(super) fn check_bank(&mut self, sum: i64, count: i64, before: Option<i64>, from: &str) {
        if sum != MONEY {
            self.violations.push(format!("{from}: the bank had {sum}"));
        }
        if let Some(before) = before.filter(|&before| count < before) {
            self.violations.push(format!(
                "{from}: {count} transfers, and {before} when it was asked before"
            ));
        }
    }
}
