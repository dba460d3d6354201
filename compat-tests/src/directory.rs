//! Data directories as a whole: what is in them, what `dq-server check` and a start say of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::servers::{Kind, Server};

/// The file that a node locks, whose presence says nothing.
const LOCK_FILE: &str = "dqlite-lock";

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// All files of a directory.
///
/// # Panics
/// It cannot be read.
pub fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).expect("it is there");
    entries
        .map(|entry| {
            let entry = entry.expect("it can be listed");
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("it can be read"))
        })
        .collect()
}

/// Makes these the files of a directory, and all that it has.
///
/// # Panics
/// It cannot be written.
pub fn restore(dir: &Path, content: &Files) {
    for name in files(dir).keys() {
        fs::remove_file(dir.join(name)).expect("it can be removed");
    }
    for (name, bytes) in content {
        fs::write(dir.join(name), bytes).expect("it can be written");
    }
}

/// Runs our program.
///
/// # Panics
/// It is not there, or does not run.
pub fn run(arguments: &[&str], dir: &Path) -> Output {
    let program = Kind::Ours.program().expect("it was there");
    let output = Command::new(program).args(arguments).arg(dir).output();
    output.expect("it runs")
}

/// Whether `dq-server check` says that a start works, and what it says; `as_node` is for whom.
///
/// # Panics
/// It changes something, or says neither.
pub fn check_as(dir: &Path, as_node: Option<(u64, &str)>) -> (bool, String) {
    let before = files(dir);
    let id = as_node.map(|(id, _)| id.to_string());
    let output = match (&id, as_node) {
        (Some(id), Some((_, address))) => run(&["check", "--id", id, "--address", address], dir),
        _ => run(&["check"], dir),
    };
    assert!(files(dir) == before, "check changes nothing");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let refuses = text.contains("does not start: ");
    assert!(
        refuses || text.contains("starts: "),
        "it says one or the other: {text}"
    );
    if refuses {
        assert_eq!(output.status.code(), Some(1), "{text}");
    }
    (!refuses, text)
}

/// As [`check_as`], for the directory of a server and whoever starts there.
///
/// # Panics
/// As that.
pub fn check(server: &Server) -> (bool, String) {
    check_as(&server.data_dir(), None)
}

/// A start is refused and says which file is the reason, as `check` said before, and nothing was
/// changed. Returns what the start said.
///
/// # Panics
/// Something of that is not so.
pub fn is_refused(server: &mut Server, file: &str) -> String {
    let (starts, text) = check(server);
    assert!(!starts, "{text}");
    assert!(text.contains(file), "it names {file}: {text}");
    let before = without_lock(files(&server.data_dir()));
    let refusal = server.start_again();
    let refusal = refusal.expect_err("it does not start").to_string();
    assert!(refusal.contains(file), "the log names {file}: {refusal}");
    let after = without_lock(files(&server.data_dir()));
    assert!(before == after, "nothing was changed");
    refusal
}

/// What is refused is not touched, but for the lock.
pub fn without_lock(mut files: Files) -> Files {
    files.remove(LOCK_FILE);
    files
}
