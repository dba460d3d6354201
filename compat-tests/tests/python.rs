//! The Python clients (`python/smoke.py`) against one node.
//!
//! They ask for Python 3.13, which many machines lack, so the interpreter is named from outside:
//! `DQ_PYTHON=/path/of/a/venv/bin/python`, with dqlite-client and dqlite-dbapi installed there.
//! Without it these tests say that they are skipped.

use std::path::Path;
use std::process::Command;

use compat_tests::servers::{Kind, Server};

fn smoke(kind: Kind) {
    let Some(python) = std::env::var_os("DQ_PYTHON") else {
        eprintln!("SKIPPED: DQ_PYTHON names no Python with dqlite-client");
        return;
    };
    if !kind.available_or_skip() {
        return;
    }
    let server = Server::start_single(kind).expect("starts");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/smoke.py");
    for round in ["on a fresh server", "on its own leftovers"] {
        let output = Command::new(&python)
            .arg(&script)
            .arg(server.address())
            .output()
            .expect("Python can be started");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{round}: {stdout}{stderr}\nserver:\n{}",
            server.log()
        );
        assert!(
            stdout.contains("dqlite-client: transactions: ok"),
            "{round}: {stdout}"
        );
    }
}

#[test]
fn the_python_clients_work_on_c() {
    smoke(Kind::C);
}

#[test]
fn the_python_clients_work_on_ours() {
    smoke(Kind::Ours);
}
