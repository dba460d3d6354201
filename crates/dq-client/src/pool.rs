//! A pool of sessions with the leader.
//!
//! ```text
//!   get() ── idle session, still good ────────────────┐
//!     │ none, and fewer than `pool_size` open         ├──> Connection ── drop ──> idle, or closed
//!     ├── find the leader, OPEN ──────────────────────┘
//!     └── else wait for one to come back
//! ```
//!
//! A session is good if its connection has not been closed by the server, which a look at the
//! socket tells; after a second of idleness the server must also say that it still leads. A session
//! comes back only if no transaction is open on it and no error has ended it.
//!
//! [`Pool::execute`], [`Pool::query`] and [`Pool::transaction`] try again what was certainly not
//! carried out (see [`RetryPolicy`]). A write whose fate is unknown is the caller's to decide on.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{self, Cluster};
use crate::config::{Config, RetryPolicy};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::leader::{self, Connector};
use crate::params::Params;
use crate::rows::Row;
use crate::session::{Done, Session};
use crate::sql;
use crate::store::NodeStore;
use crate::transaction::{Transaction, TxMode};

/// Idle time after which a server has to confirm that it leads.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// Sessions with the leader, for use by any number of threads. See the module.
pub struct Pool {
    connector: Connector,
    database: String,
    state: Mutex<State>,
    /// Signalled when a session comes back or is closed.
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    /// Unused sessions, the most recently used one last.
    idle: Vec<Idle>,
    /// Number of sessions, idle ones included, and those that are being opened.
    open: usize,
    /// When the node store was brought up to date last.
    refreshed: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    session: Session,
    since: Instant,
}

impl Pool {
    /// A pool for a database of the cluster whose members are in `store`, with default settings
    /// (others: [`Config::connect`]). Finds the leader and opens the database, so that a mistake in
    /// either shows at once.
    ///
    /// # Errors
    /// No leader is found in time, or the database cannot be opened.
    pub fn connect(store: impl NodeStore + 'static, database: &str) -> Result<Pool> {
        Config::new().connect(store, database)
    }

    pub(crate) fn new(
        config: Config,
        store: impl NodeStore + 'static,
        database: &str,
    ) -> Result<Pool> {
        let pool = Pool {
            connector: Connector::new(config, Box::new(store)),
            database: database.to_owned(),
            state: Mutex::new(State {
                idle: Vec::new(),
                open: 0,
                refreshed: None,
            }),
            returned: Condvar::new(),
        };
        pool.get()?;
        Ok(pool)
    }

    /// A session with the leader. It comes back to the pool when it is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`]: none came back in time. [`ErrorKind::NoLeader`]: no leader was found
    /// in time. Or the database cannot be opened.
    pub fn get(&self) -> Result<Connection<'_>> {
        let deadline = leader::deadline(self.connector.config.acquire_timeout);
        loop {
            let mut connection = match self.take(deadline)? {
                Some(idle) => match self.confirm(idle) {
                    Some(connection) => connection,
                    None => continue,
                },
                None => match self.open(deadline) {
                    Ok(connection) => connection,
                    // It led a moment ago, and does not when it comes to OPEN.
                    Err(error) if error.ends_connection() && Instant::now() < deadline => {
                        log::debug!("open: {error}");
                        thread::sleep(self.connector.config.backoff_min);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            self.refresh(&mut connection);
            if !connection.is_closed() {
                return Ok(connection);
            }
        }
    }

    /// Runs a text of one or more statements that yield no rows; see [`Session::execute`].
    ///
    /// # Errors
    /// As there. What was certainly not done is tried again, as [`Config::retry`] says.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<Done> {
        self.retry(self.connector.config.retry, || {
            let mut connection = self.get().map_err(Failed::ForGood)?;
            Ok(connection.execute(sql, &params)?)
        })
    }

    /// Runs one statement and turns each of its rows into something.
    ///
    /// # Errors
    /// The statement or `f` fails. What was certainly not done is tried again, and so is a SELECT
    /// that got lost, as [`Config::retry`] says, but only until the first row has been handed to
    /// `f`.
    pub fn query<T>(
        &self,
        sql: &str,
        params: impl Params,
        mut f: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut policy = self.connector.config.retry;
        policy.idempotent |= sql::is_read_only(sql);
        self.retry(policy, || {
            let mut connection = self.get().map_err(Failed::ForGood)?;
            let mut rows = connection.query(sql, &params)?;
            let mut results = Vec::new();
            let mut next = rows.next()?;
            while let Some(row) = next {
                results.push(f(&row).map_err(Failed::ForGood)?);
                next = rows.next().map_err(Failed::ForGood)?;
            }
            Ok(results)
        })
    }

    /// Runs a transaction that writes: `BEGIN IMMEDIATE`, what `f` does, `COMMIT`. An error of `f`
    /// rolls it back.
    ///
    /// As long as COMMIT has not been sent nothing is done, so an attempt that fails before is
    /// tried again as a whole: `f` may run more than once. When COMMIT itself gets lost the outcome
    /// is unknown, and only an [idempotent](RetryPolicy::idempotent) policy tries again.
    ///
    /// # Errors
    /// The last attempt's. One that `f` returns is taken to be of this transaction, so its outcome
    /// is [`Outcome::NotDone`].
    pub fn transaction<T>(
        &self,
        policy: RetryPolicy,
        mut f: impl FnMut(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        self.retry(policy, || {
            let mut connection = self.get().map_err(Failed::ForGood)?;
            let mut transaction = connection.begin(TxMode::Immediate)?;
            let value =
                f(&mut transaction).map_err(|error| error.with_outcome(Outcome::NotDone))?;
            transaction.commit()?;
            Ok(value)
        })
    }

    /// The cluster behind the pool.
    pub fn cluster(&self) -> Cluster<'_> {
        Cluster::of(&self.connector)
    }

    fn retry<T>(
        &self,
        policy: RetryPolicy,
        mut attempt: impl FnMut() -> Result<T, Failed>,
    ) -> Result<T> {
        let mut failed = 0;
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failed::ForGood(error)) => return Err(error),
                Err(Failed::PerhapsForNow(error)) => error,
            };
            failed += 1;
            let harmless = error.outcome() == Outcome::NotDone || policy.idempotent;
            if !error.is_transient() || !harmless || failed >= policy.attempts {
                return Err(error);
            }
            log::debug!("attempt {failed}: {error}");
            thread::sleep(policy.pause(failed));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle session, or `None` for permission to open one, which has been counted.
    fn take(&self, deadline: Instant) -> Result<Option<Idle>> {
        let config = &self.connector.config;
        let mut state = self.lock();
        loop {
            // Those that have been idle for too long are at the front.
            let now = Instant::now();
            let idle_too_long = |idle: &Idle| now - idle.since >= config.idle_timeout;
            let expired = state
                .idle
                .iter()
                .take_while(|idle| idle_too_long(idle))
                .count();
            state.idle.drain(..expired);
            state.open -= expired;
            if let Some(idle) = state.idle.pop() {
                return Ok(Some(idle));
            }
            if state.open < config.pool_size {
                state.open += 1;
                return Ok(None);
            }
            if now >= deadline {
                let message = format!("all {} connections are in use", config.pool_size);
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            let waited = self.returned.wait_timeout(state, deadline - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes sure that an idle session is still good.
    fn confirm(&self, idle: Idle) -> Option<Connection<'_>> {
        let mut connection = Connection {
            pool: self,
            session: Some(idle.session),
        };
        let good = if connection.is_stale() {
            false
        } else if idle.since.elapsed() < CONFIRM_AFTER {
            true
        } else {
            let conn = connection.conn();
            let leader = leader::leader(conn);
            matches!(leader, Ok(Some(leader)) if leader.address == conn.address())
        };
        if !good {
            connection.conn().mark_broken();
            return None;
        }
        Some(connection)
    }

    /// Opens a session that [`Pool::take`] has counted.
    fn open(&self, deadline: Instant) -> Result<Connection<'_>> {
        let mut connection = Connection {
            pool: self,
            session: None,
        };
        let conn = self.connector.connect(deadline)?;
        connection.session = Some(Session::open(conn, &self.database)?);
        Ok(connection)
    }

    /// Brings the node store up to date, now and then.
    fn refresh(&self, connection: &mut Connection<'_>) {
        let interval = self.connector.config.refresh_interval;
        {
            let mut state = self.lock();
            if state
                .refreshed
                .is_some_and(|last| last.elapsed() < interval)
            {
                return;
            }
            state.refreshed = Some(Instant::now());
        }
        let members = cluster::members(connection.conn());
        if let Err(error) = members.and_then(|members| self.connector.store.set(&members)) {
            log::warn!("the node store could not be brought up to date: {error}");
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// Why an attempt failed.
enum Failed {
    /// The error says whether another attempt makes sense.
    PerhapsForNow(Error),
    /// Another attempt makes none, whatever the error says.
    ForGood(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::PerhapsForNow(error)
    }
}

/// A [`Session`] that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Connection<'p> {
    pool: &'p Pool,
    /// `None` only while it is being opened.
    session: Option<Session>,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.session.take() {
            Some(session) if session.is_reusable() => {
                state.idle.push(Idle {
                    session,
                    since: Instant::now(),
                });
            }
            session => {
                state.open -= 1;
                // An error that ended this session has most likely ended the others too.
                if session.is_some_and(|session| session.is_closed()) {
                    state.open -= state.idle.len();
                    state.idle.clear();
                    self.pool.connector.forget_leader();
                }
            }
        }
        drop(state);
        self.pool.returned.notify_one();
    }
}

impl Deref for Connection<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session
            .as_ref()
            .expect("a connection is handed out with its session")
    }
}

impl DerefMut for Connection<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.session
            .as_mut()
            .expect("a connection is handed out with its session")
    }
}
