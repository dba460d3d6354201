//! The kept corpus of a target, as the files that libFuzzer works with, and back:
//!
//! ```text
//! corpus unpack TARGET DIRECTORY
//! corpus pack TARGET DIRECTORY
//! corpus run TARGET FILE            what one input does
//! ```

use std::path::Path;
use std::process::ExitCode;

use dq_fuzz::{corpus, data_dir, decoders, peer, session};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", target, directory] => unpack(target, Path::new(directory)),
        ["pack", target, directory] => pack(target, Path::new(directory)),
        ["run", target, file] => run(target, Path::new(file)),
        _ => {
            eprintln!("corpus unpack|pack TARGET DIRECTORY, or corpus run TARGET FILE");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(count) => {
            println!("{count} inputs");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn unpack(target: &str, directory: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(directory)?;
    let inputs = corpus::read(target)?;
    for (number, (_, input)) in inputs.iter().enumerate() {
        std::fs::write(directory.join(format!("kept-{number:05}")), input)?;
    }
    Ok(inputs.len())
}

fn pack(target: &str, directory: &Path) -> std::io::Result<usize> {
    let files = corpus::read_directory(directory)?;
    let mut inputs: Vec<Vec<u8>> = files.into_iter().map(|(_, input)| input).collect();
    // Small ones first: they are replayed in this order.
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    std::fs::write(
        corpus::root().join(format!("{target}.pack")),
        corpus::pack(&inputs),
    )?;
    Ok(inputs.len())
}

fn run(target: &str, file: &Path) -> std::io::Result<usize> {
    let input = std::fs::read(file)?;
    let reached = match target {
        "session" => session::run(&input),
        "peer" => peer::run(&input),
        "data_dir" => data_dir::run(&input),
        _ => {
            let mut checks = decoders::ALL.iter();
            let check = checks.find(|(name, _)| *name == target);
            let (_, check) = check.ok_or(std::io::ErrorKind::NotFound)?;
            check(&input);
            return Ok(1);
        }
    };
    print!("{reached}");
    Ok(1)
}
