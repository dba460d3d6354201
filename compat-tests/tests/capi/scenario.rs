//! One long session with Debian's demo and shell, on our library and on Debian's own: what is printed
//! has to be the same, but for ports and ids.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use compat_tests::servers::find_in_path_or_skip;
use nix::sys::signal::Signal;

use crate::stock::{Demo, Library, Programs, Said};

/// Rows that fill some pages, so that a dump is more than a header.
const FILL: &str = "INSERT INTO model WITH RECURSIVE n(i) AS \
    (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) \
    SELECT 'row ' || i, 'the value of row ' || i FROM n";

/// Rows at the end: one by each node, those, and one by the shell.
const ROWS: usize = 3 + 2000 + 1;

#[test]
fn a_session_with_the_stock_demo_and_shell_prints_what_it_prints_on_debians_library() {
    let Some(sqlite) = find_in_path_or_skip("sqlite3") else {
        return;
    };
    let play = |library| {
        let programs = Programs::find_or_skip(library)?;
        Some(Session::new(programs, sqlite.clone()).play())
    };
    let (ours, debians) = thread::scope(|scope| {
        let ours = scope.spawn(|| play(Library::Ours));
        let debians = play(Library::Debians);
        (ours.join(), debians)
    });
    let (Some(ours), Some(debians)) = (ours.expect("ours holds"), debians) else {
        return;
    };
    assert_eq!(ours, debians);
    // Not only equal, but what it should be.
    let expected = [
        "SELECT count(*) FROM model: \"3\\n\"",
        "SELEC: Some(1) \"\" \"Error: exec: near \\\"SELEC\\\": syntax error\"",
        ".describe: \"node2|0|0\\n\"",
        ".describe again: \"node2|0|7\\n\"",
        ".dump: [\"demo\", \"demo-wal\"] \"ok\\n2004\\n\"",
        ".remove again: Some(1) \"\" \"Error: no node has address \\\"node3\\\"\"",
        ".reconfigure: Some(0) \"OK\\n\" \"\"",
        "the end: \"2004\\n\"",
    ];
    for line in expected {
        assert!(
            ours.iter().any(|said| said == line),
            "{line} is not in {ours:#?}"
        );
    }
}

struct Session {
    programs: Programs,
    sqlite: PathBuf,
    scratch: tempfile::TempDir,
    nodes: Vec<Demo>,
    transcript: Vec<String>,
}

impl Session {
    fn new(programs: Programs, sqlite: PathBuf) -> Session {
        Session {
            programs,
            sqlite,
            scratch: tempfile::tempdir().expect("a directory"),
            nodes: Vec::new(),
            transcript: Vec::new(),
        }
    }

    /// All of it; returns what was seen.
    fn play(mut self) -> Vec<String> {
        for _ in 0..3 {
            self.add_node();
        }
        self.programs.wait_voters(&self.servers(), 3);
        self.keys();
        self.statements();
        self.metadata();
        self.dump();
        self.replace_a_member();
        self.leader_ends();
        self.majority_is_lost();
        self.transcript
    }

    /// A new member, the first of which begins the cluster. They come one after the other, so that the
    /// order of the members is known.
    fn add_node(&mut self) {
        let dir = self.scratch.path().join(self.nodes.len().to_string());
        let join = self.nodes.first().map(|node| node.db.clone());
        let node = Demo::start(&self.programs, dir, join.as_deref());
        let address = node.db.clone();
        self.nodes.push(node);
        self.programs.wait(&self.servers(), ".cluster", |members| {
            members.contains(&address)
        });
    }

    fn servers(&self) -> String {
        let servers: Vec<&str> = self.nodes.iter().map(|node| node.db.as_str()).collect();
        servers.join(",")
    }

    /// What the shell says, here being the directory that it works in.
    fn ask(&self, line: &str) -> Said {
        self.programs
            .ask(self.scratch.path(), &self.servers(), line)
    }

    /// Writes down what was seen, with names for addresses and without the ids.
    fn note(&mut self, what: &str, seen: &str) {
        let mut seen = seen.to_owned();
        for (n, node) in self.nodes.iter().enumerate() {
            seen = seen.replace(&node.db, &format!("node{}", n + 1));
        }
        self.transcript.push(format!("{what}: {seen}"));
    }

    fn note_said(&mut self, what: &str, line: &str) {
        let said = self.ask(line);
        let seen = format!("{:?} {:?} {:?}", said.code, said.out, said.error);
        self.note(what, &seen);
    }

    fn note_output(&mut self, what: &str, line: &str) {
        let out = self.ask(line).out;
        self.note(what, &format!("{out:?}"));
    }

    /// Members without their ids, which are random.
    fn note_members(&mut self) {
        let members = self.ask(".cluster").out;
        let without_ids: Vec<&str> = members
            .lines()
            .filter_map(|line| line.split_once('|'))
            .map(|(_, rest)| rest)
            .collect();
        self.note(".cluster", &without_ids.join(" "));
    }

    /// The leader's place in the list of nodes.
    fn leader(&self) -> usize {
        let known = |said: &str| self.nodes.iter().any(|node| node.db == said.trim_end());
        let said = self.programs.wait(&self.servers(), ".leader", known);
        let leads = |node: &Demo| node.db == said.trim_end();
        self.nodes
            .iter()
            .position(leads)
            .expect("it is one of them")
    }

    fn keys(&mut self) {
        for (n, node) in self.nodes.iter().enumerate() {
            node.wait("PUT", &format!("key{n}"), &format!("value{n}"), "done");
        }
        for asked in 0..3 {
            for n in 0..4 {
                let got = self.nodes[asked].request("GET", &format!("key{n}"), "");
                self.note(&format!("GET key{n} of {asked}"), &got);
            }
        }
        self.note_members();
        let leader = self.leader();
        self.note(".leader", &format!("is one of them: {}", leader < 3));
    }

    fn statements(&mut self) {
        self.note_output("SELECT", "SELECT key, value FROM model ORDER BY key");
        self.note_output("SELECT count(*) FROM model", "SELECT count(*) FROM model");
        self.note_output("nothing", "SELECT value FROM model WHERE key = 'none'");
        self.note_said(
            "INSERT",
            "INSERT INTO model(key, value) VALUES('shell', 'said')",
        );
        for node in 0..3 {
            let got = self.nodes[node].request("GET", "shell", "");
            self.note("GET shell", &got);
        }
        self.note_said(
            "INSERT again",
            "INSERT INTO model(key, value) VALUES('shell', 'more')",
        );
        self.note_said("no table", "INSERT INTO missing VALUES(1)");
        self.note_said("SELEC", "SELEC 1");
        self.note_said("two", "SELECT 1; SELECT 2");
        self.note_said("INSERT of many", FILL);
    }

    fn metadata(&mut self) {
        let second = self.nodes[1].db.clone();
        self.note_output(".describe", &format!(".describe {second}"));
        self.note_said(".weight", &format!(".weight {second} 7"));
        self.note_said("bad .weight", &format!(".weight {second} -1"));
        self.note_output(".describe again", &format!(".describe {second}"));
    }

    /// The leader's, which has applied all of it.
    fn dump(&mut self) {
        let leader = self.nodes[self.leader()].db.clone();
        let dir = tempfile::tempdir().expect("a directory");
        let said = self
            .programs
            .ask(dir.path(), &self.servers(), &format!(".dump {leader} demo"));
        assert_eq!(said.code, Some(0), "{said:?}");
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        let rows = self.sqlite(
            dir.path(),
            "PRAGMA integrity_check; SELECT count(*) FROM model",
        );
        self.note(".dump", &format!("{names:?} {rows:?}"));
    }

    fn sqlite(&self, dir: &Path, sql: &str) -> String {
        let output = Command::new(&self.sqlite)
            .current_dir(dir)
            .args(["demo", sql])
            .output()
            .expect("sqlite3 runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The third node is removed, and another one comes in its place.
    fn replace_a_member(&mut self) {
        if self.leader() == 2 {
            // An election on a busy machine: the demo hands over when it ends.
            self.nodes[2].end(Signal::SIGTERM);
            self.nodes[2].start_again();
            self.programs.wait_voters(&self.servers(), 3);
        }
        let third = self.nodes[2].db.clone();
        self.note_said(".remove", &format!(".remove {third}"));
        self.note_members();
        self.note_said(".remove again", &format!(".remove {third}"));
        self.nodes[2].end(Signal::SIGKILL);
        self.add_node();
        self.programs.wait_voters(&self.servers(), 3);
        self.note_members();
    }

    /// The leader is told to end, and the others go on.
    fn leader_ends(&mut self) {
        let first = self.leader();
        self.nodes[first].end(Signal::SIGTERM);
        // Neither that one nor the third, which is gone.
        let other = if first == 3 { 1 } else { 3 };
        self.nodes[other].wait("GET", "shell", "", "said");
        let second = self.leader();
        self.note("the leader ended", &format!("another: {}", second != first));
        self.note_output("SELECT of the next", "SELECT count(*) FROM model");
    }

    /// All are killed, and the last leader's directory becomes a cluster of its own.
    fn majority_is_lost(&mut self) {
        let last = self.leader();
        for node in &mut self.nodes {
            node.kill();
        }
        let dir = self.nodes[last].data_dir();
        let info = fs::read_to_string(dir.join("info.yaml")).expect("go-dqlite's file");
        let (mut id, mut address) = ("", "");
        for line in info.lines() {
            match line.split_once(": ") {
                Some(("ID", value)) => id = value,
                Some(("Address", value)) => address = value,
                _ => {}
            }
        }
        let members = self.scratch.path().join("cluster.yaml");
        let text = format!("- Address: {address}\n  ID: {id}\n  Role: 0\n");
        fs::write(&members, &text).expect("written");
        let line = format!(".reconfigure {} {}", dir.display(), members.display());
        self.note_said(".reconfigure", &line);
        fs::copy(&members, dir.join("cluster.yaml")).expect("copied");

        self.nodes[last].start_again();
        self.nodes[last].wait("GET", "shell", "", "said");
        self.nodes[last].wait("PUT", "shell", "alone", "done");
        let server = self.nodes[last].db.clone();
        let members = self.programs.shell(&server, ".cluster");
        self.note("members at the end", &members.lines().count().to_string());
        let count = self.programs.shell(&server, "SELECT count(*) FROM model");
        self.note("the end", &format!("{count:?}"));
        assert_eq!(count, format!("{ROWS}\n"));
        self.nodes[last].end(Signal::SIGTERM);
    }
}
