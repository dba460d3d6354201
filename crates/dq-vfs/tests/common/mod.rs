//! The least that a node does: a head, a turn to write, versions made of captures.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "a module of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dq_vfs::{BindRef, Capture, ColumnRef, Db, Error, Grant, Step, TxnState, Version, Vfs, Write};

/// Version numbers are never used twice in a process.
pub fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One database: its head, and who has the turn to write.
pub struct Node {
    pub vfs: Arc<Vfs>,
    pub head: Version,
    pub holder: Option<usize>,
    /// Every capture that became a version, in order.
    pub log: Vec<Capture>,
}

/// A value that outlives its statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Float(f64),
    Text(String),
    Blob(Vec<u8>),
}

pub type Rows = Vec<Vec<Value>>;

impl Node {
    pub fn new() -> Node {
        let vfs = Vfs::register().unwrap();
        Node {
            vfs,
            head: Version::empty(next_number()),
            holder: None,
            log: Vec::new(),
        }
    }

    pub fn open(&self) -> Db {
        Db::open(&self.vfs, b"test", self.head.clone()).unwrap()
    }

    /// A grant to read the head and to write on it.
    pub fn grant(&self) -> Grant {
        Grant {
            pin: self.head.clone(),
            write: Write::Slot {
                head: self.head.number(),
            },
        }
    }

    /// A grant to read the head.
    pub fn read_grant(&self) -> Grant {
        Grant {
            pin: self.head.clone(),
            write: Write::None,
        }
    }

    /// Makes versions of what `db` committed.
    pub fn publish(&mut self, db: &mut Db) -> usize {
        let captures = db.take_captures();
        let count = captures.len();
        let base = self.head.number();
        for capture in captures {
            assert_eq!(capture.base, base, "made on the head");
            check_capture(&self.head, &capture);
            self.head = self
                .head
                .successor(next_number(), &capture.pages, capture.page_count);
            self.log.push(capture);
        }
        if count > 0 {
            db.published(&self.head);
        }
        count
    }

    /// Runs all statements of `sql` as one job that may write; the rows of the last.
    pub fn run(&mut self, db: &mut Db, sql: &str) -> Result<Rows, Error> {
        db.grant(self.grant());
        let rows = execute(db, sql, &[]);
        self.publish(db);
        db.release();
        rows
    }

    /// Like `run`, for statements that must work.
    #[track_caller]
    pub fn must(&mut self, db: &mut Db, sql: &str) -> Rows {
        self.run(db, sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs `sql` as connection `who` with the turn taken and kept as the server does.
    pub fn run_as(&mut self, who: usize, db: &mut Db, sql: &str) -> Result<Rows, Error> {
        let mut grant = self.grant();
        if self.holder.is_some_and(|holder| holder != who) {
            grant.write = Write::None;
        }
        db.grant(grant);
        let rows = execute(db, sql, &[]);
        self.publish(db);
        db.release();
        if db.txn_state() == TxnState::Write {
            self.holder = Some(who);
        } else if self.holder == Some(who) {
            self.holder = None;
        }
        rows
    }
}

/// What must hold for every capture (sizes come out the same on every node).
#[track_caller]
pub fn check_capture(base: &Version, capture: &Capture) {
    let numbers: Vec<u32> = capture.pages.iter().map(|(page_no, _)| page_no.0).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "ascending, each once: {numbers:?}"
    );
    assert!(
        numbers.iter().all(|n| *n >= 1 && *n <= capture.page_count),
        "within the size"
    );
    assert!(!numbers.is_empty());
    assert!(
        base.check_size(&capture.pages, capture.page_count),
        "every applier gets the same size"
    );
    let ours = base.successor(1, &capture.pages, capture.page_count);
    let applied = base.apply(2, &capture.pages).unwrap();
    assert_eq!(ours.page_count(), applied.page_count());
    assert_eq!(ours.fingerprint(), applied.fingerprint());
}

/// Runs all statements of `sql`; the rows of the last. Parameters go to each statement.
pub fn execute(db: &mut Db, sql: &str, params: &[BindRef<'_>]) -> Result<Rows, Error> {
    let mut rest = sql.as_bytes();
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let prepared = db.prepare(rest)?;
        rest = &rest[prepared.tail..];
        let Some(mut stmt) = prepared.stmt else {
            continue;
        };
        for (i, param) in params.iter().enumerate() {
            stmt.bind(i + 1, *param)?;
        }
        rows.clear();
        while stmt.step()? == Step::Row {
            rows.push(
                (0..stmt.column_count())
                    .map(|i| Value::from(stmt.column(i)))
                    .collect(),
            );
        }
    }
    Ok(rows)
}

impl From<ColumnRef<'_>> for Value {
    fn from(value: ColumnRef<'_>) -> Value {
        match value {
            ColumnRef::Null => Value::Null,
            ColumnRef::Integer(value) => Value::Integer(value),
            ColumnRef::Float(value) => Value::Float(value),
            ColumnRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ColumnRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Integer(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

/// A generator of numbers that a seed repeats.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seed and the number of steps of a random test, from the environment or the defaults.
pub fn seed_and_steps(steps: u64) -> (u64, u64) {
    let read = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value: String| value.parse().ok())
    };
    (
        read("DQ_VFS_SEED").unwrap_or(1),
        read("DQ_VFS_STEPS").unwrap_or(steps),
    )
}
