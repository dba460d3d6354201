//! `dq-server`: a dqlite node as a process.

mod check;
mod export;
mod import;
mod recover;
mod tls;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dq_client::{Cluster, Config, MemStore, Role};
use dq_raft::{OpenError, RecoverError, SnapshotError};
use dq_server::io::listener;
use dq_server::{BindAddr, Node, ReadMode, RoleTargets, StartError};
use dq_wire::disk::names::LOCK_FILE;
use nix::sys::signal::{SigSet, Signal};

/// A dqlite node: SQLite, replicated with raft.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or SIGINT.
    Run(Run),
    /// Report what a data directory holds and what a start would do with it; changes nothing. The
    /// status is 0 if it is sound, 1 if something is damaged, 2 if it cannot be read.
    Check(check::Check),
    /// Give a cluster that has lost its majority other members: on the stopped node that has most.
    Recover(recover::Recover),
    /// Write a database into a file of SQLite's, from a running cluster or a stopped node.
    Export(export::Export),
    /// Load a file of SQLite's into a new database of a running cluster, in one transaction.
    Import(import::Import),
}

#[derive(Debug, Args)]
struct Run {
    /// Node id, unique in the cluster; 1 starts a new cluster in an empty directory.
    #[arg(long)]
    id: u64,
    /// Address that clients and other nodes are told: HOST:PORT or @NAME.
    #[arg(long)]
    address: String,
    /// Data directory; made if it does not exist.
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen, if not at the address: HOST:PORT or @NAME.
    #[arg(long)]
    bind: Option<String>,
    /// One-way network latency in ms; heartbeats are 1.5 times, election timeouts 15 times this.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    network_latency_ms: Option<u64>,
    /// How long a writer waits for another connection's open transaction, in ms.
    #[arg(long, default_value_t = 0)]
    busy_timeout_ms: u64,
    /// Members of the cluster to join: HOST:PORT, more than one separated by commas. A node that is
    /// a member already goes on as one.
    #[arg(long, value_delimiter = ',')]
    join: Vec<String>,
    /// Whether the leader keeps three voters and up to three standbys, or leaves roles to clients.
    #[arg(long, value_enum, default_value_t = Roles::On)]
    roles: Roles,
    /// Log entries after which a snapshot is due.
    #[arg(long, default_value_t = 1024)]
    snapshot_threshold: u64,
    /// Log entries kept behind a snapshot, for members that lag; at least the threshold, and 4.
    #[arg(long, default_value_t = 8192)]
    snapshot_trailing: u64,
    /// KiB of the log kept in memory; older entries are read from disk for members that lag.
    #[arg(long, default_value_t = 16 << 10)]
    log_memory_kib: u64,
    /// What requests of all clients together may take in memory, and, apart from that, answers that
    /// wait to be read, in MiB each.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    client_memory_mib: u32,
    /// What may be kept of pages that were replaced, for those who still read what was before, in MiB;
    /// above it the oldest reader is ended with code 10.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    old_pages_mib: u32,
    /// Set a damaged end of the log aside and start without it. It loses entries, perhaps
    /// acknowledged ones: for a member of a cluster whose others are sound.
    #[arg(long)]
    auto_recovery: bool,
    /// Send NULL in columns declared BOOLEAN, DATE, DATETIME or TIMESTAMP as NULL. Without this it is
    /// sent as false or as an empty date, as C dqlite 1.18.6 does. The same on every node.
    #[arg(long)]
    null_in_typed_columns: bool,
    /// Serve metrics, over HTTP as /metrics, at this HOST:PORT.
    #[arg(long)]
    metrics: Option<String>,
    /// How reads are proven to be fresh.
    #[arg(long, value_enum, default_value_t = Reads::Quorum)]
    reads: Reads,
    #[command(flatten)]
    tls: tls::Tls,
}

/// Who manages the members' roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Roles {
    /// The leader.
    On,
    /// Clients.
    Off,
}

/// How reads are answered.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Reads {
    /// A majority confirms the leader for each read (many share one question).
    Quorum,
    /// Followers promise not to vote for a while; needs clocks that count while a machine is stopped.
    Lease,
    /// As C dqlite: whoever believes to lead answers, perhaps with old data.
    Leader,
}

impl From<Reads> for ReadMode {
    fn from(reads: Reads) -> ReadMode {
        match reads {
            Reads::Quorum => ReadMode::Quorum,
            Reads::Lease => ReadMode::Lease,
            Reads::Leader => ReadMode::Leader,
        }
    }
}

fn main() -> ExitCode {
    dq_vfs::map_large_buffers();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let result = match Cli::parse().command {
        Command::Check(check) => return check.run(),
        Command::Run(run) => serve(&run),
        Command::Recover(recover) => recover.run(),
        Command::Export(export) => export.run(),
        Command::Import(import) => import.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(run: &Run) -> Result<(), Box<dyn std::error::Error>> {
    // Blocked before any thread starts, so that only the wait below takes them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;

    std::fs::create_dir_all(&run.dir)
        .map_err(|error| format!("data directory {}: {error}", run.dir.display()))?;
    let mut builder = Node::builder(run.id, &run.address, &run.dir)
        .busy_timeout(Duration::from_millis(run.busy_timeout_ms))
        .snapshots(run.snapshot_threshold, run.snapshot_trailing)
        .log_memory(run.log_memory_kib.saturating_mul(1024))
        .client_memory((run.client_memory_mib as usize) << 20)
        .old_pages_memory((run.old_pages_mib as usize) << 20)
        .auto_recovery(run.auto_recovery)
        .read_mode(run.reads.into())
        .null_in_typed_columns(run.null_in_typed_columns)
        .bootstrap(run.join.is_empty());
    if let Some(tls) = run.tls.config()? {
        builder = builder.tls(tls);
    }
    if let Some(latency) = run.network_latency_ms {
        builder = builder.network_latency(Duration::from_millis(latency));
    }
    if let Some(bind) = &run.bind {
        builder = builder.bind(BindAddr::parse(bind)?);
    }
    if let Some(metrics) = &run.metrics {
        let address = listener::resolve(metrics);
        builder = builder.metrics(address.map_err(|error| format!("{metrics}: {error}"))?);
    }
    if run.roles == Roles::On {
        builder = builder.roles(RoleTargets::default());
    }
    let node = builder.start().map_err(|error| explain(&error, run))?;
    if let Some(address) = node.metrics_addr() {
        log::info!("metrics at http://{address}/metrics");
    }
    writeln!(std::io::stdout(), "listening on {}", node.local_addr())?;
    std::io::stdout().flush()?;
    if !run.join.is_empty() {
        let config = run.tls.client()?;
        let (id, address, members) = (run.id, run.address.clone(), run.join.clone());
        // It may take as long as the cluster needs to have a leader; a signal does not wait for it.
        std::thread::Builder::new()
            .name("dq-join".to_owned())
            .spawn(move || join(id, &address, &members, config))?;
    }

    loop {
        // A node that fails by itself must not leave a process that only looks alive.
        match wait_for(&signals, Duration::from_millis(500)) {
            Some(signal) => {
                log::info!("{signal}: stopping");
                if node.hand_over(HAND_OVER) {
                    log::debug!("leadership is elsewhere");
                }
                return Ok(node.stop()?);
            }
            None if node.is_finished() => return Ok(node.stop()?),
            None => {}
        }
    }
}

/// What is wrong, where, and what to do about it, in one line.
fn explain(error: &StartError, run: &Run) -> String {
    let dir = run.dir.display();
    match error {
        StartError::Directory(OpenError::Locked) => {
            let who = check::holder(&run.dir).map_or("another node".to_owned(), |process| {
                format!("process {process}")
            });
            format!(
                "{error}: {dir}/{LOCK_FILE} is locked by {who}: stop that node, or give this one a \
                 directory of its own"
            )
        }
        StartError::Foreign(why) => format!("{dir}/{why}"),
        StartError::Recover(RecoverError::Corrupt { .. })
        | StartError::Snapshot(SnapshotError::Corrupt { .. }) => {
            let changed = match run.auto_recovery {
                true => "",
                false => " nothing was changed;",
            };
            format!(
                "{error} (in {dir});{changed} a member of a cluster is removed, its directory moved \
                 aside, and a new node joins; a node that is alone needs a backup; `dq-server check` \
                 says what else there is"
            )
        }
        other => other.to_string(),
    }
}

/// Longest wait for another node to take over, before a stop.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Adds this node to a cluster, as a spare; the leader gives it a role. Tries until it is a member.
fn join(id: u64, address: &str, members: &[String], config: Config) {
    let cluster = Cluster::new(config, MemStore::new(members.iter().cloned()));
    loop {
        let error = match cluster.members() {
            Ok(known) if known.iter().any(|member| member.id == id) => return,
            Ok(_) => match cluster.add(id, address, Role::Spare) {
                Ok(()) => {
                    log::info!("node {id}: joined the cluster");
                    return;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        log::warn!("node {id}: cannot join yet: {error}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The next of these signals, if one comes in time.
fn wait_for(signals: &SigSet, timeout: Duration) -> Option<Signal> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    use std::os::fd::AsFd;

    let fd = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).ok()?;
    let info = fd.read_signal().ok()??;
    Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
}
