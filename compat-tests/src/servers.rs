//! Nodes as child processes: started on free loopback ports and in temporary directories, killed on
//! drop.
//!
//! ```text
//!   Server ── process ──> c-node --id --address --dir      (C library, DQLITE_LIB picks it)
//!     │                or dq-server run --id --address --dir         (ours, DQ_SERVER picks it)
//!     └── TempDir: data/   the node's directory, kept across restarts of the same `Server`
//!                  log     stdout and stderr of every start, quoted when a start fails
//! ```
//!
//! What holds:
//! - A started server accepts connections and has answered a LEADER request; with
//!   [`Server::start_single`] it has also said that it is the leader itself.
//! - Every wait has a deadline and looks at the child as well: a node that dies while it starts is
//!   an error with its log, not a timeout.
//! - Nothing outlives the `Server`: drop kills the process and removes the directory.
//!
//! Ports come from below the kernel's ephemeral range. A port picked by binding to port 0 could be
//! taken by an outgoing connection of some other test while its node is down between two starts.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::tls;

/// How long a node may take to listen, to answer, or to stop after SIGTERM.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Pause between two looks at a condition that only polling can see.
const POLL: Duration = Duration::from_millis(10);

/// Which implementation a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A C library: Debian's `libdqlite.so.0`, or the one that `DQLITE_LIB` names.
    C,
    /// Ours: `dq-server`, found by [`Kind::program`].
    Ours,
}

impl Kind {
    /// The program that runs a node of this kind.
    ///
    /// `c-node` is built with this package. `dq-server` is what `DQ_SERVER` names, else the one in
    /// the build directory of the running test: its own profile first, then release, then debug.
    /// `None` if there is none.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Kind::C => built_program("c-node"),
            Kind::Ours => match std::env::var_os("DQ_SERVER") {
                Some(path) => Some(PathBuf::from(path)),
                None => built_program("dq-server"),
            },
        }
    }

    /// Whether a test of this kind can run here; if not, says so on stderr.
    ///
    /// # Panics
    /// When `CI` is set and the program is missing: there nothing may be skipped silently.
    pub fn available_or_skip(self) -> bool {
        if self.program().is_some() {
            return true;
        }
        skip(&format!(
            "no program for servers of kind {self:?}; build dq-server or set DQ_SERVER"
        ));
        false
    }
}

/// Says on stderr that a test is skipped, and why.
///
/// # Panics
/// When `CI` is set.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "may not be skipped in CI: {why}"
    );
    eprintln!("SKIPPED: {why}");
}

/// Looks for a binary of this build: `target/<profile>/deps/test-…` or `target/<profile>/tool`.
fn built_program(name: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let dir = exe.parent()?;
    let profile_dir = if dir.ends_with("deps") {
        dir.parent()?
    } else {
        dir
    };
    let target = profile_dir.parent()?;
    [
        profile_dir.join(name),
        target.join("release").join(name),
        target.join("debug").join(name),
    ]
    .into_iter()
    .find(|path| path.is_file())
}

/// Settings of a node; `Default` is node 1 with the library's own defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// Node id; 1 bootstraps a cluster on a fresh directory.
    pub id: u64,
    /// `127.0.0.1:PORT`; a free port if `None`.
    pub address: Option<String>,
    /// Where the temporary directory is made; the system's choice if `None`.
    pub parent_dir: Option<PathBuf>,
    /// Network latency setting; with C it scales the election and heartbeat timeouts.
    pub latency_ms: Option<u32>,
    /// Write queue timeout.
    pub busy_timeout_ms: Option<u32>,
    /// More arguments for our program; with none, roles are left to clients, as C leaves them.
    pub arguments: Vec<String>,
    /// More arguments for `c-node`.
    pub c_arguments: Vec<String>,
    /// Limit on the process's open files; that of this process if `None`.
    pub open_files_max: Option<u32>,
    /// Environment variables of the process, beside those of this one.
    pub environment: Vec<(OsString, OsString)>,
    /// What our program gets as its certificate, and is asked with; no TLS if `None`.
    pub tls: Option<tls::Files>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            id: 1,
            address: None,
            parent_dir: None,
            latency_ms: None,
            busy_timeout_ms: None,
            arguments: ["--roles", "off"].map(str::to_owned).to_vec(),
            c_arguments: Vec::new(),
            open_files_max: None,
            environment: Vec::new(),
            tls: None,
        }
    }
}

/// A node that runs, or ran, as a child process.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    id: u64,
    address: String,
    latency_ms: Option<u32>,
    busy_timeout_ms: Option<u32>,
    arguments: Vec<String>,
    c_arguments: Vec<String>,
    open_files_max: Option<u32>,
    environment: Vec<(OsString, OsString)>,
    tls: Option<tls::Files>,
    dir: TempDir,
    child: Option<Child>,
}

impl Server {
    /// Starts a node and waits until it answers requests.
    ///
    /// # Errors
    /// The program is missing, the process ends, or it does not answer within [`DEADLINE`].
    pub fn start(kind: Kind, options: Options) -> io::Result<Server> {
        let dir = match &options.parent_dir {
            Some(parent) => TempDir::with_prefix_in("dq-node-", parent)?,
            None => TempDir::with_prefix("dq-node-")?,
        };
        fs::create_dir(dir.path().join("data"))?;
        let mut server = Server {
            kind,
            id: options.id,
            address: match options.address {
                Some(address) => address,
                None => free_address()?,
            },
            latency_ms: options.latency_ms,
            busy_timeout_ms: options.busy_timeout_ms,
            arguments: options.arguments,
            c_arguments: options.c_arguments,
            open_files_max: options.open_files_max,
            environment: options.environment,
            tls: options.tls,
            dir,
            child: None,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts node 1 on a fresh directory and waits until it says that it is the leader.
    ///
    /// # Errors
    /// As [`Server::start`], or it does not become leader within [`DEADLINE`].
    pub fn start_single(kind: Kind) -> io::Result<Server> {
        let server = Server::start(kind, Options::default())?;
        server.wait_leader(&server.address)?;
        Ok(server)
    }

    /// From the next start on, the other kind of node runs on this directory and address.
    ///
    /// # Errors
    /// The process still runs.
    pub fn change_kind(&mut self, kind: Kind) -> io::Result<()> {
        if self.child.is_some() {
            return Err(io::Error::other("the server still runs"));
        }
        self.kind = kind;
        Ok(())
    }

    /// From the next start on, the network latency setting is this.
    pub fn set_latency_ms(&mut self, latency_ms: Option<u32>) {
        self.latency_ms = latency_ms;
    }

    /// Starts the process again on the same directory and address, after a stop or a kill.
    ///
    /// # Errors
    /// As [`Server::start`]; also if the process still runs.
    pub fn start_again(&mut self) -> io::Result<()> {
        if self.child.is_some() {
            return Err(io::Error::other("the server runs already"));
        }
        let program = self
            .kind
            .program()
            .ok_or_else(|| io::Error::other(format!("no program for {:?}", self.kind)))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = match self.open_files_max {
            None => Command::new(&program),
            Some(count) => {
                let mut shell = Command::new("sh");
                let limited = format!("ulimit -n {count}; exec \"$0\" \"$@\"");
                shell.args(["-c", &limited]).arg(&program);
                shell
            }
        };
        let (latency, busy_timeout) = match self.kind {
            Kind::C => ("--latency", "--busy-timeout"),
            Kind::Ours => ("--network-latency-ms", "--busy-timeout-ms"),
        };
        if self.kind == Kind::Ours {
            command.arg("run");
        }
        command.args(["--id", &self.id.to_string(), "--address", &self.address]);
        command.arg("--dir").arg(self.data_dir());
        if let Some(latency_ms) = self.latency_ms {
            command.args([latency, &latency_ms.to_string()]);
        }
        if let Some(busy_timeout_ms) = self.busy_timeout_ms {
            command.args([busy_timeout, &busy_timeout_ms.to_string()]);
        }
        command.args(match self.kind {
            Kind::C => &self.c_arguments,
            Kind::Ours => &self.arguments,
        });
        command.args(self.tls.iter().flat_map(tls::Files::arguments));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", program.display()))
        })?);
        self.wait_until("it answers requests", |server| {
            server.probe_leader().is_ok()
        })
    }

    /// Asks the node for the leader; an empty text when it knows none.
    ///
    /// # Errors
    /// As [`probe_leader`]; with TLS, also if the handshake fails.
    pub fn probe_leader(&self) -> io::Result<String> {
        match &self.tls {
            None => probe_leader(&self.address),
            Some(files) => ask_leader(files.connect(&self.address)?),
        }
    }

    /// Waits until this node names `address` as the leader.
    ///
    /// # Errors
    /// The process ends or [`DEADLINE`] passes.
    pub fn wait_leader(&self, address: &str) -> io::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let leader = self.probe_leader();
            if leader.as_ref().is_ok_and(|leader| leader == address) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("leader is {leader:?}, not {address}")));
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It does not end within [`DEADLINE`] (then it is killed), or not with status 0.
    pub fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + DEADLINE;
        while let Some(child) = &mut self.child {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return match status.success() {
                    true => Ok(()),
                    false => Err(self.failure(&format!("ended with {status}"))),
                };
            }
            if Instant::now() > deadline {
                self.kill()?;
                return Err(self.failure("did not stop after SIGTERM"));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Ends the process without warning (SIGKILL), as a crash does.
    ///
    /// # Errors
    /// The system refuses the signal.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Freezes the process (SIGSTOP); its sockets stay open.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen process go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// The kind of this server.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The node id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The address that it listens on and advertises.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The exit status if the process has ended on its own.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// What the process has printed, over all starts.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            // A log that cannot be read is shown as far as it could.
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self
            .pid()
            .ok_or_else(|| io::Error::other("the server does not run"))?;
        let pid = i32::try_from(pid).map_err(|_| io::Error::other("process id out of range"))?;
        signal::kill(Pid::from_raw(pid), signal).map_err(io::Error::from)
    }

    fn wait_until(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&mut Server) -> bool,
    ) -> io::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while !holds(self) {
            if let Some(status) = self.exit_status()? {
                self.child = None;
                return Err(self.failure(&format!("ended with {status} before {what}")));
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("timeout waiting until {what}")));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn failure(&self, what: &str) -> io::Error {
        io::Error::other(format!(
            "{:?} node {} at {}: {what}; its log:\n{}",
            self.kind,
            self.id,
            self.address,
            self.log()
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing sensible is left to do when even SIGKILL fails.
        let _ = self.kill();
    }
}

/// A loopback address whose port was free a moment ago, different at each call.
///
/// # Errors
/// No port of the range can be bound.
pub fn free_address() -> io::Result<String> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000; // ends below 32768, where Linux's ephemeral ports begin
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Spread by process, so that test binaries which run at the same time seldom meet.
    let start = (std::process::id().wrapping_mul(2_654_435_761) >> 16) as u16;
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = format!("127.0.0.1:{}", FIRST + offset);
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::other("no free port on 127.0.0.1"))
}

/// Asks the node at `address` for the leader; an empty text when it knows none.
///
/// Written out by hand on purpose: readiness must not depend on the client under test.
///
/// # Errors
/// The node is not reachable or does not answer with SERVER.
pub fn probe_leader(address: &str) -> io::Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    ask_leader(stream)
}

fn ask_leader(mut stream: impl Read + Write) -> io::Result<String> {
    const VERSION_AND_LEADER: [u8; 24] = [
        1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    const SERVER: u8 = 1;
    stream.write_all(&VERSION_AND_LEADER)?;
    let mut header = [0; 8];
    stream.read_exact(&mut header)?;
    let [w0, w1, w2, w3, kind, ..] = header;
    let words = u32::from_le_bytes([w0, w1, w2, w3]);
    if kind != SERVER || !(2..=256).contains(&words) {
        return Err(io::Error::other(format!(
            "not a SERVER response: {header:?}"
        )));
    }
    let mut body = vec![0; words as usize * 8];
    stream.read_exact(&mut body)?;
    let text: Vec<u8> = body[8..]
        .iter()
        .copied()
        .take_while(|&byte| byte != 0)
        .collect();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The program `name` along PATH.
pub fn find_in_path(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name.as_ref()))
        .find(|file| file.is_file())
}

/// The program `name` along PATH, or `None` after saying that a test is skipped.
///
/// # Panics
/// When it is missing and `CI` is set.
pub fn find_in_path_or_skip(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = name.as_ref();
    let found = find_in_path(name);
    if found.is_none() {
        skip(&format!("no program {} in PATH", name.to_string_lossy()));
    }
    found
}
