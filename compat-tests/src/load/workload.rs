//! The workloads: what one operation is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dq_client::{Pool, Result, RetryPolicy, Session, TxMode};

/// Rows that the reading workloads find in their table.
const ROWS: u64 = 10_000;

/// Statements of one `batch-tx` operation.
const BATCH: u64 = 100;

/// What a connection does over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Inserts a row of a few bytes, each in a transaction of its own.
    Insert,
    /// The same with a blob of 1 KiB.
    Insert1k,
    /// Reads one of 10,000 rows by its key.
    Read,
    /// Four reads, then an insert.
    Mixed,
    /// `BEGIN IMMEDIATE`, 100 small inserts, `COMMIT`: one operation.
    BatchTx,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 5] = [
        Workload::Insert,
        Workload::Insert1k,
        Workload::Read,
        Workload::Mixed,
        Workload::BatchTx,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Insert => "insert",
            Workload::Insert1k => "insert-1k",
            Workload::Read => "read",
            Workload::Mixed => "mixed",
            Workload::BatchTx => "batch-tx",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Workload, String> {
        let find = || {
            Workload::ALL
                .into_iter()
                .find(|workload| workload.name() == name)
        };
        find().ok_or_else(|| format!("unknown workload {name:?}"))
    }
}

const INSERT: &str = "INSERT INTO written (value) VALUES (?)";
const SELECT: &str = "SELECT value FROM known WHERE id = ?";

/// Makes the tables, and fills the one that is read.
pub(crate) fn prepare(pool: &Pool, workload: Workload) -> Result<()> {
    let policy = RetryPolicy::attempts(100);
    pool.transaction(policy, |tx| {
        tx.execute(
            "CREATE TABLE IF NOT EXISTS written (id INTEGER PRIMARY KEY, value BLOB)",
            (),
        )?;
        tx.execute(
            "CREATE TABLE IF NOT EXISTS known (id INTEGER PRIMARY KEY, value TEXT)",
            (),
        )?;
        if matches!(workload, Workload::Read | Workload::Mixed) {
            tx.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                 INSERT OR IGNORE INTO known SELECT i, 'value of row ' || i FROM n",
                [ROWS],
            )?;
        }
        Ok(())
    })
}

/// One connection's position in its workload; outlives the connection.
pub(crate) struct Worker {
    workload: Workload,
    /// State of a generator that spreads keys, seeded by the connection's index.
    random: u64,
    operations: u64,
    blob: Vec<u8>,
}

impl Worker {
    pub(crate) fn new(workload: Workload, index: usize) -> Worker {
        let blob = if workload == Workload::Insert1k {
            vec![b'x'; 1024]
        } else {
            vec![b'x'; 16]
        };
        Worker {
            workload,
            random: index as u64 + 1,
            operations: 0,
            blob,
        }
    }

    /// Prepares what the workload needs on a session.
    pub(crate) fn open<'s>(
        &self,
        session: &'s mut Session,
        prepared: bool,
    ) -> Result<Statements<'s>> {
        if prepared {
            // Later uses take them from the session's cache, without a round trip.
            for sql in [INSERT, SELECT] {
                session.prepare_cached(sql)?;
            }
        }
        Ok(Statements { session, prepared })
    }

    /// Between half and one and a half of a pause, so that those who were refused together do not
    /// come back together.
    pub(crate) fn jittered(&mut self, pause: Duration) -> Duration {
        let share = self.next_random() % 1024;
        pause / 2 + pause * share as u32 / 1024
    }

    /// A key that exists.
    fn key(&mut self) -> u64 {
        self.next_random() % ROWS + 1
    }

    /// Xorshift: random enough to spread things.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// A session with the workload's statements.
pub(crate) struct Statements<'s> {
    session: &'s mut Session,
    prepared: bool,
}

impl Statements<'_> {
    pub(crate) fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Carries out one operation.
    pub(crate) fn operation(&mut self, worker: &mut Worker) -> Result<()> {
        worker.operations += 1;
        match worker.workload {
            Workload::Insert | Workload::Insert1k => self.insert(&worker.blob),
            Workload::Read => self.read(worker.key()),
            Workload::Mixed if worker.operations.is_multiple_of(5) => self.insert(&worker.blob),
            Workload::Mixed => self.read(worker.key()),
            Workload::BatchTx => {
                let prepared = self.prepared;
                let mut transaction = self.session.begin(TxMode::Immediate)?;
                let mut inside = Statements {
                    session: &mut transaction,
                    prepared,
                };
                for _ in 0..BATCH {
                    inside.insert(&worker.blob)?;
                }
                transaction.commit()
            }
        }
    }

    fn insert(&mut self, blob: &[u8]) -> Result<()> {
        let done = match self.prepared {
            true => self.session.prepare_cached(INSERT)?.execute([blob]),
            false => self.session.execute(INSERT, [blob]),
        };
        done.map(|_| ())
    }

    fn read(&mut self, key: u64) -> Result<()> {
        let mut statement;
        let mut rows = if self.prepared {
            statement = self.session.prepare_cached(SELECT)?;
            statement.query([key])?
        } else {
            self.session.query(SELECT, [key])?
        };
        let row = rows.next()?.expect("every key up to ROWS was put there");
        row.get_ref(0)?;
        // To the end, so that nothing is left to be interrupted.
        while rows.next()?.is_some() {}
        Ok(())
    }
}
