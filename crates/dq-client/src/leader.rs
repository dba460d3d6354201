//! Finding the leader.
//!
//! ```text
//!   last known leader ── says that it leads ──────────────────────────> connection
//!        │ no
//!        v
//!   all members of the store, voters first, at most 10 at once
//!        ├── "I lead" ──────────────────────────────────────────────> connection
//!        ├── "B leads" ── ask B ── "I lead" ───────────────────────> connection
//!        └── anything else: the reason is remembered
//!        │ nobody
//!        v
//!   pause (100 ms, doubling up to 1 s), again, until the caller's deadline
//! ```
//!
//! This is go-dqlite's algorithm. A server leads when it reports the very address that was dialled:
//! addresses are opaque texts, compared as such. The one exception is a leader that is known under
//! another name than it was reached by (a host name in the store, an IP address in the
//! configuration): it is dialled once more by the address that it reports.
//!
//! Only one search over all members runs at a time per client; whoever comes second waits for it
//! and takes the short way. Threads of a search that has been decided end by themselves, within
//! their own time limits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dq_wire::{Request, Response, Role};

use crate::config::Config;
use crate::conn::Conn;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Member, NodeStore};

/// Who leads, as a server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its node id.
    pub id: u64,
    /// Its address, as configured.
    pub address: String,
}

/// What is needed to reach the leader again and again.
pub(crate) struct Connector {
    pub(crate) config: Config,
    pub(crate) store: Box<dyn NodeStore>,
    /// The members that the store named first.
    seeds: Mutex<Vec<Member>>,
    last_leader: Mutex<Option<String>>,
    search: Mutex<()>,
}

impl Connector {
    pub(crate) fn new(config: Config, store: Box<dyn NodeStore>) -> Connector {
        Connector {
            config,
            store,
            seeds: Mutex::new(Vec::new()),
            last_leader: Mutex::new(None),
            search: Mutex::new(()),
        }
    }

    /// A connection to the leader, introduced and ready for requests.
    ///
    /// # Errors
    /// No leader was found before `deadline`: [`ErrorKind::NoLeader`], with what each address that
    /// was tried last had to say. Or the store cannot be read.
    pub(crate) fn connect(&self, deadline: Instant) -> Result<Conn> {
        let mut pause = self.config.backoff_min;
        let mut last_error = None;
        loop {
            let error = match self.attempt(deadline) {
                Ok(mut conn) => {
                    *lock(&self.last_leader) = Some(conn.address().to_owned());
                    conn.set_timeout(self.config.request_timeout)?;
                    return Ok(conn);
                }
                Err(error) if error.kind() != ErrorKind::NoLeader => return Err(error),
                Err(error) => error,
            };
            log::debug!("{error}");
            let now = Instant::now();
            if now >= deadline {
                // This attempt was cut short; one that was not has more to tell.
                return Err(last_error.unwrap_or(error));
            }
            thread::sleep(pause.min(deadline - now));
            pause = (pause * 2).min(self.config.backoff_max);
            last_error = Some(error);
        }
    }

    /// Whoever led last does so no more.
    pub(crate) fn forget_leader(&self) {
        *lock(&self.last_leader) = None;
    }

    fn attempt(&self, deadline: Instant) -> Result<Conn> {
        let last_leader = || lock(&self.last_leader).clone();
        let before = last_leader();
        if let Some(conn) = before
            .as_deref()
            .and_then(|address| self.try_leader(address))
        {
            return Ok(conn);
        }
        let _one_search = lock(&self.search);
        // Somebody else may have found another one while we waited for our turn.
        if let Some(address) = last_leader().filter(|address| Some(address) != before.as_ref())
            && let Some(conn) = self.try_leader(&address)
        {
            return Ok(conn);
        }
        let mut members = self.store.get()?;
        // Where the search began is never forgotten: all members that the store knows may have left
        // the cluster since it was refreshed last.
        let mut seeds = lock(&self.seeds);
        if seeds.is_empty() {
            seeds.clone_from(&members);
        }
        let known: Vec<String> = members
            .iter()
            .map(|member| member.address.clone())
            .collect();
        members.extend(
            seeds
                .iter()
                .filter(|seed| !known.contains(&seed.address))
                .cloned(),
        );
        drop(seeds);
        let deadline = deadline.min(Instant::now() + self.config.attempt_timeout);
        search(&self.config, members, deadline)
    }

    fn try_leader(&self, address: &str) -> Option<Conn> {
        match ask(&self.config, address).map(|(conn, leader)| introduce(conn, leader.as_ref())) {
            Ok(Ok(conn)) => Some(conn),
            Ok(Err(error)) | Err(error) => {
                log::debug!("last leader {address}: {error}");
                None
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that is guarded here is left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks all members at once; the first connection to a leader wins.
fn search(config: &Config, mut members: Vec<Member>, deadline: Instant) -> Result<Conn> {
    if members.is_empty() {
        return Err(Error::new(ErrorKind::NoLeader, "the node store is empty"));
    }
    members.sort_by_key(|member| match member.role {
        Role::Voter => 0,
        Role::Standby => 1,
        Role::Spare => 2,
    });
    let threads = members.len().min(config.probes);
    let queue: VecDeque<String> = members.into_iter().map(|member| member.address).collect();
    let queue = Arc::new(Mutex::new(queue));
    let decided = Arc::new(AtomicBool::new(false));
    let (sender, found) = mpsc::channel();
    for _ in 0..threads {
        let (queue, decided, sender) = (Arc::clone(&queue), Arc::clone(&decided), sender.clone());
        let config = config.clone();
        let spawned = thread::Builder::new()
            .name("dq-client-probe".to_owned())
            .spawn(move || {
                while !decided.load(Ordering::Relaxed) {
                    let Some(address) = lock(&queue).pop_front() else {
                        break;
                    };
                    let result = probe(&config, &address);
                    // Fails when the search has been decided; then the connection is not needed.
                    let _ = sender.send((address, result));
                }
            });
        if let Err(error) = spawned {
            return Err(Error::io("cannot start a thread", error));
        }
    }
    drop(sender);
    let mut reasons = Vec::new();
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        match found.recv_timeout(remaining) {
            Ok((_, Ok(conn))) => {
                decided.store(true, Ordering::Relaxed);
                return Ok(conn);
            }
            Ok((address, Err(error))) => reasons.push(format!("{address}: {error}")),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                reasons.push("others: no answer in time".to_owned());
                break;
            }
        }
    }
    decided.store(true, Ordering::Relaxed);
    Err(Error::new(
        ErrorKind::NoLeader,
        format!("no leader: {}", reasons.join("; ")),
    ))
}

/// Asks one member, and the leader that it names.
fn probe(config: &Config, address: &str) -> Result<Conn> {
    let (conn, leader) = ask(config, address)?;
    match leader {
        Some(leader) if leader.address != address => {
            drop(conn);
            let (conn, confirmed) = ask(config, &leader.address)?;
            introduce(conn, confirmed.as_ref())
        }
        leader => introduce(conn, leader.as_ref()),
    }
}

/// Connects to a server and asks who leads.
fn ask(config: &Config, address: &str) -> Result<(Conn, Option<Leader>)> {
    let timeout = config.dial_timeout.min(config.attempt_timeout);
    let mut conn = Conn::connect(address, timeout, Some(timeout), config.tls.as_ref())?;
    let leader = leader(&mut conn)?;
    Ok((conn, leader))
}

/// Asks a server who leads. Whoever is not a voter does not say.
pub(crate) fn leader(conn: &mut Conn) -> Result<Option<Leader>> {
    let leader = match conn.call(&Request::Leader)?.response {
        Response::Server { id, address } => {
            Some((id, str::from_utf8(address).map(ToOwned::to_owned)))
        }
        _ => None,
    };
    match leader {
        Some((_, Ok(address))) if address.is_empty() => Ok(None),
        Some((id, Ok(address))) => Ok(Some(Leader { id, address })),
        Some((_, Err(_))) | None => {
            conn.mark_broken();
            Err(Error::new(
                ErrorKind::Protocol,
                "the leader's address is no text",
            ))
        }
    }
}

/// Introduces us to a server, if it is the leader.
fn introduce(mut conn: Conn, leader: Option<&Leader>) -> Result<Conn> {
    match leader {
        None => Err(Error::new(ErrorKind::NoLeader, "knows no leader")),
        Some(leader) if leader.address != conn.address() => {
            let message = format!("says that {} leads", leader.address);
            Err(Error::new(ErrorKind::NotLeader, message))
        }
        Some(_) => {
            conn.call(&Request::Client { id: 0 })?;
            Ok(conn)
        }
    }
}

/// How long a search may take at most, for those who wait without a deadline of their own.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    // A timeout beyond what the clock can express is as good as a year.
    now.checked_add(timeout)
        .unwrap_or(now + Duration::from_secs(365 * 24 * 3600))
}
