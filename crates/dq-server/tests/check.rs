//! `dq-server check` on directories that C dqlite has left, and on damaged ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use tempfile::TempDir;

fn check(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dq-server"))
        .arg("check")
        .args(arguments)
        .arg(dir)
        .output()
        .expect("it runs")
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dq-raft/tests/golden")
        .join(name)
}

fn copy_of(name: &str) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory can be made");
    for entry in fs::read_dir(golden(name)).expect("it is there") {
        let entry = entry.expect("it can be listed");
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("it can be copied");
    }
    copy
}

/// Content and time of change of all files, and of the directory.
fn state(dir: &Path) -> (SystemTime, BTreeMap<PathBuf, (SystemTime, Vec<u8>)>) {
    let changed = |path: &Path| {
        let metadata = fs::metadata(path).expect("it is there");
        metadata.modified().expect("it has a time")
    };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        let content = fs::read(&path).expect("it can be read");
        files.insert(path.clone(), (changed(&path), content));
    }
    (changed(dir), files)
}

#[test]
fn sound_directories_are_reported_with_status_0_and_not_changed() {
    for name in ["killed", "stopped", "snapshots-killed", "snapshots-stopped"] {
        let copy = copy_of(name);
        let before = state(copy.path());
        let text = check(&[], copy.path());
        assert_eq!(text.status.code(), Some(0), "{name}: {text:?}");
        let shown = String::from_utf8(text.stdout).expect("UTF-8");
        assert!(shown.contains("starts: term 1"), "{name}: {shown}");
        let json = check(&["--json"], copy.path());
        assert_eq!(json.status.code(), Some(0), "{name}: {json:?}");
        let shown = String::from_utf8(json.stdout).expect("UTF-8");
        assert!(shown.starts_with("{\"sound\":true,"), "{name}: {shown}");
        assert!(shown.contains("\"starts\":true"), "{name}: {shown}");
        assert_eq!(state(copy.path()), before, "{name}");
    }
}

#[test]
fn damage_is_named_with_status_1_and_left_as_it_is() {
    let copy = copy_of("stopped");
    let segment = "0000000000000001-0000000000000001";
    let path = copy.path().join(segment);
    let mut content = fs::read(&path).expect("it can be read");
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(&path, content).expect("it can be written");
    let before = state(copy.path());
    let text = check(&[], copy.path());
    assert_eq!(text.status.code(), Some(1), "{text:?}");
    let shown = String::from_utf8(text.stdout).expect("UTF-8");
    let damaged = |line: &str| line.starts_with(segment) && line.contains("DAMAGED");
    assert!(shown.lines().any(damaged), "{shown}");
    assert!(shown.contains("does not start: "), "{shown}");
    let json = check(&["--json"], copy.path());
    assert_eq!(json.status.code(), Some(1), "{json:?}");
    let shown = String::from_utf8(json.stdout).expect("UTF-8");
    assert!(shown.starts_with("{\"sound\":false,"), "{shown}");
    assert!(shown.contains("\"starts\":false"), "{shown}");
    assert_eq!(state(copy.path()), before);
}

#[test]
fn a_directory_that_is_not_there_gives_status_2_and_is_not_made() {
    let parent = tempfile::tempdir().expect("a directory can be made");
    let dir = parent.path().join("none");
    let output = check(&["--json"], &dir);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty());
    assert!(!dir.exists());
}
