//! The clients: what they ask for, and what they write down of it.
//!
//! - **Registers**, read, written, and written if they have a value (cas). Values are never used
//!   twice. Registers are used for two seconds and then others are, so that the history of each stays
//!   short enough to be searched for an explanation.
//! - **A bank** of a few accounts: transfers in explicit transactions, over several requests, each of
//!   which is counted there as well, and sums of all accounts, which must always be the same. The
//!   count never falls, and never lags behind what anybody knows of it.
//! - **A set** that only grows: elements are added, and asked for after they were acknowledged.
//!
//! No client tries anything twice, so each request has one entry in the history. One of the clients
//! is the stock `dqlite` shell, a process per request.
//!
//! C dqlite answers reads without a proof that it leads, and an UPDATE that changes nothing is a read.
//! So what it has answered may be of any earlier moment, but must have been true at one; and nobody goes
//! back in time on one and the same node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dq_client::{Config, Connection, Error, Outcome, Pool, RetryPolicy};

use super::bed::{connect, impatient};
use super::history::{Action, History, Operation, Told};
use super::seen::Seen;
use crate::differential::rng::Rng;
use crate::servers::Kind;

/// The database.
pub(crate) const DATABASE: &str = "faults";
/// Accounts of the bank.
const ACCOUNTS: i64 = 8;
/// What they have together, for ever.
pub(crate) const MONEY: i64 = ACCOUNTS * 100;
/// Registers in use at a time.
const REGISTERS: usize = 8;
/// For how long they are.
const REGISTERS_FOR_NS: u64 = 2_000_000_000;
/// What all clients share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) history: History,
    pub(crate) stop: AtomicBool,
    pub(crate) addresses: Vec<String>,
    /// Requests per second of each client.
    pub(crate) rate: f64,
    /// The next value of a register, and the next element of the set.
    pub(crate) next: AtomicI64,
    /// Elements that were acknowledged lately, for others to ask for.
    pub(crate) lately: Mutex<Vec<i64>>,
    /// By address, whether the node proves that it leads before it answers a read.
    pub(crate) proves: BTreeMap<String, AtomicBool>,
    /// The largest count of transfers that was seen.
    pub(crate) transfers_seen: AtomicI64,
    /// Transfers that were acknowledged.
    pub(crate) transfers_done: AtomicI64,
}

/// An answer, and whether it may be of any earlier moment.
struct Answer<T> {
    result: Result<T, Error>,
    old: bool,
    /// Who gave it, if anybody did.
    from: String,
}

/// A client of its own, which fails soon.
pub(crate) fn pool(addresses: &[String]) -> Pool {
    connect(&config(), addresses, DATABASE)
}

fn config() -> Config {
    impatient().pool_size(1)
}

/// Makes the tables.
pub(crate) fn set_up(pool: &Pool) -> Result<(), Error> {
    pool.execute(
        "CREATE TABLE registers (id INTEGER PRIMARY KEY, value INTEGER);
         CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER);
         CREATE TABLE elements (id INTEGER PRIMARY KEY);
         CREATE TABLE transfers (count INTEGER);
         INSERT INTO transfers VALUES (0)",
        (),
    )?;
    for account in 0..ACCOUNTS {
        let balance = MONEY / ACCOUNTS;
        pool.execute("INSERT INTO accounts VALUES (?, ?)", (account, balance))?;
    }
    Ok(())
}

fn told<T>(result: &Result<T, Error>) -> Told {
    match result {
        Ok(_) => Told::Ok,
        Err(error) if error.outcome() == Outcome::NotDone => Told::Fail,
        Err(_) => Told::Unknown,
    }
}

impl Load {
    /// From now on the node is of this kind; `None` while that changes.
    pub(crate) fn set_kind(&self, address: &str, kind: Option<Kind>) {
        self.proves[address].store(kind == Some(Kind::Ours), Ordering::SeqCst);
    }

    pub(super) fn proves(&self, address: &str) -> bool {
        self.proves[address].load(Ordering::SeqCst)
    }

    /// Asks whoever leads.
    fn ask<T>(
        &self,
        pool: &Pool,
        act: impl FnOnce(&mut Connection<'_>) -> Result<T, Error>,
    ) -> Answer<T> {
        let mut connection = match pool.get() {
            Ok(connection) => connection,
            Err(error) => {
                return Answer {
                    result: Err(error),
                    old: false,
                    from: String::new(),
                };
            }
        };
        let from = connection.address().to_owned();
        // A node is stopped before it becomes another, so this is the one that answered if it is the
        // same before and after.
        let before = self.proves(&from);
        let result = act(&mut connection);
        Answer {
            result,
            old: !(before && self.proves(&from)),
            from,
        }
    }

    /// The pool of a client. Every fourth one is quick to give up and asks one node only who leads,
    /// so that it comes to a new leader while others still wait for the old one.
    fn pool_of(&self, process: usize) -> Pool {
        if process % 4 != 1 {
            return pool(&self.addresses);
        }
        let node = process / 4 % self.addresses.len();
        let quick = config()
            .request_timeout(Some(Duration::from_millis(300)))
            .attempt_timeout(Duration::from_millis(300))
            .refresh_interval(Duration::from_secs(3600 * 24));
        connect(&quick, &self.addresses[node..=node], DATABASE)
    }

    /// One client of ours, until it is told to stop.
    pub(crate) fn client(&self, process: usize, seed: u64) -> Seen {
        let pool = self.pool_of(process);
        // Every fourth one only reads: a leader that was cut off keeps those who write waiting, and
        // only those who do not can be told something old.
        let only_reads = process.is_multiple_of(4);
        let mut rng = Rng::new(seed);
        let mut seen = Seen::default();
        // What it last saw in a register.
        let mut last: Option<(i64, i64)> = None;
        // The count of transfers that each node has answered.
        let mut counts = BTreeMap::new();
        let interval = Duration::from_secs_f64(1.0 / self.rate);
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if due > now {
                std::thread::sleep(due - now);
            } else if now - due > Duration::from_secs(1) {
                // What was missed in an outage is not made up for.
                due = now;
            }
            due += interval;

            let invoked = self.history.now();
            let epoch = (invoked / REGISTERS_FOR_NS) as i64;
            let register = epoch * REGISTERS as i64 + rng.below(REGISTERS) as i64;
            let choice = match rng.below(100) {
                40..75 | 90..95 if only_reads => 0,
                choice => choice,
            };
            let mut old = false;
            let (action, key, told) = match choice {
                0..40 => {
                    let answer = self.ask(&pool, |at| read(at, "registers", "value", register));
                    old = answer.old;
                    let told = told(&answer.result);
                    let value = answer.result.unwrap_or(None);
                    last = value.map(|value| (register, value));
                    (Action::Read(value), register, told)
                }
                40..55 => {
                    let value = self.next.fetch_add(1, Ordering::Relaxed);
                    let sql = "INSERT OR REPLACE INTO registers VALUES (?, ?)";
                    let result = pool.execute(sql, (register, value));
                    (Action::Write(value), register, told(&result))
                }
                55..65 => {
                    let (register, expected) = match last {
                        Some(last) => last,
                        // Nobody ever writes a zero.
                        None => (register, 0),
                    };
                    let value = self.next.fetch_add(1, Ordering::Relaxed);
                    let sql = "UPDATE registers SET value = ? WHERE id = ? AND value = ?";
                    let values = (value, register, expected);
                    let answer = self.ask(&pool, |at| at.execute(sql, values));
                    let told = told(&answer.result);
                    let swapped = answer.result.is_ok_and(|done| done.rows_affected == 1);
                    // If nobody knows, it is a write that may still come.
                    old = answer.old && told == Told::Ok && !swapped;
                    if swapped {
                        last = Some((register, value));
                    }
                    let action = Action::Cas {
                        expected,
                        value,
                        swapped,
                    };
                    (action, register, told)
                }
                65..75 => {
                    let element = self.next.fetch_add(1, Ordering::Relaxed);
                    let result = pool.execute("INSERT INTO elements VALUES (?)", (element,));
                    let told = told(&result);
                    self.note(element, told, &mut seen);
                    (Action::Add, element, told)
                }
                75..90 => {
                    let Some(element) = self.one_of_lately(&mut rng) else {
                        continue;
                    };
                    let answer = self.ask(&pool, |at| read(at, "elements", "id", element));
                    old = answer.old;
                    let told = told(&answer.result);
                    let there = matches!(answer.result, Ok(Some(_)));
                    if told == Told::Ok && !there {
                        seen.missing(element, &answer.from, old);
                    }
                    (Action::Has(there), element, told)
                }
                90..95 => {
                    let told = told(&transfer(&pool, &mut rng));
                    match told {
                        Told::Ok => drop(self.transfers_done.fetch_add(1, Ordering::SeqCst)),
                        Told::Fail => {}
                        Told::Unknown => seen.transfers_unknown += 1,
                    }
                    (Action::Transfer, 0, told)
                }
                _ => {
                    let at_least = self.transfers_known();
                    let answer = self.ask(&pool, bank);
                    old = answer.old;
                    let told = told(&answer.result);
                    let mut sum = 0;
                    if let Ok((balances, count)) = answer.result {
                        sum = balances;
                        self.transfers_seen.fetch_max(count, Ordering::SeqCst);
                        let before = counts.insert(answer.from.clone(), count);
                        seen.check_bank(sum, count, before, &answer.from);
                        if count < at_least {
                            seen.behind(count, at_least, &answer.from, old);
                        }
                    }
                    (Action::Sum(sum), 0, told)
                }
            };
            self.history.record(&Operation {
                process,
                action,
                key,
                told,
                old,
                invoked,
                returned: self.history.now(),
            });
        }
        seen
    }

    pub(super) fn note(&self, element: i64, told: Told, seen: &mut Seen) {
        seen.elements.push((element, told));
        if told == Told::Ok {
            let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
            if lately.len() >= 32 {
                lately.remove(0);
            }
            lately.push(element);
        }
    }

    /// So many transfers there have been for certain.
    fn transfers_known(&self) -> i64 {
        let done = self.transfers_done.load(Ordering::SeqCst);
        self.transfers_seen.load(Ordering::SeqCst).max(done)
    }

    pub(super) fn one_of_lately(&self, rng: &mut Rng) -> Option<i64> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        (!lately.is_empty()).then(|| *rng.pick(&lately))
    }
}

fn read(at: &mut Connection<'_>, table: &str, column: &str, id: i64) -> Result<Option<i64>, Error> {
    let sql = format!("SELECT {column} FROM {table} WHERE id = ?");
    at.query_row(&sql, (id,), |row| row.get::<i64>(0))
}

/// What the accounts have together, and how many transfers there were, as of one moment.
fn bank(at: &mut Connection<'_>) -> Result<(i64, i64), Error> {
    let sql = "SELECT (SELECT sum(balance) FROM accounts), (SELECT count FROM transfers)";
    let row = at.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(row.unwrap_or_default())
}

fn transfer(pool: &Pool, rng: &mut Rng) -> Result<(), Error> {
    let from = rng.below(ACCOUNTS as usize) as i64;
    let to = (from + 1 + rng.below(ACCOUNTS as usize - 1) as i64) % ACCOUNTS;
    let amount = 1 + rng.below(20) as i64;
    pool.transaction(RetryPolicy::never(), |transaction| {
        let sql = "UPDATE accounts SET balance = balance - ? WHERE id = ?";
        transaction.execute(sql, (amount, from))?;
        let sql = "UPDATE accounts SET balance = balance + ? WHERE id = ?";
        transaction.execute(sql, (amount, to))?;
        transaction.execute("UPDATE transfers SET count = count + 1", ())?;
        Ok(())
    })
}
