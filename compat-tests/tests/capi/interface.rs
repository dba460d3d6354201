//! What the library exports, its header, and a C program that calls every function of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use compat_tests::servers::{find_in_path_or_skip, skip};

use crate::{library, library_on_system_sqlite, repository};

/// Runs a program and returns what it prints; it has to succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is there");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn interface() -> BTreeSet<String> {
    let list = fs::read_to_string(repository().join("crates/dq-capi/api.txt"));
    let list = list.expect("the list of symbols is there");
    list.lines().map(str::to_owned).collect()
}

/// The third column of what nm prints.
fn symbols(nm: &mut Command) -> BTreeSet<String> {
    run(nm)
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_shared_library_exports_the_interface_and_nothing_else() {
    let Some(nm) = find_in_path_or_skip("nm") else {
        return;
    };
    let file = library().join("lib/libdqlite.so.0");
    let exported = symbols(Command::new(nm).args(["-D", "--defined-only"]).arg(file));
    assert_eq!(exported, interface());
}

#[test]
fn the_static_library_hides_its_sqlite() {
    let Some(nm) = find_in_path_or_skip("nm") else {
        return;
    };
    let file = library().join("lib/libdqlite.a");
    let exported = symbols(Command::new(nm).args(["-g", "--defined-only"]).arg(file));
    assert_eq!(exported, interface());
}

#[test]
fn on_the_systems_sqlite_the_library_has_the_same_interface_and_no_sqlite() {
    let (Some(nm), Some(readelf)) = (find_in_path_or_skip("nm"), find_in_path_or_skip("readelf"))
    else {
        return;
    };
    let lib = library_on_system_sqlite().join("lib");
    for (option, file) in [("-D", "libdqlite.so.0"), ("-g", "libdqlite.a")] {
        let file = lib.join(file);
        let exported = symbols(Command::new(&nm).args([option, "--defined-only"]).arg(file));
        assert_eq!(exported, interface());
    }
    let text = run(Command::new(readelf)
        .arg("-d")
        .arg(lib.join("libdqlite.so.0")));
    assert!(text.contains("[libsqlite3.so.0]"), "{text}");
}

#[test]
fn the_library_is_known_by_the_name_that_programs_ask_for() {
    let Some(readelf) = find_in_path_or_skip("readelf") else {
        return;
    };
    let file = library().join("lib/libdqlite.so");
    let text = run(Command::new(readelf).arg("-d").arg(file));
    assert!(text.contains("Library soname: [libdqlite.so.0]"), "{text}");
    assert!(text.contains("NODELETE"), "{text}");
    assert!(!text.contains("libsqlite3"), "{text}");
}

/// The C compiler, if it can compile what includes `sqlite3.h`, as our header does.
pub(crate) fn compiler(name: &str, scratch: &Path) -> Option<PathBuf> {
    let compiler = find_in_path_or_skip(name)?;
    let probe = scratch.join("probe.c");
    fs::write(&probe, "#include <sqlite3.h>\n").expect("written");
    let probed = Command::new(&compiler)
        .arg("-fsyntax-only")
        .arg(&probe)
        .output()
        .expect("the compiler runs");
    if !probed.status.success() {
        skip("no sqlite3.h");
        return None;
    }
    Some(compiler)
}

#[test]
fn the_header_compiles_without_a_warning_in_c_and_cxx() {
    let scratch = tempfile::tempdir().expect("a directory");
    let source = scratch.path().join("header.c");
    let text = "#include <dqlite.h>\nint main(void) { return dqlite_version_number() ? 0 : 1; }\n";
    fs::write(&source, text).expect("written");
    for (name, arguments) in [
        ("gcc", ["-std=c99", "-pedantic"]),
        ("gcc", ["-std=gnu17", "-O2"]),
        ("g++", ["-xc++", "-std=c++11"]),
    ] {
        let Some(compiler) = compiler(name, scratch.path()) else {
            continue;
        };
        run(Command::new(compiler)
            .args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
            .args(arguments)
            .arg("-I")
            .arg(library().join("include"))
            .arg(&source));
    }
}

/// Compiles one of the C programs with a library's header; `linking` says how it finds the library.
pub(crate) fn compile(
    scratch: &Path,
    sources: &[&str],
    library: &Path,
    linking: &[&str],
) -> Option<PathBuf> {
    let compiler = compiler("gcc", scratch)?;
    let program = scratch.join(sources[0]).with_extension("");
    let dir = repository().join("compat-tests/c");
    run(Command::new(compiler)
        .args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(library.join("include"))
        .args(sources.iter().map(|source| dir.join(source)))
        .args(linking)
        .arg("-lpthread")
        .arg("-o")
        .arg(&program));
    Some(program)
}

/// Compiles it for the shared library, where that lies.
pub(crate) fn compile_shared(
    scratch: &Path,
    sources: &[&str],
    library: &Path,
    options: &[&str],
) -> Option<PathBuf> {
    let lib = library.join("lib").display().to_string();
    let (search, run_path) = (format!("-L{lib}"), format!("-Wl,-rpath,{lib}"));
    let linking = [&[&*search, "-ldqlite", &*run_path], options].concat();
    compile(scratch, sources, library, &linking)
}

/// Runs a program with a directory of its own, and more arguments.
fn run_in_directory(program: &Path, arguments: &[&str]) {
    let data = tempfile::tempdir().expect("a directory");
    run(Command::new(program)
        .arg(data.path())
        .args(arguments)
        // Counting what is allocated takes an allocator that keeps no stock of what was freed.
        .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"));
}

/// Compiles a program for the shared library and runs it.
fn check(source: &str, arguments: &[&str]) {
    let scratch = tempfile::tempdir().expect("a directory");
    if let Some(program) = compile_shared(scratch.path(), &[source], library(), &[]) {
        run_in_directory(&program, arguments);
    }
}

#[test]
fn a_c_program_uses_and_misuses_every_function() {
    check("capi.c", &[]);
}

#[test]
fn a_program_can_rely_on_what_a_node_does_in_its_process() {
    check("hosts.c", &["1000"]);
}

#[test]
fn a_node_serves_several_clients_through_a_whole_life() {
    check("clients.c", &["20"]);
}

#[test]
fn servers_remember_who_they_are_and_form_clusters() {
    check("servers.c", &[]);
}

#[test]
fn a_c_program_can_be_linked_with_the_static_library() {
    let scratch = tempfile::tempdir().expect("a directory");
    let archive = library().join("lib/libdqlite.a").display().to_string();
    for position in ["-pie", "-no-pie"] {
        let linking = [position, &*archive, "-ldl", "-lm"];
        let Some(program) = compile(scratch.path(), &["capi.c"], library(), &linking) else {
            return;
        };
        run_in_directory(&program, &[]);
    }
}

#[test]
fn a_program_at_fixed_addresses_finds_the_librarys_data() {
    // The linker copies them into such a program.
    let scratch = tempfile::tempdir().expect("a directory");
    let options = ["-no-pie", "-fno-pic"];
    if let Some(program) = compile_shared(scratch.path(), &["capi.c"], library(), &options) {
        run_in_directory(&program, &[]);
    }
}

#[test]
fn the_environment_switches_logs_on() {
    let scratch = tempfile::tempdir().expect("a directory");
    let Some(program) = compile_shared(scratch.path(), &["clients.c"], library(), &[]) else {
        return;
    };
    // Info and above, nothing, everything.
    for (value, prints, debugs) in [("2", true, false), ("0", false, false), ("1", true, true)] {
        let data = tempfile::tempdir().expect("a directory");
        let output = Command::new(&program)
            .arg(data.path())
            .arg("1")
            .env("LIBDQLITE_TRACE", value)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(
            text.lines().all(|line| line.starts_with("LIBDQLITE[")),
            "{text}"
        );
        assert_eq!(text.contains(" INFO "), prints, "{value}: {text}");
        assert_eq!(text.contains(" DEBUG "), debugs, "{value}: {text}");
    }
}
