//! What a node has in a database, as far as two kinds of nodes can agree on it.

use std::fs;
use std::path::Path;
use std::process::Command;

use dq_client::DatabaseFile;

/// The pages of a database, from what a node dumps: a file, and from C dqlite 1.11.1 also what it has not
/// checkpointed yet, which the sqlite3 program does then. `None` if there is no such database.
///
/// # Panics
/// If no directory can be made, or sqlite3 not started.
pub fn pages(files: &[DatabaseFile]) -> Option<Vec<u8>> {
    let main = files.first()?;
    let log = files.iter().skip(1).find(|file| !file.data.is_empty());
    let Some(log) = log else {
        return (!main.data.is_empty()).then(|| main.data.clone());
    };
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("database");
    fs::write(&path, &main.data).expect("it can be written");
    fs::write(dir.path().join("database-wal"), &log.data).expect("it can be written");
    sqlite3(&path, "PRAGMA wal_checkpoint(TRUNCATE)");
    Some(fs::read(&path).expect("it is there"))
}

/// What `PRAGMA integrity_check` of the sqlite3 program says.
pub(super) fn integrity(database: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("database");
    fs::write(&path, database).expect("it can be written");
    sqlite3(&path, "PRAGMA integrity_check")
}

fn sqlite3(path: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3")
        .arg(path)
        .arg(sql)
        .output()
        .expect("sqlite3 can be started");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}
