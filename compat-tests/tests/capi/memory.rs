//! What valgrind says of the library under C programs: nothing is read or written that must not be, and
//! what is allocated is given back.

use std::path::Path;
use std::process::Command;

use compat_tests::servers::find_in_path_or_skip;

use crate::extensions::{SHARED, SOURCES};
use crate::interface::{compile_shared, run};
use crate::{library, library_on_system_sqlite};

/// Compiles a program for a library and runs it under valgrind, with a directory and an argument.
fn check(sources: &[&str], library: &Path, options: &[&str], argument: &str) {
    let Some(valgrind) = find_in_path_or_skip("valgrind") else {
        return;
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let Some(program) = compile_shared(scratch.path(), sources, library, options) else {
        return;
    };
    let data = tempfile::tempdir().expect("a directory");
    run(Command::new(valgrind)
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
        .args([
            "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite",
        ])
        .arg(program)
        .arg(data.path())
        .arg(argument));
}

#[test]
fn memory_is_used_as_it_should_be_by_every_function_and_its_misuse() {
    check(&["capi.c"], library(), &[], "");
    check(&["servers.c"], library(), &[], "");
    check(&["hosts.c"], library(), &[], "3");
}

#[test]
fn memory_is_used_as_it_should_be_through_a_whole_life_with_clients() {
    check(&["clients.c"], library(), &[], "3");
}

#[test]
fn memory_is_used_as_it_should_be_by_extensions_and_log_functions() {
    check(&SOURCES, library(), &[], "own");
}

#[test]
fn memory_is_used_as_it_should_be_on_the_systems_sqlite() {
    let library = library_on_system_sqlite();
    check(&SOURCES, library, &SHARED, "shared");
    check(&["clients.c"], library, &[], "3");
}
