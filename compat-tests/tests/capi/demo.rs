//! Debian's `dqlite-demo`, `dqlite` and `dqlite-benchmark` as they are, on our library.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use compat_tests::servers::{find_in_path_or_skip, free_address};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::library;

/// How long anything may take, a whole election on a busy machine included.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `dqlite-demo`: a node and a key-value store over HTTP on it.
struct Demo {
    program: PathBuf,
    dir: PathBuf,
    db: String,
    api: String,
    child: Child,
}

impl Demo {
    fn start(program: &Path, dir: PathBuf, join: Option<&str>) -> Demo {
        fs::create_dir(&dir).expect("a new directory");
        let (db, api) = (
            free_address().expect("a free port"),
            free_address().expect("a free port"),
        );
        let child = spawn(program, &dir, &db, &api, join);
        Demo {
            program: program.to_owned(),
            dir,
            db,
            api,
            child,
        }
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.dir, &self.db, &self.api, None);
    }

    fn end(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, signal).expect("it runs");
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < end, "{} does not end", self.db);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The body that the API answers with, or an empty one if it does not answer.
    fn request(&self, method: &str, key: &str, body: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.api)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let size = body.len();
            write!(
                stream,
                "{method} /{key} HTTP/1.0\r\nContent-Length: {size}\r\n\r\n{body}"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
            Ok(body.unwrap_or_default().trim_end().to_owned())
        };
        ask().unwrap_or_default()
    }

    #[track_caller]
    fn wait(&self, method: &str, key: &str, body: &str, want: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let got = self.request(method, key, body);
            if got == want {
                return;
            }
            assert!(Instant::now() < end, "{method} {key}: {got:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn on_our_library(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", library().join("lib"));
    command
}

fn spawn(program: &Path, dir: &Path, db: &str, api: &str, join: Option<&str>) -> Child {
    let mut command = on_our_library(program);
    command.args(["--db", db, "--api", api, "--dir"]).arg(dir);
    if let Some(join) = join {
        command.args(["--join", join]);
    }
    command
        .stdout(Stdio::null())
        .spawn()
        .expect("the demo starts")
}

/// The shell, asked one thing.
fn shell(program: &Path, servers: &str, command: &str) -> String {
    let output = Command::new(program)
        .args(["-s", servers, "demo", command])
        .output()
        .expect("the shell starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until so many members are voters.
#[track_caller]
fn wait_voters(program: &Path, servers: &str, count: usize) {
    let end = Instant::now() + PATIENCE;
    loop {
        let members = shell(program, servers, ".cluster");
        if members.matches("|voter").count() == count {
            return;
        }
        assert!(Instant::now() < end, "{members}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_stock_demo_shell_and_benchmark_run_on_one_node() {
    let (Some(demo), Some(dqlite), Some(benchmark)) = (
        find_in_path_or_skip("dqlite-demo"),
        find_in_path_or_skip("dqlite"),
        find_in_path_or_skip("dqlite-benchmark"),
    ) else {
        return;
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let mut node = Demo::start(&demo, scratch.path().join("1"), None);
    node.wait("PUT", "key", "value", "done");
    node.wait("GET", "key", "", "value");
    node.wait("GET", "other", "", "Error: sql: no rows in result set");
    assert_eq!(
        shell(&dqlite, &node.db, ".leader"),
        format!("{}\n", node.db)
    );
    assert_eq!(
        shell(&dqlite, &node.db, "SELECT * FROM model"),
        "key|value\n"
    );
    node.end(Signal::SIGTERM);
    node.start_again();
    node.wait("GET", "key", "", "value");

    let dir = scratch.path().join("benchmark");
    fs::create_dir(&dir).expect("a new directory");
    let address = free_address().expect("a free port");
    let output = on_our_library(&benchmark)
        .args(["--db", &address, "--cluster", &address])
        .args(["--driver", "--duration", "2", "-w", "kvreadwrite", "--dir"])
        .arg(&dir)
        .output()
        .expect("the benchmark starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let results = dir.join(&address).join("results");
    let files = fs::read_dir(&results).expect("results").count();
    assert!(files >= 2, "{files} files of results");
}

#[test]
fn three_stock_demos_form_a_cluster_that_survives_its_leaders() {
    let (Some(demo), Some(dqlite)) = (
        find_in_path_or_skip("dqlite-demo"),
        find_in_path_or_skip("dqlite"),
    ) else {
        return;
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = |n: usize| scratch.path().join(n.to_string());
    let mut nodes = vec![Demo::start(&demo, dir(1), None)];
    nodes[0].wait("PUT", "first", "1", "done");
    for n in 2..=3 {
        let node = Demo::start(&demo, dir(n), Some(&nodes[0].db));
        nodes.push(node);
    }
    let servers: Vec<&str> = nodes.iter().map(|node| node.db.as_str()).collect();
    let servers = servers.join(",");
    wait_voters(&dqlite, &servers, 3);
    for (n, node) in nodes.iter().enumerate() {
        node.wait("GET", "first", "", "1");
        node.wait("PUT", &format!("key{n}"), "value", "done");
    }
    for node in &nodes {
        for n in 0..3 {
            node.wait("GET", &format!("key{n}"), "", "value");
        }
    }

    // The leader hands over before it ends.
    let leader = |nodes: &[Demo]| {
        let address = shell(&dqlite, &servers, ".leader");
        nodes.iter().position(|node| node.db == address.trim_end())
    };
    let first = leader(&nodes).expect("a leader");
    nodes[first].end(Signal::SIGTERM);
    let other = (first + 1) % 3;
    nodes[other].wait("PUT", "after", "handover", "done");
    let second = leader(&nodes).expect("another leader");
    assert_ne!(second, first);
    nodes[first].start_again();
    nodes[first].wait("GET", "after", "", "handover");
    wait_voters(&dqlite, &servers, 3);

    // And one is killed.
    let second = leader(&nodes).expect("a leader");
    nodes[second].end(Signal::SIGKILL);
    let other = (second + 1) % 3;
    nodes[other].wait("PUT", "after", "kill", "done");
    nodes[(second + 2) % 3].wait("GET", "after", "", "kill");
    nodes[second].start_again();
    nodes[second].wait("GET", "after", "", "kill");
}
