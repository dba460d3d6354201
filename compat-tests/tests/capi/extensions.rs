//! What the library offers beyond the original, and how it gets on with the program's own SQLite.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::interface::{compiler, run};
use crate::{library, library_on_system_sqlite, repository};

/// Compiles the C program for a library; `None` if there is no compiler.
fn compile(scratch: &Path, library: &Path, options: &[&str]) -> Option<PathBuf> {
    let compiler = compiler("gcc", scratch)?;
    let program = scratch.join("extensions");
    let sources = repository().join("compat-tests/c");
    let lib = library.join("lib");
    run(Command::new(compiler)
        .args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(library.join("include"))
        .args([sources.join("extensions.c"), sources.join("extension.c")])
        .arg("-L")
        .arg(&lib)
        .arg(format!("-Wl,-rpath,{}", lib.display()))
        .args(options)
        .args(["-ldqlite", "-lpthread", "-o"])
        .arg(&program));
    Some(program)
}

#[test]
fn a_node_takes_a_weight_a_log_function_and_an_sqlite_extension() {
    let scratch = tempfile::tempdir().expect("a directory");
    let Some(program) = compile(scratch.path(), library(), &[]) else {
        return;
    };
    let data = tempfile::tempdir().expect("a directory");
    run(Command::new(program).arg(data.path()).arg("own"));
}

#[test]
fn the_programs_own_sqlite_is_shared_in_either_threading_mode() {
    let scratch = tempfile::tempdir().expect("a directory");
    let options = ["-DSHARED", "-Wl,--no-as-needed", "-lsqlite3"];
    let Some(program) = compile(scratch.path(), library_on_system_sqlite(), &options) else {
        return;
    };
    for mode in ["shared", "single"] {
        let data = tempfile::tempdir().expect("a directory");
        run(Command::new(&program).arg(data.path()).arg(mode));
    }
}
