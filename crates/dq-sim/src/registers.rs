//! Linearizability of a register with compare-and-set: a search after Wing and Gong, with a memory
//! of dead ends (Lowe).
//!
//! The search takes, again and again, one of the operations that could be next (no other one ended
//! before it began), if the register's state allows its answer. Operations without an answer may be
//! taken at any time after their beginning, or never.

use std::collections::BTreeSet;

/// What was asked of a register, and what was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Read: this value.
    Read(Option<i64>),
    /// Set to this value.
    Write(i64),
    /// Set from one value to another; whether it was done.
    Swap(i64, i64, bool),
}

/// One operation on a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegisterOp {
    /// When it began.
    pub(crate) began: u64,
    /// When it was answered; `u64::MAX` if never.
    pub(crate) ended: u64,
    /// What it was. For a swap without an answer: as if it was done.
    pub(crate) ask: Ask,
}

/// Steps of the search after which a history counts as undecided, which is not wrong.
const STEPS_MAX: usize = 300_000;

/// Says what is wrong, if the operations on one register cannot be put in an order.
pub(crate) fn check(ops: &[RegisterOp]) -> Option<String> {
    // Reads without an answer say nothing.
    let mut ops: Vec<RegisterOp> = ops
        .iter()
        .copied()
        .filter(|op| op.ended != u64::MAX || !matches!(op.ask, Ask::Read(_)))
        .collect();
    ops.sort_by_key(|op| op.began);
    let mut taken = vec![false; ops.len()];
    let mut seen = BTreeSet::new();
    let mut steps = 0;
    let left = ops.iter().filter(|op| op.ended != u64::MAX).count();
    match search(&ops, &mut taken, None, left, &mut seen, &mut steps) {
        Found::Nothing => {
            let text: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
            Some(format!("not linearizable: {}", text.join("; ")))
        }
        Found::Order | Found::TooMuch => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Order,
    Nothing,
    TooMuch,
}

fn search(
    ops: &[RegisterOp],
    taken: &mut [bool],
    state: Option<i64>,
    left: usize,
    seen: &mut BTreeSet<(Vec<bool>, Option<i64>)>,
    steps: &mut usize,
) -> Found {
    if left == 0 {
        return Found::Order;
    }
    *steps += 1;
    if *steps > STEPS_MAX {
        return Found::TooMuch;
    }
    if !seen.insert((taken.to_vec(), state)) {
        return Found::Nothing;
    }
    let open = || ops.iter().zip(taken.iter()).filter(|(_, taken)| !**taken);
    let first_end = open().map(|(op, _)| op.ended).min().unwrap_or(u64::MAX);
    // Answered ones first: those without an answer are taken when nothing else explains a value.
    for answered in [true, false] {
        for i in 0..ops.len() {
            let op = ops[i];
            if taken[i] || op.began > first_end || (op.ended != u64::MAX) != answered {
                continue;
            }
            let next = match op.ask {
                Ask::Read(value) if value == state => state,
                Ask::Write(value) => Some(value),
                Ask::Swap(from, to, true) if state == Some(from) => Some(to),
                Ask::Swap(from, _, false) if state != Some(from) => state,
                _ => continue,
            };
            taken[i] = true;
            let found = search(ops, taken, next, left - usize::from(answered), seen, steps);
            taken[i] = false;
            if found != Found::Nothing {
                return found;
            }
        }
    }
    Found::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(began: u64, ended: u64, ask: Ask) -> RegisterOp {
        RegisterOp { began, ended, ask }
    }

    #[test]
    fn a_read_may_see_either_value_while_the_write_runs_and_only_the_new_one_after_it() {
        let write = op(1, 4, Ask::Write(7));
        for (value, began, ended, fine) in [
            (None, 2, 3, true),
            (Some(7), 2, 3, true),
            (Some(7), 5, 6, true),
            (None, 5, 6, false),
        ] {
            let read = op(began, ended, Ask::Read(value));
            assert_eq!(
                check(&[write, read]).is_none(),
                fine,
                "{value:?} at {began}"
            );
        }
    }

    #[test]
    fn a_write_without_an_answer_may_happen_late_or_never_but_not_twice() {
        let write = op(1, u64::MAX, Ask::Write(7));
        let other = op(2, 3, Ask::Write(8));
        let reads = |values: [i64; 3]| {
            let mut ops = vec![write, other];
            for (i, value) in values.into_iter().enumerate() {
                let at = 10 + 2 * i as u64;
                ops.push(op(at, at + 1, Ask::Read(Some(value))));
            }
            check(&ops).is_none()
        };
        assert!(reads([8, 8, 8]));
        assert!(reads([8, 8, 7]));
        assert!(!reads([8, 7, 8]));
    }

    #[test]
    fn a_swap_that_failed_saw_another_value() {
        let write = op(1, 2, Ask::Write(7));
        assert!(check(&[write, op(3, 4, Ask::Swap(7, 8, false))]).is_some());
        assert!(check(&[write, op(3, 4, Ask::Swap(7, 8, true))]).is_none());
        assert!(check(&[write, op(3, 4, Ask::Swap(6, 8, true))]).is_some());
    }
}
