//! A cluster whose network can be cut: nodes in namespaces of their own, and the wire between them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use dq_client::{Cluster, Config, MemStore, Pool, RetryPolicy, Role};

use super::content;
use super::namespace::{self, Namespace};
use super::wire::{Rule, Wire};
use crate::servers::{Kind, Options, Server, probe_leader};

/// How long the cluster may take to be whole again when all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 9000;
/// The latency setting of nodes, unless a test wants another: an election timeout of 300 ms.
pub(super) const LATENCY_MS: u32 = 20;

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

/// A cluster of either kind or both. Nodes are counted from 0; the ids of the first ones are 1, 2, 3.
#[derive(Debug)]
pub struct Bed {
    /// The nodes.
    pub servers: Vec<Server>,
    /// What they are connected by. Namespace 0 is the clients', that of a node is one more than its
    /// number here.
    pub wire: Wire,
    /// How nodes of C dqlite have ended without being told to, and started again.
    pub c_ended: Vec<String>,
    namespaces: Vec<Namespace>,
    latency_ms: u32,
    arguments: Vec<String>,
    c_arguments: Vec<String>,
    small: Option<SmallDisk>,
}

impl Bed {
    /// Starts `voters` nodes of ours with these arguments, and has place for `others` more.
    ///
    /// # Panics
    /// As [`Bed::start_kinds`].
    pub fn start(voters: usize, others: usize, arguments: &[&str], seed: u64) -> Bed {
        Bed::start_kinds(
            &vec![Kind::Ours; voters],
            others,
            (arguments, &[]),
            LATENCY_MS,
            seed,
        )
    }

    /// Starts voters of these kinds, and has place for `others` more of ours. The arguments are those for
    /// our program, and those for `c-node`; the latency setting is that of all.
    ///
    /// The calling thread, which talks to them, is in the clients' namespace from then on.
    ///
    /// # Panics
    /// If anything goes wrong; see [`possible`](super::possible).
    pub fn start_kinds(
        voters: &[Kind],
        others: usize,
        arguments: (&[&str], &[&str]),
        latency_ms: u32,
        seed: u64,
    ) -> Bed {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let (clients, device) = Namespace::new(0).expect("a namespace can be made");
        let mut devices = vec![device];
        let mut namespaces = Vec::new();
        for number in 1..=voters.len() + others {
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
            c_ended: Vec::new(),
            namespaces,
            latency_ms,
            arguments: owned(arguments.0),
            c_arguments: owned(arguments.1),
            small: None,
        };
        // C dqlite 1.11.1 has no such setting.
        bed.arguments
            .extend(["--busy-timeout-ms", "1000"].map(str::to_owned));
        bed.start_node(voters[0], None);
        let first = bed.servers[0].address().to_owned();
        bed.servers[0]
            .wait_leader(&first)
            .expect("the first one leads");
        for (voter, kind) in voters.iter().enumerate().skip(1) {
            // The last one can run out of space.
            if voter == voters.len() - 1 {
                bed.small = SmallDisk::mount();
            }
            let parent = bed.small.as_ref().map(|small| small.path.clone());
            bed.start_node(*kind, parent);
            bed.add(voter);
        }
        bed
    }

    /// Starts one more node, on an empty directory, and makes it no member of anything.
    ///
    /// # Panics
    /// If it does not start, or there is no place left.
    pub fn start_another(&mut self) -> usize {
        self.start_node(Kind::Ours, None);
        self.servers.len() - 1
    }

    fn start_node(&mut self, kind: Kind, parent_dir: Option<PathBuf>) {
        let number = u8::try_from(self.servers.len() + 1).expect("a small cluster");
        let options = Options {
            id: u64::from(number),
            address: Some(format!("{}:{PORT}", namespace::address(number))),
            parent_dir,
            latency_ms: Some(self.latency_ms),
            arguments: self.arguments.clone(),
            c_arguments: self.c_arguments.clone(),
            ..Options::default()
        };
        let namespace = &self.namespaces[self.servers.len()];
        let started = namespace.within(|| Server::start(kind, options));
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
    /// If it does not start. One of C dqlite that ends as it starts is tried again for a while.
    pub fn start_again(&mut self, node: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let server = &mut self.servers[node];
            match self.namespaces[node].within(|| server.start_again()) {
                Ok(()) => return,
                Err(error) if server.kind() == Kind::C && Instant::now() < deadline => {
                    self.note_c_end(node, &error.to_string());
                }
                Err(error) => panic!("it starts again: {error}"),
            }
        }
    }

    /// Starts those of C dqlite again that have ended by themselves.
    ///
    /// # Panics
    /// As [`Bed::start_again`].
    pub fn revive(&mut self) {
        for node in 0..self.servers.len() {
            let server = &mut self.servers[node];
            let ended = server.exit_status().expect("it is our child");
            if let Some(status) = ended.filter(|_| server.kind() == Kind::C) {
                self.note_c_end(node, &status.to_string());
                self.start_again(node);
            }
        }
    }

    /// Ends a node, and has the other kind go on in its directory; cleanly, or by `kill -9`.
    ///
    /// # Panics
    /// If one of ours does not end well, or the new one does not start.
    pub fn replace(&mut self, node: usize, cleanly: bool) {
        let server = &mut self.servers[node];
        let (old, new) = match server.kind() {
            Kind::C => (Kind::C, Kind::Ours),
            Kind::Ours => (Kind::Ours, Kind::C),
        };
        let ended: io::Result<()> = match cleanly {
            true => server.stop(),
            false => server.kill(),
        };
        match ended {
            Err(error) if old == Kind::C => self.note_c_end(node, &error.to_string()),
            ended => ended.expect("it ends well"),
        }
        let server = &mut self.servers[node];
        server.change_kind(new).expect("it has ended");
        self.start_again(node);
    }

    /// Writes down how a node of C dqlite has ended, and its last words, and makes sure that it has.
    fn note_c_end(&mut self, node: usize, how: &str) {
        let server = &mut self.servers[node];
        server.kill().expect("it can be killed");
        let log = server.log();
        let last = log.lines().next_back().unwrap_or_default();
        let how = how.lines().next().unwrap_or_default();
        println!("           C node {} ended: {how}; {last}", server.id());
        self.c_ended.push(format!("{how}; {last}"));
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
                .map(|files| content::pages(&files?))
                .collect();
            if let Some(first) = &dumps[0]
                && dumps.iter().all(|dump| *dump == dumps[0])
            {
                return match content::integrity(first).as_str() {
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
