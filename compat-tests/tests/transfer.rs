//! Databases into a cluster and out of it as files of SQLite's: `dq-server import` and `export`. What
//! goes in comes out the same, as the `sqlite3` shell sees it.

use std::path::{Path, PathBuf};
use std::process::Command;

use compat_tests::servers::{Kind, Options, Server, find_in_path_or_skip};
use dq_client::{MemStore, Pool};
use tempfile::TempDir;

/// Everything that a schema may have, and values that the protocol has no type for.
const SCHEMA: &str = "
PRAGMA page_size = 1024;
CREATE TABLE plain (a, b TEXT, c REAL, \"d e\" BLOB DEFAULT x'01', \"select\" DATETIME);
INSERT INTO plain VALUES (1, 'one', 1.5, x'00ff', '2026-01-01'), (NULL, '', -0.0, x'', 7),
    (9223372036854775807, 'a' || char(0) || 'b', 1e300, zeroblob(5000), NULL),
    ('text', CAST(x'80ff' AS TEXT), 2, 'text', 1.25);
DELETE FROM plain WHERE a = 1;
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, v BOOLEAN CHECK (v < 5));
INSERT INTO counted (v) VALUES (0), (1), (2);
DELETE FROM counted WHERE id = 3;
CREATE TABLE child (p REFERENCES parent (k), n INT AS (p || 'x') STORED);
INSERT INTO child VALUES ('k'), ('orphan');
CREATE TABLE parent (k TEXT PRIMARY KEY, \"rowid\" INT) WITHOUT ROWID;
INSERT INTO parent VALUES ('k', 5), ('a', 1);
CREATE TABLE strict (x INT, y ANY) STRICT;
INSERT INTO strict VALUES (1, '1'), (2, 2);
CREATE TABLE many (x);
INSERT INTO many SELECT value || hex(zeroblob(300)) FROM generate_series(1, 5000);
CREATE UNIQUE INDEX by_v ON counted (v DESC) WHERE v > 0;
CREATE INDEX by_expression ON plain (lower(b));
CREATE VIEW seen AS SELECT b FROM plain;
CREATE TRIGGER instead INSTEAD OF INSERT ON seen BEGIN INSERT INTO plain (b) VALUES (new.b); END;
CREATE TRIGGER after_insert AFTER INSERT ON counted BEGIN UPDATE parent SET \"rowid\" = 0; END;
CREATE VIRTUAL TABLE words USING fts5 (text);
INSERT INTO words VALUES ('the quick brown fox'), ('jumps over');
CREATE VIRTUAL TABLE places USING rtree (id, x0, x1);
INSERT INTO places VALUES (1, 2, 3), (7, 0, 100);
ANALYZE;
PRAGMA user_version = 42;
PRAGMA application_id = 7;
";

/// Runs `sqlite3` on a file; what it says.
fn sqlite3(file: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").arg(file).arg(sql).output();
    let output = output.expect("it was there");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What SQLite itself says of all that a file holds, and that nothing is wrong with it.
fn content(file: &Path) -> String {
    assert_eq!(sqlite3(file, "PRAGMA integrity_check"), "ok\n");
    let pragmas = "SELECT * FROM pragma_user_version, pragma_application_id; \
                   SELECT * FROM words('quick'); SELECT * FROM places WHERE x0 < 1;";
    let dump = sqlite3(file, ".dump --preserve-rowids");
    // One for each kind of statistics that the SQLite which has written the file was built with.
    sqlite3(file, pragmas) + &dump.replace("ANALYZE sqlite_schema;\n", "")
}

/// Runs `dq-server`; whether it succeeded, and what it said.
fn run(arguments: &[&str]) -> (bool, String) {
    let program = Kind::Ours.program().expect("it was there");
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

struct Files {
    dir: TempDir,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn import(&self, server: &Server, database: &str, name: &str) -> (bool, String) {
        let file = self.path(name);
        let file = file.to_string_lossy();
        run(&[
            "import",
            "--server",
            server.address(),
            "--database",
            database,
            &file,
        ])
    }

    fn export(&self, from: &[&str], database: &str, name: &str) -> (bool, String) {
        let file = self.path(name);
        let file = file.to_string_lossy();
        let arguments = ["export", "--database", database, "--out", &file];
        run(&[&arguments, from].concat())
    }
}

fn files() -> Option<Files> {
    find_in_path_or_skip("sqlite3")?;
    let dir = tempfile::tempdir().expect("a directory");
    Kind::Ours.available_or_skip().then_some(Files { dir })
}

#[test]
fn what_is_imported_comes_out_again_from_a_running_and_from_a_stopped_node() {
    let Some(files) = files() else {
        return;
    };
    let arguments = [
        "--roles=off",
        "--snapshot-threshold=4",
        "--snapshot-trailing=4",
    ];
    let options = Options {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let mut server = Server::start(Kind::Ours, options).expect("starts");
    server.wait_leader(server.address()).expect("leads");
    sqlite3(&files.path("made"), SCHEMA);
    let made = content(&files.path("made"));
    let (done, text) = files.import(&server, "db", "made");
    assert!(done && text.contains("tables, "), "{text}");

    let online = ["--server", server.address()];
    let (done, text) = files.export(&online, "db", "online");
    assert!(done, "{text}");
    assert_eq!(content(&files.path("online")), made);
    // A file without a WAL, which opens where nothing can be written.
    assert_eq!(
        sqlite3(&files.path("online"), "PRAGMA journal_mode"),
        "delete\n"
    );
    let (done, text) = files.export(&online, "db", "online");
    assert!(!done && text.contains("exists already"), "{text}");
    let (done, text) = files.export(&online, "other", "none");
    assert!(!done && !files.path("none").exists(), "{text}");

    let dir = server.data_dir();
    let offline = ["--dir", &dir.to_string_lossy()];
    let (done, text) = files.export(&offline, "db", "running");
    let process = format!("process {}", server.pid().expect("it runs"));
    assert!(!done && text.contains(&process), "{text}");
    // Behind a snapshot, and in entries after it.
    let pool = Pool::connect(MemStore::new([server.address()]), "db").expect("connects");
    for a in 0..6 {
        pool.execute("INSERT INTO strict VALUES (?, 'later')", (a,))
            .expect("inserted");
    }
    for (name, crash) in [("crashed", true), ("stopped", false)] {
        match crash {
            true => server.kill().expect("killed"),
            false => server.stop().expect("stops"),
        }
        let before = compat_tests::directory::files(&dir);
        let (done, text) = files.export(&offline, "db", name);
        assert!(done, "{text}");
        assert!(
            compat_tests::directory::files(&dir) == before,
            "it only reads"
        );
        server.start_again().expect("it starts");
    }
    let crashed = content(&files.path("crashed"));
    assert_eq!(crashed, content(&files.path("stopped")));
    assert_eq!(crashed.matches("'later'").count(), 6);
    let inserted = "DELETE FROM strict WHERE y = 'later'";
    sqlite3(&files.path("crashed"), inserted);
    assert_eq!(content(&files.path("crashed")), made);
    server.stop().expect("stops");
    let (done, text) = files.export(&offline, "other", "none");
    assert!(!done && text.contains("there are: db"), "{text}");
}

#[test]
fn c_servers_are_exported_from_and_imported_into_as_well() {
    let Some(files) = files() else {
        return;
    };
    if !Kind::C.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(Kind::C).expect("starts");
    sqlite3(&files.path("made"), SCHEMA);
    let (done, text) = files.import(&server, "db", "made");
    assert!(done, "{text}");
    let made = content(&files.path("made"));
    let (done, text) = files.export(&["--server", server.address()], "db", "online");
    assert!(done, "{text}");
    assert_eq!(content(&files.path("online")), made);
    let (done, text) = files.export(&["--server", server.address()], "none", "none");
    assert!(!done && !files.path("none").exists(), "{text}");
    server.kill().expect("killed");
    let dir = server.data_dir();
    let (done, text) = files.export(&["--dir", &dir.to_string_lossy()], "db", "crashed");
    assert!(done, "{text}");
    assert_eq!(content(&files.path("crashed")), made);
}

#[test]
fn an_import_that_fails_leaves_nothing_behind() {
    let Some(files) = files() else {
        return;
    };
    let server = Server::start_single(Kind::Ours).expect("starts");
    let pool = Pool::connect(MemStore::new([server.address()]), "db").expect("connects");
    let tables = || -> Vec<i64> {
        let counts = pool.query("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0));
        counts.expect("read")
    };
    std::fs::write(
        files.path("text"),
        "no database at all, but long enough".repeat(40),
    )
    .expect("written");
    for (name, sql, why) in [
        ("text", "", "not a database"),
        ("missing", "", "unable to open"),
        // A row that its own table does not take.
        (
            "broken",
            "CREATE TABLE good (a); INSERT INTO good VALUES (1); CREATE TABLE t (a);
             INSERT INTO t VALUES (NULL); PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE TABLE t (a NOT NULL)' WHERE name = 't';",
            "NOT NULL",
        ),
        (
            "large",
            "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(64 << 20));",
            "more than a request may",
        ),
    ] {
        if !sql.is_empty() {
            sqlite3(&files.path(name), sql);
        }
        let (done, text) = files.import(&server, "db", name);
        assert!(!done && text.contains(why), "{name}: {text}");
        assert_eq!(tables(), [0], "{name}");
    }
    pool.execute("CREATE TABLE mine (a)", ()).expect("created");
    sqlite3(&files.path("good"), "CREATE TABLE other (a)");
    let (done, text) = files.import(&server, "db", "good");
    assert!(!done && text.contains("is not empty"), "{text}");
    assert_eq!(tables(), [1]);
    let delete = "BEGIN IMMEDIATE; PRAGMA delete_database; COMMIT";
    pool.execute(delete, ()).expect("deleted");
    let (done, text) = files.import(&server, "db", "good");
    assert!(done, "{text}");
    assert_eq!(tables(), [1]);
}
