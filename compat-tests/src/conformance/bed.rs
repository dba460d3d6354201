//! The nodes that a case runs on: one, or three voters and a spare.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dq_wire::header::{request_type, response_type};
use dq_wire::{PROTOCOL_V1, Role};

use super::connection::{Connection, Received};
use super::message::{Message, Request};
use super::script::Settings;
use super::text::{Names, Text};
use crate::servers::{self, Kind, Options, Server};

/// Latency setting of cluster nodes: elections take a second or so, and a busy machine does not cause
/// them.
const CLUSTER_LATENCY_MS: u32 = 50;

/// Pause between two looks at a condition that only polling can see.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// Nodes by their letter.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) nodes: BTreeMap<char, Server>,
}

impl Bed {
    /// One node, which leads: L.
    pub(super) fn single(kind: Kind, settings: Settings) -> io::Result<Bed> {
        let options = Options {
            parent_dir: memory_dir(),
            ..node_options(settings)
        };
        let server = Server::start(kind, options)?;
        server.wait_leader(server.address())?;
        Ok(Bed {
            nodes: BTreeMap::from([('L', server)]),
        })
    }

    /// Node 1 leads and is L; voters F and G are nodes 2 and 3, and S is node 4, a spare.
    pub(super) fn cluster(kind: Kind, settings: Settings) -> io::Result<Bed> {
        let mut nodes = BTreeMap::new();
        for (letter, id) in [('L', 1), ('F', 2), ('G', 3), ('S', 4)] {
            let options = Options {
                id,
                latency_ms: Some(CLUSTER_LATENCY_MS),
                parent_dir: memory_dir(),
                ..node_options(settings)
            };
            nodes.insert(letter, Server::start(kind, options)?);
        }
        let leader = nodes[&'L'].address();
        nodes[&'L'].wait_leader(leader)?;
        let mut connection = Connection::open(leader, Some(PROTOCOL_V1))?;
        for letter in ['F', 'G', 'S'] {
            let node = &nodes[&letter];
            let address = Text::literal(node.address());
            let add = Request::IdAddress(request_type::ADD, node.id(), address);
            change(&mut connection, add)?;
            if letter != 'S' {
                change(
                    &mut connection,
                    Request::Assign(node.id(), Role::Voter.to_wire()),
                )?;
            }
        }
        for letter in ['F', 'G'] {
            nodes[&letter].wait_leader(leader)?;
        }
        Ok(Bed { nodes })
    }

    /// What names stand for on these nodes.
    pub(super) fn names(&self, database: String) -> Names {
        Names {
            database,
            addresses: self
                .nodes
                .iter()
                .map(|(&letter, node)| (letter, node.address().to_owned()))
                .collect(),
        }
    }

    /// The first node whose process has ended on its own, with its log.
    pub(super) fn dead(&mut self) -> Option<String> {
        self.nodes.iter_mut().find_map(|(letter, node)| {
            let status = node.exit_status().ok().flatten()?;
            let log = node.log();
            let tail: Vec<_> = log.lines().rev().take(12).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            Some(format!(
                "node {letter} ended with {status}: {}",
                tail.join("\n      ")
            ))
        })
    }

    /// Freezes a node, and waits until none of its threads runs any more: the signal alone leaves it
    /// time for an answer.
    pub(super) fn pause(&self, letter: char) -> Result<(), String> {
        let node = self.nodes.get(&letter).ok_or("no such node")?;
        node.pause().map_err(|error| error.to_string())?;
        let tasks = format!("/proc/{}/task", node.pid().ok_or("the node does not run")?);
        let deadline = Instant::now() + servers::DEADLINE;
        while !all_stopped(&tasks).map_err(|error| error.to_string())? {
            if Instant::now() > deadline {
                return Err(format!("node {letter} does not freeze"));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits until every running voter names `leader`.
    pub(super) fn await_leader(&self, leader: char) -> Result<(), String> {
        let wanted = self.nodes.get(&leader).ok_or("no such node")?.address();
        let deadline = Instant::now() + servers::DEADLINE;
        for (letter, node) in &self.nodes {
            while *letter != 'S' && node.pid().is_some() {
                if servers::probe_leader(node.address()).is_ok_and(|named| named == wanted) {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!("node {letter} does not name {leader} as leader"));
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

/// Whether each thread is in state T, which follows the program's name in parentheses.
fn all_stopped(tasks: &str) -> io::Result<bool> {
    for task in fs::read_dir(tasks)? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        if !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A node's options for a case's settings.
fn node_options(settings: Settings) -> Options {
    let mut options = Options {
        busy_timeout_ms: settings.busy_timeout_ms,
        ..Options::default()
    };
    if settings.null_in_typed_columns {
        options.arguments.push("--null-in-typed-columns".to_owned());
    }
    options
}

/// Where nodes keep their directories: in memory where that is possible.
pub(crate) fn memory_dir() -> Option<PathBuf> {
    let shm = PathBuf::from("/dev/shm");
    shm.is_dir().then_some(shm)
}

fn change(connection: &mut Connection, request: Request) -> io::Result<()> {
    let mut bytes = Vec::new();
    Message::from(request).encode(&mut bytes, &Names::default());
    connection.send(&bytes)?;
    match connection.receive(servers::DEADLINE)? {
        Received::Frame(frame) if frame.header.kind == response_type::EMPTY => Ok(()),
        other => Err(io::Error::other(format!(
            "a cluster cannot be formed: {other:?}"
        ))),
    }
}
