//! The stock `dqlite` shell (Debian's go-dqlite) against one node.
//!
//! The shell of 1.11.5 sends a line that begins with SELECT as QUERY_SQL and any other as EXEC_SQL;
//! later ones wrap every line in BEGIN, QUERY_SQL and COMMIT. It finds the leader with the Go
//! client's algorithm, so each call below also exercises LEADER, CLIENT and OPEN.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use compat_tests::servers::{self, Kind, Server};

struct Shell {
    program: PathBuf,
    servers: String,
    dir: PathBuf,
}

/// What one call of the shell gave.
struct Outcome {
    stdout: String,
    stderr: String,
    success: bool,
}

impl Shell {
    fn run(&self, database: &str, command: &str) -> Outcome {
        let output = Command::new(&self.program)
            .args(["-s", &self.servers, database, command])
            .current_dir(&self.dir)
            .output()
            .expect("the shell can be started");
        Outcome {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            success: output.status.success(),
        }
    }

    #[track_caller]
    fn check(&self, command: &str, want: &str) {
        let got = self.run("demo", command);
        assert!(got.success, "{command}: {}", got.stderr);
        assert_eq!(got.stdout, want, "{command}");
    }

    #[track_caller]
    fn check_error(&self, command: &str, want: &str) {
        let got = self.run("demo", command);
        assert!(!got.success, "{command} gave: {}", got.stdout);
        let first = got.stderr.lines().next().unwrap_or_default();
        assert_eq!(first, want, "{command}");
    }
}

fn scenario(kind: Kind) {
    if !kind.available_or_skip() {
        return;
    }
    let Some(program) = servers::find_in_path_or_skip("dqlite") else {
        return;
    };
    let mut server = Server::start_single(kind).expect("starts");
    let address = server.address().to_owned();
    let scratch = tempfile::tempdir().expect("a directory");
    let mut shell = Shell {
        program,
        servers: address.clone(),
        dir: scratch.path().to_owned(),
    };

    shell.check(".leader", &format!("{address}\n"));
    shell.check(".cluster", &format!("1|{address}|voter\n"));

    shell.check("CREATE TABLE model (key TEXT, value TEXT, UNIQUE(key))", "");
    shell.check("INSERT INTO model VALUES ('k', 'v')", "");
    shell.check(
        "INSERT INTO model VALUES ('other', NULL), ('number', 1.5)",
        "",
    );
    shell.check(
        "SELECT key, value FROM model ORDER BY key",
        "k|v\nnumber|1.5\nother|<nil>\n",
    );
    shell.check("UPDATE model SET value = 'w' WHERE key = 'k'", "");
    shell.check("SELECT value FROM model WHERE key = 'k'", "w\n");
    shell.check("SELECT value FROM model WHERE key = 'missing'", "");
    shell.check("DELETE FROM model WHERE key = 'number'", "");
    shell.check("SELECT count(*) FROM model", "2\n");

    shell.check_error("SELEC", "Error: exec: near \"SELEC\": syntax error");
    shell.check_error(
        "SELECT * FROM absent",
        "Error: query: no such table: absent",
    );
    shell.check_error(
        "INSERT INTO model VALUES ('k', 'again')",
        "Error: exec: UNIQUE constraint failed: model.key",
    );
    shell.check("SELECT count(*) FROM model", "2\n");

    shell.check(&format!(".describe {address}"), &format!("{address}|0|0\n"));
    shell.check(&format!(".weight {address} 7"), "");
    shell.check(&format!(".describe {address}"), &format!("{address}|0|7\n"));
    shell.check_error(
        ".remove 127.0.0.1:9",
        "Error: no node has address \"127.0.0.1:9\"",
    );

    dump(&shell, &address, scratch.path());

    // The store file of a Go application in place of a list of servers.
    let store = scratch.path().join("cluster.yaml");
    fs::write(
        &store,
        format!("- Address: {address}\n  ID: 1\n  Role: 0\n"),
    )
    .expect("written");
    shell.servers = format!("file://{}", store.display());
    shell.check(".leader", &format!("{address}\n"));
    shell.servers = address.clone();

    // Nothing is lost by a clean stop, nor by a crash.
    server.stop().expect("stops");
    server.start_again().expect("starts again");
    server.wait_leader(&address).expect("leads again");
    shell.check("INSERT INTO model VALUES ('after', 'stop')", "");
    server.kill().expect("killed");
    server.start_again().expect("starts after a crash");
    server.wait_leader(&address).expect("leads after a crash");
    shell.check(
        "SELECT key, value FROM model ORDER BY key",
        "after|stop\nk|w\nother|<nil>\n",
    );
    // The weight lives in memory only.
    shell.check(&format!(".describe {address}"), &format!("{address}|0|0\n"));
}

/// `.dump` writes the two files of a DUMP; SQLite itself must find the database in order.
fn dump(shell: &Shell, address: &str, dir: &Path) {
    shell.check(&format!(".dump {address} demo"), "OK\n");
    assert!(
        dir.join("demo").is_file() && dir.join("demo-wal").is_file(),
        "two files"
    );
    let Some(sqlite3) = servers::find_in_path_or_skip("sqlite3") else {
        return;
    };
    let output = Command::new(sqlite3)
        .arg(dir.join("demo"))
        .arg("PRAGMA integrity_check; SELECT key, value FROM model ORDER BY key")
        .output()
        .expect("sqlite3 can be started");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\nk|w\nother|\n");
}

#[test]
fn the_stock_shell_works_on_c() {
    scenario(Kind::C);
}

#[test]
fn the_stock_shell_works_on_ours() {
    scenario(Kind::Ours);
}
