//! Debian's `dqlite-demo`, `dqlite` and `dqlite-benchmark` as they are, on our library.

use std::fs;

use compat_tests::servers::{find_in_path_or_skip, free_address};
use nix::sys::signal::Signal;

use crate::stock::{Demo, Library, Programs, command};

#[test]
fn the_stock_demo_shell_and_benchmark_run_on_one_node() {
    let (Some(programs), Some(benchmark)) = (
        Programs::find_or_skip(Library::Ours),
        find_in_path_or_skip("dqlite-benchmark"),
    ) else {
        return;
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let mut node = Demo::start(&programs, scratch.path().join("1"), None);
    node.wait("PUT", "key", "value", "done");
    node.wait("GET", "key", "", "value");
    node.wait("GET", "other", "", "Error: sql: no rows in result set");
    assert_eq!(
        programs.shell(&node.db, ".leader"),
        format!("{}\n", node.db)
    );
    assert_eq!(
        programs.shell(&node.db, "SELECT * FROM model"),
        "key|value\n"
    );
    node.end(Signal::SIGTERM);
    node.start_again();
    node.wait("GET", "key", "", "value");

    let dir = scratch.path().join("benchmark");
    fs::create_dir(&dir).expect("a new directory");
    let address = free_address().expect("a free port");
    let output = command(&benchmark, Library::Ours)
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
    let Some(programs) = Programs::find_or_skip(Library::Ours) else {
        return;
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = |n: usize| scratch.path().join(n.to_string());
    let mut nodes = vec![Demo::start(&programs, dir(1), None)];
    nodes[0].wait("PUT", "first", "1", "done");
    for n in 2..=3 {
        let node = Demo::start(&programs, dir(n), Some(&nodes[0].db));
        nodes.push(node);
    }
    let servers: Vec<&str> = nodes.iter().map(|node| node.db.as_str()).collect();
    let servers = servers.join(",");
    programs.wait_voters(&servers, 3);
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
        let address = programs.shell(&servers, ".leader");
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
    programs.wait_voters(&servers, 3);

    // And one is killed.
    let second = leader(&nodes).expect("a leader");
    nodes[second].end(Signal::SIGKILL);
    let other = (second + 1) % 3;
    nodes[other].wait("PUT", "after", "kill", "done");
    nodes[(second + 2) % 3].wait("GET", "after", "", "kill");
    nodes[second].start_again();
    nodes[second].wait("GET", "after", "", "kill");
}
