//! A running node, as the program that embeds it sees it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;
use mio::{Poll, Waker};

use crate::config::Settings;
use crate::io::background::Background;
use crate::io::clock;
use crate::io::dial::{Dial, Introduction, PlainDialer, Way};
use crate::io::event_loop::{EventLoop, Parts, WAKER_TOKEN};
use crate::io::handshakes::Handshakes;
use crate::io::listener::{BindAddr, BoundSocket, UnixPeers};
use crate::io::log_writer::LogWriterThread;
use crate::io::mailbox::{Mail, Mailbox};
use crate::io::meter::Meter;
use crate::io::peers::Peers;
use crate::io::receiver::Receiver;
use crate::io::scrape::Scrape;
use crate::io::workers::Workers;
use crate::metrics::Metrics;
use crate::node::{Machine, Start, Status};
use crate::roles::RoleTargets;
use dq_raft::{Compression, Driver, Options, ReadMode};
use dq_tls::TlsConfig;

/// The id that bootstraps a cluster when a node of it starts on an empty directory, beside 1.
pub const BOOTSTRAP_ID: u64 = 0x2dc1_7185_8c31_55be;

/// File descriptors that clients do not get: a log that cannot open its next segment ends the node.
pub const FILES_RESERVED: u64 = 64;

/// What the limit on open files leaves for clients.
fn files_for_connections() -> usize {
    use nix::sys::resource::{Resource, getrlimit};

    // A limit that is not known is found when it is met: then accepting pauses.
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(files - FILES_RESERVED.min(files / 2)).unwrap_or(usize::MAX)
}

/// A running node. Dropping it stops it.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = dq_server::Node::builder(1, "127.0.0.1:9001", "/var/lib/app/dqlite").start()?;
/// println!("listening on {}", node.local_addr());
/// node.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Node {
    id: u64,
    address: String,
    local_addr: BindAddr,
    mailbox: Mailbox,
    meter: Meter,
    scrape: Option<Scrape>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

/// How to start a node. Every setter has a default, C dqlite's where it has the setting.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    settings: Settings,
    dir: PathBuf,
    bind: Option<BindAddr>,
    unix_peers: UnixPeers,
    latency_ms: Option<u64>,
    sql_threads: NonZeroUsize,
    connections_max: usize,
    auto_recovery: bool,
    compress: bool,
    read_mode: ReadMode,
    log_memory: u64,
    bootstrap: bool,
    dialer: Arc<dyn Dial>,
    tls: Option<TlsConfig>,
    extension: Option<dq_vfs::Extension>,
    metrics: Option<SocketAddr>,
}

/// Why a node did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of range.
    Config(String),
    /// The data directory is missing, locked or not ours to use.
    Directory(dq_raft::OpenError),
    /// The log or its metadata are damaged; the error names the file. Nothing was changed.
    Recover(dq_raft::RecoverError),
    /// The newest snapshot is damaged; the error names the file. Nothing was changed.
    Snapshot(dq_raft::SnapshotError),
    /// The directory is that of a node with another id, and no configuration has this one. Nothing was
    /// changed.
    Foreign(String),
    /// The address cannot be bound.
    Bind {
        /// The address, as given.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A thread, socket or poll could not be made.
    Io(io::Error),
    /// SQLite refused to start.
    Sqlite(dq_vfs::Error),
    /// What the directory holds cannot be served.
    Corrupt(String),
}

/// Why a node stopped other than by being told to.
#[derive(Debug)]
pub struct StopError(String);

impl Node {
    /// A node with this id and advertised address, whose state is in `dir`, which must exist. The
    /// id is never 0; 1 and [`BOOTSTRAP_ID`] start a new cluster when the directory is empty.
    pub fn builder(id: u64, address: impl Into<String>, dir: impl Into<PathBuf>) -> NodeBuilder {
        NodeBuilder {
            settings: Settings::new(id, address),
            dir: dir.into(),
            bind: None,
            unix_peers: UnixPeers::SameUser,
            latency_ms: None,
            sql_threads: NonZeroUsize::new(2).expect("2 is not 0"),
            connections_max: 65_536,
            auto_recovery: false,
            compress: true,
            read_mode: ReadMode::Quorum,
            log_memory: crate::load::LOG_BYTES_MAX,
            bootstrap: true,
            dialer: Arc::new(PlainDialer),
            tls: None,
            extension: None,
            metrics: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The address that it tells others.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address that is really bound, port 0 resolved.
    pub fn local_addr(&self) -> &BindAddr {
        &self.local_addr
    }

    /// How it is now; `None` if it has stopped.
    pub fn status(&self) -> Option<Status> {
        let (reply, answer) = bounded(1);
        self.mailbox.send(Mail::Status(reply));
        answer.recv_timeout(Duration::from_secs(10)).ok()
    }

    /// Everything that it counts; `None` if it has stopped. Costs the node about as much as a small
    /// request.
    pub fn metrics(&self) -> Option<Metrics> {
        self.meter.read()
    }

    /// Where it serves metrics, port 0 resolved, if it does.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.scrape.as_ref().map(Scrape::address)
    }

    /// Changes the failure domain that it reports.
    pub fn set_failure_domain(&self, code: u64) {
        self.mailbox.send(Mail::FailureDomain(code));
    }

    /// Changes how long writers wait for another connection's open transaction.
    pub fn set_busy_timeout(&self, timeout: Duration) {
        self.mailbox.send(Mail::BusyTimeout(millis(timeout)));
    }

    /// Whether the node has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Gives leadership away if this node leads, so that stopping it interrupts nobody for longer
    /// than a round trip. True if it leads no more; false if nobody could take over.
    pub fn hand_over(&self, timeout: Duration) -> bool {
        let (reply, answer) = bounded(1);
        self.mailbox.send(Mail::HandOver(reply));
        answer.recv_timeout(timeout).unwrap_or(false)
    }

    /// Stops it: statements are interrupted, clients are cut off, the log is closed.
    ///
    /// # Errors
    /// If it had failed before, or the log could not be closed.
    pub fn stop(mut self) -> Result<(), StopError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), StopError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.scrape = None;
        self.mailbox.send(Mail::Stop);
        match thread.join() {
            Ok(result) => result.map_err(StopError),
            Err(_) => Err(StopError("the event loop panicked".to_owned())),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("node {}: {error}", self.id);
        }
    }
}

impl NodeBuilder {
    /// Where to listen; the advertised address unless set.
    pub fn bind(mut self, addr: BindAddr) -> NodeBuilder {
        self.bind = Some(addr);
        self
    }

    /// Who may connect to an abstract socket; processes of the same user unless set.
    pub fn unix_peers(mut self, peers: UnixPeers) -> NodeBuilder {
        self.unix_peers = peers;
        self
    }

    /// One-way network latency, from 1 ms to an hour, from which the heartbeat (1.5 times) and
    /// election (15 times) timeouts follow; 500 and 3000 ms unless set. The same on every node.
    pub fn network_latency(mut self, latency: Duration) -> NodeBuilder {
        self.latency_ms = Some(millis(latency));
        self
    }

    /// How long a writer waits for another connection's open transaction before it is told that the
    /// database is locked; not at all unless set.
    pub fn busy_timeout(mut self, timeout: Duration) -> NodeBuilder {
        self.settings.busy_timeout_ms = millis(timeout);
        self
    }

    /// Lets the leader keep members in their roles; left to clients unless set. The same on every
    /// node.
    pub fn roles(mut self, targets: RoleTargets) -> NodeBuilder {
        self.settings.roles = Some(targets);
        self
    }

    /// Whether NULL in a column declared BOOLEAN, DATE, DATETIME or TIMESTAMP is sent as NULL; unless
    /// set it is sent as false or as an empty date, as C dqlite 1.18.6 does. The same on every node.
    pub fn null_in_typed_columns(mut self, on: bool) -> NodeBuilder {
        self.settings.null_in_typed_columns = on;
        self
    }

    /// Reported to whoever places replicas; 0 unless set.
    pub fn failure_domain(mut self, code: u64) -> NodeBuilder {
        self.settings.failure_domain = code;
        self
    }

    /// Reported to whoever places replicas, who prefers lighter nodes, until a client sets another; 0
    /// unless set.
    pub fn weight(mut self, weight: u64) -> NodeBuilder {
        self.settings.weight = weight;
        self
    }

    /// SQL functions, collations and virtual tables for all connections of this node; none unless
    /// set. What replicas apply are pages, so only a leader calls them; but every member may lead.
    pub fn extension(mut self, extension: dq_vfs::Extension) -> NodeBuilder {
        self.extension = Some(extension);
        self
    }

    /// A snapshot is due `threshold` entries after the last one and keeps `trailing` entries of the
    /// log behind it, at least 4 and at least `threshold`; 1024 and 8192 unless set.
    pub fn snapshots(mut self, threshold: u64, trailing: u64) -> NodeBuilder {
        self.settings.snapshot_threshold = threshold;
        self.settings.snapshot_trailing = trailing;
        self
    }

    /// Keeps only as many of the trailing entries as fit in the size of the snapshot, but at least the
    /// threshold; followers that need older ones get the snapshot. Unless set, those are kept that fit
    /// in the size of the snapshot or in 64 MiB, whichever is more.
    pub fn dynamic_trailing(mut self, on: bool) -> NodeBuilder {
        self.settings.snapshot_trailing_dynamic = on;
        self
    }

    /// Bytes of the log that are kept in memory; 16 MiB unless set. Older entries are on disk only and
    /// read from there for followers that lag.
    pub fn log_memory(mut self, bytes: u64) -> NodeBuilder {
        self.log_memory = bytes;
        self
    }

    /// Whether snapshots are compressed; they are unless set.
    pub fn snapshot_compression(mut self, on: bool) -> NodeBuilder {
        self.compress = on;
        self
    }

    /// Whether a damaged end of the log is set aside, under names that begin with `corrupt-`, and the
    /// node starts without it, as C dqlite does; refused unless set. **It loses entries**, perhaps
    /// acknowledged ones.
    pub fn auto_recovery(mut self, on: bool) -> NodeBuilder {
        self.auto_recovery = on;
        self
    }

    /// Threads for long statements; 2 unless set.
    pub fn sql_threads(mut self, count: NonZeroUsize) -> NodeBuilder {
        self.sql_threads = count;
        self
    }

    /// Connections accepted at the same time; 65536 unless set. Fewer if the limit on open files would
    /// not leave [`FILES_RESERVED`] for the log and the other nodes.
    pub fn connections_max(mut self, count: usize) -> NodeBuilder {
        self.connections_max = count;
        self
    }

    /// What the requests of all clients together may take in memory, from 1 MiB, and, apart from that,
    /// answers that wait to be read: 256 MiB each unless set. Above it, large requests that are being
    /// sent are refused with code 7 (SQLITE_NOMEM), and those who do not read large answers are cut;
    /// whoever holds most comes first. A single answer is let through, however large.
    pub fn client_memory(mut self, bytes: usize) -> NodeBuilder {
        self.settings.client_memory_max = bytes;
        self
    }

    /// Bytes of pages that are kept only because somebody still reads what a database was before, over
    /// all databases, from 1 MiB: 256 MiB unless set. Above it the oldest reader is ended with code 10;
    /// if it is in a transaction, that is rolled back, and the next request says so.
    pub fn old_pages_memory(mut self, bytes: usize) -> NodeBuilder {
        self.settings.old_pages_max = bytes;
        self
    }

    /// Whether a node of id 1 or [`BOOTSTRAP_ID`] starts a new cluster in an empty directory; it does
    /// unless set. Others wait to be added.
    pub fn bootstrap(mut self, on: bool) -> NodeBuilder {
        self.bootstrap = on;
        self
    }

    /// How reads are proven to be fresh; [`ReadMode::Quorum`] unless set. The same on every node.
    pub fn read_mode(mut self, mode: ReadMode) -> NodeBuilder {
        self.read_mode = mode;
        self
    }

    /// Serves metrics at this address, over HTTP as `/metrics`, to everybody who can connect to it; not
    /// unless set. [`Node::metrics`] has the same.
    pub fn metrics(mut self, address: SocketAddr) -> NodeBuilder {
        self.metrics = Some(address);
        self
    }

    /// How to reach other nodes; plain TCP and abstract unix sockets unless set.
    pub fn dialer(mut self, dialer: impl Dial) -> NodeBuilder {
        self.dialer = Arc::new(dialer);
        self
    }

    /// TLS on all TCP connections, to and from clients and other nodes; none unless set. On all nodes of a
    /// cluster or on none. Abstract unix sockets stay plain. It goes over what [`NodeBuilder::dialer`]
    /// opens.
    pub fn tls(mut self, tls: TlsConfig) -> NodeBuilder {
        self.tls = Some(tls);
        self
    }

    /// Starts the node. A sole voter leads when this returns.
    ///
    /// # Errors
    /// See [`StartError`]; nothing of the node is left running.
    pub fn start(self) -> Result<Node, StartError> {
        self.check()?;
        let address = &self.settings.address;
        let bind_error = |address: &str, source| StartError::Bind {
            address: address.to_owned(),
            source,
        };
        let bind = match &self.bind {
            Some(bind) => bind.clone(),
            None => BindAddr::parse(address).map_err(|source| bind_error(address, source))?,
        };
        let socket =
            BoundSocket::bind(&bind).map_err(|source| bind_error(&bind.to_string(), source))?;
        self.start_on(socket)
    }

    /// Starts the node on a socket that is bound already; what [`NodeBuilder::bind`] said does not
    /// matter. A sole voter leads when this returns.
    ///
    /// # Errors
    /// See [`StartError`]; nothing of the node is left running.
    pub fn start_on(self, socket: BoundSocket) -> Result<Node, StartError> {
        self.check()?;
        let (election_timeout_ms, heartbeat_ms) = match self.latency_ms {
            Some(latency) => (latency * 15, latency * 15 / 10),
            None => (3000, 500),
        };
        let Settings { id, address, .. } = self.settings.clone();
        let local_addr = socket.local_addr().clone();
        let listener = socket
            .listen(self.unix_peers)
            .map_err(|source| StartError::Bind {
                address: local_addr.to_string(),
                source,
            })?;

        let scrape = self.metrics.map(|address| {
            TcpListener::bind(address).map_err(|source| StartError::Bind {
                address: address.to_string(),
                source,
            })
        });
        let scrape = scrape.transpose()?;

        let loaded = crate::load::load(&crate::load::Load {
            dir: &self.dir,
            id,
            address: &address,
            auto_recovery: self.auto_recovery,
            bootstrap: self.bootstrap,
        })?;
        let vfs = dq_vfs::Vfs::register_extended(self.extension).map_err(StartError::Sqlite)?;
        let options = Options {
            id,
            election_timeout_ms,
            heartbeat_ms,
            seed: clock::seed(),
            log_bytes_max: self.log_memory,
        };
        let reads = loaded
            .reads(self.read_mode, &options)
            .map_err(StartError::disk)?;
        let snapshot = loaded.recovered.snapshot.clone();
        let driver = Driver::new(options, loaded.recovered)
            .map_err(|error| StartError::Corrupt(error.to_string()))?
            .with_reads(reads);
        let machine = Machine::new(Start {
            settings: self.settings,
            vfs: vfs.clone(),
            driver,
            databases: loaded.databases,
            snapshot,
        });

        let poll = Poll::new().map_err(StartError::Io)?;
        let waker = Waker::new(poll.registry(), WAKER_TOKEN).map_err(StartError::Io)?;
        let (mailbox, mail) = Mailbox::new(waker);
        let log_writer =
            LogWriterThread::start(loaded.writer, mailbox.clone()).map_err(StartError::Io)?;
        let compression = if self.compress {
            Compression::Lz4
        } else {
            Compression::Raw
        };
        let disk = loaded.dir.disk().clone();
        let receiver = Receiver::new(disk.clone(), compression, vfs, mailbox.clone());
        let background = Background::start(disk, compression, log_writer.queue(), mailbox.clone())
            .map_err(StartError::Io)?;
        let introduction = Introduction::new(id, &address);
        let way = Way::new(self.dialer, self.tls.clone());
        let peers = Peers::new(way, introduction, mailbox.clone());
        let connections_max = self.connections_max.min(files_for_connections());
        let handshakes = match self.tls {
            Some(tls) if matches!(local_addr, BindAddr::Tcp(_)) => {
                // Who does not finish its handshake leaves half of the room to those who have.
                let started = Handshakes::start(tls, connections_max / 2, mailbox.clone());
                Some(started.map_err(StartError::Io)?)
            }
            _ => None,
        };
        let workers = Workers::start(self.sql_threads, &mailbox).map_err(StartError::Io)?;
        let mut event_loop = EventLoop::new(Parts {
            poll,
            mail,
            listener,
            machine,
            log_writer,
            workers,
            background,
            peers,
            receiver,
            handshakes,
            dir: loaded.dir,
            connections_max,
            name: (id, address.clone()),
        })
        .map_err(StartError::Io)?;
        event_loop.start().map_err(StartError::Corrupt)?;
        let meter = Meter::new(mailbox.clone(), self.dir);
        let scrape = scrape.map(|listener| Scrape::start(listener, meter.clone()));
        let scrape = scrape.transpose().map_err(StartError::Io)?;
        let thread = std::thread::Builder::new()
            .name(format!("dq-node-{id}"))
            .spawn(move || event_loop.run())
            .map_err(StartError::Io)?;
        Ok(Node {
            id,
            address,
            local_addr,
            mailbox,
            meter,
            scrape,
            thread: Some(thread),
        })
    }

    fn check(&self) -> Result<(), StartError> {
        let bad = |text: &str| Err(StartError::Config(text.to_owned()));
        if self.settings.id == 0 {
            return bad("a node id is never 0");
        }
        if self.settings.address.is_empty() || self.settings.address.contains('\0') {
            return bad("an address is not empty and holds no NUL");
        }
        if self.latency_ms.is_some_and(|ms| ms == 0 || ms > 3_600_000) {
            return bad("network latency is from 1 ms to an hour");
        }
        if self.settings.client_memory_max < 1 << 20 {
            return bad("clients' memory is at least 1 MiB");
        }
        if self.settings.old_pages_max < 1 << 20 {
            return bad("memory for old pages is at least 1 MiB");
        }
        if let Some(tls) = &self.tls
            && let Err(error) = tls.check_node()
        {
            return bad(&error.to_string());
        }
        let Settings {
            snapshot_threshold,
            snapshot_trailing,
            ..
        } = self.settings;
        if snapshot_trailing < 4 || snapshot_trailing < snapshot_threshold {
            return bad("snapshot trailing is at least 4 and at least the threshold");
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl StartError {
    pub(crate) fn disk(error: dq_raft::DiskError) -> StartError {
        StartError::Recover(dq_raft::RecoverError::Disk(error))
    }
}

impl From<dq_raft::RecoverError> for StartError {
    fn from(error: dq_raft::RecoverError) -> StartError {
        StartError::Recover(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(text) | StartError::Foreign(text) => write!(f, "{text}"),
            StartError::Directory(error) => write!(f, "{error}"),
            StartError::Recover(error) => write!(f, "{error}"),
            StartError::Snapshot(error) => write!(f, "{error}"),
            StartError::Bind { address, source } => {
                write!(f, "cannot listen on {address}: {source}")
            }
            StartError::Io(error) => write!(f, "{error}"),
            StartError::Sqlite(error) => write!(f, "SQLite: {error}"),
            StartError::Corrupt(text) => write!(f, "{text}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Bind { source, .. } | StartError::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StopError {}
