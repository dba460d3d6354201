//! One `dqlite_node`: its settings, its life, and the tools that work on its directory.
//!
//! ```text
//!   new ──start──▶ running ──stop──▶ stopped      destroy: from any of them
//!    └─ recover, describe_last_entry (not while it runs) ─┘
//! ```
//!
//! Nothing here knows of pointers. Setters that matter only at start are misuse while it runs; the
//! others take effect at once.

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dq_raft::disk::Disk;
use dq_raft::{DataDir, OpenError, RecoverError, RecoverOptions};
use dq_server::roles::RoleTargets;
use dq_server::{
    BindAddr, BoundSocket, Dial, Node, NodeBuilder, PlainDialer, StartError, UnixPeers,
};
use dq_vfs::Extension;
use dq_wire::Configuration;
use dq_wire::disk::metadata::Metadata;

use crate::address;
use crate::code::{Result, error, misuse};
use crate::dial::{Dialer, SharedDialer};
use crate::handover::Handover;
use crate::trace;

/// Longest network latency, an hour, ms.
const LATENCY_MS_MAX: u64 = 3_600_000;

/// Fewest log entries kept behind a snapshot.
const TRAILING_MIN: u32 = 4;

/// Most threads that the program can ask for.
const THREADS_MAX: usize = 64;

/// A node as C sees it.
#[derive(Debug)]
pub(crate) struct NodeObject {
    id: u64,
    address: String,
    dir: PathBuf,
    state: State,
    bind: Option<Bound>,
    dialer: Option<Arc<Dialer>>,
    latency_ms: Option<u64>,
    failure_domain: u64,
    weight: u64,
    extension: Option<Extension>,
    /// Threshold and trailing entries.
    snapshots: (u64, u64),
    dynamic_trailing: bool,
    compress: bool,
    auto_recovery: bool,
    busy_timeout: Duration,
    threads: Option<NonZeroUsize>,
    targets: RoleTargets,
    manages_roles: bool,
}

#[derive(Debug)]
enum State {
    New,
    Running(Box<Node>),
    Stopped,
}

/// What `set_bind_address` has bound.
#[derive(Debug)]
struct Bound {
    addr: BindAddr,
    /// As the program is told.
    text: CString,
    /// Until the node starts on it.
    socket: Option<BoundSocket>,
}

impl NodeObject {
    /// A node that has not started. The directory is looked at by [`NodeObject::probe`].
    pub(crate) fn new(id: u64, address: String, dir: PathBuf) -> NodeObject {
        NodeObject {
            id,
            address,
            dir,
            state: State::New,
            bind: None,
            dialer: None,
            latency_ms: None,
            failure_domain: 0,
            weight: 0,
            extension: None,
            snapshots: (1024, 8192),
            dynamic_trailing: false,
            compress: true,
            auto_recovery: true,
            busy_timeout: Duration::ZERO,
            threads: None,
            targets: RoleTargets {
                standbys: 0,
                ..RoleTargets::default()
            },
            manages_roles: false,
        }
    }

    /// Whether the directory is one that a node can use. Changes nothing, and works beside a node
    /// that runs on it.
    pub(crate) fn probe(&self) -> Result<()> {
        dq_vfs::check_sqlite()
            .map_err(|why| error(String::from_utf8_lossy(&why.message).into_owned()))?;
        let disk = DataDir::look(&self.dir).map_err(|why| match why {
            OpenError::PathTooLong => error(format!("raft_uv_init(): {why}")),
            why => error(format!("raft_init(): io: {why}")),
        })?;
        for name in ["metadata1", "metadata2"] {
            let content = match disk.read(name, Metadata::SIZE as u64 + 1) {
                Ok(content) => content,
                Err(why) if why.is_not_found() => continue,
                Err(why) => return Err(error(format!("raft_init(): io: {why}"))),
            };
            check_metadata(name, &content)?;
        }
        Ok(())
    }

    pub(crate) fn bind(&mut self, text: &str) -> Result<()> {
        self.must_not_run()?;
        let wanted = address::parse(text)
            .ok_or_else(|| error(format!("'{text}' is not an address to listen on")))?;
        // The port must be free for the same address again.
        self.bind = None;
        let socket = BoundSocket::bind(&wanted)
            .map_err(|why| error(format!("cannot bind {text}: {why}")))?;
        let addr = socket.local_addr().clone();
        let shown = match (&wanted, &addr) {
            (BindAddr::Tcp(wanted), _) if wanted.port() != 0 => text.to_owned(),
            _ => addr.to_string(),
        };
        let text = CString::new(shown).map_err(|_| error("an address holds a NUL"))?;
        self.bind = Some(Bound {
            addr,
            text,
            socket: Some(socket),
        });
        Ok(())
    }

    /// What is bound, as a text that lives until the next bind.
    pub(crate) fn bind_address(&self) -> Option<&CString> {
        self.bind.as_ref().map(|bound| &bound.text)
    }

    pub(crate) fn set_dialer(&mut self, dialer: Option<Dialer>) -> Result<()> {
        self.must_not_run()?;
        self.dialer = dialer.map(Arc::new);
        Ok(())
    }

    pub(crate) fn set_latency_ns(&mut self, ns: u64) -> Result<()> {
        if ns > LATENCY_MS_MAX * 1_000_000 {
            return Err(misuse("a network latency is an hour at most"));
        }
        self.set_latency_ms(ns / 1_000_000)
    }

    pub(crate) fn set_latency_ms(&mut self, ms: u64) -> Result<()> {
        self.must_not_run()?;
        if ms == 0 || ms > LATENCY_MS_MAX {
            return Err(misuse("a network latency is from 1 ms to an hour"));
        }
        self.latency_ms = Some(ms);
        Ok(())
    }

    pub(crate) fn set_failure_domain(&mut self, code: u64) -> Result<()> {
        self.failure_domain = code;
        if let State::Running(node) = &self.state {
            node.set_failure_domain(code);
        }
        Ok(())
    }

    /// What DESCRIBE reports until a client sets another.
    pub(crate) fn set_weight(&mut self, weight: u64) -> Result<()> {
        self.must_not_run()?;
        self.weight = weight;
        Ok(())
    }

    pub(crate) fn set_extension(&mut self, extension: Option<Extension>) -> Result<()> {
        self.must_not_run()?;
        self.extension = extension;
        Ok(())
    }

    pub(crate) fn set_snapshots(
        &mut self,
        threshold: u32,
        trailing: u32,
        dynamic: bool,
    ) -> Result<()> {
        self.must_not_run()?;
        if trailing < TRAILING_MIN || trailing < threshold {
            return Err(misuse(
                "trailing entries are at least 4 and at least the threshold",
            ));
        }
        self.snapshots = (threshold.into(), trailing.into());
        self.dynamic_trailing = dynamic;
        Ok(())
    }

    /// Segments are written in whole blocks of the file system whatever the program says; its wish
    /// is only checked.
    pub(crate) fn set_block_size(&mut self, size: usize) -> Result<()> {
        self.must_not_run()?;
        if !size.is_power_of_two() || !(512..=262_144).contains(&size) {
            return Err(error("a block size is a power of two from 512 to 262144"));
        }
        Ok(())
    }

    /// Databases are in memory always: what is replicated and stored is the same in either mode.
    pub(crate) fn enable_disk_mode(&mut self) -> Result<()> {
        self.must_not_run()?;
        log::warn!(
            "node {}: disk mode is not there, databases stay in memory",
            self.id
        );
        Ok(())
    }

    pub(crate) fn set_auto_recovery(&mut self, on: bool) -> Result<()> {
        self.auto_recovery = on;
        Ok(())
    }

    pub(crate) fn set_compression(&mut self, on: bool) -> Result<()> {
        self.compress = on;
        Ok(())
    }

    pub(crate) fn set_threads(&mut self, count: u32) -> Result<()> {
        let count = usize::try_from(count).unwrap_or(THREADS_MAX);
        self.threads = NonZeroUsize::new(count.min(THREADS_MAX));
        Ok(())
    }

    /// Matters at start, as the following two do.
    pub(crate) fn set_target_voters(&mut self, voters: i32) -> Result<()> {
        self.targets.voters = usize::try_from(voters).unwrap_or(0).max(1);
        Ok(())
    }

    pub(crate) fn set_target_standbys(&mut self, standbys: i32) -> Result<()> {
        self.targets.standbys = usize::try_from(standbys).unwrap_or(0);
        Ok(())
    }

    pub(crate) fn enable_role_management(&mut self) -> Result<()> {
        self.manages_roles = true;
        Ok(())
    }

    pub(crate) fn set_busy_timeout(&mut self, ms: u32) -> Result<()> {
        self.busy_timeout = Duration::from_millis(ms.into());
        if let State::Running(node) = &self.state {
            node.set_busy_timeout(self.busy_timeout);
        }
        Ok(())
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        match self.state {
            State::New => {}
            State::Running(_) => return Err(misuse("the node runs already")),
            State::Stopped => return Err(misuse("a stopped node cannot be started again")),
        }
        trace::begin();
        let Some(bound) = &mut self.bind else {
            return Err(misuse("no bind address"));
        };
        // An attempt that failed has used the socket up.
        let socket = match bound.socket.take() {
            Some(socket) => socket,
            None => BoundSocket::bind(&bound.addr)
                .map_err(|why| error(format!("cannot bind {}: {why}", bound.addr)))?,
        };
        let node = self.builder().start_on(socket).map_err(start_failure)?;
        self.state = State::Running(Box::new(node));
        Ok(())
    }

    fn builder(&self) -> NodeBuilder {
        let (threshold, trailing) = self.snapshots;
        let mut builder = Node::builder(self.id, &self.address, &self.dir)
            .unix_peers(UnixPeers::SameProcess)
            .failure_domain(self.failure_domain)
            .weight(self.weight)
            .snapshots(threshold, trailing)
            .dynamic_trailing(self.dynamic_trailing)
            .snapshot_compression(self.compress)
            .auto_recovery(self.auto_recovery)
            .busy_timeout(self.busy_timeout);
        if let Some(ms) = self.latency_ms {
            builder = builder.network_latency(Duration::from_millis(ms));
        }
        if let Some(count) = self.threads {
            builder = builder.sql_threads(count);
        }
        if let Some(extension) = self.extension {
            builder = builder.extension(extension);
        }
        if self.manages_roles {
            builder = builder.roles(self.targets);
        }
        match &self.dialer {
            Some(dialer) => builder.dialer(SharedDialer(Arc::clone(dialer))),
            None => builder,
        }
    }

    /// What is to be done to hand over, which takes its time: nobody waits for this node meanwhile.
    pub(crate) fn handover(&self) -> Result<Handover> {
        let State::Running(_) = &self.state else {
            return Err(misuse("the node does not run"));
        };
        Ok(Handover {
            dialer: self.dialing(),
            id: self.id,
            address: self.address.clone(),
        })
    }

    /// How this node reaches others.
    pub(crate) fn dialing(&self) -> Box<dyn Dial> {
        match &self.dialer {
            Some(dialer) => Box::new(SharedDialer(Arc::clone(dialer))),
            None => Box::new(PlainDialer),
        }
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let State::Running(_) = &self.state else {
            return Err(misuse("the node does not run"));
        };
        let State::Running(node) = std::mem::replace(&mut self.state, State::Stopped) else {
            return Ok(());
        };
        if let Some(dialer) = &self.dialer {
            dialer.close();
        }
        node.stop().map_err(|why| error(format!("stop: {why}")))
    }

    /// Stops it if it runs and waits until the program's connect function has returned.
    pub(crate) fn end(mut self) {
        if let State::Running(_) = &self.state
            && let Err(failure) = self.stop()
        {
            log::error!("node {}: {}", self.id, failure.message);
        }
        if let Some(dialer) = &self.dialer {
            dialer.close();
            dialer.wait();
        }
    }

    /// Forces a configuration onto the directory.
    pub(crate) fn recover(&mut self, configuration: &Configuration) -> Result<()> {
        self.must_not_run()?;
        trace::begin();
        let dir = DataDir::open(&self.dir).map_err(|why| match why {
            OpenError::Locked => error(why.to_string()),
            why => error(format!("raft_recover(): io: {why}")),
        })?;
        dir.force_configuration(configuration, &self.recover_options())
            .map(drop)
            .map_err(|why| match why {
                RecoverError::NeverStarted => error("raft_recover(): nothing to recover"),
                why => error(format!("raft_recover(): io: {why}")),
            })
    }

    /// Index and term of the last entry in the directory.
    pub(crate) fn last_entry(&self) -> Result<(u64, u64)> {
        self.must_not_run()?;
        let disk = DataDir::look(&self.dir).map_err(|why| error(format!("io: {why}")))?;
        dq_raft::log::data_dir::last_entry(&disk, &self.recover_options())
            .map_err(|why| error(format!("io: {why}")))
    }

    fn recover_options(&self) -> RecoverOptions {
        RecoverOptions {
            auto_recovery: self.auto_recovery,
            now_nanos: wall_nanos(),
            ..RecoverOptions::default()
        }
    }

    fn must_not_run(&self) -> Result<()> {
        match self.state {
            State::Running(_) => Err(misuse("the node runs")),
            State::New | State::Stopped => Ok(()),
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn wall_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn check_metadata(name: &str, content: &[u8]) -> Result<()> {
    if content.len() > Metadata::SIZE {
        return Err(error(format!(
            "raft_init(): io: {name} is larger than {} bytes",
            Metadata::SIZE
        )));
    }
    // What a write that was cut short leaves behind counts as nothing.
    let torn = content.len() < Metadata::SIZE || content.iter().all(|byte| *byte == 0);
    match content.first_chunk::<8>() {
        Some(format) if !torn && Metadata::decode(content).is_err() => {
            let format = u64::from_le_bytes(*format);
            Err(error(format!(
                "raft_init(): io: decode content of {name}: bad format version {format}"
            )))
        }
        _ => Ok(()),
    }
}

fn start_failure(why: StartError) -> crate::code::Failure {
    error(match why {
        StartError::Directory(OpenError::Locked) | StartError::Bind { .. } => why.to_string(),
        StartError::Config(text) => text,
        why => format!("raft_start(): io: {why}"),
    })
}
