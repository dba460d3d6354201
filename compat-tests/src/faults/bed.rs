//! A cluster whose network can be cut: nodes in namespaces of their own, and the wire between them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use dq_client::{Cluster, Config, MemStore, Pool, RetryPolicy, Role};

use super::namespace::{self, Namespace};
use super::wire::{Rule, Wire};
use crate::servers::{Kind, Options, Server, probe_leader};

/// How long the cluster may take to be whole again when all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 9000;

/// Clients whose requests fail soon and are not tried again.
pub fn impatient() -> Config {
    Config::new()
        .dial_timeout(Duration::from_millis(500))
        .attempt_timeout(Duration::from_secs(2))
        .request_timeout(Some(Duration::from_secs(2)))
        .acquire_timeout(Duration::from_secs(2))
        .backoff(Duration::from_millis(20), Duration::from_millis(200))
        .retry(RetryPolicy::never())
}

/// Tries until somebody leads: a pool begins with a connection.
///
/// # Panics
/// If nobody does for a minute.
pub fn connect(config: &Config, addresses: &[String], database: &str) -> Pool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match config.clone().connect(MemStore::new(addresses), database) {
            Ok(pool) => return pool,
            Err(error) => assert!(Instant::now() < deadline, "nobody leads: {error}"),
        }
    }
}

/// A cluster of ours. Nodes are counted from 0; the ids of the first ones are 1, 2, 3.
#[derive(Debug)]
pub struct Bed {
    /// The nodes.
    pub servers: Vec<Server>,
    /// What they are connected by. Namespace 0 is the clients', that of a node is one more than its
    /// number here.
    pub wire: Wire,
    namespaces: Vec<Namespace>,
    arguments: Vec<String>,
    small: Option<SmallDisk>,
}

impl Bed {
    /// Starts `voters` nodes with these arguments, and has place for `others` more.
    ///
    /// The calling thread, which talks to them, is in the clients' namespace from then on.
    ///
    /// # Panics
    /// If anything goes wrong; see [`possible`](super::possible).
    pub fn start(voters: usize, others: usize, arguments: &[&str], seed: u64) -> Bed {
        let (clients, device) = Namespace::new(0).expect("a namespace can be made");
        let mut devices = vec![device];
        let mut namespaces = Vec::new();
        for number in 1..=voters + others {
            let number = u8::try_from(number).expect("a small cluster");
            let (namespace, device) = Namespace::new(number).expect("a namespace can be made");
            namespaces.push(namespace);
            devices.push(device);
        }
        let wire = Wire::new(devices, seed);
        clients.enter().expect("a namespace of ours can be entered");
        let mut bed = Bed {
            servers: Vec::new(),
            wire,
            namespaces,
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            small: None,
        };
        bed.start_node(None);
        let first = bed.servers[0].address().to_owned();
        bed.servers[0]
            .wait_leader(&first)
            .expect("the first one leads");
        for voter in 1..voters {
            // The last one can run out of space.
            if voter == voters - 1 {
                bed.small = SmallDisk::mount();
            }
            let parent = bed.small.as_ref().map(|small| small.path.clone());
            bed.start_node(parent);
            bed.add(voter);
        }
        bed
    }

    /// Starts one more node, on an empty directory, and makes it no member of anything.
    ///
    /// # Panics
    /// If it does not start, or there is no place left.
    pub fn start_another(&mut self) -> usize {
        self.start_node(None);
        self.servers.len() - 1
    }

    fn start_node(&mut self, parent_dir: Option<PathBuf>) {
        let number = u8::try_from(self.servers.len() + 1).expect("a small cluster");
        let options = Options {
            id: u64::from(number),
            address: Some(format!("{}:{PORT}", namespace::address(number))),
            parent_dir,
            latency_ms: Some(20),
            busy_timeout_ms: Some(1000),
            arguments: self.arguments.clone(),
            ..Options::default()
        };
        let namespace = &self.namespaces[self.servers.len()];
        let started = namespace.within(|| Server::start(Kind::Ours, options));
        self.servers.push(started.expect("the server starts"));
    }

    /// Makes a node a voter.
    ///
    /// # Panics
    /// If the cluster does not take it.
    pub fn add(&self, node: usize) {
        let server = &self.servers[node];
        self.cluster()
            .add(server.id(), server.address(), Role::Voter)
            .expect("it becomes a voter");
    }

    /// Starts a node again that was killed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self, node: usize) {
        let server = &mut self.servers[node];
        self.namespaces[node]
            .within(|| server.start_again())
            .expect("it starts after a crash");
    }

    /// The addresses of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.servers
            .iter()
            .map(|server| server.address().to_owned())
            .collect()
    }

    /// What changes members, through whichever node leads.
    pub fn cluster(&self) -> Cluster<'static> {
        Cluster::new(Config::new(), MemStore::new(self.addresses()))
            .timeout(Some(Duration::from_secs(5)))
    }

    /// Lets nothing through between a node and the other nodes, in either direction or one.
    pub fn cut_from_nodes(&self, node: usize, sends: bool, receives: bool) {
        for other in (0..self.namespaces.len()).filter(|&other| other != node) {
            if sends {
                self.wire.set(node + 1, other + 1, CUT);
            }
            if receives {
                self.wire.set(other + 1, node + 1, CUT);
            }
        }
    }

    /// The same as if the machine had lost its power: nobody hears from it any more, and nobody is told.
    pub fn cut_from_all(&self, node: usize) {
        self.cut_from_nodes(node, true, true);
        self.wire.set(node + 1, 0, CUT);
        self.wire.set(0, node + 1, CUT);
    }

    /// Makes the network good again.
    pub fn heal(&self) {
        self.wire.set_all(Rule::default());
    }

    /// The node that most of the nodes take for the leader; `None` if there is none within a time.
    pub fn leader(&self, within: Duration) -> Option<usize> {
        let deadline = Instant::now() + within;
        loop {
            let mut votes = BTreeMap::new();
            for server in self.servers.iter().filter(|server| server.pid().is_some()) {
                if let Ok(leader) = probe_leader(server.address()) {
                    *votes.entry(leader).or_insert(0) += 1;
                }
            }
            let most = self.servers.len() / 2;
            let found = self
                .servers
                .iter()
                .position(|server| votes.get(server.address()) > Some(&most));
            if found.is_some() || Instant::now() > deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all nodes have the same pages of a database, and has SQLite check these.
    ///
    /// # Errors
    /// They do not become the same in a minute, or are not sound.
    pub fn check_equal(&self, database: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let cluster = self.cluster();
        loop {
            let dumps: Vec<Option<Vec<u8>>> = self
                .servers
                .iter()
                .map(|server| cluster.dump_from(server.address(), database).ok())
                .map(|files| Some(files?.into_iter().next()?.data))
                .collect();
            if let Some(first) = &dumps[0]
                && dumps.iter().all(|dump| *dump == dumps[0])
            {
                return match integrity(first).as_str() {
                    "ok" => Ok(()),
                    verdict => Err(verdict.to_owned()),
                };
            }
            if Instant::now() > deadline {
                let sizes: Vec<_> = dumps
                    .iter()
                    .map(|dump| dump.as_ref().map(Vec::len))
                    .collect();
                return Err(format!("the databases differ; bytes: {sizes:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fills the small disk of the last voter, if it has one; `true` if so.
    pub fn fill_disk(&self) -> bool {
        self.small.as_ref().map(SmallDisk::fill).is_some()
    }

    /// Gives the space back.
    pub fn empty_disk(&self) {
        self.small.as_ref().map(SmallDisk::empty);
    }
}

/// A rule that lets nothing through.
pub(super) const CUT: Rule = Rule {
    cut: true,
    loss_percent: 0,
    delay_us: 0,
    jitter_us: 0,
};

/// What `PRAGMA integrity_check` of the sqlite3 program says.
fn integrity(database: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a file can be made");
    file.write_all(database).expect("it can be written");
    let output = Command::new("sqlite3")
        .arg(file.path())
        .arg("PRAGMA integrity_check")
        .output()
        .expect("sqlite3 can be started");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// A file system of its own, small enough to be filled at once.
#[derive(Debug)]
struct SmallDisk {
    path: PathBuf,
    // Where it is mounted; removed after it is unmounted.
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=384m", "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| SmallDisk {
            path: dir.path().to_owned(),
            _dir: dir,
        })
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("a file can be made");
        let block = vec![1; 1 << 16];
        // The error at the end is the point; then byte by byte would gain less than a page.
        while file.write_all(&block).is_ok() {}
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
