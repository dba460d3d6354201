//! A library that is preloaded into nodes of C dqlite, which leave Nagle's algorithm on: with it their
//! sockets have TCP_NODELAY, and a comparison shows what is left without that.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../../../c/nodelay.c");

/// Compiles the library into a directory, with `cc`, and returns its absolute path.
///
/// # Errors
/// There is no C compiler, or it fails.
pub(crate) fn build(dir: &Path) -> io::Result<PathBuf> {
    let source = dir.join("dq-nodelay.c");
    std::fs::write(&source, SOURCE)?;
    let library = dir.join("dq-nodelay.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .status()?;
    match status.success() {
        true => library.canonicalize(),
        false => Err(io::Error::other(format!("cc ended with {status}"))),
    }
}

/// What a process's environment needs for it.
pub(crate) fn environment(library: &Path) -> Vec<(OsString, OsString)> {
    vec![("LD_PRELOAD".into(), library.into())]
}
