//! Our `libdqlite.so.0` under C programs, and under programs that were built for the original.
//!
//! The library is laid out by `scripts/build-capi`, as a package would have it, in the profile that
//! these tests have.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

mod demo;
mod interface;

/// The root of the repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("compat-tests lies in the repository")
}

/// Where the library is laid out; built by the first test that asks.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
        let mut command = Command::new(repository().join("scripts/build-capi"));
        if cfg!(debug_assertions) {
            command.arg("--dev");
        }
        let status = command.arg(&out).status().expect("bash runs");
        assert!(status.success(), "scripts/build-capi: {status}");
        out
    })
}
