//! What a parsed case consists of.

use std::time::Duration;

use dq_wire::{Role, RowsEnd};

use super::message::{Message, RawBytes, Value};
use super::text::Text;

/// A case: a sentence about behaviour, and the steps that show it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Number, with a letter where one number has several cases: `44`, `91b`.
    pub id: String,
    /// The number alone.
    pub number: u32,
    /// The sentence.
    pub title: String,
    /// Where it begins, as `file:line`.
    pub place: String,
    /// What it takes to run it.
    pub needs: Needs,
    /// Targets that it is not run on, and why.
    pub skips: Vec<(Vec<Target>, String)>,
    /// Settings of the nodes.
    pub settings: Settings,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Settings of the nodes that a case runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Settings {
    /// Write queue timeout.
    pub busy_timeout_ms: Option<u32>,
    /// NULL in typed columns is sent as NULL; only ours can.
    pub null_in_typed_columns: bool,
}

/// What it takes to run a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// One node that leads itself.
    OneNode,
    /// The same, restarted on the way.
    Restart,
    /// Three voters and a spare.
    Cluster,
    /// Client software; run by the tests that drive it, the case only says what is covered.
    Clients,
}

/// A server under test, as cases name it: `dq`, `c` for every version of C, `c-1.11.1` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub String);

impl Target {
    /// Whether this name, in a case, stands for the server `other`.
    pub fn covers(&self, other: &Target) -> bool {
        self == other || (self.0 == "c" && other.0.starts_with("c-"))
    }
}

/// One line of a case.
#[derive(Debug, Clone)]
pub struct Step {
    /// Where it stands in its file, from 1.
    pub line: usize,
    /// Targets that it is for; all if empty.
    pub only: Vec<Target>,
    /// Which connection it is about.
    pub connection: char,
    /// What to do.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Connect to a node and send the protocol word, if any.
    Connect {
        /// Its letter.
        node: char,
        /// The word.
        word: Option<u64>,
    },
    /// Send a request.
    Send(Message),
    /// Send bytes.
    Bytes(Vec<RawBytes>),
    /// Keep what is sent until [`Action::Flush`].
    Cork,
    /// Send what was kept, in one write.
    Flush,
    /// From now on one byte per write.
    Bytewise,
    /// End the sending direction.
    Shutdown,
    /// Close the connection.
    Close,
    /// Read, and compare.
    Expect {
        /// At least so long after the last request on this connection.
        after: Duration,
        /// If something else comes, ask again.
        eventually: bool,
        /// What must come.
        what: Expected,
        /// What must come on some targets.
        instead: Vec<(Vec<Target>, Expected)>,
    },
    /// Open that many idle connections, then send LEADER on each.
    Crowd(usize),
    /// Stop the node and start it again; all connections are gone.
    Restart,
    /// Stop a node of the cluster.
    StopNode(char),
    /// Start it again.
    StartNode(char),
    /// Freeze it.
    PauseNode(char),
    /// Let it go on.
    ResumeNode(char),
    /// Wait until every running voter names this node as leader.
    AwaitLeader(char),
}

/// What a step wants to read.
#[derive(Debug, Clone)]
pub enum Expected {
    /// One message.
    Reply(Reply),
    /// One message, byte by byte.
    Bytes(Vec<RawBytes>),
    /// A RESULT whatever it says.
    AnyResult,
    /// The end of the connection without a reply.
    Close,
    /// The next ROWS: bytes in its body, number of rows, how it ends.
    Batch(usize, usize, RowsEnd),
    /// ROWS up to the end: number of rows, least number of messages before the last.
    Stream(usize, usize),
    /// Any ROWS, perhaps cut short by a FAILURE of code 9, then EMPTY.
    Drain,
    /// FILES; this SQL run on them by the `sqlite3` shell prints this.
    Dumped(Text, Text),
}

/// One message of a server.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// FAILURE.
    Failure(u64, Text),
    /// SERVER.
    Server(u64, Text),
    /// SERVER for legacy clients.
    ServerLegacy(Text),
    /// WELCOME.
    Welcome(u64),
    /// SERVERS, format 1.
    Servers(Vec<(u64, Text, Role)>),
    /// SERVERS, format 0.
    ServersV0(Vec<(u64, Text)>),
    /// DB.
    Db(u32),
    /// STMT: database, id, parameters, tail.
    Stmt(u32, u32, u64, Option<u64>),
    /// RESULT.
    Result(u64, u64),
    /// ROWS: columns, rows, end.
    Rows(Vec<Text>, Vec<Vec<Value>>, RowsEnd),
    /// EMPTY.
    Empty,
    /// FILES: names and sizes; what is in the files is not compared.
    Files(Vec<(Text, usize)>),
    /// METADATA.
    Metadata(u64, u64),
}
