//! What the library offers beyond the original, and how it gets on with the program's own SQLite.

use std::process::Command;

use crate::interface::{compile_shared, run};
use crate::{library, library_on_system_sqlite};

/// The program's files.
pub(crate) const SOURCES: [&str; 2] = ["extensions.c", "extension.c"];

/// How it is built to share the system's SQLite.
pub(crate) const SHARED: [&str; 3] = ["-DSHARED", "-Wl,--no-as-needed", "-lsqlite3"];

#[test]
fn a_node_takes_a_weight_a_log_function_and_an_sqlite_extension() {
    let scratch = tempfile::tempdir().expect("a directory");
    let Some(program) = compile_shared(scratch.path(), &SOURCES, library(), &[]) else {
        return;
    };
    let data = tempfile::tempdir().expect("a directory");
    run(Command::new(program).arg(data.path()).arg("own"));
}

#[test]
fn the_programs_own_sqlite_is_shared_in_either_threading_mode() {
    let scratch = tempfile::tempdir().expect("a directory");
    let library = library_on_system_sqlite();
    let Some(program) = compile_shared(scratch.path(), &SOURCES, library, &SHARED) else {
        return;
    };
    for mode in ["shared", "single"] {
        let data = tempfile::tempdir().expect("a directory");
        run(Command::new(&program).arg(data.path()).arg(mode));
    }
}
