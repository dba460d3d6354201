//! What the clients did and were told, a line of JSON per operation.
//!
//! ```json
//! {"process":3,"kind":"cas","key":"r17","expected":4,"value":9,"swapped":true,"outcome":"ok","invoke":812,"return":1044}
//! ```
//!
//! | field | |
//! |---|---|
//! | `process` | the client; it does one operation after the other |
//! | `kind` | `read`, `write`, `cas` of a register; `add`, `has` of an element of the set; `transfer`, `sum` of the bank |
//! | `key` | the register, the element, the bank |
//! | `value` | written, or read: null if absent; of `has`, 1 if present; of `sum`, the sum |
//! | `expected`, `swapped` | of `cas` only: what it compared with, and whether it was that |
//! | `outcome` | `ok`; `fail`: certainly not done; `unknown` |
//! | `old` | present and true if the answer may be of any earlier moment: who gave it proves nothing |
//! | `invoke`, `return` | nanoseconds of one monotonic clock |

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Reads a register: what was there.
    Read(Option<i64>),
    /// Writes a register.
    Write(i64),
    /// Writes a register if it has the value expected.
    Cas {
        /// What it has to be.
        expected: i64,
        /// What it becomes.
        value: i64,
        /// Whether it was that and became this.
        swapped: bool,
    },
    /// Adds an element to the set.
    Add,
    /// Asks for an element of the set: whether it was there.
    Has(bool),
    /// Moves money from one account to another.
    Transfer,
    /// Reads all accounts: their sum.
    Sum(i64),
}

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Done.
    Ok,
    /// Certainly not done.
    Fail,
    /// Done, or not, or still to be done.
    Unknown,
}

/// An operation: who, what, what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// The client.
    pub process: usize,
    /// What it did.
    pub action: Action,
    /// To which register, element or bank.
    pub key: i64,
    /// What it was told.
    pub told: Told,
    /// Whether the answer may be of any earlier moment.
    pub old: bool,
    /// When it asked, in nanoseconds of [`History::now`].
    pub invoked: u64,
    /// When it was told.
    pub returned: u64,
}

/// How many operations were told what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Done.
    pub ok: u64,
    /// Certainly not done.
    pub fail: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// A file of operations that many clients append to.
#[derive(Debug)]
pub struct History {
    start: Instant,
    file: Mutex<(BufWriter<File>, Counts)>,
}

impl History {
    /// A new file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> io::Result<History> {
        Ok(History {
            start: Instant::now(),
            file: Mutex::new((BufWriter::new(File::create(path)?), Counts::default())),
        })
    }

    /// The clock of the operations' times.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Appends an operation.
    ///
    /// # Panics
    /// If the file cannot be written: without it there is no test.
    pub fn record(&self, operation: &Operation) {
        let line = line(operation);
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, counts) = &mut *guard;
        match operation.told {
            Told::Ok => counts.ok += 1,
            Told::Fail => counts.fail += 1,
            Told::Unknown => counts.unknown += 1,
        }
        file.write_all(line.as_bytes())
            .expect("the history can be written");
    }

    /// Makes the file complete, for others to read, and says how many operations it has.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self) -> io::Result<Counts> {
        let (mut file, counts) = self
            .file
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        file.flush()?;
        Ok(counts)
    }
}

fn line(operation: &Operation) -> String {
    let (kind, prefix, value) = match operation.action {
        Action::Read(value) => ("read", 'r', value),
        Action::Write(value) => ("write", 'r', Some(value)),
        Action::Cas { value, .. } => ("cas", 'r', Some(value)),
        Action::Add => ("add", 's', Some(1)),
        Action::Has(present) => ("has", 's', present.then_some(1)),
        Action::Transfer => ("transfer", 'b', None),
        Action::Sum(sum) => ("sum", 'b', Some(sum)),
    };
    let outcome = match operation.told {
        Told::Ok => "ok",
        Told::Fail => "fail",
        Told::Unknown => "unknown",
    };
    let mut line = format!(
        r#"{{"process":{},"kind":"{kind}","key":"{prefix}{}","#,
        operation.process, operation.key
    );
    // Writing to a String cannot fail.
    let _ = match value {
        Some(value) => write!(line, r#""value":{value},"#),
        None => write!(line, r#""value":null,"#),
    };
    if let Action::Cas {
        expected, swapped, ..
    } = operation.action
    {
        let _ = write!(line, r#""expected":{expected},"swapped":{swapped},"#);
    }
    if operation.old {
        line.push_str(r#""old":true,"#);
    }
    let (invoked, returned) = (operation.invoked, operation.returned);
    let _ = writeln!(
        line,
        r#""outcome":"{outcome}","invoke":{invoked},"return":{returned}}}"#
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_a_line_of_json() {
        let operation = Operation {
            process: 3,
            action: Action::Cas {
                expected: 4,
                value: 9,
                swapped: true,
            },
            key: 17,
            told: Told::Ok,
            old: false,
            invoked: 812,
            returned: 1044,
        };
        assert_eq!(
            line(&operation),
            "{\"process\":3,\"kind\":\"cas\",\"key\":\"r17\",\"value\":9,\"expected\":4,\
             \"swapped\":true,\"outcome\":\"ok\",\"invoke\":812,\"return\":1044}\n"
        );
        let operation = Operation {
            action: Action::Has(true),
            old: true,
            ..operation
        };
        assert_eq!(
            line(&operation),
            "{\"process\":3,\"kind\":\"has\",\"key\":\"s17\",\"value\":1,\"old\":true,\
             \"outcome\":\"ok\",\"invoke\":812,\"return\":1044}\n"
        );
    }
}
