//! The Debian packages, installed in place of Debian's own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use compat_tests::servers::{find_in_path_or_skip, skip};

use crate::interface::run;
use crate::{build, repository};

#[test]
fn the_packages_take_the_place_of_debians_under_its_own_programs() {
    for program in ["dpkg-deb", "apt-get", "dqlite-demo", "unshare"] {
        if find_in_path_or_skip(program).is_none() {
            return;
        }
    }
    let namespaces = ["-m", "-n", "--pid", "--fork", "--kill-child"];
    let allowed = Command::new("unshare")
        .args(namespaces)
        .arg("true")
        .output();
    if !allowed.expect("unshare runs").status.success() {
        skip("a file system of its own takes root");
        return;
    }
    let out = build("build-deb", &[], "deb");
    let packages: Vec<PathBuf> = fs::read_dir(out)
        .expect("the packages")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    assert_eq!(packages.len(), 2, "{packages:?}");
    let scratch = tempfile::tempdir().expect("a directory");
    let text = run(Command::new("unshare")
        .args(namespaces)
        .arg("sh")
        .arg(repository().join("compat-tests/tests/capi/package.sh"))
        .arg(scratch.path())
        .args(&packages));
    assert!(text.ends_with("installed\n"), "{text}");
}
