//! `dq-load`: load on a dqlite server of any make. See [`compat_tests::load`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use compat_tests::load::{self, CONNECTIONS_MAX, DURATION_MAX, Plan, Workload};
use dq_client::TlsConfig;

/// Puts load on a dqlite server and prints what it could take.
#[derive(Parser)]
#[command(name = "dq-load")]
struct Options {
    /// Addresses of members of the cluster.
    #[arg(long, value_name = "ADDR,ADDR", value_delimiter = ',', required = true)]
    server: Vec<String>,
    /// insert, insert-1k, read, mixed or batch-tx.
    #[arg(long)]
    workload: Workload,
    /// Number of connections, one thread each; 1 to 64.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    duration: f64,
    /// Seconds before that.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warm_up: f64,
    /// Prepare statements once, instead of sending their text each time.
    #[arg(long)]
    prepared: bool,
    /// Milliseconds to wait, on average, after the server has refused a write (BUSY).
    #[arg(long, value_name = "MS", default_value_t = 20)]
    busy_pause: u64,
    /// Name of the database.
    #[arg(long, default_value = "load")]
    database: String,
    /// A directory on the device that the servers write to, to count what is written to it.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Server processes on this machine, for CPU, memory and bytes written.
    #[arg(long, value_name = "PID,PID", value_delimiter = ',')]
    pid: Vec<u32>,
    /// Our certificate, PEM, for servers that talk TLS.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates of the authorities that vouch for the servers.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !(1..=CONNECTIONS_MAX).contains(&options.connections) {
        eprintln!("dq-load: --connections is 1 to {CONNECTIONS_MAX}");
        return ExitCode::FAILURE;
    }
    let seconds = |seconds: f64| {
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|duration| *duration <= DURATION_MAX)
    };
    let (Some(duration), Some(warm_up)) = (seconds(options.duration), seconds(options.warm_up))
    else {
        eprintln!("dq-load: a time is 0 to {} seconds", DURATION_MAX.as_secs());
        return ExitCode::FAILURE;
    };
    let tls = match (options.tls_cert, options.tls_key, options.tls_ca) {
        (Some(cert), Some(key), Some(ca)) => match TlsConfig::from_pem(cert, key, ca) {
            Ok(tls) => Some(tls),
            Err(error) => {
                eprintln!("dq-load: {error}");
                return ExitCode::FAILURE;
            }
        },
        _ => None,
    };
    let plan = Plan {
        database: options.database,
        warm_up,
        prepared: options.prepared,
        busy_pause: Duration::from_millis(options.busy_pause),
        pids: options.pid,
        dir: options.dir,
        tls,
        ..Plan::new(
            options.server,
            options.workload,
            options.connections,
            duration,
        )
    };
    match load::run(&plan) {
        Ok(report) if options.json => println!("{}", report.json()),
        Ok(report) => print!("{report}"),
        Err(error) => {
            eprintln!("dq-load: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
