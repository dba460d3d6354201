//! Our `libdqlite.so.0` under C programs, and under programs that were built for the original.
//!
//! The library is laid out by `scripts/build-capi`, as a package would have it, in the profile that
//! these tests have; once with an SQLite of its own, and once on the system's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

mod demo;
mod extensions;
mod interface;
mod memory;
mod package;
mod scenario;
mod stock;

/// The root of the repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("compat-tests lies in the repository")
}

/// Where the library is laid out; built by the first test that asks.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("build-capi", &[], "capi"))
}

/// The same on the system's SQLite.
fn library_on_system_sqlite() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("build-capi", &["--system-sqlite"], "capi-system"))
}

/// Runs a script that builds something into a folder; the folder.
fn build(script: &str, options: &[&str], name: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut command = Command::new(repository().join("scripts").join(script));
    if cfg!(debug_assertions) {
        command.arg("--dev");
    }
    let status = command.args(options).arg(&out).status();
    let status = status.expect("bash runs");
    assert!(status.success(), "scripts/{script}: {status}");
    out
}
