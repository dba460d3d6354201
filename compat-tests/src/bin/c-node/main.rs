//! `c-node`: one node of a C dqlite library, as a process of its own.
//!
//! The library is opened at run time, so the same program runs Debian's `libdqlite.so.0`, a newer
//! build of the original (`DQLITE_LIB=/path/libdqlite.so.0`) and our own replacement of it. It
//! prints `listening on HOST:PORT` once the node has started and stops it cleanly at SIGTERM or
//! SIGINT.
//!
//! All the unsafe code of this package is in `library.rs`.

mod library;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

use library::Library;

/// Runs one node of a C dqlite library.
#[derive(Parser)]
#[command(name = "c-node")]
struct Options {
    /// Node id; 1 bootstraps a cluster on a fresh directory.
    #[arg(long)]
    id: u64,
    /// Address that is both advertised and bound.
    #[arg(long)]
    address: String,
    /// Data directory; must exist.
    #[arg(long)]
    dir: PathBuf,
    /// Network latency in milliseconds (the library derives its timeouts from it).
    #[arg(long, value_name = "MS")]
    latency: Option<u32>,
    /// How long a writer waits for another one's transaction, in milliseconds (1.18.2 and later).
    #[arg(long, value_name = "MS")]
    busy_timeout: Option<u32>,
    /// Entries after which a snapshot is taken.
    #[arg(long, value_name = "N", requires = "snapshot_trailing")]
    snapshot_threshold: Option<u32>,
    /// Entries before a snapshot that are kept; no fewer than the threshold.
    #[arg(long, value_name = "N", requires = "snapshot_threshold")]
    snapshot_trailing: Option<u32>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("c-node: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    // Blocked before the library starts its threads, which inherit the mask: the signal then waits
    // for `wait` below and interrupts no system call of the library's.
    let mut stop_signals = SigSet::empty();
    stop_signals.add(Signal::SIGTERM);
    stop_signals.add(Signal::SIGINT);
    stop_signals
        .thread_block()
        .map_err(|errno| format!("cannot block signals: {errno}"))?;

    let path = std::env::var_os("DQLITE_LIB").unwrap_or_else(|| "libdqlite.so.0".into());
    let library = Library::open(&path)?;
    let mut node = library.create_node(options.id, &options.address, &options.dir)?;
    node.set_bind_address(&options.address)?;
    if let Some(latency_ms) = options.latency {
        node.set_network_latency_ms(latency_ms)?;
    }
    if let Some(busy_timeout_ms) = options.busy_timeout {
        node.set_busy_timeout_ms(busy_timeout_ms)?;
    }
    if let (Some(threshold), Some(trailing)) =
        (options.snapshot_threshold, options.snapshot_trailing)
    {
        node.set_snapshots(threshold, trailing)?;
    }
    node.start()?;

    // A closed stdout is no reason to end: whoever started us may not care.
    let mut stdout = std::io::stdout();
    let _ = writeln!(
        stdout,
        "listening on {} (version {})",
        options.address,
        library.version()
    );
    let _ = stdout.flush();

    stop_signals
        .wait()
        .map_err(|errno| format!("cannot wait for signals: {errno}"))?;
    node.stop()
}
