//! The conformance cases of `conformance/*.txt`, against C dqlite and against ours.
//!
//! `DQ_CASES=85,90-95,207b` runs only these. `DQ_C_TARGET=c-1.18.6` is the name that cases know the
//! library by, when `DQLITE_LIB` picks another one than Debian's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use compat_tests::conformance::{Case, Outcome, Runner, parse};
use compat_tests::servers::Kind;

/// Number of the last case.
const LAST: u32 = 246;

fn cases() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut files: Vec<_> = fs::read_dir(&dir)
        .expect("the cases are there")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("a case file is text");
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        cases.extend(parse(&name, &source).unwrap_or_else(|error| panic!("{error}")));
    }
    cases
}

fn is_selected(case: &Case) -> bool {
    let Ok(selection) = std::env::var("DQ_CASES") else {
        return true;
    };
    selection.split(',').any(|part| match part.split_once('-') {
        Some((first, last)) => {
            let bound = |text: &str| text.parse::<u32>().expect("DQ_CASES has numbers");
            (bound(first)..=bound(last)).contains(&case.number)
        }
        None => part == case.id || part == case.number.to_string(),
    })
}

fn run_all(kind: Kind, target: &str) {
    if !kind.available_or_skip() {
        return;
    }
    let mut runner = Runner::new(kind, target);
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for case in cases().iter().filter(|case| is_selected(case)) {
        let verdict = runner.run(case);
        println!("{verdict}");
        match verdict.outcome {
            Outcome::Passed => passed += 1,
            Outcome::Skipped(_) => skipped += 1,
            Outcome::Failed(_) => failed.push(verdict),
        }
    }
    println!(
        "{target}: {passed} passed, {skipped} skipped, {} failed",
        failed.len()
    );
    let list: Vec<_> = failed.iter().map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{target} differs:\n{}", list.join("\n"));
}

#[test]
fn the_cases_are_understood_and_none_is_missing() {
    let cases = cases();
    let ids: BTreeSet<_> = cases.iter().map(|case| &case.id).collect();
    assert_eq!(ids.len(), cases.len(), "no case has the id of another");
    let numbers: BTreeSet<_> = cases.iter().map(|case| case.number).collect();
    let missing: Vec<_> = (1..=LAST).filter(|n| !numbers.contains(n)).collect();
    assert!(missing.is_empty(), "no cases for {missing:?}");
    assert_eq!(numbers.last(), Some(&LAST));
}

#[test]
fn c_dqlite_answers_as_the_cases_say() {
    let target = std::env::var("DQ_C_TARGET").unwrap_or("c-1.11.1".to_owned());
    run_all(Kind::C, &target);
}

#[test]
fn our_server_answers_as_the_cases_say() {
    run_all(Kind::Ours, "dq");
}
